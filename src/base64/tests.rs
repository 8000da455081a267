#![allow(unsafe_code)] // looks at memory that was initialised before it was lent

use std::fmt::Debug;
use std::mem::MaybeUninit;

use ::base64::Engine;
use ::base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;

use super::*;

/// Bytes without a pattern that a misplaced vector could hide in.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let step = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..len).map(step).collect()
}

fn encode(bytes: &[u8]) -> Vec<u8> {
    STANDARD.encode(bytes).into_bytes()
}

/// Every kernel of this machine, writing through the cache and around it.
fn kernels() -> Vec<Kernel> {
    let both = |kernel: Kernel| [kernel.streaming_from(usize::MAX), kernel.streaming_from(0)];
    Kernel::available().flat_map(both).collect()
}

/// Lends `len` items that lie `offset` items behind a cache line, and checks that nothing around them was written.
fn lend<T: Copy + PartialEq + Debug, R>(
    len: usize,
    offset: usize,
    guard: T,
    run: impl FnOnce(&mut [MaybeUninit<T>]) -> R,
) -> (R, Vec<T>) {
    const AROUND: usize = 64;
    let mut memory = vec![MaybeUninit::new(guard); len + 3 * AROUND + offset];
    let line = (0..)
        .find(|&items| memory[items..].as_ptr().addr().is_multiple_of(64))
        .unwrap();
    let start = line + AROUND + offset;
    let result = run(&mut memory[start..start + len]);
    // SAFETY: every item was initialised before it was lent, and what was written since are items.
    let memory: Vec<T> = memory
        .into_iter()
        .map(|item| unsafe { item.assume_init() })
        .collect();
    assert!(
        memory[..start].iter().all(|item| *item == guard),
        "written in front of the output"
    );
    assert!(
        memory[start + len..].iter().all(|item| *item == guard),
        "written behind the output"
    );
    (result, memory[start..start + len].to_vec())
}

/// What may be asked for: bytes, or elements as int32.
type Kind = Option<Element>;

const KINDS: [Kind; 5] = [
    None,
    Some(Element::U8),
    Some(Element::U16),
    Some(Element::I16),
    Some(Element::I32),
];

fn size(kind: Kind) -> usize {
    kind.map_or(1, Element::size)
}

/// `len` items from byte `skip` on, decoded to memory `offset` items behind a cache line.
fn decode(
    kernel: &Kernel,
    kind: Kind,
    text: &[u8],
    skip: usize,
    len: usize,
    offset: usize,
) -> Result<Vec<i32>, usize> {
    match kind {
        None => {
            let (result, bytes) =
                lend(len, offset, 0xa5, |out| kernel.decode_into(text, skip, out));
            result.map(|()| bytes.into_iter().map(i32::from).collect())
        }
        Some(element) => {
            let (result, items) = lend(len, offset, i32::MIN + 7, |out| {
                kernel.widen_into(text, element, skip, out)
            });
            result.map(|negative| {
                assert_eq!(negative, items.iter().any(|&item| item < 0), "{element:?}");
                items
            })
        }
    }
}

/// The same from the bytes themselves.
fn expect(kind: Kind, bytes: &[u8], skip: usize, len: usize) -> Vec<i32> {
    let items = bytes[skip..].chunks_exact(size(kind)).take(len);
    let item = |item: &[u8]| match kind {
        None | Some(Element::U8) => item[0].into(),
        Some(Element::U16) => u16::from_le_bytes([item[0], item[1]]).into(),
        Some(Element::I16) => i16::from_le_bytes([item[0], item[1]]).into(),
        Some(Element::I32) => i32::from_le_bytes([item[0], item[1], item[2], item[3]]),
    };
    items.map(item).collect()
}

