//! The decoder's slow, obvious twin.
//!
//! Written from `docs/judgement.md` alone, and shaped so that it can be checked against that page line by line. It shares no code
//! with the decoder, only the data types of errors and options, and judges it in tests and fuzzing: on every body both must
//! give the same values, or an error of the same class, kind, path and offset.

mod base64;
mod counts;
mod experts;
pub(crate) mod json;
mod logprobs;
mod metadata;
mod npy;
mod prompt;
mod readers;
mod spans;
pub mod stream;
mod structure;
#[cfg(test)]
mod tests;

use dynamo_tito::{Class, Error, Options, Result, Wire};
use structure::{Choice, first};

/// One decoded completion.
#[derive(Debug, Clone, PartialEq)]
pub struct Completion {
    /// What the engine sampled: C ids.
    pub token_ids: Vec<i32>,
    /// C log-probabilities.
    pub logprobs: Option<Vec<f64>>,
    /// The alternatives at each of the C positions.
    pub top_logprobs: Option<Top>,
    /// The prompt as the server echoes it: P ids.
    pub prompt_token_ids: Option<Vec<i32>>,
    /// What the engine thought of the prompt.
    pub prompt_logprobs: Option<PromptLogprobs>,
    /// Which experts each token was sent to.
    pub routed_experts: Option<RoutedExperts>,
    /// The ids that could have been sampled at each of the C positions.
    pub sampling_mask: Option<Mask>,
    /// Why the completion ended, in one spelling.
    pub finish_reason: Option<String>,
    /// The same in the wire's spelling.
    pub finish_reason_raw: Option<String>,
    /// What stopped it.
    pub stop_reason: Option<StopReason>,
    /// Whether it was cut off; None where the wire cannot tell.
    pub aborted: Option<bool>,
    /// The server's name for the request.
    pub request_id: Option<String>,
    /// Which of the choices this is.
    pub index: u32,
    /// Token counts, as on the wire.
    pub usage: Option<Value>,
    /// Spans of the completion and the weights that made them, as on the wire.
    pub weight_versions: Option<Value>,
    /// Which channel each array came from.
    pub sources: Vec<(&'static str, String)>,
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

/// What stopped a completion.
#[derive(Debug, Clone, PartialEq)]
pub enum StopReason {
    /// A stop string.
    Text(String),
    /// A token.
    Token(i64),
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
    let document = json::parse(body, options.limits.max_depth)?;
    let choices = structure::choices(&document, options, true)?;
    // One choice is all that can have come through.
    let mut completions = completions(&choices, options)?;
    Ok(completions.remove(0))
}

/// Decodes every choice of a body, by index.
pub fn decode_choices(body: &[u8], options: &Options<'_>) -> Result<Vec<Completion>> {
    let document = json::parse(body, options.limits.max_depth)?;
    let choices = structure::choices(&document, options, false)?;
    completions(&choices, options)
}

fn completions(choices: &[Choice<'_>], options: &Options<'_>) -> Result<Vec<Completion>> {
    let mut completions: Vec<Completion> = Vec::new();
    for (i, choice) in choices.iter().enumerate() {
        let earlier = completions.iter().map(|c| c.token_ids.len()).sum();
        let last = i + 1 == choices.len();
        completions.push(completion(choice, earlier, last, options)?);
    }
    Ok(completions)
}

/// Step 7, (a) to (g), of the last choice or one before it; those before it have `earlier` tokens.
fn completion(
    choice: &Choice<'_>,
    earlier: usize,
    last: bool,
    options: &Options<'_>,
) -> Result<Completion> {
    let mut sources = Vec::new();

    let Some((path, node)) = first(&choice.token_ids) else {
        let path = choice.token_ids[0].path.clone();
        let message = "the response holds no token ids";
        return Err(Error::new(Class::Missing, "missing", path, None, message));
    };
    let token_ids = readers::ids(node, path, options)?;
    sources.push(("token_ids", path.to_owned()));

    let read = logprobs::read(choice, &token_ids, options)?;
    let logprobs = match read.chosen {
        Some((values, path)) => {
            sources.push(("logprobs", path));
            Some(values)
        }
        // No token, so there is nothing to be missing.
        None if token_ids.is_empty() => Some(Vec::new()),
        None => None,
    };
    let top_logprobs = read.top.map(|(top, path)| {
        sources.push(("top_logprobs", path));
        top
    });
    if let Some(why) = read.echo_left_out {
        sources.push(("logprobs_echo", why));
    }

    let prompt_token_ids = prompt::echo(choice, options)?.map(|(ids, path)| {
        sources.push(("prompt_token_ids", path));
        ids
    });
    let prompt_ids = options.prompt_token_ids.or(prompt_token_ids.as_deref());
    let prompt_logprobs = match prompt::logprobs(choice, prompt_ids, options)? {
        prompt::Outcome::Absent => None,
        prompt::Outcome::LeftOut => {
            let why = "left out: needs prompt_token_ids";
            sources.push(("prompt_logprobs", why.to_owned()));
            None
        }
        prompt::Outcome::Read(read, path) => {
            sources.push(("prompt_logprobs", path));
            Some(read)
        }
    };

    let metadata = metadata::read(choice, token_ids.len(), options)?;
    let aborted = metadata.aborted == Some(true);

    // P.
    let passed = options
        .prompt_len
        .or(prompt_ids.map(|ids| ids.len() as u64));
    let counts = counts::read(choice, metadata.usage.as_ref());
    let counted = counts.prompt.filter(|_| !(aborted && token_ids.is_empty()));
    counts::prompt_agrees(counted.as_ref(), passed)?;
    if options.score_from.is_none() {
        let counted = counts.completion.as_ref();
        match options.wire {
            Wire::SglangGenerate => counts::completion_agrees(counted, token_ids.len())?,
            _ if last => counts::completion_agrees(counted, earlier + token_ids.len())?,
            _ => {}
        }
    }

    let sampling_mask = sampling_mask(choice, &token_ids, options)?;

    let sequence = experts::Sequence {
        prompt: passed,
        counted: counted.map(|count| count.tokens),
        tokens: token_ids.len(),
        aborted,
    };
    let routed_experts = match experts::read(choice, &sequence, options)? {
        experts::Outcome::Absent => None,
        experts::Outcome::Skipped => {
            let why = "left out: experts=\"skip\"";
            sources.push(("routed_experts", why.to_owned()));
            None
        }
        experts::Outcome::Read(read, path) => {
            sources.push(("routed_experts", path));
            Some(read)
        }
    };

    // Judged before the routed experts, named after them.
    if sampling_mask.is_some() {
        sources.push(("sampling_mask", choice.sampling_mask.path.clone()));
    }

    Ok(Completion {
        token_ids,
        logprobs,
        top_logprobs,
        prompt_token_ids,
        prompt_logprobs,
        routed_experts,
        sampling_mask,
        finish_reason: metadata.finish_reason,
        finish_reason_raw: metadata.finish_reason_raw,
        stop_reason: metadata.stop_reason,
        aborted: metadata.aborted,
        request_id: metadata.request_id,
        index: choice.index,
        usage: metadata.usage,
        weight_versions: metadata.weight_versions,
        sources,
    })
}

/// (f): as many lists of ids as there are tokens, each with the one that was sampled.
fn sampling_mask(choice: &Choice<'_>, ids: &[i32], options: &Options<'_>) -> Result<Option<Mask>> {
    let Some((path, node)) = choice.sampling_mask.found() else {
        return Ok(None);
    };
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
            let message = format!("token {id} was sampled, and did not survive");
            return Err(logprobs::alignment(
                "sampling_mask",
                path,
                list.start,
                message,
            ));
        }
    }
    Ok(Some(mask))
}
