//! Finish reasons in one vocabulary.

use crate::error::{Class, Error, Result};
use crate::json::{Cursor, Kind};

use crate::wire::answer::Paths;
use crate::wire::answer::{MetadataItem, Role};
use crate::wire::decoded::{Finish, StopReason};

/// Fails if the engine failed during the generation: its finish reason is "error".
pub(crate) fn refuse_failed(items: &[MetadataItem], body: &[u8], paths: &Paths<'_>) -> Result<()> {
    for item in items {
        let mut cursor = Cursor::at(body, item.span.start);
        let failed = match item.role {
            Role::FinishReason | Role::DetailedFinishReason => is_error(&mut cursor)?,
            Role::FinishObject => is_error_object(&mut cursor)?,
            _ => false,
        };
        if failed {
            let message = format!(
                "the engine failed during the generation: {} is \"error\"",
                paths.text(item.place)
            );
            return Err(Error::new(Class::Engine, "engine", "", None, message));
        }
    }
    Ok(())
}

fn is_error(cursor: &mut Cursor<'_>) -> Result<bool> {
    Ok(cursor.kind()? == Kind::String && cursor.string()?.is(b"error"))
}

/// SGLang's `{"type": "error", …}`; of several types the first.
fn is_error_object(cursor: &mut Cursor<'_>) -> Result<bool> {
    let mut first = None;
    if cursor.kind()? == Kind::Object {
        cursor.object(|cursor, key| {
            if key.is(b"type") && first.is_none() {
                first = Some(is_error(&mut cursor.clone())?);
            }
            cursor.skip_value()
        })?;
    }
    Ok(first == Some(true))
}

/// The finish reason in one vocabulary. `detailed` is Dynamo's and takes precedence; `tells`: this wire shows aborts without it.
pub(crate) fn join_reasons(
    plain: Option<String>,
    detailed: Option<String>,
    stop_reason: Option<StopReason>,
    tells: bool,
) -> Finish {
    let aborted = match (&plain, &detailed) {
        (Some(reason), _) if is_abort(reason) => Some(true),
        (_, Some(reason)) if is_abort(reason) => Some(true),
        (None, None) => None,
        (_, None) if !tells => None,
        _ => Some(false),
    };
    let raw = detailed.or(plain);
    let reason = raw.as_deref().map(|raw| match raw {
        "eos" => "stop".to_owned(),
        raw if is_abort(raw) => "abort".to_owned(),
        raw => raw.to_owned(),
    });
    Finish {
        reason,
        raw,
        stop_reason,
        aborted,
    }
}

/// Whether the completion was cut off (vLLM and SGLang `abort`, Dynamo `cancelled`).
fn is_abort(reason: &str) -> bool {
    matches!(reason, "abort" | "aborted" | "cancelled" | "canceled")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons() {
        let case = |plain: Option<&str>, detailed: Option<&str>, tells| {
            let f = join_reasons(plain.map(Into::into), detailed.map(Into::into), None, tells);
            (f.reason, f.raw, f.aborted)
        };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(
            case(Some("stop"), None, false),
            (some("stop"), some("stop"), None)
        );
        assert_eq!(
            case(Some("stop"), None, true),
            (some("stop"), some("stop"), Some(false))
        );
        assert_eq!(
            case(Some("stop"), Some("eos"), false),
            (some("stop"), some("eos"), Some(false))
        );
        assert_eq!(
            case(Some("stop"), Some("cancelled"), false),
            (some("abort"), some("cancelled"), Some(true))
        );
        assert_eq!(
            case(Some("abort"), None, false),
            (some("abort"), some("abort"), Some(true))
        );
        assert_eq!(
            case(Some("abort"), Some("stop"), false),
            (some("stop"), some("stop"), Some(true))
        );
        assert_eq!(case(None, None, true), (None, None, None));
        assert_eq!(
            case(None, Some("length"), false),
            (some("length"), some("length"), Some(false))
        );
    }
}
