//! A body by which a server reports an error, with any status.

use crate::error::{Class, Error, Result};
use crate::json::{Cursor, Kind, Text};
use crate::limits::{MAX_MESSAGE, MAX_METADATA};

use super::field::Span;

/// What the top level says about errors.
#[derive(Debug, Default)]
pub(crate) struct ServerError {
    error: Option<Span>,
    message: Option<Span>,
    /// `object` or `status` is the string "error".
    named: bool,
    /// How many of `message`, `type` and `code` are there.
    flat: u8,
    /// `choices` is there.
    choices: bool,
}

impl ServerError {
    pub(crate) const NAMES: &'static [&'static str] = &[
        "error", "object", "status", "message", "type", "code", "choices",
    ];

    /// Reads a member of the top level, if it is about errors only.
    pub(crate) fn member(&mut self, cursor: &mut Cursor<'_>, name: &str) -> Result<bool> {
        match name {
            "error" => self.error = Span::read(cursor)?,
            "object" | "status" if cursor.kind()? == Kind::String => {
                self.named |= cursor.string()?.is(b"error");
            }
            "object" | "status" => cursor.skip_value()?,
            "message" => {
                self.flat += 1;
                self.message = Span::read(cursor)?;
            }
            "type" | "code" => {
                self.flat += 1;
                cursor.skip_value()?;
            }
            "choices" => {
                self.choices = cursor.kind()? != Kind::Null;
                return Ok(false);
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// The error that the body reports, if it reports one.
    pub(crate) fn error(&self, body: &[u8]) -> Option<Error> {
        let flat = self.flat == 3 && !self.choices;
        if self.error.is_none() && !self.named && !flat {
            return None;
        }
        let message = self
            .error
            .and_then(|span| error_text(span, body))
            .or_else(|| text(self.message?, body))
            .unwrap_or_else(|| "the server answered with an error".into());
        Some(Error::new(Class::Server, "server", "", None, message))
    }
}

/// The error that an event named `error` reports: the words in its JSON, or its text.
pub(crate) fn reported(data: &[u8]) -> Error {
    let mut said = ServerError::default();
    let mut cursor = Cursor::new(data);
    let read = cursor.kind().is_ok_and(|kind| kind == Kind::Object)
        && cursor
            .object(|cursor, key| {
                let known = ServerError::NAMES
                    .iter()
                    .find(|name| key.is(name.as_bytes()));
                match known {
                    Some(name) if said.member(cursor, name)? => Ok(()),
                    _ => cursor.skip_value(),
                }
            })
            .is_ok();
    said.named = true;
    let known = said.error.is_some() || said.message.is_some();
    if let (true, Some(error)) = (read && known, said.error(data)) {
        return error;
    }
    let head = &data[..data.len().min(MAX_MESSAGE)];
    let message = match head.trim_ascii() {
        b"" => "the server answered with an error".into(),
        text => String::from_utf8_lossy(text).into_owned(),
    };
    Error::new(Class::Server, "server", "", None, message)
}

/// The message of an `error` member: its `message`, or itself.
fn error_text(span: Span, body: &[u8]) -> Option<String> {
    let mut cursor = Cursor::at(body, span.start);
    let mut message = Some(span);
    if cursor.kind().ok()? == Kind::Object {
        message = None;
        cursor
            .object(|cursor, key| {
                let found = Span::read(cursor)?;
                if message.is_none() && key.is(b"message") {
                    message = found;
                }
                Ok(())
            })
            .ok()?;
    }
    text(message?, body)
}

/// A string, if it is one.
fn text(span: Span, body: &[u8]) -> Option<String> {
    let json = body
        .get(span.start..span.end)
        .filter(|json| json.len() <= MAX_METADATA)?;
    let raw = json.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    let text = Text {
        raw,
        at: span.start,
        escaped: true,
    };
    String::from_utf8(text.head(MAX_MESSAGE)?).ok()
}
