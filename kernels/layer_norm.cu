// Layer norm over the inner dimension: y = x̂ γ + β, x̂ = (x - μ) / σ, σ² = mean((x - μ)²) + 1e-5.
//
// Backward: with g = dy γ, dx = (g - mean(g) - x̂ mean(g x̂)) / σ; dγ = Σ_rows dy x̂, dβ = Σ_rows dy.
// `statistics` holds (μ, 1/σ) a row. Where a GELU followed, dy is the gradient of its output, and dy gelu'(x̂ γ + β) takes
// its place: made again where it is needed, from what is read anyway, rather than written and read.
//
// The rows may be those of several utterances behind each other, each with its own γ and β (and their gradients), so far
// apart as the strides say: 0 where all have the same. `starts` says whose a row is, and padding takes the last one's;
// without it each has equally many.
#include "common.cuh"

#define EPSILON 1e-5f

// Whose row it is.
__device__ __forceinline__ int utterance_of(const unsigned* starts, int utterances, int row, int rows) {
    if (!starts) return row / (rows / utterances);
    int utterance = 0;
    while (utterance + 1 < utterances && row >= (int)starts[utterance + 1]) utterance++;
    return utterance;
}

// What reaches the norm's output: through a GELU, where β is given.
__device__ __forceinline__ float before_gelu(float d, float normalised, float weight, const float* bias, int col) {
    return bias ? d * gelu_slope(normalised * weight + bias[col]) : d;
}

// A warp a row, four rows a block: no block-wide barrier, and a row's later passes find it in the first-level cache. With
// `activate` GELU follows, for which y would have to be read and written once more.
// Grid: ceil(rows / 4).
KERNEL __launch_bounds__(128)
layer_norm_forward(const float* __restrict__ x, const float* __restrict__ weight, const float* __restrict__ bias,
                   const unsigned* OPTIONAL starts, float* __restrict__ y, float* __restrict__ statistics, int rows,
                   int cols, int utterances, int weight_stride, int bias_stride, int activate) {
    const int row = blockIdx.x * 4 + (threadIdx.x >> 5), lane = threadIdx.x & 31;
    if (row >= rows) return;
    const long long utterance = utterance_of(starts, utterances, row, rows);
    weight += utterance * weight_stride;
    bias += utterance * bias_stride;
    x += (long long)row * cols;
    y += (long long)row * cols;
    float sum = 0.0f;
    for (int col = lane; col < cols; col += 32) sum += x[col];
    const float mean = warp_sum(sum) / cols;
    // Centred first: E[x²] - μ² would cancel where a channel's offset is large.
    float squares = 0.0f;
    for (int col = lane; col < cols; col += 32) {
        const float centred = x[col] - mean;
        squares += centred * centred;
    }
    const float inverse = 1.0f / sqrtf(warp_sum(squares) / cols + EPSILON);
    for (int col = lane; col < cols; col += 32) {
        const float value = (x[col] - mean) * inverse * weight[col] + bias[col];
        y[col] = activate ? gelu(value) : value;
    }
    if (lane == 0) {
        statistics[2 * row] = mean;
        statistics[2 * row + 1] = inverse;
    }
}

