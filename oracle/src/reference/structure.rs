//! Steps 2 to 6: what the document is, and where each wire keeps what.

use super::json::{Kind, Node};
use super::readers;
use dynamo_tito::limits::MAX_CHOICES;
use dynamo_tito::{Class, Error, Options, Result, Wire};

/// A place where something may be: its path, and its value unless that is absent or null.
#[derive(Debug, Clone)]
pub(super) struct Channel<'a> {
    pub(super) path: String,
    pub(super) node: Option<&'a Node>,
}

impl<'a> Channel<'a> {
    /// The value with its path, if there is one.
    pub(super) fn found(&self) -> Option<(&str, &'a Node)> {
        self.node.map(|node| (self.path.as_str(), node))
    }
}

/// The first channel with a value in it.
pub(super) fn first<'c, 'a>(channels: &'c [Channel<'a>]) -> Option<(&'c str, &'a Node)> {
    channels.iter().find_map(Channel::found)
}

/// An object of the structure, or nothing where it is absent: then all its channels are empty.
#[derive(Clone)]
pub(super) struct Part<'a> {
    pub(super) path: String,
    pub(super) node: Option<&'a Node>,
}

impl<'a> Part<'a> {
    fn root(node: &'a Node) -> Self {
        Self {
            path: String::new(),
            node: Some(node),
        }
    }

    pub(super) fn channel(&self, key: &str) -> Channel<'a> {
        Channel {
            path: join(&self.path, key),
            node: self.node.and_then(|node| node.get(key)),
        }
    }

    /// Step 5: an object inside this one; null counts as absent.
    fn part(&self, key: &str) -> Result<Part<'a>> {
        let Channel { path, node } = self.channel(key);
        if let Some(node) = node {
            object(node, &path)?;
        }
        Ok(Part { path, node })
    }
}

/// Everything that one completion is made of, wherever the wire keeps it. Candidates are in order of authority.
pub(super) struct Choice<'a> {
    pub(super) index: u32,
    /// The object itself: SGLang's element, else one of the list.
    pub(super) place: Part<'a>,
    pub(super) token_ids: Vec<Channel<'a>>,
    pub(super) flat_logprobs: Vec<Channel<'a>>,
    pub(super) content: Option<Channel<'a>>,
    pub(super) triples: Option<Channel<'a>>,
    /// The texts beside the flat list of completions.
    pub(super) tokens: Option<Channel<'a>>,
    /// SGLang's rows of triples.
    pub(super) top_triples: Option<Channel<'a>>,
    pub(super) prompt_token_ids: Vec<Channel<'a>>,
    pub(super) prompt_logprobs: Vec<Channel<'a>>,
    /// SGLang's rows of triples beside its prompt logprobs.
    pub(super) prompt_top_triples: Option<Channel<'a>>,
    pub(super) sampling_mask: Channel<'a>,
    pub(super) routed_experts: Vec<Channel<'a>>,
    /// Where the wire has none.
    pub(super) unread_experts: Vec<Channel<'a>>,
    pub(super) metadata: Metadata<'a>,
}

pub(super) struct Metadata<'a> {
    pub(super) request_id: Channel<'a>,
    pub(super) usage: Usage<'a>,
    pub(super) finish_reason: Channel<'a>,
    pub(super) detailed_finish_reason: Option<Channel<'a>>,
    pub(super) stop_reason: Vec<Channel<'a>>,
    pub(super) weight_versions: Channel<'a>,
    pub(super) weight_version: Option<Channel<'a>>,
}

pub(super) enum Usage<'a> {
    Whole(Channel<'a>),
    /// One count each, named by its key.
    Counts(Vec<(&'static str, Channel<'a>)>),
}

/// Steps 2 to 6. The choices, by index.
pub(super) fn choices<'a>(
    document: &'a Node,
    options: &Options<'_>,
    one_only: bool,
) -> Result<Vec<Choice<'a>>> {
    let elements = top_level(document, options.wire)?;
    no_error_body(document, &elements, &[], options.wire)?;
    let choices = if options.wire == Wire::SglangGenerate {
        sglang(&elements, one_only)?
    } else {
        with_choices(&Part::root(document), options.wire, one_only, false)?
    };
    for choice in &choices {
        engine_error(&choice.metadata, options.wire)?;
    }
    Ok(choices)
}

