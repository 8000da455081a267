//! One answer of a body: which channels may fill which role, best first. Each wire fills it from its own fields.

use crate::artifact::Routes;
use crate::experts::{Capture, Container};
use crate::memory::Buffer;

use super::read::entries::Content;
use super::read::field::{Field, Span};
use super::read::ids::IdLists;
use super::read::maps::PromptEntries;
use super::read::matrix::Npy;
use super::read::packed::Compact;
use super::read::told::Told;
use super::read::triples::{TopRows, Triples};

/// Where a channel stands: a path under the choice or element that [`Answer::prefix`] names, or from the top.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    local: bool,
    name: &'static str,
}

/// From the top of the body.
pub(crate) const fn top(name: &'static str) -> Place {
    Place { local: false, name }
}

/// Under the answer's prefix.
pub(crate) const fn local(name: &'static str) -> Place {
    Place { local: true, name }
}

/// Writes the paths of one answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Paths<'a> {
    pub(crate) prefix: &'a str,
}

impl Paths<'_> {
    /// The whole path of a place.
    pub(crate) fn text(&self, place: Place) -> String {
        if place.local && !self.prefix.is_empty() {
            format!("{}.{}", self.prefix, place.name)
        } else {
            place.name.to_owned()
        }
    }
}

/// A channel that may be absent.
#[derive(Debug)]
pub(crate) struct Channel<T> {
    pub(crate) place: Place,
    pub(crate) field: Field<T>,
}

impl<T> Channel<T> {
    /// A channel under the answer's prefix.
    pub(crate) fn local(name: &'static str, field: Field<T>) -> Self {
        let place = local(name);
        Self { place, field }
    }

    /// A channel with a path from the top of the body.
    pub(crate) fn top(name: &'static str, field: Field<T>) -> Self {
        let place = top(name);
        Self { place, field }
    }

    /// A channel that the wire does not have. `place` is not shown.
    pub(crate) fn absent(place: Place) -> Self {
        let field = Field::Absent;
        Self { place, field }
    }
}

/// The first channel that is there.
pub(crate) fn first<T>(channels: Vec<Channel<T>>) -> Option<Channel<T>> {
    channels
        .into_iter()
        .find(|channel| channel.field.is_present())
}

/// What a body holds.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    /// In the order of the body.
    pub(crate) list: Vec<Answer>,
    /// One for all answers, or one for each.
    pub(crate) prompts: Vec<PromptChannels>,
    /// Of a chunk without answers: what it says of all.
    pub(crate) shared: Vec<MetadataItem>,
    /// The same, of what the server tells.
    pub(crate) told: Vec<ToldItem>,
}

