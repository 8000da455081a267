//! Server-sent events, line by line, out of everything that has come.

/// The data of an event, and where in the stream each of its bytes stands.
#[derive(Debug, Clone, Default)]
pub(crate) struct Data {
    pub(crate) bytes: Vec<u8>,
    /// One more than there are bytes: the last is the end's.
    pub(crate) offsets: Vec<usize>,
}

/// An event that is not ignored.
#[derive(Debug, Clone)]
pub(crate) enum Event {
    /// What a server calls an error.
    Error(String),
    Chunk(Data),
    End,
}

/// What was received, as events.
#[derive(Debug, Clone, Default)]
pub(crate) struct Events {
    pub(crate) events: Vec<Event>,
    /// Where something else than an empty line or a comment stands behind the end.
    pub(crate) trailing: Option<usize>,
}

/// A line without what ends it.
struct Line<'a> {
    start: usize,
    text: &'a [u8],
    /// Whether the line has an end.
    whole: bool,
}

/// The first byte behind a byte order mark.
pub(crate) fn beginning(stream: &[u8]) -> usize {
    match stream.starts_with("\u{feff}".as_bytes()) {
        true => 3,
        false => 0,
    }
}

/// Where the stream begins as a JSON document does.
pub(crate) fn plain_json(stream: &[u8]) -> Option<usize> {
    let start = beginning(stream);
    let white = |byte: &u8| b" \t\n\r".contains(byte);
    let first = start + stream[start..].iter().position(|byte| !white(byte))?;
    matches!(stream[first], b'{' | b'[').then_some(first)
}

fn lines(stream: &[u8]) -> Vec<Line<'_>> {
    let mut lines = Vec::new();
    let mut start = beginning(stream);
    let first = start;
    for at in first..stream.len() {
        let ends = match stream[at] {
            b'\r' => true,
            // The LF of a CR LF ends nothing.
            b'\n' if at > 0 && stream[at - 1] == b'\r' => {
                start = at + 1;
                false
            }
            b'\n' => true,
            _ => false,
        };
        if ends {
            let text = &stream[start..at];
            lines.push(Line {
                start,
                text,
                whole: true,
            });
            start = at + 1;
        }
    }
    let text = &stream[start..];
    lines.push(Line {
        start,
        text,
        whole: false,
    });
    lines
}

/// A field's name and value; the value's place in the line.
fn field(line: &[u8]) -> (&[u8], &[u8], usize) {
    let Some(colon) = line.iter().position(|&byte| byte == b':') else {
        return (line, b"", line.len());
    };
    let space = usize::from(line.get(colon + 1) == Some(&b' '));
    let value = colon + 1 + space;
    (&line[..colon], &line[value..], value)
}

/// Reads all events that are whole.
pub(crate) fn read(stream: &[u8]) -> Events {
    let mut found = Events::default();
    let mut data: Option<Data> = None;
    let mut name = Vec::new();
    let mut comments = Vec::new();
    let mut ended = false;
    for line in lines(stream) {
        let (key, value, at) = field(line.text);
        let comment = !line.text.is_empty() && key.is_empty();
        if ended {
            if !line.text.is_empty() && !comment {
                found.trailing = Some(line.start);
                break;
            }
            continue;
        }
        if !line.whole {
            break;
        }
        if line.text.is_empty() {
            if let Some(event) = event(&name, data.take(), &comments) {
                ended = matches!(event, Event::End);
                found.events.push(event);
            }
            name.clear();
            comments.clear();
        } else if comment {
            comments.extend_from_slice(value);
        } else if key == b"event" {
            name = value.to_vec();
        } else if key == b"data" {
            let data = data.get_or_insert_default();
            if !data.offsets.is_empty() {
                // What was the end is the LF that joins.
                data.bytes.push(b'\n');
            }
            data.bytes.extend_from_slice(value);
            let first = line.start + at;
            data.offsets.extend(first..=first + value.len());
        }
    }
    found
}

fn event(name: &[u8], data: Option<Data>, comments: &[u8]) -> Option<Event> {
    let words = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match (name, data) {
        (b"error", Some(data)) => Some(Event::Error(words(&data.bytes))),
        (b"error", None) => Some(Event::Error(words(comments))),
        (b"" | b"message", Some(data)) if data.bytes == b"[DONE]" => Some(Event::End),
        (b"" | b"message", Some(data)) => Some(Event::Chunk(data)),
        _ => None,
    }
}
