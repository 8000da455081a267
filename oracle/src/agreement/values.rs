//! Impossible and unread values in every place of every wire: log-probabilities above 0, echoes, sampling masks, spans of
//! weight versions, stray routed experts, finish reasons.

use dynamo_tito::{Options, Wire};
use serde_json::json;

use super::{agree, every_option};
use crate::reference::wires::{self, Role};

const PROMPT: [i32; 5] = [1, 2, 3, 4, 5];

/// Decodes the body with each of `fragments` in the place of `@` with both decoders. Some decode and some are refused.
fn check(wires: &[Wire], body: &str, fragments: &[&str]) {
    let mut counts = [0, 0];
    for fragment in fragments {
        let body = body.replace('@', fragment);
        for &wire in wires {
            for options in every_option(Options::new(wire), &PROMPT) {
                assert_eq!(
                    agree(body.as_bytes(), &options),
                    Ok(()),
                    "{body} {options:?}"
                );
                let decoded = crate::reference::decode_choices(body.as_bytes(), &options);
                counts[usize::from(decoded.is_ok())] += 1;
            }
        }
    }
    assert!(counts[0] > 0 && counts[1] > 0, "{counts:?} of {body}");
}

const CHOICES: [Wire; 5] = [
    Wire::VllmGenerate,
    Wire::VllmChat,
    Wire::VllmCompletions,
    Wire::DynamoChat,
    Wire::DynamoCompletions,
];
const DYNAMO: [Wire; 2] = [Wire::DynamoChat, Wire::DynamoCompletions];
const LOGPROBS: &[&str] = &[
    "-1",
    "0",
    "0.001",
    "0.0010000000000000002",
    "1",
    "18.25",
    "1e308",
    "-9999.0",
    "-1e30",
];

#[test]
fn of_log_probabilities() {
    check(
        &CHOICES,
        r#"{"choices":[{"token_ids":[7,8],"logprobs":{"content":[{"token_id":7,"logprob":-1},{"token_id":8,"logprob":@}],"token_logprobs":[-1,@]}}]}"#,
        LOGPROBS,
    );
    check(
        &CHOICES,
        r#"{"choices":[{"token_ids":[7,8],"logprobs":{"content":[{"token_id":7,"logprob":-1,"top_logprobs":[{"token_id":9,"logprob":-1}]},{"token_id":8,"logprob":-1,"top_logprobs":[{"token":"token_id:8","token_id":8,"logprob":-1,"bytes":null},{"token_id":3,"logprob":@}]}]}}]}"#,
        LOGPROBS,
    );
    check(
        &CHOICES,
        r#"{"choices":[{"token_ids":[7],"logprobs":{"content":[{"token":"token_id:7","logprob":@,"bytes":null,"top_logprobs":[{"token":"token_id:7","logprob":@,"bytes":null}]}]}}]}"#,
        LOGPROBS,
    );
    check(
        &DYNAMO,
        r#"{"choices":[{"logprobs":{"content":[{"logprob":9,"top_logprobs":[{"token_id":7,"logprob":@}]}],"tokens":7}}],"nvext":{"engine_data":{"completion_token_ids":[7],"completion_logprobs":[@]}}}"#,
        LOGPROBS,
    );
    check(
        &[Wire::SglangGenerate],
        r#"{"output_ids":[7,8],"meta_info":{"finish_reason":null,"output_token_logprobs":[[-1,7],[@,8]],"output_top_logprobs":[null,[[-1,8],[@,9]]]}}"#,
        LOGPROBS,
    );
}

