use proptest::prelude::*;

use super::*;

/// The data of chunks, and how many bytes they take; None where they are malformed. Slow, and all at once.
fn slow(bytes: &[u8]) -> Option<Result<(Vec<u8>, usize), ()>> {
    fn line(bytes: &[u8], at: usize) -> Option<&[u8]> {
        let size = bytes[at..].windows(2).position(|pair| pair == b"\r\n")?;
        Some(&bytes[at..at + size])
    }
    let clean = |text: &[u8]| {
        text.iter()
            .all(|&byte| byte == b'\t' || (byte >= b' ' && byte != 0x7f))
    };
    let (mut data, mut at) = (Vec::new(), 0);
    loop {
        let text = line(bytes, at)?;
        let digits = text.iter().take_while(|byte| byte.is_ascii_hexdigit());
        let digits = std::str::from_utf8(&text[..digits.count()]).unwrap();
        let rest = &text[digits.len()..];
        let Ok(size) = usize::from_str_radix(digits, 16) else {
            return Some(Err(()));
        };
        if !matches!(rest.first(), None | Some(b';' | b' ' | b'\t')) || !clean(rest) {
            return Some(Err(()));
        }
        at += text.len() + 2;
        if size == 0 {
            break;
        }
        let chunk = bytes.get(at..at + size + 2)?;
        if !chunk.ends_with(b"\r\n") {
            return Some(Err(()));
        }
        data.extend_from_slice(&chunk[..size]);
        at += size + 2;
    }
    loop {
        let text = line(bytes, at)?;
        at += text.len() + 2;
        if text.is_empty() {
            return Some(Ok((data, at)));
        }
        let Some(colon) = text.iter().position(|&byte| byte == b':') else {
            return Some(Err(()));
        };
        if colon == 0
            || !text[..colon].iter().all(|&byte| is_token(byte))
            || !clean(&text[colon + 1..])
        {
            return Some(Err(()));
        }
    }
}

/// The same by the decoder, which gets pieces of these sizes.
fn taken(
    bytes: &[u8],
    mut sizes: impl Iterator<Item = usize>,
) -> Result<Option<(Vec<u8>, usize)>, Refused> {
    let (mut chunks, mut data, mut at) = (Chunks::new(), Vec::new(), 0);
    while at < bytes.len() && !chunks.ended() {
        let size = sizes.next().unwrap_or(usize::MAX).min(bytes.len() - at);
        let before = data.len();
        data.extend_from_slice(&bytes[at..at + size]);
        let taken = chunks.take(&mut data[before..])?;
        assert!(taken.data <= taken.read && taken.read <= size);
        assert!(taken.read == size || chunks.ended());
        data.truncate(before + taken.data);
        at += taken.read;
    }
    Ok(chunks.ended().then_some((data, at)))
}

fn whole(bytes: &[u8]) -> Result<Option<(Vec<u8>, usize)>, Refused> {
    taken(bytes, std::iter::empty())
}

#[test]
fn chunks_are_joined() {
    let bytes = b"3\r\nabc\r\n00A ; x=\"y\"\r\n0123456789\r\n0\r\nx-y: z\r\n\r\nHTTP/1.1";
    let expected = Some((b"abc0123456789".to_vec(), bytes.len() - 8));
    assert_eq!(whole(bytes), Ok(expected.clone()));
    assert_eq!(taken(bytes, std::iter::repeat(1)), Ok(expected));
    for size in 0..bytes.len() - 8 {
        assert_eq!(whole(&bytes[..size]), Ok(None), "{size}");
    }
}

#[test]
fn every_spelling_of_chunks_is_read() {
    for (bytes, data) in [
        (&b"0\r\n\r\n"[..], &b""[..]),
        (b"000\r\n\r\n", b""),
        (b"a\r\n0123456789\r\n0\r\n\r\n", b"0123456789"),
        (b"A\r\n0123456789\r\n0\r\n\r\n", b"0123456789"),
        (b"00000000000000000001\r\nx\r\n0\r\n\r\n", b"x"),
        (b"1;\r\nx\r\n0;\r\n\r\n", b"x"),
        (b"1;a\r\nx\r\n0\r\n\r\n", b"x"),
        (b"1;a=b;c=\"d e\"\r\nx\r\n0;e\r\n\r\n", b"x"),
        (b"1 \r\nx\r\n0\t\r\n\r\n", b"x"),
        (b"2\r\n\r\n\r\n0\r\n\r\n", b"\r\n"),
        (b"5\r\n0\r\n\r\n\r\n0\r\n\r\n", b"0\r\n\r\n"),
        (b"1\r\nx\r\n0\r\na: b\r\nc:\r\n\r\n", b"x"),
        (b"1\r\nx\r\n0\r\ncontent-length: 9\r\n\r\n", b"x"),
    ] {
        let expected = Ok(Some((data.to_vec(), bytes.len())));
        assert_eq!(whole(bytes), expected, "{}", bytes.escape_ascii());
        let behind = [bytes, b"HTTP/1.1 200 OK\r\n"].concat();
        assert_eq!(whole(&behind), expected, "{}", bytes.escape_ascii());
    }
}