/// One answer.
#[derive(Debug)]
pub(crate) struct Answer {
    /// Path of the choice or element.
    pub(crate) prefix: String,
    pub(crate) index: u32,
    /// At least one channel; the first is named where none is there.
    pub(crate) token_ids: Vec<Channel<Buffer<i32>>>,
    pub(crate) logprobs: LogprobChannels,
    pub(crate) mask: Channel<IdLists>,
    /// What the sampler computed for the sampled tokens.
    pub(crate) sampling: Channel<Buffer<f64>>,
    pub(crate) experts: ExpertChannels,
    pub(crate) indexer: ExpertChannels,
    pub(crate) told: Vec<ToldItem>,
    /// In the order of judgement.
    pub(crate) metadata: Vec<MetadataItem>,
    /// Whether this wire shows an abort without Dynamo's detailed finish reason.
    pub(crate) tells_abort: bool,
    /// More entries of `sources`.
    pub(crate) notes: Vec<(&'static str, String)>,
}

impl Answer {
    /// No channel. The paths of log-probabilities and of routed experts are named where none is there.
    pub(crate) fn none(logprobs: Place, experts: Place) -> Self {
        Self {
            prefix: String::new(),
            index: 0,
            token_ids: Vec::new(),
            logprobs: LogprobChannels::none(logprobs),
            mask: Channel::absent(experts),
            sampling: Channel::absent(experts),
            experts: ExpertChannels::none(Capture::Experts, experts),
            indexer: ExpertChannels::none(Capture::Indexer, experts),
            told: Vec::new(),
            metadata: Vec::new(),
            tells_abort: true,
            notes: Vec::new(),
        }
    }
}

/// The channels of log-probabilities.
#[derive(Debug)]
pub(crate) struct LogprobChannels {
    /// Flat lists, best first.
    pub(crate) flat: Vec<Channel<Buffer<f64>>>,
    /// prime-rl's rows of ids and log-probabilities, before the others.
    pub(crate) compact: Channel<Compact>,
    pub(crate) content: Channel<Content>,
    pub(crate) triples: Channel<Triples>,
    pub(crate) top_rows: Channel<TopRows>,
    /// Completions: the texts beside the flat list.
    pub(crate) tokens: Option<(Place, Span)>,
    /// Every entry must name its token.
    pub(crate) must_name: bool,
    /// The path that is named where none is there.
    pub(crate) none: Place,
}

impl LogprobChannels {
    /// No channel; `none` is the path that is named.
    pub(crate) fn none(none: Place) -> Self {
        Self {
            flat: Vec::new(),
            compact: Channel::absent(none),
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
pub(crate) struct PromptChannels {
    /// The ids of the prompt that was run, best first.
    pub(crate) echo: Vec<Channel<Buffer<i32>>>,
    /// Maps of log-probabilities, best first.
    pub(crate) maps: Vec<Channel<PromptEntries>>,
    pub(crate) triples: Channel<Triples>,
    /// Alternatives beside the triples.
    pub(crate) top_rows: Channel<TopRows>,
    /// Log-probabilities of given ids.
    pub(crate) token_ids: Option<(Place, Npy)>,
    /// The path that is named where there are no log-probabilities.
    pub(crate) none: Place,
}

impl PromptChannels {
    /// No channel of log-probabilities; `none` is the path that is named.
    pub(crate) fn none(none: Place) -> Self {
        Self {
            echo: Vec::new(),
            maps: Vec::new(),
            triples: Channel::absent(none),
            top_rows: Channel::absent(none),
            token_ids: None,
            none,
        }
    }
}

/// Where routed experts stand, or what an indexer chose.
#[derive(Debug)]
pub(crate) struct ExpertChannels {
    pub(crate) capture: Capture,
    /// Those of an artifact, and the offset of errors unless they have their own.
    pub(crate) artifact: Option<(Place, Option<usize>, Routes)>,
    /// The best one that is there.
    pub(crate) found: Option<(Place, Container)>,
    /// Where this wire does not carry them, with their offset.
    pub(crate) unread: Option<(Place, usize)>,
    /// The path that is named where none is there.
    pub(crate) none: Place,
}

impl ExpertChannels {
    /// No channel; `none` is the path that is named.
    pub(crate) fn none(capture: Capture, none: Place) -> Self {
        Self {
            capture,
            artifact: None,
            found: None,
            unread: None,
            none,
        }
    }
}

/// What the server tells of a request, by the name that it has for it.
#[derive(Debug, Clone)]
pub(crate) struct ToldItem {
    pub(crate) name: &'static str,
    pub(crate) place: Place,
    pub(crate) told: Told,
}

/// Gathers what is told: of each member of a part its name, its place, which begins with `prefix`, and the value.
macro_rules! told_items {
    ($place:ident, $prefix:literal, $part:expr, [$($key:ident),* $(,)?]) => {
        $crate::wire::answer::present([$((
            stringify!($key),
            $crate::wire::answer::$place(concat!($prefix, stringify!($key))),
            std::mem::take(&mut $part.$key),
        )),*])
    };
}
pub(crate) use told_items;

/// Those that are there.
pub(crate) fn present<const N: usize>(list: [(&'static str, Place, Told); N]) -> Vec<ToldItem> {
    let here = list
        .into_iter()
        .filter(|(.., told)| !matches!(told, Told::Absent));
    here.map(|(name, place, told)| ToldItem { name, place, told })
        .collect()
}

/// What a small value is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
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
pub(crate) struct MetadataItem {
    pub(crate) role: Role,
    pub(crate) place: Place,
    pub(crate) span: Span,
}

/// Gathers the small values that are there.
pub(crate) fn metadata<const N: usize>(
    list: [(Role, Place, Option<Span>); N],
) -> Vec<MetadataItem> {
    list.into_iter()
        .filter_map(|(role, place, span)| {
            Some(MetadataItem {
                role,
                place,
                span: span?,
            })
        })
        .collect()
}
