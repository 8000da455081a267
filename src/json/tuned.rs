//! Typed readers, compiled twice: for every x86-64, and for those with the bit instructions of 2013.
//!
//! Counting digits and shifting by a variable are most of what reading a number costs, and one instruction each there.
#![allow(unsafe_code)] // calling what was compiled for a processor that has been asked

use super::cursor::Cursor;
use super::field::{Reader, Stop};

/// Reads a value, in the version that suits this processor. A reader is compiled for it as far as it is inlined.
#[inline(always)]
pub(super) fn read<R: Reader>(cursor: &mut Cursor<'_>) -> Result<R::Value, Stop> {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    if is_x86_feature_detected!("bmi1")
        && is_x86_feature_detected!("bmi2")
        && is_x86_feature_detected!("lzcnt")
    {
        // SAFETY: the processor has been asked for all three.
        return unsafe { with_bits::<R>(cursor) };
    }
    R::read(cursor)
}

#[cfg(all(target_arch = "x86_64", not(miri)))]
#[target_feature(enable = "bmi1,bmi2,lzcnt")]
fn with_bits<R: Reader>(cursor: &mut Cursor<'_>) -> Result<R::Value, Stop> {
    R::read(cursor)
}
