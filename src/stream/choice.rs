//! The state of one choice after the chunks so far.

use crate::error::{Class, Error, Result};
use crate::experts::{Capture, Routed};
use crate::json::Value;
use crate::limits;
use crate::memory::Buffer;
use crate::options::Options;
use crate::wire::answer::{Channel, Paths, Place, ToldItem};
use crate::wire::read::ids::{IdLists, Ids};
use crate::wire::read::triples::TopRows;
use crate::wire::{Decoded, Finish, Prompt};

use super::columns::Alternatives;
use super::usual::Shape;

/// A chunk that is being judged.
pub(super) struct Context<'a> {
    /// Its bytes.
    pub(super) body: &'a [u8],
    pub(super) options: Options<'a>,
    /// Gives an error of the chunk its address in the stream.
    pub(super) place: &'a dyn Fn(Error) -> Error,
}

/// Fields that a chunk states for all choices (vLLM) or for its own (Dynamo, SGLang).
#[derive(Debug, Default)]
pub(super) struct Said {
    /// The request id, as written and as read.
    pub(super) id: Option<(Vec<u8>, String)>,
    pub(super) usage: Option<Value>,
    pub(super) prompt: Prompt<Buffer<f64>>,
    /// What the server tells of how it ran the request.
    pub(super) told: Vec<ToldItem>,
}

impl Said {
    /// Takes what a chunk tells: of each value the last one counts.
    pub(super) fn take_told(&mut self, told: Vec<ToldItem>) {
        for item in told {
            match self.told.iter_mut().find(|known| known.name == item.name) {
                Some(known) => *known = item,
                None => self.told.push(item),
            }
        }
    }
}

/// Rows that a chunk brought.
#[derive(Debug, Default)]
pub(super) struct Captured {
    pub(super) rows: Option<Routed>,
    /// The place of the rows, if a chunk had them, and the entry of `sources` where they are left out.
    pub(super) at: Option<(Place, Option<String>)>,
}

/// Dynamo's entries. They are the log-probabilities unless the engine's list comes; then they are an echo.
#[derive(Debug, Default)]
pub(super) struct Entries {
    /// The ids that the entries name; on completions the ids that `tokens` name.
    pub(super) names: Buffer<i32>,
    /// The values as written.
    pub(super) values: Buffer<f64>,
    /// The place of `content` or `token_logprobs`.
    pub(super) place: Option<Place>,
    /// The first error of the reader.
    pub(super) unreadable: Option<Error>,
    /// The place of `tokens`, and whether a chunk had a value that is no list.
    pub(super) tokens: Option<(Place, bool)>,
    /// The whole list of the engine or of an artifact, and its place.
    pub(super) engine: Option<(Buffer<f64>, Place)>,
    /// An artifact's candidates, and their place.
    pub(super) candidates: Option<(TopRows, Place)>,
}

/// One choice.
#[derive(Debug)]
pub(super) struct Choice {
    pub(super) index: u32,
    pub(super) ids: Buffer<i32>,
    /// The best channel that named ids, and its rank.
    pub(super) named: Option<(usize, Place)>,
    /// Chunks so far.
    pub(super) chunks: usize,
    /// The ids are those that entries name, because no chunk had a list of ids yet.
    pub(super) provisional: bool,
    /// A chunk had the list of all tokens.
    pub(super) whole: bool,
    /// Whether SGLang's lists hold all tokens so far (else the new ones); None before the first list.
    pub(super) cumulative: Option<bool>,
    pub(super) logprobs: Buffer<f64>,
    /// Where they stood, if they came.
    pub(super) logprobs_at: Option<Place>,
    pub(super) top: Alternatives,
    /// Where they stood, if they came.
    pub(super) top_at: Option<Place>,
    pub(super) entries: Entries,
    pub(super) mask: Option<(IdLists, Place)>,
    /// The log-probabilities of the sampler, and their place.
    pub(super) sampling: Option<(Buffer<f64>, Place)>,
    pub(super) routed: Captured,
    pub(super) indexer: Captured,
    pub(super) finish: Finish,
    /// The versions, their place, and whether they are spans (else one label).
    pub(super) weight_versions: Option<(Value, Place, bool)>,
    pub(super) said: Said,
    /// More entries of `sources`.
    pub(super) notes: Vec<(&'static str, String)>,
    /// The parts that its chunks share.
    pub(super) shape: Option<Shape>,
    /// Tokens that deltas have returned.
    pub(super) told: usize,
    /// A delta has returned the end.
    pub(super) told_end: bool,
}

/// A list of ids of a chunk.
pub(super) struct Listed {
    pub(super) rank: usize,
    pub(super) place: Place,
    pub(super) at: usize,
    pub(super) ids: Buffer<i32>,
}

impl Choice {
    pub(super) fn new(index: u32) -> Self {
        Self {
            index,
            ids: Buffer::new(),
            named: None,
            chunks: 0,
            provisional: true,
            whole: false,
            cumulative: None,
            logprobs: Buffer::new(),
            logprobs_at: None,
            top: Alternatives::default(),
            top_at: None,
            entries: Entries::default(),
            mask: None,
            sampling: None,
            routed: Captured::default(),
            indexer: Captured::default(),
            finish: Finish::default(),
            weight_versions: None,
            said: Said::default(),
            notes: Vec::new(),
            shape: None,
            told: 0,
            told_end: false,
        }
    }

