//! Device memory: whole buffers, and stretches of them by address.

use cudarc::driver::CudaSlice;
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