/// Steps 2 to 6 for a chunk of a stream, which may have no choices: then what is beside them.
pub(super) fn chunk<'a>(
    document: &'a Node,
    options: &Options<'_>,
    one_only: bool,
) -> Result<(Vec<Choice<'a>>, Option<Choice<'a>>)> {
    let wire = options.wire;
    object(document, "")?;
    let top = Part::root(document);
    let elements = std::slice::from_ref(&top);
    if wire == Wire::SglangGenerate {
        no_error_body(document, elements, &["index"], wire)?;
        let mut choices = sglang(elements, one_only)?;
        for choice in &mut choices {
            if let Some((path, node)) = top.channel("index").found() {
                choice.index = readers::id(node, path)?.unsigned_abs();
            }
            engine_error(&choice.metadata, wire)?;
        }
        return Ok((choices, None));
    }
    no_error_body(document, elements, &[], wire)?;
    let choices = with_choices(&top, wire, one_only, true)?;
    for choice in &choices {
        engine_error(&choice.metadata, wire)?;
    }
    if !choices.is_empty() {
        return Ok((choices, None));
    }
    let nothing = |path: &str| Part {
        path: path.to_owned(),
        node: None,
    };
    let (choice, logprobs) = (nothing("choices[0]"), nothing("choices[0].logprobs"));
    let beside = match wire.is_dynamo() {
        false => vllm(wire, 0, &top, &choice, &logprobs),
        true => {
            says_nothing_of_a_choice(&top)?;
            let (nvext, data) = (nothing("nvext"), nothing("nvext.engine_data"));
            let top = Part::root(document);
            dynamo(wire, 0, &top, &choice, &logprobs, &nvext, &data)
        }
    };
    Ok((choices, Some(beside)))
}

/// Dynamo's `nvext` belongs to the choice that is beside it.
fn says_nothing_of_a_choice(top: &Part<'_>) -> Result<()> {
    let nvext = child(top, "nvext");
    let data = child(&nvext, "engine_data");
    let says = |part: &Part<'_>, keys: &[&str], but: &str| {
        let mut keys = keys.iter().filter(|key| **key != but);
        keys.any(|key| part.channel(key).node.is_some())
    };
    let path =
        if says(&nvext, NVEXT_KEYS, "engine_data") || says(&data, ENGINE_DATA_KEYS, "finished") {
            "nvext"
        } else if top.channel("prompt_logprobs").node.is_some() {
            "prompt_logprobs"
        } else {
            return Ok(());
        };
    let message = "this belongs to a choice, and the chunk has none";
    Err(Error::new(
        Class::Malformed,
        "no_choice",
        path,
        None,
        message,
    ))
}

/// Steps 3 and 4.
fn no_error_body(document: &Node, elements: &[Part<'_>], more: &[&str], wire: Wire) -> Result<()> {
    repeated_keys(elements, more, wire)?;
    // A list has no members to say anything.
    server_error(document)
}

/// Step 6: a finish reason that says that the engine failed.
fn engine_error(metadata: &Metadata<'_>, wire: Wire) -> Result<()> {
    let plain = metadata.finish_reason.node;
    let plain = match wire {
        Wire::SglangGenerate => plain.and_then(|node| node.member("type")),
        _ => plain,
    };
    let detailed = metadata.detailed_finish_reason.as_ref();
    let detailed = detailed.and_then(|channel| channel.node);
    for reason in [plain, detailed].into_iter().flatten() {
        if reason.as_text().is_some_and(|text| text.value == "error") {
            let message = "the engine failed before the completion was whole";
            return Err(Error::new(Class::Engine, "engine", "", None, message));
        }
    }
    Ok(())
}

/// Step 2: the document itself, or sglang's elements.
fn top_level(document: &Node, wire: Wire) -> Result<Vec<Part<'_>>> {
    match document.as_array() {
        Some(elements) if wire == Wire::SglangGenerate => {
            if elements.is_empty() {
                return Err(missing("[0]", "the answer is an empty list"));
            }
            if elements.len() > MAX_CHOICES {
                return Err(too_many("", document));
            }
            let mut parts = Vec::new();
            for (i, element) in elements.iter().enumerate() {
                let path = format!("[{i}]");
                object(element, &path)?;
                parts.push(Part {
                    path,
                    node: Some(element),
                });
            }
            Ok(parts)
        }
        _ => {
            object(document, "")?;
            Ok(vec![Part::root(document)])
        }
    }
}

