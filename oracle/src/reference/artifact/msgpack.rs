//! MessagePack as a tree. What breaks the bytes stands in the tree as the last value that was begun.

use dynamo_tito::{Class, Error};

/// A value, the offset where it begins, and whether a shorter spelling exists.
#[derive(Debug, Clone)]
pub(super) struct Item {
    pub(super) at: usize,
    pub(super) longer_than_needed: bool,
    pub(super) value: Value,
}

#[derive(Debug, Clone)]
pub(super) enum Value {
    Nil,
    Bool(bool),
    Integer(i128),
    Float(f64),
    Text(String),
    Bytes(Vec<u8>),
    /// How many elements the head speaks of, and those up to the first broken one.
    Array(u64, Vec<Item>),
    /// The same of pairs; keys and values in turn.
    Map(u64, Vec<Item>),
    Broken(Error),
}

impl Item {
    /// The first broken value.
    pub(super) fn broken(&self) -> Option<&Error> {
        match &self.value {
            Value::Broken(error) => Some(error),
            Value::Array(_, items) | Value::Map(_, items) => items.last()?.broken(),
            _ => None,
        }
    }
}

/// Reads the value at `*at`; offsets count from `base`. Deeper than `depth` nothing is read.
pub(super) fn read(bytes: &[u8], at: &mut usize, base: usize, depth: usize) -> Item {
    let begin = *at;
    let mut item = Item {
        at: base + begin,
        longer_than_needed: false,
        value: Value::Nil,
    };
    let result = value(bytes, at, base, depth, &mut item.longer_than_needed);
    item.value = result.unwrap_or_else(Value::Broken);
    item
}

type Read<T> = Result<T, Error>;

fn broken(kind: &'static str, at: usize) -> Error {
    Error::new(Class::Malformed, kind, "", at, "broken MessagePack")
}

/// An unsigned number of so many bytes, the first the highest.
fn number(bytes: &[u8], at: &mut usize, base: usize, len: usize) -> Read<u64> {
    let part = slice(bytes, at, base, len as u64)?;
    Ok(part
        .iter()
        .fold(0, |all, byte| all * 256 + u64::from(*byte)))
}

fn slice<'a>(bytes: &'a [u8], at: &mut usize, base: usize, len: u64) -> Read<&'a [u8]> {
    let left = bytes.len() - *at;
    if len > left as u64 {
        return Err(broken("truncated", base + bytes.len()));
    }
    let begin = *at;
    *at += len as usize;
    Ok(&bytes[begin..*at])
}

fn value(
    bytes: &[u8],
    at: &mut usize,
    base: usize,
    depth: usize,
    longer: &mut bool,
) -> Read<Value> {
    let begin = base + *at;
    let first = number(bytes, at, base, 1)?;
    let len = |exponent: u64| 1 << exponent;
    Ok(match first {
        0x00..=0x7f => Value::Integer(first.into()),
        0xe0..=0xff => Value::Integer(i128::from(first) - 256),
        0xc0 => Value::Nil,
        0xc2 => Value::Bool(false),
        0xc3 => Value::Bool(true),
        0xca => {
            let bits = number(bytes, at, base, 4)?;
            Value::Float(f32::from_bits(bits as u32).into())
        }
        0xcb => Value::Float(f64::from_bits(number(bytes, at, base, 8)?)),
        0xcc..=0xcf => {
            let width = len(first - 0xcc);
            let found = number(bytes, at, base, width)?;
            let shorter = if width == 1 {
                0x7f
            } else {
                (1 << (4 * width)) - 1
            };
            *longer = found <= shorter;
            Value::Integer(found.into())
        }
        0xd0..=0xd3 => {
            let width = len(first - 0xd0);
            let found = i128::from(number(bytes, at, base, width)?);
            let modulus = 1_i128 << (8 * width);
            let found = if found >= modulus / 2 {
                found - modulus
            } else {
                found
            };
            let shorter = if width == 1 {
                -0x20
            } else {
                -(1_i128 << (4 * width - 1))
            };
            *longer = found >= shorter;
            Value::Integer(found)
        }
        0xa0..=0xbf => text(bytes, at, base, first - 0xa0)?,
        0xd9..=0xdb => {
            let width = len(first - 0xd9);
            let found = number(bytes, at, base, width)?;
            *longer = found <= [0x1f, 0xff, 0, 0xffff][width - 1];
            text(bytes, at, base, found)?
        }
        0xc4..=0xc6 => {
            let width = len(first - 0xc4);
            let found = number(bytes, at, base, width)?;
            *longer = width > 1 && found <= [0, 0xff, 0, 0xffff][width - 1];
            Value::Bytes(slice(bytes, at, base, found)?.to_vec())
        }
        0x80..=0x9f => {
            let found = first & 0xf;
            container(first >= 0x90, found, bytes, at, [base, begin, depth])?
        }
        0xdc..=0xdf => {
            let width = 2 * len((first - 0xdc) % 2);
            let found = number(bytes, at, base, width)?;
            *longer = found <= if width == 2 { 0xf } else { 0xffff };
            container(first < 0xde, found, bytes, at, [base, begin, depth])?
        }
        _ => return Err(broken("msgpack", begin)),
    })
}

fn text(bytes: &[u8], at: &mut usize, base: usize, len: u64) -> Read<Value> {
    let begin = *at;
    let text = slice(bytes, at, base, len)?;
    match std::str::from_utf8(text) {
        Ok(text) => Ok(Value::Text(text.to_owned())),
        Err(bad) => Err(broken("utf8", base + begin + bad.valid_up_to())),
    }
}

/// An array or a map, up to the first broken value.
fn container(
    is_array: bool,
    len: u64,
    bytes: &[u8],
    at: &mut usize,
    [base, begin, depth]: [usize; 3],
) -> Read<Value> {
    if depth == 0 {
        return Err(broken("too_deep", begin));
    }
    let mut items = Vec::new();
    for _ in 0..if is_array { len } else { 2 * len } {
        let item = read(bytes, at, base, depth - 1);
        let stop = item.broken().is_some();
        items.push(item);
        if stop {
            break;
        }
    }
    Ok(match is_array {
        true => Value::Array(len, items),
        false => Value::Map(len, items),
    })
}
