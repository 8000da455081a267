//! Reads a value with a fast typed reader, and again with the strict cursor where the reader stops.
//!
//! A [`Reader`] turns a value into columns. It expects the bytes that engines usually write, and does not work out why
//! other bytes are wrong: it stops with a [`Stop`], at any byte. Only [`Cursor::field`] calls readers:
//!
//! 1. The reader reaches the end of the value. The value is valid JSON, because a reader steps over nothing else.
//! 2. It stops. The strict cursor then reads the same value. If that fails, the document has no valid syntax, and the
//!    cursor's error is reported, whatever the reader found earlier in the body.
//! 3. It stops, and the strict cursor reads the value. Then the error is one of the field: its type, its range, its count.
//!
//! So every error of syntax comes from one parser, and a value without errors is read once. A reader accepts every valid JSON text
//! that the field may hold, in any spelling; a debug assertion says where one does not.
#![allow(unsafe_code)] // calls of code that is compiled for a processor feature, after the check for it

use super::cursor::{Cursor, Kind};
use super::seek::element_around;
use crate::error::{Class, Error, Result};
use crate::memory::OutOfMemory;

/// Why a typed reader gave up. Boxed: it is rare, and the readers' results stay small.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The reader found no JSON that it takes; the strict cursor decides.
    Syntax,
    /// The value is not what this field holds.
    Field(Box<Error>),
}

/// A typed reader of one kind of value.
pub(crate) trait Reader {
    /// What it makes of the value.
    type Value;

    /// Reads the value at the cursor. `#[inline(always)]` where it is worth compiling for the processor at hand.
    fn read(cursor: &mut Cursor<'_>) -> std::result::Result<Self::Value, Stop>;
}

impl From<Error> for Stop {
    #[cold]
    fn from(error: Error) -> Self {
        Stop::Field(Box::new(error))
    }
}

impl From<OutOfMemory> for Stop {
    #[cold]
    fn from(out: OutOfMemory) -> Self {
        Error::from(out).into()
    }
}

/// The error of a value that is not what the field holds. The path is relative to the field.
#[cold]
pub(crate) fn misfit(
    cursor: &mut Cursor<'_>,
    path: impl Into<String>,
    expected: &'static str,
) -> Stop {
    match cursor.kind() {
        Ok(found) => Error::new(
            Class::Malformed,
            "type",
            path,
            cursor.pos,
            format!("found {} where {expected} was expected", found.name()),
        )
        .into(),
        Err(_) => Stop::Syntax,
    }
}

/// Reads a value. A reader is compiled twice, as far as it is inlined: for every x86-64 processor, and for those with
/// the bit instructions of 2013, where counting digits and shifting by a variable cost one instruction each.
#[inline(always)]
fn read<R: Reader>(cursor: &mut Cursor<'_>) -> std::result::Result<R::Value, Stop> {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    if is_x86_feature_detected!("bmi1")
        && is_x86_feature_detected!("bmi2")
        && is_x86_feature_detected!("lzcnt")
    {
        // SAFETY: the processor has all three features.
        return unsafe { with_bits::<R>(cursor) };
    }
    R::read(cursor)
}

#[cfg(all(target_arch = "x86_64", not(miri)))]
#[target_feature(enable = "bmi1,bmi2,lzcnt")]
fn with_bits<R: Reader>(cursor: &mut Cursor<'_>) -> std::result::Result<R::Value, Stop> {
    R::read(cursor)
}

impl<'a> Cursor<'a> {
    /// Reads one value through a typed reader. The outer error is the document's (not JSON at all), the inner one the field's.
    pub(crate) fn field<R: Reader>(&mut self) -> Result<Result<R::Value>> {
        let (start, depth) = (self.pos, self.depth);
        match read::<R>(self) {
            Ok(value) => {
                self.depth = depth;
                Ok(Ok(value))
            }
            Err(stop) => {
                if let Some(element) = element_around(self.bytes, start, self.pos) {
                    // The elements before the one in which it stopped have been read and are valid.
                    self.pos = element;
                    self.depth = depth + 1;
                    self.skip_elements()?;
                } else {
                    self.pos = start;
                    self.depth = depth;
                    self.skip_value()?;
                }
                match stop {
                    Stop::Field(error) => Ok(Err(*error)),
                    Stop::Syntax => {
                        debug_assert!(false, "a typed reader refused valid JSON at {start}");
                        Ok(Err(Error::new(
                            Class::Malformed,
                            "type",
                            "",
                            start,
                            "the value is not one that this field holds",
                        )))
                    }
                }
            }
        }
    }

    /// Steps over `null`, if that is the value.
    pub(crate) fn null(&mut self) -> Result<bool> {
        if self.kind()? == Kind::Null {
            self.skip_value()?;
            return Ok(true);
        }
        Ok(false)
    }
}
