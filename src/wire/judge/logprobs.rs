//! Steps (b) and (c): log-probabilities of the sampled tokens, and the alternatives.

use crate::error::{Class, Error, Result};
use crate::memory::Buffer;
use crate::options::{LogprobsDtype, Options};
use crate::wire::answer::{LogprobChannels, Paths, first};
use crate::wire::decoded::TopLogprobs;
use crate::wire::floats::Floats;
use crate::wire::read::entries::Content;
use crate::wire::read::ids::Numbers;
use crate::wire::read::packed::Compact;
use crate::wire::read::triples::{TopRows, Triples};

use super::echo;
use super::sampled::Sampled;

/// What steps (b) and (c) find.
#[derive(Debug)]
pub(crate) struct Logprobs {
    values: Option<Buffer<f64>>,
    top: Option<TopLogprobs<Buffer<f64>>>,
    /// The entries of `sources`.
    pub(crate) sources: Vec<(&'static str, String)>,
}

impl Logprobs {
    /// The values and the alternatives in the type of `dtype`.
    pub(crate) fn typed(
        &mut self,
        dtype: LogprobsDtype,
    ) -> Result<(Option<Floats>, Option<TopLogprobs>)> {
        let path = |of: &str| {
            let mut sources = self.sources.iter();
            let found = sources.find(|(name, _)| *name == of);
            found.map_or("", |(_, path)| path)
        };
        let values = self.values.take().map(|values| {
            let path = path("logprobs");
            Floats::new(values, dtype, path, |i| i)
        });
        let values = values.transpose()?;
        let top = self
            .top
            .take()
            .map(|top| top.typed(dtype, path("top_logprobs")));
        Ok((values, top.transpose()?))
    }
}

/// Takes the first channel that is there and compares it, and what repeats its tokens, with the sampled ids.
pub(crate) fn choose_logprobs(
    channels: LogprobChannels,
    ids: &[i32],
    body: &[u8],
    options: &Options<'_>,
    paths: &Paths<'_>,
) -> Result<Logprobs> {
    let sampled = Sampled {
        ids,
        body,
        missing: options.missing_logprob,
    };
    let (mut values, mut source, mut top, mut top_source, mut left_out) =
        (None, None, None, None, None);
    let content_path = paths.text(channels.content.place);
    let mut held = None;
    let mut compact = None;
    if let Some((at, rows)) = channels.compact.field.take::<Compact>(body) {
        let path = paths.text(channels.compact.place);
        let rows = rows.map_err(|error| error.under(&path))?;
        sampled.check_count(rows.offsets.len() - 1, &path, at, "rows of logprobs")?;
        values = Some(sampled.check_compact(&rows, &path, at)?);
        source = Some(path.clone());
        compact = Some((at, rows, path));
    } else if let Some(channel) = first(channels.flat) {
        let path = paths.text(channel.place);
        if let Some((at, list)) = channel.field.take::<Numbers>(body) {
            let mut list = list.map_err(|error| error.under(&path))?;
            sampled.check_count(list.len(), &path, at, "logprobs")?;
            sampled.check_flat(&mut list, &path, at)?;
            (values, source) = (Some(list), Some(path));
        }
        if let Some((at, entries)) = channels.content.field.take::<Content>(body) {
            match echo::entries(entries, ids, &content_path)? {
                Ok(entries) => {
                    sampled.check_names(&entries, &content_path, at, false, |_| Ok(()))?;
                    held = Some((at, entries));
                }
                Err(why) => left_out = Some(why),
            }
        }
    } else if let Some((at, entries)) = channels.content.field.take::<Content>(body) {
        let mut entries = entries.map_err(|error| error.under(&content_path))?;
        sampled.check_count(entries.names.len(), &content_path, at, "logprob entries")?;
        sampled.check_content(&mut entries, &content_path, at, channels.must_name)?;
        values = Some(std::mem::take(&mut entries.logprobs));
        source = Some(content_path.clone());
        held = Some((at, entries));
    } else if let Some((at, triples)) = channels.triples.field.take::<Triples>(body) {
        let path = paths.text(channels.triples.place);
        let mut triples = triples.map_err(|error| error.under(&path))?;
        sampled.check_count(triples.ids.len(), &path, at, "logprob entries")?;
        sampled.check_triples(&mut triples, &path, at)?;
        (values, source) = (Some(triples.logprobs), Some(path));
    }
    if let Some((place, span)) = channels.tokens {
        let path = paths.text(place);
        match echo::texts(span, body, ids, None)? {
            echo::Texts::Unreadable => left_out = Some(echo::unreadable(&path)),
            echo::Texts::Read { elements, .. } if elements != ids.len() => {
                left_out = Some(echo::miscounted(&path, elements, ids.len()));
            }
            echo::Texts::Read { wrong, .. } => {
                if let Some((i, name, at)) = wrong {
                    let path = format!("{path}[{i}]");
                    return Err(sampled.identity(i, &name.to_string(), path, Some(at)));
                }
            }
        }
    }
    if values.is_none() {
        if ids.is_empty() {
            values = Some(Buffer::new());
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
    if let Some((at, entries)) = held
        && !channels.top_rows.field.is_present()
    {
        top = sampled.top_of_entries(entries, &content_path, at)?;
        top_source = Some(format!("{content_path}[].top_logprobs"));
    }
    if let Some((at, rows, path)) = compact {
        top = sampled.top_of_compact(rows, &path, at)?;
        top_source = Some(path);
    }
    if let Some((at, rows)) = channels.top_rows.field.take::<TopRows>(body) {
        let path = paths.text(channels.top_rows.place);
        let rows = rows.map_err(|error| error.under(&path))?;
        top = sampled.top_of_rows(rows, &path, at)?;
        top_source = Some(path);
    }
    let top_source = top_source.filter(|_| top.is_some());
    let sources = [
        ("logprobs", source),
        ("top_logprobs", top_source),
        ("logprobs_echo", left_out),
    ];
    let sources = sources.into_iter();
    Ok(Logprobs {
        values,
        top,
        sources: sources.filter_map(|(name, it)| Some((name, it?))).collect(),
    })
}
