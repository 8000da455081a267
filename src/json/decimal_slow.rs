//! Doubles of more digits than 64 bits hold: the rounding is decided by all of them, in exact arithmetic.
//!
//! The time grows with the digits and not with the exponent, so that no number takes much longer than its text is long.

use std::cmp::Ordering;

/// Digits that can decide: the midpoint of two doubles has at most 767, what is behind only says "a little more".
const DECIDING: usize = 800;

/// Below ten to this everything rounds to zero.
const ALL_ZERO: i64 = -330;

/// Digits of a `u64`, whatever they are.
const WORD_DIGITS: usize = 19;

/// The value of a number of the JSON grammar, correctly rounded. May be infinite. None where it is short: `parse` is exact.
pub(super) fn many_digits(text: &[u8]) -> Option<f64> {
    let negative = text.first() == Some(&b'-');
    let decimal = Decimal::new(&text[usize::from(negative)..])?;
    let below = decimal.truncated()?;
    let magnitude = if below.is_finite()
        && decimal.exponent + decimal.len as i64 > ALL_ZERO
        && decimal.is_above_midpoint(below)
    {
        f64::from_bits(below.to_bits() + 1)
    } else {
        below
    };
    Some(if negative { -magnitude } else { magnitude })
}

/// `digits * 10^exponent`, and perhaps a little more.
struct Decimal {
    digits: [u8; DECIDING],
    len: usize,
    exponent: i64,
    more: bool,
}

impl Decimal {
    /// None where there are no more digits than a word holds.
    fn new(text: &[u8]) -> Option<Self> {
        let mantissa_end = text.iter().position(|byte| byte | 0x20 == b'e');
        let (mantissa, written) = text.split_at(mantissa_end.unwrap_or(text.len()));
        let point = mantissa.iter().position(|&byte| byte == b'.');
        let zeros = mantissa
            .iter()
            .take_while(|&&byte| matches!(byte, b'0' | b'.'))
            .count();
        if mantissa.len() - zeros <= WORD_DIGITS {
            return None;
        }
        let mut decimal = Decimal {
            digits: [0; DECIDING],
            len: 0,
            exponent: 0,
            more: false,
        };
        let significant = &mantissa[zeros..];
        let mut used = 0;
        for &byte in significant {
            if decimal.len == DECIDING {
                break;
            }
            used += 1;
            if byte != b'.' {
                decimal.digits[decimal.len] = byte - b'0';
                decimal.len += 1;
            }
        }
        decimal.more = significant[used..]
            .iter()
            .any(|&byte| !matches!(byte, b'0' | b'.'));
        // The digits that were used end here; the point stands somewhere to their left or right.
        let end = zeros + used;
        let shift = match point {
            Some(point) if end > point => point as i64 + 1 - end as i64,
            Some(point) => point as i64 - end as i64,
            None => mantissa.len() as i64 - end as i64,
        };
        decimal.exponent = shift + exponent(written);
        Some(decimal)
    }

    /// The double nearest to the first digits; never above the one nearest to the number, and at most one below.
    fn truncated(&self) -> Option<f64> {
        let mut text = [0u8; 48];
        let count = self.len.min(WORD_DIGITS);
        for (byte, digit) in text.iter_mut().zip(&self.digits[..count]) {
            *byte = b'0' + digit;
        }
        let exponent = (self.exponent + (self.len - count) as i64).clamp(-99_999, 99_999);
        let mut at = count + 2;
        text[count] = b'e';
        text[count + 1] = if exponent < 0 { b'-' } else { b'+' };
        for power in [10_000, 1_000, 100, 10, 1] {
            text[at] = b'0' + (exponent.unsigned_abs() / power % 10) as u8;
            at += 1;
        }
        std::str::from_utf8(&text[..at]).ok()?.parse().ok()
    }

