//! Decodes a stream that is cut anywhere: the decoder and its slow twin say the same, deltas and completions or error.
#![no_main]

use dynamo_tito_fuzz::streams;
use libfuzzer_sys::{fuzz_mutator, fuzz_target};

fuzz_target!(|input: &[u8]| streams::judge(input));

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    streams::mutate(data, size, max_size, seed)
});
