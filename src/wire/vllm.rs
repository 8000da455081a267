//! vLLM and prime-rl's server: `/inference/v1/generate` (Dynamo has it too), and `/v1/chat/completions` with
//! `return_token_ids`.

use crate::error::{Class, Error, Result};
use crate::experts::Container;
use crate::memory::Buffer;

use super::answer::{
    Answer, Answers, Channel, ExpertChannels, LogprobChannels, PromptChannels, Role, local,
    metadata, top,
};
use super::read::choices::{ASK_FOR_ALL, Choice, Choices, choices, index};
use super::read::document::{Document, read_document};
use super::read::entries::Content;
use super::read::field::{Field, Span, experts, now, offset, part, span};
use super::read::ids::{IdLists, Ids};
use super::read::maps::PromptEntries;
use super::read::packed::{Compact, Mask, PackedLogprobs};
use super::read::walk::{Fields, Part, fields};
use crate::options::{Options, Wire};

fields! {
    /// The top level.
    Body {
        /// Of `/inference/v1/generate`.
        request_id: Option<Span> = span,
        choices: Part<Choices<Sample>> = choices,
        /// Not of this level: their offset.
        routed_experts: Option<usize> = offset,
        prompt_token_ids: Field<Buffer<i32>> = now::<Ids>,
        prompt_logprobs: Field<PromptEntries> = now::<PromptEntries>,
        usage: Option<Span> = span,
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

impl Document for Body {
    fn names(wire: Wire) -> &'static [&'static str] {
        match (wire, Self::NAMES) {
            (Wire::VllmGenerate, [names @ .., "id"]) | (_, ["request_id", names @ ..]) => names,
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
    let document: Body = read_document(body, options, several)?;
    let generate = options.wire == Wire::VllmGenerate;
    let list = Choices::indexed(document.choices, body, several, ASK_FOR_ALL, chunk)?;
    let request_id = (Role::RequestId, top("request_id"), document.request_id);
    let id = (Role::RequestId, top("id"), document.id);
    let usage = (Role::Usage, top("usage"), document.usage);
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
                artifact: None,
                found: choice
                    .routed_experts
                    .map(|it| (local("routed_experts"), it)),
                unread: document
                    .routed_experts
                    .map(|at| (top("routed_experts"), at)),
                none: local("routed_experts"),
            },
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
            tells_abort: true,
            notes: Vec::new(),
        });
    }
    let prompt = PromptChannels {
        echo: vec![Channel::top("prompt_token_ids", document.prompt_token_ids)],
        maps: vec![Channel::top("prompt_logprobs", document.prompt_logprobs)],
        ..PromptChannels::none(top("prompt_logprobs"))
    };
    Ok(Answers {
        list: answers,
        prompts: vec![prompt],
        shared: metadata([request_id, id, usage]),
    })
}

#[cold]
fn packed_chunk(path: String, at: Option<usize>) -> Error {
    let message = "packed log-probabilities are read in one document, not in a stream";
    Error::new(Class::Malformed, "packed", path, at, message)
}
