//! Rows of routed experts on every wire, in every container, with the length of the prompt from every source. The decoder
//! and the reference agree, and no start contradicts the counts of the body.

use ::base64::Engine;
use ::base64::engine::general_purpose::STANDARD;

use super::agree;
use dynamo_tito::{ExpertsMode, Options, Wire, decode};

/// P of every body.
const PROMPT: [i32; 4] = [1, 2, 3, 4];

/// One layer, two slots.
const ROW: usize = 2;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Container {
    Object(Option<u64>),
    Npy,
    Bare,
}

/// The source of the length of the prompt.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Way {
    Nothing,
    Length,
    Ids,
    Echo,
    /// Dynamo's second channel.
    NamedEcho,
}

#[derive(Debug, Clone, Copy)]
struct Body {
    wire: Wire,
    completion: usize,
    aborted: bool,
    way: Way,
    /// The server's own count of the prompt.
    counted: Option<u64>,
}

fn npy(descr: &str, rows: usize, data: &[u8]) -> Vec<u8> {
    let header =
        format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({rows}, 1, 2), }}");
    let header = format!("{header:<117}\n");
    let length = (header.len() as u16).to_le_bytes();
    [b"\x93NUMPY\x01\0", &length[..], header.as_bytes(), data].concat()
}

/// Rows as int32.
fn experts(container: Container, values: &[i32]) -> String {
    let rows = values.len() / ROW;
    let data: Vec<u8> = values.iter().flat_map(|id| id.to_le_bytes()).collect();
    match container {
        Container::Object(start) => {
            let data = STANDARD.encode(data);
            let start = start.map_or("null".into(), |start| start.to_string());
            format!(r#"{{"data":"{data}","shape":[{rows},1,2],"start":{start},"dtype":"int32"}}"#)
        }
        Container::Npy => format!("\"{}\"", STANDARD.encode(npy("<i4", rows, &data))),
        Container::Bare => format!("\"{}\"", STANDARD.encode(data)),
    }
}

impl Body {
    fn text(&self, experts: &str) -> String {
        let ids = vec!["7"; self.completion].join(",");
        let member = |there: bool, text: &str| {
            if there {
                format!("{text},")
            } else {
                String::new()
            }
        };
        let echo = member(self.way == Way::Echo, r#""prompt_token_ids":[1,2,3,4]"#);
        let named = member(
            self.way == Way::NamedEcho,
            r#""prompt_token_ids":[1,2,3,4]"#,
        );
        let reason = if self.aborted { "abort" } else { "stop" };
        let count = |count: u64| {
            let completion = self.completion;
            format!(r#""prompt_tokens":{count},"completion_tokens":{completion},"#)
        };
        let counts = self.counted.map(count).unwrap_or_default();
        let usage = format!(r#""usage":{{{counts}"x":0}},"#);
        match self.wire {
            Wire::SglangGenerate => format!(
                r#"{{{echo}"output_ids":[{ids}],"meta_info":{{{counts}"finish_reason":{{"type":"{reason}"}},"routed_experts":{experts}}}}}"#
            ),
            Wire::SglangChat => format!(
                r#"{{"choices":[{{{echo}"response_token_ids":[{ids}],"meta_info":{{{counts}"finish_reason":{{"type":"{reason}"}},"routed_experts":{experts}}}}}]}}"#
            ),
            Wire::VllmCompletions => format!(
                r#"{{{usage}"choices":[{{{echo}"token_ids":[{ids}],"finish_reason":"{reason}","routed_experts":{experts}}}]}}"#
            ),
            Wire::VllmGenerate | Wire::VllmChat => format!(
                r#"{{{echo}{usage}"choices":[{{"token_ids":[{ids}],"finish_reason":"{reason}","routed_experts":{experts}}}]}}"#
            ),
            Wire::DynamoChat | Wire::DynamoCompletions => format!(
                r#"{{{usage}"choices":[{{}}],"nvext":{{{named}"detailed_finish_reason":"{reason}","routed_experts":{experts},"engine_data":{{{echo}"completion_token_ids":[{ids}]}}}}}}"#
            ),
        }
    }

    fn options(&self, asked: Option<u64>) -> Options<'static> {
        Options {
            require_logprobs: false,
            routed_experts_prompt_start: asked,
            prompt_len: (self.way == Way::Length).then_some(PROMPT.len() as u64),
            prompt_token_ids: (self.way == Way::Ids).then_some(&PROMPT),
            num_layers: Some(1),
            top_k: Some(ROW as u64),
            ..Options::new(self.wire)
        }
    }
}

const CONTAINERS: [Container; 6] = [
    Container::Object(None),
    Container::Object(Some(0)),
    Container::Object(Some(2)),
    Container::Object(Some(4)),
    Container::Npy,
    Container::Bare,
];

/// Every body but for its routed experts.
fn bodies() -> Vec<Body> {
    let mut bodies = Vec::new();
    for (_, wire) in Wire::ALL {
        for way in [
            Way::Nothing,
            Way::Length,
            Way::Ids,
            Way::Echo,
            Way::NamedEcho,
        ] {
            if way == Way::NamedEcho && !wire.is_dynamo() {
                continue;
            }
            for counted in [None, Some(4), Some(5)] {
                for (completion, aborted) in [(0, true), (0, false), (2, true), (2, false)] {
                    bodies.push(Body {
                        wire,
                        completion,
                        aborted,
                        way,
                        counted,
                    });
                }
            }
        }
    }
    bodies
}

#[test]
fn no_start_that_the_bodys_own_counts_contradict() {
    let (mut decoded, mut placed, mut total) = (0, 0, 0);
    for body in bodies() {
        for container in CONTAINERS {
            for rows in [0_u64, 1, 3, 4, 5, 6] {
                let values: Vec<i32> = (0..rows as i32 * ROW as i32).collect();
                let text = body.text(&experts(container, &values));
                for asked in [None, Some(0), Some(2), Some(4)] {
                    let options = body.options(asked);
                    let case = || format!("{container:?} {rows} {asked:?}: {text}");
                    assert_eq!(agree(text.as_bytes(), &options), Ok(()), "{}", case());
                    total += 1;
                    let result = decode(text.as_bytes(), &options);
                    let Ok(completion) = result else {
                        continue;
                    };
                    let routed = completion.routed_experts.expect("rows");
                    decoded += 1;
                    let end = routed.start + routed.shape[0] as u64;
                    let without_rows = body.aborted && rows == 0;
                    let says_no_start = matches!(container, Container::Npy | Container::Bare);
                    if says_no_start && body.way == Way::Nothing {
                        assert!(asked == Some(0) || without_rows, "{}", case());
                    }
                    // P of every way to know it, else the server's count of what was run.
                    let early = body.aborted && body.completion == 0;
                    let prompt = match body.way {
                        Way::Nothing => body.counted.filter(|_| !early),
                        _ => Some(PROMPT.len() as u64),
                    };
                    let Some(prompt) = prompt else { continue };
                    let needed = prompt + body.completion as u64 - 1;
                    placed += 1;
                    if body.aborted {
                        assert!(end <= needed || without_rows, "{}", case());
                        assert!(!routed.complete || end == needed, "{}", case());
                    } else {
                        assert_eq!(end, needed, "{}", case());
                    }
                    assert!(
                        !routed.complete || routed.start == asked.unwrap_or(0),
                        "{}",
                        case()
                    );
                }
            }
        }
    }
    println!("{total} bodies, {decoded} decoded, {placed} of known length");
    assert!(total > 35_000 && placed > 4_000, "{total} {placed}");
}

/// One id of -1 or less, anywhere; or the last rows of -1.
#[test]
fn an_id_of_no_expert_is_never_handed_out() {
    let (mut refused, mut missing) = (0, 0);
    for aborted in [false, true] {
        for (_, wire) in Wire::ALL {
            let body = Body {
                wire,
                completion: 2,
                aborted,
                way: Way::Length,
                counted: None,
            };
            for container in [Container::Object(None), Container::Npy, Container::Bare] {
                for (from, to) in (0..10).flat_map(|from| (from + 1..=10).map(move |to| (from, to)))
                {
                    for id in [-1, -2, i32::MIN] {
                        let mut values: Vec<i32> = (0..10).collect();
                        values[from..to].fill(id);
                        let text = body.text(&experts(container, &values));
                        for asked in [Some(0), Some(2)] {
                            for mode in [ExpertsMode::Int32, ExpertsMode::Native] {
                                let options = Options {
                                    experts: mode,
                                    ..body.options(asked)
                                };
                                assert_eq!(agree(text.as_bytes(), &options), Ok(()), "{text}");
                                let result = decode(text.as_bytes(), &options);
                                let kept = ROW * asked.unwrap_or(0) as usize;
                                let first = from.max(kept);
                                let missing_rows =
                                    aborted && id == -1 && to == 10 && first.is_multiple_of(ROW);
                                match result {
                                    Ok(completion) if first >= to => {
                                        let routed = completion.routed_experts;
                                        assert!(routed.is_some_and(|it| it.complete), "{text}");
                                    }
                                    Ok(completion) => {
                                        assert!(missing_rows, "{text}");
                                        let routed = completion.routed_experts;
                                        let routed = routed.expect("rows");
                                        assert_eq!(routed.shape[0], (first - kept) / ROW);
                                        assert!(!routed.complete);
                                        missing += 1;
                                    }
                                    Err(error) => {
                                        assert!(!missing_rows && first < to, "{text}");
                                        assert_eq!(error.kind, "no_route", "{text}");
                                        refused += 1;
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
    println!("{refused} refused, {missing} with rows missing");
    assert!(refused > 5_000 && missing > 100, "{refused} {missing}");
}

/// int16 keeps its width, and is looked at in another place.
#[test]
fn an_int16_of_no_expert_is_refused_at_both_widths() {
    for rows in [1_usize, 5, 700] {
        for at in [0, 1, ROW * rows - 1] {
            let mut values: Vec<i16> = (0..(ROW * rows) as i16).collect();
            values[at] = -1;
            let data: Vec<u8> = values.iter().flat_map(|id| id.to_le_bytes()).collect();
            let object = format!(
                r#"{{"data":"{}","shape":[{rows},1,2],"dtype":"int16"}}"#,
                STANDARD.encode(&data)
            );
            let string = format!("\"{}\"", STANDARD.encode(npy("<i2", rows, &data)));
            for experts in [object, string] {
                let text =
                    format!(r#"{{"choices":[{{"token_ids":[],"routed_experts":{experts}}}]}}"#);
                for mode in [ExpertsMode::Int32, ExpertsMode::Native] {
                    let options = Options {
                        experts: mode,
                        routed_experts_prompt_start: Some(0),
                        ..Options::new(Wire::VllmGenerate)
                    };
                    assert_eq!(agree(text.as_bytes(), &options), Ok(()));
                    let error = decode(text.as_bytes(), &options);
                    let error = error.expect_err("an id of -1");
                    let (layer_slot, position) = (format!("slot {}", at % ROW), at / ROW);
                    assert_eq!(
                        (error.kind, &*error.path),
                        ("no_route", "choices[0].routed_experts")
                    );
                    assert!(error.message.contains(&layer_slot), "{error}");
                    assert!(
                        error.message.contains(&format!("position {position},")),
                        "{error}"
                    );
                }
            }
        }
    }
}
