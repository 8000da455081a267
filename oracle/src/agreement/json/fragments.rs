//! Texts that are JSON values and texts that are not, by class. What the standard leaves to the reader is decided as in
//! `docs/design.md`: any size of number is grammatical, so is a lone surrogate escape; bytes that are no UTF-8, a byte order
//! mark and other encodings are not.

/// A text and whether it is a value.
#[derive(Debug, Clone)]
pub(super) struct Fragment {
    pub(super) class: &'static str,
    pub(super) text: Vec<u8>,
    pub(super) value: bool,
    /// One of a family of which each place sees some.
    pub(super) one_of_many: bool,
}

impl Fragment {
    /// Brackets that are open at one time, of a value.
    pub(super) fn depth(&self) -> usize {
        let (mut depth, mut deepest, mut quoted, mut escaped) = (0, 0, false, false);
        for byte in &self.text {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => quoted = !quoted,
                b'[' | b'{' if !quoted => {
                    depth += 1;
                    deepest = deepest.max(depth);
                }
                b']' | b'}' if !quoted => depth -= 1,
                _ => {}
            }
        }
        deepest
    }
}

/// Collects one class.
struct Class {
    name: &'static str,
    fragments: Vec<Fragment>,
}

impl Class {
    fn new(name: &'static str) -> Self {
        let fragments = Vec::new();
        Self { name, fragments }
    }

    fn push(&mut self, text: impl Into<Vec<u8>>, value: bool, one_of_many: bool) {
        self.fragments.push(Fragment {
            class: self.name,
            text: text.into(),
            value,
            one_of_many,
        });
    }

    fn values(&mut self, texts: &[&str]) {
        texts.iter().for_each(|text| self.push(*text, true, false));
    }

    fn no_values(&mut self, texts: &[&str]) {
        texts.iter().for_each(|text| self.push(*text, false, false));
    }
}

/// Every class.
pub(super) fn fragments() -> Vec<Fragment> {
    [
        numbers(),
        strings(),
        encoding(),
        literals(),
        structure(),
        white_space(),
        depth(),
    ]
    .into_iter()
    .flat_map(|class| class.fragments)
    .collect()
}

/// Texts that are no value, but that some surroundings complete.
#[rustfmt::skip]
pub(super) const COMPLETED_BY_SURROUNDINGS: &[&str] = &[
    "", " ", "1,2", "[],[]", "1],[2", "1},{\"b\":2", "0,\"b\":0", "\"a\":1,\"b\"", "1]", "[1", "{\"b\":1", "1}",
];

fn numbers() -> Class {
    let mut class = Class::new("numbers");
    for sign in ["", "-"] {
        for whole in ["0", "7", "10", "9007199254740993"] {
            for fraction in ["", ".0", ".25", ".1234567890123456789"] {
                for exponent in ["", "e0", "E7", "e+12", "E-3", "e007"] {
                    class.push([sign, whole, fraction, exponent].concat(), true, true);
                }
            }
        }
    }
    #[rustfmt::skip]
    class.values(&[
        "0", "-0", "1", "-1", "0.0", "-0.0", "0e0", "-0e-0", "0e+1", "1E22", "1.5", "2147483647", "2147483648", "-2147483648",
        "9223372036854775807", "9223372036854775808", "-9223372036854775809", "18446744073709551615", "18446744073709551616",
        "1.7976931348623157e308", "1.7976931348623159e308", "5e-324", "2e-324", "1e400", "-1e400", "1e-400", "-1e-400",
        "0.4e00669999999999999999999999999999999999999999999999999999999", "-9999.0", "-1e30", "-1.0000000150474662e30",
        "123456789012345678901234567890123456789012345678901234567890", "0.000000000000000000000000000000000000000000000000000001",
        "1e99999999999999999999", "1e-99999999999999999999", "0e99999999999999999999",
    ]);
    class.push("1".repeat(2000), true, true);
    class.push(format!("0.{}1", "0".repeat(2000)), true, true);
    #[rustfmt::skip]
    class.no_values(&[
        "+1", "+0", ".5", "-.5", "1.", "-1.", "0.", "1.e5", ".e1", "-", "--1", "-+1", "+-1", "1e", "1e+", "1e-", "1E", "0e", "0e+", "1e5.5",
        "1ee5", "1e++5", "1e+-5", "1e1.0", "01", "-01", "00", "-00", "007", "00.5", "0x10", "0X1F", "-0x1", "0b1", "0o7", "1_000", "1 000",
        "1f", "1L", "1n", "1a", "1e5a", "1.2a", "1.2.3", "1..2", "1+2", "1-2", "1/2", "1 .5", "1. 5", "1e 5", "1 e5", "- 1", "1\\u0030",
        "Infinity", "-Infinity", "+Infinity", "inf", "-inf", "NaN", "-NaN", "nan", "1.#INF", "∞", "１", "-１", "١", "1\u{660}", "1e５",
        "1\0", "1,000", "$1", "1%", "1:", "\u{2212}1",
    ]);
    class.push(*b"0\xff", false, false);
    class.push(*b"-\xe5", false, false);
    class.push(*b"1e1\xe5", false, false);
    class
}

