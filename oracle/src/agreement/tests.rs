//! Recorded bodies, whole, cut, changed in a byte, and changed in their structure.

use std::path::PathBuf;

use super::*;
use dynamo_tito::Wire;

/// Every recorded body, with its name.
fn bodies() -> Vec<(String, Vec<u8>)> {
    let data = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/data");
    let mut bodies = Vec::new();
    for folder in ["captures", "made"] {
        for entry in std::fs::read_dir(data.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            let large = ["index.json", "field_matrix.json", "system_metrics.txt"];
            if !large.contains(&name.as_str()) {
                bodies.push((name, std::fs::read(path).unwrap()));
            }
        }
    }
    bodies.sort();
    assert!(bodies.len() > 150, "only {} bodies", bodies.len());
    bodies
}

/// What a real vLLM has answered, with the wire of each.
fn vllm_bodies() -> Vec<(String, Vec<u8>, Wire)> {
    let data = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/data/captures_vllm");
    let mut folders = vec![data];
    let mut bodies = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.display().to_string();
            if path.is_dir() {
                folders.push(path);
            } else if name.ends_with(".json") && !name.ends_with("index.json") {
                let body = std::fs::read(path).unwrap();
                let wire = match String::from_utf8_lossy(&body).contains("\"chat.completion\"") {
                    true => Wire::VllmChat,
                    false => Wire::VllmGenerate,
                };
                bodies.push((name, body, wire));
            }
        }
    }
    bodies.sort_by(|one, other| one.0.cmp(&other.0));
    assert!(bodies.len() > 150, "only {} bodies", bodies.len());
    bodies
}

#[test]
fn on_every_body_of_a_real_vllm() {
    let mut decoded = 0;
    for (name, body, wire) in vllm_bodies() {
        for mut options in every_option(Options::new(wire), &PROMPT) {
            for asked in [None, Some(0), options.routed_experts_prompt_start, Some(7)] {
                options.routed_experts_prompt_start = asked;
                check(&name, &body, &options);
                decoded += u32::from(reference::decode_choices(&body, &options).is_ok());
            }
        }
    }
    assert!(decoded > 1000, "only {decoded} decoded");
}

fn check(name: &str, body: &[u8], options: &Options<'_>) {
    if let Err(difference) = agree(body, options) {
        panic!(
            "{name}: {}\n{options:?}\n{difference}",
            String::from_utf8_lossy(body)
        );
    }
}

const PROMPT: [i32; 5] = [1, 2, 3, 4, 5];

#[test]
fn on_every_recorded_body() {
    for (name, body) in bodies() {
        for (_, wire) in Wire::ALL {
            for options in every_option(Options::new(wire), &PROMPT) {
                check(&name, &body, &options);
            }
        }
    }
}

#[test]
fn on_every_recorded_body_under_low_ceilings() {
    let mut refused = 0;
    for (name, body) in bodies() {
        for wire in wires(&body) {
            for (ceiling, max_depth) in (0..=12).zip([16, 17, 20, 200].into_iter().cycle()) {
                for mut options in every_option(Options::new(wire), &PROMPT) {
                    let limits = [(ceiling, 1 << 24), (1 << 24, ceiling), (ceiling, ceiling)];
                    for (max_tokens, max_rows) in limits {
                        options.limits = dynamo_tito::Limits {
                            max_depth,
                            max_tokens,
                            max_rows: max_rows as u64,
                            ..dynamo_tito::Limits::default()
                        };
                        check(&name, &body, &options);
                        let error = reference::decode_choices(&body, &options).err();
                        refused += u64::from(error.is_some_and(|e| e.kind == "too_many"));
                    }
                }
            }
        }
    }
    assert!(refused > 10_000, "only {refused} passed a ceiling");
}

/// The wires that a body is an answer of, or might be.
fn wires(body: &[u8]) -> Vec<Wire> {
    match String::from_utf8_lossy(body).as_ref() {
        text if text.contains("response_token_ids") => vec![Wire::SglangChat],
        text if text.contains("meta_info") => vec![Wire::SglangGenerate],
        text if text.contains("text_completion") => {
            vec![Wire::DynamoCompletions, Wire::VllmCompletions]
        }
        text if text.contains("\"chat.completion\"") => vec![Wire::DynamoChat, Wire::VllmChat],
        _ => vec![Wire::VllmGenerate],
    }
}

#[test]
fn on_every_truncation() {
    for (name, body) in bodies() {
        for wire in wires(&body) {
            let options = Options {
                num_layers: Some(4),
                top_k: Some(2),
                ..Options::new(wire)
            };
            for len in 0..body.len() {
                check(&name, &body[..len], &options);
            }
        }
    }
}

/// A few changes of every byte: what JSON is made of, and what it is not.
#[test]
fn on_every_changed_byte() {
    for (name, body) in bodies() {
        for wire in wires(&body) {
            let options = Options {
                num_layers: Some(4),
                top_k: Some(2),
                require_logprobs: false,
                prompt_token_ids: Some(&PROMPT),
                ..Options::new(wire)
            };
            let mut changed = body.clone();
            for at in 0..body.len() {
                // Two of eight at every place; which two differs from place to place.
                let bytes = [body[at] ^ 1, b'"', b'0', b',', b'}', b'\\', b'-', 0xe4];
                for byte in [bytes[at % 8], bytes[(at / 8 + 3) % 8]] {
                    changed[at] = byte;
                    check(&name, &changed, &options);
                }
                changed[at] = body[at];
            }
        }
    }
}

