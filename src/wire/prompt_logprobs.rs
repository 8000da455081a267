//! Step (d): the echoed prompt, and log-probabilities looked up by the prompt's own ids.

use crate::error::{Class, Error, Result};
use crate::memory::Buffer;

use super::answer::PromptChannels;
use super::decoded::{Prompt, PromptLogprobs, TopLogprobs};
use super::evidence::{is_sentinel, no_logprob};
use super::list;
use super::locate::{Step, locate};
use super::options::{MissingLogprob, Options};
use super::prompt::{self, PromptEntries};
use super::resolve::Paths;

/// What `sources` says of prompt logprobs that cannot be looked up.
const LEFT_OUT: &str = "left out: needs prompt_token_ids";

/// Judges the prompt's channels.
pub(super) fn resolve(
    channels: PromptChannels,
    body: &[u8],
    options: &Options<'_>,
    paths: &Paths<'_>,
) -> Result<Prompt> {
    let mut prompt = Prompt::default();
    let path = paths.text(channels.echo.place);
    if let Some((at, echo)) = channels.echo.field.take::<list::Ids>(body) {
        let echo = echo.map_err(|error| error.under(&path))?;
        if let Some(passed) = options.prompt_token_ids {
            same(passed, echo.as_slice(), &path, at)?;
        }
        prompt.token_ids = Some(echo);
        prompt.sources.push(("prompt_token_ids", path));
    }
    let ids = options
        .prompt_token_ids
        .or(prompt.token_ids.as_ref().map(Buffer::as_slice));
    let maps = channels
        .entries
        .into_iter()
        .find(|channel| channel.field.is_present());
    if let Some(channel) = maps {
        let Some(ids) = ids else {
            prompt.sources.push(("prompt_logprobs", LEFT_OUT.into()));
            return Ok(prompt);
        };
        let path = paths.text(channel.place);
        if let Some((at, entries)) = channel.field.take::<prompt::PromptEntries>(body) {
            let entries = entries.map_err(|error| error.under(&path))?;
            let lookup = Lookup {
                ids,
                body,
                at,
                path: &path,
                missing: options.missing_logprob,
            };
            prompt.logprobs = Some(lookup.maps(entries)?);
            prompt.sources.push(("prompt_logprobs", path));
        }
        return Ok(prompt);
    }
    let path = paths.text(channels.triples.place);
    if let Some((at, triples)) = channels.triples.field.take::<list::Triples>(body) {
        // SGLang sends an empty list where no prompt logprobs were asked for.
        if triples.as_ref().is_ok_and(|triples| triples.ids.is_empty()) {
            return Ok(prompt);
        }
        let Some(ids) = ids else {
            prompt.sources.push(("prompt_logprobs", LEFT_OUT.into()));
            return Ok(prompt);
        };
        let triples = triples.map_err(|error| error.under(&path))?;
        let lookup = Lookup {
            ids,
            body,
            at,
            path: &path,
            missing: options.missing_logprob,
        };
        prompt.logprobs = Some(lookup.triples(triples)?);
        prompt.sources.push(("prompt_logprobs", path));
    }
    Ok(prompt)
}

/// The prompt that was sent is the prompt that was run.
fn same(passed: &[i32], echo: &[i32], path: &str, at: usize) -> Result<()> {
    if passed == echo {
        return Ok(());
    }
    let error = |path: String, message: String| {
        Err(Error::new(
            Class::Alignment,
            "prompt_mismatch",
            path,
            at,
            message,
        ))
    };
    if passed.len() != echo.len() {
        return error(
            path.to_owned(),
            format!(
                "the server ran a prompt of {} tokens, {} were passed",
                echo.len(),
                passed.len()
            ),
        );
    }
    let i = passed
        .iter()
        .zip(echo)
        .position(|(a, b)| a != b)
        .unwrap_or_default();
    error(
        format!("{path}[{i}]"),
        format!("the server ran token {}, {} was passed", echo[i], passed[i]),
    )
}

/// Looks entries up by the prompt's ids.
struct Lookup<'a> {
    ids: &'a [i32],
    body: &'a [u8],
    at: usize,
    path: &'a str,
    missing: MissingLogprob,
}

