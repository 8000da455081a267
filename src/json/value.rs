//! Small values (usage, finish reasons, versions), parsed by simd-json from a copy.
//!
//! simd-json parses in place, so it gets a scratch buffer: never the caller's bytes, never megabytes. It resolves escapes one
//! by one, so strings that are full of them are read here.

use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};

use simd_json::{Node, StaticNode};

use super::cursor::Cursor;

/// Members of an object up to which a repeated key is looked for by comparing.
const FEW: usize = 16;

/// A small JSON value. Maps keep the order of the wire; of a repeated key the last value stands at the first one's place.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// An integer.
    Int(i64),
    /// Above `i64::MAX`.
    Uint(u64),
    /// A number with a fraction or an exponent.
    Float(f64),
    /// A string.
    Text(String),
    /// An array.
    List(Vec<Value>),
    /// An object.
    Map(Vec<(String, Value)>),
}

/// Backslashes from which on a text is full of escapes.
const MANY: usize = 16;

/// Spans of one body, gathered for one parse.
#[derive(Debug, Default)]
pub(crate) struct SmallValues {
    scratch: Vec<u8>,
    strings: Strings,
}

/// The strings of a document that simd-json gets empty, because they are read already.
#[derive(Debug, Default)]
struct Strings {
    /// Strings and keys before the one that is next, as simd-json counts them.
    passed: usize,
    /// How many come before each that was set aside, and what it says.
    aside: VecDeque<(usize, String)>,
}

impl Strings {
    /// What the next string says, which simd-json takes for `text`.
    fn next<'t>(&mut self, text: &'t str) -> Cow<'t, str> {
        let place = self.passed;
        self.passed += 1;
        match self.aside.front() {
            Some((aside, _)) if *aside == place => self
                .aside
                .pop_front()
                .map_or(Cow::Borrowed(text), |(_, said)| Cow::Owned(said)),
            _ => Cow::Borrowed(text),
        }
    }
}

impl SmallValues {
    /// Parses validated JSON texts. `Err(i)`: simd-json will not take text `i` (a number out of range, a lone surrogate).
    pub(crate) fn parse(texts: &[&[u8]]) -> Result<Vec<Value>, usize> {
        let mut metadata = SmallValues::default();
        match metadata.parse_list(texts, MANY) {
            Some(values) => Ok(values),
            None => Err(texts
                .iter()
                .position(|text| metadata.parse_list(&[text], MANY).is_none())
                .unwrap_or(0)),
        }
    }

    /// Where there are `many` backslashes, the strings that have some are set aside.
    fn parse_list(&mut self, texts: &[&[u8]], many: usize) -> Option<Vec<Value>> {
        self.scratch.clear();
        self.strings = Strings::default();
        self.scratch.push(b'[');
        for (i, text) in texts.iter().enumerate() {
            if i > 0 {
                self.scratch.push(b',');
            }
            self.scratch.extend_from_slice(text);
        }
        self.scratch.push(b']');
        if count(&self.scratch, |byte| byte == b'\\') >= many {
            self.set_aside()?;
        }
        let tape = simd_json::to_tape(&mut self.scratch).ok()?;
        match value(&mut tape.0.iter(), &mut self.strings)? {
            Value::List(values) if values.len() == texts.len() => Some(values),
            _ => None,
        }
    }

    /// Reads the strings that have escapes, and leaves empty ones in their places. None where one is no Unicode.
    fn set_aside(&mut self) -> Option<()> {
        let mut kept = Vec::with_capacity(self.scratch.len());
        let mut copied = 0;
        let mut cursor = Cursor::new(&self.scratch);
        for place in 0.. {
            let rest = &cursor.bytes[cursor.pos..];
            let Some(plain) = rest.iter().position(|&byte| byte == b'"') else {
                break;
            };
            cursor.pos += plain;
            let text = cursor.string().ok()?;
            if text.escaped {
                let said = String::from_utf8(text.bytes()?.into_owned()).ok()?;
                self.strings.aside.push_back((place, said));
                kept.extend_from_slice(&cursor.bytes[copied..=text.at]);
                copied = cursor.pos - 1;
            }
        }
        kept.extend_from_slice(&cursor.bytes[copied..]);
        self.scratch = kept;
        Some(())
    }
}

