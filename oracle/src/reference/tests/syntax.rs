//! Step 1: the whole body is one document.

use super::super::json::{self, Kind, Node};
use dynamo_tito::{Limits, Result};

const MAX_DEPTH: usize = 128;

fn parse(body: &[u8]) -> Result<Node> {
    assert_eq!(Limits::default().max_depth, MAX_DEPTH);
    json::parse(body, MAX_DEPTH)
}

#[track_caller]
fn text(document: &str) -> String {
    match parse(document.as_bytes()).map(|node| node.kind) {
        Ok(Kind::String(text)) => text.value,
        other => panic!("{document}: {other:?}"),
    }
}

#[test]
fn every_proper_prefix_of_an_object_is_truncated() {
    let body = " {\"a\\u00e9\":[1,-2.5e+3,true,false,null,{}],\"é€😀\":\"\\ud83d\\ude00\"}";
    assert!(parse(body.as_bytes()).is_ok());
    for end in 0..body.len() {
        let error = parse(&body.as_bytes()[..end]).expect_err("a prefix");
        assert_eq!((error.kind, error.offset), ("truncated", Some(end)));
    }
}

#[test]
fn as_many_brackets_as_the_ceiling_may_be_open() {
    for (open, close) in [("[", "]"), ("{\"a\":", "}"), ("[{\"a\":", "}]")] {
        let levels = MAX_DEPTH / (close.len());
        let fits = open.repeat(levels) + "1" + &close.repeat(levels);
        assert!(parse(fits.as_bytes()).is_ok());
    }
    let wide = format!("[{}[]]", "[],".repeat(2 * MAX_DEPTH));
    assert!(parse(wide.as_bytes()).is_ok(), "width is not depth");
}

