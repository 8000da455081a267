//! The logprob entries of OpenAI-shaped answers, in every dialect.
//!
//! vLLM 0.31 and prime-rl: `{"token":"token_id:7","logprob":-0.1,"bytes":null,"top_logprobs":[…]}`; Dynamo's generate the same with the
//! bytes of that very string; vLLM >= 0.32: `{"token_id":7,"logprob":-0.1,"rank":1,"top_logprobs":[…]}`; Dynamo's chat:
//! `{"token":" a","logprob":-0.1,"token_id":7,"bytes":[32,97],"top_logprobs":[{"token":" a","logprob":-0.1,"bytes":[32,97]}]}`.

use crate::json::{Cursor, Reader};
use crate::memory::Buffer;

use super::ids::{Read, elements, one_more};
use super::members::{Key, Members, any};
use crate::wire::sentinel::or_nan;

/// In [`Content::names`]: the entry names no token.
pub(crate) const UNNAMED: i32 = -1;
/// In [`Content::names`]: `token` and `token_id` name different tokens.
pub(crate) const CONFLICT: i32 = -2;

/// The columns of a `content` list.
#[derive(Debug, Default)]
pub(crate) struct Content {
    /// Log-probabilities as written, sentinels included.
    pub(crate) logprobs: Buffer<f64>,
    /// The id that each entry names, or [`UNNAMED`], or [`CONFLICT`].
    pub(crate) names: Buffer<i32>,
    /// Alternatives.
    pub(crate) top: Top,
}

/// Alternatives of every position, end to end.
#[derive(Debug, Default)]
pub(crate) struct Top {
    pub(crate) ids: Buffer<i32>,
    /// NaN where the engine has none.
    pub(crate) logprobs: Buffer<f64>,
    /// Where each position begins; empty while there is no alternative at all.
    pub(crate) offsets: Buffer<i64>,
    /// An entry names no token.
    pub(crate) text_only: bool,
}

impl Top {
    /// Ends position `position`.
    #[inline(always)]
    fn end(&mut self, position: usize) -> Read<()> {
        if self.offsets.is_empty() {
            if self.ids.is_empty() {
                return Ok(());
            }
            self.begin(position)?;
        }
        self.offsets.push(self.ids.len() as i64)?;
        Ok(())
    }

    /// Position `position` is the first that has alternatives.
    #[cold]
    fn begin(&mut self, position: usize) -> Read<()> {
        for _ in 0..=position {
            self.offsets.push(0)?;
        }
        Ok(())
    }
}

impl Reader for Content {
    type Value = Self;

    #[inline(always)]
    fn read(cursor: &mut Cursor<'_>) -> Read<Self> {
        let mut content = Content::default();
        content.append(cursor)?;
        Ok(content)
    }
}

impl Content {
    /// Appends the entries of the list at the cursor.
    #[inline(always)]
    pub(crate) fn append(&mut self, cursor: &mut Cursor<'_>) -> Read<()> {
        let at = cursor.pos;
        elements!(cursor, String::new(), {
            one_more(cursor, self.names.len(), at)?;
            let place = Place {
                position: self.names.len(),
                alternative: None,
            };
            let entry = entry::<false>(cursor, place, &mut self.top)?;
            self.top.end(place.position)?;
            self.names.push(entry.name)?;
            self.logprobs.push(entry.logprob)?;
        });
        Ok(())
    }

    /// Empties the columns, and keeps their memory.
    pub(crate) fn clear(&mut self) {
        self.names.truncate(0);
        self.logprobs.truncate(0);
        self.top.ids.truncate(0);
        self.top.logprobs.truncate(0);
        self.top.offsets.truncate(0);
        self.top.text_only = false;
    }
}

