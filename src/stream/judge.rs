//! An answer of a chunk, judged and appended to its choice.

use crate::error::{Class, Error, Result};
use crate::experts::{Sequence, Target};
use crate::json::Value;
use crate::memory::Buffer;
use crate::options::{ExpertsMode, Wire};
use crate::wire::answer::{
    Answer, Channel, ExpertChannels, LogprobChannels, MetadataItem, Paths, PromptChannels, Role,
};
use crate::wire::judge::experts::choose_experts;
use crate::wire::judge::metadata::parse_metadata;
use crate::wire::judge::prompt::choose_prompt;
use crate::wire::judge::sampled::Sampled;
use crate::wire::read::entries::Content;
use crate::wire::read::ids::{IdLists, Numbers};
use crate::wire::{Decoded, Prompt, PromptLogprobs, TopLogprobs};

use super::choice::{Captured, Choice, Context, Said, listed};
use super::columns::{append_rows, begins, check_rows_begin, same_value};
use super::{dynamo, sglang};

/// Judges an answer of a chunk by (a) to (g) and appends it.
pub(super) fn judge(
    choice: &mut Choice,
    answer: Answer,
    prompt: Option<PromptChannels>,
    shared: &mut Said,
    scratch: &mut Decoded,
    cx: &Context<'_>,
    target: Target<'_>,
) -> Result<()> {
    let paths = Paths {
        prefix: &answer.prefix,
    };
    let wire = cx.options.wire;
    choice.chunks += 1;
    // (a) to (c).
    match wire {
        Wire::VllmGenerate | Wire::VllmChat | Wire::VllmCompletions => {
            tokens(choice, answer.token_ids, answer.logprobs, cx, &paths)?;
        }
        Wire::DynamoChat | Wire::DynamoCompletions => {
            dynamo::tokens(choice, answer.token_ids, answer.logprobs, cx, &paths)?;
        }
        Wire::SglangGenerate | Wire::SglangChat => {
            let count = answer
                .metadata
                .iter()
                .find(|item| matches!(item.role, Role::Count("completion_tokens")));
            sglang::tokens(choice, answer.token_ids, answer.logprobs, count, cx, &paths)?;
        }
    }
    // (d)
    let each = !matches!(wire, Wire::VllmGenerate | Wire::VllmChat);
    if let Some(channels) = prompt {
        let said = if each { &mut choice.said } else { &mut *shared };
        add_prompt(channels, said, cx, &paths)?;
    }
    // (e)
    let said = match wire {
        Wire::SglangGenerate => &mut choice.said,
        _ => &mut *shared,
    };
    let items = (&answer.metadata[..], answer.tells_abort);
    std::mem::swap(&mut scratch.token_ids, &mut choice.ids);
    let parsed = add_metadata(items, said, scratch, cx, &paths);
    std::mem::swap(&mut scratch.token_ids, &mut choice.ids);
    if parsed? {
        choice.take_finish(scratch, &paths)?;
        if let Some(versions) = scratch.weight_versions.take() {
            let place = answer.metadata.iter().find_map(|item| match item.role {
                Role::WeightVersions => Some((item.place, true)),
                Role::WeightVersion => Some((item.place, false)),
                _ => None,
            });
            choice.weight_versions = place.map(|(place, spans)| (versions, place, spans));
        }
    }
    if !answer.notes.is_empty() {
        choice.notes = answer.notes;
    }
    let said = match wire {
        Wire::SglangGenerate => &mut choice.said,
        _ => &mut *shared,
    };
    said.take_told(answer.told);
    // (f)
    add_mask(choice, answer.mask, cx, &paths)?;
    add_sampling(choice, answer.sampling, cx, &paths)?;
    // (g)
    let said = if each { &choice.said } else { &*shared };
    let echo = said.prompt.token_ids.as_ref().map(|ids| ids.len());
    add_experts(choice, answer.experts, echo, cx, target, &paths)?;
    add_experts(choice, answer.indexer, echo, cx, Target::Own, &paths)
}

