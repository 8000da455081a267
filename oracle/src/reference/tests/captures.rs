//! Answers of a real Dynamo frontend. The engine behind it invented its output by rule: token i of choice c is 1000 + 100 c + i,
//! and its log-probability is -(i + 1) / 100 - c.

use std::collections::BTreeMap;
use std::path::PathBuf;

use ::base64::Engine;
use ::base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::*;
use dynamo_tito::MissingLogprob;

fn folder() -> PathBuf {
    [
        env!("CARGO_MANIFEST_DIR"),
        "..",
        "tests",
        "data",
        "captures",
    ]
    .iter()
    .collect()
}

fn body(name: &str) -> Vec<u8> {
    let path = folder().join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every JSON answer: its name, what it was asked of, and the HTTP status.
fn index() -> BTreeMap<String, (String, u64)> {
    let index: Value = serde_json::from_slice(&body("index.json")).expect("JSON");
    let entries = index.as_object().expect("an object").iter();
    entries
        .filter(|(name, _)| name.ends_with(".json"))
        .map(|(name, entry)| {
            let path = entry["path"].as_str().expect("a path").to_owned();
            let status = entry["status"].as_u64().expect("a status");
            (name.clone(), (path, status))
        })
        .collect()
}

fn wire(path: &str) -> Option<Wire> {
    match path {
        "/v1/chat/completions" => Some(Wire::DynamoChat),
        "/v1/completions" => Some(Wire::DynamoCompletions),
        "/inference/v1/generate" => Some(Wire::VllmGenerate),
        _ => None,
    }
}

/// What a completion must be; the prompt is 1, 2, 3, 4, 5 unless said otherwise.
#[derive(Clone, Copy)]
struct Truth {
    tokens: i32,
    choices: i32,
    scored: Scored,
    /// P, or None where there are no routed experts.
    rows_for: Option<u64>,
    finish: &'static str,
    raw: &'static str,
    prompt_scored: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Scored {
    No,
    Float64,
    Float32,
}

const QUIET: Truth = Truth {
    tokens: 4,
    choices: 1,
    scored: Scored::No,
    rows_for: Some(5),
    finish: "length",
    raw: "length",
    prompt_scored: false,
};
const SCORED: Truth = Truth {
    scored: Scored::Float64,
    ..QUIET
};
const GENERATE: Truth = Truth {
    scored: Scored::Float32,
    ..QUIET
};

/// What becomes of each answer with status 200.
fn truth(name: &str) -> Result<Truth, (&'static str, &'static str)> {
    let three = Truth { tokens: 3, ..QUIET };
    let no_ids = Err(("missing", "nvext.engine_data.completion_token_ids"));
    let several = Err(("several_choices", "choices[1]"));
    match name {
        "chat_cache_salt_priority_nvext.json"
        | "chat_cache_salt_toplevel.json"
        | "chat_engine_data_no_logprobs.json"
        | "chat_greedy_ignore_eos_in_nvext.json"
        | "chat_sampling_allowed_bad_words.json"
        | "chat_session_headers.json"
        | "chat_sglang_style_routed_experts.json"
        | "chat_uint16_experts.json" => Ok(QUIET),
        "chat_engine_data_logprobs.json"
        | "completions_int_prompt_engine_data.json"
        | "completions_logprobs_0.json" => Ok(SCORED),
        "chat_all_fields.json" => Ok(Truth {
            finish: "stop",
            raw: "stop",
            prompt_scored: true,
            ..SCORED
        }),
        "completions_echo.json" => Ok(Truth {
            prompt_scored: true,
            ..SCORED
        }),
        // The prompt is not echoed there; see below.
        "completions_int_prompt_named_all.json" => Ok(SCORED),
        "chat_prompt_logprobs_engine_data.json" | "chat_prompt_logprobs_toplevel_0.json" => {
            Ok(Truth {
                prompt_scored: true,
                ..QUIET
            })
        }
        "chat_length_max_completion_tokens.json" | "variant_ignore_unsupported_chat.json" => {
            Ok(three)
        }
        "chat_multi_token_chunks.json" => Ok(Truth {
            tokens: 5,
            ..SCORED
        }),
        "chat_no_max_tokens.json" => Ok(Truth { tokens: 6, ..QUIET }),
        "chat_named_completion_token_ids.json" => Ok(Truth {
            rows_for: None,
            ..QUIET
        }),
        "chat_top_logprobs_20.json" => Ok(Truth {
            tokens: 1,
            ..SCORED
        }),
        "completions_int_prompt_and_token_data.json" => Ok(Truth {
            rows_for: Some(2),
            ..QUIET
        }),
        "oov_token_31999_chat.json" => Ok(Truth {
            rows_for: Some(2),
            ..three
        }),
        "finish_reason_abort.json" => Ok(Truth {
            finish: "abort",
            raw: "cancelled",
            ..three
        }),
        "finish_reason_eos.json" => Ok(Truth {
            finish: "stop",
            raw: "eos",
            ..three
        }),
        "generate_basic.json"
        | "generate_logprobs_0.json"
        | "generate_nvext.json"
        | "generate_uint16.json"
        | "generate_prompt_logprobs.json"
        | "generate_sglang_re_error.json" => Ok(GENERATE),
        "generate_no_model.json" | "generate_unknown_sampling.json" => {
            Ok(Truth { tokens: 2, ..QUIET })
        }
        "generate_n2.json" => Ok(Truth {
            tokens: 3,
            choices: 2,
            ..GENERATE
        }),
        "generate_n2_routed_experts.json" => Ok(Truth {
            choices: 2,
            ..three
        }),
        "finish_reason_content_filter_generate.json" => Ok(Truth {
            tokens: 3,
            finish: "content_filter",
            raw: "content_filter",
            ..GENERATE
        }),
        "finish_reason_eos_generate.json" => Ok(Truth {
            tokens: 3,
            finish: "stop",
            raw: "eos",
            ..GENERATE
        }),
        "oov_token_generate.json" => Ok(Truth {
            tokens: 3,
            rows_for: Some(2),
            ..GENERATE
        }),
        "overlong_prompt_generate.json" => Ok(Truth {
            tokens: 3,
            rows_for: None,
            ..GENERATE
        }),

        "chat_named_prompt_logprobs_field_only.json"
        | "chat_named_routed_experts.json"
        | "chat_named_worker_id_timing.json"
        | "chat_prompt_logprobs_toplevel.json"
        | "chat_text_no_nvext.json"
        | "completions_int_prompt_plain.json"
        | "exact_context_prompt_chat.json"
        | "mocker_completions_logprobs.json"
        | "overlong_prompt_chat.json"
        | "overlong_prompt_plus_max_tokens_chat.json" => no_ids,
        "chat_n2_engine_data.json"
        | "chat_n2_routed_experts.json"
        | "chat_prompt_logprobs_n2.json"
        | "completions_batch_int_prompt.json"
        | "completions_n2.json" => several,
        "chat_nonfinite_logprobs.json" => {
            Err(("no_logprob", "nvext.engine_data.completion_logprobs[0]"))
        }
        "chat_partial_logprobs.json" => Err(("count", "choices[0].logprobs.content")),
        // The engine sent no rows for five tokens of a prompt.
        "chat_zero_rows.json" => Err(("rows", "nvext.routed_experts")),
        other => panic!("{other} is not in the table"),
    }
}

/// Answers that follow another rule, and have a test of their own.
const APART: [&str; 4] = [
    "completions_logprob_precision.json",
    "generate_logprob_precision.json",
    "generate_prompt_start.json",
    "mocker_chat_engine_data.json",
];

fn options_for(wire: Wire, prompt_len: u64) -> Options<'static> {
    Options {
        prompt_len: Some(prompt_len),
        num_layers: Some(4),
        top_k: Some(2),
        ..lenient(wire)
    }
}

#[test]
fn every_answer_is_what_its_engine_invented() {
    let mut seen = 0;
    for (name, (path, status)) in index() {
        let Some(wire) = wire(&path) else { continue };
        if status != 200 || APART.contains(&name.as_str()) {
            continue;
        }
        seen += 1;
        let truth = truth(&name);
        let prompt_len = truth.map_or(5, |truth| truth.rows_for.unwrap_or(5));
        let read = decode_choices(&body(&name), &options_for(wire, prompt_len));
        match (truth, read) {
            (Ok(truth), Ok(completions)) => {
                assert_eq!(completions.len() as i32, truth.choices, "{name}");
                for (choice, completion) in completions.iter().enumerate() {
                    check(&name, wire, &truth, choice as i32, completion);
                }
            }
            (Err(expected), Err(error)) => {
                assert_eq!((error.kind, &*error.path), expected, "{name}")
            }
            (_, read) => panic!("{name}: {read:?}"),
        }
    }
    assert!(seen > 55, "{seen} answers");
}

fn check(name: &str, wire: Wire, truth: &Truth, choice: i32, completion: &Completion) {
    assert_eq!(completion.index as i32, choice, "{name}");
    let positions = 0..truth.tokens;
    let ids: Vec<i32> = positions.clone().map(|i| 1000 + 100 * choice + i).collect();
    assert_eq!(completion.token_ids, ids, "{name}");

    let invented = positions.map(|i| -0.01 * f64::from(i + 1) - f64::from(choice));
    let logprobs: Option<Vec<f64>> = match truth.scored {
        Scored::No => None,
        Scored::Float64 => Some(invented.collect()),
        Scored::Float32 => Some(invented.map(|value| f64::from(value as f32)).collect()),
    };
    assert_eq!(completion.logprobs, logprobs, "{name}");
    let named = wire == Wire::VllmGenerate && truth.scored != Scored::No;
    assert_eq!(completion.top_logprobs.is_some(), named, "{name}");

    assert_eq!(
        completion.prompt_logprobs.is_some(),
        truth.prompt_scored,
        "{name}"
    );
    if let Some(prompt) = &completion.prompt_logprobs {
        assert_eq!(
            bits(&prompt.logprobs),
            bits(&[f64::NAN, -2.5, -3.5, -4.5, -5.5]),
            "{name}"
        );
    }
    assert_eq!(
        completion.finish_reason.as_deref(),
        Some(truth.finish),
        "{name}"
    );
    assert_eq!(
        completion.finish_reason_raw.as_deref(),
        Some(truth.raw),
        "{name}"
    );
    if truth.finish == "abort" {
        assert_eq!(completion.aborted, Some(true), "{name}");
    } else {
        assert_ne!(completion.aborted, Some(true), "{name}");
    }
    match (&completion.routed_experts, truth.rows_for) {
        (Some(experts), Some(prompt)) => {
            let rows = prompt + truth.tokens as u64 - 1;
            assert_eq!((experts.shape, experts.start), ([rows, 4, 2], 0), "{name}");
            assert!(experts.complete);
            assert_eq!(
                experts.values,
                wire_values(name, wire, choice, experts.dtype),
                "{name}"
            );
        }
        (None, None) => {}
        (experts, _) => panic!("{name}: {experts:?}"),
    }
}

/// The expert ids by other means: serde_json, the base64 crate, and the width.
fn wire_values(name: &str, wire: Wire, choice: i32, dtype: &str) -> Vec<i32> {
    let document: Value = serde_json::from_slice(&body(name)).expect("JSON");
    let experts = match wire {
        Wire::VllmGenerate => &document["choices"][choice as usize]["routed_experts"],
        _ if document["nvext"]["routed_experts"].is_null() => {
            &document["nvext"]["engine_data"]["routed_experts"]
        }
        _ => &document["nvext"]["routed_experts"],
    };
    let data = experts
        .as_str()
        .or(experts["data"].as_str())
        .expect("base64");
    let bytes = STANDARD.decode(data).expect("base64");
    let width = match dtype {
        "uint8" => 1,
        "uint16" => 2,
        "int32" => 4,
        other => panic!("{name}: {other}"),
    };
    let items = bytes.chunks_exact(width);
    items
        .map(|item| {
            item.iter()
                .rev()
                .fold(0, |value, &byte| value << 8 | i32::from(byte))
        })
        .collect()
}

#[test]
fn an_answer_with_another_status_is_a_server_error() {
    let mut seen = 0;
    for (name, (path, status)) in index() {
        let body = body(&name);
        let Some(wire) = wire(&path).filter(|_| status != 200 && !body.is_empty()) else {
            continue;
        };
        // Not every error is JSON.
        if json_refuses(&body) {
            continue;
        }
        seen += 1;
        let error = decode(&body, &options(wire)).expect_err(&name);
        assert_error(&error, Class::Server, "server", "", None);
        assert_ne!(error.message, "the server answered with an error", "{name}");
    }
    assert!(seen > 30, "{seen} answers");
}

fn json_refuses(body: &[u8]) -> bool {
    serde_json::from_slice::<Value>(body).is_err()
}

#[test]
fn no_answer_of_another_route_is_a_completion() {
    let mut seen = 0;
    for (name, (path, _)) in index() {
        if wire(&path).is_some() {
            continue;
        }
        seen += 1;
        for (_, wire) in Wire::ALL {
            assert!(
                decode_choices(&body(&name), &lenient(wire)).is_err(),
                "{name}"
            );
        }
    }
    assert!(seen > 30, "{seen} answers");
}

#[test]
fn no_logprob_is_rounded_on_the_way() {
    let base = 0.123_456_789_012_345_67;
    let completions = body("completions_logprob_precision.json");
    let completion =
        decode(&completions, &options_for(Wire::DynamoCompletions, 5)).expect("decodes");
    assert_eq!(completion.logprobs, Some(vec![-base, -base * 2.0]));
    let generate = body("generate_logprob_precision.json");
    let completion = decode(&generate, &options_for(Wire::VllmGenerate, 5)).expect("decodes");
    let float32 = |value: f64| f64::from(value as f32);
    assert_eq!(
        completion.logprobs,
        Some(vec![float32(-base), float32(-base * 2.0)])
    );
}

#[test]
fn a_trimmed_answer_says_where_it_starts() {
    let options = Options {
        routed_experts_prompt_start: Some(3),
        ..options_for(Wire::VllmGenerate, 5)
    };
    let completion = decode(&body("generate_prompt_start.json"), &options).expect("decodes");
    let experts = completion.routed_experts.expect("routed experts");
    assert_eq!((experts.shape, experts.start), ([5, 4, 2], 3));
    let error = decode(
        &body("generate_prompt_start.json"),
        &Options {
            routed_experts_prompt_start: Some(2),
            ..options
        },
    );
    assert_eq!(error.expect_err("another start").kind, "trim");
}

#[test]
fn an_answer_that_was_not_trimmed_is() {
    let options = Options {
        routed_experts_prompt_start: Some(2),
        ..options_for(Wire::DynamoChat, 5)
    };
    let name = "variant_ignore_unsupported_chat.json";
    let completion = decode(&body(name), &options).expect("decodes");
    let experts = completion.routed_experts.expect("routed experts");
    assert_eq!((experts.shape, experts.start), ([5, 4, 2], 2));
    assert_eq!(
        experts.values,
        wire_values(name, Wire::DynamoChat, 0, "uint8")[2 * 8..]
    );
}

#[test]
fn a_mocked_engine_invents_its_own_tokens() {
    let completion = decode(
        &body("mocker_chat_engine_data.json"),
        &lenient(Wire::DynamoChat),
    )
    .expect("decodes");
    assert_eq!(completion.token_ids, [1302, 1430, 1984, 1751]);
}

#[test]
fn what_the_engine_could_not_score_is_nan_if_the_caller_likes() {
    let options = Options {
        missing_logprob: MissingLogprob::Nan,
        ..options_for(Wire::DynamoChat, 5)
    };
    let completion = decode(&body("chat_nonfinite_logprobs.json"), &options).expect("decodes");
    assert_eq!(
        bits(&completion.logprobs.expect("logprobs")),
        bits(&[f64::NAN; 4])
    );
}

#[test]
fn prompt_logprobs_without_an_echo_need_the_callers_ids() {
    let name = "completions_int_prompt_named_all.json";
    let completion =
        decode(&body(name), &options_for(Wire::DynamoCompletions, 5)).expect("decodes");
    let why = source(&completion, "prompt_logprobs");
    assert_eq!(why.as_deref(), Some("left out: needs prompt_token_ids"));
    for (name, wire) in [
        (name, Wire::DynamoCompletions),
        ("generate_prompt_logprobs.json", Wire::VllmGenerate),
    ] {
        let options = Options {
            prompt_token_ids: Some(&[1, 2, 3, 4, 5]),
            ..options(wire)
        };
        let completion = decode(&body(name), &options).expect("decodes");
        let read = completion
            .prompt_logprobs
            .expect("prompt logprobs")
            .logprobs;
        assert_eq!(
            bits(&read),
            bits(&[f64::NAN, -2.5, -3.5, -4.5, -5.5]),
            "{name}"
        );
    }
}

#[test]
fn every_proper_prefix_of_an_answer_is_truncated() {
    for (name, (path, status)) in index() {
        let Some(wire) = wire(&path).filter(|_| status == 200) else {
            continue;
        };
        let body = body(&name);
        // The work grows with the square of the length.
        if body.len() > 1000 {
            continue;
        }
        for end in 0..body.trim_ascii_end().len() {
            let error = decode(&body[..end], &options(wire)).expect_err(&name);
            assert_error(&error, Class::Malformed, "truncated", "", Some(end));
        }
    }
}

#[test]
fn an_answer_spoilt_in_one_byte_is_json_where_serde_json_says_so() {
    let body = body("generate_basic.json");
    for at in 0..body.len() {
        for byte in [b'"', b'\\', b'{', b',', b'0', 0xff] {
            let mut spoilt = body.clone();
            spoilt[at] = byte;
            let ours = super::super::json::parse(&spoilt, dynamo_tito::Limits::default().max_depth);
            assert_eq!(ours.is_err(), json_refuses(&spoilt), "byte {at}: {ours:?}");
        }
    }
}
