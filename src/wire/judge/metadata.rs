//! Step (e), first part: small values, parsed together by simd-json.

use crate::error::{Class, Error, Result};
use crate::json::{Cursor, SmallValues, Value, values_and_keys, values_and_keys_at_most};
use crate::limits::{MAX_METADATA, MAX_METADATA_VALUES};

use super::finish::join_reasons;
use super::locate::{Step, locate};
use super::weight_spans;
use crate::wire::answer::Paths;
use crate::wire::answer::{MetadataItem, Role};
use crate::wire::decoded::{Decoded, StopReason};

/// Parses the small values into `decoded`. The first error in the order of `items` is reported.
pub(crate) fn parse_metadata(
    items: &[MetadataItem],
    body: &[u8],
    tells_abort: bool,
    paths: &Paths<'_>,
    decoded: &mut Decoded,
) -> Result<()> {
    let mut texts = Vec::with_capacity(items.len());
    let (mut size, mut at_most) = (0, 0);
    let mut problem = None;
    for item in items {
        let text = &body[item.span.start..item.span.end];
        size += text.len();
        let (kind, message) = if !item.role.takes(text) {
            (
                "type",
                format!(
                    "found {} where {} was expected",
                    shown(text),
                    item.role.expects()
                ),
            )
        } else if size > MAX_METADATA {
            (
                "too_large",
                format!("more than {MAX_METADATA} bytes of metadata"),
            )
        } else {
            texts.push(text);
            at_most += values_and_keys_at_most(text);
            if at_most <= MAX_METADATA_VALUES || few(&texts) {
                continue;
            }
            texts.pop();
            (
                "too_many",
                format!("more than {MAX_METADATA_VALUES} values and keys of metadata"),
            )
        };
        problem = Some(error(kind, item, paths, message));
        break;
    }
    let values = SmallValues::parse(&texts).map_err(|i| {
        error(
            "metadata",
            &items[i],
            paths,
            "a number or a string in it cannot be represented".into(),
        )
    });
    // An unrepresentable value that comes before the first other problem is reported instead of it.
    let values = match (values, problem) {
        (Err(error), _) | (Ok(_), Some(error)) => return Err(error),
        (Ok(values), None) => values,
    };
    let (mut plain, mut detailed, mut stop_reason) = (None, None, None);
    let mut counts = Vec::new();
    for (item, value) in items.iter().zip(values) {
        match (item.role, value) {
            (Role::RequestId, Value::Text(text)) => decoded.request_id = Some(text),
            (Role::Usage, value) => decoded.usage = Some(value),
            (Role::Count(name), value) => counts.push((name.to_owned(), value)),
            (Role::FinishReason, Value::Text(text)) => plain = Some(text),
            (Role::DetailedFinishReason, Value::Text(text)) => detailed = Some(text),
            (Role::FinishObject, value) => {
                check_finish_object(item, body, paths)?;
                let Value::Map(members) = value else { continue };
                for (key, member) in members {
                    match (key.as_str(), member) {
                        ("type", Value::Text(text)) => plain = Some(text),
                        ("matched", member) => stop_reason = stop(member),
                        _ => {}
                    }
                }
            }
            (Role::StopReason, value) => {
                let unfit = matches!(value, Value::Uint(_));
                stop_reason = stop(value);
                if unfit {
                    return Err(error(
                        "metadata",
                        item,
                        paths,
                        "the stop reason does not fit 64 bits".into(),
                    ));
                }
            }
            (Role::WeightVersions, value) => {
                weight_spans::check_tiling(&value, decoded.token_ids.len()).map_err(
                    |(i, mut error)| {
                        error.offset = locate(body, item.span.start, &[Step::Index(i)]);
                        error.under(&format!("{}[{i}]", paths.text(item.place)))
                    },
                )?;
                decoded.weight_versions = Some(value);
            }
            (Role::WeightVersion, value) => {
                // The server does not say which tokens it sampled.
                let label = Value::Map(vec![("version".into(), value)]);
                decoded.weight_versions = Some(Value::List(vec![label]));
            }
            (Role::RequestId | Role::FinishReason | Role::DetailedFinishReason, _) => {}
        }
    }
    if !counts.is_empty() {
        decoded.usage = Some(Value::Map(counts));
    }
    decoded.finish = join_reasons(plain, detailed, stop_reason, tells_abort);
    Ok(())
}

/// Whether texts have no more values and keys than metadata may have.
fn few(texts: &[&[u8]]) -> bool {
    let count = |text: &&[u8]| values_and_keys(text, MAX_METADATA_VALUES);
    texts.iter().map(count).sum::<usize>() <= MAX_METADATA_VALUES
}

fn stop(value: Value) -> Option<StopReason> {
    match value {
        Value::Text(text) => Some(StopReason::Text(text)),
        Value::Int(token) => Some(StopReason::Token(token)),
        _ => None,
    }
}

impl Role {
    /// Whether a validated JSON text is of the type that the role takes.
    fn takes(self, text: &[u8]) -> bool {
        let first = text.first();
        let string = first == Some(&b'"');
        let integer = matches!(first, Some(b'-' | b'0'..=b'9'))
            && !text.iter().any(|b| matches!(b, b'.' | b'e' | b'E'));
        match self {
            Role::Usage | Role::FinishObject => first == Some(&b'{'),
            Role::RequestId
            | Role::FinishReason
            | Role::DetailedFinishReason
            | Role::WeightVersion => string,
            Role::StopReason => string || integer,
            Role::Count(_) => integer,
            Role::WeightVersions => first == Some(&b'['),
        }
    }

    fn expects(self) -> &'static str {
        match self {
            Role::Usage | Role::FinishObject => "an object",
            Role::RequestId
            | Role::FinishReason
            | Role::DetailedFinishReason
            | Role::WeightVersion => "a string",
            Role::StopReason => "a string or an integer",
            Role::Count(_) => "an integer",
            Role::WeightVersions => "an array",
        }
    }
}

/// SGLang's finish reason: `type` is a string, and neither it nor `matched` is there twice.
fn check_finish_object(item: &MetadataItem, body: &[u8], paths: &Paths<'_>) -> Result<()> {
    let (mut types, mut matched, mut typed) = (0, 0, false);
    Cursor::at(body, item.span.start).object(|cursor, key| {
        if key.is(b"type") {
            types += 1;
            typed = cursor.byte() == Some(b'"');
        }
        matched += usize::from(key.is(b"matched"));
        cursor.skip_value()
    })?;
    if types > 1 || matched > 1 {
        return Err(error(
            "duplicate_key",
            item,
            paths,
            "a key stands there twice".into(),
        ));
    }
    if !typed {
        return Err(error(
            "type",
            item,
            paths,
            "a finish reason needs a type, a string".into(),
        ));
    }
    Ok(())
}

/// The start of a JSON text, for messages.
fn shown(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let mut shown: String = text.chars().take(24).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    shown
}

#[cold]
fn error(kind: &'static str, item: &MetadataItem, paths: &Paths<'_>, message: String) -> Error {
    Error::new(
        Class::Malformed,
        kind,
        paths.text(item.place),
        item.span.start,
        message,
    )
}
