//! The order of judgement: from channels to completions, as `docs/judgement.md` sets it.

use std::sync::Arc;

use crate::error::{Class, Error, Result};
use crate::experts::{Sequence, Target};
use crate::memory::Buffer;

use super::answer::{Answer, Answers, Channel, Paths, PromptChannels, first};
use super::decoded::{Decoded, Prompt};
use super::judge::counts::{Counts, Tally};
use super::judge::engine::tell;
use super::judge::experts::choose_experts;
use super::judge::finish::refuse_failed;
use super::judge::logprobs::choose_logprobs;
use super::judge::mask::{check_mask, check_sampling};
use super::judge::metadata::parse_metadata;
use super::judge::prompt::choose_prompt;
use super::read::ids::Ids;
use crate::options::Options;

/// Decodes a body: every choice by index with `several`, else the only one.
pub(crate) fn decode(
    body: &[u8],
    options: &Options<'_>,
    several: bool,
    target: Target<'_>,
) -> Result<Vec<Decoded>> {
    let Answers {
        mut list, prompts, ..
    } = super::answers(body, options, several, false)?;
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
        refuse_failed(&answer.metadata, body, &paths)?;
    }
    let mut target = Some(target);
    let mut prompts = Prompts::new(prompts);
    let mut tally = Tally::new(list.len(), options.wire.is_sglang());
    list.into_iter()
        .enumerate()
        .map(|(i, answer)| {
            let target = target.take().unwrap_or(Target::Own);
            let prompt = |paths: &Paths<'_>| prompts.of_answer(i, body, options, paths);
            decode_answer(answer, prompt, &mut tally, body, options, target)
        })
        .collect()
}

/// Judges an answer that no document surrounds.
pub(super) fn alone(
    answer: Answer,
    prompt: PromptChannels,
    options: &Options<'_>,
    target: Target<'_>,
) -> Result<Decoded> {
    let prompt = |paths: &Paths<'_>| typed_prompt(prompt, &[], options, paths);
    let mut tally = Tally::new(1, false);
    decode_answer(answer, prompt, &mut tally, &[], options, target)
}

/// Reads a chunk of a streamed answer. Its answers are sorted by index, and none of them failed.
pub(crate) fn chunk(body: &[u8], options: &Options<'_>, several: bool) -> Result<Answers> {
    let mut answers = super::answers(body, options, several, true)?;
    answers.list.sort_by_key(|answer| answer.index);
    for answer in &answers.list {
        let prefix = &answer.prefix;
        refuse_failed(&answer.metadata, body, &Paths { prefix })?;
    }
    Ok(answers)
}

/// The prompts of a body's answers: one that all share (vLLM's choices), or one for each (SGLang's array).
struct Prompts {
    channels: Vec<Option<PromptChannels>>,
    /// The last prompt that was read.
    shared: Option<Arc<Prompt>>,
}

impl Prompts {
    fn new(channels: Vec<PromptChannels>) -> Self {
        Self {
            channels: channels.into_iter().map(Some).collect(),
            shared: None,
        }
    }

    /// The prompt of an answer; it is read with the first answer that has it.
    fn of_answer(
        &mut self,
        position: usize,
        body: &[u8],
        options: &Options<'_>,
        paths: &Paths<'_>,
    ) -> Result<Arc<Prompt>> {
        if let Some(channels) = self.channels.get_mut(position).and_then(Option::take) {
            self.shared = Some(typed_prompt(channels, body, options, paths)?);
        }
        Ok(self.shared.clone().unwrap_or_default())
    }
}

/// A prompt whose log-probabilities have the wanted type.
fn typed_prompt(
    channels: PromptChannels,
    body: &[u8],
    options: &Options<'_>,
    paths: &Paths<'_>,
) -> Result<Arc<Prompt>> {
    let prompt = choose_prompt(channels, body, options, paths)?;
    prompt.typed(options.logprobs_dtype).map(Arc::new)
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
    // (a) Token ids.
    let (token_ids, path) = choose_ids(answer.token_ids, body, &paths)?;
    let completion = token_ids.len();
    // (b), (c) Log-probabilities.
    let ids = token_ids.as_slice();
    let mut found = choose_logprobs(answer.logprobs, ids, body, options, &paths)?;
    let (logprobs, top_logprobs) = found.typed(options.logprobs_dtype)?;
    // (d) The prompt.
    let mut decoded = Decoded::new(answer.index, token_ids, prompt(&paths)?);
    decoded.sources.push(("token_ids", path));
    decoded.sources.extend(found.sources);
    decoded.sources.extend_from_slice(&decoded.prompt.sources);
    (decoded.logprobs, decoded.top_logprobs) = (logprobs, top_logprobs);
    // (e) Metadata.
    parse_metadata(
        &answer.metadata,
        body,
        answer.tells_abort,
        &paths,
        &mut decoded,
    )?;
    let aborted = decoded.finish.aborted == Some(true);
    let prompt_len = options.prompt_len_or(decoded.prompt.token_ids.as_ref().map(Buffer::len));
    let mut counts = Counts::new(&answer.metadata, decoded.usage.as_ref());
    // An answer that is aborted before its first token need not have been run.
    if aborted && completion == 0 {
        counts.prompt = None;
    }
    counts.check_prompt(prompt_len, &paths)?;
    if let Some(ids) = tally.add(completion)
        && options.score_from.is_none()
    {
        counts.check_completion(ids, &paths)?;
    }
    let told;
    (decoded.engine, told) = tell(answer.told, &paths);
    // (f) Sampling mask.
    let mask_source = check_mask(answer.mask, body, &paths, &mut decoded)?;
    let sampling_source = check_sampling(answer.sampling, body, options, &paths, &mut decoded)?;
    // (g) Routed experts.
    let sequence = Sequence {
        prompt: prompt_len,
        counted: counts.prompt.map(|count| count.tokens),
        completion,
        aborted,
    };
    let source;
    (decoded.routed_experts, source) =
        choose_experts(answer.experts, &sequence, body, options, target, &paths)?;
    let indexer;
    (decoded.indexer_topk, indexer) = choose_experts(
        answer.indexer,
        &sequence,
        body,
        options,
        Target::Own,
        &paths,
    )?;
    let sources = [
        source.map(|source| ("routed_experts", source)),
        mask_source,
        sampling_source,
        indexer.map(|source| ("indexer_topk", source)),
        told.map(|left_out| ("engine", left_out)),
    ];
    decoded.sources.extend(sources.into_iter().flatten());
    decoded.sources.extend(answer.notes);
    Ok(decoded)
}

/// The ids of the first channel that is there, and its path.
fn choose_ids(
    channels: Vec<Channel<Buffer<i32>>>,
    body: &[u8],
    paths: &Paths<'_>,
) -> Result<(Buffer<i32>, String)> {
    let none = channels[0].place;
    let channel = first(channels);
    let path = paths.text(channel.as_ref().map_or(none, |channel| channel.place));
    match channel.and_then(|channel| channel.field.take::<Ids>(body)) {
        Some((_, ids)) => {
            let ids = ids.map_err(|error| error.under(&path))?;
            Ok((ids, path))
        }
        None => Err(Error::new(
            Class::Missing,
            "missing",
            path,
            None,
            "the response has no token ids; ask the server for them",
        )),
    }
}
