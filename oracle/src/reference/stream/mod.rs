//! Streams: everything that has come is read from its beginning, chunk by chunk; what the chunks say is kept and judged once more.

mod chunk;
mod end;
mod framing;

use std::collections::BTreeMap;

use super::json::Node;
use super::readers::{Entry, Logprob};
use super::{Matrix, PromptLogprobs, RoutedExperts, Top, Value, counts, told};
use dynamo_tito::{Class, Error, Options, Result, Wire};
pub use end::Ending;
use framing::Event;

/// So many bytes that begin as a document are no stream.
const PLAIN: usize = 65_536;

/// What is known after some bytes of a stream.
pub struct Stream<'o> {
    options: Options<'o>,
    one_only: bool,
    /// How many bytes came.
    fed: usize,
    /// The bytes, where they are a document and no stream.
    document: Option<(usize, Vec<u8>)>,
    error: Option<Error>,
    done: bool,
    /// The name of the request; SGLang's choices have their own.
    request_id: Option<String>,
    usage: Option<Value>,
    counts: counts::Counts,
    /// What is told of the request.
    told: told::Told,
    /// vLLM's choices have one prompt.
    prompt: Prompt,
    choices: BTreeMap<u32, Joined>,
}

/// A prompt as chunks echo it.
#[derive(Default)]
struct Prompt {
    /// The last ids, and their path.
    ids: Option<(Vec<i32>, String)>,
    logprobs: Option<(PromptLogprobs, String)>,
    /// Those of given ids.
    matrix: Option<(Matrix, String)>,
    /// There were some, and no ids.
    left_out: bool,
}

impl Prompt {
    fn ids(&self) -> Option<&[i32]> {
        self.ids.as_ref().map(|(ids, _)| ids.as_slice())
    }
}

/// What the chunks of one choice said.
#[derive(Default)]
struct Joined {
    chunks: usize,
    /// Where each thing is missing that is.
    paths: Paths,
    ids: Vec<i32>,
    ids_from: Option<(usize, String)>,
    /// A list named all ids.
    whole: bool,
    /// A chunk had no names for its tokens.
    unnamed: bool,
    cumulative: Option<bool>,
    /// vLLM's and SGLang's values.
    values: Option<(Vec<f64>, String)>,
    /// Dynamo's flat list of all tokens.
    flat: Option<(Vec<f64>, String)>,
    /// `content`.
    entries: Option<(Vec<Entry>, String)>,
    /// `token_logprobs`.
    listed: Option<(Vec<Logprob>, String)>,
    /// The first error of a reader of the two.
    kept: Option<Error>,
    /// The ids that the texts of completions name.
    texts: Option<(Vec<Option<i32>>, String)>,
    unreadable_texts: bool,
    /// An artifact's candidates, once there is one.
    candidates: Option<Option<(Top, String)>>,
    /// More of `sources`.
    notes: Vec<(&'static str, String)>,
    /// SGLang's alternatives, a row for each token.
    rows: Option<(Top, String)>,
    prompt: Prompt,
    request_id: Option<String>,
    /// SGLang's counts.
    usage: Vec<(String, Value)>,
    counts: counts::Counts,
    ended: bool,
    finish_reason: Option<String>,
    finish_reason_raw: Option<String>,
    aborted: Option<bool>,
    stop_reason: Option<Value>,
    versions: Option<Value>,
    versions_path: String,
    /// The versions are of no tokens.
    only_a_label: bool,
    /// Lists of ids for each token, by their name.
    rows_of_ids: BTreeMap<&'static str, (Vec<Vec<i32>>, String)>,
    experts: Option<Experts>,
    indexer: Option<Experts>,
    /// What SGLang tells of a choice.
    told: told::Told,
    sampler: Option<(Vec<Logprob>, String)>,
}

#[derive(Default)]
struct Paths {
    ids: String,
    logprobs: String,
    experts: String,
}

struct Experts {
    /// None where the caller has no use for them.
    read: Option<RoutedExperts>,
    path: String,
    /// None for the routes of an artifact.
    node: Option<Node>,
}

/// What a choice has so far.
#[derive(Debug, Clone)]
pub struct SoFar {
    /// Which of the choices.
    pub index: u32,
    /// What was sampled.
    pub token_ids: Vec<i32>,
    /// As many, or not known.
    pub logprobs: Option<Vec<f64>>,
    /// The alternatives of as many positions, or not known.
    pub top_logprobs: Option<Top>,
    /// Once it has ended.
    pub finish_reason: Option<String>,
}

impl<'o> Stream<'o> {
    /// Reads bytes from the beginning of a stream on; `one_only`: of one choice.
    #[must_use]
    pub fn new(bytes: &[u8], options: &Options<'o>, one_only: bool) -> Self {
        let mut stream = Self {
            options: *options,
            one_only,
            fed: bytes.len(),
            document: None,
            error: None,
            done: false,
            request_id: None,
            usage: None,
            counts: counts::Counts::default(),
            told: told::Told::new(),
            prompt: Prompt::default(),
            choices: BTreeMap::new(),
        };
        if let Some(at) = framing::plain_json(bytes) {
            let start = framing::beginning(bytes);
            stream.document = Some((at, bytes[start..].to_vec()));
            if bytes.len() > PLAIN {
                stream.error = Some(not_a_stream(at));
            }
        } else {
            stream.error = stream.read(bytes).err();
        }
        stream
    }

