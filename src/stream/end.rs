//! The end of a stream: joined columns become completions.

use std::sync::Arc;

use crate::error::{Class, Error, Result};
use crate::experts::Routed;
use crate::json::Value;
use crate::memory::Buffer;
use crate::options::{FinalRow, Options, Wire};
use crate::wire::answer::{
    Channel, LogprobChannels, MetadataItem, Paths, Place, Role, ToldItem, local, top as top_level,
};
use crate::wire::judge::counts::{Counts, Tally};
use crate::wire::judge::echo;
use crate::wire::judge::engine::tell;
use crate::wire::judge::logprobs::choose_logprobs;
use crate::wire::judge::mask::{check_mask, check_sampling};
use crate::wire::judge::weight_spans::check_tiling;
use crate::wire::read::entries::{Content, Top, UNNAMED};
use crate::wire::read::field::{Field, Span};
use crate::wire::read::triples::TopRows;
use crate::wire::{Decoded, Prompt};

use super::choice::{Captured, Choice, Entries};
use super::columns::Alternatives;

/// Fields of the whole stream, for its choices.
pub(super) struct Whole<'a> {
    pub(super) options: Options<'a>,
    pub(super) request_id: Option<String>,
    pub(super) usage: Option<Value>,
    /// vLLM's.
    pub(super) prompt: Arc<Prompt>,
    /// What the server tells, but of SGLang's choices.
    pub(super) told: Vec<ToldItem>,
    /// There is more than one choice.
    pub(super) several: bool,
    /// Every choice has ended.
    pub(super) ended: bool,
    pub(super) tally: Tally,
}

/// The error without its offset: joined columns have no bytes of their own.
fn joined(mut error: Error) -> Error {
    error.offset = None;
    error
}

/// A value that is read already.
fn read<T>(place: Place, value: T) -> Channel<T> {
    let field = Field::Read {
        at: 0,
        value: Ok(value),
    };
    Channel { place, field }
}

/// Judges the columns of a choice, which has the given rank.
pub(super) fn complete(choice: Choice, rank: usize, whole: &mut Whole<'_>) -> Result<Decoded> {
    let options = whole.options;
    let sglang = options.wire == Wire::SglangGenerate;
    let prefix = match sglang {
        true if whole.several => format!("[{rank}]"),
        true => String::new(),
        false => format!("choices[{rank}]"),
    };
    let paths = Paths { prefix: &prefix };
    let ended = choice.ended();
    let typed = |prompt: Prompt<_>| prompt.typed(options.logprobs_dtype).map(Arc::new);
    let (prompt, usage, request_id) = match options.wire {
        Wire::VllmGenerate | Wire::VllmChat | Wire::VllmCompletions => {
            let shared = (whole.usage.clone(), whole.request_id.clone());
            (Arc::clone(&whole.prompt), shared.0, shared.1)
        }
        Wire::DynamoChat | Wire::DynamoCompletions => {
            let shared = (whole.usage.clone(), whole.request_id.clone());
            (typed(choice.said.prompt)?, shared.0, shared.1)
        }
        Wire::SglangGenerate | Wire::SglangChat => {
            let id = choice.said.id.map(|(_, id)| id);
            (typed(choice.said.prompt)?, choice.said.usage, id)
        }
    };
    // (a)
    let source = match choice.named {
        Some((_, place)) => Some(paths.text(place)),
        None if ended || unnamed(options.wire, choice.chunks, &choice.ids) => {
            return Err(Error::new(
                Class::Missing,
                "missing",
                paths.text(first_channel(options.wire)),
                None,
                "the stream has no token ids; ask the server for them",
            ));
        }
        None => {
            let place = local("logprobs.content[].token_id");
            (!choice.ids.is_empty()).then(|| paths.text(place))
        }
    };
    // (b), (c)
    let completion = choice.ids.len();
    let texts = match choice.entries.tokens {
        Some((place, false)) => {
            compare_texts(&choice.entries.names, &choice.ids, &paths.text(place))
        }
        Some((place, true)) => Ok(Some(echo::unreadable(&paths.text(place)))),
        None => Ok(None),
    };
    let channels = match options.wire {
        Wire::DynamoChat | Wire::DynamoCompletions => {
            entries(choice.entries, choice.top, options.wire)?
        }
        wire => {
            let seen = choice.logprobs_at.map(|at| (at, choice.logprobs));
            columns(seen, choice.top, choice.top_at, completion, wire)?
        }
    };
    let ids = choice.ids.as_slice();
    let chosen = choose_logprobs(channels, ids, &[], &options, &paths).map_err(joined);
    let mut found = match chosen {
        // `missing` is judged after the texts.
        Err(error) if error.kind == "missing" => return Err(texts.err().unwrap_or(error)),
        chosen => chosen?,
    };
    let texts = texts?;
    let (values, top) = found.typed(options.logprobs_dtype)?;
    let echo = texts.map(|why| ("logprobs_echo", why));
    let sources = found.sources.into_iter().chain(echo);
    let mut decoded = Decoded::new(choice.index, choice.ids, prompt);
    (decoded.logprobs, decoded.top_logprobs) = (values, top);
    decoded.usage = usage;
    decoded.request_id = request_id;
    decoded.finish = choice.finish;
    let named = source.map(|source| ("token_ids", source));
    decoded.sources.extend(named.into_iter().chain(sources));
    decoded.sources.extend_from_slice(&decoded.prompt.sources);
    // (e)
    if !ended {
        decoded.finish.reason = Some("abort".into());
        decoded.finish.raw = None;
        decoded.finish.stop_reason = None;
        decoded.finish.aborted = Some(true);
    }
    let tiled = take_versions(choice.weight_versions, &mut decoded, &paths);
    let aborted = decoded.finish.aborted == Some(true);
    let known = options.prompt_len_or(decoded.prompt.token_ids.as_ref().map(Buffer::len));
    let items = counted(sglang);
    let mut counts = Counts::new(&items, decoded.usage.as_ref());
    let sum = whole.tally.add(completion);
    if ended {
        tiled?;
        if aborted && completion == 0 {
            counts.prompt = None;
        }
        counts.check_prompt(known, &paths).map_err(joined)?;
        if let Some(ids) = sum.filter(|_| sglang || whole.ended) {
            counts.check_completion(ids, &paths).map_err(joined)?;
        }
    }
    let told = match sglang {
        true => choice.said.told,
        false => whole.told.clone(),
    };
    let (engine, left_out) = tell(told, &paths);
    decoded.engine = engine;
    // (f)
    if let Some((rows, place)) = choice.mask {
        let source = check_mask(read(place, rows), &[], &paths, &mut decoded);
        decoded.sources.extend(source.map_err(joined)?);
    }
    if let Some((values, place)) = choice.sampling {
        let values = read(place, values);
        let source = check_sampling(values, &[], &options, &paths, &mut decoded);
        decoded.sources.extend(source.map_err(joined)?);
    }
    decoded.sources.extend(choice.notes);
    // (g)
    let came = choice.routed.at.is_some();
    let prompt = match known {
        Some(_) => None,
        None => counts.prompt.map(|count| count.tokens),
    };
    let sequence = (prompt, completion, aborted);
    let (rows, source) = placed(choice.routed, sequence, &options, &paths)?;
    decoded.routed_experts = rows;
    decoded
        .sources
        .extend(source.map(|source| ("routed_experts", source)));
    let excused = came || !ended || aborted && completion == 0;
    if options.require_routed_experts && !excused {
        return Err(Error::new(
            Class::Missing,
            "missing",
            paths.text(experts_channel(options.wire)),
            None,
            "the stream has no routed experts; ask the server for them, and see that it captures them",
        ));
    }
    let (rows, source) = placed(choice.indexer, sequence, &options, &paths)?;
    decoded.indexer_topk = rows;
    let sources = [
        source.map(|source| ("indexer_topk", source)),
        left_out.map(|left_out| ("engine", left_out)),
    ];
    decoded.sources.extend(sources.into_iter().flatten());
    Ok(decoded)
}