#[test]
fn strings_are_unescaped() {
    assert_eq!(
        text(r#""\"\\\/\b\f\n\r\t\u0041\u00e9\u20AC""#),
        "\"\\/\u{8}\u{c}\n\r\tAé€"
    );
    assert_eq!(text(r#""\ud83d\ude00 \uD83D\uDE00""#), "😀 😀");
    assert_eq!(text("\"\u{7f}é€😀\""), "\u{7f}é€😀");
    assert_eq!(text(r#""\u0000""#), "\0");
}

#[test]
fn a_lone_surrogate_is_grammatical_and_remembered() {
    for document in [
        r#""\ud800""#,
        r#""\udc00""#,
        r#""\udc00\ud800""#,
        r#""\ud800\ud800\udc00""#,
        r#""\ud83d a \ude00""#,
        r#""\ud83d\n\ude00""#,
        "\"\\ud83d😀\"",
    ] {
        let Ok(Kind::String(text)) = parse(document.as_bytes()).map(|node| node.kind) else {
            panic!("{document}");
        };
        assert!(text.lone_surrogate && text.escaped, "{document}");
    }
    // Three bytes each, as a surrogate would take.
    assert_eq!(text(r#""\ud800""#).len(), 3);
    assert_eq!(text(r#""\udc00\ud800""#).len(), 6);
}

#[test]
fn nodes_keep_their_bytes() {
    let body = br#" {"a" : [1, "b\n" ,null],"a":-0.5e1 } "#;
    let document = parse(body).expect("well-formed");
    let bytes = |node: &Node| body[node.start..node.end].escape_ascii().to_string();
    assert_eq!((document.start, document.end), (1, body.len() - 1));
    let members = document.as_object().expect("an object");
    let offsets: Vec<usize> = members.iter().map(|m| m.offset).collect();
    assert_eq!(offsets, [2, 25]);
    assert_eq!(bytes(&members[1].value), "-0.5e1");
    let elements = members[0].value.as_array().expect("an array");
    let spans: Vec<String> = elements.iter().map(bytes).collect();
    assert_eq!(spans, ["1", r#"\"b\\n\""#, "null"]);
}

/// Whether serde_json takes a document that holds none of what it judges differently: deep nesting, lone surrogates, numbers
/// beyond a 64-bit float.
fn serde_takes(body: &[u8]) -> bool {
    serde_json::from_slice::<serde_json::Value>(body).is_ok()
}

#[track_caller]
fn same_as_serde(body: &[u8]) {
    let ours = parse(body);
    assert_eq!(
        ours.is_ok(),
        serde_takes(body),
        "{}: {ours:?}",
        body.escape_ascii()
    );
}

#[test]
fn serde_json_takes_and_refuses_the_same_nasty_documents() {
    #[rustfmt::skip]
    let documents: [&[u8]; 151] = [
        b"", b" ", b"\n", b"null", b" null ", b"nul", b"nulll", b"NULL", b"Null", b"true", b"True", b"tru", b"truee", b"false", b"fals", b"falsee",
        b"undefined", b"None", b"NaN", b"nan", b"-NaN", b"Infinity", b"-Infinity", b"inf", b"1e", b"0", b"-0", b"+0", b"00", b"01", b"-01", b"-",
        b"--1", b"-+1", b"+1", b"1.", b"1.0", b".1", b"-.1", b"0.", b"0.0", b"0.00", b"1..2", b"1.2.3", b"1e5", b"1E5", b"1e+5", b"1e-5", b"1e+", b"1e-",
        b"1e5.5", b"1e 5", b"1 e5", b"e5", b"1e05", b"1e00", b"0e0", b"0E0", b"-0e-0", b"-0.0e+0", b"0x10", b"0b1", b"0o7", b"1_0", b"1,0", b"1 2", b"1f", b"1L",
        b"123456789012345678901234567890", b"-9223372036854775809", b"0.1e-400", b"1e-999999999", b"\"\"", b"\"a\"", b"\"a", b"a\"", b"'a'", b"\"a\"b\"",
        b"\"\\\"", b"\"\\\\\"", b"\"\\/\"", b"\"\\b\\f\\n\\r\\t\"", b"\"\\a\"", b"\"\\v\"", b"\"\\0\"", b"\"\\x41\"", b"\"\\'\"", b"\"\\u\"", b"\"\\u0\"",
        b"\"\\u004\"", b"\"\\u0041\"", b"\"\\u00e9\"", b"\"\\u00E9\"", b"\"\\u00g9\"", b"\"\\U0041\"", b"\"\\u 041\"", b"\"\\u-041\"", b"\"\\ud83d\\ude00\"",
        b"\"\t\"", b"\"\n\"", b"\"\0\"", b"\"\x1f\"", b"\"\x20\"", b"\"\x7f\"", b"\"\xc3\xa9\"", b"\"\xc3\"", b"\"\xa9\"", b"\"\xc0\xaf\"", b"\"\xed\xa0\x80\"",
        b"\"\xf0\x9f\x98\x80\"", b"\"\xf4\x90\x80\x80\"", b"\"\xef\xbb\xbf\"", b"\xef\xbb\xbf\"\"", b"[]", b"[ ]", b"[", b"]", b"[]]", b"[[]", b"[1]", b"[1,]", b"[,]",
        b"[,1]", b"[1,,2]", b"[1 2]", b"[1;2]", b"[1:2]", b"(1)", b"[1}", b"[\"a\",null,true]", b"{}", b"{ }", b"{", b"}", b"{}}", b"{\"a\":1}", b"{\"a\" : 1 }",
        b"{\"a\":1,}", b"{,\"a\":1}", b"{\"a\"}", b"{\"a\":}", b"{\"a\",1}", b"{:1}", b"{a:1}", b"{1:1}", b"{\"a\":1 \"b\":2}", b"{\"a\":1,\"a\":2}", b"{\"\":{}}",
        b"{null:1}", b"[1]//", b"/**/1",
    ];
    for document in documents {
        same_as_serde(document);
        same_as_serde(&[b"[", document, b"]"].concat());
        same_as_serde(&[b"{\"k\":", document, b"}"].concat());
        same_as_serde(&[b" ", document, b"\n"].concat());
        same_as_serde(&[document, b"\x0c"].concat());
    }
}

/// Every word of up to `length` letters.
fn words(alphabet: &[&[u8]], length: usize, visit: &mut impl FnMut(&[u8])) {
    fn grow(alphabet: &[&[u8]], left: usize, word: &mut Vec<u8>, visit: &mut impl FnMut(&[u8])) {
        visit(word);
        if left > 0 {
            for letter in alphabet {
                word.extend_from_slice(letter);
                grow(alphabet, left - 1, word, visit);
                word.truncate(word.len() - letter.len());
            }
        }
    }
    grow(alphabet, length, &mut Vec::new(), visit);
}

#[test]
fn serde_json_takes_and_refuses_the_same_structures() {
    let alphabet: [&[u8]; 9] = [b"[", b"]", b"{", b"}", b",", b":", b"\"\"", b"1", b" "];
    words(&alphabet, 5, &mut |word| same_as_serde(word));
}

#[test]
fn serde_json_takes_and_refuses_the_same_numbers() {
    let alphabet: [&[u8]; 7] = [b"0", b"1", b"-", b"+", b".", b"e", b"E"];
    words(&alphabet, 5, &mut |word| {
        same_as_serde(word);
        same_as_serde(&[b"[", word, b"]"].concat());
    });
}

#[test]
fn serde_json_takes_and_refuses_the_same_strings() {
    let alphabet: [&[u8]; 9] = [
        b"\\", b"\"", b"u", b"0", b"F", b"n", b"\n", b"\xc3", b"\xa9",
    ];
    words(&alphabet, 5, &mut |word| {
        same_as_serde(&[b"\"", word, b"\""].concat())
    });
    // Every byte, and every pair with what decides about longer sequences.
    for first in 0..=255 {
        for second in 0..=255 {
            for rest in [&b""[..], b"\x80", b"\x80\x80"] {
                same_as_serde(&[&[b'"', first, second], rest, b"\""].concat());
            }
        }
    }
}

#[test]
fn an_answer_spoilt_in_one_byte_is_json_where_serde_json_says_so() {
    let body = include_bytes!("../../../../tests/data/captures/generate_basic.json");
    for at in 0..body.len() {
        for byte in [b'"', b'\\', b'{', b',', b'0', 0xff] {
            let mut spoilt = body.to_vec();
            spoilt[at] = byte;
            same_as_serde(&spoilt);
        }
    }
}
