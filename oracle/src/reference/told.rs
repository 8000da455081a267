//! (e), its end: what the server tells of how it ran the request.

use std::collections::BTreeMap;

use super::Value;
use super::json::{Kind, Node};
use super::structure::Choice;
use super::wires::Role;

/// What is told by the last key of its place: the path, and the value, or None where it is of another type.
pub(super) type Told = BTreeMap<String, (String, Option<Value>)>;

enum Form {
    Count,
    Number,
    Text,
    Counts,
    Members(&'static [(&'static str, Form)]),
}

/// The table of the page.
fn form(key: &str) -> Form {
    match key {
        "num_retractions"
        | "dp_rank"
        | "spec_num_correct_drafts"
        | "spec_num_proposed_drafts"
        | "spec_verify_ct" => Form::Count,
        "spec_correct_drafts_histogram" | "spec_cap_lens_histogram" => Form::Counts,
        "cached_tokens_details" => Form::Members(&[
            ("device", Form::Count),
            ("host", Form::Count),
            ("storage", Form::Count),
            ("storage_backend", Form::Text),
        ]),
        "metrics" => Form::Members(&[
            ("time_to_first_token_ms", Form::Number),
            ("generation_time_ms", Form::Number),
            ("queue_time_ms", Form::Number),
            ("mean_itl_ms", Form::Number),
            ("tokens_per_second", Form::Number),
            (
                "speculative_decoding",
                Form::Members(&[
                    ("mean_acceptance_length", Form::Number),
                    ("draft_acceptance_rate", Form::Number),
                    ("acceptance_histogram", Form::Counts),
                    ("num_spec_steps", Form::Count),
                    ("num_accepted_draft_tokens", Form::Count),
                    ("num_draft_tokens", Form::Count),
                    ("num_spec_tokens", Form::Count),
                ]),
            ),
        ]),
        "worker_id" => Form::Members(&[
            ("prefill_worker_id", Form::Count),
            ("prefill_dp_rank", Form::Count),
            ("decode_worker_id", Form::Count),
            ("decode_dp_rank", Form::Count),
        ]),
        "timing" => Form::Members(&[
            ("request_received_ms", Form::Count),
            ("prefill_wait_time_ms", Form::Number),
            ("prefill_time_ms", Form::Number),
            ("ttft_ms", Form::Number),
            ("total_time_ms", Form::Number),
            ("kv_hit_rate", Form::Number),
            ("router_queue_depth", Form::Count),
        ]),
        "kv_cache_hit" => Form::Members(&[
            ("prompt_tokens", Form::Count),
            ("reused_tokens", Form::Count),
        ]),
        _ => Form::Number,
    }
}

/// A value of a form; None where it is another.
fn value(node: &Node, form: &Form) -> Option<Value> {
    match (form, &node.kind) {
        (Form::Count, _) => {
            let count: u64 = node.as_natural()?.parse().ok()?;
            Some(i64::try_from(count).map_or(Value::Uint(count), Value::Int))
        }
        (Form::Number, Kind::Number(text)) => {
            let number: f64 = text.parse().ok()?;
            number.is_finite().then_some(Value::Float(number))
        }
        (Form::Text, Kind::String(text)) if !text.lone_surrogate => {
            Some(Value::Text(text.value.clone()))
        }
        (Form::Counts, Kind::Array(elements)) if elements.len() <= 1024 => {
            let counts = elements.iter().map(|element| value(element, &Form::Count));
            counts.collect::<Option<_>>().map(Value::List)
        }
        (Form::Members(forms), Kind::Object(members)) => {
            let mut map = Vec::new();
            for (name, form) in *forms {
                let named = members.iter().filter(|member| member.key.value == *name);
                let named: Vec<_> = named.collect();
                match named[..] {
                    [] => {}
                    [one] if one.value.is_null() => {}
                    [one] => map.push(((*name).to_owned(), value(&one.value, form)?)),
                    _ => return None,
                }
            }
            Some(Value::Map(map))
        }
        _ => None,
    }
}

/// Everything that a choice tells.
pub(super) fn read(choice: &Choice<'_>) -> Told {
    let mut told = Told::new();
    for channel in choice.channels(Role::Told) {
        if let Some((path, node)) = channel.found() {
            let read = value(node, &form(channel.key()));
            told.insert(channel.key().to_owned(), (path.to_owned(), read));
        }
    }
    told
}

/// The attribute, and what `sources` says of what is left out.
pub(super) fn engine(
    told: &Told,
    place: impl Fn(&str) -> String,
) -> (Option<Value>, Option<String>) {
    let mut values = Vec::new();
    let mut left_out = Vec::new();
    for (name, (path, value)) in told {
        match value {
            Some(value) => values.push((name.clone(), value.clone())),
            None => left_out.push(place(path)),
        }
    }
    let why = format!("left out, of another type: {}", left_out.join(", "));
    (
        (!values.is_empty()).then_some(Value::Map(values)),
        (!left_out.is_empty()).then_some(why),
    )
}
