//! Strings: where they end, and what they say.

use std::borrow::Cow;

use super::cursor::Cursor;
use super::simd;
use crate::error::{Class, Error, Result};

/// The text between two quotes, validated.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Text<'a> {
    /// The bytes between the quotes, as they stand in the body.
    pub(crate) raw: &'a [u8],
    /// The offset of the opening quote.
    pub(crate) at: usize,
    /// Whether `raw` has backslashes.
    pub(crate) escaped: bool,
}

impl<'a> Text<'a> {
    /// What the string says; None where it has a lone surrogate and so is not Unicode.
    pub(crate) fn bytes(&self) -> Option<Cow<'a, [u8]>> {
        if self.escaped {
            let mut out = Vec::with_capacity(self.raw.len());
            self.append_to(&mut out).then_some(Cow::Owned(out))
        } else {
            Some(Cow::Borrowed(self.raw))
        }
    }

    /// Appends what the string says; false where it has a lone surrogate and so is not Unicode.
    pub(crate) fn append_to(&self, out: &mut Vec<u8>) -> bool {
        unescape(self.raw, out, |_| None)
    }

    /// What the string says, or what at least `most` bytes of its text say where it is longer.
    pub(crate) fn head(&self, most: usize) -> Option<Vec<u8>> {
        if self.raw.len() <= most {
            return self.bytes().map(Cow::into_owned);
        }
        let mut end = 0;
        while end < most || self.raw.get(end).is_some_and(|byte| byte & 0xc0 == 0x80) {
            end += match self.raw.get(end..) {
                Some([b'\\', b'u', ..]) => 6,
                Some([b'\\', ..]) => 2,
                _ => 1,
            };
        }
        let raw = &self.raw[..end];
        // The cut may part a surrogate pair.
        Some(Text { raw, ..*self }.lossy())
    }

    /// What the string says, with U+FFFD for a lone surrogate.
    pub(crate) fn lossy(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.raw.len());
        unescape(self.raw, &mut out, |_| Some(char::REPLACEMENT_CHARACTER));
        out
    }

    /// [`Text::bytes`], or None where the string is longer than `longest` bytes for certain.
    pub(crate) fn short(&self, longest: usize) -> Option<Cow<'a, [u8]>> {
        // No byte takes more than a `\uXXXX`.
        if self.raw.len() > 6 * longest {
            return None;
        }
        self.bytes()
    }

    /// Whether the string says `other`.
    pub(crate) fn is(&self, other: &[u8]) -> bool {
        if self.raw.len() > 6 * other.len() {
            return false;
        }
        if self.escaped {
            self.bytes().is_some_and(|bytes| *bytes == *other)
        } else {
            self.raw == other
        }
    }
}

impl<'a> Cursor<'a> {
    /// Reads a string; `pos` is at its opening quote.
    #[inline(always)]
    pub(crate) fn string(&mut self) -> Result<Text<'a>> {
        let at = self.pos;
        // Most are short and plain.
        if let Some(window) = self.bytes.get(at + 1..).and_then(<[u8]>::first_chunk)
            && let Some(len) = simd::plain_len(window)
        {
            self.pos = at + len + 2;
            let raw = &self.bytes[at + 1..at + 1 + len];
            return Ok(Text {
                raw,
                at,
                escaped: false,
            });
        }
        self.any_string()
    }

    #[inline(never)]
    fn any_string(&mut self) -> Result<Text<'a>> {
        let at = self.pos;
        let mut pos = at + 1;
        let mut escaped = false;
        let mut high = false;
        let stop = 'string: loop {
            let (found, saw_high) = simd::find_special(&self.bytes[pos..]);
            high |= saw_high;
            pos += found;
            match self.bytes.get(pos) {
                Some(b'"') => break Ok(()),
                Some(b'\\') => {
                    escaped = true;
                    // They come in runs.
                    while self.bytes.get(pos) == Some(&b'\\') {
                        match escape_len(&self.bytes[pos..]) {
                            Ok(len) => pos += len,
                            Err(bad) => break 'string Err((pos + bad, "an escape")),
                        }
                    }
                }
                Some(_) => break Err((pos, "a string without control characters")),
                None => break Err((pos, "the rest of a string")),
            }
        };
        if high {
            let end = stop.map_or_else(|(offset, _)| offset, |()| pos);
            self.check_utf8(at + 1, end.min(self.bytes.len()))?;
        }
        match stop {
            Ok(()) => {
                self.pos = pos + 1;
                let raw = &self.bytes[at + 1..pos];
                Ok(Text { raw, at, escaped })
            }
            Err((offset, expected)) => Err(self.syntax(offset, expected)),
        }
    }

    /// A sequence that the end of the body cuts short is left to the caller: the body is truncated.
    fn check_utf8(&self, start: usize, end: usize) -> Result<()> {
        match std::str::from_utf8(&self.bytes[start..end]) {
            Ok(_) => Ok(()),
            Err(e) if e.error_len().is_none() && end == self.bytes.len() => Ok(()),
            Err(e) => Err(Error::new(
                Class::Malformed,
                "utf8",
                "",
                start + e.valid_up_to(),
                "the string is not UTF-8",
            )),
        }
    }
}

