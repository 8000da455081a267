//! Artifacts: a manifest or metadata that is changed token by token, tensors that fit it or nearly do, and the frame and
//! the answer around them.

use dynamo_tito::Options;
use dynamo_tito_oracle::agreement::artifacts::{Plan, SMALL, frame, inline, metadata, object};
use dynamo_tito_oracle::agreement::{self, HEADER};
use libfuzzer_sys::fuzzer_mutate;

/// Bytes behind the options: the form, how much the sizes are off, a byte of the object that is changed, routers, and how
/// many bytes are the manifest's.
const SHAPING: usize = 7;

/// No more tensors than this.
const MOST_BYTES: usize = 1 << 12;

const ROUTERS: [Option<&[u64]>; 6] = [None, None, None, Some(&[0]), Some(&[1, 0]), Some(&[7])];

/// What manifests and metadata are made of, and their neighbours.
const TOKENS: &[&[u8]] = &[
    b"\x80",
    b"\x81",
    b"\x82",
    b"\x83",
    b"\x84",
    b"\x85",
    b"\x90",
    b"\x91",
    b"\x92",
    b"\x93",
    b"\x9f",
    b"\xc0",
    b"\xc1",
    b"\xc2",
    b"\xc3",
    b"\x00",
    b"\x01",
    b"\x02",
    b"\x7f",
    b"\xff",
    b"\xe0",
    b"\xcc\x01",
    b"\xcc\xff",
    b"\xcd\x01\x00",
    b"\xcd\x00\x01",
    b"\xce\x00\x01\x00\x00",
    b"\xcf\x00\x00\x00\x01\x00\x00\x00\x00",
    b"\xcf\x80\x00\x00\x00\x00\x00\x00\x00",
    b"\xcf\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\xd0\xff",
    b"\xd1\xff\x00",
    b"\xd3\x80\x00\x00\x00\x00\x00\x00\x00",
    b"\xca\x7f\x80\x00\x00",
    b"\xcb\xbf\xe0\x00\x00\x00\x00\x00\x00",
    b"\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00",
    b"\xc4\x02ab",
    b"\xc5\x00\x02ab",
    b"\xd9\x01a",
    b"\xda\x00\x01a",
    b"\xdc\x00\x01",
    b"\xdd\x00\x00\x00\x01",
    b"\xdd\xff\xff\xff\xff",
    b"\xde\x00\x01",
    b"\xdf\xff\xff\xff\xff",
    b"\xd4\x00\x00",
    b"\xa7choices",
    b"\xacchoice_index",
    b"\xaacomponents",
    b"\xb2prompt_token_count",
    b"\xb2sequence_token_ids",
    b"\xa4kind",
    b"\xaamoe_routes",
    b"\xb1selected_logprobs",
    b"\xadtopk_logprobs",
    b"\xb3candidate_token_ids",
    b"\xa8logprobs",
    b"\xabtoken_start",
    b"\xa7routers",
    b"\xacexpert_count",
    b"\xaaexpert_ids",
    b"\xa9router_id",
    b"\xaabyte_count",
    b"\xa5dtype",
    b"\xa6offset",
    b"\xa5shape",
    b"\xa2u8",
    b"\xa3u16",
    b"\xa3i32",
    b"\xa3i64",
    b"\xa4fp16",
    b"\xa4bf16",
    b"\xa4fp32",
    b"\xaeschema_version",
    b"\xa8metadata",
    b"\xb5output_token_logprobs",
    b"\xb3output_top_logprobs",
    b"\xaerouted_experts",
    b"\xa2id",
    b"\xafoutput_token_id",
    b"\xa1\xff",
    b"\xa1\"",
    b"\xa4type",
];

/// The plan, and what is changed of it, that a byte stands for.
fn plan(byte: u8) -> Plan {
    let (dtype, candidates) = [
        (Some(("fp32", 4)), 2),
        (Some(("fp16", 2)), 0),
        (Some(("bf16", 2)), 1),
        (None, 0),
    ][usize::from(byte & 3)];
    let experts = [128, 256, 257, 65_536][usize::from(byte >> 2 & 3)];
    Plan {
        dtype,
        candidates,
        experts,
        routers: usize::from(byte >> 4 & 3),
        completion: usize::from(byte >> 6),
        ..SMALL
    }
}

/// What an input stands for.
struct Built {
    object: Vec<u8>,
    /// The object is part of an answer.
    inline: bool,
    routers: Option<&'static [u64]>,
}

