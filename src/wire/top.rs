//! SGLang's alternatives: a row of triples per position.

use crate::json::{Cursor, Reader};
use crate::memory::Buffer;

use super::evidence::is_sentinel;
use super::list::{Read, elements, one_more, triple};

/// Alternatives of every position, end to end: `[[[logprob, id, text], …] | null, …]`.
#[derive(Debug)]
pub(super) struct TopRows {
    pub(super) ids: Buffer<i32>,
    /// NaN where the engine has none.
    pub(super) logprobs: Buffer<f64>,
    /// Where each position begins; one more than there are positions.
    pub(super) offsets: Buffer<i64>,
}

impl Reader for TopRows {
    type Value = Self;

    #[inline(always)]
    fn read(cursor: &mut Cursor<'_>) -> Read<Self> {
        let mut top = TopRows {
            ids: Buffer::new(),
            logprobs: Buffer::new(),
            offsets: Buffer::new(),
        };
        top.offsets.push(0)?;
        let at = cursor.pos;
        elements!(cursor, String::new(), {
            let row = top.offsets.len() - 1;
            one_more(cursor, row, at)?;
            let first = top.ids.len();
            if !cursor.eat(b"null") {
                elements!(cursor, format!("[{row}]"), {
                    let index = top.ids.len() - first;
                    let (logprob, id) = triple(cursor, || format!("[{row}][{index}]"))?;
                    top.ids.push(id)?;
                    top.logprobs.push(if is_sentinel(logprob) {
                        f64::NAN
                    } else {
                        logprob
                    })?;
                });
            }
            top.offsets.push(top.ids.len() as i64)?;
        });
        Ok(top)
    }
}
