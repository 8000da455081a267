//! Routed experts: an npy header or the members of an object as text, and rows that fit it or nearly do.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use dynamo_tito::{Options, Wire};
use dynamo_tito_oracle::agreement::{self, HEADER};
use libfuzzer_sys::fuzzer_mutate;

/// Bytes behind the options: the form, what is wrong with it, how much the sizes are off, how long the rows are.
const SHAPING: usize = 5;

/// The longest row that is made; a shape may claim more.
const MOST_BYTES: u64 = 1 << 10;

/// What texts are made of: npy headers, members of objects, and their neighbours.
const TOKENS: &[&[u8]] = &[
    b"{'descr': '|u1', 'fortran_order': False, 'shape': (2, 4, 2), }",
    b"{\"shape\": (1, 1, 3), 'fortran_order': False, 'descr': '<i4'}",
    b"\"shape\":[2,4,2],\"start\":0,\"dtype\":\"uint8\"",
    b"\"shape\":[3,1,2],\"dtype\":\"int16\"",
    b"'descr'",
    b"'fortran_order'",
    b"'shape'",
    b"\"shape\"",
    b"\"start\"",
    b"\"dtype\"",
    b"\"data\"",
    b"|u1",
    b"<u2",
    b"<i2",
    b"<i4",
    b">i4",
    b"uint8",
    b"uint16",
    b"int16",
    b"int32",
    b"False",
    b"True",
    b"null",
    b"{",
    b"}",
    b"(",
    b")",
    b"[",
    b"]",
    b",",
    b": ",
    b"'",
    b"\"",
    b"\\",
    b" ",
    b"\t",
    b"\n",
    b"\x0b",
    b"0",
    b"1",
    b"2",
    b"4",
    b"-1",
    b"1.0",
    b"00",
    b"2305843009213693952",
    b"9223372036854775807",
    b"9223372036854775808",
    b"18446744073709551616",
    b"\xff",
];

/// The product of the first three integers of a text: the number of values of its shape.
fn values(text: &[u8]) -> u64 {
    let shape = text
        .windows(5)
        .position(|word| word == b"shape")
        .unwrap_or(0);
    text[shape..]
        .split(|byte| !byte.is_ascii_digit())
        .filter_map(|digits| std::str::from_utf8(digits).ok()?.parse::<u64>().ok())
        .take(3)
        .fold(1, u64::saturating_mul)
}

/// The body that an input stands for.
fn body(options: &Options<'_>, input: &[u8]) -> Option<Vec<u8>> {
    let (&[form, wrong, off, len_low, len_high], text) = input.split_first_chunk::<SHAPING>()?;
    let len = match form & 3 {
        0 => u64::from(u16::from_le_bytes([len_low, len_high])),
        width => values(text).saturating_mul([1, 2, 4][usize::from(width) - 1]),
    };
    let off = match off {
        0..192 => 0,
        _ => i64::from(off) - 224,
    };
    let len = len.min(MOST_BYTES).saturating_add_signed(off);
    let rows: Vec<u8> = (0..len).map(|i| (i * 37 % 251) as u8).collect();

    let mut experts = Vec::new();
    let quoted = |bytes: &[u8], experts: &mut Vec<u8>| {
        let mut text = STANDARD.encode(bytes).into_bytes();
        // A character that base64 does not know, escapes, or one group less.
        match wrong & 7 {
            1 => {
                let at = usize::from(len_low) % text.len().max(1);
                if let Some(letter) = text.get_mut(at) {
                    *letter = b'-';
                }
            }
            2 => text.truncate(text.len().saturating_sub(4)),
            3 => text.extend_from_slice(b"\\u003d"),
            4 => text.extend_from_slice(b"\\/AAA"),
            _ => {}
        }
        experts.push(b'"');
        experts.extend(text);
        experts.push(b'"');
    };
    match form >> 2 & 3 {
        0 => {
            experts.extend_from_slice(b"{\"data\":");
            quoted(&rows, &mut experts);
            experts.push(b',');
            experts.extend_from_slice(text);
            experts.push(b'}');
        }
        1 => quoted(&rows, &mut experts),
        version => {
            let mut file = b"\x93NUMPY".to_vec();
            file.extend([version - 1, 0]);
            let told = (text.len() as u32).wrapping_add_signed(match wrong >> 4 {
                0..12 => 0,
                more => i32::from(more) - 13,
            });
            let told = told.to_le_bytes();
            file.extend_from_slice(if version == 2 { &told[..2] } else { &told });
            file.extend_from_slice(text);
            file.extend(rows);
            quoted(&file, &mut experts);
        }
    }
    let (before, behind): (&[u8], &[u8]) = match options.wire {
        Wire::DynamoChat | Wire::DynamoCompletions => (
            br#"{"choices":[{"token_ids":[7,8]}],"nvext":{"routed_experts":"#,
            b"}}",
        ),
        Wire::VllmGenerate | Wire::VllmChat | Wire::VllmCompletions => (
            br#"{"choices":[{"token_ids":[7,8],"routed_experts":"#,
            b"}]}",
        ),
        Wire::SglangGenerate => (
            br#"{"output_ids":[7,8],"meta_info":{"routed_experts":"#,
            b"}}",
        ),
        Wire::SglangChat => (
            br#"{"choices":[{"response_token_ids":[7,8],"meta_info":{"routed_experts":"#,
            b"}}]}",
        ),
    };
    Some([before, &experts, behind].concat())
}

/// Panics where the two decoders differ.
pub fn judge(input: &[u8]) {
    let Some((options, input)) = agreement::case(input) else {
        return;
    };
    let options = Options {
        require_logprobs: false,
        ..options
    };
    let Some(body) = body(&options, input) else {
        return;
    };
    if let Err(difference) = agreement::agree_on_one(&body, &options) {
        panic!("{}\n{options:?}\n{difference}", body.escape_ascii());
    }
}

/// Puts tokens into the text, over it, or takes some of it away; changes single bytes at times.
pub fn mutate(data: &mut [u8], size: usize, max_size: usize, seed: u32) -> usize {
    let mut noise = u64::from(seed) << 1 | 1;
    let mut below = |n: usize| {
        noise = noise.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        (noise >> 33) as usize % n
    };
    let front = HEADER + SHAPING;
    if size >= front && below(3) == 0 {
        return fuzzer_mutate(data, size, max_size);
    }
    let mut input = data[..size].to_vec();
    if size < front || below(50) == 0 {
        input = vec![255; front];
        // No options but the wire; a form, sizes that fit.
        input[0] = below(256) as u8;
        input[1] = 0;
        input[3] = 0;
        input[HEADER] = below(16) as u8;
        input[HEADER + 1..].fill(0);
        input.extend_from_slice(TOKENS[below(4)]);
    }
    let token = TOKENS[below(TOKENS.len())];
    let at = front + below(input.len() - front + 1);
    let gone = below(8).min(input.len() - at);
    match below(4) {
        0 => drop(input.splice(at..at, token.iter().copied())),
        1 => drop(input.splice(at..at + gone, token.iter().copied())),
        2 => drop(input.drain(at..at + gone)),
        _ => input[below(front)] = below(256) as u8,
    }
    if input.len() > max_size {
        return fuzzer_mutate(data, size, max_size);
    }
    data[..input.len()].copy_from_slice(&input);
    input.len()
}
