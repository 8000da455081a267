//! Step (d): the echoed prompt, the choice of the channel of its log-probabilities, and those of given ids.

use crate::error::{Class, Error, Result};
use crate::memory::Buffer;
use crate::options::Options;
use crate::wire::answer::{Paths, PromptChannels, first};
use crate::wire::decoded::Prompt;
use crate::wire::read::ids::Ids;
use crate::wire::read::maps::PromptEntries;
use crate::wire::read::triples::{TopRows, Triples};

use super::matrix::read_matrix;
use super::prompt_logprobs::Lookup;

/// The entry of `sources` for prompt logprobs without ids to look them up.
const LEFT_OUT: &str = "left out: needs prompt_token_ids";

/// Reads the prompt from the first channels that are there.
pub(crate) fn choose_prompt(
    mut channels: PromptChannels,
    body: &[u8],
    options: &Options<'_>,
    paths: &Paths<'_>,
) -> Result<Prompt<Buffer<f64>>> {
    let given = channels.token_ids.take();
    let mut prompt = choose_echo_and_logprobs(channels, body, options, paths)?;
    if let Some(given) = given {
        let len = options.prompt_len_or(prompt.token_ids.as_ref().map(Buffer::len));
        let (matrix, path) = read_matrix(given, body, len, options, paths)?;
        prompt.token_id_logprobs = Some(matrix);
        prompt.sources.push(("prompt_token_id_logprobs", path));
    }
    Ok(prompt)
}

fn choose_echo_and_logprobs(
    channels: PromptChannels,
    body: &[u8],
    options: &Options<'_>,
    paths: &Paths<'_>,
) -> Result<Prompt<Buffer<f64>>> {
    let mut prompt = Prompt::default();
    if let Some(channel) = first(channels.echo) {
        let path = paths.text(channel.place);
        if let Some((at, echo)) = channel.field.take::<Ids>(body) {
            let echo = echo.map_err(|error| error.under(&path))?;
            if let Some(passed) = options.prompt_token_ids {
                same(passed, echo.as_slice(), &path, at)?;
            }
            as_long(options.prompt_len, echo.len(), &path, at)?;
            prompt.token_ids = Some(echo);
            prompt.sources.push(("prompt_token_ids", path));
        }
    }
    let ids = options
        .prompt_token_ids
        .or(prompt.token_ids.as_ref().map(Buffer::as_slice));
    if let Some(channel) = first(channels.maps) {
        let Some(ids) = ids else {
            prompt.sources.push(("prompt_logprobs", LEFT_OUT.into()));
            return Ok(prompt);
        };
        let path = paths.text(channel.place);
        if let Some((at, entries)) = channel.field.take::<PromptEntries>(body) {
            let entries = entries.map_err(|error| error.under(&path))?;
            let lookup = Lookup::new(ids, body, at, &path, options);
            prompt.logprobs = Some(lookup.maps(entries)?);
            prompt.sources.push(("prompt_logprobs", path));
        }
        return Ok(prompt);
    }
    let none = || match options.score_from {
        Some(_) => Err(Error::new(
            Class::Missing,
            "missing",
            paths.text(channels.none),
            None,
            "the response has no prompt logprobs",
        )),
        None => Ok(()),
    };
    let path = paths.text(channels.triples.place);
    if let Some((at, triples)) = channels.triples.field.take::<Triples>(body) {
        // SGLang sends an empty list where no prompt logprobs were asked for.
        if triples.as_ref().is_ok_and(|triples| triples.ids.is_empty()) {
            none()?;
            return Ok(prompt);
        }
        let Some(ids) = ids else {
            prompt.sources.push(("prompt_logprobs", LEFT_OUT.into()));
            return Ok(prompt);
        };
        let triples = triples.map_err(|error| error.under(&path))?;
        let lookup = Lookup::new(ids, body, at, &path, options);
        let first = lookup.listed_from(triples.ids.len())?;
        let rows = channels.top_rows.field.take::<TopRows>(body);
        let rows = rows.map(|(at, rows)| {
            let path = paths.text(channels.top_rows.place);
            let rows = rows.map_err(|error| error.under(&path))?;
            lookup.beside(rows, triples.ids.len(), path, at)
        });
        let rows = rows.transpose()?.flatten();
        prompt.logprobs = Some(lookup.triples(triples, first, rows)?);
        prompt.sources.push(("prompt_logprobs", path));
    } else {
        none()?;
    }
    Ok(prompt)
}

/// Fails if the server ran another prompt than was passed.
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

/// Fails if the server ran a prompt of another length than `prompt_len`.
fn as_long(prompt_len: Option<u64>, echo: usize, path: &str, at: usize) -> Result<()> {
    match prompt_len {
        Some(len) if len != echo as u64 => Err(Error::new(
            Class::Alignment,
            "prompt_mismatch",
            path,
            at,
            format!("the server ran a prompt of {echo} tokens, prompt_len is {len}"),
        )),
        _ => Ok(()),
    }
}
