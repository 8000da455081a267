//! Ceilings and what they let through, at their edge. The bodies are too large for `tests/cases`.

use ::base64::Engine;
use ::base64::engine::general_purpose::STANDARD;
use dynamo_tito::limits::{MAX_METADATA, MAX_METADATA_VALUES};
use dynamo_tito::{Limits, Options, Wire};

use super::super::decode;
use crate::agreement::agree;

fn generate() -> Options<'static> {
    Options::new(Wire::VllmGenerate)
}

/// The body without its mark, which stands before the byte that an error points at.
fn unmarked(marked: &str) -> (String, usize) {
    let offset = marked.find('§').expect("a mark");
    (marked.replacen('§', "", 1), offset)
}

#[track_caller]
fn agreed(options: &Options<'_>, body: &str) {
    if let Err(difference) = agree(body.as_bytes(), options) {
        panic!("{difference}");
    }
}

#[track_caller]
fn refused(options: &Options<'_>, marked: &str, kind: &str, path: &str) {
    let (body, offset) = unmarked(marked);
    agreed(options, &body);
    let error = decode(body.as_bytes(), options).expect_err("too much");
    let address = (error.kind, error.path.as_str(), error.offset);
    assert_eq!(address, (kind, path, Some(offset)), "{error}");
}

#[track_caller]
fn decoded(options: &Options<'_>, body: &str) -> Vec<dynamo_tito::Completion> {
    agreed(options, body);
    dynamo_tito::decode_choices(body.as_bytes(), options).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn choices() {
    let choice = r#"{"token_ids":[]}"#;
    let many = |n: usize, last: &str| {
        let others = format!("{choice},").repeat(n - 1);
        format!(r#"{{"choices":§[{others}{last}]}}"#)
    };
    refused(&generate(), &many(4097, "1"), "too_many", "choices");
    let completions = decoded(&generate(), &unmarked(&many(4096, choice)).0);
    assert!(completions.iter().map(|it| it.index).eq(0..4096));
}

#[test]
fn elements_of_an_sglang_array() {
    let sglang = Options::new(Wire::SglangGenerate);
    let many = |n: usize| format!(" §[{}{{}}]", "{},".repeat(n - 1));
    refused(&sglang, &many(4097), "too_many", "");
    let fits = unmarked(&many(4096)).0.replacen("{},{}", "{},§{}", 1);
    refused(&sglang, &fits, "several_choices", "[1]");
}

/// A body without tokens: more of the top level, more of the choice.
fn body(top: &str, choice: &str) -> String {
    format!(r#"{{{top},"choices":[{{{choice}"token_ids":[]}}]}}"#)
}

#[test]
fn bytes_of_metadata() {
    // Quotes count: the bytes of the values in the body.
    let long = |n: usize| format!("\"{}\"", "x".repeat(n - 2));
    let with = |id: usize, finish: &str| {
        let finish = format!(r#""finish_reason":{finish},"#);
        body(&format!(r#""request_id":{}"#, long(id)), &finish)
    };
    let path = "choices[0].finish_reason";
    decoded(&generate(), &with(MAX_METADATA - 6, r#""stop""#));
    let over = with(MAX_METADATA - 5, r#"§"stop""#);
    refused(&generate(), &over, "too_large", path);
    // The type of a field comes before its size, its size before its content.
    refused(&generate(), &with(MAX_METADATA, "§1"), "type", path);
    let surrogate = with(MAX_METADATA, r#"§"\ud800""#);
    refused(&generate(), &surrogate, "too_large", path);
    let alone = body(&format!(r#""request_id":§{}"#, long(MAX_METADATA + 1)), "");
    refused(&generate(), &alone, "too_large", "request_id");
    // Each choice has its own sum.
    let choice = r#"{"finish_reason":"stop","token_ids":[]}"#;
    let id = long(MAX_METADATA - 6);
    let two = format!(r#"{{"request_id":{id},"choices":[{choice},{choice}]}}"#);
    assert_eq!(decoded(&generate(), &two).len(), 2);
}

#[test]
fn values_of_metadata() {
    let with = |nulls: usize, finish: &str| {
        let usage = format!(r#""usage":§{{"a":[{}null]}}"#, "null,".repeat(nulls - 1));
        body(&usage, &format!(r#""finish_reason":{finish},"#))
    };
    // The object, its key, the array and the finish reason are four more.
    let most = MAX_METADATA_VALUES - 4;
    decoded(&generate(), &unmarked(&with(most, r#""stop""#)).0);
    let finish = unmarked(&with(most + 1, r#"§"stop""#)).0;
    refused(&generate(), &finish, "too_many", "choices[0].finish_reason");
    let usage = with(most + 2, r#""stop""#);
    refused(&generate(), &usage, "too_many", "usage");
    // The count of a field comes before its content, and that before the next field.
    let wrong = with(most + 2, "1").replace("null]", "1e999]");
    refused(&generate(), &wrong, "too_many", "usage");
    let wrong = with(most, "1").replace("null]", "1e999]");
    refused(&generate(), &wrong, "metadata", "usage");
}

#[test]
fn depth() {
    for max_depth in [16, 127, 128, 129, 130, 256, 257, 512] {
        let options = Options {
            limits: Limits {
                max_depth,
                ..Limits::default()
            },
            ..generate()
        };
        let deep = |inner: usize| {
            let brackets = format!("{}§{}", "[".repeat(inner - 1), "[") + &"]".repeat(inner);
            body(&format!(r#""usage":{{"a":{brackets}}}"#), "")
        };
        decoded(&options, &unmarked(&deep(max_depth - 2)).0);
        refused(&options, &deep(max_depth - 1), "too_deep", "");
    }
    let hostile = format!("{}§{}", "[".repeat(128), "[".repeat(1 << 20));
    refused(&generate(), &hostile, "too_deep", "");
}

#[test]
fn the_header_of_an_npy_file() {
    let options = Options {
        require_logprobs: false,
        ..generate()
    };
    let with = |length: usize| {
        let described = "{'descr': '|u1', 'fortran_order': False, 'shape': (0, 2, 3), }";
        let header = described.to_owned() + &" ".repeat(length - described.len());
        let size = (length as u32).to_le_bytes();
        let file = [b"\x93NUMPY\x02\0", &size[..], header.as_bytes()].concat();
        let experts = STANDARD.encode(file);
        format!(
            r#"{{"choices":[{{"token_ids":[],"finish_reason":"abort","routed_experts":§"{experts}"}}]}}"#
        )
    };
    let completions = decoded(&options, &unmarked(&with(65_536)).0);
    let experts = completions[0].routed_experts.as_ref();
    assert_eq!(experts.map(|it| it.shape), Some([0, 2, 3]));
    let path = "choices[0].routed_experts";
    refused(&options, &with(65_537), "npy", path);
}
