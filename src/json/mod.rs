//! JSON without field names: a strict cursor, numbers, strings, and validated skipping.
//!
//! Two kinds of code read the same bytes. [`Cursor`] and [`Cursor::skip_value`] are the judges: they accept exactly
//! RFC 8259 and report where a document breaks. Typed readers (in `wire`) are fast paths that may give up with
//! [`Stop`] at any time; the judge then reads the same value again and has the last word ([`Cursor::field`]).

mod cursor;
mod decimal_slow;
mod field;
mod number;
mod seek;
mod simd;
mod skip;
mod string;
mod value;

pub(crate) use cursor::{Cursor, Kind};
pub(crate) use field::{Reader, Stop, misfit};
pub(crate) use number::canonical_id;
pub(crate) use seek::element_offset;
pub(crate) use string::Text;
pub use value::Value;
pub(crate) use value::{SmallValues, values_and_keys, values_and_keys_at_most};