    /// Whether the number rounds to the double above `below`, which is the nearest to its first digits.
    fn is_above_midpoint(&self, below: f64) -> bool {
        let bits = below.to_bits();
        let (fraction, biased) = (bits & ((1 << 52) - 1), (bits >> 52) as i64);
        let (mantissa, power) = if biased == 0 {
            (fraction, -1074)
        } else {
            (fraction | 1 << 52, biased - 1075)
        };
        // digits * 10^exponent against (2 * mantissa + 1) * 2^(power - 1), on the side of which each factor is whole.
        let mut left = Natural::of_digits(&self.digits[..self.len]);
        let mut right = Natural::of(2 * mantissa + 1);
        let fives = self.exponent.unsigned_abs() as usize;
        if self.exponent >= 0 {
            left.multiply_by_five_to(fives);
        } else {
            right.multiply_by_five_to(fives);
        }
        let twos = self.exponent - (power - 1);
        if twos >= 0 {
            left.shift_left(twos as usize);
        } else {
            right.shift_left(twos.unsigned_abs() as usize);
        }
        match left.compare(&right) {
            Ordering::Less => false,
            Ordering::Greater => true,
            Ordering::Equal => self.more || mantissa & 1 == 1,
        }
    }
}

/// The exponent as it is written, bounded where no sum with a text's length can matter any more.
fn exponent(written: &[u8]) -> i64 {
    const FAR: i64 = 1 << 60;
    let Some((_, rest)) = written.split_first() else {
        return 0;
    };
    let negative = rest.first() == Some(&b'-');
    let mut value = 0i64;
    for &byte in rest.iter().filter(|byte| byte.is_ascii_digit()) {
        value = (value * 10 + i64::from(byte - b'0')).min(FAR / 16);
    }
    if negative { -value } else { value }
}

/// Room for [`DECIDING`] digits, or the power of five that they are divided by, and 64 bits.
const LIMBS: usize = 64;

/// A natural number; the lowest limb is the first.
struct Natural {
    limbs: [u64; LIMBS],
    len: usize,
}

impl Natural {
    fn of(value: u64) -> Self {
        let mut limbs = [0; LIMBS];
        limbs[0] = value;
        Natural { limbs, len: 1 }
    }

    fn of_digits(digits: &[u8]) -> Self {
        let mut natural = Natural::of(0);
        for chunk in digits.chunks(WORD_DIGITS) {
            let value = chunk
                .iter()
                .fold(0, |value, &digit| value * 10 + u64::from(digit));
            natural.multiply_add(10u64.pow(chunk.len() as u32), value);
        }
        natural
    }

    fn multiply_add(&mut self, factor: u64, summand: u64) {
        let mut carry = summand;
        for limb in &mut self.limbs[..self.len] {
            let product = u128::from(*limb) * u128::from(factor) + u128::from(carry);
            (*limb, carry) = (product as u64, (product >> 64) as u64);
        }
        if carry != 0 {
            self.limbs[self.len] = carry;
            self.len += 1;
        }
    }

    fn multiply_by_five_to(&mut self, power: usize) {
        const WORD_POWER: usize = 27;
        for _ in 0..power / WORD_POWER {
            self.multiply_add(5u64.pow(WORD_POWER as u32), 0);
        }
        self.multiply_add(5u64.pow((power % WORD_POWER) as u32), 0);
    }

    fn shift_left(&mut self, bits: usize) {
        let (words, bits) = (bits / 64, bits % 64);
        if bits > 0 {
            self.multiply_add(1 << bits, 0);
        }
        self.limbs.copy_within(..self.len, words);
        self.limbs[..words].fill(0);
        self.len += words;
    }

    fn compare(&self, other: &Self) -> Ordering {
        let significant = |natural: &Self| {
            let limbs = &natural.limbs[..natural.len];
            limbs
                .iter()
                .rposition(|&limb| limb != 0)
                .map_or(0, |at| at + 1)
        };
        let (ours, theirs) = (significant(self), significant(other));
        ours.cmp(&theirs).then_with(|| {
            let pairs = self.limbs[..ours]
                .iter()
                .rev()
                .zip(other.limbs[..theirs].iter().rev());
            pairs
                .map(|(one, two)| one.cmp(two))
                .find(|order| order.is_ne())
                .unwrap_or(Ordering::Equal)
        })
    }
}

#[cfg(test)]
#[path = "decimal_slow_tests.rs"]
mod tests;
