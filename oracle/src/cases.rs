//! Each case of `tests/cases`, by the oracle and by the decoder.

use std::path::{Path, PathBuf};

use ::base64::Engine;
use ::base64::engine::general_purpose::STANDARD;
use dynamo_tito::{
    Class, Error, ExpertsMode, FinalRow, Limits, LogprobsDtype, MissingLogprob, Options, Result,
    StreamDecoder, Wire,
};
use serde_json::{Value, json};

use crate::agreement::{agree, agree_on_stream, plain};
use crate::reference::stream::{Ending, Stream};
use crate::reference::{self, Attribute, Completion, Mask, Top};

struct Case {
    name: String,
    every_choice: bool,
    /// Of a stream.
    ending: Option<Ending>,
    options: Options<'static>,
    body: Vec<u8>,
    written: Value,
}

fn tests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests")
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn cases() -> Vec<Case> {
    let files = std::fs::read_dir(tests().join("cases")).expect("tests/cases");
    let paths = files.map(|file| file.expect("a file").path());
    let mut cases = Vec::new();
    for path in paths.filter(|path| path.extension().is_some_and(|it| it == "jsonl")) {
        let text = read(&path);
        for line in text.trim_ascii_end().split(|&byte| byte == b'\n') {
            let written: Value = serde_json::from_slice(line).expect("a case is JSON");
            cases.push(Case {
                name: written["name"].as_str().expect("a name").to_owned(),
                every_choice: written["choices"] == "all",
                ending: ending(&written),
                options: options(&written),
                body: body(&written),
                written,
            });
        }
    }
    assert!(cases.len() > 4000, "{} cases", cases.len());
    cases
}

/// The bodies of the cases that decode.
pub(crate) fn decodable() -> impl Iterator<Item = Vec<u8>> {
    let decoding = |case: &Case| case.written.get("expect").is_some();
    cases().into_iter().filter(decoding).map(|case| case.body)
}

fn body(case: &Value) -> Vec<u8> {
    if let Some(name) = case["file"].as_str() {
        return read(&tests().join("data").join(name));
    }
    match case["body64"].as_str() {
        Some(text) => STANDARD.decode(text).expect("base64"),
        None => case["body"].as_str().expect("a body").into(),
    }
}

/// How a stream ends; a body has no ending.
fn ending(case: &Value) -> Option<Ending> {
    match case["ending"].as_str()? {
        "finish" => Some(Ending::Finished),
        "abandon" => Some(Ending::Abandoned),
        other => panic!("the ending {other}"),
    }
}

fn options(case: &Value) -> Options<'static> {
    let wire = Wire::ALL.iter().find(|(name, _)| case["wire"] == *name);
    let mut options = Options::new(wire.expect("a wire").1);
    let Some(written) = case["options"].as_object() else {
        return options;
    };
    for (name, value) in written {
        match name.as_str() {
            "prompt_len" => options.prompt_len = value.as_u64(),
            "prompt_token_ids" => {
                let ids: Vec<i32> = serde_json::from_value(value.clone()).expect("ids");
                options.prompt_token_ids = Some(ids.leak());
            }
            "routed_experts_prompt_start" => options.routed_experts_prompt_start = value.as_u64(),
            "num_layers" => options.num_layers = value.as_u64(),
            "top_k" => options.top_k = value.as_u64(),
            "num_indexer_layers" => options.num_indexer_layers = value.as_u64(),
            "index_topk" => options.index_topk = value.as_u64(),
            "experts" if value == "native" => options.experts = ExpertsMode::Native,
            "experts" if value == "skip" => options.experts = ExpertsMode::Skip,
            "require_logprobs" => options.require_logprobs = *value == true,
            "require_routed_experts" => options.require_routed_experts = *value == true,
            "missing_logprob" if value == "nan" => options.missing_logprob = MissingLogprob::Nan,
            "logprobs_dtype" if value == "float32" => {
                options.logprobs_dtype = LogprobsDtype::Float32;
            }
            "final_row" if value == "present" => options.final_row = FinalRow::Present,
            "score_from" => options.score_from = value.as_u64(),
            "limits" => options.limits = limits(value),
            other => panic!("the option {other}: {value}"),
        }
    }
    options
}

