//! (b) and (c): the log-probabilities of the sampled tokens and of their alternatives.

use super::json::Node;
use super::readers::{self, Entry, Logprob};
use super::structure::Choice;
use super::wires::Role;
use super::{Top, flat_top, packed};
use dynamo_tito::limits::MAX_LOGPROB;
use dynamo_tito::{Class, Error, MissingLogprob, Options, Result, Wire};

/// What engines write for "no logprob": vLLM, Dynamo, Dynamo after a conversion to 32 bits.
const SENTINELS: [f64; 3] = [-9999.0, -1e30, -1.000_000_015_047_466_2e30];

/// A value with the path of its channel.
pub(super) type Sourced<T> = Option<(T, String)>;

/// (b) and (c) of one completion.
pub(super) struct Logprobs {
    pub(super) chosen: Sourced<Vec<f64>>,
    pub(super) top: Sourced<Top>,
    /// Why the echo was left out: a list beside the chosen channel that names the tokens.
    pub(super) echo_left_out: Option<String>,
}

/// Reads both.
pub(super) fn read(choice: &Choice<'_>, ids: &[i32], options: &Options<'_>) -> Result<Logprobs> {
    let content = choice.found(Role::Content);
    let triples = choice.found(Role::Triples);
    // Entries of content, once they are known to be right; they hold the alternatives.
    let mut entries = None;
    let mut echo_left_out = None;

    let mut compact = None;
    let chosen = if let Some((path, node)) = choice.found(Role::Compact) {
        let (values, rows) = packed::compact(node, path, ids, options)?;
        compact = Some((rows, path, node));
        Some((values, path.to_owned()))
    } else if let Some((path, node)) = choice.found(Role::FlatLogprobs) {
        let values = flat(node, path, ids, options)?;
        if let Some((path, node)) = content {
            match held_to_identity(node, path, ids, options)? {
                Ok(read) => entries = Some((read, path)),
                Err(why) => echo_left_out = Some(why),
            }
        }
        Some((values, path.to_owned()))
    } else if let Some((path, node)) = content {
        let (values, read) = from_content(node, path, ids, options)?;
        entries = Some((read, path));
        Some((values, path.to_owned()))
    } else if let Some((path, node)) = triples {
        Some((from_triples(node, path, ids, options)?, path.to_owned()))
    } else {
        None
    };

    if let Some((path, node)) = choice.found(Role::Tokens)
        && let Err(why) = texts_held_to_identity(node, path, ids)?
    {
        echo_left_out = Some(why);
    }

    if chosen.is_none() && !ids.is_empty() && options.require_logprobs {
        let message = "the response holds no log-probabilities";
        let path = last_candidate(choice);
        return Err(Error::new(Class::Missing, "missing", path, None, message));
    }

    let top_triples = choice.found(Role::TopTriples);
    let top = if let Some((rows, path, node)) = compact {
        packed::top_of_compact(&rows, path, node)?.map(|top| (top, path.to_owned()))
    } else if let Some((path, node)) = top_triples {
        top_of_triples(node, path, ids, options)?
    } else if let Some(flat) = flat_top::read(choice.channels(Role::TopFlat), options)? {
        top_of_flat(flat, ids)?
    } else if let Some((entries, path)) = entries {
        top_of_content(&entries, path, ids)?
    } else {
        None
    };
    Ok(Logprobs {
        chosen,
        top,
        echo_left_out,
    })
}

pub(super) fn last_candidate(choice: &Choice<'_>) -> String {
    let roles = [Role::Content, Role::Triples, Role::FlatLogprobs];
    let channel = roles.map(|role| choice.channels(role).last());
    let channel = channel.into_iter().flatten().next();
    channel.map(|c| c.path.clone()).unwrap_or_default()
}

pub(super) fn flat(
    node: &Node,
    path: &str,
    ids: &[i32],
    options: &Options<'_>,
) -> Result<Vec<f64>> {
    let values = match options.wire.packs() {
        true => packed::logprobs(node, path, options)?,
        false => readers::flat(node, path, options)?,
    };
    same_count(values.len(), ids, path, node)?;
    let values = values.iter().enumerate();
    values
        .map(|(i, value)| given(*value, &format!("{path}[{i}]"), options.missing_logprob))
        .collect()
}

