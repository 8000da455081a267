//! (g), step 6: the rows that are wanted.

use super::containers::{Blob, refuse};
use super::json::Node;
use dynamo_tito::{Class, Error, FinalRow, Options, Result};

/// The counts of tokens that rows are compared with.
pub(super) struct Sequence {
    /// P, as (d) says.
    pub(super) prompt: Option<u64>,
    /// The server's own count of the prompt's tokens.
    pub(super) counted: Option<i128>,
    /// C.
    pub(super) tokens: usize,
    pub(super) aborted: bool,
}

pub(super) struct Wanted {
    /// How many rows to drop.
    pub(super) drop: u64,
    pub(super) start: u64,
    pub(super) complete: bool,
}

/// Step 6: the rows that are wanted, and whether any is missing.
pub(super) fn wanted(
    blob: &Blob<'_>,
    path: &str,
    node: &Node,
    sequence: &Sequence,
    options: &Options<'_>,
) -> Result<Wanted> {
    let refuse = |kind, message: String| Err(refuse(kind, path, node.start, message));
    let rows = blob.shape[0];
    let asked = options.routed_experts_prompt_start;
    let n = asked.unwrap_or(0);
    let final_row = match options.final_row {
        FinalRow::Omitted => 0,
        FinalRow::Present => 1,
    };
    let total_of = |prompt: i128| prompt + sequence.tokens as i128 - 1 + final_row;
    // T, the rows of the whole sequence. A T from the count of the server is checked, and places no row.
    let placing = sequence.prompt.map(|prompt| total_of(i128::from(prompt)));
    let total = match placing {
        Some(total) => Some(total),
        None => sequence.counted.map(total_of),
    };

    let elsewhere = blob.start.is_some_and(|start| start != 0 && start != n);
    if sequence.aborted && rows == 0 && !elsewhere {
        return Ok(Wanted {
            drop: 0,
            start: n,
            complete: total == Some(i128::from(n)),
        });
    }

    let (drop, start) = match blob.start {
        Some(start) if n == 0 => (0, start),
        Some(0) => (n, n),
        Some(start) if start == n => (0, n),
        Some(start) => {
            let message = format!("rows from position {start} on, where {n} was asked for");
            return refuse("trim", message);
        }
        // The caller asserts that nothing was trimmed.
        None if asked == Some(0) => (0, 0),
        None => {
            let Some(total) = placing else {
                return Err(Error::new(
                    Class::Argument,
                    "needs_prompt_len",
                    path,
                    node.start,
                    "routed experts without a start: pass prompt_len",
                ));
            };
            let told = options.prompt_len.is_some() || options.prompt_token_ids.is_some();
            if asked.is_none() && sequence.aborted && told && i128::from(rows) < total {
                // The caller passed the length of the prompt and asked for no start.
                return Ok(Wanted {
                    drop: 0,
                    start: 0,
                    complete: false,
                });
            }
            if asked.is_none() && i128::from(rows) != total {
                let message = format!("{rows} rows from a position unknown, expected {total}");
                return refuse("rows", message);
            }
            if i128::from(rows) == total - i128::from(n) {
                (0, n)
            } else if i128::from(rows) == total {
                (n, n)
            } else {
                let message = format!("{rows} rows are neither {total} nor {n} fewer");
                return refuse("trim", message);
            }
        }
    };
    if drop > rows {
        let message = format!("cannot drop {drop} of {rows} rows");
        return refuse("trim", message);
    }
    let end = i128::from(start) + i128::from(rows - drop);
    if total.is_some_and(|total| end > total || (end < total && !sequence.aborted)) {
        let message = format!(
            "the rows end at position {end}, expected {}",
            total.unwrap_or_default()
        );
        return refuse("rows", message);
    }
    Ok(Wanted {
        drop,
        start,
        complete: start == n && total.is_none_or(|total| end == total),
    })
}
