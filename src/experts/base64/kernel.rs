//! The kernels by name, and the one in use.

use std::env;
use std::ffi::OsString;
use std::mem::MaybeUninit;
use std::sync::OnceLock;

use super::run::{self, Stores};
use super::{Element, portable};

/// Forces a kernel, by name.
const KERNEL_VARIABLE: &str = "DYNAMO_TITO_KERNEL";

/// Every name there is; each machine has some of them.
const NAMES: [&str; 4] = ["avx512vbmi", "avx2", "neon", "portable"];

/// Decodes blocks of whole groups without padding from the front of the text into the front of the output, as long as
/// both last, and returns how many items it wrote, each initialised. It stops short of a block that holds a byte
/// which is no letter; what it did write was checked. What is left over is for [`run`] to do or to refuse.
pub(super) type Bulk<T> = fn(text: &[u8], out: &mut [MaybeUninit<T>], stores: Stores) -> usize;

/// What one instruction set contributes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kernel {
    pub(super) name: &'static str,
    /// Letters at the front of the text.
    pub(super) alphabet_len: fn(&[u8]) -> usize,
    pub(super) bytes: Bulk<u8>,
    pub(super) u8_to_i32: Bulk<i32>,
    pub(super) u16_to_i32: Bulk<i32>,
    pub(super) i16_to_i32: Bulk<i32>,
    pub(super) i32_to_i32: Bulk<i32>,
}

impl Kernel {
    /// The kernel of that name, if this machine can run it.
    pub(crate) fn by_name(name: &str) -> Option<Self> {
        match name {
            "portable" => Some(portable::KERNEL),
            _ => None,
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
        self.name
    }

    pub(crate) fn alphabet_len(&self, text: &[u8]) -> usize {
        (self.alphabet_len)(text)
    }

    pub(crate) fn decode_into(
        &self,
        text: &[u8],
        skip: usize,
        out: &mut [MaybeUninit<u8>],
    ) -> Result<(), usize> {
        run::run(text, skip, 1, out, self.bytes, |bytes| bytes.next())
    }

    pub(crate) fn widen_into(
        &self,
        text: &[u8],
        element: Element,
        skip: usize,
        out: &mut [MaybeUninit<i32>],
    ) -> Result<(), usize> {
        let size = element.size();
        match element {
            Element::U8 => run::run(text, skip, size, out, self.u8_to_i32, |bytes| {
                Ok(bytes.next()?.into())
            }),
            Element::U16 => run::run(text, skip, size, out, self.u16_to_i32, |bytes| {
                Ok(u16::from_le_bytes(bytes.array()?).into())
            }),
            Element::I16 => run::run(text, skip, size, out, self.i16_to_i32, |bytes| {
                Ok(i16::from_le_bytes(bytes.array()?).into())
            }),
            Element::I32 => run::run(text, skip, size, out, self.i32_to_i32, |bytes| {
                Ok(i32::from_le_bytes(bytes.array()?))
            }),
        }
    }
}

/// The name of the kernel in use.
pub(crate) fn kernel_name() -> &'static str {
    Kernel::active().name
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
    let fastest = Kernel::available().next().unwrap_or(portable::KERNEL);
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
            let names: Vec<_> = Kernel::available().map(|kernel| kernel.name).collect();
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
