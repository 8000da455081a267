//! A strict MessagePack reader, one token at a time.
//!
//! Crates decode into values and accept what is not canonical: a length in more bytes than it needs, a repeated key. Here each token says whether it is written in its shortest form.

use crate::error::{Class, Error, Result};

/// What a value is, or how it begins.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Token<'a> {
    Nil,
    Bool(bool),
    /// Zero or more.
    Uint(u64),
    /// Less than zero.
    Int(i64),
    /// Also of a single-precision one.
    Float(f64),
    Text(&'a str),
    Bytes(&'a [u8]),
    /// So many values follow.
    Array(u32),
    /// So many pairs of values follow.
    Map(u32),
}

/// A reading position.
#[derive(Debug, Clone)]
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    /// The next byte.
    pub(super) pos: usize,
    /// Every token so far was written in its shortest form.
    pub(super) shortest: bool,
    /// Where the first byte stands, for errors.
    base: usize,
}

impl<'a> Reader<'a> {
    /// At the first byte, which is that of the object's byte `base`.
    pub(super) fn new(bytes: &'a [u8], base: usize) -> Self {
        Self {
            bytes,
            pos: 0,
            shortest: true,
            base,
        }
    }

    /// The offset of the next byte in the object.
    pub(super) fn at(&self) -> usize {
        self.base + self.pos
    }

    /// Whether nothing follows.
    pub(super) fn is_at_end(&self) -> bool {
        self.pos == self.bytes.len()
    }

    /// Reads a scalar, or the head of an array or a map.
    pub(super) fn token(&mut self) -> Result<Token<'a>> {
        let at = self.at();
        let [first] = self.take::<1>()?;
        let (token, shortest) = match first {
            0x00..=0x7f => (Token::Uint(first.into()), true),
            0x80..=0x8f => (Token::Map(u32::from(first & 0xf)), true),
            0x90..=0x9f => (Token::Array(u32::from(first & 0xf)), true),
            0xa0..=0xbf => (self.text(u32::from(first & 0x1f))?, true),
            0xc0 => (Token::Nil, true),
            0xc2 | 0xc3 => (Token::Bool(first == 0xc3), true),
            0xc4 => self.sized(8, 0, Self::binary)?,
            0xc5 => self.sized(16, 0xff, Self::binary)?,
            0xc6 => self.sized(32, 0xffff, Self::binary)?,
            0xca => {
                let value = f32::from_be_bytes(self.take()?);
                (Token::Float(value.into()), true)
            }
            0xcb => (Token::Float(f64::from_be_bytes(self.take()?)), true),
            0xcc => self.unsigned(8, 0x7f)?,
            0xcd => self.unsigned(16, 0xff)?,
            0xce => self.unsigned(32, 0xffff)?,
            0xcf => self.unsigned(64, 0xffff_ffff)?,
            0xd0 => self.signed(8, -0x20)?,
            0xd1 => self.signed(16, -0x80)?,
            0xd2 => self.signed(32, -0x8000)?,
            0xd3 => self.signed(64, -0x8000_0000)?,
            0xd9 => self.sized(8, 0x1f, Self::text)?,
            0xda => self.sized(16, 0xff, Self::text)?,
            0xdb => self.sized(32, 0xffff, Self::text)?,
            0xdc => self.sized(16, 0xf, |_, len| Ok(Token::Array(len)))?,
            0xdd => self.sized(32, 0xffff, |_, len| Ok(Token::Array(len)))?,
            0xde => self.sized(16, 0xf, |_, len| Ok(Token::Map(len)))?,
            0xdf => self.sized(32, 0xffff, |_, len| Ok(Token::Map(len)))?,
            0xe0..=0xff => (Token::Int(first.cast_signed().into()), true),
            0xc1 | 0xc7..=0xc9 | 0xd4..=0xd8 => {
                let message = format!("byte 0x{first:02x} begins no value that is used here");
                return Err(refused("msgpack", at, message));
            }
        };
        self.shortest &= shortest;
        Ok(token)
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N]> {
        let bytes = self.bytes[self.pos..].first_chunk();
        let bytes = *bytes.ok_or_else(|| self.truncated())?;
        self.pos += N;
        Ok(bytes)
    }

    /// A big-endian integer of so many bits.
    fn big_endian(&mut self, bits: u32) -> Result<u64> {
        Ok(match bits {
            8 => u8::from_be_bytes(self.take()?).into(),
            16 => u16::from_be_bytes(self.take()?).into(),
            32 => u32::from_be_bytes(self.take()?).into(),
            _ => u64::from_be_bytes(self.take()?),
        })
    }

    /// Shorter forms hold up to `shorter`.
    fn unsigned(&mut self, bits: u32, shorter: u64) -> Result<(Token<'a>, bool)> {
        let value = self.big_endian(bits)?;
        Ok((Token::Uint(value), value > shorter))
    }

    /// Shorter forms hold from `shorter` on.
    fn signed(&mut self, bits: u32, shorter: i64) -> Result<(Token<'a>, bool)> {
        let value = self.big_endian(bits)? << (64 - bits);
        let value = value.cast_signed() >> (64 - bits);
        Ok(match u64::try_from(value) {
            Ok(value) => (Token::Uint(value), false),
            Err(_) => (Token::Int(value), value < shorter),
        })
    }

    /// What a length of so many bits is that of; shorter forms hold up to `shorter`.
    fn sized(
        &mut self,
        bits: u32,
        shorter: u32,
        then: impl FnOnce(&mut Self, u32) -> Result<Token<'a>>,
    ) -> Result<(Token<'a>, bool)> {
        let len = self.big_endian(bits)? as u32;
        // Of bytes there is no form that is shorter than that of eight bits.
        let shortest = len > shorter || bits == 8 && shorter == 0;
        Ok((then(self, len)?, shortest))
    }

    fn binary(&mut self, len: u32) -> Result<Token<'a>> {
        let bytes = self.bytes[self.pos..].get(..len as usize);
        let bytes = bytes.ok_or_else(|| self.truncated())?;
        self.pos += bytes.len();
        Ok(Token::Bytes(bytes))
    }

    fn text(&mut self, len: u32) -> Result<Token<'a>> {
        let at = self.at();
        let Token::Bytes(bytes) = self.binary(len)? else {
            unreachable!("bytes");
        };
        let text = std::str::from_utf8(bytes).map_err(|bad| {
            let message = "an ill-formed UTF-8 sequence";
            refused("utf8", at + bad.valid_up_to(), message)
        })?;
        Ok(Token::Text(text))
    }

    #[cold]
    fn truncated(&self) -> Error {
        let at = self.base + self.bytes.len();
        refused("truncated", at, "the value does not end here")
    }
}

/// An error of the document.
#[cold]
pub(super) fn refused(
    kind: &'static str,
    at: usize,
    message: impl Into<std::borrow::Cow<'static, str>>,
) -> Error {
    Error::new(Class::Malformed, kind, "", at, message)
}
