//! prime-rl's packed forms: bodies in which a number of a packed array is changed as often as the JSON around it.

use std::cell::RefCell;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use dynamo_tito::{Options, Wire};
use dynamo_tito_oracle::agreement::{self, HEADER, Mutator};
use libfuzzer_sys::fuzzer_mutate;

/// The wires that have packed forms.
const WIRES: [Wire; 2] = [Wire::VllmGenerate, Wire::VllmChat];

/// Numbers of 32 bits with a meaning: ids and counts, and floats that are log-probabilities or nearly.
const WORDS: [u32; 22] = [
    0,
    1,
    2,
    3,
    7,
    8,
    9,
    0x7fff_ffff, // the largest id; NaN
    0x8000_0000, // the smallest int32; -0.0
    0xffff_ffff, // -1; NaN
    0xffff_fff8,
    0xbf80_0000, // -1.0
    0xc000_0000, // -2.0
    0x3f80_0000, // 1.0
    0x3a83_126f, // 1e-3
    0x3a83_1270, // the next one
    0xc61c_3c00, // -9999.0
    0xf149_f2ca, // -1e30
    0x7f80_0000, // infinity
    0xff80_0000, // minus infinity
    0x0000_f03f, // half of a float64
    0x0000_0001, // the smallest float
];

thread_local! {
    static MUTATOR: RefCell<Mutator> = RefCell::new(Mutator::new(0, recorded()));
}

/// The bodies of the cases, and answers in which every form stands beside the others.
fn recorded() -> Vec<Vec<u8>> {
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/cases/packed.jsonl");
    let cases = std::fs::read_to_string(cases).expect("the cases of packed arrays");
    let body = |line: &str| {
        let case: serde_json::Value = serde_json::from_str(line).expect("a case");
        case["body"].as_str().expect("a body").as_bytes().to_vec()
    };
    let mut bodies: Vec<Vec<u8>> = cases.lines().map(body).collect();
    for tokens in [1, 2, 4] {
        for several in [false, true] {
            bodies.push(answer(tokens, several));
        }
    }
    bodies
}

