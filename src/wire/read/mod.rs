//! Readers that every wire shares: from the bytes of a value to columns. They compare nothing with anything else.

pub(crate) mod entries;
pub(crate) mod field;
pub(crate) mod ids;
pub(crate) mod maps;
pub(crate) mod triples;
pub(crate) mod walk;
