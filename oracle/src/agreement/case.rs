//! A body and its options as one string of bytes, which a fuzzer changes.

use dynamo_tito::{ExpertsMode, FinalRow, Limits, LogprobsDtype, MissingLogprob, Options, Wire};

/// Bytes in front of the body. Each byte chooses one option, and every byte is valid.
pub const HEADER: usize = 11;

/// Prompts that a caller might pass; the recorded bodies' own is among them.
const PROMPTS: [Option<&[i32]>; 8] = [
    None,
    None,
    Some(&[1, 2, 3, 4, 5]),
    Some(&[1, 2, 3]),
    Some(&[7]),
    Some(&[7, 8]),
    Some(&[]),
    Some(&[i32::MAX, 0, 3]),
];

/// Counts that a caller might pass: those of the recorded bodies, and those at which arithmetic may overflow.
const COUNTS: [u64; 15] = [
    0,
    1,
    2,
    3,
    4,
    5,
    6,
    8,
    48,
    u32::MAX as u64,
    (1 << 61) - 1,
    1 << 61,
    i64::MAX as u64,
    1 << 63,
    u64::MAX,
];

fn count(byte: u8) -> Option<u64> {
    let index = usize::from(byte) % (COUNTS.len() + 1);
    COUNTS.get(index).copied()
}

/// The options and the body; None of what is too short to choose.
#[must_use]
pub fn case(input: &[u8]) -> Option<(Options<'static>, &[u8])> {
    let (
        &[
            wire,
            flags,
            prompt_len,
            prompt,
            from,
            layers,
            top_k,
            score,
            tokens,
            rows,
            depth,
        ],
        body,
    ) = input.split_first_chunk::<HEADER>()?;
    let flag = |bit: u8| flags & 1 << bit != 0;
    let (_, wire) = Wire::ALL[usize::from(wire) % Wire::ALL.len()];
    let options = Options {
        wire,
        prompt_len: count(prompt_len),
        prompt_token_ids: PROMPTS[usize::from(prompt) % PROMPTS.len()],
        routed_experts_prompt_start: count(from),
        num_layers: count(layers),
        top_k: count(top_k),
        // Bodies seldom have both.
        num_indexer_layers: count(layers),
        index_topk: count(top_k),
        experts: match flags >> 6 {
            0 | 1 => ExpertsMode::Int32,
            2 => ExpertsMode::Native,
            _ => ExpertsMode::Skip,
        },
        require_logprobs: flag(0),
        require_routed_experts: flag(1),
        missing_logprob: match flag(2) {
            true => MissingLogprob::Nan,
            false => MissingLogprob::Raise,
        },
        // The other half of the byte is a ceiling.
        logprobs_dtype: match depth & 1 << 7 != 0 {
            true => LogprobsDtype::Float32,
            false => LogprobsDtype::Float64,
        },
        final_row: match flag(3) {
            true => FinalRow::Present,
            false => FinalRow::Omitted,
        },
        routers: None,
        score_from: count(score).filter(|_| flag(4) && flag(5)),
        limits: limits(tokens, rows, depth),
    };
    Some((options, body))
}

/// Mostly the defaults.
fn limits(tokens: u8, rows: u8, depth: u8) -> Limits {
    let usual = Limits::default();
    Limits {
        max_depth: match depth % 16 {
            0 => *Limits::DEPTHS.start(),
            1 => Limits::DEPTHS.start() + 1,
            2 => *Limits::DEPTHS.end(),
            _ => usual.max_depth,
        },
        max_tokens: count(tokens).map_or(usual.max_tokens, |count| {
            usize::try_from(count).unwrap_or(usize::MAX)
        }),
        max_rows: count(rows).unwrap_or(usual.max_rows),
        max_decompressed: usual.max_decompressed,
    }
}
