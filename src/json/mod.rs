//! JSON without field names: a strict cursor, numbers, strings, and validated skipping.
//!
//! [`Cursor`] and [`Cursor::skip_value`] are strict: they accept exactly RFC 8259 and report where a document breaks.
//! Typed readers are fast and may stop anywhere; the module `field` says how the two work together.

mod cursor;
mod decimal_slow;
mod double;
mod field;
mod key;
mod number;
mod seek;
mod simd;
mod skip;
mod string;
mod value;

pub(crate) use cursor::{Cursor, Kind};
pub(crate) use field::{Reader, Stop, misfit};
pub(crate) use key::KeyLiteral;
pub(crate) use number::canonical_id;
pub(crate) use seek::element_offset;
pub(crate) use string::Text;
pub use value::Value;
pub(crate) use value::{SmallValues, values_and_keys, values_and_keys_at_most};
