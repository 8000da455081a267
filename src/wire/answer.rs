//! One answer of a body: which channels may fill which role, best first. The only place that ranks them.

use std::collections::BTreeSet;

use crate::error::{Class, Error, Result};
use crate::experts::Container;
use crate::json::Cursor;
use crate::memory::Buffer;

use super::document::{Choice, Document, Element, EngineData, Head, MetaInfo, Nvext, USAGE};
use super::entries::Content;
use super::field::{Field, Span};
use super::list::{self, IdLists, Triples};
use super::prompt::PromptEntries;
use super::top::TopRows;
use crate::options::Wire;

/// Where a channel stands: a path under the choice or element that `prefix` names, or from the top.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) local: bool,
    pub(super) name: &'static str,
}

/// From the top of the body.
const fn top(name: &'static str) -> Place {
    Place { local: false, name }
}

/// Under the answer's prefix.
const fn local(name: &'static str) -> Place {
    Place { local: true, name }
}

/// A channel that may be absent.
#[derive(Debug)]
pub(super) struct Channel<T> {
    pub(super) place: Place,
    pub(super) field: Field<T>,
}

impl<T> Channel<T> {
    fn new(place: Place, field: Field<T>) -> Self {
        Self { place, field }
    }
}

/// One answer.
#[derive(Debug)]
pub(super) struct Answer {
    /// Path of the choice or element.
    pub(super) prefix: String,
    pub(super) index: u32,
    pub(super) token_ids: Vec<Channel<Buffer<i32>>>,
    pub(super) logprobs: Channels,
    pub(super) sampling_mask: Channel<IdLists>,
    /// Containers that are there, with what must be said if none is.
    pub(super) routed_experts: Vec<(Place, Container)>,
    /// Routed experts where this wire does not carry them, with their offset.
    pub(super) unread_experts: Option<(Place, usize)>,
    pub(super) no_routed_experts: Place,
    pub(super) metadata: Vec<Detail>,
    /// Whether this wire shows an abort without Dynamo's detailed finish reason.
    pub(super) tells_abort: bool,
}

/// The channels of log-probabilities.
#[derive(Debug)]
pub(super) struct Channels {
    /// Flat lists, best first.
    pub(super) flat: Vec<Channel<Buffer<f64>>>,
    pub(super) content: Channel<Content>,
    pub(super) triples: Channel<Triples>,
    pub(super) top_rows: Channel<TopRows>,
    /// Completions: the texts beside the flat list.
    pub(super) tokens: (Place, Option<Span>),
    /// Every entry must name its token.
    pub(super) must_name: bool,
    /// The path to speak of when there are none.
    pub(super) none: Place,
}

/// The prompt's channels, shared by all choices of a vLLM body.
#[derive(Debug)]
pub(super) struct PromptChannels {
    /// The ids of the prompt that was run, best first; there is at least one channel.
    pub(super) echo: Vec<Channel<Buffer<i32>>>,
    pub(super) entries: Vec<Channel<PromptEntries>>,
    pub(super) triples: Channel<Triples>,
    /// Alternatives beside the triples.
    pub(super) top_rows: Channel<TopRows>,
    /// The path to speak of when there are no log-probabilities.
    pub(super) none: Place,
}

/// What a small value is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    RequestId,
    Usage,
    /// One count of SGLang's usage.
    Count(&'static str),
    FinishReason,
    /// SGLang's, an object.
    FinishObject,
    DetailedFinishReason,
    StopReason,
    WeightVersions,
    /// SGLang's single version.
    WeightVersion,
}

/// A small value.
#[derive(Debug)]
pub(super) struct Detail {
    pub(super) role: Role,
    pub(super) place: Place,
    pub(super) span: Span,
}

/// Splits a scanned body into its answers, in the order of the body, with the prompt's channels: one for all, or one for each.
pub(super) fn answers(
    document: Document,
    body: &[u8],
    wire: Wire,
    several: bool,
) -> Result<(Vec<Answer>, Vec<PromptChannels>)> {
    match wire {
        Wire::SglangGenerate => sglang(document, several),
        Wire::DynamoChat | Wire::DynamoCompletions => dynamo(document, body, wire, several),
        Wire::VllmGenerate | Wire::VllmChat => vllm(document, body, wire, several),
    }
}