/// The new tokens of vLLM, and their log-probabilities.
fn tokens(
    choice: &mut Choice,
    token_ids: Vec<Channel<Buffer<i32>>>,
    logprobs: LogprobChannels,
    cx: &Context<'_>,
    paths: &Paths<'_>,
) -> Result<()> {
    let start = choice.ids.len();
    let none = token_ids[0].place;
    let list = listed(token_ids, cx, paths)?;
    if let Some(list) = &list {
        choice.append(list.ids.as_slice(), (list.place, list.at), cx, paths)?;
        choice.name(list);
    }
    let place = logprobs.content.place;
    let Some((at, entries)) = logprobs.content.field.take::<Content>(cx.body) else {
        return Ok(());
    };
    if list.is_none() {
        return Err(Error::new(
            Class::Missing,
            "missing",
            paths.text(none),
            None,
            "the chunk has log-probabilities and no token ids; ask the server for them",
        ));
    }
    let path = paths.text(place);
    let mut entries = entries.map_err(|error| error.under(&path))?;
    let sampled = Sampled {
        ids: &choice.ids.as_slice()[start..],
        body: cx.body,
        missing: cx.options.missing_logprob,
    };
    let rows = entries.names.len();
    sampled.check_count(rows, &path, at, "logprob entries")?;
    sampled.check_content(&mut entries, &path, at, logprobs.must_name)?;
    choice.logprobs_at = Some(place);
    choice
        .logprobs
        .extend_from_slice(entries.logprobs.as_slice())?;
    choice.top.text_only |= entries.top.text_only;
    let top = sampled.top_of_entries(entries, &path, at)?;
    append_top(choice, top.as_ref(), 0, rows)
}

/// Appends the alternatives from position `from` on.
pub(super) fn append_top(
    choice: &mut Choice,
    top: Option<&TopLogprobs<Buffer<f64>>>,
    from: usize,
    rows: usize,
) -> Result<()> {
    match top {
        Some(top) => choice.top.append(
            top.token_ids.as_slice(),
            top.logprobs.as_slice(),
            top.offsets.as_slice(),
            from,
            rows,
        ),
        None => choice.top.append(&[], &[], &[], from, rows),
    }
}

/// Judges the prompt of a chunk, if it has one.
pub(super) fn add_prompt(
    channels: PromptChannels,
    said: &mut Said,
    cx: &Context<'_>,
    paths: &Paths<'_>,
) -> Result<()> {
    let present = channels.echo.iter().any(|it| it.field.is_present())
        || channels.maps.iter().any(|it| it.field.is_present())
        || channels.triples.field.is_present()
        || channels.token_ids.is_some();
    if !present {
        return Ok(());
    }
    let mut options = cx.options;
    let held = said.prompt.token_ids.as_ref().map(|ids| ids.as_slice());
    options.prompt_token_ids = options.prompt_token_ids.or(held);
    let found = choose_prompt(channels, cx.body, &options, paths)?;
    let source = |name: &str| {
        let mut sources = found.sources.iter();
        sources.find(|(of, _)| *of == name).map(|(_, path)| path)
    };
    if let (Some(one), Some(other)) = (&said.prompt.logprobs, &found.logprobs)
        && !same_prompt(one, other)
    {
        return Err(Error::new(
            Class::Alignment,
            "contradiction",
            source("prompt_logprobs").cloned().unwrap_or_default(),
            None,
            "the prompt has other log-probabilities than an earlier chunk said",
        ));
    }
    let Prompt {
        token_ids,
        logprobs,
        token_id_logprobs,
        sources,
    } = found;
    let prompt = &mut said.prompt;
    for (name, source) in sources {
        prompt.sources.retain(|(of, _)| *of != name);
        prompt.sources.push((name, source));
    }
    prompt.token_ids = token_ids.or(prompt.token_ids.take());
    prompt.logprobs = logprobs.or(prompt.logprobs.take());
    prompt.token_id_logprobs = token_id_logprobs.or(prompt.token_id_logprobs.take());
    Ok(())
}

fn same_prompt(one: &PromptLogprobs<Buffer<f64>>, other: &PromptLogprobs<Buffer<f64>>) -> bool {
    let same = |one: &[f64], other: &[f64]| {
        let mut pairs = one.iter().zip(other);
        one.len() == other.len() && pairs.all(|(&one, &other)| same_value(one, other))
    };
    same(one.logprobs.as_slice(), other.logprobs.as_slice())
        && same(one.top.logprobs.as_slice(), other.top.logprobs.as_slice())
        && one.top.token_ids.as_slice() == other.top.token_ids.as_slice()
        && one.top.offsets.as_slice() == other.top.offsets.as_slice()
}

