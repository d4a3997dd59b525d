//! Pinned host memory that copies go through: the device reads and writes it while the host goes on.

use super::{CudaBackend, lock};
use cudarc::driver::{CudaContext, DriverError, result};
use std::ffi::c_void;
use std::sync::Arc;

/// Bytes: more than an utterance's input and logits.
const BYTES: usize = 4 << 20;

/// One backend's pinned memory. What is before `used` may still be read by a copy.
pub(super) struct Staging {
    context: Arc<CudaContext>,
    start: *mut u8,
    used: usize,
}

// SAFETY: plain memory, reached through the backend's lock only.
unsafe impl Send for Staging {}

impl Staging {
    pub(super) fn new(context: &Arc<CudaContext>) -> Result<Self, DriverError> {
        context.bind_to_thread()?;
        // SAFETY: a size that is not 0; freed once, below.
        let start = unsafe { result::malloc_host(BYTES, 0) }?;
        Ok(Self {
            context: context.clone(),
            start: start.cast(),
            used: 0,
        })
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // Errors here have nobody to go to.
        if self.context.bind_to_thread().is_ok() {
            // SAFETY: from `malloc_host`; the backend has waited for its stream before.
            let _ = unsafe { result::free_host(self.start.cast::<c_void>()) };
        }
    }
}

impl CudaBackend {
    /// Host to device; the host's memory is free again when this returns.
    pub(super) fn write<T: Copy>(&self, host: &[T], address: u64) {
        let mut staging = lock(&self.staging);
        for (index, part) in host.chunks(BYTES / size_of::<T>()).enumerate() {
            let (bytes, to) = (size_of_val(part), address + (index * BYTES) as u64);
            if staging.used + bytes > BYTES {
                self.wait();
                staging.used = 0;
            }
            // SAFETY: `used + bytes` is inside, no copy under way reads it, and T is plain.
            let staged = unsafe {
                let place = staging.start.add(staging.used);
                std::ptr::copy_nonoverlapping(part.as_ptr().cast(), place, bytes);
                std::slice::from_raw_parts(place, bytes)
            };
            // SAFETY: the stretch is inside live memory, and the staged bytes stay until the stream was waited for.
            self.attempt(|| unsafe { result::memcpy_htod_async(to, staged, self.raw_stream()) });
            // The next part begins on a boundary of any type.
            staging.used = (staging.used + bytes).next_multiple_of(16);
        }
    }

    /// Device to host; waits.
    pub(super) fn fetch<T: Copy>(&self, address: u64, host: &mut [T]) {
        let mut staging = lock(&self.staging);
        for (index, part) in host.chunks_mut(BYTES / size_of::<T>()).enumerate() {
            let (bytes, from) = (size_of_val(part), address + (index * BYTES) as u64);
            if staging.used + bytes > BYTES {
                self.wait();
                staging.used = 0;
            }
            // SAFETY: `used + bytes` is inside, and no copy under way touches it.
            let place = unsafe { staging.start.add(staging.used) };
            // SAFETY: u8 has no invalid values; nobody else has the stretch.
            let staged = unsafe { std::slice::from_raw_parts_mut(place, bytes) };
            // SAFETY: both stretches are live until the wait below.
            self.attempt(|| unsafe { result::memcpy_dtoh_async(staged, from, self.raw_stream()) });
            self.wait();
            staging.used = 0;
            // SAFETY: the copy is done, T is plain, and the two do not overlap.
            unsafe { std::ptr::copy_nonoverlapping(place, part.as_mut_ptr().cast(), bytes) };
        }
    }
}
