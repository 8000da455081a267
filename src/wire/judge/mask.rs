//! Step (f): the ids that could be sampled at every position, which include the one that was, and what the sampler
//! computed for it.

use crate::error::{Class, Error, Result};

use super::locate::{Step, locate};
use super::sampled::Sampled;
use crate::memory::Buffer;
use crate::options::Options;
use crate::wire::answer::{Channel, Paths};
use crate::wire::decoded::{Decoded, SamplingMask};
use crate::wire::floats::Floats;
use crate::wire::read::ids::{IdLists, Numbers};

/// Reads the mask into `decoded`, if there is one. Fails if a row lacks the sampled id. Returns the entry of `sources`.
pub(crate) fn check_mask(
    channel: Channel<IdLists>,
    body: &[u8],
    paths: &Paths<'_>,
    decoded: &mut Decoded,
) -> Result<Option<(&'static str, String)>> {
    let Some((at, lists)) = channel.field.take::<IdLists>(body) else {
        return Ok(None);
    };
    let path = paths.text(channel.place);
    let lists = lists.map_err(|error| error.under(&path))?;
    let (ids, rows) = (decoded.token_ids.as_slice(), lists.offsets.len() - 1);
    if rows != ids.len() {
        let message = format!("a sampling mask of {rows} rows for {} token ids", ids.len());
        return Err(Error::new(Class::Alignment, "count", path, at, message));
    }
    let survivors = lists.ids.as_slice();
    let bounds = lists.offsets.as_slice().windows(2);
    for (i, (&id, bounds)) in ids.iter().zip(bounds).enumerate() {
        let row = &survivors[bounds[0] as usize..bounds[1] as usize];
        if !row.contains(&id) {
            // A packed row has no place of its own.
            let at = locate(body, at, &[Step::Index(i)]).or(Some(at));
            return Err(impossible(row.len(), id, format!("{path}[{i}]"), at));
        }
    }
    decoded.sampling_mask = Some(SamplingMask {
        token_ids: lists.ids,
        offsets: lists.offsets,
    });
    Ok(Some(("sampling_mask", path)))
}

/// Reads the log-probabilities of the sampler into `decoded`, if there are any. Returns the entry of `sources`.
pub(crate) fn check_sampling(
    channel: Channel<Buffer<f64>>,
    body: &[u8],
    options: &Options<'_>,
    paths: &Paths<'_>,
    decoded: &mut Decoded,
) -> Result<Option<(&'static str, String)>> {
    let Some((at, values)) = channel.field.take::<Numbers>(body) else {
        return Ok(None);
    };
    let path = paths.text(channel.place);
    let mut values = values.map_err(|error| error.under(&path))?;
    let sampled = Sampled {
        ids: decoded.token_ids.as_slice(),
        body,
        missing: options.missing_logprob,
    };
    sampled.check_count(values.len(), &path, at, "logprobs")?;
    sampled.check_flat(&mut values, &path, at)?;
    let values = Floats::new(values, options.logprobs_dtype, &path, |i| i)?;
    decoded.sampling_logprobs = Some(values);
    Ok(Some(("sampling_logprobs", path)))
}

#[cold]
fn impossible(survivors: usize, id: i32, path: String, at: Option<usize>) -> Error {
    let found = match survivors {
        0 => "no token survived".to_owned(),
        _ => format!("the {survivors} tokens that survived do not include {id}"),
    };
    Error::new(
        Class::Alignment,
        "sampling_mask",
        path,
        at,
        format!("{found}, yet {id} was sampled there"),
    )
}
