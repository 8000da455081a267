//! Dynamo's chunks. The last one of a choice has the ids and log-probabilities of all its tokens.

use crate::error::{Class, Result};
use crate::memory::Buffer;
use crate::wire::answer::{Channel, LogprobChannels, Paths, first};
use crate::wire::judge::echo;
use crate::wire::judge::sampled::Sampled;
use crate::wire::read::entries::Content;
use crate::wire::read::ids::Numbers;
use crate::wire::read::triples::TopRows;

use super::choice::{Choice, Context, listed};
use super::columns::begins;

/// The tokens of a chunk and their log-probabilities.
pub(super) fn tokens(
    choice: &mut Choice,
    token_ids: Vec<Channel<Buffer<i32>>>,
    logprobs: LogprobChannels,
    cx: &Context<'_>,
    paths: &Paths<'_>,
) -> Result<()> {
    let start = choice.ids.len();
    let content_place = logprobs.content.place;
    let content = logprobs.content.field.take::<Content>(cx.body);
    let list = listed(token_ids, cx, paths)?;
    let names = match &content {
        Some((at, Ok(entries))) if choice.provisional && list.is_none() => {
            let names = entries.names.as_slice();
            names.iter().all(|&name| name >= 0).then_some((*at, names))
        }
        _ => None,
    };
    choice.provisional = names.is_some();
    if let Some((at, names)) = names {
        choice.append(names, (content_place, at), cx, paths)?;
    }
    if let Some(list) = &list {
        let ids = list.ids.as_slice();
        let whole = list.rank == 0;
        let mut new = ids;
        if whole {
            let path = paths.text(list.place);
            let said = choice.ids.as_slice();
            begins(said, ids, |one, other| one == other, &path, list.at)?;
            new = &ids[start..];
        }
        choice.append(new, (list.place, list.at), cx, paths)?;
        choice.name(list);
        choice.whole |= whole;
    }
    let all = Sampled {
        ids: choice.ids.as_slice(),
        body: cx.body,
        missing: cx.options.missing_logprob,
    };
    let new = Sampled {
        ids: &all.ids[start..],
        ..all
    };
    // The last list is that of the entries, the others are of all tokens.
    let mut flat = logprobs.flat;
    let listed = flat.pop();
    if let Some(channel) = first(flat) {
        let place = channel.place;
        if let Some((at, list)) = channel.field.take::<Numbers>(cx.body) {
            let path = paths.text(place);
            let mut list = list.map_err(|error| error.under(&path))?;
            all.check_count(list.len(), &path, at, "logprobs")?;
            all.check_flat(&mut list, &path, at)?;
            choice.entries.engine = Some((list, place));
        }
    }
    let entries = &mut choice.entries;
    if let Some((at, read)) = content {
        entries.place = Some(content_place);
        match read {
            Ok(content) => {
                let names = content.names.as_slice();
                if names.len() == new.ids.len() {
                    let path = || paths.text(content_place);
                    if names != new.ids {
                        new.check_names(&content, &path(), at, false, |_| Ok(()))?;
                    }
                }
                entries.names.extend_from_slice(names)?;
                entries
                    .values
                    .extend_from_slice(content.logprobs.as_slice())?;
                let top = &content.top;
                choice.top.text_only |= top.text_only;
                choice.top.append(
                    top.ids.as_slice(),
                    top.logprobs.as_slice(),
                    top.offsets.as_slice(),
                    0,
                    names.len(),
                )?;
            }
            Err(error) if error.class == Class::Memory => return Err(error),
            Err(error) if entries.unreadable.is_none() => {
                let error = error.under(&paths.text(content_place));
                entries.unreadable = Some((cx.place)(error));
            }
            Err(_) => {}
        }
    }
    if let Some(channel) = listed {
        let place = channel.place;
        match channel.field.take::<Numbers>(cx.body) {
            None => {}
            Some((_, Ok(list))) => {
                entries.place = Some(place);
                entries.values.extend_from_slice(list.as_slice())?;
            }
            Some((_, Err(error))) if error.class == Class::Memory => return Err(error),
            Some((_, Err(error))) => {
                entries.place = Some(place);
                if entries.unreadable.is_none() {
                    let error = error.under(&paths.text(place));
                    entries.unreadable = Some((cx.place)(error));
                }
            }
        }
    }
    if let Some((place, span)) = logprobs.tokens {
        let (_, unreadable) = entries.tokens.get_or_insert((place, false));
        match echo::texts(span, cx.body, new.ids, Some(&mut entries.names))? {
            echo::Texts::Unreadable => *unreadable = true,
            echo::Texts::Read { elements, wrong } => {
                if let Some((i, name, at)) = wrong.filter(|_| elements == new.ids.len()) {
                    let path = format!("{}[{i}]", paths.text(place));
                    return Err(new.identity(i, &name.to_string(), path, Some(at)));
                }
            }
        }
    }
    let place = logprobs.top_rows.place;
    if let Some((at, rows)) = logprobs.top_rows.field.take::<TopRows>(cx.body) {
        let path = paths.text(place);
        let rows = rows.map_err(|error| error.under(&path))?;
        all.check_count(rows.offsets.len() - 1, &path, at, "rows of alternatives")?;
        entries.candidates = Some((rows, place));
    }
    Ok(())
}
