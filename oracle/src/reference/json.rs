//! A document as a tree. Each node has the offsets of its bytes. Recursive descent, one function for each rule of the
//! grammar.

use dynamo_tito::{Class, Error, Result};

/// A value and the offsets of its bytes.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Node {
    /// Offset of its first byte.
    pub(crate) start: usize,
    /// Offset of the byte after its last.
    pub(crate) end: usize,
    pub(crate) kind: Kind,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Kind {
    Null,
    Bool(bool),
    /// The text, which is known to be a number.
    Number(String),
    String(Text),
    Array(Vec<Node>),
    Object(Vec<Member>),
}

/// A string, and facts of its spelling.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Text {
    /// Unescaped; a lone surrogate is U+FFFD (three bytes, as it would be itself).
    pub(crate) value: String,
    /// Whether an escape stands for half a character.
    pub(crate) lone_surrogate: bool,
    /// Whether it was written with a backslash.
    pub(crate) escaped: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Member {
    /// Offset of the key's opening quote.
    pub(crate) offset: usize,
    /// Offset behind its closing quote.
    pub(crate) key_end: usize,
    pub(crate) key: Text,
    pub(crate) value: Node,
}

impl Node {
    pub(crate) fn is_null(&self) -> bool {
        self.kind == Kind::Null
    }

    pub(crate) fn as_array(&self) -> Option<&[Node]> {
        match &self.kind {
            Kind::Array(elements) => Some(elements),
            _ => None,
        }
    }

    pub(crate) fn as_object(&self) -> Option<&[Member]> {
        match &self.kind {
            Kind::Object(members) => Some(members),
            _ => None,
        }
    }

    pub(crate) fn as_text(&self) -> Option<&Text> {
        match &self.kind {
            Kind::String(text) => Some(text),
            _ => None,
        }
    }

    /// The text of a number without fraction and exponent.
    pub(crate) fn as_integer(&self) -> Option<&str> {
        match &self.kind {
            Kind::Number(text) if !text.contains(['.', 'e', 'E']) => Some(text),
            _ => None,
        }
    }

    /// The text of an integer without a sign.
    pub(crate) fn as_natural(&self) -> Option<&str> {
        self.as_integer().filter(|text| !text.starts_with('-'))
    }

    /// The value of a key, also when it is null. Of an object where the key was found once.
    pub(crate) fn member(&self, key: &str) -> Option<&Node> {
        let member = self.as_object()?.iter().find(|m| m.key.value == key)?;
        Some(&member.value)
    }

    /// The value of a key; null counts as absent.
    pub(crate) fn get(&self, key: &str) -> Option<&Node> {
        self.member(key).filter(|value| !value.is_null())
    }
}

/// Step 1: the whole body is one document.
pub(crate) fn parse(body: &[u8], max_depth: usize) -> Result<Node> {
    let mut parser = Parser {
        body,
        at: 0,
        depth: 0,
        max_depth,
    };
    parser.white_space();
    let text = &body[parser.at..];
    let fields = ["data:", "event:", "id:", "retry:", ":"];
    if fields
        .iter()
        .any(|field| text.starts_with(field.as_bytes()))
    {
        return Err(parser.error("event_stream", "server-sent events, not a document"));
    }
    let node = parser.value()?;
    parser.white_space();
    match parser.peek() {
        None => Ok(node),
        Some(_) => Err(parser.error("trailing_data", "something follows the document")),
    }
}

struct Parser<'a> {
    body: &'a [u8],
    /// Offset of the next byte.
    at: usize,
    /// Open brackets.
    depth: usize,
    /// How many there may be.
    max_depth: usize,
}