#[test]
fn every_length_from_every_byte_on() {
    let noise = noise(300);
    for len in 0..=300 {
        let text = encode(&noise[..len]);
        assert_eq!(decoded_len(&text), Ok(len));
        for (kernel, kind) in kernels()
            .iter()
            .flat_map(|kernel| KINDS.map(|kind| (kernel, kind)))
        {
            for skip in 0..=len {
                let items = (len - skip) / size(kind);
                let got = decode(kernel, kind, &text, skip, items, 0);
                assert_eq!(
                    got,
                    Ok(expect(kind, &noise, skip, items)),
                    "{kernel:?} {kind:?} {skip} of {len}"
                );
            }
        }
    }
}

#[test]
fn every_alignment_of_text_and_output() {
    // Long enough for outputs that are aligned for the sake of speed, in every kind.
    let noise = noise(17 << 10);
    let text = encode(&noise);
    let mut memory = vec![b'!'; text.len() + 64];
    for (kernel, kind) in kernels()
        .iter()
        .flat_map(|kernel| KINDS.map(|kind| (kernel, kind)))
    {
        for shift in 0..64 {
            memory[shift..][..text.len()].copy_from_slice(&text);
            let text = &memory[shift..][..text.len()];
            for (skip, len) in [(shift, noise.len()), (noise.len() - 900 - shift, 800)] {
                let len = (len - skip.min(len) + shift).min(noise.len() - skip) / size(kind);
                let got = decode(kernel, kind, text, skip, len, (5 * shift) % 64);
                assert!(
                    got == Ok(expect(kind, &noise, skip, len)),
                    "{kernel:?} {kind:?} {shift} {skip}"
                );
            }
        }
        for (text_shift, out_shift) in (0..64).flat_map(|text| (0..64).map(move |out| (text, out)))
        {
            let noise = &noise[..540];
            let text = encode(noise);
            memory[text_shift..][..text.len()].copy_from_slice(&text);
            let text = &memory[text_shift..][..text.len()];
            let got = decode(kernel, kind, text, 0, 540 / size(kind), out_shift);
            assert!(
                got == Ok(expect(kind, noise, 0, 540)),
                "{kernel:?} {kind:?} {text_shift} {out_shift}"
            );
        }
    }
}

/// Bytes that are no letters: all that are left of 256, `-`, `_`, `=`, `"`, `\` and 128 high ones among them.
fn no_letters() -> impl Iterator<Item = u8> {
    let letters = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    (0..=255).filter(|byte| !letters.contains(byte))
}

#[test]
fn every_wrong_byte_at_every_position() {
    assert_eq!(no_letters().count(), 192);
    let mut text = encode(&noise(12 * 33));
    let items = |kind| 12 * 33 / size(kind);
    // The last group, where padding would be no error, has its own test.
    for at in 0..text.len() - 4 {
        let letter = text[at];
        for (kernel, byte) in kernels()
            .iter()
            .flat_map(|kernel| no_letters().map(move |byte| (kernel, byte)))
        {
            text[at] = byte;
            assert_eq!(kernel.alphabet_len(&text), at, "{kernel:?} {byte}");
            for kind in KINDS {
                let got = decode(kernel, kind, &text, 0, items(kind), 0);
                assert_eq!(got, Err(at), "{kernel:?} {kind:?} {byte}");
            }
        }
        text[at] = letter;
    }
    for kernel in kernels() {
        assert_eq!(kernel.alphabet_len(&text), text.len());
    }
}

#[test]
fn the_first_of_several_wrong_bytes() {
    let mut text = encode(&noise(9000));
    let last = text.len() - 5;
    text[last] = b'"';
    for at in (0..last).step_by(7).rev() {
        text[at] = 0x80 | (at as u8);
        for kernel in kernels() {
            assert_eq!(kernel.alphabet_len(&text), at);
            for kind in KINDS {
                assert_eq!(
                    decode(&kernel, kind, &text, 0, 9000 / size(kind), 3),
                    Err(at),
                    "{kernel:?} {kind:?}"
                );
            }
        }
    }
}

#[test]
fn letters_of_every_count() {
    let text = encode(&noise(900));
    for kernel in kernels() {
        for len in 0..text.len() {
            assert_eq!(kernel.alphabet_len(&text[..len]), len);
            let mut quoted = text[..len].to_vec();
            quoted.push(b'"');
            quoted.extend_from_slice(&text[..100]);
            assert_eq!(kernel.alphabet_len(&quoted), len);
        }
    }
}

