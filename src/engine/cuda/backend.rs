//! The operations as the engine calls them.

use super::memory::{CudaBuffer, View, ViewMut};
use super::ops::{int, one, parts};
use super::{CudaBackend, lock};
use crate::engine::{
    AdamW, Attention, Backend, BiasAndGradient, Conv1d, Each, EngineError, GroupedConv1d, Judge, Linear,
    ObjectiveTerms, ObjectiveValue, PseudoLabel, RelativeBias, Replay, Rows, Shares, Slot, Spans, check_split,
};
use cudarc::driver::result;
use std::ops::Range;

impl Backend for CudaBackend {
    type Buffer = CudaBuffer;
    type View<'a> = View<'a>;
    type ViewMut<'a> = ViewMut<'a>;

    fn describe(&self) -> String {
        self.device.describe()
    }

    fn status(&self) -> Result<(), EngineError> {
        self.wait();
        let mut failure = lock(&self.failure);
        match &*failure {
            // The next may need less: that the memory did not suffice is told once.
            Some(EngineError::OutOfMemory { .. }) => failure.take().map_or(Ok(()), Err),
            Some(failure) => Err(failure.clone()),
            None => Ok(()),
        }
    }

    fn judge(&self) -> Option<&dyn Judge<Self>> {
        Some(self)
    }

    fn pads(&self) -> bool {
        true
    }

    fn replayable(&self, replay: Replay, work: impl FnOnce()) {
        self.replay(replay, work);
    }

    fn zeros(&self, len: usize) -> Result<CudaBuffer, EngineError> {
        self.allocate(len)
    }

    fn buffer(&self, values: Vec<f32>) -> Result<CudaBuffer, EngineError> {
        let mut buffer = self.zeros(values.len())?;
        self.upload(&values, self.view_mut(&mut buffer, 0..values.len()));
        // Other streams read the weights.
        self.status()?;
        Ok(buffer)
    }

    fn len(&self, buffer: &CudaBuffer) -> usize {
        buffer.len
    }

