//! Server-sent events: finds the data of each event. The result does not depend on how the stream is cut.

use std::ops::Range;

use crate::error::{Class, Error, Result};
use crate::limits::{MAX_MESSAGE, MAX_PLAIN};
use crate::memory::Buffer;

const MARK: &[u8] = b"\xef\xbb\xbf";

/// A buffer for the data of an event that is kept for the next one.
const KEPT: usize = 1 << 20;

/// An event, which an empty line ends.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// A chunk, at a place of what was fed.
    Here(Range<usize>),
    /// A chunk that was fed in pieces: [`Framing::take`] returns it.
    Held,
    /// An error of the server: [`Framing::take`] returns its text.
    Failed,
    /// `[DONE]`.
    End,
}

/// The part of the current line that was fed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line {
    /// Nothing.
    Start,
    /// So many bytes of the byte order mark.
    Mark(usize),
    /// So many bytes of the name of a field.
    Name([u8; 6], usize),
    /// The colon of a `data` field and a part of its value.
    Data { first: bool },
    /// The same of an `event` field.
    Event { first: bool },
    /// The colon of a comment.
    Comment { first: bool },
    /// A field that is ignored.
    Skip,
}

/// The name of an event.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Name {
    #[default]
    Message,
    Error,
    Other,
}

/// Reads events out of what is fed.
#[derive(Debug)]
pub(super) struct Framing {
    /// Bytes of the stream before what is fed now.
    pub(super) before: usize,
    line: Line,
    /// The last byte was a CR.
    after_cr: bool,
    /// The value of the last `event` field.
    name: Vec<u8>,
    /// The data of the event so far, where it is not read in place.
    data: Buffer<u8>,
    /// Where each line of it begins, in `data` and in the stream. None: there is no `data` field yet.
    lines: Vec<(usize, usize)>,
    /// The comments of an event that is an error.
    comments: Vec<u8>,
    /// `[DONE]` was read.
    pub(super) done: bool,
    /// The offset of the first byte that is no white space.
    begun: Option<usize>,
    /// That byte is one that plain JSON begins with; what came since.
    pub(super) plain: Option<Buffer<u8>>,
}

impl Framing {
    pub(super) fn new() -> Self {
        Self {
            before: 0,
            line: Line::Mark(0),
            after_cr: false,
            name: Vec::new(),
            data: transient(),
            lines: Vec::new(),
            comments: Vec::new(),
            done: false,
            begun: None,
            plain: None,
        }
    }

    /// Bytes that wait for the rest of their event.
    pub(super) fn held(&self) -> usize {
        self.data.len()
    }

    /// Looks at the beginning of the stream. True if it is plain JSON.
    pub(super) fn is_plain(&mut self, fed: &[u8]) -> Result<bool> {
        if self.begun.is_none() {
            let mut marked = 0;
            if let Line::Mark(seen) = self.line {
                let pairs = fed.iter().zip(&MARK[seen..]);
                marked = pairs.take_while(|(byte, mark)| byte == mark).count();
                if seen + marked < MARK.len() {
                    if marked == fed.len() {
                        return Ok(false);
                    }
                    // The bytes are no byte order mark, and no white space.
                    if seen > 0 {
                        self.begun = Some(self.before - seen);
                        return Ok(false);
                    }
                    marked = 0;
                }
            }
            let first = fed[marked..]
                .iter()
                .position(|byte| !matches!(byte, b' ' | b'\t' | b'\n' | b'\r'));
            let first = first.map(|at| at + marked);
            self.begun = first.map(|at| self.before + at);
            if let Some(at) = first.filter(|&at| matches!(fed[at], b'{' | b'[')) {
                self.plain = Some(transient());
                self.keep_plain(&fed[at..], fed.len())?;
            }
        } else if self.plain.is_some() {
            self.keep_plain(fed, fed.len())?;
        }
        Ok(self.plain.is_some())
    }

    fn keep_plain(&mut self, bytes: &[u8], fed: usize) -> Result<()> {
        if let Some(plain) = &mut self.plain {
            plain.extend_from_slice(bytes)?;
            if self.before + fed > MAX_PLAIN {
                return Err(self.not_a_stream());
            }
        }
        Ok(())
    }

    /// The error of a body that is no stream.
    #[cold]
    pub(super) fn not_a_stream(&self) -> Error {
        Error::new(
            Class::Malformed,
            "not_a_stream",
            "",
            self.begun,
            "found JSON where server-sent events were expected; decode reads a whole body",
        )
    }

