//! Reads the prelude of a generation artifact, checks the sizes, and then allocates and reads the rest.
//!
//! Offsets are those of the artifact as it is without compression: behind the prelude come the manifest, its padding and
//! the tensors.

use std::fmt::Display;

use super::columns::Artifact;
use super::manifest;
use super::zstd::Frame;
use crate::error::{Class, Error, Result};
use crate::limits::{self, MAX_ARTIFACT_MANIFEST, MAX_ARTIFACT_TENSORS};
use crate::memory::Buffer;
use crate::options::Options;

const MAGIC: &[u8; 8] = b"DYNEXP1\0";
const VERSION: [u64; 2] = [1, 0];
/// magic [8], version [2 x 2], codec [2], bytes of the manifest [4], bytes of the tensors [8]; little-endian.
pub(super) const PRELUDE: usize = 26;
/// The tensors begin at a multiple of it, counted from the end of the prelude.
const ALIGNMENT: usize = 64;

/// Manifest, padding and tensors.
#[derive(Debug)]
pub(super) struct Contents {
    pub(super) bytes: Buffer<u8>,
    manifest: usize,
    /// Where the tensors begin.
    pub(super) tensors: usize,
}

impl Contents {
    pub(super) fn manifest(&self) -> &[u8] {
        &self.bytes.as_slice()[..self.manifest]
    }
}

/// Whether an object begins as an artifact does.
fn is_artifact(data: &[u8]) -> bool {
    let head = &data[..data.len().min(MAGIC.len())];
    MAGIC.starts_with(head)
}

/// Reads an artifact with one choice up to its routes.
pub(crate) fn open(data: &[u8], options: &Options<'_>) -> Result<Artifact> {
    let contents = contents(data, options)?;
    let choice = manifest::read(&contents)?;
    Artifact::new(contents, choice, options)
}

fn contents(data: &[u8], options: &Options<'_>) -> Result<Contents> {
    if !is_artifact(data) {
        return Err(refused("magic", 0, "no generation artifact begins so"));
    }
    let Some((prelude, rest)) = data.split_first_chunk::<PRELUDE>() else {
        let message = "the prelude is cut short";
        return Err(refused("truncated", data.len(), message));
    };
    let number = |at: usize, size: usize| {
        let bytes = prelude[at..at + size].iter().rev();
        bytes.fold(0, |all, &byte| all << 8 | u64::from(byte))
    };
    let version = [number(8, 2), number(10, 2)];
    if version != VERSION {
        let [major, minor] = version;
        let message = format!("generation artifact {major}.{minor}; 1.0 is read");
        return Err(refused("version", 8, message));
    }
    let codec = number(12, 2);
    if codec > 1 {
        let message = format!("codec {codec}; 0 (none) and 1 (zstd) are read");
        return Err(refused("codec", 12, message));
    }
    let (manifest, tensors) = (number(14, 4) as usize, number(18, 8));
    if manifest == 0 {
        return Err(refused("size", 14, "a manifest of no bytes"));
    }
    let large = |at, what: &str, found: &dyn Display, most: &dyn Display| {
        let message = format!("{found} bytes of {what}, the format allows {most}");
        refused("too_large", at, message)
    };
    if manifest > MAX_ARTIFACT_MANIFEST {
        return Err(large(14, "manifest", &manifest, &MAX_ARTIFACT_MANIFEST));
    }
    if tensors > MAX_ARTIFACT_TENSORS {
        return Err(large(18, "tensors", &tensors, &MAX_ARTIFACT_TENSORS));
    }
    let begin = manifest.next_multiple_of(ALIGNMENT);
    let size = begin as u64 + tensors;
    check_ceiling(size, 18, options)?;
    let bytes = match codec {
        0 => plain(rest, size as usize)?,
        _ => {
            let frame = Frame::read(rest, PRELUDE)?;
            if frame.content != size {
                let message = format!(
                    "the zstd frame holds {} bytes, the prelude speaks of {size}",
                    frame.content
                );
                return Err(refused("size", PRELUDE, message));
            }
            frame.decompress()?
        }
    };
    let padding = &bytes.as_slice()[manifest..begin];
    if let Some(i) = padding.iter().position(|&byte| byte != 0) {
        let message = "the padding behind the manifest is not zero";
        return Err(refused("padding", PRELUDE + manifest + i, message));
    }
    Ok(Contents {
        bytes,
        manifest,
        tensors: begin,
    })
}

/// What stands there without compression.
fn plain(rest: &[u8], size: usize) -> Result<Buffer<u8>> {
    if rest.len() < size {
        let message = "the artifact is cut short";
        return Err(refused("truncated", PRELUDE + rest.len(), message));
    }
    if rest.len() > size {
        let message = "something follows the tensors";
        return Err(refused("trailing_data", PRELUDE + size, message));
    }
    let mut bytes = Buffer::transient(size, size)?;
    bytes.extend_from_slice(rest)?;
    Ok(bytes)
}

/// Fails if more would be decompressed than the caller allows.
pub(super) fn check_ceiling(size: u64, at: usize, options: &Options<'_>) -> Result<()> {
    let most = options.limits.max_decompressed;
    if size > most {
        let found = format!("{size} bytes once decompressed");
        let message = limits::over(found, most, "max_decompressed_bytes");
        return Err(refused("too_large", at, message));
    }
    Ok(())
}

#[cold]
fn refused(
    kind: &'static str,
    at: usize,
    message: impl Into<std::borrow::Cow<'static, str>>,
) -> Error {
    Error::new(Class::Malformed, kind, "", at, message)
}
