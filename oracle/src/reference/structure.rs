//! Steps 2 to 6: the structure of the document, and the channels of its choices.

use std::cell::OnceCell;

use super::artifact::{Inline, Routes, Unfolded, inline};
use super::json::{Kind, Node};
use super::readers;
use super::wires::{self, Role};
use dynamo_tito::limits::MAX_CHOICES;
use dynamo_tito::{Class, Error, Options, Result, Wire};

/// A place of a field: its path, and its value unless that is absent or null.
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

    /// The last key of the path.
    pub(super) fn key(&self) -> &str {
        self.path.rsplit('.').next().unwrap_or_default()
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

    /// The channel at the end of a path whose parts are objects or absent.
    fn inner(&self, path: &str) -> Channel<'a> {
        match path.split_once('.') {
            None => self.channel(path),
            Some((key, rest)) => {
                let Channel { path, node } = self.channel(key);
                Part { path, node }.inner(rest)
            }
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

/// The channels of one completion.
pub(super) struct Choice<'a> {
    pub(super) index: u32,
    /// The object itself: SGLang's element, else one of the list.
    pub(super) place: Part<'a>,
    fields: Vec<(Role, Vec<Channel<'a>>)>,
    /// The routes of an artifact.
    pub(super) routes: Option<&'a Routes>,
    /// More entries of `sources`.
    pub(super) notes: Vec<(&'static str, String)>,
}

impl<'a> Choice<'a> {
    /// Looks every field of the wire up. `at` is the choice, or SGLang's element.
    fn new(wire: Wire, index: u32, top: &Part<'a>, at: &Part<'a>) -> Self {
        let channel = |place: &&str| match place.strip_prefix("choices[].") {
            Some(inner) => at.inner(inner),
            None => top.inner(place),
        };
        let fields = wires::fields(wire)
            .map(|(role, places)| (*role, places.iter().map(channel).collect()))
            .collect();
        Self {
            index,
            place: at.clone(),
            fields,
            routes: None,
            notes: Vec::new(),
        }
    }

    /// An artifact alone.
    pub(super) fn of_artifact(unfolded: &'a Unfolded) -> Self {
        let absent = |role, path: &str| {
            let path = path.to_owned();
            (role, vec![Channel { path, node: None }])
        };
        let mut choice = Self {
            index: unfolded.index,
            place: Part {
                path: String::new(),
                node: None,
            },
            fields: vec![
                absent(Role::FlatLogprobs, "choices[0].selected_logprobs.logprobs"),
                absent(Role::RoutedExperts, "choices[0].moe_routes"),
            ],
            routes: None,
            notes: Vec::new(),
        };
        choice.put_first(unfolded);
        choice
    }

    /// Puts what an artifact has in front of all other channels.
    fn put_first(&mut self, unfolded: &'a Unfolded) {
        for (role, path, node) in &unfolded.fields {
            let channel = Channel {
                path: path.clone(),
                node: Some(node),
            };
            match self.fields.iter_mut().find(|(of, _)| of == role) {
                Some((_, channels)) => channels.insert(0, channel),
                None => self.fields.push((*role, vec![channel])),
            }
        }
        self.routes = unfolded.routes.as_ref();
    }

    /// The channels of a role, in order of authority; none if the wire has none.
    pub(super) fn channels(&self, role: Role) -> &[Channel<'a>] {
        let field = self.fields.iter().find(|(of, _)| *of == role);
        field.map_or(&[], |(_, channels)| channels)
    }

    /// The first channel of a role with a value in it.
    pub(super) fn found(&self, role: Role) -> Option<(&str, &'a Node)> {
        first(self.channels(role))
    }

    /// Every list of ids for each token: the attribute's name, and where the list stands.
    pub(super) fn rows(&self) -> impl Iterator<Item = (&'static str, &str, &'a Node)> {
        self.fields.iter().filter_map(|(role, channels)| {
            let Role::Rows(name) = role else { return None };
            let (path, node) = first(channels)?;
            Some((*name, path, node))
        })
    }
}

/// Steps 2 to 6. The choices, by index.
pub(super) fn choices<'a>(
    document: &'a Node,
    artifact: &'a OnceCell<Unfolded>,
    options: &Options<'_>,
    one_only: bool,
) -> Result<Vec<Choice<'a>>> {
    let elements = top_level(document, options.wire)?;
    no_error_body(document, &elements, &[], options.wire)?;
    let choices = if options.wire == Wire::SglangGenerate {
        with_elements(&elements, one_only)?
    } else {
        with_choices(&Part::root(document), artifact, options, one_only, false)?
    };
    for choice in &choices {
        engine_error(choice, options.wire)?;
    }
    Ok(choices)
}

/// Steps 2 to 6 for a chunk of a stream, which may have no choices: then what is beside them.
pub(super) fn chunk<'a>(
    document: &'a Node,
    artifact: &'a OnceCell<Unfolded>,
    options: &Options<'_>,
    one_only: bool,
) -> Result<(Vec<Choice<'a>>, Option<Choice<'a>>)> {
    let wire = options.wire;
    object(document, "")?;
    let top = Part::root(document);
    let elements = std::slice::from_ref(&top);
    let choices = if wire == Wire::SglangGenerate {
        no_error_body(document, elements, &["index"], wire)?;
        let mut choices = with_elements(elements, one_only)?;
        if let Some((path, node)) = top.channel("index").found() {
            choices[0].index = readers::id(node, path)?.unsigned_abs();
        }
        choices
    } else {
        no_error_body(document, elements, &[], wire)?;
        with_choices(&top, artifact, options, one_only, true)?
    };
    for choice in &choices {
        engine_error(choice, wire)?;
    }
    if !choices.is_empty() {
        return Ok((choices, None));
    }
    says_nothing_of_a_choice(&top, wire)?;
    let nothing = Part {
        path: "choices[0]".to_owned(),
        node: None,
    };
    Ok((choices, Some(Choice::new(wire, 0, &top, &nothing))))
}

