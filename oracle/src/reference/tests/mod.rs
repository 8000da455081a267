//! Each rule of the page by example.
//!
//! A body that must be refused carries a mark, `§`, before the byte that the error must point at; no mark: no offset.

mod blobs;
mod captures;
mod counts;
mod experts;
mod limits;
mod logprobs;
mod metadata;
mod prompt;
mod scoring;
mod structure;
mod syntax;
mod tokens;
mod top_logprobs;
mod trimming;

use super::{Completion, decode, decode_choices};
use crate::agreement::agree;
use dynamo_tito::{Class, Error, Options, Wire};

const MARK: &str = "§";

const CHAT: Wire = Wire::DynamoChat;
const COMPLETIONS: Wire = Wire::DynamoCompletions;
const GENERATE: Wire = Wire::VllmGenerate;
const VLLM_CHAT: Wire = Wire::VllmChat;
const SGLANG: Wire = Wire::SglangGenerate;

const NO_IDS: [i32; 0] = [];

/// The body without its mark, and where the mark was.
fn unmarked(body: &str) -> (String, Option<usize>) {
    assert!(body.matches(MARK).count() <= 1, "one mark at most: {body}");
    (body.replacen(MARK, "", 1), body.find(MARK))
}

#[track_caller]
fn assert_error(error: &Error, class: Class, kind: &str, path: &str, offset: Option<usize>) {
    assert_eq!(
        (error.class, error.kind, error.path.as_str(), error.offset),
        (class, kind, path, offset),
        "{error}"
    );
    assert!(!error.message.is_empty() && !error.message.contains('\n'));
}

/// The decoder says the same of the example.
#[track_caller]
fn agreed(options: &Options<'_>, body: &str) {
    if let Err(difference) = agree(body.as_bytes(), options) {
        panic!("{difference}");
    }
}

/// `decode` refuses the marked body so.
#[track_caller]
fn refused(options: &Options<'_>, marked: &str, class: Class, kind: &str, path: &str) {
    let (body, offset) = unmarked(marked);
    agreed(options, &body);
    match decode(body.as_bytes(), options) {
        Ok(completion) => panic!("decoded: {completion:?}"),
        Err(error) => assert_error(&error, class, kind, path, offset),
    }
}

#[track_caller]
fn malformed(options: &Options<'_>, marked: &str, kind: &str, path: &str) {
    refused(options, marked, Class::Malformed, kind, path);
}

#[track_caller]
fn decoded(options: &Options<'_>, body: &str) -> Completion {
    agreed(options, body);
    match decode(body.as_bytes(), options) {
        Ok(completion) => completion,
        Err(error) => panic!("{:?} {}: {error}", error.class, error.kind),
    }
}

#[track_caller]
fn all_decoded(options: &Options<'_>, body: &str) -> Vec<Completion> {
    agreed(options, body);
    match decode_choices(body.as_bytes(), options) {
        Ok(completions) => completions,
        Err(error) => panic!("{:?} {}: {error}", error.class, error.kind),
    }
}

fn source(completion: &Completion, name: &str) -> Option<String> {
    let mut sources = completion.sources.iter();
    let found = sources.find(|(key, _)| *key == name);
    found.map(|(_, path)| path.clone())
}

/// The bits, so that NaN equals NaN and -0.0 is not 0.0.
fn bits(values: &[f64]) -> Vec<u64> {
    let canonical = |value: &f64| if value.is_nan() { f64::NAN } else { *value };
    values.iter().map(|v| canonical(v).to_bits()).collect()
}

fn options(wire: Wire) -> Options<'static> {
    Options::new(wire)
}

/// The same without the demand for logprobs.
fn lenient(wire: Wire) -> Options<'static> {
    Options {
        require_logprobs: false,
        ..Options::new(wire)
    }
}

/// Dynamo: the inside of `choices[0]` and of `nvext.engine_data`.
fn dynamo(choice: &str, engine_data: &str) -> String {
    format!(r#"{{"choices":[{{{choice}}}],"nvext":{{"engine_data":{{{engine_data}}}}}}}"#)
}

/// A choice: the inside of `choices[0]`.
fn one_choice(choice: &str) -> String {
    format!(r#"{{"choices":[{{{choice}}}]}}"#)
}

/// vllm_generate: ids 7 and 8, and what `logprobs.content` is.
fn content(content: &str) -> String {
    one_choice(&format!(
        r#""token_ids":[7,8],"logprobs":{{"content":{content}}}"#
    ))
}

/// SGLang: ids 7 and 8, and the inside of `meta_info`.
fn sglang(meta_info: &str) -> String {
    format!(r#"{{"output_ids":[7,8],"meta_info":{{{meta_info}}}}}"#)
}
