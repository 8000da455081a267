//! Finds an element of a validated list without reading the elements before it.

use super::simd::Structure;

const BLOCK: usize = 64;

/// The offset of element `index` of the validated array whose bracket is at `at`. None where it has fewer.
pub(crate) fn element_offset(body: &[u8], at: usize, index: usize) -> Option<usize> {
    let first = at + 1;
    let mut search = Search {
        left: index,
        depth: 0,
        in_string: false,
        escaped: false,
    };
    let behind = if index == 0 {
        first
    } else {
        body.get(first..)?
            .chunks(BLOCK)
            .zip((first..).step_by(BLOCK))
            .find_map(|(block, begin)| Some(search.step(block)?.map(|place| begin + place + 1)))??
    };
    Some(behind_space(body, behind)).filter(|&found| body.get(found) != Some(&b']'))
}

fn behind_space(body: &[u8], at: usize) -> usize {
    let rest = body.get(at..).unwrap_or_default().iter();
    let space = rest.take_while(|byte| matches!(byte, b' ' | b'\n' | b'\t' | b'\r'));
    at + space.count()
}

/// Where the element begins that `end` lies in or just behind, of the array at `at` that has been read up to `end`. None where
/// the array ends before, and where there is no array.
pub(crate) fn element_around(body: &[u8], at: usize, end: usize) -> Option<usize> {
    if body.get(at) != Some(&b'[') {
        return None;
    }
    let mut search = Search {
        left: usize::MAX,
        depth: 0,
        in_string: false,
        escaped: false,
    };
    let read = body.get(at + 1..end)?;
    let mut last = None;
    for (number, block) in read.chunks(BLOCK).enumerate() {
        let before = search;
        if search.step(block).is_some() {
            return None;
        }
        if search.left < before.left {
            last = Some((number, block, before));
        }
    }
    let Some((number, block, mut before)) = last else {
        return element_offset(body, at, 0);
    };
    before.left -= search.left;
    let place = before.step(block)??;
    Some(behind_space(body, at + 1 + number * BLOCK + place + 1))
}

/// What is known at the beginning of a block.
#[derive(Clone, Copy)]
struct Search {
    /// Commas of the list itself that are still to come, at least one.
    left: usize,
    /// Open brackets inside the list.
    depth: usize,
    in_string: bool,
    escaped: bool,
}

impl Search {
    /// Looks at a block: the place of the last comma, or None inside where the list ends before it.
    #[inline]
    fn step(&mut self, block: &[u8]) -> Option<Option<usize>> {
        let Some(whole) = block.first_chunk::<BLOCK>() else {
            return self.bytes(block);
        };
        let found = Structure::of(whole);
        if found.backslashes != 0 || self.escaped {
            return self.bytes(block);
        }
        // Set from every opening quote to the byte before its closing one.
        let mut strings = found.quotes;
        for shift in [1, 2, 4, 8, 16, 32] {
            strings ^= strings << shift;
        }
        if self.in_string {
            strings = !strings;
        }
        self.in_string = strings >> 63 == 1;
        let brackets = (found.opening | found.closing) & !strings;
        let commas = found.commas & !strings;
        if brackets == 0 {
            let own = if self.depth == 0 {
                commas.count_ones() as usize
            } else {
                0
            };
            if own < self.left {
                self.left -= own;
                return None;
            }
        }
        let mut rest = brackets | commas;
        while rest != 0 {
            let place = rest.trailing_zeros() as usize;
            rest &= rest - 1;
            let ends = self.structural(whole[place]);
            if let Some(found) = ends {
                return Some(found.then_some(place));
            }
        }
        None
    }

    /// A structural byte outside of strings: whether it is the comma, once there is an answer.
    #[inline(always)]
    fn structural(&mut self, byte: u8) -> Option<bool> {
        match byte {
            b'[' | b'{' => self.depth += 1,
            b']' | b'}' if self.depth == 0 => return Some(false),
            b']' | b'}' => self.depth -= 1,
            _ if self.depth == 0 => {
                self.left -= 1;
                return (self.left == 0).then_some(true);
            }
            _ => {}
        }
        None
    }

    /// The same byte by byte: escapes, and the end of the body.
    fn bytes(&mut self, block: &[u8]) -> Option<Option<usize>> {
        for (place, &byte) in block.iter().enumerate() {
            if self.escaped {
                self.escaped = false;
            } else if self.in_string {
                self.escaped = byte == b'\\';
                self.in_string = byte != b'"';
            } else if byte == b'"' {
                self.in_string = true;
            } else if matches!(byte, b'[' | b'{' | b']' | b'}' | b',')
                && let Some(found) = self.structural(byte)
            {
                return Some(found.then_some(place));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::Cursor;
    use proptest::prelude::*;

    /// Every element's offset, by reading the list.
    fn offsets(body: &[u8], at: usize) -> Vec<usize> {
        let mut found = Vec::new();
        let read = Cursor::at(body, at).array(|cursor, _| {
            found.push(cursor.pos);
            cursor.skip_value()
        });
        read.unwrap();
        found
    }

    fn same(body: &str) {
        let expected = offsets(body.as_bytes(), 0);
        for pair in expected.windows(2) {
            let (one, next) = (pair[0], pair[1]);
            let comma = (one + 1..next).rfind(|&at| body.as_bytes()[at] == b',');
            for end in [one, one + 1, comma.unwrap()] {
                let found = element_around(body.as_bytes(), 0, end);
                assert_eq!(found, Some(one), "{body} {end}");
            }
            assert_eq!(
                element_around(body.as_bytes(), 0, next),
                Some(next),
                "{body}"
            );
        }
        assert_eq!(
            element_around(body.as_bytes(), 0, body.len()),
            None,
            "{body}"
        );
        assert_eq!(element_around(body.as_bytes(), 0, 0), None, "{body}");
        for (index, &offset) in expected.iter().enumerate() {
            assert_eq!(
                element_offset(body.as_bytes(), 0, index),
                Some(offset),
                "{body} {index}"
            );
        }
        for beyond in [0, 1, 70] {
            assert_eq!(
                element_offset(body.as_bytes(), 0, expected.len() + beyond),
                None,
                "{body}"
            );
        }
    }

    #[test]
    fn lists() {
        same("[]");
        same("[ \n ]");
        same("[1]");
        same("[1,2 , [3,4],{\"a\":[5,6],\"b\":7} ,\"8,9]\",\n10]  ,11");
        same(r#"["\\",",","\",","]","\\\",",1]"#);
        for padding in 0..130 {
            let text = "x".repeat(padding);
            same(&format!(
                r#"["{text}","\"{text},",[[{{"k":"{text}]"}}],1],"{text}\\",2]"#
            ));
        }
        same(&format!(
            "[{}]",
            (0..500)
                .map(|i| i.to_string())
                .collect::<Vec<_>>()
                .join(",")
        ));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn any_list(items in proptest::collection::vec(
            r#"[0-9]{1,9}|"([a-z,\[\]{} ]|\\["\\n]){0,40}"|\[("[,\]]*"|[0-9])?(, *[0-9])?\]|\{"[,}]{0,3}": *\[1,2\]\}"#, 0..60
        )) {
            let body = format!("[{}]", items.join(" , "));
            let items = items.iter().all(|item| {
                let mut cursor = Cursor::new(item.as_bytes());
                cursor.skip_value().is_ok() && cursor.end().is_ok()
            });
            if items {
                same(&body);
            }
        }
    }
}