/// Dynamo's `nvext` belongs to the choice that is beside it.
fn says_nothing_of_a_choice(top: &Part<'_>, wire: Wire) -> Result<()> {
    if !wire.is_dynamo() {
        return Ok(());
    }
    let of_a_choice = |place: &&str| place.starts_with("nvext.") && !place.ends_with(".finished");
    // What is told is told of the request.
    let fields = wires::fields(wire).filter(|(role, _)| *role != Role::Told);
    let mut places = fields
        .flat_map(|(_, places)| places.iter().copied())
        .filter(of_a_choice);
    let path = if places.any(|place| top.inner(place).node.is_some()) {
        "nvext"
    } else if top.channel("prompt_logprobs").node.is_some() {
        "prompt_logprobs"
    } else {
        return Ok(());
    };
    let message = "this belongs to a choice, and the chunk has none";
    let (class, kind) = (Class::Malformed, "no_choice");
    Err(Error::new(class, kind, path, None, message))
}

/// Steps 3 and 4.
fn no_error_body(
    document: &Node,
    elements: &[Part<'_>],
    more: &[&'static str],
    wire: Wire,
) -> Result<()> {
    repeated_keys(elements, more, wire)?;
    // Elements of an array are not looked at.
    server_error(document)
}

/// Step 6: a finish reason that says that the engine failed.
fn engine_error(choice: &Choice<'_>, wire: Wire) -> Result<()> {
    let reason = |role| choice.found(role).map(|(_, node)| node);
    let plain = match wire {
        wire if wire.is_sglang() => reason(Role::FinishReason).and_then(|node| node.member("type")),
        _ => reason(Role::FinishReason),
    };
    let detailed = reason(Role::DetailedFinishReason);
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
fn repeated_keys(elements: &[Part<'_>], more: &[&'static str], wire: Wire) -> Result<()> {
    let mut found = Vec::new();
    for element in elements {
        if element.path.is_empty() {
            for key in wires::ERROR {
                repeated(element, key, &mut found);
            }
        }
        for place in wires::places(wire).chain(more.iter().copied()) {
            repeated(element, place, &mut found);
        }
    }
    let earliest = found.into_iter().min_by_key(|error| error.offset);
    earliest.map_or(Ok(()), Err)
}

/// Every second occurrence of a key on the way to a place.
fn repeated(part: &Part<'_>, place: &str, found: &mut Vec<Error>) {
    let (key, rest) = match place.split_once('.') {
        Some((key, rest)) => (key, Some(rest)),
        None => (place, None),
    };
    let name = key.strip_suffix("[]").unwrap_or(key);
    let Some(members) = part.node.and_then(Node::as_object) else {
        return;
    };
    if let Some(member) = members.iter().filter(|m| m.key.value == name).nth(1) {
        let path = join(&part.path, name);
        found.push(readers::duplicate_key(&path, member.offset));
    }
    let Some(rest) = rest else { return };
    let Channel { path, node } = part.channel(name);
    if name == key {
        return repeated(&Part { path, node }, rest, found);
    }
    let list = node.and_then(Node::as_array).unwrap_or_default();
    for (i, node) in list.iter().enumerate() {
        let path = format!("{path}[{i}]");
        let node = Some(node);
        repeated(&Part { path, node }, rest, found);
    }
}

/// Step 4: an error of the server.
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

/// Steps 5 and 6 for Dynamo and vLLM. A chunk of a stream may have no choices.
fn with_choices<'a>(
    top: &Part<'a>,
    artifact: &'a OnceCell<Unfolded>,
    options: &Options<'_>,
    one_only: bool,
    chunk: bool,
) -> Result<Vec<Choice<'a>>> {
    let wire = options.wire;
    let Some((path, list)) = top.channel("choices").node.map(|node| ("choices", node)) else {
        return Err(missing("choices", "there are no choices"));
    };
    let Some(elements) = list.as_array() else {
        return Err(readers::wrong_type(path, list, "an array"));
    };
    if elements.is_empty() && !chunk {
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
    if wire != Wire::SglangChat {
        for choice in &list {
            choice.part("logprobs")?;
        }
    }
    if (one_only || wire.is_dynamo())
        && let Some(second) = list.get(1)
    {
        return Err(several_choices(second));
    }
    if wire == Wire::SglangChat {
        for choice in &list {
            meta_info(choice)?;
        }
    }
    if wire.is_dynamo() {
        finished(&top.part("nvext")?.part("engine_data")?)?;
    }
    if chunk && wire.packs() {
        list.iter().try_for_each(unpacked)?;
    }
    let parts = indices.into_iter().zip(&list);
    let mut choices: Vec<_> = parts
        .map(|(index, choice)| Choice::new(wire, index, top, choice))
        .collect();
    choices.sort_by_key(|choice| choice.index);
    if wire.is_dynamo() && !choices.is_empty() {
        let upload = top.part("nvext")?.part("metadata_upload")?.node;
        match inline(upload, &choices[0], options, chunk)? {
            Inline::Elsewhere(why) => choices[0].notes.push(("artifact", why)),
            Inline::Here(unfolded) => choices[0].put_first(artifact.get_or_init(|| *unfolded)),
            Inline::Nothing => {}
        }
    }
    Ok(choices)
}

/// Of a chunk: its log-probabilities are not packed.
fn unpacked(choice: &Part<'_>) -> Result<()> {
    let packed = ["completion_logprobs", "compact_logprobs"];
    let found = packed.map(|key| choice.channel(key));
    match found.iter().find_map(Channel::found) {
        None => Ok(()),
        Some((path, node)) => {
            let message = "packed log-probabilities in a stream";
            Err(Error::new(
                Class::Malformed,
                "packed",
                path,
                node.start,
                message,
            ))
        }
    }
}

/// The index of each choice: its `index`, else its position.
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

/// Step 6: an engine that did not finish.
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

/// Step 5 for SGLang: each element is a choice.
fn with_elements<'a>(elements: &[Part<'a>], one_only: bool) -> Result<Vec<Choice<'a>>> {
    if one_only && let Some(second) = elements.get(1) {
        return Err(several_choices(second));
    }
    let mut choices = Vec::new();
    for (i, element) in elements.iter().enumerate() {
        meta_info(element)?;
        choices.push(Choice::new(
            Wire::SglangGenerate,
            i as u32,
            element,
            element,
        ));
    }
    Ok(choices)
}

/// Step 5: SGLang's object that holds the answer.
fn meta_info(part: &Part<'_>) -> Result<()> {
    let meta = part.part("meta_info")?;
    match meta.node {
        Some(_) => Ok(()),
        None => Err(missing(&meta.path, "there is no meta_info")),
    }
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
        [path, ".", key].concat()
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
