//! (d): the prompt's ids as the server echoes them, and its log-probabilities.

use std::cmp::Ordering;

use super::json::Node;
use super::logprobs::{self, Sourced};
use super::readers::{self, Position};
use super::structure::{Channel, Choice};
use super::wires::Role;
use super::{PromptLogprobs, Top, flat_top};
use dynamo_tito::{Class, Error, MissingLogprob, Options, Result};

/// The echo, which must be the prompt that the caller passed.
pub(super) fn echo(choice: &Choice<'_>, options: &Options<'_>) -> Result<Sourced<Vec<i32>>> {
    let Some((path, node)) = choice.found(Role::PromptTokenIds) else {
        return Ok(None);
    };
    let echo = readers::ids(node, path, options)?;
    let mismatch = |path: String, message: String| {
        Err(logprobs::alignment(
            "prompt_mismatch",
            path,
            node.start,
            message,
        ))
    };
    if let Some(passed) = options.prompt_token_ids {
        if passed.len() != echo.len() {
            let message = format!(
                "the prompt that was passed has {} tokens, the echo {}",
                passed.len(),
                echo.len()
            );
            return mismatch(path.to_owned(), message);
        }
        if let Some(i) = (0..echo.len()).find(|&i| passed[i] != echo[i]) {
            let message = format!("token {} was passed, the echo says {}", passed[i], echo[i]);
            return mismatch(format!("{path}[{i}]"), message);
        }
    }
    if let Some(len) = options.prompt_len
        && len != echo.len() as u64
    {
        let message = format!("prompt_len is {len}, the echo has {} tokens", echo.len());
        return mismatch(path.to_owned(), message);
    }
    Ok(Some((echo, path.to_owned())))
}

/// Prompt logprobs: read, or left out because the ids are not known.
pub(super) enum Outcome {
    Absent,
    LeftOut,
    Read(PromptLogprobs, String),
}

/// The log-probabilities of the prompt `ids`.
pub(super) fn logprobs(
    choice: &Choice<'_>,
    ids: Option<&[i32]>,
    options: &Options<'_>,
) -> Result<Outcome> {
    let sglang = options.wire.is_sglang();
    let found = choice
        .found(Role::PromptLogprobs)
        .filter(|(_, node)| !(sglang && node.as_array().is_some_and(<[Node]>::is_empty)));
    let Some((path, node)) = found else {
        return match (
            options.score_from,
            choice.channels(Role::PromptLogprobs).last(),
        ) {
            (Some(_), Some(last)) => Err(Error::new(
                Class::Missing,
                "missing",
                last.path.clone(),
                None,
                "scoring needs prompt logprobs",
            )),
            _ => Ok(Outcome::Absent),
        };
    };
    let Some(ids) = ids else {
        return Ok(Outcome::LeftOut);
    };
    let read = match sglang {
        true => from_triples(node, path, choice, ids, options)?,
        false => from_maps(node, path, ids, options)?,
    };
    Ok(Outcome::Read(read, path.to_owned()))
}

/// The first position whose log-probability is asked for.
fn start(ids: &[i32], options: &Options<'_>) -> usize {
    match options.score_from {
        Some(from) if from < ids.len() as u64 => from as usize,
        Some(_) => ids.len(),
        None => 0,
    }
}

/// The engine cannot score the first token, so nothing is wrong if it has no value there.
fn policy(position: usize, options: &Options<'_>) -> MissingLogprob {
    match position {
        0 => MissingLogprob::Nan,
        _ => options.missing_logprob,
    }
}

fn from_maps(
    node: &Node,
    path: &str,
    ids: &[i32],
    options: &Options<'_>,
) -> Result<PromptLogprobs> {
    let positions = readers::maps(node, path, options)?;
    logprobs::same_count(positions.len(), ids, path, node)?;
    let mut values = Vec::new();
    let mut top = Top::start();
    let start = start(ids, options);
    for (i, (position, id)) in positions.iter().zip(ids).enumerate() {
        if i < start {
            // Whose log-probability it is still has to be right.
            own(position, *id, &format!("{path}[{i}]"))?;
            values.push(f64::NAN);
            top.end_position();
            continue;
        }
        values.push(actual(
            position,
            *id,
            &format!("{path}[{i}]"),
            policy(i, options),
        )?);
        for (id, logprob) in position.entries.iter().flatten() {
            logprobs::possible(*logprob, &format!("{path}[{i}].{id}.logprob"))?;
        }
        let entries = position.entries.iter().flatten();
        let mut entries: Vec<(i32, f64)> = entries
            .map(|(id, logprob)| (*id, logprobs::or_nan(*logprob)))
            .collect();
        entries.sort_by(highest_first);
        for (id, value) in entries {
            top.push(id, value);
        }
        top.end_position();
    }
    Ok(PromptLogprobs {
        logprobs: values,
        top,
    })
}

