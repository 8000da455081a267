//! The header of an npy file (numpy's format versions 1 and 2).

use super::blob::Text;
use crate::base64::Element;
use crate::error::Result;
use crate::limits::MAX_NPY_HEADER;

/// What a header of N dimensions says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header<T, const N: usize> {
    pub(super) dtype: T,
    /// Of which no dimension but the first is zero.
    pub(super) shape: [u64; N],
    /// Where the rows begin, in decoded bytes.
    pub(super) data: usize,
}

/// The integers that routed experts may be.
pub(super) fn integers(descr: &[u8]) -> Option<Element> {
    match descr {
        b"|u1" => Some(Element::U8),
        b"<u2" => Some(Element::U16),
        b"<i2" => Some(Element::I16),
        b"<i4" => Some(Element::I32),
        _ => None,
    }
}

/// Base64 of the magic string; raw int32 expert ids can never spell it.
pub(super) const SIGN: &[u8] = b"k05VTVBZ";

/// Reads the header, whose type is one that `dtype` knows. The inner `Err` says what is wrong with it, `unlike` of its
/// text; the outer one is about base64.
pub(super) fn header<T: Copy, const N: usize>(
    text: &Text<'_>,
    decoded_len: usize,
    dtype: impl Fn(&[u8]) -> Option<T>,
    unlike: &'static str,
) -> Result<std::result::Result<Header<T, N>, &'static str>> {
    if decoded_len < 12 {
        return Ok(Err("an npy file has at least 12 bytes"));
    }
    let head = text.head(12)?;
    let (start, length) = match (&head[..6], head[6], head[7]) {
        (b"\x93NUMPY", 1, 0) => (10, usize::from(u16::from_le_bytes([head[8], head[9]]))),
        (b"\x93NUMPY", 2, 0) => (
            12,
            u32::from_le_bytes([head[8], head[9], head[10], head[11]]) as usize,
        ),
        _ => return Ok(Err("not an npy file of version 1.0 or 2.0")),
    };
    let data = start + length;
    if length > MAX_NPY_HEADER || data > decoded_len {
        return Ok(Err("the npy header is longer than the file"));
    }
    let head = text.head(data)?;
    Ok(Literal {
        text: &head[start..],
    }
    .header(dtype)
    .map(|(dtype, shape)| Header { dtype, shape, data })
    .ok_or(unlike))
}

/// A reader of the Python literal that numpy writes.
struct Literal<'a> {
    text: &'a [u8],
}

impl<'a> Literal<'a> {
    fn header<T, const N: usize>(
        mut self,
        dtype: impl Fn(&[u8]) -> Option<T>,
    ) -> Option<(T, [u64; N])> {
        let (mut descr, mut order, mut shape) = (None, None, None);
        self.mark(b'{')?;
        while self.mark(b'}').is_none() {
            let key = self.string()?;
            self.mark(b':')?;
            match key {
                b"descr" if descr.is_none() => {
                    descr = Some(dtype(self.string()?)?);
                }
                b"fortran_order" if order.is_none() => {
                    order = Some(self.word(b"False")?);
                }
                b"shape" if shape.is_none() => shape = Some(self.shape()?),
                _ => return None,
            }
            if self.mark(b',').is_none() {
                self.mark(b'}')?;
                break;
            }
        }
        self.space();
        order?;
        self.text.is_empty().then_some((descr?, shape?))
    }

    fn space(&mut self) {
        while let [b' ' | b'\t' | b'\n' | b'\r', rest @ ..] = self.text {
            self.text = rest;
        }
    }

    /// Steps over `byte` and the white space before it, if it follows.
    fn mark(&mut self, byte: u8) -> Option<()> {
        self.space();
        self.text = self.text.strip_prefix(&[byte])?;
        Some(())
    }

    fn word(&mut self, word: &[u8]) -> Option<()> {
        self.space();
        self.text = self.text.strip_prefix(word)?;
        Some(())
    }

    fn string(&mut self) -> Option<&'a [u8]> {
        self.space();
        let (&quote, rest) = self.text.split_first()?;
        if !matches!(quote, b'\'' | b'"') {
            return None;
        }
        let end = rest
            .iter()
            .position(|&byte| byte == quote || byte == b'\\')?;
        let (string, after) = rest.split_at(end);
        self.text = after.strip_prefix(&[quote])?;
        Some(string)
    }

    fn shape<const N: usize>(&mut self) -> Option<[u64; N]> {
        let mut shape = [0; N];
        self.mark(b'(')?;
        for (i, size) in shape.iter_mut().enumerate() {
            if i > 0 {
                self.mark(b',')?;
            }
            *size = self.integer()?;
        }
        let _ = self.mark(b',');
        self.mark(b')')?;
        shape[1..].iter().all(|&size| size > 0).then_some(shape)
    }

    fn integer(&mut self) -> Option<u64> {
        self.space();
        let len = self
            .text
            .iter()
            .take_while(|byte| byte.is_ascii_digit())
            .count();
        let (digits, rest) = self.text.split_at(len);
        if len == 0 || (len > 1 && digits[0] == b'0') {
            return None;
        }
        self.text = rest;
        let value: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
        (value < 1 << 63).then_some(value)
    }
}
