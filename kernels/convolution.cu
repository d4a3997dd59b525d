// Convolutions over channels-last frames that are not matrix products of cuBLASLt's: those with a window of at most 16
// values (wav2vec2's first, over the waveform: one channel, ten taps), and those in groups (its positional embedding).
//
// Narrow: y[t, o] = b[o] + Σ_k x[t s + k] W[o, k], k below `window`. dW[o, k] = Σ_t dy[t, o] x[t s + k].
// Grouped: y[t, o] = b[o] + Σ_{k, i} x[t + k - padding, g n + i] W[o, k, i], g the group of o, n its size. Its input
// gradient dx[t, i] = Σ_{o, k} dy[t - k + padding, o] W[o, k, i] is the same sum with taps reversed and the roles of o
// and i exchanged, so both run one kernel with the weight's strides as arguments. dW[o, k, i] = Σ_t dy[t, o] x[t + k -
// padding, i].
//
// Several utterances are convolved in one launch, a layer of the grid each. Narrow: frames, weights and gradients lie so
// far apart as the strides say, and a stride of 0 is one for all. Grouped: the frames behind each other, one weight.
#include "common.cuh"

#define WINDOW 16
#define ROWS 32

// A block has 32 frames and 128 outputs; a thread keeps its output's window in registers and reads the signal from
// shared memory, all lanes the same value. The traffic is the output's. Writes y, and gelu(y) where `activated` is not
// null. Grid: (ceil(rows / 32), ceil(outputs / 128), utterances). Dynamic shared memory: 31 stride + 16 values.
KERNEL __launch_bounds__(128)
narrow_convolution_forward(const float* __restrict__ x, const float* __restrict__ weight,
                           const float* OPTIONAL bias, float* __restrict__ y, float* OPTIONAL activated, int rows,
                           int window, int stride, int outputs, long long x_apart, int weight_apart, int bias_apart,
                           long long y_apart) {
    DYNAMIC_SHARED(float, signal);
    const long long utterance = blockIdx.z;
    x += utterance * x_apart;
    weight += utterance * weight_apart;
    if (bias) bias += utterance * bias_apart;
    y += utterance * y_apart;
    if (activated) activated += utterance * y_apart;
    const int first = blockIdx.x * ROWS, output = blockIdx.y * 128 + threadIdx.x;
    const int here = min(ROWS, rows - first), len = (here - 1) * stride + window;
    for (int index = threadIdx.x; index < (ROWS - 1) * stride + WINDOW; index += 128) {
        signal[index] = index < len ? x[(long long)first * stride + index] : 0.0f;
    }
    float w[WINDOW];
#pragma unroll
    for (int k = 0; k < WINDOW; k++) w[k] = output < outputs && k < window ? weight[output * window + k] : 0.0f;
    __syncthreads();
    if (output >= outputs) return;
    const float b = bias ? bias[output] : 0.0f;
    for (int row = 0; row < here; row++) {
        float sum = b;
#pragma unroll
        for (int k = 0; k < WINDOW; k++) sum += signal[row * stride + k] * w[k];
        const long long at = (long long)(first + row) * outputs + output;
        y[at] = sum;
        if (activated) activated[at] = gelu(sum);
    }
}