    /// Whether a chunk had the finish reason.
    pub(super) fn ended(&self) -> bool {
        self.finish.reason.is_some()
    }

    /// The rows of a kind.
    pub(super) fn captured(&mut self, capture: Capture) -> &mut Captured {
        match capture {
            Capture::Experts => &mut self.routed,
            Capture::Indexer => &mut self.indexer,
        }
    }

    /// Records the channel of a list, if it is better than those before.
    pub(super) fn name(&mut self, list: &Listed) {
        let best = self.named.is_none_or(|(rank, _)| list.rank < rank);
        if best {
            self.named = Some((list.rank, list.place));
        }
    }

    /// Appends new tokens of a list at `at`.
    pub(super) fn append(
        &mut self,
        new: &[i32],
        (place, at): (Place, usize),
        cx: &Context<'_>,
        paths: &Paths<'_>,
    ) -> Result<()> {
        if !new.is_empty() && (self.ended() || self.whole) {
            return Err(Error::new(
                Class::Malformed,
                "after_finish",
                paths.text(place),
                at,
                format!("found {} more tokens of a choice that has ended", new.len()),
            ));
        }
        let ceiling = cx.options.limits.max_tokens;
        let tokens = self.ids.len() + new.len();
        if tokens > ceiling {
            let found = format!("the choice has {tokens} tokens");
            let message = limits::over(found, ceiling, "max_tokens");
            let path = paths.text(place);
            return Err(Error::new(Class::Malformed, "too_many", path, at, message));
        }
        self.ids.extend_from_slice(new)?;
        Ok(())
    }

    /// Merges the finish reason and the stop reason of a chunk.
    pub(super) fn take_finish(&mut self, found: &mut Decoded, paths: &Paths<'_>) -> Result<()> {
        let finish = std::mem::take(&mut found.finish);
        if finish.reason.is_some() {
            if self.ended() {
                if (&self.finish.reason, &self.finish.raw) != (&finish.reason, &finish.raw) {
                    return Err(Error::new(
                        Class::Alignment,
                        "contradiction",
                        paths.prefix,
                        None,
                        "the choice has another finish reason than an earlier chunk said",
                    ));
                }
                self.finish.aborted = finish.aborted.or(self.finish.aborted);
            } else {
                let stop_reason = self.finish.stop_reason.take();
                self.finish = finish;
                self.finish.stop_reason = self.finish.stop_reason.take().or(stop_reason);
                return Ok(());
            }
        }
        if finish.stop_reason.is_some() {
            self.finish.stop_reason = finish.stop_reason;
        }
        Ok(())
    }
}

/// The ids of the first channel that is there.
pub(super) fn listed(
    channels: Vec<Channel<Buffer<i32>>>,
    cx: &Context<'_>,
    paths: &Paths<'_>,
) -> Result<Option<Listed>> {
    let mut channels = channels.into_iter().enumerate();
    let Some((rank, channel)) = channels.find(|(_, channel)| channel.field.is_present()) else {
        return Ok(None);
    };
    let place = channel.place;
    let Some((at, ids)) = channel.field.take::<Ids>(cx.body) else {
        return Ok(None);
    };
    let ids = ids.map_err(|error| error.under(&paths.text(place)))?;
    Ok(Some(Listed {
        rank,
        place,
        at,
        ids,
    }))
}