/// The rows, compared with the prompt as the server counts it where it is not known otherwise; and their source.
fn placed(
    captured: Captured,
    (prompt, tokens, aborted): (Option<i128>, usize, bool),
    options: &Options<'_>,
    paths: &Paths<'_>,
) -> Result<(Option<Routed>, Option<String>)> {
    let Captured { mut rows, at } = captured;
    let Some((place, left_out)) = at else {
        return Ok((None, None));
    };
    let path = paths.text(place);
    if let (Some(rows), Some(prompt)) = (&mut rows, prompt) {
        check_rows(rows, (prompt, tokens, aborted), options, &path)?;
    }
    Ok((rows, Some(left_out.unwrap_or(path))))
}

/// Compares the ids that texts of completions name with the tokens; the reason if the texts are left out.
fn compare_texts(names: &Buffer<i32>, ids: &Buffer<i32>, path: &str) -> Result<Option<String>> {
    let (names, ids) = (names.as_slice(), ids.as_slice());
    if names.len() != ids.len() {
        return Ok(Some(echo::miscounted(path, names.len(), ids.len())));
    }
    let mut pairs = names.iter().zip(ids);
    let wrong = pairs.position(|(name, id)| *name != UNNAMED && name != id);
    let Some(i) = wrong else { return Ok(None) };
    let message = format!(
        "the text names {}, the token id at its position is {}",
        names[i], ids[i]
    );
    let path = format!("{path}[{i}]");
    Err(Error::new(
        Class::Alignment,
        "identity",
        path,
        None,
        message,
    ))
}

/// Whether a choice that has not ended had tokens, and none of them was named.
fn unnamed(wire: Wire, chunks: usize, ids: &Buffer<i32>) -> bool {
    // The first chunk of vLLM's chat has the role only.
    ids.is_empty() && chunks > usize::from(wire == Wire::VllmChat)
}

