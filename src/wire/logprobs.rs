//! Steps (b) and (c): log-probabilities of the sampled tokens, and the alternatives.

use crate::error::{Class, Error, Result};
use crate::json::Cursor;
use crate::memory::Buffer;

use super::answer::{Channels, Place};
use super::decoded::TopLogprobs;
use super::echo;
use super::entries::{CONFLICT, Content, Top, UNNAMED, named_by};
use super::evidence::{
    any_doubt, first_too_high, is_sentinel, is_too_high, no_logprob, positive_logprob,
};
use super::field::Field;
use super::list;
use super::locate::{Step, locate};
use super::resolve::Paths;
use crate::options::{MissingLogprob, Options};

/// What steps (b) and (c) find.
#[derive(Debug, Default)]
pub(super) struct Logprobs {
    pub(super) values: Option<Buffer<f64>>,
    pub(super) source: Option<Place>,
    pub(super) top: Option<TopLogprobs>,
    pub(super) top_source: Option<String>,
    /// Why what names the tokens beside the chosen channel was left out, if it was.
    pub(super) echo: Option<String>,
}

/// Judges the channels against the sampled ids.
pub(super) fn resolve(
    channels: Channels,
    ids: &[i32],
    body: &[u8],
    options: &Options<'_>,
    paths: &Paths<'_>,
) -> Result<Logprobs> {
    let mut found = Logprobs::default();
    let judge = Judge {
        ids,
        body,
        missing: options.missing_logprob,
    };
    let flat = channels
        .flat
        .into_iter()
        .find(|channel| channel.field.is_present());
    let content_place = channels.content.place;
    let mut held = None;
    if let Some(channel) = flat {
        let path = paths.text(channel.place);
        if let Some((at, values)) = channel.field.take::<list::Numbers>(body) {
            let mut values = values.map_err(|error| error.under(&path))?;
            judge.count(values.len(), &path, at, "logprobs")?;
            judge.flat(&mut values, &path, at)?;
            found.values = Some(values);
            found.source = Some(channel.place);
        }
        if let Some((at, entries)) = channels.content.field.take::<Content>(body) {
            let path = paths.text(content_place);
            match echo::entries(entries, ids, &path)? {
                Ok(entries) => {
                    judge.content_names(&entries, &path, at, false, |_| Ok(()))?;
                    held = Some((at, entries));
                }
                Err(why) => found.echo = Some(why),
            }
        }
    } else if let Some((at, entries)) = channels.content.field.take::<Content>(body) {
        let path = paths.text(content_place);
        let mut entries = entries.map_err(|error| error.under(&path))?;
        judge.count(entries.names.len(), &path, at, "logprob entries")?;
        judge.content(&mut entries, &path, at, channels.must_name)?;
        found.values = Some(std::mem::take(&mut entries.logprobs));
        found.source = Some(content_place);
        held = Some((at, entries));
    } else if let Some((at, triples)) = channels.triples.field.take::<list::Triples>(body) {
        let path = paths.text(channels.triples.place);
        let mut triples = triples.map_err(|error| error.under(&path))?;
        judge.count(triples.ids.len(), &path, at, "logprob entries")?;
        judge.triples(&mut triples, &path, at)?;
        found.values = Some(triples.logprobs);
        found.source = Some(channels.triples.place);
    }
    if let (place, Some(span)) = channels.tokens {
        let path = paths.text(place);
        match echo::texts(span, body, ids, &path)? {
            Ok(Some((i, name, at))) => {
                let path = format!("{path}[{i}]");
                return Err(judge.identity(i, &name.to_string(), path, Some(at)));
            }
            Ok(None) => {}
            Err(why) => found.echo = Some(why),
        }
    }
    if found.values.is_none() {
        if ids.is_empty() {
            found.values = Some(Buffer::new());
        } else if options.require_logprobs {
            return Err(Error::new(
                Class::Missing,
                "missing",
                paths.text(channels.none),
                None,
                "the response has no logprobs; ask the server for them, or pass require_logprobs=False",
            ));
        }
    }
    if let Some((at, entries)) = held {
        let path = paths.text(content_place);
        found.top = judge.top(entries, &path, at)?;
        if found.top.is_some() {
            found.top_source = Some(format!("{path}[].top_logprobs"));
        }
    }
    if let Some(path) = top_rows(
        &mut found,
        channels.top_rows.field,
        &judge,
        &paths.text(channels.top_rows.place),
    )? {
        found.top_source = Some(path);
    }
    Ok(found)
}