// dx = ... (+ dx). A warp a row, as forward; with `bias`, a GELU followed. Grid: ceil(rows / 4).
KERNEL __launch_bounds__(128)
layer_norm_backward_input(const float* __restrict__ x, const float* __restrict__ statistics,
                          const float* __restrict__ weight, const float* OPTIONAL bias, const float* __restrict__ dy,
                          const unsigned* OPTIONAL starts, float* __restrict__ dx, int rows, int cols, int accumulate,
                          int utterances, int weight_stride, int bias_stride) {
    const int row = blockIdx.x * 4 + (threadIdx.x >> 5), lane = threadIdx.x & 31;
    if (row >= rows) return;
    const long long utterance = utterance_of(starts, utterances, row, rows);
    weight += utterance * weight_stride;
    if (bias) bias += utterance * bias_stride;
    x += (long long)row * cols;
    dy += (long long)row * cols;
    dx += (long long)row * cols;
    const float mean = statistics[2 * row], inverse = statistics[2 * row + 1];
    float sum = 0.0f, along = 0.0f;
    for (int col = lane; col < cols; col += 32) {
        const float normalised = (x[col] - mean) * inverse;
        const float g = before_gelu(dy[col], normalised, weight[col], bias, col) * weight[col];
        sum += g;
        along += g * normalised;
    }
    sum = warp_sum(sum) / cols;
    along = warp_sum(along) / cols;
    for (int col = lane; col < cols; col += 32) {
        const float normalised = (x[col] - mean) * inverse;
        const float g = before_gelu(dy[col], normalised, weight[col], bias, col) * weight[col];
        const float d = inverse * (g - sum - normalised * along);
        // A branch: what is not to be kept may be anything, NaN included.
        dx[col] = accumulate ? dx[col] + d : d;
    }
}

// dγ += ..., dβ += ...; either may be null. With `weight` and `bias`, a GELU followed. A block has 32 columns and sixteen warps, which take every sixteenth row; a
// warp reads 32 columns side by side. The sums' order is fixed. Grid: (ceil(cols / 32), utterances).
KERNEL __launch_bounds__(512)
layer_norm_backward_parameters(const float* __restrict__ x, const float* __restrict__ statistics,
                               const float* OPTIONAL weight, const float* OPTIONAL bias, const float* __restrict__ dy,
                               const unsigned* OPTIONAL starts, float* OPTIONAL dweight, float* OPTIONAL dbias, int all,
                               int cols, int weight_stride, int bias_stride, int stride) {
    __shared__ float weights[16][32], biases[16][32];
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, col = blockIdx.x * 32 + lane;
    const Span span = span_of(starts, blockIdx.y, gridDim.y, all);
    const int rows = span.rows;
    x += (long long)span.first * cols;
    dy += (long long)span.first * cols;
    statistics += 2 * (long long)span.first;
    if (dweight) dweight += (long long)blockIdx.y * stride;
    if (dbias) dbias += (long long)blockIdx.y * stride;
    if (bias) {
        weight += (long long)blockIdx.y * weight_stride;
        bias += (long long)blockIdx.y * bias_stride;
    }
    float dw = 0.0f, db = 0.0f;
    if (col < cols) {
        for (int row = warp; row < rows; row += 16) {
            const long long at = (long long)row * cols + col;
            // Neither is needed for β alone.
            const float normalised = dweight || bias ? (x[at] - statistics[2 * row]) * statistics[2 * row + 1] : 0.0f;
            const float d = before_gelu(dy[at], normalised, bias ? weight[col] : 0.0f, bias, col);
            db += d;
            dw += d * normalised;
        }
    }
    weights[warp][lane] = dw;
    biases[warp][lane] = db;
    __syncthreads();
    if (warp == 0 && col < cols) {
        for (int other = 1; other < 16; other++) {
            dw += weights[other][lane];
            db += biases[other][lane];
        }
        if (dweight) dweight[col] += dw;
        if (dbias) dbias[col] += db;
    }
}

// dbias += Σ_rows dy, the same way, of each of several utterances, whose rows and gradients lie so far apart. Grid:
// (ceil(cols / 32), utterances).
KERNEL __launch_bounds__(512)
bias_backward(const float* __restrict__ dy, float* dbias, int rows, int cols, long long dy_stride,
              long long dbias_stride) {
    dy += blockIdx.y * dy_stride;
    dbias += blockIdx.y * dbias_stride;
    __shared__ float biases[16][32];
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, col = blockIdx.x * 32 + lane;
    float db = 0.0f;
    if (col < cols) {
        for (int row = warp; row < rows; row += 16) db += dy[(long long)row * cols + col];
    }
    biases[warp][lane] = db;
    __syncthreads();
    if (warp == 0 && col < cols) {
        for (int other = 1; other < 16; other++) db += biases[other][lane];
        dbias[col] += db;
    }
}
