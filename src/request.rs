//! Request bodies out: token ids as decimal text.

/// Three digits each, and how many of them are significant.
static TRIPLES: [[u8; 4]; 1000] = triples();

const fn triples() -> [[u8; 4]; 1000] {
    let mut table = [[0; 4]; 1000];
    let mut i = 0;
    while i < 1000 {
        let significant = if i >= 100 {
            3
        } else if i >= 10 {
            2
        } else {
            1
        };
        table[i] = [
            b'0' + (i / 100) as u8,
            b'0' + (i / 10 % 10) as u8,
            b'0' + (i % 10) as u8,
            significant,
        ];
        i += 1;
    }
    table
}

/// Ids that are written to the stack before they are appended.
const BATCH: usize = 256;

/// Appends `1,2,3`. Ids are not negative.
pub fn write_ids(ids: &[i32], out: &mut Vec<u8>) {
    // Ten digits and a comma at most, and the four bytes that a store of three digits touches.
    let mut text = [0u8; 11 * BATCH + 4];
    out.reserve(7 * ids.len());
    for batch in ids.chunks(BATCH) {
        let mut at = 0;
        for &id in batch {
            at = write_id(id as u32, &mut text, at);
            text[at] = b',';
            at += 1;
        }
        out.extend_from_slice(&text[..at]);
    }
    if !ids.is_empty() {
        out.pop();
    }
}

/// Writes one id at `at`; returns where it ends.
#[inline(always)]
fn write_id(id: u32, text: &mut [u8; 11 * BATCH + 4], at: usize) -> usize {
    if id < 1000 {
        return write_head(id, text, at);
    }
    if id < 1_000_000 {
        let at = write_head(id / 1000, text, at);
        return write_tail(id % 1000, text, at);
    }
    let (millions, rest) = (id / 1_000_000, id % 1_000_000);
    let at = if millions < 1000 {
        write_head(millions, text, at)
    } else {
        let at = write_head(millions / 1000, text, at);
        write_tail(millions % 1000, text, at)
    };
    let at = write_tail(rest / 1000, text, at);
    write_tail(rest % 1000, text, at)
}

/// Up to three digits without leading zeros.
#[inline(always)]
fn write_head(value: u32, text: &mut [u8], at: usize) -> usize {
    let digits = TRIPLES[value as usize];
    let significant = usize::from(digits[3]);
    let shifted = u32::from_le_bytes(digits) >> (8 * (3 - significant));
    text[at..at + 4].copy_from_slice(&shifted.to_le_bytes());
    at + significant
}

/// Three digits.
#[inline(always)]
fn write_tail(value: u32, text: &mut [u8], at: usize) -> usize {
    text[at..at + 4].copy_from_slice(&TRIPLES[value as usize]);
    at + 3
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(ids: &[i32]) {
        let mut out = b"[".to_vec();
        write_ids(ids, &mut out);
        out.push(b']');
        assert_eq!(serde_json::from_slice::<Vec<i32>>(&out).unwrap(), ids);
        assert!(!out.contains(&b' '));
    }

    #[test]
    fn every_width() {
        check(&[]);
        let widths: Vec<i32> = (0..10).map(|i| 10i32.pow(i)).collect();
        check(&widths);
        check(&widths.iter().map(|id| id - 1).collect::<Vec<_>>());
        check(&[0, i32::MAX, 1_000_000, 999_999, 1_000_999, 2_000_000_001]);
        check(&(0..5000).collect::<Vec<_>>());
        check(&vec![i32::MAX; 3 * BATCH + 1]);
    }

    proptest! {
        #[test]
        fn any_ids(ids in proptest::collection::vec(0..=i32::MAX, 0..2000)) {
            check(&ids);
        }
    }
}
