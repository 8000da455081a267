//! (e): what is passed on, and why a completion ended.

use super::super::{StopReason, Value};
use super::*;
use dynamo_tito::limits::{MAX_METADATA, MAX_METADATA_VALUES};

/// vllm_generate without tokens: more of the top level, more of the choice.
fn generate(top: &str, choice: &str) -> String {
    format!(r#"{{{top}"choices":[{{{choice}"token_ids":[]}}]}}"#)
}

/// Dynamo chat without tokens: more of the choice, more of nvext.
fn chat(choice: &str, nvext: &str) -> String {
    format!(r#"{{"choices":[{{{choice}"token_ids":[]}}],"nvext":{{{nvext}}}}}"#)
}

fn text(value: &str) -> Option<String> {
    Some(value.to_owned())
}

fn usage(json: &str) -> Option<Value> {
    decoded(
        &options(GENERATE),
        &generate(&format!(r#""usage":{json},"#), ""),
    )
    .usage
}

/// The one value of `{"a": …}`.
fn only(json: &str) -> Value {
    match usage(&format!(r#"{{"a":{json}}}"#)) {
        Some(Value::Map(map)) if map.len() == 1 => map[0].1.clone(),
        other => panic!("{json}: {other:?}"),
    }
}

#[test]
fn the_request_id_has_a_name_per_wire() {
    let body = r#"{"id":"a","request_id":"b","choices":[{"token_ids":[]}]}"#;
    for (wire, id) in [
        (CHAT, "a"),
        (COMPLETIONS, "a"),
        (VLLM_CHAT, "a"),
        (GENERATE, "b"),
    ] {
        assert_eq!(decoded(&options(wire), body).request_id, text(id));
    }
    let body = r#"{"id":"a","output_ids":[],"meta_info":{"id":"c"}}"#;
    assert_eq!(decoded(&options(SGLANG), body).request_id, text("c"));
    malformed(
        &options(GENERATE),
        &generate(r#""request_id":§7,"#, ""),
        "type",
        "request_id",
    );
    let body = r#"{"output_ids":[],"meta_info":{"id":§[]}}"#;
    malformed(&options(SGLANG), body, "type", "meta_info.id");
    assert_eq!(
        decoded(&options(GENERATE), &generate("", "")).request_id,
        None
    );
}

#[test]
fn usage_is_passed_on_as_it_stands() {
    let read = usage(r#"{"b":{"x":[1,null,true,"s",-2.5]},"a":{},"é\n":[]}"#);
    let map = |members: &[(&str, Value)]| {
        Value::Map(
            members
                .iter()
                .map(|(k, v)| ((*k).to_owned(), v.clone()))
                .collect(),
        )
    };
    let list = Value::List(vec![
        Value::Int(1),
        Value::Null,
        Value::Bool(true),
        Value::Text("s".to_owned()),
        Value::Float(-2.5),
    ]);
    let expected = map(&[
        ("b", map(&[("x", list)])),
        ("a", map(&[])),
        ("é\n", Value::List(vec![])),
    ]);
    assert_eq!(read, Some(expected));
    assert_eq!(usage("null"), None);
    for wrong in ["§[]", "§1", "§\"x\"", "§false", "§[1e999]"] {
        let body = generate(&format!(r#""usage":{wrong},"#), "");
        malformed(&options(GENERATE), &body, "type", "usage");
    }
}

#[test]
fn a_repeated_key_keeps_its_place_and_its_last_value() {
    let Some(Value::Map(map)) = usage(r#"{"a":1,"b":2,"\u0061":3,"b":4}"#) else {
        panic!("a map");
    };
    let expected = [
        ("a".to_owned(), Value::Int(3)),
        ("b".to_owned(), Value::Int(4)),
    ];
    assert_eq!(map, expected);
}

#[test]
fn integers_stay_integers_up_to_64_bits() {
    assert_eq!(only("0"), Value::Int(0));
    assert_eq!(only("-0"), Value::Int(0));
    assert_eq!(only("9223372036854775807"), Value::Int(i64::MAX));
    assert_eq!(only("-9223372036854775808"), Value::Int(i64::MIN));
    assert_eq!(only("9223372036854775808"), Value::Uint(1 << 63));
    assert_eq!(only("18446744073709551615"), Value::Uint(u64::MAX));
    assert_eq!(only("1.0"), Value::Float(1.0));
    assert_eq!(only("1E2"), Value::Float(100.0));
    assert_eq!(only("1e-999"), Value::Float(0.0));
    assert!(matches!(only("-0.0"), Value::Float(zero) if zero.is_sign_negative()));
}

#[test]
fn what_has_no_representation_is_refused() {
    for value in [
        "18446744073709551616",
        "-9223372036854775809",
        "123456789012345678901234567890",
        "1e999",
        "-1e999",
        r#""\ud800""#,
        r#""a\udc00b""#,
        r#"{"\ud800":1}"#,
        r#"[[{"x":[1e400]}]]"#,
    ] {
        let body = generate(&format!(r#""usage":§{{"a":{value}}},"#), "");
        malformed(&options(GENERATE), &body, "metadata", "usage");
    }
    let lone = r#"§"\ud800""#;
    malformed(
        &options(GENERATE),
        &generate(&format!(r#""request_id":{lone},"#), ""),
        "metadata",
        "request_id",
    );
    let choice = "choices[0].";
    for (name, value) in [
        ("finish_reason", lone),
        ("stop_reason", lone),
        ("stop_reason", "§9223372036854775808"),
        ("stop_reason", "§18446744073709551616"),
        ("stop_reason", "§-9223372036854775809"),
        ("weight_versions", r#"§["\udfff"]"#),
        ("weight_versions", "§[1e999]"),
    ] {
        let body = generate("", &format!(r#""{name}":{value},"#));
        malformed(
            &options(GENERATE),
            &body,
            "metadata",
            &format!("{choice}{name}"),
        );
    }
}

#[test]
fn finish_reasons_come_in_one_spelling() {
    for (raw, normalised, aborted) in [
        ("stop", "stop", false),
        ("eos", "stop", false),
        ("length", "length", false),
        ("repetition", "repetition", false),
        ("cancelled", "abort", true),
        ("canceled", "abort", true),
        ("abort", "abort", true),
        ("aborted", "abort", true),
        ("Abort", "Abort", false),
        ("", "", false),
    ] {
        let body = generate("", &format!(r#""finish_reason":"{raw}","#));
        let completion = decoded(&options(GENERATE), &body);
        assert_eq!(completion.finish_reason, text(normalised));
        assert_eq!(completion.finish_reason_raw, text(raw));
        assert_eq!(completion.aborted, Some(aborted));
        let body =
            format!(r#"{{"output_ids":[],"meta_info":{{"finish_reason":{{"type":"{raw}"}}}}}}"#);
        let completion = decoded(&options(SGLANG), &body);
        assert_eq!(completion.finish_reason, text(normalised));
        assert_eq!(completion.finish_reason_raw, text(raw));
        assert_eq!(completion.aborted, Some(aborted));
    }
}

#[test]
fn dynamos_detailed_finish_reason_wins_and_alone_can_deny_an_abort() {
    let cases = [
        (None, None, None, None),
        (Some("stop"), None, Some("stop"), None),
        (Some("abort"), None, Some("abort"), Some(true)),
        (
            Some("stop"),
            Some("cancelled"),
            Some("cancelled"),
            Some(true),
        ),
        (Some("stop"), Some("eos"), Some("eos"), Some(false)),
        (Some("cancelled"), Some("stop"), Some("stop"), Some(true)),
        (None, Some("length"), Some("length"), Some(false)),
        (None, Some("aborted"), Some("aborted"), Some(true)),
    ];
    let quoted = |reason: Option<&str>| reason.map_or("null".to_owned(), |r| format!("\"{r}\""));
    for (plain, detailed, raw, aborted) in cases {
        let body = chat(
            &format!(r#""finish_reason":{},"#, quoted(plain)),
            &format!(r#""detailed_finish_reason":{}"#, quoted(detailed)),
        );
        for wire in [CHAT, COMPLETIONS] {
            let completion = decoded(&options(wire), &body);
            assert_eq!(completion.finish_reason_raw.as_deref(), raw);
            assert_eq!(completion.aborted, aborted, "{plain:?} {detailed:?}");
        }
    }
    let completion = decoded(&options(GENERATE), &generate("", ""));
    assert_eq!((completion.finish_reason, completion.aborted), (None, None));
}

#[test]
fn finish_reasons_are_strings() {
    for value in ["§1", "§{}", "§[\"stop\"]", "§true"] {
        let body = generate("", &format!(r#""finish_reason":{value},"#));
        malformed(
            &options(GENERATE),
            &body,
            "type",
            "choices[0].finish_reason",
        );
        let body = chat("", &format!(r#""detailed_finish_reason":{value}"#));
        malformed(
            &options(CHAT),
            &body,
            "type",
            "nvext.detailed_finish_reason",
        );
    }
}

#[test]
fn a_stop_reason_is_a_string_or_an_integer() {
    let token = |n| Some(StopReason::Token(n));
    for (value, expected) in [
        ("null", None),
        ("\"</s>\"", Some(StopReason::Text("</s>".to_owned()))),
        ("151645", token(151_645)),
        ("-1", token(-1)),
        ("9223372036854775807", token(i64::MAX)),
    ] {
        let body = generate("", &format!(r#""stop_reason":{value},"#));
        assert_eq!(decoded(&options(GENERATE), &body).stop_reason, expected);
        let body = chat("", &format!(r#""stop_reason":{value}"#));
        assert_eq!(decoded(&options(CHAT), &body).stop_reason, expected);
    }
    for value in ["§1.0", "§1e2", "§true", "§[]", "§{}"] {
        let body = generate("", &format!(r#""stop_reason":{value},"#));
        malformed(&options(GENERATE), &body, "type", "choices[0].stop_reason");
    }
    // The choice's own wins, and the other is unread.
    let body = chat(r#""stop_reason":1,"#, r#""stop_reason":{}"#);
    assert_eq!(decoded(&options(CHAT), &body).stop_reason, token(1));
    malformed(
        &options(CHAT),
        &chat("", r#""stop_reason":§{}"#),
        "type",
        "nvext.stop_reason",
    );
}

#[test]
fn spans_of_weight_versions_are_passed_on_as_they_stand() {
    let body = generate(
        "",
        r#""weight_versions":[{"version":"a","start":0,"end":2}],"#,
    );
    for wire in [GENERATE, VLLM_CHAT, CHAT, COMPLETIONS] {
        let read = decoded(&options(wire), &body).weight_versions;
        assert_eq!(read, Some(Value::List(vec![span("a", 2)])));
    }
    for value in ["§{}", "§\"a\"", "§1"] {
        let body = generate("", &format!(r#""weight_versions":{value},"#));
        malformed(
            &options(GENERATE),
            &body,
            "type",
            "choices[0].weight_versions",
        );
    }
}

fn span(version: &str, end: i64) -> Value {
    Value::Map(vec![
        ("version".to_owned(), Value::Text(version.to_owned())),
        ("start".to_owned(), Value::Int(0)),
        ("end".to_owned(), Value::Int(end)),
    ])
}

#[test]
fn sglangs_one_version_is_a_label_without_positions() {
    let label = Value::Map(vec![("version".to_owned(), Value::Text("v3".to_owned()))]);
    let versions = |meta: &str| decoded(&lenient(SGLANG), &sglang(meta)).weight_versions;
    assert_eq!(
        versions(r#""weight_version":"v3""#),
        Some(Value::List(vec![label.clone()]))
    );
    assert_eq!(versions(r#""weight_version":null"#), None);
    assert_eq!(
        versions(r#""weight_versions":[],"weight_version":7"#),
        Some(Value::List(vec![]))
    );
    assert_eq!(
        versions(r#""weight_versions":null,"weight_version":"v3""#),
        Some(Value::List(vec![label]))
    );
    malformed(
        &lenient(SGLANG),
        &sglang(r#""weight_version":§3"#),
        "type",
        "meta_info.weight_version",
    );
    malformed(
        &lenient(SGLANG),
        &sglang(r#""weight_versions":§{}"#),
        "type",
        "meta_info.weight_versions",
    );
}

#[test]
fn sglangs_usage_is_gathered() {
    let usage = |meta: &str| decoded(&lenient(SGLANG), &sglang(meta)).usage;
    let all = r#""reasoning_tokens":0,"cached_tokens":1,"completion_tokens":2,"prompt_tokens":18446744073709551615"#;
    let expected = [
        ("prompt_tokens", Value::Uint(u64::MAX)),
        ("completion_tokens", Value::Int(2)),
        ("cached_tokens", Value::Int(1)),
        ("reasoning_tokens", Value::Int(0)),
    ];
    let expected = expected.map(|(key, value)| (key.to_owned(), value));
    assert_eq!(usage(all), Some(Value::Map(expected.to_vec())));
    let some = r#""reasoning_tokens":null,"completion_tokens":2"#;
    assert_eq!(usage(some), Some(Value::Map(vec![expected[1].clone()])));
    assert_eq!(usage(""), None);
    let cases = [
        (
            r#""cached_tokens":1.5,"completion_tokens":§"2""#,
            "type",
            "completion_tokens",
        ),
        (r#""prompt_tokens":§1.0"#, "type", "prompt_tokens"),
        (r#""prompt_tokens":§{}"#, "type", "prompt_tokens"),
        (
            r#""reasoning_tokens":§18446744073709551616"#,
            "metadata",
            "reasoning_tokens",
        ),
    ];
    for (meta, kind, key) in cases {
        malformed(
            &lenient(SGLANG),
            &sglang(meta),
            kind,
            &format!("meta_info.{key}"),
        );
    }
}

#[test]
fn sglangs_finish_reason_is_an_object() {
    let read = |reason: &str| {
        let completion = decoded(
            &lenient(SGLANG),
            &sglang(&format!(r#""finish_reason":{reason}"#)),
        );
        (completion.finish_reason_raw, completion.stop_reason)
    };
    let token = |n| Some(StopReason::Token(n));
    assert_eq!(
        read(r#"{"type":"stop","matched":151645}"#),
        (text("stop"), token(151_645))
    );
    assert_eq!(
        read(r#"{"matched":"\n","type":"stop","x":1,"x":2}"#),
        (text("stop"), Some(StopReason::Text("\n".to_owned())))
    );
    for no_match in ["[1,2]", "null", "1.5", "true", "{}", "9223372036854775808"] {
        let reason = format!(r#"{{"type":"stop","matched":{no_match}}}"#);
        assert_eq!(read(&reason), (text("stop"), None));
    }
    assert_eq!(read("null"), (None, None));
    for (reason, kind) in [
        ("§\"stop\"", "type"),
        ("§[]", "type"),
        ("§{}", "type"),
        (r#"§{"type":null}"#, "type"),
        (r#"§{"type":7}"#, "type"),
        (r#"§{"type":"stop","type":"stop"}"#, "duplicate_key"),
        (r#"§{"type":7,"matched":1,"matched":1}"#, "duplicate_key"),
        (r#"§{"type":7,"type":1e999}"#, "metadata"),
        (
            r#"§{"type":"stop","matched":18446744073709551616}"#,
            "metadata",
        ),
    ] {
        let body = sglang(&format!(r#""finish_reason":{reason}"#));
        malformed(&lenient(SGLANG), &body, kind, "meta_info.finish_reason");
    }
}

#[test]
fn metadata_is_judged_in_its_order() {
    let body = r#"{"request_id":§1,"usage":1,"choices":[{"token_ids":[],"finish_reason":1}]}"#;
    malformed(&options(GENERATE), body, "type", "request_id");
    let body = r#"{"choices":[{"token_ids":[],"finish_reason":1}],"usage":§1}"#;
    malformed(&options(GENERATE), body, "type", "usage");
    let body = chat(
        r#""weight_versions":1,"stop_reason":{},"#,
        r#""detailed_finish_reason":§1"#,
    );
    malformed(
        &options(CHAT),
        &body,
        "type",
        "nvext.detailed_finish_reason",
    );
    let body = chat(
        r#""weight_versions":1,"stop_reason":§{},"finish_reason":null,"#,
        "",
    );
    malformed(&options(CHAT), &body, "type", "choices[0].stop_reason");
    let body = sglang(
        r#""weight_versions":1,"finish_reason":1,"reasoning_tokens":§{},"output_top_logprobs":null"#,
    );
    malformed(
        &lenient(SGLANG),
        &body,
        "type",
        "meta_info.reasoning_tokens",
    );
}

#[test]
fn what_the_metadata_says_is_judged_when_all_of_it_is_read() {
    let body = generate(
        "",
        r#""stop_reason":9223372036854775808,"weight_versions":§1,"#,
    );
    malformed(
        &options(GENERATE),
        &body,
        "type",
        "choices[0].weight_versions",
    );
    for reason in [r#"{"type":7}"#, "{}", r#"{"type":"stop","type":"stop"}"#] {
        let body = sglang(&format!(r#""finish_reason":{reason},"weight_version":§1"#));
        malformed(&lenient(SGLANG), &body, "type", "meta_info.weight_version");
    }
}

#[test]
fn metadata_has_a_ceiling() {
    // Quotes count: the bytes of the values in the body.
    let long = |n: usize| format!("\"{}\"", "x".repeat(n - 2));
    let body = |id: usize, finish: &str| {
        generate(
            &format!(r#""request_id":{},"#, long(id)),
            &format!(r#""finish_reason":{finish},"#),
        )
    };
    decoded(&options(GENERATE), &body(MAX_METADATA - 6, "\"stop\""));
    malformed(
        &options(GENERATE),
        &body(MAX_METADATA - 5, "§\"stop\""),
        "too_large",
        "choices[0].finish_reason",
    );
    // The type of a field comes before its size, its size before its content.
    malformed(
        &options(GENERATE),
        &body(MAX_METADATA, "§1"),
        "type",
        "choices[0].finish_reason",
    );
    malformed(
        &options(GENERATE),
        &body(MAX_METADATA, r#"§"\ud800""#),
        "too_large",
        "choices[0].finish_reason",
    );
    let alone = generate(&format!(r#""request_id":§{},"#, long(MAX_METADATA + 1)), "");
    malformed(&options(GENERATE), &alone, "too_large", "request_id");
    // Each choice has its own sum.
    let (id, choice) = (
        long(MAX_METADATA - 6),
        r#"{"finish_reason":"stop","token_ids":[]}"#,
    );
    let two = format!(r#"{{"request_id":{id},"choices":[{choice},{choice}]}}"#);
    assert_eq!(all_decoded(&options(GENERATE), &two).len(), 2);
}

#[test]
fn values_and_keys_are_counted() {
    let body = |nulls: usize, finish: &str| {
        let usage = format!(r#""usage":§{{"a":[{}null]}},"#, "null,".repeat(nulls - 1));
        generate(&usage, &format!(r#""finish_reason":{finish},"#))
    };
    // The object, its key, the array and the finish reason are four more.
    let most = MAX_METADATA_VALUES - 4;
    decoded(&options(GENERATE), &body(most, "\"stop\"").replace('§', ""));
    let with_finish = body(most + 1, "§\"stop\"").replacen('§', "", 1);
    malformed(
        &options(GENERATE),
        &with_finish,
        "too_many",
        "choices[0].finish_reason",
    );
    malformed(
        &options(GENERATE),
        &body(most + 2, "\"stop\""),
        "too_many",
        "usage",
    );
    // The count of a field comes before its content, and that before the next field.
    let wrong = body(most + 2, "1").replace("null]", "1e999]");
    malformed(&options(GENERATE), &wrong, "too_many", "usage");
    let wrong = body(most, "1").replace("null]", "1e999]");
    malformed(&options(GENERATE), &wrong, "metadata", "usage");
}
