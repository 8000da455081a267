//! SGLang's chunks, which hold the new tokens or all of them.

use crate::error::{Class, Error, Result};
use crate::json::Cursor;
use crate::memory::Buffer;
use crate::wire::answer::{Channel, LogprobChannels, MetadataItem, Paths, local};
use crate::wire::judge::sampled::Sampled;
use crate::wire::read::triples::{TopRows, Triples};

use super::choice::{Choice, Context, Listed, listed};
use super::columns::{begins, same_value};
use super::judge::append_top;

/// The counts of usage, in the order in which they are returned.
pub(super) const COUNTS: [&str; 4] = [
    "prompt_tokens",
    "completion_tokens",
    "cached_tokens",
    "reasoning_tokens",
];

/// The tokens of a chunk and their log-probabilities; `count` is the server's own count of tokens.
pub(super) fn tokens(
    choice: &mut Choice,
    token_ids: Vec<Channel<Buffer<i32>>>,
    logprobs: LogprobChannels,
    count: Option<&MetadataItem>,
    cx: &Context<'_>,
    paths: &Paths<'_>,
) -> Result<()> {
    let mut start = choice.ids.len();
    let list = listed(token_ids, cx, paths)?;
    let mut cumulative = false;
    if let Some(list) = &list {
        cumulative = is_cumulative(choice, list, count, cx, paths)?;
        let new = if cumulative {
            let said = choice.ids.as_slice();
            let path = paths.text(list.place);
            begins(said, list.ids.as_slice(), |a, b| a == b, &path, list.at)?;
            &list.ids.as_slice()[start..]
        } else {
            list.ids.as_slice()
        };
        choice.append(new, (list.place, list.at), cx, paths)?;
        choice.name(list);
    }
    if cumulative {
        start = 0;
    }
    let sampled = Sampled {
        ids: &choice.ids.as_slice()[start..],
        body: cx.body,
        missing: cx.options.missing_logprob,
    };
    let place = logprobs.triples.place;
    let mut triples = None;
    if let Some((at, list)) = logprobs.triples.field.take::<Triples>(cx.body) {
        let path = paths.text(place);
        let mut list = list.map_err(|error| error.under(&path))?;
        sampled.check_count(list.ids.len(), &path, at, "logprob entries")?;
        sampled.check_triples(&mut list, &path, at)?;
        triples = Some((list, path, at));
    }
    let rows_place = logprobs.top_rows.place;
    let mut rows = None;
    if let Some((at, list)) = logprobs.top_rows.field.take::<TopRows>(cx.body) {
        let path = paths.text(rows_place);
        let list = list.map_err(|error| error.under(&path))?;
        let count = sampled.ids.len();
        rows = Some((sampled.top_of_rows(list, &path, at)?, count, path, at));
    }
    if let Some((triples, path, at)) = triples {
        let mut from = 0;
        if cumulative {
            let said = choice.logprobs.as_slice();
            begins(said, triples.logprobs.as_slice(), same_value, &path, at)?;
            from = said.len();
        }
        let new = &triples.logprobs.as_slice()[from..];
        choice.logprobs.extend_from_slice(new)?;
        choice.logprobs_at = Some(place);
    }
    if let Some((top, count, path, at)) = rows {
        let mut from = 0;
        if cumulative {
            choice.top.check_begins(top.as_ref(), count, &path, at)?;
            from = choice.top.rows;
        }
        append_top(choice, top.as_ref(), from, count)?;
        choice.top_at = Some(rows_place);
    }
    Ok(())
}

/// Whether a list holds all tokens so far: the server counts them.
fn is_cumulative(
    choice: &mut Choice,
    list: &Listed,
    count: Option<&MetadataItem>,
    cx: &Context<'_>,
    paths: &Paths<'_>,
) -> Result<bool> {
    let place = local("meta_info.completion_tokens");
    let (before, found) = (choice.ids.len(), list.ids.len());
    let Some(count) = count else {
        if found == 0 {
            return Ok(false);
        }
        return Err(Error::new(
            Class::Missing,
            "missing",
            paths.text(place),
            None,
            "without it a chunk does not say whether it holds the new tokens or all of them",
        ));
    };
    let at = count.span.start;
    let mut cursor = Cursor::at(&cx.body[..count.span.end], at);
    let counted = cursor
        .integer(u64::MAX)
        .filter(|_| cursor.pos == count.span.end);
    let Some(counted) = counted else {
        return Err(Error::new(
            Class::Malformed,
            "type",
            paths.text(place),
            at,
            "found another value where a count of tokens was expected",
        ));
    };
    let all = counted == found as u64 && choice.cumulative != Some(false);
    let new = counted == (before + found) as u64 && choice.cumulative != Some(true);
    if before > 0 && (all || new) {
        choice.cumulative = Some(all);
    }
    if all || new {
        return Ok(all && before > 0);
    }
    Err(Error::new(
        Class::Alignment,
        "count",
        paths.text(place),
        at,
        format!(
            "the server counts {counted} tokens; the chunk has {found}, and the chunks before it had {before}"
        ),
    ))
}