fn limits(written: &Value) -> Limits {
    let usual = Limits::default();
    let limit = |name: &str, usual: u64| written[name].as_u64().unwrap_or(usual);
    Limits {
        max_depth: limit("max_depth", usual.max_depth as u64) as usize,
        max_tokens: limit("max_tokens", usual.max_tokens as u64) as usize,
        max_rows: limit("max_rows", usual.max_rows),
        max_decompressed: usual.max_decompressed,
    }
}

// The result of a body in the format of a case.

fn outcome(result: Result<Vec<Completion>>, every_choice: bool) -> Value {
    match result {
        Err(error) => json!({ "error": refusal(&error) }),
        Ok(completions) if every_choice => {
            json!({ "expect": completions.iter().map(completion).collect::<Vec<_>>() })
        }
        Ok(completions) => json!({ "expect": completion(&completions[0]) }),
    }
}

fn refusal(error: &Error) -> Value {
    let class = match error.class {
        Class::Malformed => "malformed",
        Class::Missing => "missing",
        Class::Alignment => "alignment",
        Class::RoutedExperts => "routed_experts",
        Class::Server => "server",
        Class::Engine => "engine",
        Class::Argument => "argument",
        Class::Memory => "memory",
    };
    json!({ "class": class, "kind": error.kind, "path": error.path, "offset": error.offset })
}

fn completion(found: &Completion) -> Value {
    let attributes = found.iter();
    let attributes = attributes.map(|(name, it)| ((*name).to_owned(), attribute(it)));
    // A case leaves the index out where it is 0.
    let told = attributes.filter(|(name, value)| name != "index" || *value != 0);
    Value::Object(told.collect())
}

fn attribute(found: &Attribute) -> Value {
    match found {
        Attribute::Ids(ids) => json!(ids),
        Attribute::Logprobs(values) => json!(values),
        Attribute::Top(top) => pairs(top),
        Attribute::Rows(mask) => rows(mask),
        Attribute::PromptLogprobs(it) => json!({ "logprobs": it.logprobs, "top": pairs(&it.top) }),
        Attribute::Experts(it) => json!({
            "shape": it.shape, "start": it.start, "dtype": it.dtype, "complete": it.complete,
            "values": shortened(&it.values),
        }),
        Attribute::Indexer(it) => json!({
            "shape": it.shape, "start": it.start, "complete": it.complete, "values": shortened(&it.values),
        }),
        Attribute::Matrix(it) => {
            let width = it.shape[1] as usize;
            it.values.chunks(width).map(|row| json!(row)).collect()
        }
        Attribute::Json(it) => value(it),
    }
}

/// The bounds of each position.
fn spans(offsets: &[i64]) -> impl Iterator<Item = std::ops::Range<usize>> {
    offsets.windows(2).map(|at| at[0] as usize..at[1] as usize)
}

fn pairs(top: &Top) -> Value {
    let position = |span: std::ops::Range<usize>| -> Vec<Value> {
        span.map(|i| json!([top.token_ids[i], top.logprobs[i]]))
            .collect()
    };
    spans(&top.offsets).map(position).collect()
}

fn rows(mask: &Mask) -> Value {
    spans(&mask.offsets)
        .map(|span| json!(mask.token_ids[span]))
        .collect()
}

/// More than 64 values by their count, both ends and their sum.
fn shortened(values: &[i32]) -> Value {
    if values.len() <= 64 {
        return json!(values);
    }
    let sum: i64 = values.iter().map(|&value| i64::from(value)).sum();
    let last = &values[values.len() - 4..];
    json!({ "count": values.len(), "first": values[..4], "last": last, "sum": sum })
}

fn value(found: &reference::Value) -> Value {
    use reference::Value as V;
    match found {
        V::Null => Value::Null,
        V::Bool(it) => json!(it),
        V::Int(it) => json!(it),
        V::Uint(it) => json!(it),
        V::Float(it) => json!(it),
        V::Text(it) => json!(it),
        V::List(list) => list.iter().map(value).collect(),
        V::Map(map) => {
            let members = map.iter().map(|(key, member)| (key.clone(), value(member)));
            Value::Object(members.collect())
        }
    }
}

