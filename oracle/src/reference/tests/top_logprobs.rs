//! (c): the alternatives at each position.

use super::logprobs::{CONTENT, flat_beside, with_content};
use super::*;

fn content_with_top(first: &str, second: &str) -> String {
    format!(
        r#"[{{"token_id":7,"logprob":-0.5,"top_logprobs":{first}}},{{"token_id":8,"logprob":-1.5,"top_logprobs":{second}}}]"#
    )
}

#[track_caller]
fn assert_top(completion: &Completion, ids: &[i32], values: &[f64], offsets: &[i64], path: &str) {
    let top = completion.top_logprobs.as_ref().expect("top logprobs");
    assert_eq!(top.token_ids, ids);
    assert_eq!(bits(&top.logprobs), bits(values));
    assert_eq!(top.offsets, offsets);
    assert_eq!(source(completion, "top_logprobs").as_deref(), Some(path));
}

#[test]
fn top_logprobs_come_in_the_order_of_the_wire() {
    let list = content_with_top(
        r#"[{"token_id":9,"logprob":-3},{"token":"token_id:7","logprob":-0.5},{"token":"token_id:7","token_id":7,"logprob":0}]"#,
        r#"[{"token_id":8,"logprob":-9999.0},{"token_id":1,"logprob":null},{"token_id":2,"logprob":-1e30}]"#,
    );
    let path = format!("{CONTENT}[].top_logprobs");
    let nan = f64::NAN;
    for (wire, body) in [
        (GENERATE, content(&list)),
        (VLLM_CHAT, content(&list)),
        (CHAT, with_content("null", &list)),
        (CHAT, with_content("[-0.5,-1.5]", &list)),
    ] {
        let completion = decoded(&options(wire), &body);
        let values = [-3.0, -0.5, 0.0, nan, nan, nan];
        assert_top(&completion, &[9, 7, 7, 8, 1, 2], &values, &[0, 3, 6], &path);
    }
    let one_sided = content_with_top("null", r#"[{"token_id":8,"logprob":-1.5}]"#);
    let completion = decoded(&options(GENERATE), &content(&one_sided));
    assert_top(&completion, &[8], &[-1.5], &[0, 0, 1], &path);
}

#[test]
fn top_logprobs_need_a_name_for_every_entry() {
    let named = r#"[{"token_id":7,"logprob":-1}]"#;
    for nameless in [
        r#"[{"token":" a","logprob":-1}]"#,
        r#"[{"logprob":-1}]"#,
        r#"[{"token_id":8,"logprob":-1},{"token":"token_id:08","logprob":-1}]"#,
    ] {
        for list in [
            content_with_top(named, nameless),
            content_with_top(nameless, named),
        ] {
            let completion = decoded(&options(GENERATE), &content(&list));
            assert_eq!(completion.top_logprobs, None);
            assert_eq!(source(&completion, "top_logprobs"), None);
        }
    }
    for empty in ["[]", "null"] {
        let list = content_with_top(empty, empty);
        assert_eq!(
            decoded(&options(GENERATE), &content(&list)).top_logprobs,
            None
        );
    }
}

#[test]
fn both_names_of_a_top_entry_agree() {
    let contradictory =
        r#"[{"token_id":7,"logprob":-1},{"token_id":§8,"token":"token_id:7","logprob":-1}]"#;
    let nameless = r#"[{"token":" a","logprob":-1}]"#;
    let list = content_with_top(nameless, contradictory);
    let path = format!("{CONTENT}[1].top_logprobs[1].token_id");
    for (wire, body) in [
        (GENERATE, content(&list)),
        (CHAT, with_content("[-0.5,-1.5]", &list)),
    ] {
        refused(&options(wire), &body, Class::Alignment, "identity", &path);
    }
    // Content that falls short is no source of alternatives.
    let contradictory = contradictory.replace('§', "");
    let list = format!(r#"[{{"token_id":7,"logprob":-0.5,"top_logprobs":{contradictory}}}]"#);
    let body = with_content("[-0.5,-1.5]", &list);
    assert_eq!(decoded(&options(CHAT), &body).top_logprobs, None);
    // Text that names no id contradicts none.
    let list = content_with_top(r#"[{"token_id":8,"token":" a","logprob":-1}]"#, "[]");
    assert!(
        decoded(&options(GENERATE), &content(&list))
            .top_logprobs
            .is_some()
    );
}

#[test]
fn evidence_is_judged_before_the_alternatives() {
    let list = r#"[{"token_id":7,"logprob":-1,"top_logprobs":[{"token":"token_id:1","token_id":2,"logprob":1}]},{"token_id":8,"logprob":§-9999}]"#;
    let path = format!("{CONTENT}[1].logprob");
    refused(
        &options(GENERATE),
        &content(list),
        Class::Missing,
        "no_logprob",
        &path,
    );
}

#[test]
fn completions_have_no_top_logprobs() {
    let body = flat_beside(
        "[-0.5,-1.5]",
        r#""top_logprobs":[{"a":-1},7],"top_logprobs":1"#,
    );
    assert_eq!(decoded(&options(COMPLETIONS), &body).top_logprobs, None);
}

#[test]
fn sglang_has_rows_of_triples() {
    let path = "meta_info.output_top_logprobs";
    let body = |rows: &str| {
        sglang(&format!(
            r#""output_token_logprobs":[[-0.5,7],[-1.5,8]],"output_top_logprobs":{rows}"#
        ))
    };
    let completion = decoded(
        &options(SGLANG),
        &body(r#"[null,[[-1,9,"x"],[null,8],[-9999,1]]]"#),
    );
    let values = [-1.0, f64::NAN, f64::NAN];
    assert_top(&completion, &[9, 8, 1], &values, &[0, 0, 3], path);
    for none in ["null", "[null,null]", "[[],null]"] {
        assert_eq!(decoded(&options(SGLANG), &body(none)).top_logprobs, None);
    }
    let cases = [
        ("§{}", Class::Malformed, "type", ""),
        ("[null,§1]", Class::Malformed, "type", "[1]"),
        ("[[§1],null]", Class::Malformed, "type", "[0][0]"),
        ("[[§[-1]]]", Class::Malformed, "type", "[0][0]"),
        (
            "[[[-1,7],[§\"x\",7]]]",
            Class::Malformed,
            "type",
            "[0][1][0]",
        ),
        ("[[[-1,§-7]]]", Class::Malformed, "type", "[0][0][1]"),
        ("§[null]", Class::Alignment, "count", ""),
        ("§[null,null,null]", Class::Alignment, "count", ""),
        ("§[]", Class::Alignment, "count", ""),
    ];
    for (rows, class, kind, place) in cases {
        refused(
            &options(SGLANG),
            &body(rows),
            class,
            kind,
            &format!("{path}{place}"),
        );
    }
}

#[test]
fn alternatives_are_there_even_if_the_logprobs_are_not() {
    let body = sglang(r#""output_top_logprobs":[[[-1,7]],null]"#);
    let completion = decoded(&lenient(SGLANG), &body);
    assert_eq!(completion.logprobs, None);
    assert_top(
        &completion,
        &[7],
        &[-1.0],
        &[0, 1, 1],
        "meta_info.output_top_logprobs",
    );
}
