//! A GPU: its context, the kernels, and how they are launched.

use super::CudaBackend;
use super::launch::Kernels;
use crate::engine::{CudaPrecision, EngineError};
use cudarc::cublaslt;
use cudarc::driver::sys::{CUdevice_attribute, CUfunction_attribute_enum, CUresult};
use cudarc::driver::{CudaContext, CudaFunction, CudaModule, DriverError, result, sys};
use cudarc::nvrtc::Ptx;
use std::ffi::c_void;
use std::sync::Arc;

/// CUDA 12.4, whose PTX the kernels are in: the driver's version as it states it, and the first driver that has it.
const OLDEST_DRIVER: (i32, &str) = (12040, "550");

/// What the kernels' PTX is for: Ampere (2020).
const OLDEST_CAPABILITY: i32 = 8;

/// One GPU, opened: its context and the kernels compiled for it. Shared by all backends on it.
pub struct CudaDevice {
    pub(super) context: Arc<CudaContext>,
    kernels: Option<Kernels>,
    name: String,
    pub(super) precision: CudaPrecision,
    pub(super) multiprocessors: usize,
}

/// Blocks in each direction.
pub(super) type Grid = (u32, u32, u32);

/// How many blocks of `each` cover `len`.
pub(super) fn blocks(len: usize, each: usize) -> u32 {
    len.div_ceil(each) as u32
}

/// How many GPUs there are, or why none can be used.
pub fn device_count() -> Result<usize, EngineError> {
    let unusable = |reason: &str| EngineError::NoGpu(reason.to_string());
    // SAFETY: loading the driver's library runs its initialisers, as in every CUDA program.
    if !unsafe { sys::is_culib_present() } {
        return Err(unusable(
            "no NVIDIA driver is installed (its library, libcuda, is not found)",
        ));
    }
    match result::init() {
        Ok(()) => {}
        Err(error) if error.0 == CUresult::CUDA_ERROR_NO_DEVICE => {
            return Err(unusable("the NVIDIA driver finds no GPU on this computer"));
        }
        Err(error) => {
            return Err(unusable(&format!(
                "the NVIDIA driver does not start ({})",
                describe(error)
            )));
        }
    }
    let mut version = 0;
    // SAFETY: the pointer is to a live integer.
    let known = unsafe { sys::cuDriverGetVersion(&mut version) }.result();
    if known.is_err() || version < OLDEST_DRIVER.0 {
        let (needed, first) = OLDEST_DRIVER;
        return Err(unusable(&format!(
            "the NVIDIA driver is too old: it has CUDA {}.{}, and {}.{} is needed; update it to {first} or later",
            version / 1000,
            version % 1000 / 10,
            needed / 1000,
            needed % 1000 / 10,
        )));
    }
    // SAFETY: as for the driver.
    if !unsafe { cublaslt::sys::is_culib_present() } {
        return Err(unusable(
            "the library libcublasLt.so.12 is not found; install CUDA 12's cuBLAS (the CUDA toolkit, or the Python \
             package nvidia-cublas-cu12 with its lib directory in LD_LIBRARY_PATH)",
        ));
    }
    let count = CudaContext::device_count().map_err(|error| unusable(&describe(error)))?;
    match count {
        0 => Err(unusable("the NVIDIA driver finds no GPU on this computer")),
        count => Ok(count as usize),
    }
}

/// The GPUs' names, in the order of their numbers.
pub fn device_names() -> Result<Vec<String>, EngineError> {
    let name = |index| CudaContext::new(index).and_then(|context| context.name());
    (0..device_count()?)
        .map(|index| name(index).map_err(|error| EngineError::NoGpu(format!("cuda:{index}: {}", describe(error)))))
        .collect()
}

impl CudaDevice {
    /// Opens a GPU, counted from 0 as the driver does, with exact f32 matrix products.
    pub fn open(index: usize) -> Result<Arc<Self>, EngineError> {
        Self::with_precision(index, CudaPrecision::Exact)
    }

