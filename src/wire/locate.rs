//! Finding a value again, for the message of an error. Columns do not keep the offsets of what they hold.

use crate::json::{Cursor, Kind, element_offset};

/// A step into a value.
#[derive(Debug, Clone, Copy)]
pub(super) enum Step<'s> {
    Index(usize),
    Key(&'s str),
}

/// The offset of the value behind `steps`, from the validated value at `at`.
pub(super) fn locate(body: &[u8], at: usize, steps: &[Step<'_>]) -> Option<usize> {
    let mut found = Some(at);
    for step in steps {
        let mut cursor = Cursor::at(body, found.take()?);
        let result = match (cursor.kind(), step) {
            (Ok(Kind::Array), Step::Index(index)) => {
                found = element_offset(body, cursor.pos, *index);
                Ok(())
            }
            (Ok(Kind::Object), Step::Key(name)) => cursor.object(|cursor, key| {
                if found.is_none() && key.is(name.as_bytes()) {
                    found = Some(cursor.pos);
                }
                cursor.skip_value()
            }),
            _ => return None,
        };
        result.ok()?;
    }
    found
}
