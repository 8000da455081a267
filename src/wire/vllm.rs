//! vLLM and prime-rl's server: `/inference/v1/generate` (Dynamo has it too), and `/v1/chat/completions` with
//! `return_token_ids`.

use crate::error::{Class, Error, Result};
use crate::experts::{Capture, Container};
use crate::memory::Buffer;

use super::answer::{
    Answer, Answers, Channel, ExpertChannels, LogprobChannels, PromptChannels, Role, local,
    metadata, told_items, top,
};
use super::read::choices::{ASK_FOR_ALL, Choice, Choices, choices, index};
use super::read::document::{Document, read_document};
use super::read::entries::Content;
use super::read::field::{Field, Span, experts, now, offset, part, span};
use super::read::ids::{IdLists, Ids};
use super::read::maps::PromptEntries;
use super::read::matrix::{Npy, npy};
use super::read::packed::{Compact, Mask, PackedLogprobs};
use super::read::told::{Form, Told, told};
use super::read::walk::{Fields, Part, fields};
use crate::options::{Options, Wire};

fields! {
    /// The top level.
    Body {
        /// Of `/inference/v1/generate`.
        request_id: Option<Span> = span,
        /// Of `/inference/v1/generate`.
        prompt_token_id_logprobs: Option<Npy> = npy,
        choices: Part<Choices<Sample>> = choices,
        /// Not of this level: their offset.
        routed_experts: Option<usize> = offset,
        prompt_token_ids: Field<Buffer<i32>> = now::<Ids>,
        prompt_logprobs: Field<PromptEntries> = now::<PromptEntries>,
        usage: Option<Span> = span,
        metrics: Told = told(&METRICS),
        /// Of `/v1/chat/completions`.
        id: Option<Span> = span,
    }
}

fields! {
    /// `choices[i]`.
    Sample {
        index: Option<Span> = index,
        token_ids: Field<Buffer<i32>> = now::<Ids>,
        logprobs: Part<Logprobs> = part,
        finish_reason: Option<Span> = span,
        stop_reason: Option<Span> = span,
        weight_versions: Option<Span> = span,
        routed_experts: Option<Container> = experts,
        /// Not of this wire: their offset.
        indexer_topk: Option<usize> = offset,
        sampling_mask: Field<IdLists> = now::<Mask>,
        /// prime-rl's packed forms of the log-probabilities.
        completion_logprobs: Field<Buffer<f64>> = now::<PackedLogprobs>,
        compact_logprobs: Field<Compact> = now::<Compact>,
    }
}

fields! {
    /// `choices[i].logprobs`.
    Logprobs {
        content: Field<Content> = now::<Content>,
    }
}

/// How long it took, and what speculation came to (0.33, `entrypoints/generate/base/protocol.py`).
pub(super) static METRICS: Form = Form::Members(&[
    ("time_to_first_token_ms", Form::Number),
    ("generation_time_ms", Form::Number),
    ("queue_time_ms", Form::Number),
    ("mean_itl_ms", Form::Number),
    ("tokens_per_second", Form::Number),
    (
        "speculative_decoding",
        Form::Members(&[
            ("mean_acceptance_length", Form::Number),
            ("draft_acceptance_rate", Form::Number),
            ("acceptance_histogram", Form::Counts),
            ("num_spec_steps", Form::Count),
            ("num_accepted_draft_tokens", Form::Count),
            ("num_draft_tokens", Form::Count),
            ("num_spec_tokens", Form::Count),
        ]),
    ),
]);

impl Document for Body {
    fn names(wire: Wire) -> &'static [&'static str] {
        match (wire, Self::NAMES) {
            (Wire::VllmGenerate, [names @ .., "id"])
            | (_, ["request_id", "prompt_token_id_logprobs", names @ ..]) => names,
            _ => unreachable!(),
        }
    }
}

impl Choice for Sample {
    fn index(&self) -> Option<Span> {
        self.index
    }

    fn wrong_logprobs(&mut self) -> Option<Error> {
        self.logprobs.take_wrong()
    }
}

/// The answers of a body: every choice with `several`, else the only one. A `chunk` of a stream may have none.
pub(super) fn answers(
    body: &[u8],
    options: &Options<'_>,
    several: bool,
    chunk: bool,
) -> Result<Answers> {
    let mut document: Body = read_document(body, options, several)?;
    let generate = options.wire == Wire::VllmGenerate;
    let list = Choices::indexed(document.choices, body, several, ASK_FOR_ALL, chunk)?;
    let request_id = (Role::RequestId, top("request_id"), document.request_id);
    let id = (Role::RequestId, top("id"), document.id);
    let usage = (Role::Usage, top("usage"), document.usage);
    let told = told_items!(top, "", document, [metrics]);
    let mut answers = Vec::with_capacity(list.len());
    for (i, (index, choice)) in list.into_iter().enumerate() {
        let logprobs = choice.logprobs.get()?.unwrap_or_default();
        let packed = [
            ("completion_logprobs", choice.completion_logprobs.at()),
            ("compact_logprobs", choice.compact_logprobs.at()),
        ];
        if chunk && let Some((key, at)) = packed.into_iter().find(|(_, at)| at.is_some()) {
            return Err(packed_chunk(format!("choices[{i}].{key}"), at));
        }
        answers.push(Answer {
            prefix: format!("choices[{i}]"),
            index,
            token_ids: vec![Channel::local("token_ids", choice.token_ids)],
            logprobs: LogprobChannels {
                compact: Channel::local("compact_logprobs", choice.compact_logprobs),
                flat: vec![Channel::local(
                    "completion_logprobs",
                    choice.completion_logprobs,
                )],
                content: Channel::local("logprobs.content", logprobs.content),
                must_name: generate,
                ..LogprobChannels::none(local("logprobs.content"))
            },
            mask: Channel::local("sampling_mask", choice.sampling_mask),
            experts: ExpertChannels {
                found: choice
                    .routed_experts
                    .map(|it| (local("routed_experts"), it)),
                unread: document
                    .routed_experts
                    .map(|at| (top("routed_experts"), at)),
                ..ExpertChannels::none(Capture::Experts, local("routed_experts"))
            },
            indexer: ExpertChannels {
                unread: choice.indexer_topk.map(|at| (local("indexer_topk"), at)),
                ..ExpertChannels::none(Capture::Indexer, local("indexer_topk"))
            },
            told: told.clone(),
            metadata: metadata([
                request_id,
                id,
                usage,
                (
                    Role::FinishReason,
                    local("finish_reason"),
                    choice.finish_reason,
                ),
                (Role::StopReason, local("stop_reason"), choice.stop_reason),
                (
                    Role::WeightVersions,
                    local("weight_versions"),
                    choice.weight_versions,
                ),
            ]),
            ..Answer::none(local("logprobs.content"), local("routed_experts"))
        });
    }
    let prompt = PromptChannels {
        echo: vec![Channel::top("prompt_token_ids", document.prompt_token_ids)],
        maps: vec![Channel::top("prompt_logprobs", document.prompt_logprobs)],
        token_ids: document
            .prompt_token_id_logprobs
            .map(|npy| (top("prompt_token_id_logprobs"), npy)),
        ..PromptChannels::none(top("prompt_logprobs"))
    };
    Ok(Answers {
        list: answers,
        prompts: vec![prompt],
        shared: metadata([request_id, id, usage]),
        told,
    })
}

#[cold]
fn packed_chunk(path: String, at: Option<usize>) -> Error {
    let message = "packed log-probabilities are read in one document, not in a stream";
    Error::new(Class::Malformed, "packed", path, at, message)
}
