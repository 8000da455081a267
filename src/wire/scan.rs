//! The scan: one walk over a body that fills a [`Document`].

use std::fmt::Arguments;

use crate::error::{Class, Error, Result};
use crate::experts::Container;
use crate::json::{Cursor, Kind};
use crate::limits::{Limits, MAX_CHOICES};

use super::document::{
    Choice, Choices, Document, Element, EngineData, Head, Logprobs, MetaInfo, Nvext, USAGE,
};
use super::entries;
use super::field::{Field, Span};
use super::list;
use super::prompt;
use super::walk::{Part, Walk, wrong_kind};
use crate::options::Wire;

/// Reads the whole body: syntax first, then repeated keys; everything else is left to the resolver. Unless `several`
/// choices can be answered, those behind the first are read for what is judged before they are refused.
pub(super) fn scan(
    body: &[u8],
    wire: Wire,
    several: bool,
    skip_experts: bool,
    limits: Limits,
) -> Result<Document> {
    let mut walk = Walk {
        body,
        repeated: None,
        skip_experts,
        answerable: if several { MAX_CHOICES } else { 1 },
        unescaped: Vec::new(),
    };
    let mut cursor = Cursor::within(body, limits);
    let at = {
        cursor.space();
        cursor.pos
    };
    if is_event_stream(&body[at..]) {
        return Err(event_stream(at));
    }
    let mut document = Document::default();
    let wrong = match (cursor.kind()?, wire) {
        (Kind::Object, _) => {
            walk.top(&mut cursor, wire, &mut document)?;
            None
        }
        (Kind::Array, Wire::SglangGenerate) => {
            document.verdict.array = Some(at);
            walk.elements(&mut cursor, at, &mut document)?
        }
        (found, _) => {
            cursor.skip_value()?;
            Some(wrong_kind(format_args!(""), at, found, Kind::Object))
        }
    };
    cursor.end()?;
    match wrong.or(walk.repeated) {
        Some(error) => Err(error),
        None => Ok(document),
    }
}

/// Whether a body begins as server-sent events do: with a field of theirs or a comment. No JSON does.
fn is_event_stream(body: &[u8]) -> bool {
    let begins: [&[u8]; 5] = [b"data:", b"event:", b"id:", b"retry:", b":"];
    begins.iter().any(|begin| body.starts_with(begin))
}

#[cold]
fn event_stream(at: usize) -> Error {
    Error::new(
        Class::Malformed,
        "event_stream",
        "",
        at,
        "found server-sent events (a streamed answer) where one JSON document was expected; ask with stream=False",
    )
}

const COMMON: [&str; 8] = [
    "error",
    "object",
    "status",
    "message",
    "type",
    "code",
    "choices",
    "routed_experts",
];

/// The keys of the top level, by wire.
fn top_names(wire: Wire) -> &'static [&'static str] {
    macro_rules! names {
        ($($name:literal),*) => {{
            const NAMES: &[&str] = &[
                COMMON[0], COMMON[1], COMMON[2], COMMON[3], COMMON[4], COMMON[5], COMMON[6], COMMON[7], $($name),*
            ];
            NAMES
        }};
    }
    match wire {
        Wire::DynamoChat | Wire::DynamoCompletions => {
            names!("nvext", "prompt_logprobs", "usage", "id")
        }
        Wire::VllmGenerate => names!("prompt_token_ids", "prompt_logprobs", "usage", "request_id"),
        Wire::VllmChat => names!("prompt_token_ids", "prompt_logprobs", "usage", "id"),
        Wire::SglangGenerate => names!("output_ids", "meta_info", "prompt_token_ids"),
    }
}

