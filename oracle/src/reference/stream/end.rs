//! The end of a stream: the joined columns are judged, and become completions.

use std::cell::OnceCell;

use super::chunk::sequence;
use super::{Joined, Prompt, SoFar, Stream, not_a_stream};
use crate::reference::logprobs::{self, Sourced, alignment, or_nan, same_id};
use crate::reference::readers::{Entry, Logprob};
use crate::reference::{
    Attribute, Completion, Mask, RoutedExperts, Top, Value, counts, experts, json, spans,
    structure, told, width,
};
use dynamo_tito::{Class, Error, ExpertsMode, Options, Result, Wire};

/// How a stream ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// As the server meant it to.
    Finished,
    /// Before.
    Abandoned,
}

impl Stream<'_> {
    /// The completions, by index; `one_only`: the one.
    ///
    /// # Errors
    /// What the page says.
    pub fn end(&self, ending: Ending, one_only: bool) -> Result<Vec<Completion>> {
        let abandoned = ending == Ending::Abandoned;
        match &self.error {
            Some(error) if abandoned && error.class == Class::Server => {}
            Some(error) => return Err(error.clone()),
            None => {}
        }
        if let Some((at, document)) = &self.document {
            return Err(self.plain_json(*at, document));
        }
        let every_ended = self.choices.values().all(|choice| choice.ended);
        let whole = self.done && every_ended && !self.choices.is_empty();
        if !abandoned && !whole {
            let message = "the stream is not at its end";
            let (class, kind) = (Class::Malformed, "unfinished_stream");
            return Err(Error::new(class, kind, "", self.fed, message));
        }
        if one_only && self.choices.len() > 1 {
            let message = "expected one choice, found several";
            let (class, kind) = (Class::Malformed, "several_choices");
            return Err(Error::new(class, kind, "", None, message));
        }
        let none = Joined::default();
        let mut choices: Vec<(u32, &Joined)> = self
            .choices
            .iter()
            .map(|(index, it)| (*index, it))
            .collect();
        if choices.is_empty() && one_only {
            choices.push((0, &none));
        }
        let mut completions: Vec<Completion> = Vec::new();
        for (rank, (index, choice)) in choices.iter().enumerate() {
            let last = rank + 1 == choices.len();
            let counted = match last && every_ended {
                true => Some(choices.iter().map(|(_, choice)| choice.ids.len()).sum()),
                false => None,
            };
            let end = End {
                stream: self,
                choice,
                place: Place {
                    wire: self.options.wire,
                    rank,
                    of_several: choices.len() > 1,
                },
                cut_off: abandoned && !choice.ended,
                counted,
            };
            completions.push(end.completion(*index)?);
        }
        Ok(completions)
    }

    /// A document where a stream was expected: what it says may be more.
    fn plain_json(&self, at: usize, document: &[u8]) -> Error {
        let document = json::parse(document, self.options.limits.max_depth);
        let artifact = OnceCell::new();
        let told = document
            .and_then(|it| structure::chunk(&it, &artifact, &self.options, false).map(|_| ()));
        match told {
            Err(error) if error.class == Class::Server => error,
            _ => not_a_stream(at),
        }
    }

    /// What the choices have so far, by index.
    #[must_use]
    pub fn so_far(&self) -> Vec<SoFar> {
        let choices = self.choices.iter();
        choices
            .map(|(index, choice)| SoFar {
                index: *index,
                token_ids: choice.ids.clone(),
                logprobs: choice.logprobs_so_far(),
                top_logprobs: choice.top_so_far(),
                finish_reason: choice.finish_reason.clone().filter(|_| choice.ended),
            })
            .collect()
    }
}

/// Where a choice stands in the unary answer.
struct Place {
    wire: Wire,
    rank: usize,
    of_several: bool,
}

impl Place {
    /// The path of a chunk, as the unary answer has it.
    fn path(&self, path: &str) -> String {
        if let Some(rest) = path.strip_prefix("choices[") {
            let (_, rest) = rest.split_once(']').unwrap_or_default();
            return format!("choices[{}]{rest}", self.rank);
        }
        if self.wire == Wire::SglangGenerate && self.of_several {
            return format!("[{}].{path}", self.rank);
        }
        path.to_owned()
    }
}

struct End<'s> {
    stream: &'s Stream<'s>,
    choice: &'s Joined,
    place: Place,
    /// Abandoned before its end.
    cut_off: bool,
    /// The tokens of all choices, where they are counted with this one.
    counted: Option<usize>,
}

