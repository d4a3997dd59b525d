// Each channel normalised over time, then GELU: y = gelu(x̂ γ + β), x̂ = (x - μ) / σ with a channel's μ and σ. x is
// [rows, cols], a row a frame; `statistics` holds (μ, 1/σ) a channel.
//
// Backward, from d = dL/dy in place: g = d gelu'(x̂ γ + β); dγ = Σ_t g x̂, dβ = Σ_t g;
// dx = γ/σ (g - mean(g) - x̂ mean(g x̂)), means over time.
//
// A column's sum over time is long (3,200 frames a second), so rows are cut into chunks, a grid row each: f32 within a
// thread's share of a chunk, f64 from there on, in a fixed order.
//
// Where `counted` is given, the rows from the one it names on are padding, up to `rows`: no sum has them, and backward
// makes them 0, as g is there already.
//
// Several utterances lie behind each other, each of `rows` rows with its own count, statistics and chunks; their γ, β and
// gradients are so far apart as `stride` says, which is 0 where all have the same.
#include "common.cuh"

#define EPSILON 1e-5

// How many of a chunk's rows one of eight warps takes.
__device__ __forceinline__ int share(int rows, int warp) { return rows > warp ? (rows - warp + 7) / 8 : 0; }

// (mean, squares about it) of each chunk and column into `partial` [chunks, cols, 2]. A block has 32 columns and eight
// warps, which take every eighth row (Welford's recurrence). Grid: (ceil(cols / 32), chunks, utterances).
KERNEL __launch_bounds__(256)
channel_norm_moments(const float* __restrict__ x, const unsigned* OPTIONAL counted, double* __restrict__ partial,
                     int all, int cols, int chunk) {
    __shared__ float means[8][32], squares[8][32];
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, col = blockIdx.x * 32 + lane;
    const int first = blockIdx.y * chunk, end = min(rows_that_count(counted, blockIdx.z, all), first + chunk);
    // A chunk of padding.
    if (end <= first) return;
    x += (long long)blockIdx.z * all * cols;
    partial += 2 * (long long)blockIdx.z * gridDim.y * cols;
    float count = 0.0f, mean = 0.0f, square = 0.0f;
    if (col < cols) {
        for (int row = first + warp; row < end; row += 8) {
            const float value = x[(long long)row * cols + col];
            const float delta = value - mean;
            count += 1.0f;
            mean += delta * (1.0f / count);
            square += delta * (value - mean);
        }
    }
    means[warp][lane] = mean;
    squares[warp][lane] = square;
    __syncthreads();
    if (warp == 0 && col < cols) {
        // Sets' means and sums of squares as one set's: μ = Σ nᵢ μᵢ / n, S = Σ Sᵢ + nᵢ (μᵢ - μ)².
        double m = 0.0, s = 0.0;
        for (int other = 0; other < 8; other++) m += (double)share(end - first, other) * means[other][lane];
        m /= end - first;
        for (int other = 0; other < 8; other++) {
            const double delta = means[other][lane] - m;
            s += squares[other][lane] + share(end - first, other) * delta * delta;
        }
        const long long at = 2 * ((long long)blockIdx.y * cols + col);
        partial[at] = m;
        partial[at + 1] = s;
    }
}

// The chunks' moments to (μ, 1/σ). Grid: (ceil(cols / 128), utterances).
KERNEL __launch_bounds__(128)
channel_norm_statistics(const double* __restrict__ partial, const unsigned* OPTIONAL counted,
                        float* __restrict__ statistics, int all, int cols, int chunk) {
    const int col = blockIdx.x * 128 + threadIdx.x, rows = rows_that_count(counted, blockIdx.y, all);
    if (col >= cols) return;
    partial += 2 * (long long)blockIdx.y * ((all + chunk - 1) / chunk) * cols;
    statistics += 2 * (long long)blockIdx.y * cols;
    double mean = 0.0, squares = 0.0;
    for (int first = 0, index = 0; first < rows; first += chunk, index++) {
        mean += min(chunk, rows - first) * partial[2 * ((long long)index * cols + col)];
    }
    // An utterance that nobody spoke has no rows, and is normalised by something finite.
    const int count = max(rows, 1);
    mean /= count;
    for (int first = 0, index = 0; first < rows; first += chunk, index++) {
        const long long at = 2 * ((long long)index * cols + col);
        const double delta = partial[at] - mean;
        squares += partial[at + 1] + min(chunk, rows - first) * delta * delta;
    }
    statistics[2 * col] = (float)mean;
    statistics[2 * col + 1] = (float)(1.0 / sqrt(squares / count + EPSILON));
}