/// SGLang's alternatives; returns their path.
fn top_rows(
    found: &mut Logprobs,
    field: Field<super::top::TopRows>,
    judge: &Judge<'_>,
    path: &str,
) -> Result<Option<String>> {
    let Some((at, rows)) = field.take::<super::top::TopRows>(judge.body) else {
        return Ok(None);
    };
    let rows = rows.map_err(|error| error.under(path))?;
    judge.count(rows.offsets.len() - 1, path, at, "rows of alternatives")?;
    if let Some(i) = first_too_high(rows.logprobs.as_slice()) {
        let (row, j) = entry(rows.offsets.as_slice(), i);
        let steps = [Step::Index(row), Step::Index(j), Step::Index(0)];
        return Err(positive_logprob(
            rows.logprobs.as_slice()[i],
            format!("{path}[{row}][{j}][0]"),
            locate(judge.body, at, &steps),
        ));
    }
    if rows.ids.is_empty() {
        return Ok(None);
    }
    found.top = Some(TopLogprobs {
        token_ids: rows.ids,
        logprobs: rows.logprobs,
        offsets: rows.offsets,
    });
    Ok(Some(path.to_owned()))
}

/// The position, and the number there, of the entry `index` of all.
fn entry(offsets: &[i64], index: usize) -> (usize, usize) {
    let position = offsets.partition_point(|&offset| offset as usize <= index) - 1;
    (position, index - offsets[position] as usize)
}

/// The sampled ids that everything is held against.
struct Judge<'a> {
    ids: &'a [i32],
    body: &'a [u8],
    missing: MissingLogprob,
}

