//! The fields of every wire: where each stands, and what it is for. The steps, and the bodies that tests make, read these
//! tables.

use dynamo_tito::Wire;

/// What a field is for. Its places are channels, in order of authority.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    TokenIds,
    FlatLogprobs,
    /// prime-rl's rows of ids and log-probabilities.
    Compact,
    Content,
    /// The texts beside the flat list of completions.
    Tokens,
    /// SGLang's log-probabilities.
    Triples,
    /// SGLang's rows of triples beside them.
    TopTriples,
    /// The same end to end: values, ids, both in base64, the types of these, the shape and the null prefix.
    TopFlat,
    PromptTokenIds,
    PromptLogprobs,
    /// SGLang's rows of triples beside its prompt logprobs.
    PromptTopTriples,
    /// The same end to end, as above.
    PromptTopFlat,
    /// Log-probabilities of given ids along the prompt.
    PromptMatrix,
    /// A list of ids for each token, the sampled one among them: the attribute, and the kind of its error.
    Rows(&'static str),
    /// A log-probability for each token, of the sampler after its cuts.
    SamplerLogprobs,
    RoutedExperts,
    /// A place where the wire has no routed experts.
    UnreadExperts,
    /// What the indexer of a sparse attention chose.
    Indexer,
    /// A place where the wire has none.
    UnreadIndexer,
    RequestId,
    Usage,
    /// One count of SGLang's usage, named by its key.
    Count,
    FinishReason,
    DetailedFinishReason,
    StopReason,
    WeightVersions,
    WeightVersion,
    /// What the server tells of how it ran the request.
    Told,
    /// What is said of an artifact.
    Upload,
    /// What steps 5 and 6 look at.
    Structure,
}

/// A role and its places. `choices[]` is the choice in question; on SGLang a place is one of the element.
pub(crate) type Field = (Role, &'static [&'static str]);

/// The keys of an error, and the list of choices.
pub(crate) const ERROR: &[&str] = &[
    "error", "object", "status", "message", "type", "code", "choices",
];

const DYNAMO: &[Field] = &[
    (
        Role::TokenIds,
        &[
            "nvext.engine_data.completion_token_ids",
            "nvext.completion_token_ids",
            "choices[].token_ids",
        ],
    ),
    (
        Role::PromptTokenIds,
        &[
            "nvext.engine_data.prompt_token_ids",
            "nvext.prompt_token_ids",
        ],
    ),
    (
        Role::PromptLogprobs,
        &[
            "nvext.engine_data.prompt_logprobs",
            "nvext.prompt_logprobs",
            "prompt_logprobs",
        ],
    ),
    (
        Role::Rows("sampling_mask"),
        &["nvext.engine_data.sampling_mask"],
    ),
    (
        Role::RoutedExperts,
        &["nvext.routed_experts", "nvext.engine_data.routed_experts"],
    ),
    (
        Role::UnreadExperts,
        &["choices[].routed_experts", "routed_experts"],
    ),
    (
        Role::UnreadIndexer,
        &["nvext.indexer_topk", "nvext.engine_data.indexer_topk"],
    ),
    (
        Role::Told,
        &[
            "nvext.worker_id",
            "nvext.timing",
            "nvext.engine_data.kv_cache_hit",
        ],
    ),
    (Role::RequestId, &["id"]),
    (Role::Usage, &["usage"]),
    (Role::FinishReason, &["choices[].finish_reason"]),
    (
        Role::DetailedFinishReason,
        &["nvext.detailed_finish_reason"],
    ),
    (
        Role::StopReason,
        &["choices[].stop_reason", "nvext.stop_reason"],
    ),
    (Role::WeightVersions, &["choices[].weight_versions"]),
    (
        Role::Upload,
        &[
            "nvext.metadata_upload.kind",
            "nvext.metadata_upload.mode",
            "nvext.metadata_upload.format",
            "nvext.metadata_upload.contents",
            "nvext.metadata_upload.byte_count",
            "nvext.metadata_upload.data_base64",
            "nvext.metadata_upload.state",
            "nvext.metadata_upload.error_code",
            "nvext.metadata_upload.operation_id",
        ],
    ),
    (
        Role::Structure,
        &["choices[].index", "nvext.engine_data.finished"],
    ),
];

const DYNAMO_CHAT: &[Field] = &[
    (
        Role::FlatLogprobs,
        &["nvext.engine_data.completion_logprobs"],
    ),
    (Role::Content, &["choices[].logprobs.content"]),
];

