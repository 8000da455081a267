//! What SGLang's worker uploads: its `meta_info` as MessagePack, compressed. It is written as the JSON of an answer of
//! SGLang's, so that it is judged as one.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::msgpack::{Reader, Token, refused};
use super::open::check_ceiling;
use super::zstd::{Frame, MAGIC};
use crate::error::Result;
use crate::limits;
use crate::memory::Buffer;
use crate::options::Options;

/// Bytes of an array that are written at a time: whole groups of base64.
const CHUNK: usize = 3 << 10;

/// Whether an object begins as an upload does.
pub(crate) fn is_upload(data: &[u8]) -> bool {
    data.starts_with(&MAGIC)
}

/// The JSON of an upload.
///
/// The ids are those that the log-probabilities name: the worker sends them elsewhere. Bytes become base64, what is no
/// finite number becomes null. Offsets of errors are those of the decompressed object.
pub(crate) fn transcribe(data: &[u8], options: &Options<'_>) -> Result<Buffer<u8>> {
    let frame = Frame::read(data, 0)?;
    check_ceiling(frame.content, 0, options)?;
    let content = frame.decompress()?;
    let mut writer = Writer {
        reader: Reader::new(content.as_slice(), 0),
        json: Buffer::transient(content.len(), content.len())?,
        options,
    };
    writer.object()?;
    Ok(writer.json)
}

struct Writer<'a, 'o> {
    reader: Reader<'a>,
    json: Buffer<u8>,
    options: &'o Options<'o>,
}

impl<'a> Writer<'a, '_> {
    /// `{"schema_version": 1, "metadata": {…}}`, in any order.
    fn object(&mut self) -> Result<()> {
        let at = self.reader.at();
        let Token::Map(2) = self.reader.token()? else {
            let message = "no map of schema_version and metadata";
            return Err(refused("keys", at, message));
        };
        let (mut version, mut metadata) = (false, false);
        self.put(b"{")?;
        for _ in 0..2 {
            let at = self.reader.at();
            match self.reader.token()? {
                Token::Text("schema_version") if !version => {
                    let at = self.reader.at();
                    let found = self.reader.token()?;
                    if found != Token::Uint(1) {
                        return Err(refused("version", at, "schema_version is not 1"));
                    }
                    version = true;
                }
                Token::Text("metadata") if !metadata => {
                    self.put(b"\"meta_info\":")?;
                    let at = self.reader.at();
                    let Token::Map(len) = self.reader.token()? else {
                        return Err(refused("type", at, "metadata is no map"));
                    };
                    self.metadata(len)?;
                    metadata = true;
                }
                _ => return Err(refused("keys", at, "neither schema_version nor metadata")),
            }
        }
        self.put(b"}")?;
        if !self.reader.is_at_end() {
            let message = "something follows the metadata";
            return Err(refused("trailing_data", self.reader.at(), message));
        }
        Ok(())
    }

    /// The metadata, and behind it the ids that it names.
    fn metadata(&mut self, len: u32) -> Result<()> {
        let mut named = None;
        self.put(b"{")?;
        for i in 0..len {
            let key = self.key(i)?;
            if key == "output_token_logprobs" {
                named = Some(self.reader.clone());
            }
            self.value(3)?;
        }
        self.put(b"}")?;
        match named {
            Some(mut named) => self.ids(&mut named),
            None => Ok(()),
        }
    }

    /// `output_ids`: the second element of each triple. What is no list of triples is left to the judge of the answer.
    fn ids(&mut self, triples: &mut Reader<'a>) -> Result<()> {
        let Token::Array(len) = triples.token()? else {
            return Ok(());
        };
        self.put(b",\"output_ids\":[")?;
        for i in 0..len {
            let Token::Array(width @ 2..) = triples.token()? else {
                break;
            };
            skip(triples, 1)?;
            let Token::Uint(id) = triples.token()? else {
                break;
            };
            skip(triples, u64::from(width) - 2)?;
            self.put(if i == 0 { b"" } else { b"," })?;
            self.put(id.to_string().as_bytes())?;
        }
        self.put(b"]")
    }

    fn key(&mut self, i: u32) -> Result<&'a str> {
        let at = self.reader.at();
        let Token::Text(key) = self.reader.token()? else {
            return Err(refused("type", at, "a key that is no string"));
        };
        self.put(if i == 0 { b"" } else { b"," })?;
        self.text(key)?;
        self.put(b":")?;
        Ok(key)
    }

    /// A value inside so many brackets.
    fn value(&mut self, depth: usize) -> Result<()> {
        let at = self.reader.at();
        let token = self.reader.token()?;
        if depth > self.options.limits.max_depth && matches!(token, Token::Array(_) | Token::Map(_))
        {
            let message = limits::over(
                format!("{depth} values in each other"),
                self.options.limits.max_depth,
                "max_depth",
            );
            return Err(refused("too_deep", at, message));
        }
        match token {
            Token::Nil => self.put(b"null"),
            Token::Bool(value) => self.put(if value { b"true" } else { b"false" }),
            Token::Uint(value) => self.put(value.to_string().as_bytes()),
            Token::Int(value) => self.put(value.to_string().as_bytes()),
            // The shortest text that is read back as the same number.
            Token::Float(value) if value.is_finite() => self.put(format!("{value:?}").as_bytes()),
            Token::Float(_) => self.put(b"null"),
            Token::Text(text) => self.text(text),
            Token::Bytes(bytes) => {
                self.put(b"\"")?;
                for chunk in bytes.chunks(CHUNK) {
                    self.put(STANDARD.encode(chunk).as_bytes())?;
                }
                self.put(b"\"")
            }
            Token::Array(len) => {
                self.put(b"[")?;
                for i in 0..len {
                    self.put(if i == 0 { b"" } else { b"," })?;
                    self.value(depth + 1)?;
                }
                self.put(b"]")
            }
            Token::Map(len) => {
                self.put(b"{")?;
                for i in 0..len {
                    self.key(i)?;
                    self.value(depth + 1)?;
                }
                self.put(b"}")
            }
        }
    }

    fn text(&mut self, text: &str) -> Result<()> {
        self.put(b"\"")?;
        for part in text.as_bytes().chunk_by(|a, b| plain(*a) && plain(*b)) {
            match part {
                [byte] if !plain(*byte) => self.put(format!("\\u{byte:04x}").as_bytes())?,
                part => self.put(part)?,
            }
        }
        self.put(b"\"")
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        // What is written is longer than what is read, so it has the same ceiling.
        check_ceiling((self.json.len() + bytes.len()) as u64, 0, self.options)?;
        Ok(self.json.extend_from_slice(bytes)?)
    }
}

/// Whether a byte stands for itself in a string of JSON.
fn plain(byte: u8) -> bool {
    !matches!(byte, 0..=0x1f | b'"' | b'\\')
}

/// Steps over so many values that have been read before.
fn skip(reader: &mut Reader<'_>, values: u64) -> Result<()> {
    let mut left = values;
    while left > 0 {
        left += match reader.token()? {
            Token::Array(len) => u64::from(len),
            Token::Map(len) => 2 * u64::from(len),
            _ => 0,
        };
        left -= 1;
    }
    Ok(())
}