impl Lookup<'_> {
    fn count(&self, found: usize) -> Result<()> {
        if found == self.ids.len() {
            return Ok(());
        }
        Err(Error::new(
            Class::Alignment,
            "count",
            self.path,
            self.at,
            format!(
                "prompt logprobs of {found} positions for {} prompt token ids",
                self.ids.len()
            ),
        ))
    }

    /// The value of position `i`, NaN where it is no evidence and may be.
    fn settle(
        &self,
        i: usize,
        value: f64,
        place: impl FnOnce() -> (String, Option<usize>),
    ) -> Result<f64> {
        if !value.is_nan() && !is_sentinel(value) {
            return Ok(value);
        }
        if i > 0 && self.missing == MissingLogprob::Raise {
            let (path, at) = place();
            return Err(no_logprob(value, path, at));
        }
        Ok(f64::NAN)
    }

    #[cold]
    fn without_token(&self, i: usize, place: (String, Option<usize>)) -> Error {
        Error::new(
            Class::Alignment,
            "identity",
            place.0,
            place.1,
            format!(
                "the entry does not name {}, the prompt's token id at its position",
                self.ids[i]
            ),
        )
    }

    fn maps(&self, mut entries: PromptEntries) -> Result<PromptLogprobs> {
        self.count(entries.offsets.len() - 1)?;
        let mut logprobs = Buffer::with_capacity(self.ids.len())?;
        let mut nulls = entries.nulls.as_slice().iter().copied().peekable();
        let offsets = entries.offsets.as_slice();
        for (i, &id) in self.ids.iter().enumerate() {
            let (first, end) = (offsets[i] as usize, offsets[i + 1] as usize);
            let place = || {
                let at = locate(self.body, self.at, &[Step::Index(i)]);
                (format!("{}[{i}]", self.path), at)
            };
            let value = if nulls.next_if_eq(&(i as i64)).is_some() {
                self.settle(i, f64::NAN, place)?
            } else {
                let names = &entries.ids.as_slice()[first..end];
                let Some(found) = names.iter().position(|&name| name == id) else {
                    return Err(self.without_token(i, place()));
                };
                let value = entries.logprobs.as_slice()[first + found];
                let value = self.settle(i, value, || {
                    let key = id.to_string();
                    let steps = [Step::Index(i), Step::Key(&key), Step::Key("logprob")];
                    let at = locate(self.body, self.at, &steps);
                    (format!("{}[{i}].{id}.logprob", self.path), at)
                })?;
                let values = &mut entries.logprobs.as_mut_slice()[first..end];
                for value in values.iter_mut().filter(|value| is_sentinel(**value)) {
                    *value = f64::NAN;
                }
                order(&mut entries.ids.as_mut_slice()[first..end], values);
                value
            };
            logprobs.push(value)?;
        }
        Ok(PromptLogprobs {
            logprobs,
            top: TopLogprobs {
                token_ids: entries.ids,
                logprobs: entries.logprobs,
                offsets: entries.offsets,
            },
        })
    }

    fn triples(&self, triples: list::Triples) -> Result<PromptLogprobs> {
        self.count(triples.ids.len())?;
        let mut logprobs = Buffer::with_capacity(self.ids.len())?;
        let mut top = TopLogprobs {
            token_ids: Buffer::new(),
            logprobs: Buffer::new(),
            offsets: Buffer::with_capacity(self.ids.len() + 1)?,
        };
        top.offsets.push(0)?;
        let rows = triples
            .logprobs
            .as_slice()
            .iter()
            .zip(triples.ids.as_slice());
        for (i, (&written, &name)) in rows.enumerate() {
            let place = |j| {
                let at = locate(self.body, self.at, &[Step::Index(i), Step::Index(j)]);
                (format!("{}[{i}][{j}]", self.path), at)
            };
            if name != self.ids[i] {
                return Err(self.without_token(i, place(1)));
            }
            logprobs.push(self.settle(i, written, || place(0))?)?;
            if !written.is_nan() {
                top.token_ids.push(name)?;
                top.logprobs.push(if is_sentinel(written) {
                    f64::NAN
                } else {
                    written
                })?;
            }
            top.offsets.push(top.token_ids.len() as i64)?;
        }
        Ok(PromptLogprobs { logprobs, top })
    }
}

/// Sorts the entries of one position: highest first, ties by id, NaN last.
#[inline]
fn order(ids: &mut [i32], logprobs: &mut [f64]) {
    let before = |a: (f64, i32), b: (f64, i32)| -> bool {
        match (a.0.is_nan(), b.0.is_nan()) {
            (false, true) => true,
            (true, false) => false,
            (true, true) => a.1 < b.1,
            (false, false) => a.0 > b.0 || (a.0 == b.0 && a.1 < b.1),
        }
    };
    let at = |i: usize| (logprobs[i], ids[i]);
    if (1..ids.len()).all(|i| !before(at(i), at(i - 1))) {
        return;
    }
    let mut pairs: Vec<(f64, i32)> = logprobs.iter().copied().zip(ids.iter().copied()).collect();
    pairs.sort_by(|&a, &b| {
        if before(a, b) {
            std::cmp::Ordering::Less
        } else if before(b, a) {
            std::cmp::Ordering::Greater
        } else {
            std::cmp::Ordering::Equal
        }
    });
    for (i, (logprob, id)) in pairs.into_iter().enumerate() {
        logprobs[i] = logprob;
        ids[i] = id;
    }
}
