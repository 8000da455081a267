//! Streams under options and cuts (see `dynamo_tito_oracle::agreement::stream_case`), changed in their events and chunks.

use std::cell::RefCell;
use std::path::Path;

use dynamo_tito_oracle::agreement::{StreamMutator, agree_on_stream, stream_case};
use libfuzzer_sys::fuzzer_mutate;

/// Larger streams of the recorded ones are left out: many small ones find more in the same time.
const LARGEST: usize = 3000;

thread_local! {
    static MUTATOR: RefCell<StreamMutator> = RefCell::new(StreamMutator::new(0, recorded()));
}

/// Every small recorded stream, by name, and the streams among the cases.
fn recorded() -> Vec<Vec<u8>> {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests");
    let mut folders = vec![tests.join("data")];
    let mut paths = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in folder.read_dir().expect("recorded streams") {
            let path = entry.expect("a recorded stream").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|it| it == "sse") {
                paths.push(path);
            }
        }
    }
    paths.sort();
    let read = |path| std::fs::read(path).expect("a recorded stream");
    let mut streams: Vec<Vec<u8>> = paths.into_iter().map(read).collect();
    let cases = std::fs::read(tests.join("cases/streams.jsonl")).expect("cases");
    for line in cases.trim_ascii_end().split(|&byte| byte == b'\n') {
        let case: serde_json::Value = serde_json::from_slice(line).expect("a case is JSON");
        streams.extend(case["body"].as_str().map(|body| body.as_bytes().to_vec()));
    }
    streams.retain(|stream| stream.len() <= LARGEST);
    streams
}

/// Panics where the decoder and its twin differ.
pub fn judge(input: &[u8]) {
    let Some(case) = stream_case(input) else {
        return;
    };
    let agreed = agree_on_stream(case.stream, &case.options, &case.cuts, case.every_choice);
    if let Err(difference) = agreed {
        panic!("{}\n{case:?}\n{difference}", case.stream.escape_ascii());
    }
}

/// Changes events and chunks mostly, bytes at times, and starts over from a recorded stream once in a while.
pub fn mutate(data: &mut [u8], size: usize, max_size: usize, seed: u32) -> usize {
    MUTATOR.with_borrow_mut(|mutator| {
        mutator.reseed(seed.into());
        let mut input = data[..size].to_vec();
        if mutator.chance(40) {
            input = mutator.recorded();
        } else if mutator.chance(6) {
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