/// Where white space may stand: around every bracket, comma and colon.
fn gaps(body: &[u8]) -> Vec<usize> {
    let (mut gaps, mut quoted, mut escaped) = (Vec::new(), false, false);
    for (at, byte) in body.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => quoted = !quoted,
            b'{' | b'}' | b'[' | b']' | b',' | b':' if !quoted => gaps.extend([at, at + 1]),
            _ => {}
        }
    }
    gaps.dedup();
    gaps
}

/// A document is the same with white space in any one place, also where all the rest has none.
#[test]
fn on_white_space_in_any_gap() {
    for (name, body) in bodies() {
        for wire in wires(&body) {
            let options = Options {
                num_layers: Some(4),
                top_k: Some(2),
                require_logprobs: false,
                prompt_token_ids: Some(&PROMPT),
                ..Options::new(wire)
            };
            for at in gaps(&body) {
                let mut spaced = body.clone();
                spaced.insert(at, b" \n\t\r"[at % 4]);
                check(&name, &spaced, &options);
            }
        }
    }
}

/// SGLang's answers to a suffix, with alternatives: every start, cut, and changed in a byte.
#[test]
fn on_scored_suffixes() {
    let listed = [
        r#"[[null,1,"a"],[-0.5,2],[-9999,3],[-1,4],[-2,5]],"input_top_logprobs":[null,[[-0.25,9],[-0.5,2]],[[null,7]],[[-1e30,3],[-1,4]],[]]"#,
        r#"[[null,3],[-1,4],[-2,5]],"input_top_logprobs":[null,[[-1,9],[-1,8]],[[-2,5],[-1,5]]]"#,
        r#"[[null,3],[-1,4],[-2,5]],"input_top_logprobs":[]"#,
        r#"[[null,3],[-1,4],[-2,5]],"input_top_logprobs":[null,null]"#,
        r#"[[null,5]],"input_top_logprobs":[null]"#,
        r#"[]"#,
    ];
    for list in listed {
        let body = format!(
            r#"{{"output_ids":[7],"meta_info":{{"finish_reason":null,"input_token_logprobs":{list}}}}}"#
        );
        for (from, missing_logprob) in (0..=6).flat_map(|from| {
            [
                (from, dynamo_tito::MissingLogprob::Raise),
                (from, dynamo_tito::MissingLogprob::Nan),
            ]
        }) {
            let options = Options {
                require_logprobs: false,
                missing_logprob,
                prompt_token_ids: Some(&PROMPT),
                score_from: Some(from),
                ..Options::new(Wire::SglangGenerate)
            };
            let mut changed = body.clone().into_bytes();
            check("suffix", &changed, &options);
            for at in 0..changed.len() {
                check("cut suffix", &changed[..at], &options);
                let kept = changed[at];
                for byte in [kept ^ 1, b'n', b',', b']', b'1'] {
                    changed[at] = byte;
                    check("changed suffix", &changed, &options);
                }
                changed[at] = kept;
            }
        }
    }
}

/// Changes of structure, of recorded bodies and of the cases: `DYNAMO_TITO_MUTATIONS` of them, from the seed
/// `DYNAMO_TITO_SEED`.
#[test]
fn on_mutated_structure() {
    let number = |name: &str, default: u64| match std::env::var(name) {
        Ok(text) => text.parse().expect(name),
        Err(_) => default,
    };
    let rounds = number("DYNAMO_TITO_MUTATIONS", 20_000);
    let corpus: Vec<Vec<u8>> = bodies()
        .into_iter()
        .map(|(_, body)| body)
        .chain(vllm_bodies().into_iter().map(|(_, body, _)| body))
        .chain(crate::cases::decodable())
        .filter(|body| body.len() < 4000)
        .collect();
    let mut mutator = Mutator::new(number("DYNAMO_TITO_SEED", 1), corpus);
    let mut counts = Wire::ALL.map(|(name, _)| (name, 0u64, 0u64));
    for _ in 0..rounds {
        let mut input = mutator.recorded();
        mutator.mutate(&mut input);
        let (options, body) = case(&input).expect("a whole case");
        check("mutated", body, &options);
        let wire = Wire::ALL.iter().position(|(_, wire)| *wire == options.wire);
        let (_, bodies, decoded) = &mut counts[wire.expect("a wire")];
        *bodies += 1;
        *decoded += u64::from(reference::decode_choices(body, &options).is_ok());
    }
    for (name, bodies, decoded) in counts {
        println!("{name}: {bodies} bodies, {decoded} decoded");
        assert!(bodies > rounds / 10, "only {bodies} of {rounds} as {name}");
        // Mutations that always break a body would compare nothing but refusals.
        assert!(decoded > bodies / 100, "only {decoded} decoded as {name}");
    }
}
