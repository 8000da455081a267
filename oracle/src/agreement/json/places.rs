//! Every place of a wire where a value or a key can stand.

use dynamo_tito::Wire;

/// What stands before a hole, and behind it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) before: String,
    pub(super) behind: String,
    /// A key is wanted there, not a value.
    pub(super) key: bool,
    /// Brackets that are open there.
    pub(super) depth: usize,
}

const CHAT_CHOICE: &[&str] = &[
    "choices.0.index",
    "choices.0.token_ids.0",
    "choices.0.finish_reason",
    "choices.0.stop_reason",
    "choices.0.weight_versions.0.a",
    "choices.0.message.content",
    "choices.0.logprobs.content.0.token",
    "choices.0.logprobs.content.0.token_id",
    "choices.0.logprobs.content.0.logprob",
    "choices.0.logprobs.content.0.bytes.0",
    "choices.0.logprobs.content.0.top_logprobs.0.token",
    "choices.0.logprobs.content.0.top_logprobs.0.logprob",
    "choices.0.logprobs.content.0.top_logprobs.0.a",
];

const ERROR: &[&str] = &[
    "error.message",
    "object",
    "status",
    "message",
    "type",
    "code",
];

const DYNAMO: &[&str] = &[
    "id",
    "usage.prompt_tokens.a.0",
    "prompt_logprobs.0.1.logprob",
    "nvext.completion_token_ids.0",
    "nvext.stop_reason",
    "nvext.detailed_finish_reason",
    "nvext.prompt_logprobs.0.1.logprob",
    "nvext.prompt_logprobs.0.1.a",
    "nvext.routed_experts.data",
    "nvext.routed_experts.shape.0",
    "nvext.routed_experts.start",
    "nvext.routed_experts.dtype",
    "nvext.engine_data.completion_token_ids.0",
    "nvext.engine_data.completion_logprobs.0",
    "nvext.engine_data.prompt_token_ids.0",
    "nvext.engine_data.prompt_logprobs.0.1.logprob",
    "nvext.engine_data.finished",
    "nvext.engine_data.sampling_mask.0.0",
    "nvext.engine_data.routed_experts.data",
];

const COMPLETIONS_CHOICE: &[&str] = &[
    "choices.0.token_ids.0",
    "choices.0.logprobs.token_logprobs.0",
    "choices.0.logprobs.tokens.0",
    "choices.0.logprobs.top_logprobs.0.a",
];

const VLLM: &[&str] = &[
    "id",
    "request_id",
    "usage.a.0",
    "prompt_token_ids.0",
    "prompt_logprobs.0.1.logprob",
    "prompt_logprobs.0.1.a",
    "choices.0.sampling_mask.0.0",
    "choices.0.routed_experts.data",
    "choices.0.routed_experts.shape.0",
    "choices.0.routed_experts.start",
    "choices.0.routed_experts.dtype",
    "choices.0.routed_experts.a.0",
];

const SGLANG: &[&str] = &[
    "0.output_ids.0",
    "text",
    "output_ids.0",
    "prompt_token_ids.0",
    "meta_info.id",
    "meta_info.finish_reason.type",
    "meta_info.finish_reason.matched",
    "meta_info.finish_reason.a.0",
    "meta_info.prompt_tokens",
    "meta_info.weight_version",
    "meta_info.weight_versions.0.a",
    "meta_info.output_token_logprobs.0.0",
    "meta_info.output_top_logprobs.0.0.0",
    "meta_info.input_token_logprobs.0.0",
    "meta_info.input_top_logprobs.0.0.0",
    "meta_info.output_token_sampling_mask.0.0",
    "meta_info.routed_experts.data",
];

fn paths(wire: Wire) -> Vec<&'static str> {
    let lists = match wire {
        Wire::DynamoChat => [ERROR, DYNAMO, CHAT_CHOICE],
        Wire::DynamoCompletions => [ERROR, DYNAMO, COMPLETIONS_CHOICE],
        Wire::VllmGenerate | Wire::VllmChat => [ERROR, VLLM, CHAT_CHOICE],
        Wire::SglangGenerate => [ERROR, SGLANG, &[]],
    };
    lists.concat()
}

impl Place {
    /// The whole body.
    fn whole() -> Self {
        Self {
            before: String::new(),
            behind: String::new(),
            key: false,
            depth: 0,
        }
    }

    /// One step in: `segment` is a key, or a digit for an array. `among` puts neighbours around the hole.
    fn inside(&self, segment: &str, among: bool) -> Self {
        let array = segment.starts_with("0");
        let (open, close) = match (array, among) {
            (true, false) => ("[".to_owned(), "]"),
            (true, true) => ("[0, ".to_owned(), " ,{\"a\":0}]"),
            (false, false) => (format!("{{\"{segment}\":"), "}"),
            (false, true) => (format!("{{\"aa\":[] ,\"{segment}\" : "), " ,\"zz\":\"\"}"),
        };
        Self {
            before: self.before.clone() + &open,
            behind: close.to_owned() + &self.behind,
            key: false,
            depth: self.depth + 1,
        }
    }

    /// A key of an object that stands here.
    fn key(&self, among: bool) -> Self {
        let open = if among { "{\"aa\":0," } else { "{" };
        let close = if among { ":1,\"zz\":[]}" } else { ":1}" };
        Self {
            before: self.before.clone() + open,
            behind: close.to_owned() + &self.behind,
            key: true,
            depth: self.depth + 1,
        }
    }
}

/// Along every path: the value, a value in a skipped member beside it, a key beside it, alone and among others.
pub(super) fn places(wire: Wire) -> Vec<Place> {
    let mut places = vec![Place::whole()];
    for path in paths(wire) {
        let mut outer = Place::whole();
        for segment in path.split('.') {
            for among in [false, true] {
                places.push(outer.inside(segment, among));
                if !segment.starts_with("0") {
                    places.push(outer.inside("skipped", among));
                    places.push(outer.inside("skipped", among).inside("0", among));
                    places.push(outer.key(among));
                }
            }
            outer = outer.inside(segment, false);
        }
    }
    places.sort();
    places.dedup();
    places
}