/// What may follow a backslash, `u` aside.
const ESCAPES: &[u8] = b"\"\\/bfnrt";

fn strings() -> Class {
    let mut class = Class::new("strings");
    #[rustfmt::skip]
    class.values(&[
        "\"\"", "\"a\"", "\" \"", "\"'\"", "\"//\"", "\"/**/\"", "\"[1,{\\\"a\\\":\"", "\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"", "\"\\u0000\"",
        "\"\\u0041\"", "\"\\u00e9\\u00E9\\u20ac\"", "\"\\uFFFF\\uFFFE\\ufdd0\"", "\"\\ud83d\\ude00\"", "\"\\uDBFF\\uDFFF\"", "\"\\\\u0041\"",
        "\"\\\\\\\"\"", "\"\\ud800\"", "\"\\udfff\"", "\"\\ud800\\ud800\"", "\"\\udc00\\ud800\"", "\"\\ud800x\"", "\"\\ud800\\n\"",
        "\"\\ud800\\u0041\"", "\"\\ud800\\\\udc00\"", "\"\u{7f}\"", "\"\u{80}\u{85}\u{a0}\"", "\"\u{2028}\u{2029}\"", "\"\u{fffd}\u{ffff}\"",
        "\"\u{feff}\"", "\"😀\u{10ffff}\"", "\"token_id:7\"", "\"token\\u005fid:7\"", "\"AAAA\"", "\"A\\/AA\"",
    ]);
    #[rustfmt::skip]
    class.no_values(&[
        "\"", "\"a", "a\"", "\"\\\"", "\"\\\\\\\"", "'a'", "`a`", "a", "“a”", "\"a\"b\"", "\"a\"\"b\"", "\"a\" \"b\"", "\"a\"+\"b\"", "\"\\",
        "\"\\u", "\"\\u\"", "\"\\u0\"", "\"\\u00\"", "\"\\u004\"", "\"\\u00g1\"", "\"\\ug041\"", "\"\\u0g41\"", "\"\\u004g\"", "\"\\u 041\"",
        "\"\\u+041\"", "\"\\u-041\"", "\"\\u0x41\"", "\"\\u{41}\"", "\"\\U0041\"", "\"\\ud83d\\u\"", "\"\\ud83d\\ude0\"", "\"\\ud83d\\\"",
        "\"\\ud83d\\x\"", "\"\\x41\"", "\"\\101\"", "\"\\'\"", "\"\\a\"", "\"\\v\"", "\"\\0\"", "\"\\e\"", "\"\\\n\"", "\"\\é\"", "\"\\😀\"",
        "\"new\nline\"", "\"tab\t\"", "\"\r\"", "\"\0\"", "\\\"a\\\"", "\\u0022a\"", "\"a\\u0022", "r\"a\"", "b\"a\"", "\"\"\"a\"\"\"",
    ]);
    for byte in 0..=u8::MAX {
        if byte < 0x20 {
            class.push([b'"', byte, b'"'], false, true);
            class.push(
                [&[b'"'; 1], &[b'a'; 40][..], &[byte, b'"']].concat(),
                false,
                true,
            );
        }
        if byte < 0x80 && byte != b'u' {
            let value = ESCAPES.contains(&byte);
            class.push([b'"', b'\\', byte, b'"'], value, true);
        }
        if byte >= 0x80 {
            class.push([b'"', b'\\', byte, b'"'], false, true);
        }
        if byte.is_ascii() {
            let value = byte.is_ascii_hexdigit();
            class.push(
                [b"\"\\u00".as_slice(), &[byte, b'0', b'"']].concat(),
                value,
                true,
            );
        }
    }
    // Around the widths of vectors.
    for at in 0..70 {
        let around = |text: &str| format!("\"{}{text}{}\"", "a".repeat(at), "z".repeat(70 - at));
        for text in ["\\n", "\\u00e9", "\\\\", "é", "€", "😀", "\\\""] {
            class.push(around(text), true, true);
        }
        for text in ["\n", "\\q", "\\u00e", "\""] {
            class.push(around(text), false, true);
        }
        let mut bytes = around("?").into_bytes();
        bytes[at + 1] = 0xff;
        class.push(bytes, false, true);
    }
    class
}

