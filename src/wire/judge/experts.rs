//! Step (g): routed experts of the tokens, and what an indexer chose.

use crate::error::{Class, Error, Result};
use crate::experts::{Capture, Routed, Sequence, Target, decode_rows};
use crate::options::{ExpertsMode, Options};
use crate::wire::answer::{ExpertChannels, Paths};

/// The entry of `sources` for rows that the caller does not want.
const SKIPPED: &str = "left out: experts=\"skip\"";

/// The rows that are wanted, and what `sources` says of them.
pub(crate) fn choose_experts(
    channels: ExpertChannels,
    sequence: &Sequence,
    body: &[u8],
    options: &Options<'_>,
    target: Target<'_>,
    paths: &Paths<'_>,
) -> Result<(Option<Routed>, Option<String>)> {
    let skip = options.experts == ExpertsMode::Skip;
    let capture = channels.capture;
    if let Some((place, at, routes)) = channels.artifact {
        if skip {
            return Ok((None, Some(SKIPPED.into())));
        }
        let path = paths.text(place);
        let routed = routes.decode(sequence, options, target);
        let routed = routed.map_err(|mut error| {
            error.offset = error.offset.map(|own| at.unwrap_or(own));
            error.under(&path)
        })?;
        return Ok((Some(routed), Some(path)));
    }
    let Some((place, container)) = channels.found else {
        if let (Some((place, at)), false) = (channels.unread, skip) {
            let message = format!(
                "{} stand where this wire carries none; decode with the wire of the endpoint that answered, or pass \
                 experts=\"skip\"",
                capture.name()
            );
            return Err(Error::new(
                Class::RoutedExperts,
                "unread",
                paths.text(place),
                at,
                message,
            ));
        }
        // An abort before the first token brings none.
        let early = sequence.aborted && sequence.completion == 0;
        if options.require_routed_experts && capture == Capture::Experts && !early {
            return Err(Error::new(
                Class::Missing,
                "missing",
                paths.text(channels.none),
                None,
                "the response has no routed experts; ask the server for them, and see that it captures them",
            ));
        }
        return Ok((None, None));
    };
    if skip {
        return Ok((None, Some(SKIPPED.into())));
    }
    let path = paths.text(place);
    let routed = decode_rows(&container, body, options, capture, sequence, target)
        .map_err(|error| error.under(&path))?;
    Ok((Some(routed), Some(path)))
}
