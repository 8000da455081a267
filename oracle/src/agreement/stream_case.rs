//! A stream with the options and the cuts it is held against, as one string of bytes; and how it is changed.

use super::case::{HEADER, case};
use super::mutate::Mutator;
use crate::reference::stream::chunks;
use dynamo_tito::{Options, Wire};

/// Bytes behind those of the options; they choose the cuts.
const CUTS: usize = 4;

/// What is fed, and how.
#[derive(Debug)]
pub struct StreamCase<'a> {
    /// What the decoder is told.
    pub options: Options<'static>,
    /// Whether a stream of several choices is welcome.
    pub every_choice: bool,
    /// Where one feed ends and the next begins.
    pub cuts: Vec<usize>,
    /// The bytes.
    pub stream: &'a [u8],
}

/// The case that an input is; None of what is too short to choose.
#[must_use]
pub fn stream_case(input: &[u8]) -> Option<StreamCase<'_>> {
    let (mut options, rest) = case(input)?;
    options.wire = match options.wire {
        Wire::VllmCompletions => Wire::DynamoCompletions,
        Wire::SglangChat => Wire::SglangGenerate,
        wire => wire,
    };
    let (&[how, one, two, three], stream) = rest.split_first_chunk::<CUTS>()?;
    let len = stream.len();
    let at = |byte: u8| usize::from(byte) * len / 255;
    let mut cuts = match how >> 1 & 3 {
        0 => Vec::new(),
        1 => vec![(usize::from(one) | usize::from(two) << 8) % (len + 1)],
        2 => vec![at(one), at(two), at(three)],
        _ => (1..len).step_by(usize::from(one % 8) + 1).collect(),
    };
    cuts.sort_unstable();
    Some(StreamCase {
        options,
        every_choice: how & 1 == 0,
        cuts,
        stream,
    })
}

/// A source of changed streams, the same for the same seed.
#[derive(Debug)]
pub struct StreamMutator {
    /// Chooses whole streams.
    streams: Mutator,
    corpus: Vec<Vec<u8>>,
    /// Changes the data of events.
    chunks: Mutator,
}

/// Lines that may stand anywhere.
const LINES: &[&str] = &[
    "\n",
    "\r",
    "\r\n",
    "\r\n\r\n",
    ": a comment\n",
    ":\r",
    "id: 7\n",
    "retry: 1\n",
    "event: message\n",
    "event:\n",
    "event\n",
    "event: error\n",
    "event: error\n: out of memory\n\n",
    "event: formatted_prompt\n",
    "event: formatted_prompt\ndata: {}\n\n",
    "data: [DONE]\n\n",
    "data:[DONE]\n\n",
    "data: [DONE] \n\n",
    "data: {\"error\":{\"message\":\"m\"}}\n\n",
    "data: {\"choices\":[]}\n\n",
    "data: {\"choices\":[{}]}\n\n",
    "data: {\"choices\":[{\"index\":1,\"token_ids\":[7]}]}\n\n",
    "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":4}}\n\n",
    "data: {\"output_ids\":[],\"meta_info\":{}}\n\n",
    "data: {}\n\n",
    "data\n",
    "data:\n\n",
    "data: \n\n",
    "dat",
    "unknown: {}\n",
    "unknown\n",
    "{",
    "[",
    " ",
    "\u{feff}",
    "\u{feff}\u{feff}",
    "é: é\n",
];

/// What ends a line.
const ENDS: &[&str] = &["\n", "\r", "\r\n", "\n\r", "\n\n"];

impl StreamMutator {
    /// From a seed and whole streams.
    ///
    /// # Panics
    /// Without a stream that has a chunk there is nothing to change.
    #[must_use]
    pub fn new(seed: u64, corpus: Vec<Vec<u8>>) -> Self {
        let chunks = corpus.iter().flat_map(|stream| chunks(stream)).collect();
        Self {
            streams: Mutator::new(seed, corpus.clone()),
            corpus,
            chunks: Mutator::new(seed, chunks),
        }
    }

    /// Starts over from another seed.
    pub fn reseed(&mut self, seed: u64) {
        self.streams.reseed(seed);
        self.chunks.reseed(seed.wrapping_add(1));
    }

    /// True once in `n`.
    pub fn chance(&mut self, n: usize) -> bool {
        self.streams.chance(n)
    }

    /// A stream of the corpus, unchanged, under options and cuts (see [`stream_case`]).
    pub fn recorded(&mut self) -> Vec<u8> {
        let mut input = self.streams.recorded();
        let cuts: Vec<u8> = (0..CUTS).map(|_| self.streams.below(256) as u8).collect();
        input.splice(HEADER..HEADER, cuts);
        input
    }

    /// Up to three changes: of the stream, once in a while of an option or of the cuts.
    pub fn mutate(&mut self, input: &mut Vec<u8>) {
        if input.len() < HEADER + CUTS {
            *input = self.recorded();
        }
        if self.chance(6) {
            let at = self.streams.below(HEADER);
            input[at] = self.streams.header_byte(at);
        }
        if self.chance(3) {
            let at = HEADER + self.streams.below(CUTS);
            input[at] = self.streams.below(256) as u8;
        }
        let mut stream = input.split_off(HEADER + CUTS);
        for _ in 0..=self.streams.below(3) {
            self.change(&mut stream);
        }
        input.append(&mut stream);
    }

