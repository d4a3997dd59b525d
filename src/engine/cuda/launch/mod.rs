// Made by kernels/build.py from the kernels' signatures; do not edit. CI makes it again and compares.

//! The kernels, loaded, and a launch function for each.

mod adamw;
mod attention;
mod channel_norm;
mod convolution;
mod cross_attention;
mod ctc;
mod descent;
mod elementwise;
mod gather;
mod layer_norm;
mod log_mel;
mod objective;
mod relative_bias;
mod weight_norm;

use super::device::CudaDevice;
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
    cross_attention_forward: CudaFunction,
    cross_attention_backward_queries: CudaFunction,
    cross_attention_backward_keys: CudaFunction,
    ctc_log_softmax: CudaFunction,
    ctc_paths: CudaFunction,
    ctc_occupancy: CudaFunction,
    ctc_gradient: CudaFunction,
    descent_judge: CudaFunction,
    descent_check: CudaFunction,
    descent_copy: CudaFunction,
    descent_adamw: CudaFunction,
    gelu_forward: CudaFunction,
    gelu_in_place: CudaFunction,
    gelu_backward: CudaFunction,
    add: CudaFunction,
    clear_padding: CudaFunction,
    join_rows: CudaFunction,
    part_rows: CudaFunction,
    find_not_finite: CudaFunction,
    gather_rows: CudaFunction,
    gather_rows_backward: CudaFunction,
    layer_norm_forward: CudaFunction,
    layer_norm_backward_input: CudaFunction,
    layer_norm_backward_parameters: CudaFunction,
    bias_backward: CudaFunction,
    log_mel_bands: CudaFunction,
    log_mel_scale: CudaFunction,
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
        let adamw = device.module(include_str!("../../../../kernels/ptx/adamw.ptx"))?;
        let attention = device.module(include_str!("../../../../kernels/ptx/attention.ptx"))?;
        let channel_norm = device.module(include_str!("../../../../kernels/ptx/channel_norm.ptx"))?;
        let convolution = device.module(include_str!("../../../../kernels/ptx/convolution.ptx"))?;
        let cross_attention = device.module(include_str!("../../../../kernels/ptx/cross_attention.ptx"))?;
        let ctc = device.module(include_str!("../../../../kernels/ptx/ctc.ptx"))?;
        let descent = device.module(include_str!("../../../../kernels/ptx/descent.ptx"))?;
        let elementwise = device.module(include_str!("../../../../kernels/ptx/elementwise.ptx"))?;
        let gather = device.module(include_str!("../../../../kernels/ptx/gather.ptx"))?;
        let layer_norm = device.module(include_str!("../../../../kernels/ptx/layer_norm.ptx"))?;
        let log_mel = device.module(include_str!("../../../../kernels/ptx/log_mel.ptx"))?;
        let objective = device.module(include_str!("../../../../kernels/ptx/objective.ptx"))?;
        let relative_bias = device.module(include_str!("../../../../kernels/ptx/relative_bias.ptx"))?;
        let weight_norm = device.module(include_str!("../../../../kernels/ptx/weight_norm.ptx"))?;
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
            cross_attention_forward: device.function(&cross_attention, "cross_attention_forward", 0)?,
            cross_attention_backward_queries: device.function(
                &cross_attention,
                "cross_attention_backward_queries",
                0,
            )?,
            cross_attention_backward_keys: device.function(&cross_attention, "cross_attention_backward_keys", 0)?,
            ctc_log_softmax: device.function(&ctc, "ctc_log_softmax", 0)?,
            ctc_paths: device.function(&ctc, "ctc_paths", 0)?,
            ctc_occupancy: device.function(&ctc, "ctc_occupancy", 0)?,
            ctc_gradient: device.function(&ctc, "ctc_gradient", 0)?,
            descent_judge: device.function(&descent, "descent_judge", 0)?,
            descent_check: device.function(&descent, "descent_check", 0)?,
            descent_copy: device.function(&descent, "descent_copy", 0)?,
            descent_adamw: device.function(&descent, "descent_adamw", 0)?,
            gelu_forward: device.function(&elementwise, "gelu_forward", 0)?,
            gelu_in_place: device.function(&elementwise, "gelu_in_place", 0)?,
            gelu_backward: device.function(&elementwise, "gelu_backward", 0)?,
            add: device.function(&elementwise, "add", 0)?,
            clear_padding: device.function(&elementwise, "clear_padding", 0)?,
            join_rows: device.function(&elementwise, "join_rows", 0)?,
            part_rows: device.function(&elementwise, "part_rows", 0)?,
            find_not_finite: device.function(&elementwise, "find_not_finite", 0)?,
            gather_rows: device.function(&gather, "gather_rows", 0)?,
            gather_rows_backward: device.function(&gather, "gather_rows_backward", 0)?,
            layer_norm_forward: device.function(&layer_norm, "layer_norm_forward", 0)?,
            layer_norm_backward_input: device.function(&layer_norm, "layer_norm_backward_input", 0)?,
            layer_norm_backward_parameters: device.function(&layer_norm, "layer_norm_backward_parameters", 0)?,
            bias_backward: device.function(&layer_norm, "bias_backward", 0)?,
            log_mel_bands: device.function(&log_mel, "log_mel_bands", 0)?,
            log_mel_scale: device.function(&log_mel, "log_mel_scale", 0)?,
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
