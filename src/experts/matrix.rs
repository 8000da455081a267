//! An npy file of float32 in two dimensions.

use super::blob::{Blob, refused};
use super::fill::raw;
use super::npy;
use crate::error::{Error, Result};
use crate::memory::Buffer;

/// Rows of float32 in C order.
#[derive(Debug)]
pub struct Matrix {
    /// The values, row after row.
    pub values: Buffer<f32>,
    /// Rows, columns.
    pub shape: [usize; 2],
}

const NPY: &str = "the npy header is not a C-order array of two dimensions of float32";

/// Reads a text. `rows` judges the number of rows before the values are decoded. Errors are of the class of routed experts.
pub(crate) fn matrix(
    blob: &Blob,
    body: &[u8],
    rows: impl FnOnce(u64) -> Result<()>,
) -> Result<Matrix> {
    let (text, at) = (blob.text(body), blob.at());
    let decoded = text.decoded_len()?;
    let dtype = |descr: &[u8]| (descr == b"<f4").then_some(());
    let header = npy::header::<_, 2>(&text, decoded, dtype, NPY)?;
    let header = header.map_err(|message| refused("npy", at, message))?;
    let [height, width] = header.shape;
    let bytes = height
        .checked_mul(width)
        .and_then(|values| values.checked_mul(4)?.checked_add(header.data as u64));
    if bytes != Some(decoded as u64) || width >= 1 << 61 {
        let message = format!("[{height}, {width}] of float32 does not fit {decoded} bytes");
        return Err(refused("size", at, message));
    }
    rows(height)?;
    text.check()?;
    let failed = |at| -> Error { refused("base64", text.place(at), "not base64") };
    let count = (height * width) as usize;
    Ok(Matrix {
        values: raw(&text.text, header.data, count, failed)?,
        shape: [height as usize, width as usize],
    })
}