// y = gelu(x̂ γ + β). A block has 32 columns and eight warps, a thread keeps its column's constants. Grid:
// (ceil(cols / 32), chunks, utterances).
KERNEL __launch_bounds__(256)
channel_norm_gelu_apply(const float* __restrict__ x, const float* __restrict__ statistics,
                        const float* __restrict__ weight, const float* __restrict__ bias, float* __restrict__ y,
                        int rows, int cols, int chunk, int weight_stride, int bias_stride) {
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, col = blockIdx.x * 32 + lane;
    if (col >= cols) return;
    const long long utterance = blockIdx.z;
    x += utterance * rows * cols;
    y += utterance * rows * cols;
    statistics += 2 * utterance * cols;
    weight += utterance * weight_stride;
    bias += utterance * bias_stride;
    const int first = blockIdx.y * chunk, end = min(rows, first + chunk);
    const float mean = statistics[2 * col], inverse = statistics[2 * col + 1], w = weight[col], b = bias[col];
    for (int row = first + warp; row < end; row += 8) {
        const long long at = (long long)row * cols + col;
        y[at] = gelu((x[at] - mean) * inverse * w + b);
    }
}

// d to g in place, and each chunk's (Σ g, Σ g x̂) into `partial` [chunks, cols, 2]. Grid: (ceil(cols / 32), chunks,
// utterances).
KERNEL __launch_bounds__(256)
channel_norm_gelu_gradient(const float* __restrict__ x, const float* __restrict__ statistics,
                           const float* __restrict__ weight, const float* __restrict__ bias, float* __restrict__ d,
                           double* __restrict__ partial, int rows, int cols, int chunk, int weight_stride,
                           int bias_stride) {
    __shared__ float plain[8][32], along[8][32];
    const long long utterance = blockIdx.z;
    x += utterance * rows * cols;
    d += utterance * rows * cols;
    statistics += 2 * utterance * cols;
    weight += utterance * weight_stride;
    bias += utterance * bias_stride;
    partial += 2 * utterance * gridDim.y * cols;
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, col = blockIdx.x * 32 + lane;
    const int first = blockIdx.y * chunk, end = min(rows, first + chunk);
    float sum = 0.0f, sum_along = 0.0f;
    if (col < cols) {
        const float mean = statistics[2 * col], inverse = statistics[2 * col + 1], w = weight[col], b = bias[col];
        for (int row = first + warp; row < end; row += 8) {
            const long long at = (long long)row * cols + col;
            const float normalised = (x[at] - mean) * inverse;
            const float g = d[at] * gelu_slope(normalised * w + b);
            d[at] = g;
            sum += g;
            sum_along += g * normalised;
        }
    }
    plain[warp][lane] = sum;
    along[warp][lane] = sum_along;
    __syncthreads();
    if (warp == 0 && col < cols) {
        double total = 0.0, total_along = 0.0;
        for (int other = 0; other < 8; other++) {
            total += plain[other][lane];
            total_along += along[other][lane];
        }
        const long long at = 2 * ((long long)blockIdx.y * cols + col);
        partial[at] = total;
        partial[at + 1] = total_along;
    }
}

// The chunks' sums to dγ and dβ (accumulated where not null) and to the means over time, `means` [cols, 2]. Padding has
// added nothing. Grid: (ceil(cols / 128), utterances).
KERNEL __launch_bounds__(128)
channel_norm_gradient_sums(const double* __restrict__ partial, const unsigned* OPTIONAL counted,
                           float* OPTIONAL dweight, float* OPTIONAL dbias, float* __restrict__ means, int all,
                           int cols, int chunks, int stride) {
    const int col = blockIdx.x * 128 + threadIdx.x, rows = rows_that_count(counted, blockIdx.y, all);
    if (col >= cols) return;
    partial += 2 * (long long)blockIdx.y * chunks * cols;
    means += 2 * (long long)blockIdx.y * cols;
    if (dweight) dweight += (long long)blockIdx.y * stride;
    if (dbias) dbias += (long long)blockIdx.y * stride;
    double sum = 0.0, along = 0.0;
    for (int index = 0; index < chunks; index++) {
        const long long at = 2 * ((long long)index * cols + col);
        sum += partial[at];
        along += partial[at + 1];
    }
    if (dweight) dweight[col] += (float)along;
    if (dbias) dbias[col] += (float)sum;
    means[2 * col] = (float)(sum / rows);
    means[2 * col + 1] = (float)(along / rows);
}

// g to dx in place. Grid: (ceil(cols / 32), chunks, utterances).
KERNEL __launch_bounds__(256)
channel_norm_backward_apply(const float* __restrict__ x, const float* __restrict__ statistics,
                            const float* __restrict__ weight, const float* __restrict__ means,
                            const unsigned* OPTIONAL counted, float* __restrict__ d, int all, int cols, int chunk,
                            int weight_stride) {
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, col = blockIdx.x * 32 + lane;
    if (col >= cols) return;
    const long long utterance = blockIdx.z;
    x += utterance * all * cols;
    d += utterance * all * cols;
    statistics += 2 * utterance * cols;
    means += 2 * utterance * cols;
    weight += utterance * weight_stride;
    const int first = blockIdx.y * chunk, end = min(all, first + chunk);
    const int rows = rows_that_count(counted, blockIdx.z, all);
    const float mean = statistics[2 * col], inverse = statistics[2 * col + 1], factor = weight[col] * inverse;
    const float plain = means[2 * col], along = means[2 * col + 1];
    for (int row = first + warp; row < end; row += 8) {
        const long long at = (long long)row * cols + col;
        d[at] = row < rows ? factor * (d[at] - plain - (x[at] - mean) * inverse * along) : 0.0f;
    }
}
