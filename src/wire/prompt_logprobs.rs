//! Step (d): the echoed prompt, and log-probabilities looked up by the prompt's own ids.

use crate::error::{Class, Error, Result};
use crate::memory::Buffer;

use super::answer::PromptChannels;
use super::decoded::{Prompt, PromptLogprobs, TopLogprobs};
use super::evidence::{first_too_high, is_sentinel, is_too_high, no_logprob, positive_logprob};
use super::list;
use super::locate::{Step, locate};
use super::prompt::{self, PromptEntries};
use super::resolve::Paths;
use super::top::TopRows;
use crate::options::{MissingLogprob, Options};

/// What `sources` says of prompt logprobs that cannot be looked up.
const LEFT_OUT: &str = "left out: needs prompt_token_ids";

/// Judges the prompt's channels.
pub(super) fn resolve(
    channels: PromptChannels,
    body: &[u8],
    options: &Options<'_>,
    paths: &Paths<'_>,
) -> Result<Prompt> {
    let mut prompt = Prompt::default();
    let echo = channels
        .echo
        .into_iter()
        .find(|channel| channel.field.is_present());
    if let Some(channel) = echo {
        let path = paths.text(channel.place);
        if let Some((at, echo)) = channel.field.take::<list::Ids>(body) {
            let echo = echo.map_err(|error| error.under(&path))?;
            if let Some(passed) = options.prompt_token_ids {
                same(passed, echo.as_slice(), &path, at)?;
            }
            as_long(options.prompt_len, echo.len(), &path, at)?;
            prompt.token_ids = Some(echo);
            prompt.sources.push(("prompt_token_ids", path));
        }
    }
    let ids = options
        .prompt_token_ids
        .or(prompt.token_ids.as_ref().map(Buffer::as_slice));
    let maps = channels
        .entries
        .into_iter()
        .find(|channel| channel.field.is_present());
    if let Some(channel) = maps {
        let Some(ids) = ids else {
            prompt.sources.push(("prompt_logprobs", LEFT_OUT.into()));
            return Ok(prompt);
        };
        let path = paths.text(channel.place);
        if let Some((at, entries)) = channel.field.take::<prompt::PromptEntries>(body) {
            let entries = entries.map_err(|error| error.under(&path))?;
            let lookup = Lookup::new(ids, body, at, &path, options);
            prompt.logprobs = Some(lookup.maps(entries)?);
            prompt.sources.push(("prompt_logprobs", path));
        }
        return Ok(prompt);
    }
    let none = || match options.score_from {
        Some(_) => Err(Error::new(
            Class::Missing,
            "missing",
            paths.text(channels.none),
            None,
            "the response has no prompt logprobs",
        )),
        None => Ok(()),
    };
    let path = paths.text(channels.triples.place);
    if let Some((at, triples)) = channels.triples.field.take::<list::Triples>(body) {
        // SGLang sends an empty list where no prompt logprobs were asked for.
        if triples.as_ref().is_ok_and(|triples| triples.ids.is_empty()) {
            none()?;
            return Ok(prompt);
        }
        let Some(ids) = ids else {
            prompt.sources.push(("prompt_logprobs", LEFT_OUT.into()));
            return Ok(prompt);
        };
        let triples = triples.map_err(|error| error.under(&path))?;
        let lookup = Lookup::new(ids, body, at, &path, options);
        let first = lookup.listed_from(triples.ids.len())?;
        let rows = channels.top_rows.field.take::<TopRows>(body);
        let rows = rows.map(|(at, rows)| {
            let path = paths.text(channels.top_rows.place);
            let rows = rows.map_err(|error| error.under(&path))?;
            lookup.beside(rows, triples.ids.len(), path, at)
        });
        let rows = rows.transpose()?.flatten();
        prompt.logprobs = Some(lookup.triples(triples, first, rows)?);
        prompt.sources.push(("prompt_logprobs", path));
    } else {
        none()?;
    }
    Ok(prompt)
}