/// No text has more values and keys than this, found without looking at where strings begin and end.
pub(crate) fn values_and_keys_at_most(text: &[u8]) -> usize {
    // Brackets and braces differ in one bit.
    1 + count(text, |byte| {
        byte == b',' || byte == b':' || byte | 0x20 == b'{'
    })
}

/// How many bytes are of a kind. In runs that a byte can count, so that many are compared at once.
#[inline(always)]
fn count(text: &[u8], is: impl Fn(u8) -> bool) -> usize {
    let run = |run: &[u8]| run.iter().map(|&byte| u8::from(is(byte))).sum::<u8>();
    text.chunks(usize::from(u8::MAX))
        .map(|chunk| usize::from(run(chunk)))
        .sum()
}

/// Values and keys in a validated JSON text; it stops counting beyond `most`.
pub(crate) fn values_and_keys(text: &[u8], most: usize) -> usize {
    let mut found = 1;
    let mut at = 0;
    while let Some(&byte) = text.get(at) {
        at += 1;
        match byte {
            // One more element or member, or a key's value.
            b',' | b':' => found += 1,
            // The first element or member, if there is one.
            b'[' | b'{' => {
                let first = text[at..].iter().find(|byte| !byte.is_ascii_whitespace());
                found += usize::from(!matches!(first, Some(b']' | b'}')));
            }
            b'"' => {
                let mut string = Cursor::at(text, at - 1);
                if string.string().is_err() {
                    break; // validated: it is none that does not end
                }
                at = string.pos;
            }
            _ => {}
        }
        if found > most {
            break;
        }
    }
    found
}