/// Step 3: the first key, in document order, that stands for a second time in one object.
fn repeated_keys(elements: &[Part<'_>], more: &[&str], wire: Wire) -> Result<()> {
    let mut found = Vec::new();
    for element in elements {
        repeated(element, more, &mut found);
        if element.path.is_empty() {
            let common = [
                "error", "object", "status", "message", "type", "code", "choices",
            ];
            repeated(element, &common, &mut found);
        }
        let top: &[&str] = match wire {
            Wire::DynamoChat | Wire::DynamoCompletions => {
                &["nvext", "prompt_logprobs", "usage", "id"]
            }
            Wire::VllmChat => &["prompt_token_ids", "prompt_logprobs", "usage", "id"],
            Wire::VllmGenerate => &["prompt_token_ids", "prompt_logprobs", "usage", "request_id"],
            Wire::SglangGenerate => &["output_ids", "meta_info", "prompt_token_ids"],
        };
        repeated(element, top, &mut found);
        repeated(element, &["routed_experts"], &mut found);
        if wire == Wire::SglangGenerate {
            repeated(&child(element, "meta_info"), META_INFO_KEYS, &mut found);
            continue;
        }
        let list = element.node.and_then(|node| node.member("choices"));
        let list = list.and_then(Node::as_array).unwrap_or_default();
        for (i, choice) in list.iter().enumerate() {
            let choice = Part {
                path: format!("choices[{i}]"),
                node: Some(choice),
            };
            repeated(&choice, CHOICE_KEYS, &mut found);
            if !wire.is_dynamo() {
                repeated(&choice, &["sampling_mask"], &mut found);
            }
            let logprobs: &[&str] = match wire {
                Wire::DynamoCompletions => &["token_logprobs", "tokens"],
                _ => &["content"],
            };
            repeated(&child(&choice, "logprobs"), logprobs, &mut found);
        }
        if wire.is_dynamo() {
            let nvext = child(element, "nvext");
            repeated(&nvext, NVEXT_KEYS, &mut found);
            repeated(&child(&nvext, "engine_data"), ENGINE_DATA_KEYS, &mut found);
        }
    }
    let earliest = found.into_iter().min_by_key(|error| error.offset);
    earliest.map_or(Ok(()), Err)
}

const CHOICE_KEYS: &[&str] = &[
    "index",
    "token_ids",
    "logprobs",
    "finish_reason",
    "stop_reason",
    "weight_versions",
    "routed_experts",
];

const NVEXT_KEYS: &[&str] = &[
    "engine_data",
    "completion_token_ids",
    "prompt_token_ids",
    "routed_experts",
    "prompt_logprobs",
    "stop_reason",
    "detailed_finish_reason",
];

const ENGINE_DATA_KEYS: &[&str] = &[
    "completion_token_ids",
    "completion_logprobs",
    "prompt_token_ids",
    "prompt_logprobs",
    "finished",
    "sampling_mask",
    "routed_experts",
];

const META_INFO_KEYS: &[&str] = &[
    "id",
    "finish_reason",
    "prompt_tokens",
    "completion_tokens",
    "cached_tokens",
    "reasoning_tokens",
    "weight_version",
    "weight_versions",
    "output_token_logprobs",
    "output_top_logprobs",
    "input_token_logprobs",
    "input_top_logprobs",
    "output_token_sampling_mask",
    "routed_experts",
];

/// An object inside another, whatever it is.
fn child<'a>(part: &Part<'a>, key: &str) -> Part<'a> {
    let Channel { path, node } = part.channel(key);
    Part { path, node }
}

/// Every second occurrence of one of the keys.
fn repeated(part: &Part<'_>, keys: &[&str], found: &mut Vec<Error>) {
    let members = part.node.and_then(Node::as_object).unwrap_or_default();
    for key in keys {
        let second = members.iter().filter(|m| m.key.value == *key).nth(1);
        if let Some(member) = second {
            found.push(readers::duplicate_key(
                &join(&part.path, key),
                member.offset,
            ));
        }
    }
}

/// Step 4: the server says that something went wrong.
fn server_error(document: &Node) -> Result<()> {
    let says_error = |key| {
        let text = document.get(key).and_then(Node::as_text);
        text.is_some_and(|text| text.value == "error")
    };
    let flat = ["message", "type", "code"]
        .iter()
        .all(|key| document.member(key).is_some())
        && document.get("choices").is_none();
    let error = document.get("error");
    if error.is_none() && !says_error("object") && !says_error("status") && !flat {
        return Ok(());
    }
    let message = error
        .and_then(|error| error.get("message").or(Some(error)))
        .and_then(Node::as_text)
        .or_else(|| document.get("message").and_then(Node::as_text))
        .map_or("the server answered with an error", |text| &text.value);
    Err(Error::new(
        Class::Server,
        "server",
        "",
        None,
        message.to_owned(),
    ))
}

