//! (a) token ids, and (f) the sampling mask.

use super::*;

fn generate(ids: &str) -> String {
    one_choice(&format!(r#""token_ids":{ids}"#))
}

#[test]
fn the_first_channel_that_is_present_is_authoritative() {
    let body = |engine: &str, nvext: &str, choice: &str| {
        format!(
            r#"{{"choices":[{{"token_ids":{choice}}}],"nvext":{{"completion_token_ids":{nvext},"engine_data":{{"completion_token_ids":{engine}}}}}}}"#
        )
    };
    for wire in [CHAT, COMPLETIONS] {
        let cases = [
            (
                body("[1]", "[2]", "[3]"),
                1,
                "nvext.engine_data.completion_token_ids",
            ),
            (body("null", "[2]", "[3]"), 2, "nvext.completion_token_ids"),
            (body("null", "null", "[3]"), 3, "choices[0].token_ids"),
            // What is not authoritative is not read.
            (
                body("[1]", "\"x\"", "{}"),
                1,
                "nvext.engine_data.completion_token_ids",
            ),
        ];
        for (body, id, path) in cases {
            let completion = decoded(&lenient(wire), &body);
            assert_eq!(completion.token_ids, [id]);
            assert_eq!(source(&completion, "token_ids").as_deref(), Some(path));
        }
        // A wrong type there is refused, not skipped.
        let first = "nvext.engine_data.completion_token_ids";
        malformed(&lenient(wire), &body("§\"x\"", "[2]", "[3]"), "type", first);
        let second = "nvext.completion_token_ids";
        malformed(&lenient(wire), &body("null", "§{}", "[3]"), "type", second);
        let none = body("null", "null", "null");
        refused(&lenient(wire), &none, Class::Missing, "missing", first);
    }
}

#[test]
fn token_ids_have_to_be_there() {
    let missing = |wire, body: &str, path| {
        refused(&lenient(wire), body, Class::Missing, "missing", path);
    };
    for wire in [GENERATE, VLLM_CHAT] {
        missing(wire, &one_choice(""), "choices[0].token_ids");
        missing(wire, &generate("null"), "choices[0].token_ids");
    }
    missing(SGLANG, r#"{"meta_info":{}}"#, "output_ids");
    missing(SGLANG, r#"[{"meta_info":{}}]"#, "[0].output_ids");
}

#[test]
fn an_id_is_a_plain_integer_below_two_to_the_31() {
    let cases = [
        ("§{}", "type", ""),
        ("§\"[1]\"", "type", ""),
        ("§1", "type", ""),
        ("[§null]", "type", "[0]"),
        ("[1,§true]", "type", "[1]"),
        ("[1,2,§\"3\"]", "type", "[2]"),
        ("[§1.0]", "type", "[0]"),
        ("[§1e2]", "type", "[0]"),
        ("[§1E0]", "type", "[0]"),
        ("[§-1]", "type", "[0]"),
        ("[§-0]", "type", "[0]"),
        ("[§[1]]", "type", "[0]"),
        ("[0,§2147483648]", "range", "[1]"),
        ("[§4294967295]", "range", "[0]"),
        ("[§18446744073709551616]", "range", "[0]"),
        ("[§99999999999999999999999999]", "range", "[0]"),
        // The first in document order.
        ("[§2147483648,null]", "range", "[0]"),
    ];
    for (ids, kind, place) in cases {
        let path = format!("choices[0].token_ids{place}");
        malformed(&lenient(GENERATE), &generate(ids), kind, &path);
    }
    let completion = decoded(&lenient(GENERATE), &generate(" [ 0 ,2147483647\n,1 ] "));
    assert_eq!(completion.token_ids, [0, i32::MAX, 1]);
}

#[test]
fn a_completion_without_tokens_is_valid_and_its_logprobs_are_empty() {
    let bodies = [
        (CHAT, dynamo("", r#""completion_token_ids":[]"#)),
        (COMPLETIONS, dynamo("", r#""completion_token_ids":[]"#)),
        (GENERATE, generate("[]")),
        (VLLM_CHAT, generate("[]")),
        (SGLANG, r#"{"output_ids":[],"meta_info":{}}"#.to_owned()),
    ];
    for (wire, body) in bodies {
        for options in [options(wire), lenient(wire)] {
            let completion = decoded(&options, &body);
            assert_eq!(completion.token_ids, NO_IDS);
            assert_eq!(completion.logprobs, Some(vec![]));
            assert_eq!(source(&completion, "logprobs"), None);
            assert_eq!(completion.sources.len(), 1);
        }
    }
}

#[test]
fn a_sampling_mask_has_a_list_of_ids_per_token() {
    let bodies = |mask: &str| {
        [
            (
                GENERATE,
                "choices[0].sampling_mask",
                one_choice(&format!(r#""token_ids":[7,8],"sampling_mask":{mask}"#)),
            ),
            (
                CHAT,
                "nvext.engine_data.sampling_mask",
                dynamo(
                    "",
                    &format!(r#""completion_token_ids":[7,8],"sampling_mask":{mask}"#),
                ),
            ),
            (
                SGLANG,
                "meta_info.output_token_sampling_mask",
                sglang(&format!(r#""output_token_sampling_mask":{mask}"#)),
            ),
        ]
    };
    for (wire, path, body) in bodies("[[7,1,2],[8]]") {
        let completion = decoded(&lenient(wire), &body);
        let mask = completion.sampling_mask.as_ref().expect("a mask");
        assert_eq!(mask.token_ids, [7, 1, 2, 8]);
        assert_eq!(mask.offsets, [0, 3, 4]);
        assert_eq!(source(&completion, "sampling_mask").as_deref(), Some(path));
    }
    for (wire, _, body) in bodies("null") {
        assert_eq!(decoded(&lenient(wire), &body).sampling_mask, None);
    }
    let cases = [
        ("§{}", Class::Malformed, "type", ""),
        ("[§null,[]]", Class::Malformed, "type", "[0]"),
        ("[[1],§2]", Class::Malformed, "type", "[1]"),
        ("[[1],[2,§-3]]", Class::Malformed, "type", "[1][1]"),
        ("[[1],[§2147483648]]", Class::Malformed, "range", "[1][0]"),
        ("§[[1]]", Class::Alignment, "count", ""),
        ("§[]", Class::Alignment, "count", ""),
        ("§[[1],[2],[3]]", Class::Alignment, "count", ""),
        // The reader's error comes before the count.
        ("[[1],[2],[3],§4]", Class::Malformed, "type", "[3]"),
        ("[[1,7],§[]]", Class::Alignment, "sampling_mask", "[1]"),
        ("[§[8],[8]]", Class::Alignment, "sampling_mask", "[0]"),
    ];
    for (mask, class, kind, place) in cases {
        for (wire, path, body) in bodies(mask) {
            refused(
                &lenient(wire),
                &body,
                class,
                kind,
                &format!("{path}{place}"),
            );
        }
    }
}

#[test]
fn the_mask_of_no_tokens_is_empty() {
    let body = one_choice(r#""token_ids":[],"sampling_mask":[]"#);
    let mask = decoded(&options(GENERATE), &body).sampling_mask;
    assert_eq!(mask.map(|mask| mask.offsets), Some(vec![0]));
}
