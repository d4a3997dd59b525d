// Made by kernels/build.py from the kernels' signatures; do not edit. CI makes it again and compares.

use super::device::{CudaDevice, Grid, Launcher};
use super::memory::{View, ViewMut};
use cudarc::driver::{CudaFunction, DriverError};

/// Every kernel, loaded.
pub(super) struct Kernels {
    adamw_update: CudaFunction,
    attention_forward_64: CudaFunction,
    attention_forward_128: CudaFunction,
    attention_row_terms: CudaFunction,
    attention_backward_keys_64: CudaFunction,
    attention_backward_keys_128: CudaFunction,
    attention_backward_queries_64: CudaFunction,
    attention_backward_queries_128: CudaFunction,
    channel_norm_moments: CudaFunction,
    channel_norm_statistics: CudaFunction,
    channel_norm_gelu_apply: CudaFunction,
    channel_norm_gelu_gradient: CudaFunction,
    channel_norm_gradient_sums: CudaFunction,
    channel_norm_backward_apply: CudaFunction,
    narrow_convolution_forward: CudaFunction,
    narrow_convolution_backward_weight: CudaFunction,
    add_chunks: CudaFunction,
    grouped_convolution: CudaFunction,
    grouped_convolution_backward_weight: CudaFunction,
    gelu_forward: CudaFunction,
    gelu_in_place: CudaFunction,
    gelu_backward: CudaFunction,
    add: CudaFunction,
    find_not_finite: CudaFunction,
    layer_norm_forward: CudaFunction,
    layer_norm_backward_input: CudaFunction,
    layer_norm_backward_parameters: CudaFunction,
    bias_backward: CudaFunction,
    entropy_mcc: CudaFunction,
    relative_gate_forward: CudaFunction,
    relative_gate_backward: CudaFunction,
    relative_table_forward: CudaFunction,
    relative_table_backward: CudaFunction,
    weight_norm_forward: CudaFunction,
    weight_norm_backward: CudaFunction,
}

