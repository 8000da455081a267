//! The decoder of a stream.

use std::sync::Arc;

use crate::error::{Class, Error, Result};
use crate::limits::MAX_ERROR_BODY;
use crate::memory::Buffer;
use crate::options::{Options, Wire};
use crate::wire::judge::counts::Tally;
use crate::wire::read::server_error;
use crate::wire::{self, Decoded};

use super::choice::{Choice, Context, Said};
use super::chunk::read_chunk;
use super::delta::{StreamDelta, delta};
use super::end::{Whole, complete};
use super::framing::{Event, Framing};
use super::usual::{Scratch, append};

/// Decodes a streamed answer while it arrives.
///
/// ```
/// use dynamo_tito::{Options, StreamDecoder, Wire};
///
/// let mut stream = StreamDecoder::new(&Options::new(Wire::VllmGenerate));
/// stream.feed(b"data: {\"choices\":[{\"token_ids\":[7],\"logprobs\":{\"content\":[{\"token_id\":7,")?;
/// stream.feed(b"\"logprob\":-0.5}]},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n")?;
/// assert_eq!(stream.finish()?.token_ids.as_slice(), [7]);
/// # Ok::<(), dynamo_tito::Error>(())
/// ```
#[derive(Debug)]
pub struct StreamDecoder {
    options: Options<'static>,
    prompt_token_ids: Option<Vec<i32>>,
    framing: Framing,
    /// Chunks so far.
    chunks: usize,
    choices: Vec<Choice>,
    /// Fields of the whole stream.
    said: Said,
    state: State,
    scratch: (Decoded, Scratch),
    /// The position of the last chunk's choice.
    last: usize,
    /// The beginning of the server's error.
    error_body: Vec<u8>,
}

#[derive(Debug)]
enum State {
    Open,
    Refused(Error),
    Closed,
}

impl StreamDecoder {
    /// A decoder of one stream of a wire that [streams](Wire::streams); of another every call is an error. Prompt log-probabilities are not scored (`score_from` is not looked at).
    #[must_use]
    pub fn new(options: &Options<'_>) -> Self {
        Self {
            prompt_token_ids: options.prompt_token_ids.map(<[i32]>::to_vec),
            options: Options {
                score_from: None,
                ..options.detached()
            },
            framing: Framing::new(),
            chunks: 0,
            choices: Vec::new(),
            said: Said::default(),
            state: match options.wire.streams() {
                true => State::Open,
                false => State::Refused(no_stream()),
            },
            scratch: (
                Decoded::new(0, Buffer::new(), Arc::default()),
                Scratch::default(),
            ),
            last: 0,
            error_body: Vec::new(),
        }
    }

    /// Reads the next bytes of a stream of one choice.
    ///
    /// # Errors
    /// The first rule of `docs/judgement.md` that the stream breaks; the same one from then on.
    pub fn feed(&mut self, data: &[u8]) -> Result<()> {
        self.feed_into(data, false, None)
    }

    /// Reads the next bytes of a stream of any number of choices.
    ///
    /// # Errors
    /// As [`feed`](Self::feed).
    pub fn feed_choices(&mut self, data: &[u8]) -> Result<()> {
        self.feed_into(data, true, None)
    }

    /// As [`feed`](Self::feed), with routed experts written to the front of `experts`.
    pub(crate) fn feed_into(
        &mut self,
        data: &[u8],
        several: bool,
        experts: Option<&mut [i32]>,
    ) -> Result<()> {
        self.check_open()?;
        let read = self.read(data, several, experts);
        if let Err(error) = &read {
            self.state = State::Refused(error.clone());
        }
        read
    }

    /// Whether `[DONE]` was read.
    #[must_use]
    pub fn done(&self) -> bool {
        self.framing.done
    }

