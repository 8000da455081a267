//! Compares the decoder with the reference. For every body both give the same values, or the same error.

pub mod artifacts;
mod case;
#[cfg(test)]
mod json;
mod mutate;
#[cfg(test)]
mod packed;
#[cfg(test)]
mod placing;
#[cfg(test)]
mod regressions;
#[cfg(test)]
mod several;
mod stream;
mod stream_case;
#[cfg(test)]
mod stream_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod values;
mod words;

pub use case::{HEADER, case};
pub use mutate::Mutator;
pub use stream::agree_on_stream;
pub use stream_case::{StreamCase, StreamMutator, stream_case};

use dynamo_tito::memory::{Buffer, Plain};
use dynamo_tito::{
    Attribute, Completion, Error, ExpertIds, ExpertsMode, Options, Result, StopReason, TopLogprobs,
    Value, decode, decode_artifact, decode_choices, decode_into,
};

use crate::reference;

/// Decodes a body with both decoders, one choice and every choice.
///
/// # Errors
/// The two results, where they differ.
pub fn agree(body: &[u8], options: &Options<'_>) -> std::result::Result<(), String> {
    let (one, every) = reference::decode_both(body, options);
    compare_one(body, options, one)?;
    compare_choices(body, options, every)
}

/// Decodes a body with one choice with both decoders. Routed experts are also decoded into an array of the caller.
///
/// # Errors
/// The two results, where they differ.
pub fn agree_on_one(body: &[u8], options: &Options<'_>) -> std::result::Result<(), String> {
    compare_one(body, options, reference::decode(body, options))
}

fn compare_one(
    body: &[u8],
    options: &Options<'_>,
    expected: Result<reference::Completion>,
) -> std::result::Result<(), String> {
    let experts = match expected
        .as_ref()
        .ok()
        .and_then(|it| it.get("routed_experts"))
    {
        Some(reference::Attribute::Experts(experts)) => Some(experts.clone()),
        _ => None,
    };
    let ours = decode(body, options).map(|completion| vec![completion]);
    same(ours, expected.map(|completion| vec![completion]))
        .and_then(|()| match experts {
            Some(experts) if options.experts == ExpertsMode::Int32 => {
                agree_on_array(body, options, &experts)
            }
            _ => Ok(()),
        })
        .map_err(|difference| format!("{:?}: {difference}", options.wire))
}

/// Decodes an artifact with both decoders.
///
/// # Errors
/// The two results, where they differ.
pub fn agree_on_artifact(data: &[u8], options: &Options<'_>) -> std::result::Result<(), String> {
    let ours = decode_artifact(data, options).map(|completion| vec![completion]);
    let twin = reference::decode_artifact(data, options).map(|completion| vec![completion]);
    same(ours, twin).map_err(|difference| format!("an artifact: {difference}"))
}

/// Decodes every choice of a body with both decoders.
///
/// # Errors
/// The two results, where they differ.
pub fn agree_on_choices(body: &[u8], options: &Options<'_>) -> std::result::Result<(), String> {
    compare_choices(body, options, reference::decode_choices(body, options))
}

fn compare_choices(
    body: &[u8],
    options: &Options<'_>,
    expected: Result<Vec<reference::Completion>>,
) -> std::result::Result<(), String> {
    same(decode_choices(body, options), expected)
        .map_err(|difference| format!("{:?}, every choice: {difference}", options.wire))
}

/// The array of the caller holds the experts and is otherwise untouched. An array that is one value shorter is refused.
/// Behind the rows of an aborted completion the array may hold -1, of the rows that are missing.
fn agree_on_array(
    body: &[u8],
    options: &Options<'_>,
    experts: &reference::RoutedExperts,
) -> std::result::Result<(), String> {
    const UNTOUCHED: i32 = i32::MIN + 7;
    let decode_into = |len: usize| {
        let mut array = vec![UNTOUCHED; len];
        let result = decode_into(body, options, &mut array);
        (result, array)
    };
    let values = &experts.values;
    // A text holds fewer values than letters.
    let missing = if experts.complete { 0 } else { body.len() };
    let (result, array) = decode_into(values.len() + missing + 1);
    let (written, rest) = array.split_at(values.len());
    let untouched = rest
        .iter()
        .all(|&item| item == UNTOUCHED || item == -1 && missing > 0);
    if result.is_err() || written != values || !untouched {
        return Err(format!(
            "the array {array:?} after {result:?}, expected {values:?}"
        ));
    }
    if let Some(short) = values.len().checked_sub(1) {
        match decode_into(short) {
            (Err(error), _) if error.kind == "experts_out" => {}
            (result, _) => return Err(format!("{result:?} with an array of {short} values")),
        }
    }
    Ok(())
}

