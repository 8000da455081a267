//! Named ceilings. Each is checked before memory is spent on what it bounds.

/// Open brackets at one time. The contract asks for 64; what is deeper than this is refused.
pub(crate) const MAX_DEPTH: usize = 128;

/// Choices in one response.
pub(crate) const MAX_CHOICES: usize = 4096;

/// Bytes of metadata (usage, finish reasons, versions) of one choice that are copied for simd-json.
pub(crate) const MAX_METADATA: usize = 1 << 20;

/// Bytes of an npy header. numpy writes 128 for a three-dimensional array.
pub(crate) const MAX_NPY_HEADER: usize = 1 << 16;

/// The largest token id.
pub(crate) const MAX_TOKEN_ID: u32 = i32::MAX as u32;

/// Bytes of a server's error message that are read, as they stand in the body. An exception keeps far less.
pub(crate) const MAX_MESSAGE: usize = 1 << 14;

/// Bytes of a server's error body that an exception keeps.
pub(crate) const MAX_ERROR_BODY: usize = 4096;
