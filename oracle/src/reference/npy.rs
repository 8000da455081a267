//! The header of an npy file: a Python dict literal.

/// What a header says.
pub(super) struct Header {
    /// `|u1`, `<u2`, `<i2` or `<i4`: the caller looks.
    pub(super) descr: String,
    pub(super) shape: Vec<u64>,
}

/// Reads `{'descr': '|u1', 'fortran_order': False, 'shape': (8, 4, 2), }`; None for anything else, and for another number of
/// dimensions.
pub(super) fn parse(text: &[u8], dimensions: usize) -> Option<Header> {
    let mut literal = Literal { text, at: 0 };
    let (mut descr, mut order, mut shape) = (None, None, None);
    literal.token(b"{")?;
    while literal.token(b"}").is_none() {
        let key = literal.string()?;
        literal.token(b":")?;
        let first_time = match key.as_str() {
            "descr" => descr.replace(literal.string()?).is_none(),
            "fortran_order" => order.replace(literal.token(b"False")?).is_none(),
            "shape" => shape.replace(literal.tuple(dimensions)?).is_none(),
            _ => false,
        };
        if !first_time {
            return None;
        }
        if literal.token(b",").is_none() {
            literal.token(b"}")?;
            break;
        }
    }
    literal.white_space();
    order?;
    (literal.at == text.len()).then_some(Header {
        descr: descr?,
        shape: shape?,
    })
}

struct Literal<'a> {
    text: &'a [u8],
    at: usize,
}

impl Literal<'_> {
    fn rest(&self) -> &[u8] {
        &self.text[self.at..]
    }

    fn white_space(&mut self) {
        while matches!(self.rest(), [b' ' | b'\t' | b'\n' | b'\r', ..]) {
            self.at += 1;
        }
    }

    /// Steps over white space and a word, if that is what comes next.
    fn token(&mut self, word: &[u8]) -> Option<()> {
        self.white_space();
        self.rest().starts_with(word).then(|| self.at += word.len())
    }

    /// A string in either quote.
    fn string(&mut self) -> Option<String> {
        let quote = if self.token(b"'").is_some() {
            b'\''
        } else {
            self.token(b"\"")?;
            b'"'
        };
        let length = self.rest().iter().position(|&byte| byte == quote)?;
        let content = &self.rest()[..length];
        if content.contains(&b'\\') {
            return None;
        }
        let content = String::from_utf8(content.to_vec()).ok()?;
        self.at += length + 1;
        Some(content)
    }

    /// A tuple of so many integers.
    fn tuple(&mut self, dimensions: usize) -> Option<Vec<u64>> {
        self.token(b"(")?;
        let mut sizes = vec![self.integer()?];
        for _ in 1..dimensions {
            self.token(b",")?;
            sizes.push(self.integer()?);
        }
        // One comma may trail.
        let _ = self.token(b",");
        self.token(b")")?;
        Some(sizes)
    }

    /// A canonical decimal below 2^63.
    fn integer(&mut self) -> Option<u64> {
        self.white_space();
        let digits = self.rest().iter().take_while(|b| b.is_ascii_digit());
        let text: String = digits.map(|&b| char::from(b)).collect();
        if text.len() > 1 && text.starts_with('0') {
            return None;
        }
        self.at += text.len();
        let value: i64 = text.parse().ok()?;
        u64::try_from(value).ok()
    }
}