// A chunk's share of dW into `partial` [utterances, chunks, outputs, window]; the signal as in forward. Grid: (chunks,
// ceil(outputs / 128), utterances). Dynamic shared memory: 31 stride + 16 values.
KERNEL __launch_bounds__(128)
narrow_convolution_backward_weight(const float* __restrict__ x, const float* __restrict__ dy,
                                   float* __restrict__ partial, int rows, int window, int stride, int outputs,
                                   int chunk, long long x_apart, long long dy_apart) {
    DYNAMIC_SHARED(float, signal);
    x += blockIdx.z * x_apart;
    dy += blockIdx.z * dy_apart;
    partial += (long long)blockIdx.z * gridDim.x * outputs * window;
    const int output = blockIdx.y * 128 + threadIdx.x;
    const int end = min(rows, ((int)blockIdx.x + 1) * chunk);
    float d[WINDOW];
#pragma unroll
    for (int k = 0; k < WINDOW; k++) d[k] = 0.0f;
    for (int first = blockIdx.x * chunk; first < end; first += ROWS) {
        const int here = min(ROWS, end - first), len = (here - 1) * stride + window;
        __syncthreads();
        for (int index = threadIdx.x; index < (ROWS - 1) * stride + WINDOW; index += 128) {
            signal[index] = index < len ? x[(long long)first * stride + index] : 0.0f;
        }
        __syncthreads();
        if (output < outputs) {
            for (int row = 0; row < here; row++) {
                const float g = dy[(long long)(first + row) * outputs + output];
#pragma unroll
                for (int k = 0; k < WINDOW; k++) d[k] += g * signal[row * stride + k];
            }
        }
    }
    if (output >= outputs) return;
    const long long at = ((long long)blockIdx.x * outputs + output) * window;
#pragma unroll
    for (int k = 0; k < WINDOW; k++) {
        if (k < window) partial[at + k] = d[k];
    }
}

// sum += Σ_chunks partial[chunk], in order, of each utterance. Grid: (ceil(len / 256), utterances).
KERNEL __launch_bounds__(256)
add_chunks(const float* __restrict__ partial, float* __restrict__ sum, int chunks, int len, int sum_apart) {
    partial += (long long)blockIdx.y * chunks * len;
    sum += (long long)blockIdx.y * sum_apart;
    const int index = blockIdx.x * 256 + threadIdx.x;
    if (index >= len) return;
    float total = 0.0f;
    for (int chunk = 0; chunk < chunks; chunk++) total += partial[(long long)chunk * len + index];
    sum[index] += total;
}

#define TILE 64
#define DEPTH 16
#define TAPS 4

// y[t, o] (+)= b[o] + Σ_{k, i} x[t + k - padding, i] W[o output_stride + k tap_stride + i input_stride], within a group
// of n = channels / groups; `weight` is a group's first value at tap 0, the next group's lies `group_stride` further. A
// block has 64 frames and 64 outputs of a group, a thread four by four of them; it goes through the window 16 channels
// and 4 taps at a time, so that a frame brought to shared memory serves 4 taps. 21 KB of shared memory. Grid:
// (ceil(frames / 64), ceil(n / 64), groups of all utterances).
KERNEL __launch_bounds__(256)
grouped_convolution(const float* __restrict__ x, const float* __restrict__ weight, const float* OPTIONAL bias,
                    float* __restrict__ y, int frames, int channels, int n, int taps, int padding,
                    long long group_stride, int output_stride, int tap_stride, int input_stride, int accumulate) {
    __shared__ float signal[TILE + TAPS - 1][DEPTH];
    __shared__ float w[TAPS][DEPTH][TILE + 1];
    const int tx = threadIdx.x & 15, ty = threadIdx.x >> 4;
    const int groups = channels / n, utterance = blockIdx.z / groups;
    const int first = blockIdx.x * TILE, output = blockIdx.y * TILE, group = blockIdx.z % groups;
    x += (long long)utterance * frames * channels;
    y += (long long)utterance * frames * channels;
    // A group's channels from here on.
    x += group * n;
    y += group * n;
    if (bias) bias += group * n;
    weight += group * group_stride;
    float sum[4][4] = {};
    for (int tap = 0; tap < taps; tap += TAPS) {
        for (int input = 0; input < n; input += DEPTH) {
            __syncthreads();
            for (int index = threadIdx.x; index < (TILE + TAPS - 1) * DEPTH; index += 256) {
                const int row = index / DEPTH, i = index % DEPTH, frame = first + row + tap - padding;
                const bool inside = frame >= 0 && frame < frames && input + i < n;
                signal[row][i] = inside ? x[(long long)frame * channels + input + i] : 0.0f;
            }
            for (int index = threadIdx.x; index < TAPS * DEPTH * TILE; index += 256) {
                // Neighbouring threads read what lies side by side: inputs or outputs.
                const int o = input_stride == 1 ? index / DEPTH % TILE : index % TILE;
                const int i = input_stride == 1 ? index % DEPTH : index / TILE % DEPTH;
                const int k = index / (TILE * DEPTH);
                const bool inside = output + o < n && input + i < n && tap + k < taps;
                const long long at = (long long)(output + o) * output_stride + (long long)(tap + k) * tap_stride +
                                     (long long)(input + i) * input_stride;
                w[k][i][o] = inside ? weight[at] : 0.0f;
            }
            __syncthreads();
#pragma unroll
            for (int k = 0; k < TAPS; k++) {
#pragma unroll
                for (int i = 0; i < DEPTH; i++) {
                    float a[4], b[4];
#pragma unroll
                    for (int r = 0; r < 4; r++) a[r] = signal[ty + 16 * r + k][i];
#pragma unroll
                    for (int c = 0; c < 4; c++) b[c] = w[k][i][tx + 16 * c];
#pragma unroll
                    for (int r = 0; r < 4; r++) {
#pragma unroll
                        for (int c = 0; c < 4; c++) sum[r][c] += a[r] * b[c];
                    }
                }
            }
        }
    }
#pragma unroll
    for (int r = 0; r < 4; r++) {
#pragma unroll
        for (int c = 0; c < 4; c++) {
            const int frame = first + ty + 16 * r, o = output + tx + 16 * c;
            if (frame < frames && o < n) {
                const long long at = (long long)frame * channels + o;
                const float value = sum[r][c] + (bias ? bias[o] : 0.0f);
                y[at] = accumulate ? y[at] + value : value;
            }
        }
    }
}

