//! The spans of weight versions: they tile the completion.

use super::Value;
use super::json::Node;
use dynamo_tito::{Class, Error, Result};

/// Judges the list of a completion of `tokens` tokens.
pub(super) fn judge(spans: &Value, path: &str, node: Option<&Node>, tokens: usize) -> Result<()> {
    let Value::List(spans) = spans else {
        return Ok(());
    };
    let tokens = tokens as i128;
    let refuse = |class, kind, i: usize, message: &'static str| {
        let offset = node
            .and_then(Node::as_array)
            .and_then(|list| list.get(i))
            .map(|span| span.start);
        Err(Error::new(
            class,
            kind,
            format!("{path}[{i}]"),
            offset,
            message,
        ))
    };
    let mut next = 0;
    for (i, span) in spans.iter().enumerate() {
        let [Some(start), Some(end)] = ["start", "end"].map(|key| integer(member(span, key)))
        else {
            return refuse(
                Class::Malformed,
                "type",
                i,
                "expected integers as start and end",
            );
        };
        let Some(Value::Text(_)) = member(span, "version") else {
            return refuse(
                Class::Malformed,
                "type",
                i,
                "expected a string as the version",
            );
        };
        let tiles = start == next && start <= end && end <= tokens;
        if !tiles {
            return refuse(
                Class::Alignment,
                "weight_span",
                i,
                "not the tokens that follow",
            );
        }
        next = end;
    }
    if !spans.is_empty() && next != tokens {
        let last = spans.len() - 1;
        return refuse(
            Class::Alignment,
            "weight_span",
            last,
            "tokens without a version follow",
        );
    }
    Ok(())
}

fn member<'a>(span: &'a Value, key: &str) -> Option<&'a Value> {
    let Value::Map(members) = span else {
        return None;
    };
    let found = members.iter().find(|(name, _)| name == key)?;
    Some(&found.1)
}

fn integer(value: Option<&Value>) -> Option<i128> {
    match value? {
        Value::Int(value) => Some(i128::from(*value)),
        Value::Uint(value) => Some(i128::from(*value)),
        _ => None,
    }
}
