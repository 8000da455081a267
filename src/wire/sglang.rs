//! SGLang.
//!
//! - `/generate`: the answer is an object, or an array of them where several were asked for.
//! - `/v1/chat/completions` with `return_token_ids` and `return_meta_info`: the same in each choice.

use crate::error::{Class, Error, Result};
use crate::experts::{Capture, Container};
use crate::json::Cursor;
use crate::limits::MAX_CHOICES;
use crate::memory::Buffer;

use super::answer::{
    Answer, Answers, Channel, ExpertChannels, LogprobChannels, Place, PromptChannels, Role, local,
    metadata, told_items, top,
};
use super::judge::flat_top::FlatTop;
use super::read::choices::{
    ASK_FOR_ALL, Choice, Choices, choices, index, missing, nothing_repeated, several_choices,
    too_many,
};
use super::read::document::{Document, read_document};
use super::read::field::{Field, Span, experts, now, offset, part, span};
use super::read::ids::{Id, IdLists, Ids, Numbers};
use super::read::told::{Form, Told, told};
use super::read::triples::{TopRows, Triples};
use super::read::walk::{Fields, Part, Path, Walk, fields};
use crate::options::Options;

fields! {
    /// One answer.
    Element {
        output_ids: Field<Buffer<i32>> = now::<Ids>,
        prompt_token_ids: Field<Buffer<i32>> = now::<Ids>,
        meta_info: Part<MetaInfo> = part,
        /// Not of this level: their offset.
        routed_experts: Option<usize> = offset,
    }
}

fields! {
    /// `meta_info`.
    MetaInfo {
        id: Option<Span> = span,
        prompt_tokens: Option<Span> = span,
        completion_tokens: Option<Span> = span,
        cached_tokens: Option<Span> = span,
        reasoning_tokens: Option<Span> = span,
        finish_reason: Option<Span> = span,
        weight_version: Option<Span> = span,
        weight_versions: Option<Span> = span,
        output_token_logprobs: Field<Triples> = now::<Triples>,
        output_top_logprobs: Field<TopRows> = now::<TopRows>,
        input_token_logprobs: Field<Triples> = now::<Triples>,
        input_top_logprobs: Field<TopRows> = now::<TopRows>,
        output_token_sampling_mask: Field<IdLists> = now::<IdLists>,
        output_token_sampling_logprobs: Field<Buffer<f64>> = now::<Numbers>,
        routed_experts: Option<Container> = experts,
        indexer_topk: Option<Container> = experts,
        output_top_logprobs_val_flat: Option<Span> = span,
        output_top_logprobs_idx_flat: Option<Span> = span,
        output_top_logprobs_val_flat_b64: Option<Span> = span,
        output_top_logprobs_idx_flat_b64: Option<Span> = span,
        output_top_logprobs_val_flat_b64_dtype: Option<Span> = span,
        output_top_logprobs_idx_flat_b64_dtype: Option<Span> = span,
        output_top_logprobs_shape: Option<Span> = span,
        output_top_logprobs_null_prefix: Option<Span> = span,
        input_top_logprobs_val_flat: Option<Span> = span,
        input_top_logprobs_idx_flat: Option<Span> = span,
        input_top_logprobs_val_flat_b64: Option<Span> = span,
        input_top_logprobs_idx_flat_b64: Option<Span> = span,
        input_top_logprobs_val_flat_b64_dtype: Option<Span> = span,
        input_top_logprobs_idx_flat_b64_dtype: Option<Span> = span,
        input_top_logprobs_shape: Option<Span> = span,
        input_top_logprobs_null_prefix: Option<Span> = span,
        num_retractions: Told = told(&Form::Count),
        cached_tokens_details: Told = told(&CACHED),
        dp_rank: Told = told(&Form::Count),
        queue_time: Told = told(&Form::Number),
        first_token_latency: Told = told(&Form::Number),
        e2e_latency: Told = told(&Form::Number),
        decode_throughput: Told = told(&Form::Number),
        spec_accept_rate: Told = told(&Form::Number),
        spec_accept_length: Told = told(&Form::Number),
        spec_num_correct_drafts: Told = told(&Form::Count),
        spec_num_proposed_drafts: Told = told(&Form::Count),
        spec_verify_ct: Told = told(&Form::Count),
        spec_cap_length: Told = told(&Form::Number),
        spec_block_accept_length: Told = told(&Form::Number),
        spec_correct_drafts_histogram: Told = told(&Form::Counts),
        spec_cap_lens_histogram: Told = told(&Form::Counts),
    }
}

