//! (g), steps 1 to 5 and 7: the containers of routed experts.

use super::json::Node;
use super::readers::{self, Keys};
use super::{base64, npy};
use dynamo_tito::limits::MAX_NPY_HEADER;
use dynamo_tito::{Class, Error, Options, Result};

pub(super) fn refuse(
    kind: &'static str,
    path: &str,
    offset: usize,
    message: impl Into<String>,
) -> Error {
    Error::new(Class::RoutedExperts, kind, path, offset, message.into())
}

pub(super) fn as_routed_experts(error: Error) -> Error {
    Error {
        class: Class::RoutedExperts,
        ..error
    }
}

#[derive(Clone, Copy, PartialEq)]
pub(super) enum Dtype {
    Uint8,
    Uint16,
    Int16,
    Int32,
}

impl Dtype {
    pub(super) fn name(self) -> &'static str {
        match self {
            Dtype::Uint8 => "uint8",
            Dtype::Uint16 => "uint16",
            Dtype::Int16 => "int16",
            Dtype::Int32 => "int32",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        let all = [Dtype::Uint8, Dtype::Uint16, Dtype::Int16, Dtype::Int32];
        all.into_iter().find(|dtype| dtype.name() == name)
    }

    fn from_descr(descr: &str) -> Option<Self> {
        match descr {
            "|u1" => Some(Dtype::Uint8),
            "<u2" => Some(Dtype::Uint16),
            "<i2" => Some(Dtype::Int16),
            "<i4" => Some(Dtype::Int32),
            _ => None,
        }
    }

    fn itemsize(self) -> usize {
        match self {
            Dtype::Uint8 => 1,
            Dtype::Uint16 | Dtype::Int16 => 2,
            Dtype::Int32 => 4,
        }
    }

    /// Widens one little-endian item.
    fn widen(self, item: &[u8]) -> i32 {
        match (self, item) {
            (Dtype::Uint8, &[a]) => i32::from(a),
            (Dtype::Uint16, &[a, b]) => i32::from(u16::from_le_bytes([a, b])),
            (Dtype::Int16, &[a, b]) => i32::from(i16::from_le_bytes([a, b])),
            (Dtype::Int32, &[a, b, c, d]) => i32::from_le_bytes([a, b, c, d]),
            _ => unreachable!("items are cut to the dtype's size"),
        }
    }
}

/// Base64 text that is whole groups of four.
struct Encoded<'a> {
    path: String,
    node: &'a Node,
    text: &'a [u8],
    escaped: bool,
    decoded_len: usize,
}

impl<'a> Encoded<'a> {
    /// Step 2: the text's length.
    fn new(path: &str, node: &'a Node) -> Result<Self> {
        let Some(text) = node.as_text() else {
            let error = readers::wrong_type(path, node, "a string");
            return Err(as_routed_experts(error));
        };
        let bytes = text.value.as_bytes();
        let Some(decoded_len) = base64::decoded_len(bytes) else {
            let message = format!("{} characters are not whole groups of four", bytes.len());
            return Err(refuse("base64", path, node.end - 1, message));
        };
        Ok(Self {
            path: path.to_owned(),
            node,
            text: bytes,
            escaped: text.escaped,
            decoded_len,
        })
    }

    /// The bytes of the first groups of four characters.
    fn decode(&self, groups: usize) -> Result<Vec<u8>> {
        base64::decode(self.text, groups).map_err(|position| {
            let offset = match self.escaped {
                true => self.node.start,
                false => self.node.start + 1 + position,
            };
            let message = "not canonical base64 of the standard alphabet";
            refuse("base64", &self.path, offset, message)
        })
    }

    fn refuse(&self, kind: &'static str, message: impl Into<String>) -> Error {
        refuse(kind, &self.path, self.node.start, message)
    }
}

/// Rows as they are on the wire, undecoded.
pub(super) struct Blob<'a> {
    encoded: Encoded<'a>,
    /// Bytes before the first row.
    header: usize,
    pub(super) shape: [u64; 3],
    pub(super) dtype: Dtype,
    /// Of an object; strings carry none.
    pub(super) start: Option<u64>,
}

