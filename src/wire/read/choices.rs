//! The list `choices` of vLLM and Dynamo.

use std::collections::BTreeSet;

use crate::error::{Class, Error, Result};
use crate::json::{Cursor, Kind};
use crate::limits::MAX_CHOICES;

use super::field::Span;
use super::ids;
use super::walk::{Fields, Part, Path, Walk};

/// One of `choices`. Both methods also apply to the choices that are refused.
pub(crate) trait Choice: Fields {
    /// The span of `index`.
    fn index(&self) -> Option<Span>;
    /// The error of a `logprobs` that is no object.
    fn wrong_logprobs(&mut self) -> Option<Error>;
}

/// The list of choices.
#[derive(Debug, Default)]
pub(crate) struct Choices<C> {
    /// Every choice.
    heads: Vec<Head>,
    /// Those that may become answers: all of them, or the first.
    list: Vec<C>,
    /// The first choice that is no object.
    wrong: Option<Error>,
    /// The first `logprobs` that is no object.
    wrong_logprobs: Option<Error>,
    too_many: Option<Error>,
}

/// The offset of a choice, and its index.
#[derive(Debug)]
struct Head {
    at: usize,
    index: Option<Span>,
}

/// Validates the `index` of a choice; that of a refused one too.
pub(crate) fn index(
    _: &mut Walk<'_>,
    cursor: &mut Cursor<'_>,
    _: &Path<'_>,
) -> Result<Option<Span>> {
    Span::read(cursor)
}

/// Reads the list.
pub(crate) fn choices<'a, C: Choice>(
    walk: &mut Walk<'a>,
    cursor: &mut Cursor<'a>,
    path: &Path<'_>,
) -> Result<Part<Choices<C>>> {
    walk.of_kind(cursor, path, Kind::Array, |walk, cursor| {
        let mut choices = Choices::<C>::default();
        let at = cursor.pos;
        cursor.array(|cursor, i| {
            if i >= MAX_CHOICES {
                choices.too_many.get_or_insert_with(|| too_many(path, at));
                if nothing_repeated(cursor)? {
                    return Ok(());
                }
            }
            choices.read(walk, cursor, path, i)
        })?;
        Ok(choices)
    })
}

impl<C: Choice> Choices<C> {
    fn read<'a>(
        &mut self,
        walk: &mut Walk<'a>,
        cursor: &mut Cursor<'a>,
        path: &Path<'_>,
        i: usize,
    ) -> Result<()> {
        let path = &Path::Index(path, i);
        let at = cursor.pos;
        walk.refused = i >= walk.answerable;
        let choice = walk.part::<C>(cursor, path, C::NAMES)?;
        let refused = std::mem::take(&mut walk.refused);
        let mut choice = choice.object(path, at).unwrap_or_else(|error| {
            self.wrong.get_or_insert(error);
            C::default()
        });
        self.wrong_logprobs = self.wrong_logprobs.take().or(choice.wrong_logprobs());
        if i < MAX_CHOICES {
            let index = choice.index();
            self.heads.push(Head { at, index });
            self.list.extend((!refused).then_some(choice));
        }
        Ok(())
    }

    /// The choices with their indices, if the list has the right shape. With `several` it may have more than one, else
    /// `one_only` is the message; with `none` it may be empty.
    pub(crate) fn indexed(
        part: Part<Self>,
        body: &[u8],
        several: bool,
        one_only: &'static str,
        none: bool,
    ) -> Result<Vec<(u32, C)>> {
        let choices = part
            .get()?
            .filter(|choices| none || !choices.heads.is_empty())
            .ok_or_else(|| missing("choices"))?;
        if let Some(error) = choices.too_many.or(choices.wrong) {
            return Err(error);
        }
        let mut indices = Vec::with_capacity(choices.heads.len());
        let mut earlier = BTreeSet::new();
        for (position, head) in choices.heads.iter().enumerate() {
            indices.push(head.index(position, body, &mut earlier)?);
        }
        if let Some(error) = choices.wrong_logprobs {
            return Err(error);
        }
        if let ([_, second, ..], false) = (&choices.heads[..], several) {
            return Err(several_choices("choices[1]", second.at, one_only));
        }
        Ok(indices.into_iter().zip(choices.list).collect())
    }
}

impl Head {
    /// The index of the choice, which no earlier one has.
    fn index(&self, position: usize, body: &[u8], earlier: &mut BTreeSet<u32>) -> Result<u32> {
        let path = || format!("choices[{position}].index");
        let (index, at) = match self.index {
            None => (position as u32, self.at),
            Some(span) => {
                let index = Cursor::at(body, span.start).field::<ids::Id>()?;
                let index = index.map_err(|error| error.under(&path()))?;
                (index as u32, span.start)
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
}

/// Steps over a choice beyond the limit if it is too short to hold a key twice: it has no other error to report.
pub(crate) fn nothing_repeated(cursor: &mut Cursor<'_>) -> Result<bool> {
    const SHORTEST: usize = br#"{"index":0,"index":0}"#.len();
    if cursor.eat(b"{}") {
        return Ok(true);
    }
    let mut ahead = cursor.clone();
    ahead.skip_value()?;
    let short = ahead.pos - cursor.pos < SHORTEST;
    if short {
        *cursor = ahead;
    }
    Ok(short)
}

#[cold]
pub(crate) fn too_many(path: &Path<'_>, at: usize) -> Error {
    Error::new(
        Class::Malformed,
        "too_many",
        path.to_string(),
        at,
        format!("more than {MAX_CHOICES} choices"),
    )
}

/// The error of an object that an answer cannot do without.
#[cold]
pub(crate) fn missing(path: &'static str) -> Error {
    let message = "the response does not have it";
    Error::new(Class::Missing, "missing", path, None, message)
}

/// The message of several choices where [`decode`](crate::wire::decode) returns one.
pub(crate) const ASK_FOR_ALL: &str = "several choices; decode_choices returns them all";

#[cold]
pub(crate) fn several_choices(path: &'static str, at: usize, message: &'static str) -> Error {
    Error::new(Class::Malformed, "several_choices", path, at, message)
}