/// The ends of every range of well-formed sequences, after the Unicode Standard.
#[rustfmt::skip]
const WELL_FORMED: &[&[u8]] = &[
    b"\xc2\x80", b"\xdf\xbf", b"\xe0\xa0\x80", b"\xe0\xbf\xbf", b"\xe1\x80\x80", b"\xec\xbf\xbf", b"\xed\x80\x80", b"\xed\x9f\xbf",
    b"\xee\x80\x80", b"\xef\xbf\xbf", b"\xf0\x90\x80\x80", b"\xf0\xbf\xbf\xbf", b"\xf1\x80\x80\x80", b"\xf3\xbf\xbf\xbf",
    b"\xf4\x80\x80\x80", b"\xf4\x8f\xbf\xbf",
];

/// Their neighbours: overlong, a surrogate, beyond the last code point, or no sequence at all.
#[rustfmt::skip]
const ILL_FORMED: &[&[u8]] = &[
    b"\x80", b"\xbf", b"\xc0\x80", b"\xc0\xaf", b"\xc1\xbf", b"\xc2\x7f", b"\xc2\xc0", b"\xe0\x9f\xbf", b"\xe0\x80\x80", b"\xe0\xc0\x80",
    b"\xe1\x80\x7f", b"\xe1\x80\xc0", b"\xe1\x7f\x80", b"\xed\xa0\x80", b"\xed\xaf\xbf", b"\xed\xb0\x80", b"\xed\xbf\xbf",
    b"\xed\xa0\xbd\xed\xb8\x80", b"\xf0\x8f\xbf\xbf", b"\xf0\x80\x80\x80", b"\xf0\x9f\x98", b"\xf0\x9f\x98\x7f", b"\xf0\x9f\x98\xc0",
    b"\xf1\x80\x7f\x80", b"\xf4\x90\x80\x80", b"\xf5\x80\x80\x80", b"\xf8\x88\x80\x80\x80", b"\xfc\x84\x80\x80\x80\x80", b"\xfe", b"\xff",
    b"\xe9", b"\xe2\x82", b"\xc3\x28", b"\xef\xbb\xff",
];

