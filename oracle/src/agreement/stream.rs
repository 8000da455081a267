//! Holding the decoder of streams against its twin: however a stream is cut, both give the same deltas, completions or refusal.

use dynamo_tito::{Class, Error, Options, Result, StreamDecoder};

use super::same;
use crate::reference::stream::{Ending, Stream};
use crate::reference::{Attribute, Top, Value};

/// What a feed brought to a choice.
#[derive(Debug, PartialEq)]
struct Delta {
    index: u32,
    start: usize,
    token_ids: Vec<i32>,
    logprobs: Option<Vec<f64>>,
    top_logprobs: Option<Top>,
    finish_reason: Option<String>,
}

/// More feeds than these are not each held against a twin of their own.
const LOOKED_AT: usize = 8;

/// Decodes a stream both ways, the decoder's cut at `cuts`, which are sorted; to its end, and abandoned there.
///
/// # Errors
/// What the two say, where it differs.
pub fn agree_on_stream(
    stream: &[u8],
    options: &Options<'_>,
    cuts: &[usize],
    every_choice: bool,
) -> std::result::Result<(), String> {
    let options = Options {
        score_from: None,
        ..*options
    };
    let twin = |end: usize| Stream::new(&stream[..end], &options, !every_choice);
    let looked_at = match cuts.len() {
        0..LOOKED_AT => cuts,
        _ => &[],
    };
    let run = Run {
        stream,
        options,
        cuts,
        every_choice,
        before: looked_at.iter().map(|cut| twin(*cut)).collect(),
        twin: twin(stream.len()),
    };
    run.to_its_end()
        .map_err(|difference| format!("{:?}, cut at {cuts:?}: {difference}", options.wire))
}

struct Run<'a> {
    stream: &'a [u8],
    options: Options<'a>,
    cuts: &'a [usize],
    every_choice: bool,
    /// Of what came up to each cut, where each is looked at.
    before: Vec<Stream<'a>>,
    /// Of everything.
    twin: Stream<'a>,
}

type Agreed = std::result::Result<(), String>;

impl Run<'_> {
    fn feed(&self, decoder: &mut StreamDecoder, piece: &[u8]) -> Result<()> {
        match self.every_choice {
            true => decoder.feed_choices(piece),
            false => decoder.feed(piece),
        }
    }

    fn end(&self, decoder: &mut StreamDecoder, ending: Ending, every: bool) -> Agreed {
        let mut ours = match (ending, every) {
            (Ending::Finished, true) => decoder.finish_choices(),
            (Ending::Finished, false) => decoder.finish().map(|one| vec![one]),
            (Ending::Abandoned, true) => decoder.abandon_choices(),
            (Ending::Abandoned, false) => decoder.abandon().map(|one| vec![one]),
        };
        let mut twin = self.twin.end(ending, !every);
        // Where several chunks name a channel, the order in which that is told means nothing.
        let ordered = ours.iter_mut().flatten().map(|it| &mut it.sources);
        ordered.for_each(|sources| sources.sort());
        let ordered = twin.iter_mut().flatten();
        ordered.for_each(|completion| {
            if let Some(Attribute::Json(Value::Map(map))) = completion.get_mut("sources") {
                map.sort_by(|(one, _), (other, _)| one.cmp(other));
            }
        });
        same(ours, twin).map_err(|difference| format!("{ending:?}: {difference}"))
    }

    /// Feeds all pieces, or up to the one that is refused.
    fn feed_all(&self, decoder: &mut StreamDecoder) -> Agreed {
        let looked_at = self.before.len() == self.cuts.len();
        let nothing = Stream::new(b"", &self.options, !self.every_choice);
        let (mut start, mut told, mut before) = (0, Vec::new(), &nothing);
        for (i, end) in self
            .cuts
            .iter()
            .copied()
            .chain([self.stream.len()])
            .enumerate()
        {
            let fed = self.feed(decoder, &self.stream[start..end]);
            start = end;
            let mut deltas = Vec::new();
            decoder.deltas(|delta| deltas.push(owned(&delta)));
            deltas.sort_by_key(|delta| delta.index);
            let last = i == self.cuts.len();
            if fed.is_ok() && !last && !looked_at {
                told.extend(deltas);
                continue;
            }
            let after = self.before.get(i).unwrap_or(&self.twin);
            match (&fed, after.error()) {
                (Ok(()), None) => {}
                (Err(ours), Some(twin)) if key(ours) == key(twin) => return Ok(()),
                (ours, twin) => return Err(format!("a feed: {ours:?} and the twin's {twin:?}")),
            }
            let known = (decoder.done(), decoder.tokens());
            if known != (after.done(), after.tokens()) {
                let twin = (after.done(), after.tokens());
                return Err(format!("done and tokens {known:?}, the twin's {twin:?}"));
            }
            if looked_at {
                let (ours, twin) = (format!("{deltas:?}"), format!("{:?}", new(before, after)));
                if ours != twin {
                    return Err(format!("the deltas {ours}\nand the twin's\n{twin}"));
                }
                before = after;
            }
            told.extend(deltas);
        }
        self.all_told(&told)
    }

    /// The deltas together are what the choices have.
    fn all_told(&self, told: &[Delta]) -> Agreed {
        for choice in self.twin.so_far() {
            let of_choice = || told.iter().filter(|delta| delta.index == choice.index);
            let ids: Vec<i32> = of_choice().flat_map(|it| it.token_ids.clone()).collect();
            let ends: Vec<_> = of_choice()
                .filter_map(|it| it.finish_reason.as_ref())
                .collect();
            let end: Vec<_> = choice.finish_reason.iter().collect();
            if ids != choice.token_ids || ends != end {
                return Err(format!("all deltas {told:?}, the choice {choice:?}"));
            }
        }
        Ok(())
    }

    fn to_its_end(&self) -> Agreed {
        let mut decoder = StreamDecoder::new(&self.options);
        self.feed_all(&mut decoder)?;
        let several = self.twin.so_far().len() > 1;
        if self.every_choice && several {
            self.end(&mut decoder, Ending::Finished, false)?;
        }
        self.end(&mut decoder, Ending::Finished, self.every_choice)?;
        let Some(refused) = self.twin.end(Ending::Finished, !self.every_choice).err() else {
            // What is finished is closed.
            return match decoder.finish_choices().err() {
                Some(error) if error.class == Class::Argument => self.abandoned(),
                other => Err(format!("{other:?} of a finished stream")),
            };
        };
        if refused.kind == "unfinished_stream" {
            return self.end(&mut decoder, Ending::Abandoned, self.every_choice);
        }
        let again = [
            decoder.finish_choices().err(),
            self.feed(&mut decoder, b": more\n").err(),
            decoder.finish_choices().err(),
        ];
        let same = |again: &Option<Error>| again.as_ref().map(key) == Some(key(&refused));
        if !again.iter().all(same) {
            return Err(format!("{refused:?}, and again {again:?}"));
        }
        match self.twin.error() {
            // What was fed is right, or came before an error of the server.
            None => self.abandoned(),
            Some(_) => self.end(&mut decoder, Ending::Abandoned, self.every_choice),
        }
    }

    /// Fed whole, and not finished.
    fn abandoned(&self) -> Agreed {
        let mut decoder = StreamDecoder::new(&self.options);
        let fed = self.feed(&mut decoder, self.stream);
        if let Err(error) = fed {
            return Err(format!("{error:?} of what was fed in pieces"));
        }
        self.end(&mut decoder, Ending::Abandoned, self.every_choice)
    }
}