#[test]
fn of_prompts() {
    for body in [
        r#"{"choices":[{"token_ids":[]}],"prompt_logprobs":[null,{"2":{"logprob":@},"9":{"logprob":-1}},{"3":{"logprob":-1}},{"8":{"logprob":@},"4":{"logprob":-1},"9":{"logprob":@}},{"5":{"logprob":@}}]}"#,
        r#"{"choices":[{"token_ids":[]}],"prompt_logprobs":[{"1":{"logprob":@}},{"2":{"logprob":-1}},{"3":{"logprob":-1}},{"4":{"logprob":-1}},{"5":{"logprob":-1},"6":{"logprob":@}}]}"#,
    ] {
        check(&CHOICES, body, LOGPROBS);
    }
    for body in [
        r#"{"output_ids":[],"meta_info":{"finish_reason":null,"input_token_logprobs":[[null,1],[-1,2],[@,3],[-1,4],[@,5]],"input_top_logprobs":[[[@,1]],null,[[-1,8],[-1,9]],[[@,4],[@,9]],[]]}}"#,
        r#"{"output_ids":[],"meta_info":{"finish_reason":null,"input_token_logprobs":[[null,3],[-1,4],[-1,5]],"input_top_logprobs":[[[@,1]],null,[[-1,8],[@,9]]]}}"#,
    ] {
        check(&[Wire::SglangGenerate], body, LOGPROBS);
    }
}

#[test]
fn of_echoes() {
    let lists = [
        "[]",
        "7",
        "{}",
        r#""x""#,
        "[7]",
        "[null,null]",
        r#"["token_id:7"]"#,
        r#"["token_id:7","token_id:8"]"#,
        r#"["token_id:8","token_id:7"]"#,
        r#"["token_id:8",7,"token_id:9"]"#,
        r#"[{"token_id":8,"logprob":-1}]"#,
        r#"[{"token_id":7,"logprob":-1},{"token_id":8,"logprob":7,"top_logprobs":[{"token":"token_id:8","token_id":9,"logprob":2}]}]"#,
        r#"[{"token_id":7,"logprob":-1},{"token_id":9,"logprob":-1}]"#,
        r#"[{"token":"token_id:7","logprob":-1},{"token":"b","logprob":-1},{"logprob":-1}]"#,
        r#"[{"token_id":7,"logprob":-1},{"token_id":8,"logprob":-1,"logprob":-1}]"#,
        r#"[{"token_id":9}]"#,
    ];
    for engine in [
        r#"{"completion_token_ids":[7,8],"completion_logprobs":[-1,-2]}"#,
        r#"{"completion_token_ids":[],"completion_logprobs":[]}"#,
        r#"{"completion_token_ids":[]}"#,
        r#"{"completion_token_ids":[7,8]}"#,
        r#"{"completion_token_ids":[7,8],"completion_logprobs":[-1]}"#,
    ] {
        for flat in ["", r#""token_logprobs":[-1,-2],"#] {
            let mut decoded = 0;
            for list in lists {
                let body = format!(
                    r#"{{"choices":[{{"logprobs":{{{flat}"content":{list},"tokens":{list}}}}}],"nvext":{{"engine_data":{engine}}}}}"#
                );
                for wire in DYNAMO {
                    for options in every_option(Options::new(wire), &PROMPT) {
                        assert_eq!(agree(body.as_bytes(), &options), Ok(()), "{body}");
                        let result = crate::reference::decode(body.as_bytes(), &options);
                        decoded += u32::from(result.is_ok());
                    }
                }
            }
            println!("{decoded} decoded beside {engine}");
        }
    }
}

