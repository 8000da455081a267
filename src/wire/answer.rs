//! One answer of a body: which channels may fill which role, best first. Each wire fills it from its own fields.

use crate::experts::Container;
use crate::memory::Buffer;

use super::read::entries::Content;
use super::read::field::{Field, Span};
use super::read::ids::IdLists;
use super::read::maps::PromptEntries;
use super::read::triples::{TopRows, Triples};

/// Where a channel stands: a path under the choice or element that [`Answer::prefix`] names, or from the top.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    local: bool,
    name: &'static str,
}

/// From the top of the body.
pub(super) const fn top(name: &'static str) -> Place {
    Place { local: false, name }
}

/// Under the answer's prefix.
pub(super) const fn local(name: &'static str) -> Place {
    Place { local: true, name }
}

/// Writes the paths of one answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Paths<'a> {
    pub(super) prefix: &'a str,
}

impl Paths<'_> {
    /// The whole path of a place.
    pub(super) fn text(&self, place: Place) -> String {
        if place.local && !self.prefix.is_empty() {
            format!("{}.{}", self.prefix, place.name)
        } else {
            place.name.to_owned()
        }
    }
}

/// A channel that may be absent.
#[derive(Debug)]
pub(super) struct Channel<T> {
    pub(super) place: Place,
    pub(super) field: Field<T>,
}

impl<T> Channel<T> {
    /// A channel under the answer's prefix.
    pub(super) fn local(name: &'static str, field: Field<T>) -> Self {
        let place = local(name);
        Self { place, field }
    }

    /// A channel with a path from the top of the body.
    pub(super) fn top(name: &'static str, field: Field<T>) -> Self {
        let place = top(name);
        Self { place, field }
    }

    /// A channel that the wire does not have. `place` is not shown.
    pub(super) fn absent(place: Place) -> Self {
        let field = Field::Absent;
        Self { place, field }
    }
}

/// The first channel that is there.
pub(super) fn first<T>(channels: Vec<Channel<T>>) -> Option<Channel<T>> {
    channels
        .into_iter()
        .find(|channel| channel.field.is_present())
}

/// What a body holds.
#[derive(Debug, Default)]
pub(super) struct Answers {
    /// In the order of the body.
    pub(super) list: Vec<Answer>,
    /// One for all answers, or one for each.
    pub(super) prompts: Vec<PromptChannels>,
}

/// One answer.
#[derive(Debug)]
pub(super) struct Answer {
    /// Path of the choice or element.
    pub(super) prefix: String,
    pub(super) index: u32,
    /// At least one channel; the first is named where none is there.
    pub(super) token_ids: Vec<Channel<Buffer<i32>>>,
    pub(super) logprobs: LogprobChannels,
    pub(super) mask: Channel<IdLists>,
    pub(super) experts: ExpertChannels,
    /// In the order of judgement.
    pub(super) metadata: Vec<Detail>,
    /// Whether this wire shows an abort without Dynamo's detailed finish reason.
    pub(super) tells_abort: bool,
}

/// The channels of log-probabilities.
#[derive(Debug)]
pub(super) struct LogprobChannels {
    /// Flat lists, best first.
    pub(super) flat: Vec<Channel<Buffer<f64>>>,
    pub(super) content: Channel<Content>,
    pub(super) triples: Channel<Triples>,
    pub(super) top_rows: Channel<TopRows>,
    /// Completions: the texts beside the flat list.
    pub(super) tokens: Option<(Place, Span)>,
    /// Every entry must name its token.
    pub(super) must_name: bool,
    /// The path that is named where none is there.
    pub(super) none: Place,
}

impl LogprobChannels {
    /// No channel; `none` is the path that is named.
    pub(super) fn none(none: Place) -> Self {
        Self {
            flat: Vec::new(),
            content: Channel::absent(none),
            triples: Channel::absent(none),
            top_rows: Channel::absent(none),
            tokens: None,
            must_name: false,
            none,
        }
    }
}

/// The channels of the prompt, shared by all choices of a vLLM body.
#[derive(Debug)]
pub(super) struct PromptChannels {
    /// The ids of the prompt that was run, best first.
    pub(super) echo: Vec<Channel<Buffer<i32>>>,
    /// Maps of log-probabilities, best first.
    pub(super) maps: Vec<Channel<PromptEntries>>,
    pub(super) triples: Channel<Triples>,
    /// Alternatives beside the triples.
    pub(super) top_rows: Channel<TopRows>,
    /// The path that is named where there are no log-probabilities.
    pub(super) none: Place,
}

impl PromptChannels {
    /// No channel of log-probabilities; `none` is the path that is named.
    pub(super) fn none(none: Place) -> Self {
        Self {
            echo: Vec::new(),
            maps: Vec::new(),
            triples: Channel::absent(none),
            top_rows: Channel::absent(none),
            none,
        }
    }
}

/// Where routed experts stand.
#[derive(Debug)]
pub(super) struct ExpertChannels {
    /// The best one that is there.
    pub(super) found: Option<(Place, Container)>,
    /// Where this wire does not carry them, with their offset.
    pub(super) unread: Option<(Place, usize)>,
    /// The path that is named where none is there.
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

/// Gathers the small values that are there.
pub(super) fn details<const N: usize>(list: [(Role, Place, Option<Span>); N]) -> Vec<Detail> {
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