fn same(
    ours: Result<Vec<Completion>>,
    expected: Result<Vec<reference::Completion>>,
) -> std::result::Result<(), String> {
    match (ours, expected) {
        (Err(ours), Err(expected)) => {
            let key = |e: &Error| (e.class, e.kind, e.path.clone(), e.offset);
            if key(&ours) == key(&expected) {
                return Ok(());
            }
            Err(format!("{ours:?} and the reference's {expected:?}"))
        }
        (Ok(ours), Err(expected)) => Err(format!(
            "{} completions and the reference's {expected:?}",
            ours.len()
        )),
        (Err(ours), Ok(expected)) => Err(format!(
            "{ours:?} and the reference's {} completions",
            expected.len()
        )),
        (Ok(ours), Ok(expected)) => {
            // NaN is written as itself here, so that it equals itself.
            let ours: Vec<_> = ours.into_iter().map(plain).collect();
            let (ours, expected) = (format!("{ours:?}"), format!("{expected:?}"));
            if ours == expected {
                return Ok(());
            }
            Err(format!("{ours}\nand the reference's\n{expected}"))
        }
    }
}

/// The decoder's result as the reference gives it.
pub(crate) fn plain(decoded: Completion) -> reference::Completion {
    let attributes = decoded.into_attributes().into_iter();
    let present = attributes.filter_map(|(name, value)| Some((name, attribute(value?)?)));
    present.collect()
}

fn attribute(value: Attribute) -> Option<reference::Attribute> {
    use reference::{Attribute as Plain, Value as Json};
    Some(match value {
        Attribute::Ids(ids) => Plain::Ids(ids.as_slice().to_vec()),
        Attribute::Logprobs(values) => Plain::Logprobs(values.iter().collect()),
        Attribute::Top(list) => Plain::Top(top(&list)),
        Attribute::Rows(rows) => Plain::Rows(reference::Mask {
            token_ids: rows.token_ids.as_slice().to_vec(),
            offsets: rows.offsets.as_slice().to_vec(),
        }),
        Attribute::PromptIds(prompt) => Plain::Ids(prompt.token_ids.as_ref()?.as_slice().to_vec()),
        Attribute::PromptLogprobs(prompt) => {
            let found = prompt.logprobs.as_ref()?;
            Plain::PromptLogprobs(reference::PromptLogprobs {
                logprobs: found.logprobs.iter().collect(),
                top: top(&found.top),
            })
        }
        Attribute::Experts(routed) => Plain::Experts(reference::RoutedExperts {
            values: values(&routed.values),
            shape: routed.shape.map(|size| size as u64),
            start: routed.start,
            dtype: routed.dtype.name(),
            complete: routed.complete,
        }),
        Attribute::Indexer(routed) => Plain::Indexer(reference::RoutedExperts {
            values: values(&routed.values),
            shape: routed.shape.map(|size| size as u64),
            start: routed.start,
            dtype: routed.dtype.name(),
            complete: routed.complete,
        }),
        Attribute::PromptMatrix(prompt) => {
            let found = prompt.token_id_logprobs.as_ref()?;
            Plain::Matrix(reference::Matrix {
                values: found.values.as_slice().to_vec(),
                shape: found.shape.map(|size| size as u64),
            })
        }
        Attribute::Text(text) | Attribute::Stop(StopReason::Text(text)) => {
            Plain::Json(Json::Text(text))
        }
        Attribute::Stop(StopReason::Token(token)) => Plain::Json(Json::Int(token)),
        Attribute::Flag(flag) => Plain::Json(Json::Bool(flag)),
        Attribute::Index(index) => Plain::Json(Json::Int(index.into())),
        Attribute::Json(json) => Plain::Json(self::value(&json)),
        Attribute::Sources(list) => {
            let sources = list.into_iter();
            let sources = sources.map(|(name, path)| (name.to_owned(), Json::Text(path)));
            Plain::Json(Json::Map(sources.collect()))
        }
    })
}

