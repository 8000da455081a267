//! Numbers: their grammar, token ids, and correctly rounded doubles.

use super::cursor::Cursor;
use super::decimal_slow;
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

const ZEROS: u64 = u64::from_le_bytes([b'0'; 8]);

/// How many of the eight bytes are digits before the first that is not. `x` is the text xor [`ZEROS`].
#[inline(always)]
fn leading_digits(x: u64) -> u32 {
    (((x.wrapping_add(0x7676_7676_7676_7676)) | x) & 0x8080_8080_8080_8080).trailing_zeros() / 8
}

/// The value of eight digits, first one in the lowest byte. `x` is the text xor [`ZEROS`].
#[inline(always)]
fn eight_digits(x: u64) -> u64 {
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

    /// The number at `pos`, correctly rounded; steps behind it. None where it is no number. May be infinite.
    #[inline(always)]
    pub(crate) fn double(&mut self) -> Option<f64> {
        let (value, end) = usual_double(self.bytes, self.pos)
            .or_else(|| any_double(self.bytes, self.pos))
            .or_else(|| exact_double(self.bytes, self.pos))?;
        self.pos = end;
        Some(value)
    }
}

/// The id that canonical decimal text names: no sign, no leading zero, at most 2^31-1.
pub(crate) fn canonical_id(text: &[u8]) -> Option<i32> {
    let mut cursor = Cursor::new(text);
    let value = cursor.integer(u64::MAX)?;
    (cursor.pos == text.len() && value <= u64::from(MAX_TOKEN_ID)).then_some(value as i32)
}

#[cold]
fn exact_double(bytes: &[u8], pos: usize) -> Option<(f64, usize)> {
    let end = number_end(bytes, pos).ok()?;
    let text = &bytes[pos..end];
    if let Some(value) = decimal_slow::many_digits(text) {
        return Some((value, end));
    }
    Some((std::str::from_utf8(text).ok()?.parse().ok()?, end))
}

/// Powers of ten that the fast path knows.
const MAX_POWER: i32 = 54;

/// `5^q` for `q` in `-MAX_POWER..=MAX_POWER`: the highest 64 bits, truncated, and the exponent of two that goes with them.
static POWERS_OF_FIVE: [(u64, i32); 2 * MAX_POWER as usize + 1] = powers_of_five();

const fn powers_of_five() -> [(u64, i32); 2 * MAX_POWER as usize + 1] {
    let mut table = [(0, 0); 2 * MAX_POWER as usize + 1];
    let mut power = 1u128;
    let mut q = 0;
    while q <= MAX_POWER as usize {
        let bits = 128 - power.leading_zeros() as i32;
        let top = if bits > 64 {
            power >> (bits - 64)
        } else {
            power << (64 - bits)
        };
        table[MAX_POWER as usize + q] = (top as u64, bits - 64);
        if q > 0 {
            // The reciprocal by long division: 2^(63 + bits) / 5^q has exactly 64 bits.
            let mut quotient = 0u64;
            let mut remainder = 1u128;
            let mut step = 0;
            while step < 63 + bits {
                remainder <<= 1;
                quotient <<= 1;
                if remainder >= power {
                    remainder -= power;
                    quotient |= 1;
                }
                step += 1;
            }
            table[MAX_POWER as usize - q] = (quotient, -(63 + bits));
        }
        if q < MAX_POWER as usize {
            power *= 5;
        }
        q += 1;
    }
    table
}

/// Powers of ten of up to 16 fraction digits.
const TENS: [u64; 17] = {
    let mut tens = [1; 17];
    let mut n = 1;
    while n < 17 {
        tens[n] = 10 * tens[n - 1];
        n += 1;
    }
    tens
};