/// The prompt that was sent is the prompt that was run.
fn same(passed: &[i32], echo: &[i32], path: &str, at: usize) -> Result<()> {
    if passed == echo {
        return Ok(());
    }
    let error = |path: String, message: String| {
        Err(Error::new(
            Class::Alignment,
            "prompt_mismatch",
            path,
            at,
            message,
        ))
    };
    if passed.len() != echo.len() {
        return error(
            path.to_owned(),
            format!(
                "the server ran a prompt of {} tokens, {} were passed",
                echo.len(),
                passed.len()
            ),
        );
    }
    let i = passed
        .iter()
        .zip(echo)
        .position(|(a, b)| a != b)
        .unwrap_or_default();
    error(
        format!("{path}[{i}]"),
        format!("the server ran token {}, {} was passed", echo[i], passed[i]),
    )
}

/// The prompt that was run is as long as the caller says.
fn as_long(prompt_len: Option<u64>, echo: usize, path: &str, at: usize) -> Result<()> {
    match prompt_len {
        Some(len) if len != echo as u64 => Err(Error::new(
            Class::Alignment,
            "prompt_mismatch",
            path,
            at,
            format!("the server ran a prompt of {echo} tokens, prompt_len is {len}"),
        )),
        _ => Ok(()),
    }
}

/// Looks entries up by the prompt's ids.
struct Lookup<'a> {
    ids: &'a [i32],
    body: &'a [u8],
    at: usize,
    path: &'a str,
    missing: MissingLogprob,
    /// The first position whose log-probability is wanted.
    start: usize,
}

impl<'a> Lookup<'a> {
    fn new(
        ids: &'a [i32],
        body: &'a [u8],
        at: usize,
        path: &'a str,
        options: &Options<'_>,
    ) -> Self {
        Self {
            ids,
            body,
            at,
            path,
            missing: options.missing_logprob,
            start: options.first_scored(ids.len()),
        }
    }

    /// The position of the first of `found` triples. SGLang lists the positions that it was asked for, and one before them.
    fn listed_from(&self, found: usize) -> Result<usize> {
        let first = self.start.saturating_sub(1);
        if found == self.ids.len() - first {
            return Ok(first);
        }
        self.count(found)?;
        Ok(0)
    }

    fn count(&self, found: usize) -> Result<()> {
        if found == self.ids.len() {
            return Ok(());
        }
        Err(Error::new(
            Class::Alignment,
            "count",
            self.path,
            self.at,
            format!(
                "prompt logprobs of {found} positions for {} prompt token ids",
                self.ids.len()
            ),
        ))
    }

    /// Alternatives: a row for each of the `expected` triples, or none at all.
    fn beside(
        &self,
        rows: TopRows,
        expected: usize,
        path: String,
        at: usize,
    ) -> Result<Option<Beside>> {
        let found = rows.offsets.len() - 1;
        if found == 0 || found == expected {
            return Ok((found > 0).then_some(Beside { rows, path, at }));
        }
        Err(Error::new(
            Class::Alignment,
            "count",
            path,
            at,
            format!("{found} rows of alternatives for {expected} prompt logprobs"),
        ))
    }

    /// The value of position `i`, NaN where it is no evidence and may be, unless it is none that a log-probability can have.
    fn settle(
        &self,
        i: usize,
        value: f64,
        place: impl FnOnce() -> (String, Option<usize>),
    ) -> Result<f64> {
        if is_too_high(value) {
            let (path, at) = place();
            return Err(positive_logprob(value, path, at));
        }
        if !value.is_nan() && !is_sentinel(value) {
            return Ok(value);
        }
        if i > 0 && self.missing == MissingLogprob::Raise {
            let (path, at) = place();
            return Err(no_logprob(value, path, at));
        }
        Ok(f64::NAN)
    }

    #[cold]
    fn without_token(&self, i: usize, place: (String, Option<usize>)) -> Error {
        Error::new(
            Class::Alignment,
            "identity",
            place.0,
            place.1,
            format!(
                "the entry does not name {}, the prompt's token id at its position",
                self.ids[i]
            ),
        )
    }

    /// The address of an entry's log-probability in the map form.
    #[cold]
    fn value_of(&self, i: usize, id: i32) -> (String, Option<usize>) {
        let key = id.to_string();
        let steps = [Step::Index(i), Step::Key(&key), Step::Key("logprob")];
        let at = locate(self.body, self.at, &steps);
        (format!("{}[{i}].{id}.logprob", self.path), at)
    }

