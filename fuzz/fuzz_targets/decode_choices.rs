//! Decodes every choice of a body: the decoder and the oracle give the same value or the same error.
#![no_main]

use dynamo_tito_fuzz::cases;
use dynamo_tito_oracle::agreement;
use libfuzzer_sys::{fuzz_mutator, fuzz_target};

fuzz_target!(|input: &[u8]| cases::judge(input, agreement::agree_on_choices));

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    cases::mutate(data, size, max_size, seed)
});
