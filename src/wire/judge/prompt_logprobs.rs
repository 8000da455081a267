//! Log-probabilities of the prompt's own tokens, looked up by their ids.

use crate::error::{Class, Error, Result};
use crate::memory::Buffer;
use crate::options::{MissingLogprob, Options};
use crate::wire::decoded::{PromptLogprobs, TopLogprobs};
use crate::wire::read::maps::PromptEntries;
use crate::wire::read::triples::{TopRows, Triples};
use crate::wire::sentinel::{
    first_too_high, is_sentinel, is_too_high, no_logprob, or_nan, positive_logprob,
};

use super::locate::{Step, locate};

/// Looks entries up by the prompt's ids.
pub(crate) struct Lookup<'a> {
    ids: &'a [i32],
    body: &'a [u8],
    at: usize,
    path: &'a str,
    missing: MissingLogprob,
    /// The first position whose log-probability is wanted.
    start: usize,
}

impl<'a> Lookup<'a> {
    pub(crate) fn new(
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

    /// The position of the first of `found` triples. SGLang lists the positions that were asked for, and the one before them.
    pub(crate) fn listed_from(&self, found: usize) -> Result<usize> {
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

    /// The alternatives, of which there is a row for each of the `expected` triples, or none.
    pub(crate) fn beside(
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

    /// The value of position `i`, or NaN for one that means "no logprob"; refuses that, unless it is allowed, and values above 0.
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

    pub(crate) fn maps(&self, mut entries: PromptEntries) -> Result<PromptLogprobs<Buffer<f64>>> {
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
    pub(crate) fn triples(
        &self,
        triples: Triples,
        from: usize,
        beside: Option<Beside>,
    ) -> Result<PromptLogprobs<Buffer<f64>>> {
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
    fn alone(&self, mut triples: Triples, from: usize) -> Result<TopLogprobs<Buffer<f64>>> {
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
    fn joined(
        &self,
        triples: &Triples,
        from: usize,
        rows: &TopRows,
    ) -> Result<TopLogprobs<Buffer<f64>>> {
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

/// Alternatives beside the triples, and where they stand.
pub(crate) struct Beside {
    rows: TopRows,
    path: String,
    at: usize,
}

impl Beside {
    /// Fails if an entry of one row, other than that of the token itself, is above 0.
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
    fn append_others(
        &self,
        row: usize,
        token: i32,
        top: &mut TopLogprobs<Buffer<f64>>,
    ) -> Result<()> {
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
fn drop_before(start: usize, top: &mut TopLogprobs<Buffer<f64>>) {
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
    pairs.sort_by(|&a, &b| before(b, a).cmp(&before(a, b)));
    for (i, (logprob, id)) in pairs.into_iter().enumerate() {
        logprobs[i] = logprob;
        ids[i] = id;
    }
}