/// Runs every case; a difference names the case and what was found instead. As text, -0.0 is not 0.0 and 1 is not 1.0.
fn check(found: impl Fn(&Case) -> Value) {
    let mut differences = Vec::new();
    for case in cases() {
        let mut expected = json!({});
        for key in ["expect", "error"] {
            if let Some(value) = case.written.get(key) {
                expected[key] = value.clone();
            }
        }
        if let Some(error) = expected.get_mut("error").and_then(Value::as_object_mut) {
            error.remove("words");
        }
        let expected = expected.to_string();
        let found = found(&case).to_string();
        if found != expected {
            differences.push(format!(
                "{}\n  found    {found}\n  expected {expected}",
                case.name
            ));
        }
    }
    let count = differences.len();
    differences.truncate(20);
    assert!(
        count == 0,
        "{count} cases differ\n{}",
        differences.join("\n")
    );
}

#[test]
fn the_oracle_gives_what_each_case_says() {
    check(|case| {
        let result = if let Some(ending) = case.ending {
            Stream::new(&case.body, &case.options, !case.every_choice)
                .end(ending, !case.every_choice)
        } else if case.every_choice {
            reference::decode_choices(&case.body, &case.options)
        } else {
            reference::decode(&case.body, &case.options).map(|one| vec![one])
        };
        outcome(result, case.every_choice)
    });
}

#[test]
fn the_decoder_gives_what_each_case_says() {
    check(|case| {
        let result = if let Some(ending) = case.ending {
            streamed(case, ending)
        } else if case.every_choice {
            dynamo_tito::decode_choices(&case.body, &case.options)
        } else {
            dynamo_tito::decode(&case.body, &case.options).map(|one| vec![one])
        };
        if let Err(error) = &result {
            let words = case.written["error"]["words"].as_str().unwrap_or_default();
            assert!(error.message.contains(words), "{}: {error}", case.name);
            // A server's own words may be none, or have several lines.
            let one_line = !error.message.is_empty() && !error.message.contains('\n');
            assert!(one_line || error.class == Class::Server, "{}", case.name);
        }
        let plain = result.map(|completions| completions.into_iter().map(plain).collect());
        outcome(plain, case.every_choice)
    });
}

fn streamed(case: &Case, ending: Ending) -> Result<Vec<dynamo_tito::Completion>> {
    let mut decoder = StreamDecoder::new(&case.options);
    let fed = match case.every_choice {
        true => decoder.feed_choices(&case.body),
        false => decoder.feed(&case.body),
    };
    let resumes =
        ending == Ending::Abandoned && matches!(&fed, Err(error) if error.class == Class::Server);
    if !resumes {
        fed?;
    }
    match (ending, case.every_choice) {
        (Ending::Finished, true) => decoder.finish_choices(),
        (Ending::Finished, false) => decoder.finish().map(|one| vec![one]),
        (Ending::Abandoned, true) => decoder.abandon_choices(),
        (Ending::Abandoned, false) => decoder.abandon().map(|one| vec![one]),
    }
}

#[test]
fn both_agree_on_each_case_in_every_call() {
    for case in cases() {
        if case.ending.is_some() {
            let len = case.body.len();
            let check = |cuts: &[usize], every_choice| {
                let agreed = agree_on_stream(&case.body, &case.options, cuts, every_choice);
                assert_eq!(agreed, Ok(()), "{}", case.name);
            };
            for at in 0..=len {
                check(&[at], case.every_choice);
            }
            let each: Vec<usize> = (1..len).collect();
            for every_choice in [true, false] {
                check(&[], every_choice);
                check(&each, every_choice);
            }
        } else if let Err(difference) = agree(&case.body, &case.options) {
            panic!("{}: {difference}", case.name);
        }
    }
}

#[test]
fn every_proper_prefix_of_a_recorded_answer_is_truncated() {
    let decodes = |case: &Case| case.written.get("expect").is_some();
    let recorded = |case: &Case| {
        case.ending.is_none() && case.written.get("file").is_some() && case.body.len() < 1000
    };
    let mut cases = cases();
    cases.retain(|case| decodes(case) && recorded(case));
    assert!(cases.len() > 10);
    for case in cases {
        for end in 0..case.body.trim_ascii_end().len() {
            let error = reference::decode(&case.body[..end], &case.options).expect_err(&case.name);
            let found = (error.class, error.kind, error.path.as_str(), error.offset);
            assert_eq!(
                found,
                (Class::Malformed, "truncated", "", Some(end)),
                "{}",
                case.name
            );
        }
    }
}
