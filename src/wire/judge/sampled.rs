//! Compares lists of log-probabilities with the sampled ids: counts, names, values.

use crate::error::{Class, Error, Result};
use crate::json::Cursor;
use crate::memory::Buffer;
use crate::options::MissingLogprob;
use crate::wire::decoded::TopLogprobs;
use crate::wire::read::entries::{CONFLICT, Content, Top, UNNAMED};
use crate::wire::read::members::named_by;
use crate::wire::read::triples::{TopRows, Triples};
use crate::wire::sentinel::{
    any_doubt, first_too_high, is_sentinel, is_too_high, no_logprob, positive_logprob,
};

use super::locate::{Step, locate};

/// The position, and the number there, of the entry `index` of all.
fn entry(offsets: &[i64], index: usize) -> (usize, usize) {
    let position = offsets.partition_point(|&offset| offset as usize <= index) - 1;
    (position, index - offsets[position] as usize)
}

/// The sampled ids of one completion.
pub(crate) struct Sampled<'a> {
    pub(crate) ids: &'a [i32],
    pub(crate) body: &'a [u8],
    pub(crate) missing: MissingLogprob,
}

impl Sampled<'_> {
    /// Fails if a list has another number of elements than there are ids.
    pub(crate) fn check_count(
        &self,
        found: usize,
        path: &str,
        at: usize,
        what: &str,
    ) -> Result<()> {
        if found == self.ids.len() {
            return Ok(());
        }
        Err(self.miscount(found, path, at, what))
    }

    #[cold]
    fn miscount(&self, found: usize, path: &str, at: usize, what: &str) -> Error {
        Error::new(
            Class::Alignment,
            "count",
            path,
            at,
            format!("{found} {what} for {} token ids", self.ids.len()),
        )
    }

    #[cold]
    pub(crate) fn identity(
        &self,
        position: usize,
        found: &str,
        path: String,
        at: Option<usize>,
    ) -> Error {
        Error::new(
            Class::Alignment,
            "identity",
            path,
            at,
            format!(
                "the entry names {found}, the token id at its position is {}",
                self.ids[position]
            ),
        )
    }

    /// Turns a value that means "no logprob" into NaN, or refuses it; refuses a value above 0.
    pub(super) fn settle(
        &self,
        value: &mut f64,
        path: impl FnOnce() -> (String, Option<usize>),
    ) -> Result<()> {
        if value.is_nan() || is_sentinel(*value) {
            if self.missing == MissingLogprob::Raise {
                let (path, at) = path();
                return Err(no_logprob(*value, path, at));
            }
            *value = f64::NAN;
        } else if is_too_high(*value) {
            let (path, at) = path();
            return Err(positive_logprob(*value, path, at));
        }
        Ok(())
    }

    pub(crate) fn check_flat(&self, values: &mut Buffer<f64>, path: &str, at: usize) -> Result<()> {
        if !any_doubt(values.as_slice()) {
            return Ok(());
        }
        for (i, value) in values.as_mut_slice().iter_mut().enumerate() {
            self.settle(value, || {
                // Packed values and tensors have no text of their own.
                let place = locate(self.body, at, &[Step::Index(i)]);
                (format!("{path}[{i}]"), place.or(Some(at)))
            })?;
        }
        Ok(())
    }

    /// Names and values of triples.
    pub(crate) fn check_triples(&self, triples: &mut Triples, path: &str, at: usize) -> Result<()> {
        let values = triples.logprobs.as_mut_slice();
        for (i, (value, &name)) in values.iter_mut().zip(triples.ids.as_slice()).enumerate() {
            let place = |j| {
                let at = locate(self.body, at, &[Step::Index(i), Step::Index(j)]);
                (format!("{path}[{i}][{j}]"), at)
            };
            if name != self.ids[i] {
                let (path, at) = place(1);
                return Err(self.identity(i, &name.to_string(), path, at));
            }
            self.settle(value, || place(0))?;
        }
        Ok(())
    }

    /// Names and values of the list that the values come from.
    pub(crate) fn check_content(
        &self,
        entries: &mut Content,
        path: &str,
        at: usize,
        must_name: bool,
    ) -> Result<()> {
        // Most lists name every token and hold no doubtful value: two passes without branches see that.
        if entries.names.as_slice() == self.ids && !any_doubt(entries.logprobs.as_slice()) {
            return Ok(());
        }
        let mut values = std::mem::take(&mut entries.logprobs);
        let settle = values.as_mut_slice();
        self.check_names(entries, path, at, must_name, |i| {
            self.settle(&mut settle[i], || {
                let at = locate(self.body, at, &[Step::Index(i), Step::Key("logprob")]);
                (format!("{path}[{i}].logprob"), at)
            })
        })?;
        entries.logprobs = values;
        Ok(())
    }

    /// Fails if an entry names another token, or none where it must; calls `then` for each position in turn.
    #[inline(always)]
    pub(crate) fn check_names(
        &self,
        entries: &Content,
        path: &str,
        at: usize,
        must_name: bool,
        mut then: impl FnMut(usize) -> Result<()>,
    ) -> Result<()> {
        for (i, &name) in entries.names.as_slice().iter().enumerate() {
            if name != self.ids[i] && (name != UNNAMED || must_name) {
                return Err(self.misnamed(i, name, path, at));
            }
            then(i)?;
        }
        Ok(())
    }

    /// The error of an entry that names another token, or none where it must.
    #[cold]
    fn misnamed(&self, i: usize, name: i32, path: &str, at: usize) -> Error {
        let find = |key| locate(self.body, at, &[Step::Index(i), Step::Key(key)]);
        let token = find("token").and_then(|at| {
            let text = Cursor::at(self.body, at).string().ok()?;
            let name = named_by(&text);
            (name != UNNAMED).then_some((name, at))
        });
        match token {
            Some((name, at)) if name != self.ids[i] => {
                self.identity(i, &name.to_string(), format!("{path}[{i}].token"), Some(at))
            }
            _ => match find("token_id").filter(|&at| !self.body[at..].starts_with(b"null")) {
                Some(at) => {
                    let name = Cursor::at(self.body, at)
                        .integer(u64::MAX)
                        .unwrap_or_default();
                    self.identity(
                        i,
                        &name.to_string(),
                        format!("{path}[{i}].token_id"),
                        Some(at),
                    )
                }
                // The entries of a stream, whose text is gone.
                None if name >= 0 => {
                    self.identity(i, &name.to_string(), format!("{path}[{i}]"), None)
                }
                None => {
                    let at = locate(self.body, at, &[Step::Index(i)]);
                    self.unnamed(i, find("token").is_some(), format!("{path}[{i}]"), at)
                }
            },
        }
    }

    /// The error of an entry that names no token, where it must. `text`: it has one.
    #[cold]
    fn unnamed(&self, i: usize, text: bool, path: String, at: Option<usize>) -> Error {
        if !text {
            return self.identity(i, "no token", path, at);
        }
        Error::new(
            Class::Alignment,
            "identity",
            path,
            at,
            format!(
                "the entry holds a text and does not name token {}, as in vLLM's output_mode \"text\"; ask for output_mode \
                 \"tokens\", the default",
                self.ids[i]
            ),
        )
    }

    /// The alternatives of content entries, if every one of them names its token.
    pub(crate) fn top_of_entries(
        &self,
        entries: Content,
        path: &str,
        at: usize,
    ) -> Result<Option<TopLogprobs<Buffer<f64>>>> {
        let Top {
            ids: token_ids,
            logprobs,
            offsets,
            text_only,
        } = entries.top;
        let mut names = token_ids.as_slice().iter();
        if text_only && let Some(i) = names.position(|&name| name == CONFLICT) {
            return Err(self.conflict(i, offsets.as_slice(), path, at));
        }
        if text_only || token_ids.is_empty() || entries.names.len() != self.ids.len() {
            return Ok(None);
        }
        if let Some(i) = first_too_high(logprobs.as_slice()) {
            let (path, at) = self.alternative(i, offsets.as_slice(), path, at, "logprob");
            return Err(positive_logprob(logprobs.as_slice()[i], path, at));
        }
        Ok(Some(TopLogprobs {
            token_ids,
            logprobs,
            offsets,
        }))
    }

    /// The path and the offset of a member of the alternative `index` of all.
    #[cold]
    fn alternative(
        &self,
        index: usize,
        offsets: &[i64],
        path: &str,
        at: usize,
        key: &str,
    ) -> (String, Option<usize>) {
        let (position, j) = entry(offsets, index);
        let steps = [
            Step::Index(position),
            Step::Key("top_logprobs"),
            Step::Index(j),
            Step::Key(key),
        ];
        let path = format!("{path}[{position}].top_logprobs[{j}].{key}");
        (path, locate(self.body, at, &steps))
    }

    /// The error of an alternative whose `token` and `token_id` name different tokens.
    #[cold]
    fn conflict(&self, index: usize, offsets: &[i64], path: &str, at: usize) -> Error {
        let (path, at) = self.alternative(index, offsets, path, at, "token_id");
        Error::new(
            Class::Alignment,
            "identity",
            path,
            at,
            "token and token_id name different tokens",
        )
    }

    /// SGLang's alternatives: a row for each id.
    pub(crate) fn top_of_rows(
        &self,
        rows: TopRows,
        path: &str,
        at: usize,
    ) -> Result<Option<TopLogprobs<Buffer<f64>>>> {
        self.check_count(rows.offsets.len() - 1, path, at, "rows of alternatives")?;
        if let Some(i) = first_too_high(rows.logprobs.as_slice()) {
            let (row, j) = entry(rows.offsets.as_slice(), i);
            let steps = [Step::Index(row), Step::Index(j), Step::Index(0)];
            return Err(positive_logprob(
                rows.logprobs.as_slice()[i],
                format!("{path}[{row}][{j}][0]"),
                locate(self.body, at, &steps),
            ));
        }
        Ok((!rows.ids.is_empty()).then_some(TopLogprobs {
            token_ids: rows.ids,
            logprobs: rows.logprobs,
            offsets: rows.offsets,
        }))
    }
}
