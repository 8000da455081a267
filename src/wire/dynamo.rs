//! Dynamo: `/v1/chat/completions` and `/v1/completions`, whose nvext holds the data of the only choice.

use crate::error::{Class, Error, Result};
use crate::experts::{Capture, Container};
use crate::json::Cursor;
use crate::memory::Buffer;

use super::answer::{
    Answer, Answers, Channel, ExpertChannels, LogprobChannels, Place, PromptChannels, Role, local,
    metadata, told_items, top,
};
use super::read::choices::{Choice, Choices, choices, index};
use super::read::document::{Document, read_document};
use super::read::entries::Content;
use super::read::field::{Field, Span, experts, later, now, offset, part, span};
use super::read::ids::{IdLists, Ids, Numbers};
use super::read::maps::PromptEntries;
use super::read::told::{Form, Told, told};
use super::read::walk::{Fields, Part, Path, Walk, fields};
use super::upload::Inline;
use crate::options::{Options, Wire};

fields! {
    /// The top level.
    Body {
        choices: Part<Choices<Sample>> = choices,
        nvext: Part<Nvext> = part,
        /// Not of this level: their offset.
        routed_experts: Option<usize> = offset,
        prompt_logprobs: Field<PromptEntries> = later,
        usage: Option<Span> = span,
        id: Option<Span> = span,
    }
}

fields! {
    /// `choices[i]`.
    Sample {
        index: Option<Span> = index,
        token_ids: Field<Buffer<i32>> = later,
        logprobs: Part<Logprobs> = logprobs,
        finish_reason: Option<Span> = span,
        stop_reason: Option<Span> = span,
        weight_versions: Option<Span> = span,
        /// Not of this level: their offset.
        routed_experts: Option<usize> = offset,
    }
}

fields! {
    /// `choices[i].logprobs`.
    Logprobs {
        /// Of chat.
        content: Field<Content> = now::<Content>,
        /// Of completions.
        token_logprobs: Field<Buffer<f64>> = now::<Numbers>,
        /// Of completions.
        tokens: Option<Span> = span,
    }
}

fields! {
    /// `nvext`.
    Nvext {
        engine_data: Part<EngineData> = part,
        completion_token_ids: Field<Buffer<i32>> = later,
        prompt_token_ids: Field<Buffer<i32>> = later,
        prompt_logprobs: Field<PromptEntries> = later,
        routed_experts: Option<Container> = experts,
        stop_reason: Option<Span> = span,
        detailed_finish_reason: Option<Span> = span,
        metadata_upload: Inline = Inline::read,
        worker_id: Told = told(&WORKER),
        timing: Told = told(&TIMING),
        /// Not of this wire: their offset.
        indexer_topk: Option<usize> = offset,
    }
}

fields! {
    /// `nvext.engine_data`.
    EngineData {
        completion_token_ids: Field<Buffer<i32>> = now::<Ids>,
        completion_logprobs: Field<Buffer<f64>> = now::<Numbers>,
        prompt_token_ids: Field<Buffer<i32>> = now::<Ids>,
        prompt_logprobs: Field<PromptEntries> = now::<PromptEntries>,
        routed_experts: Option<Container> = experts,
        sampling_mask: Field<IdLists> = now::<IdLists>,
        /// Its offset where it is false.
        finished: Option<usize> = unfinished,
        kv_cache_hit: Told = told(&CACHE_HIT),
        /// Not of this wire: their offset.
        indexer_topk: Option<usize> = offset,
    }
}

/// Who prefilled and who decoded (1.6.1 and 1.7, `WorkerIdInfo`).
static WORKER: Form = Form::Members(&[
    ("prefill_worker_id", Form::Count),
    ("prefill_dp_rank", Form::Count),
    ("decode_worker_id", Form::Count),
    ("decode_dp_rank", Form::Count),
]);

