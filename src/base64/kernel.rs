//! The kernels by name, and the one in use.
#![allow(unsafe_code)] // initialised memory lent as if it were not

use std::env;
use std::ffi::OsString;
use std::mem::MaybeUninit;
use std::sync::OnceLock;

#[cfg(target_arch = "aarch64")]
use super::neon;
use super::portable::Item;
use super::table::{Bulk, Element, Stores, Table};
#[cfg(target_arch = "x86_64")]
use super::{avx2, avx512};
use super::{cache, portable, run};

/// Forces a kernel, by name.
const KERNEL_VARIABLE: &str = "DYNAMO_TITO_KERNEL";

/// Every name there is; each machine has some of them.
const NAMES: [&str; 4] = ["avx512vbmi", "avx2", "neon", "portable"];

/// A kernel that this machine can run.
#[derive(Clone, Copy, Debug)]
pub struct Kernel {
    table: Table,
    /// Bytes of output from which on it is written around the cache.
    streaming_from: usize,
}

impl Kernel {
    /// The kernel of that name, if this machine can run it.
    pub fn by_name(name: &str) -> Option<Self> {
        let table = match name {
            #[cfg(target_arch = "x86_64")]
            "avx512vbmi" => avx512::table()?,
            #[cfg(target_arch = "x86_64")]
            "avx2" => avx2::table()?,
            #[cfg(target_arch = "aarch64")]
            "neon" => neon::table()?,
            "portable" => portable::TABLE,
            _ => return None,
        };
        Some(Self {
            table,
            streaming_from: cache::streaming_from(),
        })
    }

    /// The same kernel with another bound: 0 always streams, `usize::MAX` never.
    #[must_use]
    pub fn streaming_from(self, bytes: usize) -> Self {
        Self {
            streaming_from: bytes,
            ..self
        }
    }

    /// What this machine can run, fastest first.
    pub fn available() -> impl Iterator<Item = Self> {
        NAMES.into_iter().filter_map(Self::by_name)
    }

    /// The kernel in use: chosen at the first call, for good.
    pub fn active() -> &'static Self {
        &choice().kernel
    }

    /// The name that `DYNAMO_TITO_KERNEL` knows.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.table.name
    }

    /// As [`alphabet_len`](super::alphabet_len).
    #[must_use]
    pub fn alphabet_len(&self, text: &[u8]) -> usize {
        (self.table.alphabet_len)(text)
    }

    /// Writes the bytes `skip..skip + out.len()` of the decoded stream over `out`.
    ///
    /// # Errors
    /// The index of the first bad byte among the groups of four letters that were read, padding in the wrong place included;
    /// of a text whose length is no multiple of four, the length.
    ///
    /// # Panics
    /// If the text decodes to fewer bytes; [`decoded_len`](super::decoded_len) says how many there are.
    pub fn decode(&self, text: &[u8], skip: usize, out: &mut [u8]) -> Result<(), usize> {
        self.decode_into(text, skip, lent(out))
    }

    /// Writes elements over `out`, the first of which begins at byte `skip` of the decoded stream: unsigned ones widened with
    /// zeros, signed ones with their sign. Returns whether any of them is negative.
    ///
    /// # Errors
    /// As [`decode`](Self::decode).
    ///
    /// # Panics
    /// As [`decode`](Self::decode).
    pub fn widen(
        &self,
        text: &[u8],
        element: Element,
        skip: usize,
        out: &mut [i32],
    ) -> Result<bool, usize> {
        self.widen_into(text, element, skip, lent(out))
    }

    pub(crate) fn decode_into(
        &self,
        text: &[u8],
        skip: usize,
        out: &mut [MaybeUninit<u8>],
    ) -> Result<(), usize> {
        self.run(text, skip, out, &Item::BYTES, self.table.bytes)
            .map(|_| ())
    }

    pub(crate) fn widen_into(
        &self,
        text: &[u8],
        element: Element,
        skip: usize,
        out: &mut [MaybeUninit<i32>],
    ) -> Result<bool, usize> {
        match element {
            Element::U8 => self.run(text, skip, out, &Item::U8, self.table.u8_to_i32),
            Element::U16 => self.run(text, skip, out, &Item::U16, self.table.u16_to_i32),
            Element::I16 => self.run(text, skip, out, &Item::I16, self.table.i16_to_i32),
            Element::I32 => self.run(text, skip, out, &Item::I32, self.table.i32_to_i32),
        }
    }

    fn run<T>(
        &self,
        text: &[u8],
        skip: usize,
        out: &mut [MaybeUninit<T>],
        item: &Item<T>,
        bulk: Bulk<T>,
    ) -> Result<bool, usize> {
        let stores = if size_of_val(out) >= self.streaming_from {
            Stores::Streaming
        } else {
            Stores::Cached
        };
        run::run(text, skip, out, item, bulk, stores)
    }
}

