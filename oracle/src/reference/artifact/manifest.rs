//! The manifest of an artifact: the tree, held against the keys of the page in their order.

use super::msgpack::{self, Item, Value};
use dynamo_tito::{Class, Error, Result};

/// A tensor's entry, and its values once they are read.
#[derive(Debug, Clone)]
pub(super) struct Tensor {
    pub(super) at: usize,
    pub(super) dtype: String,
    pub(super) shape: Vec<u64>,
    pub(super) offset: u64,
    pub(super) byte_count: u64,
}

impl Tensor {
    /// How many rows and columns; one column where there is one dimension.
    pub(super) fn rows(&self) -> u64 {
        self.shape[0]
    }

    pub(super) fn columns(&self) -> u64 {
        self.shape.get(1).copied().unwrap_or(1)
    }
}

#[derive(Debug, Clone)]
pub(super) struct Router {
    pub(super) id: u64,
    pub(super) experts: u64,
    pub(super) ids: Tensor,
}

#[derive(Debug, Clone)]
pub(super) struct Scores {
    pub(super) start: u64,
    pub(super) ids: Option<Tensor>,
    pub(super) logprobs: Tensor,
}

#[derive(Debug, Clone)]
pub(super) struct Manifest {
    pub(super) index: u64,
    pub(super) prompt: u64,
    pub(super) sequence: Tensor,
    pub(super) routes: Option<(u64, Vec<Router>)>,
    pub(super) selected: Option<Scores>,
    pub(super) top: Option<Scores>,
}

fn refuse<T>(kind: &'static str, path: &str, at: usize) -> Result<T> {
    Err(Error::new(
        Class::Malformed,
        kind,
        path,
        at,
        "refused by the page",
    ))
}

fn join(path: &str, key: &str) -> String {
    match path {
        "" => key.to_owned(),
        path => format!("{path}.{key}"),
    }
}

/// The value itself, if it is whole and spelled in the shortest way.
fn open<'i>(item: &'i Item, path: &str) -> Result<&'i Value> {
    if let Value::Broken(error) = &item.value {
        return Err(error.clone().under(path));
    }
    if item.longer_than_needed {
        return refuse("canonical", path, item.at);
    }
    Ok(&item.value)
}

fn integer(item: &Item, path: &str, most: u64) -> Result<u64> {
    match open(item, path)? {
        Value::Integer(value @ 0..) if *value <= i128::from(most) => Ok(*value as u64),
        Value::Integer(0..) => refuse("range", path, item.at),
        _ => refuse("type", path, item.at),
    }
}

fn text<'i>(item: &'i Item, path: &str) -> Result<&'i str> {
    match open(item, path)? {
        Value::Text(text) => Ok(text),
        _ => refuse("type", path, item.at),
    }
}

/// Each element in turn, as far as the bytes go.
fn list<T>(
    item: &Item,
    path: &str,
    count: std::ops::RangeInclusive<u64>,
    mut read: impl FnMut(&Item, &str) -> Result<T>,
) -> Result<Vec<T>> {
    let Value::Array(len, items) = open(item, path)? else {
        return refuse("type", path, item.at);
    };
    if !count.contains(len) {
        return refuse("count", path, item.at);
    }
    let items = items.iter().enumerate();
    items
        .map(|(i, item)| read(item, &format!("{path}[{i}]")))
        .collect()
}

/// A map with keys that are known beforehand.
struct Keys<'i> {
    path: String,
    items: std::slice::Iter<'i, Item>,
}

impl<'i> Keys<'i> {
    fn of(item: &'i Item, path: &str, counts: &[u64]) -> Result<(u64, Self)> {
        let Value::Map(len, items) = open(item, path)? else {
            return refuse("type", path, item.at);
        };
        if !counts.contains(len) {
            return refuse("keys", path, item.at);
        }
        let keys = Self {
            path: path.to_owned(),
            items: items.iter(),
        };
        Ok((*len, keys))
    }

    /// The value of the next key, which must be this one, and the value's path.
    fn next(&mut self, key: &str) -> Result<(&'i Item, String)> {
        let name = self.items.next().expect("as many keys as were counted");
        if text(name, &self.path)? != key {
            return refuse("keys", &self.path, name.at);
        }
        let value = self.items.next().expect("a value for each key");
        Ok((value, join(&self.path, key)))
    }
}

/// Everything that the manifest says. `size` is that of the tensors together.
pub(super) fn read(bytes: &[u8], base: usize, size: u64) -> Result<Manifest> {
    let mut end = 0;
    let tree = msgpack::read(bytes, &mut end, base, 16);
    let (_, mut keys) = Keys::of(&tree, "", &[1])?;
    let (choices, path) = keys.next("choices")?;
    if let Value::Array(2.., _) = open(choices, &path)? {
        return refuse("several_choices", &path, choices.at);
    }
    let mut manifest = list(choices, &path, 1..=1, choice)?;
    let manifest = manifest.remove(0);
    if end < bytes.len() {
        return refuse("trailing_data", "", base + end);
    }
    // The tensors follow each other in the order of the page.
    let mut tensors = vec![&manifest.sequence];
    let mut others = Vec::new();
    for (_, routers) in manifest.routes.iter() {
        others.extend(routers.iter().map(|router| &router.ids));
    }
    for scores in [&manifest.selected, &manifest.top].into_iter().flatten() {
        others.extend(scores.ids.iter());
        others.push(&scores.logprobs);
    }
    others.sort_by_key(|tensor| tensor.at);
    tensors.extend(others);
    let mut sum = 0;
    for tensor in tensors {
        if tensor.offset != sum {
            return refuse("layout", "", tensor.at);
        }
        sum += tensor.byte_count;
    }
    if sum != size {
        return refuse("layout", "", base);
    }
    Ok(manifest)
}

