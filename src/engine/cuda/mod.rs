//! The CUDA backend: cuBLASLt for matrix products, `kernels/*.cu` for the rest, one stream a backend.
//!
//! Needs neither the CUDA toolkit to build nor a driver to start: the libraries are looked for when a device is opened.
//! Operations only put work in the stream; a failure is kept, makes everything after it a no-op, and comes out of
//! [`Backend::status`].

mod attention;
mod backend;
mod decoder;
mod descent;
mod device;
mod graph;
mod launch;
mod matmul;
mod memory;
mod norms;
mod ops;
mod speech;
mod staging;

pub use device::{CudaDevice, device_count, device_names};
pub use memory::{CudaBuffer, View, ViewMut};

use super::{Backend, EngineError};
use cudarc::driver::{CudaSlice, CudaStream, DriverError, result, sys};
use device::{Grid, Launcher, blocks, describe};
use graph::Graphs;
use matmul::{Products, WORKSPACE};
use staging::Staging;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

/// One stream of work on a GPU. Several share a device; each has its own workspace.
pub struct CudaBackend {
    device: Arc<CudaDevice>,
    stream: Arc<CudaStream>,
    products: Mutex<Products>,
    workspace: CudaBuffer,
    scratch: Mutex<CudaBuffer>,
    /// Bucket lists on the device, by content: one for each input length of a model with relative positions.
    buckets: Mutex<HashMap<Vec<u32>, CudaSlice<u32>>>,
    graphs: Mutex<Graphs>,
    staging: Mutex<Staging>,
    /// Of the log-mel frames, with their bands.
    tables: Mutex<Option<(usize, CudaBuffer)>>,
    failure: Mutex<Option<EngineError>>,
}

/// Bucket lists kept.
const MOST_BUCKETS: usize = 64;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What a panic left is no worse than before: launches are independent of each other.
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl CudaBackend {
    /// A stream of its own on a device.
    pub fn new(device: &Arc<CudaDevice>) -> Result<Self, EngineError> {
        let failed = |reason: String| EngineError::DeviceFailed {
            device: device.describe(),
            reason,
        };
        let stream = device.context.new_stream().map_err(|error| failed(describe(error)))?;
        let products = Products::new().map_err(|error| failed(format!("cuBLASLt: {error}")))?;
        let staging = Staging::new(&device.context).map_err(|error| failed(describe(error)))?;
        let empty = || CudaBuffer {
            _memory: None,
            address: 0,
            len: 0,
        };
        let mut backend = Self {
            device: device.clone(),
            stream,
            products: Mutex::new(products),
            workspace: empty(),
            scratch: Mutex::new(empty()),
            buckets: Mutex::new(HashMap::new()),
            graphs: Mutex::default(),
            staging: Mutex::new(staging),
            tables: Mutex::new(None),
            failure: Mutex::new(None),
        };
        backend.workspace = backend.zeros(WORKSPACE / 4)?;
        Ok(backend)
    }

    fn launcher(&self) -> Launcher<'_> {
        Launcher { backend: self }
    }

    fn raw_stream(&self) -> sys::CUstream {
        self.stream.cu_stream()
    }

    /// Blocks of 256 threads for work value by value: enough to fill the device several times, no more.
    fn grid_over(&self, len: usize) -> Grid {
        (blocks(len, 256).min(16 * self.device.multiprocessors as u32), 1, 1)
    }

    fn has_failed(&self) -> bool {
        lock(&self.failure).is_some()
    }

    fn fail(&self, reason: String) {
        let device = self.device.describe();
        lock(&self.failure).get_or_insert(EngineError::DeviceFailed { device, reason });
    }

    /// Calls the driver, unless something failed before.
    fn attempt(&self, call: impl FnOnce() -> Result<(), DriverError>) {
        if self.has_failed() {
            return;
        }
        let done = self.device.context.bind_to_thread().and_then(|()| call());
        if let Err(error) = done {
            self.fail(describe(error));
        }
    }

    /// Waits for all that is in the stream.
    fn wait(&self) {
        self.attempt(|| self.stream.synchronize());
    }

    fn zero<T>(&self, to: ViewMut<'_, T>) {
        let (address, bytes) = (to.address(), to.len() * size_of::<T>());
        if bytes > 0 {
            // SAFETY: the stretch is inside live memory.
            self.attempt(|| unsafe { result::memset_d8_async(address, 0, bytes, self.raw_stream()) });
        }
    }

    /// Zeros in the first so many values of each of several stretches, which begin so far apart.
    fn zero_each(&self, to: ViewMut<'_>, count: usize, apart: usize, len: usize) {
        if len == 0 {
            return;
        }
        if count == 1 {
            return self.zero(to);
        }
        assert!(
            len <= apart && (count - 1) * apart + len <= to.len(),
            "{len} values in {count} of {apart}"
        );
        let (address, stream) = (to.address(), self.raw_stream());
        // SAFETY: the stretches are inside live memory.
        self.attempt(|| unsafe { sys::cuMemsetD2D32Async(address, 4 * apart, 0, len, count, stream) }.result());
    }

    /// Device to host; waits. What cannot be read is NaN or 0xFF.
    fn read<T: Copy>(&self, from: View<'_, T>, host: &mut [T]) {
        assert_eq!(from.len(), host.len());
        if host.is_empty() {
            return;
        }
        self.fetch(from.address(), host);
        if self.has_failed() {
            // SAFETY: T is a number, for which any bytes will do; nobody takes a failed device's for results.
            unsafe { std::ptr::write_bytes(host.as_mut_ptr(), 0xFF, host.len()) };
        }
    }

    /// Memory for one operation's intermediate values; it grows to the most that was asked for.
    fn with_scratch(&self, len: usize, work: impl FnOnce(ViewMut<'_>)) {
        let mut scratch = lock(&self.scratch);
        if scratch.len < len {
            match self.zeros(len.next_power_of_two()) {
                Ok(buffer) => *scratch = buffer,
                Err(error) => {
                    lock(&self.failure).get_or_insert(error);
                    return;
                }
            }
        }
        // SAFETY: the guard is held, so nobody else has it; work of an earlier holder comes first in the stream.
        work(unsafe { ViewMut::new(scratch.address, len) });
    }

    /// A bucket list on the device, put there once.
    fn with_buckets(&self, buckets: &[u32], work: impl FnOnce(View<'_, u32>)) {
        let mut known = lock(&self.buckets);
        if !known.contains_key(buckets) {
            if known.len() >= MOST_BUCKETS {
                lock(&self.graphs).forget();
                known.clear();
            }
            if self.has_failed() {
                return;
            }
            match self.stream.clone_htod(buckets) {
                Ok(slice) => {
                    known.insert(buckets.to_vec(), slice);
                }
                Err(error) => return self.fail(describe(error)),
            }
        }
        if let Some(slice) = known.get(buckets) {
            // SAFETY: the list lives as long as the guard, and is freed in stream order.
            work(unsafe { View::new(address_of(slice, &self.stream), slice.len()) });
        }
    }
}

fn address_of<T>(slice: &CudaSlice<T>, stream: &CudaStream) -> u64 {
    use cudarc::driver::DevicePtr;
    slice.device_ptr(stream).0
}

impl Drop for CudaBackend {
    fn drop(&mut self) {
        // Memory is freed when nothing uses it any more; errors have nobody to go to.
        let _ = self.stream.synchronize();
    }
}