pub(super) fn from_content(
    node: &Node,
    path: &str,
    ids: &[i32],
    options: &Options<'_>,
) -> Result<(Vec<f64>, Vec<Entry>)> {
    let entries = readers::content(node, path, options)?;
    same_count(entries.len(), ids, path, node)?;
    let values = from_entries(&entries, path, ids, options)?;
    Ok((values, entries))
}

/// The values of entries of which there is one for each id.
pub(super) fn from_entries(
    entries: &[Entry],
    path: &str,
    ids: &[i32],
    options: &Options<'_>,
) -> Result<Vec<f64>> {
    let mut values = Vec::new();
    for (i, (entry, id)) in entries.iter().zip(ids).enumerate() {
        let path = format!("{path}[{i}]");
        identity(entry, *id, &path)?;
        let names_none = entry.token.is_none() && entry.token_id.is_none();
        if names_none && options.wire == Wire::VllmGenerate {
            let message =
                format!("the entry names no token, expected {id}; ask for tokens, not text");
            return Err(alignment("identity", path, entry.start, message));
        }
        let path = format!("{path}.logprob");
        values.push(given(entry.logprob, &path, options.missing_logprob)?);
    }
    Ok(values)
}

pub(super) fn from_triples(
    node: &Node,
    path: &str,
    ids: &[i32],
    options: &Options<'_>,
) -> Result<Vec<f64>> {
    let triples = readers::triples(node, path, options)?;
    same_count(triples.len(), ids, path, node)?;
    let mut values = Vec::new();
    for (i, (triple, id)) in triples.iter().zip(ids).enumerate() {
        same_id(triple.id, *id, format!("{path}[{i}][1]"), triple.id_offset)?;
        let path = format!("{path}[{i}][0]");
        values.push(given(triple.logprob, &path, options.missing_logprob)?);
    }
    Ok(values)
}

/// Content beside a flat list that was chosen. With an entry for every token, the entries name the same tokens. Otherwise
/// the reason why it is left out.
fn held_to_identity(
    node: &Node,
    path: &str,
    ids: &[i32],
    options: &Options<'_>,
) -> Result<std::result::Result<Vec<Entry>, String>> {
    let Ok(entries) = readers::content(node, path, options) else {
        return Ok(Err(unreadable(path)));
    };
    if entries.len() != ids.len() {
        return Ok(Err(of_another_length(path, entries.len(), ids)));
    }
    for (i, (entry, id)) in entries.iter().zip(ids).enumerate() {
        identity(entry, *id, &format!("{path}[{i}]"))?;
    }
    Ok(Ok(entries))
}

/// The texts of completions. With one for every token, those that name a token name the same one.
fn texts_held_to_identity(
    node: &Node,
    path: &str,
    ids: &[i32],
) -> Result<std::result::Result<(), String>> {
    let Some(texts) = node.as_array() else {
        return Ok(Err(unreadable(path)));
    };
    if texts.len() != ids.len() {
        return Ok(Err(of_another_length(path, texts.len(), ids)));
    }
    for (i, (element, id)) in texts.iter().zip(ids).enumerate() {
        let text = element.as_text();
        if let Some(named) = text.and_then(|text| readers::named(&text.value)) {
            same_id(named, *id, format!("{path}[{i}]"), element.start)?;
        }
    }
    Ok(Ok(()))
}

pub(super) fn unreadable(path: &str) -> String {
    format!("left out: {path} cannot be read")
}

pub(super) fn of_another_length(path: &str, entries: usize, ids: &[i32]) -> String {
    let tokens = ids.len();
    format!("left out: {path} has {entries} entries for {tokens} token ids")
}

/// An entry names the token at its position.
pub(super) fn identity(entry: &Entry, id: i32, path: &str) -> Result<()> {
    if let Some((named, offset)) = entry.token {
        same_id(named, id, format!("{path}.token"), offset)?;
    }
    if let Some((named, offset)) = entry.token_id {
        same_id(named, id, format!("{path}.token_id"), offset)?;
    }
    Ok(())
}

pub(super) fn same_id(named: i32, id: i32, path: String, offset: usize) -> Result<()> {
    if named == id {
        return Ok(());
    }
    let message = format!("the entry names token {named}, the token here is {id}");
    Err(alignment("identity", path, offset, message))
}

