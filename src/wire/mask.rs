//! Step (f): the ids that survived at every position. The sampled token is among them.

use crate::error::{Class, Error, Result};

use super::decoded::SamplingMask;
use super::list::IdLists;
use super::locate::{Step, locate};

/// Judges a mask, whose value begins at `at`, against the sampled ids.
pub(super) fn resolve(
    lists: IdLists,
    ids: &[i32],
    body: &[u8],
    path: &str,
    at: usize,
) -> Result<SamplingMask> {
    let rows = lists.offsets.len() - 1;
    if rows != ids.len() {
        let message = format!("a sampling mask of {rows} rows for {} token ids", ids.len());
        return Err(Error::new(Class::Alignment, "count", path, at, message));
    }
    let survivors = lists.ids.as_slice();
    for (i, (&id, bounds)) in ids
        .iter()
        .zip(lists.offsets.as_slice().windows(2))
        .enumerate()
    {
        let row = &survivors[bounds[0] as usize..bounds[1] as usize];
        if !row.contains(&id) {
            let at = locate(body, at, &[Step::Index(i)]);
            return Err(impossible(row.len(), id, format!("{path}[{i}]"), at));
        }
    }
    Ok(SamplingMask {
        token_ids: lists.ids,
        offsets: lists.offsets,
    })
}

#[cold]
fn impossible(survivors: usize, id: i32, path: String, at: Option<usize>) -> Error {
    let found = match survivors {
        0 => "no token survived".to_owned(),
        _ => format!("the {survivors} tokens that survived do not include {id}"),
    };
    Error::new(
        Class::Alignment,
        "sampling_mask",
        path,
        at,
        format!("{found}, yet {id} was sampled there"),
    )
}
