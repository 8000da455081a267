//! What is no pair of a body and its meaning: base64, npy headers and JSON for themselves, and ceilings, whose bodies are large.

mod blobs;
mod ceilings;
mod syntax;
