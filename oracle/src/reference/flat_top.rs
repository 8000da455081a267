//! (c): SGLang's flat form of alternatives.

use super::json::Node;
use super::logprobs::{alignment, possible};
use super::packed::bytes;
use super::readers::{self, Logprob, Triple};
use super::structure::Channel;
use dynamo_tito::{Class, Error, Options, Result};

/// The alternatives of positions: so many have none, then there is a row for each.
pub(super) struct Flat<'c, 'a> {
    prefix: usize,
    rows: Vec<Vec<Triple>>,
    /// Of the values.
    pub(super) path: &'c str,
    pub(super) node: &'a Node,
}

fn refuse(kind: &'static str, path: &str, offset: usize, message: &str) -> Error {
    Error::new(Class::Malformed, kind, path, offset, message.to_owned())
}

fn needed<'c, 'a>(channel: &'c Channel<'a>) -> Result<(&'c str, &'a Node)> {
    let missing = || {
        let path = channel.path.clone();
        Error::new(Class::Missing, "missing", path, None, "it is needed")
    };
    channel.found().ok_or_else(missing)
}

/// Reads the places of the role, which are those of the table. None where there are neither values nor ids.
pub(super) fn read<'c, 'a>(
    channels: &'c [Channel<'a>],
    options: &Options<'_>,
) -> Result<Option<Flat<'c, 'a>>> {
    let [
        values,
        ids,
        values64,
        ids64,
        dtype,
        id_dtype,
        shape,
        null_prefix,
    ] = channels
    else {
        return Ok(None);
    };
    let packed = values64.node.is_some() || ids64.node.is_some();
    if !packed && values.node.is_none() && ids.node.is_none() {
        return Ok(None);
    }
    let most = options.limits.max_tokens;
    let (shape_path, shape) = needed(shape)?;
    let too_many = || refuse("too_many", shape_path, shape.start, "too many positions");
    let sizes: Option<Vec<usize>> = shape.as_array().and_then(|sizes| {
        let size = |node: &Node| {
            node.as_natural()?
                .parse()
                .ok()
                .filter(|size| *size < 1 << 31)
        };
        sizes.iter().map(size).collect()
    });
    let (rows, width) = match sizes.as_deref() {
        Some(&[rows, width]) if width > 0 => (rows, width),
        _ => {
            return Err(refuse(
                "shape",
                shape_path,
                shape.start,
                "expected [rows, k]",
            ));
        }
    };
    if rows > most {
        return Err(too_many());
    }
    let prefix = match null_prefix.found() {
        Some((path, node)) => readers::id(node, path)?.unsigned_abs() as usize,
        None => 0,
    };
    if rows + prefix > most {
        return Err(too_many());
    }
    let count = rows * width;
    let (path, node, values, ids) = if packed {
        for (channel, expected) in [(dtype, "float32"), (id_dtype, "int32")] {
            if let Some((path, node)) = channel.found() {
                let named = node.as_text().map(|text| text.value.as_str());
                if named != Some(expected) {
                    return Err(refuse("dtype", path, node.start, "another dtype"));
                }
            }
        }
        let (path, node) = needed(values64)?;
        let values = floats(node, path, count)?;
        let (id_path, id_node) = needed(ids64)?;
        (path, node, values, integers(id_node, id_path, count)?)
    } else {
        let unlimited = &mut options.clone();
        unlimited.limits.max_tokens = usize::MAX;
        let (path, node) = needed(values)?;
        let list = readers::flat(node, path, unlimited)?;
        as_long(list.len(), count, path, node)?;
        let (id_path, id_node) = needed(ids)?;
        let ids = readers::ids(id_node, id_path, unlimited)?;
        as_long(ids.len(), count, id_path, id_node)?;
        (path, node, list, ids)
    };
    for (i, value) in values.iter().enumerate() {
        possible(*value, &format!("{path}[{i}]"))?;
    }
    let entries: Vec<Triple> = values
        .into_iter()
        .zip(ids)
        .map(|(logprob, id)| Triple {
            logprob,
            id,
            id_offset: 0,
        })
        .collect();
    let mut entries = entries.into_iter();
    let mut row = || entries.by_ref().take(width).collect();
    Ok(Some(Flat {
        prefix,
        rows: (0..rows).map(|_| row()).collect(),
        path,
        node,
    }))
}

impl Flat<'_, '_> {
    /// A row for each of so many positions.
    pub(super) fn rows(self, positions: usize) -> Result<Vec<Vec<Triple>>> {
        let found = self.prefix + self.rows.len();
        if found != positions {
            let message = format!("alternatives of {found} positions, expected {positions}");
            let path = self.path.to_owned();
            return Err(alignment("count", path, self.node.start, message));
        }
        let nothing = std::iter::repeat_with(Vec::new).take(self.prefix);
        Ok(nothing.chain(self.rows).collect())
    }

    /// Whether there is no position.
    pub(super) fn is_empty(&self) -> bool {
        self.prefix == 0 && self.rows.is_empty()
    }
}

fn as_long(found: usize, expected: usize, path: &str, node: &Node) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    Err(refuse(
        "length",
        path,
        node.start,
        "another number of elements",
    ))
}

/// Items of four bytes.
fn items(node: &Node, path: &str, count: usize) -> Result<Vec<[u8; 4]>> {
    if node.as_text().is_none() {
        return Err(readers::wrong_type(path, node, "a string"));
    }
    let decoded = bytes(node, path, Some(4 * count as u64), (path, node.start))?;
    let items = decoded.chunks(4);
    Ok(items
        .map(|item| item.try_into().expect("four bytes"))
        .collect())
}

fn floats(node: &Node, path: &str, count: usize) -> Result<Vec<Logprob>> {
    let mut values = Vec::new();
    for (i, item) in items(node, path, count)?.into_iter().enumerate() {
        let value = f64::from(f32::from_le_bytes(item));
        if value.is_nan() || value == f64::INFINITY {
            let path = format!("{path}[{i}]");
            return Err(refuse("range", &path, node.start, "no log-probability"));
        }
        values.push(Logprob {
            value: Some(value).filter(|value| value.is_finite()),
            offset: node.start,
        });
    }
    Ok(values)
}

fn integers(node: &Node, path: &str, count: usize) -> Result<Vec<i32>> {
    let mut ids = Vec::new();
    for (i, item) in items(node, path, count)?.into_iter().enumerate() {
        let id = i32::from_le_bytes(item);
        if id < 0 {
            let path = format!("{path}[{i}]");
            return Err(refuse("range", &path, node.start, "no id"));
        }
        ids.push(id);
    }
    Ok(ids)
}
