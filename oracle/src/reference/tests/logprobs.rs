//! (b): the log-probabilities of the sampled tokens.

use super::*;
use dynamo_tito::MissingLogprob;

const FLAT: &str = "nvext.engine_data.completion_logprobs";
pub(super) const CONTENT: &str = "choices[0].logprobs.content";
const TRIPLES: &str = "meta_info.output_token_logprobs";

fn nan_for_none(wire: Wire) -> Options<'static> {
    Options {
        missing_logprob: MissingLogprob::Nan,
        ..Options::new(wire)
    }
}

/// Dynamo: ids 7 and 8 with a flat list.
fn flat(list: &str) -> String {
    flat_beside(list, "")
}

/// Dynamo: the same, and the inside of `choices[0].logprobs`.
pub(super) fn flat_beside(list: &str, logprobs: &str) -> String {
    dynamo(
        &format!(r#""logprobs":{{{logprobs}}}"#),
        &format!(r#""completion_token_ids":[7,8],"completion_logprobs":{list}"#),
    )
}

/// Dynamo chat: the same with content.
pub(super) fn with_content(list: &str, content: &str) -> String {
    flat_beside(list, &format!(r#""content":{content}"#))
}

fn triples(list: &str) -> String {
    sglang(&format!(r#""output_token_logprobs":{list}"#))
}

#[track_caller]
fn assert_logprobs(completion: &Completion, expected: &[f64], path: &str) {
    let values = completion.logprobs.as_deref().expect("logprobs");
    assert_eq!(bits(values), bits(expected));
    assert_eq!(source(completion, "logprobs").as_deref(), Some(path));
}

#[test]
fn each_wire_has_its_channels() {
    let values = [-0.5, -1.5];
    let completion = decoded(&options(CHAT), &flat("[-0.5,-1.5]"));
    assert_logprobs(&completion, &values, FLAT);
    let completion = decoded(&options(COMPLETIONS), &flat("[-0.5,-1.5]"));
    assert_logprobs(&completion, &values, FLAT);

    let body = with_content("null", r#"[{"logprob":-0.5},{"logprob":-1.5}]"#);
    assert_logprobs(&decoded(&options(CHAT), &body), &values, CONTENT);

    let body = flat_beside("null", r#""token_logprobs":[-0.5,-1.5]"#);
    let path = "choices[0].logprobs.token_logprobs";
    assert_logprobs(&decoded(&options(COMPLETIONS), &body), &values, path);

    let body = content(r#"[{"token_id":7,"logprob":-0.5},{"token":"token_id:8","logprob":-1.5}]"#);
    assert_logprobs(&decoded(&options(GENERATE), &body), &values, CONTENT);
    let body = content(r#"[{"token":" a","logprob":-0.5},{"token":"token_id:8","logprob":-1.5}]"#);
    assert_logprobs(&decoded(&options(VLLM_CHAT), &body), &values, CONTENT);

    let completion = decoded(&options(SGLANG), &triples(r#"[[-0.5,7,null],[-1.5,8]]"#));
    assert_logprobs(&completion, &values, TRIPLES);
    let body = format!("[{}]", triples("[[-0.5,7],[-1.5,8]]"));
    let path = format!("[0].{TRIPLES}");
    assert_logprobs(&decoded(&options(SGLANG), &body), &values, &path);
}

#[test]
fn an_empty_flat_list_is_present() {
    let body = with_content("§[]", r#"[{"logprob":-0.5},{"logprob":-1.5}]"#);
    refused(&options(CHAT), &body, Class::Alignment, "count", FLAT);
}

#[test]
fn logprobs_have_to_be_there_unless_the_caller_says_otherwise() {
    let bodies = [
        (CHAT, dynamo("", r#""completion_token_ids":[7]"#), CONTENT),
        (
            CHAT,
            dynamo(
                r#""logprobs":{"content":null}"#,
                r#""completion_token_ids":[7]"#,
            ),
            CONTENT,
        ),
        (
            COMPLETIONS,
            dynamo(r#""logprobs":null"#, r#""completion_token_ids":[7]"#),
            "choices[0].logprobs.token_logprobs",
        ),
        (GENERATE, content("null"), CONTENT),
        (VLLM_CHAT, content("null"), CONTENT),
        (SGLANG, triples("null"), TRIPLES),
    ];
    for (wire, body, path) in bodies {
        refused(&options(wire), &body, Class::Missing, "missing", path);
        let completion = decoded(&lenient(wire), &body);
        assert_eq!(completion.logprobs, None);
        assert_eq!(source(&completion, "logprobs"), None);
    }
}

#[test]
fn values_are_numbers_correctly_rounded() {
    let list = "[-0.0,-0.1,1e-400,-2.2250738585072011e-308,4.9e-324,-0.30000000000000004,-1.7976931348623157e308,-123456789012345678901,5e-4,0]";
    let ids = "[1,2,3,4,5,6,7,8,9,10]";
    let engine_data = format!(r#""completion_token_ids":{ids},"completion_logprobs":{list}"#);
    let expected = [
        -0.0,
        -0.1,
        0.0,
        -2.225_073_858_507_201e-308,
        5e-324,
        -(0.1 + 0.2),
        f64::MIN,
        -123_456_789_012_345_680_000.0,
        0.0005,
        0.0,
    ];
    assert_logprobs(
        &decoded(&options(CHAT), &dynamo("", &engine_data)),
        &expected,
        FLAT,
    );
}

#[test]
fn a_flat_list_holds_numbers_and_nothing_else() {
    let cases = [
        ("§{}", "type", ""),
        ("§-0.5", "type", ""),
        ("[§null,-1.5]", "type", "[0]"),
        ("[-0.5,§true]", "type", "[1]"),
        ("[-0.5,§\"-1.5\"]", "type", "[1]"),
        ("[§[-0.5],-1.5]", "type", "[0]"),
        ("[-0.5,§-1e999]", "range", "[1]"),
        ("[§1.8e308,null]", "range", "[0]"),
        // Before the count.
        ("[-0.5,-1.5,§null]", "type", "[2]"),
    ];
    for (list, kind, place) in cases {
        malformed(&options(CHAT), &flat(list), kind, &format!("{FLAT}{place}"));
        let path = format!("choices[0].logprobs.token_logprobs{place}");
        let body = flat_beside("null", &format!(r#""token_logprobs":{list}"#));
        malformed(&options(COMPLETIONS), &body, kind, &path);
    }
}

#[test]
fn the_count_is_that_of_the_ids() {
    for list in ["§[]", "§[-0.5]", "§[-0.5,-1.5,-2.5]", "§[-9999.0]"] {
        refused(&options(CHAT), &flat(list), Class::Alignment, "count", FLAT);
    }
    for list in ["§[]", r#"§[{"logprob":1,"token_id":9}]"#] {
        refused(
            &options(GENERATE),
            &content(list),
            Class::Alignment,
            "count",
            CONTENT,
        );
    }
    for list in ["§[]", "§[[null,9]]", "§[[1,7],[2,8],[3,9]]"] {
        refused(
            &options(SGLANG),
            &triples(list),
            Class::Alignment,
            "count",
            TRIPLES,
        );
    }
    let body = one_choice(r#""token_ids":[],"logprobs":{"content":§[{"logprob":1}]}"#);
    refused(
        &options(GENERATE),
        &body,
        Class::Alignment,
        "count",
        CONTENT,
    );
}

#[test]
fn an_entry_of_content_is_read_in_document_order() {
    let cases = [
        ("§{}", "type", ""),
        ("[§[],{}]", "type", "[0]"),
        ("[§null]", "type", "[0]"),
        (r#"[{"token":§7}]"#, "type", "[0].token"),
        (r#"[{"token":§["a"]}]"#, "type", "[0].token"),
        (r#"[{"token_id":§"7"}]"#, "type", "[0].token_id"),
        (r#"[{"token_id":§-7}]"#, "type", "[0].token_id"),
        (r#"[{"token_id":§7.0}]"#, "type", "[0].token_id"),
        (r#"[{"token_id":§2147483648}]"#, "range", "[0].token_id"),
        (r#"[{"logprob":§null}]"#, "type", "[0].logprob"),
        (r#"[{"logprob":§true}]"#, "type", "[0].logprob"),
        (r#"[{"logprob":§"-1"}]"#, "type", "[0].logprob"),
        (r#"[{"logprob":§1e400}]"#, "range", "[0].logprob"),
        (r#"[{"top_logprobs":§{}}]"#, "type", "[0].top_logprobs"),
        (r#"[{"top_logprobs":[§1]}]"#, "type", "[0].top_logprobs[0]"),
        (
            r#"[{"top_logprobs":[{"token":§1}]}]"#,
            "type",
            "[0].top_logprobs[0].token",
        ),
        (
            r#"[{"top_logprobs":[{"token_id":§1.5}]}]"#,
            "type",
            "[0].top_logprobs[0].token_id",
        ),
        (
            r#"[{"top_logprobs":[{"logprob":§"x"}]}]"#,
            "type",
            "[0].top_logprobs[0].logprob",
        ),
        (
            r#"[{"top_logprobs":[{"logprob":§-1e999}]}]"#,
            "range",
            "[0].top_logprobs[0].logprob",
        ),
        (
            r#"[{"token":"a",§"token":"a"}]"#,
            "duplicate_key",
            "[0].token",
        ),
        (
            r#"[{"token":null,§"t\u006fken":null}]"#,
            "duplicate_key",
            "[0].token",
        ),
        (
            r#"[{"logprob":1,§"logprob":null}]"#,
            "duplicate_key",
            "[0].logprob",
        ),
        (
            r#"[{"token_id":7,§"token_id":7}]"#,
            "duplicate_key",
            "[0].token_id",
        ),
        (
            r#"[{"top_logprobs":[],§"top_logprobs":[]}]"#,
            "duplicate_key",
            "[0].top_logprobs",
        ),
        (
            r#"[{"top_logprobs":[{"logprob":1},{"logprob":1,§"logprob":1}]}]"#,
            "duplicate_key",
            "[0].top_logprobs[1].logprob",
        ),
        // The first of two.
        (r#"[{"logprob":§"x","token":7}]"#, "type", "[0].logprob"),
        (r#"[{"token":§7,"logprob":"x"}]"#, "type", "[0].token"),
    ];
    for (list, kind, place) in cases {
        let path = format!("{CONTENT}{place}");
        malformed(&options(GENERATE), &content(list), kind, &path);
        malformed(&options(VLLM_CHAT), &content(list), kind, &path);
        malformed(&options(CHAT), &with_content("null", list), kind, &path);
        // When the flat list was chosen, it is left out.
        let beside = with_content("[-0.5,-1.5]", &list.replace('§', ""));
        let why = format!("left out: {CONTENT} cannot be read");
        let completion = decoded(&options(CHAT), &beside);
        assert_eq!(source(&completion, "logprobs_echo"), Some(why));
    }
}

#[test]
fn an_entry_without_a_logprob_is_refused() {
    let cases = [
        ("[§{}]", "[0].logprob"),
        (
            r#"[{"logprob":1},§{"token":"a","x":{"logprob":1}}]"#,
            "[1].logprob",
        ),
        (
            r#"[{"top_logprobs":[{"logprob":null},§{"token":"a"}],"logprob":1}]"#,
            "[0].top_logprobs[1].logprob",
        ),
    ];
    for (list, place) in cases {
        let path = format!("{CONTENT}{place}");
        refused(
            &options(GENERATE),
            &content(list),
            Class::Missing,
            "missing",
            &path,
        );
    }
}

#[test]
fn the_rest_of_an_entry_is_skipped() {
    let list = r#"[{"bytes":{"token":1,"token":2},"rank":"x","rank":[],"logprob":-1,"token_id":7,"top_logprobs":[{"logprob":-1,"token_id":7,"top_logprobs":1,"top_logprobs":2}]},
        {"token":null,"token_id":8,"logprob":-2,"top_logprobs":null}]"#;
    let completion = decoded(&options(GENERATE), &content(list));
    assert_logprobs(&completion, &[-1.0, -2.0], CONTENT);
}

#[test]
fn triples_are_a_number_and_an_id() {
    let cases = [
        ("§{}", "type", ""),
        ("[§{}]", "type", "[0]"),
        ("[§null]", "type", "[0]"),
        ("[§[]]", "type", "[0]"),
        ("[§[-1]]", "type", "[0]"),
        ("[[-1,7],§[null]]", "type", "[1]"),
        ("[[§\"-1\"]]", "type", "[0][0]"),
        ("[[§true,7]]", "type", "[0][0]"),
        ("[[§1e999,7]]", "range", "[0][0]"),
        ("[[-1,§null]]", "type", "[0][1]"),
        ("[[-1,§7.0]]", "type", "[0][1]"),
        ("[[-1,§-7]]", "type", "[0][1]"),
        ("[[-1,§2147483648]]", "range", "[0][1]"),
    ];
    for (list, kind, place) in cases {
        malformed(
            &options(SGLANG),
            &triples(list),
            kind,
            &format!("{TRIPLES}{place}"),
        );
    }
    let body = triples(r#"[[-0.5,7,"a",{"x":1,"x":2},[]],[0,8]]"#);
    assert_logprobs(&decoded(&options(SGLANG), &body), &[-0.5, 0.0], TRIPLES);
}

#[test]
fn an_entry_that_names_its_token_names_the_one_at_its_position() {
    let cases = [
        (
            r#"[{"logprob":-1,"token":§"token_id:8"},{"logprob":-1}]"#,
            "[0].token",
        ),
        (
            r#"[{"logprob":-1,"token_id":§8},{"logprob":-1}]"#,
            "[0].token_id",
        ),
        (
            r#"[{"logprob":-1,"token":"token_id:7","token_id":§8},{"logprob":-1}]"#,
            "[0].token_id",
        ),
        (
            r#"[{"logprob":-1,"token_id":9,"token":§"token_id:8"},{"logprob":-1}]"#,
            "[0].token",
        ),
        (
            r#"[{"logprob":-1,"token_id":7},{"logprob":-1,"token":§"token_id:7"}]"#,
            "[1].token",
        ),
        (
            r#"[{"logprob":-1,"token_id":7},{"token":§"token\u005fid:0","logprob":-1}]"#,
            "[1].token",
        ),
        (
            r#"[{"logprob":-1,"token_id":7},{"token":§"token_id:2147483647","logprob":-1}]"#,
            "[1].token",
        ),
    ];
    for (list, place) in cases {
        let path = format!("{CONTENT}{place}");
        let check = |wire, body: &str| {
            refused(&options(wire), body, Class::Alignment, "identity", &path);
        };
        check(GENERATE, &content(list));
        check(VLLM_CHAT, &content(list));
        check(CHAT, &with_content("null", list));
        check(CHAT, &with_content("[-0.5,-1.5]", list));
    }
    let body = triples("[[-1,7],[-1,§7]]");
    let path = format!("{TRIPLES}[1][1]");
    refused(&options(SGLANG), &body, Class::Alignment, "identity", &path);
}

#[test]
fn a_text_that_is_no_canonical_name_names_nothing() {
    for token in [
        "a",
        "",
        "7",
        "token_id:",
        "token_id:07",
        "token_id:+7",
        "token_id:-7",
        "token_id: 7",
        "token_id:7 ",
        "token_id:7.0",
        "token_id:0x7",
        "token_id:2147483648",
        "token_id:99999999999999999999",
        "Token_id:9",
        "token_id:९",
        "token_id:\\ud800",
        "\\ud800",
        " token_id:9",
        "token_ids:9",
    ] {
        let second = format!(r#"{{"logprob":-1,"token":"{token}"}}"#);
        let list = format!(r#"[{{"logprob":-1}},{second}]"#);
        decoded(&options(VLLM_CHAT), &content(&list));
        // There an entry has to name its token.
        let list = format!(r#"[{{"logprob":-1,"token_id":7}},§{second}]"#);
        let path = format!("{CONTENT}[1]");
        refused(
            &options(GENERATE),
            &content(&list),
            Class::Alignment,
            "identity",
            &path,
        );
    }
    let zero = one_choice(
        r#""token_ids":[0],"logprobs":{"content":[{"token":"token_id:0","logprob":-1}]}"#,
    );
    decoded(&options(GENERATE), &zero);
}

#[test]
fn no_evidence_is_refused_or_nan() {
    for value in [
        "-9999.0",
        "-9999",
        "-9.999e3",
        "-1e30",
        "-1E+30",
        "-1.0000000150474662e30",
        "-1.0000000150474662e+30",
    ] {
        let cases = [
            (
                CHAT,
                flat(&format!("[-0.5,§{value}]")),
                format!("{FLAT}[1]"),
                FLAT,
            ),
            (
                CHAT,
                with_content(
                    "null",
                    &format!(r#"[{{"logprob":-0.5}},{{"logprob":§{value}}}]"#),
                ),
                format!("{CONTENT}[1].logprob"),
                CONTENT,
            ),
            (
                GENERATE,
                content(&format!(
                    r#"[{{"token_id":7,"logprob":-0.5}},{{"logprob":§{value},"token_id":8}}]"#
                )),
                format!("{CONTENT}[1].logprob"),
                CONTENT,
            ),
            (
                SGLANG,
                triples(&format!("[[-0.5,7],[§{value},8]]")),
                format!("{TRIPLES}[1][0]"),
                TRIPLES,
            ),
        ];
        for (wire, body, path, channel) in cases {
            refused(&options(wire), &body, Class::Missing, "no_logprob", &path);
            let completion = decoded(&nan_for_none(wire), &unmarked(&body).0);
            assert_logprobs(&completion, &[-0.5, f64::NAN], channel);
        }
    }
    let body = triples("[[-0.5,7],[§null,8]]");
    let path = format!("{TRIPLES}[1][0]");
    refused(&options(SGLANG), &body, Class::Missing, "no_logprob", &path);
    let completion = decoded(&nan_for_none(SGLANG), &unmarked(&body).0);
    assert_logprobs(&completion, &[-0.5, f64::NAN], TRIPLES);
}

#[test]
fn what_is_close_to_a_sentinel_is_a_value() {
    let list = "[-9999.000000000002,-1.0000000000000002e30]";
    let expected = [-9999.000000000002, -1.0000000000000002e30];
    assert_logprobs(&decoded(&options(CHAT), &flat(list)), &expected, FLAT);
}

#[test]
fn a_value_above_zero_is_no_log_probability() {
    assert_logprobs(
        &decoded(&options(CHAT), &flat("[0.001,0]")),
        &[0.001, 0.0],
        FLAT,
    );
    let nan = Options {
        missing_logprob: dynamo_tito::MissingLogprob::Nan,
        ..options(CHAT)
    };
    for (list, place) in [
        ("[-1,§0.0010000000000000002]", "[1]"),
        ("[§9999.0,1e30]", "[0]"),
        ("[-9999.0,§1e30]", "[1]"),
    ] {
        let path = format!("{FLAT}{place}");
        refused(&nan, &flat(list), Class::Missing, "positive_logprob", &path);
    }
}

#[test]
fn identity_comes_before_evidence_position_by_position() {
    let list = r#"[{"logprob":§-9999.0,"token_id":7},{"logprob":-1,"token_id":9}]"#;
    let path = format!("{CONTENT}[0].logprob");
    refused(
        &options(GENERATE),
        &content(list),
        Class::Missing,
        "no_logprob",
        &path,
    );
    let list = r#"[{"logprob":-9999.0,"token_id":§6},{"logprob":-1,"token_id":9}]"#;
    let path = format!("{CONTENT}[0].token_id");
    refused(
        &options(GENERATE),
        &content(list),
        Class::Alignment,
        "identity",
        &path,
    );
}

#[test]
fn content_beside_a_flat_list_may_fall_short() {
    let list = r#"[{"token_id":7,"logprob":-9999.0,"top_logprobs":[{"token_id":7,"logprob":-1}]}]"#;
    let completion = decoded(&options(CHAT), &with_content("[-0.5,-1.5]", list));
    assert_logprobs(&completion, &[-0.5, -1.5], FLAT);
    assert_eq!(completion.top_logprobs, None);
    let why = format!("left out: {CONTENT} has 1 entries for 2 token ids");
    assert_eq!(source(&completion, "logprobs_echo"), Some(why));
    decoded(&options(CHAT), &with_content("[-0.5,-1.5]", "[]"));
    // The first entry is missing, not the last.
    let list = r#"[{"token_id":8,"logprob":-1}]"#;
    decoded(&options(CHAT), &with_content("[-0.5,-1.5]", list));
}

#[test]
fn content_beside_a_flat_list_that_is_longer_is_left_out() {
    let list = r#"[{"logprob":-1},{"logprob":-1,"token_id":7},{"logprob":-1}]"#;
    let completion = decoded(&options(CHAT), &with_content("[-0.5,-1.5]", list));
    let why = format!("left out: {CONTENT} has 3 entries for 2 token ids");
    assert_eq!(source(&completion, "logprobs_echo"), Some(why));
    // Empty lists are a completion of no tokens, whatever stands beside them.
    let body = dynamo(
        &format!(r#""logprobs":{{"content":{list}}}"#),
        r#""completion_token_ids":[],"completion_logprobs":[]"#,
    );
    assert_logprobs(&decoded(&options(CHAT), &body), &[], FLAT);
}

#[test]
fn the_flat_list_is_judged_before_content() {
    let body = with_content("§[-0.5]", "{}");
    refused(&options(CHAT), &body, Class::Alignment, "count", FLAT);
    let body = with_content("[-0.5,§-9999]", "{}");
    refused(
        &options(CHAT),
        &body,
        Class::Missing,
        "no_logprob",
        &format!("{FLAT}[1]"),
    );
}

#[test]
fn the_texts_of_completions_are_held_to_identity() {
    let path = "choices[0].logprobs.tokens";
    let texts = |flat: &str, lists: &str| flat_beside(flat, lists);
    for (flat, lists) in [
        ("[-0.5,-1.5]", ""),
        ("null", r#""token_logprobs":[-0.5,-1.5],"#),
        ("null", ""),
    ] {
        let check = |tokens: &str, kind: &str, path: &str| {
            let body = texts(flat, &format!(r#"{lists}"tokens":{tokens}"#));
            refused(&lenient(COMPLETIONS), &body, Class::Alignment, kind, path);
        };
        check(
            r#"["token_id:7",§"token_id:7"]"#,
            "identity",
            &format!("{path}[1]"),
        );
        check(r#"[§"token_id:8",1]"#, "identity", &format!("{path}[0]"));
        for (fine, why) in [
            (r#"["token_id:7","token_id:8"]"#, None),
            (r#"["token_id:07",{}]"#, None),
            ("null", None),
            (r#"["token_id:8"]"#, Some("has 1 entries for 2 token ids")),
            (
                r#"[" a","token_id:7","token_id:8"]"#,
                Some("has 3 entries for 2 token ids"),
            ),
            ("[]", Some("has 0 entries for 2 token ids")),
            ("{}", Some("cannot be read")),
            (r#""token_id:9""#, Some("cannot be read")),
        ] {
            let body = texts(flat, &format!(r#"{lists}"tokens":{fine}"#));
            let completion = decoded(&lenient(COMPLETIONS), &body);
            let why = why.map(|why| format!("left out: {path} {why}"));
            assert_eq!(source(&completion, "logprobs_echo"), why);
        }
    }
    // Before it is said that there are no logprobs.
    let body = texts("null", r#""tokens":[§"token_id:8",""]"#);
    let place = format!("{path}[0]");
    refused(
        &options(COMPLETIONS),
        &body,
        Class::Alignment,
        "identity",
        &place,
    );
    // The list is judged first; chat has no such texts.
    let body = flat_beside("[-0.5,§null]", r#""tokens":["token_id:9"]"#);
    malformed(&options(COMPLETIONS), &body, "type", &format!("{FLAT}[1]"));
    decoded(
        &options(CHAT),
        &flat_beside("[-0.5,-1.5]", r#""tokens":["token_id:9"]"#),
    );
}
