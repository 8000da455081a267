//! The typed readers: each reads a field in document order and stops at the first thing it cannot take.

use std::collections::BTreeSet;

use super::json::{Kind, Member, Node};
use dynamo_tito::{Class, Error, Options, Result};

pub(super) fn wrong_type(path: &str, node: &Node, expected: &str) -> Error {
    let found = match node.kind {
        Kind::Null => "null",
        Kind::Bool(_) => "a boolean",
        Kind::Number(_) => "a number",
        Kind::String(_) => "a string",
        Kind::Array(_) => "an array",
        Kind::Object(_) => "an object",
    };
    let message = format!("expected {expected}, found {found}");
    Error::new(Class::Malformed, "type", path, node.start, message)
}

pub(super) fn duplicate_key(path: &str, offset: usize) -> Error {
    let message = "this key stands twice in one object";
    Error::new(Class::Malformed, "duplicate_key", path, offset, message)
}

fn range(path: &str, node: &Node, message: &'static str) -> Error {
    Error::new(Class::Malformed, "range", path, node.start, message)
}

/// An array's elements.
pub(super) fn array<'a>(node: &'a Node, path: &str) -> Result<&'a [Node]> {
    node.as_array()
        .ok_or_else(|| wrong_type(path, node, "an array"))
}

/// A token id: a JSON integer in [0, 2^31-1].
pub(super) fn id(node: &Node, path: &str) -> Result<i32> {
    let Some(text) = node.as_natural() else {
        return Err(wrong_type(path, node, "an integer without a sign"));
    };
    text.parse()
        .map_err(|_| range(path, node, "more than 2^31-1"))
}

/// A list of one element per token: in the order of the wire, and no more than the limit.
pub(super) fn per_token<T>(
    node: &Node,
    path: &str,
    options: &Options<'_>,
    read: impl Fn(&Node, &str) -> Result<T>,
) -> Result<Vec<T>> {
    let mut elements = Vec::new();
    for (i, element) in array(node, path)?.iter().enumerate() {
        if i == options.limits.max_tokens {
            let message = "more elements than tokens are allowed";
            return Err(Error::new(
                Class::Malformed,
                "too_many",
                path,
                node.start,
                message,
            ));
        }
        elements.push(read(element, &format!("{path}[{i}]"))?);
    }
    Ok(elements)
}

/// A list of token ids.
pub(super) fn ids(node: &Node, path: &str, options: &Options<'_>) -> Result<Vec<i32>> {
    per_token(node, path, options, id)
}

/// The ids of one row of a sampling mask.
pub(super) fn row_of_ids(node: &Node, path: &str) -> Result<Vec<i32>> {
    let elements = array(node, path)?.iter().enumerate();
    elements
        .map(|(i, element)| id(element, &format!("{path}[{i}]")))
        .collect()
}

/// A finite number.
pub(super) fn number(node: &Node, path: &str) -> Result<f64> {
    let Kind::Number(text) = &node.kind else {
        return Err(wrong_type(path, node, "a number"));
    };
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() => Ok(value),
        _ => Err(range(path, node, "too large for a 64-bit float")),
    }
}

/// A number, or null for no log-probability.
fn number_or_null(node: &Node, path: &str) -> Result<Option<f64>> {
    match node.is_null() {
        true => Ok(None),
        false => number(node, path).map(Some),
    }
}

/// The id that a canonical decimal stands for.
pub(super) fn canonical(text: &str) -> Option<i32> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let leading_zero = text.len() > 1 && text.starts_with('0');
    if !digits || leading_zero {
        return None;
    }
    text.parse().ok()
}

/// The id that a token's text names: `token_id:N`.
pub(super) fn named(text: &str) -> Option<i32> {
    canonical(text.strip_prefix("token_id:")?)
}

/// A log-probability and where it stands; None where the wire says null.
#[derive(Debug, Clone, Copy)]
pub(super) struct Logprob {
    pub(super) value: Option<f64>,
    pub(super) offset: usize,
}

/// A flat list of numbers.
pub(super) fn flat(node: &Node, path: &str, options: &Options<'_>) -> Result<Vec<Logprob>> {
    per_token(node, path, options, |element, path| {
        Ok(Logprob {
            value: Some(number(element, path)?),
            offset: element.start,
        })
    })
}

/// An entry of `content`, or of its `top_logprobs`.
pub(super) struct Entry {
    pub(super) start: usize,
    /// What `token` names, and where that stands.
    pub(super) token: Option<(i32, usize)>,
    /// The integer `token_id`, and where that stands.
    pub(super) token_id: Option<(i32, usize)>,
    pub(super) logprob: Logprob,
    pub(super) top: Vec<Entry>,
}

/// `logprobs.content`.
pub(super) fn content(node: &Node, path: &str, options: &Options<'_>) -> Result<Vec<Entry>> {
    per_token(node, path, options, |element, path| {
        entry(element, path, Level::Chosen)
    })
}

#[derive(Clone, Copy, PartialEq)]
enum Level {
    /// The sampled token: it has a log-probability, and alternatives.
    Chosen,
    /// An alternative: its log-probability may be null.
    Top,
}

fn alternatives(node: &Node, path: &str) -> Result<Vec<Entry>> {
    let elements = array(node, path)?.iter().enumerate();
    elements
        .map(|(i, element)| entry(element, &format!("{path}[{i}]"), Level::Top))
        .collect()
}

