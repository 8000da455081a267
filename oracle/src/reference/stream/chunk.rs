//! One chunk: judged as a body is, and kept.

use std::cell::OnceCell;

use super::{At, Experts, Joined, Prompt, Stream, lowest};
use crate::reference::json::Node;
use crate::reference::logprobs::{self, alignment, same_id};
use crate::reference::placing::Sequence;
use crate::reference::structure::{Channel, Choice, chunk};
use crate::reference::wires::Role;
use crate::reference::{
    PromptLogprobs, Top, Value, counts, experts, flat_top, json, matrix, metadata, packed, prompt,
    readers, told,
};
use dynamo_tito::limits::MAX_CHOICES;
use dynamo_tito::{Class, Error, ExpertsMode, Options, Result};

/// What a chunk adds to the tokens of its choice.
struct Tokens<'c> {
    /// All that the chunk names.
    named: Vec<i32>,
    /// The last of them, which are new.
    new: usize,
    cumulative: bool,
    /// Its list.
    list: Option<(&'c str, &'c Node)>,
}

impl<'o> Stream<'o> {
    pub(super) fn chunk(&mut self, data: &[u8], at: &At<'_>) -> Result<()> {
        let document = json::parse(data, self.options.limits.max_depth)?;
        let artifact = OnceCell::new();
        let (choices, beside) = chunk(&document, &artifact, &self.options, self.one_only)?;
        for (i, choice) in choices.iter().enumerate() {
            self.room_for(choice)?;
            let mut joined = self.choices.remove(&choice.index).unwrap_or_default();
            let read = self.choice(choice, &mut joined, i == 0, at);
            self.choices.insert(choice.index, joined);
            read?;
        }
        match beside {
            None => Ok(()),
            Some(beside) => {
                self.judge_prompt(&beside, &mut Joined::default())?;
                self.metadata(&beside, &mut Joined::default())?;
                self.told.extend(told::read(&beside));
                Ok(())
            }
        }
    }

    /// Whether there may be this choice too.
    fn room_for(&self, choice: &Choice<'_>) -> Result<()> {
        if self.choices.contains_key(&choice.index) {
            return Ok(());
        }
        let kind = match self.choices.len() {
            1.. if self.one_only => "several_choices",
            MAX_CHOICES.. => "too_many",
            _ => return Ok(()),
        };
        let Channel { path, node } = choice.place.channel("index");
        let (path, node) = match node {
            Some(node) => (path, Some(node)),
            None => (choice.place.path.clone(), choice.place.node),
        };
        let message = "another choice than the stream may have";
        let offset = node.map(|node| node.start);
        Err(Error::new(Class::Malformed, kind, path, offset, message))
    }

    /// (a) to (g).
    fn choice(
        &mut self,
        choice: &Choice<'_>,
        joined: &mut Joined,
        first_of_chunk: bool,
        at: &At<'_>,
    ) -> Result<()> {
        if joined.chunks == 0 {
            let first = |role| choice.channels(role)[0].path.clone();
            joined.paths.ids = first(Role::TokenIds);
            joined.paths.experts = first(Role::RoutedExperts);
            joined.paths.logprobs = logprobs::last_candidate(choice);
        }
        joined.chunks += 1;
        let tokens = self.tokens_of(choice, joined)?;
        if self.options.wire.is_dynamo() {
            self.dynamo_logprobs(choice, joined, &tokens, at)?;
        } else if self.is_sglang() {
            self.sglang_logprobs(choice, joined, &tokens)?;
        } else {
            self.vllm_logprobs(choice, joined, &tokens)?;
        }
        if first_of_chunk || !self.is_vllm() {
            self.judge_prompt(choice, joined)?;
        }
        self.metadata(choice, joined)?;
        if !choice.notes.is_empty() {
            joined.notes.clone_from(&choice.notes);
        }
        let told = match self.is_sglang() {
            true => &mut joined.told,
            false => &mut self.told,
        };
        told.extend(told::read(choice));
        self.rows(choice, joined)?;
        self.sampler(choice, joined)?;
        self.experts(choice, joined)?;
        self.indexer(choice, joined)
    }