/// The length of the escape at the start of `bytes`, or the index of the byte that is wrong (or missing).
fn escape_len(bytes: &[u8]) -> std::result::Result<usize, usize> {
    match bytes.get(1) {
        Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => Ok(2),
        Some(b'u') if bytes.get(2..6).is_some_and(|hex| hex4(hex).is_some()) => Ok(6),
        Some(b'u') => {
            let good = bytes[2..]
                .iter()
                .take(4)
                .take_while(|b| b.is_ascii_hexdigit())
                .count();
            Err(2 + good)
        }
        _ => Err(1),
    }
}

/// Resolves the escapes of validated text. `lone` says what stands for a lone surrogate; with None the text is no text.
fn unescape(raw: &[u8], out: &mut Vec<u8>, lone: impl Fn(u32) -> Option<char>) -> bool {
    let mut rest = raw;
    while let Some(&byte) = rest.first() {
        if byte != b'\\' {
            let run = rest.iter().position(|&byte| byte == b'\\');
            let (plain, behind) = rest.split_at(run.unwrap_or(rest.len()));
            out.extend_from_slice(plain);
            rest = behind;
            continue;
        }
        let simple = match rest[1] {
            b'b' => 0x08,
            b'f' => 0x0c,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'u' => {
                let (code, len) = unicode_escape(rest);
                let Some(character) = char::from_u32(code).or_else(|| lone(code)) else {
                    return false;
                };
                out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                rest = &rest[len..];
                continue;
            }
            other => other,
        };
        out.push(simple);
        rest = &rest[2..];
    }
    true
}

/// The value of four hexadecimal digits.
#[inline]
fn hex4(digits: &[u8]) -> Option<u32> {
    let digits: &[u8; 4] = digits.try_into().ok()?;
    let mut value = 0;
    for &digit in digits {
        let nibble = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            b'A'..=b'F' => digit - b'A' + 10,
            _ => return None,
        };
        value = value << 4 | u32::from(nibble);
    }
    Some(value)
}

/// The code of a `\uXXXX` escape or surrogate pair, and the length of its text. A lone surrogate is its own code.
fn unicode_escape(text: &[u8]) -> (u32, usize) {
    let unit = |at: usize| -> Option<u32> { hex4(text.get(at..at + 6)?.strip_prefix(b"\\u")?) };
    let first = unit(0).unwrap_or_default();
    let second = unit(6).filter(|second| (0xdc00..0xe000).contains(second));
    match second {
        Some(second) if (0xd800..0xdc00).contains(&first) => {
            (0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00), 12)
        }
        _ => (first, 6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &[u8]) -> Result<Vec<u8>> {
        let mut cursor = Cursor::new(body);
        let text = cursor.string()?;
        Ok(text.bytes().expect("Unicode").into_owned())
    }

    #[test]
    fn escapes_are_resolved() {
        let body = br#""\"\\\/\b\f\n\r\t\u0041\u00e9\ud83d\ude00 end""#;
        let expected = "\"\\/\u{8}\u{c}\n\r\tAé😀 end".as_bytes();
        assert_eq!(read(body).unwrap(), expected);
    }

    #[test]
    fn the_head_of_a_string_ends_with_a_character() {
        let mut body = String::from("\"");
        for _ in 0..50 {
            body.push_str(r"a\n\u00e9é你😀\ud83d\ude00");
        }
        body.push('"');
        let text = Cursor::new(body.as_bytes()).string().unwrap();
        let whole = text.bytes().unwrap();
        for most in 0..200 {
            let head = text.head(most).unwrap();
            let head = String::from_utf8(head).unwrap();
            let head = head.trim_end_matches(char::REPLACEMENT_CHARACTER);
            assert!(whole.starts_with(head.as_bytes()), "{most}");
            assert!(6 * head.len() + 6 >= most, "{most}");
        }
        assert_eq!(text.head(body.len()).unwrap(), *whole);
    }

    #[test]
    fn lone_surrogates_are_grammatical_but_say_nothing() {
        for body in [
            &br#""\ud800""#[..],
            br#""\udc00x""#,
            br#""\ud800\u0041""#,
            br#""\ud800\n""#,
        ] {
            let text = Cursor::new(body).string().unwrap();
            assert!(text.bytes().is_none(), "{}", String::from_utf8_lossy(body));
        }
    }

    #[test]
    fn the_wrong_byte_is_named() {
        for (body, kind, offset) in [
            (&b"\"abc"[..], "truncated", 4),
            (b"\"ab\x1fc\"", "syntax", 3),
            (b"\"\\x\"", "syntax", 2),
            (b"\"\\u12g4\"", "syntax", 5),
            (b"\"\\u12", "truncated", 5),
            (b"\"\\", "truncated", 2),
            (b"\"a\xff\"", "utf8", 2),
            (b"\"\xe4\xbd\"", "utf8", 1),
            (b"\"\xe4\xbd", "truncated", 3),
            (b"\"\xff\x01", "utf8", 1),
            (b"\"\xed\xa0\x80\"", "utf8", 1),
        ] {
            let error = Cursor::new(body).string().unwrap_err();
            assert_eq!((error.kind, error.offset), (kind, Some(offset)), "{body:?}");
        }
    }
}
