//! Packed arrays: every member wrong in every way, and every byte of a body changed or cut off.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use dynamo_tito::{Options, Wire};

use super::{agree, every_option};
use crate::reference::wires::{self, Role};

const WIRES: [Wire; 2] = [Wire::VllmGenerate, Wire::VllmChat];

fn floats(values: &[f32]) -> String {
    STANDARD.encode(
        values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect::<Vec<u8>>(),
    )
}

fn ids(values: &[i32]) -> String {
    STANDARD.encode(
        values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect::<Vec<u8>>(),
    )
}

/// Both decoders on a choice with these members and the tokens 7 and 8; how many options decode it.
fn decoded(members: &str) -> usize {
    let body = format!(r#"{{"choices":[{{"token_ids":[7,8],{members}}}]}}"#);
    let mut count = 0;
    for wire in WIRES {
        for options in every_option(Options::new(wire), &[1, 2, 3, 4, 5]) {
            assert_eq!(
                agree(body.as_bytes(), &options),
                Ok(()),
                "{body} {options:?}"
            );
            count +=
                usize::from(crate::reference::decode_choices(body.as_bytes(), &options).is_ok());
        }
    }
    count
}

const SHAPES: &[&str] = &[
    "[2]",
    "[1]",
    "[3]",
    "[]",
    "[2,1]",
    "[-1]",
    "[2.0]",
    "2",
    "null",
    "[281474976710656]",
];
const DTYPES: &[&str] = &[
    r#""float32""#,
    r#""float64""#,
    r#""int32""#,
    r#""f\u006coat32""#,
    "null",
    "7",
    r#""f4""#,
];

#[test]
fn of_log_probabilities() {
    let mut good = 0;
    let values = [
        vec![-1.0, -2.0],
        vec![-1.0],
        vec![-1.0, f32::NAN],
        vec![f32::NEG_INFINITY, -1.0],
        vec![-1.0, 1.0],
        vec![-9999.0, -1.0],
        vec![-1.0, -1e30],
        vec![0.0, -0.0],
        vec![],
        vec![-1.0, -2.0, -3.0, -4.0],
    ];
    for values in &values {
        for shape in SHAPES {
            for dtype in DTYPES {
                let data = floats(values);
                good += decoded(&format!(
                    r#""completion_logprobs":{{"data":"{data}","shape":{shape},"dtype":{dtype}}}"#
                ));
            }
        }
    }
    assert!(good > 0);
    for members in [
        r#""completion_logprobs":[-1,-2]"#,
        r#""completion_logprobs":7"#,
        r#""completion_logprobs":{}"#,
        r#""completion_logprobs":{"data":"AACAvwAAwL8","shape":[2],"dtype":"float32"}"#,
        r#""completion_logprobs":{"data":"AACAvwAAwL9=","shape":[2],"dtype":"float32"}"#,
        r#""completion_logprobs":{"data":"AACAvwAAw-8=","shape":[2],"dtype":"float32"}"#,
        r#""completion_logprobs":{"data":"AACAvwAAw\u002d8=","shape":[2],"dtype":"float32"}"#,
        r#""completion_logprobs":{"data":7,"data":8,"shape":[2],"dtype":"float32"}"#,
        r#""completion_logprobs":{"data":"AACAvwAAwL8=","shape":[2],"dtype":"float32"},"logprobs":{"content":[{"token_id":7,"logprob":-5},{"token_id":9,"logprob":-1}]}"#,
    ] {
        assert_eq!(decoded(members), 0, "{members}");
    }
}

#[test]
fn of_rows() {
    let mut good = 0;
    let entries = [
        (vec![7, 8, 9], vec![-1.0, -2.0, -3.0]),
        (vec![8, 7, 8], vec![-1.0, -2.0, -1.0]),
        (vec![7, 8, 8], vec![-1.0, -2.0, -2.0]),
        (vec![7, 8, 8], vec![-1.0, -2.0, -3.0]),
        (vec![7, 8, -1], vec![-1.0, -2.0, -3.0]),
        (vec![7, 8, 9], vec![-1.0, f32::NAN, -3.0]),
        (vec![7, 8, 9], vec![-1.0, -9999.0, -3.0]),
        (vec![7, 8, 9], vec![-1.0, -2.0, 3.0]),
        (vec![7, 8, 9], vec![-1.0, -2.0, -9999.0]),
        (vec![7, 8], vec![-1.0, -2.0]),
        (vec![], vec![]),
    ];
    for (names, values) in &entries {
        let bytes: Vec<u8> = names
            .iter()
            .flat_map(|id: &i32| id.to_le_bytes())
            .chain(values.iter().flat_map(|value: &f32| value.to_le_bytes()))
            .collect();
        let data = STANDARD.encode(bytes);
        for offsets in [
            "[0,1,3]",
            "[0,2,3]",
            "[0,1,2]",
            "[0,3]",
            "[0,0,3]",
            "[1,2,3]",
            "[0]",
            "[]",
            "7",
            "[0,3,1]",
            "[0,1.0,3]",
        ] {
            for format in [r#""u32-f32-le-v1""#, r#""u32-f32-le-v2""#, "null", "7"] {
                good += decoded(&format!(
                    r#""compact_logprobs":{{"format":{format},"data":"{data}","offsets":{offsets},"num_top_logprobs":1}}"#
                ));
            }
        }
    }
    assert!(good > 0);
}

#[test]
fn of_masks() {
    let mask = mask_key();
    let mut good = 0;
    for counts in [
        vec![1, 2],
        vec![2, 1],
        vec![3],
        vec![-1, 4],
        vec![1, 1],
        vec![0, 3],
        vec![],
    ] {
        for list in [
            vec![7, 8, 9],
            vec![8, 7, 9],
            vec![7, 9, 8],
            vec![7, -8, 8],
            vec![],
        ] {
            for shape in SHAPES {
                let (lengths, survivors) = (counts.len(), list.len());
                let (counts, list) = (ids(&counts), ids(&list));
                for (own, other) in [
                    (*shape, format!("[{lengths}]")),
                    ("[3]", (*shape).to_owned()),
                ] {
                    let own = if own == "[2]" {
                        format!("[{survivors}]")
                    } else {
                        own.to_owned()
                    };
                    good += decoded(&format!(
                        r#""logprobs":{{"content":[{{"token_id":7,"logprob":-1}},{{"token_id":8,"logprob":-1}}]}},"{mask}":{{"ids":{{"data":"{list}","shape":{own},"dtype":"int32"}},"counts":{{"data":"{counts}","shape":{other},"dtype":"int32"}}}}"#
                    ));
                }
            }
        }
    }
    assert!(good > 0);
}

/// Cut off at every byte, and with every byte changed in a few ways.
#[test]
fn of_broken_bodies() {
    let mask = mask_key();
    let body = format!(
        r#"{{"choices":[{{"token_ids":[7,8],"completion_logprobs":{{"data":"{0}","shape":[2],"dtype":"float32"}},"compact_logprobs":{{"format":"u32-f32-le-v1","data":"{1}","offsets":[0,1,2]}},"{mask}":{{"ids":{{"data":"{2}","shape":[2],"dtype":"int32"}},"counts":{{"data":"AQAAAAEAAAA=","shape":[2],"dtype":"int32"}}}}}}]}}"#,
        floats(&[-1.0, -1.5]),
        "BwAAAAgAAAAAAIC/AADAvw==",
        ids(&[7, 8]),
    );
    let options = Options::new(Wire::VllmGenerate);
    assert!(crate::reference::decode_choices(body.as_bytes(), &options).is_ok());
    for at in 0..body.len() {
        assert_eq!(agree(&body.as_bytes()[..at], &options), Ok(()), "{at}");
        for change in [b'A', b'/', b'=', b'"', b'0', b'}', b' ', 0xff] {
            let mut changed = body.clone().into_bytes();
            changed[at] = change;
            assert_eq!(
                agree(&changed, &options),
                Ok(()),
                "{}",
                changed.escape_ascii()
            );
        }
    }
}

/// vLLM's key for a list of ids for each token.
fn mask_key() -> &'static str {
    let mut fields = wires::fields(Wire::VllmGenerate);
    let place = fields.find_map(|(role, places)| matches!(role, Role::Rows(_)).then(|| places[0]));
    let place = place.expect("vLLM has such a list");
    place.rsplit('.').next().unwrap_or(place)
}