impl<'a> Walk<'a> {
    fn top(&mut self, cursor: &mut Cursor<'a>, wire: Wire, document: &mut Document) -> Result<()> {
        let mut element = Element::default();
        self.object(
            cursor,
            format_args!(""),
            top_names(wire),
            |walk, cursor, name| {
                let verdict = &mut document.verdict;
                match name {
                    "error" => verdict.error = Span::read(cursor)?,
                    "object" | "status" => verdict.says_error |= says_error(cursor)?,
                    "message" => {
                        verdict.flat += 1;
                        verdict.message = Span::read(cursor)?;
                    }
                    "type" | "code" => {
                        verdict.flat += 1;
                        cursor.skip_value()?;
                    }
                    "choices" if wire == Wire::SglangGenerate => {
                        if Span::read(cursor)?.is_some() {
                            document.choices = Part::Here(Choices::default());
                        }
                    }
                    "choices" => {
                        document.choices = walk.part(
                            cursor,
                            format_args!("choices"),
                            Kind::Array,
                            |walk, cursor| walk.choices(cursor, wire),
                        )?;
                    }
                    "routed_experts" if wire == Wire::SglangGenerate => {
                        element.unread_experts = offset(cursor)?
                    }
                    "routed_experts" => document.unread_experts = offset(cursor)?,
                    "nvext" => {
                        let path = format_args!("nvext");
                        document.nvext = walk.part(cursor, path, Kind::Object, Self::nvext)?
                    }
                    "prompt_token_ids" if wire == Wire::SglangGenerate => {
                        element.prompt_token_ids = Field::now::<list::Ids>(cursor)?
                    }
                    "prompt_token_ids" => {
                        document.prompt_token_ids = Field::now::<list::Ids>(cursor)?
                    }
                    "prompt_logprobs" if wire.is_dynamo() => {
                        document.prompt_logprobs = Field::later(cursor)?
                    }
                    "prompt_logprobs" => {
                        document.prompt_logprobs = Field::now::<prompt::PromptEntries>(cursor)?
                    }
                    "usage" => document.usage = Span::read(cursor)?,
                    "id" | "request_id" => document.request_id = Span::read(cursor)?,
                    "output_ids" => element.output_ids = Field::now::<list::Ids>(cursor)?,
                    "meta_info" => {
                        element.meta_info =
                            walk.meta_info(cursor, format_args!("meta_info"), true)?
                    }
                    _ => unreachable!("{name}"),
                }
                Ok(())
            },
        )?;
        if wire == Wire::SglangGenerate {
            document.elements.push(element);
        }
        Ok(())
    }

    /// SGLang's array; an element that is no object is the body's error.
    fn elements(
        &mut self,
        cursor: &mut Cursor<'a>,
        at: usize,
        document: &mut Document,
    ) -> Result<Option<Error>> {
        let mut wrong = None;
        let mut count = 0;
        cursor.array(|cursor, i| {
            count = i + 1;
            if i == 1 {
                document.verdict.second = Some(cursor.pos);
            }
            if i >= MAX_CHOICES && cursor.byte() == Some(b'{') && nothing_repeated(cursor)? {
                return Ok(());
            }
            let path = format_args!("[{i}]");
            let answerable = i < self.answerable;
            match self.element(cursor, path, answerable)? {
                Part::Here(element) => document.elements.extend(answerable.then_some(element)),
                Part::Wrong(error) => {
                    wrong.get_or_insert(error);
                }
                Part::Absent => {
                    wrong.get_or_insert_with(|| {
                        wrong_kind(path, cursor.pos - 4, Kind::Null, Kind::Object)
                    });
                }
            }
            Ok(())
        })?;
        if count == 0 {
            wrong = Some(Error::new(
                Class::Missing,
                "missing",
                "[0]",
                None,
                "the array of answers is empty",
            ));
        } else if count > MAX_CHOICES {
            wrong = Some(too_many("", at));
        }
        Ok(wrong)
    }

    fn element(
        &mut self,
        cursor: &mut Cursor<'a>,
        path: Arguments<'_>,
        answerable: bool,
    ) -> Result<Part<Element>> {
        const NAMES: &[&str] = &[
            "output_ids",
            "meta_info",
            "prompt_token_ids",
            "routed_experts",
        ];
        self.part(cursor, path, Kind::Object, |walk, cursor| {
            let mut element = Element::default();
            walk.object(cursor, path, NAMES, |walk, cursor, name| {
                match name {
                    "meta_info" => {
                        let path = format_args!("{path}.meta_info");
                        element.meta_info = walk.meta_info(cursor, path, answerable)?
                    }
                    _ if !answerable => cursor.skip_value()?,
                    "output_ids" => element.output_ids = Field::now::<list::Ids>(cursor)?,
                    "routed_experts" => element.unread_experts = offset(cursor)?,
                    _ => element.prompt_token_ids = Field::now::<list::Ids>(cursor)?,
                }
                Ok(())
            })?;
            Ok(element)
        })
    }

