//! Artifacts: a generation artifact as the fields of an answer, and what SGLang's worker uploads as the JSON of one.

mod inline;
mod manifest;
mod msgpack;
mod routes;
mod upload;

use std::fmt::Write;

use super::json::{Kind, Node};
use super::logprobs;
use super::readers::Logprob;
use super::wires::Role;
use dynamo_tito::{Class, Error, Options, Result};
use manifest::{Manifest, Scores, Tensor};

pub(super) use inline::{Inline, inline};
pub(super) use routes::Routes;
pub(crate) use routes::encoded;
pub(super) use upload::transcribed;

/// How a zstd frame begins.
pub(super) const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// The fields that an artifact fills, and their paths.
#[derive(Debug)]
pub(super) struct Unfolded {
    pub(super) index: u32,
    pub(super) fields: Vec<(Role, String, Node)>,
    pub(super) routes: Option<Routes>,
}

/// An artifact that was read.
pub(super) struct Artifact {
    manifest: Manifest,
    tensors: Vec<u8>,
    completion: Vec<i32>,
    prompt: Vec<i32>,
    selected: Option<Vec<f64>>,
    top: Option<Vec<(i32, f64)>>,
}

fn refuse<T>(kind: &'static str, path: &str, at: usize) -> Result<T> {
    let message = "refused by the page";
    Err(Error::new(Class::Malformed, kind, path, at, message))
}

/// The content of the only zstd frame in `bytes`, which is at `at`. What it holds is looked at by `check` before.
fn decompressed(bytes: &[u8], at: usize, check: impl FnOnce(u64) -> Result<()>) -> Result<Vec<u8>> {
    let content = zstd_safe::get_frame_content_size(bytes).ok().flatten();
    let len = zstd_safe::find_frame_compressed_size(bytes).ok();
    let (true, Some(content), Some(len)) = (bytes.starts_with(&ZSTD), content, len) else {
        return refuse("zstd", "", at);
    };
    if len < bytes.len() {
        return refuse("trailing_data", "", at + len);
    }
    check(content)?;
    let mut out = vec![0; content as usize];
    match zstd_safe::decompress(&mut out[..], bytes) {
        Ok(written) if written as u64 == content => Ok(out),
        _ => refuse("zstd", "", at),
    }
}

fn within_ceiling(size: u64, at: usize, options: &Options<'_>) -> Result<()> {
    match size > options.limits.max_decompressed {
        true => refuse("too_large", "", at),
        false => Ok(()),
    }
}

/// Reads an artifact, but for its routes.
pub(super) fn read(data: &[u8], options: &Options<'_>) -> Result<Artifact> {
    let magic = b"DYNEXP1\0";
    if data.iter().zip(magic).any(|(a, b)| a != b) {
        return refuse("magic", "", 0);
    }
    if data.len() < 26 {
        return refuse("truncated", "", data.len());
    }
    let number = |range: std::ops::Range<usize>| {
        let bytes = data[range].iter().rev();
        bytes.fold(0_u64, |all, byte| all * 256 + u64::from(*byte))
    };
    let (codec, manifest, tensors) = (number(12..14), number(14..18), number(18..26));
    if (number(8..10), number(10..12)) != (1, 0) {
        return refuse("version", "", 8);
    }
    if codec > 1 {
        return refuse("codec", "", 12);
    }
    if manifest == 0 {
        return refuse("size", "", 14);
    }
    if manifest > 1 << 20 {
        return refuse("too_large", "", 14);
    }
    if tensors > 64 << 20 {
        return refuse("too_large", "", 18);
    }
    let begin = manifest.div_ceil(64) * 64;
    let size = begin + tensors;
    within_ceiling(size, 18, options)?;
    let rest = &data[26..];
    let body = match codec {
        0 if (rest.len() as u64) < size => return refuse("truncated", "", data.len()),
        0 if rest.len() as u64 > size => {
            return refuse("trailing_data", "", 26 + size as usize);
        }
        0 => rest.to_vec(),
        _ => decompressed(rest, 26, |content| match content == size {
            true => Ok(()),
            false => refuse("size", "", 26),
        })?,
    };
    let (head, tensor_bytes) = body.split_at(begin as usize);
    let (manifest, padding) = head.split_at(manifest as usize);
    if let Some(i) = padding.iter().position(|byte| *byte != 0) {
        return refuse("padding", "", 26 + manifest.len() + i);
    }
    let manifest = manifest::read(manifest, 26, tensors)?;
    Artifact::new(manifest, tensor_bytes.to_vec(), options)
}

