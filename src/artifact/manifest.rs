//! The manifest: a MessagePack map with a fixed set of keys, in their order, each value in its shortest form. So what is
//! read here is canonical, and every other spelling is refused.

use super::msgpack::{Reader, Token, refused};
use super::open::{Contents, PRELUDE};
use crate::error::{Error, Result};
use crate::limits::MAX_ARTIFACT_TENSORS;

/// The format's ceilings.
const MAX_ROUTERS: u32 = 4096;
const MAX_EXPERTS: u64 = 1 << 16;
const MAX_TOP_K: u64 = 1024;
const MAX_DIMENSION: u64 = 1 << 20;

/// Element types, little-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dtype {
    U8,
    U16,
    I32,
    I64,
    F16,
    Bf16,
    F32,
}

impl Dtype {
    const ALL: [(&'static str, Self, u64); 7] = [
        ("u8", Self::U8, 1),
        ("u16", Self::U16, 2),
        ("i32", Self::I32, 4),
        ("i64", Self::I64, 8),
        ("fp16", Self::F16, 2),
        ("bf16", Self::Bf16, 2),
        ("fp32", Self::F32, 4),
    ];

    fn is_float(self) -> bool {
        matches!(self, Self::F16 | Self::Bf16 | Self::F32)
    }
}

/// Where a tensor is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tensor {
    pub(super) dtype: Dtype,
    /// One or two dimensions.
    pub(super) rank: u32,
    /// Rows, columns; one column where it has one dimension.
    pub(super) shape: [usize; 2],
    /// Its first byte among the tensors.
    pub(super) start: usize,
    pub(super) bytes: usize,
    /// Offset of its entry.
    pub(super) at: usize,
}

impl Tensor {
    /// Its bytes among the tensors.
    pub(super) fn of<'a>(&self, tensors: &'a [u8]) -> &'a [u8] {
        &tensors[self.start..][..self.bytes]
    }

    /// The error of the value `i` of all.
    #[cold]
    pub(super) fn unfit(&self, i: usize, message: String) -> Error {
        let [_, columns] = self.shape;
        let path = match self.rank {
            1 => format!("[{i}]"),
            _ => format!("[{}][{}]", i / columns, i % columns),
        };
        refused("range", self.at, message).under(&path)
    }

    const NONE: Self = Self {
        dtype: Dtype::U8,
        rank: 1,
        shape: [0, 1],
        start: 0,
        bytes: 0,
        at: 0,
    };
}

/// The routes of one router, which is one layer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Router {
    pub(super) id: u64,
    pub(super) experts: u32,
    pub(super) ids: Tensor,
}

#[derive(Debug)]
pub(super) struct Routes {
    pub(super) start: u64,
    pub(super) routers: Vec<Router>,
}

/// Log-probabilities from a position on; the candidates' ids where there are several a position.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scores {
    pub(super) start: u64,
    pub(super) ids: Option<Tensor>,
    pub(super) logprobs: Tensor,
}

/// The only choice.
#[derive(Debug)]
pub(super) struct Choice {
    pub(super) index: u32,
    pub(super) prompt: usize,
    pub(super) sequence: Tensor,
    pub(super) routes: Option<Routes>,
    pub(super) selected: Option<Scores>,
    pub(super) top: Option<Scores>,
}

impl Choice {
    /// Whether both kinds of log-probabilities were rounded in the same way.
    pub(super) fn same_width(&self) -> bool {
        let width = |scores: &Option<Scores>| scores.map(|scores| scores.logprobs.dtype);
        width(&self.selected) == width(&self.top)
    }
}

/// Reads the manifest. Its tensors fill what is behind it, without a gap.
pub(super) fn read(contents: &Contents) -> Result<Choice> {
    let mut parser = Parser {
        reader: Reader::new(contents.manifest(), PRELUDE),
        tensors: Vec::new(),
    };
    let choice = parser.manifest()?;
    // The ids are the first tensor, although the manifest names them last.
    parser.tensors.rotate_right(1);
    let mut end = 0;
    for tensor in &parser.tensors {
        if tensor.start != end {
            let message = format!(
                "a tensor at {}, the one before it ends at {end}",
                tensor.start
            );
            return Err(refused("layout", tensor.at, message));
        }
        end += tensor.bytes;
    }
    let size = contents.bytes.len() - contents.tensors;
    if end != size {
        let message = format!("the tensors have {end} bytes, {size} are there");
        return Err(refused("layout", PRELUDE, message));
    }
    Ok(choice)
}

struct Parser<'a> {
    reader: Reader<'a>,
    /// In the order of the manifest.
    tensors: Vec<Tensor>,
}