impl Parser<'_> {
    fn peek(&self) -> Option<u8> {
        self.body.get(self.at).copied()
    }

    fn error(&self, kind: &'static str, message: &'static str) -> Error {
        Error::new(Class::Malformed, kind, "", self.at, message)
    }

    /// The next byte fits nowhere, or there is none.
    fn unexpected(&self, message: &'static str) -> Error {
        match self.peek() {
            None => self.error("truncated", "the body ends inside the document"),
            Some(_) => self.error("syntax", message),
        }
    }

    fn expect(&mut self, byte: u8, message: &'static str) -> Result<()> {
        if self.peek() != Some(byte) {
            return Err(self.unexpected(message));
        }
        self.at += 1;
        Ok(())
    }

    fn white_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    /// White space, then a value.
    fn value(&mut self) -> Result<Node> {
        self.white_space();
        let start = self.at;
        let kind = match self.peek() {
            Some(b'n') => self.literal("null", Kind::Null)?,
            Some(b't') => self.literal("true", Kind::Bool(true))?,
            Some(b'f') => self.literal("false", Kind::Bool(false))?,
            Some(b'-' | b'0'..=b'9') => self.number()?,
            Some(b'"') => Kind::String(self.string()?),
            Some(b'[') => self.array()?,
            Some(b'{') => self.object()?,
            _ => return Err(self.unexpected("expected a value")),
        };
        Ok(Node {
            start,
            end: self.at,
            kind,
        })
    }

    fn literal(&mut self, word: &str, kind: Kind) -> Result<Kind> {
        for byte in word.bytes() {
            self.expect(byte, "expected null, true or false")?;
        }
        Ok(kind)
    }

    fn number(&mut self) -> Result<Kind> {
        let start = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        if self.peek() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        let text = self.body[start..self.at].iter().map(|&b| char::from(b));
        Ok(Kind::Number(text.collect()))
    }

    /// One digit or more.
    fn digits(&mut self) -> Result<()> {
        if !matches!(self.peek(), Some(b'0'..=b'9')) {
            return Err(self.unexpected("expected a digit"));
        }
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        Ok(())
    }

    fn string(&mut self) -> Result<Text> {
        self.expect(b'"', "expected a string")?;
        // UTF-16: a pair of escapes is one character.
        let mut units: Vec<u16> = Vec::with_capacity(16);
        let mut escaped = false;
        loop {
            match self.peek() {
                Some(b'"') => break,
                Some(b'\\') => {
                    escaped = true;
                    units.push(self.escape()?);
                }
                Some(ascii @ 0x20..=0x7f) => {
                    units.push(ascii.into());
                    self.at += 1;
                }
                Some(0x80..) => {
                    let character = self.character()?;
                    units.extend_from_slice(character.encode_utf16(&mut [0; 2]));
                }
                _ => return Err(self.unexpected("a control character inside a string")),
            }
        }
        self.at += 1;
        let whole = String::from_utf16(&units);
        Ok(Text {
            lone_surrogate: whole.is_err(),
            value: whole.unwrap_or_else(|_| String::from_utf16_lossy(&units)),
            escaped,
        })
    }

    /// One escape sequence.
    fn escape(&mut self) -> Result<u16> {
        self.expect(b'\\', "expected a backslash")?;
        let unit = match self.peek() {
            Some(byte @ (b'"' | b'\\' | b'/')) => u16::from(byte),
            Some(b'b') => 0x08,
            Some(b'f') => 0x0c,
            Some(b'n') => 0x0a,
            Some(b'r') => 0x0d,
            Some(b't') => 0x09,
            Some(b'u') => {
                self.at += 1;
                return self.four_hex_digits();
            }
            _ => return Err(self.unexpected("not an escape")),
        };
        self.at += 1;
        Ok(unit)
    }

    fn four_hex_digits(&mut self) -> Result<u16> {
        let mut unit = 0;
        for _ in 0..4 {
            let digit = self.peek().and_then(|b| char::from(b).to_digit(16));
            let Some(digit) = digit else {
                return Err(self.unexpected("expected a hexadecimal digit"));
            };
            unit = unit * 16 + digit as u16;
            self.at += 1;
        }
        Ok(unit)
    }

    /// One character of UTF-8.
    fn character(&mut self) -> Result<char> {
        // No character takes more than four bytes.
        let end = self.body.len().min(self.at + 4);
        let window = &self.body[self.at..end];
        let well_formed = match std::str::from_utf8(window) {
            Ok(text) => text,
            Err(error) if error.valid_up_to() > 0 => {
                std::str::from_utf8(&window[..error.valid_up_to()]).unwrap_or_default()
            }
            Err(error) if error.error_len().is_none() => {
                self.at = self.body.len();
                return Err(self.error("truncated", "the body ends inside a character"));
            }
            Err(_) => return Err(self.error("utf8", "not UTF-8")),
        };
        let Some(character) = well_formed.chars().next() else {
            return Err(self.unexpected("expected a character"));
        };
        self.at += character.len_utf8();
        Ok(character)
    }

    /// Steps over an opening bracket.
    fn open(&mut self) -> Result<()> {
        if self.depth == self.max_depth {
            return Err(self.error("too_deep", "too many open brackets"));
        }
        self.depth += 1;
        self.at += 1;
        Ok(())
    }

    /// Steps over a closing bracket.
    fn close(&mut self) {
        self.depth -= 1;
        self.at += 1;
    }

    fn array(&mut self) -> Result<Kind> {
        self.open()?;
        let mut elements = Vec::new();
        self.white_space();
        if self.peek() != Some(b']') {
            loop {
                elements.push(self.value()?);
                self.white_space();
                if self.peek() == Some(b']') {
                    break;
                }
                self.expect(b',', "expected a comma or the end of the array")?;
            }
        }
        self.close();
        Ok(Kind::Array(elements))
    }

    fn object(&mut self) -> Result<Kind> {
        self.open()?;
        let mut members = Vec::new();
        self.white_space();
        if self.peek() != Some(b'}') {
            loop {
                members.push(self.member()?);
                self.white_space();
                if self.peek() == Some(b'}') {
                    break;
                }
                self.expect(b',', "expected a comma or the end of the object")?;
            }
        }
        self.close();
        Ok(Kind::Object(members))
    }

    fn member(&mut self) -> Result<Member> {
        self.white_space();
        let offset = self.at;
        let key = self.string()?;
        let key_end = self.at;
        self.white_space();
        self.expect(b':', "expected a colon")?;
        let value = self.value()?;
        Ok(Member {
            offset,
            key_end,
            key,
            value,
        })
    }
}