/// Steps 5 and 6 for Dynamo and vLLM.
fn with_choices<'a>(
    top: &Part<'a>,
    wire: Wire,
    one_only: bool,
    may_be_empty: bool,
) -> Result<Vec<Choice<'a>>> {
    let Some((path, list)) = top.channel("choices").node.map(|node| ("choices", node)) else {
        return Err(missing("choices", "there are no choices"));
    };
    let Some(elements) = list.as_array() else {
        return Err(readers::wrong_type(path, list, "an array"));
    };
    if elements.is_empty() && !may_be_empty {
        return Err(missing(path, "the list of choices is empty"));
    }
    if elements.len() > MAX_CHOICES {
        return Err(too_many(path, list));
    }
    let mut list = Vec::new();
    for (i, node) in elements.iter().enumerate() {
        let path = format!("choices[{i}]");
        object(node, &path)?;
        list.push(Part {
            path,
            node: Some(node),
        });
    }
    let indices = indices(&list)?;
    let mut parts: Vec<(u32, Part<'a>, Part<'a>)> = Vec::new();
    for (index, choice) in indices.into_iter().zip(list) {
        let logprobs = choice.part("logprobs")?;
        parts.push((index, choice, logprobs));
    }
    if (one_only || wire.is_dynamo())
        && let Some((_, second, _)) = parts.get(1)
    {
        return Err(several_choices(second));
    }
    let (nvext, engine_data) = if wire.is_dynamo() {
        let nvext = top.part("nvext")?;
        let engine_data = nvext.part("engine_data")?;
        (Some(nvext), Some(engine_data))
    } else {
        (None, None)
    };
    if let Some(engine_data) = &engine_data {
        finished(engine_data)?;
    }
    parts.sort_by_key(|(index, _, _)| *index);
    let assemble =
        |(index, choice, logprobs): &(u32, Part<'a>, Part<'a>)| match (&nvext, &engine_data) {
            (Some(nvext), Some(engine_data)) => {
                dynamo(wire, *index, top, choice, logprobs, nvext, engine_data)
            }
            _ => vllm(wire, *index, top, choice, logprobs),
        };
    Ok(parts.iter().map(assemble).collect())
}

/// The index of each choice, which is its position unless it says otherwise.
fn indices(list: &[Part<'_>]) -> Result<Vec<u32>> {
    let mut indices = Vec::new();
    for (i, choice) in list.iter().enumerate() {
        let given = choice.channel("index");
        let index = match given.found() {
            Some((path, value)) => readers::id(value, path)?.unsigned_abs(),
            None => i as u32,
        };
        if indices.contains(&index) {
            return Err(Error::new(
                Class::Malformed,
                "duplicate_index",
                given.path,
                given.node.or(choice.node).map(|node| node.start),
                format!("two choices have the index {index}"),
            ));
        }
        indices.push(index);
    }
    Ok(indices)
}

/// Step 6: the engine says that it did not finish.
fn finished(engine_data: &Part<'_>) -> Result<()> {
    let Channel { path, node } = engine_data.channel("finished");
    match node {
        Some(node) if node.kind == Kind::Bool(false) => Err(Error::new(
            Class::Malformed,
            "unfinished",
            path,
            node.start,
            "the engine did not finish this completion",
        )),
        _ => Ok(()),
    }
}

fn dynamo<'a>(
    wire: Wire,
    index: u32,
    top: &Part<'a>,
    choice: &Part<'a>,
    logprobs: &Part<'a>,
    nvext: &Part<'a>,
    engine_data: &Part<'a>,
) -> Choice<'a> {
    let chat = wire == Wire::DynamoChat;
    let mut flat_logprobs = vec![engine_data.channel("completion_logprobs")];
    if !chat {
        flat_logprobs.push(logprobs.channel("token_logprobs"));
    }
    Choice {
        index,
        place: choice.clone(),
        token_ids: vec![
            engine_data.channel("completion_token_ids"),
            nvext.channel("completion_token_ids"),
            choice.channel("token_ids"),
        ],
        flat_logprobs,
        content: chat.then(|| logprobs.channel("content")),
        triples: None,
        tokens: (!chat).then(|| logprobs.channel("tokens")),
        top_triples: None,
        prompt_token_ids: vec![
            engine_data.channel("prompt_token_ids"),
            nvext.channel("prompt_token_ids"),
        ],
        prompt_logprobs: vec![
            engine_data.channel("prompt_logprobs"),
            nvext.channel("prompt_logprobs"),
            top.channel("prompt_logprobs"),
        ],
        prompt_top_triples: None,
        sampling_mask: engine_data.channel("sampling_mask"),
        routed_experts: vec![
            nvext.channel("routed_experts"),
            engine_data.channel("routed_experts"),
        ],
        unread_experts: vec![
            choice.channel("routed_experts"),
            top.channel("routed_experts"),
        ],
        metadata: Metadata {
            request_id: top.channel("id"),
            usage: Usage::Whole(top.channel("usage")),
            finish_reason: choice.channel("finish_reason"),
            detailed_finish_reason: Some(nvext.channel("detailed_finish_reason")),
            stop_reason: vec![choice.channel("stop_reason"), nvext.channel("stop_reason")],
            weight_versions: choice.channel("weight_versions"),
            weight_version: None,
        },
    }
}

