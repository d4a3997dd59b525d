//! Matrix products by cuBLASLt, on row-major matrices: to a library that counts by columns, each is its transpose.

use super::CudaBackend;
use crate::engine::CudaPrecision;
use cudarc::cublaslt::{result, sys};
use std::collections::HashMap;
use std::ffi::c_void;

/// Workspace that an algorithm may use: what NVIDIA recommends for Hopper, and more than it does for what came before.
pub(super) const WORKSPACE: usize = 32 << 20;

/// A row-major matrix, its rows `stride` values apart; or one for each of several products, so far apart (0: one for all).
#[derive(Clone, Copy)]
pub(super) struct Matrix {
    address: u64,
    stride: usize,
    apart: usize,
    transposed: bool,
}

impl Matrix {
    pub(super) fn rows(address: u64, stride: usize) -> Self {
        Self {
            address,
            stride,
            apart: 0,
            transposed: false,
        }
    }

    /// One for each of several products.
    pub(super) fn apart(self, apart: usize) -> Self {
        Self { apart, ..self }
    }

    /// The transpose of what lies there.
    pub(super) fn transposed(address: u64, stride: usize) -> Self {
        Self {
            transposed: true,
            ..Self::rows(address, stride)
        }
    }
}

/// What an algorithm is chosen by.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    size: Size,
    strides: (usize, usize, usize),
    apart: [usize; 4],
    transposed: (bool, bool),
    alignments: (u32, u32, u32),
    bias: bool,
}

/// A product's descriptions and its algorithm.
struct Plan {
    description: sys::cublasLtMatmulDesc_t,
    layouts: [sys::cublasLtMatrixLayout_t; 3],
    algorithm: sys::cublasLtMatmulAlgo_t,
}

/// The library's handle and the products seen so far.
pub(super) struct Products {
    handle: sys::cublasLtHandle_t,
    plans: HashMap<Key, Plan>,
}

// SAFETY: the handle and the descriptions belong to this value, and cuBLASLt ties neither to a thread.
unsafe impl Send for Products {}

impl Drop for Products {
    fn drop(&mut self) {
        // Errors here have nobody to go to.
        for plan in self.plans.values() {
            plan.destroy();
        }
        // SAFETY: made by `create_handle`, destroyed once.
        let _ = unsafe { result::destroy_handle(self.handle) };
    }
}

impl Plan {
    fn destroy(&self) {
        // SAFETY: made by this module, destroyed once.
        unsafe {
            let _ = result::destroy_matmul_desc(self.description);
            for layout in self.layouts {
                let _ = result::destroy_matrix_layout(layout);
            }
        }
    }
}

/// Plans kept: those of some hundred input lengths.
const MOST_PLANS: usize = 4096;

impl Products {
    pub(super) fn new() -> Result<Self, result::CublasError> {
        Ok(Self {
            handle: result::create_handle()?,
            plans: HashMap::new(),
        })
    }

    fn plan(&mut self, key: Key, precision: CudaPrecision) -> Result<&Plan, result::CublasError> {
        // Every new input length brings some: without a bound they would grow for as long as utterances come.
        if self.plans.len() >= MOST_PLANS && !self.plans.contains_key(&key) {
            for (_, plan) in self.plans.drain() {
                plan.destroy();
            }
        }
        match self.plans.entry(key) {
            std::collections::hash_map::Entry::Occupied(entry) => Ok(entry.into_mut()),
            std::collections::hash_map::Entry::Vacant(entry) => {
                Ok(entry.insert(make_plan(self.handle, key, precision)?))
            }
        }
    }
}

