//! prime-rl's packed forms: the decoder and the oracle give the same values or the same error.
#![no_main]

use dynamo_tito_fuzz::packed;
use libfuzzer_sys::{fuzz_mutator, fuzz_target};

fuzz_target!(|input: &[u8]| packed::judge(input));

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    packed::mutate(data, size, max_size, seed)
});