    /// (a), and what is appended.
    fn tokens_of<'c>(&self, choice: &'c Choice<'_>, joined: &mut Joined) -> Result<Tokens<'c>> {
        let before = joined.ids.len();
        let chosen = choice.channels(Role::TokenIds).iter().enumerate();
        let chosen = chosen
            .filter_map(|(channel, it)| Some((channel, it.found()?)))
            .next();
        let Some((channel, (path, node))) = chosen else {
            return self.provisional(choice, joined);
        };
        let named = readers::ids(node, path, &self.options)?;
        let mut whole = self.options.wire.is_dynamo() && channel == 0;
        let mut cumulative = false;
        if let Some(count) = self.sglang_count(choice, named.len())? {
            let (tokens, path, offset) = count;
            let same = named.len() as u128 == tokens;
            let added = (before + named.len()) as u128 == tokens;
            // Before the first token either is the same.
            let other_kind = before > 0 && joined.cumulative.is_some_and(|kind| kind != same);
            if (!same && !added) || other_kind {
                let message = format!(
                    "{tokens} completion tokens, {} ids behind {before}",
                    named.len()
                );
                return Err(alignment("count", path, offset, message));
            }
            if before > 0 {
                joined.cumulative = Some(same);
                cumulative = same;
                whole = same;
            }
        }
        if whole && let Some(path) = contradicted(&named, &joined.ids, path, |a, b| a == b) {
            let message = "other tokens than the chunks before named".to_owned();
            return Err(alignment("contradiction", path, node.start, message));
        }
        let new = match whole {
            true => named.len() - before,
            false => named.len(),
        };
        let dynamo_whole = whole && !self.is_sglang();
        if new > 0 && (joined.ended || joined.whole) {
            return Err(after_finish(path, node));
        }
        if before + new > self.options.limits.max_tokens {
            return Err(Error::new(
                Class::Malformed,
                "too_many",
                path,
                node.start,
                "more tokens than are allowed",
            ));
        }
        joined.whole |= dynamo_whole;
        lowest(&mut joined.ids_from, channel, path);
        joined.ids.extend(&named[named.len() - new..]);
        Ok(Tokens {
            named,
            new,
            cumulative,
            list: Some((path, node)),
        })
    }

    /// N, with its path and offset.
    fn sglang_count(
        &self,
        choice: &Choice<'_>,
        listed: usize,
    ) -> Result<Option<(u128, String, usize)>> {
        let mut counts = choice.channels(Role::Count).iter();
        let Some(channel) = counts.find(|it| it.key() == "completion_tokens") else {
            return Ok(None);
        };
        let Some((path, node)) = channel.found() else {
            if listed == 0 {
                return Ok(None);
            }
            let message = "without this count it is not known which of the ids are new";
            let path = channel.path.clone();
            return Err(Error::new(Class::Missing, "missing", path, None, message));
        };
        let Some(count) = node.as_natural() else {
            return Err(readers::wrong_type(path, node, "an integer without a sign"));
        };
        let count = count.parse().unwrap_or(u128::MAX);
        Ok(Some((count, path.to_owned(), node.start)))
    }

    /// Dynamo's entries name tokens until a list does.
    fn provisional<'c>(&self, choice: &'c Choice<'_>, joined: &mut Joined) -> Result<Tokens<'c>> {
        let mut tokens = Tokens {
            named: Vec::new(),
            new: 0,
            cumulative: false,
            list: None,
        };
        if !self.options.wire.is_dynamo() || joined.unnamed || joined.ids_from.is_some() {
            return Ok(tokens);
        }
        let content = choice.found(Role::Content);
        let entries = content.and_then(|(path, node)| {
            let entries = readers::content(node, path, &self.options).ok()?;
            let names = entries.iter().map(name);
            Some((path, node, names.collect::<Option<Vec<i32>>>()?))
        });
        let Some((path, node, names)) = entries else {
            joined.unnamed = true;
            return Ok(tokens);
        };
        if joined.ended && !names.is_empty() {
            return Err(after_finish(path, node));
        }
        if joined.ids.len() + names.len() > self.options.limits.max_tokens {
            return Err(Error::new(
                Class::Malformed,
                "too_many",
                path,
                node.start,
                "more tokens than are allowed",
            ));
        }
        joined.ids.extend(&names);
        tokens.new = names.len();
        tokens.named = names;
        Ok(tokens)
    }