fn key(error: &Error) -> (Class, &'static str, &str, Option<usize>) {
    (error.class, error.kind, &error.path, error.offset)
}

fn owned(delta: &dynamo_tito::StreamDelta<'_>) -> Delta {
    Delta {
        index: delta.index,
        start: delta.start,
        token_ids: delta.token_ids.to_vec(),
        logprobs: delta.logprobs.as_ref().map(|values| values.to_vec()),
        top_logprobs: delta.top_logprobs.as_ref().map(|top| Top {
            token_ids: top.token_ids.to_vec(),
            logprobs: top.logprobs.to_vec(),
            offsets: from_zero(top.offsets),
        }),
        finish_reason: delta.finish_reason.map(str::to_owned),
    }
}

fn from_zero(offsets: &[i64]) -> Vec<i64> {
    offsets.iter().map(|at| at - offsets[0]).collect()
}

/// What `after` knows more than `before`.
fn new(before: &Stream<'_>, after: &Stream<'_>) -> Vec<Delta> {
    let before = before.so_far();
    let after = after.so_far();
    let deltas = after.iter().filter_map(|choice| {
        let earlier = before.iter().find(|it| it.index == choice.index);
        let start = earlier.map_or(0, |it| it.token_ids.len());
        let ended = earlier.is_some_and(|it| it.finish_reason.is_some());
        let finish_reason = choice.finish_reason.clone().filter(|_| !ended);
        let says_something = choice.token_ids.len() > start || finish_reason.is_some();
        says_something.then(|| Delta {
            index: choice.index,
            start,
            token_ids: choice.token_ids[start..].to_vec(),
            logprobs: (choice.logprobs.as_ref())
                .filter(|it| !it.is_empty())
                .map(|it| it[start..].to_vec()),
            top_logprobs: choice.top_logprobs.as_ref().map(|it| behind(it, start)),
            finish_reason,
        })
    });
    deltas.collect()
}

/// The alternatives from a position on.
fn behind(top: &Top, start: usize) -> Top {
    let first = top.offsets[start] as usize;
    Top {
        token_ids: top.token_ids[first..].to_vec(),
        logprobs: top.logprobs[first..].to_vec(),
        offsets: from_zero(&top.offsets[start..]),
    }
}