const DYNAMO_COMPLETIONS: &[Field] = &[
    (
        Role::FlatLogprobs,
        &[
            "nvext.engine_data.completion_logprobs",
            "choices[].logprobs.token_logprobs",
        ],
    ),
    (Role::Tokens, &["choices[].logprobs.tokens"]),
];

const VLLM: &[Field] = &[
    (Role::TokenIds, &["choices[].token_ids"]),
    (Role::Compact, &["choices[].compact_logprobs"]),
    (Role::FlatLogprobs, &["choices[].completion_logprobs"]),
    (Role::Content, &["choices[].logprobs.content"]),
    (Role::PromptTokenIds, &["prompt_token_ids"]),
    (Role::PromptLogprobs, &["prompt_logprobs"]),
    (Role::Rows("sampling_mask"), &["choices[].sampling_mask"]),
    (Role::RoutedExperts, &["choices[].routed_experts"]),
    (Role::UnreadExperts, &["routed_experts"]),
    (Role::UnreadIndexer, &["choices[].indexer_topk"]),
    (Role::Told, &["metrics"]),
    (Role::Usage, &["usage"]),
    (Role::FinishReason, &["choices[].finish_reason"]),
    (Role::StopReason, &["choices[].stop_reason"]),
    (Role::WeightVersions, &["choices[].weight_versions"]),
    (Role::Structure, &["choices[].index"]),
];

const VLLM_GENERATE: &[Field] = &[
    (Role::RequestId, &["request_id"]),
    (Role::PromptMatrix, &["prompt_token_id_logprobs"]),
];

const VLLM_CHAT: &[Field] = &[(Role::RequestId, &["id"])];

const VLLM_COMPLETIONS: &[Field] = &[
    (Role::TokenIds, &["choices[].token_ids"]),
    (Role::FlatLogprobs, &["choices[].logprobs.token_logprobs"]),
    (Role::Tokens, &["choices[].logprobs.tokens"]),
    (Role::PromptTokenIds, &["choices[].prompt_token_ids"]),
    (Role::PromptLogprobs, &["choices[].prompt_logprobs"]),
    (Role::RoutedExperts, &["choices[].routed_experts"]),
    (Role::UnreadExperts, &["routed_experts"]),
    (Role::UnreadIndexer, &["choices[].indexer_topk"]),
    (Role::Told, &["metrics"]),
    (Role::RequestId, &["id"]),
    (Role::Usage, &["usage"]),
    (Role::FinishReason, &["choices[].finish_reason"]),
    (Role::StopReason, &["choices[].stop_reason"]),
    (Role::WeightVersions, &["choices[].weight_versions"]),
    (Role::Structure, &["choices[].index"]),
];

const SGLANG_GENERATE: &[Field] = &[
    (Role::TokenIds, &["output_ids"]),
    (Role::PromptTokenIds, &["prompt_token_ids"]),
    (Role::UnreadExperts, &["routed_experts"]),
];

const SGLANG_CHAT: &[Field] = &[
    (Role::TokenIds, &["choices[].response_token_ids"]),
    (Role::PromptTokenIds, &["choices[].prompt_token_ids"]),
    (
        Role::UnreadExperts,
        &["choices[].routed_experts", "routed_experts"],
    ),
    (Role::Structure, &["choices[].index"]),
];

