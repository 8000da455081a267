//! Dynamo's `nvext.metadata_upload`: a generation artifact inline, or what became of it.

use crate::artifact::{Artifact, open};
use crate::error::{Class, Error, Result};
use crate::experts::Blob;
use crate::json::{Cursor, Kind};
use crate::options::Options;

use super::answer::{Answer, Paths, PromptChannels};
use super::artifact::INLINE;
use super::read::field::{Span, span};
use super::read::ids::Ids;
use super::read::walk::{Fields, Part, Path, Walk, fields};

const UPLOAD: &str = "nvext.metadata_upload";
const DATA: &str = "nvext.metadata_upload.data_base64";

fields! {
    /// `nvext.metadata_upload`: what became of the upload that was asked for.
    Upload {
        kind: Option<Span> = span,
        mode: Option<Span> = span,
        format: Option<Span> = span,
        contents: Option<Span> = span,
        byte_count: Option<Span> = span,
        data_base64: Part<Blob> = data,
        state: Option<Span> = span,
        error_code: Option<Span> = span,
        operation_id: Option<Span> = span,
    }
}

/// Reads a text of base64.
fn data<'a>(walk: &mut Walk<'a>, cursor: &mut Cursor<'a>, path: &Path<'_>) -> Result<Part<Blob>> {
    walk.of_kind(cursor, path, Kind::String, |_, cursor| Blob::read(cursor))
}

/// What stands in Dynamo's answer of an artifact.
#[derive(Debug, Default)]
pub(super) struct Inline(Part<Upload>);

impl Inline {
    /// Reads the value at the cursor.
    pub(super) fn read<'a>(
        walk: &mut Walk<'a>,
        cursor: &mut Cursor<'a>,
        path: &Path<'_>,
    ) -> Result<Self> {
        walk.part(cursor, path, Upload::NAMES).map(Self)
    }

    /// Whether it has a member that is read.
    pub(super) fn says_anything(&self) -> bool {
        let Part::Here(upload) = &self.0 else {
            return false;
        };
        let spans = [
            upload.kind,
            upload.mode,
            upload.format,
            upload.contents,
            upload.byte_count,
            upload.state,
            upload.error_code,
            upload.operation_id,
        ];
        spans.iter().any(Option::is_some) || !matches!(upload.data_base64, Part::Absent)
    }

    /// Puts the artifact that is there in front of the channels of the answer.
    pub(super) fn fill(
        self,
        answer: &mut Answer,
        prompt: &mut PromptChannels,
        body: &[u8],
        options: &Options<'_>,
        chunk: bool,
    ) -> Result<()> {
        let Some(upload) = self.0.get()? else {
            return Ok(());
        };
        let words = Words(body);
        words.must_be("kind", upload.kind, "generation_artifact")?;
        if words.is(upload.state, "failed") {
            let code = words.shown(upload.error_code);
            let message = format!("the server has no artifact to send: error_code {code}");
            let at = upload.state.map(|span| span.start);
            let path = format!("{UPLOAD}.state");
            let (class, kind) = (Class::Missing, "artifact_failed");
            return Err(Error::new(class, kind, path, at, message));
        }
        if !words.is(upload.mode, "inline_base64") {
            let (mode, operation) = (words.shown(upload.mode), words.shown(upload.operation_id));
            let why = format!("left out: mode {mode}, operation_id {operation}");
            answer.notes.push(("artifact", why));
            return Ok(());
        }
        words.must_be("format", upload.format, "generation_artifact_v1")?;
        let Some(text) = upload.data_base64.get()? else {
            let message = "the artifact is inline, and not there";
            return Err(Error::new(Class::Missing, "missing", DATA, None, message));
        };
        let at = text.at;
        let data = text.bytes(body).map_err(|mut error| {
            error.class = match error.class {
                Class::RoutedExperts => Class::Malformed,
                class => class,
            };
            error.under(DATA)
        })?;
        words.must_count("byte_count", upload.byte_count, data.len())?;
        let artifact = open(data.as_slice(), options).map_err(|error| within(error, at, DATA))?;
        drop(data);
        words.must_hold(upload.contents, &artifact)?;
        if artifact.index != answer.index {
            let message = format!(
                "the artifact is that of choice {}, the answer has choice {}",
                artifact.index, answer.index
            );
            let (class, path) = (Class::Alignment, INLINE.index);
            return Err(Error::new(class, "identity", path, at, message));
        }
        same_ids(answer, &artifact, body, chunk)?;
        artifact.fill(answer, prompt, &INLINE, Some(at))
    }
}