    /// Why a feed was refused.
    #[must_use]
    pub fn error(&self) -> Option<&Error> {
        self.error.as_ref()
    }

    /// Whether the stream has ended.
    #[must_use]
    pub fn done(&self) -> bool {
        self.done
    }

    /// How many tokens all choices have.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.choices.values().map(|choice| choice.ids.len()).sum()
    }

    fn read(&mut self, bytes: &[u8]) -> Result<()> {
        let found = framing::read(bytes);
        let mut chunks = 0;
        for event in found.events {
            match event {
                Event::Error(message) => {
                    return Err(Error::new(Class::Server, "server", "", None, message));
                }
                Event::Chunk(data) => {
                    let at = At {
                        chunk: chunks,
                        offsets: &data.offsets,
                    };
                    let read = self.chunk(&data.bytes, &at);
                    read.map_err(|error| at.place(error))?;
                    chunks += 1;
                }
                Event::End => self.done = true,
            }
        }
        match found.trailing {
            None => Ok(()),
            Some(at) => Err(Error::new(
                Class::Malformed,
                "trailing_data",
                "",
                at,
                "something follows the end of the stream",
            )),
        }
    }

    fn is_sglang(&self) -> bool {
        self.options.wire == Wire::SglangGenerate
    }

    fn is_vllm(&self) -> bool {
        !self.is_sglang() && !self.options.wire.is_dynamo()
    }
}

/// Where a chunk stands in the stream.
struct At<'d> {
    chunk: usize,
    offsets: &'d [usize],
}

impl At<'_> {
    /// An error of the chunk's data, as one of the stream.
    fn place(&self, error: Error) -> Error {
        if let Class::Server | Class::Engine | Class::Memory = error.class {
            return error;
        }
        let offset = error.offset.map(|at| self.offsets[at]);
        let error = error.under(&format!("events[{}]", self.chunk));
        Error { offset, ..error }
    }
}

fn not_a_stream(at: usize) -> Error {
    let message = "a document, where a stream was expected";
    Error::new(Class::Malformed, "not_a_stream", "", at, message)
}

/// The first channel of those that were seen.
fn lowest(seen: &mut Option<(usize, String)>, channel: usize, path: &str) {
    if seen.as_ref().is_none_or(|(earlier, _)| channel < *earlier) {
        *seen = Some((channel, path.to_owned()));
    }
}

/// The data of each chunk.
pub(crate) fn chunks(stream: &[u8]) -> Vec<Vec<u8>> {
    let events = framing::read(stream).events.into_iter();
    let data = events.filter_map(|event| match event {
        Event::Chunk(data) => Some(data.bytes),
        Event::Error(_) | Event::End => None,
    });
    data.collect()
}
