//! The top level of a body: syntax first, then repeated keys, then a server's way of reporting an error.

use crate::error::{Class, Error, Result};
use crate::json::{Cursor, Kind};
use crate::options::{Options, Wire};

use super::server_error::ServerError;
use super::walk::{Fields, Path, Walk, wrong_kind};

/// A server's body.
pub(crate) trait Document: Fields {
    /// The keys of the top level that a wire of this server has.
    fn names(_: Wire) -> &'static [&'static str] {
        Self::NAMES
    }

    /// Reads a top level that is an array. The inner error is reported only if the syntax of the body is right.
    fn array<'a>(&mut self, _: &mut Walk<'a>, cursor: &mut Cursor<'a>) -> Result<Option<Error>> {
        let at = cursor.pos;
        cursor.skip_value()?;
        Ok(Some(wrong_kind(&Path::Top, at, Kind::Array, Kind::Object)))
    }
}

/// Reads a whole body.
pub(crate) fn read_document<D: Document>(
    body: &[u8],
    options: &Options<'_>,
    several: bool,
) -> Result<D> {
    let mut document = D::default();
    let mut walk = Walk::new(body, options, several);
    let mut cursor = Cursor::within(body, options.limits);
    cursor.space();
    let at = cursor.pos;
    if is_event_stream(&body[at..]) {
        return Err(event_stream(at));
    }
    let mut server = ServerError::default();
    let wrong = match cursor.kind()? {
        Kind::Object => {
            let own = D::names(options.wire);
            let names = [ServerError::NAMES, own].concat();
            walk.object(&mut cursor, &Path::Top, &names, |walk, cursor, name| {
                if server.member(cursor, name)? {
                    return Ok(());
                }
                if !own.contains(&name) {
                    return cursor.skip_value();
                }
                document.member(walk, cursor, &Path::Key(&Path::Top, name), name)
            })?;
            None
        }
        Kind::Array => document.array(&mut walk, &mut cursor)?,
        found => {
            cursor.skip_value()?;
            Some(wrong_kind(&Path::Top, at, found, Kind::Object))
        }
    };
    cursor.end()?;
    match wrong.or(walk.repeated).or(server.error(body)) {
        Some(error) => Err(error),
        None => Ok(document),
    }
}

/// Whether a body begins as server-sent events do: with a field of theirs or a comment. No JSON does.
fn is_event_stream(body: &[u8]) -> bool {
    let begins: [&[u8]; 5] = [b"data:", b"event:", b"id:", b"retry:", b":"];
    begins.iter().any(|begin| body.starts_with(begin))
}

#[cold]
fn event_stream(at: usize) -> Error {
    Error::new(
        Class::Malformed,
        "event_stream",
        "",
        at,
        "found server-sent events (a streamed answer) where one JSON document was expected; \
         read it with StreamDecoder, or ask with stream=False",
    )
}