    fn maps(&self, mut entries: PromptEntries) -> Result<PromptLogprobs> {
        self.count(entries.offsets.len() - 1)?;
        let mut logprobs = Buffer::with_capacity(self.ids.len())?;
        let mut nulls = entries.nulls.as_slice().iter().copied().peekable();
        let offsets = entries.offsets.as_slice();
        for (i, &id) in self.ids.iter().enumerate() {
            let (first, end) = (offsets[i] as usize, offsets[i + 1] as usize);
            let place = || {
                let at = locate(self.body, self.at, &[Step::Index(i)]);
                (format!("{}[{i}]", self.path), at)
            };
            let wanted = i >= self.start;
            let value = if nulls.next_if_eq(&(i as i64)).is_some() {
                if wanted {
                    self.settle(i, f64::NAN, place)?
                } else {
                    f64::NAN
                }
            } else {
                let names = &entries.ids.as_slice()[first..end];
                let Some(found) = names.iter().position(|&name| name == id) else {
                    return Err(self.without_token(i, place()));
                };
                if !wanted {
                    logprobs.push(f64::NAN)?;
                    continue;
                }
                let value = entries.logprobs.as_slice()[first + found];
                let value = self.settle(i, value, || self.value_of(i, id))?;
                let values = &mut entries.logprobs.as_mut_slice()[first..end];
                if let Some(other) = first_too_high(values) {
                    let (path, at) = self.value_of(i, names[other]);
                    return Err(positive_logprob(values[other], path, at));
                }
                for value in values.iter_mut().filter(|value| is_sentinel(**value)) {
                    *value = f64::NAN;
                }
                order(&mut entries.ids.as_mut_slice()[first..end], values);
                value
            };
            logprobs.push(value)?;
        }
        let mut top = TopLogprobs {
            token_ids: entries.ids,
            logprobs: entries.logprobs,
            offsets: entries.offsets,
        };
        drop_before(self.start, &mut top);
        Ok(PromptLogprobs { logprobs, top })
    }

    /// `from` is the position of the first triple.
    fn triples(
        &self,
        triples: list::Triples,
        from: usize,
        beside: Option<Beside>,
    ) -> Result<PromptLogprobs> {
        let mut logprobs = Buffer::with_capacity(self.ids.len())?;
        for _ in 0..from {
            logprobs.push(f64::NAN)?;
        }
        let listed = triples
            .logprobs
            .as_slice()
            .iter()
            .zip(triples.ids.as_slice());
        for (entry, (&written, &name)) in listed.enumerate() {
            let i = from + entry;
            let place = |j| {
                let at = locate(self.body, self.at, &[Step::Index(entry), Step::Index(j)]);
                (format!("{}[{entry}][{j}]", self.path), at)
            };
            if name != self.ids[i] {
                return Err(self.without_token(i, place(1)));
            }
            logprobs.push(if i < self.start {
                f64::NAN
            } else {
                self.settle(i, written, || place(0))?
            })?;
            if let Some(beside) = beside.as_ref().filter(|_| i >= self.start) {
                beside.possible(entry, name, self.body)?;
            }
        }
        let top = match beside {
            Some(beside) => self.joined(&triples, from, &beside.rows)?,
            None => self.alone(triples, from)?,
        };
        Ok(PromptLogprobs { logprobs, top })
    }

    /// The offsets of the positions before the first triple.
    fn offsets(&self, from: usize) -> Result<Buffer<i64>> {
        let mut offsets = Buffer::with_capacity(self.ids.len() + 1)?;
        for _ in 0..=from {
            offsets.push(0)?;
        }
        Ok(offsets)
    }

    /// The tokens' own entries, in the memory that they were read into.
    fn alone(&self, mut triples: list::Triples, from: usize) -> Result<TopLogprobs> {
        let mut offsets = self.offsets(from)?;
        let (ids, values) = (triples.ids.as_mut_slice(), triples.logprobs.as_mut_slice());
        let mut kept = 0;
        for entry in 0..ids.len() {
            if from + entry >= self.start && !values[entry].is_nan() {
                ids[kept] = ids[entry];
                values[kept] = or_nan(values[entry]);
                kept += 1;
            }
            offsets.push(kept as i64)?;
        }
        triples.ids.truncate(kept);
        triples.logprobs.truncate(kept);
        Ok(TopLogprobs {
            token_ids: triples.ids,
            logprobs: triples.logprobs,
            offsets,
        })
    }