/// Columns have no bytes of their own.
fn without_offset(error: Error) -> Error {
    Error {
        offset: None,
        ..error
    }
}

/// An identity is one of the whole entry.
fn of_an_entry(error: Error) -> Error {
    let mut error = without_offset(error);
    if error.kind == "identity" {
        let end = error.path.rfind(']').map_or(0, |at| at + 1);
        error.path.truncate(end);
    }
    error
}

fn missing(path: String, message: &'static str) -> Error {
    Error::new(Class::Missing, "missing", path, None, message)
}

fn same_count(entries: usize, ids: usize, path: &str) -> Result<()> {
    if entries == ids {
        return Ok(());
    }
    let message = format!("{entries} entries for {ids} tokens");
    let (class, kind) = (Class::Alignment, "count");
    Err(Error::new(class, kind, path, None, message))
}

impl End<'_> {
    fn options(&self) -> &Options<'_> {
        &self.stream.options
    }

    fn prompt(&self) -> &Prompt {
        match self.stream.is_vllm() {
            true => &self.stream.prompt,
            false => &self.choice.prompt,
        }
    }

    fn completion(&self, index: u32) -> Result<Completion> {
        let choice = self.choice;
        let mut found = Completion::new();
        let mut sources = Vec::new();
        let prompt = self.prompt();
        let mut prompt_logprobs = None;
        if let Some((read, path)) = &prompt.logprobs {
            let (mut read, path) = (read.clone(), self.place.path(path));
            width::prompt(&mut read, &path, self.options())?;
            prompt_logprobs = Some((read, path));
        }
        if let Some(path) = self.ids_from()? {
            sources.push(("token_ids", path));
        }
        let (read, top, echo_left_out) = self.logprobs()?;
        let logprobs = match read {
            Some((mut values, path)) => {
                width::values(&mut values, |i| i, &path, self.options())?;
                sources.push(("logprobs", path));
                Some(values)
            }
            None if choice.ids.is_empty() => Some(Vec::new()),
            None => None,
        };
        found.extend(logprobs.map(|it| ("logprobs", Attribute::Logprobs(it))));
        if let Some((mut top, path)) = top {
            width::top(&mut top, &path, self.options())?;
            sources.push(("top_logprobs", path));
            found.insert("top_logprobs", Attribute::Top(top));
        }
        if let Some(why) = echo_left_out {
            sources.push(("logprobs_echo", why));
        }
        if let Some((ids, path)) = &prompt.ids {
            sources.push(("prompt_token_ids", self.place.path(path)));
            found.insert("prompt_token_ids", Attribute::Ids(ids.clone()));
        }
        if let Some((read, path)) = prompt_logprobs {
            sources.push(("prompt_logprobs", path));
            found.insert("prompt_logprobs", Attribute::PromptLogprobs(read));
        } else if prompt.left_out {
            let why = "left out: needs prompt_token_ids";
            sources.push(("prompt_logprobs", why.to_owned()));
        }
        if let Some((matrix, path)) = &prompt.matrix {
            sources.push(("prompt_token_id_logprobs", self.place.path(path)));
            let read = Attribute::Matrix(matrix.clone());
            found.insert("prompt_token_id_logprobs", read);
        }
        let weight_versions = self.versions()?;
        self.counts()?;
        let told = match self.stream.is_sglang() {
            true => &choice.told,
            false => &self.stream.told,
        };
        let (engine, engine_left_out) = told::engine(told, |path| self.place.path(path));
        for (name, (rows, path)) in &choice.rows_of_ids {
            let path = self.place.path(path);
            let rows = self.rows(name, rows, &path)?;
            sources.push((name, path));
            found.insert(name, Attribute::Rows(rows));
        }
        if let Some((values, path)) = &choice.sampler {
            let path = self.place.path(path);
            same_count(values.len(), choice.ids.len(), &path)?;
            let missing = self.options().missing_logprob;
            let values = values.iter().enumerate();
            let values =
                values.map(|(i, value)| logprobs::given(*value, &format!("{path}[{i}]"), missing));
            let values: Result<Vec<f64>> = values.collect();
            let mut values = values.map_err(without_offset)?;
            width::values(&mut values, |i| i, &path, self.options())?;
            sources.push(("sampling_logprobs", path));
            found.insert("sampling_logprobs", Attribute::Logprobs(values));
        }
        let routed = self.experts()?;
        found.extend(routed.map(|it| ("routed_experts", Attribute::Experts(it))));
        if let Some(experts) = &choice.experts {
            let why = match self.options().experts {
                ExpertsMode::Skip => "left out: experts=\"skip\"".to_owned(),
                _ => self.place.path(&experts.path),
            };
            sources.push(("routed_experts", why));
        }
        sources.extend(choice.notes.iter().cloned());
        let chosen = self.indexer()?;
        found.extend(chosen.map(|it| ("indexer_topk", Attribute::Indexer(it))));
        if let Some(indexer) = &choice.indexer {
            let why = match self.options().experts {
                ExpertsMode::Skip => "left out: experts=\"skip\"".to_owned(),
                _ => self.place.path(&indexer.path),
            };
            sources.push(("indexer_topk", why));
        }
        sources.extend(engine_left_out.map(|why| ("engine", why)));
        found.insert("token_ids", Attribute::Ids(choice.ids.clone()));
        let (request_id, usage) = match self.stream.is_sglang() {
            true => (&choice.request_id, self.sglang_usage()),
            false => (&self.stream.request_id, self.stream.usage.clone()),
        };
        let text = |text: &Option<String>| text.clone().map(Value::Text);
        let finish = match self.cut_off {
            true => [
                ("finish_reason", Some(Value::Text("abort".to_owned()))),
                ("finish_reason_raw", None),
                ("stop_reason", None),
                ("aborted", Some(Value::Bool(true))),
            ],
            false => [
                ("finish_reason", text(&choice.finish_reason)),
                ("finish_reason_raw", text(&choice.finish_reason_raw)),
                ("stop_reason", choice.stop_reason.clone()),
                ("aborted", choice.aborted.map(Value::Bool)),
            ],
        };
        let sources = sources
            .into_iter()
            .map(|(name, path)| (name.to_owned(), Value::Text(path)));
        let small = [
            ("request_id", text(request_id)),
            ("index", Some(Value::Int(index.into()))),
            ("usage", usage),
            ("weight_versions", weight_versions),
            ("engine", engine),
            ("sources", Some(Value::Map(sources.collect()))),
        ];
        let small = finish.into_iter().chain(small);
        found.extend(small.filter_map(|(name, value)| Some((name, Attribute::Json(value?)))));
        Ok(found)
    }

    /// (a): where the ids came from, if any came.
    fn ids_from(&self) -> Result<Option<String>> {
        let choice = self.choice;
        if let Some((_, path)) = &choice.ids_from {
            return Ok(Some(self.place.path(path)));
        }
        if self.cut_off && !choice.ids.is_empty() {
            let path = "choices[0].logprobs.content[].token_id";
            return Ok(Some(self.place.path(path)));
        }
        let may_have_none = match self.options().wire {
            // The first chunk has a role and no tokens.
            Wire::VllmChat => 1,
            _ => 0,
        };
        if self.cut_off && choice.chunks <= may_have_none {
            return Ok(None);
        }
        let path = self.place.path(&choice.paths.ids);
        Err(missing(path, "the stream names no token ids"))
    }

    /// (b) and (c).
    #[expect(clippy::type_complexity, reason = "what a choice has of both")]
    fn logprobs(&self) -> Result<(Sourced<Vec<f64>>, Sourced<Top>, Option<String>)> {
        let (choice, ids) = (self.choice, &self.choice.ids);
        let mut read = None;
        let mut top = None;
        let mut left_out = None;
        let of_entries = |entries, path: &str| match choice.candidates {
            Some(_) => Ok(None),
            None => logprobs::top_of_content(entries, path, ids).map_err(without_offset),
        };
        let left = |entries: usize, path: &str| {
            let of_another_length = logprobs::of_another_length(path, entries, ids);
            (entries != ids.len()).then_some(of_another_length)
        };
        if let Some((values, path)) = &choice.values {
            let path = self.place.path(path);
            same_count(values.len(), ids.len(), &path)?;
            read = Some((values.clone(), path));
            if let Some((entries, path)) = &choice.entries {
                top = of_entries(entries, &self.place.path(path))?;
            }
        } else if let Some((values, path)) = &choice.flat {
            let path = self.place.path(path);
            same_count(values.len(), ids.len(), &path)?;
            read = Some((values.clone(), path));
            if let Some((entries, path)) = &choice.entries {
                let path = self.place.path(path);
                left_out = match &choice.kept {
                    Some(_) => Some(logprobs::unreadable(&path)),
                    None => left(entries.len(), &path),
                };
                if left_out.is_none() {
                    for (i, (entry, id)) in entries.iter().zip(ids).enumerate() {
                        let path = format!("{path}[{i}]");
                        let identity = logprobs::identity(entry, *id, &path);
                        identity.map_err(of_an_entry)?;
                    }
                    top = of_entries(entries, &path)?;
                }
            }
        } else if let Some((entries, path)) = &choice.entries {
            self.nothing_kept()?;
            let path = self.place.path(path);
            same_count(entries.len(), ids.len(), &path)?;
            let values = logprobs::from_entries(entries, &path, ids, self.options());
            read = Some((values.map_err(of_an_entry)?, path.clone()));
            top = of_entries(entries, &path)?;
        } else if let Some((values, path)) = &choice.listed {
            self.nothing_kept()?;
            let path = self.place.path(path);
            same_count(values.len(), ids.len(), &path)?;
            let missing = self.options().missing_logprob;
            let values = values.iter().enumerate();
            let values =
                values.map(|(i, value)| logprobs::given(*value, &format!("{path}[{i}]"), missing));
            let values: Result<Vec<f64>> = values.collect();
            read = Some((values.map_err(without_offset)?, path));
        }
        if let Some((texts, path)) = &choice.texts {
            let path = self.place.path(path);
            left_out = match choice.unreadable_texts {
                true => Some(logprobs::unreadable(&path)),
                false => left(texts.len(), &path),
            };
            if left_out.is_none() {
                for (i, (text, id)) in texts.iter().zip(ids).enumerate() {
                    if let Some(named) = text {
                        let same = same_id(*named, *id, format!("{path}[{i}]"), 0);
                        same.map_err(without_offset)?;
                    }
                }
            }
        }
        if read.is_none() && !ids.is_empty() && self.options().require_logprobs {
            let path = self.place.path(&choice.paths.logprobs);
            return Err(missing(path, "the stream holds no log-probabilities"));
        }
        if let Some(candidates) = &choice.candidates {
            if let Some((rows, path)) = candidates {
                same_count(rows.offsets.len() - 1, ids.len(), path)?;
            }
            top = candidates.clone();
        }
        if let Some((rows, path)) = &choice.rows {
            let path = self.place.path(path);
            same_count(rows.offsets.len() - 1, ids.len(), &path)?;
            top = (!rows.token_ids.is_empty()).then(|| (rows.clone(), path));
        }
        Ok((read, top, left_out))
    }

    fn nothing_kept(&self) -> Result<()> {
        self.choice.kept.clone().map_or(Ok(()), Err)
    }

    /// (e): the spans.
    fn versions(&self) -> Result<Option<Value>> {
        let choice = self.choice;
        let Some(versions) = &choice.versions else {
            return Ok(None);
        };
        if choice.only_a_label {
            return Ok(Some(versions.clone()));
        }
        let path = self.place.path(&choice.versions_path);
        match spans::judge(versions, &path, None, choice.ids.len()) {
            Err(_) if self.cut_off => Ok(None),
            Err(error) => Err(error),
            Ok(()) => Ok(Some(versions.clone())),
        }
    }

    fn sglang_usage(&self) -> Option<Value> {
        let order = [
            "prompt_tokens",
            "completion_tokens",
            "cached_tokens",
            "reasoning_tokens",
        ];
        let usage = &self.choice.usage;
        let listed = order.iter().filter_map(|name| {
            let (_, count) = usage.iter().find(|(known, _)| known == name)?;
            Some(((*name).to_owned(), count.clone()))
        });
        let listed: Vec<(String, Value)> = listed.collect();
        (!listed.is_empty()).then_some(Value::Map(listed))
    }

    fn own_counts(&self) -> &counts::Counts {
        match self.stream.is_sglang() {
            true => &self.choice.counts,
            false => &self.stream.counts,
        }
    }

    /// The server's count of the prompt, where it is one.
    fn counted_prompt(&self) -> Option<&counts::Count> {
        let choice = self.choice;
        let never_ran = choice.aborted == Some(true) && choice.ids.is_empty();
        self.own_counts().prompt.as_ref().filter(|_| !never_ran)
    }

    /// (e): the server's own counts.
    fn counts(&self) -> Result<()> {
        if self.cut_off {
            return Ok(());
        }
        let located = |error: Error| {
            let path = self.place.path(&error.path);
            without_offset(Error { path, ..error })
        };
        let sequence = sequence(self.choice, self.prompt(), None, self.options());
        counts::prompt_agrees(self.counted_prompt(), sequence.prompt).map_err(located)?;
        let counted = self.own_counts().completion.as_ref();
        let tokens = match self.stream.is_sglang() {
            true => Some(self.choice.ids.len()),
            false => self.counted,
        };
        match tokens {
            Some(tokens) => counts::completion_agrees(counted, tokens).map_err(located),
            None => Ok(()),
        }
    }

    /// (f).
    fn rows(&self, name: &'static str, rows: &[Vec<i32>], path: &str) -> Result<Mask> {
        let ids = &self.choice.ids;
        same_count(rows.len(), ids.len(), path)?;
        let mut mask = Mask {
            token_ids: Vec::new(),
            offsets: vec![0],
        };
        for (i, (row, id)) in rows.iter().zip(ids).enumerate() {
            if !row.contains(id) {
                let message = format!("the list does not hold token {id}, which was sampled");
                let error = alignment(name, format!("{path}[{i}]"), 0, message);
                return Err(without_offset(error));
            }
            mask.token_ids.extend(row);
            mask.offsets.push(mask.token_ids.len() as i64);
        }
        Ok(mask)
    }

    /// (g): compared with the server's count of the prompt, where its length is not known otherwise.
    fn experts(&self) -> Result<Option<RoutedExperts>> {
        let (choice, options) = (self.choice, self.options());
        let Some(experts) = &choice.experts else {
            let never_ran = choice.aborted == Some(true) && choice.ids.is_empty();
            if options.require_routed_experts && !self.cut_off && !never_ran {
                let path = self.place.path(&choice.paths.experts);
                return Err(missing(path, "the stream holds no routed experts"));
            }
            return Ok(None);
        };
        let counted = self.counted_prompt().map(|count| count.tokens);
        let sequence = sequence(choice, self.prompt(), counted, options);
        let (Some(_), None, Some(_), Some(node)) =
            (&experts.read, sequence.prompt, counted, &experts.node)
        else {
            return Ok(experts.read.clone());
        };
        let path = self.place.path(&experts.path);
        let read = experts::from(&path, node, &sequence, options);
        read.map(Some).map_err(without_offset)
    }

    /// The same of an indexer.
    fn indexer(&self) -> Result<Option<RoutedExperts>> {
        let (choice, options) = (self.choice, self.options());
        let Some(indexer) = &choice.indexer else {
            return Ok(None);
        };
        let counted = self.counted_prompt().map(|count| count.tokens);
        let sequence = sequence(choice, self.prompt(), counted, options);
        let (Some(_), None, Some(_), Some(node)) =
            (&indexer.read, sequence.prompt, counted, &indexer.node)
        else {
            return Ok(indexer.read.clone());
        };
        let path = self.place.path(&indexer.path);
        let read = experts::from_indexer(&path, node, &sequence, options);
        read.map(Some).map_err(without_offset)
    }
}