impl<'a> Parser<'a> {
    fn token(&mut self) -> Result<Token<'a>> {
        let at = self.reader.at();
        let token = self.reader.token()?;
        if !self.reader.shortest {
            let message = "a value that is not written in its shortest form";
            return Err(refused("canonical", at, message));
        }
        Ok(token)
    }

    fn text(&mut self) -> Result<&'a str> {
        let at = self.reader.at();
        match self.token()? {
            Token::Text(text) => Ok(text),
            other => Err(wrong_type(at, &other, "a string")),
        }
    }

    fn integer(&mut self, most: u64) -> Result<u64> {
        let at = self.reader.at();
        match self.token()? {
            Token::Uint(value) if value <= most => Ok(value),
            Token::Uint(value) => {
                let message = format!("{value}, at most {most} is allowed");
                Err(refused("range", at, message))
            }
            other => Err(wrong_type(at, &other, "an integer of 0 or more")),
        }
    }

    /// The head of a list of `least` to `most` elements.
    fn array(&mut self, least: u32, most: u32) -> Result<u32> {
        let at = self.reader.at();
        match self.token()? {
            Token::Array(len) if (least..=most).contains(&len) => Ok(len),
            Token::Array(len) => {
                let message = format!("{len} elements, {least} to {most} are allowed");
                Err(refused("count", at, message))
            }
            other => Err(wrong_type(at, &other, "an array")),
        }
    }

    fn list<T>(
        &mut self,
        least: u32,
        most: u32,
        mut element: impl FnMut(&mut Self) -> Result<T>,
    ) -> Result<Vec<T>> {
        let len = self.array(least, most)?;
        (0..len)
            .map(|i| element(self).map_err(|error| error.under(&format!("[{i}]"))))
            .collect()
    }

    /// The head of a map with one of two numbers of keys.
    fn map(&mut self, keys: u32, or: u32) -> Result<u32> {
        let at = self.reader.at();
        match self.token()? {
            Token::Map(len) if len == keys || len == or => Ok(len),
            Token::Map(len) => Err(refused("keys", at, format!("a map of {len} keys"))),
            other => Err(wrong_type(at, &other, "a map")),
        }
    }

    /// The next key, which must be `name`, and what `value` reads.
    fn field<T>(
        &mut self,
        name: &'static str,
        value: impl FnOnce(&mut Self) -> Result<T>,
    ) -> Result<T> {
        let at = self.reader.at();
        let key = self.text()?;
        if key != name {
            let key = key.escape_debug();
            let message = format!("the key \"{key}\" where \"{name}\" was expected");
            return Err(refused("keys", at, message));
        }
        value(self).map_err(|error| error.under(name))
    }

    fn manifest(&mut self) -> Result<Choice> {
        self.map(1, 1)?;
        let choice = self.field("choices", |it| {
            let at = it.reader.at();
            let count = it.array(1, u32::MAX)?;
            if count > 1 {
                let message = format!("{count} choices; one is read");
                return Err(refused("several_choices", at, message));
            }
            it.choice().map_err(|error| error.under("[0]"))
        })?;
        if !self.reader.is_at_end() {
            let message = "something follows the manifest";
            return Err(refused("trailing_data", self.reader.at(), message));
        }
        Ok(choice)
    }

    fn choice(&mut self) -> Result<Choice> {
        self.map(4, 4)?;
        let index = self.field("choice_index", |it| it.integer((1 << 31) - 1))?;
        let mut choice = Choice {
            index: index as u32,
            prompt: 0,
            sequence: Tensor::NONE,
            routes: None,
            selected: None,
            top: None,
        };
        self.field("components", |it| {
            it.list(0, 3, |it| it.component(&mut choice))
        })?;
        let (prompt, at) = self.field("prompt_token_count", |it| {
            let at = it.reader.at();
            Ok((it.integer(MAX_DIMENSION)?, at))
        })?;
        choice.sequence = self.field("sequence_token_ids", |it| {
            it.tensor(1, |dtype| !dtype.is_float())
        })?;
        choice.prompt = prompt as usize;
        if choice.prompt > choice.sequence.shape[0] {
            let message = format!(
                "a prompt of {prompt} tokens in a sequence of {}",
                choice.sequence.shape[0]
            );
            return Err(refused("range", at, message).under("prompt_token_count"));
        }
        Ok(choice)
    }

    fn component(&mut self, choice: &mut Choice) -> Result<()> {
        let at = self.reader.at();
        let twice = |twice: bool| {
            let message = "a kind of component that was there before";
            if twice {
                Err(refused("keys", at, message))
            } else {
                Ok(())
            }
        };
        if self.map(3, 4)? == 4 {
            twice(choice.top.is_some())?;
            let ids = self.field("candidate_token_ids", |it| {
                it.tensor(2, |dtype| !dtype.is_float())
            })?;
            self.kind(&["topk_logprobs"])?;
            choice.top = Some(self.scores(2, Some(ids))?);
            return Ok(());
        }
        match self.kind(&["moe_routes", "selected_logprobs"])? {
            "moe_routes" => {
                twice(choice.routes.is_some())?;
                let routers = self.field("routers", |it| it.list(1, MAX_ROUTERS, Self::router))?;
                let start = self.field("token_start", |it| it.integer(MAX_DIMENSION))?;
                choice.routes = Some(Routes { start, routers });
            }
            _ => {
                twice(choice.selected.is_some())?;
                choice.selected = Some(self.scores(1, None)?);
            }
        }
        Ok(())
    }

    fn kind(&mut self, known: &[&'static str]) -> Result<&'a str> {
        self.field("kind", |it| {
            let at = it.reader.at();
            let kind = it.text()?;
            if known.contains(&kind) {
                return Ok(kind);
            }
            let message = format!("the component \"{}\" is not known", kind.escape_debug());
            Err(refused("component", at, message))
        })
    }

    fn scores(&mut self, rank: u32, ids: Option<Tensor>) -> Result<Scores> {
        let logprobs = self.field("logprobs", |it| {
            let logprobs = it.tensor(rank, Dtype::is_float)?;
            let [_, columns] = logprobs.shape.map(|size| size as u64);
            if rank == 2 && !(1..=MAX_TOP_K).contains(&columns) {
                let message = format!("{columns} candidates a token, 1 to {MAX_TOP_K} are allowed");
                return Err(refused("shape", logprobs.at, message));
            }
            if ids.is_some_and(|ids| ids.shape != logprobs.shape) {
                let message = "the candidates and their log-probabilities differ in shape";
                return Err(refused("shape", logprobs.at, message));
            }
            Ok(logprobs)
        })?;
        let start = self.field("token_start", |it| it.integer(MAX_DIMENSION))?;
        Ok(Scores {
            start,
            ids,
            logprobs,
        })
    }

    fn router(&mut self) -> Result<Router> {
        self.map(3, 3)?;
        let experts = self.field("expert_count", |it| {
            let at = it.reader.at();
            match it.integer(MAX_EXPERTS)? {
                0 => Err(refused("range", at, "a router without experts")),
                count => Ok(count as u32),
            }
        })?;
        let ids = self.field("expert_ids", |it| {
            // The width follows from the number of experts.
            let dtype = if experts <= 256 {
                Dtype::U8
            } else {
                Dtype::U16
            };
            let ids = it.tensor(2, |found| found == dtype)?;
            if !(1..=experts as usize).contains(&ids.shape[1]) {
                let message = format!("{} of {experts} experts a token", ids.shape[1]);
                return Err(refused("shape", ids.at, message));
            }
            Ok(ids)
        })?;
        let id = self.field("router_id", |it| it.integer(i64::MAX as u64))?;
        Ok(Router { id, experts, ids })
    }

    fn tensor(&mut self, rank: u32, fits: impl FnOnce(Dtype) -> bool) -> Result<Tensor> {
        let at = self.reader.at();
        self.map(4, 4)?;
        let (bytes, bytes_at) = self.field("byte_count", |it| {
            let at = it.reader.at();
            Ok((it.integer(MAX_ARTIFACT_TENSORS)?, at))
        })?;
        let (dtype, size) = self.field("dtype", |it| {
            let at = it.reader.at();
            let name = it.text()?;
            let known = Dtype::ALL.iter().find(|(known, _, _)| *known == name);
            match known {
                Some(&(_, dtype, size)) if fits(dtype) => Ok((dtype, size)),
                _ => {
                    let name = name.escape_debug();
                    let message = format!("\"{name}\" is no element type of this tensor");
                    Err(refused("dtype", at, message))
                }
            }
        })?;
        let start = self.field("offset", |it| it.integer(MAX_ARTIFACT_TENSORS))?;
        let shape = self.field("shape", |it| {
            let at = it.reader.at();
            let sizes = it.list(1, 2, |it| it.integer(MAX_DIMENSION))?;
            match sizes[..] {
                [rows] if rank == 1 => Ok([rows, 1]),
                [rows, columns] if rank == 2 => Ok([rows, columns]),
                _ => {
                    let message = format!("{} dimensions, this tensor has {rank}", sizes.len());
                    Err(refused("shape", at, message))
                }
            }
        })?;
        // Two sizes of up to 2^20 and an element of eight bytes do not overflow.
        let expected = shape[0] * shape[1] * size;
        if bytes != expected {
            let message = format!("{bytes} bytes, the shape needs {expected}");
            return Err(refused("size", bytes_at, message).under("byte_count"));
        }
        let tensor = Tensor {
            dtype,
            rank,
            shape: shape.map(|size| size as usize),
            start: start as usize,
            bytes: bytes as usize,
            at,
        };
        self.tensors.push(tensor);
        Ok(tensor)
    }
}

#[cold]
fn wrong_type(at: usize, found: &Token<'_>, expected: &'static str) -> Error {
    let found = match found {
        Token::Nil => "nil",
        Token::Bool(_) => "a boolean",
        Token::Uint(_) | Token::Int(_) => "an integer",
        Token::Float(_) => "a number",
        Token::Text(_) => "a string",
        Token::Bytes(_) => "bytes",
        Token::Array(_) => "an array",
        Token::Map(_) => "a map",
    };
    let message = format!("found {found} where {expected} was expected");
    refused("type", at, message)
}
