//! The delta of a choice: its new tokens.

use std::borrow::Cow;

use crate::wire::sentinel::{is_too_high, or_nan};

use super::choice::Choice;

/// The tokens that the chunks since the last delta have added to a choice.
#[derive(Debug)]
pub struct StreamDelta<'a> {
    /// The position among the choices.
    pub index: u32,
    /// The position of the first new token.
    pub start: usize,
    /// The new tokens.
    pub token_ids: &'a [i32],
    /// Their log-probabilities, if every token so far has one; as read, whatever `logprobs_dtype` is.
    pub logprobs: Option<Cow<'a, [f64]>>,
    /// Their alternatives, if every one so far has a name.
    pub top_logprobs: Option<StreamTop<'a>>,
    /// Why the choice ended, once it has.
    pub finish_reason: Option<&'a str>,
}

/// Alternatives of new tokens.
#[derive(Debug)]
pub struct StreamTop<'a> {
    /// Their ids.
    pub token_ids: &'a [i32],
    /// Their log-probabilities, as read.
    pub logprobs: &'a [f64],
    /// Where each position begins; the first is that of the first entry here.
    pub offsets: &'a [i64],
}

/// The delta since the last call; None without new tokens and without a new end.
pub(super) fn delta(choice: &mut Choice, dynamo: bool) -> Option<StreamDelta<'_>> {
    let (start, end) = (choice.told, choice.ids.len());
    let ends = choice.ended() && !choice.told_end;
    if start == end && !ends {
        return None;
    }
    choice.told = end;
    choice.told_end |= ends;
    let values = match dynamo {
        true => choice.entries.values.as_slice(),
        false => choice.logprobs.as_slice(),
    };
    let logprobs = (values.len() == end && end > 0).then(|| {
        let new = &values[start..];
        let doubt = |&value: &f64| is_too_high(value) || or_nan(value).is_nan();
        if dynamo && new.iter().any(doubt) {
            let settled = |&value| if doubt(&value) { f64::NAN } else { value };
            return Cow::Owned(new.iter().map(settled).collect());
        }
        Cow::Borrowed(new)
    });
    let top = &choice.top;
    let named = !top.text_only && !top.offsets.is_empty() && top.rows == end;
    let top_logprobs = named.then(|| {
        let offsets = &top.offsets.as_slice()[start..];
        let first = offsets[0] as usize;
        StreamTop {
            token_ids: &top.ids.as_slice()[first..],
            logprobs: &top.logprobs.as_slice()[first..],
            offsets,
        }
    });
    Some(StreamDelta {
        index: choice.index,
        start,
        token_ids: &choice.ids.as_slice()[start..],
        logprobs,
        top_logprobs,
        finish_reason: choice.finish.reason.as_deref().filter(|_| ends),
    })
}
