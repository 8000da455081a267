//! Ceilings that the caller moves.

use super::*;
use dynamo_tito::Limits;

fn with(wire: Wire, limits: Limits) -> Options<'static> {
    Options {
        require_logprobs: false,
        limits,
        ..Options::new(wire)
    }
}

fn tokens(wire: Wire, max_tokens: usize) -> Options<'static> {
    let limits = Limits {
        max_tokens,
        ..Limits::default()
    };
    with(wire, limits)
}

#[track_caller]
fn too_many(options: &Options<'_>, marked: &str, path: &str) {
    refused(options, marked, Class::Malformed, "too_many", path);
}

#[test]
fn every_list_of_one_element_per_token_has_a_ceiling() {
    let prompt = [1, 2, 3];
    let three = Options {
        prompt_token_ids: Some(&prompt),
        ..tokens(GENERATE, 3)
    };
    let choice = |members: &str| format!(r#"{{"choices":[{{"token_ids":[1,2],{members}}}]}}"#);
    too_many(
        &tokens(GENERATE, 3),
        r#"{"choices":[{"token_ids": §[1,2,3,4]}]}"#,
        "choices[0].token_ids",
    );
    too_many(
        &tokens(GENERATE, 0),
        r#"{"choices":[{"token_ids": §[1]}]}"#,
        "choices[0].token_ids",
    );
    let entry = r#"{"token_id":1,"logprob":-1}"#;
    let content = format!(r#""logprobs":{{"content":§[{entry},{entry},{entry},{entry}]}}"#);
    too_many(&three, &choice(&content), "choices[0].logprobs.content");
    let mask = r#""sampling_mask":§[[1,2,3,4,5],[],[],[]]"#;
    too_many(&three, &choice(mask), "choices[0].sampling_mask");
    let echo = r#"{"prompt_token_ids":§[1,2,3,4],"choices":[{"token_ids":[]}]}"#;
    too_many(&three, echo, "prompt_token_ids");
    let maps = r#"{"prompt_logprobs":§[null,{},{},{}],"choices":[{"token_ids":[]}]}"#;
    too_many(
        &Options {
            prompt_token_ids: Some(&prompt),
            ..three
        },
        maps,
        "prompt_logprobs",
    );
    let flat = r#"{"nvext":{"engine_data":{"completion_token_ids":[1],"completion_logprobs":§[1,2,3,4]}},"choices":[{}]}"#;
    too_many(
        &tokens(CHAT, 3),
        flat,
        "nvext.engine_data.completion_logprobs",
    );
    let later = r#"{"nvext":{"completion_token_ids":§[1,2,3,4]},"choices":[{}]}"#;
    too_many(&tokens(CHAT, 3), later, "nvext.completion_token_ids");
    let meta = |members: &str| format!(r#"{{"output_ids":[1,2],"meta_info":{{{members}}}}}"#);
    let triples = r#""output_token_logprobs":§[[-1,1],[-1,2],[-1,3],[-1,4]]"#;
    too_many(
        &tokens(SGLANG, 3),
        &meta(triples),
        "meta_info.output_token_logprobs",
    );
    let rows = r#""output_top_logprobs":§[null,null,null,null]"#;
    too_many(
        &tokens(SGLANG, 3),
        &meta(rows),
        "meta_info.output_top_logprobs",
    );
}

#[test]
fn as_many_as_the_ceiling_are_fine() {
    decoded(
        &tokens(GENERATE, 3),
        r#"{"choices":[{"token_ids":[1,2,3]}]}"#,
    );
    decoded(&tokens(GENERATE, 0), r#"{"choices":[{"token_ids":[]}]}"#);
    // Lists within a position are no lists of tokens, and what is not read has no ceiling but that of the body.
    let body = r#"{"unknown":[1,2,3],"choices":[{"token_ids":[1],"sampling_mask":[[1,2,3]]}]}"#;
    decoded(&tokens(GENERATE, 1), body);
}

#[test]
fn what_is_wrong_before_the_ceiling_comes_first() {
    let body = r#"{"choices":[{"token_ids":[1,§"2",3]}]}"#;
    malformed(
        &tokens(GENERATE, 2),
        body,
        "type",
        "choices[0].token_ids[1]",
    );
    let body = r#"{"choices":[{"token_ids":§[1,2,"3"]}]}"#;
    too_many(&tokens(GENERATE, 2), body, "choices[0].token_ids");
    let body = r#"{"choices":[{"token_ids":[1,2,3]}]§]"#;
    malformed(&tokens(GENERATE, 2), body, "syntax", "");
}

#[test]
fn rows_have_a_ceiling() {
    let rows = |max_rows| {
        let limits = Limits {
            max_rows,
            ..Limits::default()
        };
        with(GENERATE, limits)
    };
    let body = |data: &str| {
        format!(
            r#"{{"choices":[{{"token_ids":[],"routed_experts": §{{"data":"{data}","shape":[3,1,1]}}}}]}}"#
        )
    };
    let path = "choices[0].routed_experts";
    decoded(&rows(3), &body("AAAA").replace(MARK, ""));
    refused(
        &rows(2),
        &body("AAAA"),
        Class::RoutedExperts,
        "too_many",
        path,
    );
    // Before a character of the blob is looked at, and before rows are dropped.
    refused(
        &rows(2),
        &body("!!!!"),
        Class::RoutedExperts,
        "too_many",
        path,
    );
    let trimmed = Options {
        routed_experts_prompt_start: Some(2),
        ..rows(2)
    };
    refused(
        &trimmed,
        &body("AAAA"),
        Class::RoutedExperts,
        "too_many",
        path,
    );
    decoded(
        &Options {
            experts: dynamo_tito::ExpertsMode::Skip,
            ..rows(2)
        },
        &body("AAAA").replace(MARK, ""),
    );
}

#[test]
fn depth_has_a_ceiling() {
    for max_depth in [16, 127, 128, 129, 130, 256, 257, 512] {
        let limits = Limits {
            max_depth,
            ..Limits::default()
        };
        let options = with(GENERATE, limits);
        let body = |inner: usize| {
            let (open, close) = ("[".repeat(inner), "]".repeat(inner));
            format!(r#"{{"usage":{{"a":{open}{close}}},"choices":[{{"token_ids":[]}}]}}"#)
        };
        decoded(&options, &body(max_depth - 2));
        let deep = body(max_depth - 1);
        let at = deep.find(']').expect("a bracket") - 1;
        let marked = format!("{}{MARK}{}", &deep[..at], &deep[at..]);
        malformed(&options, &marked, "too_deep", "");
    }
}

#[test]
fn the_keyword_that_moves_it_is_named() {
    let message = |options: &Options<'_>, body: &str| {
        let error = dynamo_tito::decode(body.as_bytes(), options);
        error.expect_err("passes a ceiling").message.into_owned()
    };
    assert_eq!(
        message(
            &tokens(GENERATE, 1),
            r#"{"choices":[{"token_ids":[1,2,3]}]}"#
        ),
        "the list has at least 2 elements, more than 1 (raised with limits=Limits(max_tokens=...))"
    );
    assert_eq!(
        message(&Options::new(GENERATE), &"[".repeat(200)),
        "129 brackets are open, more than 128 (raised with limits=Limits(max_depth=...))"
    );
}
