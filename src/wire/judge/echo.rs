//! A second list of tokens beside the chosen channel. It is compared only if it has an entry for every token.

use crate::error::{Class, Result};
use crate::json::Cursor;
use crate::wire::read::entries::{Content, UNNAMED};
use crate::wire::read::field::Span;
use crate::wire::read::members::named_by;

/// The list, or why it is left out.
type Echo<T> = std::result::Result<T, String>;

/// The entries of a `content` that was not chosen.
pub(crate) fn entries(read: Result<Content>, ids: &[i32], path: &str) -> Result<Echo<Content>> {
    match read {
        Ok(entries) if entries.names.len() == ids.len() => Ok(Ok(entries)),
        Ok(entries) => Ok(Err(miscounted(path, entries.names.len(), ids))),
        Err(error) if error.class == Class::Memory => Err(error),
        Err(_) => Ok(Err(unreadable(path))),
    }
}

/// The texts beside a flat list: the first that names another token, with its position and offset.
pub(crate) fn texts(
    span: Span,
    body: &[u8],
    ids: &[i32],
    path: &str,
) -> Result<Echo<Option<(usize, i32, usize)>>> {
    let mut cursor = Cursor::at(body, span.start);
    if cursor.byte() != Some(b'[') {
        return Ok(Err(unreadable(path)));
    }
    let (mut wrong, mut count) = (None, 0);
    cursor.array(|cursor, i| {
        count = i + 1;
        let at = cursor.pos;
        if cursor.byte() != Some(b'"') {
            return cursor.skip_value();
        }
        let name = named_by(&cursor.string()?);
        if name != UNNAMED && ids.get(i) != Some(&name) && wrong.is_none() {
            wrong = Some((i, name, at));
        }
        Ok(())
    })?;
    if count != ids.len() {
        return Ok(Err(miscounted(path, count, ids)));
    }
    Ok(Ok(wrong))
}

fn miscounted(path: &str, found: usize, ids: &[i32]) -> String {
    format!(
        "left out: {path} has {found} entries for {} token ids",
        ids.len()
    )
}

fn unreadable(path: &str) -> String {
    format!("left out: {path} cannot be read")
}
