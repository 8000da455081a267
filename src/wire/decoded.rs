//! What a decode returns: flat columns.

use std::sync::Arc;

use crate::experts::{Matrix, Routed};
use crate::json::Value;
use crate::memory::Buffer;

use super::floats::Floats;

/// One completion of C tokens.
#[derive(Debug)]
pub struct Decoded {
    /// The sampled ids, C of them.
    pub token_ids: Buffer<i32>,
    /// Their log-probabilities; NaN where one is missing and [`MissingLogprob::Nan`](crate::MissingLogprob) allows it.
    pub logprobs: Option<Floats>,
    /// The alternatives at each of the C positions.
    pub top_logprobs: Option<TopLogprobs>,
    /// The prompt as the response echoes it. The choices of one response share it.
    pub prompt: Arc<Prompt>,
    /// The experts that each token was routed to.
    pub routed_experts: Option<Routed>,
    /// The vocabulary that could have been sampled at each of the C positions.
    pub sampling_mask: Option<SamplingMask>,
    /// What the sampler computed for the sampled ids, after its cuts.
    pub sampling_logprobs: Option<Floats>,
    /// What the indexer of a sparse attention chose for each token.
    pub indexer_topk: Option<Routed>,
    /// What the server tells of how it ran the request.
    pub engine: Option<Value>,
    /// How the completion ended.
    pub finish: Finish,
    /// The server's name for the request.
    pub request_id: Option<String>,
    /// The position among the choices.
    pub index: u32,
    /// Token counts, as on the wire.
    pub usage: Option<Value>,
    /// The versions of the weights that sampled the tokens, as on the wire.
    pub weight_versions: Option<Value>,
    /// Name of each array and the channel that it was read from, or why it was left out.
    pub sources: Vec<(&'static str, String)>,
}

impl Decoded {
    /// A completion with nothing but its ids and its prompt.
    pub(crate) fn new(index: u32, token_ids: Buffer<i32>, prompt: Arc<Prompt>) -> Self {
        Self {
            token_ids,
            logprobs: None,
            top_logprobs: None,
            prompt,
            routed_experts: None,
            sampling_mask: None,
            sampling_logprobs: None,
            indexer_topk: None,
            engine: None,
            finish: Finish::default(),
            request_id: None,
            index,
            usage: None,
            weight_versions: None,
            sources: Vec::with_capacity(8),
        }
    }
}

/// The value of an attribute, by its form.
#[derive(Debug)]
pub enum Attribute {
    /// One id for each position.
    Ids(Buffer<i32>),
    /// One log-probability for each position.
    Logprobs(Floats),
    /// Alternatives of every position.
    Top(TopLogprobs),
    /// A list of ids for each position.
    Rows(SamplingMask),
    /// The prompt's ids, if the response echoes them.
    PromptIds(Arc<Prompt>),
    /// The prompt's log-probabilities, if the response has them.
    PromptLogprobs(Arc<Prompt>),
    /// Log-probabilities of given ids along the prompt, if the response has them.
    PromptMatrix(Arc<Prompt>),
    /// Routed experts.
    Experts(Routed),
    /// What an indexer chose.
    Indexer(Routed),
    /// A string.
    Text(String),
    /// true or false.
    Flag(bool),
    /// A stop string or a stop token.
    Stop(StopReason),
    /// A number.
    Index(u32),
    /// JSON, as on the wire.
    Json(Value),
    /// Where each array comes from.
    Sources(Vec<(&'static str, String)>),
}

/// How many attributes there are.
pub(crate) const ATTRIBUTES: usize = 20;

impl Decoded {
    /// Every attribute by the name that Python has for it, in the order of Python's `Completion`. None where it is absent.
    #[must_use]
    pub fn into_attributes(self) -> [(&'static str, Option<Attribute>); ATTRIBUTES] {
        use Attribute as A;
        let Finish {
            reason,
            raw,
            stop_reason,
            aborted,
        } = self.finish;
        [
            ("token_ids", Some(A::Ids(self.token_ids))),
            ("logprobs", self.logprobs.map(A::Logprobs)),
            ("top_logprobs", self.top_logprobs.map(A::Top)),
            ("prompt_token_ids", Some(A::PromptIds(self.prompt.clone()))),
            (
                "prompt_logprobs",
                Some(A::PromptLogprobs(self.prompt.clone())),
            ),
            ("routed_experts", self.routed_experts.map(A::Experts)),
            ("sampling_mask", self.sampling_mask.map(A::Rows)),
            ("finish_reason", reason.map(A::Text)),
            ("finish_reason_raw", raw.map(A::Text)),
            ("stop_reason", stop_reason.map(A::Stop)),
            ("aborted", aborted.map(A::Flag)),
            ("request_id", self.request_id.map(A::Text)),
            ("index", Some(A::Index(self.index))),
            ("usage", self.usage.map(A::Json)),
            ("weight_versions", self.weight_versions.map(A::Json)),
            ("sources", Some(A::Sources(self.sources))),
            ("sampling_logprobs", self.sampling_logprobs.map(A::Logprobs)),
            ("indexer_topk", self.indexer_topk.map(A::Indexer)),
            (
                "prompt_token_id_logprobs",
                Some(A::PromptMatrix(self.prompt)),
            ),
            ("engine", self.engine.map(A::Json)),
        ]
    }
}

/// The prompt of P tokens as the response echoes it. `V` are columns of log-probabilities.
#[derive(Debug)]
pub struct Prompt<V = Floats> {
    /// The ids, P of them.
    pub token_ids: Option<Buffer<i32>>,
    /// Their log-probabilities.
    pub logprobs: Option<PromptLogprobs<V>>,
    /// Those of the ids that the request gave.
    pub token_id_logprobs: Option<Matrix>,
    /// As in [`Completion`](crate::Completion), for what is read here.
    pub sources: Vec<(&'static str, String)>,
}

impl<V> Default for Prompt<V> {
    fn default() -> Self {
        Self {
            token_ids: None,
            logprobs: None,
            token_id_logprobs: None,
            sources: Vec::new(),
        }
    }
}

/// Log-probabilities of a prompt.
#[derive(Debug)]
pub struct PromptLogprobs<V = Floats> {
    /// Those of the prompt's own tokens, P of them; the first is NaN.
    pub logprobs: V,
    /// Every entry of each position.
    pub top: TopLogprobs<V>,
}

/// Alternatives of every position, end to end.
#[derive(Debug)]
pub struct TopLogprobs<V = Floats> {
    /// Their ids.
    pub token_ids: Buffer<i32>,
    /// Their log-probabilities.
    pub logprobs: V,
    /// Where each position begins; one more than there are positions.
    pub offsets: Buffer<i64>,
}

/// The vocabulary that could have been sampled at every position, end to end.
#[derive(Debug)]
pub struct SamplingMask {
    /// The ids.
    pub token_ids: Buffer<i32>,
    /// Where each position begins; one more than there are positions.
    pub offsets: Buffer<i64>,
}

/// How a completion ended.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Finish {
    /// The reason, in one spelling for every wire.
    pub reason: Option<String>,
    /// The reason in the wire's spelling.
    pub raw: Option<String>,
    /// The stop string or stop token.
    pub stop_reason: Option<StopReason>,
    /// Whether the completion was cut off; None where the wire does not show it.
    pub aborted: Option<bool>,
}

/// The stop string or stop token that ended a completion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StopReason {
    /// A stop string.
    Text(String),
    /// A stop token's id.
    Token(i64),
}
