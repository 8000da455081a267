//! (e): values that are passed on unchanged, and the reason why the completion ended.

use super::json::{Kind, Member, Node};
use super::readers;
use super::structure::{Channel, Choice};
use super::wires::Role;
use super::{Value, spans};
use dynamo_tito::limits::{MAX_METADATA, MAX_METADATA_VALUES};
use dynamo_tito::{Class, Error, Options, Result};

/// (e) of one completion.
pub(super) struct Read {
    pub(super) request_id: Option<String>,
    pub(super) usage: Option<Value>,
    pub(super) finish_reason: Option<String>,
    pub(super) finish_reason_raw: Option<String>,
    pub(super) aborted: Option<bool>,
    pub(super) stop_reason: Option<Value>,
    pub(super) weight_versions: Option<Value>,
}

/// Reads all of it, in the order of the page.
pub(super) fn read(choice: &Choice<'_>, tokens: usize, options: &Options<'_>) -> Result<Read> {
    let mut reader = Reader {
        bytes: 0,
        values: 0,
    };

    let request_id = reader.text(choice.found(Role::RequestId))?;
    let whole = choice.found(Role::Usage);
    let usage = match choice.channels(Role::Count) {
        [] => reader.value(whole, "an object", |node| node.as_object().is_some())?,
        counts => reader.counts(counts)?,
    };

    let sglang = options.wire.is_sglang();
    let finish_reason = choice.found(Role::FinishReason);
    let mut plain = None;
    if sglang {
        reader.value(finish_reason, "an object", |n| n.as_object().is_some())?;
    } else {
        plain = reader.text(finish_reason)?;
    }
    let detailed = reader.text(choice.found(Role::DetailedFinishReason))?;
    let stop_reason_at = choice.found(Role::StopReason);
    let stop_value = reader.value(stop_reason_at, "a string or an integer", |n| {
        n.as_text().is_some() || n.as_integer().is_some()
    })?;

    let versions_at = choice.found(Role::WeightVersions);
    let versions = reader.value(versions_at, "an array", |n| n.as_array().is_some())?;
    let weight_versions = match versions {
        Some(versions) => Some(versions),
        None => {
            let version = reader.text(choice.found(Role::WeightVersion))?;
            version.map(only_a_label)
        }
    };

    // All fields are read. The checks of their values follow.
    let mut stop_reason = None;
    if let (Some(value), Some((path, node))) = (stop_value, stop_reason_at) {
        let fits = as_stop_reason(value).ok_or_else(|| no_value(path, node))?;
        stop_reason = Some(fits);
    }
    if let (true, Some((path, node))) = (sglang, finish_reason) {
        plain = Some(type_of(path, node)?);
        let matched = node.get("matched").and_then(value);
        stop_reason = matched.and_then(as_stop_reason);
    }
    if let (Some(spans), Some((path, node))) = (&weight_versions, versions_at) {
        spans::judge(spans, path, Some(node), tokens)?;
    }

    let is_abort = |reason: &Option<String>| reason.as_deref().map(normalised) == Some("abort");
    let abort = is_abort(&plain) || is_abort(&detailed);
    let told = match options.wire.is_dynamo() {
        // Dynamo's plain finish reason of a cancelled request is "stop".
        true => detailed.is_some(),
        false => plain.is_some(),
    };
    let raw = detailed.or(plain);
    Ok(Read {
        request_id,
        usage,
        finish_reason: raw.as_deref().map(|reason| normalised(reason).to_owned()),
        finish_reason_raw: raw,
        aborted: (abort || told).then_some(abort),
        stop_reason,
        weight_versions,
    })
}

/// One spelling for each finish reason.
fn normalised(reason: &str) -> &str {
    match reason {
        "eos" => "stop",
        "cancelled" | "canceled" | "abort" | "aborted" => "abort",
        other => other,
    }
}

/// `[{"version": v}]`, without positions.
fn only_a_label(version: String) -> Value {
    let label = ("version".to_owned(), Value::Text(version));
    Value::List(vec![Value::Map(vec![label])])
}

/// Reads one field after the other and counts their bytes, and the values and keys in them.
struct Reader {
    bytes: usize,
    values: usize,
}

type Found<'c, 'a> = Option<(&'c str, &'a Node)>;

