//! Base64 texts, and windows of what they decode to.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use dynamo_tito::base64::{Element, Kernel, decoded_len};

/// What may be asked for: bytes, or elements as int32.
const ELEMENTS: [Option<Element>; 5] = [
    None,
    Some(Element::U8),
    Some(Element::U16),
    Some(Element::I16),
    Some(Element::I32),
];

/// Around an output, where nothing may be written.
const MARGIN: usize = 64;

/// What is asked of a text.
#[derive(Debug)]
struct Question {
    text: Box<[u8]>,
    element: Option<Element>,
    /// Bytes of the decoded stream before the first item.
    skip: usize,
    /// Items.
    len: usize,
    /// Items between a multiple of [`MARGIN`] and the output.
    shift: usize,
}

impl Question {
    /// A text that the input spells, or the encoding of its bytes with one character changed at times.
    fn new(input: &[u8]) -> Option<Self> {
        let (
            &[
                flags,
                element,
                shift,
                skip_low,
                skip_high,
                cut,
                at_low,
                at_high,
                wrong,
            ],
            rest,
        ) = input.split_first_chunk()?;
        let text = match flags & 3 {
            0 => rest.to_vec(),
            1 => STANDARD.encode(rest).into_bytes(),
            // Long enough for aligned stores.
            2 => STANDARD.encode(rest.repeat(8)).into_bytes(),
            _ => {
                let mut text = STANDARD.encode(rest).into_bytes();
                let at = usize::from(u16::from_le_bytes([at_low, at_high]));
                if let Some(at) = at.checked_rem(text.len()) {
                    text[at] = wrong;
                }
                text
            }
        };
        let element = ELEMENTS[usize::from(element) % ELEMENTS.len()];
        let size = element.map_or(1, Element::size);
        let decoded = measured(&text).unwrap_or(0);
        let skip = usize::from(u16::from_le_bytes([skip_low, skip_high])) % (decoded + 1);
        let len = ((decoded - skip) / size).saturating_sub(cut.into());
        let shift = usize::from(shift) % MARGIN;
        Some(Self {
            // No spare capacity: what reads beyond the end is seen by the sanitizer.
            text: text.into(),
            element,
            skip,
            len,
            shift,
        })
    }

    fn size(&self) -> usize {
        self.element.map_or(1, Element::size)
    }

    /// Group by group, as the rules say: the items, or where the first wrong character is among the groups that hold them.
    fn expected(&self) -> Result<Vec<i32>, usize> {
        if !self.text.len().is_multiple_of(4) {
            return Err(self.text.len());
        }
        if self.len == 0 {
            return Ok(Vec::new());
        }
        let end = self.skip + self.len * self.size();
        let mut bytes = Vec::new();
        for group in self.skip / 3..end.div_ceil(3) {
            append_group(&self.text, 4 * group, &mut bytes)?;
        }
        let items = bytes[self.skip % 3..].chunks_exact(self.size());
        let item = |item: &[u8]| match (self.element, item) {
            (Some(Element::I16), &[a, b]) => i16::from_le_bytes([a, b]).into(),
            (_, &[a]) => a.into(),
            (_, &[a, b]) => u16::from_le_bytes([a, b]).into(),
            (_, &[a, b, c, d]) => i32::from_le_bytes([a, b, c, d]),
            _ => unreachable!("items have one of four sizes"),
        };
        Ok(items.take(self.len).map(item).collect())
    }

    /// What a kernel writes, with untouched margins.
    fn answer(&self, kernel: &Kernel) -> Result<Vec<i32>, usize> {
        let start = MARGIN + self.shift;
        match self.element {
            None => {
                let mut memory = vec![0xa5_u8; start + self.len + MARGIN];
                let out = &mut memory[start..][..self.len];
                let result = kernel.decode(&self.text, self.skip, out);
                let out = within(&memory, start, self.len, 0xa5);
                result.map(|()| out.iter().map(|&byte| byte.into()).collect())
            }
            Some(element) => {
                let untouched = i32::MIN + 7;
                let mut memory = vec![untouched; start + self.len + MARGIN];
                let out = &mut memory[start..][..self.len];
                let result = kernel.widen(&self.text, element, self.skip, out);
                let out = within(&memory, start, self.len, untouched);
                result.map(|negative| {
                    assert_eq!(negative, out.iter().any(|&item| item < 0), "{element:?}");
                    out.to_vec()
                })
            }
        }
    }
}

/// How many bytes whole groups stand for, whatever their characters.
fn measured(text: &[u8]) -> Option<usize> {
    let padding = text.iter().rev().take(2).take_while(|&&byte| byte == b'=');
    text.len()
        .is_multiple_of(4)
        .then(|| text.len() / 4 * 3 - padding.count())
}

fn letter(byte: u8) -> Option<u32> {
    let value = match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => return None,
    };
    Some(value.into())
}

/// Appends the bytes of the group at `at`; only the text's last one may be padded.
fn append_group(text: &[u8], at: usize, out: &mut Vec<u8>) -> Result<(), usize> {
    let group = &text[at..at + 4];
    let padding = match group {
        [_, _, b'=', b'='] if at + 4 == text.len() => 2,
        [_, _, _, b'='] if at + 4 == text.len() => 1,
        _ => 0,
    };
    let mut bits = 0;
    for (i, &byte) in group[..4 - padding].iter().enumerate() {
        bits |= letter(byte).ok_or(at + i)? << (18 - 6 * i);
    }
    let bytes = &bits.to_be_bytes()[1..];
    let (bytes, unused) = bytes.split_at(3 - padding);
    if unused.iter().any(|&byte| byte != 0) {
        return Err(at + 3 - padding);
    }
    out.extend_from_slice(bytes);
    Ok(())
}

/// The output, everything around which is as it was.
fn within<T: Copy + PartialEq>(memory: &[T], start: usize, len: usize, untouched: T) -> &[T] {
    let (before, rest) = memory.split_at(start);
    let (out, behind) = rest.split_at(len);
    assert!(
        before.iter().chain(behind).all(|item| *item == untouched),
        "written outside of the output"
    );
    out
}

/// Panics where a kernel differs from the rules above, or the verdict on the whole text from the base64 crate's.
pub fn judge(input: &[u8]) {
    let Some(question) = Question::new(input) else {
        return;
    };
    let text = &question.text;
    let letters = text.iter().position(|&byte| letter(byte).is_none());
    let letters = letters.unwrap_or(text.len());
    let crates = STANDARD.decode(text).ok();
    let ours = text[letters..]
        .iter()
        .all(|&byte| byte == b'=')
        .then(|| decoded_len(text).ok())
        .flatten();
    assert_eq!(ours, crates.as_ref().map(Vec::len), "{question:?}");

    let expected = question.expected();
    let whole = Question {
        text: text.clone(),
        element: None,
        skip: 0,
        len: ours.unwrap_or(0),
        shift: question.shift,
    };
    let crates = crates.unwrap_or_default();
    for kernel in Kernel::available() {
        for kernel in [kernel.streaming_from(0), kernel.streaming_from(usize::MAX)] {
            assert_eq!(
                kernel.alphabet_len(text),
                letters,
                "{kernel:?} {question:?}"
            );
            let answer = question.answer(&kernel);
            assert_eq!(answer, expected, "{kernel:?} {question:?}");
            if ours.is_some() {
                let answer = whole.answer(&kernel).expect("a text that was judged good");
                assert!(
                    answer
                        .iter()
                        .copied()
                        .eq(crates.iter().map(|&byte| i32::from(byte))),
                    "{kernel:?} {whole:?}"
                );
            }
        }
    }
}