/// A number as engines write log-probabilities: one or two digits, a point, digits, perhaps an exponent, well before the
/// end of the body. None where it is anything else.
#[inline(always)]
fn usual_double(bytes: &[u8], pos: usize) -> Option<(f64, usize)> {
    let window = bytes.get(pos..)?.first_chunk::<32>()?;
    let negative = window[0] == b'-';
    let sign = usize::from(negative);
    let mut whole = u64::from(window[sign].wrapping_sub(b'0'));
    if whole > 9 {
        return None;
    }
    let mut point = sign + 1;
    if window[point] != b'.' {
        let second = u64::from(window[point].wrapping_sub(b'0'));
        if whole == 0 || second > 9 || window[point + 1] != b'.' {
            return None;
        }
        whole = whole * 10 + second;
        point += 1;
    }
    let low = u64::from_le_bytes(*window[point + 1..].first_chunk()?) ^ ZEROS;
    let high = u64::from_le_bytes(*window[point + 9..].first_chunk()?) ^ ZEROS;
    let mut digits = leading_digits(low) as usize;
    let mut mantissa = whole;
    if digits == 8 {
        digits += leading_digits(high) as usize;
    }
    if digits == 16 {
        mantissa = whole * TENS[16] + eight_digits(low) * TENS[8] + eight_digits(high);
        while let digit @ 0..=9 = window[point + 1 + digits].wrapping_sub(b'0') {
            // A u64 holds 19 digits, of which up to two stand before the point.
            if digits == 17 + 2 * usize::from(whole == 0) {
                return None;
            }
            mantissa = mantissa * 10 + u64::from(digit);
            digits += 1;
        }
    } else {
        if digits == 0 {
            return None;
        }
        // What is no digit goes out at the top; zeros come in at the bottom, which is the front of the text.
        let both = (u128::from(low) | u128::from(high) << 64) << (8 * (16 - digits));
        let fraction = eight_digits(both as u64) * TENS[8] + eight_digits((both >> 64) as u64);
        mantissa = mantissa * TENS[digits] + fraction;
    }
    let mut exponent = -(digits as i32);
    let mut end = point + 1 + digits;
    if window[end] | 0x20 == b'e' {
        let minus = window[end + 1] == b'-';
        end += 1 + usize::from(minus || window[end + 1] == b'+');
        let mut written = 0;
        let first = end;
        while let digit @ 0..=9 = window[end].wrapping_sub(b'0') {
            written = written * 10 + i32::from(digit);
            end += 1;
            if end > first + 3 {
                return None;
            }
        }
        if end == first {
            return None;
        }
        exponent += if minus { -written } else { written };
    }
    let magnitude = scale(mantissa, exponent)?;
    Some((if negative { -magnitude } else { magnitude }, pos + end))
}

/// A number of up to 19 significant digits and a small exponent, in any spelling. None where it is anything else, or where
/// 64 bits of the power of five do not decide the rounding (two in a thousand).
#[inline(never)]
fn any_double(bytes: &[u8], pos: usize) -> Option<(f64, usize)> {
    let end = number_end(bytes, pos).ok()?;
    let text = &bytes[pos..end];
    let unsigned = text.strip_prefix(b"-").unwrap_or(text);
    let (mut mantissa, mut exponent) = (0u64, 0i32);
    let mut fraction = false;
    for (i, &byte) in unsigned.iter().enumerate() {
        match byte {
            b'0'..=b'9' if mantissa >= TENS[16] * 100 => return None,
            b'0'..=b'9' => {
                mantissa = mantissa * 10 + u64::from(byte - b'0');
                exponent -= i32::from(fraction);
            }
            b'.' => fraction = true,
            _ => {
                let written = std::str::from_utf8(&unsigned[i + 1..]).ok()?;
                exponent = exponent.checked_add(written.parse::<i32>().ok()?)?;
                break;
            }
        }
    }
    let magnitude = scale(mantissa, exponent)?;
    Some((
        if text.len() > unsigned.len() {
            -magnitude
        } else {
            magnitude
        },
        end,
    ))
}

