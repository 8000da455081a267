//! Artifacts, alone, inline and uploaded: the decoder and its slow twin say the same, value or error.
#![no_main]

use dynamo_tito_fuzz::artifacts;
use libfuzzer_sys::{fuzz_mutator, fuzz_target};

fuzz_target!(|input: &[u8]| artifacts::judge(input));

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    artifacts::mutate(data, size, max_size, seed)
});
