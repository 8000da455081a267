//! Steps 2 to 6.

use super::*;

#[test]
fn the_document_is_an_object() {
    for (_, wire) in Wire::ALL {
        for body in ["§null", " §1", "§\"a\"", "§true"] {
            malformed(&options(wire), body, "type", "");
        }
        if wire != SGLANG {
            malformed(&options(wire), "§[{}]", "type", "");
        }
    }
}

#[test]
fn sglang_may_answer_with_a_list_of_objects() {
    let wire = SGLANG;
    refused(&options(wire), "[]", Class::Missing, "missing", "[0]");
    malformed(&options(wire), "[{},§1]", "type", "[1]");
    malformed(&options(wire), "[{},§[]]", "type", "[1]");
    let many = |n: usize| format!(" §[{}{{}}]", "{},".repeat(n - 1));
    malformed(&options(wire), &many(4097), "too_many", "");
    malformed(
        &options(wire),
        &many(4096).replace('§', "").replacen("{},{}", "{},§{}", 1),
        "several_choices",
        "[1]",
    );
}

#[test]
fn a_key_that_is_read_stands_once_in_each_structural_object() {
    let cases = [
        (CHAT, r#"{"nvext":{},§"nvext":{}}"#, "nvext"),
        (CHAT, r#"{"choices":null,§"choices":[]}"#, "choices"),
        (CHAT, r#"{"error":null,§"error":null}"#, "error"),
        (CHAT, r#"{"type":1,"message":2,"code":3,§"type":1}"#, "type"),
        (CHAT, r#"{"usage":1,§"\u0075sage":2}"#, "usage"),
        (
            CHAT,
            r#"{"choices":[{},{"index":0,§"index":0}]}"#,
            "choices[1].index",
        ),
        (
            CHAT,
            r#"{"choices":[{"logprobs":{"content":1,§"content":2}}]}"#,
            "choices[0].logprobs.content",
        ),
        (
            CHAT,
            r#"{"nvext":{"stop_reason":1,§"stop_reason":1}}"#,
            "nvext.stop_reason",
        ),
        (
            CHAT,
            r#"{"nvext":{"engine_data":{"finished":false,§"finished":true}}}"#,
            "nvext.engine_data.finished",
        ),
        (
            COMPLETIONS,
            r#"{"choices":[{"logprobs":{"tokens":[],§"tokens":[]}}]}"#,
            "choices[0].logprobs.tokens",
        ),
        (
            GENERATE,
            r#"{"choices":[{"routed_experts":1,§"routed_experts":2}]}"#,
            "choices[0].routed_experts",
        ),
        (
            GENERATE,
            r#"{"request_id":1,§"request_id":2}"#,
            "request_id",
        ),
        (VLLM_CHAT, r#"{"id":1,§"id":2}"#, "id"),
        (SGLANG, r#"{"meta_info":{"id":1,§"id":2}}"#, "meta_info.id"),
        (SGLANG, r#"{"status":1,§"status":2}"#, "status"),
        (
            SGLANG,
            r#"[{},{"output_ids":1,§"output_ids":2}]"#,
            "[1].output_ids",
        ),
        (
            SGLANG,
            r#"[{"meta_info":{"id":1,§"id":2}}]"#,
            "[0].meta_info.id",
        ),
    ];
    for (wire, body, path) in cases {
        malformed(&options(wire), body, "duplicate_key", path);
    }
}

#[test]
fn every_key_that_is_read_is_watched() {
    let top = [
        "error", "object", "status", "message", "type", "code", "choices",
    ];
    let choice = [
        "index",
        "token_ids",
        "logprobs",
        "finish_reason",
        "stop_reason",
        "weight_versions",
    ];
    let nvext = [
        "engine_data",
        "completion_token_ids",
        "routed_experts",
        "prompt_logprobs",
        "stop_reason",
        "detailed_finish_reason",
    ];
    let engine_data = [
        "completion_token_ids",
        "completion_logprobs",
        "prompt_token_ids",
        "prompt_logprobs",
        "finished",
        "sampling_mask",
        "routed_experts",
    ];
    let meta_info = [
        "id",
        "finish_reason",
        "prompt_tokens",
        "completion_tokens",
        "cached_tokens",
        "reasoning_tokens",
        "weight_version",
        "weight_versions",
        "output_token_logprobs",
        "output_top_logprobs",
        "input_token_logprobs",
        "output_token_sampling_mask",
        "routed_experts",
    ];
    let twice = |key: &str| format!(r#"{{"{key}":null,§"{key}":null}}"#);
    let check = |wire, before: &str, keys: &[&str], after: &str, path: &str| {
        for key in keys {
            let body = format!("{before}{}{after}", twice(key));
            malformed(
                &options(wire),
                &body,
                "duplicate_key",
                &format!("{path}{key}"),
            );
        }
    };
    for (_, wire) in Wire::ALL {
        check(wire, "", &top, "", "");
        if wire == SGLANG {
            let keys = ["output_ids", "meta_info", "prompt_token_ids"];
            check(wire, "", &keys, "", "");
            check(wire, "[", &keys, "]", "[0].");
            check(wire, r#"{"meta_info":"#, &meta_info, "}", "meta_info.");
            continue;
        }
        check(wire, r#"{"choices":["#, &choice, "]}", "choices[0].");
        let logprobs: &[&str] = match wire {
            COMPLETIONS => &["token_logprobs", "tokens"],
            _ => &["content"],
        };
        let before = r#"{"choices":[{"logprobs":"#;
        check(wire, before, logprobs, "}]}", "choices[0].logprobs.");
        if wire.is_dynamo() {
            check(
                wire,
                "",
                &["nvext", "prompt_logprobs", "usage", "id"],
                "",
                "",
            );
            check(wire, r#"{"nvext":"#, &nvext, "}", "nvext.");
            let before = r#"{"nvext":{"engine_data":"#;
            check(wire, before, &engine_data, "}}", "nvext.engine_data.");
        } else {
            let vllm = ["sampling_mask", "routed_experts"];
            check(wire, r#"{"choices":["#, &vllm, "]}", "choices[0].");
            check(
                wire,
                "",
                &["prompt_token_ids", "prompt_logprobs", "usage"],
                "",
                "",
            );
            let name = if wire == VLLM_CHAT {
                "id"
            } else {
                "request_id"
            };
            check(wire, "", &[name], "", "");
        }
    }
}

#[test]
fn a_repeated_key_that_is_not_read_does_not_matter() {
    let twice = r#""x":1,"x":2,"model":1,"model":2"#;
    let chat = format!(
        r#"{{"choices":[{{"token_ids":[],"message":{{"index":1,"index":2}},"sampling_mask":1,"sampling_mask":2,{twice}}}],"request_id":1,"request_id":2,
            "nvext":{{"timing":1,"timing":2,"engine_data":{{{twice}}}}},{twice}}}"#
    );
    assert_eq!(decoded(&options(CHAT), &chat).token_ids, NO_IDS);
    // Another wire's keys are not ours.
    let generate = r#"{"choices":[{"token_ids":[],"logprobs":{"tokens":1,"tokens":2}}],"nvext":{"engine_data":1},"nvext":1,"id":1,"id":2}"#;
    assert_eq!(decoded(&options(GENERATE), generate).token_ids, NO_IDS);
    // Elements of a list are not error bodies.
    let list = r#"[{"error":1,"error":2,"output_ids":[],"meta_info":{}}]"#;
    assert_eq!(decoded(&options(SGLANG), list).token_ids, NO_IDS);
}

#[test]
fn the_first_repeated_key_in_document_order_wins() {
    let body =
        r#"{"nvext":{"engine_data":{"finished":1,§"finished":1},"engine_data":1},"id":1,"id":1}"#;
    malformed(
        &options(CHAT),
        body,
        "duplicate_key",
        "nvext.engine_data.finished",
    );
    let body = r#"{"id":1,§"id":1,"nvext":{"engine_data":1,"engine_data":1}}"#;
    malformed(&options(CHAT), body, "duplicate_key", "id");
    // A third time is not earlier than the second.
    let body = r#"{"id":1,§"id":1,"id":1}"#;
    malformed(&options(CHAT), body, "duplicate_key", "id");
}

#[test]
fn repeated_keys_come_before_error_bodies() {
    let body = r#"{"error":{"message":"no"},"id":1,§"id":2}"#;
    malformed(&options(CHAT), body, "duplicate_key", "id");
}

#[track_caller]
fn server_error(wire: Wire, body: &str, message: &str) {
    refused(&options(wire), body, Class::Server, "server", "");
    let error = decode(body.as_bytes(), &options(wire)).expect_err("a server error");
    assert_eq!(error.message, message);
}

#[test]
fn an_error_body_is_a_server_error() {
    let silent = "the server answered with an error";
    for (_, wire) in Wire::ALL {
        server_error(
            wire,
            r#"{"error":{"message":"no GPU","code":500}}"#,
            "no GPU",
        );
        server_error(wire, r#"{"error":"Unauthorized"}"#, "Unauthorized");
        server_error(
            wire,
            r#"{"error":"Route not found","message":"POST /x"}"#,
            "Route not found",
        );
        server_error(wire, r#"{"error":{},"message":"beside it"}"#, "beside it");
        server_error(wire, r#"{"error":{"message":7}}"#, silent);
        server_error(wire, r#"{"error":false}"#, silent);
        server_error(wire, r#"{"error":1,"choices":[{"token_ids":[1]}]}"#, silent);
        server_error(wire, r#"{"object":"error","message":"bad"}"#, "bad");
        server_error(wire, r#"{"status":"error","message":"worse"}"#, "worse");
        server_error(wire, r#"{"status":"err\u006fr"}"#, silent);
        server_error(wire, r#"{"message":"m","type":"t","code":400}"#, "m");
        server_error(wire, r#"{"message":null,"type":null,"code":null}"#, silent);
        server_error(
            wire,
            r#"{"message":"m","type":"t","code":400,"choices":null}"#,
            "m",
        );
    }
}

#[test]
fn what_only_resembles_an_error_body_is_none() {
    let bodies = [
        r#"{"error":null}"#,
        r#"{"object":"Error","status":"ok"}"#,
        r#"{"object":["error"],"status":{"status":"error"}}"#,
        r#"{"message":"m","type":"t"}"#,
        r#"{"message":"m","code":1}"#,
        r#"{"choices":[],"message":"m","type":"t","code":1}"#,
        r#"{"nvext":{"error":1}}"#,
    ];
    for body in bodies {
        refused(&options(CHAT), body, Class::Missing, "missing", "choices");
    }
    let list = r#"[{"error":"no","status":"error"}]"#;
    let path = "[0].meta_info";
    refused(&options(SGLANG), list, Class::Missing, "missing", path);
}

#[test]
fn choices_are_a_list_of_one_object_or_more() {
    for (_, wire) in Wire::ALL {
        if wire == SGLANG {
            continue;
        }
        for body in ["{}", r#"{"choices":null}"#, r#"{"choices":[]}"#] {
            refused(&options(wire), body, Class::Missing, "missing", "choices");
        }
        malformed(&options(wire), r#"{"choices":§{}}"#, "type", "choices");
        malformed(&options(wire), r#"{"choices":§"a"}"#, "type", "choices");
        malformed(&options(wire), r#"{"choices":[§1]}"#, "type", "choices[0]");
        malformed(
            &options(wire),
            r#"{"choices":[{},§null]}"#,
            "type",
            "choices[1]",
        );
        malformed(
            &options(wire),
            r#"{"choices":[{"logprobs":§[]}]}"#,
            "type",
            "choices[0].logprobs",
        );
        malformed(
            &options(wire),
            r#"{"choices":[{"index":§"0"}]}"#,
            "type",
            "choices[0].index",
        );
    }
}

#[test]
fn there_is_a_ceiling_of_choices() {
    let generate = options(GENERATE);
    let choice = r#"{"token_ids":[]}"#;
    let many = |n: usize| {
        format!(
            r#"{{"choices":§[{}1]}}"#,
            format!("{choice},").repeat(n - 1)
        )
    };
    malformed(&generate, &many(4097), "too_many", "choices");
    let full = many(4096)
        .replace('§', "")
        .replace(",1]", &format!(",{choice}]"));
    let completions = all_decoded(&generate, &full);
    assert!(completions.iter().map(|c| c.index).eq(0..4096));
}

#[test]
fn nvext_and_engine_data_are_objects_or_absent() {
    for wire in [CHAT, COMPLETIONS] {
        let body = r#"{"choices":[{}],"nvext":§[]}"#;
        malformed(&options(wire), body, "type", "nvext");
        let body = r#"{"choices":[{}],"nvext":{"engine_data":§1}}"#;
        malformed(&options(wire), body, "type", "nvext.engine_data");
        for nvext in [
            "",
            r#","nvext":null"#,
            r#","nvext":{}"#,
            r#","nvext":{"engine_data":null}"#,
        ] {
            let body = format!(r#"{{"choices":[{{"token_ids":[],"logprobs":null}}]{nvext}}}"#);
            assert_eq!(decoded(&options(wire), &body).token_ids, NO_IDS);
        }
    }
}

#[test]
fn the_structure_is_judged_in_its_order() {
    // Each case repeats the errors of those after it.
    let cases = [
        (
            r#"{"nvext":{"engine_data":2},"choices":§1}"#,
            "type",
            "choices",
        ),
        (
            r#"{"nvext":1,"choices":[{"logprobs":1,"index":"a"},§1]}"#,
            "type",
            "choices[1]",
        ),
        (
            r#"{"nvext":1,"choices":[{"logprobs":1,"index":§"a"}]}"#,
            "type",
            "choices[0].index",
        ),
        (
            r#"{"nvext":1,"choices":[{"logprobs":1},{"index":§"a"}]}"#,
            "type",
            "choices[1].index",
        ),
        (
            r#"{"nvext":1,"choices":[{},{"logprobs":§1}]}"#,
            "type",
            "choices[1].logprobs",
        ),
        (
            r#"{"nvext":1,"choices":[{},§{}]}"#,
            "several_choices",
            "choices[1]",
        ),
        (r#"{"nvext":§1,"choices":[{}]}"#, "type", "nvext"),
    ];
    for (body, kind, path) in cases {
        malformed(&options(CHAT), body, kind, path);
    }
}

#[test]
fn several_choices_are_refused_where_one_is_all_there_can_be() {
    let body = r#"{"choices":[{"token_ids":[]},§{"token_ids":[]}]}"#;
    let (unmarked, offset) = unmarked(body);
    for wire in [CHAT, COMPLETIONS] {
        malformed(&options(wire), body, "several_choices", "choices[1]");
        let error = decode_choices(unmarked.as_bytes(), &options(wire)).expect_err("several");
        assert_error(
            &error,
            Class::Malformed,
            "several_choices",
            "choices[1]",
            offset,
        );
    }
    for wire in [GENERATE, VLLM_CHAT] {
        malformed(&options(wire), body, "several_choices", "choices[1]");
        assert_eq!(all_decoded(&options(wire), &unmarked).len(), 2);
    }
    let body = r#"[{"output_ids":[],"meta_info":{}}, §{"output_ids":[],"meta_info":1}]"#;
    malformed(&options(SGLANG), body, "several_choices", "[1]");
}

#[test]
fn choices_come_by_index() {
    let generate = options(GENERATE);
    let body = r#"{"choices":[{"index":7,"token_ids":[]},{"index":null,"token_ids":[]},{"index":0,"token_ids":[]},{"token_ids":[]}]}"#;
    let completions = all_decoded(&generate, body);
    let found: Vec<_> = completions
        .iter()
        .map(|c| (c.index, source(c, "token_ids")))
        .collect();
    let at = |i: usize| Some(format!("choices[{i}].token_ids"));
    assert_eq!(found, [(0, at(2)), (1, at(1)), (3, at(3)), (7, at(0))]);
    let one = r#"{"choices":[{"index":5,"token_ids":[]}]}"#;
    assert_eq!(decoded(&generate, one).index, 5);
}

#[test]
fn errors_come_by_index_too() {
    let body = r#"{"choices":[{"index":1,"token_ids":1},{"index":0,"token_ids":§2}]}"#;
    let (body, offset) = unmarked(body);
    let error = decode_choices(body.as_bytes(), &options(GENERATE)).expect_err("a type");
    assert_error(
        &error,
        Class::Malformed,
        "type",
        "choices[1].token_ids",
        offset,
    );
}

#[test]
fn an_index_is_an_integer_that_occurs_once() {
    let cases = [
        (r#"[{"index":§-1}]"#, "type", "choices[0].index"),
        (r#"[{"index":§1.0}]"#, "type", "choices[0].index"),
        (r#"[{"index":§true}]"#, "type", "choices[0].index"),
        (r#"[{"index":§2147483648}]"#, "range", "choices[0].index"),
        (
            r#"[{"index":3},{"index":§3}]"#,
            "duplicate_index",
            "choices[1].index",
        ),
        (
            r#"[{"index":1},§{}]"#,
            "duplicate_index",
            "choices[1].index",
        ),
        (
            r#"[{},{"index":§0,"logprobs":1}]"#,
            "duplicate_index",
            "choices[1].index",
        ),
    ];
    for (choices, kind, path) in cases {
        let body = format!(r#"{{"choices":{choices}}}"#);
        malformed(&options(GENERATE), &body, kind, path);
    }
    let largest = one_choice(r#""index":2147483647,"token_ids":[]"#);
    assert_eq!(decoded(&options(GENERATE), &largest).index, 2_147_483_647);
}

#[test]
fn meta_info_is_an_object_and_has_to_be_there() {
    let sglang = options(SGLANG);
    for body in [
        r#"{"output_ids":[]}"#,
        r#"{"meta_info":null,"output_ids":1}"#,
    ] {
        refused(&sglang, body, Class::Missing, "missing", "meta_info");
    }
    malformed(
        &sglang,
        r#"{"output_ids":1,"meta_info":§[]}"#,
        "type",
        "meta_info",
    );
    // Of every element before any of them is read.
    let (body, offset) = unmarked(r#"[{"output_ids":1,"meta_info":{}},{"meta_info":§1}]"#);
    let error = decode_choices(body.as_bytes(), &sglang).expect_err("a type");
    assert_error(&error, Class::Malformed, "type", "[1].meta_info", offset);
}

#[test]
fn elements_of_a_list_are_choices_by_position() {
    let body = r#"[{"output_ids":[1],"meta_info":{}},{"output_ids":[2],"meta_info":{}}]"#;
    let completions = all_decoded(&lenient(SGLANG), body);
    let ids: Vec<_> = completions
        .iter()
        .map(|c| (c.index, c.token_ids[0]))
        .collect();
    assert_eq!(ids, [(0, 1), (1, 2)]);
    assert_eq!(
        source(&completions[1], "token_ids").as_deref(),
        Some("[1].output_ids")
    );
    let single = r#"[{"output_ids":[1],"meta_info":{}}]"#;
    let completion = decoded(&lenient(SGLANG), single);
    assert_eq!(
        source(&completion, "token_ids").as_deref(),
        Some("[0].output_ids")
    );
}

#[test]
fn an_unfinished_completion_is_refused() {
    let path = "nvext.engine_data.finished";
    let body = dynamo("", r#""completion_token_ids":1,"finished":§false"#);
    malformed(&options(CHAT), &body, "unfinished", path);
    for other in ["true", "null", "0", "\"false\"", "[false]"] {
        let engine_data = format!(r#""completion_token_ids":[],"finished":{other}"#);
        assert_eq!(
            decoded(&options(CHAT), &dynamo("", &engine_data)).token_ids,
            NO_IDS
        );
    }
}

#[test]
fn fields_are_found_in_the_document_and_nowhere_else() {
    let decoy = r#"{\"token_ids\":[9],\"nvext\":{}}"#;
    let body = format!(
        r#"{{"x":{{"choices":[],"nvext":{{"engine_data":{{"finished":false}}}}}},"ch\u006fices":[{{"message":"{decoy}","to\u006ben_ids":[],"y":[{{"token_ids":[9]}}]}}]}}"#
    );
    assert_eq!(decoded(&options(CHAT), &body).token_ids, NO_IDS);
}
