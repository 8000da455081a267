//! Columns of a choice. The columns of each chunk are appended to them.

use crate::error::{Class, Error, Result};
use crate::memory::{Buffer, Plain};
use crate::wire::TopLogprobs;
use crate::wire::read::ids::IdLists;

/// The error of a list that does not begin with the elements of earlier chunks. `first` is the element that differs.
#[cold]
pub(super) fn contradiction(path: &str, at: Option<usize>, first: Option<usize>) -> Error {
    let (path, message) = match first {
        Some(first) => (
            format!("{path}[{first}]"),
            "it is not what an earlier chunk said",
        ),
        None => (
            path.to_owned(),
            "the list is shorter than what earlier chunks said",
        ),
    };
    Error::new(Class::Alignment, "contradiction", path, at, message)
}

/// Fails if `list` does not begin with `said`.
pub(super) fn begins<T: Plain>(
    said: &[T],
    list: &[T],
    same: impl Fn(T, T) -> bool,
    path: &str,
    at: usize,
) -> Result<()> {
    let pairs = said.iter().zip(list);
    let differs = pairs
        .into_iter()
        .position(|(&one, &other)| !same(one, other));
    if differs.is_none() && said.len() <= list.len() {
        return Ok(());
    }
    Err(contradiction(path, Some(at), differs))
}

pub(super) fn same_value(one: f64, other: f64) -> bool {
    one == other || one.is_nan() && other.is_nan()
}

/// Alternatives of every position so far, end to end.
#[derive(Debug, Default)]
pub(super) struct Alternatives {
    /// Positions so far.
    pub(super) rows: usize,
    pub(super) ids: Buffer<i32>,
    pub(super) logprobs: Buffer<f64>,
    /// Where each position begins, and the end; empty while there is no alternative at all.
    pub(super) offsets: Buffer<i64>,
    /// An entry names no token.
    pub(super) text_only: bool,
}

impl Alternatives {
    /// Appends the positions from `from` on of `rows`, whose `offsets` are empty where they have no alternative.
    pub(super) fn append(
        &mut self,
        ids: &[i32],
        logprobs: &[f64],
        offsets: &[i64],
        from: usize,
        rows: usize,
    ) -> Result<()> {
        let first = offsets.get(from).map_or(0, |&at| at as usize);
        if self.offsets.is_empty() && ids.len() > first {
            for _ in 0..=self.rows {
                self.offsets.push(0)?;
            }
        }
        self.rows += rows - from;
        if self.offsets.is_empty() {
            return Ok(());
        }
        let before = self.ids.len() as i64;
        if offsets.is_empty() {
            for _ in from..rows {
                self.offsets.push(before)?;
            }
            return Ok(());
        }
        self.ids.extend_from_slice(&ids[first..])?;
        self.logprobs.extend_from_slice(&logprobs[first..])?;
        for &at in &offsets[from + 1..] {
            self.offsets.push(before + at - first as i64)?;
        }
        Ok(())
    }

    /// Entries of a position.
    fn row(&self, row: usize) -> (&[i32], &[f64]) {
        part(&self.ids, &self.logprobs, &self.offsets, row)
    }

    /// Fails if the positions of `top` do not begin with those so far.
    pub(super) fn check_begins(
        &self,
        top: Option<&TopLogprobs<Buffer<f64>>>,
        rows: usize,
        path: &str,
        at: usize,
    ) -> Result<()> {
        let differs = (0..self.rows.min(rows)).find(|&row| {
            let (ids, logprobs) = self.row(row);
            let (new_ids, new_logprobs) = top.map_or((&[][..], &[][..]), |top| {
                part(&top.token_ids, &top.logprobs, &top.offsets, row)
            });
            let mut values = logprobs.iter().zip(new_logprobs);
            ids != new_ids || values.any(|(&one, &other)| !same_value(one, other))
        });
        if differs.is_none() && self.rows <= rows {
            return Ok(());
        }
        Err(contradiction(path, Some(at), differs))
    }
}

/// The entries of a position; `offsets` may be empty.
fn part<'a>(
    ids: &'a Buffer<i32>,
    logprobs: &'a Buffer<f64>,
    offsets: &Buffer<i64>,
    row: usize,
) -> (&'a [i32], &'a [f64]) {
    match offsets.as_slice().get(row..row + 2) {
        Some(&[begin, end]) => {
            let span = begin as usize..end as usize;
            (&ids.as_slice()[span.clone()], &logprobs.as_slice()[span])
        }
        _ => (&[], &[]),
    }
}

/// Appends the rows of a mask from `from` on.
pub(super) fn append_rows(joined: &mut IdLists, rows: &IdLists, from: usize) -> Result<()> {
    let offsets = rows.offsets.as_slice();
    let first = offsets[from];
    let before = joined.ids.len() as i64;
    let ids = &rows.ids.as_slice()[first as usize..];
    joined.ids.extend_from_slice(ids)?;
    for &at in &offsets[from + 1..] {
        joined.offsets.push(before + at - first)?;
    }
    Ok(())
}

/// Fails if the rows of a mask do not begin with those so far.
pub(super) fn check_rows_begin(
    joined: &IdLists,
    rows: &IdLists,
    path: &str,
    at: usize,
) -> Result<()> {
    fn row(lists: &IdLists, row: usize) -> &[i32] {
        let offsets = lists.offsets.as_slice();
        &lists.ids.as_slice()[offsets[row] as usize..offsets[row + 1] as usize]
    }
    let (said, found) = (joined.offsets.len() - 1, rows.offsets.len() - 1);
    let differs = (0..said.min(found)).find(|&i| row(joined, i) != row(rows, i));
    if differs.is_none() && said <= found {
        return Ok(());
    }
    Err(contradiction(path, Some(at), differs))
}
