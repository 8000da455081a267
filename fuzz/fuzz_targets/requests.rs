//! Ids as requests carry them, read back by serde_json.
#![no_main]

use dynamo_tito_fuzz::requests;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| requests::judge(input));
