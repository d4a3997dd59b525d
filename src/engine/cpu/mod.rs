//! The CPU backend: matrix products on packed operands, vectorised loops for the rest, one thread pool a session.

mod adamw;
mod attention;
mod channel_norm;
mod convolution;
mod cross_attention;
mod fast_convolution;
mod gather;
mod gelu;
mod grouped_convolution;
mod grouped_spectrum;
mod layer_norm;
mod linear;
mod math;
mod matmul;
mod memory;
mod objective;
mod parallel;
mod relative_bias;
mod simd;
mod weight_norm;

use super::{
    AdamW, Attention, Backend, BiasAndGradient, Conv1d, CrossAttention, DecoderBackend, EngineError, GroupedConv1d,
    Linear, NO_PADDING, ObjectiveTerms, ObjectiveValue, PseudoLabel, RelativeBias, Rows, Slot, Spans,
    pseudo_label_loss,
};
use parallel::Shared;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

pub use attention::log_sum_exp;
pub use matmul::measured_gflops;

/// Runs on `threads` threads of its own pool, or on the caller's thread when that is one.
pub struct CpuBackend {
    threads: usize,
    pool: Option<rayon::ThreadPool>,
}

impl CpuBackend {
    /// A backend on at least one thread.
    pub fn new(threads: usize) -> Result<Self, EngineError> {
        let threads = threads.max(1);
        let pool = if threads == 1 {
            None
        } else {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .thread_name(|index| format!("aurist-{index}"))
                .build()
                .map_err(|error| EngineError::Threads {
                    threads,
                    reason: error.to_string(),
                })?;
            Some(pool)
        };
        Ok(Self { threads, pool })
    }

    /// How many threads work on one operation.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// The vector instructions, and the matrix units, chosen at run time.
    pub fn instructions() -> &'static str {
        if matmul::has_matrix_units() {
            return "AVX-512 and AMX";
        }
        simd::detected()
    }

    /// Runs `f` inside the pool, so that the operations in it need no hand-over from an outside thread each.
    pub fn within<R: Send>(&self, f: impl FnOnce() -> R + Send) -> R {
        match &self.pool {
            Some(pool) => pool.install(f),
            None => f(),
        }
    }
}

impl Backend for CpuBackend {
    type Buffer = Vec<f32>;
    type View<'a> = &'a [f32];
    type ViewMut<'a> = &'a mut [f32];

    fn describe(&self) -> String {
        format!("CPU ({}, {} threads)", Self::instructions(), self.threads)
    }

    fn zeros(&self, len: usize) -> Result<Vec<f32>, EngineError> {
        memory::zeros(len).ok_or_else(|| EngineError::OutOfMemory {
            device: "computer".into(),
            bytes: len.saturating_mul(4),
        })
    }

    fn buffer(&self, mut values: Vec<f32>) -> Result<Vec<f32>, EngineError> {
        values.shrink_to_fit();
        memory::into_huge_pages(&mut values);
        Ok(values)
    }

    fn len(&self, buffer: &Vec<f32>) -> usize {
        buffer.len()
    }

