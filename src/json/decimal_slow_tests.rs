use super::*;
use proptest::prelude::*;

fn same(text: &str) {
    let expected: f64 = text.parse().unwrap();
    if let Some(value) = many_digits(text.as_bytes()) {
        assert_eq!(
            value.to_bits(),
            expected.to_bits(),
            "{text}: {value:e} {expected:e}"
        );
    }
}

/// The decimal of `(2 * mantissa + 1) * 2^(power - 1)`, to its last digit: the midpoint of two doubles.
fn midpoint(value: f64) -> String {
    let bits = value.to_bits();
    let (fraction, biased) = (bits & ((1 << 52) - 1), (bits >> 52) as i64);
    let (mantissa, power) = if biased == 0 {
        (fraction, -1074)
    } else {
        (fraction | 1 << 52, biased - 1075)
    };
    // 2^-n is 5^n / 10^n: digits by schoolbook multiplication.
    let mut digits: Vec<u8> = (2 * mantissa + 1)
        .to_string()
        .bytes()
        .rev()
        .map(|digit| digit - b'0')
        .collect();
    let power = power - 1;
    let factor = if power < 0 { 5 } else { 2 };
    for _ in 0..power.unsigned_abs() {
        let mut carry = 0;
        for digit in &mut digits {
            let product = *digit * factor + carry;
            (*digit, carry) = (product % 10, product / 10);
        }
        if carry > 0 {
            digits.push(carry);
        }
    }
    let digits: String = digits
        .iter()
        .rev()
        .map(|digit| char::from(b'0' + digit))
        .collect();
    if power < 0 {
        format!("{digits}e{power}")
    } else {
        digits
    }
}

#[test]
fn short_numbers_are_left_to_others() {
    for text in [
        "0",
        "-0.0",
        "1.5e300",
        "1234567890123456789",
        "0.0000000000000000000000000001",
        "0.00e99",
    ] {
        assert_eq!(many_digits(text.as_bytes()), None, "{text}");
    }
}

#[test]
fn midpoints_and_what_is_beside_them() {
    for value in [
        0.0,
        5e-324,
        2.225073858507201e-308,
        2.2250738585072014e-308,
        1e-300,
        0.1,
        1.0,
        9007199254740992.0,
        9007199254740994.0,
        1e23,
        1e300,
        1.7976931348623155e308,
        f64::MAX,
    ] {
        let middle = midpoint(value);
        let (digits, exponent) = middle.split_once('e').unwrap_or((&middle, "0"));
        let power: i64 = exponent.parse().unwrap();
        for sign in ["", "-"] {
            same(&format!("{sign}{digits}e{power}"));
            same(&format!("{sign}{digits}.0e{power}"));
            same(&format!("{sign}{digits}.{}1e{power}", "0".repeat(900)));
            same(&format!("{sign}{digits}{}e{}", "0".repeat(40), power - 40));
            same(&format!(
                "{sign}0.{}{digits}E{}",
                "0".repeat(50),
                power + 50 + digits.len() as i64
            ));
            let below: String = format!("{}4{}", &digits[..digits.len() - 1], "9".repeat(900));
            same(&format!("{sign}{below}e{}", power - 900));
            for cut in [20, 25, 60, 300, 766, 767] {
                if cut < digits.len() {
                    let rest = power + (digits.len() - cut) as i64;
                    same(&format!("{sign}{}e{rest}", &digits[..cut]));
                    same(&format!(
                        "{sign}{}.{}e{}",
                        &digits[..1],
                        &digits[1..cut],
                        rest + cut as i64 - 1
                    ));
                }
            }
        }
    }
}

#[test]
fn far_beyond_what_fits() {
    for text in [
        "123456789012345678901e-99999999999999999999",
        "123456789012345678901e99999999999999999999",
        "0.123456789012345678901e-400",
        "99999999999999999999999e-347",
        "24703282292062327208299e-346",
        "24703282292062327208e-343",
        "0.00000000000000000000000000000000000000000000000000000000000000000000000000012345678901234567890123e77",
    ] {
        same(text);
        same(&format!("-{text}"));
    }
    same(&format!(
        "0.{}123456789012345678901234e5000",
        "0".repeat(5000)
    ));
    same(&format!(
        "123456789012345678901234{}e-5000",
        "0".repeat(5000)
    ));
    same(&"7".repeat(100_000));
    same(&format!("0.{}", "7".repeat(100_000)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn numbers_of_many_digits(text in "-?(0|[1-9][0-9]{0,30})\\.[0-9]{1,60}([eE][+-]?[0-9]{1,3})?") {
        same(&text);
    }

    #[test]
    fn midpoints_that_are_cut(bits in any::<u64>(), cut in 20usize..60, up in any::<bool>()) {
        // Of any mantissa, between 2^-130 and 2^130.
        let value = f64::from_bits((bits & ((1 << 52) - 1)) | (893 + (bits >> 52) % 260) << 52);
        let middle = midpoint(value);
        let (digits, exponent) = middle.split_once('e').unwrap_or((&middle, "0"));
        let power: i64 = exponent.parse().unwrap();
        same(&middle);
        if cut < digits.len() {
            let last = digits.as_bytes()[cut - 1];
            let last = if up && last < b'9' { last + 1 } else { last };
            let rest = power + (digits.len() - cut) as i64;
            same(&format!("{}{}e{rest}", &digits[..cut - 1], char::from(last)));
        }
    }
}
