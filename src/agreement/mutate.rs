//! Bodies with changed structure: values, members and keys moved, dropped, repeated and replaced.

use crate::Wire;
use crate::error::Result;
use crate::json::{Cursor, Kind};

/// A source of changed bodies, the same for the same seed.
#[derive(Debug)]
pub struct Mutator {
    state: u64,
    corpus: Vec<Vec<u8>>,
}

/// Where the values, members and objects of a document stand.
#[derive(Debug, Default)]
struct Map {
    values: Vec<(usize, usize)>,
    /// From the key's quote to the end of the value.
    members: Vec<(usize, usize)>,
    /// Behind the opening braces.
    objects: Vec<usize>,
}

impl Map {
    fn new(body: &[u8]) -> Option<Self> {
        let mut map = Map::default();
        let mut cursor = Cursor::new(body);
        map.value(&mut cursor).ok()?;
        cursor.end().ok()?;
        Some(map)
    }

    fn value(&mut self, cursor: &mut Cursor<'_>) -> Result<()> {
        let kind = cursor.kind()?;
        let start = cursor.pos;
        match kind {
            Kind::Object => {
                self.objects.push(start + 1);
                cursor.object(|cursor, key| {
                    self.value(cursor)?;
                    self.members.push((key.at, cursor.pos));
                    Ok(())
                })?;
            }
            Kind::Array => cursor.array(|cursor, _| self.value(cursor))?,
            _ => cursor.skip_value()?,
        }
        self.values.push((start, cursor.pos));
        Ok(())
    }
}

impl Mutator {
    /// From a seed and whole bodies.
    ///
    /// # Panics
    /// Without a body there is nothing to change.
    #[must_use]
    pub fn new(seed: u64, corpus: Vec<Vec<u8>>) -> Self {
        assert!(!corpus.is_empty(), "a corpus has at least one body");
        Self {
            state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            corpus,
        }
    }

    /// A changed body and a wire to read it as.
    pub fn body(&mut self) -> (Vec<u8>, Wire) {
        let at = self.below(self.corpus.len());
        let mut body = self.corpus[at].clone();
        for _ in 0..=self.below(3) {
            self.change(&mut body);
        }
        let (_, wire) = self.choose(&Wire::ALL);
        (body, wire)
    }

    /// One of the choices.
    pub fn choose<T: Clone>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())].clone()
    }

    /// True once in `n`.
    pub fn chance(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn below(&mut self, n: usize) -> usize {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        (self.state % n as u64) as usize
    }

    /// One change. A body that is no document any more is left to its fate.
    fn change(&mut self, body: &mut Vec<u8>) {
        let Some(map) = Map::new(body) else { return };
        let (start, end) = self.choose(&map.values);
        match self.below(12) {
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
                let (from, mut to) = self.choose(&map.members);
                to += usize::from(body.get(to) == Some(&b','));
                body.drain(from..to);
            }
            8 | 9 if !map.objects.is_empty() => {
                let at = self.choose(&map.objects);
                let comma = if body.get(at) == Some(&b'}') { "" } else { "," };
                let text = format!("\"{}\":{}{comma}", self.choose(KEYS), self.choose(VALUES));
                body.splice(at..at, text.bytes());
            }
            10 => {
                let at = self.below(body.len() + 1);
                let text = self.choose(GLUE);
                body.splice(at..at, text.bytes());
            }
            _ => {
                let (from, to) = self.choose(&map.values);
                let text = body[from..to].to_vec();
                body.splice(start..end, text);
            }
        }
    }
}

/// Values that mean something somewhere, and their neighbours that do not.
#[rustfmt::skip] // one to a line says nothing more
const VALUES: &[&str] = &[
    "null",
    "true",
    "false",
    "0",
    "-0",
    "1",
    "7",
    "8",
    "-1",
    "1.0",
    "1e2",
    "0.1",
    " 1 ",
    "2147483647",
    "2147483648",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "-9223372036854775809",
    "-9999.0",
    "-9999",
    "-1e30",
    "-1.0000000150474662e30",
    "1e999",
    "-1e-999",
    r#""""#,
    r#""a""#,
    r#""\ud800""#,
    r#""token_id:7""#,
    r#""token_id:8""#,
    r#""token_id:07""#,
    r#""token\u005fid:7""#,
    r#""cancelled""#,
    r#""eos""#,
    r#""error""#,
    r#""uint8""#,
    r#""uint16""#,
    r#""int16""#,
    r#""int32""#,
    r#""u\u0069nt8""#,
    r#""AAAA""#,
    r#""AA==""#,
    r#""AB==""#,
    r#""A\/AA""#,
    r#""A-AA""#,
    r#""A=AA""#,
    r#""k05VTVBZ""#,
    "[]",
    "{}",
    "[[]]",
    "[{}]",
    "[7,8]",
    "[7]",
    "[1,1,3]",
    "[0,4,2]",
    "[null]",
    "[null,null]",
    "[[null,7],[-1,8]]",
    "[[-0.5,7,null]]",
    "[0,2305843009213693952,1]",
    r#"{"logprob":-1}"#,
    r#"{"logprob":null}"#,
    r#"{"7":{"logprob":-1}}"#,
    r#"[{"token_id":7,"logprob":-1}]"#,
    r#"[{"logprob":-1,"token":"token_id:7"}]"#,
    r#"{"data":"AAAA","shape":[1,1,3]}"#,
    r#"{"data":"","shape":[0,4,2]}"#,
];

/// Keys that mean something somewhere, two of them in another spelling.
const KEYS: &[&str] = &[
    "error",
    "object",
    "status",
    "message",
    "type",
    "code",
    "choices",
    "nvext",
    "prompt_logprobs",
    "usage",
    "id",
    "request_id",
    "prompt_token_ids",
    "output_ids",
    "meta_info",
    "index",
    "token_ids",
    "logprobs",
    "finish_reason",
    "stop_reason",
    "weight_versions",
    "weight_version",
    "sampling_mask",
    "routed_experts",
    "content",
    "token_logprobs",
    "tokens",
    "engine_data",
    "completion_token_ids",
    "detailed_finish_reason",
    "completion_logprobs",
    "finished",
    "prompt_tokens",
    "cached_tokens",
    "output_token_logprobs",
    "output_top_logprobs",
    "input_token_logprobs",
    "input_top_logprobs",
    "output_token_sampling_mask",
    "token",
    "token_id",
    "logprob",
    "top_logprobs",
    "bytes",
    "rank",
    "data",
    "shape",
    "start",
    "dtype",
    "matched",
    "1",
    "7",
    "t\\u006fken",
    "cho\\u0069ces",
];

/// What holds a document together.
const GLUE: &[&str] = &[",", " ", "}", "]", "{", "[", "\"", ":", "\\", "\n", "é"];