/// `mantissa * 10^exponent`, correctly rounded. None where it cannot tell.
#[inline(always)]
fn scale(mantissa: u64, exponent: i32) -> Option<f64> {
    if mantissa == 0 {
        return Some(0.0);
    }
    if !(-MAX_POWER..=MAX_POWER).contains(&exponent) {
        return None;
    }
    let (five, five_exponent) = POWERS_OF_FIVE[(exponent + MAX_POWER) as usize];
    let shift = mantissa.leading_zeros();
    // The true product lies in [product, product + 2^64): its upper half is `high` or `high + 1`, and a bit.
    let product = u128::from(mantissa << shift) * u128::from(five);
    let high = (product >> 64) as u64;
    let drop = 10 + (high >> 63) as u32;
    let dropped = high & ((1 << drop) - 1);
    let half = 1u64 << (drop - 1);
    if dropped == half || dropped == half - 1 {
        return None;
    }
    let kept = (high >> drop) + u64::from(dropped > half);
    // kept * 2^e; it has 53 bits, or is 2^53 after a carry, which the addition below takes into the exponent.
    let e = five_exponent + exponent - shift as i32 + 64 + drop as i32;
    let biased = e + 52 + 1023;
    if !(1..2046).contains(&biased) {
        return None;
    }
    Some(f64::from_bits(((biased as u64) << 52) + (kept - (1 << 52))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> Option<f64> {
        // What follows a number in a document, and room for whole-word loads.
        let padded = format!("{text},          ");
        let mut cursor = Cursor::new(padded.as_bytes());
        let value = cursor.double()?;
        assert_eq!(cursor.pos, text.len(), "{text}");
        let mut exact = Cursor::new(text.as_bytes());
        assert_eq!(
            exact.double().map(f64::to_bits),
            Some(value.to_bits()),
            "{text}"
        );
        Some(value)
    }

    fn same(text: &str) {
        let expected: f64 = text.parse().unwrap();
        let value = read(text).unwrap();
        assert_eq!(
            value.to_bits(),
            expected.to_bits(),
            "{text}: {value} {expected}"
        );
    }

    #[test]
    fn known_hard_numbers() {
        for text in [
            "0",
            "-0",
            "0.0",
            "-0.0",
            "1",
            "-1",
            "0.1",
            "-9999.0",
            "-1e30",
            "-1.0000000150474662e30",
            "9007199254740993",
            "9007199254740992.5",
            "9007199254740993.0000000000000001",
            "2.2250738585072014e-308",
            "2.2250738585072011e-308",
            "4.9e-324",
            "1e-400",
            "1e400",
            "1.7976931348623157e308",
            "1.7976931348623159e308",
            "0.00012345678901234567",
            "0.000000000000000000000000000001",
            "123456789012345678901234567890",
            "1e23",
            "8.5e22",
            "18446744073709551615",
            "18446744073709551616",
            "99999999999999999999",
            "6.02214076e23",
            "-0.10000000149011612",
            "-1.1920928955078125e-07",
            "-12.345678329467773",
            "1e0",
            "1E+05",
            "0e999",
            "0.0000000000000000000000000000000000000000000000000000000000001e61",
            "5e-324",
            "1.00000000000000011102230246251565404236316680908203125",
        ] {
            same(text);
        }
    }

    #[test]
    fn what_is_no_number_is_refused() {
        for text in [
            "", "-", "+1", ".5", "1.", "01", "-01", "1e", "1e+", "--1", "NaN", "inf", "0x1",
            "1.e5", "00.5",
        ] {
            let mut cursor = Cursor::new(text.as_bytes());
            let whole = cursor.double().is_some() && cursor.pos == text.len();
            assert!(!whole, "{text}");
        }
    }

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

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]

        #[test]
        fn doubles_of_floats_round_trip(bits in any::<u32>()) {
            let x = f64::from(f32::from_bits(bits));
            if x.is_finite() {
                same(&format!("{x:?}"));
                same(&format!("{x:e}"));
            }
        }

        #[test]
        fn doubles_round_trip(bits in any::<u64>()) {
            let x = f64::from_bits(bits);
            if x.is_finite() {
                same(&format!("{x:?}"));
            }
        }

        #[test]
        fn any_decimal_rounds_as_std(text in r"-?(0|[1-9][0-9]{0,20})(\.[0-9]{1,24})?([eE][+-]?[0-9]{1,3})?") {
            same(&text);
        }

        #[test]
        fn logprobs_round_as_std(text in r"-(0|[1-9][0-9]?)\.0{0,6}[0-9]{12,18}(e-0?[1-9])?") {
            same(&text);
        }

        #[test]
        fn midpoints_round_as_std(bits in 0x3f00_0000_0000_0000u64..0x4100_0000_0000_0000, tail in 0..3u8) {
            // Halfway between neighbours, exactly, just below and just above.
            let (a, b) = (f64::from_bits(bits), f64::from_bits(bits + 1));
            let mut text = format!("{:.80}", a);
            let other = format!("{:.80}", b);
            let sum: Vec<u8> = halve(text.as_bytes(), other.as_bytes());
            text = String::from_utf8(sum).unwrap();
            match tail {
                0 => {}
                1 => text.push('1'),
                _ => text.truncate(20),
            }
            same(&text);
        }
    }

    /// The decimal halfway between two decimals with the same number of fraction digits.
    fn halve(a: &[u8], b: &[u8]) -> Vec<u8> {
        let pad = |x: &[u8], n: usize| [vec![b'0'; n - x.len()], x.to_vec()].concat();
        let n = a.len().max(b.len());
        let (a, b) = (pad(a, n), pad(b, n));
        let mut sum = vec![0u8; n];
        let mut carry = 0;
        for i in (0..n).rev() {
            if a[i] == b'.' {
                continue;
            }
            let s = a[i] - b'0' + b[i] - b'0' + carry;
            sum[i] = s % 10;
            carry = s / 10;
        }
        let mut out = Vec::new();
        let mut remainder = carry;
        for i in 0..n {
            if a[i] == b'.' {
                out.push(b'.');
                continue;
            }
            let value = remainder * 10 + sum[i];
            out.push(b'0' + value / 2);
            remainder = value % 2;
        }
        out.push(if remainder == 1 { b'5' } else { b'0' });
        let zeros = out.iter().take_while(|&&d| d == b'0').count();
        let zeros = if out.get(zeros) == Some(&b'.') {
            zeros - 1
        } else {
            zeros
        };
        out.split_off(zeros)
    }
}