/// How long it took (1.6.1 and 1.7, `TimingInfo`).
static TIMING: Form = Form::Members(&[
    ("request_received_ms", Form::Count),
    ("prefill_wait_time_ms", Form::Number),
    ("prefill_time_ms", Form::Number),
    ("ttft_ms", Form::Number),
    ("total_time_ms", Form::Number),
    ("kv_hit_rate", Form::Number),
    ("router_queue_depth", Form::Count),
]);

/// What a worker found cached (1.7, `vllm/handlers.py`).
static CACHE_HIT: Form = Form::Members(&[
    ("prompt_tokens", Form::Count),
    ("reused_tokens", Form::Count),
]);

/// Reads the `logprobs` of a choice, of which chat and completions have different keys.
fn logprobs<'a>(
    walk: &mut Walk<'a>,
    cursor: &mut Cursor<'a>,
    path: &Path<'_>,
) -> Result<Part<Logprobs>> {
    let (chat, completions) = Logprobs::NAMES.split_at(1);
    let names = match walk.wire {
        Wire::DynamoChat => chat,
        _ => completions,
    };
    walk.part(cursor, path, names)
}

fn unfinished(walk: &mut Walk<'_>, cursor: &mut Cursor<'_>, _: &Path<'_>) -> Result<Option<usize>> {
    let at = cursor.pos;
    cursor.skip_value()?;
    Ok((&walk.body[at..cursor.pos] == b"false").then_some(at))
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

/// The only answer of a body. A `chunk` of a stream may have none.
pub(super) fn answers(body: &[u8], options: &Options<'_>, chunk: bool) -> Result<Answers> {
    let document: Body = read_document(body, options, false)?;
    let one_only = "several choices, but nvext holds the data of one only";
    let mut list = Choices::indexed(document.choices, body, false, one_only, chunk)?;
    let mut nvext = document.nvext.get()?.unwrap_or_default();
    let engine = std::mem::take(&mut nvext.engine_data);
    let mut engine = engine.get()?.unwrap_or_default();
    let mut told = told_items!(top, "nvext.", nvext, [worker_id, timing]);
    told.extend(told_items!(
        top,
        "nvext.engine_data.",
        engine,
        [kv_cache_hit]
    ));
    if let Some(at) = engine.finished {
        return Err(Error::new(
            Class::Malformed,
            "unfinished",
            "nvext.engine_data.finished",
            at,
            "the engine did not finish this completion",
        ));
    }
    let id = (Role::RequestId, top("id"), document.id);
    let usage = (Role::Usage, top("usage"), document.usage);
    if list.is_empty() {
        refuse_unowned(&nvext, &engine, document.prompt_logprobs.is_present())?;
        return Ok(Answers {
            shared: metadata([id, usage]),
            told,
            ..Answers::default()
        });
    }
    let (index, choice) = list.swap_remove(0);
    let logprobs = choice.logprobs.get()?.unwrap_or_default();
    let no_logprobs = local(match options.wire {
        Wire::DynamoChat => "logprobs.content",
        _ => "logprobs.token_logprobs",
    });
    let stop_reason = match choice.stop_reason {
        Some(span) => (Role::StopReason, local("stop_reason"), Some(span)),
        None => (
            Role::StopReason,
            top("nvext.stop_reason"),
            nvext.stop_reason,
        ),
    };
    let mut answer = Answer {
        prefix: "choices[0]".into(),
        index,
        token_ids: vec![
            Channel::top(
                "nvext.engine_data.completion_token_ids",
                engine.completion_token_ids,
            ),
            Channel::top("nvext.completion_token_ids", nvext.completion_token_ids),
            Channel::local("token_ids", choice.token_ids),
        ],
        logprobs: LogprobChannels {
            flat: vec![
                Channel::top(
                    "nvext.engine_data.completion_logprobs",
                    engine.completion_logprobs,
                ),
                Channel::local("logprobs.token_logprobs", logprobs.token_logprobs),
            ],
            content: Channel::local("logprobs.content", logprobs.content),
            tokens: logprobs.tokens.map(|span| (local("logprobs.tokens"), span)),
            ..LogprobChannels::none(no_logprobs)
        },
        mask: Channel::top("nvext.engine_data.sampling_mask", engine.sampling_mask),
        experts: ExpertChannels {
            found: best_experts([
                (top("nvext.routed_experts"), nvext.routed_experts),
                (
                    top("nvext.engine_data.routed_experts"),
                    engine.routed_experts,
                ),
            ]),
            unread: choice
                .routed_experts
                .map(|at| (local("routed_experts"), at))
                .or(document
                    .routed_experts
                    .map(|at| (top("routed_experts"), at))),
            ..ExpertChannels::none(Capture::Experts, top("nvext.routed_experts"))
        },
        indexer: ExpertChannels {
            unread: nvext
                .indexer_topk
                .map(|at| (top("nvext.indexer_topk"), at))
                .or(engine
                    .indexer_topk
                    .map(|at| (top("nvext.engine_data.indexer_topk"), at))),
            ..ExpertChannels::none(Capture::Indexer, top("nvext.indexer_topk"))
        },
        told,
        metadata: metadata([
            id,
            usage,
            (
                Role::FinishReason,
                local("finish_reason"),
                choice.finish_reason,
            ),
            (
                Role::DetailedFinishReason,
                top("nvext.detailed_finish_reason"),
                nvext.detailed_finish_reason,
            ),
            stop_reason,
            (
                Role::WeightVersions,
                local("weight_versions"),
                choice.weight_versions,
            ),
        ]),
        tells_abort: false,
        ..Answer::none(no_logprobs, top("nvext.routed_experts"))
    };
    let mut prompt = PromptChannels {
        echo: vec![
            Channel::top(
                "nvext.engine_data.prompt_token_ids",
                engine.prompt_token_ids,
            ),
            Channel::top("nvext.prompt_token_ids", nvext.prompt_token_ids),
        ],
        maps: vec![
            Channel::top("nvext.engine_data.prompt_logprobs", engine.prompt_logprobs),
            Channel::top("nvext.prompt_logprobs", nvext.prompt_logprobs),
            Channel::top("prompt_logprobs", document.prompt_logprobs),
        ],
        ..PromptChannels::none(top("prompt_logprobs"))
    };
    nvext
        .metadata_upload
        .fill(&mut answer, &mut prompt, body, options, chunk)?;
    Ok(Answers {
        list: vec![answer],
        prompts: vec![prompt],
        ..Answers::default()
    })
}

/// Fails if a chunk without a choice holds what belongs to one.
fn refuse_unowned(nvext: &Nvext, engine: &EngineData, prompt_logprobs: bool) -> Result<()> {
    let in_engine = engine.completion_token_ids.is_present()
        || engine.completion_logprobs.is_present()
        || engine.prompt_token_ids.is_present()
        || engine.prompt_logprobs.is_present()
        || engine.routed_experts.is_some()
        || engine.indexer_topk.is_some()
        || engine.sampling_mask.is_present();
    let in_nvext = nvext.completion_token_ids.is_present()
        || nvext.prompt_token_ids.is_present()
        || nvext.prompt_logprobs.is_present()
        || nvext.routed_experts.is_some()
        || nvext.indexer_topk.is_some()
        || nvext.stop_reason.is_some()
        || nvext.detailed_finish_reason.is_some()
        || nvext.metadata_upload.says_anything();
    let path = match (in_engine || in_nvext, prompt_logprobs) {
        (true, _) => "nvext",
        (false, true) => "prompt_logprobs",
        (false, false) => return Ok(()),
    };
    let message = "it belongs to a choice, and the chunk has none";
    Err(Error::new(
        Class::Malformed,
        "no_choice",
        path,
        None,
        message,
    ))
}

/// The best container: an object before a string before anything else; among equals the first.
fn best_experts(candidates: [(Place, Option<Container>); 2]) -> Option<(Place, Container)> {
    candidates
        .into_iter()
        .filter_map(|(place, container)| Some((place, container?)))
        .min_by_key(|(_, container)| match container {
            container if container.is_object() => 0,
            container if container.is_text() => 1,
            _ => 2,
        })
}