fn array(items: impl Iterator<Item = u32>, dtype: &str) -> String {
    let bytes: Vec<u8> = items.flat_map(u32::to_le_bytes).collect();
    let (data, count) = (STANDARD.encode(&bytes), bytes.len() / 4);
    format!(r#"{{"data":"{data}","shape":[{count}],"dtype":"{dtype}"}}"#)
}

/// An answer with every packed form of so many tokens, and with routed experts; once or in two choices.
fn answer(tokens: u32, several: bool) -> Vec<u8> {
    let ids = || 7..7 + tokens;
    let flat = array(ids().map(|_| (-1.5f32).to_bits()), "float32");
    let mask = format!(
        r#"{{"ids":{},"counts":{}}}"#,
        array(ids().flat_map(|id| [id, 9, 100 + id]), "int32"),
        array(ids().map(|_| 3), "int32"),
    );
    let entries = ids().flat_map(|id| [id, 9]);
    let values = ids().flat_map(|_| [(-0.5f32).to_bits(), (-0.5f32).to_bits()]);
    let rows: Vec<u8> = entries.chain(values).flat_map(u32::to_le_bytes).collect();
    let compact = format!(
        r#"{{"data":"{}","offsets":{:?},"format":"u32-f32-le-v1","num_top_logprobs":1}}"#,
        STANDARD.encode(rows),
        (0..=tokens).map(|i| 2 * i).collect::<Vec<_>>(),
    );
    let experts = STANDARD.encode(vec![1u8; 8 * (4 + tokens as usize)]);
    let choice = |index: u32| {
        format!(
            r#"{{"index":{index},"token_ids":{:?},"completion_logprobs":{flat},"compact_logprobs":{compact},"sampling_mask":{mask},"routed_experts":{{"data":"{experts}","shape":[{},4,2],"dtype":"uint8","start":0}},"finish_reason":"length"}}"#,
            ids().collect::<Vec<_>>(),
            4 + tokens,
        )
    };
    let choices: Vec<String> = (0..=u32::from(several)).map(choice).collect();
    format!(
        r#"{{"prompt_token_ids":[1,2,3,4,5],"choices":[{}]}}"#,
        choices.join(",")
    )
    .into_bytes()
}

/// Panics where the two decoders differ.
pub fn judge(input: &[u8]) {
    let Some((options, body)) = agreement::case(input) else {
        return;
    };
    let options = Options {
        wire: WIRES[usize::from(input[0]) % WIRES.len()],
        score_from: None,
        ..options
    };
    let agree = match input[0] & 2 {
        0 => agreement::agree_on_one,
        _ => agreement::agree_on_choices,
    };
    if let Err(difference) = agree(body, &options) {
        panic!("{}\n{options:?}\n{difference}", body.escape_ascii());
    }
}

/// Changes numbers inside packed arrays, structure, and bytes at times; starts over once in a while.
pub fn mutate(data: &mut [u8], size: usize, max_size: usize, seed: u32) -> usize {
    MUTATOR.with_borrow_mut(|mutator| {
        mutator.reseed(seed.into());
        let mut input = data[..size].to_vec();
        if size < HEADER || mutator.chance(30) {
            input = mutator.recorded();
            // Without the options that ask for what most bodies do not have.
            input[1] &= 0b1100_1100;
        }
        match mutator.below(8) {
            0 => return fuzzer_mutate(data, size, max_size),
            1..=2 => mutator.mutate(&mut input),
            _ => {
                for _ in 0..=mutator.below(2) {
                    change_array(mutator, &mut input);
                }
            }
        }
        if input == data[..size] || input.len() > max_size {
            return fuzzer_mutate(data, size, max_size);
        }
        data[..input.len()].copy_from_slice(&input);
        input.len()
    })
}

/// Where the texts behind the keys `data` stand, without their quotes.
fn texts(input: &[u8]) -> Vec<(usize, usize)> {
    const KEY: &[u8] = b"\"data\":\"";
    let starts = input.windows(KEY.len()).enumerate();
    let starts = starts.filter(|(_, part)| *part == KEY);
    starts
        .filter_map(|(at, _)| {
            let start = at + KEY.len();
            let len = input[start..].iter().position(|&byte| byte == b'"')?;
            Some((start, start + len))
        })
        .collect()
}

/// Changes a number of one packed array, or how many there are; its shape follows at times.
fn change_array(mutator: &mut Mutator, input: &mut Vec<u8>) {
    let texts = texts(input);
    if texts.is_empty() {
        return mutator.mutate(input);
    }
    let (start, end) = texts[mutator.below(texts.len())];
    let Ok(mut bytes) = STANDARD.decode(&input[start..end]) else {
        return mutator.mutate(input);
    };
    // Rows are ids and as many values; offsets follow them.
    let rows = input[end..].starts_with(b"\",\"offsets\"");
    let items = bytes.len() / if rows { 8 } else { 4 };
    let halves = if rows { 2 } else { 1 };
    let at = mutator.below(items.max(1));
    let word = WORDS[mutator.below(WORDS.len())].to_le_bytes();
    let before = bytes.len();
    match mutator.below(10) {
        0..=4 if items > 0 => {
            let at = 4 * (at + items * mutator.below(halves));
            bytes[at..at + 4].copy_from_slice(&word);
        }
        5 if items > 0 => {
            // An item a second time: of rows its id and its value.
            let from = mutator.below(items);
            for half in 0..halves {
                let item = 4 * (from + half * items);
                bytes.copy_within(item..item + 4, 4 * (at + half * items));
            }
        }
        6 => {
            let at = at.min(items);
            for half in (0..halves).rev() {
                let at = 4 * (at + half * items);
                drop(bytes.splice(at..at, word));
            }
        }
        7 if items > 0 => {
            for half in (0..halves).rev() {
                let at = 4 * (at + half * items);
                drop(bytes.drain(at..at + 4));
            }
        }
        8 if before > 0 => {
            let at = mutator.below(before);
            bytes[at] ^= 1 << mutator.below(8);
        }
        _ => bytes.truncate(mutator.below(before + 1)),
    }
    let after = bytes.len() / 4 / halves;
    input.splice(start..end, STANDARD.encode(bytes).into_bytes());
    if items != after && !mutator.chance(3) {
        follow(input, start, items, after);
    }
}

/// Writes the new count where the old one stands first behind the data: in the shape, or as the last offset.
fn follow(input: &mut Vec<u8>, start: usize, before: usize, after: usize) {
    let old = format!("{before}]");
    let found = input[start..]
        .windows(old.len())
        .position(|part| part == old.as_bytes());
    if let Some(at) = found {
        let at = start + at;
        input.splice(at..at + old.len() - 1, after.to_string().into_bytes());
    }
}
