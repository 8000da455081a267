//! (e), at its end: how many tokens the server says that there were.

use super::Value;
use super::logprobs::alignment;
use super::structure::{Channel, Choice};
use super::wires::Role;
use dynamo_tito::Result;

/// A number with the path and the offset of its error.
#[derive(Debug, Clone)]
pub(super) struct Count {
    pub(super) tokens: i128,
    path: String,
    offset: usize,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Counts {
    pub(super) prompt: Option<Count>,
    pub(super) completion: Option<Count>,
}

/// The two counts out of what was read as usage.
pub(super) fn read(choice: &Choice<'_>, usage: Option<&Value>) -> Counts {
    let count = |name: &str| {
        let tokens = match member(usage?, name)? {
            Value::Int(tokens) => i128::from(*tokens),
            Value::Uint(tokens) => i128::from(*tokens),
            _ => return None,
        };
        let mut counts = choice.channels(Role::Count).iter();
        let count = counts.find(|channel| channel.key() == name);
        let (path, offset) = if let Some((path, node)) = count.and_then(Channel::found) {
            (path.to_owned(), node.start)
        } else {
            let (path, node) = choice.found(Role::Usage)?;
            (format!("{path}.{name}"), node.start)
        };
        Some(Count {
            tokens,
            path,
            offset,
        })
    };
    Counts {
        prompt: count("prompt_tokens"),
        completion: count("completion_tokens"),
    }
}

fn member<'v>(usage: &'v Value, name: &str) -> Option<&'v Value> {
    let Value::Map(members) = usage else {
        return None;
    };
    let found = members.iter().find(|(key, _)| key == name);
    found.map(|(_, value)| value)
}

/// The prompt has as many tokens as the server says.
pub(super) fn prompt_agrees(count: Option<&Count>, prompt_len: Option<u64>) -> Result<()> {
    let (Some(count), Some(prompt_len)) = (count, prompt_len) else {
        return Ok(());
    };
    if count.tokens == i128::from(prompt_len) {
        return Ok(());
    }
    let message = format!("{} prompt tokens, expected {prompt_len}", count.tokens);
    Err(alignment(
        "prompt_mismatch",
        count.path.clone(),
        count.offset,
        message,
    ))
}

/// There are as many ids as the server says.
pub(super) fn completion_agrees(count: Option<&Count>, ids: usize) -> Result<()> {
    match count {
        Some(count) if count.tokens != ids as i128 => {
            let message = format!("{} completion tokens, {ids} ids", count.tokens);
            Err(alignment(
                "count",
                count.path.clone(),
                count.offset,
                message,
            ))
        }
        _ => Ok(()),
    }
}
