//! What the tests of the CUDA backend share: they run on a GPU, or on the emulated one that
//! `kernels/check` puts in the way of the driver.
#![allow(dead_code, unreachable_pub)]

use aurist::engine::cuda::{CudaBackend, CudaDevice, device_count};
use aurist::engine::{Backend, Slot};
use std::ffi::{c_char, c_int, c_void};
use std::sync::{Arc, OnceLock};

/// The device, opened once; `None`, said aloud, where there is none. With AURIST_GPU_TESTS set there must be one.
pub fn device() -> Option<Arc<CudaDevice>> {
    static DEVICE: OnceLock<Option<Arc<CudaDevice>>> = OnceLock::new();
    DEVICE
        .get_or_init(|| match device_count() {
            Ok(_) => Some(CudaDevice::open(0).unwrap()),
            Err(error) if std::env::var_os("AURIST_GPU_TESTS").is_some() => panic!("{error}"),
            Err(error) => {
                eprintln!("skipped: {error}");
                None
            }
        })
        .clone()
}

/// A backend of its own on the device.
pub fn backend() -> Option<CudaBackend> {
    Some(CudaBackend::new(&device()?).unwrap())
}

/// A backend with uploads and downloads by whole buffers.
pub struct Host<B: Backend>(pub B);

/// A buffer with its place on a device.
pub struct Values<'a, B: Backend> {
    backend: &'a B,
    buffer: B::Buffer,
}

impl<B: Backend> Host<B> {
    pub fn put(&self, values: &[f32]) -> Values<'_, B> {
        Values {
            backend: &self.0,
            buffer: self.0.buffer(values.to_vec()).unwrap(),
        }
    }

    /// To be written: NaN until then.
    pub fn space(&self, len: usize) -> Values<'_, B> {
        self.put(&vec![f32::NAN; len])
    }
}

impl<B: Backend> Values<'_, B> {
    pub fn view(&self) -> B::View<'_> {
        self.backend.view(&self.buffer, 0..self.backend.len(&self.buffer))
    }

    pub fn view_mut(&mut self) -> B::ViewMut<'_> {
        let len = self.backend.len(&self.buffer);
        self.backend.view_mut(&mut self.buffer, 0..len)
    }

    pub fn get(&self) -> Vec<f32> {
        let mut host = vec![0.0; self.backend.len(&self.buffer)];
        self.backend.download(self.view(), &mut host);
        self.backend.status().unwrap();
        host
    }

    pub fn with_split<const R: usize, const W: usize>(
        &mut self,
        reads: [Slot; R],
        writes: [Slot; W],
        work: impl FnOnce(&B, [B::View<'_>; R], [B::ViewMut<'_>; W]),
    ) {
        let (reads, writes) = self.backend.split(&mut self.buffer, reads, writes);
        work(self.backend, reads, writes);
    }
}

/// Deterministic values, about normal.
pub fn random(len: usize, seed: u64) -> Vec<f32> {
    let mut random = fastrand::Rng::with_seed(seed);
    (0..len)
        .map(|_| (0..4).map(|_| random.f32() - 0.5).sum::<f32>() * 1.7)
        .collect()
}

/// Every output of an operation on one backend against another's, each difference relative to the output's largest value.
pub fn assert_same(case: &str, outputs: &[Vec<f32>], expected: &[Vec<f32>], tolerance: f32) {
    assert_eq!(outputs.len(), expected.len());
    for (index, (output, expected)) in outputs.iter().zip(expected).enumerate() {
        assert_eq!(output.len(), expected.len(), "{case}: output {index}");
        let largest = expected.iter().fold(1e-3f32, |largest, value| largest.max(value.abs()));
        for (at, (value, expected)) in output.iter().zip(expected).enumerate() {
            // Not the other way round: NaN must fail.
            let close = (value - expected).abs() <= tolerance * largest;
            assert!(close, "{case}: output {index} at {at} is {value}, not {expected}");
        }
    }
}

/// Runs the same code on the CPU backend and on the CUDA one and compares what it returns, a vector of outputs.
#[macro_export]
macro_rules! compare {
    ($case:expr, $tolerance:expr, |$host:ident| $body:expr) => {{
        let expected: Vec<Vec<f32>> = {
            let host = $crate::cuda_support::Host(aurist::engine::cpu::CpuBackend::new(1).unwrap());
            let $host = &host;
            $body
        };
        if let Some(backend) = $crate::cuda_support::backend() {
            let outputs: Vec<Vec<f32>> = {
                let host = $crate::cuda_support::Host(backend);
                let $host = &host;
                $body
            };
            let case: String = $case.into();
            $crate::cuda_support::assert_same(&case, &outputs, &expected, $tolerance);
        }
    }};
}

/// What the emulated driver counts; `None` on a GPU.
#[derive(Debug, Clone, Copy)]
pub enum Count {
    /// Of device and pinned memory.
    Allocations = 0,
    /// Times that the host waited for the device.
    Waits = 1,
    /// Graphs made of recorded work.
    Graphs = 2,
    /// Kernels run, a graph's too; those of products are not among them.
    Launches = 3,
    /// All that streams were given to do: kernels, products, copies, memory set; a graph's too.
    Work = 4,
}

unsafe extern "C" {
    fn dlopen(name: *const c_char, flags: c_int) -> *mut c_void;
    fn dlsym(library: *mut c_void, name: *const c_char) -> *mut c_void;
}

/// Of all backends in this process: a test that counts must be alone in it, or take turns.
pub fn counted(of: Count) -> Option<u64> {
    const RTLD_NOW: c_int = 2;
    // SAFETY: the library is loaded already, by the device; its function is what driver.cpp says.
    unsafe {
        let library = dlopen(c"libcuda.so".as_ptr(), RTLD_NOW);
        assert!(!library.is_null());
        let function = dlsym(library, c"emulated_count".as_ptr());
        (!function.is_null()).then(|| {
            let function: extern "C" fn(c_int) -> u64 = std::mem::transmute(function);
            function(of as c_int)
        })
    }
}