/// Step 1 and 4 for an object.
pub(super) fn from_object<'a>(
    path: &str,
    node: &'a Node,
    options: &Options<'_>,
) -> Result<Blob<'a>> {
    let mut keys = Keys::default();
    let (mut data, mut shape, mut start, mut dtype) = (None, None, 0, Dtype::Uint8);
    for member in node.as_object().unwrap_or_default() {
        let name = member.key.value.as_str();
        if !["data", "shape", "start", "dtype"].contains(&name) {
            continue;
        }
        let path = format!("{path}.{name}");
        keys.first_time(member, &path).map_err(as_routed_experts)?;
        let value = &member.value;
        if value.is_null() {
            continue;
        }
        match name {
            "data" if value.as_text().is_some() => data = Some((path, value)),
            "data" => {
                let error = readers::wrong_type(&path, value, "a string");
                return Err(as_routed_experts(error));
            }
            "shape" => {
                let Some(three) = three_dimensions(value) else {
                    let message = "expected [rows, layers, top_k], layers and top_k at least 1";
                    return Err(refuse("shape", &path, value.start, message));
                };
                shape = Some((three, path, value.start));
            }
            "start" => {
                let Some(position) = natural(value) else {
                    let message = "expected a position, an integer of at least 0";
                    return Err(refuse("start", &path, value.start, message));
                };
                start = position;
            }
            _ => {
                let name = value.as_text().map_or("", |text| &text.value);
                let Some(known) = Dtype::from_name(name) else {
                    let message = "expected uint8, uint16, int16 or int32";
                    return Err(refuse("dtype", &path, value.start, message));
                };
                dtype = known;
            }
        }
    }
    let missing = |key| {
        let message = format!("the object has no {key}");
        refuse("missing", &format!("{path}.{key}"), node.start, message)
    };
    let (data_path, data) = data.ok_or_else(|| missing("data"))?;
    let (shape, shape_path, shape_offset) = shape.ok_or_else(|| missing("shape"))?;
    let encoded = Encoded::new(&data_path, data)?;
    as_told(shape, &shape_path, shape_offset, options)?;
    Ok(Blob {
        encoded,
        header: 0,
        shape,
        dtype,
        start: Some(start),
    })
}

/// Steps 1 to 4 for a string.
pub(super) fn from_string<'a>(
    path: &str,
    node: &'a Node,
    options: &Options<'_>,
) -> Result<Blob<'a>> {
    let text = node.as_text().map_or("", |text| &text.value);
    if text.starts_with("k05VTVBZ") {
        return from_npy(path, node, options);
    }
    let (Some(layers), Some(top_k)) = (options.num_layers, options.top_k) else {
        return Err(Error::new(
            Class::Argument,
            "needs_num_layers",
            path,
            node.start,
            "routed experts without a shape: pass num_layers and top_k",
        ));
    };
    let encoded = Encoded::new(path, node)?;
    let values_per_row = u128::from(layers) * u128::from(top_k);
    let row = values_per_row.saturating_mul(4);
    let decoded_len = encoded.decoded_len as u128;
    if row == 0 || !decoded_len.is_multiple_of(row) {
        let message = format!("{decoded_len} bytes are not whole rows of {row} bytes");
        return Err(encoded.refuse("size", message));
    }
    let rows = (decoded_len / row) as u64;
    Ok(Blob {
        encoded,
        header: 0,
        shape: [rows, layers, top_k],
        dtype: Dtype::Int32,
        start: None,
    })
}