impl Kernels {
    /// Loads the embedded PTX; the driver compiles it for its device.
    pub(super) fn load(device: &CudaDevice) -> Result<Self, DriverError> {
        let adamw = device.module(include_str!("../../../kernels/ptx/adamw.ptx"))?;
        let attention = device.module(include_str!("../../../kernels/ptx/attention.ptx"))?;
        let channel_norm = device.module(include_str!("../../../kernels/ptx/channel_norm.ptx"))?;
        let convolution = device.module(include_str!("../../../kernels/ptx/convolution.ptx"))?;
        let elementwise = device.module(include_str!("../../../kernels/ptx/elementwise.ptx"))?;
        let layer_norm = device.module(include_str!("../../../kernels/ptx/layer_norm.ptx"))?;
        let objective = device.module(include_str!("../../../kernels/ptx/objective.ptx"))?;
        let relative_bias = device.module(include_str!("../../../kernels/ptx/relative_bias.ptx"))?;
        let weight_norm = device.module(include_str!("../../../kernels/ptx/weight_norm.ptx"))?;
        Ok(Self {
            adamw_update: device.function(&adamw, "adamw_update", 0)?,
            attention_forward_64: device.function(&attention, "attention_forward_64", 33152)?,
            attention_forward_128: device.function(&attention, "attention_forward_128", 37120)?,
            attention_row_terms: device.function(&attention, "attention_row_terms", 0)?,
            attention_backward_keys_64: device.function(&attention, "attention_backward_keys_64", 37376)?,
            attention_backward_keys_128: device.function(&attention, "attention_backward_keys_128", 70144)?,
            attention_backward_queries_64: device.function(&attention, "attention_backward_queries_64", 37376)?,
            attention_backward_queries_128: device.function(&attention, "attention_backward_queries_128", 70144)?,
            channel_norm_moments: device.function(&channel_norm, "channel_norm_moments", 0)?,
            channel_norm_statistics: device.function(&channel_norm, "channel_norm_statistics", 0)?,
            channel_norm_gelu_apply: device.function(&channel_norm, "channel_norm_gelu_apply", 0)?,
            channel_norm_gelu_gradient: device.function(&channel_norm, "channel_norm_gelu_gradient", 0)?,
            channel_norm_gradient_sums: device.function(&channel_norm, "channel_norm_gradient_sums", 0)?,
            channel_norm_backward_apply: device.function(&channel_norm, "channel_norm_backward_apply", 0)?,
            narrow_convolution_forward: device.function(&convolution, "narrow_convolution_forward", 0)?,
            narrow_convolution_backward_weight: device.function(
                &convolution,
                "narrow_convolution_backward_weight",
                0,
            )?,
            add_chunks: device.function(&convolution, "add_chunks", 0)?,
            grouped_convolution: device.function(&convolution, "grouped_convolution", 0)?,
            grouped_convolution_backward_weight: device.function(
                &convolution,
                "grouped_convolution_backward_weight",
                0,
            )?,
            gelu_forward: device.function(&elementwise, "gelu_forward", 0)?,
            gelu_in_place: device.function(&elementwise, "gelu_in_place", 0)?,
            gelu_backward: device.function(&elementwise, "gelu_backward", 0)?,
            add: device.function(&elementwise, "add", 0)?,
            find_not_finite: device.function(&elementwise, "find_not_finite", 0)?,
            layer_norm_forward: device.function(&layer_norm, "layer_norm_forward", 0)?,
            layer_norm_backward_input: device.function(&layer_norm, "layer_norm_backward_input", 0)?,
            layer_norm_backward_parameters: device.function(&layer_norm, "layer_norm_backward_parameters", 0)?,
            bias_backward: device.function(&layer_norm, "bias_backward", 0)?,
            entropy_mcc: device.function(&objective, "entropy_mcc", 0)?,
            relative_gate_forward: device.function(&relative_bias, "relative_gate_forward", 0)?,
            relative_gate_backward: device.function(&relative_bias, "relative_gate_backward", 0)?,
            relative_table_forward: device.function(&relative_bias, "relative_table_forward", 0)?,
            relative_table_backward: device.function(&relative_bias, "relative_table_backward", 0)?,
            weight_norm_forward: device.function(&weight_norm, "weight_norm_forward", 0)?,
            weight_norm_backward: device.function(&weight_norm, "weight_norm_backward", 0)?,
        })
    }
}

