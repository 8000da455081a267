//! Reads objects with named members: finds the keys of a wire, repeated keys, and values of a wrong type.

use std::fmt;

use crate::error::{Class, Error, Result};
use crate::json::{Cursor, Kind, Text};
use crate::limits::MAX_CHOICES;
use crate::options::{ExpertsMode, Options, Wire};

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

    /// The part, which must be an object. `at` is the offset of the value.
    pub(crate) fn object(self, path: &Path<'_>, at: usize) -> Result<T> {
        self.get()?
            .ok_or_else(|| wrong_kind(path, at, Kind::Null, Kind::Object))
    }

    /// The error of a part of a wrong type; the part is absent afterwards.
    pub(crate) fn take_wrong(&mut self) -> Option<Error> {
        match std::mem::take(self) {
            Part::Wrong(error) => Some(error),
            part => {
                *self = part;
                None
            }
        }
    }
}

/// Where a value stands in the body; written out only for an error.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Path<'p> {
    Top,
    Key(&'p Path<'p>, &'static str),
    Index(&'p Path<'p>, usize),
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Path::Top => Ok(()),
            Path::Key(Path::Top, key) => f.write_str(key),
            Path::Key(outer, key) => write!(f, "{outer}.{key}"),
            Path::Index(outer, index) => write!(f, "{outer}[{index}]"),
        }
    }
}

/// An object of a wire. [`fields!`] writes it from a table.
pub(crate) trait Fields: Default {
    /// The keys that are read, as written on the wire.
    const NAMES: &'static [&'static str];

    /// Reads the value of one of [`NAMES`](Self::NAMES). `path` is that of the value.
    fn member<'a>(
        &mut self,
        walk: &mut Walk<'a>,
        cursor: &mut Cursor<'a>,
        path: &Path<'_>,
        name: &'static str,
    ) -> Result<()>;
}

/// Declares an object of a wire: `key: type = reader,` for each member that is read. The field has the name of the key.
///
/// A reader takes the walk, the cursor at the value and the value's path, and consumes the value.
macro_rules! fields {
    ($(#[$doc:meta])* $name:ident { $($(#[$note:meta])* $key:ident: $type:ty = $read:expr,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Default)]
        struct $name { $($(#[$note])* $key: $type,)* }

        impl $crate::wire::read::walk::Fields for $name {
            const NAMES: &'static [&'static str] = &[$(stringify!($key)),*];

            fn member<'a>(
                &mut self,
                walk: &mut $crate::wire::read::walk::Walk<'a>,
                cursor: &mut $crate::json::Cursor<'a>,
                path: &$crate::wire::read::walk::Path<'_>,
                name: &'static str,
            ) -> $crate::error::Result<()> {
                match name {
                    $(stringify!($key) => self.$key = $read(walk, cursor, path)?,)*
                    _ => unreachable!("{name}"),
                }
                Ok(())
            }
        }
    };
}
pub(crate) use fields;

/// The longest key that a wire may name: [`Walk::object`] keeps a bit for each length.
const LONGEST_NAME: usize = 63;

/// One pass over a body.
#[derive(Debug)]
pub(crate) struct Walk<'a> {
    pub(crate) body: &'a [u8],
    pub(crate) wire: Wire,
    /// The first repeated key; reported once the syntax of the whole body is known to be right.
    pub(crate) repeated: Option<Error>,
    /// Look at routed experts only for their presence.
    pub(crate) skip_experts: bool,
    /// How many choices may become answers. The others are refused.
    pub(crate) answerable: usize,
    /// The walk is in a refused choice: repeated keys and wrong structural types count, other values are skipped.
    pub(crate) refused: bool,
    /// Scratch: a key with its escapes resolved.
    unescaped: Vec<u8>,
}

impl<'a> Walk<'a> {
    /// A walk over a body of which every choice becomes an answer with `several`, else the first.
    pub(crate) fn new(body: &'a [u8], options: &Options<'_>, several: bool) -> Self {
        Self {
            body,
            wire: options.wire,
            repeated: None,
            skip_experts: options.experts == ExpertsMode::Skip,
            answerable: if several { MAX_CHOICES } else { 1 },
            refused: false,
            unescaped: Vec::new(),
        }
    }

    /// Reads the object at the cursor. `member` gets the names among `names`, once each, and must consume the value;
    /// others are skipped.
    pub(crate) fn object(
        &mut self,
        cursor: &mut Cursor<'a>,
        path: &Path<'_>,
        names: &[&'static str],
        mut member: impl FnMut(&mut Self, &mut Cursor<'a>, &'static str) -> Result<()>,
    ) -> Result<()> {
        debug_assert!(names.len() <= 64);
        debug_assert!(names.iter().all(|name| name.len() <= LONGEST_NAME));
        let mut seen = 0u64;
        let lengths = names.iter().fold(0u64, |bits, name| bits | 1 << name.len());
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
    fn place(&mut self, key: &Text<'_>, names: &[&str], lengths: u64) -> Option<usize> {
        let mut text = key.raw;
        if key.escaped {
            // No byte takes more than a `\uXXXX`.
            self.unescaped.clear();
            if text.len() > 6 * LONGEST_NAME || !key.append_to(&mut self.unescaped) {
                return None;
            }
            text = &self.unescaped;
        }
        // The length rules out most other keys.
        if text.len() > LONGEST_NAME || lengths >> text.len() & 1 == 0 {
            return None;
        }
        let is = |name: &&str| name.as_bytes().first() == text.first() && name.as_bytes() == text;
        names.iter().position(is)
    }

    /// Reads a value that must be an object (or null), of which `names` are read.
    pub(crate) fn part<T: Fields>(
        &mut self,
        cursor: &mut Cursor<'a>,
        path: &Path<'_>,
        names: &[&'static str],
    ) -> Result<Part<T>> {
        self.of_kind(cursor, path, Kind::Object, |walk, cursor| {
            let mut part = T::default();
            walk.object(cursor, path, names, |walk, cursor, name| {
                part.member(walk, cursor, &Path::Key(path, name), name)
            })?;
            Ok(part)
        })
    }

    /// Reads a value that must be of a kind (or null).
    pub(crate) fn of_kind<T>(
        &mut self,
        cursor: &mut Cursor<'a>,
        path: &Path<'_>,
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
pub(crate) fn wrong_kind(path: &Path<'_>, at: usize, found: Kind, expected: Kind) -> Error {
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