    /// Sampled tokens so far, of all choices.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.choices.iter().map(|choice| choice.ids.len()).sum()
    }

    /// Bytes that wait for the rest of their event.
    #[must_use]
    pub fn held(&self) -> usize {
        self.framing.held()
    }

    /// The beginning of the error that the server reported in the stream.
    #[must_use]
    pub fn error_body(&self) -> &[u8] {
        &self.error_body
    }

    /// The completion of a stream of one choice that has ended.
    ///
    /// # Errors
    /// As [`feed`](Self::feed); `unfinished_stream` where it has not ended, after which the stream may go on.
    pub fn finish(&mut self) -> Result<Decoded> {
        self.finish_choices_of(false).map(only)
    }

    /// The completions of a stream that has ended, by index.
    ///
    /// # Errors
    /// As [`finish`](Self::finish).
    pub fn finish_choices(&mut self) -> Result<Vec<Decoded>> {
        self.finish_choices_of(true)
    }

    /// The completion of the tokens so far of a stream of one choice.
    ///
    /// # Errors
    /// As [`feed`](Self::feed), but for an error of the server.
    pub fn abandon(&mut self) -> Result<Decoded> {
        let mut choices = self.abandon_choices_of(false)?;
        if choices.is_empty() {
            choices.push(self.join(vec![Choice::new(0)], false)?.remove(0));
        }
        Ok(only(choices))
    }

    /// The completions of the tokens so far, by index.
    ///
    /// # Errors
    /// As [`abandon`](Self::abandon).
    pub fn abandon_choices(&mut self) -> Result<Vec<Decoded>> {
        self.abandon_choices_of(true)
    }

    /// Calls `tell` with the delta of each choice that has one.
    pub fn deltas(&mut self, mut tell: impl FnMut(StreamDelta<'_>)) {
        let dynamo = self.options.wire.is_dynamo();
        for choice in &mut self.choices {
            if let Some(delta) = delta(choice, dynamo) {
                tell(delta);
            }
        }
    }

    fn check_open(&self) -> Result<()> {
        match &self.state {
            State::Open => Ok(()),
            State::Refused(error) => Err(error.clone()),
            State::Closed => Err(Error::new(
                Class::Argument,
                "closed",
                "",
                None,
                "the stream is closed: it was finished or abandoned",
            )),
        }
    }

    fn read(&mut self, data: &[u8], several: bool, mut experts: Option<&mut [i32]>) -> Result<()> {
        if self.framing.is_plain(data)? {
            self.framing.before += data.len();
            return Ok(());
        }
        let mut pos = 0;
        while let Some(event) = self.framing.next(data, &mut pos)? {
            let experts = experts.as_deref_mut();
            match &event {
                Event::Here(place) => {
                    let body = &data[place.clone()];
                    self.chunk(body, &event, several, experts)?;
                }
                Event::Held => {
                    let body = self.framing.take();
                    let read = self.chunk(body.as_slice(), &event, several, experts);
                    self.framing.give_back(body);
                    read?;
                }
                Event::Failed => {
                    let body = self.framing.take();
                    let error = server_error::reported(body.as_slice());
                    self.keep_error(body.as_slice());
                    return Err(error);
                }
                Event::End => {}
            }
        }
        self.framing.before += data.len();
        Ok(())
    }

    fn keep_error(&mut self, body: &[u8]) {
        let head = &body[..body.len().min(MAX_ERROR_BODY)];
        self.error_body = head.to_vec();
    }

    /// Reads one chunk and judges it.
    fn chunk(
        &mut self,
        body: &[u8],
        event: &Event,
        several: bool,
        experts: Option<&mut [i32]>,
    ) -> Result<()> {
        let number = self.chunks;
        self.chunks += 1;
        // Chunks of several choices usually alternate.
        let turns = [self.last, (self.last + 1) % self.choices.len().max(1)];
        for turn in &turns[..self.choices.len().min(2)] {
            let choice = &mut self.choices[*turn];
            if append(choice, body, &self.options, &mut self.scratch.1)? {
                self.last = *turn;
                return Ok(());
            }
        }
        let read = {
            let framing = &self.framing;
            let place = |mut error: Error| {
                if matches!(error.class, Class::Server | Class::Engine | Class::Memory) {
                    return error;
                }
                error.offset = error.offset.map(|at| framing.offset(event, at));
                error.under(&format!("events[{number}]"))
            };
            let cx = Context {
                body,
                options: Options {
                    prompt_token_ids: self.prompt_token_ids.as_deref(),
                    require_logprobs: false,
                    require_routed_experts: false,
                    ..self.options
                },
                place: &place,
            };
            let parts = (
                &mut self.choices,
                &mut self.last,
                &mut self.said,
                &mut self.scratch.0,
            );
            read_chunk(parts, &cx, several, experts).map_err(place)
        };
        if let Err(error) = &read
            && matches!(error.class, Class::Server | Class::Engine)
        {
            self.keep_error(body);
        }
        read
    }

    /// The error of a body of plain JSON.
    fn plain_error(&mut self) -> Option<Error> {
        let body = self.framing.plain.take()?;
        let found = wire::chunk(body.as_slice(), &self.options, true);
        match found {
            Err(error) if error.class == Class::Server => {
                self.keep_error(body.as_slice());
                Some(error)
            }
            _ => Some(self.framing.not_a_stream()),
        }
    }

    fn finish_choices_of(&mut self, several: bool) -> Result<Vec<Decoded>> {
        self.check_open()?;
        if let Some(error) = self.plain_error() {
            self.state = State::Refused(error.clone());
            return Err(error);
        }
        let unfinished = if !self.framing.done {
            "the stream broke off before [DONE]"
        } else if self.choices.is_empty() {
            "the stream has no answer"
        } else if self.choices.iter().any(|choice| !choice.ended()) {
            "the stream ended before the finish reason of a choice"
        } else {
            ""
        };
        if !unfinished.is_empty() {
            let at = self.framing.before;
            return Err(Error::new(
                Class::Malformed,
                "unfinished_stream",
                "",
                at,
                unfinished,
            ));
        }
        self.end(several)
    }

    fn abandon_choices_of(&mut self, several: bool) -> Result<Vec<Decoded>> {
        match &self.state {
            State::Refused(error) if error.class == Class::Server => {}
            _ => self.check_open()?,
        }
        if let Some(error) = self.plain_error() {
            self.state = State::Refused(error.clone());
            return Err(error);
        }
        self.end(several)
    }

    fn whole(&mut self, choices: usize, ended: bool) -> Result<Whole<'_>> {
        let prompt = std::mem::take(&mut self.said.prompt);
        Ok(Whole {
            options: Options {
                prompt_token_ids: self.prompt_token_ids.as_deref(),
                ..self.options
            },
            request_id: self.said.id.take().map(|(_, id)| id),
            usage: self.said.usage.take(),
            prompt: Arc::new(prompt.typed(self.options.logprobs_dtype)?),
            told: std::mem::take(&mut self.said.told),
            several: choices > 1,
            ended,
            tally: Tally::new(choices, self.options.wire == Wire::SglangGenerate),
        })
    }

    fn end(&mut self, several: bool) -> Result<Vec<Decoded>> {
        if self.choices.len() > 1 && !several {
            return Err(Error::new(
                Class::Malformed,
                "several_choices",
                "",
                None,
                "several choices; finish_choices returns them all",
            ));
        }
        self.state = State::Closed;
        let mut choices = std::mem::take(&mut self.choices);
        choices.sort_by_key(|choice| choice.index);
        let ended = choices.iter().all(Choice::ended);
        let ended = ended && !choices.is_empty();
        if choices.is_empty() {
            return Ok(Vec::new());
        }
        let completions = self.join(choices, ended);
        if let Err(error) = &completions {
            self.state = State::Refused(error.clone());
        }
        completions
    }

    /// The completions of choices, by index.
    fn join(&mut self, choices: Vec<Choice>, ended: bool) -> Result<Vec<Decoded>> {
        let mut whole = self.whole(choices.len(), ended)?;
        let choices = choices.into_iter().enumerate();
        choices
            .map(|(rank, choice)| complete(choice, rank, &mut whole))
            .collect()
    }
}

/// The error of a wire whose streams are not read.
fn no_stream() -> Error {
    let message = "streamed answers of this wire are not read";
    Error::new(Class::Argument, "wire", "", None, message)
}

fn only(mut completions: Vec<Decoded>) -> Decoded {
    completions.pop().expect("a stream of one choice")
}
