//! A slow and simple decoder.
//!
//! It is written from `docs/judgement.md`, in the order of that page. It shares the types of errors and options with the
//! decoder, and no code. In tests and fuzzing both give the same values for every body, or an error of the same class,
//! kind, path and offset.

mod artifact;
mod base64;
mod containers;
mod counts;
mod experts;
mod flat_top;
pub(crate) mod json;
mod logprobs;
mod matrix;
mod metadata;
mod npy;
mod packed;
mod placing;
mod prompt;
mod readers;
mod spans;
pub mod stream;
mod structure;
#[cfg(test)]
mod tests;
mod told;
mod width;
pub(crate) mod wires;

pub(crate) use artifact::encoded as base64_of;

use std::cell::OnceCell;
use std::collections::BTreeMap;

use dynamo_tito::{Class, Error, Options, Result, Wire};
use json::Node;
use structure::Choice;
use wires::Role;

/// One decoded completion: what is there, by the name that Python has for it.
pub type Completion = BTreeMap<&'static str, Attribute>;

/// The value of an attribute, by its form.
#[derive(Debug, Clone, PartialEq)]
pub enum Attribute {
    /// An id for each position.
    Ids(Vec<i32>),
    /// A log-probability for each position.
    Logprobs(Vec<f64>),
    /// Alternatives for each position.
    Top(Top),
    /// A list of ids for each position.
    Rows(Mask),
    /// Log-probabilities of the prompt.
    PromptLogprobs(PromptLogprobs),
    /// Routed experts.
    Experts(RoutedExperts),
    /// What an indexer chose.
    Indexer(RoutedExperts),
    /// Log-probabilities of given ids.
    Matrix(Matrix),
    /// Anything small.
    Json(Value),
}

/// Entries per position, flat: those of position i are `offsets[i]..offsets[i + 1]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Top {
    /// The entries' tokens.
    pub token_ids: Vec<i32>,
    /// Their log-probabilities; NaN where the engine has none.
    pub logprobs: Vec<f64>,
    /// One more than there are positions.
    pub offsets: Vec<i64>,
}

impl Top {
    /// Before the first position.
    fn start() -> Self {
        Self {
            token_ids: Vec::new(),
            logprobs: Vec::new(),
            offsets: vec![0],
        }
    }

    fn push(&mut self, id: i32, logprob: f64) {
        self.token_ids.push(id);
        self.logprobs.push(logprob);
    }

    fn end_position(&mut self) {
        self.offsets.push(self.token_ids.len() as i64);
    }
}

/// Log-probabilities of the prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct PromptLogprobs {
    /// Of the prompt's own P tokens; NaN where the engine has none.
    pub logprobs: Vec<f64>,
    /// Every entry at each of the P positions, highest first.
    pub top: Top,
}

/// Ids per position, flat as in [`Top`].
#[derive(Debug, Clone, PartialEq)]
pub struct Mask {
    /// The ids of all positions.
    pub token_ids: Vec<i32>,
    /// One more than there are positions.
    pub offsets: Vec<i64>,
}

/// Rows of float32.
#[derive(Debug, Clone, PartialEq)]
pub struct Matrix {
    /// In C order.
    pub values: Vec<f32>,
    /// Rows, columns.
    pub shape: [u64; 2],
}

/// Rows of expert ids.
#[derive(Debug, Clone, PartialEq)]
pub struct RoutedExperts {
    /// The wire's values, widened, in C order.
    pub values: Vec<i32>,
    /// Rows, layers, top_k.
    pub shape: [u64; 3],
    /// The sequence position of row 0.
    pub start: u64,
    /// The wire's width.
    pub dtype: &'static str,
    /// False if an aborted completion has fewer rows than tokens.
    pub complete: bool,
}