fn vllm<'a>(
    wire: Wire,
    index: u32,
    top: &Part<'a>,
    choice: &Part<'a>,
    logprobs: &Part<'a>,
) -> Choice<'a> {
    let request_id = match wire {
        Wire::VllmChat => "id",
        _ => "request_id",
    };
    Choice {
        index,
        place: choice.clone(),
        token_ids: vec![choice.channel("token_ids")],
        flat_logprobs: Vec::new(),
        content: Some(logprobs.channel("content")),
        triples: None,
        tokens: None,
        top_triples: None,
        prompt_token_ids: vec![top.channel("prompt_token_ids")],
        prompt_logprobs: vec![top.channel("prompt_logprobs")],
        prompt_top_triples: None,
        sampling_mask: choice.channel("sampling_mask"),
        routed_experts: vec![choice.channel("routed_experts")],
        unread_experts: vec![top.channel("routed_experts")],
        metadata: Metadata {
            request_id: top.channel(request_id),
            usage: Usage::Whole(top.channel("usage")),
            finish_reason: choice.channel("finish_reason"),
            detailed_finish_reason: None,
            stop_reason: vec![choice.channel("stop_reason")],
            weight_versions: choice.channel("weight_versions"),
            weight_version: None,
        },
    }
}

/// Step 5 for SGLang: each element is a choice.
fn sglang<'a>(elements: &[Part<'a>], one_only: bool) -> Result<Vec<Choice<'a>>> {
    if one_only && let Some(second) = elements.get(1) {
        return Err(several_choices(second));
    }
    let mut choices = Vec::new();
    for (i, element) in elements.iter().enumerate() {
        let meta = element.part("meta_info")?;
        if meta.node.is_none() {
            return Err(missing(&meta.path, "there is no meta_info"));
        }
        let count = |key| (key, meta.channel(key));
        choices.push(Choice {
            index: i as u32,
            place: element.clone(),
            token_ids: vec![element.channel("output_ids")],
            flat_logprobs: Vec::new(),
            content: None,
            triples: Some(meta.channel("output_token_logprobs")),
            tokens: None,
            top_triples: Some(meta.channel("output_top_logprobs")),
            prompt_token_ids: vec![element.channel("prompt_token_ids")],
            prompt_logprobs: vec![meta.channel("input_token_logprobs")],
            prompt_top_triples: Some(meta.channel("input_top_logprobs")),
            sampling_mask: meta.channel("output_token_sampling_mask"),
            routed_experts: vec![meta.channel("routed_experts")],
            unread_experts: vec![element.channel("routed_experts")],
            metadata: Metadata {
                request_id: meta.channel("id"),
                usage: Usage::Counts(vec![
                    count("prompt_tokens"),
                    count("completion_tokens"),
                    count("cached_tokens"),
                    count("reasoning_tokens"),
                ]),
                finish_reason: meta.channel("finish_reason"),
                detailed_finish_reason: None,
                stop_reason: Vec::new(),
                weight_versions: meta.channel("weight_versions"),
                weight_version: Some(meta.channel("weight_version")),
            },
        });
    }
    Ok(choices)
}

fn object(node: &Node, path: &str) -> Result<()> {
    match node.as_object() {
        Some(_) => Ok(()),
        None => Err(readers::wrong_type(path, node, "an object")),
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

fn missing(path: &str, message: &'static str) -> Error {
    Error::new(Class::Missing, "missing", path, None, message)
}

fn too_many(path: &str, list: &Node) -> Error {
    Error::new(
        Class::Malformed,
        "too_many",
        path,
        list.start,
        format!("more than {MAX_CHOICES} choices"),
    )
}

fn several_choices(second: &Part<'_>) -> Error {
    Error::new(
        Class::Malformed,
        "several_choices",
        second.path.clone(),
        second.node.map(|node| node.start),
        "expected one choice, found several",
    )
}