/// Steps 2 to 4 for an npy file.
fn from_npy<'a>(path: &str, node: &'a Node, options: &Options<'_>) -> Result<Blob<'a>> {
    let encoded = Encoded::new(path, node)?;
    let bad = |message: &str| encoded.refuse("npy", message);
    if encoded.decoded_len < 12 {
        return Err(bad("too short for an npy file"));
    }
    let preamble = encoded.decode(4)?;
    if !preamble.starts_with(b"\x93NUMPY") {
        return Err(bad("not an npy file"));
    }
    let u16_at = |at: usize| usize::from(u16::from_le_bytes([preamble[at], preamble[at + 1]]));
    let (text_start, text_len) = match preamble[6..8] {
        [1, 0] => (10, u16_at(8)),
        [2, 0] => (12, u16_at(8) + (u16_at(10) << 16)),
        _ => return Err(bad("expected version 1.0 or 2.0 of the npy format")),
    };
    let header = text_start + text_len;
    if text_len > MAX_NPY_HEADER || header > encoded.decoded_len {
        return Err(bad("the npy header does not end"));
    }
    let bytes = encoded.decode(header.div_ceil(3))?;
    let Some(described) = npy::parse(&bytes[text_start..header], 3) else {
        return Err(bad("not a header of a three-dimensional array in C order"));
    };
    let Some(dtype) = Dtype::from_descr(&described.descr) else {
        return Err(bad("expected |u1, <u2, <i2 or <i4"));
    };
    let [rows, layers, top_k] = described.shape[..] else {
        unreachable!("three were asked for");
    };
    let shape = [rows, layers, top_k];
    if layers == 0 || top_k == 0 {
        return Err(bad("layers and top_k must be at least 1"));
    }
    as_told(shape, path, node.start, options)?;
    Ok(Blob {
        encoded,
        header,
        shape,
        dtype,
        start: None,
    })
}

/// Step 4: the shape equals that of the caller.
fn as_told(shape: [u64; 3], path: &str, offset: usize, options: &Options<'_>) -> Result<()> {
    let [_, layers, top_k] = shape;
    let told_layers = options.num_layers.unwrap_or(layers);
    let told_top_k = options.top_k.unwrap_or(top_k);
    if (told_layers, told_top_k) == (layers, top_k) {
        return Ok(());
    }
    let message = format!(
        "{layers} layers and top_k {top_k}, where the caller expects {told_layers} and {told_top_k}"
    );
    Err(refuse("shape", path, offset, message))
}

/// An integer in [0, 2^63).
fn natural(node: &Node) -> Option<u64> {
    let value: i64 = node.as_natural()?.parse().ok()?;
    u64::try_from(value).ok()
}

fn three_dimensions(node: &Node) -> Option<[u64; 3]> {
    let [rows, layers, top_k] = node.as_array()? else {
        return None;
    };
    let shape = [natural(rows)?, natural(layers)?, natural(top_k)?];
    (shape[1] >= 1 && shape[2] >= 1).then_some(shape)
}

impl Blob<'_> {
    fn values_per_row(&self) -> u128 {
        u128::from(self.shape[1]) * u128::from(self.shape[2])
    }

    /// Step 5: the shape accounts for every byte.
    pub(super) fn fits(&self) -> Result<()> {
        let [rows, layers, top_k] = self.shape;
        let decoded_len = self.encoded.decoded_len - self.header;
        let bytes = (u128::from(rows))
            .checked_mul(self.values_per_row())
            .and_then(|values| values.checked_mul(self.dtype.itemsize() as u128));
        let fits = self.values_per_row() < 1 << 61 && bytes == Some(decoded_len as u128);
        if fits {
            return Ok(());
        }
        let message = format!(
            "{decoded_len} bytes do not hold {rows} x {layers} x {top_k} of {}",
            self.dtype.name()
        );
        Err(self.encoded.refuse("size", message))
    }

    /// Step 7: the values from row `drop` on.
    pub(super) fn values(&self, drop: u64) -> Result<Vec<i32>> {
        let bytes = self.encoded.decode(usize::MAX)?;
        let items = bytes[self.header..].chunks_exact(self.dtype.itemsize());
        let dropped = u128::from(drop) * self.values_per_row();
        Ok(items
            .skip(dropped as usize)
            .map(|item| self.dtype.widen(item))
            .collect())
    }
}
