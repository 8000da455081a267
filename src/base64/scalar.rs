//! The alphabet, and the decoded stream byte by byte.

/// The 64 letters of the standard alphabet (RFC 4648, section 4), by value.
pub(super) const ALPHABET: &[u8; 64] =
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Value of every byte, 0 to 63; [`NO_LETTER`] for what is not in the alphabet.
pub(super) const VALUES: [u8; 256] = {
    let mut values = [NO_LETTER; 256];
    let mut value = 0;
    while value < 64 {
        values[ALPHABET[value] as usize] = value as u8;
        value += 1;
    }
    values
};

/// Has the top bit, which no value and no ASCII byte has.
pub(super) const NO_LETTER: u8 = 0xff;

/// Value of a letter, 0 to 63, or [`NO_LETTER`].
pub(super) const fn value(byte: u8) -> u8 {
    VALUES[byte as usize]
}

/// The decoded stream, byte by byte.
pub(super) struct Bytes<'a> {
    text: &'a [u8],
    /// The group to be decoded next.
    group: usize,
    held: [u8; 3],
    /// How many bytes at the end of `held` are still to come.
    left: usize,
}

impl<'a> Bytes<'a> {
    /// The bytes from `skip` on.
    pub(super) fn new(text: &'a [u8], skip: usize) -> Result<Self, usize> {
        let mut bytes = Self {
            text,
            group: skip / 3,
            held: [0; 3],
            left: 0,
        };
        for _ in 0..skip % 3 {
            bytes.next()?;
        }
        Ok(bytes)
    }

    pub(super) fn next(&mut self) -> Result<u8, usize> {
        if self.left == 0 {
            self.held = self.decode()?;
            self.group += 1;
            self.left = 3;
        }
        let byte = self.held[3 - self.left];
        self.left -= 1;
        Ok(byte)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], usize> {
        let mut bytes = [0; N];
        for byte in &mut bytes {
            *byte = self.next()?;
        }
        Ok(bytes)
    }

    /// The next group's bytes; in place of padding, zeros, which no item takes.
    fn decode(&self) -> Result<[u8; 3], usize> {
        let at = 4 * self.group;
        let mut letters = [
            self.text[at],
            self.text[at + 1],
            self.text[at + 2],
            self.text[at + 3],
        ];
        let last = at + 4 == self.text.len();
        let padding = match letters {
            [_, _, b'=', b'='] if last => 2,
            [_, _, _, b'='] if last => 1,
            _ => 0,
        };
        letters[4 - padding..].fill(b'A');
        if let Some(bad) = letters
            .iter()
            .position(|&letter| value(letter) == NO_LETTER)
        {
            return Err(at + bad);
        }
        let [a, b, c, d] = letters.map(|letter| u32::from(value(letter)));
        let [_, bytes @ ..] = (a << 18 | b << 12 | c << 6 | d).to_be_bytes();
        if bytes[3 - padding..].iter().any(|&byte| byte != 0) {
            return Err(at + 3 - padding);
        }
        Ok(bytes)
    }
}