impl Judge<'_> {
    fn count(&self, found: usize, path: &str, at: usize, what: &str) -> Result<()> {
        if found == self.ids.len() {
            return Ok(());
        }
        Err(self.miscount(found, path, at, what))
    }

    #[cold]
    fn miscount(&self, found: usize, path: &str, at: usize, what: &str) -> Error {
        Error::new(
            Class::Alignment,
            "count",
            path,
            at,
            format!("{found} {what} for {} token ids", self.ids.len()),
        )
    }

    #[cold]
    fn identity(&self, position: usize, found: &str, path: String, at: Option<usize>) -> Error {
        Error::new(
            Class::Alignment,
            "identity",
            path,
            at,
            format!(
                "the entry names {found}, the token id at its position is {}",
                self.ids[position]
            ),
        )
    }

    /// What one value says: itself, NaN for no evidence, or the refusal.
    fn evidence(
        &self,
        value: &mut f64,
        path: impl FnOnce() -> (String, Option<usize>),
    ) -> Result<()> {
        if value.is_nan() || is_sentinel(*value) {
            if self.missing == MissingLogprob::Raise {
                let (path, at) = path();
                return Err(no_logprob(*value, path, at));
            }
            *value = f64::NAN;
        } else if is_too_high(*value) {
            let (path, at) = path();
            return Err(positive_logprob(*value, path, at));
        }
        Ok(())
    }

    fn flat(&self, values: &mut Buffer<f64>, path: &str, at: usize) -> Result<()> {
        if !any_doubt(values.as_slice()) {
            return Ok(());
        }
        for (i, value) in values.as_mut_slice().iter_mut().enumerate() {
            self.evidence(value, || {
                (
                    format!("{path}[{i}]"),
                    locate(self.body, at, &[Step::Index(i)]),
                )
            })?;
        }
        Ok(())
    }

    fn triples(&self, triples: &mut list::Triples, path: &str, at: usize) -> Result<()> {
        let values = triples.logprobs.as_mut_slice();
        for (i, (value, &name)) in values.iter_mut().zip(triples.ids.as_slice()).enumerate() {
            let place = |j| {
                let at = locate(self.body, at, &[Step::Index(i), Step::Index(j)]);
                (format!("{path}[{i}][{j}]"), at)
            };
            if name != self.ids[i] {
                let (path, at) = place(1);
                return Err(self.identity(i, &name.to_string(), path, at));
            }
            self.evidence(value, || place(0))?;
        }
        Ok(())
    }

    /// Names and values of a list that is the channel of the values.
    fn content(&self, entries: &mut Content, path: &str, at: usize, must_name: bool) -> Result<()> {
        // Nearly always every entry names its token and none is without evidence: two passes without branches see that.
        if entries.names.as_slice() == self.ids && !any_doubt(entries.logprobs.as_slice()) {
            return Ok(());
        }
        let mut values = std::mem::take(&mut entries.logprobs);
        let settle = values.as_mut_slice();
        self.content_names(entries, path, at, must_name, |i| {
            self.evidence(&mut settle[i], || {
                let at = locate(self.body, at, &[Step::Index(i), Step::Key("logprob")]);
                (format!("{path}[{i}].logprob"), at)
            })
        })?;
        entries.logprobs = values;
        Ok(())
    }

    /// Every entry that names a token names the right one; `then` is called for each position in turn.
    #[inline(always)]
    fn content_names(
        &self,
        entries: &Content,
        path: &str,
        at: usize,
        must_name: bool,
        mut then: impl FnMut(usize) -> Result<()>,
    ) -> Result<()> {
        for (i, &name) in entries.names.as_slice().iter().enumerate() {
            if name != self.ids[i] && (name != UNNAMED || must_name) {
                return Err(self.misnamed(i, path, at));
            }
            then(i)?;
        }
        Ok(())
    }

    /// The error of an entry that names another token, or none where it must.
    #[cold]
    fn misnamed(&self, i: usize, path: &str, at: usize) -> Error {
        let find = |key| locate(self.body, at, &[Step::Index(i), Step::Key(key)]);
        let token = find("token").and_then(|at| {
            let text = Cursor::at(self.body, at).string().ok()?;
            let name = named_by(&text);
            (name != UNNAMED).then_some((name, at))
        });
        match token {
            Some((name, at)) if name != self.ids[i] => {
                self.identity(i, &name.to_string(), format!("{path}[{i}].token"), Some(at))
            }
            _ => match find("token_id").filter(|&at| !self.body[at..].starts_with(b"null")) {
                Some(at) => {
                    let name = Cursor::at(self.body, at)
                        .integer(u64::MAX)
                        .unwrap_or_default();
                    self.identity(
                        i,
                        &name.to_string(),
                        format!("{path}[{i}].token_id"),
                        Some(at),
                    )
                }
                None => {
                    let at = locate(self.body, at, &[Step::Index(i)]);
                    self.unnamed(i, find("token").is_some(), format!("{path}[{i}]"), at)
                }
            },
        }
    }

    /// The error of an entry that names no token, where it must. `text`: it has one.
    #[cold]
    fn unnamed(&self, i: usize, text: bool, path: String, at: Option<usize>) -> Error {
        if !text {
            return self.identity(i, "no token", path, at);
        }
        Error::new(
            Class::Alignment,
            "identity",
            path,
            at,
            format!(
                "the entry holds a text and does not name token {}, as in vLLM's output_mode \"text\"; ask for output_mode \
                 \"tokens\", the default",
                self.ids[i]
            ),
        )
    }

    /// Alternatives of content entries, where every one of them names its token.
    fn top(&self, entries: Content, path: &str, at: usize) -> Result<Option<TopLogprobs>> {
        let Top {
            ids: token_ids,
            logprobs,
            offsets,
            text_only,
        } = entries.top;
        let mut names = token_ids.as_slice().iter();
        if text_only && let Some(i) = names.position(|&name| name == CONFLICT) {
            return Err(self.conflict(i, offsets.as_slice(), path, at));
        }
        if text_only || token_ids.is_empty() || entries.names.len() != self.ids.len() {
            return Ok(None);
        }
        if let Some(i) = first_too_high(logprobs.as_slice()) {
            let (path, at) = self.alternative(i, offsets.as_slice(), path, at, "logprob");
            return Err(positive_logprob(logprobs.as_slice()[i], path, at));
        }
        Ok(Some(TopLogprobs {
            token_ids,
            logprobs,
            offsets,
        }))
    }

    /// The path and the offset of a member of the alternative `index` of all.
    #[cold]
    fn alternative(
        &self,
        index: usize,
        offsets: &[i64],
        path: &str,
        at: usize,
        key: &str,
    ) -> (String, Option<usize>) {
        let (position, j) = entry(offsets, index);
        let steps = [
            Step::Index(position),
            Step::Key("top_logprobs"),
            Step::Index(j),
            Step::Key(key),
        ];
        let path = format!("{path}[{position}].top_logprobs[{j}].{key}");
        (path, locate(self.body, at, &steps))
    }

    /// The error of an alternative whose `token` and `token_id` name different tokens.
    #[cold]
    fn conflict(&self, index: usize, offsets: &[i64], path: &str, at: usize) -> Error {
        let (path, at) = self.alternative(index, offsets, path, at, "token_id");
        Error::new(
            Class::Alignment,
            "identity",
            path,
            at,
            "token and token_id name different tokens",
        )
    }
}