    /// The same with matrix products in a chosen precision.
    pub fn with_precision(index: usize, precision: CudaPrecision) -> Result<Arc<Self>, EngineError> {
        let count = device_count()?;
        if index >= count {
            let there = match count {
                1 => "the only GPU is cuda:0".to_string(),
                _ => format!("the GPUs are cuda:0 to cuda:{}", count - 1),
            };
            return Err(EngineError::NoGpu(format!("there is no cuda:{index}: {there}")));
        }
        let unusable = |error: DriverError| EngineError::NoGpu(format!("cuda:{index}: {}", describe(error)));
        let context = CudaContext::new(index).map_err(unusable)?;
        let (major, minor) = context.compute_capability().map_err(unusable)?;
        if major < OLDEST_CAPABILITY {
            let name = context.name().map_err(unusable)?;
            return Err(EngineError::NoGpu(format!(
                "cuda:{index}: {name} is too old: it has compute capability {major}.{minor}, and {OLDEST_CAPABILITY}.0 is needed"
            )));
        }
        // SAFETY: a backend's memory is used in its own stream only, and the weights, which several read, are in place
        // before any of them starts: there is nothing that events would have to order.
        unsafe { context.disable_event_tracking() };
        let multiprocessors = context
            .attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)
            .map_err(unusable)?;
        let mut device = Self {
            name: context.name().map_err(unusable)?,
            multiprocessors: multiprocessors.max(1) as usize,
            kernels: None,
            precision,
            context,
        };
        device.kernels = Some(Kernels::load(&device).map_err(unusable)?);
        Ok(Arc::new(device))
    }

    /// The GPU's name and number.
    pub fn describe(&self) -> String {
        format!("{} (cuda:{})", self.name, self.context.ordinal())
    }

    pub(super) fn module(&self, ptx: &'static str) -> Result<Arc<CudaModule>, DriverError> {
        self.context.load_module(Ptx::from_src(ptx))
    }

    /// A kernel, allowed the dynamic shared memory that its launches ask for.
    pub(super) fn function(
        &self,
        module: &Arc<CudaModule>,
        name: &str,
        shared: i32,
    ) -> Result<CudaFunction, DriverError> {
        let function = module.load_function(name)?;
        if shared > 48 << 10 {
            let attribute = CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            function.set_attribute(attribute, shared)?;
        }
        Ok(function)
    }
}

/// A driver error's name and words.
pub(super) fn describe(error: DriverError) -> String {
    let part = |text: Result<&std::ffi::CStr, DriverError>| {
        text.map_or_else(|_| format!("{:?}", error.0), |text| text.to_string_lossy().into_owned())
    };
    format!("{}: {}", part(error.error_name()), part(error.error_string()))
}

/// Launches kernels in a backend's stream; the functions are in `launch`.
pub(super) struct Launcher<'a> {
    pub(super) backend: &'a CudaBackend,
}

const MOST_ARGUMENTS: usize = 20;

/// A kernel's arguments, gathered in order.
pub(super) struct Arguments<'a> {
    backend: &'a CudaBackend,
    function: &'a CudaFunction,
    /// A value each, of four bytes or eight, at its place's start.
    places: [[u8; 8]; MOST_ARGUMENTS],
    len: usize,
}

/// What a kernel takes by value.
pub(super) trait Scalar {
    /// As it lies in memory.
    fn bytes(self) -> [u8; 8];
}

macro_rules! scalar {
    ($($kind:ty),*) => {$(
        impl Scalar for $kind {
            fn bytes(self) -> [u8; 8] {
                let mut place = [0; 8];
                place[..size_of::<$kind>()].copy_from_slice(&self.to_ne_bytes());
                place
            }
        }
    )*};
}

scalar!(i32, i64, u32, u64, f32, f64);

impl<'a> Launcher<'a> {
    pub(super) fn kernels(&self) -> &'a Kernels {
        self.backend
            .device
            .kernels
            .as_ref()
            .expect("an open device has kernels")
    }

    pub(super) fn arguments(&self, function: &'a CudaFunction) -> Arguments<'a> {
        Arguments {
            backend: self.backend,
            function,
            places: [[0; 8]; MOST_ARGUMENTS],
            len: 0,
        }
    }
}

impl Arguments<'_> {
    pub(super) fn value(mut self, value: impl Scalar) -> Self {
        self.places[self.len] = value.bytes();
        self.len += 1;
        self
    }

    pub(super) fn pointer(self, address: u64) -> Self {
        self.value(address)
    }

    pub(super) fn optional(self, address: Option<u64>) -> Self {
        self.value(address.unwrap_or(0))
    }

    /// Puts the launch in the stream; nothing happens where the grid is empty, or after a failure.
    pub(super) fn launch(mut self, grid: Grid, threads: u32, shared: u32) {
        if grid.0 == 0 || grid.1 == 0 || grid.2 == 0 {
            return;
        }
        let mut pointers = [std::ptr::null_mut::<c_void>(); MOST_ARGUMENTS];
        for (pointer, place) in pointers.iter_mut().zip(&mut self.places) {
            *pointer = place.as_mut_ptr().cast();
        }
        let (function, stream, len) = (self.function.cu_function(), self.backend.raw_stream(), self.len);
        // SAFETY: the arguments' number and types are the kernel's, from its signature; the stretches of memory are as
        // long as the caller, in `ops`, has checked; they stay alive, since memory is freed in stream order.
        self.backend.attempt(|| unsafe {
            result::launch_kernel(function, grid, (threads, 1, 1), shared, stream, &mut pointers[..len])
        });
    }
}
