//! vLLM's `/v1/completions` with `return_token_ids`: the prompt stands in every choice.

use crate::error::{Error, Result};
use crate::experts::{Capture, Container};
use crate::memory::Buffer;

use super::answer::{
    Answer, Answers, Channel, ExpertChannels, LogprobChannels, PromptChannels, Role, local,
    metadata, told_items, top,
};
use super::read::choices::{ASK_FOR_ALL, Choice, Choices, choices, index};
use super::read::document::{Document, read_document};
use super::read::field::{Field, Span, experts, now, offset, part, span};
use super::read::ids::{Ids, Numbers};
use super::read::maps::PromptEntries;
use super::read::told::{Told, told};
use super::read::walk::{Part, fields};
use super::vllm::METRICS;
use crate::options::Options;

fields! {
    /// The top level.
    Body {
        id: Option<Span> = span,
        choices: Part<Choices<Sample>> = choices,
        /// Not of this level: their offset.
        routed_experts: Option<usize> = offset,
        usage: Option<Span> = span,
        metrics: Told = told(&METRICS),
    }
}

fields! {
    /// `choices[i]`.
    Sample {
        index: Option<Span> = index,
        token_ids: Field<Buffer<i32>> = now::<Ids>,
        logprobs: Part<Logprobs> = part,
        prompt_token_ids: Field<Buffer<i32>> = now::<Ids>,
        prompt_logprobs: Field<PromptEntries> = now::<PromptEntries>,
        finish_reason: Option<Span> = span,
        stop_reason: Option<Span> = span,
        weight_versions: Option<Span> = span,
        routed_experts: Option<Container> = experts,
        /// Not of this wire: their offset.
        indexer_topk: Option<usize> = offset,
    }
}

fields! {
    /// `choices[i].logprobs`.
    Logprobs {
        token_logprobs: Field<Buffer<f64>> = now::<Numbers>,
        tokens: Option<Span> = span,
    }
}

impl Document for Body {}

impl Choice for Sample {
    fn index(&self) -> Option<Span> {
        self.index
    }

    fn wrong_logprobs(&mut self) -> Option<Error> {
        self.logprobs.take_wrong()
    }
}

/// The answers of a body: every choice with `several`, else the only one.
pub(super) fn answers(body: &[u8], options: &Options<'_>, several: bool) -> Result<Answers> {
    let mut document: Body = read_document(body, options, several)?;
    let list = Choices::indexed(document.choices, body, several, ASK_FOR_ALL, false)?;
    // A choice has its prompt, so both lists have the order of the indices.
    let mut list: Vec<_> = list.into_iter().enumerate().collect();
    list.sort_by_key(|(_, (index, _))| *index);
    let told = told_items!(top, "", document, [metrics]);
    let mut answers = Answers::default();
    for (position, (index, choice)) in list {
        let logprobs = choice.logprobs.get()?.unwrap_or_default();
        answers.list.push(Answer {
            prefix: format!("choices[{position}]"),
            index,
            token_ids: vec![Channel::local("token_ids", choice.token_ids)],
            logprobs: LogprobChannels {
                flat: vec![Channel::local(
                    "logprobs.token_logprobs",
                    logprobs.token_logprobs,
                )],
                tokens: logprobs.tokens.map(|span| (local("logprobs.tokens"), span)),
                ..LogprobChannels::none(local("logprobs.token_logprobs"))
            },
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
                (Role::RequestId, top("id"), document.id),
                (Role::Usage, top("usage"), document.usage),
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
            ..Answer::none(local("logprobs.token_logprobs"), local("routed_experts"))
        });
        answers.prompts.push(PromptChannels {
            echo: vec![Channel::local("prompt_token_ids", choice.prompt_token_ids)],
            maps: vec![Channel::local("prompt_logprobs", choice.prompt_logprobs)],
            ..PromptChannels::none(local("prompt_logprobs"))
        });
    }
    Ok(answers)
}
