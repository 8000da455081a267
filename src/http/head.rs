//! The head of an answer: status line and header fields.
//!
//! Lines end in CRLF, and in nothing else: whoever takes a bare LF or CR for an end may see other fields than a proxy did.
//! For the same reason a folded line, a space before a colon, two lengths that differ, and a length beside chunks are
//! refused.

use super::chunks::Chunks;

/// Why a head is refused.
pub(super) type Refused = &'static str;

/// Digits that a length may have; the largest number of so many fits.
const LENGTH_DIGITS: usize = 18;

/// A head, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// The HTTP status, 100 to 999.
    pub status: u16,
    /// Whether the server speaks HTTP/1.1, not 1.0.
    pub modern: bool,
    /// Names in lower case, values in Latin-1; a name that stands twice is there twice.
    pub fields: Vec<(String, String)>,
}

/// How the body of an answer ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Framing {
    /// After so many bytes.
    Length(u64),
    /// After the last chunk.
    Chunked(Chunks),
    /// With the connection.
    UntilClose,
}

/// The length of the head at the start of `bytes`, with the blank line; None if it is not all there.
///
/// `seen` is how much an earlier call has looked at.
pub(super) fn end(bytes: &[u8], seen: &mut usize) -> Result<Option<usize>, Refused> {
    while let Some(at) = bytes[*seen..].iter().position(|&byte| byte == b'\n') {
        let at = *seen + at;
        if at == 0 || bytes[at - 1] != b'\r' {
            return Err("a line of its head ends without CR");
        }
        *seen = at + 1;
        if at == 1 {
            return Err("it begins with a blank line");
        }
        if bytes[at - 2] == b'\n' {
            return Ok(Some(at + 1));
        }
    }
    *seen = bytes.len();
    Ok(None)
}

impl Head {
    /// Reads a head that is all there, its blank line included.
    pub fn parse(bytes: &[u8]) -> Result<Self, Refused> {
        // A CR that ends no line is refused by the parser, or is in the reason, which is of no use.
        let lines = bytes.iter().filter(|&&byte| byte == b'\n').count();
        let mut fields = vec![httparse::EMPTY_HEADER; lines];
        let mut answer = httparse::Response::new(&mut fields);
        let parsed = answer.parse(bytes).map_err(|error| match error {
            httparse::Error::HeaderName => "a header has no valid name",
            httparse::Error::HeaderValue => "a header has no valid value",
            httparse::Error::Status => "it has no valid status",
            httparse::Error::Version => "it does not begin with HTTP/1.1 or HTTP/1.0",
            _ => "its head is malformed",
        })?;
        if parsed != httparse::Status::Complete(bytes.len()) {
            return Err("its head is malformed");
        }
        let status = answer.code.filter(|&status| status >= 100);
        Ok(Self {
            status: status.ok_or("it has no valid status")?,
            modern: answer.version == Some(1),
            fields: answer
                .headers
                .iter()
                .map(|field| (field.name.to_ascii_lowercase(), latin1(field.value)))
                .collect(),
        })
    }

    /// Whether another head follows this one.
    pub fn is_interim(&self) -> bool {
        (100..200).contains(&self.status) && self.status != 101
    }

    /// How the body ends.
    pub fn framing(&self) -> Result<Framing, Refused> {
        let codings: Vec<&str> = self.all("transfer-encoding").collect();
        let mut length = None;
        for value in self
            .all("content-length")
            .flat_map(|value| value.split(','))
        {
            let digits = value.trim_matches([' ', '\t']);
            if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
                return Err("its content-length is no number");
            }
            if digits.len() > LENGTH_DIGITS {
                return Err("its content-length has too many digits");
            }
            let value: u64 = digits
                .parse()
                .map_err(|_| "its content-length is no number")?;
            if length.is_some_and(|length| length != value) {
                return Err("it has two content-lengths that differ");
            }
            length = Some(value);
        }
        if matches!(self.status, 100..200 | 204 | 304) {
            return Ok(Framing::Length(0));
        }
        match (codings.as_slice(), length) {
            ([], None) => Ok(Framing::UntilClose),
            ([], Some(length)) => Ok(Framing::Length(length)),
            ([_, ..], Some(_)) => Err("it has a content-length and a transfer-encoding"),
            ([coding], None) if coding.eq_ignore_ascii_case("chunked") => match self.modern {
                true => Ok(Framing::Chunked(Chunks::new())),
                false => Err("it has a transfer-encoding, which HTTP/1.0 does not know"),
            },
            _ => Err("the body has a transfer-encoding other than chunked, not asked for"),
        }
    }

    /// Whether the server will take another request on this connection.
    pub fn keeps_alive(&self) -> bool {
        let options = self.all("connection").flat_map(|value| value.split(','));
        let closes = |option: &str| option.trim().eq_ignore_ascii_case("close");
        self.modern && self.status != 101 && !options.into_iter().any(closes)
    }

    fn all<'a>(&'a self, name: &'static str) -> impl Iterator<Item = &'a str> {
        let fields = self.fields.iter().filter(move |(other, _)| other == name);
        fields.map(|(_, value)| value.as_str())
    }
}

/// Every byte is the character of its number.
fn latin1(bytes: &[u8]) -> String {
    bytes.iter().map(|&byte| char::from(byte)).collect()
}

#[cfg(test)]
#[path = "head_tests.rs"]
mod tests;
