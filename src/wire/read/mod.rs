//! Readers that every wire shares: from the bytes of a body to columns. They compare no value with another one.

pub(crate) mod choices;
pub(crate) mod document;
pub(crate) mod entries;
pub(crate) mod field;
pub(crate) mod ids;
pub(crate) mod maps;
pub(crate) mod matrix;
pub(crate) mod members;
pub(crate) mod packed;
pub(crate) mod server_error;
pub(crate) mod told;
pub(crate) mod triples;
pub(crate) mod walk;
