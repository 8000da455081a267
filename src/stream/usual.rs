//! Chunks that differ from an earlier one in a few values only, as most do.
//!
//! A chunk has been read and judged. Of the next one every byte is the same but for a list of ids, a list of entries and a
//! value that nobody reads, each of which stands between the same bytes and is valid JSON. So the document is valid, and says
//! the same in all other places. Where anything else is found, the chunk is read as any other.

use crate::error::Result;
use crate::json::Cursor;
use crate::memory::Buffer;
use crate::options::{Options, Wire};
use crate::wire::answer::{Answers, Role};
use crate::wire::judge::locate::{Step, locate};
use crate::wire::read::entries::{CONFLICT, Content, UNNAMED};
use crate::wire::read::ids::append_ids;
use crate::wire::sentinel::{any_doubt, first_too_high};

use super::choice::Choice;

/// Brackets that are open around a value that changes, at most.
const DEPTH: usize = 4;

/// A value that changes from chunk to chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hole {
    /// The list of ids.
    Ids,
    /// The list of entries.
    Entries,
    /// A value that nobody reads.
    Free,
}

/// A chunk without the values that change.
#[derive(Debug)]
pub(super) struct Shape {
    /// The bytes around them, end to end.
    text: Vec<u8>,
    /// Where they stand in `text`.
    holes: Vec<(usize, Hole)>,
    /// Every entry must name its token.
    must_name: bool,
    ids: bool,
    entries: bool,
}

/// Memory that is used again for each chunk.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    ids: Buffer<i32>,
    content: Content,
}

impl Shape {
    /// The shape of a chunk, which says nothing but new tokens of one choice.
    pub(super) fn of(read: &Answers, body: &[u8], wire: Wire) -> Option<Self> {
        let ([answer], [prompt]) = (&read.list[..], &read.prompts[..]) else {
            return None;
        };
        let logprobs = &answer.logprobs;
        let plain = answer.metadata.iter().all(|it| it.role == Role::RequestId)
            && answer.metadata.len() < 2
            && prompt.echo.iter().all(|it| !it.field.is_present())
            && prompt.maps.iter().all(|it| !it.field.is_present())
            && !answer.mask.field.is_present()
            && answer.experts.found.is_none()
            && answer.experts.unread.is_none()
            && logprobs.flat.iter().all(|it| !it.field.is_present())
            && logprobs.tokens.is_none();
        let lists = match wire {
            Wire::VllmGenerate | Wire::VllmChat => &answer.token_ids[..],
            // Dynamo's list of all tokens is no list of new ones.
            Wire::DynamoChat if !answer.token_ids[0].field.is_present() => &answer.token_ids[1..],
            _ => return None,
        };
        if !plain {
            return None;
        }
        let mut lists = lists.iter().filter_map(|it| it.field.at());
        let ids = lists.next();
        let entries = logprobs.content.field.at();
        let choice = locate(body, 0, &[Step::Key("choices"), Step::Index(0)])?;
        let free = match wire {
            Wire::VllmGenerate => None,
            _ => locate(body, choice, &[Step::Key("delta")]),
        };
        if lists.next().is_some() || ids.or(entries).is_none() {
            return None;
        }
        let mut places = [
            (ids, Hole::Ids),
            (entries, Hole::Entries),
            (free, Hole::Free),
        ];
        places.sort_by_key(|(at, _)| *at);
        let mut text = Vec::with_capacity(body.len());
        let mut holes = Vec::with_capacity(places.len());
        let mut copied = 0;
        for (at, hole) in places {
            let Some(at) = at else { continue };
            let mut cursor = Cursor::at(body, at);
            cursor.skip_value().ok()?;
            text.extend_from_slice(body.get(copied..at)?);
            copied = cursor.pos;
            holes.push((text.len(), hole));
        }
        text.extend_from_slice(&body[copied..]);
        Some(Self {
            text,
            holes,
            must_name: logprobs.must_name,
            ids: ids.is_some(),
            entries: entries.is_some(),
        })
    }

    /// Reads the values that change, if all else is the same.
    #[inline]
    fn read(&self, body: &[u8], options: &Options<'_>, scratch: &mut Scratch) -> Option<()> {
        scratch.ids.truncate(0);
        scratch.content.clear();
        let mut cursor = Cursor::within(body, options.limits);
        for _ in 0..DEPTH {
            cursor.entered();
        }
        let mut passed = 0;
        for &(end, hole) in &self.holes {
            let same = &self.text[passed..end];
            if body.get(cursor.pos..cursor.pos + same.len())? != same {
                return None;
            }
            cursor.pos += same.len();
            passed = end;
            match hole {
                Hole::Ids => append_ids(&mut cursor, &mut scratch.ids).ok()?,
                Hole::Entries => scratch.content.append(&mut cursor).ok()?,
                Hole::Free => cursor.skip_value().ok()?,
            }
        }
        (body[cursor.pos..] == self.text[passed..]).then_some(())
    }
}

/// Appends a chunk of the same shape as an earlier one of the choice. False, and nothing done, where it is another.
#[inline]
pub(super) fn append(
    choice: &mut Choice,
    body: &[u8],
    options: &Options<'_>,
    scratch: &mut Scratch,
) -> Result<bool> {
    let Some(shape) = &choice.shape else {
        return Ok(false);
    };
    if choice.ended() || choice.whole || shape.read(body, options, scratch).is_none() {
        return Ok(false);
    }
    let provisional = !shape.ids;
    if provisional && !choice.provisional {
        return Ok(false);
    }
    let content = &scratch.content;
    let names = content.names.as_slice();
    let ids = match provisional {
        true => names,
        false => scratch.ids.as_slice(),
    };
    let top = &content.top;
    let named = |(&name, &id): (&i32, &i32)| name == id || name == UNNAMED && !shape.must_name;
    let usual = !shape.entries
        || names.len() == ids.len()
            && (names == ids || names.iter().zip(ids).all(named))
            && !any_doubt(content.logprobs.as_slice())
            && first_too_high(top.logprobs.as_slice()).is_none()
            && (!top.text_only || !top.ids.as_slice().contains(&CONFLICT));
    let unnamed = provisional && names.iter().any(|&name| name < 0);
    if !usual || unnamed || choice.ids.len() + ids.len() > options.limits.max_tokens {
        return Ok(false);
    }
    choice.chunks += 1;
    choice.ids.extend_from_slice(ids)?;
    if !shape.entries {
        return Ok(true);
    }
    let values = content.logprobs.as_slice();
    if options.wire == Wire::DynamoChat {
        choice.entries.names.extend_from_slice(names)?;
        choice.entries.values.extend_from_slice(values)?;
    } else {
        choice.logprobs.extend_from_slice(values)?;
    }
    choice.top.text_only |= top.text_only;
    choice.top.append(
        top.ids.as_slice(),
        top.logprobs.as_slice(),
        top.offsets.as_slice(),
        0,
        names.len(),
    )?;
    Ok(true)
}