/// Reads the `top_logprobs` of a position. Engines list the sampled token first: `own` is how its entry began, if it is known.
#[inline(always)]
pub(super) fn alternatives(
    cursor: &mut Cursor<'_>,
    position: usize,
    top: &mut Top,
    mut own: Option<Begun<'_>>,
) -> Read<()> {
    let first = top.offsets.as_slice().last().map_or(0, |&at| at as usize);
    let whole = Place {
        position,
        alternative: None,
    };
    elements!(cursor, whole.path("top_logprobs"), {
        let place = Place {
            position,
            alternative: Some(top.ids.len() - first),
        };
        let repeated = own.take().and_then(|own| own.repeated(cursor));
        let entry = match repeated {
            Some(entry) => entry,
            None => entry::<true>(cursor, place, top)?,
        };
        top.text_only |= entry.name < 0;
        top.ids.push(entry.name)?;
        top.logprobs.push(entry.logprob)?;
    });
    Ok(())
}

/// Which entry is being read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) position: usize,
    alternative: Option<usize>,
}

impl Place {
    /// The path of a key of the entry (or of the entry, for ""), relative to the list.
    #[cold]
    pub(super) fn path(self, key: &str) -> String {
        let mut path = format!("[{}]", self.position);
        if let Some(index) = self.alternative {
            path.push_str(&format!(".top_logprobs[{index}]"));
        }
        if !key.is_empty() {
            path.push('.');
            path.push_str(key);
        }
        path
    }
}

/// One entry, or one alternative.
pub(super) struct Entry {
    pub(super) name: i32,
    pub(super) logprob: f64,
}

/// Reads an entry, and its alternatives into `top`. An alternative (`TOP`) has none itself, and may have null for a logprob.
#[inline(always)]
fn entry<const TOP: bool>(cursor: &mut Cursor<'_>, place: Place, top: &mut Top) -> Read<Entry> {
    let at = cursor.pos;
    let Some(usual) = usual(cursor) else {
        cursor.pos = at;
        return any::<TOP>(cursor, at, None, place, top);
    };
    if TOP && cursor.eat(b",\"bytes\":null}") {
        return Ok(usual.entry::<TOP>());
    }
    let named = cursor.pos;
    let mut seen = Key::Logprob.bit();
    let mut listed = !TOP && cursor.eat(b",\"bytes\":null,\"top_logprobs\":[");
    if listed {
        if cursor.eat(b"]}") {
            return Ok(usual.entry::<TOP>());
        }
        cursor.pos -= 1;
    } else {
        let _ = cursor.eat(b",\"bytes\":null");
        listed = !TOP && cursor.eat(b",\"top_logprobs\":");
    }
    if listed {
        seen |= Key::TopLogprobs.bit();
        cursor.space();
        if !cursor.eat(b"null") {
            cursor.entered();
            let begun = Begun {
                text: cursor.bytes.get(at..=named).unwrap_or_default(),
                usual,
            };
            alternatives(cursor, place.position, top, Some(begun))?;
            cursor.left();
        }
    }
    if cursor.eat(b"}") {
        return Ok(usual.entry::<TOP>());
    }
    let (token, token_id, bit) = if usual.by_token {
        (usual.name, UNNAMED, Key::Token.bit())
    } else {
        (UNNAMED, usual.name, Key::TokenId.bit())
    };
    let members = Members {
        token,
        token_id,
        logprob: Some(usual.logprob),
        seen: seen | bit,
    };
    any::<TOP>(cursor, at, Some(members), place, top)
}

/// The first members as vLLM, prime-rl's server and Dynamo's generate write them.
#[derive(Debug, Clone, Copy)]
struct Usual {
    name: i32,
    logprob: f64,
    /// The name stood in `token`, not in `token_id`.
    by_token: bool,
}

impl Usual {
    /// When nothing else follows.
    #[inline(always)]
    fn entry<const TOP: bool>(self) -> Entry {
        Entry {
            name: self.name,
            logprob: if TOP {
                or_nan(self.logprob)
            } else {
                self.logprob
            },
        }
    }
}

/// The first bytes of an entry: its brace, name and logprob, and the byte after them, which ends the number.
pub(super) struct Begun<'a> {
    text: &'a [u8],
    usual: Usual,
}

