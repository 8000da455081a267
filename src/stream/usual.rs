//! Chunks that differ from an earlier one in a few values only, as most do.
//!
//! A chunk has been read and judged. Of the next one every byte is the same but for its lists, the server's count of tokens,
//! and values that are not read, each of which stands between the same bytes and is valid JSON. So the document is valid, and
//! has the same values in all other places. A chunk that differs elsewhere is read by [`chunk`](super::chunk).

use crate::error::Result;
use crate::json::{Cursor, Value};
use crate::memory::Buffer;
use crate::options::{Options, Wire};
use crate::wire::answer::{Answer, Answers, Role};
use crate::wire::judge::echo::{Texts, texts};
use crate::wire::judge::locate::{Step, locate};
use crate::wire::read::entries::{CONFLICT, Content, UNNAMED};
use crate::wire::read::field::Span;
use crate::wire::read::ids::{append_ids, append_numbers};
use crate::wire::read::triples::Triples;
use crate::wire::sentinel::{any_doubt, first_too_high};

use super::choice::Choice;

/// Brackets that are open around a value that changes, at most.
const DEPTH: usize = 4;

/// A value that changes from chunk to chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hole {
    /// The list of ids.
    Ids,
    /// Entries of OpenAI's form.
    Entries,
    /// Entries of SGLang's form.
    Triples,
    /// A flat list of log-probabilities.
    Numbers,
    /// The texts beside a flat list.
    Tokens,
    /// SGLang's count of the tokens so far.
    Count,
    /// A value that is not read.
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
}

/// Values of a chunk. Every chunk uses the same memory.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    ids: Buffer<i32>,
    content: Content,
    triples: Triples,
    numbers: Buffer<f64>,
    /// The ids that the texts name.
    names: Buffer<i32>,
    tokens: Option<Span>,
    count: Option<u64>,
}

/// Values that are not read, and that differ from chunk to chunk.
fn free(wire: Wire) -> &'static [&'static [Step<'static>]] {
    use Step::{Index, Key};
    match wire {
        Wire::VllmChat | Wire::DynamoChat => &[&[Key("choices"), Index(0), Key("delta")]],
        Wire::DynamoCompletions => &[
            &[Key("choices"), Index(0), Key("text")],
            &[
                Key("choices"),
                Index(0),
                Key("logprobs"),
                Key("top_logprobs"),
            ],
        ],
        Wire::SglangGenerate => &[
            &[Key("text")],
            &[Key("meta_info"), Key("output_token_logprobs_length")],
        ],
        _ => &[],
    }
}

/// Whether an answer has nothing but new tokens and what every chunk of its choice may repeat.
fn is_plain(read: &Answers, answer: &Answer, wire: Wire) -> bool {
    let sglang = wire == Wire::SglangGenerate;
    let prompt = |prompt: &crate::wire::answer::PromptChannels| {
        // SGLang's chunks repeat it.
        !sglang
            && (prompt.echo.iter().any(|it| it.field.is_present())
                || prompt.maps.iter().any(|it| it.field.is_present())
                || prompt.token_ids.is_some())
    };
    let repeated = |role| match role {
        Role::RequestId => true,
        Role::Count(_) | Role::WeightVersion => sglang,
        _ => false,
    };
    let whole = match wire {
        Wire::DynamoChat | Wire::DynamoCompletions => {
            answer.token_ids[0].field.is_present() || answer.logprobs.flat[0].field.is_present()
        }
        _ => false,
    };
    !whole
        && answer.metadata.iter().all(|it| repeated(it.role))
        && !read.prompts.iter().any(prompt)
        && !answer.mask.field.is_present()
        && !answer.sampling.field.is_present()
        && !answer.logprobs.top_rows.field.is_present()
        && answer.experts.found.is_none()
        && answer.experts.unread.is_none()
        && answer.indexer.found.is_none()
        && answer.indexer.unread.is_none()
        // What a choice tells may be repeated; what is told of all may have been told anew by another choice.
        && (sglang || answer.told.is_empty())
}