/// The log-probability of the token that is in the prompt.
fn actual(position: &Position, id: i32, path: &str, missing: MissingLogprob) -> Result<f64> {
    match own(position, id, path)? {
        Some(logprob) => logprobs::given(logprob, &format!("{path}.{id}.logprob"), missing),
        None => {
            let null = readers::Logprob {
                value: None,
                offset: position.start,
            };
            logprobs::given(null, path, missing)
        }
    }
}

/// What stands under the token that is in the prompt; None where the whole position is null.
fn own(position: &Position, id: i32, path: &str) -> Result<Option<readers::Logprob>> {
    let Some(entries) = &position.entries else {
        return Ok(None);
    };
    let Some((_, logprob)) = entries.iter().find(|(entry, _)| *entry == id) else {
        return Err(Error::new(
            Class::Alignment,
            "identity",
            path,
            position.start,
            format!("there is no entry for the prompt's token {id}"),
        ));
    };
    Ok(Some(*logprob))
}

/// By log-probability, then by id; NaN last.
fn highest_first(a: &(i32, f64), b: &(i32, f64)) -> Ordering {
    let by_value = match (a.1.is_nan(), b.1.is_nan()) {
        (false, false) => b.1.partial_cmp(&a.1).unwrap_or(Ordering::Equal),
        (a_is_nan, b_is_nan) => a_is_nan.cmp(&b_is_nan),
    };
    by_value.then(a.0.cmp(&b.0))
}

fn from_triples(
    node: &Node,
    path: &str,
    choice: &Choice<'_>,
    ids: &[i32],
    options: &Options<'_>,
) -> Result<PromptLogprobs> {
    let triples = readers::triples(node, path, options)?;
    let start = start(ids, options);
    // Asked for a suffix, the server also lists the position before it, without a value.
    let suffix = ids.len() + 1 - start.max(1);
    let first = match !ids.is_empty() && triples.len() == suffix {
        true => ids.len() - suffix,
        false => {
            logprobs::same_count(triples.len(), ids, path, node)?;
            0
        }
    };
    let beside = choice.channels(Role::PromptTopTriples).first();
    let mut rows = Vec::new();
    let rows_path = beside
        .map(|channel| channel.path.as_str())
        .unwrap_or_default();
    if let Some((path, node)) = beside.and_then(Channel::found) {
        rows = readers::rows_of_triples(node, path, options)?;
        if !rows.is_empty() && rows.len() != triples.len() {
            let message = format!("{} rows for {} triples", rows.len(), triples.len());
            return Err(logprobs::alignment(
                "count",
                path.to_owned(),
                node.start,
                message,
            ));
        }
    } else if let Some(flat) = flat_top::read(choice.channels(Role::PromptTopFlat), options)?
        && !flat.is_empty()
    {
        rows = flat.rows(triples.len())?;
    }
    let mut values = vec![f64::NAN; first];
    let mut top = Top::start();
    for _ in 0..first {
        top.end_position();
    }
    for (entry, triple) in triples.iter().enumerate() {
        let i = first + entry;
        let place = format!("{path}[{entry}]");
        logprobs::same_id(triple.id, ids[i], format!("{place}[1]"), triple.id_offset)?;
        if i < start {
            values.push(f64::NAN);
            top.end_position();
            continue;
        }
        values.push(logprobs::given(
            triple.logprob,
            &format!("{place}[0]"),
            policy(i, options),
        )?);
        let own = std::iter::once(triple).filter(|triple| triple.logprob.value.is_some());
        let others = rows.get(entry).into_iter().flatten();
        for (j, other) in others.clone().enumerate() {
            if other.id != triple.id {
                logprobs::possible(other.logprob, &format!("{rows_path}[{entry}][{j}][0]"))?;
            }
        }
        let mut entries: Vec<(i32, f64)> = own
            .chain(others.filter(|other| other.id != triple.id))
            .map(|triple| (triple.id, logprobs::or_nan(triple.logprob)))
            .collect();
        entries.sort_by(highest_first);
        for (id, value) in entries {
            top.push(id, value);
        }
        top.end_position();
    }
    Ok(PromptLogprobs {
        logprobs: values,
        top,
    })
}