impl Reader {
    /// A field: its type, its size, then what it holds.
    fn value(
        &mut self,
        found: Found<'_, '_>,
        expected: &str,
        is_expected: fn(&Node) -> bool,
    ) -> Result<Option<Value>> {
        let Some((path, node)) = found else {
            return Ok(None);
        };
        if !is_expected(node) {
            return Err(readers::wrong_type(path, node, expected));
        }
        self.bytes += node.end - node.start;
        if self.bytes > MAX_METADATA {
            let message = format!("more than {MAX_METADATA} bytes of metadata");
            return Err(malformed("too_large", path, node, message));
        }
        self.values += values_and_keys(node);
        if self.values > MAX_METADATA_VALUES {
            let message = format!("more than {MAX_METADATA_VALUES} values and keys of metadata");
            return Err(malformed("too_many", path, node, message));
        }
        match value(node) {
            Some(value) => Ok(Some(value)),
            None => Err(no_value(path, node)),
        }
    }

    fn text(&mut self, found: Found<'_, '_>) -> Result<Option<String>> {
        let value = self.value(found, "a string", |node| node.as_text().is_some())?;
        Ok(match value {
            Some(Value::Text(text)) => Some(text),
            _ => None,
        })
    }

    /// SGLang's counts, of those that are there.
    fn counts(&mut self, counts: &[Channel<'_>]) -> Result<Option<Value>> {
        let mut usage = Vec::new();
        for channel in counts {
            let count = self.value(channel.found(), "an integer", |node| {
                node.as_integer().is_some()
            })?;
            usage.extend(count.map(|count| (channel.key().to_owned(), count)));
        }
        Ok((!usage.is_empty()).then_some(Value::Map(usage)))
    }
}

/// Of SGLang's `{type, matched, …}`.
fn type_of(path: &str, node: &Node) -> Result<String> {
    let twice = |key| node.as_object().is_some_and(|m| times(m, key) > 1);
    if twice("type") || twice("matched") {
        return Err(readers::duplicate_key(path, node.start));
    }
    match node.get("type").and_then(Node::as_text) {
        Some(reason) => Ok(reason.value.clone()),
        None => {
            let message = "the finish reason has no type";
            Err(malformed("type", path, node, message.to_owned()))
        }
    }
}

fn values_and_keys(node: &Node) -> usize {
    let elements = node.as_array().unwrap_or_default();
    let members = node.as_object().unwrap_or_default();
    let in_elements: usize = elements.iter().map(values_and_keys).sum();
    let in_members: usize = members.iter().map(|m| 1 + values_and_keys(&m.value)).sum();
    1 + in_elements + in_members
}

fn times(members: &[Member], key: &str) -> usize {
    members.iter().filter(|m| m.key.value == key).count()
}

fn malformed(kind: &'static str, path: &str, node: &Node, message: String) -> Error {
    Error::new(Class::Malformed, kind, path, node.start, message)
}

fn no_value(path: &str, node: &Node) -> Error {
    let message = "a number or a string in it has no representation";
    malformed("metadata", path, node, message.to_owned())
}

/// A stop string or a token's id.
fn as_stop_reason(value: Value) -> Option<Value> {
    matches!(value, Value::Text(_) | Value::Int(_)).then_some(value)
}

/// The value of a node; None if it holds what 64 bits or UTF-8 cannot.
fn value(node: &Node) -> Option<Value> {
    Some(match &node.kind {
        Kind::Null => Value::Null,
        Kind::Bool(value) => Value::Bool(*value),
        Kind::Number(text) => match node.as_integer() {
            Some(text) => integer(text)?,
            None => Value::Float(text.parse().ok().filter(|value: &f64| value.is_finite())?),
        },
        Kind::String(text) if text.lone_surrogate => return None,
        Kind::String(text) => Value::Text(text.value.clone()),
        Kind::Array(elements) => Value::List(elements.iter().map(value).collect::<Option<_>>()?),
        Kind::Object(members) => map(members)?,
    })
}

fn integer(text: &str) -> Option<Value> {
    let signed = text.parse().map(Value::Int);
    signed.or_else(|_| text.parse().map(Value::Uint)).ok()
}

/// A repeated key: the last value, at the first one's place.
fn map(members: &[Member]) -> Option<Value> {
    let mut map: Vec<(String, Value)> = Vec::new();
    for member in members {
        if member.key.lone_surrogate {
            return None;
        }
        let value = value(&member.value)?;
        match map.iter_mut().find(|(key, _)| *key == member.key.value) {
            Some((_, earlier)) => *earlier = value,
            None => map.push((member.key.value.clone(), value)),
        }
    }
    Some(Value::Map(map))
}