#[test]
fn of_masks_and_versions() {
    let masks = [
        "[]",
        "[[],[]]",
        "[[7],[8]]",
        "[[1,7,2],[8,8]]",
        "[[7],[]]",
        "[[7],[7]]",
        "[[8],[8]]",
        "[[7],null]",
        "[[7]]",
        " [ [7] , [ ] ] ",
    ];
    let versions = [
        "[]",
        "{}",
        "[7]",
        "[[]]",
        "[null]",
        "[{}]",
        r#"[{"version":"a"}]"#,
        r#"[{"version":"a","start":0,"end":2}]"#,
        r#"[{"version":"a","start":0,"end":1},{"version":"b","start":1,"end":2}]"#,
        r#"[{"version":"a","start":0,"end":2},{"version":"b","start":1,"end":2}]"#,
        r#"[{"version":"a","start":0,"end":0},{"version":"b","start":1,"end":2}]"#,
        r#"[{"version":"a","start":0,"end":1}]"#,
        r#"[{"version":"a","start":0,"end":3}]"#,
        r#"[{"version":"a","start":-1,"end":2}]"#,
        r#"[{"version":"a","start":2,"end":0}]"#,
        r#"[{"version":"a","start":0,"end":18446744073709551615}]"#,
        r#"[{"version":"a","start":0,"end":2.0}]"#,
        r#"[{"version":7,"start":0,"end":2}]"#,
        r#"[{"version":"a","start":5,"start":0,"end":2}]"#,
        r#" [ {"version":"a","start":0,"end":1} , {"start":0,"version":"\u0062","end":2} ] "#,
        r#"[{"version":"a","start":0,"end":2},7]"#,
        "7",
    ];
    for (_, wire) in Wire::ALL {
        let mut checked = 0;
        for (role, places) in wires::fields(wire) {
            let fragments = match role {
                Role::Rows(_) => &masks[..],
                Role::WeightVersions => &versions[..],
                _ => continue,
            };
            for place in *places {
                check(&[wire], &with_ids(wire, place), fragments);
                checked += 1;
            }
        }
        assert!(checked >= 1, "{wire:?}");
    }
}

/// A body of two tokens, with `@` at a place of the wire.
fn with_ids(wire: Wire, place: &str) -> String {
    let mut fields = wires::fields(wire);
    let ids = fields.find_map(|(role, places)| (*role == Role::TokenIds).then(|| places[0]));
    let mut body = json!({});
    for (place, value) in [(ids.expect("ids"), json!([7, 8])), (place, json!("@"))] {
        let mut at = &mut body;
        for key in place.split('.') {
            at = match key.strip_suffix("[]") {
                None => &mut at[key],
                Some(list) => {
                    if at[list].is_null() {
                        at[list] = json!([{}]);
                    }
                    &mut at[list][0]
                }
            };
        }
        *at = value;
    }
    if wire.is_dynamo() && body["choices"].is_null() {
        body["choices"] = json!([{}]);
    }
    body.to_string().replace(r#""@""#, "@")
}

#[test]
fn of_stray_experts_and_failed_engines() {
    let experts = ["null", "7", r#""""#, "{}", r#"{"data":"","shape":[0,4,2]}"#];
    let tokens = r#""nvext":{"completion_token_ids":[]}"#;
    for body in [
        format!(r#"{{"choices":[{{"token_ids":[],"routed_experts":@}}],{tokens}}}"#),
        format!(r#"{{"routed_experts":@,"choices":[{{"token_ids":[]}}],{tokens}}}"#),
        format!(r#"{{"routed_experts":@,"choices":[{{"token_ids":[],"routed_experts":@}}],{tokens}}}"#),
        r#"{"choices":[{"routed_experts":@}],"nvext":{"completion_token_ids":[],"routed_experts":@}}"#.into(),
    ] {
        check(&CHOICES, &body, &experts);
    }
    check(
        &[Wire::SglangGenerate],
        r#"{"output_ids":[],"routed_experts":@,"meta_info":{}}"#,
        &experts,
    );
    let reasons = [
        "null",
        "7",
        r#""stop""#,
        r#""error""#,
        r#""\u0065rror""#,
        r#"{"type":"error"}"#,
        r#"{"type":"stop"}"#,
        r#"{"type":"stop","type":"error"}"#,
        r#"{"type":"error","type":"stop"}"#,
        r#"{"\u0074ype":"error"}"#,
    ];
    for body in [
        format!(r#"{{"choices":[{{"token_ids":[],"finish_reason":@}}],{tokens}}}"#),
        r#"{"choices":[{"token_ids":[7]}],"nvext":{"detailed_finish_reason":@}}"#.into(),
        r#"{"choices":[{"index":1,"token_ids":[],"finish_reason":@},{"index":0,"token_ids":[]}]}"#
            .into(),
    ] {
        check(&CHOICES, &body, &reasons);
    }
    check(
        &[Wire::SglangGenerate],
        r#"[{"output_ids":[],"meta_info":{"finish_reason":@}}]"#,
        &reasons,
    );
}