fn encoding() -> Class {
    let mut class = Class::new("encoding");
    for (sequences, value) in [(WELL_FORMED, true), (ILL_FORMED, false)] {
        for sequence in sequences {
            for (before, behind) in [("", ""), ("a", "z"), ("é", ""), ("\\n", "\\n")] {
                let text = [b"\"", before.as_bytes(), sequence, behind.as_bytes(), b"\""].concat();
                class.push(text, value, !before.is_empty());
            }
            // Outside of a string there is no such character.
            class.push(*sequence, false, true);
            class.push([b"1", *sequence].concat(), false, true);
        }
    }
    for text in ["{}", "[1]", "\"é\"", "{\"choices\":[]}"] {
        let wide: Vec<u16> = text.encode_utf16().collect();
        let little: Vec<u8> = wide.iter().flat_map(|unit| unit.to_le_bytes()).collect();
        let big: Vec<u8> = wide.iter().flat_map(|unit| unit.to_be_bytes()).collect();
        for (mark, bytes) in [
            (&b"\xef\xbb\xbf"[..], text.as_bytes()),
            (b"\xff\xfe", &little),
            (b"\xfe\xff", &big),
            (b"", &little),
            (b"", &big),
        ] {
            class.push([mark, bytes].concat(), false, false);
        }
    }
    class.push("+AHsAfQ-", false, false);
    class
}

fn literals() -> Class {
    let mut class = Class::new("literals");
    class.values(&["true", "false", "null"]);
    for literal in ["true", "false", "null"] {
        for at in 0..literal.len() {
            class.push(&literal[..at.max(1)], false, true);
            for letter in [
                literal.as_bytes()[at].to_ascii_uppercase(),
                b'x',
                b' ',
                b'"',
                0,
                0xff,
            ] {
                let mut text = literal.as_bytes().to_vec();
                text[at] = letter;
                class.push(text, false, true);
            }
            let (before, behind) = literal.split_at(at);
            class.push(format!("{before}\\{behind}"), false, true);
        }
        for more in ["1", "a", "\"", "null", "\0", "\u{a0}", "[]", "_"] {
            class.push(format!("{literal}{more}"), false, true);
        }
    }
    #[rustfmt::skip]
    class.no_values(&[
        "True", "FALSE", "None", "nil", "NULL", "undefined", "yes", "no", "on", "truefalse", "nulL", "t", "n", "f", "*", "&a", "!", "?", "~",
    ]);
    class
}

fn structure() -> Class {
    let mut class = Class::new("structure");
    #[rustfmt::skip]
    class.values(&[
        "[]", "{}", "[[]]", "[{}]", "[[],[]]", "[1]", "[1,2]", "[1,\"a\",null,true,{\"b\":[]}]", "[[[[1],2],3],4]", "{\"a\":1}",
        "{\"a\":1,\"b\":2}", "{\"a\":{\"a\":{}}}", "{\"\":0}", "{\"a\":1,\"a\":2}", "{\"a\":1,\"\\u0061\":1}", "{\"a\\u0000b\":1}",
        "{\"\\ud800\":1}", "{\"a\":[{\"b\":[{\"c\":null}]}]}", "{\"token_ids\":[7],\"choices\":null}", "[null,1,\"1\",{}]", "[\"\"]",
    ]);
    class.push(format!("[{}0]", "0,".repeat(300)), true, true);
    class.push(format!("[{}[]]", "[],".repeat(300)), true, true);
    class.push(format!("{{{}\"z\":0}}", "\"a\":0,".repeat(300)), true, true);
    #[rustfmt::skip]
    class.no_values(&[
        "[", "]", "{", "}", "[1,", "[1,]", "[,1]", "[,]", "[,", "[1,,2]", "[1,,]", "[1 2]", "[1;2]", "[1:2]", "[\"a\":1]", "[\"a\"", "[\"a",
        "[1,\n1\n,1", "[{", "[{}", "[[]", "[]]", "[1]]", "[[1],", "[]]", "[x", "[x]", "[-]", "[1}", "[{]}", "{[}]", "{\"a\"", "{\"a\":",
        "{\"a\":1", "{\"a\":1,", "{\"a\":1,}", "{,\"a\":1}", "{,}", "{\"a\"}", "{\"a\",1}", "{\"a\" 1}", "{\"a\"=1}", "{\"a\"::1}",
        "{\"a\":1 \"b\":2}", "{\"a\":1;\"b\":2}", "{\"a\":1,,\"b\":2}", "{\"a\":1:2}", "{:1}", "{1:1}", "{a:1}", "{'a':1}", "{null:1}",
        "{true:1}", "{[]:1}", "{{}:1}", "{\"a\":}", "{\"a\":,}", "{\"a\":1]", "{\"a\":1}}", "{}}", "{\"a\":a}", "{\"a\":'b'}", "{\"a\"\"b\":1}",
        "{\"a\" b:1}", "{\"a\":1,b}", "{\"a\":1,\"b\"}", "{\"a\":1,1}", "{🇨🇭}", "(1)", "<null>", "[1)", "[1],", "{},", ",[1]", "{}{}",
        "[][]", "[]{}", "{}[]", "1 2", "\"a\" 1", "[1]x", "{}#", "{}#{}", "{}//c", "/**/1", "1/**/", "[1/*c*/]", "[1//c\n]", "#c\n1", "//c\n1",
        "[1]/", "{\"a\":/*c*/1}", "<!--c-->1", "@", "$", "`", "\\", ",", ":", ";", "=", "/", "...", "[...]", "{...}", "[1,2", "=1", "\u{0}",
        "[\\u0031]", "[\"\\u005d", "\\[1]", "[1\\,2]", "{\"a\":\"b\"", "{\"a\": true false}", "[true false]", "[1]1", "{}1", "{}\"\"",
    ]);
    class
}

