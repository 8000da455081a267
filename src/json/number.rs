//! Numbers: their grammar, and integers.

use super::cursor::Cursor;
use crate::limits::MAX_TOKEN_ID;

/// The end of the number at `pos`, or the offset of the byte that breaks its grammar.
pub(crate) fn number_end(bytes: &[u8], pos: usize) -> Result<usize, usize> {
    let mut at = pos;
    let is = |at: usize, byte: u8| bytes.get(at) == Some(&byte);
    let digits = |mut at: usize| {
        // Where the next word begins must not wait for what is in this one.
        while let Some(word) = bytes.get(at..).and_then(<[u8]>::first_chunk)
            && leading_digits(u64::from_le_bytes(*word) ^ ZEROS) == 8
        {
            at += 8;
        }
        while bytes.get(at).is_some_and(u8::is_ascii_digit) {
            at += 1;
        }
        at
    };
    let some_digits = |at: usize| match digits(at) {
        end if end > at => Ok(end),
        end => Err(end),
    };
    if is(at, b'-') {
        at += 1;
    }
    at = if is(at, b'0') {
        at + 1
    } else {
        some_digits(at)?
    };
    if is(at, b'.') {
        at = some_digits(at + 1)?;
    }
    if is(at, b'e') || is(at, b'E') {
        at += 1;
        if is(at, b'+') || is(at, b'-') {
            at += 1;
        }
        at = some_digits(at)?;
    }
    Ok(at)
}

/// Eight zeros as text.
pub(super) const ZEROS: u64 = u64::from_le_bytes([b'0'; 8]);

/// How many of the eight bytes are digits before the first that is not. `x` is the text xor [`ZEROS`].
#[inline(always)]
pub(super) fn leading_digits(x: u64) -> u32 {
    (((x.wrapping_add(0x7676_7676_7676_7676)) | x) & 0x8080_8080_8080_8080).trailing_zeros() / 8
}

/// The value of eight digits, first one in the lowest byte. `x` is the text xor [`ZEROS`].
#[inline(always)]
pub(super) fn eight_digits(x: u64) -> u64 {
    let pairs = x.wrapping_mul(10).wrapping_add(x >> 8);
    let low = (pairs & 0x0000_00ff_0000_00ff).wrapping_mul(100 + (1_000_000 << 32));
    let high = ((pairs >> 16) & 0x0000_00ff_0000_00ff).wrapping_mul(1 + (10_000 << 32));
    low.wrapping_add(high) >> 32
}

impl Cursor<'_> {
    /// A token id of fewer than eight digits at `pos`; steps behind it. None where it is anything else.
    #[inline(always)]
    pub(crate) fn short_id(&mut self) -> Option<i32> {
        let x = u64::from_le_bytes(*self.chunk()?) ^ ZEROS;
        let n = leading_digits(x);
        if n.wrapping_sub(1) >= 7 || (x & 0xff == 0 && n > 1) {
            return None;
        }
        self.pos += n as usize;
        Some(eight_digits(x << (64 - 8 * n)) as i32)
    }

    /// A JSON integer without sign, fraction or exponent; steps behind it. None where it is anything else.
    ///
    /// Values of `limit` and more come back as `limit`.
    pub(crate) fn integer(&mut self, limit: u64) -> Option<u64> {
        let start = self.pos;
        let mut value = 0u64;
        while let Some(digit @ b'0'..=b'9') = self.byte() {
            value = value
                .saturating_mul(10)
                .saturating_add(u64::from(digit - b'0'));
            self.pos += 1;
        }
        let leading_zero = self.bytes.get(start) == Some(&b'0') && self.pos > start + 1;
        if self.pos == start || leading_zero || matches!(self.byte(), Some(b'.' | b'e' | b'E')) {
            self.pos = start;
            return None;
        }
        Some(value.min(limit))
    }
}

/// The id that canonical decimal text names: no sign, no leading zero, at most 2^31-1.
pub(crate) fn canonical_id(text: &[u8]) -> Option<i32> {
    let mut cursor = Cursor::new(text);
    let value = cursor.integer(u64::MAX)?;
    (cursor.pos == text.len() && value <= u64::from(MAX_TOKEN_ID)).then_some(value as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids() {
        let id = |text: &str| {
            let padded = format!("{text},        ");
            let mut cursor = Cursor::new(padded.as_bytes());
            let value = cursor.short_id();
            assert_eq!(cursor.pos, if value.is_some() { text.len() } else { 0 });
            value
        };
        for value in (0..3000).chain([9999, 10_000, 151_935, 999_999, 1_000_000, 9_999_999]) {
            assert_eq!(id(&value.to_string()), Some(value));
        }
        for text in ["", "00", "01", "12345678", "-1", "x"] {
            assert_eq!(id(text), None, "{text}");
        }
        assert_eq!(canonical_id(b"2147483647"), Some(i32::MAX));
        for text in [
            &b"2147483648"[..],
            b"",
            b"00",
            b"01",
            b"-1",
            b"1.0",
            b"1e3",
            b" 1",
            b"1 ",
        ] {
            assert_eq!(canonical_id(text), None);
        }
    }
}
