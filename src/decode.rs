//! The calls that decode a body.

use crate::error::Result;
use crate::experts::Target;
use crate::options::Options;
use crate::wire::{self, Decoded};

/// Decodes a body with one choice.
///
/// # Errors
/// The first rule of `docs/judgement.md` that the body breaks, with its address.
pub fn decode(body: &[u8], options: &Options<'_>) -> Result<Decoded> {
    one(body, options, Target::Own)
}

/// Decodes a body with one choice and writes its routed experts to the front of `experts`, in C order.
///
/// The slice is written with [`ExpertsMode::Int32`](crate::ExpertsMode) only. Behind the rows of an aborted completion it may
/// hold -1 for rows that are missing. After an error its contents are unspecified.
///
/// # Errors
/// As [`decode`]; `experts_out` where the slice is too short.
pub fn decode_into(body: &[u8], options: &Options<'_>, experts: &mut [i32]) -> Result<Decoded> {
    one(body, options, Target::Into(experts))
}

/// Decodes every choice of a body, by index. Dynamo's wires carry one.
///
/// # Errors
/// As [`decode`], for any of the choices.
pub fn decode_choices(body: &[u8], options: &Options<'_>) -> Result<Vec<Decoded>> {
    wire::decode(body, options, true, Target::Own)
}

/// Decodes a generation artifact with one choice, or what SGLang's worker uploads of one, as bytes of their own.
///
/// Of `options`, the wire is not looked at. An artifact does not tell why the completion ended.
///
/// # Errors
/// The first rule of `docs/judgement.md` that the object breaks, with its address.
pub fn decode_artifact(data: &[u8], options: &Options<'_>) -> Result<Decoded> {
    wire::decode_artifact(data, options, Target::Own)
}

fn one(body: &[u8], options: &Options<'_>, target: Target<'_>) -> Result<Decoded> {
    let mut choices = wire::decode(body, options, false, target)?;
    Ok(choices.pop().expect("a body with one choice"))
}