fn white_space() -> Class {
    let mut class = Class::new("white space");
    let runs = [
        "",
        " ",
        "\t",
        "\n",
        "\r",
        "\r\n",
        " \t\n\r ",
        "                 ",
    ];
    for before in runs {
        for behind in runs {
            class.push(format!("{before}1{behind}"), true, true);
            class.push(format!("[{before}1{behind},{behind}2{before}]"), true, true);
            class.push(
                format!("{{{before}\"a\"{behind}:{before}1{behind}}}"),
                true,
                true,
            );
        }
    }
    class.push(format!("{0}{{}}{0}", " ".repeat(1000)), true, true);
    #[rustfmt::skip]
    let others = [
        "\u{0}", "\u{b}", "\u{c}", "\u{1c}", "\u{1f}", "\u{7f}", "\u{85}", "\u{a0}", "\u{1680}", "\u{180e}", "\u{2003}", "\u{200b}", "\u{2028}",
        "\u{2029}", "\u{202f}", "\u{205f}", "\u{2060}", "\u{3000}", "\u{feff}", "\\n", "\\t", "\\u0020", "&nbsp;",
    ];
    for other in others {
        for text in [
            format!("{other}1"),
            format!("1{other}"),
            format!("[{other}]"),
            format!("[{other}1]"),
            format!("[1{other},2]"),
            format!("{{{other}}}"),
            format!("{{\"a\"{other}:1}}"),
            format!("{{\"a\":{other}1}}"),
        ] {
            class.push(text, false, true);
        }
    }
    class
}

fn depth() -> Class {
    let mut class = Class::new("depth");
    for depth in (1..=4).chain(116..=129).chain([200, 500, 5000]) {
        class.push("[".repeat(depth) + &"]".repeat(depth), true, false);
        class.push(
            "{\"a\":".repeat(depth) + "0" + &"}".repeat(depth),
            true,
            true,
        );
        class.push(
            "[{\"a\":".repeat(depth) + "[]" + &"}]".repeat(depth),
            true,
            true,
        );
    }
    class.push("[".repeat(20_000), false, true);
    class.push("{\"a\":".repeat(20_000), false, true);
    class.push("[{\"\":".repeat(10_000), false, true);
    class.push("]".repeat(1000), false, true);
    class
}