fn choice(item: &Item, path: &str) -> Result<Manifest> {
    let (_, mut keys) = Keys::of(item, path, &[4])?;
    let (value, at) = keys.next("choice_index")?;
    let index = integer(value, &at, (1 << 31) - 1)?;
    let (mut routes, mut selected, mut top) = (None, None, None);
    let (value, at) = keys.next("components")?;
    list(value, &at, 0..=3, |item, path| {
        let (count, mut keys) = Keys::of(item, path, &[3, 4])?;
        if count == 4 {
            if top.is_some() {
                return refuse("keys", path, item.at);
            }
            let (value, at) = keys.next("candidate_token_ids")?;
            let ids = tensor(value, &at, 2, &INTEGERS)?;
            let (value, at) = keys.next("kind")?;
            if text(value, &at)? != "topk_logprobs" {
                return refuse("component", &at, value.at);
            }
            top = Some(scores(&mut keys, Some(ids))?);
            return Ok(());
        }
        let (value, at) = keys.next("kind")?;
        match text(value, &at)? {
            "moe_routes" if routes.is_some() => return refuse("keys", path, item.at),
            "selected_logprobs" if selected.is_some() => return refuse("keys", path, item.at),
            "moe_routes" => {
                let (value, at) = keys.next("routers")?;
                let routers = list(value, &at, 1..=4096, router)?;
                let (value, at) = keys.next("token_start")?;
                routes = Some((integer(value, &at, 1 << 20)?, routers));
            }
            "selected_logprobs" => selected = Some(scores(&mut keys, None)?),
            _ => return refuse("component", &at, value.at),
        }
        Ok(())
    })?;
    let (count, at) = keys.next("prompt_token_count")?;
    let prompt = integer(count, &at, 1 << 20)?;
    let (value, at) = keys.next("sequence_token_ids")?;
    let sequence = tensor(value, &at, 1, &INTEGERS)?;
    if prompt > sequence.rows() {
        return refuse("range", &join(path, "prompt_token_count"), count.at);
    }
    Ok(Manifest {
        index,
        prompt,
        sequence,
        routes,
        selected,
        top,
    })
}

fn scores(keys: &mut Keys<'_>, ids: Option<Tensor>) -> Result<Scores> {
    let (value, at) = keys.next("logprobs")?;
    let rank = if ids.is_some() { 2 } else { 1 };
    let logprobs = tensor(value, &at, rank, &["fp16", "bf16", "fp32"])?;
    if let Some(ids) = &ids
        && (!(1..=1024).contains(&logprobs.columns()) || ids.shape != logprobs.shape)
    {
        return refuse("shape", &at, value.at);
    }
    let (value, at) = keys.next("token_start")?;
    let start = integer(value, &at, 1 << 20)?;
    Ok(Scores {
        start,
        ids,
        logprobs,
    })
}

fn router(item: &Item, path: &str) -> Result<Router> {
    let (_, mut keys) = Keys::of(item, path, &[3])?;
    let (value, at) = keys.next("expert_count")?;
    let experts = integer(value, &at, 1 << 16)?;
    if experts == 0 {
        return refuse("range", &at, value.at);
    }
    let (value, at) = keys.next("expert_ids")?;
    let dtype = if experts <= 256 { "u8" } else { "u16" };
    let ids = tensor(value, &at, 2, &[dtype])?;
    if ids.columns() < 1 || ids.columns() > experts {
        return refuse("shape", &at, value.at);
    }
    let (value, at) = keys.next("router_id")?;
    let id = integer(value, &at, (1 << 63) - 1)?;
    Ok(Router { id, experts, ids })
}

const INTEGERS: [&str; 4] = ["u8", "u16", "i32", "i64"];

fn tensor(item: &Item, path: &str, rank: u64, dtypes: &[&str]) -> Result<Tensor> {
    let (_, mut keys) = Keys::of(item, path, &[4])?;
    let (bytes, bytes_path) = keys.next("byte_count")?;
    let byte_count = integer(bytes, &bytes_path, 64 << 20)?;
    let (value, at) = keys.next("dtype")?;
    let dtype = text(value, &at)?.to_owned();
    if !dtypes.contains(&dtype.as_str()) {
        return refuse("dtype", &at, value.at);
    }
    let (value, at) = keys.next("offset")?;
    let offset = integer(value, &at, 64 << 20)?;
    let (value, at) = keys.next("shape")?;
    let shape = list(value, &at, 1..=2, |item, path| integer(item, path, 1 << 20))?;
    if shape.len() as u64 != rank {
        return refuse("shape", &at, value.at);
    }
    let size = width(&dtype) as u64;
    if byte_count != shape.iter().product::<u64>() * size {
        return refuse("size", &bytes_path, bytes.at);
    }
    Ok(Tensor {
        at: item.at,
        dtype,
        shape,
        offset,
        byte_count,
    })
}

/// Bytes of an element.
pub(super) fn width(dtype: &str) -> usize {
    match dtype {
        "u8" => 1,
        "u16" | "fp16" | "bf16" => 2,
        "i32" | "fp32" => 4,
        _ => 8,
    }
}
