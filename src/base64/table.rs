//! What a kernel offers: the functions of one instruction set.

use std::mem::MaybeUninit;

/// Integer type of the rows on the wire, little-endian.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Element {
    /// `uint8`.
    U8,
    /// `uint16`.
    U16,
    /// `int16`.
    I16,
    /// `int32`.
    I32,
}

impl Element {
    /// Every type, narrowest first.
    pub const ALL: [Self; 4] = [Self::U8, Self::U16, Self::I16, Self::I32];

    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            Self::U8 => 1,
            Self::U16 | Self::I16 => 2,
            Self::I32 => 4,
        }
    }

    /// The name on the wire, which is numpy's.
    pub const fn name(self) -> &'static str {
        match self {
            Self::U8 => "uint8",
            Self::U16 => "uint16",
            Self::I16 => "int16",
            Self::I32 => "int32",
        }
    }

    /// The element of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|element| element.name() == name)
    }
}

/// How a kernel writes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stores {
    /// Through the cache.
    Cached,
    /// Around the cache, to an output that starts at a cache line.
    Streaming,
}

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