fn missing(path: impl Into<String>) -> Error {
    Error::new(
        Class::Missing,
        "missing",
        path,
        None,
        "the response does not have it",
    )
}

fn several_choices(path: String, at: Option<usize>, wire: Wire) -> Error {
    let message = if wire.is_dynamo() {
        "several choices, but nvext holds the data of one only"
    } else {
        "several choices; decode_choices returns them all"
    };
    Error::new(Class::Malformed, "several_choices", path, at, message)
}

/// The choices with their indices, once they have the right shape.
fn choices(
    document: &mut Document,
    body: &[u8],
    wire: Wire,
    several: bool,
) -> Result<Vec<(u32, Choice)>> {
    let choices = std::mem::take(&mut document.choices)
        .get()?
        .filter(|choices| !choices.heads.is_empty())
        .ok_or_else(|| missing("choices"))?;
    if let Some(error) = choices.too_many.or(choices.wrong) {
        return Err(error);
    }
    let mut indices = Vec::with_capacity(choices.heads.len());
    let mut earlier = BTreeSet::new();
    for (position, head) in choices.heads.iter().enumerate() {
        indices.push(index(head, position, body, &mut earlier)?);
    }
    if let Some(error) = choices.wrong_logprobs {
        return Err(error);
    }
    if let ([_, second, ..], false) = (&choices.heads[..], several) {
        return Err(several_choices("choices[1]".into(), Some(second.at), wire));
    }
    Ok(indices.into_iter().zip(choices.list).collect())
}

/// The index of a choice, which no earlier one has.
fn index(head: &Head, position: usize, body: &[u8], earlier: &mut BTreeSet<u32>) -> Result<u32> {
    let path = || format!("choices[{position}].index");
    let (index, at) = match head.index {
        None => (position as u32, head.at),
        Some(span) => {
            let mut cursor = Cursor::at(body, span.start);
            let index = cursor.field::<list::Id>()?;
            (
                index.map_err(|error| error.under(&path()))? as u32,
                span.start,
            )
        }
    };
    if !earlier.insert(index) {
        return Err(Error::new(
            Class::Malformed,
            "duplicate_index",
            path(),
            at,
            format!("two choices have the index {index}"),
        ));
    }
    Ok(index)
}

/// Gathers small values that are there.
fn details<const N: usize>(list: [(Role, Place, Option<Span>); N]) -> Vec<Detail> {
    list.into_iter()
        .filter_map(|(role, place, span)| {
            Some(Detail {
                role,
                place,
                span: span?,
            })
        })
        .collect()
}