impl Shape {
    /// The shape of a chunk that has nothing but new tokens of one choice.
    pub(super) fn of(read: &Answers, body: &[u8], wire: Wire) -> Option<Self> {
        let [answer] = &read.list[..] else {
            return None;
        };
        if !is_plain(read, answer, wire) {
            return None;
        }
        let logprobs = &answer.logprobs;
        let mut places = Vec::with_capacity(8);
        let mut hole = |at: Option<usize>, hole| places.extend(at.map(|at| (at, hole)));
        for channel in &answer.token_ids {
            hole(channel.field.at(), Hole::Ids);
        }
        hole(logprobs.content.field.at(), Hole::Entries);
        hole(logprobs.triples.field.at(), Hole::Triples);
        for channel in &logprobs.flat {
            hole(channel.field.at(), Hole::Numbers);
        }
        hole(logprobs.tokens.map(|(_, span)| span.start), Hole::Tokens);
        let mut counts = answer.metadata.iter();
        let count = counts.find(|it| it.role == Role::Count("completion_tokens"));
        hole(count.map(|it| it.span.start), Hole::Count);
        for steps in free(wire) {
            hole(locate(body, 0, steps), Hole::Free);
        }
        let several = |kind| places.iter().filter(|(_, hole)| *hole == kind).count() > 1;
        if several(Hole::Ids) || several(Hole::Numbers) {
            return None;
        }
        places.sort_by_key(|(at, _)| *at);
        let mut text = Vec::with_capacity(body.len());
        let mut holes = Vec::with_capacity(places.len());
        let mut copied = 0;
        for (at, hole) in places {
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
        })
    }

    fn has(&self, kind: Hole) -> bool {
        self.holes.iter().any(|(_, hole)| *hole == kind)
    }

    /// Reads the values that change, if all other bytes are the same.
    #[inline]
    fn read(&self, body: &[u8], options: &Options<'_>, scratch: &mut Scratch) -> Option<()> {
        scratch.ids.truncate(0);
        scratch.content.clear();
        scratch.triples.ids.truncate(0);
        scratch.triples.logprobs.truncate(0);
        scratch.numbers.truncate(0);
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
            let start = cursor.pos;
            match hole {
                Hole::Ids => append_ids(&mut cursor, &mut scratch.ids).ok()?,
                Hole::Entries => scratch.content.append(&mut cursor).ok()?,
                Hole::Triples => scratch.triples.append(&mut cursor).ok()?,
                Hole::Numbers => append_numbers(&mut cursor, &mut scratch.numbers).ok()?,
                Hole::Tokens => {
                    cursor.skip_value().ok()?;
                    let end = cursor.pos;
                    scratch.tokens = Some(Span { start, end });
                }
                Hole::Count => scratch.count = Some(cursor.integer(u64::MAX)?),
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
    let (wire, content, triples) = (options.wire, &scratch.content, &scratch.triples);
    let entries = shape.has(Hole::Entries);
    let names = content.names.as_slice();
    let provisional = !shape.has(Hole::Ids);
    let ids = match provisional {
        true => names,
        false => scratch.ids.as_slice(),
    };
    if provisional && (!entries || !choice.provisional || names.iter().any(|&name| name < 0)) {
        return Ok(false);
    }
    let tokens = choice.ids.len() + ids.len();
    let top = &content.top;
    let named = |(&name, &id): (&i32, &i32)| name == id || name == UNNAMED && !shape.must_name;
    let usual = !entries
        || names.len() == ids.len()
            && (names == ids || names.iter().zip(ids).all(named))
            && !any_doubt(content.logprobs.as_slice())
            && first_too_high(top.logprobs.as_slice()).is_none()
            && (!top.text_only || !top.ids.as_slice().contains(&CONFLICT));
    if !usual || tokens > options.limits.max_tokens {
        return Ok(false);
    }
    if shape.has(Hole::Triples)
        && (triples.ids.as_slice() != ids || any_doubt(triples.logprobs.as_slice()))
    {
        return Ok(false);
    }
    if wire == Wire::SglangGenerate {
        // SGLang's count tells new tokens from all.
        let counted = choice.cumulative == Some(false)
            && shape.has(Hole::Count)
            && scratch.count == Some(tokens as u64);
        let Some(Value::Map(usage)) = choice.said.usage.as_mut().filter(|_| counted) else {
            return Ok(false);
        };
        for (_, value) in usage
            .iter_mut()
            .filter(|(name, _)| name == "completion_tokens")
        {
            *value = Value::Int(tokens as i64);
        }
    }
    scratch.names.truncate(0);
    if shape.has(Hole::Tokens)
        && let Some(span) = scratch.tokens
    {
        match texts(span, body, ids, Some(&mut scratch.names))? {
            Texts::Read {
                elements,
                wrong: None,
            } if elements == ids.len() => {}
            _ => return Ok(false),
        }
    }
    choice.chunks += 1;
    choice.ids.extend_from_slice(ids)?;
    let logprobs = triples.logprobs.as_slice();
    choice.logprobs.extend_from_slice(logprobs)?;
    let texts = scratch.names.as_slice();
    choice.entries.names.extend_from_slice(texts)?;
    let numbers = scratch.numbers.as_slice();
    choice.entries.values.extend_from_slice(numbers)?;
    if !entries {
        return Ok(true);
    }
    let values = content.logprobs.as_slice();
    if wire == Wire::DynamoChat {
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
