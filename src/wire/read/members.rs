//! The members of a logprob entry in any spelling.

use crate::error::{Class, Error};
use crate::json::{Cursor, KeyLiteral, Stop, canonical_id, misfit};

use super::entries::{CONFLICT, Entry, Place, Top, UNNAMED, alternatives};
use super::ids::{Read, id, number};
use crate::wire::sentinel::or_nan;

/// Reads an entry of any spelling, or what is left of one whose first members have been read.
#[inline(never)]
pub(super) fn any<const TOP: bool>(
    cursor: &mut Cursor<'_>,
    at: usize,
    begun: Option<Members>,
    place: Place,
    top: &mut Top,
) -> Read<Entry> {
    let mut members = Members::default();
    if let Some(begun) = begun {
        cursor.entered();
        members = begun;
    } else {
        if cursor.byte() != Some(b'{') {
            return Err(misfit(cursor, place.path(""), "an object"));
        }
        cursor.open()?;
        if cursor.peek() == Some(b'}') {
            cursor.close();
            return Err(without_logprob(place.path("logprob"), at));
        }
        members.read::<TOP>(cursor, place, top)?;
    }
    loop {
        // Compact documents have no white space here.
        let mut next = cursor.byte();
        if !matches!(next, Some(b',' | b'}')) {
            next = cursor.peek();
        }
        match next {
            Some(b',') => cursor.pos += 1,
            Some(b'}') => break,
            _ => return Err(Stop::Syntax),
        }
        members.read::<TOP>(cursor, place, top)?;
    }
    cursor.close();
    let Some(logprob) = members.logprob else {
        return Err(without_logprob(place.path("logprob"), at));
    };
    let name = match (members.token, members.token_id) {
        (UNNAMED, other) | (other, UNNAMED) => other,
        (one, other) if one == other => one,
        _ => CONFLICT,
    };
    Ok(Entry {
        name,
        logprob: if TOP { or_nan(logprob) } else { logprob },
    })
}

/// The members of an entry so far.
pub(super) struct Members {
    pub(super) token: i32,
    pub(super) token_id: i32,
    pub(super) logprob: Option<f64>,
    /// Keys that have been there, by [`Key::bit`].
    pub(super) seen: u8,
}

impl Default for Members {
    fn default() -> Self {
        Self {
            token: UNNAMED,
            token_id: UNNAMED,
            logprob: None,
            seen: 0,
        }
    }
}

impl Members {
    /// One member.
    #[inline]
    fn read<const TOP: bool>(
        &mut self,
        cursor: &mut Cursor<'_>,
        place: Place,
        top: &mut Top,
    ) -> Read<()> {
        if cursor.peek() != Some(b'"') {
            return Err(Stop::Syntax);
        }
        let key_at = cursor.pos;
        let key = Key::read::<TOP>(cursor)?;
        if self.seen & key.bit() != 0 {
            return Err(repeated(place.path(key.name()), key_at));
        }
        self.seen |= key.bit();
        match key {
            Key::Token => self.token = token_name(cursor, place)?,
            Key::TokenId if cursor.eat(b"null") => {}
            Key::TokenId => self.token_id = id(cursor, || place.path("token_id"))?,
            Key::Logprob if TOP && cursor.eat(b"null") => self.logprob = Some(f64::NAN),
            Key::Logprob => self.logprob = Some(number(cursor, || place.path("logprob"))?),
            Key::TopLogprobs if cursor.eat(b"null") => {}
            Key::TopLogprobs => alternatives(cursor, place.position, top, None)?,
            Key::Other if cursor.eat(b"null") => {}
            Key::Other => cursor.skip_value()?,
        }
        Ok(())
    }
}

#[cold]
pub(crate) fn repeated(path: String, at: usize) -> Stop {
    Error::new(
        Class::Malformed,
        "duplicate_key",
        path,
        at,
        "the key stands there twice",
    )
    .into()
}

#[cold]
pub(crate) fn without_logprob(path: String, at: usize) -> Stop {
    Error::new(
        Class::Missing,
        "missing",
        path,
        at,
        "the entry has no logprob",
    )
    .into()
}

/// Reads the value of `token`: the id that `token_id:N` names, or [`UNNAMED`] for other text and null.
#[inline(always)]
fn token_name(cursor: &mut Cursor<'_>, place: Place) -> Read<i32> {
    let start = cursor.pos;
    if cursor.eat(b"\"token_id:") {
        if let Some(id) = cursor.short_id()
            && cursor.eat(b"\"")
        {
            return Ok(id);
        }
        cursor.pos = start;
    }
    if cursor.eat(b"null") {
        return Ok(UNNAMED);
    }
    if cursor.byte() != Some(b'"') {
        return Err(misfit(cursor, place.path("token"), "a string"));
    }
    let text = cursor.string()?;
    Ok(named_by(&text))
}

/// The id that a `token` text names, or [`UNNAMED`].
pub(crate) fn named_by(text: &crate::json::Text<'_>) -> i32 {
    text.short("token_id:2147483647".len())
        .and_then(|bytes| canonical_id(bytes.strip_prefix(b"token_id:")?))
        .unwrap_or(UNNAMED)
}

/// A key of an entry.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    Token,
    TokenId,
    Logprob,
    TopLogprobs,
    Other,
}

/// The usual spellings, the most frequent first.
const KEYS: [(KeyLiteral, Key); 6] = [
    (KeyLiteral::new(b"\"logprob\":"), Key::Logprob),
    (KeyLiteral::new(b"\"token\":"), Key::Token),
    (KeyLiteral::new(b"\"bytes\":"), Key::Other),
    (KeyLiteral::new(b"\"token_id\":"), Key::TokenId),
    (KeyLiteral::new(b"\"rank\":"), Key::Other),
    (KeyLiteral::new(b"\"top_logprobs\":"), Key::TopLogprobs),
];

impl Key {
    /// Reads a key, its colon and the white space after it.
    #[inline(always)]
    fn read<const TOP: bool>(cursor: &mut Cursor<'_>) -> Read<Self> {
        let key = match cursor.known_key(&KEYS) {
            Some(key) => key,
            None => Self::read_any(cursor)?,
        };
        Ok(match key {
            Key::TopLogprobs if TOP => Key::Other,
            key => key,
        })
    }

    #[cold]
    fn read_any(cursor: &mut Cursor<'_>) -> Read<Self> {
        let text = cursor.any_key()?;
        Ok(match text.short("top_logprobs".len()).as_deref() {
            Some(b"token") => Key::Token,
            Some(b"token_id") => Key::TokenId,
            Some(b"logprob") => Key::Logprob,
            Some(b"top_logprobs") => Key::TopLogprobs,
            _ => Key::Other,
        })
    }

    /// A bit of its own for every key that may be there only once.
    pub(super) const fn bit(self) -> u8 {
        match self {
            Key::Other => 0,
            known => 1 << known as u8,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Key::Token => "token",
            Key::TokenId => "token_id",
            Key::Logprob => "logprob",
            Key::TopLogprobs => "top_logprobs",
            Key::Other => "",
        }
    }
}
