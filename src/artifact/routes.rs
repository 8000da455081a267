//! Routes: a tensor [positions, experts per token] for each router, written as rows of all routers.
#![allow(unsafe_code)] // lengths of buffers that were written

use std::mem::MaybeUninit;

use super::manifest::{self, Router};
use super::open::Contents;
use super::rows::{Id, Layer, write};
use crate::base64::Element;
use crate::error::{Class, Error, Result};
use crate::experts::{self, ExpertIds, Routed, Sequence, Target};
use crate::memory::{Buffer, Plain};
use crate::options::{ExpertsMode, FinalRow, Options};

/// Routes of a sequence. The routers are the layers of the result, in the order of the manifest: that of the engine.
#[derive(Debug)]
pub(crate) struct Routes {
    contents: Contents,
    start: u64,
    routers: Vec<Router>,
}

impl Routes {
    pub(super) fn new(contents: Contents, routes: manifest::Routes) -> Self {
        Self {
            contents,
            start: routes.start,
            routers: routes.routers,
        }
    }

    /// Checks the geometry and writes the wanted rows. Paths of errors are relative to the component.
    pub(crate) fn decode(
        &self,
        sequence: &Sequence,
        options: &Options<'_>,
        target: Target<'_>,
    ) -> Result<Routed> {
        let routers = self.wanted(options.routers)?;
        let first = routers[0].ids;
        let [rows, top_k] = first.shape;
        let at = first.at;
        if let Some(other) = routers
            .iter()
            .find(|router| router.ids.shape != first.shape)
        {
            let message = format!(
                "router {} has rows x experts {:?}, router {} has {:?}; routers= takes those of one shape",
                routers[0].id, first.shape, other.id, other.ids.shape
            );
            return Err(refused("shape", other.ids.at, message));
        }
        experts::check_expected(
            experts::Capture::Experts.row(options),
            [routers.len() as u64, top_k as u64],
            at,
        )?;
        experts::check_rows(options, rows as u64, at)?;
        // Without a completion the prompt's last token is one that was run.
        let final_row = match sequence.completion {
            0 => FinalRow::Present,
            _ => options.final_row,
        };
        let placing = Options {
            final_row,
            ..*options
        };
        let trimmed = experts::trim(rows as u64, Some(self.start), at, &placing, sequence)?;
        let drop = trimmed.drop as usize;
        let shape = [rows - drop, routers.len(), top_k];
        let tensors = &self.contents.bytes.as_slice()[self.contents.tensors..];
        let mut layers = Vec::with_capacity(routers.len());
        for router in &routers {
            let bytes = router.ids.of(tensors);
            let width = bytes.len() / (rows * top_k).max(1);
            layers.push(Layer {
                bytes: &bytes[drop * top_k * width..],
                wide: router.experts > 1 << 8,
                last: u16::try_from(router.experts - 1).unwrap_or(u16::MAX),
            });
        }
        let wide = layers.iter().any(|layer| layer.wide);
        let native = options.experts == ExpertsMode::Native;
        let beyond = || beyond(&layers, &routers, drop * top_k, top_k);
        let values = match (wide, target) {
            (false, _) if native => ExpertIds::U8(own::<u8, u8>(&layers, shape, beyond)?),
            (true, _) if native => ExpertIds::U16(own::<u16, u16>(&layers, shape, beyond)?),
            (false, Target::Own) => ExpertIds::I32(own::<u8, i32>(&layers, shape, beyond)?),
            (true, Target::Own) => ExpertIds::I32(own::<u16, i32>(&layers, shape, beyond)?),
            (_, Target::Into(out)) => {
                let out = again(experts::room(out, shape.iter().product())?);
                let fits = match wide {
                    false => write::<u8, i32>(&layers, shape, out),
                    true => write::<u16, i32>(&layers, shape, out),
                };
                if !fits {
                    return Err(beyond());
                }
                ExpertIds::Written
            }
        };
        let dtype = if wide { Element::U16 } else { Element::U8 };
        Ok(Routed {
            values,
            shape,
            start: trimmed.start,
            dtype,
            complete: trimmed.complete,
            dropped: trimmed.drop,
            reach: trimmed.reach,
        })
    }

    /// The routers that were asked for by id, or all.
    fn wanted(&self, asked: Option<&[u64]>) -> Result<Vec<&Router>> {
        for (i, router) in self.routers.iter().enumerate() {
            if self.routers[..i].iter().any(|other| other.id == router.id) {
                let message = format!("two routers have the id {}", router.id);
                return Err(refused("duplicate_router", router.ids.at, message));
            }
        }
        let Some(asked) = asked else {
            return Ok(self.routers.iter().collect());
        };
        let find = |id: &u64| {
            let router = self.routers.iter().find(|router| router.id == *id);
            router.ok_or_else(|| {
                let message = format!(
                    "no router has the id {id}; there are {}",
                    self.routers.len()
                );
                Error::new(Class::Missing, "missing", "routers", None, message)
            })
        };
        asked.iter().map(find).collect()
    }
}

/// The error of the first id that is too large, in the order of the routers.
#[cold]
fn beyond(layers: &[Layer<'_>], routers: &[&Router], dropped: usize, top_k: usize) -> Error {
    let mut found = layers.iter().zip(routers);
    let found = found.find_map(|(layer, router)| Some((layer.beyond()?, router)));
    let (i, router) = found.expect("an id was too large");
    let i = dropped + i;
    let message = format!(
        "a token is routed to an expert that router {} with {} experts has not",
        router.id, router.experts
    );
    let path = format!("[{}][{}]", i / top_k, i % top_k);
    refused("range", router.ids.at, message).under(&path)
}

/// The rows in memory of our own.
fn own<E: Id, T: Plain + From<E>>(
    layers: &[Layer<'_>],
    shape: [usize; 3],
    beyond: impl FnOnce() -> Error,
) -> Result<Buffer<T>> {
    let count = shape.iter().product();
    let mut values = Buffer::with_capacity(count)?;
    if !write(layers, shape, &mut values.spare_capacity_mut()[..count]) {
        return Err(beyond());
    }
    // SAFETY: `count` items fit, and `write` has written all of them.
    unsafe { values.set_len(count) };
    Ok(values)
}

/// An array that was written before, to be written.
fn again(out: &mut [i32]) -> &mut [MaybeUninit<i32>] {
    // SAFETY: the same memory; through the result only values are written.
    unsafe { &mut *(std::ptr::from_mut(out) as *mut [MaybeUninit<i32>]) }
}

#[cold]
fn refused(kind: &'static str, at: usize, message: String) -> Error {
    Error::new(Class::RoutedExperts, kind, "", at, message)
}