    fn view<'a>(&self, buffer: &'a CudaBuffer, range: Range<usize>) -> View<'a> {
        assert!(range.start <= range.end && range.end <= buffer.len);
        // SAFETY: inside the buffer, which is borrowed for as long; the stream keeps the order.
        unsafe { View::new(buffer.address + 4 * range.start as u64, range.len()) }
    }

    fn view_mut<'a>(&self, buffer: &'a mut CudaBuffer, range: Range<usize>) -> ViewMut<'a> {
        assert!(range.start <= range.end && range.end <= buffer.len);
        // SAFETY: as above, and the borrow is exclusive.
        unsafe { ViewMut::new(buffer.address + 4 * range.start as u64, range.len()) }
    }

    fn split<'a, const R: usize, const W: usize>(
        &self,
        buffer: &'a mut CudaBuffer,
        reads: [Slot; R],
        writes: [Slot; W],
    ) -> ([View<'a>; R], [ViewMut<'a>; W]) {
        check_split(buffer.len, &reads, &writes);
        let start = |slot: Slot| buffer.address + 4 * slot.offset as u64;
        // SAFETY: every slot lies inside the buffer, no written slot overlaps another slot, and the buffer stays
        // mutably borrowed for as long as the parts live.
        unsafe {
            (
                reads.map(|slot| View::new(start(slot), slot.len)),
                writes.map(|slot| ViewMut::new(start(slot), slot.len)),
            )
        }
    }

    fn upload(&self, host: &[f32], to: ViewMut<'_>) {
        assert_eq!(host.len(), to.len());
        self.write(host, to.address());
    }

    fn download(&self, from: View<'_>, host: &mut [f32]) {
        self.read(from, host);
    }

    fn copy(&self, from: View<'_>, to: ViewMut<'_>) {
        assert_eq!(from.len(), to.len());
        if to.len() > 0 {
            let bytes = 4 * to.len();
            // SAFETY: both stretches are inside live memory, and do not overlap.
            self.attempt(|| unsafe {
                result::memcpy_dtod_async(to.address(), from.address(), bytes, self.raw_stream())
            });
        }
    }

    fn fill_zero(&self, to: ViewMut<'_>) {
        self.zero(to);
    }

    fn all_finite(&self, values: View<'_>) -> bool {
        let mut found = [1u32];
        self.flag_not_finite(values, 1, |flag| self.read(flag, &mut found));
        found == [0]
    }

    fn linear(
        &self,
        shape: Linear,
        x: View<'_>,
        weight: View<'_>,
        bias: Option<View<'_>>,
        y: ViewMut<'_>,
        accumulate: bool,
    ) {
        let bias = bias.map(one);
        self.linear_forward((shape, 1), one(x), one(weight), bias, one(y), None, accumulate);
    }

    fn linear_residual(
        &self,
        shape: Linear,
        x: View<'_>,
        weight: View<'_>,
        bias: View<'_>,
        residual: View<'_>,
        y: ViewMut<'_>,
    ) {
        self.linear_onto(shape, x, weight, bias, residual, y);
    }

    fn linear_gelu(
        &self,
        shape: Linear,
        x: View<'_>,
        weight: View<'_>,
        bias: View<'_>,
        pre: ViewMut<'_>,
        y: ViewMut<'_>,
    ) {
        // cuBLASLt's GELU epilogue is the tanh approximation, which is not these models' GELU.
        let (weight, bias) = (one(weight), Some(one(bias)));
        self.linear_forward((shape, 1), one(x), weight, bias, one(pre), Some(y), false);
    }

    fn linear_backward_input(&self, shape: Linear, dy: View<'_>, weight: View<'_>, dx: ViewMut<'_>, accumulate: bool) {
        self.linear_input(shape, dy, weight, dx, accumulate);
    }

    fn linear_backward_weight(&self, shape: Linear, x: View<'_>, dy: View<'_>, dweight: ViewMut<'_>) {
        self.linear_weight((shape, 1), one(x), one(dy), one(dweight));
    }

    fn bias_backward(&self, shape: Rows, dy: View<'_>, dbias: ViewMut<'_>) {
        self.bias_gradient((shape, 1), one(dy), one(dbias));
    }

    fn conv1d_backward_input(&self, shape: Conv1d, dpre: View<'_>, weight: View<'_>, dx: ViewMut<'_>) {
        self.convolution_input((shape, 1), dpre, one(weight), dx);
    }

    fn conv1d_gelu_each(
        &self,
        shape: Conv1d,
        count: usize,
        x: View<'_>,
        [weight, bias]: [Each<View<'_>>; 2],
        pre: Each<ViewMut<'_>>,
        y: Option<ViewMut<'_>>,
    ) {
        let x = Each {
            values: x,
            stride: shape.padded_frames * shape.c_in,
        };
        self.linear_forward((shape.as_linear(), count), x, weight, Some(bias), pre, y, false);
    }

    fn conv1d_backward_input_each(
        &self,
        shape: Conv1d,
        count: usize,
        dpre: View<'_>,
        weight: Each<View<'_>>,
        dx: ViewMut<'_>,
    ) {
        self.convolution_input((shape, count), dpre, weight, dx);
    }

    fn conv1d_backward_parameters_each(
        &self,
        shape: Conv1d,
        count: usize,
        x: View<'_>,
        dpre: Each<View<'_>>,
        gradients: Each<ViewMut<'_>>,
        places: [Option<usize>; 2],
    ) {
        self.convolution_parameters_each((shape, count), x, dpre, gradients, places);
    }

    fn grouped_conv1d_scratch(&self, _shape: GroupedConv1d) -> usize {
        0
    }

    fn grouped_conv1d(
        &self,
        shape: GroupedConv1d,
        x: View<'_>,
        weight: View<'_>,
        bias: View<'_>,
        y: ViewMut<'_>,
        _scratch: ViewMut<'_>,
    ) {
        self.grouped_forward(shape, x, weight, bias, y);
    }

    fn grouped_conv1d_backward_input(
        &self,
        shape: GroupedConv1d,
        dy: View<'_>,
        weight: View<'_>,
        dx: ViewMut<'_>,
        accumulate: bool,
        _scratch: ViewMut<'_>,
    ) {
        self.grouped_input(shape, dy, weight, dx, accumulate);
    }

    fn grouped_conv1d_backward_weight(
        &self,
        shape: GroupedConv1d,
        x: View<'_>,
        dy: View<'_>,
        dweight: ViewMut<'_>,
        _scratch: ViewMut<'_>,
    ) {
        self.grouped_weight(shape, x, dy, dweight);
    }

    fn weight_norm(&self, shape: GroupedConv1d, direction: View<'_>, magnitude: View<'_>, mut weight: ViewMut<'_>) {
        let lens = (direction.len(), weight.len(), magnitude.len());
        assert_eq!(lens, (shape.weight_len(), shape.weight_len(), shape.kernel));
        let (outputs, taps, width) = (int(shape.channels), int(shape.kernel), int(shape.group()));
        let grid = (shape.kernel as u32, 1, 1);
        self.launcher()
            .weight_norm_forward(grid, direction, magnitude, &mut weight, outputs, taps, width);
    }

    fn weight_norm_backward(
        &self,
        shape: GroupedConv1d,
        direction: View<'_>,
        magnitude: View<'_>,
        dweight: View<'_>,
        mut ddirection: Option<ViewMut<'_>>,
        mut dmagnitude: Option<ViewMut<'_>>,
    ) {
        let lens = (direction.len(), dweight.len(), magnitude.len());
        assert_eq!(lens, (shape.weight_len(), shape.weight_len(), shape.kernel));
        assert!(ddirection.as_ref().is_none_or(|d| d.len() == shape.weight_len()));
        assert!(dmagnitude.as_ref().is_none_or(|d| d.len() == shape.kernel));
        self.launcher().weight_norm_backward(
            (shape.kernel as u32, 1, 1),
            direction,
            magnitude,
            dweight,
            ddirection.as_mut(),
            dmagnitude.as_mut(),
            int(shape.channels),
            int(shape.kernel),
            int(shape.group()),
        );
    }

    fn gelu(&self, mut x: ViewMut<'_>) {
        let len = x.len();
        self.launcher().gelu_in_place(self.grid_over(len), &mut x, len as i64);
    }

    fn gelu_backward(&self, pre: View<'_>, mut d: ViewMut<'_>) {
        assert_eq!(pre.len(), d.len());
        let len = d.len();
        self.launcher()
            .gelu_backward(self.grid_over(len), pre, &mut d, len as i64);
    }

    fn layer_norm(
        &self,
        shape: Rows,
        x: View<'_>,
        weight: View<'_>,
        bias: View<'_>,
        y: ViewMut<'_>,
        statistics: ViewMut<'_>,
    ) {
        let parameters = [weight, bias].map(one);
        self.norm_forward(shape, Shares::Even(1), x, parameters, y, statistics, false);
    }

    fn layer_norm_gelu(
        &self,
        shape: Rows,
        x: View<'_>,
        weight: View<'_>,
        bias: View<'_>,
        y: ViewMut<'_>,
        statistics: ViewMut<'_>,
    ) {
        let parameters = [weight, bias].map(one);
        self.norm_forward(shape, Shares::Even(1), x, parameters, y, statistics, true);
    }

    fn layer_norm_each(
        &self,
        shape: Rows,
        shares: Shares<View<'_>>,
        x: View<'_>,
        parameters: [Each<View<'_>>; 2],
        y: ViewMut<'_>,
        statistics: ViewMut<'_>,
        activate: bool,
    ) {
        self.norm_forward(shape, shares, x, parameters, y, statistics, activate);
    }

    fn layer_norm_backward_input(
        &self,
        shape: Rows,
        x: View<'_>,
        statistics: View<'_>,
        weight: View<'_>,
        dy: View<'_>,
        dx: ViewMut<'_>,
        accumulate: bool,
    ) {
        self.norm_input(
            shape,
            Shares::Even(1),
            x,
            statistics,
            (one(weight), None),
            dy,
            dx,
            accumulate,
        );
    }

    fn layer_norm_backward_input_each(
        &self,
        shape: Rows,
        shares: Shares<View<'_>>,
        x: View<'_>,
        statistics: View<'_>,
        weight: Each<View<'_>>,
        dy: View<'_>,
        dx: ViewMut<'_>,
        accumulate: bool,
    ) {
        self.norm_input(shape, shares, x, statistics, (weight, None), dy, dx, accumulate);
    }

    fn layer_norm_backward_parameters(
        &self,
        shape: Rows,
        x: View<'_>,
        statistics: View<'_>,
        dy: View<'_>,
        dweight: Option<ViewMut<'_>>,
        dbias: Option<ViewMut<'_>>,
    ) {
        self.norm_parameters(shape, x, statistics, None, dy, [dweight, dbias]);
    }

    fn layer_norm_backward_parameters_each(
        &self,
        shape: Rows,
        shares: Shares<View<'_>>,
        x: View<'_>,
        statistics: View<'_>,
        dy: View<'_>,
        gradients: Each<ViewMut<'_>>,
        places: [Option<usize>; 2],
    ) {
        self.norm_parameters_each(shape, shares, x, statistics, None, dy, gradients, places);
    }

    fn layer_norm_gelu_backward(
        &self,
        shape: Rows,
        x: View<'_>,
        statistics: View<'_>,
        parameters: [View<'_>; 2],
        d: ViewMut<'_>,
        dx: ViewMut<'_>,
        gradients: [Option<ViewMut<'_>>; 2],
    ) {
        if gradients.iter().any(Option::is_some) {
            self.norm_parameters(shape, x, statistics, Some(parameters), d.as_view(), gradients);
        }
        let parameters = (one(parameters[0]), Some(one(parameters[1])));
        self.norm_input(
            shape,
            Shares::Even(1),
            x,
            statistics,
            parameters,
            d.as_view(),
            dx,
            false,
        );
    }

    fn layer_norm_gelu_backward_each(
        &self,
        shape: Rows,
        shares: Shares<View<'_>>,
        x: View<'_>,
        statistics: View<'_>,
        parameters: [Each<View<'_>>; 2],
        d: ViewMut<'_>,
        dx: ViewMut<'_>,
        gradients: Each<ViewMut<'_>>,
        places: [Option<usize>; 2],
    ) {
        let (d, [weight, bias]) = (d.as_view(), parameters);
        if places.iter().any(Option::is_some) {
            self.norm_parameters_each(shape, shares, x, statistics, Some(parameters), d, gradients, places);
        }
        self.norm_input(shape, shares, x, statistics, (weight, Some(bias)), d, dx, false);
    }

    fn clear_padding(&self, shape: Rows, counted: View<'_>, mut x: Each<ViewMut<'_>>) {
        self.clear_rows(shape, counted, &mut x);
    }

    fn channel_norm_gelu(
        &self,
        shape: Rows,
        counted: Option<View<'_>>,
        x: View<'_>,
        weight: View<'_>,
        bias: View<'_>,
        y: ViewMut<'_>,
        statistics: ViewMut<'_>,
    ) {
        let parameters = [weight, bias].map(one);
        self.channel_norm_forward((shape, 1), counted, x, parameters, y, statistics);
    }

    fn channel_norm_gelu_backward(
        &self,
        shape: Rows,
        counted: Option<View<'_>>,
        x: View<'_>,
        statistics: View<'_>,
        (weight, bias): (View<'_>, View<'_>),
        d: ViewMut<'_>,
        dweight: Option<ViewMut<'_>>,
        dbias: Option<ViewMut<'_>>,
    ) {
        let (parameters, gradients) = ([weight, bias].map(one), [dweight, dbias]);
        self.channel_norm_backward((shape, 1), counted, x, statistics, parameters, d, gradients, 0);
    }

    fn channel_norm_gelu_each(
        &self,
        shape: Rows,
        counted: View<'_>,
        x: View<'_>,
        parameters: [Each<View<'_>>; 2],
        y: ViewMut<'_>,
        statistics: ViewMut<'_>,
    ) {
        self.channel_norm_forward((shape, counted.len()), Some(counted), x, parameters, y, statistics);
    }

    fn channel_norm_gelu_backward_each(
        &self,
        shape: Rows,
        counted: View<'_>,
        x: View<'_>,
        statistics: View<'_>,
        parameters: [Each<View<'_>>; 2],
        d: ViewMut<'_>,
        mut gradients: Each<ViewMut<'_>>,
        places: [Option<usize>; 2],
    ) {
        let (count, stride) = (counted.len(), gradients.stride);
        let parts = parts(&mut gradients, count, places.map(|place| (place, shape.cols)));
        self.channel_norm_backward(
            (shape, count),
            Some(counted),
            x,
            statistics,
            parameters,
            d,
            parts,
            stride,
        );
    }

    fn attention_scratch(&self, shape: Attention) -> usize {
        shape.frames * shape.heads
    }

    fn attention(
        &self,
        shape: Attention,
        spans: Option<Spans<View<'_>>>,
        qkv: View<'_>,
        bias: Option<RelativeBias<View<'_>>>,
        out: ViewMut<'_>,
        log_sum_exp: ViewMut<'_>,
        _scratch: ViewMut<'_>,
    ) {
        self.attention_forward(shape, spans, qkv, bias, out, log_sum_exp);
    }

    fn attention_backward(
        &self,
        shape: Attention,
        spans: Option<Spans<View<'_>>>,
        qkv: View<'_>,
        bias: BiasAndGradient<View<'_>, ViewMut<'_>>,
        out: View<'_>,
        log_sum_exp: View<'_>,
        dout: View<'_>,
        dqkv: ViewMut<'_>,
        scratch: ViewMut<'_>,
    ) {
        self.attention_gradient(shape, spans, qkv, bias, out, log_sum_exp, dout, dqkv, scratch);
    }

    fn relative_gate(&self, shape: Rows, projection: View<'_>, constant: View<'_>, gate: ViewMut<'_>) {
        self.gate_forward(shape, projection, constant, gate);
    }

    fn relative_gate_backward(
        &self,
        shape: Rows,
        projection: View<'_>,
        constant: View<'_>,
        dgate: View<'_>,
        dprojection: ViewMut<'_>,
        dconstant: Option<ViewMut<'_>>,
    ) {
        self.gate_gradient(shape, projection, constant, dgate, dprojection, dconstant);
    }

    fn relative_table(&self, buckets: &[u32], heads: usize, embedding: View<'_>, table: ViewMut<'_>) {
        self.table_forward(buckets, heads, embedding, table);
    }

    fn relative_table_backward(&self, buckets: &[u32], heads: usize, dtable: View<'_>, dembedding: ViewMut<'_>) {
        self.table_gradient(buckets, heads, dtable, dembedding);
    }

    fn add_prefix(&self, x: View<'_>, mut y: ViewMut<'_>) {
        assert!(x.len() >= y.len());
        let len = y.len();
        self.launcher().add(self.grid_over(len), x, &mut y, len as i64, 0, 0);
    }

    fn add_prefix_each(&self, count: usize, x: View<'_>, mut y: ViewMut<'_>) {
        let len = y.len() / count;
        assert!(y.len() == count * len && x.len() >= len);
        let grid = (self.grid_over(len).0, count as u32, 1);
        self.launcher().add(grid, x, &mut y, len as i64, 0, len as i64);
    }

    fn join_rows(&self, spans: Spans<View<'_>>, cols: usize, x: View<'_>, y: ViewMut<'_>) {
        self.rows_behind_each_other(spans, cols, x, y);
    }

    fn part_rows(&self, spans: Spans<View<'_>>, cols: usize, x: View<'_>, y: ViewMut<'_>) {
        self.rows_apart(spans, cols, x, y);
    }

    fn entropy_mcc(
        &self,
        terms: &ObjectiveTerms,
        shape: Rows,
        spans: Option<Spans<View<'_>>>,
        logits: View<'_>,
        mut dlogits: ViewMut<'_>,
    ) -> ObjectiveValue {
        self.one_objective(terms, shape, spans, logits, &mut dlogits)
    }

    fn pseudo_label(&self, label: &PseudoLabel<'_>, shape: Rows, logits: View<'_>, dlogits: ViewMut<'_>) -> f64 {
        self.ctc(label, shape, logits, dlogits)
    }

    fn adamw(
        &self,
        settings: &AdamW,
        step: u32,
        values: ViewMut<'_>,
        gradients: View<'_>,
        first_moment: ViewMut<'_>,
        second_moment: ViewMut<'_>,
    ) {
        self.adamw_update(settings, step, values, gradients, first_moment, second_moment);
    }
}