fn built(input: &[u8]) -> Option<Built> {
    let (&[form, off, at, change, routers, low, high], rest) =
        input.split_first_chunk::<SHAPING>()?;
    let len = usize::from(u16::from_le_bytes([low, high])).min(rest.len());
    let (manifest, tensors) = rest.split_at(len);
    let tensors = match off {
        0..224 => tensors.to_vec(),
        // More or fewer than there should be.
        _ => {
            let mut tensors = tensors.to_vec();
            tensors.resize((tensors.len() + usize::from(off)).saturating_sub(240), 7);
            tensors
        }
    };
    let mut object = match form & 3 {
        3 => frame(manifest),
        codec => object(
            manifest,
            &tensors[..tensors.len().min(MOST_BYTES)],
            codec == 1,
        ),
    };
    if form & 4 != 0 {
        // Often of the prelude or the frame's header.
        let at = if form & 8 != 0 {
            usize::from(at) % 40
        } else {
            usize::from(at) * 16
        };
        if let Some(byte) = object.get_mut(at) {
            *byte ^= change;
        }
    }
    Some(Built {
        object,
        inline: form & 48 == 48,
        routers: ROUTERS[usize::from(routers) % ROUTERS.len()],
    })
}

/// Panics where the two decoders differ.
pub fn judge(input: &[u8]) {
    let Some((options, input)) = agreement::case(input) else {
        return;
    };
    let Some(built) = built(input) else {
        return;
    };
    let object = &built.object;
    let options = Options {
        routers: built.routers,
        score_from: None,
        ..options
    };
    let difference = match built.inline && options.wire.is_dynamo() {
        true => agreement::agree_on_one(&inline(object, "[\"moe_routes\"]"), &options),
        false => agreement::agree_on_artifact(object, &options),
    };
    if let Err(difference) = difference {
        panic!("{}\n{options:?}\n{difference}", object.escape_ascii());
    }
}

/// A whole input from a plan or from metadata.
fn fresh(byte: u8, form: u8, options: &[u8]) -> Vec<u8> {
    let mut input = options.to_vec();
    let (manifest, tensors) = match form & 3 {
        3 => (metadata(), Vec::new()),
        _ => (plan(byte).manifest(), plan(byte).tensors()),
    };
    let [low, high] = (manifest.len() as u16).to_le_bytes();
    input.extend([form & !4, 0, 0, 0, 0, low, high]);
    input.extend(manifest);
    input.extend(tensors);
    input
}

/// Puts tokens into the manifest, over it, or takes some of it away; changes single bytes at times.
pub fn mutate(data: &mut [u8], size: usize, max_size: usize, seed: u32) -> usize {
    let mut noise = u64::from(seed) << 1 | 1;
    let mut below = |n: usize| {
        noise = noise.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        (noise >> 33) as usize % n
    };
    let front = HEADER + SHAPING;
    if size >= front && below(4) == 0 {
        return fuzzer_mutate(data, size, max_size);
    }
    let mut input = data[..size].to_vec();
    if size < front || below(30) == 0 {
        // No options but the wire and that nothing need be there.
        let mut options = [255; HEADER];
        (options[0], options[1], options[3]) = (below(256) as u8, 4 * below(2) as u8, 0);
        input = fresh(below(256) as u8, below(256) as u8, &options);
    }
    let len = usize::from(u16::from_le_bytes([input[front - 2], input[front - 1]]));
    let len = len.min(input.len() - front);
    let at = front + below(len + 1);
    let gone = below(8).min(front + len - at);
    let token = TOKENS[below(TOKENS.len())];
    let before = input.len();
    match below(6) {
        0 => drop(input.splice(at..at, token.iter().copied())),
        1 => drop(input.splice(at..at + gone, token.iter().copied())),
        2 => drop(input.drain(at..at + gone)),
        // One token for another of its length.
        3 if at + token.len() <= front + len => input[at..at + token.len()].copy_from_slice(token),
        4 if input.len() > front => {
            let at = front + below(input.len() - front);
            input[at] = below(256) as u8;
        }
        _ => input[below(front - 2)] = below(256) as u8,
    }
    let len = (len + input.len()).saturating_sub(before) as u16;
    input[front - 2..front].copy_from_slice(&len.to_le_bytes());
    if input.len() > max_size {
        return fuzzer_mutate(data, size, max_size);
    }
    data[..input.len()].copy_from_slice(&input);
    input.len()
}
