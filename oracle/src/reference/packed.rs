//! prime-rl's packed arrays: base64 of little-endian items, with a shape of one dimension.

use super::json::Node;
use super::logprobs::{alignment, given, or_nan, possible, same_count};
use super::readers::{self, Keys, Logprob};
use super::{Mask, Top, base64};
use dynamo_tito::{Class, Error, Options, Result};

fn refuse(kind: &'static str, path: &str, offset: usize, message: &str) -> Error {
    Error::new(Class::Malformed, kind, path, offset, message.to_owned())
}

/// The members of these names, in the order of the document; null is absent.
fn members<'a>(
    node: &'a Node,
    path: &str,
    names: &[&str],
    mut read: impl FnMut(&str, &str, &'a Node) -> Result<()>,
) -> Result<()> {
    let Some(list) = node.as_object() else {
        return Err(readers::wrong_type(path, node, "an object"));
    };
    let mut keys = Keys::default();
    for member in list {
        let name = member.key.value.as_str();
        if names.contains(&name) {
            let path = format!("{path}.{name}");
            keys.first_time(member, &path)?;
            if !member.value.is_null() {
                read(name, &path, &member.value)?;
            }
        }
    }
    Ok(())
}

fn needed<T>(found: Option<T>, key: &str, path: &str, node: &Node) -> Result<T> {
    let path = format!("{path}.{key}");
    found.ok_or_else(|| Error::new(Class::Missing, "missing", path, node.start, "it is needed"))
}

/// A text of whole groups of base64, of which `len` bytes are expected; `unlike` is the error of another length.
pub(super) fn bytes(
    node: &Node,
    path: &str,
    len: Option<u64>,
    unlike: (&str, usize),
) -> Result<Vec<u8>> {
    let text = node.as_text().expect("a string, as was checked");
    let encoded = text.value.as_bytes();
    let Some(found) = base64::decoded_len(encoded) else {
        return Err(refuse(
            "base64",
            path,
            node.end - 1,
            "no whole groups of four",
        ));
    };
    if len != Some(found as u64) {
        return Err(refuse(
            "length",
            unlike.0,
            unlike.1,
            "another number of bytes",
        ));
    }
    base64::decode(encoded, usize::MAX).map_err(|position| {
        let offset = match text.escaped {
            true => node.start,
            false => node.start + 1 + position,
        };
        refuse("base64", path, offset, "not canonical base64")
    })
}

fn string(node: &Node, path: &str) -> Result<()> {
    match node.as_text() {
        Some(_) => Ok(()),
        None => Err(readers::wrong_type(path, node, "a string")),
    }
}