fn value<'a, 'b: 'a>(
    nodes: &mut impl Iterator<Item = &'a Node<'b>>,
    strings: &mut Strings,
) -> Option<Value> {
    Some(match *nodes.next()? {
        Node::String(text) => Value::Text(strings.next(text).into_owned()),
        Node::Static(StaticNode::Null) => Value::Null,
        Node::Static(StaticNode::Bool(b)) => Value::Bool(b),
        Node::Static(StaticNode::I64(i)) => Value::Int(i),
        Node::Static(StaticNode::U64(u)) => i64::try_from(u).map_or(Value::Uint(u), Value::Int),
        Node::Static(StaticNode::F64(f)) => Value::Float(f),
        Node::Array { len, .. } => {
            let mut list = Vec::with_capacity(len);
            for _ in 0..len {
                list.push(value(nodes, strings)?);
            }
            Value::List(list)
        }
        Node::Object { len, .. } => {
            let mut map: Vec<(String, Value)> = Vec::with_capacity(len);
            let mut places: HashMap<Cow<'_, str>, usize> = HashMap::new();
            for _ in 0..len {
                let Node::String(key) = *nodes.next()? else {
                    return None;
                };
                let key = strings.next(key);
                let member = value(nodes, strings)?;
                let place = if len <= FEW {
                    map.iter().position(|(held, _)| *held == key)
                } else {
                    places.get(&key).copied()
                };
                if let Some(place) = place {
                    map[place].1 = member;
                    continue;
                }
                if len > FEW {
                    places.insert(key.clone(), map.len());
                }
                map.push((key.into_owned(), member));
            }
            Value::Map(map)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_keep_their_kind_and_order() {
        let values = SmallValues::parse(&[
            br#"{"b":1,"a":-2,"b":3}"#,
            b"18446744073709551615",
            b"-0",
            b"-0.0",
            b"1e3",
            br#""\u00e9\n""#,
            b" [null,true] ",
        ])
        .unwrap();
        assert_eq!(
            values,
            [
                Value::Map(vec![
                    ("b".into(), Value::Int(3)),
                    ("a".into(), Value::Int(-2))
                ]),
                Value::Uint(u64::MAX),
                Value::Int(0),
                Value::Float(-0.0),
                Value::Float(1000.0),
                Value::Text("é\n".into()),
                Value::List(vec![Value::Null, Value::Bool(true)]),
            ]
        );
    }

    #[test]
    fn of_many_keys_the_last_value_wins_too() {
        let mut text = String::from("{");
        for round in 0..2 {
            for key in 0..1000 {
                text.push_str(&format!("\"k{key}\":{},", key * 2 + round));
            }
        }
        text.push_str("\"end\":null}");
        let values = SmallValues::parse(&[text.as_bytes()]).unwrap();
        let Value::Map(map) = &values[0] else {
            panic!("{values:?}")
        };
        assert_eq!(map.len(), 1001);
        for (key, (name, value)) in map.iter().take(1000).enumerate() {
            assert_eq!(name, &format!("k{key}"));
            assert_eq!(value, &Value::Int(key as i64 * 2 + 1));
        }
    }

    #[test]
    fn strings_say_the_same_set_aside() {
        let pieces = [
            "",
            "a",
            r"\n",
            r#"\""#,
            r"\\",
            r"\/",
            r"\u00e9",
            "你",
            r"\ud83d\ude00",
            r"\ud83d",
            r"\udE00",
            r"\u0000",
        ];
        let mut refused = 0;
        for one in pieces {
            for two in pieces {
                let string = format!("\"{one}{two}\"");
                let members = |n| format!("\"k{n}{two}\":{string},");
                let many = (0..20).map(members).collect::<String>();
                for text in [
                    string.clone(),
                    format!(r#"[ {string}, ["", {string}] ,"x"]"#),
                    format!(r#"{{{string}:"b","b":{{"c":{string}}},"":1,{string}:{string}}}"#),
                    format!(r#"{{{many}{string}:"last"}}"#),
                ] {
                    let texts = [b"\"first\"", text.as_bytes(), b"[\"last\"]"];
                    let theirs = SmallValues::default().parse_list(&texts, usize::MAX);
                    let ours = SmallValues::default().parse_list(&texts, 0);
                    assert_eq!(ours, theirs, "{text}");
                    refused += usize::from(ours.is_none());
                }
            }
        }
        assert!(refused > 100, "{refused}");
        let full = format!(r#"["","{}\n"]"#, r"\\".repeat(MANY));
        let said = ["", &format!("{}\n", "\\".repeat(MANY))].map(|text| Value::Text(text.into()));
        let values = SmallValues::parse(&[b"[]", full.as_bytes()]).unwrap();
        assert_eq!(values, [Value::List(vec![]), Value::List(said.into())]);
        let lone = format!(r#""\ud800{}""#, r"\n".repeat(MANY));
        assert_eq!(SmallValues::parse(&[b"1", lone.as_bytes()]), Err(1));
    }

    #[test]
    fn values_and_keys_are_counted() {
        for (text, count) in [
            ("1", 1),
            ("[]", 1),
            (" { \n } ", 1),
            ("[1]", 2),
            (r#"{"a":1}"#, 3),
            (r#"{"a":[1,2,{}],"b":{"c":null}}"#, 10),
            (r#"["a,b:c[{","\"\\",",\\\"," ]"#, 4),
            ("[[],[[ ]]]", 4),
        ] {
            assert_eq!(values_and_keys(text.as_bytes(), 100), count, "{text}");
            assert!(values_and_keys_at_most(text.as_bytes()) >= count, "{text}");
        }
        assert_eq!(values_and_keys(b"[1,2,3,4,5]", 3), 4);
    }

    #[test]
    fn what_cannot_be_held_is_named() {
        for bad in [
            &b"18446744073709551616"[..],
            b"-9223372036854775809",
            b"1e999",
            br#""\ud800""#,
            br#"{"\udc00":1}"#,
        ] {
            assert_eq!(SmallValues::parse(&[b"1", bad, b"2"]), Err(1), "{bad:?}");
        }
    }
}