    fn change(&mut self, stream: &mut Vec<u8>) {
        let mut blocks = blocks(stream);
        if blocks.is_empty() {
            return;
        }
        let one = self.streams.below(blocks.len());
        let other = self.streams.below(blocks.len());
        match self.streams.below(24) {
            0..=8 => self.change_data(&mut blocks[one]),
            9 => drop(blocks.remove(one)),
            10 => blocks.insert(other, blocks[one].clone()),
            11 => blocks.swap(one, other),
            12 => {
                let end = blocks.pop().unwrap_or_default();
                blocks.insert(other.min(blocks.len()), end);
            }
            13 => end_lines(&mut blocks[one], self.streams.choose(ENDS)),
            14 => {
                let end = self.streams.choose(ENDS);
                blocks.iter_mut().for_each(|block| end_lines(block, end));
            }
            15 => {
                let line = self.streams.choose(LINES);
                blocks.insert(one, line.as_bytes().to_vec());
            }
            16 => {
                // Inside an event.
                let line = self.streams.choose(LINES);
                let block = &mut blocks[one];
                let ends: Vec<usize> = line_ends(block);
                let at = match self.streams.below(ends.len() + 1) {
                    0 => 0,
                    at => ends[at - 1],
                };
                block.splice(at..at, line.bytes());
            }
            17 | 18 => {
                let block = &mut blocks[one];
                let at = self.streams.below(block.len() + 1);
                let end = self.streams.choose(ENDS);
                let field = self
                    .streams
                    .choose(&["data:", "data: ", "data:  ", ": ", ""]);
                block.splice(at..at, format!("{end}{field}").into_bytes());
            }
            19 => {
                let at = self.streams.below(stream.len() + 1);
                stream.truncate(at);
                return;
            }
            20 => {
                let from = self.streams.below(self.corpus.len());
                let more = self::blocks(&self.corpus[from]);
                if !more.is_empty() {
                    blocks[one] = self.streams.choose(&more);
                }
            }
            21 => {
                let text = blocks[one].clone();
                blocks[one] = replaced(&text, b"data: ", b"data:");
            }
            22 => self.rename(&mut blocks[one]),
            _ => {
                let block = &mut blocks[one];
                let at = self.streams.below(block.len());
                block[at] ^= 1 << self.streams.below(8);
            }
        }
        *stream = blocks.concat();
    }

    /// Changes what stands behind the first `data:`.
    fn change_data(&mut self, block: &mut Vec<u8>) {
        let Some(at) = find(block, b"data:") else {
            return;
        };
        let start = at + 5 + usize::from(block.get(at + 5) == Some(&b' '));
        let rest = &block[start..];
        let end = rest.iter().position(|byte| b"\r\n".contains(byte));
        let end = start + end.unwrap_or(rest.len());
        let mut data = block[start..end].to_vec();
        self.chunks.change(&mut data);
        block.splice(start..end, data);
    }

    /// Another request's chunk.
    fn rename(&mut self, block: &mut Vec<u8>) {
        let key = self
            .streams
            .choose(&["\"id\":\"", "\"request_id\":\"", "\"index\":"]);
        if let Some(at) = find(block, key.as_bytes()) {
            let at = at + key.len();
            block.insert(at, b'1');
        }
    }
}

fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    text.windows(part.len()).position(|window| window == part)
}

fn replaced(text: &[u8], part: &[u8], by: &[u8]) -> Vec<u8> {
    let mut text = text.to_vec();
    while let Some(at) = find(&text, part) {
        text.splice(at..at + part.len(), by.iter().copied());
    }
    text
}

/// Behind each line of a text that is mostly whole.
fn line_ends(text: &[u8]) -> Vec<usize> {
    let ends = text
        .iter()
        .enumerate()
        .filter(|(_, byte)| b"\r\n".contains(byte));
    ends.map(|(at, _)| at + 1).collect()
}

fn end_lines(block: &mut Vec<u8>, end: &str) {
    let unix = replaced(&replaced(block, b"\r\n", b"\n"), b"\r", b"\n");
    let lines = unix.split(|&byte| byte == b'\n');
    *block = lines.collect::<Vec<_>>().join(end.as_bytes());
}

/// The stream in pieces that end with an empty line.
fn blocks(stream: &[u8]) -> Vec<Vec<u8>> {
    let mut blocks = Vec::new();
    let mut start = 0;
    for end in 1..=stream.len() {
        let block = &stream[start..end];
        let ends = [&b"\n\n"[..], b"\r\r", b"\r\n\r\n"];
        if end == stream.len() || ends.iter().any(|it| block.ends_with(it)) {
            blocks.push(block.to_vec());
            start = end;
        }
    }
    blocks
}