impl Joined {
    /// What came for each token; of Dynamo's entries those that are no log-probabilities are NaN.
    fn logprobs_so_far(&self) -> Option<Vec<f64>> {
        let settled = |logprob: Logprob| match logprobs::possible(logprob, "") {
            Ok(()) => or_nan(logprob),
            Err(_) => f64::NAN,
        };
        let of_entries = |(entries, _): &(Vec<Entry>, String)| {
            entries.iter().map(|it| settled(it.logprob)).collect()
        };
        let of_list =
            |(list, _): &(Vec<Logprob>, String)| list.iter().map(|it| settled(*it)).collect();
        let values: Vec<f64> = (self.values.as_ref().map(|(values, _)| values.clone()))
            .or(self.entries.as_ref().map(of_entries))
            .or(self.listed.as_ref().map(of_list))?;
        (values.len() == self.ids.len()).then_some(values)
    }

    fn top_so_far(&self) -> Option<Top> {
        let mut top = Top::start();
        if let Some((rows, _)) = &self.rows {
            top = rows.clone();
        } else {
            let (entries, _) = self.entries.as_ref()?;
            for entry in entries {
                for other in &entry.top {
                    let (id, _) = other.token.or(other.token_id)?;
                    top.push(id, or_nan(other.logprob));
                }
                top.end_position();
            }
        }
        let whole = top.offsets.len() == self.ids.len() + 1 && !top.token_ids.is_empty();
        whole.then_some(top)
    }
}