    fn view<'a>(&self, buffer: &'a Vec<f32>, range: Range<usize>) -> &'a [f32] {
        &buffer[range]
    }

    fn view_mut<'a>(&self, buffer: &'a mut Vec<f32>, range: Range<usize>) -> &'a mut [f32] {
        &mut buffer[range]
    }

    fn split<'a, const R: usize, const W: usize>(
        &self,
        buffer: &'a mut Vec<f32>,
        reads: [Slot; R],
        writes: [Slot; W],
    ) -> ([&'a [f32]; R], [&'a mut [f32]; W]) {
        super::check_split(buffer.len(), &reads, &writes);
        let start = buffer.as_mut_ptr();
        // SAFETY: every slot lies inside the buffer, no written slot overlaps another slot, and the buffer stays
        // mutably borrowed for as long as the parts live.
        unsafe {
            (
                reads.map(|slot| std::slice::from_raw_parts(start.add(slot.offset).cast_const(), slot.len)),
                writes.map(|slot| std::slice::from_raw_parts_mut(start.add(slot.offset), slot.len)),
            )
        }
    }

    fn upload(&self, host: &[f32], to: &mut [f32]) {
        to.copy_from_slice(host);
    }

    fn download(&self, from: &[f32], host: &mut [f32]) {
        host.copy_from_slice(from);
    }

    fn copy(&self, from: &[f32], to: &mut [f32]) {
        assert_eq!(from.len(), to.len());
        let (len, to) = (to.len(), Shared::new(to));
        self.run_values(len, |part| {
            // SAFETY: parts are disjoint.
            unsafe { to.stretch(part.clone()) }.copy_from_slice(&from[part]);
        });
    }

    fn fill_zero(&self, to: &mut [f32]) {
        let (len, to) = (to.len(), Shared::new(to));
        // SAFETY: parts are disjoint.
        self.run_values(len, |part| unsafe { to.stretch(part) }.fill(0.0));
    }

    fn all_finite(&self, values: &[f32]) -> bool {
        let finite = AtomicBool::new(true);
        self.run_values(values.len(), |part| {
            if !simd::all_finite(&values[part]) {
                finite.store(false, Ordering::Relaxed);
            }
        });
        finite.into_inner()
    }

    fn linear(&self, shape: Linear, x: &[f32], weight: &[f32], bias: Option<&[f32]>, y: &mut [f32], accumulate: bool) {
        linear::forward(self, shape, x, weight, bias, y, accumulate);
    }

    fn linear_residual(&self, shape: Linear, x: &[f32], weight: &[f32], bias: &[f32], residual: &[f32], y: &mut [f32]) {
        self.copy(residual, y);
        linear::forward(self, shape, x, weight, Some(bias), y, true);
    }

    fn linear_gelu(&self, shape: Linear, x: &[f32], weight: &[f32], bias: &[f32], pre: &mut [f32], y: &mut [f32]) {
        linear::forward_gelu(self, shape, x, weight, bias, pre, y);
    }

    fn linear_backward_input(&self, shape: Linear, dy: &[f32], weight: &[f32], dx: &mut [f32], accumulate: bool) {
        linear::backward_input(self, shape, dy, weight, dx, accumulate);
    }

    fn linear_backward_weight(&self, shape: Linear, x: &[f32], dy: &[f32], dweight: &mut [f32]) {
        linear::backward_weight(self, shape, x, dy, dweight);
    }

    fn bias_backward(&self, shape: Rows, dy: &[f32], dbias: &mut [f32]) {
        linear::backward_bias(self, shape, dy, dbias);
    }

    fn conv1d_gelu(&self, shape: Conv1d, x: &[f32], weight: &[f32], bias: &[f32], pre: &mut [f32], y: &mut [f32]) {
        convolution::forward_gelu(self, shape, x, weight, bias, pre, y);
    }

    fn conv1d_backward_weight(&self, shape: Conv1d, x: &[f32], dpre: &[f32], dweight: &mut [f32]) {
        convolution::backward_weight(self, shape, x, dpre, dweight);
    }

    fn conv1d_backward_input(&self, shape: Conv1d, dpre: &[f32], weight: &[f32], dx: &mut [f32]) {
        convolution::backward_input(self, shape, dpre, weight, dx);
    }

    fn grouped_conv1d_scratch(&self, shape: GroupedConv1d) -> usize {
        grouped_convolution::scratch(self, shape)
    }

    fn grouped_conv1d(
        &self,
        shape: GroupedConv1d,
        x: &[f32],
        weight: &[f32],
        bias: &[f32],
        y: &mut [f32],
        scratch: &mut [f32],
    ) {
        grouped_convolution::forward(self, shape, x, weight, bias, y, scratch);
    }

    fn grouped_conv1d_backward_input(
        &self,
        shape: GroupedConv1d,
        dy: &[f32],
        weight: &[f32],
        dx: &mut [f32],
        accumulate: bool,
        scratch: &mut [f32],
    ) {
        grouped_convolution::backward_input(self, shape, dy, weight, dx, accumulate, scratch);
    }

    fn grouped_conv1d_backward_weight(
        &self,
        shape: GroupedConv1d,
        x: &[f32],
        dy: &[f32],
        dweight: &mut [f32],
        scratch: &mut [f32],
    ) {
        grouped_convolution::backward_weight(self, shape, x, dy, dweight, scratch);
    }

    fn prepare_grouped_conv1d(&self, shape: GroupedConv1d, weight: &[f32]) -> Option<Vec<f32>> {
        grouped_spectrum::prepare(self, shape, weight)
    }

    fn prepared_grouped_conv1d(&self, shape: GroupedConv1d, x: &[f32], prepared: &[f32], bias: &[f32], y: &mut [f32]) {
        grouped_spectrum::forward(self, shape, x, prepared, bias, y);
    }

    fn prepared_grouped_conv1d_backward_input(
        &self,
        shape: GroupedConv1d,
        dy: &[f32],
        prepared: &[f32],
        dx: &mut [f32],
        accumulate: bool,
    ) {
        grouped_spectrum::backward_input(self, shape, dy, prepared, dx, accumulate);
    }

    fn weight_norm(&self, shape: GroupedConv1d, direction: &[f32], magnitude: &[f32], weight: &mut [f32]) {
        weight_norm::forward(self, shape, direction, magnitude, weight);
    }

    fn weight_norm_backward(
        &self,
        shape: GroupedConv1d,
        direction: &[f32],
        magnitude: &[f32],
        dweight: &[f32],
        ddirection: Option<&mut [f32]>,
        dmagnitude: Option<&mut [f32]>,
    ) {
        weight_norm::backward(shape, direction, magnitude, dweight, ddirection, dmagnitude);
    }

    fn gelu(&self, x: &mut [f32]) {
        gelu::forward(self, x);
    }

    fn gelu_backward(&self, pre: &[f32], d: &mut [f32]) {
        gelu::backward(self, pre, d);
    }

    fn layer_norm(&self, shape: Rows, x: &[f32], weight: &[f32], bias: &[f32], y: &mut [f32], statistics: &mut [f32]) {
        layer_norm::forward(self, shape, x, weight, bias, y, statistics);
    }

    fn layer_norm_gelu(
        &self,
        shape: Rows,
        x: &[f32],
        weight: &[f32],
        bias: &[f32],
        y: &mut [f32],
        statistics: &mut [f32],
    ) {
        layer_norm::forward(self, shape, x, weight, bias, y, statistics);
        gelu::forward(self, y);
    }

    fn layer_norm_backward_input(
        &self,
        shape: Rows,
        x: &[f32],
        statistics: &[f32],
        weight: &[f32],
        dy: &[f32],
        dx: &mut [f32],
        accumulate: bool,
    ) {
        layer_norm::backward_input(self, shape, x, statistics, weight, dy, dx, accumulate);
    }

    fn layer_norm_backward_parameters(
        &self,
        shape: Rows,
        x: &[f32],
        statistics: &[f32],
        dy: &[f32],
        dweight: Option<&mut [f32]>,
        dbias: Option<&mut [f32]>,
    ) {
        layer_norm::backward_parameters(self, shape, x, statistics, dy, dweight, dbias);
    }

    fn layer_norm_gelu_backward(
        &self,
        shape: Rows,
        x: &[f32],
        statistics: &[f32],
        parameters: [&[f32]; 2],
        d: &mut [f32],
        dx: &mut [f32],
        [dweight, dbias]: [Option<&mut [f32]>; 2],
    ) {
        layer_norm::gelu_backward(self, shape, x, statistics, parameters, d);
        layer_norm::backward_parameters(self, shape, x, statistics, d, dweight, dbias);
        layer_norm::backward_input(self, shape, x, statistics, parameters[0], d, dx, false);
    }

    fn channel_norm_gelu(
        &self,
        shape: Rows,
        counted: Option<&[f32]>,
        x: &[f32],
        weight: &[f32],
        bias: &[f32],
        y: &mut [f32],
        statistics: &mut [f32],
    ) {
        assert!(counted.is_none(), "{NO_PADDING}");
        channel_norm::forward(self, shape, x, weight, bias, y, statistics);
    }

    fn channel_norm_gelu_backward(
        &self,
        shape: Rows,
        counted: Option<&[f32]>,
        x: &[f32],
        statistics: &[f32],
        parameters: (&[f32], &[f32]),
        d: &mut [f32],
        dweight: Option<&mut [f32]>,
        dbias: Option<&mut [f32]>,
    ) {
        assert!(counted.is_none(), "{NO_PADDING}");
        channel_norm::backward(self, shape, x, statistics, parameters, d, dweight, dbias);
    }

    fn attention_scratch(&self, shape: Attention) -> usize {
        attention::scratch(self, shape)
    }

    fn attention(
        &self,
        shape: Attention,
        spans: Option<Spans<&[f32]>>,
        qkv: &[f32],
        bias: Option<RelativeBias<&[f32]>>,
        out: &mut [f32],
        log_sum_exp: &mut [f32],
        scratch: &mut [f32],
    ) {
        assert!(spans.is_none(), "{NO_PADDING}");
        attention::forward(self, shape, qkv, bias, out, log_sum_exp, scratch);
    }

    fn attention_backward(
        &self,
        shape: Attention,
        spans: Option<Spans<&[f32]>>,
        qkv: &[f32],
        bias: BiasAndGradient<&[f32], &mut [f32]>,
        out: &[f32],
        log_sum_exp: &[f32],
        dout: &[f32],
        dqkv: &mut [f32],
        scratch: &mut [f32],
    ) {
        assert!(spans.is_none(), "{NO_PADDING}");
        attention::backward(self, shape, qkv, bias, out, log_sum_exp, dout, dqkv, scratch);
    }

    fn relative_gate(&self, shape: Rows, projection: &[f32], constant: &[f32], gate: &mut [f32]) {
        relative_bias::gate(shape, projection, constant, gate);
    }

    fn relative_gate_backward(
        &self,
        shape: Rows,
        projection: &[f32],
        constant: &[f32],
        dgate: &[f32],
        dprojection: &mut [f32],
        dconstant: Option<&mut [f32]>,
    ) {
        relative_bias::gate_backward(shape, projection, constant, dgate, dprojection, dconstant);
    }

    fn relative_table(&self, buckets: &[u32], heads: usize, embedding: &[f32], table: &mut [f32]) {
        relative_bias::table(buckets, heads, embedding, table);
    }

    fn relative_table_backward(&self, buckets: &[u32], heads: usize, dtable: &[f32], dembedding: &mut [f32]) {
        relative_bias::table_backward(buckets, heads, dtable, dembedding);
    }

    fn add_prefix(&self, x: &[f32], y: &mut [f32]) {
        let (len, y) = (y.len(), Shared::new(y));
        // SAFETY: parts are disjoint.
        self.run_values(len, |part| simd::add(&x[part.clone()], unsafe { y.stretch(part) }));
    }

    fn entropy_mcc(
        &self,
        terms: &ObjectiveTerms,
        shape: Rows,
        spans: Option<Spans<&[f32]>>,
        logits: &[f32],
        dlogits: &mut [f32],
    ) -> ObjectiveValue {
        assert!(spans.is_none(), "{NO_PADDING}");
        objective::entropy_mcc(terms, shape, logits, dlogits)
    }

    fn pseudo_label(&self, label: &PseudoLabel<'_>, shape: Rows, logits: &[f32], dlogits: &mut [f32]) -> f64 {
        assert_eq!(logits.len(), shape.rows * shape.cols);
        pseudo_label_loss(logits, shape.cols, label.target, label.blank, label.over_time, dlogits)
    }

    fn adamw(
        &self,
        settings: &AdamW,
        step: u32,
        values: &mut [f32],
        gradients: &[f32],
        first_moment: &mut [f32],
        second_moment: &mut [f32],
    ) {
        adamw::update(self, settings, step, values, gradients, first_moment, second_moment);
    }
}

