//! Which rows of a container are wanted, where they begin, and whether all of them are there: rules 11 and 12.

use crate::error::{Class, Error, Result};
use crate::options::{FinalRow, Options};

use super::blob::refused;

/// The sequence that rows are held against.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sequence {
    /// P, where it is known.
    pub(crate) prompt: Option<u64>,
    /// The prompt's tokens as the server counts them: rows must fit them, but they place none.
    pub(crate) counted: Option<i128>,
    /// C.
    pub(crate) completion: usize,
    pub(crate) aborted: bool,
}

/// The outcome of trimming.
#[derive(Debug)]
pub(crate) struct Trimmed {
    /// Rows in front that are not wanted.
    pub(crate) drop: u64,
    pub(crate) start: u64,
    pub(crate) complete: bool,
    /// The position behind the last row, where it is judged.
    pub(crate) reach: Option<u64>,
}

/// Places `rows` rows, the first of which is at the position `first` unless the container does not say.
pub(crate) fn trim(
    rows: u64,
    first: Option<u64>,
    at: usize,
    options: &Options<'_>,
    sequence: &Sequence,
) -> Result<Trimmed> {
    let asked = options.routed_experts_prompt_start;
    let n = asked.unwrap_or(0);
    let last = i128::from(options.final_row == FinalRow::Omitted);
    let all_of = |prompt: i128| prompt + sequence.completion as i128 - last;
    let known = sequence.prompt.map(|prompt| all_of(prompt.into()));
    let counted = known.or(sequence.counted.map(all_of));
    if rows == 0 && sequence.aborted && first.is_none_or(|first| first == 0 || first == n) {
        return Ok(Trimmed {
            drop: 0,
            start: n,
            complete: counted == Some(n.into()),
            reach: None,
        });
    }
    // A caller that knows the prompt and asked for no start got untrimmed rows: an abort lacks rows at the end.
    let told = options.prompt_len_or(None).is_some();
    let fewer = |all: i128| sequence.aborted && told && i128::from(rows) < all;
    let wrong = |message: String| refused("trim", at, message);
    let (drop, start) = match (first, asked, known) {
        (Some(first), None | Some(0), _) => (0, first),
        (Some(0), _, _) if n <= rows => (n, n),
        (Some(0), _, _) => return Err(wrong(format!("cannot drop {n} of {rows} rows"))),
        (Some(first), _, _) if first == n => (0, n),
        (Some(first), _, _) => {
            return Err(wrong(format!(
                "rows start at {first}, neither 0 nor the {n} that was asked for"
            )));
        }
        (None, Some(0), _) => (0, 0),
        (None, _, None) => return Err(unplaced(at)),
        (None, None, Some(all)) if i128::from(rows) == all || fewer(all) => (0, 0),
        (None, None, Some(all)) => {
            return Err(refused(
                "rows",
                at,
                format!(
                    "found {rows} rows without a start, the prompt and {} completion tokens need {all}: pass \
                     routed_experts_prompt_start= as it was asked for (0: from the first token on)",
                    sequence.completion
                ),
            ));
        }
        (None, _, Some(all)) if i128::from(rows) == all - i128::from(n) => (0, n),
        (None, _, Some(all)) if i128::from(rows) == all && n <= rows => (n, n),
        (None, _, Some(all)) => {
            return Err(wrong(format!(
                "found {rows} rows, neither the {all} of prompt and completion nor those from {n} on"
            )));
        }
    };
    let reach = start + (rows - drop);
    let covered = i128::from(start) + i128::from(rows - drop);
    let complete = match counted {
        Some(all) if covered < all && sequence.aborted => false,
        Some(all) if covered != all => {
            return Err(refused(
                "rows",
                at,
                format!(
                    "rows reach position {covered}, the prompt and {} completion tokens need {all}",
                    sequence.completion
                ),
            ));
        }
        // Rows that begin behind what was asked for are not all.
        _ => start == n,
    };
    Ok(Trimmed {
        drop,
        start,
        complete,
        reach: Some(reach),
    })
}

#[cold]
fn unplaced(at: usize) -> Error {
    Error::new(
        Class::Argument,
        "needs_prompt_len",
        "",
        at,
        "routed experts without a start, and the length of the prompt is not known: pass prompt_len= or prompt_token_ids= \
         (or routed_experts_prompt_start=0 if the rows are known to begin with the first token)",
    )
}