/// Cached tokens by where they were (0.5.23, `entrypoints/openai/protocol.py`).
static CACHED: Form = Form::Members(&[
    ("device", Form::Count),
    ("host", Form::Count),
    ("storage", Form::Count),
    ("storage_backend", Form::Text),
]);

/// The members of the flat form of one side: values, ids, the same in base64, their types, the shape, the null prefix.
macro_rules! flat_top {
    ($meta:ident: $values:ident $ids:ident $values64:ident $ids64:ident $type:ident $id_type:ident $shape:ident $prefix:ident) => {
        FlatTop {
            val_flat: (concat!("meta_info.", stringify!($values)), $meta.$values),
            idx_flat: (concat!("meta_info.", stringify!($ids)), $meta.$ids),
            val_flat_b64: (
                concat!("meta_info.", stringify!($values64)),
                $meta.$values64,
            ),
            idx_flat_b64: (concat!("meta_info.", stringify!($ids64)), $meta.$ids64),
            val_flat_b64_dtype: (concat!("meta_info.", stringify!($type)), $meta.$type),
            idx_flat_b64_dtype: (concat!("meta_info.", stringify!($id_type)), $meta.$id_type),
            shape: (concat!("meta_info.", stringify!($shape)), $meta.$shape),
            null_prefix: (concat!("meta_info.", stringify!($prefix)), $meta.$prefix),
        }
    };
}

impl MetaInfo {
    /// The alternatives of the completion: the rows, else their flat form.
    fn output_top(&mut self, read: &Reading<'_>) -> Channel<TopRows> {
        let meta = &*self;
        let flat = flat_top!(meta: output_top_logprobs_val_flat output_top_logprobs_idx_flat
            output_top_logprobs_val_flat_b64 output_top_logprobs_idx_flat_b64
            output_top_logprobs_val_flat_b64_dtype output_top_logprobs_idx_flat_b64_dtype
            output_top_logprobs_shape output_top_logprobs_null_prefix);
        let rows = std::mem::take(&mut self.output_top_logprobs);
        read.rows_or_flat(Channel::local("meta_info.output_top_logprobs", rows), &flat)
    }

    /// The same of the prompt.
    fn input_top(&mut self, read: &Reading<'_>) -> Channel<TopRows> {
        let meta = &*self;
        let flat = flat_top!(meta: input_top_logprobs_val_flat input_top_logprobs_idx_flat
            input_top_logprobs_val_flat_b64 input_top_logprobs_idx_flat_b64
            input_top_logprobs_val_flat_b64_dtype input_top_logprobs_idx_flat_b64_dtype
            input_top_logprobs_shape input_top_logprobs_null_prefix);
        let rows = std::mem::take(&mut self.input_top_logprobs);
        read.rows_or_flat(Channel::local("meta_info.input_top_logprobs", rows), &flat)
    }
}

/// The body that members stand in.
struct Reading<'a> {
    body: &'a [u8],
    max_tokens: usize,
}

impl<'a> Reading<'a> {
    fn new(body: &'a [u8], options: &Options<'_>) -> Self {
        let max_tokens = options.limits.max_tokens;
        Self { body, max_tokens }
    }

    fn rows_or_flat(&self, rows: Channel<TopRows>, flat: &FlatTop) -> Channel<TopRows> {
        if rows.field.is_present() {
            return rows;
        }
        flat.channel(self.body, self.max_tokens).unwrap_or(rows)
    }
}

fields! {
    /// The top level of `/v1/chat/completions`.
    Chat {
        choices: Part<Choices<Sample>> = choices,
        /// Not of this level: their offset.
        routed_experts: Option<usize> = offset,
    }
}

fields! {
    /// `choices[i]` of `/v1/chat/completions`.
    Sample {
        index: Option<Span> = index,
        response_token_ids: Field<Buffer<i32>> = now::<Ids>,
        prompt_token_ids: Field<Buffer<i32>> = now::<Ids>,
        meta_info: Part<MetaInfo> = part,
        /// Not of this level: their offset.
        routed_experts: Option<usize> = offset,
    }
}

/// A body of `/generate`.
#[derive(Debug, Default)]
struct Body {
    /// The top level, if it is an object.
    object: Element,
    /// The elements that may become answers, all of them or the first, if the top level is an array.
    array: Option<Vec<Element>>,
    /// The offset of the second element.
    second: Option<usize>,
}

impl Fields for Body {
    const NAMES: &'static [&'static str] = Element::NAMES;

    fn member<'a>(
        &mut self,
        walk: &mut Walk<'a>,
        cursor: &mut Cursor<'a>,
        path: &Path<'_>,
        name: &'static str,
    ) -> Result<()> {
        self.object.member(walk, cursor, path, name)
    }
}