    fn meta_info(
        &mut self,
        cursor: &mut Cursor<'a>,
        path: Arguments<'_>,
        answerable: bool,
    ) -> Result<Part<MetaInfo>> {
        const NAMES: &[&str] = &[
            USAGE[0],
            USAGE[1],
            USAGE[2],
            USAGE[3],
            "id",
            "finish_reason",
            "weight_version",
            "weight_versions",
            "output_token_logprobs",
            "output_top_logprobs",
            "input_token_logprobs",
            "input_top_logprobs",
            "output_token_sampling_mask",
            "routed_experts",
        ];
        self.part(cursor, path, Kind::Object, |walk, cursor| {
            let mut meta = MetaInfo::default();
            walk.object(cursor, path, NAMES, |walk, cursor, name| {
                match name {
                    _ if !answerable => cursor.skip_value()?,
                    "id" => meta.id = Span::read(cursor)?,
                    "finish_reason" => meta.finish_reason = Span::read(cursor)?,
                    "weight_version" => meta.weight_version = Span::read(cursor)?,
                    "weight_versions" => meta.weight_versions = Span::read(cursor)?,
                    "output_token_logprobs" => {
                        meta.output_token_logprobs = Field::now::<list::Triples>(cursor)?
                    }
                    "output_top_logprobs" => {
                        meta.output_top_logprobs = Field::now::<super::top::TopRows>(cursor)?
                    }
                    "input_token_logprobs" => {
                        meta.input_token_logprobs = Field::now::<list::Triples>(cursor)?
                    }
                    "input_top_logprobs" => {
                        meta.input_top_logprobs = Field::now::<super::top::TopRows>(cursor)?
                    }
                    "output_token_sampling_mask" => {
                        meta.sampling_mask = Field::now::<list::IdLists>(cursor)?
                    }
                    "routed_experts" => meta.routed_experts = walk.experts(cursor)?,
                    count => {
                        let place = USAGE.iter().position(|name| *name == count);
                        meta.usage[place.expect("one of the names above")] = Span::read(cursor)?;
                    }
                }
                Ok(())
            })?;
            Ok(meta)
        })
    }

    fn choices(&mut self, cursor: &mut Cursor<'a>, wire: Wire) -> Result<Choices> {
        let mut choices = Choices::default();
        let at = cursor.pos;
        cursor.array(|cursor, i| {
            if i >= MAX_CHOICES {
                choices
                    .too_many
                    .get_or_insert_with(|| too_many("choices", at));
                if nothing_repeated(cursor)? {
                    return Ok(());
                }
            }
            self.choice(cursor, wire, i, &mut choices)
        })?;
        Ok(choices)
    }

    fn choice(
        &mut self,
        cursor: &mut Cursor<'a>,
        wire: Wire,
        i: usize,
        choices: &mut Choices,
    ) -> Result<()> {
        const ALL: &[&str] = &[
            "index",
            "token_ids",
            "logprobs",
            "finish_reason",
            "stop_reason",
            "weight_versions",
            "routed_experts",
            "sampling_mask",
        ];
        let names = if wire.is_dynamo() { &ALL[..7] } else { ALL };
        let path = format_args!("choices[{i}]");
        let at = cursor.pos;
        let mut index = None;
        let mut answerable = (i < self.answerable).then(Choice::default);
        let part = self.part(cursor, path, Kind::Object, |walk, cursor| {
            walk.object(cursor, path, names, |walk, cursor, name| {
                if name == "index" {
                    index = Span::read(cursor)?;
                    return Ok(());
                }
                if name == "logprobs" {
                    let path = format_args!("{path}.logprobs");
                    let logprobs = answerable.as_mut().map(|choice| &mut choice.logprobs);
                    if let Part::Wrong(error) = walk.logprobs(cursor, wire, path, logprobs)? {
                        choices.wrong_logprobs.get_or_insert(error);
                    }
                    return Ok(());
                }
                let Some(choice) = &mut answerable else {
                    return cursor.skip_value();
                };
                match name {
                    "token_ids" if wire.is_dynamo() => choice.token_ids = Field::later(cursor)?,
                    "token_ids" => choice.token_ids = Field::now::<list::Ids>(cursor)?,
                    "finish_reason" => choice.finish_reason = Span::read(cursor)?,
                    "stop_reason" => choice.stop_reason = Span::read(cursor)?,
                    "weight_versions" => choice.weight_versions = Span::read(cursor)?,
                    "sampling_mask" => choice.sampling_mask = Field::now::<list::IdLists>(cursor)?,
                    "routed_experts" if wire.is_dynamo() => choice.unread_experts = offset(cursor)?,
                    "routed_experts" => choice.routed_experts = walk.experts(cursor)?,
                    _ => unreachable!("{name}"),
                }
                Ok(())
            })
        })?;
        match part {
            Part::Here(()) => {}
            Part::Wrong(error) => {
                choices.wrong.get_or_insert(error);
            }
            Part::Absent => {
                choices
                    .wrong
                    .get_or_insert_with(|| wrong_kind(path, at, Kind::Null, Kind::Object));
            }
        }
        if i < MAX_CHOICES {
            choices.heads.push(Head { at, index });
            choices.list.extend(answerable);
        }
        Ok(())
    }

