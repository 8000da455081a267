//! Steps over a value that is not read, and validates it.

use super::cursor::Cursor;
use super::number::number_end;
use super::simd::{self, Integers};
use crate::error::Result;

impl Cursor<'_> {
    /// Steps over the value at `pos` (white space before it allowed), which must be exactly RFC 8259.
    #[inline]
    pub(crate) fn skip_value(&mut self) -> Result<()> {
        match self.peek() {
            Some(b'{' | b'[') => self.skip_nested(),
            _ => self.skip_scalar(),
        }
    }

    /// Steps over a value that is no object and no array.
    #[inline(always)]
    fn skip_scalar(&mut self) -> Result<()> {
        match self.byte() {
            Some(b'"') => self.string().map(|_| ()),
            Some(b'-' | b'0'..=b'9') => match number_end(self.bytes, self.pos) {
                Ok(end) => {
                    self.pos = end;
                    Ok(())
                }
                Err(bad) => Err(self.syntax(bad, "a digit")),
            },
            Some(b'n') if self.eat(b"null") => Ok(()),
            Some(b'n') => self.literal(b"null"),
            Some(b't') => self.literal(b"true"),
            Some(b'f') => self.literal(b"false"),
            _ => Err(self.syntax(self.pos, "a value")),
        }
    }

    /// Steps over an object or an array, and all in it.
    fn skip_nested(&mut self) -> Result<()> {
        // One bit a level: 1 in an object, 0 in an array; of every 128 levels further out, one word.
        let mut in_object = 0u128;
        let mut outer: Vec<u128> = Vec::new();
        let base = self.depth;
        loop {
            // At a value.
            self.space();
            match self.byte() {
                Some(b'{') => {
                    self.open()?;
                    if self.peek() == Some(b'}') {
                        self.close();
                    } else {
                        if self.word_is_full(base + 1) {
                            outer.push(in_object);
                        }
                        in_object = in_object << 1 | 1;
                        self.key()?;
                        continue;
                    }
                }
                Some(b'[') => {
                    self.open()?;
                    let ends = match self.peek() {
                        Some(b'0'..=b'9') => self.integers(),
                        other => other == Some(b']'),
                    };
                    if ends {
                        self.close();
                    } else {
                        if self.word_is_full(base + 1) {
                            outer.push(in_object);
                        }
                        in_object <<= 1;
                        continue;
                    }
                }
                _ => self.skip_scalar()?,
            }
            // Behind a value: close what it ends, or go on to the next.
            loop {
                if self.depth == base {
                    return Ok(());
                }
                let object = in_object & 1 == 1;
                match (self.peek(), object) {
                    (Some(b','), _) => {
                        self.pos += 1;
                        if object {
                            self.key()?;
                        }
                        break;
                    }
                    (Some(b'}'), true) | (Some(b']'), false) => {
                        self.close();
                        in_object >>= 1;
                        if self.word_is_full(base) {
                            in_object = outer.pop().unwrap_or_default();
                        }
                    }
                    (_, true) => return Err(self.syntax(self.pos, "',' or '}'")),
                    (_, false) => return Err(self.syntax(self.pos, "',' or ']'")),
                }
            }
        }
    }

    /// Steps over as many integers of a compact list as it can, such as the UTF-8 bytes that come with every logprob, up
    /// to one of them or to the bracket that ends the list. Whether it is that bracket.
    #[inline(always)]
    fn integers(&mut self) -> bool {
        while let Some(window) = self.chunk() {
            match simd::integers(window) {
                Integers::End(len) => {
                    self.pos += len;
                    return true;
                }
                Integers::More(len) => self.pos += len,
                Integers::Other => break,
            }
        }
        false
    }

    /// Whether the levels above `base` fill a whole word, or several.
    #[inline(always)]
    fn word_is_full(&self, base: usize) -> bool {
        let levels = self.depth - base;
        levels.is_multiple_of(128) && levels > 0
    }

    /// Steps over what is left of an array: the value at `pos`, which is an element of it, and all behind it.
    pub(super) fn skip_elements(&mut self) -> Result<()> {
        loop {
            self.skip_value()?;
            match self.peek() {
                Some(b',') => self.pos += 1,
                Some(b']') => {
                    self.close();
                    return Ok(());
                }
                _ => return Err(self.syntax(self.pos, "',' or ']'")),
            }
        }
    }

    /// Steps over a key and its colon.
    fn key(&mut self) -> Result<()> {
        if self.peek() != Some(b'"') {
            return Err(self.syntax(self.pos, "a key"));
        }
        self.string()?;
        if self.byte() != Some(b':') && self.peek() != Some(b':') {
            return Err(self.syntax(self.pos, "':'"));
        }
        self.pos += 1;
        Ok(())
    }

    fn literal(&mut self, literal: &'static [u8]) -> Result<()> {
        for &expected in literal {
            if self.byte() != Some(expected) {
                return Err(self.syntax(self.pos, "a literal"));
            }
            self.pos += 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::Limits;
    use proptest::prelude::*;

    fn whole(body: &[u8]) -> Result<()> {
        within(body, Limits::default())
    }

    fn within(body: &[u8], limits: Limits) -> Result<()> {
        let mut cursor = Cursor::within(body, limits);
        cursor.skip_value()?;
        cursor.end()
    }

    #[test]
    fn depth_is_bounded() {
        let nested = |n: usize| [vec![b'['; n], vec![b']'; n]].concat();
        for max_depth in [16, 128, 129, 512] {
            let limits = Limits {
                max_depth,
                ..Limits::default()
            };
            within(&nested(max_depth), limits).unwrap();
            let error = within(&nested(max_depth + 1), limits).unwrap_err();
            assert_eq!((error.kind, error.offset), ("too_deep", Some(max_depth)));
        }
        let objects = [br#"{"a":"#.repeat(64), b"1".to_vec(), vec![b'}'; 64]].concat();
        whole(&objects).unwrap();
    }

    #[test]
    fn brackets_match_at_every_depth() {
        let limits = Limits {
            max_depth: *Limits::DEPTHS.end(),
            ..Limits::default()
        };
        // Neither period divides a word of 128 levels.
        for period in [1, 2, 3, 5, 7] {
            let levels: Vec<_> = (0..400).map(|level| level % period == 0).collect();
            let open: String = levels
                .iter()
                .map(|&o| if o { r#"{"a":[2],"b":"# } else { "[[1,2],{}," })
                .collect();
            let close = |wrong: Option<usize>| -> String {
                let closing = |(i, &object): (usize, &bool)| {
                    if object != (wrong == Some(i)) {
                        '}'
                    } else {
                        ']'
                    }
                };
                levels.iter().enumerate().rev().map(closing).collect()
            };
            within(format!("{open}0{}", close(None)).as_bytes(), limits).unwrap();
            for wrong in [0, 1, 126, 127, 128, 129, 255, 256, 257, 399] {
                let body = format!("{open}0{}", close(Some(wrong)));
                let error = within(body.as_bytes(), limits).unwrap_err();
                assert_eq!(
                    (error.kind, error.offset),
                    ("syntax", Some(body.len() - 1 - wrong))
                );
            }
        }
    }

    #[test]
    fn the_wrong_byte_is_named() {
        for (body, kind, offset) in [
            (&b""[..], "truncated", 0),
            (b" \n", "truncated", 2),
            (b"{", "truncated", 1),
            (b"[1,]", "syntax", 3),
            (b"[0,11,22,33,44,55,66,77,]", "syntax", 24),
            (b"[0,11,22,33,44,55,66,07]", "syntax", 22),
            (b"[0,11,22,33,44,55,66,77", "truncated", 23),
            (b"[1 2]", "syntax", 3),
            (b"{\"a\" 1}", "syntax", 5),
            (b"{\"a\":1,}", "syntax", 7),
            (b"{\"a\":1]", "syntax", 6),
            (b"[1}", "syntax", 2),
            (b"nulL", "syntax", 3),
            (b"tru", "truncated", 3),
            (b"NaN", "syntax", 0),
            (b"-Infinity", "syntax", 1),
            (b"01", "trailing_data", 1),
            (b"1.e1", "syntax", 2),
            (b"1 1", "trailing_data", 2),
            (b"\x0c1", "syntax", 0),
            (b"\xef\xbb\xbf1", "syntax", 0),
        ] {
            let error = whole(body).unwrap_err();
            assert_eq!(
                (error.kind, error.offset),
                (kind, Some(offset)),
                "{}",
                String::from_utf8_lossy(body)
            );
        }
    }

    proptest! {
        #[test]
        fn accepts_the_lists_that_serde_json_accepts(body in r#"\[([1-9][0-9]{0,3},){0,12}[0-9,\]. -]{0,12}"#) {
            let body = format!("{body}  ]");
            let theirs = serde_json::from_str::<&serde_json::value::RawValue>(&body).is_ok();
            prop_assert_eq!(whole(body.as_bytes()).is_ok(), theirs, "{}", body);
        }

        #[test]
        fn accepts_what_serde_json_accepts(body in r#"[\[\]{},:"\\a-c0-2.eE+ tnul-]{0,24}"#) {
            let ours = whole(body.as_bytes()).is_ok();
            // Arbitrary numbers, as text: serde_json refuses those that overflow a double, the grammar does not.
            let theirs = serde_json::from_str::<&serde_json::value::RawValue>(&body).is_ok();
            prop_assert_eq!(ours, theirs, "{}", body);
        }
    }
}
