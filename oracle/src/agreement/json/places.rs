//! Every place of a wire where a value or a key can stand.

use dynamo_tito::Wire;

use crate::reference::wires::{self, Role};

/// What stands before a hole, and behind it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) before: String,
    pub(super) behind: String,
    /// A key is wanted there, not a value.
    pub(super) key: bool,
    /// Brackets that are open there.
    pub(super) depth: usize,
}

/// Places inside a value that has this role.
fn inside(role: Role) -> &'static [&'static str] {
    match role {
        Role::TokenIds | Role::Tokens | Role::PromptTokenIds => &["0"],
        Role::FlatLogprobs => &["0", "data", "shape.0", "dtype"],
        Role::Compact => &["format", "data", "offsets.0", "num_top_logprobs"],
        Role::Content => &[
            "0.token",
            "0.token_id",
            "0.logprob",
            "0.bytes.0",
            "0.top_logprobs.0.token",
            "0.top_logprobs.0.logprob",
            "0.top_logprobs.0.a",
        ],
        Role::Triples => &["0.0"],
        Role::Rows(_) => &["0.0", "ids.data", "ids.shape.0", "counts.dtype"],
        Role::TopTriples | Role::PromptTopTriples => &["0.0.0"],
        Role::PromptLogprobs => &["0.1.logprob", "0.1.a", "0.0"],
        Role::TopFlat | Role::PromptTopFlat | Role::SamplerLogprobs => &["0"],
        Role::Told => &[
            "device",
            "prefill_worker_id",
            "0",
            "speculative_decoding.num_spec_steps",
        ],
        Role::RoutedExperts | Role::Indexer => &["data", "shape.0", "start", "dtype", "a.0"],
        Role::Usage => &["prompt_tokens.a.0"],
        Role::FinishReason => &["type", "matched", "a.0"],
        Role::WeightVersions => &["0.a"],
        _ => &[],
    }
}

/// Every path of a wire: keys, and 0 for an element.
fn paths(wire: Wire) -> Vec<String> {
    let others = [
        "error.message",
        "text",
        "choices.0.message.content",
        "0.output_ids.0",
    ];
    let errors = wires::ERROR.iter().chain(&others);
    let mut paths: Vec<String> = errors.map(|path| (*path).to_owned()).collect();
    for (role, places) in wires::fields(wire) {
        for place in *places {
            let place = place.replace("[]", ".0");
            let inner = inside(*role).iter();
            paths.extend(inner.map(|inner| format!("{place}.{inner}")));
            paths.push(place);
        }
    }
    paths
}

impl Place {
    /// The whole body.
    fn whole() -> Self {
        Self {
            before: String::new(),
            behind: String::new(),
            key: false,
            depth: 0,
        }
    }

    /// One step in: `segment` is a key, or a digit for an array. `among` puts neighbours around the hole.
    fn inside(&self, segment: &str, among: bool) -> Self {
        let array = segment.starts_with("0");
        let (open, close) = match (array, among) {
            (true, false) => ("[".to_owned(), "]"),
            (true, true) => ("[0, ".to_owned(), " ,{\"a\":0}]"),
            (false, false) => (format!("{{\"{segment}\":"), "}"),
            (false, true) => (format!("{{\"aa\":[] ,\"{segment}\" : "), " ,\"zz\":\"\"}"),
        };
        Self {
            before: self.before.clone() + &open,
            behind: close.to_owned() + &self.behind,
            key: false,
            depth: self.depth + 1,
        }
    }

    /// A key of an object that stands here.
    fn key(&self, among: bool) -> Self {
        let open = if among { "{\"aa\":0," } else { "{" };
        let close = if among { ":1,\"zz\":[]}" } else { ":1}" };
        Self {
            before: self.before.clone() + open,
            behind: close.to_owned() + &self.behind,
            key: true,
            depth: self.depth + 1,
        }
    }
}

/// Along every path: the value, a value in a skipped member beside it, a key beside it, alone and among others.
pub(super) fn places(wire: Wire) -> Vec<Place> {
    let mut places = vec![Place::whole()];
    for path in paths(wire) {
        let mut outer = Place::whole();
        for segment in path.split('.') {
            for among in [false, true] {
                places.push(outer.inside(segment, among));
                if !segment.starts_with("0") {
                    places.push(outer.inside("skipped", among));
                    places.push(outer.inside("skipped", among).inside("0", among));
                    places.push(outer.key(among));
                }
            }
            outer = outer.inside(segment, false);
        }
    }
    places.sort();
    places.dedup();
    places
}
