//! (d) from a position on, and SGLang's alternatives of the prompt.

use super::*;
use dynamo_tito::MissingLogprob;

const IDS: [i32; 4] = [1, 2, 3, 4];

fn scoring(wire: Wire, from: u64) -> Options<'static> {
    Options {
        prompt_token_ids: Some(&IDS),
        score_from: Some(from),
        ..lenient(wire)
    }
}

fn maps(list: &str) -> String {
    format!(r#"{{"choices":[{{"token_ids":[7]}}],"prompt_logprobs":{list}}}"#)
}

fn triples(list: &str, more: &str) -> String {
    sglang(&format!(r#""input_token_logprobs":{list}{more}"#))
}

/// The values, the ids of the entries, and where each position begins.
fn assert_scores(
    options: &Options<'_>,
    body: &str,
    values: [f64; 4],
    ids: &[i32],
    offsets: [i64; 5],
) {
    let read = decoded(options, body).prompt_logprobs.expect("scores");
    assert_eq!(bits(&read.logprobs), bits(&values));
    assert_eq!(read.top.token_ids, ids);
    assert_eq!(read.top.offsets, offsets);
}

#[test]
fn there_must_be_scores() {
    let cases = [
        (
            CHAT,
            dynamo("", r#""completion_token_ids":[7]"#),
            "prompt_logprobs",
        ),
        (GENERATE, maps("null"), "prompt_logprobs"),
        (VLLM_CHAT, maps("null"), "prompt_logprobs"),
        (
            SGLANG,
            triples("null", ""),
            "meta_info.input_token_logprobs",
        ),
        (SGLANG, triples("[]", ""), "meta_info.input_token_logprobs"),
    ];
    for (wire, body, path) in cases {
        refused(&scoring(wire, 0), &body, Class::Missing, "missing", path);
    }
}

#[test]
fn before_the_start_a_map_needs_no_value_but_the_token() {
    const NAN: f64 = f64::NAN;
    let list = r#"[null,{"2":{"logprob":-9999},"9":{"logprob":-1}},{"9":{"logprob":-1},"3":{"logprob":-3}},{"4":{"logprob":-4}}]"#;
    let body = maps(list);
    assert_scores(
        &scoring(GENERATE, 2),
        &body,
        [NAN, NAN, -3.0, -4.0],
        &[9, 3, 4],
        [0, 0, 0, 2, 3],
    );
    assert_scores(
        &scoring(GENERATE, 3),
        &body,
        [NAN, NAN, NAN, -4.0],
        &[4],
        [0, 0, 0, 0, 1],
    );
    for past in [4, 5, u64::MAX] {
        assert_scores(&scoring(GENERATE, past), &body, [NAN; 4], &[], [0; 5]);
    }
    let marked = body.replace("-9999", "§-9999");
    let path = "prompt_logprobs[1].2.logprob";
    refused(
        &scoring(GENERATE, 1),
        &marked,
        Class::Missing,
        "no_logprob",
        path,
    );
    let other = body.replace(r#"{"2""#, r#"§{"5""#);
    refused(
        &scoring(GENERATE, 3),
        &other,
        Class::Alignment,
        "identity",
        "prompt_logprobs[1]",
    );
    let null = maps(r#"[null,null,null,{"4":{"logprob":-4}}]"#);
    assert_scores(
        &scoring(GENERATE, 3),
        &null,
        [NAN, NAN, NAN, -4.0],
        &[4],
        [0, 0, 0, 0, 1],
    );
    let short = maps(r#"§[null,{"4":{"logprob":-4}}]"#);
    refused(
        &scoring(GENERATE, 3),
        &short,
        Class::Alignment,
        "count",
        "prompt_logprobs",
    );
}

#[test]
fn a_suffix_of_triples_begins_one_before_the_start() {
    const NAN: f64 = f64::NAN;
    let suffix = triples("[[null,2],[-3,3],[-4,4]]", "");
    assert_scores(
        &scoring(SGLANG, 2),
        &suffix,
        [NAN, NAN, -3.0, -4.0],
        &[3, 4],
        [0, 0, 0, 1, 2],
    );
    let whole = triples("[[null,1],[-2,2],[-3,3],[-4,4]]", "");
    assert_scores(
        &scoring(SGLANG, 0),
        &whole,
        [NAN, -2.0, -3.0, -4.0],
        &[2, 3, 4],
        [0, 0, 1, 2, 3],
    );
    assert_scores(
        &scoring(SGLANG, 1),
        &whole,
        [NAN, -2.0, -3.0, -4.0],
        &[2, 3, 4],
        [0, 0, 1, 2, 3],
    );
    assert_scores(
        &scoring(SGLANG, 2),
        &whole,
        [NAN, NAN, -3.0, -4.0],
        &[3, 4],
        [0, 0, 0, 1, 2],
    );
    assert_scores(
        &scoring(SGLANG, 9),
        &triples("[[null,4]]", ""),
        [NAN; 4],
        &[],
        [0; 5],
    );
    let path = "meta_info.input_token_logprobs";
    let marked = suffix.replace("[[", "§[[");
    for from in [0, 1, 3, 4] {
        refused(
            &scoring(SGLANG, from),
            &marked,
            Class::Alignment,
            "count",
            path,
        );
    }
    let other = suffix.replace("[null,2]", "[null,§9]");
    refused(
        &scoring(SGLANG, 2),
        &other,
        Class::Alignment,
        "identity",
        &format!("{path}[0][1]"),
    );
    let null = suffix.replace("-3", "§null");
    refused(
        &scoring(SGLANG, 2),
        &null,
        Class::Missing,
        "no_logprob",
        &format!("{path}[1][0]"),
    );
    let nan = Options {
        missing_logprob: MissingLogprob::Nan,
        ..scoring(SGLANG, 2)
    };
    let body = suffix.replace("-3", "null");
    assert_scores(&nan, &body, [NAN, NAN, NAN, -4.0], &[4], [0, 0, 0, 0, 1]);
}

#[test]
fn alternatives_join_the_tokens_own_entry() {
    const NAN: f64 = f64::NAN;
    let rows = r#","input_top_logprobs":[null,[[-1,9],[-7,2],[-0.5,8]],null,[[-9999,6],[-4,5]]]"#;
    let body = triples("[[null,1],[-2,2],[-3,3],[-4,4]]", rows);
    let values = [NAN, -2.0, -3.0, -4.0];
    assert_scores(
        &scoring(SGLANG, 0),
        &body,
        values,
        &[8, 9, 2, 3, 4, 5, 6],
        [0, 0, 3, 4, 7],
    );
    assert_scores(
        &scoring(SGLANG, 3),
        &body,
        [NAN, NAN, NAN, -4.0],
        &[4, 5, 6],
        [0, 0, 0, 0, 3],
    );
    let read = decoded(&scoring(SGLANG, 0), &body)
        .prompt_logprobs
        .expect("scores");
    let expected = [-0.5, -1.0, -2.0, -3.0, -4.0, -4.0, NAN];
    assert_eq!(bits(&read.top.logprobs), bits(&expected));

    let path = "meta_info.input_top_logprobs";
    for (rows, class, kind, place) in [
        ("§[null]", Class::Alignment, "count", ""),
        ("§{}", Class::Malformed, "type", ""),
        ("[null,§7,null,null]", Class::Malformed, "type", "[1]"),
        (
            "[null,[[-1,§null]],null,null]",
            Class::Malformed,
            "type",
            "[1][0][1]",
        ),
    ] {
        let body = triples(
            "[[null,1],[-2,2],[-3,9],[-4,4]]",
            &format!(r#","input_top_logprobs":{rows}"#),
        );
        // Before the identity of any position.
        refused(
            &scoring(SGLANG, 0),
            &body,
            class,
            kind,
            &format!("{path}{place}"),
        );
    }
    // Without log-probabilities beside them they are unread.
    let alone = sglang(r#""input_top_logprobs":7"#);
    assert_eq!(decoded(&lenient(SGLANG), &alone).prompt_logprobs, None);
}
