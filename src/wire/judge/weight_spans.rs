//! Spans of the completion with the version of the weights that sampled them. They tile the completion.

use crate::error::{Class, Error, Result};
use crate::json::Value;

/// Checks `[{"version": "a", "start": 0, "end": 3}, …]` of a completion of `tokens` tokens. An error has the index of its span and no path.
pub(crate) fn check_tiling(list: &Value, tokens: usize) -> std::result::Result<(), (usize, Error)> {
    let Value::List(list) = list else {
        return Ok(());
    };
    let mut covered = 0;
    for (i, span) in list.iter().enumerate() {
        let fail = |error| (i, error);
        let (start, end) = bounds(span).map_err(fail)?;
        if start != covered || end < start || end > tokens as i128 {
            return Err(fail(misplaced(start, end, covered, tokens)));
        }
        covered = end;
    }
    match list.len().checked_sub(1) {
        Some(last) if covered != tokens as i128 => Err((
            last,
            alignment(format!(
                "the spans of weight versions end at token {covered}, the completion has {tokens}"
            )),
        )),
        _ => Ok(()),
    }
}

/// The half-open bounds of one span, which names a version.
fn bounds(span: &Value) -> Result<(i128, i128)> {
    let member = |name: &str| match span {
        Value::Map(members) => members
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value),
        _ => None,
    };
    let integer = |name| match member(name) {
        Some(Value::Int(value)) => Some(i128::from(*value)),
        Some(Value::Uint(value)) => Some(i128::from(*value)),
        _ => None,
    };
    match (member("version"), integer("start"), integer("end")) {
        (Some(Value::Text(_)), Some(start), Some(end)) => Ok((start, end)),
        _ => Err(Error::new(
            Class::Malformed,
            "type",
            "",
            None,
            "a span of a weight version needs version (a string), start and end (integers)",
        )),
    }
}

#[cold]
fn misplaced(start: i128, end: i128, covered: i128, tokens: usize) -> Error {
    let why = if end < start {
        "it ends before it starts".to_owned()
    } else if end > tokens as i128 {
        format!("the completion has {tokens} tokens")
    } else if start < covered {
        format!("the span before it ends at {covered}, so that a token has two versions")
    } else {
        format!("the span before it ends at {covered}, so that a token has none")
    };
    alignment(format!(
        "a weight version of tokens {start} to {end}: {why}"
    ))
}

fn alignment(message: String) -> Error {
    Error::new(Class::Alignment, "weight_span", "", None, message)
}
