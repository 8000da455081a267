//! From channels to completions, in the order that `docs/design.md` sets.

use std::sync::Arc;

use crate::error::{Class, Error, Result};
use crate::experts::{self, Routed, Sequence, Target};
use crate::json::{Cursor, Kind, Text};
use crate::limits::{MAX_MESSAGE, MAX_METADATA};
use crate::memory::Buffer;

use super::answer::{Answer, Place, PromptChannels, answers};
use super::counts::{Counts, Tally};
use super::decoded::{Decoded, Prompt};
use super::details;
use super::document::{Document, Verdict};
use super::field::Span;
use super::finish;
use super::list;
use super::logprobs;
use super::mask;
use super::prompt_logprobs;
use super::scan::scan;
use super::walk::Part;
use crate::options::{ExpertsMode, Options, Wire};

/// Writes the paths of one answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Paths<'a> {
    prefix: &'a str,
}

impl Paths<'_> {
    /// The whole path of a place.
    pub(super) fn text(&self, place: Place) -> String {
        if place.local && !self.prefix.is_empty() {
            format!("{}.{}", self.prefix, place.name)
        } else {
            place.name.to_owned()
        }
    }
}

/// Decodes a body: every choice by index with `several`, else the only one.
pub(crate) fn decode(
    body: &[u8],
    options: &Options<'_>,
    several: bool,
    target: Target<'_>,
) -> Result<Vec<Decoded>> {
    let skip = options.experts == ExpertsMode::Skip;
    // Dynamo's nvext holds the data of one choice.
    let several = several && !options.wire.is_dynamo();
    let document = scan(body, options.wire, several, skip, options.limits)?;
    if let Some(error) = server_error(&document, body) {
        return Err(error);
    }
    let (mut list, prompts) = answers(document, body, options.wire, several)?;
    if list.len() > 1 && matches!(target, Target::Into(_)) {
        return Err(Error::new(
            Class::Argument,
            "experts_out",
            "",
            None,
            format!(
                "experts_out is one array, the response has {} choices",
                list.len()
            ),
        ));
    }
    list.sort_by_key(|answer| answer.index);
    for answer in &list {
        let paths = Paths {
            prefix: &answer.prefix,
        };
        finish::vouched_for(&answer.metadata, body, &paths)?;
    }
    let mut target = Some(target);
    let mut prompts = Prompts::new(prompts);
    let mut tally = Tally::new(list.len(), options.wire == Wire::SglangGenerate);
    list.into_iter()
        .enumerate()
        .map(|(i, answer)| {
            let target = target.take().unwrap_or(Target::Own);
            let prompt = |paths: &Paths<'_>| prompts.resolve(i, body, options, paths);
            decode_answer(answer, prompt, &mut tally, body, options, target)
        })
        .collect()
}

/// The prompts of a body's answers: one that all share (vLLM's choices), or one for each (SGLang's array).
struct Prompts {
    channels: Vec<Option<PromptChannels>>,
    /// What the last resolved channels said.
    shared: Option<Arc<Prompt>>,
}

impl Prompts {
    fn new(channels: Vec<PromptChannels>) -> Self {
        Self {
            channels: channels.into_iter().map(Some).collect(),
            shared: None,
        }
    }

    fn resolve(
        &mut self,
        position: usize,
        body: &[u8],
        options: &Options<'_>,
        paths: &Paths<'_>,
    ) -> Result<Arc<Prompt>> {
        if let Some(channels) = self.channels.get_mut(position).and_then(Option::take) {
            self.shared = Some(Arc::new(prompt_logprobs::resolve(
                channels, body, options, paths,
            )?));
        }
        Ok(self.shared.clone().unwrap_or_default())
    }
}