#[test]
fn what_is_no_chunk_is_refused() {
    for bytes in [
        &b"\r\n"[..],
        b";x\r\n",
        b"x\r\n",
        b"-5\r\n",
        b"+5\r\n",
        b"0x5\r\n",
        b" 5\r\n",
        b"5\n",
        b"5\rx",
        b"5\r\r\n",
        b"5;\n",
        b"5;a\0",
        b"5 5\rx",
        b"1\r\nx0\r\n\r\n",
        b"1\r\nx\r\n\r\n0\r\n\r\n",
        b"0\r\na: b\r\n c\r\n\r\n",
        b"5;a\nb\r\n",
        b"5g\r\n",
        b"3\r\nabcd\r\n",
        b"3\r\nabc\n",
        b"3\r\nabc\rx",
        b"3\r\nabc3\r\n",
        b"0\r\n: x\r\n",
        b"0\r\nx\r\n",
        b"0\r\n x: y\r\n",
        b"0\r\nx : y\r\n",
        b"0\r\nx: y\n",
        b"0\r\nx: \0\r\n",
        b"0\r\n\n",
        b"0\r\n\rx",
        b"ffffffffffffffff\r\n",
        b"10000000000000000\r\n",
    ] {
        assert!(
            whole(bytes).is_err(),
            "{:?}",
            bytes.escape_ascii().to_string()
        );
    }
}

#[test]
fn lines_have_a_ceiling() {
    let long = "x".repeat(MAX_LINE as usize);
    for bytes in [
        format!("1;{long}\r\na\r\n0\r\n\r\n"),
        format!("{}1\r\na\r\n0\r\n\r\n", "0".repeat(MAX_LINE as usize)),
        format!("0\r\nx: {long}\r\n\r\n"),
        format!("0\r\n{}\r\n", "x: y\r\n".repeat(MAX_LINE as usize / 5)),
    ] {
        assert!(whole(bytes.as_bytes()).is_err());
    }
    let many = format!("{}0\r\n\r\n", "1;some extension\r\na\r\n".repeat(10_000));
    assert_eq!(
        whole(many.as_bytes()),
        Ok(Some((vec![b'a'; 10_000], many.len())))
    );
}

/// Bodies in chunks, some of them broken at one byte.
fn body() -> impl Strategy<Value = Vec<u8>> {
    let chunk = (
        prop::collection::vec(any::<u8>(), 1..40),
        "(|;[a-z=]{0,5}| |\t;x)",
    );
    let chunk = chunk.prop_map(|(data, extension)| {
        let mut bytes = format!("{:x}{extension}\r\n", data.len()).into_bytes();
        bytes.extend_from_slice(&data);
        bytes.extend_from_slice(b"\r\n");
        bytes
    });
    let ends = "0(|;x)\r\n([a-z]{1,3}:[ a-z]{0,5}\r\n){0,3}\r\n[a-z]{0,5}";
    let broken = prop::option::of((any::<prop::sample::Index>(), any::<u8>()));
    (prop::collection::vec(chunk, 0..6), ends, broken).prop_map(|(chunks, ends, broken)| {
        let mut bytes = chunks.concat();
        bytes.extend_from_slice(ends.as_bytes());
        if let Some((at, byte)) = broken {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes
    })
}

proptest! {
    #[test]
    fn any_cutting_gives_the_same(bytes in body(), sizes in prop::collection::vec(1usize..30, 0..40)) {
        let at_once = whole(&bytes);
        prop_assert_eq!(&taken(&bytes, sizes.into_iter()), &at_once);
        prop_assert_eq!(&taken(&bytes, std::iter::repeat(1)), &at_once);
    }

    #[test]
    fn the_slow_twin_agrees(bytes in body()) {
        match (whole(&bytes), slow(&bytes)) {
            (Ok(Some(fast)), Some(Ok(slow))) => prop_assert_eq!(fast, slow),
            (Ok(None), None) => {}
            // The twin looks at whole lines only.
            (Err(_), Some(Err(())) | None) => {}
            (fast, slow) => prop_assert!(false, "{:?} {:?}", fast, slow),
        }
    }
}
