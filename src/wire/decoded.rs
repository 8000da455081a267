//! What a decode returns: plain columns, for the binding to wrap.

use std::sync::Arc;

use crate::experts::Routed;
use crate::json::Value;
use crate::memory::Buffer;

/// One completion.
#[derive(Debug)]
pub(crate) struct Decoded {
    pub(crate) token_ids: Buffer<i32>,
    pub(crate) logprobs: Option<Buffer<f64>>,
    pub(crate) top_logprobs: Option<TopLogprobs>,
    /// Shared by the choices of one response.
    pub(crate) prompt: Arc<Prompt>,
    pub(crate) routed_experts: Option<Routed>,
    pub(crate) sampling_mask: Option<SamplingMask>,
    pub(crate) finish: Finish,
    pub(crate) request_id: Option<String>,
    pub(crate) index: u32,
    pub(crate) usage: Option<Value>,
    pub(crate) weight_versions: Option<Value>,
    /// Name of the array and the channel it came from.
    pub(crate) sources: Vec<(&'static str, String)>,
}

impl Decoded {
    /// A completion with nothing but its ids and its prompt.
    pub(super) fn new(index: u32, token_ids: Buffer<i32>, prompt: Arc<Prompt>) -> Self {
        Self {
            token_ids,
            logprobs: None,
            top_logprobs: None,
            prompt,
            routed_experts: None,
            sampling_mask: None,
            finish: Finish::default(),
            request_id: None,
            index,
            usage: None,
            weight_versions: None,
            sources: Vec::with_capacity(8),
        }
    }
}

/// The prompt as the response tells it.
#[derive(Debug, Default)]
pub(crate) struct Prompt {
    pub(crate) token_ids: Option<Buffer<i32>>,
    pub(crate) logprobs: Option<PromptLogprobs>,
    pub(crate) sources: Vec<(&'static str, String)>,
}

/// Log-probabilities of the prompt's own tokens, and every entry.
#[derive(Debug)]
pub(crate) struct PromptLogprobs {
    pub(crate) logprobs: Buffer<f64>,
    pub(crate) top: TopLogprobs,
}

/// Alternatives, end to end.
#[derive(Debug)]
pub(crate) struct TopLogprobs {
    pub(crate) token_ids: Buffer<i32>,
    pub(crate) logprobs: Buffer<f64>,
    /// Where each position begins; one more than there are positions.
    pub(crate) offsets: Buffer<i64>,
}

/// Surviving vocabulary of every position, end to end.
#[derive(Debug)]
pub(crate) struct SamplingMask {
    pub(crate) token_ids: Buffer<i32>,
    /// Where each position begins; one more than there are positions.
    pub(crate) offsets: Buffer<i64>,
}

/// How the completion ended.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Finish {
    pub(crate) reason: Option<String>,
    pub(crate) raw: Option<String>,
    pub(crate) stop_reason: Option<StopReason>,
    pub(crate) aborted: Option<bool>,
}

/// What stopped it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum StopReason {
    Text(String),
    Token(i64),
}