impl Document for Body {
    fn array<'a>(&mut self, walk: &mut Walk<'a>, cursor: &mut Cursor<'a>) -> Result<Option<Error>> {
        let at = cursor.pos;
        let mut list = Vec::new();
        let (mut wrong, mut count) = (None, 0);
        cursor.array(|cursor, i| {
            count = i + 1;
            if i == 1 {
                self.second = Some(cursor.pos);
            }
            if i >= MAX_CHOICES && cursor.byte() == Some(b'{') && nothing_repeated(cursor)? {
                return Ok(());
            }
            let path = &Path::Index(&Path::Top, i);
            walk.refused = i >= walk.answerable;
            let at = cursor.pos;
            let element: Part<Element> = walk.part(cursor, path, Element::NAMES)?;
            let refused = std::mem::take(&mut walk.refused);
            match element.object(path, at) {
                Ok(element) => list.extend((!refused).then_some(element)),
                Err(error) => wrong = wrong.take().or(Some(error)),
            }
            Ok(())
        })?;
        self.array = Some(list);
        Ok(match count {
            0 => {
                let message = "the array of answers is empty";
                Some(Error::new(Class::Missing, "missing", "[0]", None, message))
            }
            count if count > MAX_CHOICES => Some(too_many(&Path::Top, at)),
            _ => wrong,
        })
    }
}

impl Document for Chat {}

impl Choice for Sample {
    fn index(&self) -> Option<Span> {
        self.index
    }

    /// The texts of `logprobs` name no ids: they are not read.
    fn wrong_logprobs(&mut self) -> Option<Error> {
        None
    }
}

/// The answers of a body of `/v1/chat/completions`: every choice with `several`, else the only one.
pub(super) fn chat_answers(body: &[u8], options: &Options<'_>, several: bool) -> Result<Answers> {
    let document: Chat = read_document(body, options, several)?;
    let list = Choices::indexed(document.choices, body, several, ASK_FOR_ALL, false)?;
    let mut parts = Vec::with_capacity(list.len());
    for (position, (index, mut choice)) in list.into_iter().enumerate() {
        let prefix = format!("choices[{position}]");
        let meta = std::mem::take(&mut choice.meta_info).get()?;
        let meta = meta.ok_or_else(|| missing("meta_info").under(&prefix))?;
        parts.push((index, prefix, choice, meta));
    }
    let reading = Reading::new(body, options);
    // A choice has its prompt, so both lists have the order of the indices.
    parts.sort_by_key(|(index, ..)| *index);
    let ranked = parts.into_iter().map(|(index, prefix, choice, meta)| {
        let ids = Channel::local("response_token_ids", choice.response_token_ids);
        let echo = Channel::local("prompt_token_ids", choice.prompt_token_ids);
        let here = choice
            .routed_experts
            .map(|at| (local("routed_experts"), at));
        let above = document
            .routed_experts
            .map(|at| (top("routed_experts"), at));
        let place = (index, prefix);
        ranked(ids, echo, here.or(above), meta, place, &reading)
    });
    let (list, prompts) = ranked.unzip();
    Ok(Answers {
        list,
        prompts,
        ..Answers::default()
    })
}

/// The answers of a body of `/generate`: every element with `several`, else the only one.
pub(super) fn answers(body: &[u8], options: &Options<'_>, several: bool) -> Result<Answers> {
    let document: Body = read_document(body, options, several)?;
    if let (Some(second), false) = (document.second, several) {
        return Err(several_choices("[1]", second, ASK_FOR_ALL));
    }
    let array = document.array.is_some();
    let prefix = |i: usize| {
        if array {
            format!("[{i}]")
        } else {
            String::new()
        }
    };
    let elements = document.array.unwrap_or_else(|| vec![document.object]);
    let mut list = Vec::with_capacity(elements.len());
    for (i, mut element) in elements.into_iter().enumerate() {
        let meta = std::mem::take(&mut element.meta_info).get()?;
        let meta = meta.ok_or_else(|| missing("meta_info").under(&prefix(i)))?;
        list.push((element, meta));
    }
    let reading = Reading::new(body, options);
    let (list, prompts) = list
        .into_iter()
        .enumerate()
        .map(|(i, (element, meta))| {
            let ids = Channel::local("output_ids", element.output_ids);
            let echo = Channel::local("prompt_token_ids", element.prompt_token_ids);
            let unread = element
                .routed_experts
                .map(|at| (local("routed_experts"), at));
            ranked(ids, echo, unread, meta, (i as u32, prefix(i)), &reading)
        })
        .unzip();
    Ok(Answers {
        list,
        prompts,
        ..Answers::default()
    })
}

