// What works value by value: GELU, sums, the finite check. Bound by memory: a thread takes values a grid apart, so
// that a warp's loads are always side by side.
#include "common.cuh"

#define FOR_EACH(index, len)                                                            \
    for (long long index = (long long)blockIdx.x * blockDim.x + threadIdx.x; index < (len); \
         index += (long long)gridDim.x * blockDim.x)

// y = gelu(x). Grid: any.
KERNEL __launch_bounds__(256) gelu_forward(const float* __restrict__ x, float* __restrict__ y, long long len) {
    FOR_EACH(index, len) y[index] = gelu(x[index]);
}

// In place, x = gelu(x). Grid: any.
KERNEL __launch_bounds__(256) gelu_in_place(float* x, long long len) {
    FOR_EACH(index, len) x[index] = gelu(x[index]);
}

// In place, d *= gelu'(pre). Grid: any.
KERNEL __launch_bounds__(256) gelu_backward(const float* __restrict__ pre, float* __restrict__ d, long long len) {
    FOR_EACH(index, len) d[index] *= gelu_slope(pre[index]);
}

// y += x. Grid: any.
KERNEL __launch_bounds__(256) add(const float* __restrict__ x, float* __restrict__ y, long long len) {
    FOR_EACH(index, len) y[index] += x[index];
}

// Zeros in the padding of x [rows, cols]. Grid: any.
KERNEL __launch_bounds__(256) clear_padding(const unsigned* __restrict__ counted, float* x, int rows, int cols) {
    const long long first = (long long)rows_that_count(counted, rows) * cols;
    FOR_EACH(index, (long long)rows * cols - first) x[first + index] = 0.0f;
}

// Raises `found` where one of `len` values is infinite or NaN; it must be 0 before. A grid row each of several such
// stretches, which lie behind each other, and its flag. Grid: (any, stretches).
KERNEL __launch_bounds__(256) find_not_finite(const float* __restrict__ x, unsigned* found, long long len) {
    bool bad = false;
    x += blockIdx.y * len;
    found += blockIdx.y;
    // The exponent's bits are all ones.
    FOR_EACH(index, len) bad |= (__float_as_uint(x[index]) & 0x7f800000u) == 0x7f800000u;
    // Many may raise it; all write the same.
    if (bad) atomicMax(found, 1u);
}