    fn logprobs(
        &mut self,
        cursor: &mut Cursor<'a>,
        wire: Wire,
        path: Arguments<'_>,
        mut answerable: Option<&mut Logprobs>,
    ) -> Result<Part<()>> {
        let names: &[&str] = match wire {
            Wire::DynamoCompletions => &["token_logprobs", "tokens"],
            _ => &["content"],
        };
        self.part(cursor, path, Kind::Object, |walk, cursor| {
            walk.object(cursor, path, names, |_, cursor, name| {
                let Some(logprobs) = &mut answerable else {
                    return cursor.skip_value();
                };
                match name {
                    "content" => logprobs.content = Field::now::<entries::Content>(cursor)?,
                    "token_logprobs" => {
                        logprobs.token_logprobs = Field::now::<list::Numbers>(cursor)?
                    }
                    _ => logprobs.tokens = Span::read(cursor)?,
                }
                Ok(())
            })
        })
    }

    fn nvext(&mut self, cursor: &mut Cursor<'a>) -> Result<Nvext> {
        const NAMES: &[&str] = &[
            "engine_data",
            "completion_token_ids",
            "prompt_token_ids",
            "prompt_logprobs",
            "routed_experts",
            "stop_reason",
            "detailed_finish_reason",
        ];
        let mut nvext = Nvext::default();
        self.object(
            cursor,
            format_args!("nvext"),
            NAMES,
            |walk, cursor, name| {
                match name {
                    "engine_data" => {
                        let path = format_args!("nvext.engine_data");
                        nvext.engine_data =
                            walk.part(cursor, path, Kind::Object, Self::engine_data)?;
                    }
                    "completion_token_ids" => nvext.completion_token_ids = Field::later(cursor)?,
                    "prompt_token_ids" => nvext.prompt_token_ids = Field::later(cursor)?,
                    "prompt_logprobs" => nvext.prompt_logprobs = Field::later(cursor)?,
                    "routed_experts" => nvext.routed_experts = walk.experts(cursor)?,
                    "stop_reason" => nvext.stop_reason = Span::read(cursor)?,
                    _ => nvext.detailed_finish_reason = Span::read(cursor)?,
                }
                Ok(())
            },
        )?;
        Ok(nvext)
    }

    fn engine_data(&mut self, cursor: &mut Cursor<'a>) -> Result<EngineData> {
        const NAMES: &[&str] = &[
            "completion_token_ids",
            "completion_logprobs",
            "prompt_token_ids",
            "prompt_logprobs",
            "routed_experts",
            "sampling_mask",
            "finished",
        ];
        let mut data = EngineData::default();
        let path = format_args!("nvext.engine_data");
        self.object(cursor, path, NAMES, |walk, cursor, name| {
            match name {
                "completion_token_ids" => {
                    data.completion_token_ids = Field::now::<list::Ids>(cursor)?
                }
                "completion_logprobs" => {
                    data.completion_logprobs = Field::now::<list::Numbers>(cursor)?
                }
                "prompt_token_ids" => data.prompt_token_ids = Field::now::<list::Ids>(cursor)?,
                "prompt_logprobs" => {
                    data.prompt_logprobs = Field::now::<prompt::PromptEntries>(cursor)?
                }
                "routed_experts" => data.routed_experts = walk.experts(cursor)?,
                "sampling_mask" => data.sampling_mask = Field::now::<list::IdLists>(cursor)?,
                _ => {
                    let at = cursor.pos;
                    cursor.skip_value()?;
                    data.unfinished = (&walk.body[at..cursor.pos] == b"false").then_some(at);
                }
            }
            Ok(())
        })?;
        Ok(data)
    }

    fn experts(&mut self, cursor: &mut Cursor<'a>) -> Result<Option<Container>> {
        if cursor.null()? {
            return Ok(None);
        }
        Container::read(cursor, self.skip_experts).map(Some)
    }
}

/// Steps over a value; its offset, if it is not null.
fn offset(cursor: &mut Cursor<'_>) -> Result<Option<usize>> {
    Ok(Span::read(cursor)?.map(|span| span.start))
}

/// Whether the value is the string "error".
fn says_error(cursor: &mut Cursor<'_>) -> Result<bool> {
    if cursor.kind()? == Kind::String {
        return Ok(cursor.string()?.is(b"error"));
    }
    cursor.skip_value()?;
    Ok(false)
}

/// Steps over a value beyond the bound on choices, if it is too short to hold a key twice: nothing else of it matters then.
fn nothing_repeated(cursor: &mut Cursor<'_>) -> Result<bool> {
    const SHORTEST: usize = br#"{"index":0,"index":0}"#.len();
    if cursor.eat(b"{}") {
        return Ok(true);
    }
    let mut ahead = cursor.clone();
    ahead.skip_value()?;
    let short = ahead.pos - cursor.pos < SHORTEST;
    if short {
        *cursor = ahead;
    }
    Ok(short)
}

#[cold]
fn too_many(path: &str, at: usize) -> Error {
    Error::new(
        Class::Malformed,
        "too_many",
        path,
        at,
        format!("more than {MAX_CHOICES} choices"),
    )
}