    fn vllm_logprobs(
        &self,
        choice: &Choice<'_>,
        joined: &mut Joined,
        tokens: &Tokens<'_>,
    ) -> Result<()> {
        let Some((path, node)) = choice.found(Role::Content) else {
            return Ok(());
        };
        if tokens.list.is_none() {
            let message = "entries of a chunk without token ids";
            let path = choice.channels(Role::TokenIds)[0].path.clone();
            return Err(Error::new(Class::Missing, "missing", path, None, message));
        }
        let ids = &tokens.named;
        let (values, entries) = logprobs::from_content(node, path, ids, &self.options)?;
        logprobs::top_of_content(&entries, path, ids)?;
        append(&mut joined.values, values, path);
        append(&mut joined.entries, entries, path);
        Ok(())
    }

    fn sglang_logprobs(
        &self,
        choice: &Choice<'_>,
        joined: &mut Joined,
        tokens: &Tokens<'_>,
    ) -> Result<()> {
        let ids = &tokens.named;
        let mut values = None;
        if let Some((path, node)) = choice.found(Role::Triples) {
            let read = logprobs::from_triples(node, path, ids, &self.options)?;
            values = Some((read, path, node));
        }
        let mut rows = None;
        if let Some((path, node)) = choice.found(Role::TopTriples) {
            let read = logprobs::top_of_triples(node, path, ids, &self.options)?;
            rows = Some((read, path, node));
        } else if let Some(flat) = flat_top::read(choice.channels(Role::TopFlat), &self.options)? {
            let (path, node) = (flat.path, flat.node);
            rows = Some((logprobs::top_of_flat(flat, ids)?, path, node));
        }
        if let Some((mut values, path, node)) = values {
            let earlier = joined
                .values
                .get_or_insert_with(|| (Vec::new(), path.to_owned()));
            if tokens.cumulative {
                extends(&mut values, &earlier.0, path, node, same_value)?;
            }
            earlier.0.extend(values);
        }
        if let Some((top, path, node)) = rows {
            let mut rows = match top {
                Some((top, _)) => positions(&top),
                None => vec![Vec::new(); ids.len()],
            };
            let earlier = joined
                .rows
                .get_or_insert_with(|| (Top::start(), path.to_owned()));
            if tokens.cumulative {
                let same = |a: &Vec<(i32, f64)>, b: &Vec<(i32, f64)>| {
                    let mut pairs = a.iter().zip(b);
                    a.len() == b.len() && pairs.all(|(a, b)| a.0 == b.0 && same_value(&a.1, &b.1))
                };
                extends(&mut rows, &positions(&earlier.0), path, node, same)?;
            }
            path.clone_into(&mut earlier.1);
            for row in rows {
                row.iter()
                    .for_each(|(id, value)| earlier.0.push(*id, *value));
                earlier.0.end_position();
            }
        }
        Ok(())
    }

    fn dynamo_logprobs(
        &self,
        choice: &Choice<'_>,
        joined: &mut Joined,
        tokens: &Tokens<'_>,
        at: &At<'_>,
    ) -> Result<()> {
        let flat = choice.channels(Role::FlatLogprobs).iter();
        let (listed, whole): (Vec<_>, Vec<_>) = flat.partition(|it| it.key() == "token_logprobs");
        if let Some((path, node)) = whole.iter().find_map(|it| it.found()) {
            let values = logprobs::flat(node, path, &joined.ids, &self.options)?;
            joined.flat = Some((values, path.to_owned()));
        }
        let new = &joined.ids[joined.ids.len() - tokens.new..];
        if let Some((path, node)) = choice.found(Role::Content) {
            let entries = match readers::content(node, path, &self.options) {
                Ok(entries) => entries,
                Err(error) => {
                    joined.kept.get_or_insert(at.place(error));
                    Vec::new()
                }
            };
            if entries.len() == new.len() {
                for (i, (entry, id)) in entries.iter().zip(new).enumerate() {
                    logprobs::identity(entry, *id, &format!("{path}[{i}]"))?;
                }
            }
            append(&mut joined.entries, entries, path);
        }
        if let Some((path, node)) = listed.iter().find_map(|it| it.found()) {
            let values = match readers::flat(node, path, &self.options) {
                Ok(values) => values,
                Err(error) => {
                    joined.kept.get_or_insert(at.place(error));
                    Vec::new()
                }
            };
            append(&mut joined.listed, values, path);
        }
        if let Some((path, node)) = choice.found(Role::Tokens) {
            let texts = node.as_array();
            joined.unreadable_texts |= texts.is_none();
            let texts = texts.unwrap_or_default();
            let named = |text: &Node| readers::named(&text.as_text()?.value);
            if texts.len() == new.len() {
                for (i, (text, id)) in texts.iter().zip(new).enumerate() {
                    if let Some(named) = named(text) {
                        same_id(named, *id, format!("{path}[{i}]"), text.start)?;
                    }
                }
            }
            append(&mut joined.texts, texts.iter().map(named).collect(), path);
        }
        if let Some((path, node)) = choice.found(Role::TopTriples) {
            let read = logprobs::top_of_triples(node, path, &joined.ids, &self.options)?;
            joined.candidates = Some(read);
        }
        Ok(())
    }

