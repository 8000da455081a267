//! Correctly rounded doubles: three readers, from the spelling that engines write to any.

use super::cursor::Cursor;
use super::decimal_slow;
use super::number::{ZEROS, eight_digits, leading_digits, number_end};

impl Cursor<'_> {
    /// The number at `pos`, correctly rounded; steps behind it. None where it is no number. May be infinite.
    #[inline(always)]
    pub(crate) fn double(&mut self) -> Option<f64> {
        let (value, end) = usual_double(self.bytes, self.pos)
            .or_else(|| any_double(self.bytes, self.pos))
            .or_else(|| slow_double(self.bytes, self.pos))?;
        self.pos = end;
        Some(value)
    }
}

/// A number of any length, digit by digit.
#[cold]
fn slow_double(bytes: &[u8], pos: usize) -> Option<(f64, usize)> {
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

/// `mantissa * 10^exponent`, correctly rounded. None where 64 bits of the power do not decide the rounding.
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
#[path = "double_tests.rs"]
mod tests;
