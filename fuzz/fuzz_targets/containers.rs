//! Routed experts in every container: headers, shapes and sizes; the decoder and the oracle give the same.
#![no_main]

use dynamo_tito_fuzz::containers;
use libfuzzer_sys::{fuzz_mutator, fuzz_target};

fuzz_target!(|input: &[u8]| containers::judge(input));

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    containers::mutate(data, size, max_size, seed)
});