#[test]
fn only_the_groups_asked_for_are_read() {
    let noise = noise(500);
    let good = encode(&noise);
    for (kernel, kind) in kernels()
        .iter()
        .flat_map(|kernel| KINDS.map(|kind| (kernel, kind)))
    {
        for skip in 0..400 {
            for len in [0, 1, (490 - skip) / size(kind)] {
                let mut text = good.clone();
                let end = skip + len * size(kind);
                text[..skip / 3 * 4].fill(b'"');
                text[end.div_ceil(3) * 4..].fill(b'\\');
                let got = decode(kernel, kind, &text, skip, len, 0);
                assert_eq!(
                    got,
                    Ok(expect(kind, &noise, skip, len)),
                    "{kernel:?} {kind:?} {skip} {len}"
                );
            }
        }
    }
}

/// What the pieces say together, which must be what the base64 crate says.
fn judge(kernel: &Kernel, text: &[u8]) -> Option<Vec<u8>> {
    let letters = kernel.alphabet_len(text);
    if text[letters..].iter().any(|&byte| byte != b'=') {
        return None;
    }
    let len = decoded_len(text).ok()?;
    let got = decode(kernel, None, text, 0, len, 0).expect("a text that was judged good");
    Some(got.into_iter().map(|byte| byte as u8).collect())
}

#[test]
fn every_end_of_a_text() {
    let kernels = kernels();
    let fronts = [Vec::new(), encode(&noise(300))];
    let alphabet: Vec<u8> = (0..=255).filter(|&byte| scalar::value(byte) < 64).collect();
    let check = |end: [u8; 4]| {
        for front in &fronts {
            let text = [front.as_slice(), &end].concat();
            let crates = STANDARD.decode(&text).ok();
            for kernel in &kernels {
                assert_eq!(
                    judge(kernel, &text),
                    crates,
                    "{kernel:?} {:?}",
                    end.escape_ascii()
                );
            }
        }
    };
    for (&a, &b) in alphabet
        .iter()
        .flat_map(|a| alphabet.iter().map(move |b| (a, b)))
    {
        check([a, b, b'=', b'=']);
        for c in [b'A', b'B', b'C', b'D', b'E', b'/', b'+', b'8', b'4'] {
            check([c, a, b, b'=']);
            check([a, b, b'=', c]);
        }
    }
    for end in [
        *b"A===", *b"====", *b"=AAA", *b"A=A=", *b"AA=A", *b"==AA", *b"AAA\"", *b"AA-_", *b"AA =",
        *b"AA=\n",
    ] {
        check(end);
    }
    for len in 0..4 {
        for end in ["", "=", "=="] {
            let text = [&b"AAAA"[..len], end.as_bytes()].concat();
            let crates = STANDARD.decode(&text).ok();
            assert_eq!(
                judge(&kernels[0], &text),
                crates,
                "{:?}",
                text.escape_ascii()
            );
        }
    }
}

#[test]
fn which_rule_and_where() {
    let bad = |text: &str, rule, at| {
        assert_eq!(
            decoded_len(text.as_bytes()),
            Err(Bad { rule, at }),
            "{text}"
        )
    };
    for text in [
        "A", "AA", "AAA", "AAAAA", "=", "==", "===", "AA=", "AAAA=", "AAAAAA",
    ] {
        bad(text, Rule::Length, text.len());
    }
    for text in [
        "====", "A===", "AAAA====", "AAAAA===", "AAA=====", "========",
    ] {
        bad(text, Rule::Padding, text.len());
    }
    for text in ["AB==", "AAAAAP==", "A/=="] {
        bad(text, Rule::TrailingBits, text.len() - 3);
    }
    for text in ["AAB=", "AAAAAAD=", "AA/="] {
        bad(text, Rule::TrailingBits, text.len() - 2);
    }
    for (text, len) in [
        ("", 0),
        ("AA==", 1),
        ("AQ==", 1),
        ("AAA=", 2),
        ("//8=", 2),
        ("////", 3),
        ("AAAAAA==", 4),
    ] {
        assert_eq!(decoded_len(text.as_bytes()), Ok(len), "{text}");
    }
}

