//! Bodies in chunks, taken apart where they are: what is no data is squeezed out.

/// Bytes that the lines of chunk sizes with their extensions may have, each, and all lines of the trailer together.
const MAX_LINE: u32 = 16 << 10;

/// Why chunks are refused.
pub(super) type Refused = &'static str;

/// Where in a chunked body the next byte is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunks {
    at: At,
    /// Bytes of data that this chunk still has.
    left: u64,
    /// Bytes of this line, or of the trailer.
    line: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// The first digit of a size.
    Size,
    /// A further digit, or what ends the size.
    Digits,
    /// Behind the size: white space or an extension, which is skipped.
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    /// The first byte of a line of the trailer.
    Trailer,
    TrailerName,
    TrailerValue,
    TrailerLf,
    LastLf,
    End,
}

/// What became of a piece of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    /// Bytes of data, which stand at the beginning of the piece now.
    pub data: usize,
    /// Bytes of the piece that were looked at: all, or less if the body ends within it.
    pub read: usize,
}

impl Chunks {
    /// Before the first chunk.
    pub fn new() -> Self {
        Self {
            at: At::Size,
            left: 0,
            line: 0,
        }
    }

    /// Whether the last chunk and the trailer have been read.
    pub fn ended(&self) -> bool {
        self.at == At::End
    }

    /// Bytes of data that certainly come next.
    pub fn left(&self) -> u64 {
        self.left
    }

    /// Takes the next piece of the body, however it is cut.
    pub fn take(&mut self, piece: &mut [u8]) -> Result<Taken, Refused> {
        let (mut data, mut read) = (0, 0);
        while read < piece.len() && self.at != At::End {
            if self.at == At::Data {
                let count = self.left.min((piece.len() - read) as u64) as usize;
                if data != read {
                    piece.copy_within(read..read + count, data);
                }
                data += count;
                read += count;
                self.left -= count as u64;
                if self.left == 0 {
                    self.at = At::DataCr;
                }
                continue;
            }
            self.step(piece[read])?;
            read += 1;
        }
        Ok(Taken { data, read })
    }

    /// Takes one byte that is no data.
    fn step(&mut self, byte: u8) -> Result<(), Refused> {
        self.line += 1;
        if self.line > MAX_LINE {
            return Err(match self.at {
                At::Size | At::Digits | At::Extension => "the line of a chunk's size is too long",
                _ => "the trailer behind the chunks is too long",
            });
        }
        self.at = match (self.at, byte) {
            (At::Size | At::Digits, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                let digit = (byte as char).to_digit(16).unwrap_or_default();
                if self.left >> 58 != 0 {
                    return Err("a chunk's size has too many digits");
                }
                self.left = self.left << 4 | u64::from(digit);
                At::Digits
            }
            (At::Size, _) => return Err("a chunk has no size"),
            (At::Digits, b'\r') | (At::Extension, b'\r') => At::SizeLf,
            (At::Digits, b';' | b' ' | b'\t') => At::Extension,
            (At::Digits, _) => return Err("a chunk's size is no number"),
            (At::Extension, b'\t' | b' '..=b'~' | 0x80..) => At::Extension,
            (At::Extension, _) => return Err("a chunk's extension is malformed"),
            (At::SizeLf, b'\n') => {
                self.line = 0;
                if self.left == 0 {
                    At::Trailer
                } else {
                    At::Data
                }
            }
            (At::SizeLf, _) => return Err("the line of a chunk's size does not end in CRLF"),
            (At::DataCr, b'\r') => At::DataLf,
            (At::DataLf, b'\n') => {
                self.line = 0;
                At::Size
            }
            (At::DataCr | At::DataLf, _) => return Err("a chunk is longer than its size"),
            (At::Trailer, b'\r') => At::LastLf,
            (At::Trailer | At::TrailerName, _) if is_token(byte) => At::TrailerName,
            (At::TrailerName, b':') => At::TrailerValue,
            (At::TrailerValue, b'\r') => At::TrailerLf,
            (At::TrailerValue, b'\t' | b' '..=b'~' | 0x80..) => At::TrailerValue,
            (At::TrailerLf, b'\n') => At::Trailer,
            (At::LastLf, b'\n') => At::End,
            _ => return Err("the trailer behind the chunks is malformed"),
        };
        Ok(())
    }
}

impl Default for Chunks {
    fn default() -> Self {
        Self::new()
    }
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
#[path = "chunks_tests.rs"]
mod tests;