impl Begun<'_> {
    /// Steps over an alternative of these very bytes. None where another stands there, or more than engines write.
    #[inline(always)]
    fn repeated(&self, cursor: &mut Cursor<'_>) -> Option<Entry> {
        let text = cursor.bytes.get(cursor.pos..)?.get(..self.text.len())?;
        if self.text.is_empty() || text != self.text {
            return None;
        }
        let at = cursor.pos;
        cursor.pos += text.len() - 1;
        if cursor.eat(b",\"bytes\":null}") {
            return Some(self.usual.entry::<true>());
        }
        cursor.pos = at;
        None
    }
}

/// Reads the brace, the name and the logprob. None (and the cursor anywhere) where they are written in another way.
#[inline(always)]
fn usual(cursor: &mut Cursor<'_>) -> Option<Usual> {
    let by_token = cursor.eat(b"{\"token\":\"token_id:");
    if !by_token && !cursor.eat(b"{\"token_id\":") {
        return None;
    }
    let name = cursor.short_id()?;
    let named = if by_token {
        cursor.eat(b"\",\"logprob\":")
    } else {
        cursor.eat(b",\"logprob\":")
    };
    if !named {
        return None;
    }
    let logprob = cursor.double().filter(|value| value.is_finite())?;
    Some(Usual {
        name,
        logprob,
        by_token,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The alternatives of one entry, of id 7 and log-probability -0.5.
    fn read(alternatives: &str) -> Vec<(i32, f64)> {
        let body = format!(
            r#"[{{"token":"token_id:7","logprob":-0.5,"bytes":null,"top_logprobs":[{alternatives}]}}]"#
        );
        let content = Cursor::new(body.as_bytes())
            .field::<Content>()
            .unwrap()
            .unwrap();
        assert_eq!(content.names.as_slice(), [7]);
        assert_eq!(content.logprobs.as_slice(), [-0.5]);
        let top = content.top;
        let ids = top.ids.as_slice().iter().copied();
        ids.zip(top.logprobs.as_slice().iter().copied()).collect()
    }

    #[test]
    fn the_first_alternative_repeats_the_entry_or_only_begins_like_it() {
        let other = r#"{"token":"token_id:8","logprob":-1.25,"bytes":null}"#;
        for (first, value) in [
            (
                r#"{"token":"token_id:7","logprob":-0.5,"bytes":null}"#,
                -0.5,
            ),
            (
                r#"{"token":"token_id:7","logprob":-0.57,"bytes":null}"#,
                -0.57,
            ),
            (
                r#"{"token":"token_id:7","logprob":-0.5e1,"bytes":null}"#,
                -5.0,
            ),
            (r#"{"token":"token_id:7","logprob":-0.5}"#, -0.5),
            (
                r#"{"token":"token_id:7","logprob":-0.5,"bytes":[55]}"#,
                -0.5,
            ),
            (
                r#"{"token":"token_id:7","logprob":-0.5,"bytes":null ,"rank":1}"#,
                -0.5,
            ),
            (
                r#"{"token":"token_id:7","logprob":-0.5,"bytes":null,"token_id":7}"#,
                -0.5,
            ),
            (r#"{"token_id":7,"logprob":-0.5,"rank":1}"#, -0.5),
        ] {
            assert_eq!(read(first), [(7, value)], "{first}");
            assert_eq!(
                read(&format!("{first},{other}")),
                [(7, value), (8, -1.25)],
                "{first}"
            );
            assert_eq!(
                read(&format!("{other},{first}")),
                [(8, -1.25), (7, value)],
                "{first}"
            );
        }
    }

    #[test]
    fn a_repeated_sentinel_is_nan() {
        let body = r#"[{"token":"token_id:7","logprob":-9999.0,"bytes":null,"top_logprobs":[{"token":"token_id:7","logprob":-9999.0,"bytes":null}]}]"#;
        let content = Cursor::new(body.as_bytes())
            .field::<Content>()
            .unwrap()
            .unwrap();
        assert_eq!(content.logprobs.as_slice(), [-9999.0]);
        assert!(content.top.logprobs.as_slice()[0].is_nan());
    }
}
