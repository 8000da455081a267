//! Numpy arrays over our memory.
#![allow(unsafe_code)] // arrays that own a block

use numpy::ndarray::{ArrayView, Dim, Dimension, IntoDimension, ShapeBuilder};
use numpy::{
    Element, PyArray, PyArray1, PyArrayDyn, PyArrayMethods, PyReadonlyArray, PyReadwriteArrayDyn,
    PyUntypedArrayMethods,
};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;

use crate::memory::{Block, Buffer, Plain};

/// Keeps a block alive for the array over it, and gives it back to the pool when the array dies.
#[pyclass(frozen, module = "dynamo_tito._core", name = "_Memory")]
struct Memory {
    _block: Block,
}

/// Arrays of fewer bytes are copied into numpy's own memory: cheaper than an owner of their own.
const OWNED_FROM: usize = 64 << 10;

/// A one-dimensional array of the buffer's items.
pub(super) fn flat<T: Plain + Element>(py: Python<'_>, buffer: Buffer<T>) -> PyResult<Py<PyAny>> {
    let len = buffer.len();
    shaped(py, buffer, [len])
}

/// An array of the buffer's items in C order. The shape's product is the buffer's length.
pub(super) fn shaped<T: Plain + Element, const N: usize>(
    py: Python<'_>,
    buffer: Buffer<T>,
    shape: [usize; N],
) -> PyResult<Py<PyAny>>
where
    [usize; N]: IntoDimension<Dim = Dim<[usize; N]>>,
    Dim<[usize; N]>: Dimension,
{
    if size_of_val(buffer.as_slice()) < OWNED_FROM {
        let array = PyArray1::from_slice(py, buffer.as_slice());
        return Ok(if N == 1 {
            array.into_any().unbind()
        } else {
            array.reshape(shape)?.into_any().unbind()
        });
    }
    let (block, len) = buffer.into_block();
    assert_eq!(
        shape.iter().product::<usize>(),
        len,
        "the shape is that of the items"
    );
    let start = block.start().cast::<T>().as_ptr();
    let owner = Bound::new(py, Memory { _block: block })?;
    // SAFETY: the block holds `len` initialised items from `start` on, and lives as long as `owner`, which becomes the
    // array's base. Nothing else refers to it.
    let array = unsafe {
        let view = ArrayView::from_shape_ptr(shape.into_dimension().into_shape_with_order(), start);
        PyArray::borrow_from_array(&view, owner.into_any())
    };
    Ok(array.into_any().unbind())
}

/// A caller's array, to be read. ValueError while another thread decodes into it.
pub(super) fn readable<'py, T: Element, D: Dimension>(
    name: &str,
    array: &Bound<'py, PyArray<T, D>>,
) -> PyResult<PyReadonlyArray<'py, T, D>> {
    array
        .try_readonly()
        .map_err(|error| PyValueError::new_err(format!("{name} cannot be read: {error}")))
}

/// A caller's array, lent for a decode.
pub(super) struct ExpertsOut<'py> {
    array: Bound<'py, PyArrayDyn<i32>>,
    lent: PyReadwriteArrayDyn<'py, i32>,
}

impl<'py> ExpertsOut<'py> {
    /// Checks that `object` is a writable C-contiguous int32 array.
    pub(super) fn new(object: &Bound<'py, PyAny>) -> PyResult<Self> {
        let array = object
            .cast::<PyArrayDyn<i32>>()
            .map_err(|_| PyTypeError::new_err("experts_out must be a numpy array of int32"))?
            .clone();
        if !array.is_c_contiguous() {
            return Err(PyValueError::new_err("experts_out must be C-contiguous"));
        }
        let lent = array.try_readwrite().map_err(|error| {
            PyValueError::new_err(format!("experts_out cannot be written: {error}"))
        })?;
        Ok(Self { array, lent })
    }

    /// The array's memory, to write into.
    pub(super) fn memory(&mut self) -> PyResult<&mut [i32]> {
        Ok(self.lent.as_slice_mut()?)
    }

    /// A view of the first `shape.product()` items.
    pub(super) fn view(self, shape: [usize; 3]) -> PyResult<Py<PyAny>> {
        let len: usize = shape.iter().product();
        let flat = self.array.reshape([self.array.len()])?.into_any();
        let head = flat.get_item(pyo3::types::PySlice::new(
            self.array.py(),
            0,
            len as isize,
            1,
        ))?;
        Ok(head
            .call_method1("reshape", (shape[0], shape[1], shape[2]))?
            .unbind())
    }
}
