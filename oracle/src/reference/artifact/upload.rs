//! What SGLang's worker uploads, as the JSON of an answer of SGLang's.

use super::msgpack::{self, Item, Value};
use super::routes::encoded;
use super::{decompressed, refuse, within_ceiling};
use dynamo_tito::{Options, Result};

/// The JSON that stands for an upload.
pub(crate) fn transcribed(data: &[u8], options: &Options<'_>) -> Result<String> {
    let content = decompressed(data, 0, |size| within_ceiling(size, 0, options))?;
    let mut end = 0;
    // The object's two brackets count as the answer's.
    let depth = options.limits.max_depth;
    let tree = msgpack::read(&content, &mut end, 0, depth);
    let pairs = match &tree.value {
        Value::Broken(error) => return Err(error.clone()),
        Value::Map(2, items) => items,
        _ => return refuse("keys", "", 0),
    };
    let (mut version, mut metadata) = (false, None);
    for pair in pairs.chunks(2) {
        let [key, rest @ ..] = pair else { continue };
        match &key.value {
            Value::Broken(error) => return Err(error.clone()),
            Value::Text(key) if key == "schema_version" && !version => {
                let value = &rest[0];
                match &value.value {
                    Value::Broken(error) => return Err(error.clone()),
                    Value::Integer(1) => version = true,
                    _ => return refuse("version", "", value.at),
                }
            }
            Value::Text(key) if key == "metadata" && metadata.is_none() => {
                let value = &rest[0];
                match &value.value {
                    Value::Broken(error) => return Err(error.clone()),
                    Value::Map(..) => {}
                    _ => return refuse("type", "", value.at),
                }
                let mut text = String::new();
                write(value, &mut text)?;
                metadata = Some((text, value));
            }
            _ => return refuse("keys", "", key.at),
        }
    }
    if end < content.len() {
        return refuse("trailing_data", "", end);
    }
    let (text, value) = metadata.expect("both keys");
    let mut json = format!("{{\"meta_info\":{text}");
    if let Some(ids) = ids(value) {
        json.push_str(&format!(",\"output_ids\":[{}]", ids.join(",")));
    }
    json.push('}');
    within_ceiling(json.len() as u64, 0, options)?;
    Ok(json)
}

/// The second element of each triple, as far as there are triples.
fn ids(metadata: &Item) -> Option<Vec<String>> {
    let Value::Map(_, items) = &metadata.value else {
        return None;
    };
    let is_list = |pair: &&[Item]| match &pair[0].value {
        Value::Text(key) => key == "output_token_logprobs",
        _ => false,
    };
    let list = items.chunks(2).rfind(is_list)?;
    let Value::Array(_, triples) = &list[1].value else {
        return None;
    };
    let id = |triple: &Item| match &triple.value {
        Value::Array(_, elements) => match elements.get(1)?.value {
            Value::Integer(id @ 0..) => Some(id.to_string()),
            _ => None,
        },
        _ => None,
    };
    Some(triples.iter().map_while(id).collect())
}

fn write(item: &Item, out: &mut String) -> Result<()> {
    match &item.value {
        Value::Broken(error) => return Err(error.clone()),
        Value::Nil => out.push_str("null"),
        Value::Bool(value) => out.push_str(&value.to_string()),
        Value::Integer(value) => out.push_str(&value.to_string()),
        Value::Float(value) if value.is_finite() => out.push_str(&format!("{value:?}")),
        Value::Float(_) => out.push_str("null"),
        Value::Text(text) => quote(text, out),
        Value::Bytes(bytes) => quote(&encoded(bytes), out),
        Value::Array(_, items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                out.push_str(if i == 0 { "" } else { "," });
                write(item, out)?;
            }
            out.push(']');
        }
        Value::Map(_, items) => {
            out.push('{');
            for (i, item) in items.iter().enumerate() {
                if i % 2 == 1 {
                    out.push(':');
                } else {
                    out.push_str(if i == 0 { "" } else { "," });
                    match &item.value {
                        Value::Broken(_) | Value::Text(_) => {}
                        _ => return refuse("type", "", item.at),
                    }
                }
                write(item, out)?;
            }
            out.push('}');
        }
    }
    Ok(())
}

fn quote(text: &str, out: &mut String) {
    out.push('"');
    for character in text.chars() {
        match character {
            '"' | '\\' | '\0'..='\u{1f}' => {
                out.push_str(&format!("\\u{:04x}", u32::from(character)));
            }
            _ => out.push(character),
        }
    }
    out.push('"');
}
