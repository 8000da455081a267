//! (d) and (e): the server's own counts.

use super::*;

fn counted(prompt: &str, completion: &str) -> String {
    let usage = format!(r#""prompt_tokens":{prompt},"completion_tokens":{completion}"#);
    format!(r#"{{"usage":§{{{usage}}},"choices":[{{"token_ids":[7,8]}}]}}"#)
}

/// P = 3, in both ways to pass it.
fn known(wire: Wire) -> [Options<'static>; 2] {
    let length = Options {
        prompt_len: Some(3),
        ..lenient(wire)
    };
    let ids = Options {
        prompt_token_ids: Some(&[1, 2, 3]),
        ..lenient(wire)
    };
    [length, ids]
}

#[test]
fn usage_counts_the_prompt_and_the_ids() {
    for wire in [GENERATE, VLLM_CHAT, CHAT, COMPLETIONS] {
        for options in known(wire) {
            decoded(&options, &counted("3", "2").replace(MARK, ""));
            for wrong in ["0", "2", "4", "-3", "18446744073709551615"] {
                let (path, body) = ("usage.prompt_tokens", counted(wrong, "2"));
                refused(&options, &body, Class::Alignment, "prompt_mismatch", path);
                let (path, body) = ("usage.completion_tokens", counted("3", wrong));
                if wrong != "2" {
                    refused(&options, &body, Class::Alignment, "count", path);
                }
            }
            // Both: the prompt is judged first.
            let (path, body) = ("usage.prompt_tokens", counted("4", "4"));
            refused(&options, &body, Class::Alignment, "prompt_mismatch", path);
            // What is no integer is no count.
            for other in ["null", "4.0", "4e0", "\"4\"", "[4]", "true"] {
                decoded(&options, &counted(other, other).replace(MARK, ""));
            }
        }
        // Nobody knows P.
        decoded(&lenient(wire), &counted("4", "2").replace(MARK, ""));
    }
}

#[test]
fn of_a_repeated_count_the_last_one_counts() {
    for options in known(GENERATE) {
        let body =
            r#"{"usage":§{"prompt_tokens":3,"prompt\u005ftokens":4},"choices":[{"token_ids":[]}]}"#;
        let path = "usage.prompt_tokens";
        refused(&options, body, Class::Alignment, "prompt_mismatch", path);
    }
}

#[test]
fn sglang_counts_in_its_meta_info() {
    for options in known(SGLANG) {
        decoded(
            &options,
            &sglang(r#""prompt_tokens":3,"completion_tokens":2"#),
        );
        let body = sglang(r#""prompt_tokens":§260,"completion_tokens":9"#);
        let path = "meta_info.prompt_tokens";
        refused(&options, &body, Class::Alignment, "prompt_mismatch", path);
        let body = sglang(r#""prompt_tokens":3,"completion_tokens":§3"#);
        let path = "meta_info.completion_tokens";
        refused(&options, &body, Class::Alignment, "count", path);
    }
    // Each answer on its own.
    let one = |ids: &str, count: u8| {
        format!(r#"{{"output_ids":{ids},"meta_info":{{"completion_tokens":§{count}}}}}"#)
    };
    let good = one("[7]", 1).replace(MARK, "");
    let all = format!("[{good},{}]", one("[7,8]", 2).replace(MARK, ""));
    assert_eq!(all_decoded(&lenient(SGLANG), &all).len(), 2);
    let (body, offset) = unmarked(&format!("[{good},{}]", one("[7,8]", 3)));
    agreed(&lenient(SGLANG), &body);
    let error = decode_choices(body.as_bytes(), &lenient(SGLANG)).expect_err("a wrong count");
    let path = "[1].meta_info.completion_tokens";
    assert_error(&error, Class::Alignment, "count", path, offset);
}

#[test]
fn usage_sums_over_the_choices() {
    let body = |count: u8| {
        format!(
            r#"{{"usage":§{{"completion_tokens":{count}}},"choices":[{{"token_ids":[7]}},{{"token_ids":[7,8]}}]}}"#
        )
    };
    for wire in [GENERATE, VLLM_CHAT] {
        assert_eq!(
            all_decoded(&lenient(wire), &body(3).replace(MARK, "")).len(),
            2
        );
        for wrong in [1, 2, 4, 6] {
            let (body, offset) = unmarked(&body(wrong));
            agreed(&lenient(wire), &body);
            let error = decode_choices(body.as_bytes(), &lenient(wire)).expect_err("a wrong sum");
            let path = "usage.completion_tokens";
            assert_error(&error, Class::Alignment, "count", path, offset);
        }
    }
}

#[test]
fn the_echo_is_as_long_as_prompt_len() {
    let bodies = [
        (
            GENERATE,
            r#"{"prompt_token_ids":§[1,2,3,3],"choices":[{"token_ids":[]}]}"#,
        ),
        (
            VLLM_CHAT,
            r#"{"prompt_token_ids":§[],"choices":[{"token_ids":[]}]}"#,
        ),
        (
            SGLANG,
            r#"{"prompt_token_ids":§[1],"output_ids":[],"meta_info":{}}"#,
        ),
    ];
    for (wire, body) in bodies {
        let [length, ids] = known(wire);
        for options in [length, ids] {
            let path = "prompt_token_ids";
            refused(&options, body, Class::Alignment, "prompt_mismatch", path);
        }
    }
}

#[test]
fn dynamo_echoes_in_two_places() {
    let body = |engine: &str, named: &str| {
        format!(
            r#"{{"choices":[{{}}],"nvext":{{"prompt_token_ids":{named},"engine_data":{{"completion_token_ids":[],"prompt_token_ids":{engine}}}}}}}"#
        )
    };
    for wire in [CHAT, COMPLETIONS] {
        let completion = decoded(&lenient(wire), &body("null", "[1,2]"));
        let path = source(&completion, "prompt_token_ids");
        assert_eq!(completion.prompt_token_ids, Some(vec![1, 2]));
        assert_eq!(path.as_deref(), Some("nvext.prompt_token_ids"));
        // The engine's is authoritative, also where it is empty; the other one is not read then.
        let completion = decoded(&lenient(wire), &body("[]", "7"));
        assert_eq!(completion.prompt_token_ids, Some(vec![]));
        for options in known(wire) {
            let path = "nvext.prompt_token_ids";
            let body = body("null", "§[1,2]");
            refused(&options, &body, Class::Alignment, "prompt_mismatch", path);
        }
        let twice = r#"{"choices":[{}],"nvext":{"prompt_token_ids":1,§"prompt_token_ids":1}}"#;
        malformed(
            &lenient(wire),
            twice,
            "duplicate_key",
            "nvext.prompt_token_ids",
        );
        let wrong = body("null", "§7");
        malformed(&lenient(wire), &wrong, "type", "nvext.prompt_token_ids");
    }
}

#[test]
fn what_was_aborted_before_its_first_token_need_not_have_run() {
    let body = |ids: &str, reason: &str| {
        format!(
            r#"{{"usage":§{{"prompt_tokens":0}},"choices":[{{"token_ids":{ids},"finish_reason":"{reason}"}}]}}"#
        )
    };
    for options in known(GENERATE) {
        decoded(&options, &body("[]", "abort").replace(MARK, ""));
        for body in [body("[7]", "abort"), body("[]", "stop")] {
            let path = "usage.prompt_tokens";
            refused(&options, &body, Class::Alignment, "prompt_mismatch", path);
        }
    }
}

#[test]
fn scoring_looks_at_the_prompt_only() {
    let body = |prompt: u8| {
        sglang(&format!(
            r#""input_token_logprobs":[[null,1],[-1,2],[-1,3]],"completion_tokens":0,"prompt_tokens":§{prompt}"#
        ))
    };
    let options = Options {
        prompt_token_ids: Some(&[1, 2, 3]),
        score_from: Some(0),
        ..lenient(SGLANG)
    };
    decoded(&options, &body(3).replace(MARK, ""));
    let path = "meta_info.prompt_tokens";
    refused(
        &options,
        &body(4),
        Class::Alignment,
        "prompt_mismatch",
        path,
    );
}