/// As many entries as there are tokens.
pub(super) fn same_count(entries: usize, ids: &[i32], path: &str, node: &Node) -> Result<()> {
    if entries == ids.len() {
        return Ok(());
    }
    let message = format!("{entries} entries for {} tokens", ids.len());
    Err(alignment("count", path.to_owned(), node.start, message))
}

pub(super) fn alignment(kind: &'static str, path: String, offset: usize, message: String) -> Error {
    Error::new(Class::Alignment, kind, path, offset, message)
}

/// A value that a log-probability can have.
pub(super) fn possible(logprob: Logprob, path: &str) -> Result<()> {
    match logprob.value {
        Some(value) if value > MAX_LOGPROB => {
            let message = format!("{value} is not the logarithm of a probability");
            let kind = "positive_logprob";
            Err(Error::new(
                Class::Missing,
                kind,
                path,
                logprob.offset,
                message,
            ))
        }
        _ => Ok(()),
    }
}

/// A log-probability; NaN or an error where the engine has none, as the caller asks.
pub(super) fn given(logprob: Logprob, path: &str, missing: MissingLogprob) -> Result<f64> {
    possible(logprob, path)?;
    let value = or_nan(logprob);
    if value.is_nan() && missing == MissingLogprob::Raise {
        let message = "the engine has no log-probability for this token";
        return Err(Error::new(
            Class::Missing,
            "no_logprob",
            path,
            logprob.offset,
            message,
        ));
    }
    Ok(value)
}

/// NaN for null and for a sentinel.
pub(super) fn or_nan(logprob: Logprob) -> f64 {
    match logprob.value {
        Some(value) if !SENTINELS.contains(&value) => value,
        _ => f64::NAN,
    }
}

/// (c) from content, if every alternative names its token and there is an entry for every position.
pub(super) fn top_of_content(entries: &[Entry], path: &str, ids: &[i32]) -> Result<Sourced<Top>> {
    let mut top = Top::start();
    let mut all_named = true;
    for (i, entry) in entries.iter().enumerate() {
        for (j, alternative) in entry.top.iter().enumerate() {
            if let (Some((token, _)), Some((token_id, offset))) =
                (alternative.token, alternative.token_id)
            {
                let path = format!("{path}[{i}].top_logprobs[{j}].token_id");
                same_id(token_id, token, path, offset)?;
            }
            match alternative.token.or(alternative.token_id) {
                Some((id, _)) => top.push(id, or_nan(alternative.logprob)),
                None => all_named = false,
            }
        }
        top.end_position();
    }
    let source = format!("{path}[].top_logprobs");
    let usable = all_named && entries.len() == ids.len() && !top.token_ids.is_empty();
    if !usable {
        return Ok(None);
    }
    for (i, entry) in entries.iter().enumerate() {
        for (j, alternative) in entry.top.iter().enumerate() {
            let path = format!("{path}[{i}].top_logprobs[{j}].logprob");
            possible(alternative.logprob, &path)?;
        }
    }
    Ok(Some((top, source)))
}

/// (c) from SGLang's flat form.
pub(super) fn top_of_flat(flat: flat_top::Flat<'_, '_>, ids: &[i32]) -> Result<Sourced<Top>> {
    let path = flat.path.to_owned();
    let mut top = Top::start();
    for row in flat.rows(ids.len())? {
        for entry in row {
            top.push(entry.id, or_nan(entry.logprob));
        }
        top.end_position();
    }
    Ok((!top.token_ids.is_empty()).then_some((top, path)))
}

/// (c) from SGLang's rows.
pub(super) fn top_of_triples(
    node: &Node,
    path: &str,
    ids: &[i32],
    options: &Options<'_>,
) -> Result<Sourced<Top>> {
    let rows = readers::rows_of_triples(node, path, options)?;
    same_count(rows.len(), ids, path, node)?;
    let mut top = Top::start();
    for (i, row) in rows.iter().enumerate() {
        for (j, triple) in row.iter().enumerate() {
            possible(triple.logprob, &format!("{path}[{i}][{j}][0]"))?;
            top.push(triple.id, or_nan(triple.logprob));
        }
        top.end_position();
    }
    Ok((!top.token_ids.is_empty()).then_some((top, path.to_owned())))
}