/// Steps (a) to (g) of one answer.
fn decode_answer(
    answer: Answer,
    prompt: impl FnOnce(&Paths<'_>) -> Result<Arc<Prompt>>,
    tally: &mut Tally,
    body: &[u8],
    options: &Options<'_>,
    target: Target<'_>,
) -> Result<Decoded> {
    let paths = Paths {
        prefix: &answer.prefix,
    };
    let mut sources = Vec::with_capacity(6);
    // (a) Token ids.
    let none = answer.token_ids[0].place;
    let ids = answer
        .token_ids
        .into_iter()
        .find(|channel| channel.field.is_present());
    let (place, ids) = match ids {
        Some(channel) => (channel.place, channel.field.take::<list::Ids>(body)),
        None => (none, None),
    };
    let path = paths.text(place);
    let Some((_, ids)) = ids else {
        return Err(Error::new(
            Class::Missing,
            "missing",
            path,
            None,
            "the response has no token ids; ask the server for them",
        ));
    };
    let token_ids: Buffer<i32> = ids.map_err(|error| error.under(&path))?;
    sources.push(("token_ids", path));
    // (b), (c) Log-probabilities.
    let found = logprobs::resolve(answer.logprobs, token_ids.as_slice(), body, options, &paths)?;
    sources.extend(found.source.map(|place| ("logprobs", paths.text(place))));
    sources.extend(found.top_source.map(|path| ("top_logprobs", path)));
    sources.extend(found.echo.map(|why| ("logprobs_echo", why)));
    // (d) The prompt.
    let prompt = prompt(&paths)?;
    sources.extend(prompt.sources.iter().cloned());
    // (e) Metadata.
    let details = details::resolve(
        &answer.metadata,
        body,
        token_ids.len(),
        answer.tells_abort,
        &paths,
    )?;
    let aborted = details.finish.aborted == Some(true);
    let prompt_len = options.prompt_len_or(prompt.token_ids.as_ref().map(Buffer::len));
    let mut counts = Counts::new(&answer.metadata, details.usage.as_ref());
    // What ends before its first token need not have been run.
    if aborted && token_ids.is_empty() {
        counts.prompt = None;
    }
    counts.check_prompt(prompt_len, &paths)?;
    if let Some(ids) = tally.add(token_ids.len())
        && options.score_from.is_none()
    {
        counts.check_completion(ids, &paths)?;
    }
    // (f) Sampling mask.
    let path = paths.text(answer.sampling_mask.place);
    let mut sampling_mask = None;
    if let Some((at, lists)) = answer.sampling_mask.field.take::<list::IdLists>(body) {
        let lists = lists.map_err(|error| error.under(&path))?;
        sampling_mask = Some(mask::resolve(lists, token_ids.as_slice(), body, &path, at)?);
    }
    // (g) Routed experts.
    let routed = Experts {
        candidates: answer.routed_experts,
        unread: answer.unread_experts,
        none: answer.no_routed_experts,
        sequence: Sequence {
            prompt: prompt_len,
            counted: counts.prompt.map(|count| count.tokens),
            completion: token_ids.len(),
            aborted,
        },
    };
    let (routed_experts, source) = routed.resolve(body, options, target, &paths)?;
    sources.extend(source.map(|source| ("routed_experts", source)));
    sources.extend(sampling_mask.is_some().then_some(("sampling_mask", path)));
    Ok(Decoded {
        token_ids,
        logprobs: found.values,
        top_logprobs: found.top,
        prompt,
        routed_experts,
        sampling_mask,
        finish: details.finish,
        request_id: details.request_id,
        index: answer.index,
        usage: details.usage,
        weight_versions: details.weight_versions,
        sources,
    })
}

/// Routed experts, with what they are held against.
struct Experts {
    candidates: Vec<(Place, experts::Container)>,
    /// Where this wire does not carry them, with their offset.
    unread: Option<(Place, usize)>,
    none: Place,
    sequence: Sequence,
}

impl Experts {
    fn resolve(
        self,
        body: &[u8],
        options: &Options<'_>,
        target: Target<'_>,
        paths: &Paths<'_>,
    ) -> Result<(Option<Routed>, Option<String>)> {
        let Some((place, container)) = self.candidates.into_iter().next() else {
            if let (Some((place, at)), true) = (self.unread, options.experts != ExpertsMode::Skip) {
                return Err(Error::new(
                    Class::RoutedExperts,
                    "unread",
                    paths.text(place),
                    at,
                    "routed experts stand where this wire carries none; decode with the wire of the endpoint that answered, or \
                     pass experts=\"skip\"",
                ));
            }
            // An abort before the first token brings none.
            let early = self.sequence.aborted && self.sequence.completion == 0;
            if options.require_routed_experts && !early {
                return Err(Error::new(
                    Class::Missing,
                    "missing",
                    paths.text(self.none),
                    None,
                    "the response has no routed experts; ask the server for them, and see that it captures them",
                ));
            }
            return Ok((None, None));
        };
        if options.experts == ExpertsMode::Skip {
            return Ok((None, Some("left out: experts=\"skip\"".into())));
        }
        let path = paths.text(place);
        let routed = experts::resolve(&container, body, options, &self.sequence, target)
            .map_err(|error| error.under(&path))?;
        Ok((Some(routed), Some(path)))
    }
}

/// Step 4: whether the body is a server's way of saying no.
fn server_error(document: &Document, body: &[u8]) -> Option<Error> {
    let Verdict {
        error,
        message,
        says_error,
        flat,
        ..
    } = document.verdict;
    let flat = flat == 3 && matches!(document.choices, Part::Absent);
    if error.is_none() && !says_error && !flat {
        return None;
    }
    let message = error
        .and_then(|span| error_text(span, body))
        .or_else(|| text(message?, body))
        .unwrap_or_else(|| "the server answered with an error".into());
    Some(Error::new(Class::Server, "server", "", None, message))
}

/// The message of an `error` member: its `message`, or itself.
fn error_text(span: Span, body: &[u8]) -> Option<String> {
    let mut cursor = Cursor::at(body, span.start);
    let mut message = Some(span);
    if cursor.kind().ok()? == Kind::Object {
        message = None;
        cursor
            .object(|cursor, key| {
                let found = Span::read(cursor)?;
                if message.is_none() && key.is(b"message") {
                    message = found;
                }
                Ok(())
            })
            .ok()?;
    }
    text(message?, body)
}

/// A string, if it is one.
fn text(span: Span, body: &[u8]) -> Option<String> {
    let json = body
        .get(span.start..span.end)
        .filter(|json| json.len() <= MAX_METADATA)?;
    let raw = json.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    let text = Text {
        raw,
        at: span.start,
        escaped: true,
    };
    let bytes = text.head(MAX_MESSAGE)?;
    String::from_utf8(bytes).ok()
}
