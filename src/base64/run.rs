//! What a kernel leaves over: the items before the first whole group, the padded last group, the byte that it stopped at.

use std::mem::MaybeUninit;

use super::portable::Item;
use super::scalar::Bytes;
use super::table::{Bulk, Done, Stores};

/// Alignment at which a kernel's stores do not straddle cache lines.
const LINE: usize = 64;

/// Bytes of output that a kernel writes to the end of a cache line and no further pay for aligning it.
const ALIGNED_FROM: usize = 16 << 10;

/// Fills `out` with items of the decoded stream, the first of which begins at byte `skip`; says whether any is negative.
pub(super) fn run<T>(
    text: &[u8],
    skip: usize,
    out: &mut [MaybeUninit<T>],
    item: &Item<T>,
    bulk: Bulk<T>,
    stores: Stores,
) -> Result<bool, usize> {
    if !text.len().is_multiple_of(4) {
        return Err(text.len());
    }
    let padding = text
        .iter()
        .rev()
        .take(2)
        .take_while(|&&byte| byte == b'=')
        .count();
    let decoded = text.len() / 4 * 3 - padding;
    let end = out
        .len()
        .checked_mul(item.size)
        .and_then(|bytes| bytes.checked_add(skip));
    assert!(
        end.is_some_and(|end| end <= decoded),
        "{} items of {} bytes at byte {skip} of {decoded}",
        out.len(),
        item.size,
    );

    let aligned = stores == Stores::Streaming || size_of_val(out) >= ALIGNED_FROM;
    let (head, rest) = out.split_at_mut(head_len(skip, item.size, out, aligned));
    let negative = fill(text, skip, head, item)?;
    if rest.is_empty() {
        return Ok(negative);
    }
    let skip = skip + head.len() * item.size;
    let done = bulk(
        whole_groups(text, skip, rest.len() * item.size),
        rest,
        stores,
    );
    let left = fill(
        text,
        skip + done.items * item.size,
        &mut rest[done.items..],
        item,
    )?;
    Ok(negative | done.negative | left)
}

/// Items before the first that begins with a group and, if `aligned`, with a cache line.
fn head_len<T>(skip: usize, size: usize, out: &[MaybeUninit<T>], aligned: bool) -> usize {
    let group = |items: usize| (skip + items * size).is_multiple_of(3);
    let line = |items: usize| (out.as_ptr().addr() + items * size_of::<T>()).is_multiple_of(LINE);
    // Three divides no item's size, so one in three items begins with a group; as three and LINE share no factor, one in
    // 3 x LINE begins with both.
    let head = (0..3 * LINE).find(|&items| group(items) && (!aligned || line(items)));
    head.map_or(out.len(), |head| head.min(out.len()))
}

/// The letters of all groups that lie in `len` bytes of the decoded stream from `skip` on, where a group begins, but
/// for the text's last one, which may be padded.
fn whole_groups(text: &[u8], skip: usize, len: usize) -> &[u8] {
    let before_last = text.len().saturating_sub(4);
    let start = (skip / 3 * 4).min(before_last);
    let end = (start + len / 3 * 4).min(before_last);
    &text[start..end]
}

/// What [`run`] does, without a kernel.
fn fill<T>(
    text: &[u8],
    skip: usize,
    out: &mut [MaybeUninit<T>],
    item: &Item<T>,
) -> Result<bool, usize> {
    let (head, rest) = out.split_at_mut(head_len(skip, item.size, out, false));
    let negative = one_by_one(text, skip, head, item)?;
    let skip = skip + head.len() * item.size;
    let Done {
        items: done,
        negative: in_bulk,
    } = (item.bulk)(
        whole_groups(text, skip, rest.len() * item.size),
        rest,
        Stores::Cached,
    );
    let left = one_by_one(text, skip + done * item.size, &mut rest[done..], item)?;
    Ok(negative | in_bulk | left)
}

fn one_by_one<T>(
    text: &[u8],
    skip: usize,
    out: &mut [MaybeUninit<T>],
    item: &Item<T>,
) -> Result<bool, usize> {
    if out.is_empty() {
        return Ok(false);
    }
    let mut bytes = Bytes::new(text, skip)?;
    let mut negative = false;
    for slot in out {
        negative |= (item.negative)(slot.write((item.one)(&mut bytes)?));
    }
    Ok(negative)
}
