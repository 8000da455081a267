//! `nvext.metadata_upload`: a generation artifact inline, or what became of it.

use super::super::base64;
use super::super::json::{Kind, Node, Text};
use super::super::logprobs;
use super::super::readers::{self, wrong_type};
use super::super::structure::{Channel, Choice};
use super::super::wires::Role;
use super::{Artifact, Unfolded, read, refuse};
use dynamo_tito::{Class, Error, Options, Result};

const UPLOAD: &str = "nvext.metadata_upload";

/// What the upload adds to an answer.
pub(crate) enum Inline {
    Nothing,
    /// Why the artifact is left out.
    Elsewhere(String),
    Here(Box<Unfolded>),
}

/// Judges the upload beside a choice.
pub(crate) fn inline(
    upload: Option<&Node>,
    choice: &Choice<'_>,
    options: &Options<'_>,
    chunk: bool,
) -> Result<Inline> {
    let Some(upload) = upload else {
        return Ok(Inline::Nothing);
    };
    let get = |key: &str| upload.get(key);
    let path = |key: &str| format!("{UPLOAD}.{key}");
    let word = |key: &str| get(key).and_then(Node::as_text).map(|it| it.value.clone());
    let must_be = |key: &str, expected: &str| match (get(key), word(key)) {
        (None, _) => missing(path(key)),
        (_, Some(found)) if found == expected => Ok(()),
        (Some(node), _) => refuse("artifact", &path(key), node.start),
    };
    must_be("kind", "generation_artifact")?;
    if word("state").as_deref() == Some("failed") {
        let at = get("state").map(|node| node.start);
        let message = "the server has none";
        let (class, kind) = (Class::Missing, "artifact_failed");
        return Err(Error::new(class, kind, path("state"), at, message));
    }
    if word("mode").as_deref() != Some("inline_base64") {
        let (mode, operation) = (shown(get("mode")), shown(get("operation_id")));
        let why = format!("left out: mode {mode}, operation_id {operation}");
        return Ok(Inline::Elsewhere(why));
    }
    must_be("format", "generation_artifact_v1")?;
    let data = path("data_base64");
    let Some(node) = get("data_base64") else {
        return missing(data);
    };
    let Some(text) = node.as_text() else {
        return Err(wrong_type(&data, node, "a string"));
    };
    let bytes = bytes(node, text, &data)?;
    if let Some(count) = get("byte_count")
        && count.as_natural() != Some(bytes.len().to_string().as_str())
    {
        return refuse("size", &path("byte_count"), count.start);
    }
    let artifact = read(&bytes, options).map_err(|mut error| {
        error.offset = error.offset.map(|_| node.start);
        error.under(&data)
    })?;
    contents(get("contents"), &artifact)?;
    if artifact.manifest.index != u64::from(choice.index) {
        let path = format!("{data}.choices[0].choice_index");
        let message = String::new();
        return Err(logprobs::alignment("identity", path, node.start, message));
    }
    for (rank, channel) in choice.channels(Role::TokenIds).iter().enumerate() {
        let Some((path, list)) = Channel::found(channel) else {
            continue;
        };
        let ids = readers::ids(list, path, options)?;
        // In a chunk all lists but that of engine data name its new tokens.
        let same = match chunk && rank > 0 {
            true => artifact.completion.ends_with(&ids),
            false => artifact.completion == ids,
        };
        if !same {
            let path = path.to_owned();
            let message = String::new();
            return Err(logprobs::alignment("identity", path, list.start, message));
        }
    }
    let unfolded = artifact.unfold(&format!("{data}."), Some(node.start))?;
    Ok(Inline::Here(Box::new(unfolded)))
}

fn missing<T>(path: String) -> Result<T> {
    let message = "it has to be there";
    Err(Error::new(Class::Missing, "missing", path, None, message))
}

/// A word for a message.
fn shown(node: Option<&Node>) -> String {
    let Some(node) = node else {
        return "none".to_owned();
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    match node.as_text() {
        Some(text) if text.value.len() <= 128 && text.value.chars().all(plain) && !text.escaped => {
            text.value.clone()
        }
        _ => "?".to_owned(),
    }
}

fn bytes(node: &Node, text: &Text, path: &str) -> Result<Vec<u8>> {
    let letters = text.value.as_bytes();
    if base64::decoded_len(letters).is_none() {
        return refuse("base64", path, node.end - 1);
    }
    base64::decode(letters, usize::MAX).or_else(|position| {
        let offset = match text.escaped {
            true => node.start,
            false => node.start + 1 + position,
        };
        refuse("base64", path, offset)
    })
}

/// Everything that the server says it sends is there.
fn contents(list: Option<&Node>, artifact: &Artifact) -> Result<()> {
    let Some(list) = list else {
        return Ok(());
    };
    let path = format!("{UPLOAD}.contents");
    let Kind::Array(elements) = &list.kind else {
        return refuse("type", &path, list.start);
    };
    for (i, element) in elements.iter().enumerate() {
        let path = format!("{path}[{i}]");
        let there = match element.as_text().map(|text| text.value.as_str()) {
            Some("moe_routes") => artifact.manifest.routes.is_some(),
            Some("selected_logprobs") => artifact.manifest.selected.is_some(),
            Some("topk_logprobs") => artifact.manifest.top.is_some(),
            _ => return refuse("artifact", &path, element.start),
        };
        if !there {
            let message = "it has to be there";
            return Err(Error::new(
                Class::Missing,
                "missing",
                path,
                element.start,
                message,
            ));
        }
    }
    Ok(())
}
