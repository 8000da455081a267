//! Keys of an object that a typed reader knows: the usual spellings by one comparison, any other strictly.

use super::cursor::Cursor;
use super::field::Stop;
use super::string::Text;

/// A key with its quotes and colon, at most 16 bytes, compared as one integer.
pub(crate) struct KeyLiteral {
    word: u128,
    mask: u128,
    len: usize,
}

impl KeyLiteral {
    pub(crate) const fn new(text: &[u8]) -> Self {
        assert!(text.len() <= 16);
        let mut word = 0u128;
        let mut i = 0;
        while i < text.len() {
            word |= (text[i] as u128) << (8 * i);
            i += 1;
        }
        Self {
            word,
            mask: u128::MAX >> (128 - 8 * text.len()),
            len: text.len(),
        }
    }
}

impl<'a> Cursor<'a> {
    /// Steps over a key, its colon and the white space after it, if it is one of `keys`. Returns what the list pairs it
    /// with; None, and the cursor in place, for any other spelling and near the end of the body.
    #[inline(always)]
    pub(crate) fn known_key<K: Copy, const N: usize>(
        &mut self,
        keys: &[(KeyLiteral, K); N],
    ) -> Option<K> {
        let word = u128::from_le_bytes(*self.chunk()?);
        for (literal, key) in keys {
            if word & literal.mask == literal.word {
                self.pos += literal.len;
                self.space();
                return Some(*key);
            }
        }
        None
    }

    /// Reads a key of any spelling, its colon and the white space after it; `pos` is at the opening quote.
    #[inline]
    pub(crate) fn any_key(&mut self) -> Result<Text<'a>, Stop> {
        let key = self.string()?;
        if self.peek() != Some(b':') {
            return Err(Stop::Syntax);
        }
        self.pos += 1;
        self.space();
        Ok(key)
    }
}
