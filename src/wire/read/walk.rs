//! Walking the structural objects of a body: known keys, repeated keys, wrong types.

use std::fmt::Arguments;

use crate::error::{Class, Error, Result};
use crate::json::{Cursor, Kind, Text};

/// What a structural value turned out to be. null counts as absent.
#[derive(Debug, Default)]
pub(crate) enum Part<T> {
    #[default]
    Absent,
    /// There, but not of the type it must have.
    Wrong(Error),
    Here(T),
}

impl<T> Part<T> {
    /// The part, if it is there; fails if it is of the wrong type.
    pub(crate) fn get(self) -> Result<Option<T>> {
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
pub(crate) struct Walk<'a> {
    pub(crate) body: &'a [u8],
    /// The first repeated key; judged once the syntax of the whole body has been.
    pub(crate) repeated: Option<Error>,
    /// Look at routed experts only for their presence.
    pub(crate) skip_experts: bool,
    /// How many choices an answer may be made of. What is behind them is refused, and read only for what comes before that.
    pub(crate) answerable: usize,
    /// Scratch: what a key with escapes says.
    pub(crate) unescaped: Vec<u8>,
}

impl<'a> Walk<'a> {
    /// Reads the object at the cursor. `member` gets the names among `names`, once each, and must consume the value; others are skipped.
    pub(crate) fn object(
        &mut self,
        cursor: &mut Cursor<'a>,
        path: Arguments<'_>,
        names: &[&'static str],
        mut member: impl FnMut(&mut Self, &mut Cursor<'a>, &'static str) -> Result<()>,
    ) -> Result<()> {
        const { assert!(LONGEST_NAME < 32) };
        debug_assert!(names.len() <= 32);
        debug_assert!(names.iter().all(|name| name.len() <= LONGEST_NAME));
        let mut seen = 0u32;
        let lengths = names.iter().fold(0, |bits, name| bits | 1 << name.len());
        cursor.object(|cursor, key| {
            let Some(index) = self.place(&key, names, lengths) else {
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
                    .under(&path.to_string())
                });
                return cursor.skip_value();
            }
            seen |= 1 << index;
            member(self, cursor, name)
        })
    }

    /// Which of `names` the key is. `lengths` has a bit for the length of each.
    #[inline]
    fn place(&mut self, key: &Text<'_>, names: &[&str], lengths: u32) -> Option<usize> {
        let mut text = key.raw;
        if key.escaped {
            // No byte takes more than a `\uXXXX`.
            self.unescaped.clear();
            if text.len() > 6 * LONGEST_NAME || !key.append_to(&mut self.unescaped) {
                return None;
            }
            text = &self.unescaped;
        }
        // Most of what nobody reads is told by its length.
        if text.len() > LONGEST_NAME || lengths >> text.len() & 1 == 0 {
            return None;
        }
        let is = |name: &&str| name.as_bytes().first() == text.first() && name.as_bytes() == text;
        names.iter().position(is)
    }

    /// Reads a value that must be an object (or null).
    pub(crate) fn part<T>(
        &mut self,
        cursor: &mut Cursor<'a>,
        path: Arguments<'_>,
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
pub(crate) fn wrong_kind(path: Arguments<'_>, at: usize, found: Kind, expected: Kind) -> Error {
    Error::new(
        Class::Malformed,
        "type",
        path.to_string(),
        at,
        format!(
            "found {} where {} was expected",
            found.name(),
            expected.name()
        ),
    )
}