impl Artifact {
    fn new(manifest: Manifest, tensors: Vec<u8>, options: &Options<'_>) -> Result<Self> {
        let sequence = &manifest.sequence;
        let path = "choices[0].sequence_token_ids";
        few(sequence, path, options)?;
        let ids = ids(&tensors, sequence, path)?;
        let (prompt, completion) = ids.split_at(manifest.prompt as usize);
        let (prompt, completion) = (prompt.to_vec(), completion.to_vec());
        let scores = |scores: &Scores, path: &str| {
            if scores.start != manifest.prompt {
                let path = format!("{path}.token_start");
                let at = scores.logprobs.at;
                return Err(logprobs::alignment("start", path, at, String::new()));
            }
            let path = format!("{path}.logprobs");
            few(&scores.logprobs, &path, options)?;
            floats(&tensors, &scores.logprobs, &path)
        };
        let selected = manifest.selected.as_ref();
        let selected = selected.map(|it| scores(it, "choices[0].selected_logprobs"));
        let selected = selected.transpose()?;
        let mut top = None;
        if let Some(list) = &manifest.top {
            let path = "choices[0].topk_logprobs";
            let values = scores(list, path)?;
            let names = list.ids.as_ref().expect("candidates");
            let names = self::ids(&tensors, names, &format!("{path}.candidate_token_ids"))?;
            top = Some(names.into_iter().zip(values).collect::<Vec<_>>());
        }
        if let (Some(of), Some(values), Some(list)) = (&manifest.selected, &selected, &top)
            && let Some(of_list) = &manifest.top
            && of.logprobs.dtype == of_list.logprobs.dtype
        {
            let columns = of_list.logprobs.columns() as usize;
            for (i, row) in list.chunks(columns).enumerate() {
                let (Some(id), Some(value)) = (completion.get(i), values.get(i)) else {
                    break;
                };
                let j = row.iter().position(|(candidate, _)| candidate == id);
                if let Some(j) = j.filter(|j| row[*j].1 != *value) {
                    let path = format!("choices[0].topk_logprobs.logprobs[{i}][{j}]");
                    let at = of_list.logprobs.at;
                    return Err(logprobs::alignment("identity", path, at, String::new()));
                }
            }
        }
        Ok(Self {
            manifest,
            tensors,
            completion,
            prompt,
            selected,
            top,
        })
    }

    /// As fields with these paths. With `at` it is the offset of everything.
    fn unfold(self, prefix: &str, at: Option<usize>) -> Result<Unfolded> {
        let path = |name: &str| format!("{prefix}choices[0].{name}");
        let mut fields = Vec::new();
        let sequence = at.unwrap_or(self.manifest.sequence.at);
        for (role, ids) in [
            (Role::TokenIds, &self.completion),
            (Role::PromptTokenIds, &self.prompt),
        ] {
            let node = list(ids.iter().map(ToString::to_string), sequence);
            fields.push((role, path("sequence_token_ids"), node));
        }
        if let (Some(values), Some(scores)) = (&self.selected, &self.manifest.selected) {
            let at = at.unwrap_or(scores.logprobs.at);
            let node = list(values.iter().map(|value| text(*value)), at);
            fields.push((Role::FlatLogprobs, path("selected_logprobs.logprobs"), node));
        }
        if let (Some(pairs), Some(scores)) = (&self.top, &self.manifest.top) {
            let at = at.unwrap_or(scores.logprobs.at);
            let path = path("topk_logprobs.logprobs");
            let columns = scores.logprobs.columns() as usize;
            let mut rows = Vec::new();
            for (i, row) in pairs.chunks(columns).enumerate() {
                let mut triples = Vec::new();
                for (j, (id, value)) in row.iter().enumerate() {
                    let logprob = Logprob {
                        value: Some(*value),
                        offset: at,
                    };
                    logprobs::possible(logprob, &format!("{path}[{i}][{j}]"))?;
                    triples.push(list([text(*value), id.to_string()].into_iter(), at));
                }
                rows.push(node(Kind::Array(triples), at));
            }
            fields.push((Role::TopTriples, path, node(Kind::Array(rows), at)));
        }
        let routes = self.manifest.routes.map(|(start, routers)| Routes {
            path: path("moe_routes"),
            at,
            start,
            routers,
            tensors: self.tensors,
        });
        Ok(Unfolded {
            index: self.manifest.index as u32,
            fields,
            routes,
        })
    }
}