/// The bytes of a packed array, cut into items; its dtype; and where its data stands.
fn array<'a>(
    node: &'a Node,
    path: &str,
    dtypes: &[(&'static str, usize)],
    most: usize,
) -> Result<(Vec<Vec<u8>>, usize, &'a Node)> {
    let (mut data, mut shape, mut size) = (None, None, None);
    members(
        node,
        path,
        &["data", "shape", "dtype"],
        |name, path, value| {
            match name {
                "data" => {
                    string(value, path)?;
                    data = Some(value);
                }
                "shape" => {
                    let one = match value.as_array() {
                        Some([one]) => one.as_natural().and_then(|text| text.parse::<u64>().ok()),
                        _ => None,
                    };
                    let Some(count) = one.filter(|&count| count < 1 << 48) else {
                        return Err(refuse("shape", path, value.start, "expected [n]"));
                    };
                    shape = Some((count, value.start));
                }
                _ => {
                    let name = value.as_text().map(|text| text.value.as_str());
                    let known = dtypes.iter().find(|(dtype, _)| Some(*dtype) == name);
                    let Some((_, bytes)) = known else {
                        return Err(refuse("dtype", path, value.start, "another dtype"));
                    };
                    size = Some(*bytes);
                }
            }
            Ok(())
        },
    )?;
    let data = needed(data, "data", path, node)?;
    let (count, shape_at) = needed(shape, "shape", path, node)?;
    let size = needed(size, "dtype", path, node)?;
    let shape_path = format!("{path}.shape");
    if count > most as u64 {
        return Err(refuse(
            "too_many",
            &shape_path,
            shape_at,
            "more elements than tokens are allowed",
        ));
    }
    let len = count.checked_mul(size as u64);
    let decoded = bytes(data, &format!("{path}.data"), len, (&shape_path, shape_at))?;
    let items = decoded.chunks(size).map(<[u8]>::to_vec).collect();
    Ok((items, size, data))
}

fn float(item: &[u8]) -> f64 {
    match item.len() {
        4 => f64::from(f32::from_le_bytes(item.try_into().expect("four bytes"))),
        _ => f64::from_le_bytes(item.try_into().expect("eight bytes")),
    }
}

fn integer(item: &[u8]) -> i32 {
    i32::from_le_bytes(item.try_into().expect("four bytes"))
}

/// `completion_logprobs`: a value for each token.
pub(super) fn logprobs(node: &Node, path: &str, options: &Options<'_>) -> Result<Vec<Logprob>> {
    let dtypes = [("float32", 4), ("float64", 8)];
    let (items, _, data) = array(node, path, &dtypes, options.limits.max_tokens)?;
    let mut values = Vec::new();
    for (i, item) in items.iter().enumerate() {
        let value = float(item);
        if !value.is_finite() {
            return Err(refuse(
                "range",
                &format!("{path}[{i}]"),
                data.start,
                "not finite",
            ));
        }
        values.push(value);
    }
    Ok(values
        .into_iter()
        .map(|value| Logprob {
            value: Some(value),
            offset: node.start,
        })
        .collect())
}

fn natural_numbers(node: &Node, path: &str, most: usize) -> Result<Vec<i32>> {
    let (items, _, data) = array(node, path, &[("int32", 4)], most)?;
    let values: Vec<i32> = items.iter().map(|item| integer(item)).collect();
    match values.iter().position(|&value| value < 0) {
        Some(i) => Err(refuse(
            "range",
            &format!("{path}[{i}]"),
            data.start,
            "negative",
        )),
        None => Ok(values),
    }
}

/// A packed sampling mask.
pub(super) fn mask(node: &Node, path: &str, options: &Options<'_>) -> Result<Mask> {
    let (mut ids, mut counts) = (None, None);
    members(node, path, &["ids", "counts"], |name, path, value| {
        match name {
            "ids" => ids = Some(natural_numbers(value, path, usize::MAX)?),
            _ => counts = Some(natural_numbers(value, path, options.limits.max_tokens)?),
        }
        Ok(())
    })?;
    let token_ids = needed(ids, "ids", path, node)?;
    let counts = needed(counts, "counts", path, node)?;
    let mut offsets = vec![0];
    for count in counts {
        offsets.push(offsets[offsets.len() - 1] + i64::from(count));
    }
    if offsets.last() != Some(&(token_ids.len() as i64)) {
        let path = format!("{path}.ids");
        return Err(refuse(
            "length",
            &path,
            node.start,
            "the counts add up to another number",
        ));
    }
    Ok(Mask { token_ids, offsets })
}

/// The rows of a packed sampling mask.
pub(super) fn rows(node: &Node, path: &str, options: &Options<'_>) -> Result<Vec<Vec<i32>>> {
    let Mask { token_ids, offsets } = mask(node, path, options)?;
    let bounds = offsets.windows(2);
    Ok(bounds
        .map(|pair| token_ids[pair[0] as usize..pair[1] as usize].to_vec())
        .collect())
}

/// A row of `compact_logprobs`, without what stands in it twice.
type Row = Vec<(i32, f64)>;

/// `compact_logprobs`: the sampled tokens' values, and the rows.
pub(super) fn compact(
    node: &Node,
    path: &str,
    ids: &[i32],
    options: &Options<'_>,
) -> Result<(Vec<f64>, Vec<Row>)> {
    let entries = compact_rows(node, path, options)?;
    same_count(entries.len(), ids, path, node)?;
    let mut values = Vec::new();
    let mut rows = Vec::new();
    for (i, (entries, &id)) in entries.iter().zip(ids).enumerate() {
        let path = format!("{path}[{i}]");
        let mut row = Row::new();
        for &(name, value) in entries {
            match row.iter().find(|(earlier, _)| *earlier == name) {
                None => row.push((name, value)),
                Some((_, earlier)) if earlier.to_bits() == value.to_bits() => {}
                Some(_) => {
                    let message = format!("two values of token {name}");
                    return Err(alignment("contradiction", path, node.start, message));
                }
            }
        }
        let Some((_, value)) = row.iter().find(|(name, _)| *name == id) else {
            let message = format!("no entry names {id}");
            return Err(alignment("identity", path, node.start, message));
        };
        let sampled = Logprob {
            value: Some(*value),
            offset: node.start,
        };
        values.push(given(sampled, &path, options.missing_logprob)?);
        rows.push(row);
    }
    Ok((values, rows))
}

fn compact_rows(node: &Node, path: &str, options: &Options<'_>) -> Result<Vec<Row>> {
    let (mut format, mut data, mut offsets) = (None, None, None);
    members(
        node,
        path,
        &["format", "data", "offsets"],
        |name, path, value| {
            match name {
                "format" => {
                    let named = value.as_text().map(|text| text.value.as_str());
                    if named != Some("u32-f32-le-v1") {
                        return Err(refuse("format", path, value.start, "another format"));
                    }
                    format = Some(());
                }
                "data" => {
                    string(value, path)?;
                    data = Some(value);
                }
                _ => {
                    let mut options = *options;
                    options.limits.max_tokens = options.limits.max_tokens.saturating_add(1);
                    offsets = Some((value, readers::ids(value, path, &options)?));
                }
            }
            Ok(())
        },
    )?;
    needed(format, "format", path, node)?;
    let data = needed(data, "data", path, node)?;
    let (list, ends) = needed(offsets, "offsets", path, node)?;
    for i in 0..ends.len().max(1) {
        let fits = match i {
            0 => ends.first() == Some(&0),
            _ => ends[i] > ends[i - 1],
        };
        if !fits {
            let path = format!("{path}.offsets[{i}]");
            return Err(refuse(
                "offsets",
                &path,
                list.start,
                "offsets begin with 0 and rise",
            ));
        }
    }
    let count = ends[ends.len() - 1] as usize;
    let data_path = format!("{path}.data");
    let len = Some(8 * count as u64);
    let decoded = bytes(data, &data_path, len, (&data_path, data.start))?;
    let (ids, values) = decoded.split_at(4 * count);
    let ids: Vec<i32> = ids.chunks(4).map(integer).collect();
    let values: Vec<f64> = values.chunks(4).map(float).collect();
    if ids.iter().any(|&id| id < 0) || values.iter().any(|value| !value.is_finite()) {
        return Err(refuse(
            "range",
            &data_path,
            data.start,
            "no id, or not finite",
        ));
    }
    let entries: Row = ids.into_iter().zip(values).collect();
    let bounds = ends.windows(2);
    Ok(bounds
        .map(|pair| entries[pair[0] as usize..pair[1] as usize].to_vec())
        .collect())
}

/// (c) from the rows.
pub(super) fn top_of_compact(rows: &[Row], path: &str, node: &Node) -> Result<Option<Top>> {
    let mut top = Top::start();
    for (i, row) in rows.iter().enumerate() {
        for &(id, value) in row {
            let logprob = Logprob {
                value: Some(value),
                offset: node.start,
            };
            possible(logprob, &format!("{path}[{i}]"))?;
            top.push(id, or_nan(logprob));
        }
        top.end_position();
    }
    Ok((!top.token_ids.is_empty()).then_some(top))
}
