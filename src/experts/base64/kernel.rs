//! The kernels by name, and the one in use.

use std::env;
use std::ffi::OsString;
use std::mem::MaybeUninit;
use std::sync::OnceLock;

#[cfg(target_arch = "aarch64")]
use super::neon;
use super::portable::Item;
use super::run::{self, Stores};
use super::{Element, cache, portable};
#[cfg(target_arch = "x86_64")]
use super::{avx2, avx512};

/// Forces a kernel, by name.
const KERNEL_VARIABLE: &str = "DYNAMO_TITO_KERNEL";

/// Every name there is; each machine has some of them.
const NAMES: [&str; 4] = ["avx512vbmi", "avx2", "neon", "portable"];

/// Decodes blocks of whole groups without padding from the front of the text into the front of the output, as long as
/// both last, and returns how many items it wrote, each initialised. It stops short of a block that holds a byte
/// which is no letter; what it did write was checked. What is left over is for [`run`] to do or to refuse.
pub(super) type Bulk<T> = fn(text: &[u8], out: &mut [MaybeUninit<T>], stores: Stores) -> Done;

/// What a [`Bulk`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Done {
    pub(super) items: usize,
    /// An item is negative, or a text that is refused could have made one so. Nothing is said of bytes.
    pub(super) negative: bool,
}

impl Done {
    /// Items that cannot be negative.
    pub(super) fn unsigned(items: usize) -> Self {
        Self {
            items,
            negative: false,
        }
    }
}

/// What one instruction set contributes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Table {
    pub(super) name: &'static str,
    /// Letters at the front of the text.
    pub(super) alphabet_len: fn(&[u8]) -> usize,
    pub(super) bytes: Bulk<u8>,
    pub(super) u8_to_i32: Bulk<i32>,
    pub(super) u16_to_i32: Bulk<i32>,
    pub(super) i16_to_i32: Bulk<i32>,
    pub(super) i32_to_i32: Bulk<i32>,
}

/// A kernel that this machine can run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kernel {
    table: Table,
    /// Bytes of output from which on it is written around the cache.
    streaming_from: usize,
}

impl Kernel {
    /// The kernel of that name, if this machine can run it.
    pub(crate) fn by_name(name: &str) -> Option<Self> {
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
    #[cfg(any(test, feature = "reference"))]
    pub(crate) fn streaming_from(self, bytes: usize) -> Self {
        Self {
            streaming_from: bytes,
            ..self
        }
    }

    /// What this machine can run, fastest first.
    pub(crate) fn available() -> impl Iterator<Item = Self> {
        NAMES.into_iter().filter_map(Self::by_name)
    }

    /// The kernel in use: chosen at the first call, for good.
    pub(crate) fn active() -> &'static Self {
        &choice().kernel
    }

    pub(crate) fn name(&self) -> &'static str {
        self.table.name
    }

    pub(crate) fn alphabet_len(&self, text: &[u8]) -> usize {
        (self.table.alphabet_len)(text)
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

/// The name of the kernel in use.
pub(crate) fn kernel_name() -> &'static str {
    Kernel::active().name()
}

/// Why the environment's choice of a kernel cannot be followed, in words, if it cannot. Whoever loads the library must
/// refuse to go on then.
pub(crate) fn kernel_error() -> Option<&'static str> {
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
    fn the_fastest_without_a_wish() {
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
            .filter(|&byte| portable::value(byte) < 64)
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
