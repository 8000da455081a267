//! What the caller asks of a decode.

use crate::limits::Limits;

/// The response format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wire {
    /// Dynamo's `/v1/chat/completions` with nvext.
    DynamoChat,
    /// Dynamo's `/v1/completions` with nvext.
    DynamoCompletions,
    /// `/inference/v1/generate` of vLLM, prime-rl's server and Dynamo.
    VllmGenerate,
    /// vLLM's `/v1/chat/completions` with `return_token_ids`.
    VllmChat,
    /// vLLM's `/v1/completions` with `return_token_ids`.
    VllmCompletions,
    /// SGLang's `/generate`.
    SglangGenerate,
    /// SGLang's `/v1/chat/completions` with `return_token_ids` and `return_meta_info`.
    SglangChat,
}

impl Wire {
    /// Every wire with the name that callers use for it.
    pub const ALL: [(&'static str, Wire); 7] = [
        ("dynamo_chat", Wire::DynamoChat),
        ("dynamo_completions", Wire::DynamoCompletions),
        ("vllm_generate", Wire::VllmGenerate),
        ("vllm_chat", Wire::VllmChat),
        ("vllm_completions", Wire::VllmCompletions),
        ("sglang_generate", Wire::SglangGenerate),
        ("sglang_chat", Wire::SglangChat),
    ];

    /// Looks a wire up by name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(n, _)| *n == name).map(|(_, w)| *w)
    }

    /// Whether nvext carries the payload (one choice only).
    #[must_use]
    pub fn is_dynamo(self) -> bool {
        matches!(self, Wire::DynamoChat | Wire::DynamoCompletions)
    }

    /// Whether streamed answers of the wire are read.
    #[must_use]
    pub fn streams(self) -> bool {
        !matches!(self, Wire::VllmCompletions | Wire::SglangChat)
    }

    /// Whether prime-rl's server has packed arrays on it.
    #[must_use]
    pub fn packs(self) -> bool {
        matches!(self, Wire::VllmGenerate | Wire::VllmChat)
    }

    /// Whether meta_info carries the payload, with counts of its own for every choice.
    #[must_use]
    pub fn is_sglang(self) -> bool {
        matches!(self, Wire::SglangGenerate | Wire::SglangChat)
    }
}

/// The width of the routed experts that come out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ExpertsMode {
    /// Widened to int32.
    #[default]
    Int32,
    /// As on the wire.
    Native,
    /// Left out, unread.
    Skip,
}

/// The result for a token that has no log-probability.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MissingLogprob {
    /// Refuse the response.
    #[default]
    Raise,
    /// Write NaN.
    Nan,
}

/// The type of the log-probabilities that come out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogprobsDtype {
    /// As read: JSON has doubles, and binary values are widened exactly.
    #[default]
    Float64,
    /// The nearest float32 of what Float64 gives.
    Float32,
}

/// Whether the engine sends a row for the last sampled token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FinalRow {
    /// P + C - 1 rows: the last sampled token has had no forward pass.
    #[default]
    Omitted,
    /// P + C rows.
    Present,
}

/// The options of a decode.
#[derive(Debug, Clone, Copy)]
pub struct Options<'a> {
    /// The response format.
    pub wire: Wire,
    /// Tokens of this request's prompt as the engine ran it.
    pub prompt_len: Option<u64>,
    /// The prompt itself.
    pub prompt_token_ids: Option<&'a [i32]>,
    /// The position of the first row that the request asked for: 0 for all rows, None where the caller does not know.
    pub routed_experts_prompt_start: Option<u64>,
    /// Layers of a bare blob.
    pub num_layers: Option<u64>,
    /// Experts per token of a bare blob.
    pub top_k: Option<u64>,
    /// Indexer layers of a bare blob.
    pub num_indexer_layers: Option<u64>,
    /// Positions that an indexer chooses per token and layer, of a bare blob.
    pub index_topk: Option<u64>,
    /// The width of what comes out.
    pub experts: ExpertsMode,
    /// Refuse a response without logprobs.
    pub require_logprobs: bool,
    /// Refuse a response without routed experts.
    pub require_routed_experts: bool,
    /// The result for a token that has no log-probability.
    pub missing_logprob: MissingLogprob,
    /// The type of every log-probability that comes out.
    pub logprobs_dtype: LogprobsDtype,
    /// Whether the last sampled token has a row.
    pub final_row: FinalRow,
    /// Of an artifact: the routers whose routes are wanted, by id; None for all.
    pub routers: Option<&'a [u64]>,
    /// Scoring: prompt logprobs are wanted, from this position of the prompt on.
    pub score_from: Option<u64>,
    /// Ceilings.
    pub limits: Limits,
}

impl Options<'_> {
    /// The defaults for a wire.
    #[must_use]
    pub fn new(wire: Wire) -> Self {
        Self {
            wire,
            prompt_len: None,
            prompt_token_ids: None,
            routed_experts_prompt_start: None,
            num_layers: None,
            top_k: None,
            num_indexer_layers: None,
            index_topk: None,
            experts: ExpertsMode::Int32,
            require_logprobs: true,
            require_routed_experts: false,
            missing_logprob: MissingLogprob::Raise,
            logprobs_dtype: LogprobsDtype::Float64,
            final_row: FinalRow::Omitted,
            routers: None,
            score_from: None,
            limits: Limits::default(),
        }
    }

    /// The same without the prompt, which is borrowed.
    pub(crate) fn detached(&self) -> Options<'static> {
        Options {
            prompt_token_ids: None,
            routers: None,
            ..*self
        }
    }

    /// The first position of a prompt of `len` tokens whose log-probability is wanted.
    #[must_use]
    pub fn first_scored(&self, len: usize) -> usize {
        let wanted = self.score_from.unwrap_or(0);
        usize::try_from(wanted).unwrap_or(len).min(len)
    }

    /// P: as the caller gave it, else the length of the prompt that the body echoes.
    #[must_use]
    pub fn prompt_len_or(&self, echo: Option<usize>) -> Option<u64> {
        let passed = self.prompt_token_ids.map(<[i32]>::len);
        self.prompt_len
            .or_else(|| passed.or(echo).map(|len| len as u64))
    }
}
