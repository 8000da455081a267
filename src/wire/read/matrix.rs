//! An array as the base64 of an npy file.

use crate::error::Result;
use crate::experts::Blob;
use crate::json::{Cursor, Kind};

use super::walk::{Path, Walk};

/// The text of an npy file, or what stands in its place.
#[derive(Debug)]
pub(crate) enum Npy {
    Text(Blob),
    Other { at: usize, found: &'static str },
}

/// Reads the value up to its text.
pub(crate) fn npy(
    walk: &mut Walk<'_>,
    cursor: &mut Cursor<'_>,
    _: &Path<'_>,
) -> Result<Option<Npy>> {
    if walk.refused {
        cursor.skip_value()?;
        return Ok(None);
    }
    let (kind, at) = (cursor.kind()?, cursor.pos);
    if kind == Kind::String {
        return Ok(Some(Npy::Text(Blob::read(cursor)?)));
    }
    cursor.skip_value()?;
    let found = kind.name();
    Ok((kind != Kind::Null).then_some(Npy::Other { at, found }))
}
