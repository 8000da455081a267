//! Recorded streams, whole, cut, broken off at every byte, and changed in their events and chunks.

use std::path::{Path, PathBuf};

use super::{StreamMutator, agree_on_stream, every_option, stream_case};
use crate::reference::stream::{Ending, Stream};
use dynamo_tito::{Options, Wire};

/// Every recorded stream, with its name.
fn recorded() -> Vec<(String, Vec<u8>)> {
    let mut folders = vec![PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/data")];
    let mut streams = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|it| it == "sse") {
                streams.push((path.display().to_string(), std::fs::read(path).unwrap()));
            }
        }
    }
    streams.sort();
    assert!(streams.len() > 100, "only {} streams", streams.len());
    streams
}

/// The streams of the cases.
fn cases() -> Vec<Vec<u8>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/cases/streams.jsonl");
    let text = std::fs::read(path).unwrap();
    let lines = text.trim_ascii_end().split(|&byte| byte == b'\n');
    let body = |line: &[u8]| {
        let case: serde_json::Value = serde_json::from_slice(line).unwrap();
        Some(case["body"].as_str()?.as_bytes().to_vec())
    };
    lines.filter_map(body).collect()
}

/// The wires that a stream is an answer of, or might be.
fn wires(stream: &[u8]) -> Vec<Wire> {
    match String::from_utf8_lossy(stream).as_ref() {
        text if text.contains("meta_info") => vec![Wire::SglangGenerate],
        text if text.contains("text_completion") => vec![Wire::DynamoCompletions],
        text if text.contains("chat.completion") => vec![Wire::DynamoChat, Wire::VllmChat],
        _ => vec![Wire::VllmGenerate],
    }
}

fn check(name: &str, stream: &[u8], options: &Options<'_>, cuts: &[usize], every_choice: bool) {
    if let Err(difference) = agree_on_stream(stream, options, cuts, every_choice) {
        panic!(
            "{name}: {}\n{options:?}\n{difference}",
            String::from_utf8_lossy(stream)
        );
    }
}

const PROMPT: [i32; 5] = [1, 2, 3, 4, 5];

#[test]
fn on_every_recorded_stream() {
    let mut decoded = 0;
    for (name, stream) in recorded() {
        let bytes: Vec<usize> = (1..stream.len()).collect();
        let likely = wires(&stream);
        for (_, wire) in Wire::ALL.into_iter().filter(|(_, wire)| wire.streams()) {
            let mut all = every_option(Options::new(wire), &PROMPT);
            if !likely.contains(&wire) {
                all.truncate(1);
            }
            for options in all {
                for every_choice in [true, false] {
                    check(&name, &stream, &options, &bytes, every_choice);
                    check(&name, &stream, &options, &[stream.len() / 3], every_choice);
                    let twin = Stream::new(&stream, &options, !every_choice);
                    decoded += u32::from(twin.end(Ending::Finished, !every_choice).is_ok());
                }
            }
        }
    }
    assert!(decoded > 1000, "only {decoded} decoded");
}

/// Cut at the byte, and broken off there. Every byte of some; of others, which are alike, every so many, each time others.
#[test]
fn on_every_truncation() {
    for (number, (name, stream)) in recorded().into_iter().enumerate() {
        let options = Options {
            require_logprobs: false,
            num_layers: Some(4),
            top_k: Some(2),
            prompt_len: Some(5),
            ..Options::new(wires(&stream)[0])
        };
        let step = match number % 32 {
            0 => 1,
            _ => 29,
        };
        for at in (number % step..stream.len().min(2000)).step_by(step) {
            check(&name, &stream, &options, &[at], true);
            check(&name, &stream[..at], &options, &[], false);
        }
    }
}

/// What begins as a document is kept, up to so many bytes.
#[test]
fn on_plain_json_of_many_bytes() {
    for before in ["", " \r\n", "\u{feff}\t"] {
        for len in [65_535, 65_536, 65_537] {
            let start = r#"{"error":""#;
            let body = format!(
                "{start}{}\"}}",
                "x".repeat(len - before.len() - start.len() - 2)
            );
            let stream = format!("{before}{body}").into_bytes();
            for cuts in [
                vec![],
                vec![2],
                vec![stream.len() - 1],
                vec![stream.len() - 2],
            ] {
                let options = Options::new(Wire::VllmGenerate);
                check("plain", &stream, &options, &cuts, true);
                let twin = Stream::new(&stream, &options, false);
                assert_eq!(twin.error().is_some(), len > 65_536);
            }
        }
    }
}

/// Changes: as many as `DYNAMO_TITO_MUTATIONS` says, from the seed `DYNAMO_TITO_SEED`.
#[test]
fn on_mutations() {
    let number = |name: &str, default: u64| match std::env::var(name) {
        Ok(text) => text.parse().expect(name),
        Err(_) => default,
    };
    let rounds = number("DYNAMO_TITO_MUTATIONS", 10_000);
    let recorded = recorded().into_iter().map(|(_, stream)| stream);
    let corpus = recorded.chain(cases()).filter(|it| it.len() < 3000);
    let seed = number("DYNAMO_TITO_SEED", 1);
    let mut mutator = StreamMutator::new(seed, corpus.collect());
    let mut decoded = 0;
    for _ in 0..rounds {
        let mut input = mutator.recorded();
        mutator.mutate(&mut input);
        let case = stream_case(&input).expect("a whole case");
        let (options, every) = (&case.options, case.every_choice);
        check("mutated", case.stream, options, &case.cuts, every);
        let twin = Stream::new(case.stream, options, !every);
        decoded += u64::from(twin.end(Ending::Finished, !every).is_ok());
    }
    println!("{decoded} of {rounds} decoded");
    // Mutations that always break a stream would compare nothing but refusals.
    assert!(decoded > rounds / 50, "only {decoded} of {rounds} decoded");
}
