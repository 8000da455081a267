//! The parts of a blob: base64 and npy headers.

use ::base64::Engine;
use ::base64::engine::general_purpose::STANDARD;

use super::super::{base64, npy};

/// The decoded bytes; None for a text that is refused.
fn ours(text: &[u8]) -> Option<Vec<u8>> {
    let decoded_len = base64::decoded_len(text)?;
    let bytes = base64::decode(text, usize::MAX).ok()?;
    assert_eq!(bytes.len(), decoded_len);
    Some(bytes)
}

#[track_caller]
fn same_as_the_crate(text: &[u8]) {
    assert_eq!(
        ours(text),
        STANDARD.decode(text).ok(),
        "{}",
        text.escape_ascii()
    );
}

#[test]
fn every_length_comes_back() {
    let bytes: Vec<u8> = (0..=255).rev().collect();
    for length in 0..bytes.len() {
        let text = STANDARD.encode(&bytes[..length]);
        assert_eq!(ours(text.as_bytes()), Some(bytes[..length].to_vec()));
    }
}

#[test]
fn the_base64_crate_takes_and_refuses_the_same_texts() {
    // Every letter at every place of a last group, with every padding.
    for letter in 0..=255 {
        for text in [
            vec![letter, b'A', b'A', b'A'],
            vec![b'A', letter, b'A', b'A'],
            vec![b'A', b'A', letter, b'A'],
            vec![b'A', b'A', b'A', letter],
            vec![b'A', b'A', letter, b'='],
            vec![b'A', letter, b'=', b'='],
            vec![letter, b'=', b'=', b'='],
        ] {
            same_as_the_crate(&text);
            same_as_the_crate(&[b"QUJD", &text[..]].concat());
            same_as_the_crate(&[&text[..], b"QUJD"].concat());
        }
    }
    for text in [
        "", "=", "==", "===", "====", "A", "AA", "AAA", "AAAA", "AA==AA==", "AAA=AAAA", "AAAA====",
        "QUJ", "QUJD\n", "QU JD", "_-A=", "QUJDRA",
    ] {
        same_as_the_crate(text.as_bytes());
    }
}

#[test]
fn the_position_is_that_of_the_first_wrong_character() {
    let position = |text: &str| base64::decode(text.as_bytes(), usize::MAX).err();
    assert_eq!(position("AAAA!AAA"), Some(4));
    assert_eq!(position("A-A_AAAA"), Some(1));
    assert_eq!(position("AAA=AAAA"), Some(3));
    assert_eq!(position("AA=A"), Some(2));
    assert_eq!(position("A==="), Some(1));
    assert_eq!(position("===="), Some(0));
    // Trailing bits: the last character before the padding.
    assert_eq!(position("AAAAAB=="), Some(5));
    assert_eq!(position("AAAAAAB="), Some(6));
    assert_eq!(position("AAAA!AB="), Some(4));
    assert_eq!(position("AAAAAQ=="), None);
    assert_eq!(position("AAAAAAE="), None);
}

#[test]
fn a_number_of_groups_can_be_asked_for() {
    assert_eq!(base64::decode(b"QUJDRA==", 0), Ok(vec![]));
    assert_eq!(base64::decode(b"QUJDRA==", 1), Ok(b"ABC".to_vec()));
    assert_eq!(base64::decode(b"QUJDRA==", 2), Ok(b"ABCD".to_vec()));
    assert_eq!(base64::decode(b"QUJD!!!!", 1), Ok(b"ABC".to_vec()));
    assert_eq!(base64::decode(b"QUJD!!!!", 2), Err(4));
}

fn header(text: &str) -> Option<(String, [u64; 3])> {
    npy::parse(text.as_bytes(), 3)
        .map(|header| (header.descr, header.shape.try_into().expect("three")))
}

#[test]
fn a_header_is_a_dict_of_three() {
    let expected = Some(("|u1".to_owned(), [8, 4, 2]));
    for text in [
        "{'descr': '|u1', 'fortran_order': False, 'shape': (8, 4, 2), }          \n",
        "{'descr':'|u1','fortran_order':False,'shape':(8,4,2)}",
        "\t\r\n { \"shape\" : ( 8 , 4 , 2 , ) , 'fortran_order' :False,\"descr\":'|u1' , } ",
    ] {
        assert_eq!(header(text), expected, "{text}");
    }
    let largest = "{'descr': '', 'fortran_order': False, 'shape': (0, 9223372036854775807, 1)}";
    assert_eq!(
        header(largest),
        Some((String::new(), [0, i64::MAX as u64, 1]))
    );
}

#[test]
fn any_other_header_is_refused() {
    let good = "{'descr': '|u1', 'fortran_order': False, 'shape': (8, 4, 2), }";
    assert!(header(good).is_some());
    for (from, to) in [
        ("{", ""),
        ("{", "{{"),
        ("{", "{,"),
        ("}", ""),
        ("}", "}}"),
        ("}", "} x"),
        ("}", ",}"),
        ("}", "}\0"),
        ("}", "}\u{b}"),
        (", }", "  }x"),
        ("'descr': '|u1', ", ""),
        ("'fortran_order': False, ", ""),
        ("'shape': (8, 4, 2), ", ""),
        ("{", "{'descr': '|u1', "),
        ("{", "{'x': 1, "),
        ("{", "{'fortran_order': False, "),
        ("{", "{'shape': (8, 4, 2), "),
        ("descr'", "descr "),
        ("'descr'", "descr"),
        ("'descr'", "'descr\""),
        ("'descr'", "u'descr'"),
        ("descr", "Descr"),
        ("descr", "d\\x65scr"),
        ("'|u1'", "'|u1"),
        ("'|u1'", "|u1"),
        ("'|u1'", "'|u\\x31'"),
        ("'|u1'", "b'|u1'"),
        ("'|u1'", "[('a', '|u1')]"),
        ("False", "True"),
        ("False", "false"),
        ("False", "0"),
        ("False", "'False'"),
        ("False", "Falsey"),
        ("(8, 4, 2)", "(8, 4)"),
        ("(8, 4, 2)", "(8, 4, 2, 1)"),
        ("(8, 4, 2)", "[8, 4, 2]"),
        ("(8, 4, 2)", "(8, 4, 2,,)"),
        ("(8, 4, 2)", "(8 4 2)"),
        ("(8, 4, 2)", "(,8, 4, 2)"),
        ("(8, 4, 2)", "()"),
        ("(8, 4, 2)", "8"),
        ("(8", "(08"),
        ("(8", "(-8"),
        ("(8", "(+8"),
        ("(8", "(8L"),
        ("(8", "(8.0"),
        ("(8", "(0x8"),
        ("(8", "(1_0"),
        ("(8", "(8e0"),
        ("(8", "(9223372036854775808"),
        ("(8", "(99999999999999999999"),
        ("(8", "('8'"),
        ("(8", "(\u{668}"),
        (":", "="),
        (": False", " False"),
        (", 'f", " 'f"),
        ("2), }", "2)"),
    ] {
        assert!(good.contains(from));
        let bad = good.replacen(from, to, 1);
        assert_eq!(header(&bad), None, "{bad}");
    }
    for end in 0..good.len() {
        assert_eq!(header(&good[..end]), None);
    }
    assert!(
        npy::parse(
            b"{'descr': '\xff', 'fortran_order': False, 'shape': (8, 4, 2), }",
            3
        )
        .is_none()
    );
    assert!(npy::parse(b"", 3).is_none());
}