fn vllm(
    mut document: Document,
    body: &[u8],
    wire: Wire,
    several: bool,
) -> Result<(Vec<Answer>, Vec<PromptChannels>)> {
    let request_id = if wire == Wire::VllmGenerate {
        top("request_id")
    } else {
        top("id")
    };
    let list = choices(&mut document, body, wire, several)?;
    let mut answers = Vec::with_capacity(list.len());
    for (i, (index, choice)) in list.into_iter().enumerate() {
        let logprobs = choice.logprobs;
        answers.push(Answer {
            prefix: format!("choices[{i}]"),
            index,
            token_ids: vec![Channel::new(local("token_ids"), choice.token_ids)],
            logprobs: Channels {
                content: Channel::new(local("logprobs.content"), logprobs.content),
                must_name: wire == Wire::VllmGenerate,
                ..Channels::none(local("logprobs.content"))
            },
            sampling_mask: Channel::new(local("sampling_mask"), choice.sampling_mask),
            routed_experts: choice
                .routed_experts
                .map(|it| (local("routed_experts"), it))
                .into_iter()
                .collect(),
            unread_experts: document
                .unread_experts
                .map(|at| (top("routed_experts"), at)),
            no_routed_experts: local("routed_experts"),
            metadata: details([
                (Role::RequestId, request_id, document.request_id),
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
            tells_abort: true,
        });
    }
    let prompt = PromptChannels {
        echo: vec![Channel::new(
            top("prompt_token_ids"),
            document.prompt_token_ids,
        )],
        entries: vec![Channel::new(
            top("prompt_logprobs"),
            document.prompt_logprobs,
        )],
        triples: Channel::new(top("prompt_logprobs"), Field::Absent),
        top_rows: Channel::new(top("prompt_logprobs"), Field::Absent),
        none: top("prompt_logprobs"),
    };
    Ok((answers, vec![prompt]))
}

fn dynamo(
    mut document: Document,
    body: &[u8],
    wire: Wire,
    several: bool,
) -> Result<(Vec<Answer>, Vec<PromptChannels>)> {
    let mut list = choices(&mut document, body, wire, several)?;
    let nvext = document.nvext.get()?.unwrap_or_default();
    let Nvext {
        engine_data,
        completion_token_ids,
        prompt_token_ids,
        prompt_logprobs,
        routed_experts,
        stop_reason,
        detailed_finish_reason,
    } = nvext;
    let engine: EngineData = engine_data.get()?.unwrap_or_default();
    if let Some(at) = engine.unfinished {
        return Err(Error::new(
            Class::Malformed,
            "unfinished",
            "nvext.engine_data.finished",
            at,
            "the engine did not finish this completion",
        ));
    }
    let (index, choice) = list.swap_remove(0);
    let logprobs = choice.logprobs;
    let chat = wire == Wire::DynamoChat;
    let none = local(if chat {
        "logprobs.content"
    } else {
        "logprobs.token_logprobs"
    });
    let stop = match choice.stop_reason {
        Some(span) => (Role::StopReason, local("stop_reason"), Some(span)),
        None => (Role::StopReason, top("nvext.stop_reason"), stop_reason),
    };
    let answer = Answer {
        prefix: "choices[0]".into(),
        index,
        token_ids: vec![
            Channel::new(
                top("nvext.engine_data.completion_token_ids"),
                engine.completion_token_ids,
            ),
            Channel::new(top("nvext.completion_token_ids"), completion_token_ids),
            Channel::new(local("token_ids"), choice.token_ids),
        ],
        logprobs: Channels {
            flat: vec![
                Channel::new(
                    top("nvext.engine_data.completion_logprobs"),
                    engine.completion_logprobs,
                ),
                Channel::new(local("logprobs.token_logprobs"), logprobs.token_logprobs),
            ],
            content: Channel::new(local("logprobs.content"), logprobs.content),
            tokens: (local("logprobs.tokens"), logprobs.tokens),
            ..Channels::none(none)
        },
        sampling_mask: Channel::new(top("nvext.engine_data.sampling_mask"), engine.sampling_mask),
        routed_experts: best_experts([
            (top("nvext.routed_experts"), routed_experts),
            (
                top("nvext.engine_data.routed_experts"),
                engine.routed_experts,
            ),
        ]),
        unread_experts: choice
            .unread_experts
            .map(|at| (local("routed_experts"), at))
            .or(document
                .unread_experts
                .map(|at| (top("routed_experts"), at))),
        no_routed_experts: top("nvext.routed_experts"),
        metadata: details([
            (Role::RequestId, top("id"), document.request_id),
            (Role::Usage, top("usage"), document.usage),
            (
                Role::FinishReason,
                local("finish_reason"),
                choice.finish_reason,
            ),
            (
                Role::DetailedFinishReason,
                top("nvext.detailed_finish_reason"),
                detailed_finish_reason,
            ),
            stop,
            (
                Role::WeightVersions,
                local("weight_versions"),
                choice.weight_versions,
            ),
        ]),
        tells_abort: false,
    };
    let prompt = PromptChannels {
        echo: vec![
            Channel::new(
                top("nvext.engine_data.prompt_token_ids"),
                engine.prompt_token_ids,
            ),
            Channel::new(top("nvext.prompt_token_ids"), prompt_token_ids),
        ],
        entries: vec![
            Channel::new(
                top("nvext.engine_data.prompt_logprobs"),
                engine.prompt_logprobs,
            ),
            Channel::new(top("nvext.prompt_logprobs"), prompt_logprobs),
            Channel::new(top("prompt_logprobs"), document.prompt_logprobs),
        ],
        triples: Channel::new(top("prompt_logprobs"), Field::Absent),
        top_rows: Channel::new(top("prompt_logprobs"), Field::Absent),
        none: top("prompt_logprobs"),
    };
    Ok((vec![answer], vec![prompt]))
}

/// An object before a string before anything else; among equals the first.
fn best_experts<const N: usize>(
    candidates: [(Place, Option<Container>); N],
) -> Vec<(Place, Container)> {
    let mut there: Vec<_> = candidates
        .into_iter()
        .filter_map(|(place, container)| Some((place, container?)))
        .collect();
    there.sort_by_key(|(_, container)| match container {
        container if container.is_object() => 0,
        container if container.is_text() => 1,
        _ => 2,
    });
    there
}

fn sglang(document: Document, several: bool) -> Result<(Vec<Answer>, Vec<PromptChannels>)> {
    let array = document.verdict.array.is_some();
    let prefix = |i: usize| {
        if array {
            format!("[{i}]")
        } else {
            String::new()
        }
    };
    if let (Some(second), false) = (document.verdict.second, several) {
        return Err(several_choices(
            "[1]".into(),
            Some(second),
            Wire::SglangGenerate,
        ));
    }
    let count = document.elements.len();
    let mut list: Vec<(Element, MetaInfo)> = Vec::with_capacity(count);
    for (i, mut element) in document.elements.into_iter().enumerate() {
        let meta = std::mem::take(&mut element.meta_info).get()?;
        let meta = meta.ok_or_else(|| missing("meta_info").under(&prefix(i)))?;
        list.push((element, meta));
    }
    let mut answers = Vec::with_capacity(count);
    let mut prompts = Vec::with_capacity(count);
    for (i, (element, meta)) in list.into_iter().enumerate() {
        let versions = match meta.weight_versions {
            Some(span) => (
                Role::WeightVersions,
                local("meta_info.weight_versions"),
                Some(span),
            ),
            None => (
                Role::WeightVersion,
                local("meta_info.weight_version"),
                meta.weight_version,
            ),
        };
        let [prompt, completion, cached, reasoning] = meta.usage;
        answers.push(Answer {
            prefix: prefix(i),
            index: i as u32,
            token_ids: vec![Channel::new(local("output_ids"), element.output_ids)],
            logprobs: Channels {
                triples: Channel::new(
                    local("meta_info.output_token_logprobs"),
                    meta.output_token_logprobs,
                ),
                top_rows: Channel::new(
                    local("meta_info.output_top_logprobs"),
                    meta.output_top_logprobs,
                ),
                ..Channels::none(local("meta_info.output_token_logprobs"))
            },
            sampling_mask: Channel::new(
                local("meta_info.output_token_sampling_mask"),
                meta.sampling_mask,
            ),
            routed_experts: meta
                .routed_experts
                .map(|it| (local("meta_info.routed_experts"), it))
                .into_iter()
                .collect(),
            unread_experts: element
                .unread_experts
                .map(|at| (local("routed_experts"), at)),
            no_routed_experts: local("meta_info.routed_experts"),
            metadata: details([
                (Role::RequestId, local("meta_info.id"), meta.id),
                (
                    Role::Count(USAGE[0]),
                    local("meta_info.prompt_tokens"),
                    prompt,
                ),
                (
                    Role::Count(USAGE[1]),
                    local("meta_info.completion_tokens"),
                    completion,
                ),
                (
                    Role::Count(USAGE[2]),
                    local("meta_info.cached_tokens"),
                    cached,
                ),
                (
                    Role::Count(USAGE[3]),
                    local("meta_info.reasoning_tokens"),
                    reasoning,
                ),
                (
                    Role::FinishObject,
                    local("meta_info.finish_reason"),
                    meta.finish_reason,
                ),
                versions,
            ]),
            tells_abort: true,
        });
        prompts.push(PromptChannels {
            echo: vec![Channel::new(
                local("prompt_token_ids"),
                element.prompt_token_ids,
            )],
            entries: Vec::new(),
            triples: Channel::new(
                local("meta_info.input_token_logprobs"),
                meta.input_token_logprobs,
            ),
            top_rows: Channel::new(
                local("meta_info.input_top_logprobs"),
                meta.input_top_logprobs,
            ),
            none: local("meta_info.input_token_logprobs"),
        });
    }
    Ok((answers, prompts))
}

impl Channels {
    /// No channel at all; `none` is what to speak of.
    fn none(none: Place) -> Self {
        Self {
            flat: Vec::new(),
            content: Channel::new(none, Field::Absent),
            triples: Channel::new(none, Field::Absent),
            top_rows: Channel::new(none, Field::Absent),
            tokens: (none, None),
            must_name: false,
            none,
        }
    }
}
