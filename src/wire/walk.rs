//! Walking the structural objects of a body: known keys, repeated keys, wrong types.

use crate::error::{Class, Error, Result};
use crate::json::{Cursor, Kind};

/// What a structural value turned out to be. null counts as absent.
#[derive(Debug, Default)]
pub(super) enum Part<T> {
    #[default]
    Absent,
    /// There, but not of the type it must have.
    Wrong(Error),
    Here(T),
}

impl<T> Part<T> {
    /// The part, if it is there; fails if it is of the wrong type.
    pub(super) fn get(self) -> Result<Option<T>> {
        match self {
            Part::Absent => Ok(None),
            Part::Wrong(error) => Err(error),
            Part::Here(value) => Ok(Some(value)),
        }
    }
}

/// The longest name that any wire has.
const LONGEST_NAME: usize = "output_token_sampling_mask".len();

/// One pass over a body.
#[derive(Debug)]
pub(super) struct Walk<'a> {
    pub(super) body: &'a [u8],
    /// The first repeated key; judged once the syntax of the whole body has been.
    pub(super) repeated: Option<Error>,
    /// Look at routed experts only for their presence.
    pub(super) skip_experts: bool,
}

impl<'a> Walk<'a> {
    /// Reads the object at the cursor. `member` gets the names among `names`, once each, and must consume the value; others are skipped.
    pub(super) fn object(
        &mut self,
        cursor: &mut Cursor<'a>,
        path: &str,
        names: &[&'static str],
        mut member: impl FnMut(&mut Self, &mut Cursor<'a>, &'static str) -> Result<()>,
    ) -> Result<()> {
        debug_assert!(names.len() <= 32);
        debug_assert!(names.iter().all(|name| name.len() <= LONGEST_NAME));
        let mut seen = 0u32;
        cursor.object(|cursor, key| {
            let text = key.short(LONGEST_NAME);
            let known = text
                .as_deref()
                .and_then(|text| names.iter().position(|name| name.as_bytes() == text));
            let Some(index) = known else {
                return cursor.skip_value();
            };
            let name = names[index];
            if seen & 1 << index != 0 {
                self.repeated.get_or_insert_with(|| {
                    Error::new(
                        Class::Malformed,
                        "duplicate_key",
                        name,
                        key.at,
                        "the key stands there twice",
                    )
                    .under(path)
                });
                return cursor.skip_value();
            }
            seen |= 1 << index;
            member(self, cursor, name)
        })
    }

    /// Reads a value that must be an object (or null).
    pub(super) fn part<T>(
        &mut self,
        cursor: &mut Cursor<'a>,
        path: &str,
        kind: Kind,
        read: impl FnOnce(&mut Self, &mut Cursor<'a>) -> Result<T>,
    ) -> Result<Part<T>> {
        let found = cursor.kind()?;
        if found == kind {
            return read(self, cursor).map(Part::Here);
        }
        let at = cursor.pos;
        cursor.skip_value()?;
        Ok(if found == Kind::Null {
            Part::Absent
        } else {
            Part::Wrong(wrong_kind(path, at, found, kind))
        })
    }
}

/// The error of a value of another type than it must have.
#[cold]
pub(super) fn wrong_kind(path: &str, at: usize, found: Kind, expected: Kind) -> Error {
    Error::new(
        Class::Malformed,
        "type",
        path,
        at,
        format!(
            "found {} where {} was expected",
            found.name(),
            expected.name()
        ),
    )
}