/// JSON that is passed on.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// null
    Null,
    /// true or false
    Bool(bool),
    /// A number without fraction and exponent.
    Int(i64),
    /// The same, above what an i64 holds.
    Uint(u64),
    /// Any other number.
    Float(f64),
    /// A string.
    Text(String),
    /// An array.
    List(Vec<Value>),
    /// An object in the order of the wire; of a repeated key the last value, at the first one's place.
    Map(Vec<(String, Value)>),
}

/// Decodes a body with one choice.
pub fn decode(body: &[u8], options: &Options<'_>) -> Result<Completion> {
    one(&json::parse(body, options.limits.max_depth)?, options)
}

/// Decodes every choice of a body, by index.
pub fn decode_choices(body: &[u8], options: &Options<'_>) -> Result<Vec<Completion>> {
    every(&json::parse(body, options.limits.max_depth)?, options)
}

/// What [`decode`] and [`decode_choices`] say of a body, which is parsed once.
pub fn decode_both(
    body: &[u8],
    options: &Options<'_>,
) -> (Result<Completion>, Result<Vec<Completion>>) {
    match json::parse(body, options.limits.max_depth) {
        Ok(document) => (one(&document, options), every(&document, options)),
        Err(error) => (Err(error.clone()), Err(error)),
    }
}

fn one(document: &Node, options: &Options<'_>) -> Result<Completion> {
    let artifact = OnceCell::new();
    let choices = structure::choices(document, &artifact, options, true)?;
    // One choice is all that can have come through.
    let mut completions = completions(&choices, options)?;
    Ok(completions.remove(0))
}

fn every(document: &Node, options: &Options<'_>) -> Result<Vec<Completion>> {
    let artifact = OnceCell::new();
    let choices = structure::choices(document, &artifact, options, false)?;
    completions(&choices, options)
}

/// Decodes an artifact with one choice.
pub fn decode_artifact(data: &[u8], options: &Options<'_>) -> Result<Completion> {
    if data.starts_with(&artifact::ZSTD) {
        let json = artifact::transcribed(data, options)?;
        let options = Options {
            wire: Wire::SglangGenerate,
            ..*options
        };
        return decode(json.as_bytes(), &options).map_err(|mut error| {
            error.offset = None;
            error
        });
    }
    // An artifact is Dynamo's, whatever wire the options name.
    let options = &Options {
        wire: Wire::DynamoChat,
        ..*options
    };
    let unfolded = artifact::unfolded(data, options)?;
    let (found, _) = completion(&Choice::of_artifact(&unfolded), 0, true, options)?;
    Ok(found)
}

