//! SGLang's alternatives: a row of triples per position.

use crate::error::{Class, Error};
use crate::json::{Cursor, Reader};
use crate::memory::Buffer;

use super::ids::{Read, elements, id, number, one_more};
use crate::wire::sentinel::or_nan;

/// Reads SGLang's `[logprob, id, text, …]`; null as a logprob is NaN.
#[inline(always)]
pub(crate) fn triple(cursor: &mut Cursor<'_>, path: impl Fn() -> String) -> Read<(f64, i32)> {
    let at = cursor.pos;
    let mut place = 0;
    let (mut logprob, mut token) = (f64::NAN, 0);
    elements!(cursor, path(), {
        match place {
            0 if cursor.eat(b"null") => {}
            0 => logprob = number(cursor, || format!("{}[0]", path()))?,
            1 => token = id(cursor, || format!("{}[1]", path()))?,
            _ if cursor.eat(b"null") => {}
            _ => cursor.skip_value()?,
        }
        place += 1;
    });
    if place < 2 {
        return Err(Error::new(
            Class::Malformed,
            "type",
            path(),
            at,
            "found fewer than two elements where [logprob, id, text] was expected",
        )
        .into());
    }
    Ok((logprob, token))
}

/// SGLang's triples in columns.
#[derive(Debug, Default)]
pub(crate) struct Triples {
    pub(crate) logprobs: Buffer<f64>,
    pub(crate) ids: Buffer<i32>,
}

impl Reader for Triples {
    type Value = Self;

    #[inline(always)]
    fn read(cursor: &mut Cursor<'_>) -> Read<Self> {
        let mut columns = Triples::default();
        columns.append(cursor)?;
        Ok(columns)
    }
}

impl Triples {
    /// Appends the triples of the list at the cursor.
    #[inline(always)]
    pub(crate) fn append(&mut self, cursor: &mut Cursor<'_>) -> Read<()> {
        let at = cursor.pos;
        elements!(cursor, String::new(), {
            let row = self.ids.len();
            one_more(cursor, row, at)?;
            let (logprob, id) = triple(cursor, || format!("[{row}]"))?;
            self.logprobs.push(logprob)?;
            self.ids.push(id)?;
        });
        Ok(())
    }
}

/// Alternatives of every position, end to end: `[[[logprob, id, text], …] | null, …]`.
#[derive(Debug)]
pub(crate) struct TopRows {
    pub(crate) ids: Buffer<i32>,
    /// NaN where the engine has none.
    pub(crate) logprobs: Buffer<f64>,
    /// Where each position begins; one more than there are positions.
    pub(crate) offsets: Buffer<i64>,
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
                    top.logprobs.push(or_nan(logprob))?;
                });
            }
            top.offsets.push(top.ids.len() as i64)?;
        });
        Ok(top)
    }
}