/// Asks the library how to do a product. Its left matrix is our right one.
fn make_plan(handle: sys::cublasLtHandle_t, key: Key, precision: CudaPrecision) -> Result<Plan, result::CublasError> {
    let compute = match precision {
        CudaPrecision::Exact => sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
        CudaPrecision::Tf32 => sys::cublasComputeType_t::CUBLAS_COMPUTE_32F_FAST_TF32,
        CudaPrecision::Bf16 => sys::cublasComputeType_t::CUBLAS_COMPUTE_32F_FAST_16BF,
    };
    let f32 = sys::cudaDataType::CUDA_R_32F;
    let (rows, cols, inner) = (key.size.rows as u64, key.size.cols as u64, key.size.inner as u64);
    let layout = |stored: (u64, u64), transposed: bool, stride: usize, apart: usize| {
        let (rows, cols) = if transposed { (stored.1, stored.0) } else { stored };
        let layout = result::create_matrix_layout(f32, rows, cols, stride as i64)?;
        if key.size.count > 1 {
            use sys::cublasLtMatrixLayoutAttribute_t::{
                CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET,
            };
            let (count, apart) = (key.size.count as i32, apart as i64);
            let (count, apart): (*const i32, *const i64) = (&count, &apart);
            // SAFETY: the values are read before the calls return.
            unsafe {
                let attribute = CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT;
                result::set_matrix_layout_attribute(layout, attribute, count.cast(), size_of::<i32>())?;
                let attribute = CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET;
                result::set_matrix_layout_attribute(layout, attribute, apart.cast(), size_of::<i64>())?;
            }
        }
        Ok(layout)
    };
    let (left_transposed, right_transposed) = key.transposed;
    let [left_apart, right_apart, out_apart, bias_apart] = key.apart;
    let layouts = [
        layout((cols, inner), right_transposed, key.strides.1, right_apart)?,
        layout((inner, rows), left_transposed, key.strides.0, left_apart)?,
        layout((cols, rows), false, key.strides.2, out_apart)?,
    ];
    let description = result::create_matmul_desc(compute, f32)?;
    use sys::cublasLtMatmulDescAttributes_t::{
        CUBLASLT_MATMUL_DESC_BIAS_BATCH_STRIDE, CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_MATMUL_DESC_TRANSA,
        CUBLASLT_MATMUL_DESC_TRANSB,
    };
    use sys::cublasLtMatmulPreferenceAttributes_t::{
        CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
    };
    let set = |attribute, value: i32| {
        let pointer: *const i32 = &value;
        // SAFETY: the value is read before the call returns.
        unsafe { result::set_matmul_desc_attribute(description, attribute, pointer.cast(), size_of::<i32>()) }
    };
    set(CUBLASLT_MATMUL_DESC_TRANSA, i32::from(right_transposed))?;
    set(CUBLASLT_MATMUL_DESC_TRANSB, i32::from(left_transposed))?;
    if key.bias {
        let epilogue = sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS;
        set(CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue as i32)?;
        if key.size.count > 1 {
            let apart = bias_apart as i64;
            let (attribute, pointer): (_, *const i64) = (CUBLASLT_MATMUL_DESC_BIAS_BATCH_STRIDE, &apart);
            // SAFETY: the value is read before the call returns.
            unsafe { result::set_matmul_desc_attribute(description, attribute, pointer.cast(), size_of::<i64>())? };
        }
    }
    let preference = result::create_matmul_pref()?;
    let prefer = |attribute, value: *const c_void, size| {
        // SAFETY: the value is read before the call returns.
        unsafe { result::set_matmul_pref_attribute(preference, attribute, value, size) }
    };
    let workspace = WORKSPACE as u64;
    let pointer: *const u64 = &workspace;
    prefer(
        CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
        pointer.cast(),
        size_of::<u64>(),
    )?;
    // The default promises 256 bytes, which a stretch of a flat buffer need not have.
    for (attribute, alignment) in [
        (CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, key.alignments.1),
        (CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, key.alignments.0),
        (CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, key.alignments.2),
        (CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, key.alignments.2),
    ] {
        let pointer: *const u32 = &alignment;
        prefer(attribute, pointer.cast(), size_of::<u32>())?;
    }
    let [left, right, out] = layouts;
    // SAFETY: all made above.
    let found = unsafe {
        let found = result::get_matmul_algo_heuristic(handle, description, left, right, out, out, preference);
        result::destroy_matmul_pref(preference)?;
        found?
    };
    Ok(Plan {
        description,
        layouts,
        algorithm: found.algo,
    })
}

/// The largest power of two, up to 256, that divides an address, and that of each product's matrix, so far apart.
fn alignment(address: u64, apart: usize) -> u32 {
    1 << (address | (4 * apart as u64)).trailing_zeros().min(8)
}

/// The shape of a product: rows and columns of the result, and what is summed over; or of several of one shape.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Size {
    pub(super) count: usize,
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) inner: usize,
}

impl CudaBackend {
    /// `out = left right + bias` (`+ out` with `accumulate`), the bias a value a column, with how far those of several
    /// products are apart. The caller has checked that all lies inside its memory, and that `out`'s rows do not overlap.
    pub(super) fn product(
        &self,
        size: Size,
        left: Matrix,
        right: Matrix,
        out: Matrix,
        bias: Option<(u64, usize)>,
        accumulate: bool,
    ) {
        self.product_onto(size, left, right, out, bias, accumulate.then_some(out.address));
    }

    /// The same added to a matrix that lies elsewhere or, as far apart, where `out` does.
    pub(super) fn product_onto(
        &self,
        size: Size,
        left: Matrix,
        right: Matrix,
        out: Matrix,
        bias: Option<(u64, usize)>,
        onto: Option<u64>,
    ) {
        if size.rows == 0 || size.cols == 0 || size.inner == 0 || self.has_failed() {
            return;
        }
        let key = Key {
            size,
            strides: (left.stride, right.stride, out.stride),
            apart: [left.apart, right.apart, out.apart, bias.map_or(0, |bias| bias.1)],
            transposed: (left.transposed, right.transposed),
            alignments: (
                alignment(left.address, left.apart),
                alignment(right.address, right.apart),
                alignment(out.address | onto.unwrap_or(0), out.apart),
            ),
            bias: bias.is_some(),
        };
        let done = self.device.context.bind_to_thread();
        self.attempt(|| done);
        let mut products = self.products.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let handle = products.handle;
        let done = products.plan(key, self.device.precision).and_then(|plan| {
            let (alpha, beta) = (1.0f32, if onto.is_some() { 1.0f32 } else { 0.0 });
            let (alpha, beta): (*const f32, *const f32) = (&alpha, &beta);
            let [first, second, third] = plan.layouts;
            // SAFETY: the descriptions are alive, the matrices are where the caller says, and the scalars are read
            // before the call returns.
            unsafe {
                if let Some((bias, _)) = bias {
                    let attribute = sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_BIAS_POINTER;
                    let pointer: *const u64 = &bias;
                    result::set_matmul_desc_attribute(plan.description, attribute, pointer.cast(), size_of::<u64>())?;
                }
                result::matmul(
                    handle,
                    plan.description,
                    alpha.cast(),
                    beta.cast(),
                    right.address as *const c_void,
                    first,
                    left.address as *const c_void,
                    second,
                    onto.unwrap_or(out.address) as *const c_void,
                    third,
                    out.address as *mut c_void,
                    third,
                    &plan.algorithm,
                    self.workspace.address as *mut c_void,
                    WORKSPACE,
                    self.raw_stream().cast(),
                )
            }
        });
        if let Err(error) = done {
            self.fail(format!("cuBLASLt: {error}"));
        }
    }
}