/// Parses the metadata of a chunk into `scratch`, and takes the request id and the usage. Whether there is anything else.
pub(super) fn add_metadata(
    (items, tells_abort): (&[MetadataItem], bool),
    said: &mut Said,
    scratch: &mut Decoded,
    cx: &Context<'_>,
    paths: &Paths<'_>,
) -> Result<bool> {
    let written = |item: &MetadataItem| &cx.body[item.span.start..item.span.end];
    // Most chunks repeat the request id and say nothing else.
    if let (Some((raw, _)), [item]) = (&said.id, items)
        && item.role == Role::RequestId
        && written(item) == raw
    {
        return Ok(false);
    }
    if items.is_empty() {
        return Ok(false);
    }
    scratch.request_id = None;
    scratch.usage = None;
    scratch.weight_versions = None;
    parse_metadata(items, cx.body, tells_abort, paths, scratch)?;
    let is_id = |item: &&MetadataItem| item.role == Role::RequestId;
    if let (Some(id), Some(item)) = (scratch.request_id.take(), items.iter().find(is_id)) {
        match &said.id {
            None => said.id = Some((written(item).to_vec(), id)),
            Some((_, known)) if *known == id => {}
            Some((_, known)) => {
                let message =
                    format!("found the request {id:?} in the stream of the request {known:?}");
                let path = paths.text(item.place);
                let at = item.span.start;
                return Err(Error::new(
                    Class::Malformed,
                    "mixed_streams",
                    path,
                    at,
                    message,
                ));
            }
        }
    }
    if let Some(usage) = scratch.usage.take() {
        let counted = items.iter().any(|item| matches!(item.role, Role::Count(_)));
        said.usage = Some(match (said.usage.take(), usage) {
            (Some(Value::Map(mut known)), Value::Map(found)) if counted => {
                for (name, count) in found {
                    known.retain(|(of, _)| *of != name);
                    known.push((name, count));
                }
                known.sort_by_key(|(name, _)| sglang::COUNTS.iter().position(|of| of == name));
                Value::Map(known)
            }
            (_, usage) => usage,
        });
    }
    Ok(true)
}

/// Appends the rows of a mask.
fn add_mask(
    choice: &mut Choice,
    channel: Channel<IdLists>,
    cx: &Context<'_>,
    paths: &Paths<'_>,
) -> Result<()> {
    let Some((at, rows)) = channel.field.take::<IdLists>(cx.body) else {
        return Ok(());
    };
    let path = || paths.text(channel.place);
    let rows = rows.map_err(|error| error.under(&path()))?;
    match &mut choice.mask {
        None => choice.mask = Some((rows, channel.place)),
        Some((joined, _)) => {
            let mut from = 0;
            if choice.cumulative == Some(true) {
                check_rows_begin(joined, &rows, &path(), at)?;
                from = joined.offsets.len() - 1;
            }
            append_rows(joined, &rows, from)?;
        }
    }
    Ok(())
}

/// Appends the log-probabilities of the sampler.
fn add_sampling(
    choice: &mut Choice,
    channel: Channel<Buffer<f64>>,
    cx: &Context<'_>,
    paths: &Paths<'_>,
) -> Result<()> {
    let Some((at, values)) = channel.field.take::<Numbers>(cx.body) else {
        return Ok(());
    };
    let path = || paths.text(channel.place);
    let values = values.map_err(|error| error.under(&path()))?;
    match &mut choice.sampling {
        None => choice.sampling = Some((values, channel.place)),
        Some((joined, _)) => {
            let mut from = 0;
            if choice.cumulative == Some(true) {
                let said = joined.as_slice();
                begins(said, values.as_slice(), same_value, &path(), at)?;
                from = joined.len();
            }
            joined.extend_from_slice(&values.as_slice()[from..])?;
        }
    }
    Ok(())
}

/// Decodes routed experts, or what an indexer chose, where they lie.
fn add_experts(
    choice: &mut Choice,
    channels: ExpertChannels,
    echo: Option<usize>,
    cx: &Context<'_>,
    target: Target<'_>,
    paths: &Paths<'_>,
) -> Result<()> {
    let capture = channels.capture;
    let stands = match (&channels.artifact, &channels.found) {
        (Some((place, at, _)), _) => Some((*place, at.unwrap_or_default())),
        (None, Some((place, container))) => Some((*place, container.at())),
        (None, None) => None,
    };
    if let Some((place, at)) = stands
        && cx.options.experts != ExpertsMode::Skip
    {
        let early = !choice.ended();
        if early || choice.captured(capture).rows.is_some() {
            let (kind, found) = if early {
                (
                    "early",
                    "stand in a chunk before the one with the finish reason",
                )
            } else {
                ("repeated", "stood in an earlier chunk of the choice too")
            };
            let message = format!("{} {found}", capture.name());
            return Err(Error::new(
                Class::RoutedExperts,
                kind,
                paths.text(place),
                at,
                message,
            ));
        }
    }
    let sequence = Sequence {
        prompt: cx.options.prompt_len_or(echo),
        counted: None,
        completion: choice.ids.len(),
        aborted: choice.finish.aborted == Some(true),
    };
    let (routed, source) =
        choose_experts(channels, &sequence, cx.body, &cx.options, target, paths)?;
    if let Some((place, _)) = stands {
        let at = Some((place, source.filter(|_| routed.is_none())));
        *choice.captured(capture) = Captured { rows: routed, at };
    }
    Ok(())
}
