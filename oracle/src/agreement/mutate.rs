//! Bodies with changed structure: values, members, elements and keys moved, dropped, repeated and replaced, numbers and
//! texts a little different.

use super::case::HEADER;
use super::words::{DIGITS, GLUE, KEYS, LETTERS, SPACE, VALUES};
use dynamo_tito::{Limits, Wire};

use crate::reference::json::{self, Kind, Node};

/// A source of changed bodies, the same for the same seed.
#[derive(Debug)]
pub struct Mutator {
    state: u64,
    corpus: Vec<Vec<u8>>,
    /// Which bodies of the corpus suit each wire.
    likely: [Vec<usize>; Wire::ALL.len()],
}

/// From the first byte to behind the last.
type Span = (usize, usize);

/// Where the parts of a document stand.
#[derive(Debug, Default)]
struct Map {
    values: Vec<Span>,
    numbers: Vec<Span>,
    /// With their quotes.
    strings: Vec<Span>,
    keys: Vec<Span>,
    elements: Vec<Span>,
    /// From the key's quote to the end of the value.
    members: Vec<Span>,
    /// Behind the opening braces.
    objects: Vec<usize>,
}

impl Map {
    fn new(body: &[u8]) -> Option<Self> {
        let document = json::parse(body, Limits::default().max_depth).ok()?;
        let mut map = Map::default();
        map.value(&document);
        Some(map)
    }

    fn value(&mut self, node: &Node) {
        let span = (node.start, node.end);
        match &node.kind {
            Kind::Object(members) => {
                self.objects.push(node.start + 1);
                for member in members {
                    self.keys.push((member.offset, member.key_end));
                    self.value(&member.value);
                    self.members.push((member.offset, member.value.end));
                }
            }
            Kind::Array(elements) => {
                for element in elements {
                    self.value(element);
                    self.elements.push((element.start, element.end));
                }
            }
            Kind::Number(_) => self.numbers.push(span),
            Kind::String(_) => self.strings.push(span),
            Kind::Null | Kind::Bool(_) => {}
        }
        self.values.push(span);
    }
}

/// The wire of the server that most likely wrote the body; None for a body without a completion.
fn likely_wire(body: &[u8]) -> Option<Wire> {
    let holds = |text: &str| body.windows(text.len()).any(|part| part == text.as_bytes());
    Some(if holds("response_token_ids") {
        Wire::SglangChat
    } else if holds("meta_info") {
        Wire::SglangGenerate
    } else if !holds("choices") {
        return None;
    } else if holds("text_completion") && !holds("nvext") {
        Wire::VllmCompletions
    } else if holds("text_completion") {
        Wire::DynamoCompletions
    } else if holds("nvext") {
        Wire::DynamoChat
    } else if holds("chat.completion") {
        Wire::VllmChat
    } else {
        Wire::VllmGenerate
    })
}

impl Mutator {
    /// From a seed and whole bodies.
    ///
    /// # Panics
    /// Without a body there is nothing to change.
    #[must_use]
    pub fn new(seed: u64, corpus: Vec<Vec<u8>>) -> Self {
        assert!(!corpus.is_empty(), "a corpus has at least one body");
        let likely = Wire::ALL.map(|(_, wire)| {
            let suits = |at: &usize| likely_wire(&corpus[*at]) == Some(wire);
            (0..corpus.len()).filter(suits).collect()
        });
        let mut mutator = Self {
            state: 0,
            corpus,
            likely,
        };
        mutator.reseed(seed);
        mutator
    }

    /// Starts over from another seed.
    pub fn reseed(&mut self, seed: u64) {
        self.state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    }

    /// A body of the corpus, unchanged, under options that might suit it (see [`super::case()`]).
    pub fn recorded(&mut self) -> Vec<u8> {
        let wire = self.below(Wire::ALL.len());
        let at = match self.likely[wire].len() {
            suitable @ 1.. if !self.chance(8) => {
                let position = self.below(suitable);
                self.likely[wire][position]
            }
            _ => self.below(self.corpus.len()),
        };
        let mut input = vec![wire as u8];
        while input.len() < HEADER {
            let byte = self.header_byte(input.len());
            input.push(byte);
        }
        input.extend_from_slice(&self.corpus[at]);
        input
    }

    /// Up to three changes: of the body, once in a while of an option too. What is too short to be a case becomes one.
    pub fn mutate(&mut self, input: &mut Vec<u8>) {
        if input.len() < HEADER {
            *input = self.recorded();
        }
        if self.chance(6) {
            let at = self.below(HEADER);
            input[at] = self.header_byte(at);
        }
        let mut body = input.split_off(HEADER);
        for _ in 0..=self.below(3) {
            self.change(&mut body);
        }
        input.append(&mut body);
    }

