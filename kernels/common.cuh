// What every kernel file shares. Plain CUDA C++ without standard headers, so that NVRTC and the host emulation
// (kernels/emulation) take the same text.
//
// Conventions: all matrices are row-major f32, time is the outer dimension. A kernel's block is one-dimensional and as
// long as its __launch_bounds__ say; the comment above it gives its grid. A parameter marked OPTIONAL may be null. The
// host's launch functions are made from these signatures (kernels/build.py).
#pragma once

#ifndef EMULATED
#define DYNAMIC_SHARED(type, name) extern __shared__ type name[]
#endif
#define KERNEL extern "C" __global__ void
#define OPTIONAL
#define ALL_LANES 0xffffffffu
// NVRTC has no <math.h>.
#define MINUS_INFINITY __int_as_float(0xff800000)

// The rows from the one that `counted` names on are padding; without it there is none.
__device__ __forceinline__ int rows_that_count(const unsigned* counted, int rows) {
    return counted ? min((int)*counted, rows) : rows;
}

// The same of one of several utterances, each of which has a word.
__device__ __forceinline__ int rows_that_count(const unsigned* counted, int utterance, int rows) {
    return rows_that_count(counted ? counted + utterance : counted, rows);
}

// The rows of one of several utterances, which lie behind each other: `starts` [count + 1] says where. The last one's have
// the padding behind them, which does not count. Without `starts` each utterance has equally many, which all count.
struct Span {
    int first;  // Of all rows.
    int rows;   // That count.
    int all;    // With padding.
};

__device__ __forceinline__ Span span_of(const unsigned* starts, int utterance, int count, int rows) {
    if (!starts) return Span{utterance * (rows / count), rows / count, rows / count};
    const int first = (int)starts[utterance], end = (int)starts[utterance + 1];
    return Span{first, end - first, (utterance + 1 == count ? rows : end) - first};
}

// Sums over the 32 lanes of a warp, and over the 16 lanes of a half; every lane receives the sum.
__device__ __forceinline__ float warp_sum(float value) {
#pragma unroll
    for (int offset = 16; offset > 0; offset >>= 1) value += __shfl_xor_sync(ALL_LANES, value, offset);
    return value;
}

__device__ __forceinline__ double warp_sum(double value) {
#pragma unroll
    for (int offset = 16; offset > 0; offset >>= 1) value += __shfl_xor_sync(ALL_LANES, value, offset);
    return value;
}

__device__ __forceinline__ float half_warp_sum(float value) {
#pragma unroll
    for (int offset = 8; offset > 0; offset >>= 1) value += __shfl_xor_sync(ALL_LANES, value, offset);
    return value;
}

__device__ __forceinline__ float half_warp_max(float value) {
#pragma unroll
    for (int offset = 8; offset > 0; offset >>= 1) value = fmaxf(value, __shfl_xor_sync(ALL_LANES, value, offset));
    return value;
}

// Sum over a block of `warps` warps, in a fixed order; `partial` has a place for each warp. Every thread receives it.
template <int warps>
__device__ __forceinline__ double block_sum(double value, double* partial) {
    value = warp_sum(value);
    __syncthreads();
    if ((threadIdx.x & 31) == 0) partial[threadIdx.x >> 5] = value;
    __syncthreads();
    double sum = 0.0;
#pragma unroll
    for (int warp = 0; warp < warps; warp++) sum += partial[warp];
    return sum;
}

// GELU in its exact form, x Φ(x), and its slope, Φ(x) + x φ(x).
__device__ __forceinline__ float gelu(float x) { return x * normcdff(x); }

__device__ __forceinline__ float gelu_slope(float x) {
    return normcdff(x) + x * 0.3989422804f * expf(-0.5f * x * x);
}
