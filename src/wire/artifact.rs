//! A generation artifact in the roles of an answer. [`upload`](super::upload) has those that are part of one.

use crate::artifact::{Artifact, Column, Top, is_upload, open, transcribe};
use crate::error::Result;
use crate::experts::Target;
use crate::memory::{Buffer, Plain};
use crate::options::{Options, Wire};

use super::answer::{Answer, Channel, PromptChannels, top};
use super::decode::{alone, decode};
use super::decoded::Decoded;
use super::read::field::Field;
use super::read::triples::TopRows;
use super::sentinel::{first_too_high, or_nan, positive_logprob};

/// The paths of an artifact's parts.
pub(super) struct Names {
    pub(super) index: &'static str,
    ids: &'static str,
    selected: &'static str,
    top: &'static str,
    routes: &'static str,
}

macro_rules! names {
    ($prefix:literal) => {
        Names {
            index: concat!($prefix, "choices[0].choice_index"),
            ids: concat!($prefix, "choices[0].sequence_token_ids"),
            selected: concat!($prefix, "choices[0].selected_logprobs.logprobs"),
            top: concat!($prefix, "choices[0].topk_logprobs.logprobs"),
            routes: concat!($prefix, "choices[0].moe_routes"),
        }
    };
}

const ALONE: Names = names!("");
pub(super) const INLINE: Names = names!("nvext.metadata_upload.data_base64.");

/// Decodes what lay in an object store, or came over a relay.
pub(crate) fn decode_artifact(
    data: &[u8],
    options: &Options<'_>,
    target: Target<'_>,
) -> Result<Decoded> {
    if is_upload(data) {
        let json = transcribe(data, options)?;
        let options = Options {
            wire: Wire::SglangGenerate,
            ..*options
        };
        let decoded = decode(json.as_slice(), &options, false, target);
        // Offsets in the JSON say nothing of the object.
        let mut decoded = decoded.map_err(|mut error| {
            error.offset = None;
            error
        })?;
        return Ok(decoded.remove(0));
    }
    let artifact = open(data, options)?;
    let mut answer = Answer {
        index: artifact.index,
        tells_abort: false,
        ..Answer::none(top(ALONE.selected), top(ALONE.routes))
    };
    let mut prompt = PromptChannels::none(top(""));
    artifact.fill(&mut answer, &mut prompt, &ALONE, None)?;
    alone(answer, prompt, options, target)
}

impl Artifact {
    /// Puts its columns in front of the channels of an answer. `at` is the offset of errors, unless they have their own.
    pub(super) fn fill(
        self,
        answer: &mut Answer,
        prompt: &mut PromptChannels,
        names: &Names,
        at: Option<usize>,
    ) -> Result<()> {
        answer
            .token_ids
            .insert(0, channel(names.ids, self.completion, at));
        prompt.echo.insert(0, channel(names.ids, self.prompt, at));
        if let Some(selected) = self.selected {
            let selected = channel(names.selected, selected, at);
            answer.logprobs.flat.insert(0, selected);
        }
        if let Some(list) = self.top {
            answer.logprobs.top_rows = rows(names.top, list, at)?;
        }
        let routes = self.routes.map(|routes| (top(names.routes), at, routes));
        answer.experts.artifact = routes;
        Ok(())
    }
}

fn channel<T: Plain>(
    name: &'static str,
    column: Column<T>,
    at: Option<usize>,
) -> Channel<Buffer<T>> {
    let field = Field::Read {
        at: at.unwrap_or(column.at),
        value: Ok(column.values),
    };
    Channel::top(name, field)
}

/// Candidates as rows of alternatives.
fn rows(name: &'static str, mut list: Top, at: Option<usize>) -> Result<Channel<TopRows>> {
    let at = at.unwrap_or(list.at);
    let width = list.per_position;
    if let Some(i) = first_too_high(list.logprobs.as_slice()) {
        let path = format!("{name}[{}][{}]", i / width, i % width);
        return Err(positive_logprob(
            list.logprobs.as_slice()[i],
            path,
            Some(at),
        ));
    }
    for value in list.logprobs.as_mut_slice() {
        *value = or_nan(*value);
    }
    let count = list.ids.len();
    let mut offsets = Buffer::with_capacity(count / width + 1)?;
    for offset in (0..=count).step_by(width) {
        offsets.push(offset as i64)?;
    }
    let value = TopRows {
        ids: list.ids,
        logprobs: list.logprobs,
        offsets,
    };
    let field = Field::Read {
        at,
        value: Ok(value),
    };
    Ok(Channel::top(name, field))
}