/// SGLang's meta_info, in the element or the choice that the prefix names.
macro_rules! meta_info {
    ($prefix:literal) => {
        &[
            (
                Role::Triples,
                &[concat!($prefix, "meta_info.output_token_logprobs")],
            ),
            (
                Role::TopTriples,
                &[concat!($prefix, "meta_info.output_top_logprobs")],
            ),
            (
                Role::PromptLogprobs,
                &[concat!($prefix, "meta_info.input_token_logprobs")],
            ),
            (
                Role::PromptTopTriples,
                &[concat!($prefix, "meta_info.input_top_logprobs")],
            ),
            (
                Role::Rows("sampling_mask"),
                &[concat!($prefix, "meta_info.output_token_sampling_mask")],
            ),
            (
                Role::RoutedExperts,
                &[concat!($prefix, "meta_info.routed_experts")],
            ),
            (Role::Indexer, &[concat!($prefix, "meta_info.indexer_topk")]),
            (
                Role::SamplerLogprobs,
                &[concat!($prefix, "meta_info.output_token_sampling_logprobs")],
            ),
            (
                Role::TopFlat,
                &[
                    concat!($prefix, "meta_info.output_top_logprobs_val_flat"),
                    concat!($prefix, "meta_info.output_top_logprobs_idx_flat"),
                    concat!($prefix, "meta_info.output_top_logprobs_val_flat_b64"),
                    concat!($prefix, "meta_info.output_top_logprobs_idx_flat_b64"),
                    concat!($prefix, "meta_info.output_top_logprobs_val_flat_b64_dtype"),
                    concat!($prefix, "meta_info.output_top_logprobs_idx_flat_b64_dtype"),
                    concat!($prefix, "meta_info.output_top_logprobs_shape"),
                    concat!($prefix, "meta_info.output_top_logprobs_null_prefix"),
                ],
            ),
            (
                Role::PromptTopFlat,
                &[
                    concat!($prefix, "meta_info.input_top_logprobs_val_flat"),
                    concat!($prefix, "meta_info.input_top_logprobs_idx_flat"),
                    concat!($prefix, "meta_info.input_top_logprobs_val_flat_b64"),
                    concat!($prefix, "meta_info.input_top_logprobs_idx_flat_b64"),
                    concat!($prefix, "meta_info.input_top_logprobs_val_flat_b64_dtype"),
                    concat!($prefix, "meta_info.input_top_logprobs_idx_flat_b64_dtype"),
                    concat!($prefix, "meta_info.input_top_logprobs_shape"),
                    concat!($prefix, "meta_info.input_top_logprobs_null_prefix"),
                ],
            ),
            (
                Role::Told,
                &[
                    concat!($prefix, "meta_info.num_retractions"),
                    concat!($prefix, "meta_info.cached_tokens_details"),
                    concat!($prefix, "meta_info.dp_rank"),
                    concat!($prefix, "meta_info.queue_time"),
                    concat!($prefix, "meta_info.first_token_latency"),
                    concat!($prefix, "meta_info.e2e_latency"),
                    concat!($prefix, "meta_info.decode_throughput"),
                    concat!($prefix, "meta_info.spec_accept_rate"),
                    concat!($prefix, "meta_info.spec_accept_length"),
                    concat!($prefix, "meta_info.spec_num_correct_drafts"),
                    concat!($prefix, "meta_info.spec_num_proposed_drafts"),
                    concat!($prefix, "meta_info.spec_verify_ct"),
                    concat!($prefix, "meta_info.spec_cap_length"),
                    concat!($prefix, "meta_info.spec_block_accept_length"),
                    concat!($prefix, "meta_info.spec_correct_drafts_histogram"),
                    concat!($prefix, "meta_info.spec_cap_lens_histogram"),
                ],
            ),
            (Role::RequestId, &[concat!($prefix, "meta_info.id")]),
            (
                Role::Count,
                &[
                    concat!($prefix, "meta_info.prompt_tokens"),
                    concat!($prefix, "meta_info.completion_tokens"),
                    concat!($prefix, "meta_info.cached_tokens"),
                    concat!($prefix, "meta_info.reasoning_tokens"),
                ],
            ),
            (
                Role::FinishReason,
                &[concat!($prefix, "meta_info.finish_reason")],
            ),
            (
                Role::WeightVersions,
                &[concat!($prefix, "meta_info.weight_versions")],
            ),
            (
                Role::WeightVersion,
                &[concat!($prefix, "meta_info.weight_version")],
            ),
        ]
    };
}

const META_INFO: &[Field] = meta_info!("");

const META_INFO_OF_CHOICE: &[Field] = meta_info!("choices[].");

/// Every field of a wire.
pub(crate) fn fields(wire: Wire) -> impl Iterator<Item = &'static Field> {
    let (shared, own): (&[Field], &[Field]) = match wire {
        Wire::DynamoChat => (DYNAMO, DYNAMO_CHAT),
        Wire::DynamoCompletions => (DYNAMO, DYNAMO_COMPLETIONS),
        Wire::VllmGenerate => (VLLM, VLLM_GENERATE),
        Wire::VllmChat => (VLLM, VLLM_CHAT),
        Wire::VllmCompletions => (VLLM_COMPLETIONS, &[]),
        Wire::SglangGenerate => (META_INFO, SGLANG_GENERATE),
        Wire::SglangChat => (META_INFO_OF_CHOICE, SGLANG_CHAT),
    };
    shared.iter().chain(own)
}

/// Every place of a wire.
pub(crate) fn places(wire: Wire) -> impl Iterator<Item = &'static str> {
    fields(wire).flat_map(|(_, places)| places.iter().copied())
}
