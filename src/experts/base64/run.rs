//! What surrounds a kernel: a first partial group, the padded last one, and the byte that made a kernel stop.

use std::mem::MaybeUninit;

use super::kernel::Bulk;
use super::portable;

/// How a kernel writes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stores {
    /// Through the cache.
    Cached,
    /// Around the cache, to an output that starts at a cache line.
    Streaming,
}

/// Alignment at which a kernel's stores do not straddle cache lines.
const LINE: usize = 64;

/// Fills `out` with items of `size` bytes of the decoded stream, the first of which begins at byte `skip`.
pub(super) fn run<T>(
    text: &[u8],
    skip: usize,
    size: usize,
    out: &mut [MaybeUninit<T>],
    bulk: Bulk<T>,
    item: impl Fn(&mut Bytes<'_>) -> Result<T, usize>,
) -> Result<(), usize> {
    if !text.len().is_multiple_of(4) {
        return Err(text.len());
    }
    let padding = text
        .iter()
        .rev()
        .take(2)
        .take_while(|&&byte| byte == b'=')
        .count();
    let available = text.len() / 4 * 3 - padding;
    let wanted = out
        .len()
        .checked_mul(size)
        .and_then(|bytes| bytes.checked_add(skip));
    assert!(
        wanted.is_some_and(|end| end <= available),
        "{} items of {size} bytes from {skip} on, of {available} bytes",
        out.len()
    );

    let (head, rest) = out.split_at_mut(head_len(skip, size, out));
    let start = skip + head.len() * size;
    fill(text, skip, head, &item)?;
    // The last group may be padded.
    let groups = (rest.len() * size / 3).min((text.len() / 4).saturating_sub(1 + start / 3));
    let from = start / 3 * 4;
    let done = bulk(
        &text[from.min(text.len())..][..4 * groups],
        rest,
        Stores::Cached,
    );
    fill(text, start + done * size, &mut rest[done..], &item)
}

/// Items before the first one that begins both with a group and, in a long output, with a cache line.
fn head_len<T>(skip: usize, size: usize, out: &[MaybeUninit<T>]) -> usize {
    let group = |items: usize| (skip + items * size).is_multiple_of(3);
    let line = |items: usize| (out.as_ptr().addr() + items * size_of::<T>()).is_multiple_of(LINE);
    // No item's size is a multiple of three, so one of three items begins with a group, and one of 3 x LINE with a line too.
    let found = if out.len() < 16 * LINE {
        (0..3).find(|&items| group(items))
    } else {
        (0..3 * LINE).find(|&items| group(items) && line(items))
    };
    found.unwrap_or(0).min(out.len())
}

fn fill<T>(
    text: &[u8],
    skip: usize,
    out: &mut [MaybeUninit<T>],
    item: impl Fn(&mut Bytes<'_>) -> Result<T, usize>,
) -> Result<(), usize> {
    let mut bytes = Bytes {
        text,
        group: skip / 3,
        held: [0; 3],
        left: 0,
    };
    for _ in 0..skip % 3 * usize::from(!out.is_empty()) {
        bytes.next()?;
    }
    for slot in out {
        slot.write(item(&mut bytes)?);
    }
    Ok(())
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

impl Bytes<'_> {
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

    /// The next group's bytes; in place of padding, zeros that nobody asks for.
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
            .position(|&letter| portable::value(letter) > 63)
        {
            return Err(at + bad);
        }
        let [a, b, c, d] = letters.map(|letter| u32::from(portable::value(letter)));
        let [_, bytes @ ..] = (a << 18 | b << 12 | c << 6 | d).to_be_bytes();
        if bytes[3 - padding..].iter().any(|&byte| byte != 0) {
            return Err(at + 3 - padding);
        }
        Ok(bytes)
    }
}
