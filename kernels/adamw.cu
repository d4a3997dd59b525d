// AdamW (Loshchilov and Hutter 2019) over a stretch of the flat parameter store, as torch.optim.AdamW computes it:
// m = β₁ m + (1 - β₁) g, v = β₂ v + (1 - β₂) g², x = x (1 - lr λ) - lr / (1 - β₁ᵗ) · m / (√v / √(1 - β₂ᵗ) + ε).
// The factors that depend on the step are the host's, computed in f64.
#include "common.cuh"

// Seven passes over the stretch: four reads, three writes. Grid: any.
KERNEL __launch_bounds__(256)
adamw_update(float* __restrict__ values, const float* __restrict__ gradients, float* __restrict__ first_moment,
             float* __restrict__ second_moment, float beta1, float one_minus_beta1, float beta2, float one_minus_beta2,
             float decay, float step_size, float root_correction, float epsilon, long long len) {
    for (long long index = (long long)blockIdx.x * blockDim.x + threadIdx.x; index < len;
         index += (long long)gridDim.x * blockDim.x) {
        const float g = gradients[index];
        const float m = first_moment[index] * beta1 + one_minus_beta1 * g;
        const float v = second_moment[index] * beta2 + one_minus_beta2 * g * g;
        first_moment[index] = m;
        second_moment[index] = v;
        values[index] = values[index] * decay - step_size * (m / (sqrtf(v) / root_correction + epsilon));
    }
}
