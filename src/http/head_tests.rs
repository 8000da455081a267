use super::*;

fn read(text: &str) -> Result<Head, Refused> {
    let bytes: Vec<u8> = text.chars().map(|letter| letter as u8).collect();
    match end(&bytes, &mut 0)? {
        Some(size) => Head::parse(&bytes[..size]),
        None => Err("no end"),
    }
}

fn framing(fields: &str) -> Result<Framing, Refused> {
    read(&format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n"))?.framing()
}

#[test]
fn a_head_is_read() {
    let head =
        read("HTTP/1.1 200 OK\r\nContent-Length:  5 \r\nX-A: caf\u{e9}\r\nx-a:\r\n\r\n{}").unwrap();
    let fields = [("content-length", "5"), ("x-a", "caf\u{e9}"), ("x-a", "")];
    let found = head.fields.iter();
    let found: Vec<_> = found.map(|(name, value)| (&**name, &**value)).collect();
    assert_eq!(
        (head.status, head.modern, found),
        (200, true, fields.to_vec())
    );
    assert_eq!(read("HTTP/1.0 999\r\n\r\n").unwrap().status, 999);
    assert!(!read("HTTP/1.0 200 OK\r\n\r\n").unwrap().modern);
}

#[test]
fn odd_heads_that_mean_one_thing_are_read() {
    for (text, status, fields) in [
        ("HTTP/1.1 200\r\n\r\n", 200, &[][..]),
        ("HTTP/1.1 200 \r\n\r\n", 200, &[]),
        ("HTTP/1.1 404 Not \tFound\r\n\r\n", 404, &[]),
        ("HTTP/1.1 200 Or\u{e5}nge\r\n\r\n", 200, &[]),
        ("HTTP/1.1 200 OK\r\na_b: c\r\n\r\n", 200, &[("a_b", "c")]),
        ("HTTP/1.1 200 OK\r\na:b\r\n\r\n", 200, &[("a", "b")]),
        ("HTTP/1.1 200 OK\r\na:\t b \t\r\n\r\n", 200, &[("a", "b")]),
        (
            "HTTP/1.1 200 OK\r\na: b c:d\r\n\r\n",
            200,
            &[("a", "b c:d")],
        ),
        ("HTTP/1.1 200 OK\r\na:   \r\n\r\n", 200, &[("a", "")]),
        (
            "HTTP/1.1 200 OK\r\n!#$%&'*+-.^`|~1: x\r\n\r\n",
            200,
            &[("!#$%&'*+-.^`|~1", "x")],
        ),
        (
            "HTTP/1.0 200 OK\r\nA: b\r\na: c\r\n\r\n",
            200,
            &[("a", "b"), ("a", "c")],
        ),
    ] {
        let head = read(text).unwrap_or_else(|why| panic!("{text:?}: {why}"));
        let found = head.fields.iter();
        let found: Vec<_> = found.map(|(name, value)| (&**name, &**value)).collect();
        assert_eq!((head.status, &found[..]), (status, fields), "{text:?}");
    }
}

#[test]
fn wherever_a_head_is_cut_its_end_is_found_once() {
    let bytes = b"HTTP/1.1 200 OK\r\na: b\r\nc: d\r\n\r\nbody\r\n\r\n";
    for first in 0..bytes.len() {
        let mut seen = 0;
        let size = bytes.len() - 8;
        let found = end(&bytes[..first], &mut seen).unwrap();
        assert_eq!(found, (first >= size).then_some(size));
        if found.is_none() {
            assert_eq!(end(bytes, &mut seen).unwrap(), Some(size), "{first}");
        }
    }
}

#[test]
fn what_is_no_head_is_refused() {
    for text in [
        // Line ends.
        "HTTP/1.1 200 OK\na: b\r\n\r\n",
        "HTTP/1.1 200 OK\r\na: b\n\r\n",
        "HTTP/1.1 200 OK\r\na: b\r\n\n",
        "\r\nHTTP/1.1 200 OK\r\n\r\n",
        "\r\n\r\n",
        "\n",
        "HTTP/1.1 200 OK\r\na: b\rc: d\r\n\r\n",
        // Folded lines, and white space that a proxy may see otherwise.
        "HTTP/1.1 200 OK\r\na: b\r\n c\r\n\r\n",
        "HTTP/1.1 200 OK\r\n a: b\r\n\r\n",
        "HTTP/1.1 200 OK\r\na : b\r\n\r\n",
        "HTTP/1.1 200 OK\r\na b: c\r\n\r\n",
        // Names and values.
        "HTTP/1.1 200 OK\r\n: b\r\n\r\n",
        "HTTP/1.1 200 OK\r\na\r\n\r\n",
        "HTTP/1.1 200 OK\r\na: b\0\r\n\r\n",
        "HTTP/1.1 200 OK\r\na\u{e9}: b\r\n\r\n",
        // Status lines.
        "HTTP/1.1 20 OK\r\n\r\n",
        "HTTP/1.1 099 OK\r\n\r\n",
        "HTTP/1.1 2000 OK\r\n\r\n",
        "HTTP/1.1 abc OK\r\n\r\n",
        "HTTP/1.1  200 OK\r\n\r\n",
        "HTTP/1.2 200 OK\r\n\r\n",
        "HTTP/2 200 OK\r\n\r\n",
        "http/1.1 200 OK\r\n\r\n",
        "SSH-2.0-OpenSSH_9.6\r\n\r\n",
        "<html>\r\n\r\n",
        " HTTP/1.1 200 OK\r\n\r\n",
    ] {
        assert!(read(text).is_err(), "{text:?}");
    }
}

#[test]
fn the_framing_is_unambiguous_or_refused() {
    let chunked = Framing::Chunked(Chunks::new());
    for (fields, expected) in [
        ("a: b", Framing::UntilClose),
        ("content-length: 0", Framing::Length(0)),
        ("content-length: 007", Framing::Length(7)),
        ("content-length: 5\r\ncontent-length: 5", Framing::Length(5)),
        ("content-length: 5, 5", Framing::Length(5)),
        ("transfer-encoding: chunked", chunked.clone()),
        ("Transfer-Encoding: Chunked", chunked),
    ] {
        assert_eq!(framing(fields), Ok(expected), "{fields}");
    }
    for fields in [
        "content-length: ",
        "content-length: -1",
        "content-length: +1",
        "content-length: 0x10",
        "content-length: 1 2",
        "content-length: 5,",
        "content-length: 5, 6",
        "content-length: 5\r\ncontent-length: 6",
        "content-length: 9999999999999999999",
        "content-length: 5\r\ntransfer-encoding: chunked",
        "transfer-encoding: chunked\r\ncontent-length: 0",
        "transfer-encoding: identity",
        "transfer-encoding: gzip, chunked",
        "transfer-encoding: chunked, identity",
        "transfer-encoding: chunked\r\ntransfer-encoding: chunked",
        "transfer-encoding: xchunked",
        "transfer-encoding: \u{b}chunked",
        "transfer-encoding:",
    ] {
        assert!(framing(fields).is_err(), "{fields}");
    }
    let old = read("HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
    assert!(old.unwrap().framing().is_err());
}

#[test]
fn some_answers_have_no_body() {
    for status in [204, 304] {
        let head = read(&format!("HTTP/1.1 {status} x\r\ncontent-length: 9\r\n\r\n")).unwrap();
        assert_eq!(head.framing(), Ok(Framing::Length(0)));
    }
    for (status, interim) in [(100, true), (103, true), (101, false), (200, false)] {
        let head = read(&format!("HTTP/1.1 {status} x\r\n\r\n")).unwrap();
        assert_eq!(head.is_interim(), interim);
    }
}

#[test]
fn a_connection_is_kept_where_the_server_keeps_it() {
    for (head, kept) in [
        ("HTTP/1.1 200 OK\r\n\r\n", true),
        ("HTTP/1.1 200 OK\r\nconnection: keep-alive\r\n\r\n", true),
        ("HTTP/1.1 200 OK\r\nConnection: Close\r\n\r\n", false),
        (
            "HTTP/1.1 200 OK\r\nconnection: keep-alive, close\r\n\r\n",
            false,
        ),
        (
            "HTTP/1.1 200 OK\r\nconnection: a\r\nconnection: close\r\n\r\n",
            false,
        ),
        ("HTTP/1.0 200 OK\r\nconnection: keep-alive\r\n\r\n", false),
        ("HTTP/1.1 101 x\r\n\r\n", false),
    ] {
        assert_eq!(read(head).unwrap().keeps_alive(), kept, "{head}");
    }
}
