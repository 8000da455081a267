//! Step (e), last part: compares the server's own counts with the prompt and the token ids.

use crate::error::{Class, Error, Result};
use crate::json::Value;

use crate::wire::answer::{MetadataItem, Paths, Place, Role, top};

/// How many tokens a server says there were.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Count {
    pub(crate) tokens: i128,
    place: Place,
    at: usize,
}

/// The counts of one answer; None where the server has none.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Counts {
    pub(crate) prompt: Option<Count>,
    completion: Option<Count>,
}

impl Counts {
    /// Finds them in the usage that was gathered from `items`.
    pub(crate) fn new(items: &[MetadataItem], usage: Option<&Value>) -> Self {
        let count = |name: &str, place: &'static str| {
            let Some(Value::Map(members)) = usage else {
                return None;
            };
            let (_, value) = members.iter().rev().find(|(key, _)| key == name)?;
            let tokens = match value {
                Value::Int(count) => i128::from(*count),
                Value::Uint(count) => i128::from(*count),
                _ => return None,
            };
            let (place, at) = items.iter().find_map(|item| {
                let place = match item.role {
                    Role::Usage => top(place),
                    Role::Count(count) if count == name => item.place,
                    _ => return None,
                };
                Some((place, item.span.start))
            })?;
            Some(Count { tokens, place, at })
        };
        Self {
            prompt: count("prompt_tokens", "usage.prompt_tokens"),
            completion: count("completion_tokens", "usage.completion_tokens"),
        }
    }

    /// Fails if the server ran a prompt of another length than the known one.
    pub(crate) fn check_prompt(&self, known: Option<u64>, paths: &Paths<'_>) -> Result<()> {
        match (self.prompt, known) {
            (Some(count), Some(known)) if count.tokens != i128::from(known) => Err(count.refused(
                "prompt_mismatch",
                paths,
                format!(
                    "the server ran a prompt of {} tokens, the one that is known has {known} (truncated, or images expanded?)",
                    count.tokens
                ),
            )),
            _ => Ok(()),
        }
    }

    /// Fails if the server sampled another number of tokens than there are ids.
    pub(crate) fn check_completion(&self, ids: usize, paths: &Paths<'_>) -> Result<()> {
        match self.completion {
            Some(count) if count.tokens != ids as i128 => Err(count.refused(
                "count",
                paths,
                format!(
                    "the server counts {} completion tokens, the response has {ids} token ids",
                    count.tokens
                ),
            )),
            _ => Ok(()),
        }
    }
}

impl Count {
    #[cold]
    fn refused(&self, kind: &'static str, paths: &Paths<'_>, message: String) -> Error {
        let path = paths.text(self.place);
        Error::new(Class::Alignment, kind, path, self.at, message)
    }
}

/// The token ids of a body's answers, as they are decoded one by one.
#[derive(Debug)]
pub(crate) struct Tally {
    /// The server counts every answer on its own.
    each: bool,
    left: usize,
    ids: usize,
}

impl Tally {
    /// For `answers` answers.
    pub(crate) fn new(answers: usize, each: bool) -> Self {
        Self {
            each,
            left: answers,
            ids: 0,
        }
    }

    /// Adds an answer's ids. Returns the number to compare with the server's count, once it is known.
    pub(crate) fn add(&mut self, ids: usize) -> Option<usize> {
        self.left -= 1;
        self.ids += ids;
        match self.each {
            true => Some(ids),
            false => (self.left == 0).then_some(self.ids),
        }
    }
}