// dW[o, k, i] += Σ_t dy[t, o] x[t + k - padding, i], W [channels, taps, n]. A block has 64 outputs by 64 inputs of a tap
// and group, and goes through time 16 frames at a time. 8 KB of shared memory. Grid: (taps, ceil(n / 64)², groups).
KERNEL __launch_bounds__(256)
grouped_convolution_backward_weight(const float* __restrict__ x, const float* __restrict__ dy,
                                    float* __restrict__ dweight, int frames, int channels, int n, int taps,
                                    int padding) {
    __shared__ float gradient[DEPTH][TILE], signal[DEPTH][TILE];
    const int tx = threadIdx.x & 15, ty = threadIdx.x >> 4, tap = blockIdx.x, group = blockIdx.z;
    const int tiles = (n + TILE - 1) / TILE;
    const int output = blockIdx.y / tiles * TILE, input = blockIdx.y % tiles * TILE;
    float sum[4][4] = {};
    for (int first = 0; first < frames; first += DEPTH) {
        __syncthreads();
        for (int index = threadIdx.x; index < DEPTH * TILE; index += 256) {
            const int row = index / TILE, col = index % TILE, frame = first + row, source = frame + tap - padding;
            const bool in_time = frame < frames;
            gradient[row][col] =
                in_time && output + col < n ? dy[(long long)frame * channels + group * n + output + col] : 0.0f;
            const bool inside = in_time && source >= 0 && source < frames && input + col < n;
            signal[row][col] = inside ? x[(long long)source * channels + group * n + input + col] : 0.0f;
        }
        __syncthreads();
#pragma unroll
        for (int t = 0; t < DEPTH; t++) {
            float a[4], b[4];
#pragma unroll
            for (int r = 0; r < 4; r++) a[r] = gradient[t][ty + 16 * r];
#pragma unroll
            for (int c = 0; c < 4; c++) b[c] = signal[t][tx + 16 * c];
#pragma unroll
            for (int r = 0; r < 4; r++) {
#pragma unroll
                for (int c = 0; c < 4; c++) sum[r][c] += a[r] * b[c];
            }
        }
    }
#pragma unroll
    for (int r = 0; r < 4; r++) {
#pragma unroll
        for (int c = 0; c < 4; c++) {
            const int o = output + ty + 16 * r, i = input + tx + 16 * c;
            if (o < n && i < n) dweight[((long long)(group * n + o) * taps + tap) * n + i] += sum[r][c];
        }
    }
}
