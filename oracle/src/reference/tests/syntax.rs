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

/// Every text of up to `length` letters of the alphabet.
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
