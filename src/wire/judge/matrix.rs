//! Step (d), last part: vLLM's log-probabilities of given ids along the prompt.

use crate::error::{Class, Error, Result};
use crate::experts::{Matrix, matrix};
use crate::limits;
use crate::options::Options;
use crate::wire::answer::{Paths, Place};
use crate::wire::read::matrix::Npy;
use crate::wire::sentinel::{is_too_high, positive_logprob};

/// Reads the values, and judges them by themselves and by the number of rows. `prompt` is P.
pub(crate) fn read_matrix(
    (place, npy): (Place, Npy),
    body: &[u8],
    prompt: Option<u64>,
    options: &Options<'_>,
    paths: &Paths<'_>,
) -> Result<(Matrix, String)> {
    let path = paths.text(place);
    let (at, blob) = match npy {
        Npy::Text(blob) => (blob.at(), blob),
        Npy::Other { at, found } => {
            let message = format!("found {found} where a string, an npy file, was expected");
            return Err(Error::new(Class::Malformed, "type", path, at, message));
        }
    };
    let rows = |rows: u64| {
        let ceiling = options.limits.max_tokens;
        if rows > ceiling as u64 {
            let message = limits::over(format!("the array has {rows} rows"), ceiling, "max_tokens");
            return Err(Error::new(Class::Malformed, "too_many", "", at, message));
        }
        match prompt {
            Some(prompt) if rows >= prompt.max(1) => {
                let message = format!("{rows} rows for a prompt of {prompt} tokens");
                Err(Error::new(Class::Alignment, "count", "", at, message))
            }
            _ => Ok(()),
        }
    };
    let read = matrix(&blob, body, rows).map_err(|error| malformed(error).under(&path))?;
    let width = read.shape[1];
    for (i, &value) in read.values.as_slice().iter().enumerate() {
        let place = || format!("{path}[{}][{}]", i / width, i % width);
        if is_too_high(value.into()) && value.is_finite() {
            return Err(positive_logprob(value.into(), place(), Some(at)));
        }
        // Minus infinity is what a padded column holds.
        if value.is_nan() || value == f32::INFINITY {
            let message = format!("{value} is no log-probability");
            return Err(Error::new(Class::Malformed, "range", place(), at, message));
        }
    }
    Ok((read, path))
}

/// An error of a text of base64, which is one of routed experts elsewhere.
fn malformed(error: Error) -> Error {
    match error.class {
        Class::RoutedExperts => Error {
            class: Class::Malformed,
            ..error
        },
        _ => error,
    }
}