fn entry(node: &Node, path: &str, level: Level) -> Result<Entry> {
    let mut keys = Keys::default();
    let (mut token, mut token_id, mut logprob, mut top) = (None, None, None, Vec::new());
    for member in members(node, path)? {
        let name = member.key.value.as_str();
        let value = &member.value;
        let path = format!("{path}.{name}");
        match name {
            "token" => {
                keys.first_time(member, &path)?;
                if !value.is_null() {
                    let Some(text) = value.as_text() else {
                        return Err(wrong_type(&path, value, "a string"));
                    };
                    token = named(&text.value).map(|id| (id, value.start));
                }
            }
            "token_id" => {
                keys.first_time(member, &path)?;
                if !value.is_null() {
                    token_id = Some((id(value, &path)?, value.start));
                }
            }
            "logprob" => {
                keys.first_time(member, &path)?;
                logprob = Some(Logprob {
                    value: match level {
                        Level::Chosen => Some(number(value, &path)?),
                        Level::Top => number_or_null(value, &path)?,
                    },
                    offset: value.start,
                });
            }
            "top_logprobs" if level == Level::Chosen => {
                keys.first_time(member, &path)?;
                if !value.is_null() {
                    top = alternatives(value, &path)?;
                }
            }
            _ => {}
        }
    }
    Ok(Entry {
        start: node.start,
        token,
        token_id,
        logprob: logprob.ok_or_else(|| no_logprob_key(node, path))?,
        top,
    })
}

fn no_logprob_key(node: &Node, path: &str) -> Error {
    let path = format!("{path}.logprob");
    let message = "the entry has no logprob";
    Error::new(Class::Missing, "missing", path, node.start, message)
}

fn members<'a>(node: &'a Node, path: &str) -> Result<&'a [Member]> {
    node.as_object()
        .ok_or_else(|| wrong_type(path, node, "an object"))
}

/// The keys of one object that have been read.
#[derive(Default)]
pub(super) struct Keys(BTreeSet<String>);

impl Keys {
    pub(super) fn first_time(&mut self, member: &Member, path: &str) -> Result<()> {
        match self.0.insert(member.key.value.clone()) {
            true => Ok(()),
            false => Err(duplicate_key(path, member.offset)),
        }
    }
}

/// SGLang's `[logprob, id, text]`.
pub(super) struct Triple {
    pub(super) logprob: Logprob,
    pub(super) id: i32,
    pub(super) id_offset: usize,
}

/// A list of triples.
pub(super) fn triples(node: &Node, path: &str, options: &Options<'_>) -> Result<Vec<Triple>> {
    per_token(node, path, options, triple)
}

/// The triples of one position.
fn row_of_triples(node: &Node, path: &str) -> Result<Vec<Triple>> {
    let elements = array(node, path)?.iter().enumerate();
    elements
        .map(|(i, element)| triple(element, &format!("{path}[{i}]")))
        .collect()
}

fn triple(node: &Node, path: &str) -> Result<Triple> {
    let elements = array(node, path)?;
    let too_short = || wrong_type(path, node, "a log-probability and an id");
    let first = elements.first().ok_or_else(too_short)?;
    let logprob = Logprob {
        value: number_or_null(first, &format!("{path}[0]"))?,
        offset: first.start,
    };
    let second = elements.get(1).ok_or_else(too_short)?;
    Ok(Triple {
        logprob,
        id: id(second, &format!("{path}[1]"))?,
        id_offset: second.start,
    })
}

/// SGLang's alternatives of each position; null is an empty row.
pub(super) fn rows_of_triples(
    node: &Node,
    path: &str,
    options: &Options<'_>,
) -> Result<Vec<Vec<Triple>>> {
    per_token(node, path, options, |row, path| match row.is_null() {
        true => Ok(Vec::new()),
        false => row_of_triples(row, path),
    })
}

/// One position of the prompt: an entry for each id, in the order of the wire.
pub(super) struct Position {
    pub(super) start: usize,
    /// None where the wire says null.
    pub(super) entries: Option<Vec<(i32, Logprob)>>,
}

/// The map form of prompt logprobs.
pub(super) fn maps(node: &Node, path: &str, options: &Options<'_>) -> Result<Vec<Position>> {
    per_token(node, path, options, |element, path| {
        Ok(Position {
            start: element.start,
            entries: match element.is_null() {
                true => None,
                false => Some(map(element, path)?),
            },
        })
    })
}

fn map(node: &Node, path: &str) -> Result<Vec<(i32, Logprob)>> {
    let mut keys = Keys::default();
    let mut entries = Vec::new();
    for member in members(node, path)? {
        let Some(id) = canonical(&member.key.value) else {
            let message = "expected a token id as the key";
            return Err(Error::new(
                Class::Malformed,
                "type",
                path,
                member.offset,
                message,
            ));
        };
        let path = format!("{path}.{id}");
        keys.first_time(member, &path)?;
        entries.push((id, map_value(&member.value, &path)?));
    }
    Ok(entries)
}

fn map_value(node: &Node, path: &str) -> Result<Logprob> {
    let mut keys = Keys::default();
    let mut logprob = None;
    for member in members(node, path)? {
        if member.key.value == "logprob" {
            let path = format!("{path}.logprob");
            keys.first_time(member, &path)?;
            logprob = Some(Logprob {
                value: number_or_null(&member.value, &path)?,
                offset: member.value.start,
            });
        }
    }
    logprob.ok_or_else(|| no_logprob_key(node, path))
}