    /// The tokens' own entries and those beside them.
    fn joined(&self, triples: &list::Triples, from: usize, rows: &TopRows) -> Result<TopLogprobs> {
        let mut top = TopLogprobs {
            token_ids: Buffer::new(),
            logprobs: Buffer::new(),
            offsets: self.offsets(from)?,
        };
        let listed = triples
            .logprobs
            .as_slice()
            .iter()
            .zip(triples.ids.as_slice());
        for (entry, (&written, &name)) in listed.enumerate() {
            if from + entry >= self.start {
                let begin = top.token_ids.len();
                if !written.is_nan() {
                    top.token_ids.push(name)?;
                    top.logprobs.push(or_nan(written))?;
                }
                rows.append_others(entry, name, &mut top)?;
                order(
                    &mut top.token_ids.as_mut_slice()[begin..],
                    &mut top.logprobs.as_mut_slice()[begin..],
                );
            }
            top.offsets.push(top.token_ids.len() as i64)?;
        }
        Ok(top)
    }
}

/// NaN for a sentinel.
fn or_nan(written: f64) -> f64 {
    if is_sentinel(written) {
        f64::NAN
    } else {
        written
    }
}

/// Alternatives beside the triples, and where they stand.
struct Beside {
    rows: TopRows,
    path: String,
    at: usize,
}

impl Beside {
    /// The entries of one row that are handed out, those of other tokens, can be log-probabilities.
    fn possible(&self, row: usize, token: i32, body: &[u8]) -> Result<()> {
        let (ids, values) = self.rows.row(row);
        let wrong = |j: &usize| ids[*j] != token && is_too_high(values[*j]);
        let Some(j) = (0..ids.len()).find(wrong) else {
            return Ok(());
        };
        let steps = [Step::Index(row), Step::Index(j), Step::Index(0)];
        Err(positive_logprob(
            values[j],
            format!("{}[{row}][{j}][0]", self.path),
            locate(body, self.at, &steps),
        ))
    }
}

impl TopRows {
    /// The ids and values of one row.
    fn row(&self, row: usize) -> (&[i32], &[f64]) {
        let offsets = &self.offsets.as_slice()[row..=row + 1];
        let span = offsets[0] as usize..offsets[1] as usize;
        (
            &self.ids.as_slice()[span.clone()],
            &self.logprobs.as_slice()[span],
        )
    }

    /// Appends the entries of one row, but for the one of the token itself.
    fn append_others(&self, row: usize, token: i32, top: &mut TopLogprobs) -> Result<()> {
        let (ids, values) = self.row(row);
        for (&id, &value) in ids.iter().zip(values) {
            if id != token {
                top.token_ids.push(id)?;
                top.logprobs.push(value)?;
            }
        }
        Ok(())
    }
}

/// Drops the entries of the positions before `start`.
fn drop_before(start: usize, top: &mut TopLogprobs) {
    let cut = top.offsets.as_slice()[start];
    if cut == 0 {
        return;
    }
    top.token_ids.drop_front(cut as usize);
    top.logprobs.drop_front(cut as usize);
    for offset in top.offsets.as_mut_slice() {
        *offset = (*offset - cut).max(0);
    }
}

/// Sorts the entries of one position: highest first, ties by id, NaN last.
#[inline]
fn order(ids: &mut [i32], logprobs: &mut [f64]) {
    let before = |a: (f64, i32), b: (f64, i32)| -> bool {
        match (a.0.is_nan(), b.0.is_nan()) {
            (false, true) => true,
            (true, false) => false,
            (true, true) => a.1 < b.1,
            (false, false) => a.0 > b.0 || (a.0 == b.0 && a.1 < b.1),
        }
    };
    let at = |i: usize| (logprobs[i], ids[i]);
    if (1..ids.len()).all(|i| !before(at(i), at(i - 1))) {
        return;
    }
    let mut pairs: Vec<(f64, i32)> = logprobs.iter().copied().zip(ids.iter().copied()).collect();
    pairs.sort_by(|&a, &b| {
        if before(a, b) {
            std::cmp::Ordering::Less
        } else if before(b, a) {
            std::cmp::Ordering::Greater
        } else {
            std::cmp::Ordering::Equal
        }
    });
    for (i, (logprob, id)) in pairs.into_iter().enumerate() {
        logprobs[i] = logprob;
        ids[i] = id;
    }
}