impl DecoderBackend for CpuBackend {
    fn cross_attention_scratch(&self, shape: CrossAttention) -> usize {
        cross_attention::scratch(self, shape)
    }

    fn cross_attention(
        &self,
        shape: CrossAttention,
        q: &[f32],
        kv: &[f32],
        out: &mut [f32],
        log_sum_exp: &mut [f32],
        scratch: &mut [f32],
    ) {
        cross_attention::forward(self, shape, q, kv, out, log_sum_exp, scratch);
    }

    fn cross_attention_backward(
        &self,
        shape: CrossAttention,
        q: &[f32],
        kv: &[f32],
        out: &[f32],
        log_sum_exp: &[f32],
        dout: &[f32],
        dq: &mut [f32],
        dkv: &mut [f32],
        scratch: &mut [f32],
    ) {
        let saved = (out, log_sum_exp);
        cross_attention::backward(self, shape, q, kv, saved, dout, (dq, dkv), scratch);
    }

    fn gather_rows(&self, rows: &[u32], cols: usize, table: &[f32], y: &mut [f32]) {
        gather::forward(rows, cols, table, y);
    }

    fn gather_rows_backward(&self, rows: &[u32], cols: usize, dy: &[f32], dtable: &mut [f32]) {
        gather::backward(rows, cols, dy, dtable);
    }
}
