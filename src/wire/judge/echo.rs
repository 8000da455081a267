//! A second list of tokens beside the chosen channel. It is compared only if it has an entry for every token.

use crate::error::{Class, Result};
use crate::json::Cursor;
use crate::memory::Buffer;
use crate::wire::read::entries::{Content, UNNAMED};
use crate::wire::read::field::Span;
use crate::wire::read::members::named_by;

/// The list, or why it is left out.
type Echo<T> = std::result::Result<T, String>;

/// The entries of a `content` that was not chosen.
pub(crate) fn entries(read: Result<Content>, ids: &[i32], path: &str) -> Result<Echo<Content>> {
    match read {
        Ok(entries) if entries.names.len() == ids.len() => Ok(Ok(entries)),
        Ok(entries) => Ok(Err(miscounted(path, entries.names.len(), ids.len()))),
        Err(error) if error.class == Class::Memory => Err(error),
        Err(_) => Ok(Err(unreadable(path))),
    }
}

/// The texts beside a flat list.
pub(crate) enum Texts {
    Unreadable,
    Read {
        elements: usize,
        /// The first that names another token, with its position and offset.
        wrong: Option<(usize, i32, usize)>,
    },
}

/// Reads the texts beside a flat list and compares them with `ids`; appends what they name to `names`.
pub(crate) fn texts(
    span: Span,
    body: &[u8],
    ids: &[i32],
    mut names: Option<&mut Buffer<i32>>,
) -> Result<Texts> {
    let mut cursor = Cursor::at(body, span.start);
    if cursor.byte() != Some(b'[') {
        return Ok(Texts::Unreadable);
    }
    let (mut wrong, mut elements) = (None, 0);
    cursor.array(|cursor, i| {
        elements = i + 1;
        let at = cursor.pos;
        let name = match cursor.byte() {
            Some(b'"') => named_by(&cursor.string()?),
            _ => {
                cursor.skip_value()?;
                UNNAMED
            }
        };
        if let Some(names) = &mut names {
            names.push(name)?;
        }
        if name != UNNAMED && ids.get(i) != Some(&name) && wrong.is_none() {
            wrong = Some((i, name, at));
        }
        Ok(())
    })?;
    Ok(Texts::Read { elements, wrong })
}

pub(crate) fn miscounted(path: &str, found: usize, tokens: usize) -> String {
    format!("left out: {path} has {found} entries for {tokens} token ids")
}

pub(crate) fn unreadable(path: &str) -> String {
    format!("left out: {path} cannot be read")
}