fields! {
    /// A chunk of a streamed answer.
    Chunk {
        output_ids: Field<Buffer<i32>> = now::<Ids>,
        prompt_token_ids: Field<Buffer<i32>> = now::<Ids>,
        meta_info: Part<MetaInfo> = part,
        /// Not of this level: their offset.
        routed_experts: Option<usize> = offset,
        /// Of the answer that it belongs to.
        index: Option<Span> = span,
    }
}

impl Document for Chunk {}

/// The answer of a chunk.
pub(super) fn chunk(body: &[u8], options: &Options<'_>) -> Result<Answers> {
    let chunk: Chunk = read_document(body, options, false)?;
    let meta = chunk.meta_info.get()?.ok_or_else(|| missing("meta_info"))?;
    let index = match chunk.index {
        Some(span) => Cursor::at(body, span.start).field::<Id>()?,
        None => Ok(0),
    };
    let index = index.map_err(|error| error.under("index"))?;
    let ids = Channel::local("output_ids", chunk.output_ids);
    let echo = Channel::local("prompt_token_ids", chunk.prompt_token_ids);
    let unread = chunk.routed_experts.map(|at| (local("routed_experts"), at));
    let place = (index as u32, String::new());
    let reading = Reading::new(body, options);
    let (answer, prompt) = ranked(ids, echo, unread, meta, place, &reading);
    Ok(Answers {
        list: vec![answer],
        prompts: vec![prompt],
        ..Answers::default()
    })
}

/// The channels of one answer.
fn ranked(
    token_ids: Channel<Buffer<i32>>,
    echo: Channel<Buffer<i32>>,
    unread: Option<(Place, usize)>,
    mut meta: MetaInfo,
    (index, prefix): (u32, String),
    reading: &Reading<'_>,
) -> (Answer, PromptChannels) {
    let count = |name, place, span| (Role::Count(name), local(place), span);
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
    let told = told_items!(
        local,
        "meta_info.",
        meta,
        [
            num_retractions,
            cached_tokens_details,
            dp_rank,
            queue_time,
            first_token_latency,
            e2e_latency,
            decode_throughput,
            spec_accept_rate,
            spec_accept_length,
            spec_num_correct_drafts,
            spec_num_proposed_drafts,
            spec_verify_ct,
            spec_cap_length,
            spec_block_accept_length,
            spec_correct_drafts_histogram,
            spec_cap_lens_histogram,
        ]
    );
    let (output_top, input_top) = (meta.output_top(reading), meta.input_top(reading));
    let answer = Answer {
        prefix,
        index,
        token_ids: vec![token_ids],
        logprobs: LogprobChannels {
            triples: Channel::local(
                "meta_info.output_token_logprobs",
                meta.output_token_logprobs,
            ),
            top_rows: output_top,
            ..LogprobChannels::none(local("meta_info.output_token_logprobs"))
        },
        mask: Channel::local(
            "meta_info.output_token_sampling_mask",
            meta.output_token_sampling_mask,
        ),
        sampling: Channel::local(
            "meta_info.output_token_sampling_logprobs",
            meta.output_token_sampling_logprobs,
        ),
        experts: ExpertChannels {
            found: meta
                .routed_experts
                .map(|it| (local("meta_info.routed_experts"), it)),
            unread,
            ..ExpertChannels::none(Capture::Experts, local("meta_info.routed_experts"))
        },
        indexer: ExpertChannels {
            found: meta
                .indexer_topk
                .map(|it| (local("meta_info.indexer_topk"), it)),
            ..ExpertChannels::none(Capture::Indexer, local("meta_info.indexer_topk"))
        },
        told,
        metadata: metadata([
            (Role::RequestId, local("meta_info.id"), meta.id),
            count(
                "prompt_tokens",
                "meta_info.prompt_tokens",
                meta.prompt_tokens,
            ),
            count(
                "completion_tokens",
                "meta_info.completion_tokens",
                meta.completion_tokens,
            ),
            count(
                "cached_tokens",
                "meta_info.cached_tokens",
                meta.cached_tokens,
            ),
            count(
                "reasoning_tokens",
                "meta_info.reasoning_tokens",
                meta.reasoning_tokens,
            ),
            (
                Role::FinishObject,
                local("meta_info.finish_reason"),
                meta.finish_reason,
            ),
            versions,
        ]),
        ..Answer::none(
            local("meta_info.output_token_logprobs"),
            local("meta_info.routed_experts"),
        )
    };
    let prompt = PromptChannels {
        echo: vec![echo],
        triples: Channel::local("meta_info.input_token_logprobs", meta.input_token_logprobs),
        top_rows: input_top,
        ..PromptChannels::none(local("meta_info.input_token_logprobs"))
    };
    (answer, prompt)
}
