//! (d): the echo of the prompt, and its log-probabilities.

use super::*;
use dynamo_tito::MissingLogprob;

fn passed<'a>(wire: Wire, ids: &'a [i32]) -> Options<'a> {
    Options {
        prompt_token_ids: Some(ids),
        ..lenient(wire)
    }
}

fn generate(members: &str) -> String {
    format!(r#"{{"choices":[{{"token_ids":[7]}}],{members}}}"#)
}

#[test]
fn each_wire_echoes_in_its_place() {
    let bodies = [
        (
            CHAT,
            dynamo("", r#""completion_token_ids":[7],"prompt_token_ids":[1,2]"#),
            "nvext.engine_data.prompt_token_ids",
        ),
        (
            GENERATE,
            generate(r#""prompt_token_ids":[1,2]"#),
            "prompt_token_ids",
        ),
        (
            VLLM_CHAT,
            generate(r#""prompt_token_ids":[1,2]"#),
            "prompt_token_ids",
        ),
        (
            SGLANG,
            r#"{"output_ids":[7],"meta_info":{},"prompt_token_ids":[1,2]}"#.to_owned(),
            "prompt_token_ids",
        ),
        (
            SGLANG,
            r#"[{"output_ids":[7],"meta_info":{},"prompt_token_ids":[1,2]}]"#.to_owned(),
            "[0].prompt_token_ids",
        ),
    ];
    for (wire, body, path) in bodies {
        for options in [lenient(wire), passed(wire, &[1, 2])] {
            let completion = decoded(&options, &body);
            assert_eq!(completion.prompt_token_ids, Some(vec![1, 2]));
            assert_eq!(
                source(&completion, "prompt_token_ids").as_deref(),
                Some(path)
            );
        }
        let marked = body.replace("[1,2]", "§[1,2]");
        let mismatch = |ids: &[i32], place: &str| {
            let path = format!("{path}{place}");
            refused(
                &passed(wire, ids),
                &marked,
                Class::Alignment,
                "prompt_mismatch",
                &path,
            );
        };
        mismatch(&[], "");
        mismatch(&[1], "");
        mismatch(&[1, 2, 3], "");
        mismatch(&[9, 9, 9], "");
        mismatch(&[1, 9], "[1]");
        mismatch(&[9, 9], "[0]");
        for (list, kind, place) in [
            ("[1,§null]", "type", "[1]"),
            ("§{}", "type", ""),
            ("[§2147483648]", "range", "[0]"),
        ] {
            let path = format!("{path}{place}");
            malformed(&lenient(wire), &body.replace("[1,2]", list), kind, &path);
        }
    }
}

#[test]
fn what_was_passed_is_no_echo() {
    let completion = decoded(
        &passed(GENERATE, &[1, 2]),
        &generate(r#""prompt_token_ids":null"#),
    );
    assert_eq!(completion.prompt_token_ids, None);
    assert_eq!(source(&completion, "prompt_token_ids"), None);
}

fn prompt_logprobs(list: &str) -> String {
    generate(&format!(
        r#""prompt_token_ids":[1,2,3],"prompt_logprobs":{list}"#
    ))
}

#[track_caller]
fn assert_prompt(completion: &Completion, values: &[f64], path: &str) {
    let read = completion
        .prompt_logprobs
        .as_ref()
        .expect("prompt logprobs");
    assert_eq!(bits(&read.logprobs), bits(values));
    assert_eq!(source(completion, "prompt_logprobs").as_deref(), Some(path));
}

#[test]
fn prompt_logprobs_are_those_of_the_prompts_own_tokens() {
    let list = r#"[null,{"9":{"logprob":-0.25},"2":{"rank":1,"logprob":-2.5}},{"3":{"logprob":-3.5,"decoded_token":"x"}}]"#;
    let completion = decoded(&lenient(GENERATE), &prompt_logprobs(list));
    assert_prompt(&completion, &[f64::NAN, -2.5, -3.5], "prompt_logprobs");
    let top = completion.prompt_logprobs.expect("prompt logprobs").top;
    assert_eq!(top.token_ids, [9, 2, 3]);
    assert_eq!(top.logprobs, [-0.25, -2.5, -3.5]);
    assert_eq!(top.offsets, [0, 0, 2, 3]);
}

#[test]
fn dynamos_channels_in_their_order() {
    let body = |engine: &str, nvext: &str, top: &str| {
        format!(
            r#"{{"choices":[{{}}],"prompt_logprobs":{top},"nvext":{{"prompt_logprobs":{nvext},"engine_data":{{"completion_token_ids":[7],"prompt_token_ids":[1],"prompt_logprobs":{engine}}}}}}}"#
        )
    };
    let (a, b, c) = (
        r#"[{"1":{"logprob":-1}}]"#,
        r#"[{"1":{"logprob":-2}}]"#,
        r#"[{"1":{"logprob":-3}}]"#,
    );
    for wire in [CHAT, COMPLETIONS] {
        let check = |body: &str, value: f64, path: &str| {
            assert_prompt(&decoded(&lenient(wire), body), &[value], path);
        };
        check(&body(a, b, c), -1.0, "nvext.engine_data.prompt_logprobs");
        check(
            &body(a, "1", "1"),
            -1.0,
            "nvext.engine_data.prompt_logprobs",
        );
        check(&body("null", b, c), -2.0, "nvext.prompt_logprobs");
        check(&body("null", "null", c), -3.0, "prompt_logprobs");
        let path = "nvext.engine_data.prompt_logprobs";
        malformed(&lenient(wire), &body("§1", b, c), "type", path);
        refused(
            &lenient(wire),
            &body("§[]", b, c),
            Class::Alignment,
            "count",
            path,
        );
        let completion = decoded(&lenient(wire), &body("null", "null", "null"));
        assert_eq!(completion.prompt_logprobs, None);
        assert_eq!(source(&completion, "prompt_logprobs"), None);
    }
}

#[test]
fn without_ids_they_are_left_out_unread() {
    let left_out = Some("left out: needs prompt_token_ids".to_owned());
    for list in ["[null]", "1", r#"[{"x":1}]"#] {
        let body = generate(&format!(r#""prompt_logprobs":{list}"#));
        let completion = decoded(&lenient(GENERATE), &body);
        assert_eq!(completion.prompt_logprobs, None);
        assert_eq!(source(&completion, "prompt_logprobs"), left_out);
    }
    let completion = decoded(
        &lenient(SGLANG),
        &sglang(r#""input_token_logprobs":[[null,1]]"#),
    );
    assert_eq!(source(&completion, "prompt_logprobs"), left_out);
    let completion = decoded(&lenient(SGLANG), &sglang(r#""input_token_logprobs":[]"#));
    assert_eq!(source(&completion, "prompt_logprobs"), None);
}

#[test]
fn ids_that_were_passed_will_do() {
    let body = generate(r#""prompt_logprobs":[null,{"2":{"logprob":-1}}]"#);
    let completion = decoded(&passed(GENERATE, &[1, 2]), &body);
    assert_prompt(&completion, &[f64::NAN, -1.0], "prompt_logprobs");
}

#[test]
fn the_map_is_read_strictly() {
    let cases = [
        ("§{}", "type", ""),
        ("[§1]", "type", "[0]"),
        ("[null,§[]]", "type", "[1]"),
        (r#"[{§"a":{}}]"#, "type", "[0]"),
        (r#"[{§"":{}}]"#, "type", "[0]"),
        (r#"[{§"01":{}}]"#, "type", "[0]"),
        (r#"[{§"-1":{}}]"#, "type", "[0]"),
        (r#"[{§"+1":{}}]"#, "type", "[0]"),
        (r#"[{§" 1":{}}]"#, "type", "[0]"),
        (r#"[{§"1.0":{}}]"#, "type", "[0]"),
        (r#"[{§"2147483648":{}}]"#, "type", "[0]"),
        (r#"[{"1":{"logprob":1},§"\ud800":{}}]"#, "type", "[0]"),
        (
            r#"[{"1":{"logprob":1},§"\u0031":1}]"#,
            "duplicate_key",
            "[0].1",
        ),
        (r#"[{"1":§1}]"#, "type", "[0].1"),
        (r#"[{"1":§null}]"#, "type", "[0].1"),
        (r#"[{"1":{"logprob":§"x"}}]"#, "type", "[0].1.logprob"),
        (r#"[{"1":{"logprob":§1e999}}]"#, "range", "[0].1.logprob"),
        (
            r#"[{"1":{"logprob":1,§"logprob":1}}]"#,
            "duplicate_key",
            "[0].1.logprob",
        ),
        // In document order.
        (r#"[{"1":{"logprob":§"x"},"a":1}]"#, "type", "[0].1.logprob"),
    ];
    for (list, kind, place) in cases {
        let path = format!("prompt_logprobs{place}");
        malformed(&lenient(GENERATE), &prompt_logprobs(list), kind, &path);
    }
    let body = prompt_logprobs(r#"[null,{"2":§{"rank":1}}]"#);
    let path = "prompt_logprobs[1].2.logprob";
    refused(&lenient(GENERATE), &body, Class::Missing, "missing", path);
    let body = prompt_logprobs(
        r#"[null,{"\u0032":{"rank":1,"rank":2,"logprob":-1}},{"3":{"logprob":-1}}]"#,
    );
    decoded(&lenient(GENERATE), &body);
}

#[test]
fn the_count_is_that_of_the_prompt() {
    for list in [
        "§[]",
        "§[null]",
        r#"§[null,{"2":{"logprob":1}}]"#,
        "§[null,null,null,null]",
    ] {
        let body = prompt_logprobs(list);
        refused(
            &lenient(GENERATE),
            &body,
            Class::Alignment,
            "count",
            "prompt_logprobs",
        );
    }
    let empty = generate(r#""prompt_token_ids":[],"prompt_logprobs":[]"#);
    assert_prompt(&decoded(&lenient(GENERATE), &empty), &[], "prompt_logprobs");
}

#[test]
fn an_entry_without_the_prompts_token_is_refused() {
    let list = r#"[null,§{"9":{"logprob":-0.1},"22":{"logprob":-0.1}},null]"#;
    let check = |list: &str, place: &str| {
        let path = format!("prompt_logprobs{place}");
        refused(
            &lenient(GENERATE),
            &prompt_logprobs(list),
            Class::Alignment,
            "identity",
            &path,
        );
    };
    check(list, "[1]");
    check(r#"[null,§{},null]"#, "[1]");
    // Position 0 too.
    check(r#"[§{"9":{"logprob":-0.1}},null,null]"#, "[0]");
}

#[test]
fn no_evidence_is_refused_or_nan_but_at_position_0() {
    let cases = [
        (r#"[null,§null,{"3":{"logprob":-1}}]"#, "[1]"),
        (
            r#"[null,{"2":{"logprob":§null}},{"3":{"logprob":-1}}]"#,
            "[1].2.logprob",
        ),
        (
            r#"[null,{"2":{"logprob":§-9999.0}},{"3":{"logprob":-1}}]"#,
            "[1].2.logprob",
        ),
        (
            r#"[{"1":{"logprob":-9999.0}},{"2":{"logprob":§-1e30}},{"3":{"logprob":-1}}]"#,
            "[1].2.logprob",
        ),
    ];
    let nan = Options {
        missing_logprob: MissingLogprob::Nan,
        ..lenient(GENERATE)
    };
    for (list, place) in cases {
        let path = format!("prompt_logprobs{place}");
        let body = prompt_logprobs(list);
        refused(
            &lenient(GENERATE),
            &body,
            Class::Missing,
            "no_logprob",
            &path,
        );
        let completion = decoded(&nan, &unmarked(&body).0);
        assert_prompt(&completion, &[f64::NAN, f64::NAN, -1.0], "prompt_logprobs");
    }
    let known = r#"{"2":{"logprob":-2}},{"3":{"logprob":-1}}"#;
    for first in [
        "null",
        r#"{"1":{"logprob":null}}"#,
        r#"{"1":{"logprob":-9999}}"#,
    ] {
        let body = prompt_logprobs(&format!("[{first},{known}]"));
        let completion = decoded(&lenient(GENERATE), &body);
        assert_prompt(&completion, &[f64::NAN, -2.0, -1.0], "prompt_logprobs");
    }
    // A number that is there is kept.
    let body = prompt_logprobs(&format!(r#"[{{"1":{{"logprob":-7}}}},{known}]"#));
    assert_prompt(
        &decoded(&lenient(GENERATE), &body),
        &[-7.0, -2.0, -1.0],
        "prompt_logprobs",
    );
}

#[test]
fn identity_comes_before_evidence_position_by_position() {
    let list = r#"[null,§null,{"9":{"logprob":-1}}]"#;
    let body = prompt_logprobs(list);
    refused(
        &lenient(GENERATE),
        &body,
        Class::Missing,
        "no_logprob",
        "prompt_logprobs[1]",
    );
}

#[test]
fn the_top_entries_are_sorted() {
    let list = r#"[{"1":{"logprob":null},"5":{"logprob":-0.0},"4":{"logprob":0},"6":{"logprob":-9999}},{"2":{"logprob":-1},"10":{"logprob":-1},"9":{"logprob":-0.5},"3":{"logprob":-2}},{"3":{"logprob":-1}}]"#;
    let completion = decoded(&lenient(GENERATE), &prompt_logprobs(list));
    let top = completion.prompt_logprobs.expect("prompt logprobs").top;
    assert_eq!(top.token_ids, [4, 5, 1, 6, 9, 2, 10, 3, 3]);
    let nan = f64::NAN;
    let values = [0.0, -0.0, nan, nan, -0.5, -1.0, -1.0, -2.0, -1.0];
    assert_eq!(bits(&top.logprobs), bits(&values));
    assert_eq!(top.offsets, [0, 4, 8, 9]);
}

#[test]
fn sglang_has_a_triple_per_token_of_the_prompt() {
    let body = |list: &str| {
        let meta_info = format!(r#""input_token_logprobs":{list}"#);
        sglang(&meta_info).replacen('{', r#"{"prompt_token_ids":[1,2,3],"#, 1)
    };
    let path = "meta_info.input_token_logprobs";
    let completion = decoded(
        &lenient(SGLANG),
        &body(r#"[[null,1,"a"],[-2.5,2,null],[-3.5,3]]"#),
    );
    assert_prompt(&completion, &[f64::NAN, -2.5, -3.5], path);
    let top = completion.prompt_logprobs.expect("prompt logprobs").top;
    assert_eq!(top.token_ids, [2, 3]);
    assert_eq!(top.logprobs, [-2.5, -3.5]);
    assert_eq!(top.offsets, [0, 0, 1, 2]);

    let cases = [
        ("§{}", Class::Malformed, "type", ""),
        ("[§null]", Class::Malformed, "type", "[0]"),
        ("[[null,§null]]", Class::Malformed, "type", "[0][1]"),
        ("§[[null,1]]", Class::Alignment, "count", ""),
        (
            "[[null,§9],[-1,2],[-1,3]]",
            Class::Alignment,
            "identity",
            "[0][1]",
        ),
        (
            "[[null,1],[-1,§3],[-1,3]]",
            Class::Alignment,
            "identity",
            "[1][1]",
        ),
        (
            "[[null,1],[§null,2],[-1,3]]",
            Class::Missing,
            "no_logprob",
            "[1][0]",
        ),
        (
            "[[null,1],[-1,2],[§-9999.0,3]]",
            Class::Missing,
            "no_logprob",
            "[2][0]",
        ),
    ];
    for (list, class, kind, place) in cases {
        refused(
            &lenient(SGLANG),
            &body(list),
            class,
            kind,
            &format!("{path}{place}"),
        );
    }
    let nan = Options {
        missing_logprob: MissingLogprob::Nan,
        ..lenient(SGLANG)
    };
    let completion = decoded(&nan, &body("[[-0.5,1],[null,2],[-9999,3]]"));
    assert_prompt(&completion, &[-0.5, f64::NAN, f64::NAN], path);
    let top = completion.prompt_logprobs.expect("prompt logprobs").top;
    assert_eq!(top.token_ids, [1, 3]);
    assert_eq!(bits(&top.logprobs), bits(&[-0.5, f64::NAN]));
    assert_eq!(top.offsets, [0, 1, 1, 2]);
}

#[test]
fn every_choice_shares_the_prompt() {
    let body = r#"{"choices":[{"token_ids":[7]},{"token_ids":[8]}],"prompt_token_ids":[1],"prompt_logprobs":[null]}"#;
    let completions = all_decoded(&lenient(GENERATE), body);
    assert_eq!(completions.len(), 2);
    for completion in completions {
        assert_eq!(completion.prompt_token_ids, Some(vec![1]));
        assert_prompt(&completion, &[f64::NAN], "prompt_logprobs");
    }
}

#[test]
fn the_prompt_is_judged_after_the_logprobs() {
    let (body, _) = unmarked(&prompt_logprobs("[null]"));
    refused(
        &options(GENERATE),
        &body,
        Class::Missing,
        "missing",
        "choices[0].logprobs.content",
    );
}