/// An artifact as an answer.
pub(super) fn unfolded(data: &[u8], options: &Options<'_>) -> Result<Unfolded> {
    read(data, options)?.unfold("", None)
}

fn node(kind: Kind, at: usize) -> Node {
    Node {
        start: at,
        end: at,
        kind,
    }
}

fn list(numbers: impl Iterator<Item = String>, at: usize) -> Node {
    let elements = numbers.map(|text| node(Kind::Number(text), at));
    node(Kind::Array(elements.collect()), at)
}

/// A log-probability in JSON, which has no infinity.
fn text(value: f64) -> String {
    let mut text = String::new();
    let value = if value.is_infinite() { -9999.0 } else { value };
    write!(text, "{value:?}").expect("a string");
    text
}

/// No more rows than tokens are allowed.
fn few(tensor: &Tensor, path: &str, options: &Options<'_>) -> Result<()> {
    match tensor.rows() > options.limits.max_tokens as u64 {
        true => refuse("too_many", path, tensor.at),
        false => Ok(()),
    }
}

/// The bytes of each element.
fn elements<'a>(tensors: &'a [u8], tensor: &Tensor) -> std::slice::ChunksExact<'a, u8> {
    let bytes = &tensors[tensor.offset as usize..][..tensor.byte_count as usize];
    bytes.chunks_exact(manifest::width(&tensor.dtype))
}

/// The path of an element.
fn place(tensor: &Tensor, path: &str, i: usize) -> String {
    let columns = tensor.columns() as usize;
    match tensor.shape.len() {
        1 => format!("{path}[{i}]"),
        _ => format!("{path}[{}][{}]", i / columns, i % columns),
    }
}

fn ids(tensors: &[u8], tensor: &Tensor, path: &str) -> Result<Vec<i32>> {
    let mut ids = Vec::new();
    for (i, element) in elements(tensors, tensor).enumerate() {
        let magnitude = element.iter().rev();
        let bits = magnitude.fold(0_i128, |all, byte| all * 256 + i128::from(*byte));
        let signed = tensor.dtype.starts_with('i') && element.last() > Some(&0x7f);
        match i32::try_from(bits) {
            Ok(id) if !signed => ids.push(id),
            _ => return refuse("range", &place(tensor, path, i), tensor.at),
        }
    }
    Ok(ids)
}

fn floats(tensors: &[u8], tensor: &Tensor, path: &str) -> Result<Vec<f64>> {
    let (exponent_bits, fraction_bits) = match tensor.dtype.as_str() {
        "fp16" => (5, 10),
        "bf16" => (8, 7),
        _ => (8, 23),
    };
    let mut values = Vec::new();
    for (i, element) in elements(tensors, tensor).enumerate() {
        let bits = element.iter().rev();
        let bits = bits.fold(0_u64, |all, byte| all * 256 + u64::from(*byte));
        let value = number(bits, exponent_bits, fraction_bits);
        if value.is_nan() || value == f64::INFINITY {
            return refuse("range", &place(tensor, path, i), tensor.at);
        }
        values.push(value);
    }
    Ok(values)
}

/// A binary floating-point number with so many bits of exponent and fraction, by its definition.
fn number(bits: u64, exponent_bits: u32, fraction_bits: u32) -> f64 {
    let fraction = (bits % (1 << fraction_bits)) as f64 / 2_f64.powi(fraction_bits as i32);
    let exponent = bits >> fraction_bits & ((1 << exponent_bits) - 1);
    let bias = (1 << (exponent_bits - 1)) - 1;
    let magnitude = match exponent {
        0 => fraction * 2_f64.powi(1 - bias),
        all if all == (1 << exponent_bits) - 1 && fraction == 0.0 => f64::INFINITY,
        all if all == (1 << exponent_bits) - 1 => f64::NAN,
        _ => (1.0 + fraction) * 2_f64.powi(exponent as i32 - bias),
    };
    match bits >> (exponent_bits + fraction_bits) {
        0 => magnitude,
        _ => -magnitude,
    }
}
