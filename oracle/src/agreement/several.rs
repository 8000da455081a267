//! Several choices, right and wrong: the error that is raised where one choice is decoded, and where all are.

use super::agree;
use crate::reference::wires;
use dynamo_tito::{Options, Wire};

/// Choices of vLLM and Dynamo.
const CHOICES: &[&str] = &[
    r#"{"token_ids":[1],"logprobs":{"content":[{"token":"token_id:1","logprob":-1}],"token_logprobs":[-1]}}"#,
    r#"{"index":2,"token_ids":[2],"logprobs":{"content":[{"token_id":2,"logprob":-1}],"tokens":["a"]}}"#,
    r#"{"index":1,"token_ids":[],"logprobs":null,"finish_reason":"stop","stop_reason":3}"#,
    "{}",
    "null",
    "7",
    "[{}]",
    r#"{"index":-1}"#,
    r#"{"index":"0","logprobs":[]}"#,
    r#"{"logprobs":7,"token_ids":7}"#,
    r#"{"logprobs":{"content":7,"token_logprobs":{}},"token_ids":[1.5]}"#,
    r#"{"logprobs":{"content":[],"content":[]}}"#,
    r#"{"logprobs":{"tokens":[],"\u0074okens":[]}}"#,
    r#"{"logprobs":{"token_logprobs":[],"token_logprobs":[]},"index":3000000000}"#,
    r#"{"token_ids":[],"token_ids":[]}"#,
    r#"{"routed_experts":{"data":1,"data":2},"finish_reason":[],"weight_versions":1}"#,
    r#"{"index":[0,1,2,3,4,5,6,7,8,9,]}"#,
    r#"{"logprobs":{"content":[{"token":"\x"}]}}"#,
];

/// Elements of SGLang's array.
const ELEMENTS: &[&str] = &[
    r#"{"output_ids":[1],"meta_info":{"id":"a","output_token_logprobs":[[-1,1,null]]}}"#,
    r#"{"output_ids":[],"meta_info":{"finish_reason":{"type":"stop"}}}"#,
    "{}",
    "null",
    "7",
    r#"{"meta_info":7,"output_ids":7}"#,
    r#"{"meta_info":null}"#,
    r#"{"meta_info":{"id":1,"id":2}}"#,
    r#"{"meta_info":{"output_token_logprobs":7,"routed_experts":{"data":1,"data":2}}}"#,
    r#"{"meta_info":{"cached_tokens":[],"cached_t\u006fkens":[]}}"#,
    r#"{"output_ids":[],"output_ids":[]}"#,
    r#"{"prompt_token_ids":"x","error":"x","object":"error"}"#,
    r#"{"output_ids":[1,]}"#,
];

/// A choice with a key twice that vLLM has and Dynamo does not read.
fn twice_on_vllm() -> String {
    let of_choices = |wire| wires::places(wire).filter_map(|it| it.strip_prefix("choices[]."));
    let dynamo: Vec<_> = of_choices(Wire::DynamoChat).collect();
    let key = of_choices(Wire::VllmGenerate).find(|key| !dynamo.contains(key));
    let key = key.expect("a key of vLLM alone");
    format!(r#"{{"routed_experts":"?","{key}":3,"{key}":3}}"#)
}

/// Checks every list of one, two and three of `list`.
fn check(wires: &[Wire], list: &[&str], body: impl Fn(&str) -> String) {
    let some = |others: &mut dyn Iterator<Item = &str>| {
        let listed = others.collect::<Vec<_>>().join(",");
        let body = body(&listed);
        for &wire in wires {
            let agreed = agree(body.as_bytes(), &Options::new(wire));
            assert_eq!(agreed, Ok(()), "{body}");
        }
    };
    for one in list {
        some(&mut [*one].into_iter());
        for two in list {
            some(&mut [*one, *two].into_iter());
            for three in list {
                some(&mut [*one, *two, *three].into_iter());
            }
        }
    }
}

#[test]
fn of_choices() {
    let wires = [
        Wire::VllmGenerate,
        Wire::VllmChat,
        Wire::VllmCompletions,
        Wire::SglangChat,
        Wire::DynamoChat,
        Wire::DynamoCompletions,
    ];
    let ids = r#""nvext":{"completion_token_ids":[1]}"#;
    let twice = twice_on_vllm();
    check(&wires, &[CHOICES, &[&twice]].concat(), |list| {
        format!(r#"{{"choices":[{list}],{ids}}}"#)
    });
}

#[test]
fn of_elements() {
    check(&[Wire::SglangGenerate], ELEMENTS, |list| {
        format!("[{list}]")
    });
}

/// Around the bound on choices, and where the refused ones come in the wrong order.
#[test]
fn of_very_many() {
    for count in [4095, 4096, 4097, 4200] {
        for last in ["{}", "7", r#"{"index":5}"#, r#"{"index":0,"index":0}"#] {
            let mut list = vec!["{}"; count - 1];
            list.push(last);
            let list = list.join(",");
            let choices = format!(r#"{{"choices":[{list}]}}"#);
            let options = Options {
                require_logprobs: false,
                ..Options::new(Wire::VllmGenerate)
            };
            assert_eq!(
                agree(choices.as_bytes(), &options),
                Ok(()),
                "{count} {last}"
            );
            let options = Options::new(Wire::SglangGenerate);
            let elements = format!("[{list}]");
            assert_eq!(
                agree(elements.as_bytes(), &options),
                Ok(()),
                "{count} {last}"
            );
        }
    }
}