/// An error of what is inside the text at `at`.
fn within(mut error: Error, at: usize, path: &str) -> Error {
    if error.class == Class::Memory {
        return error;
    }
    error.offset = error.offset.map(|_| at);
    error.under(path)
}

/// Another list of the sampled ids must be the same. Of a `chunk`, only the first, the engine's, is of all tokens; the
/// others are of the last ones.
fn same_ids(answer: &mut Answer, artifact: &Artifact, body: &[u8], chunk: bool) -> Result<()> {
    let sampled = artifact.completion.values.as_slice();
    for (rank, channel) in std::mem::take(&mut answer.token_ids)
        .into_iter()
        .enumerate()
    {
        let path = Paths {
            prefix: &answer.prefix,
        }
        .text(channel.place);
        let Some((at, ids)) = channel.field.take::<Ids>(body) else {
            continue;
        };
        let ids = ids.map_err(|error| error.under(&path))?;
        let same = match chunk && rank > 0 {
            true => sampled.ends_with(ids.as_slice()),
            false => sampled == ids.as_slice(),
        };
        if !same {
            let message = "the token ids are not those of the artifact";
            return Err(Error::new(Class::Alignment, "identity", path, at, message));
        }
    }
    Ok(())
}

/// Letters of a word that a message repeats.
const LONGEST_WORD: usize = 128;

/// Reads the small values of the upload.
struct Words<'a>(&'a [u8]);

impl Words<'_> {
    fn is(&self, span: Option<Span>, word: &str) -> bool {
        let Some(span) = span else {
            return false;
        };
        let mut cursor = Cursor::at(self.0, span.start);
        self.0[span.start] == b'"' && cursor.string().is_ok_and(|text| text.is(word.as_bytes()))
    }

    /// A word for a message; nothing that would need quoting.
    fn shown(&self, span: Option<Span>) -> &str {
        let Some(span) = span else {
            return "none";
        };
        let text = self.0[span.start..span.end].trim_ascii();
        let word = text
            .strip_prefix(b"\"")
            .and_then(|text| text.strip_suffix(b"\""));
        let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"_-.".contains(byte);
        word.filter(|word| word.len() <= LONGEST_WORD && word.iter().all(plain))
            .and_then(|word| std::str::from_utf8(word).ok())
            .unwrap_or("?")
    }

    fn must_be(&self, key: &str, span: Option<Span>, word: &str) -> Result<()> {
        if self.is(span, word) {
            return Ok(());
        }
        let message = format!("{key} is {}, {word} was expected", self.shown(span));
        Err(refused("artifact", key, span, message))
    }

    fn must_count(&self, key: &str, span: Option<Span>, count: usize) -> Result<()> {
        let Some(span) = span else {
            return Ok(());
        };
        if &self.0[span.start..span.end] == count.to_string().as_bytes() {
            return Ok(());
        }
        let message = format!("{key} is not {count}, the bytes that are there");
        Err(refused("size", key, Some(span), message))
    }

    /// What the server says that it sends must be in the artifact.
    fn must_hold(&self, contents: Option<Span>, artifact: &Artifact) -> Result<()> {
        let Some(span) = contents else {
            return Ok(());
        };
        let mut cursor = Cursor::at(self.0, span.start);
        if self.0[span.start] != b'[' {
            let message = "contents is no list".to_owned();
            return Err(refused("type", "contents", contents, message));
        }
        cursor.array(|cursor, i| {
            let start = cursor.pos;
            cursor.skip_value()?;
            let word = Some(Span {
                start,
                end: cursor.pos,
            });
            let has = |name: &str, there: bool| self.is(word, name).then_some(there);
            let there = has("moe_routes", artifact.routes.is_some())
                .or_else(|| has("selected_logprobs", artifact.selected.is_some()))
                .or_else(|| has("topk_logprobs", artifact.top.is_some()));
            if there == Some(true) {
                return Ok(());
            }
            let path = format!("{UPLOAD}.contents[{i}]");
            let message = match there {
                None => format!("the content {} is not known", self.shown(word)),
                _ => format!("the artifact has no {}", self.shown(word)),
            };
            let (class, kind) = match there {
                None => (Class::Malformed, "artifact"),
                _ => (Class::Missing, "missing"),
            };
            Err(Error::new(class, kind, path, start, message))
        })
    }
}

#[cold]
fn refused(kind: &'static str, key: &str, span: Option<Span>, message: String) -> Error {
    let path = format!("{UPLOAD}.{key}");
    let at = span.map(|span| span.start);
    let class = match span {
        Some(_) => Class::Malformed,
        None => Class::Missing,
    };
    let kind = if span.is_some() { kind } else { "missing" };
    Error::new(class, kind, path, at, message)
}
