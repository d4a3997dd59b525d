//! Device memory: whole buffers, and stretches of them by address.

use super::device::describe;
use super::{CudaBackend, address_of, lock};
use crate::engine::{Backend, EngineError};
use cudarc::driver::CudaSlice;
use cudarc::driver::sys::CUresult;
use std::marker::PhantomData;

/// Owned device memory.
pub struct CudaBuffer {
    /// `None` where it is empty: the driver gives no such allocation.
    pub(super) _memory: Option<CudaSlice<f32>>,
    pub(super) address: u64,
    pub(super) len: usize,
}

/// A readable stretch of device memory.
pub struct View<'a, T = f32> {
    address: u64,
    len: usize,
    buffer: PhantomData<&'a T>,
}

/// A writable stretch of device memory.
pub struct ViewMut<'a, T = f32> {
    address: u64,
    len: usize,
    buffer: PhantomData<&'a mut T>,
}

impl<T> Clone for View<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for View<'_, T> {}

impl<'a, T> View<'a, T> {
    /// # Safety
    /// `len` values at the address are readable for `'a`, and nobody writes them meanwhile but work that comes later in
    /// the same stream.
    pub(super) unsafe fn new(address: u64, len: usize) -> Self {
        Self {
            address,
            len,
            buffer: PhantomData,
        }
    }

    pub(super) fn address(&self) -> u64 {
        self.address
    }

    /// Number of values.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The same memory as values of another type.
    pub(super) fn cast<U>(self) -> View<'a, U> {
        View {
            address: self.address,
            len: self.len * size_of::<T>() / size_of::<U>(),
            buffer: PhantomData,
        }
    }

    /// From a value on.
    pub(super) fn from(self, offset: usize) -> Self {
        assert!(offset <= self.len, "offset {offset} is outside {} values", self.len);
        Self {
            address: self.address + (offset * size_of::<T>()) as u64,
            len: self.len - offset,
            ..self
        }
    }
}

impl<'a, T> ViewMut<'a, T> {
    /// # Safety
    /// As [`View::new`], and nobody else reads or writes the values meanwhile.
    pub(super) unsafe fn new(address: u64, len: usize) -> Self {
        Self {
            address,
            len,
            buffer: PhantomData,
        }
    }

    pub(super) fn address(&self) -> u64 {
        self.address
    }

    /// Number of values.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// To read what was written.
    pub(super) fn as_view(&self) -> View<'_, T> {
        View {
            address: self.address,
            len: self.len,
            buffer: PhantomData,
        }
    }

    /// From a value on.
    pub(super) fn from(&mut self, offset: usize) -> ViewMut<'_, T> {
        assert!(offset <= self.len, "offset {offset} is outside {} values", self.len);
        ViewMut {
            address: self.address + (offset * size_of::<T>()) as u64,
            len: self.len - offset,
            buffer: PhantomData,
        }
    }

    /// The first `len` values and the rest.
    pub(super) fn split(&mut self, len: usize) -> (ViewMut<'_, T>, ViewMut<'_, T>) {
        assert!(len <= self.len, "{len} is outside {} values", self.len);
        let first = ViewMut {
            address: self.address,
            len,
            buffer: PhantomData,
        };
        let rest = ViewMut {
            address: self.address + (len * size_of::<T>()) as u64,
            len: self.len - len,
            buffer: PhantomData,
        };
        (first, rest)
    }

    /// The same memory as values of another type.
    pub(super) fn cast<U>(&mut self) -> ViewMut<'_, U> {
        ViewMut {
            address: self.address,
            len: self.len * size_of::<T>() / size_of::<U>(),
            buffer: PhantomData,
        }
    }
}

impl CudaBackend {
    /// Zeros of its own memory.
    pub(super) fn allocate(&self, len: usize) -> Result<CudaBuffer, EngineError> {
        if let Some(failure) = &*lock(&self.failure) {
            return Err(failure.clone());
        }
        if len == 0 {
            return Ok(CudaBuffer {
                _memory: None,
                address: 0,
                len,
            });
        }
        lock(&self.graphs).forget();
        // SAFETY: filled below before anyone sees it.
        let slice = unsafe { self.stream.alloc::<f32>(len) }.map_err(|error| match error.0 {
            CUresult::CUDA_ERROR_OUT_OF_MEMORY => EngineError::OutOfMemory {
                device: self.device.describe(),
                bytes: len.saturating_mul(4),
            },
            _ => EngineError::DeviceFailed {
                device: self.device.describe(),
                reason: describe(error),
            },
        })?;
        let mut buffer = CudaBuffer {
            address: address_of(&slice, &self.stream),
            _memory: Some(slice),
            len,
        };
        self.zero(self.view_mut(&mut buffer, 0..len));
        Ok(buffer)
    }
}
