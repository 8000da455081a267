//! JSON without field names: a strict cursor, numbers, strings, and validated skipping.
//!
//! Two kinds of code read the same bytes. [`Cursor`] and [`Cursor::skip_value`] are the judges: they accept exactly
//! RFC 8259 and report where a document breaks. Typed readers (in `wire`) are fast paths that may give up with
//! [`Stop`] at any time; the judge then reads the same value again and has the last word ([`Cursor::field`]).

mod cursor;
mod exact;
mod field;
mod metadata;
mod nth;
mod number;
mod skip;
mod string;
mod tuned;
mod vector;

pub(crate) use cursor::{Cursor, Kind};
pub(crate) use field::{Reader, Stop, misfit};
pub(crate) use metadata::{Metadata, Value, values_and_keys, values_and_keys_at_most};
pub(crate) use nth::nth;
pub(crate) use number::canonical_id;
pub(crate) use string::Text;
