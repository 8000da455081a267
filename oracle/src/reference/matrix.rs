//! (d), its end: vLLM's log-probabilities of given ids along the prompt.

use super::json::Node;
use super::logprobs::{alignment, possible};
use super::readers::{self, Logprob};
use super::{Matrix, base64, npy};
use dynamo_tito::limits::MAX_NPY_HEADER;
use dynamo_tito::{Class, Error, Options, Result};

/// Reads an npy file of float32 in two dimensions; `prompt` is P.
pub(super) fn read(
    node: &Node,
    path: &str,
    prompt: Option<u64>,
    options: &Options<'_>,
) -> Result<Matrix> {
    let refuse = |kind, offset, message: &str| {
        Error::new(Class::Malformed, kind, path, offset, message.to_owned())
    };
    let Some(text) = node.as_text() else {
        return Err(readers::wrong_type(path, node, "a string"));
    };
    let encoded = text.value.as_bytes();
    let Some(decoded_len) = base64::decoded_len(encoded) else {
        return Err(refuse("base64", node.end - 1, "no whole groups of four"));
    };
    let decode = |groups| {
        base64::decode(encoded, groups).map_err(|position| {
            let offset = match text.escaped {
                true => node.start,
                false => node.start + 1 + position,
            };
            refuse("base64", offset, "not canonical base64")
        })
    };
    let bad = |message| refuse("npy", node.start, message);
    if decoded_len < 12 {
        return Err(bad("too short for an npy file"));
    }
    let preamble = decode(4)?;
    if !preamble.starts_with(b"\x93NUMPY") {
        return Err(bad("not an npy file"));
    }
    let u16_at = |at: usize| usize::from(u16::from_le_bytes([preamble[at], preamble[at + 1]]));
    let (text_start, text_len) = match preamble[6..8] {
        [1, 0] => (10, u16_at(8)),
        [2, 0] => (12, u16_at(8) + (u16_at(10) << 16)),
        _ => return Err(bad("expected version 1.0 or 2.0 of the npy format")),
    };
    let header = text_start + text_len;
    if text_len > MAX_NPY_HEADER || header > decoded_len {
        return Err(bad("the npy header does not end"));
    }
    let bytes = decode(header.div_ceil(3))?;
    let shape = match npy::parse(&bytes[text_start..header], 2) {
        Some(described) if described.descr == "<f4" => described.shape,
        _ => return Err(bad("not a header of a two-dimensional array of float32")),
    };
    let (rows, width) = match shape[..] {
        [rows, width] if width > 0 => (rows, width),
        _ => return Err(bad("a row is empty")),
    };
    let expected = u128::from(rows) * u128::from(width) * 4 + header as u128;
    if expected != decoded_len as u128 || width >= 1 << 61 {
        return Err(refuse(
            "size",
            node.start,
            "the shape does not fit the bytes",
        ));
    }
    if rows > options.limits.max_tokens as u64 {
        return Err(refuse("too_many", node.start, "more rows than are allowed"));
    }
    if let Some(prompt) = prompt
        && rows > prompt.saturating_sub(1)
    {
        let message = format!("{rows} rows for {prompt} tokens");
        return Err(alignment("count", path.to_owned(), node.start, message));
    }
    let decoded = decode(usize::MAX)?;
    let mut values = Vec::new();
    for (i, item) in decoded[header..].chunks(4).enumerate() {
        let value = f32::from_le_bytes(item.try_into().expect("four bytes"));
        let path = format!("{path}[{}][{}]", i as u64 / width, i as u64 % width);
        if value.is_nan() || value == f32::INFINITY {
            let message = "no log-probability";
            return Err(Error::new(
                Class::Malformed,
                "range",
                path,
                node.start,
                message,
            ));
        }
        let logprob = Logprob {
            value: Some(value.into()),
            offset: node.start,
        };
        possible(logprob, &path)?;
        values.push(value);
    }
    Ok(Matrix {
        values,
        shape: [rows, width],
    })
}
