//! Doubles against the standard library's.

use proptest::prelude::*;

use super::super::cursor::Cursor;

fn read(text: &str) -> Option<f64> {
    // What follows a number in a document, and room for whole-word loads.
    let padded = format!("{text},          ");
    let mut cursor = Cursor::new(padded.as_bytes());
    let value = cursor.double()?;
    assert_eq!(cursor.pos, text.len(), "{text}");
    let mut bare = Cursor::new(text.as_bytes());
    assert_eq!(
        bare.double().map(f64::to_bits),
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
        "", "-", "+1", ".5", "1.", "01", "-01", "1e", "1e+", "--1", "NaN", "inf", "0x1", "1.e5",
        "00.5",
    ] {
        let mut cursor = Cursor::new(text.as_bytes());
        let whole = cursor.double().is_some() && cursor.pos == text.len();
        assert!(!whole, "{text}");
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