fn first_channel(wire: Wire) -> Place {
    match wire {
        Wire::VllmGenerate | Wire::VllmChat | Wire::VllmCompletions => local("token_ids"),
        Wire::DynamoChat | Wire::DynamoCompletions => {
            top_level("nvext.engine_data.completion_token_ids")
        }
        Wire::SglangGenerate | Wire::SglangChat => local("output_ids"),
    }
}

fn experts_channel(wire: Wire) -> Place {
    match wire {
        Wire::VllmGenerate | Wire::VllmChat | Wire::VllmCompletions => local("routed_experts"),
        Wire::DynamoChat | Wire::DynamoCompletions => top_level("nvext.routed_experts"),
        Wire::SglangGenerate | Wire::SglangChat => local("meta_info.routed_experts"),
    }
}

/// The log-probabilities that were judged chunk by chunk.
fn columns(
    logprobs: Option<(Place, Buffer<f64>)>,
    top: Alternatives,
    rows_at: Option<Place>,
    tokens: usize,
    wire: Wire,
) -> Result<LogprobChannels> {
    let none = local(match wire {
        Wire::SglangGenerate => "meta_info.output_token_logprobs",
        _ => "logprobs.content",
    });
    let mut channels = LogprobChannels::none(none);
    let logprobs = logprobs.map(|(place, values)| read(place, values));
    channels.flat = logprobs.into_iter().collect();
    let place = rows_at.unwrap_or(local("logprobs.content[].top_logprobs"));
    let mut offsets = top.offsets;
    if offsets.is_empty() && rows_at.is_some() && top.rows != tokens {
        for _ in 0..=top.rows {
            offsets.push(0)?;
        }
    }
    if !offsets.is_empty() && !top.text_only {
        let rows = TopRows {
            ids: top.ids,
            logprobs: top.logprobs,
            offsets,
        };
        channels.top_rows = read(place, rows);
    }
    Ok(channels)
}

/// Dynamo's log-probabilities: the engine's, else the entries.
fn entries(entries: Entries, top: Alternatives, wire: Wire) -> Result<LogprobChannels> {
    let chat = wire == Wire::DynamoChat;
    let mut channels = LogprobChannels::none(local(match chat {
        true => "logprobs.content",
        false => "logprobs.token_logprobs",
    }));
    let first = entries.engine.is_none();
    let engine = entries.engine.map(|(values, place)| read(place, values));
    channels.flat.extend(engine);
    if let Some((rows, place)) = entries.candidates {
        channels.top_rows = read(place, rows);
    }
    let Some(place) = entries.place else {
        return Ok(channels);
    };
    let unreadable = match entries.unreadable {
        Some(error) if first => return Err(error),
        unreadable => unreadable,
    };
    if !chat {
        if first {
            channels.flat.push(read(place, entries.values));
        }
        return Ok(channels);
    }
    let content = Content {
        logprobs: entries.values,
        names: entries.names,
        top: Top {
            ids: top.ids,
            logprobs: top.logprobs,
            offsets: top.offsets,
            text_only: top.text_only,
        },
    };
    channels.content = read(place, content);
    if let Some(error) = unreadable {
        let value = Err(error);
        channels.content.field = Field::Read { at: 0, value };
    }
    Ok(channels)
}

/// Takes the weight versions, which tile the completion; leaves out those that do not.
fn take_versions(
    versions: Option<(Value, Place, bool)>,
    decoded: &mut Decoded,
    paths: &Paths<'_>,
) -> Result<()> {
    let Some((versions, place, spans)) = versions else {
        return Ok(());
    };
    if spans {
        check_tiling(&versions, decoded.token_ids.len())
            .map_err(|(i, error)| error.under(&format!("{}[{i}]", paths.text(place))))?;
    }
    decoded.weight_versions = Some(versions);
    Ok(())
}

/// Where the server's counts stand.
fn counted(sglang: bool) -> Vec<MetadataItem> {
    let span = Span { start: 0, end: 0 };
    let item = |role, place| MetadataItem { role, place, span };
    match sglang {
        true => vec![
            item(
                Role::Count("prompt_tokens"),
                local("meta_info.prompt_tokens"),
            ),
            item(
                Role::Count("completion_tokens"),
                local("meta_info.completion_tokens"),
            ),
        ],
        false => vec![item(Role::Usage, top_level("usage"))],
    }
}

/// Compares the rows with the prompt as the server counts it, which it may do after the rows have come.
fn check_rows(
    routed: &mut Routed,
    (prompt, tokens, aborted): (i128, usize, bool),
    options: &Options<'_>,
    path: &str,
) -> Result<()> {
    let last = i128::from(options.final_row == FinalRow::Omitted);
    let all = prompt + tokens as i128 - last;
    let Some(reach) = routed.reach else {
        routed.complete = all == i128::from(routed.start);
        return Ok(());
    };
    let reached = i128::from(reach);
    if reached < all && aborted {
        routed.complete = false;
    } else if reached != all {
        return Err(Error::new(
            Class::RoutedExperts,
            "rows",
            path,
            None,
            format!(
                "rows reach position {reached}, the prompt and {tokens} completion tokens need {all}"
            ),
        ));
    }
    Ok(())
}