    /// The next event that ends in `fed`, which is read from `pos` on. None where the rest ends none.
    #[inline]
    pub(super) fn next(&mut self, fed: &[u8], pos: &mut usize) -> Result<Option<Event>> {
        loop {
            if self.after_cr && *pos < fed.len() {
                self.after_cr = false;
                *pos += usize::from(fed[*pos] == b'\n');
            }
            let rest = &fed[*pos..];
            if rest.is_empty() {
                return Ok(None);
            }
            let length = line_length(rest);
            if self.line == Line::Start
                && rest.starts_with(b"data:")
                && let Some(event) = self.whole(fed, pos, length)
            {
                return Ok(Some(event));
            }
            let Some(length) = length else {
                self.part(rest, self.before + *pos)?;
                *pos = fed.len();
                return Ok(None);
            };
            self.part(&rest[..length], self.before + *pos)?;
            self.after_cr = rest[length] == b'\r';
            *pos += length + 1;
            let ended = self.before + *pos - 1;
            if let Some(event) = self.end_line(ended)? {
                return Ok(Some(event));
            }
        }
    }

    /// An event of one `data` line that stands in `fed` with the empty line behind it.
    #[inline]
    fn whole(&mut self, fed: &[u8], pos: &mut usize, length: Option<usize>) -> Option<Event> {
        if self.done || !self.lines.is_empty() || !self.name.is_empty() {
            return None;
        }
        let end = *pos + length?;
        let mut next = end + 1;
        if fed[end] == b'\r' {
            next += usize::from(*fed.get(next)? == b'\n');
        }
        let empty = *fed.get(next)?;
        if !matches!(empty, b'\n' | b'\r') {
            return None;
        }
        let mut start = *pos + b"data:".len();
        start += usize::from(fed[start] == b' ' && start < end);
        *pos = next + 1;
        self.after_cr = empty == b'\r';
        if &fed[start..end] == b"[DONE]" {
            self.done = true;
            return Some(Event::End);
        }
        Some(Event::Here(start..end))
    }

    /// Bytes of the line that is being read; the first of them is at the offset `at`.
    fn part(&mut self, mut bytes: &[u8], mut at: usize) -> Result<()> {
        while let Some(&byte) = bytes.first() {
            match &mut self.line {
                Line::Mark(seen) => {
                    let seen = *seen;
                    if byte == MARK[seen] {
                        self.line = match seen + 1 {
                            3 => Line::Start,
                            seen => Line::Mark(seen),
                        };
                        (bytes, at) = (&bytes[1..], at + 1);
                    } else {
                        // The bytes that began like a byte order mark are the name of an unknown field.
                        self.line = if seen == 0 { Line::Start } else { Line::Skip };
                    }
                }
                Line::Start if byte == b':' => {
                    self.line = Line::Comment { first: true };
                    (bytes, at) = (&bytes[1..], at + 1);
                }
                Line::Start if self.done => {
                    return Err(Error::new(
                        Class::Malformed,
                        "trailing_data",
                        "",
                        at,
                        "found another line after the end of the stream, [DONE]",
                    ));
                }
                Line::Start => self.line = Line::Name([0; 6], 0),
                Line::Name(name, length) => {
                    let known = &name[..*length];
                    if byte == b':' {
                        let first = true;
                        self.line = match known {
                            b"data" => {
                                self.begin_data(at + 1)?;
                                Line::Data { first }
                            }
                            b"event" => {
                                self.name.clear();
                                Line::Event { first }
                            }
                            _ => Line::Skip,
                        };
                    } else if *length == name.len() {
                        self.line = Line::Skip;
                    } else {
                        name[*length] = byte;
                        *length += 1;
                    }
                    (bytes, at) = (&bytes[1..], at + 1);
                }
                Line::Data { first } => {
                    if std::mem::take(first) && byte == b' ' {
                        if let Some((_, start)) = self.lines.last_mut() {
                            *start += 1;
                        }
                        (bytes, at) = (&bytes[1..], at + 1);
                        continue;
                    }
                    self.data.extend_from_slice(bytes)?;
                    return Ok(());
                }
                Line::Event { first } => {
                    if std::mem::take(first) && byte == b' ' {
                        (bytes, at) = (&bytes[1..], at + 1);
                        continue;
                    }
                    // Every known name is shorter.
                    let room = 16usize.saturating_sub(self.name.len());
                    self.name.extend_from_slice(&bytes[..bytes.len().min(room)]);
                    return Ok(());
                }
                Line::Comment { first } => {
                    if std::mem::take(first) && byte == b' ' {
                        (bytes, at) = (&bytes[1..], at + 1);
                        continue;
                    }
                    if self.named() == Name::Error {
                        let room = MAX_MESSAGE.saturating_sub(self.comments.len());
                        let taken = bytes.len().min(room);
                        self.comments.extend_from_slice(&bytes[..taken]);
                    }
                    return Ok(());
                }
                Line::Skip => return Ok(()),
            }
        }
        Ok(())
    }

