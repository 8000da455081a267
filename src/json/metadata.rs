//! Small values (usage, finish reasons, versions), read by simd-json from a copy.
//!
//! simd-json parses in place, so it gets a scratch buffer: never the caller's bytes, never megabytes.

use std::collections::HashMap;

use simd_json::{Node, StaticNode};

use crate::limits::MAX_METADATA_VALUES;

/// Members of an object up to which a repeated key is looked for by comparing.
const FEW: usize = 16;

/// A small JSON value. Maps keep the order of the wire; of a repeated key the last value stands at the first one's place.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Int(i64),
    /// Above `i64::MAX`.
    Uint(u64),
    Float(f64),
    Text(String),
    List(Vec<Value>),
    Map(Vec<(String, Value)>),
}

/// Spans of one body, gathered for one parse.
#[derive(Debug, Default)]
pub(crate) struct Metadata {
    scratch: Vec<u8>,
}

/// Why text `i` is not taken, nor what stands behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unfit {
    /// simd-json will not have it (a number out of range, a lone surrogate).
    Unrepresentable(usize),
    /// With it there are more values and keys than [`MAX_METADATA_VALUES`].
    TooMany(usize),
}

impl Metadata {
    /// Parses validated JSON texts.
    pub(crate) fn parse(texts: &[&[u8]]) -> Result<Vec<Value>, Unfit> {
        let mut metadata = Metadata::default();
        let mut left = MAX_METADATA_VALUES;
        let unrepresentable = match metadata.parse_list(texts, &mut left) {
            Err(Unfit::Unrepresentable(any)) => any,
            result => return result,
        };
        // One of them; it is one of the texts before it that counts if that is one too many.
        left = MAX_METADATA_VALUES;
        for (i, text) in texts.iter().enumerate() {
            metadata
                .parse_list(&[text], &mut left)
                .map_err(|unfit| match unfit {
                    Unfit::Unrepresentable(_) => Unfit::Unrepresentable(i),
                    Unfit::TooMany(_) => Unfit::TooMany(i),
                })?;
        }
        Err(Unfit::Unrepresentable(unrepresentable))
    }

    fn parse_list(&mut self, texts: &[&[u8]], left: &mut usize) -> Result<Vec<Value>, Unfit> {
        self.scratch.clear();
        self.scratch.push(b'[');
        for (i, text) in texts.iter().enumerate() {
            if i > 0 {
                self.scratch.push(b',');
            }
            self.scratch.extend_from_slice(text);
        }
        self.scratch.push(b']');
        let tape = simd_json::to_tape(&mut self.scratch).map_err(|_| Unfit::Unrepresentable(0))?;
        // The first node is the list itself.
        let mut nodes = tape.0.iter().skip(1);
        (0..texts.len())
            .map(|i| value(&mut nodes, left).ok_or(Unfit::TooMany(i)))
            .collect()
    }
}

/// The next value; None if it has more values and keys than are left.
fn value<'a, 'b: 'a>(
    nodes: &mut impl Iterator<Item = &'a Node<'b>>,
    left: &mut usize,
) -> Option<Value> {
    *left = left.checked_sub(1)?;
    Some(match *nodes.next()? {
        Node::String(text) => Value::Text(text.to_owned()),
        Node::Static(StaticNode::Null) => Value::Null,
        Node::Static(StaticNode::Bool(b)) => Value::Bool(b),
        Node::Static(StaticNode::I64(i)) => Value::Int(i),
        Node::Static(StaticNode::U64(u)) => i64::try_from(u).map_or(Value::Uint(u), Value::Int),
        Node::Static(StaticNode::F64(f)) => Value::Float(f),
        Node::Array { len, .. } => {
            let mut list = Vec::with_capacity(len.min(*left));
            for _ in 0..len {
                list.push(value(nodes, left)?);
            }
            Value::List(list)
        }
        Node::Object { len, .. } => {
            let mut map: Vec<(String, Value)> = Vec::with_capacity(len.min(*left));
            let mut places: HashMap<&str, usize> = HashMap::new();
            for _ in 0..len {
                *left = left.checked_sub(1)?;
                let Node::String(key) = *nodes.next()? else {
                    return None;
                };
                let member = value(nodes, left)?;
                let place = if len <= FEW {
                    map.iter().position(|(held, _)| held == key)
                } else {
                    places.get(key).copied()
                };
                if let Some(place) = place {
                    map[place].1 = member;
                    continue;
                }
                if len > FEW {
                    places.insert(key, map.len());
                }
                map.push((key.to_owned(), member));
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
        let values = Metadata::parse(&[
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
            for key in 0..200 {
                text.push_str(&format!("\"k{key}\":{},", key * 2 + round));
            }
        }
        text.push_str("\"end\":null}");
        let values = Metadata::parse(&[text.as_bytes()]).unwrap();
        let Value::Map(map) = &values[0] else {
            panic!("{values:?}")
        };
        assert_eq!(map.len(), 201);
        for (key, (name, value)) in map.iter().take(200).enumerate() {
            assert_eq!(name, &format!("k{key}"));
            assert_eq!(value, &Value::Int(key as i64 * 2 + 1));
        }
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
            assert_eq!(
                Metadata::parse(&[b"1", bad, b"2"]),
                Err(Unfit::Unrepresentable(1)),
                "{bad:?}"
            );
        }
    }

    #[test]
    fn values_and_keys_are_counted() {
        let list = |values: usize| format!("[{}null]", "null,".repeat(values - 2));
        let text = list(MAX_METADATA_VALUES - 3);
        let (text, longer) = (text.as_bytes(), list(MAX_METADATA_VALUES + 1));
        let object: &[u8] = br#"{"a":1}"#;
        assert!(Metadata::parse(&[text, object]).is_ok());
        let cases: [(&[&[u8]], Unfit); 5] = [
            (&[text, object, b"1"], Unfit::TooMany(2)),
            (&[b"1", text, object], Unfit::TooMany(2)),
            (&[text, text, b"1e999"], Unfit::TooMany(1)),
            (&[text, b"1e999", text], Unfit::Unrepresentable(1)),
            (&[longer.as_bytes()], Unfit::TooMany(0)),
        ];
        for (texts, unfit) in cases {
            assert_eq!(Metadata::parse(texts), Err(unfit));
        }
    }
}