    /// (d), where there is anything of it.
    fn judge_prompt(&mut self, choice: &Choice<'_>, joined: &mut Joined) -> Result<()> {
        let shared = self.is_vllm();
        let options = self.options;
        let prompt = match shared {
            true => &mut self.prompt,
            false => &mut joined.prompt,
        };
        let earlier = prompt.ids.as_ref().map(|(ids, _)| ids.clone());
        let options = Options {
            prompt_token_ids: options.prompt_token_ids.or(earlier.as_deref()),
            score_from: None,
            ..options
        };
        if let Some((ids, path)) = prompt::echo(choice, &options)? {
            prompt.ids = Some((ids, path));
        }
        let ids = options.prompt_token_ids.or(prompt.ids());
        match prompt::logprobs(choice, ids, &options)? {
            prompt::Outcome::Absent => {}
            prompt::Outcome::LeftOut => prompt.left_out = true,
            prompt::Outcome::Read(read, path) => {
                if prompt
                    .logprobs
                    .as_ref()
                    .is_some_and(|(it, _)| !same(it, &read))
                {
                    let message = "other log-probabilities than a chunk before had";
                    let (class, kind) = (Class::Alignment, "contradiction");
                    return Err(Error::new(class, kind, path, None, message));
                }
                prompt.logprobs = Some((read, path));
            }
        }
        if let Some((path, node)) = choice.found(Role::PromptMatrix) {
            let ids = options.prompt_token_ids.or(prompt.ids());
            let len = options.prompt_len.or(ids.map(|ids| ids.len() as u64));
            let read = matrix::read(node, path, len, &options)?;
            prompt.matrix = Some((read, path.to_owned()));
        }
        Ok(())
    }

    /// (e), without the server's counts.
    fn metadata(&mut self, choice: &Choice<'_>, joined: &mut Joined) -> Result<()> {
        let read = metadata::read(choice, joined.ids.len(), &self.options)?;
        let sglang = self.is_sglang();
        if let Some(id) = &read.request_id {
            let first = match sglang {
                true => &mut joined.request_id,
                false => &mut self.request_id,
            };
            let first = first.get_or_insert_with(|| id.clone());
            if first != id {
                let message = format!("a chunk of {id:?} in the stream of {first:?}");
                let (class, kind) = (Class::Malformed, "mixed_streams");
                let found = choice.found(Role::RequestId);
                let (path, node) = found.expect("an id was read");
                return Err(Error::new(class, kind, path, node.start, message));
            }
        }
        if read.finish_reason.is_some() {
            let now = (&read.finish_reason, &read.finish_reason_raw);
            if joined.ended && now != (&joined.finish_reason, &joined.finish_reason_raw) {
                let message = "another finish reason than a chunk before gave";
                let (class, kind) = (Class::Alignment, "contradiction");
                let path = choice.place.path.clone();
                return Err(Error::new(class, kind, path, None, message));
            }
            joined.ended = true;
            joined.finish_reason = read.finish_reason;
            joined.finish_reason_raw = read.finish_reason_raw;
            joined.aborted = read.aborted.or(joined.aborted);
        }
        joined.stop_reason = read.stop_reason.or(joined.stop_reason.take());
        if read.weight_versions.is_some() {
            joined.versions = read.weight_versions;
            let versions = choice.channels(Role::WeightVersions);
            joined.only_a_label = versions.iter().all(|it| it.node.is_none());
            joined.versions_path.clone_from(&versions[0].path);
        }
        let Some(usage) = read.usage else {
            return Ok(());
        };
        let counts = counts::read(choice, Some(&usage));
        match usage {
            Value::Map(usage) if sglang => {
                for (name, count) in usage {
                    joined.usage.retain(|(other, _)| *other != name);
                    joined.usage.push((name, count));
                }
                let earlier = std::mem::take(&mut joined.counts);
                joined.counts.prompt = counts.prompt.or(earlier.prompt);
                joined.counts.completion = counts.completion.or(earlier.completion);
            }
            usage => {
                self.counts = counts;
                self.usage = Some(usage);
            }
        }
        Ok(())
    }