/// Initialised items as a kernel takes them: it writes items only, so what is initialised stays so.
fn lent<T: Copy>(out: &mut [T]) -> &mut [MaybeUninit<T>] {
    // SAFETY: the same memory and layout; a kernel writes no uninitialised items into it.
    unsafe { std::slice::from_raw_parts_mut(out.as_mut_ptr().cast(), out.len()) }
}

/// The name of the kernel in use.
#[must_use]
pub fn kernel_name() -> &'static str {
    Kernel::active().name()
}

/// Why this machine cannot run the kernel that the environment names, or None. A binding refuses to load with an error.
#[must_use]
pub fn kernel_error() -> Option<&'static str> {
    choice().error.as_deref()
}

struct Choice {
    kernel: Kernel,
    error: Option<String>,
}

fn choice() -> &'static Choice {
    static CHOICE: OnceLock<Choice> = OnceLock::new();
    CHOICE.get_or_init(|| choose(env::var_os(KERNEL_VARIABLE)))
}

fn choose(wanted: Option<OsString>) -> Choice {
    let fastest = Kernel::available().next().unwrap_or(Kernel {
        table: portable::TABLE,
        streaming_from: usize::MAX,
    });
    let Some(wanted) = wanted else {
        return Choice {
            kernel: fastest,
            error: None,
        };
    };
    match wanted.to_str().and_then(Kernel::by_name) {
        Some(kernel) => Choice {
            kernel,
            error: None,
        },
        None => {
            let names: Vec<_> = Kernel::available().map(|kernel| kernel.name()).collect();
            let names = names.join(", ");
            let error = format!(
                "{KERNEL_VARIABLE}={}: this machine runs {names}",
                wanted.display()
            );
            Choice {
                kernel: fastest,
                error: Some(error),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_names_a_kernel() {
        for kernel in Kernel::available() {
            let choice = choose(Some(kernel.name().into()));
            assert_eq!((choice.kernel.name(), choice.error), (kernel.name(), None));
        }
    }

    #[test]
    fn a_kernel_that_cannot_be_had_is_an_error() {
        for wanted in ["", "sse2", "AVX2", "portable "] {
            let error = choose(Some(wanted.into())).error.unwrap();
            assert!(
                error.starts_with(&format!("DYNAMO_TITO_KERNEL={wanted}: ")),
                "{error}"
            );
            assert!(error.ends_with("portable"), "{error}");
        }
    }

    #[test]
    fn the_fastest_without_a_choice() {
        let choice = choose(None);
        assert_eq!(choice.error, None);
        assert_eq!(
            Some(choice.kernel.name()),
            Kernel::available().map(|kernel| kernel.name()).next()
        );
    }

    #[test]
    fn nothing_of_a_good_text_is_left_over() {
        // Every letter, at every place of a group.
        let letters: Vec<u8> = (0..=255)
            .filter(|&byte| super::super::scalar::value(byte) < 64)
            .collect();
        let text: Vec<u8> = (0..6400).map(|at| letters[(at + at / 64) % 64]).collect();
        for Table {
            name,
            alphabet_len,
            bytes,
            u8_to_i32,
            u16_to_i32,
            i16_to_i32,
            i32_to_i32,
        } in Kernel::available().map(|kernel| kernel.table)
        {
            assert_eq!(alphabet_len(&text), 6400, "{name}");
            assert_eq!(
                bytes(&text, &mut [MaybeUninit::uninit(); 4800], Stores::Cached).items,
                4800,
                "{name}"
            );
            let mut out = [MaybeUninit::uninit(); 4800];
            for (bulk, items) in [
                (u8_to_i32, 4800),
                (u16_to_i32, 2400),
                (i16_to_i32, 2400),
                (i32_to_i32, 1200),
            ] {
                assert_eq!(
                    bulk(&text, &mut out[..items], Stores::Cached).items,
                    items,
                    "{name}"
                );
            }
        }
    }
}
