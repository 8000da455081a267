//! The texts that mutated bodies are made of.

use std::sync::LazyLock;

use dynamo_tito::Wire;

use crate::reference::wires;

/// Values that have a meaning in some field, and similar values that have none.
pub(super) const VALUES: &[&str] = &[
    "null",
    "true",
    "false",
    "0",
    "-0",
    "1",
    "7",
    "8",
    "-1",
    "1.0",
    "1e2",
    "0.1",
    " 1 ",
    "2147483647",
    "2147483648",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "-9223372036854775809",
    "-9999.0",
    "-9999",
    "-1e30",
    "-1.0000000150474662e30",
    "1e999",
    "0.001",
    "0.0011",
    "18.25",
    "-1e-999",
    r#""""#,
    r#""a""#,
    r#""\ud800""#,
    r#""token_id:7""#,
    r#""token_id:8""#,
    r#""token_id:07""#,
    r#""token\u005fid:7""#,
    r#""cancelled""#,
    r#""eos""#,
    r#""error""#,
    r#""err\u006fr""#,
    r#"{"type":"error"}"#,
    r#"{"type":"abort","type":"error"}"#,
    r#"[{"version":"a","start":0,"end":1}]"#,
    r#"[{"version":"a","start":0,"end":2},{"version":"b","start":2,"end":4}]"#,
    r#"[{"version":"a","start":0,"end":3},{"version":"b","start":2,"end":4}]"#,
    r#"[{"version":"a","end":4,"start":0}]"#,
    r#"[{"version":7,"start":0,"end":4}]"#,
    r#"[{"version":"a","start":-1,"end":18446744073709551615}]"#,
    r#""uint8""#,
    r#""uint16""#,
    r#""int16""#,
    r#""int32""#,
    r#""u\u0069nt8""#,
    r#""AAAA""#,
    r#""AA==""#,
    r#""AB==""#,
    r#""A\/AA""#,
    r#""A-AA""#,
    r#""A=AA""#,
    r#""k05VTVBZ""#,
    "[]",
    "{}",
    "[[]]",
    "[{}]",
    "[7,8]",
    "[7]",
    "[1,1,3]",
    "[0,4,2]",
    "[null]",
    "[null,null]",
    "[[null,7],[-1,8]]",
    "[[-0.5,7,null]]",
    "[0,2305843009213693952,1]",
    r#"{"logprob":-1}"#,
    r#"{"logprob":null}"#,
    r#"{"7":{"logprob":-1}}"#,
    r#"[{"token_id":7,"logprob":-1}]"#,
    r#"[{"logprob":-1,"token":"token_id:7"}]"#,
    r#"[{"logprob":2.5,"token":"token_id:7"}]"#,
    r#"{"7":{"logprob":2.5}}"#,
    "[[[2.5,7,null]]]",
    r#"{"data":"AAAA","shape":[1,1,3]}"#,
    r#"{"data":"","shape":[0,4,2]}"#,
    r#"{"data":"////////","shape":[1,1,3],"dtype":"int16"}"#,
    r#"{"data":"AAD//w==","shape":[1,1,1],"dtype":"int32"}"#,
    r#"{"data":"AAAA","shape":[1,1,3],"start":2}"#,
    r#""AAAAAAAAAAAAAAAA""#,
    r#""AAAAAP////8=""#,
    r#""//////////8=""#,
    r#"{"data":"AACAvwAAwL8=","shape":[2],"dtype":"float32"}"#,
    r#"{"data":"AAAAAAAA8L8AAAAAAAAAwA==","shape":[2],"dtype":"float64"}"#,
    r#"{"data":"BwAAAAgAAAA=","shape":[2],"dtype":"int32"}"#,
    r#"{"ids":{"data":"BwAAAAgAAAAJAAAA","shape":[3],"dtype":"int32"},"counts":{"data":"AgAAAAEAAAA=","shape":[2],"dtype":"int32"}}"#,
    r#"{"format":"u32-f32-le-v1","data":"BwAAAAgAAAAJAAAAAACAvwAAwL8AAADA","offsets":[0,1,3],"num_top_logprobs":1}"#,
    r#"{"prompt_tokens":5,"completion_tokens":4}"#,
    r#"{"prompt_tokens":3,"completion_tokens":2}"#,
    r#"{"prompt_tokens":1.0,"completion_tokens":"2"}"#,
    "[[1,2],[3]]",
    "[2,1]",
    "[1,2]",
    "[-0.5,-1.5]",
    r#""AAAAvwAAwL8=""#,
    r#""BwAAAAgAAAA=""#,
    r#""AACA/wAAwL8=""#,
    r#""AADAfwAAwD8=""#,
    r#""BwAAAP////8=""#,
    r#""BwAAAP7///8=""#,
    r#""float32""#,
    r#"{"prefill_worker_id":18446744073709551615,"ttft_ms":1}"#,
    r#"{"device":3,"device":3,"prompt_tokens":1}"#,
    r#"{"num_spec_steps":4,"acceptance_histogram":[3,1],"speculative_decoding":{"num_spec_steps":4}}"#,
    r#""k05VTVBZAQAzAHsnZGVzY3InOic8ZjQnLCdmb3J0cmFuX29yZGVyJzpGYWxzZSwnc2hhcGUnOigyLDEpfQAAAL8AAMC/""#,
    r#""abort""#,
    r#"{"type":"abort"}"#,
    "[1,2,3,4,5]",
];

/// Keys inside the fields, two of them in another spelling. Those of the fields are in [`wires`].
const INNER: &[&str] = &[
    "version",
    "start",
    "end",
    "token",
    "token_id",
    "logprob",
    "top_logprobs",
    "bytes",
    "rank",
    "data",
    "shape",
    "dtype",
    "format",
    "offsets",
    "ids",
    "counts",
    "num_top_logprobs",
    "matched",
    "1",
    "7",
    "t\\u006fken",
    "cho\\u0069ces",
];

/// Every key that some wire or field reads.
pub(super) static KEYS: LazyLock<Vec<&str>> = LazyLock::new(|| {
    let places = Wire::ALL
        .into_iter()
        .flat_map(|(_, wire)| wires::places(wire));
    let keys = places.flat_map(|place| place.split('.'));
    let mut keys: Vec<_> = keys.map(|key| key.trim_end_matches("[]")).collect();
    keys.extend(wires::ERROR.iter().chain(INNER));
    keys.sort_unstable();
    keys.dedup();
    keys
});

/// The tokens between values.
pub(super) const GLUE: &[&str] = &[",", " ", "}", "]", "{", "[", "\"", ":", "\\", "\n", "é"];

/// Parts of numbers, valid and invalid.
pub(super) const DIGITS: &[&str] = &[
    "",
    "0",
    "1",
    "9",
    "00000",
    "99999999",
    "-",
    ".5",
    "e5",
    "E-5",
    "e",
    "12345678901234567890",
];

/// Parts of base64 texts, valid and invalid.
pub(super) const LETTERS: &[&str] = &[
    "", "", "A", "B", "AA", "AAA", "AAAA", "////", "+/", "=", "==", "-", "_", " ", "\\/",
    "\\u003d", "\\ud800", "\\n", "é", "\u{7f}",
];

/// White space of JSON, and characters that only look like it.
pub(super) const SPACE: &[&str] = &[
    " ",
    "\t",
    "\n",
    "\r\n",
    "                                                                 ",
    "\u{a0}",
    "\u{feff}",
];
