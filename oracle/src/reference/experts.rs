//! (g): routed experts, in the seven steps of the page, and what an indexer chose.

use super::RoutedExperts;
use super::containers::{as_routed_experts, from_object, from_string, refuse};
use super::json::{Kind, Node};
use super::placing::{Sequence, wanted};
use super::readers;
use super::structure::{Channel, Choice, first};
use super::wires::Role;
use dynamo_tito::{Class, Error, ExpertsMode, Options, Result};

/// The result of step (g).
pub(super) enum Outcome {
    Absent,
    Skipped,
    Read(RoutedExperts, String),
}

/// Reads what the indexer of a completion chose.
pub(super) fn read_indexer(
    choice: &Choice<'_>,
    sequence: &Sequence,
    options: &Options<'_>,
) -> Result<Outcome> {
    let skipped = options.experts == ExpertsMode::Skip;
    let Some((path, node)) = choice.found(Role::Indexer) else {
        if let Some((path, node)) = choice.found(Role::UnreadIndexer)
            && !skipped
        {
            let message = "indexer rows where this wire has none";
            return Err(refuse("unread", path, node.start, message));
        }
        return Ok(Outcome::Absent);
    };
    if skipped {
        return Ok(Outcome::Skipped);
    }
    let rows = from_indexer(path, node, sequence, options)?;
    Ok(Outcome::Read(rows, path.to_owned()))
}

/// The rows of an indexer, which are those of routed experts but for what their values may be.
pub(super) fn from_indexer(
    path: &str,
    node: &Node,
    sequence: &Sequence,
    options: &Options<'_>,
) -> Result<RoutedExperts> {
    let options = Options {
        num_layers: options.num_indexer_layers,
        top_k: options.index_topk,
        ..*options
    };
    let (rows, _) = placed(path, node, sequence, &options)?;
    if rows.values.iter().any(|index| *index < -1) {
        let message = "an index below -1, which is an empty slot";
        return Err(refuse("range", path, node.start, message));
    }
    Ok(rows)
}

/// Reads the routed experts of a completion.
pub(super) fn read(
    choice: &Choice<'_>,
    sequence: &Sequence,
    options: &Options<'_>,
) -> Result<Outcome> {
    if let Some(routes) = choice.routes {
        return routes.read(sequence, options);
    }
    let channels = choice.channels(Role::RoutedExperts);
    let Some((path, node)) = source(channels) else {
        if let Some((path, node)) = choice.found(Role::UnreadExperts)
            && options.experts != ExpertsMode::Skip
        {
            let message = "routed experts where this wire has none";
            return Err(refuse("unread", path, node.start, message));
        }
        let ended_before_the_first_token = sequence.aborted && sequence.tokens == 0;
        if options.require_routed_experts && !ended_before_the_first_token {
            let path = channels.first().map(|c| c.path.clone());
            return Err(Error::new(
                Class::Missing,
                "missing",
                path.unwrap_or_default(),
                None,
                "the response holds no routed experts",
            ));
        }
        return Ok(Outcome::Absent);
    };
    if options.experts == ExpertsMode::Skip {
        return Ok(Outcome::Skipped);
    }
    let experts = from(path, node, sequence, options)?;
    Ok(Outcome::Read(experts, path.to_owned()))
}

/// The rows of a container that are wanted, and how many values one has.
fn placed(
    path: &str,
    node: &Node,
    sequence: &Sequence,
    options: &Options<'_>,
) -> Result<(RoutedExperts, usize)> {
    let blob = match &node.kind {
        Kind::Object(_) => from_object(path, node, options)?,
        Kind::String(_) => from_string(path, node, options)?,
        _ => {
            let error = readers::wrong_type(path, node, "an object or a string");
            return Err(as_routed_experts(error));
        }
    };
    blob.fits()?;
    if blob.shape[0] > options.limits.max_rows {
        let message = format!("{} rows", blob.shape[0]);
        return Err(refuse("too_many", path, node.start, message));
    }
    let wanted = wanted(&blob, path, node, sequence, options)?;
    let values = blob.values(wanted.drop)?;
    let [rows, layers, top_k] = blob.shape;
    let rows = rows - wanted.drop;
    let row = values.len() / usize::try_from(rows).unwrap_or(1).max(1);
    let placed = RoutedExperts {
        values,
        shape: [rows, layers, top_k],
        start: wanted.start,
        dtype: blob.dtype.name(),
        complete: wanted.complete,
    };
    Ok((placed, row))
}

/// The routed experts of a container.
pub(super) fn from(
    path: &str,
    node: &Node,
    sequence: &Sequence,
    options: &Options<'_>,
) -> Result<RoutedExperts> {
    let (mut read, row) = placed(path, node, sequence, options)?;
    if sequence.aborted {
        // Rows at the end in which every id is -1 are missing.
        while read.shape[0] > 0 && read.values.ends_with(&vec![-1; row]) {
            read.values.truncate(read.values.len() - row);
            read.shape[0] -= 1;
            read.complete = false;
        }
    }
    if let Some(negative) = read.values.iter().find(|id| **id < 0) {
        let message = format!("expert {negative} is no expert: no route was captured");
        return Err(refuse("no_route", path, node.start, message));
    }
    Ok(read)
}

/// The first object, else the first string, else the first value.
pub(super) fn source<'c, 'a>(channels: &'c [Channel<'a>]) -> Option<(&'c str, &'a Node)> {
    let found = || channels.iter().filter_map(Channel::found);
    found()
        .find(|(_, node)| node.as_object().is_some())
        .or_else(|| found().find(|(_, node)| node.as_text().is_some()))
        .or_else(|| first(channels))
}
