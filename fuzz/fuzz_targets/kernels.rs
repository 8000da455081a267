//! Every base64 kernel of this machine, against a decoder of one group at a time and the base64 crate.
#![no_main]

use dynamo_tito_fuzz::kernels;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| kernels::judge(input));