fn completions(choices: &[Choice<'_>], options: &Options<'_>) -> Result<Vec<Completion>> {
    let mut completions: Vec<Completion> = Vec::new();
    let mut earlier = 0;
    for (i, choice) in choices.iter().enumerate() {
        let last = i + 1 == choices.len();
        let (completion, tokens) = completion(choice, earlier, last, options)?;
        completions.push(completion);
        earlier += tokens;
    }
    Ok(completions)
}

/// Step 7, (a) to (g), of the last choice or one before it; those before it have `earlier` tokens. Also how many tokens it has.
fn completion(
    choice: &Choice<'_>,
    earlier: usize,
    last: bool,
    options: &Options<'_>,
) -> Result<(Completion, usize)> {
    let mut found = Completion::new();
    let mut sources = Vec::new();

    let Some((path, node)) = choice.found(Role::TokenIds) else {
        let path = choice.channels(Role::TokenIds)[0].path.clone();
        let message = "the response holds no token ids";
        return Err(Error::new(Class::Missing, "missing", path, None, message));
    };
    let token_ids = readers::ids(node, path, options)?;
    let tokens = token_ids.len();
    sources.push(("token_ids", path.to_owned()));

    let read = logprobs::read(choice, &token_ids, options)?;
    let logprobs = match read.chosen {
        Some((mut values, path)) => {
            width::values(&mut values, |i| i, &path, options)?;
            sources.push(("logprobs", path));
            Some(values)
        }
        // No token, so there is nothing to be missing.
        None if tokens == 0 => Some(Vec::new()),
        None => None,
    };
    found.extend(logprobs.map(|it| ("logprobs", Attribute::Logprobs(it))));
    if let Some((mut top, path)) = read.top {
        width::top(&mut top, &path, options)?;
        sources.push(("top_logprobs", path));
        found.insert("top_logprobs", Attribute::Top(top));
    }
    if let Some(why) = read.echo_left_out {
        sources.push(("logprobs_echo", why));
    }

    let prompt_token_ids = prompt::echo(choice, options)?.map(|(ids, path)| {
        sources.push(("prompt_token_ids", path));
        ids
    });
    let prompt_ids = options.prompt_token_ids.or(prompt_token_ids.as_deref());
    match prompt::logprobs(choice, prompt_ids, options)? {
        prompt::Outcome::Absent => {}
        prompt::Outcome::LeftOut => {
            let why = "left out: needs prompt_token_ids";
            sources.push(("prompt_logprobs", why.to_owned()));
        }
        prompt::Outcome::Read(mut read, path) => {
            width::prompt(&mut read, &path, options)?;
            sources.push(("prompt_logprobs", path));
            found.insert("prompt_logprobs", Attribute::PromptLogprobs(read));
        }
    }

    if let Some((path, node)) = choice.found(Role::PromptMatrix) {
        let len = prompt_ids.map(|ids| ids.len() as u64);
        let read = matrix::read(node, path, options.prompt_len.or(len), options)?;
        sources.push(("prompt_token_id_logprobs", path.to_owned()));
        found.insert("prompt_token_id_logprobs", Attribute::Matrix(read));
    }

    let metadata = metadata::read(choice, tokens, options)?;
    let (engine, engine_left_out) = told::engine(&told::read(choice), str::to_owned);
    let aborted = metadata.aborted == Some(true);

    // P.
    let passed = options
        .prompt_len
        .or(prompt_ids.map(|ids| ids.len() as u64));
    let counts = counts::read(choice, metadata.usage.as_ref());
    let counted = counts.prompt.filter(|_| !(aborted && tokens == 0));
    counts::prompt_agrees(counted.as_ref(), passed)?;
    if options.score_from.is_none() {
        let counted = counts.completion.as_ref();
        match options.wire {
            wire if wire.is_sglang() => counts::completion_agrees(counted, tokens)?,
            _ if last => counts::completion_agrees(counted, earlier + tokens)?,
            _ => {}
        }
    }

    let mut rows_from = Vec::new();
    for (name, path, node) in choice.rows() {
        let rows = rows(name, path, node, &token_ids, options)?;
        found.insert(name, Attribute::Rows(rows));
        rows_from.push((name, path.to_owned()));
    }

    if let Some((path, node)) = choice.found(Role::SamplerLogprobs) {
        let mut values = sampler(node, path, &token_ids, options)?;
        width::values(&mut values, |i| i, path, options)?;
        found.insert("sampling_logprobs", Attribute::Logprobs(values));
        rows_from.push(("sampling_logprobs", path.to_owned()));
    }

    let sequence = placing::Sequence {
        prompt: passed,
        counted: counted.map(|count| count.tokens),
        tokens,
        aborted,
    };
    match experts::read(choice, &sequence, options)? {
        experts::Outcome::Absent => {}
        experts::Outcome::Skipped => {
            let why = "left out: experts=\"skip\"";
            sources.push(("routed_experts", why.to_owned()));
        }
        experts::Outcome::Read(read, path) => {
            sources.push(("routed_experts", path));
            found.insert("routed_experts", Attribute::Experts(read));
        }
    }
    // Judged before the routed experts, named after them.
    sources.extend(rows_from);
    match experts::read_indexer(choice, &sequence, options)? {
        experts::Outcome::Absent => {}
        experts::Outcome::Skipped => {
            let why = "left out: experts=\"skip\"";
            sources.push(("indexer_topk", why.to_owned()));
        }
        experts::Outcome::Read(read, path) => {
            sources.push(("indexer_topk", path));
            found.insert("indexer_topk", Attribute::Indexer(read));
        }
    }
    sources.extend(engine_left_out.map(|why| ("engine", why)));
    sources.extend(choice.notes.clone());

    found.insert("token_ids", Attribute::Ids(token_ids));
    let echo = prompt_token_ids.map(|ids| ("prompt_token_ids", Attribute::Ids(ids)));
    found.extend(echo);
    let sources = sources
        .into_iter()
        .map(|(name, path)| (name.to_owned(), Value::Text(path)));
    let small = [
        ("finish_reason", metadata.finish_reason.map(Value::Text)),
        (
            "finish_reason_raw",
            metadata.finish_reason_raw.map(Value::Text),
        ),
        ("stop_reason", metadata.stop_reason),
        ("aborted", metadata.aborted.map(Value::Bool)),
        ("request_id", metadata.request_id.map(Value::Text)),
        ("index", Some(Value::Int(choice.index.into()))),
        ("usage", metadata.usage),
        ("weight_versions", metadata.weight_versions),
        ("engine", engine),
        ("sources", Some(Value::Map(sources.collect()))),
    ];
    let small = small.into_iter();
    found.extend(small.filter_map(|(name, value)| Some((name, Attribute::Json(value?)))));
    Ok((found, tokens))
}

/// (f): as many log-probabilities as there are tokens.
fn sampler(node: &Node, path: &str, ids: &[i32], options: &Options<'_>) -> Result<Vec<f64>> {
    let values = readers::flat(node, path, options)?;
    logprobs::same_count(values.len(), ids, path, node)?;
    let values = values.into_iter().enumerate();
    values
        .map(|(i, value)| logprobs::given(value, &format!("{path}[{i}]"), options.missing_logprob))
        .collect()
}

/// (f): as many lists of ids as there are tokens, each with the one that was sampled.
fn rows(
    name: &'static str,
    path: &str,
    node: &Node,
    ids: &[i32],
    options: &Options<'_>,
) -> Result<Mask> {
    if node.as_object().is_some() && options.wire.packs() {
        return packed_rows(name, path, node, ids, options);
    }
    let mut mask = Mask {
        token_ids: Vec::new(),
        offsets: vec![0],
    };
    let rows = readers::per_token(node, path, options, readers::row_of_ids)?;
    for row in &rows {
        mask.token_ids.extend(row);
        mask.offsets.push(mask.token_ids.len() as i64);
    }
    logprobs::same_count(rows.len(), ids, path, node)?;
    let lists = node.as_array().unwrap_or_default();
    for (i, ((row, id), list)) in rows.iter().zip(ids).zip(lists).enumerate() {
        if !row.contains(id) {
            let path = format!("{path}[{i}]");
            let message = format!("the list does not hold token {id}, which was sampled");
            return Err(logprobs::alignment(name, path, list.start, message));
        }
    }
    Ok(mask)
}

/// The same of a packed list, whose rows have no offsets.
fn packed_rows(
    name: &'static str,
    path: &str,
    node: &Node,
    ids: &[i32],
    options: &Options<'_>,
) -> Result<Mask> {
    let mask = packed::mask(node, path, options)?;
    logprobs::same_count(mask.offsets.len() - 1, ids, path, node)?;
    for (i, (bounds, id)) in mask.offsets.windows(2).zip(ids).enumerate() {
        if !mask.token_ids[bounds[0] as usize..bounds[1] as usize].contains(id) {
            return Err(Error::new(
                Class::Alignment,
                name,
                format!("{path}[{i}]"),
                node.start,
                format!("the list does not hold token {id}, which was sampled"),
            ));
        }
    }
    Ok(mask)
}