fn top(top: &TopLogprobs) -> reference::Top {
    reference::Top {
        token_ids: top.token_ids.as_slice().to_vec(),
        logprobs: top.logprobs.iter().collect(),
        offsets: top.offsets.as_slice().to_vec(),
    }
}

fn values(values: &ExpertIds) -> Vec<i32> {
    fn widened<T: Plain + Into<i32>>(buffer: &Buffer<T>) -> Vec<i32> {
        buffer
            .as_slice()
            .iter()
            .map(|&value| value.into())
            .collect()
    }
    match values {
        ExpertIds::U8(values) => widened(values),
        ExpertIds::U16(values) => widened(values),
        ExpertIds::I16(values) => widened(values),
        ExpertIds::I32(values) => widened(values),
        ExpertIds::Written => Vec::new(),
    }
}

fn value(json: &Value) -> reference::Value {
    match json {
        Value::Null => reference::Value::Null,
        Value::Bool(b) => reference::Value::Bool(*b),
        Value::Int(i) => reference::Value::Int(*i),
        Value::Uint(u) => reference::Value::Uint(*u),
        Value::Float(f) => reference::Value::Float(*f),
        Value::Text(text) => reference::Value::Text(text.clone()),
        Value::List(list) => reference::Value::List(list.iter().map(value).collect()),
        Value::Map(map) => reference::Value::Map(
            map.iter()
                .map(|(key, member)| (key.clone(), value(member)))
                .collect(),
        ),
    }
}

/// Options that differ in everything that a check compares a body with, for tests and fuzzing.
#[must_use]
pub fn every_option<'a>(base: Options<'a>, prompt: &'a [i32]) -> Vec<Options<'a>> {
    use dynamo_tito::{FinalRow, LogprobsDtype, MissingLogprob};
    let shaped = Options {
        num_layers: Some(4),
        top_k: Some(2),
        num_indexer_layers: Some(1),
        index_topk: Some(2),
        ..base
    };
    vec![
        base,
        shaped,
        Options {
            require_logprobs: false,
            ..shaped
        },
        Options {
            require_logprobs: false,
            missing_logprob: MissingLogprob::Nan,
            prompt_len: Some(5),
            ..shaped
        },
        Options {
            require_logprobs: false,
            missing_logprob: MissingLogprob::Nan,
            logprobs_dtype: LogprobsDtype::Float32,
            prompt_token_ids: Some(prompt),
            ..shaped
        },
        Options {
            require_logprobs: false,
            prompt_token_ids: Some(prompt),
            routed_experts_prompt_start: Some(3),
            ..shaped
        },
        Options {
            require_logprobs: false,
            prompt_len: Some(5),
            routed_experts_prompt_start: Some(3),
            experts: ExpertsMode::Native,
            ..base
        },
        Options {
            require_logprobs: false,
            routed_experts_prompt_start: Some(2),
            require_routed_experts: true,
            ..shaped
        },
        Options {
            require_logprobs: false,
            experts: ExpertsMode::Skip,
            require_routed_experts: true,
            ..base
        },
        Options {
            require_logprobs: false,
            prompt_len: Some(4),
            final_row: FinalRow::Present,
            ..shaped
        },
        Options {
            require_logprobs: false,
            prompt_token_ids: Some(prompt),
            experts: ExpertsMode::Skip,
            score_from: Some(0),
            ..base
        },
        Options {
            require_logprobs: false,
            missing_logprob: MissingLogprob::Nan,
            prompt_token_ids: Some(prompt),
            experts: ExpertsMode::Skip,
            score_from: Some(3),
            ..base
        },
    ]
}