    /// The rows of (f).
    fn rows(&self, choice: &Choice<'_>, joined: &mut Joined) -> Result<()> {
        for (name, path, node) in choice.rows() {
            let mut rows = match node.as_object() {
                Some(_) if self.options.wire.packs() => packed::rows(node, path, &self.options)?,
                _ => readers::per_token(node, path, &self.options, readers::row_of_ids)?,
            };
            let nothing = || (Vec::new(), path.to_owned());
            let (earlier, _) = joined.rows_of_ids.entry(name).or_insert_with(nothing);
            if joined.cumulative == Some(true) {
                extends(&mut rows, earlier, path, node, |a, b| a == b)?;
            }
            earlier.extend(rows);
        }
        Ok(())
    }

    /// The log-probabilities of (f).
    fn sampler(&self, choice: &Choice<'_>, joined: &mut Joined) -> Result<()> {
        let Some((path, node)) = choice.found(Role::SamplerLogprobs) else {
            return Ok(());
        };
        let mut values = readers::flat(node, path, &self.options)?;
        let nothing = || (Vec::new(), path.to_owned());
        let (earlier, _) = joined.sampler.get_or_insert_with(nothing);
        if joined.cumulative == Some(true) {
            let same = |a: &readers::Logprob, b: &readers::Logprob| a.value == b.value;
            extends(&mut values, earlier, path, node, same)?;
        }
        earlier.extend(values);
        Ok(())
    }

    /// (g), of an indexer.
    fn indexer(&self, choice: &Choice<'_>, joined: &mut Joined) -> Result<()> {
        let prompt = match self.is_vllm() {
            true => &self.prompt,
            false => &joined.prompt,
        };
        let sequence = sequence(joined, prompt, None, &self.options);
        let found = choice.found(Role::Indexer);
        if let Some((path, node)) = found
            && self.options.experts != ExpertsMode::Skip
        {
            let kind = match (joined.ended, &joined.indexer) {
                (false, _) => Some("early"),
                (true, Some(_)) => Some("repeated"),
                _ => None,
            };
            if let Some(kind) = kind {
                let message = "indexer rows that are not the only ones, behind the end";
                let class = Class::RoutedExperts;
                return Err(Error::new(class, kind, path, node.start, message));
            }
        }
        let read = match experts::read_indexer(choice, &sequence, &self.options)? {
            experts::Outcome::Absent => return Ok(()),
            experts::Outcome::Skipped => None,
            experts::Outcome::Read(read, _) => Some(read),
        };
        let (path, node) = found.expect("one was read");
        joined.indexer = Some(Experts {
            read,
            path: path.to_owned(),
            node: Some(node.clone()),
        });
        Ok(())
    }