#[allow(clippy::too_many_arguments)]
impl Launcher<'_> {
    /// `kernels/adamw.cu`: blocks of 256 threads.
    pub(super) fn adamw_update(
        &self,
        grid: Grid,
        values: &mut ViewMut<'_>,
        gradients: View<'_>,
        first_moment: &mut ViewMut<'_>,
        second_moment: &mut ViewMut<'_>,
        beta1: f32,
        one_minus_beta1: f32,
        beta2: f32,
        one_minus_beta2: f32,
        decay: f32,
        step_size: f32,
        root_correction: f32,
        epsilon: f32,
        len: i64,
    ) {
        self.arguments(&self.kernels().adamw_update)
            .pointer(values.address())
            .pointer(gradients.address())
            .pointer(first_moment.address())
            .pointer(second_moment.address())
            .value(beta1)
            .value(one_minus_beta1)
            .value(beta2)
            .value(one_minus_beta2)
            .value(decay)
            .value(step_size)
            .value(root_correction)
            .value(epsilon)
            .value(len)
            .launch(grid, 256, 0);
    }

    /// `kernels/attention.cu`: blocks of 128 threads.
    pub(super) fn attention_forward_64(
        &self,
        grid: Grid,
        qkv: View<'_>,
        gate: Option<View<'_>>,
        table: Option<View<'_>>,
        out: &mut ViewMut<'_>,
        log_sum_exp: &mut ViewMut<'_>,
        frames: i32,
        heads: i32,
        head_dim: i32,
        scale: f32,
    ) {
        self.arguments(&self.kernels().attention_forward_64)
            .pointer(qkv.address())
            .optional(gate.as_ref().map(|view| view.address()))
            .optional(table.as_ref().map(|view| view.address()))
            .pointer(out.address())
            .pointer(log_sum_exp.address())
            .value(frames)
            .value(heads)
            .value(head_dim)
            .value(scale)
            .launch(grid, 128, 33152);
    }

    /// `kernels/attention.cu`: blocks of 128 threads.
    pub(super) fn attention_forward_128(
        &self,
        grid: Grid,
        qkv: View<'_>,
        gate: Option<View<'_>>,
        table: Option<View<'_>>,
        out: &mut ViewMut<'_>,
        log_sum_exp: &mut ViewMut<'_>,
        frames: i32,
        heads: i32,
        head_dim: i32,
        scale: f32,
    ) {
        self.arguments(&self.kernels().attention_forward_128)
            .pointer(qkv.address())
            .optional(gate.as_ref().map(|view| view.address()))
            .optional(table.as_ref().map(|view| view.address()))
            .pointer(out.address())
            .pointer(log_sum_exp.address())
            .value(frames)
            .value(heads)
            .value(head_dim)
            .value(scale)
            .launch(grid, 128, 37120);
    }

    /// `kernels/attention.cu`: blocks of 128 threads.
    pub(super) fn attention_row_terms(
        &self,
        grid: Grid,
        out: View<'_>,
        dout: View<'_>,
        terms: &mut ViewMut<'_>,
        frames: i32,
        heads: i32,
        head_dim: i32,
    ) {
        self.arguments(&self.kernels().attention_row_terms)
            .pointer(out.address())
            .pointer(dout.address())
            .pointer(terms.address())
            .value(frames)
            .value(heads)
            .value(head_dim)
            .launch(grid, 128, 0);
    }

    /// `kernels/attention.cu`: blocks of 128 threads.
    pub(super) fn attention_backward_keys_64(
        &self,
        grid: Grid,
        qkv: View<'_>,
        gate: Option<View<'_>>,
        table: Option<View<'_>>,
        log_sum_exp: View<'_>,
        terms: View<'_>,
        dout: View<'_>,
        dqkv: &mut ViewMut<'_>,
        frames: i32,
        heads: i32,
        head_dim: i32,
        scale: f32,
    ) {
        self.arguments(&self.kernels().attention_backward_keys_64)
            .pointer(qkv.address())
            .optional(gate.as_ref().map(|view| view.address()))
            .optional(table.as_ref().map(|view| view.address()))
            .pointer(log_sum_exp.address())
            .pointer(terms.address())
            .pointer(dout.address())
            .pointer(dqkv.address())
            .value(frames)
            .value(heads)
            .value(head_dim)
            .value(scale)
            .launch(grid, 128, 37376);
    }

    /// `kernels/attention.cu`: blocks of 128 threads.
    pub(super) fn attention_backward_keys_128(
        &self,
        grid: Grid,
        qkv: View<'_>,
        gate: Option<View<'_>>,
        table: Option<View<'_>>,
        log_sum_exp: View<'_>,
        terms: View<'_>,
        dout: View<'_>,
        dqkv: &mut ViewMut<'_>,
        frames: i32,
        heads: i32,
        head_dim: i32,
        scale: f32,
    ) {
        self.arguments(&self.kernels().attention_backward_keys_128)
            .pointer(qkv.address())
            .optional(gate.as_ref().map(|view| view.address()))
            .optional(table.as_ref().map(|view| view.address()))
            .pointer(log_sum_exp.address())
            .pointer(terms.address())
            .pointer(dout.address())
            .pointer(dqkv.address())
            .value(frames)
            .value(heads)
            .value(head_dim)
            .value(scale)
            .launch(grid, 128, 70144);
    }

    /// `kernels/attention.cu`: blocks of 128 threads.
    pub(super) fn attention_backward_queries_64(
        &self,
        grid: Grid,
        qkv: View<'_>,
        gate: Option<View<'_>>,
        table: Option<View<'_>>,
        log_sum_exp: View<'_>,
        terms: View<'_>,
        dout: View<'_>,
        dqkv: &mut ViewMut<'_>,
        dgate: Option<&mut ViewMut<'_>>,
        dtable: Option<&mut ViewMut<'_>>,
        frames: i32,
        heads: i32,
        head_dim: i32,
        scale: f32,
    ) {
        self.arguments(&self.kernels().attention_backward_queries_64)
            .pointer(qkv.address())
            .optional(gate.as_ref().map(|view| view.address()))
            .optional(table.as_ref().map(|view| view.address()))
            .pointer(log_sum_exp.address())
            .pointer(terms.address())
            .pointer(dout.address())
            .pointer(dqkv.address())
            .optional(dgate.as_ref().map(|view| view.address()))
            .optional(dtable.as_ref().map(|view| view.address()))
            .value(frames)
            .value(heads)
            .value(head_dim)
            .value(scale)
            .launch(grid, 128, 37376);
    }

    /// `kernels/attention.cu`: blocks of 128 threads.
    pub(super) fn attention_backward_queries_128(
        &self,
        grid: Grid,
        qkv: View<'_>,
        gate: Option<View<'_>>,
        table: Option<View<'_>>,
        log_sum_exp: View<'_>,
        terms: View<'_>,
        dout: View<'_>,
        dqkv: &mut ViewMut<'_>,
        dgate: Option<&mut ViewMut<'_>>,
        dtable: Option<&mut ViewMut<'_>>,
        frames: i32,
        heads: i32,
        head_dim: i32,
        scale: f32,
    ) {
        self.arguments(&self.kernels().attention_backward_queries_128)
            .pointer(qkv.address())
            .optional(gate.as_ref().map(|view| view.address()))
            .optional(table.as_ref().map(|view| view.address()))
            .pointer(log_sum_exp.address())
            .pointer(terms.address())
            .pointer(dout.address())
            .pointer(dqkv.address())
            .optional(dgate.as_ref().map(|view| view.address()))
            .optional(dtable.as_ref().map(|view| view.address()))
            .value(frames)
            .value(heads)
            .value(head_dim)
            .value(scale)
            .launch(grid, 128, 70144);
    }

    /// `kernels/channel_norm.cu`: blocks of 256 threads.
    pub(super) fn channel_norm_moments(
        &self,
        grid: Grid,
        x: View<'_>,
        partial: &mut ViewMut<'_, f64>,
        rows: i32,
        cols: i32,
        chunk: i32,
    ) {
        self.arguments(&self.kernels().channel_norm_moments)
            .pointer(x.address())
            .pointer(partial.address())
            .value(rows)
            .value(cols)
            .value(chunk)
            .launch(grid, 256, 0);
    }

    /// `kernels/channel_norm.cu`: blocks of 128 threads.
    pub(super) fn channel_norm_statistics(
        &self,
        grid: Grid,
        partial: View<'_, f64>,
        statistics: &mut ViewMut<'_>,
        rows: i32,
        cols: i32,
        chunk: i32,
    ) {
        self.arguments(&self.kernels().channel_norm_statistics)
            .pointer(partial.address())
            .pointer(statistics.address())
            .value(rows)
            .value(cols)
            .value(chunk)
            .launch(grid, 128, 0);
    }

    /// `kernels/channel_norm.cu`: blocks of 256 threads.
    pub(super) fn channel_norm_gelu_apply(
        &self,
        grid: Grid,
        x: View<'_>,
        statistics: View<'_>,
        weight: View<'_>,
        bias: View<'_>,
        y: &mut ViewMut<'_>,
        rows: i32,
        cols: i32,
        chunk: i32,
    ) {
        self.arguments(&self.kernels().channel_norm_gelu_apply)
            .pointer(x.address())
            .pointer(statistics.address())
            .pointer(weight.address())
            .pointer(bias.address())
            .pointer(y.address())
            .value(rows)
            .value(cols)
            .value(chunk)
            .launch(grid, 256, 0);
    }

    /// `kernels/channel_norm.cu`: blocks of 256 threads.
    pub(super) fn channel_norm_gelu_gradient(
        &self,
        grid: Grid,
        x: View<'_>,
        statistics: View<'_>,
        weight: View<'_>,
        bias: View<'_>,
        d: &mut ViewMut<'_>,
        partial: &mut ViewMut<'_, f64>,
        rows: i32,
        cols: i32,
        chunk: i32,
    ) {
        self.arguments(&self.kernels().channel_norm_gelu_gradient)
            .pointer(x.address())
            .pointer(statistics.address())
            .pointer(weight.address())
            .pointer(bias.address())
            .pointer(d.address())
            .pointer(partial.address())
            .value(rows)
            .value(cols)
            .value(chunk)
            .launch(grid, 256, 0);
    }

    /// `kernels/channel_norm.cu`: blocks of 128 threads.
    pub(super) fn channel_norm_gradient_sums(
        &self,
        grid: Grid,
        partial: View<'_, f64>,
        dweight: Option<&mut ViewMut<'_>>,
        dbias: Option<&mut ViewMut<'_>>,
        means: &mut ViewMut<'_>,
        rows: i32,
        cols: i32,
        chunks: i32,
    ) {
        self.arguments(&self.kernels().channel_norm_gradient_sums)
            .pointer(partial.address())
            .optional(dweight.as_ref().map(|view| view.address()))
            .optional(dbias.as_ref().map(|view| view.address()))
            .pointer(means.address())
            .value(rows)
            .value(cols)
            .value(chunks)
            .launch(grid, 128, 0);
    }

    /// `kernels/channel_norm.cu`: blocks of 256 threads.
    pub(super) fn channel_norm_backward_apply(
        &self,
        grid: Grid,
        x: View<'_>,
        statistics: View<'_>,
        weight: View<'_>,
        means: View<'_>,
        d: &mut ViewMut<'_>,
        rows: i32,
        cols: i32,
        chunk: i32,
    ) {
        self.arguments(&self.kernels().channel_norm_backward_apply)
            .pointer(x.address())
            .pointer(statistics.address())
            .pointer(weight.address())
            .pointer(means.address())
            .pointer(d.address())
            .value(rows)
            .value(cols)
            .value(chunk)
            .launch(grid, 256, 0);
    }

    /// `kernels/convolution.cu`: blocks of 128 threads.
    pub(super) fn narrow_convolution_forward(
        &self,
        grid: Grid,
        shared: u32,
        x: View<'_>,
        weight: View<'_>,
        bias: Option<View<'_>>,
        y: &mut ViewMut<'_>,
        activated: Option<&mut ViewMut<'_>>,
        rows: i32,
        window: i32,
        stride: i32,
        outputs: i32,
    ) {
        self.arguments(&self.kernels().narrow_convolution_forward)
            .pointer(x.address())
            .pointer(weight.address())
            .optional(bias.as_ref().map(|view| view.address()))
            .pointer(y.address())
            .optional(activated.as_ref().map(|view| view.address()))
            .value(rows)
            .value(window)
            .value(stride)
            .value(outputs)
            .launch(grid, 128, shared);
    }

    /// `kernels/convolution.cu`: blocks of 128 threads.
    pub(super) fn narrow_convolution_backward_weight(
        &self,
        grid: Grid,
        shared: u32,
        x: View<'_>,
        dy: View<'_>,
        partial: &mut ViewMut<'_>,
        rows: i32,
        window: i32,
        stride: i32,
        outputs: i32,
        chunk: i32,
    ) {
        self.arguments(&self.kernels().narrow_convolution_backward_weight)
            .pointer(x.address())
            .pointer(dy.address())
            .pointer(partial.address())
            .value(rows)
            .value(window)
            .value(stride)
            .value(outputs)
            .value(chunk)
            .launch(grid, 128, shared);
    }

    /// `kernels/convolution.cu`: blocks of 256 threads.
    pub(super) fn add_chunks(&self, grid: Grid, partial: View<'_>, sum: &mut ViewMut<'_>, chunks: i32, len: i32) {
        self.arguments(&self.kernels().add_chunks)
            .pointer(partial.address())
            .pointer(sum.address())
            .value(chunks)
            .value(len)
            .launch(grid, 256, 0);
    }

    /// `kernels/convolution.cu`: blocks of 256 threads.
    pub(super) fn grouped_convolution(
        &self,
        grid: Grid,
        x: View<'_>,
        weight: View<'_>,
        bias: Option<View<'_>>,
        y: &mut ViewMut<'_>,
        frames: i32,
        channels: i32,
        n: i32,
        taps: i32,
        padding: i32,
        group_stride: i64,
        output_stride: i32,
        tap_stride: i32,
        input_stride: i32,
        accumulate: i32,
    ) {
        self.arguments(&self.kernels().grouped_convolution)
            .pointer(x.address())
            .pointer(weight.address())
            .optional(bias.as_ref().map(|view| view.address()))
            .pointer(y.address())
            .value(frames)
            .value(channels)
            .value(n)
            .value(taps)
            .value(padding)
            .value(group_stride)
            .value(output_stride)
            .value(tap_stride)
            .value(input_stride)
            .value(accumulate)
            .launch(grid, 256, 0);
    }

    /// `kernels/convolution.cu`: blocks of 256 threads.
    pub(super) fn grouped_convolution_backward_weight(
        &self,
        grid: Grid,
        x: View<'_>,
        dy: View<'_>,
        dweight: &mut ViewMut<'_>,
        frames: i32,
        channels: i32,
        n: i32,
        taps: i32,
        padding: i32,
    ) {
        self.arguments(&self.kernels().grouped_convolution_backward_weight)
            .pointer(x.address())
            .pointer(dy.address())
            .pointer(dweight.address())
            .value(frames)
            .value(channels)
            .value(n)
            .value(taps)
            .value(padding)
            .launch(grid, 256, 0);
    }

    /// `kernels/elementwise.cu`: blocks of 256 threads.
    pub(super) fn gelu_forward(&self, grid: Grid, x: View<'_>, y: &mut ViewMut<'_>, len: i64) {
        self.arguments(&self.kernels().gelu_forward)
            .pointer(x.address())
            .pointer(y.address())
            .value(len)
            .launch(grid, 256, 0);
    }

    /// `kernels/elementwise.cu`: blocks of 256 threads.
    pub(super) fn gelu_in_place(&self, grid: Grid, x: &mut ViewMut<'_>, len: i64) {
        self.arguments(&self.kernels().gelu_in_place)
            .pointer(x.address())
            .value(len)
            .launch(grid, 256, 0);
    }

    /// `kernels/elementwise.cu`: blocks of 256 threads.
    pub(super) fn gelu_backward(&self, grid: Grid, pre: View<'_>, d: &mut ViewMut<'_>, len: i64) {
        self.arguments(&self.kernels().gelu_backward)
            .pointer(pre.address())
            .pointer(d.address())
            .value(len)
            .launch(grid, 256, 0);
    }

    /// `kernels/elementwise.cu`: blocks of 256 threads.
    pub(super) fn add(&self, grid: Grid, x: View<'_>, y: &mut ViewMut<'_>, len: i64) {
        self.arguments(&self.kernels().add)
            .pointer(x.address())
            .pointer(y.address())
            .value(len)
            .launch(grid, 256, 0);
    }

    /// `kernels/elementwise.cu`: blocks of 256 threads.
    pub(super) fn find_not_finite(&self, grid: Grid, x: View<'_>, found: &mut ViewMut<'_, u32>, len: i64) {
        self.arguments(&self.kernels().find_not_finite)
            .pointer(x.address())
            .pointer(found.address())
            .value(len)
            .launch(grid, 256, 0);
    }

    /// `kernels/layer_norm.cu`: blocks of 128 threads.
    pub(super) fn layer_norm_forward(
        &self,
        grid: Grid,
        x: View<'_>,
        weight: View<'_>,
        bias: View<'_>,
        y: &mut ViewMut<'_>,
        statistics: &mut ViewMut<'_>,
        rows: i32,
        cols: i32,
    ) {
        self.arguments(&self.kernels().layer_norm_forward)
            .pointer(x.address())
            .pointer(weight.address())
            .pointer(bias.address())
            .pointer(y.address())
            .pointer(statistics.address())
            .value(rows)
            .value(cols)
            .launch(grid, 128, 0);
    }

    /// `kernels/layer_norm.cu`: blocks of 128 threads.
    pub(super) fn layer_norm_backward_input(
        &self,
        grid: Grid,
        x: View<'_>,
        statistics: View<'_>,
        weight: View<'_>,
        dy: View<'_>,
        dx: &mut ViewMut<'_>,
        rows: i32,
        cols: i32,
        accumulate: i32,
    ) {
        self.arguments(&self.kernels().layer_norm_backward_input)
            .pointer(x.address())
            .pointer(statistics.address())
            .pointer(weight.address())
            .pointer(dy.address())
            .pointer(dx.address())
            .value(rows)
            .value(cols)
            .value(accumulate)
            .launch(grid, 128, 0);
    }

    /// `kernels/layer_norm.cu`: blocks of 512 threads.
    pub(super) fn layer_norm_backward_parameters(
        &self,
        grid: Grid,
        x: View<'_>,
        statistics: View<'_>,
        dy: View<'_>,
        dweight: Option<&mut ViewMut<'_>>,
        dbias: Option<&mut ViewMut<'_>>,
        rows: i32,
        cols: i32,
    ) {
        self.arguments(&self.kernels().layer_norm_backward_parameters)
            .pointer(x.address())
            .pointer(statistics.address())
            .pointer(dy.address())
            .optional(dweight.as_ref().map(|view| view.address()))
            .optional(dbias.as_ref().map(|view| view.address()))
            .value(rows)
            .value(cols)
            .launch(grid, 512, 0);
    }

    /// `kernels/layer_norm.cu`: blocks of 512 threads.
    pub(super) fn bias_backward(&self, grid: Grid, dy: View<'_>, dbias: &mut ViewMut<'_>, rows: i32, cols: i32) {
        self.arguments(&self.kernels().bias_backward)
            .pointer(dy.address())
            .pointer(dbias.address())
            .value(rows)
            .value(cols)
            .launch(grid, 512, 0);
    }

    /// `kernels/objective.cu`: blocks of 512 threads.
    pub(super) fn entropy_mcc(
        &self,
        grid: Grid,
        logits: View<'_>,
        dlogits: &mut ViewMut<'_>,
        frame_terms: &mut ViewMut<'_, f64>,
        class_terms: &mut ViewMut<'_, f64>,
        result: &mut ViewMut<'_, f64>,
        frames: i32,
        classes: i32,
        blank: i32,
        temperature: f64,
        entropy_weight: f64,
    ) {
        self.arguments(&self.kernels().entropy_mcc)
            .pointer(logits.address())
            .pointer(dlogits.address())
            .pointer(frame_terms.address())
            .pointer(class_terms.address())
            .pointer(result.address())
            .value(frames)
            .value(classes)
            .value(blank)
            .value(temperature)
            .value(entropy_weight)
            .launch(grid, 512, 0);
    }

    /// `kernels/relative_bias.cu`: blocks of 256 threads.
    pub(super) fn relative_gate_forward(
        &self,
        grid: Grid,
        projection: View<'_>,
        constant: View<'_>,
        gate: &mut ViewMut<'_>,
        frames: i32,
        heads: i32,
    ) {
        self.arguments(&self.kernels().relative_gate_forward)
            .pointer(projection.address())
            .pointer(constant.address())
            .pointer(gate.address())
            .value(frames)
            .value(heads)
            .launch(grid, 256, 0);
    }

    /// `kernels/relative_bias.cu`: blocks of 256 threads.
    pub(super) fn relative_gate_backward(
        &self,
        grid: Grid,
        projection: View<'_>,
        constant: View<'_>,
        dgate: View<'_>,
        dprojection: &mut ViewMut<'_>,
        dconstant: Option<&mut ViewMut<'_>>,
        frames: i32,
        heads: i32,
    ) {
        self.arguments(&self.kernels().relative_gate_backward)
            .pointer(projection.address())
            .pointer(constant.address())
            .pointer(dgate.address())
            .pointer(dprojection.address())
            .optional(dconstant.as_ref().map(|view| view.address()))
            .value(frames)
            .value(heads)
            .launch(grid, 256, 0);
    }

    /// `kernels/relative_bias.cu`: blocks of 256 threads.
    pub(super) fn relative_table_forward(
        &self,
        grid: Grid,
        buckets: View<'_, u32>,
        embedding: View<'_>,
        table: &mut ViewMut<'_>,
        heads: i32,
        distances: i32,
    ) {
        self.arguments(&self.kernels().relative_table_forward)
            .pointer(buckets.address())
            .pointer(embedding.address())
            .pointer(table.address())
            .value(heads)
            .value(distances)
            .launch(grid, 256, 0);
    }

    /// `kernels/relative_bias.cu`: blocks of 256 threads.
    pub(super) fn relative_table_backward(
        &self,
        grid: Grid,
        buckets: View<'_, u32>,
        dtable: View<'_>,
        dembedding: &mut ViewMut<'_>,
        bucket_count: i32,
        heads: i32,
        distances: i32,
    ) {
        self.arguments(&self.kernels().relative_table_backward)
            .pointer(buckets.address())
            .pointer(dtable.address())
            .pointer(dembedding.address())
            .value(bucket_count)
            .value(heads)
            .value(distances)
            .launch(grid, 256, 0);
    }

    /// `kernels/weight_norm.cu`: blocks of 256 threads.
    pub(super) fn weight_norm_forward(
        &self,
        grid: Grid,
        direction: View<'_>,
        magnitude: View<'_>,
        weight: &mut ViewMut<'_>,
        outputs: i32,
        taps: i32,
        width: i32,
    ) {
        self.arguments(&self.kernels().weight_norm_forward)
            .pointer(direction.address())
            .pointer(magnitude.address())
            .pointer(weight.address())
            .value(outputs)
            .value(taps)
            .value(width)
            .launch(grid, 256, 0);
    }

    /// `kernels/weight_norm.cu`: blocks of 256 threads.
    pub(super) fn weight_norm_backward(
        &self,
        grid: Grid,
        direction: View<'_>,
        magnitude: View<'_>,
        dweight: View<'_>,
        ddirection: Option<&mut ViewMut<'_>>,
        dmagnitude: Option<&mut ViewMut<'_>>,
        outputs: i32,
        taps: i32,
        width: i32,
    ) {
        self.arguments(&self.kernels().weight_norm_backward)
            .pointer(direction.address())
            .pointer(magnitude.address())
            .pointer(dweight.address())
            .optional(ddirection.as_ref().map(|view| view.address()))
            .optional(dmagnitude.as_ref().map(|view| view.address()))
            .value(outputs)
            .value(taps)
            .value(width)
            .launch(grid, 256, 0);
    }
}