    /// Begins a `data` field, whose value is at the offset `at`.
    fn begin_data(&mut self, at: usize) -> Result<()> {
        if !self.lines.is_empty() {
            self.data.push(b'\n')?;
        }
        self.lines.push((self.data.len(), at));
        Ok(())
    }

    fn named(&self) -> Name {
        match &self.name[..] {
            b"" | b"message" => Name::Message,
            b"error" => Name::Error,
            _ => Name::Other,
        }
    }

    /// The end of a line, at the offset `at`; the event that it ends.
    fn end_line(&mut self, at: usize) -> Result<Option<Event>> {
        match std::mem::replace(&mut self.line, Line::Start) {
            Line::Start | Line::Mark(0) => return self.dispatch(),
            Line::Name(name, 4) if name.starts_with(b"data") => self.begin_data(at)?,
            Line::Name(name, 5) if name.starts_with(b"event") => self.name.clear(),
            Line::Comment { .. }
                if self.named() == Name::Error && self.comments.len() < MAX_MESSAGE =>
            {
                self.comments.push(b'\n');
            }
            _ => {}
        }
        Ok(None)
    }

    /// The event that an empty line ends.
    fn dispatch(&mut self) -> Result<Option<Event>> {
        let name = self.named();
        self.name.clear();
        if name == Name::Error {
            if self.lines.is_empty() {
                self.data.extend_from_slice(self.comments.trim_ascii())?;
            }
            self.comments.clear();
            return Ok(Some(Event::Failed));
        }
        if self.lines.is_empty() {
            return Ok(None);
        }
        if name == Name::Other {
            self.drop_data();
            return Ok(None);
        }
        if self.data.as_slice() == b"[DONE]" {
            self.drop_data();
            self.done = true;
            return Ok(Some(Event::End));
        }
        Ok(Some(Event::Held))
    }

    fn drop_data(&mut self) {
        let data = std::mem::replace(&mut self.data, transient());
        self.give_back(data);
    }

    /// The data of an event that came in pieces.
    pub(super) fn take(&mut self) -> Buffer<u8> {
        std::mem::replace(&mut self.data, transient())
    }

    /// Takes the buffer of [`take`](Self::take) back, and clears the list of its lines.
    pub(super) fn give_back(&mut self, mut data: Buffer<u8>) {
        self.lines.clear();
        data.truncate(0);
        if data.spare_capacity_mut().len() <= KEPT {
            self.data = data;
        }
    }

    /// The offset in the stream of a byte of an event.
    pub(super) fn offset(&self, event: &Event, at: usize) -> usize {
        match event {
            Event::Here(place) => self.before + place.start + at,
            _ => {
                let line = self.lines.partition_point(|&(begin, _)| begin <= at);
                let (begin, offset) = self.lines[line.saturating_sub(1)];
                offset + at - begin
            }
        }
    }
}

fn transient() -> Buffer<u8> {
    Buffer::transient(0, 0).unwrap_or_default()
}

/// Bytes in front of the end of the line, if there is one.
#[inline]
fn line_length(bytes: &[u8]) -> Option<usize> {
    let ends = |&byte: &u8| byte == b'\n' || byte == b'\r';
    let (blocks, rest) = bytes.as_chunks::<64>();
    // A byte per byte and no branch inside of a block, so that the compiler vectorises it.
    let any = |block: &[u8; 64]| {
        let end = |byte: &u8| u8::from(*byte == b'\n') | u8::from(*byte == b'\r');
        block.iter().fold(0, |any, byte| any | end(byte)) != 0
    };
    match blocks.iter().position(any) {
        Some(block) => Some(64 * block + blocks[block].iter().position(ends)?),
        None => Some(bytes.len() - rest.len() + rest.iter().position(ends)?),
    }
}