#[test]
fn errors_of_the_last_group() {
    for kernel in kernels() {
        for (text, len, at) in [
            ("AAAAAB==", 4, 5),
            ("AAAAAAB=", 5, 6),
            ("AAAA=A==", 4, 4),
            ("AAAA*AA=", 5, 4),
            ("AAAAA===", 4, 5),
            ("AAAAAA=A", 6, 6),
            ("AAAAA", 3, 5),
            ("AAAAAA", 3, 6),
        ] {
            assert_eq!(
                decode(&kernel, None, text.as_bytes(), 0, len, 0),
                Err(at),
                "{text}"
            );
        }
    }
}

#[test]
fn outputs_too_large_for_the_cache() {
    let elements = cache::streaming_from() / 4 + 12_345;
    let noise = noise(elements * 4 + 77);
    let text = encode(&noise);
    for kernel in Kernel::available() {
        for (kind, skip) in KINDS.into_iter().zip([77, 1, 2, 3, 5]) {
            let len = if kind.is_none() {
                elements * 4
            } else {
                elements
            };
            let got = decode(&kernel, kind, &text, skip, len, 1);
            assert!(
                got == Ok(expect(kind, &noise, skip, len)),
                "{kernel:?} {kind:?}"
            );
        }
    }
}

#[test]
#[should_panic(expected = "5 items of 2 bytes at byte 0 of 9")]
fn more_than_the_text_holds() {
    let _ = widen_into(
        b"AAAAAAAAAAAA",
        Element::U16,
        0,
        &mut [MaybeUninit::uninit(); 5],
    );
}

#[test]
#[should_panic(expected = "0 items of 1 bytes at byte 10 of 9")]
fn skipping_more_than_the_text_holds() {
    let _ = decode_into(b"AAAAAAAAAAAA", 10, &mut []);
}

#[test]
fn names() {
    for element in Element::ALL {
        assert_eq!(Element::from_name(element.name()), Some(element));
    }
    assert_eq!(Element::from_name("int64"), None);
    assert_eq!(kernel_error(), None);
    let names: Vec<_> = Kernel::available().map(|kernel| kernel.name()).collect();
    assert_eq!(names.last(), Some(&"portable"));
    assert!(names.contains(&kernel_name()));
}

proptest! {
    #[test]
    fn any_text_is_what_the_base64_crate_says(text in r#"[AQgw/+9z=_"-]{0,12}"#) {
        for kernel in kernels() {
            prop_assert_eq!(judge(&kernel, text.as_bytes()), STANDARD.decode(&text).ok());
        }
    }

    #[test]
    fn any_bytes_come_back(bytes in prop::collection::vec(any::<u8>(), 0..3000), skip in 0..100_usize, cut in 0..100_usize) {
        let text = encode(&bytes);
        let skip = skip.min(bytes.len());
        for (kernel, kind) in kernels().iter().flat_map(|kernel| KINDS.map(|kind| (kernel, kind))) {
            let len = (bytes.len() - skip).saturating_sub(cut) / size(kind);
            let got = decode(kernel, kind, &text, skip, len, cut % 16);
            prop_assert_eq!(got, Ok(expect(kind, &bytes, skip, len)));
        }
    }

    #[test]
    fn any_wrong_byte_is_found(at in 0..5996_usize, byte in any::<u8>(), skip in 0..1500_usize) {
        let mut text = encode(&noise(4500));
        text[at] = byte;
        let wrong = scalar::value(byte) > 63;
        for (kernel, kind) in kernels().iter().flat_map(|kernel| KINDS.map(|kind| (kernel, kind))) {
            let got = decode(kernel, kind, &text, skip, (4500 - skip) / size(kind), 0);
            prop_assert_eq!(got.err(), (wrong && at >= skip / 3 * 4).then_some(at));
        }
    }
}
