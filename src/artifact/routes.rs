//! Routes: a tensor [positions, experts per token] for each router, written as rows of all routers.
#![allow(unsafe_code)] // lengths of buffers that were written

use std::mem::MaybeUninit;

use super::around::{ROWS, by_rows};
use super::manifest::{self, Router};
use super::open::Contents;
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
        experts::check_expected(options, routers.len() as u64, top_k as u64, at)?;
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
            let layer = Layer {
                bytes: &bytes[drop * top_k * width..],
                dtype: match router.experts {
                    ..=256 => Element::U8,
                    _ => Element::U16,
                },
            };
            if let Some(i) = layer.beyond(router.experts) {
                let i = drop * top_k + i;
                let message = format!(
                    "a token is routed to an expert that router {} with {} experts has not",
                    router.id, router.experts
                );
                let path = format!("[{}][{}]", i / top_k, i % top_k);
                return Err(refused("range", router.ids.at, message).under(&path));
            }
            layers.push(layer);
        }
        let widest = layers.iter().any(|layer| layer.dtype == Element::U16);
        let dtype = if widest { Element::U16 } else { Element::U8 };
        let values = match (options.experts, dtype, target) {
            (ExpertsMode::Native, Element::U8, _) => ExpertIds::U8(own(&layers, shape)?),
            (ExpertsMode::Native, _, _) => ExpertIds::U16(own(&layers, shape)?),
            (_, _, Target::Own) => ExpertIds::I32(own(&layers, shape)?),
            (_, _, Target::Into(out)) => {
                write(
                    &layers,
                    shape,
                    again(experts::room(out, shape.iter().product())?),
                );
                ExpertIds::Written
            }
        };
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

/// The wanted rows of one router.
struct Layer<'a> {
    bytes: &'a [u8],
    dtype: Element,
}

impl Layer<'_> {
    /// The position of the first id that is none of so many experts.
    fn beyond(&self, experts: u32) -> Option<usize> {
        match self.dtype {
            Element::U8 => {
                let last = u8::try_from(experts - 1).unwrap_or(u8::MAX);
                let most = self.bytes.iter().fold(0, |most, &id| most.max(id));
                (most > last).then(|| self.bytes.iter().position(|&id| id > last))?
            }
            _ => {
                let last = u16::try_from(experts - 1).unwrap_or(u16::MAX);
                let ids = self.bytes.as_chunks().0.iter();
                let mut ids = ids.map(|&id| u16::from_le_bytes(id));
                ids.position(|id| id > last)
            }
        }
    }
}

impl Layer<'_> {
    /// Writes the ids from number `first` on.
    fn widen<T: Id>(&self, first: usize, out: &mut [MaybeUninit<T>]) {
        match self.dtype {
            Element::U8 => {
                for (slot, &id) in out.iter_mut().zip(&self.bytes[first..]) {
                    slot.write(id.into());
                }
            }
            _ => {
                for (slot, &id) in out.iter_mut().zip(&self.bytes.as_chunks().0[first..]) {
                    slot.write(T::of(u16::from_le_bytes(id)));
                }
            }
        }
    }
}

/// A result's type.
trait Id: Plain + From<u8> {
    /// Of an id that fits.
    fn of(id: u16) -> Self;
}

impl Id for u8 {
    fn of(id: u16) -> Self {
        id as u8
    }
}

impl Id for u16 {
    fn of(id: u16) -> Self {
        id
    }
}

impl Id for i32 {
    fn of(id: u16) -> Self {
        id.into()
    }
}

/// The rows in memory of our own.
fn own<T: Id>(layers: &[Layer<'_>], shape: [usize; 3]) -> Result<Buffer<T>> {
    let count = shape.iter().product();
    let mut values = Buffer::with_capacity(count)?;
    write(layers, shape, &mut values.spare_capacity_mut()[..count]);
    // SAFETY: `count` items fit, and `write` has written all of them.
    unsafe { values.set_len(count) };
    Ok(values)
}

/// Writes rows x layers x experts. Of each layer some rows are widened at a time, and then put in their places: a position
/// of every layer in turn would be read from places that fall on the same lines of the cache.
fn write<T: Id>(layers: &[Layer<'_>], shape: [usize; 3], out: &mut [MaybeUninit<T>]) {
    let [_, count, top_k] = shape;
    let place = match top_k {
        1 => place::<1, T>,
        2 => place::<2, T>,
        4 => place::<4, T>,
        6 => place::<6, T>,
        8 => place::<8, T>,
        10 => place::<10, T>,
        _ => place_any,
    };
    let mut ids = vec![MaybeUninit::uninit(); ROWS * top_k];
    by_rows(out, count * top_k, |first, rows| {
        let ids = &mut ids[..rows.len() / count];
        for (i, layer) in layers.iter().enumerate() {
            layer.widen(first * top_k, ids);
            place(ids, rows, i, shape);
        }
    });
}

/// Puts the ids of layer `i` into the rows. The compiler knows how many there are at each position.
fn place<const K: usize, T: Id>(
    ids: &[MaybeUninit<T>],
    rows: &mut [MaybeUninit<T>],
    i: usize,
    [_, layers, _]: [usize; 3],
) {
    let slots = rows.as_chunks_mut::<K>().0.iter_mut();
    for (slot, ids) in slots.skip(i).step_by(layers).zip(ids.as_chunks::<K>().0) {
        *slot = *ids;
    }
}

fn place_any<T: Id>(
    ids: &[MaybeUninit<T>],
    rows: &mut [MaybeUninit<T>],
    i: usize,
    [_, layers, top_k]: [usize; 3],
) {
    let slots = rows.chunks_exact_mut(top_k).skip(i).step_by(layers);
    for (slot, ids) in slots.zip(ids.chunks_exact(top_k)) {
        slot.copy_from_slice(ids);
    }
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