    /// (g).
    fn experts(&self, choice: &Choice<'_>, joined: &mut Joined) -> Result<()> {
        let options = Options {
            require_routed_experts: false,
            ..self.options
        };
        let prompt = match self.is_vllm() {
            true => &self.prompt,
            false => &joined.prompt,
        };
        let sequence = sequence(joined, prompt, None, &options);
        let found = experts::source(choice.channels(Role::RoutedExperts));
        let stands = match choice.routes {
            Some(routes) => Some(routes.place()),
            None => found.map(|(path, node)| (path, node.start)),
        };
        if let Some((path, at)) = stands
            && options.experts != ExpertsMode::Skip
        {
            let refuse = |kind, message: &'static str| {
                let class = Class::RoutedExperts;
                Err(Error::new(class, kind, path, at, message))
            };
            if !joined.ended {
                return refuse("early", "routed experts before the choice has ended");
            }
            if joined.experts.is_some() {
                return refuse("repeated", "routed experts for a second time");
            }
        }
        let (read, path) = match experts::read(choice, &sequence, &options)? {
            experts::Outcome::Absent => return Ok(()),
            experts::Outcome::Skipped => (None, String::new()),
            experts::Outcome::Read(read, path) => (Some(read), path),
        };
        joined.experts = Some(Experts {
            read,
            path,
            node: found.map(|(_, node)| node.clone()),
        });
        Ok(())
    }
}

/// What the rows of a choice are placed by.
pub(super) fn sequence(
    joined: &Joined,
    prompt: &Prompt,
    counted: Option<i128>,
    options: &Options<'_>,
) -> Sequence {
    let ids = options.prompt_token_ids.or(prompt.ids());
    Sequence {
        prompt: options.prompt_len.or(ids.map(|ids| ids.len() as u64)),
        counted,
        tokens: joined.ids.len(),
        aborted: joined.aborted == Some(true),
    }
}

/// The one token that an entry names.
fn name(entry: &readers::Entry) -> Option<i32> {
    match (entry.token, entry.token_id) {
        (Some((one, _)), Some((other, _))) => (one == other).then_some(one),
        (named, None) | (None, named) => named.map(|(id, _)| id),
    }
}

fn after_finish(path: &str, node: &Node) -> Error {
    let message = "tokens of a choice that has ended";
    let (class, kind) = (Class::Malformed, "after_finish");
    Error::new(class, kind, path, node.start, message)
}

/// Where a list differs from its beginning, which is known.
fn contradicted<T>(
    list: &[T],
    beginning: &[T],
    path: &str,
    same: impl Fn(&T, &T) -> bool,
) -> Option<String> {
    let differs = list.iter().zip(beginning).position(|(a, b)| !same(a, b));
    match differs {
        Some(j) => Some(format!("{path}[{j}]")),
        None => (list.len() < beginning.len()).then(|| path.to_owned()),
    }
}

/// Leaves of a cumulative list what is new.
fn extends<T>(
    list: &mut Vec<T>,
    beginning: &[T],
    path: &str,
    node: &Node,
    same: impl Fn(&T, &T) -> bool,
) -> Result<()> {
    if let Some(path) = contradicted(list, beginning, path, same) {
        let message = "another beginning than the chunks before had".to_owned();
        return Err(alignment("contradiction", path, node.start, message));
    }
    list.drain(..beginning.len());
    Ok(())
}

fn append<T>(column: &mut Option<(Vec<T>, String)>, more: Vec<T>, path: &str) {
    let (values, _) = column.get_or_insert_with(|| (Vec::new(), path.to_owned()));
    values.extend(more);
}

/// The entries of each position.
fn positions(top: &Top) -> Vec<Vec<(i32, f64)>> {
    let spans = top.offsets.windows(2);
    spans
        .map(|span| {
            let entries = span[0] as usize..span[1] as usize;
            entries
                .map(|i| (top.token_ids[i], top.logprobs[i]))
                .collect()
        })
        .collect()
}

/// NaN is NaN.
fn same_value(a: &f64, b: &f64) -> bool {
    a == b || a.is_nan() && b.is_nan()
}

fn same(one: &PromptLogprobs, other: &PromptLogprobs) -> bool {
    let same = |one: &[f64], other: &[f64]| {
        let mut pairs = one.iter().zip(other);
        one.len() == other.len() && pairs.all(|(a, b)| same_value(a, b))
    };
    same(&one.logprobs, &other.logprobs)
        && same(&one.top.logprobs, &other.top.logprobs)
        && one.top.token_ids == other.top.token_ids
        && one.top.offsets == other.top.offsets
}