    /// One of the choices.
    pub(super) fn choose<T: Clone>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())].clone()
    }

    /// True once in `n`.
    pub fn chance(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    /// A number below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        (self.state % n as u64) as usize
    }

    /// A wire, flags of which a few are set, a prompt, counts that are mostly left out, else mostly small; ceilings rarely.
    pub(super) fn header_byte(&mut self, at: usize) -> u8 {
        (match at {
            0 | 3 => self.below(256),
            1 => self.below(256) & self.below(256),
            2..8 if !self.chance(4) => 255,
            8.. if !self.chance(24) => 255,
            _ if self.chance(8) => self.below(256),
            _ => self.below(8),
        }) as u8
    }

    /// One change. A body that is not JSON stays as it is.
    pub(super) fn change(&mut self, body: &mut Vec<u8>) {
        let Some(map) = Map::new(body) else { return };
        let (start, end) = self.choose(&map.values);
        match self.below(20) {
            0..=3 => {
                let text = self.choose(VALUES);
                body.splice(start..end, text.bytes());
            }
            4 | 5 => {
                let at = self.below(self.corpus.len());
                let Some(other) = Map::new(&self.corpus[at]) else {
                    return;
                };
                let (from, to) = self.choose(&other.values);
                let text = self.corpus[at][from..to].to_vec();
                body.splice(start..end, text);
            }
            6 if !map.members.is_empty() => {
                let (from, to) = self.choose(&map.members);
                let (at, _) = self.choose(&map.members);
                let text = [&body[from..to], b","].concat();
                body.splice(at..at, text);
            }
            7 if !map.members.is_empty() => {
                let span = self.choose(&map.members);
                drop_item(body, span);
            }
            8 | 9 if !map.objects.is_empty() => {
                let at = self.choose(&map.objects);
                let comma = if body.get(at) == Some(&b'}') { "" } else { "," };
                let text = format!("\"{}\":{}{comma}", self.choose(&KEYS), self.choose(VALUES));
                body.splice(at..at, text.bytes());
            }
            10 => {
                let at = self.below(body.len() + 1);
                let text = self.choose(GLUE);
                body.splice(at..at, text.bytes());
            }
            11 | 12 if !map.numbers.is_empty() => {
                let (from, to) = self.choose(&map.numbers);
                let at = from + self.below(to - from + 1);
                let gone = self.below(2).min(to - at);
                let text = self.choose(DIGITS);
                body.splice(at..at + gone, text.bytes());
            }
            13 | 14 if !map.strings.is_empty() => {
                let span = self.choose(&map.strings);
                self.change_text(body, span);
            }
            15 if !map.keys.is_empty() => {
                let (from, to) = self.choose(&map.keys);
                if self.chance(2) {
                    self.change_text(body, (from, to));
                } else {
                    let key = format!("\"{}\"", self.choose(&KEYS));
                    body.splice(from..to, key.bytes());
                }
            }
            16 if !map.elements.is_empty() => {
                let span = self.choose(&map.elements);
                drop_item(body, span);
            }
            17 if !map.elements.is_empty() => {
                let (from, to) = self.choose(&map.elements);
                let again = [&body[from..to], b","].concat();
                let times = self.choose(&[1, 1, 1, 2, 5]);
                body.splice(from..from, again.repeat(times));
            }
            18 => {
                let text = self.choose(SPACE);
                body.splice(start..start, text.bytes());
            }
            _ => {
                let (from, to) = self.choose(&map.values);
                let text = body[from..to].to_vec();
                body.splice(start..end, text);
            }
        }
    }

    /// A string a few letters longer, shorter or different, or with a character that is written as an escape.
    fn change_text(&mut self, body: &mut Vec<u8>, (start, end): Span) {
        let at = start + 1 + self.below(end - start - 1);
        // Up to four characters, the closing quote not among them.
        let gone = self.choose(&[0, 1, 2, 4]).min(end - 1 - at);
        if gone == 1 && body[at].is_ascii_alphanumeric() && self.chance(2) {
            let escape = format!("\\u{:04x}", body[at]);
            body.splice(at..=at, escape.bytes());
            return;
        }
        let text = self.choose(LETTERS);
        body.splice(at..at + gone, text.bytes());
    }
}

/// Takes a member or an element out, with the comma behind it.
fn drop_item(body: &mut Vec<u8>, (from, mut to): Span) {
    to += usize::from(body.get(to) == Some(&b','));
    body.drain(from..to);
}
