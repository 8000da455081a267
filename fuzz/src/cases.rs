//! Bodies under options (see `dynamo_tito_oracle::agreement::case`), changed in their structure.

use std::cell::RefCell;
use std::path::Path;

use dynamo_tito::Options;
use dynamo_tito_oracle::agreement::{self, Mutator};
use libfuzzer_sys::fuzzer_mutate;

/// Larger bodies of the recorded ones are left out: many small ones find more in the same time.
const LARGEST: u64 = 4000;

thread_local! {
    static MUTATOR: RefCell<Mutator> = RefCell::new(Mutator::new(0, recorded()));
}

/// Every small recorded body, by name.
fn recorded() -> Vec<Vec<u8>> {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data");
    let mut paths = Vec::new();
    for folder in ["captures", "made", "artifacts"] {
        let entries = data.join(folder).read_dir().expect("recorded bodies");
        paths.extend(entries.map(|entry| entry.expect("a recorded body").path()));
    }
    paths.retain(|path| path.metadata().is_ok_and(|file| file.len() <= LARGEST));
    paths.sort();
    let read = |path| std::fs::read(path).expect("a recorded body");
    paths.into_iter().map(read).collect()
}

/// Panics where the two decoders differ.
pub fn judge(input: &[u8], agree: impl Fn(&[u8], &Options<'_>) -> Result<(), String>) {
    let Some((options, body)) = agreement::case(input) else {
        return;
    };
    if let Err(difference) = agree(body, &options) {
        panic!("{}\n{options:?}\n{difference}", body.escape_ascii());
    }
}

/// Changes structure mostly, bytes at times, and starts over from a recorded body once in a while.
pub fn mutate(data: &mut [u8], size: usize, max_size: usize, seed: u32) -> usize {
    MUTATOR.with_borrow_mut(|mutator| {
        mutator.reseed(seed.into());
        let mut input = data[..size].to_vec();
        if mutator.chance(40) {
            input = mutator.recorded();
        } else if mutator.chance(4) {
            return fuzzer_mutate(data, size, max_size);
        }
        mutator.mutate(&mut input);
        if input == data[..size] || input.len() > max_size {
            return fuzzer_mutate(data, size, max_size);
        }
        data[..input.len()].copy_from_slice(&input);
        input.len()
    })
}
