// Weight norm (Salimans and Kingma 2016) of a grouped convolution, a magnitude a tap: W[:, k] = g[k] v[:, k] / |v[:, k]|,
// v and W [outputs, taps, width].
//
// Backward: dg = dW·v / |v|, dv = g / |v| (dW - v dW·v / |v|²), products and norms over a tap's values.
#include "common.cuh"

// A block a tap: its sum, then its values. Grid: taps.
KERNEL __launch_bounds__(256)
weight_norm_forward(const float* __restrict__ direction, const float* __restrict__ magnitude, float* __restrict__ weight,
                    int outputs, int taps, int width) {
    __shared__ double partial[8];
    const int tap = blockIdx.x, len = outputs * width;
    double squares = 0.0;
    for (int index = threadIdx.x; index < len; index += 256) {
        const float v = direction[((long long)(index / width) * taps + tap) * width + index % width];
        squares += v * v;
    }
    const float factor = (float)(magnitude[tap] / sqrt(block_sum<8>(squares, partial)));
    for (int index = threadIdx.x; index < len; index += 256) {
        const long long at = ((long long)(index / width) * taps + tap) * width + index % width;
        weight[at] = factor * direction[at];
    }
}

// Both gradients accumulate; either may be null. Grid: taps.
KERNEL __launch_bounds__(256)
weight_norm_backward(const float* __restrict__ direction, const float* __restrict__ magnitude,
                     const float* __restrict__ dweight, float* OPTIONAL ddirection, float* OPTIONAL dmagnitude,
                     int outputs, int taps, int width) {
    __shared__ double partial[8];
    const int tap = blockIdx.x, len = outputs * width;
    double squares = 0.0, projection = 0.0;
    for (int index = threadIdx.x; index < len; index += 256) {
        const long long at = ((long long)(index / width) * taps + tap) * width + index % width;
        const float v = direction[at];
        squares += v * v;
        projection += v * dweight[at];
    }
    squares = block_sum<8>(squares, partial);
    projection = block_sum<8>(projection, partial);
    if (dmagnitude && threadIdx.x == 0) dmagnitude[tap] += (float)(projection / sqrt(squares));
    if (!ddirection) return;
    const float factor = (float)(magnitude[tap] / sqrt(squares)), along = (float)(projection / squares);
    for (int index = threadIdx.x; index < len; index += 256) {
        const long long at = ((long long)(index / width) * taps + tap) * width + index % width;
        ddirection[at] += factor * (dweight[at] - along * direction[at]);
    }
}
