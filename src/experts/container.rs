//! The containers of routed experts, distinguished by form.

use super::blob::Blob;
use crate::base64::Element;
use crate::error::{Class, Error, Result};
use crate::json::{Cursor, Kind, Reader, Stop, Text};

/// Routed experts as they stand in the body. Paths of errors are relative to the field.
#[derive(Debug)]
pub(crate) enum Container {
    /// `{"data", "shape", "start", "dtype"}`: Dynamo and prime-rl.
    Object { at: usize, object: Result<Object> },
    /// A string: an npy file (vLLM) or bare rows (SGLang).
    Text { at: usize, blob: Blob },
    /// Something else.
    Other { at: usize, kind: Kind },
}

/// The members of an object.
#[derive(Debug)]
pub(crate) struct Object {
    pub(super) data: Blob,
    pub(super) shape: [u64; 3],
    /// Offset of `shape`.
    pub(super) shape_at: usize,
    pub(super) start: u64,
    pub(super) dtype: Element,
}

impl Container {
    /// Reads the value at the cursor, which is not null. With `presence_only` nothing of it is judged but its syntax.
    pub(crate) fn read(cursor: &mut Cursor<'_>, presence_only: bool) -> Result<Self> {
        let kind = cursor.kind()?;
        let at = cursor.pos;
        match kind {
            Kind::String => {
                let blob = Blob::read(cursor)?;
                Ok(Container::Text { at, blob })
            }
            Kind::Object if !presence_only => {
                let object = cursor.field::<Object>()?;
                Ok(Container::Object { at, object })
            }
            _ => {
                cursor.skip_value()?;
                Ok(Container::Other { at, kind })
            }
        }
    }

    /// Offset of the value.
    pub(crate) fn at(&self) -> usize {
        match self {
            Container::Object { at, .. }
            | Container::Text { at, .. }
            | Container::Other { at, .. } => *at,
        }
    }

    /// Whether it is an object.
    pub(crate) fn is_object(&self) -> bool {
        matches!(self, Container::Object { .. })
    }

    /// Whether it is a string.
    pub(crate) fn is_text(&self) -> bool {
        matches!(self, Container::Text { .. })
    }
}

impl Reader for Object {
    type Value = Self;

    fn read(cursor: &mut Cursor<'_>) -> std::result::Result<Self, Stop> {
        Self::members(cursor).map_err(Stop::from)
    }
}

impl Object {
    fn members(cursor: &mut Cursor<'_>) -> Result<Self> {
        let at = cursor.pos;
        let (mut data, mut shape, mut start, mut dtype) = (None, None, 0, Element::U8);
        let mut seen = 0u8;
        cursor.object(|cursor, key| {
            const NAMES: [&str; 4] = ["data", "shape", "start", "dtype"];
            let Some(index) = NAMES.iter().position(|name| key.is(name.as_bytes())) else {
                return cursor.skip_value();
            };
            let name = NAMES[index];
            if seen & 1 << index != 0 {
                return Err(refused(
                    "duplicate_key",
                    name,
                    key.at,
                    "the key stands there twice",
                ));
            }
            seen |= 1 << index;
            if cursor.null()? {
                return Ok(());
            }
            match name {
                "data" => data = Some(read_data(cursor)?),
                "shape" => shape = Some((cursor.pos, read_shape(cursor)?)),
                "start" => start = read_start(cursor)?,
                _ => dtype = read_dtype(cursor)?,
            }
            Ok(())
        })?;
        let missing = |name| {
            refused(
                "missing",
                name,
                at,
                "an object of routed experts needs data and shape",
            )
        };
        let data = data.ok_or_else(|| missing("data"))?;
        let (shape_at, shape) = shape.ok_or_else(|| missing("shape"))?;
        Ok(Self {
            data,
            shape,
            shape_at,
            start,
            dtype,
        })
    }
}

fn read_data(cursor: &mut Cursor<'_>) -> Result<Blob> {
    if cursor.byte() == Some(b'"') {
        return Blob::read(cursor);
    }
    let (at, found) = (cursor.pos, cursor.kind()?.name());
    Err(refused(
        "type",
        "data",
        at,
        format!("found {found} where a base64 string was expected"),
    ))
}

/// The largest integer of a shape or start, plus one.
const TOO_LARGE: u64 = 1 << 63;

fn read_shape(cursor: &mut Cursor<'_>) -> Result<[u64; 3]> {
    let at = cursor.pos;
    let bad = || {
        refused(
            "shape",
            "shape",
            at,
            "a shape is [rows, layers, top_k] with layers and top_k of 1 or more",
        )
    };
    if cursor.byte() != Some(b'[') {
        return Err(bad());
    }
    let mut shape = [0; 3];
    let mut count = 0;
    cursor.array(|cursor, i| {
        let value = cursor.integer(TOO_LARGE).filter(|&value| value < TOO_LARGE);
        *shape.get_mut(i).ok_or_else(bad)? = value.ok_or_else(bad)?;
        count = i + 1;
        Ok(())
    })?;
    if count != 3 || shape[1] == 0 || shape[2] == 0 {
        return Err(bad());
    }
    Ok(shape)
}

fn read_start(cursor: &mut Cursor<'_>) -> Result<u64> {
    let at = cursor.pos;
    cursor
        .integer(TOO_LARGE)
        .filter(|&start| start < TOO_LARGE)
        .ok_or_else(|| refused("start", "start", at, "start is an integer of 0 or more"))
}

fn read_dtype(cursor: &mut Cursor<'_>) -> Result<Element> {
    let at = cursor.pos;
    let text: Option<Text<'_>> = if cursor.byte() == Some(b'"') {
        Some(cursor.string()?)
    } else {
        None
    };
    text.and_then(|text| Element::from_name(std::str::from_utf8(&text.bytes()?).ok()?))
        .ok_or_else(|| {
            refused(
                "dtype",
                "dtype",
                at,
                "dtype is one of uint8, uint16, int16 and int32",
            )
        })
}

/// An error at a member of the object.
#[cold]
fn refused(
    kind: &'static str,
    path: &'static str,
    at: usize,
    message: impl Into<std::borrow::Cow<'static, str>>,
) -> Error {
    Error::new(Class::RoutedExperts, kind, path, at, message)
}
