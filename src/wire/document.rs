//! What a body holds: which fields every wire has, and where they stand.

use crate::error::Error;
use crate::experts::Container;
use crate::memory::Buffer;

use super::entries::Content;
use super::field::{Field, Span};
use super::list::{IdLists, Triples};
use super::prompt::PromptEntries;
use super::top::TopRows;
use super::walk::Part;

/// Everything of a body that a role of the answer may come from.
#[derive(Debug, Default)]
pub(super) struct Document {
    pub(super) verdict: Verdict,
    /// vLLM and Dynamo.
    pub(super) choices: Part<Choices>,
    /// Dynamo.
    pub(super) nvext: Part<Nvext>,
    pub(super) prompt_token_ids: Field<Buffer<i32>>,
    pub(super) prompt_logprobs: Field<PromptEntries>,
    pub(super) usage: Option<Span>,
    pub(super) request_id: Option<Span>,
    /// Offset of routed experts at the top level, where no vLLM or Dynamo wire carries them.
    pub(super) unread_experts: Option<usize>,
    /// SGLang: one, or of its array those that an answer may be made of: all of them, or the first.
    pub(super) elements: Vec<Element>,
}

/// What the top level says about errors.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    pub(super) error: Option<Span>,
    pub(super) message: Option<Span>,
    /// `object` or `status` is the string "error".
    pub(super) says_error: bool,
    /// How many of `message`, `type` and `code` are there.
    pub(super) flat: u8,
    /// The top level is an array: SGLang's answer to n > 1, its offset.
    pub(super) array: Option<usize>,
    /// The offset of its second element.
    pub(super) second: Option<usize>,
}

/// The list of choices.
#[derive(Debug, Default)]
pub(super) struct Choices {
    /// Every choice.
    pub(super) heads: Vec<Head>,
    /// Those that an answer may be made of: all of them, or the first.
    pub(super) list: Vec<Choice>,
    /// The first choice that is no object.
    pub(super) wrong: Option<Error>,
    /// The first `logprobs` that is no object.
    pub(super) wrong_logprobs: Option<Error>,
    pub(super) too_many: Option<Error>,
}

/// What is judged of a choice even if several are refused.
#[derive(Debug)]
pub(super) struct Head {
    /// Offset of the choice.
    pub(super) at: usize,
    pub(super) index: Option<Span>,
}

/// One of `choices`.
#[derive(Debug, Default)]
pub(super) struct Choice {
    pub(super) token_ids: Field<Buffer<i32>>,
    pub(super) logprobs: Logprobs,
    pub(super) finish_reason: Option<Span>,
    pub(super) stop_reason: Option<Span>,
    pub(super) weight_versions: Option<Span>,
    pub(super) sampling_mask: Field<IdLists>,
    pub(super) routed_experts: Option<Container>,
    /// Their offset on Dynamo, which carries them in nvext.
    pub(super) unread_experts: Option<usize>,
}

/// `choices[i].logprobs`.
#[derive(Debug, Default)]
pub(super) struct Logprobs {
    pub(super) content: Field<Content>,
    pub(super) token_logprobs: Field<Buffer<f64>>,
    pub(super) tokens: Option<Span>,
}

/// Dynamo's `nvext`.
#[derive(Debug, Default)]
pub(super) struct Nvext {
    pub(super) engine_data: Part<EngineData>,
    pub(super) completion_token_ids: Field<Buffer<i32>>,
    pub(super) prompt_token_ids: Field<Buffer<i32>>,
    pub(super) prompt_logprobs: Field<PromptEntries>,
    pub(super) routed_experts: Option<Container>,
    pub(super) stop_reason: Option<Span>,
    pub(super) detailed_finish_reason: Option<Span>,
}

/// Dynamo's `nvext.engine_data`.
#[derive(Debug, Default)]
pub(super) struct EngineData {
    pub(super) completion_token_ids: Field<Buffer<i32>>,
    pub(super) completion_logprobs: Field<Buffer<f64>>,
    pub(super) prompt_token_ids: Field<Buffer<i32>>,
    pub(super) prompt_logprobs: Field<PromptEntries>,
    pub(super) routed_experts: Option<Container>,
    pub(super) sampling_mask: Field<IdLists>,
    /// Offset of `finished` where it is false.
    pub(super) unfinished: Option<usize>,
}

/// One answer of SGLang.
#[derive(Debug, Default)]
pub(super) struct Element {
    pub(super) output_ids: Field<Buffer<i32>>,
    pub(super) prompt_token_ids: Field<Buffer<i32>>,
    pub(super) meta_info: Part<MetaInfo>,
    /// Offset of routed experts beside `meta_info`, which carries them.
    pub(super) unread_experts: Option<usize>,
}

/// SGLang's `meta_info`.
#[derive(Debug, Default)]
pub(super) struct MetaInfo {
    pub(super) id: Option<Span>,
    pub(super) finish_reason: Option<Span>,
    /// In the order of [`USAGE`].
    pub(super) usage: [Option<Span>; 4],
    pub(super) weight_version: Option<Span>,
    pub(super) weight_versions: Option<Span>,
    pub(super) output_token_logprobs: Field<Triples>,
    pub(super) output_top_logprobs: Field<TopRows>,
    pub(super) input_token_logprobs: Field<Triples>,
    pub(super) input_top_logprobs: Field<TopRows>,
    pub(super) sampling_mask: Field<IdLists>,
    pub(super) routed_experts: Option<Container>,
}

/// The counts that SGLang keeps in `meta_info`.
pub(super) const USAGE: [&str; 4] = [
    "prompt_tokens",
    "completion_tokens",
    "cached_tokens",
    "reasoning_tokens",
];
