// What works value by value: GELU, sums, rows that move, the finite check. Bound by memory: a thread takes values a grid apart, so
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

// y += x, of each of several stretches, which lie so far apart; x's may be the same for all. Grid: (any, stretches).
KERNEL __launch_bounds__(256)
add(const float* __restrict__ x, float* __restrict__ y, long long len, long long x_stride, long long y_stride) {
    x += blockIdx.y * x_stride;
    y += blockIdx.y * y_stride;
    FOR_EACH(index, len) y[index] += x[index];
}

// Zeros in the padding of x [rows, cols], of each of several utterances, which lie so far apart. Grid: (any, utterances).
KERNEL __launch_bounds__(256)
clear_padding(const unsigned* __restrict__ counted, float* x, int rows, int cols, long long stride) {
    x += blockIdx.y * stride;
    const long long first = (long long)rows_that_count(counted, blockIdx.y, rows) * cols;
    FOR_EACH(index, (long long)rows * cols - first) x[first + index] = 0.0f;
}

// Utterances' rows lie in two ways: apart, `each` rows for every one, of which the last are padding; or behind each other,
// `rows` in all, where `starts` [utterances + 1] says, with the padding behind the last. What counts goes from the one to
// the other, and padding is 0 there.

// From apart to behind each other: y [rows, cols]. A warp a row. Grid: ceil(rows / 8).
KERNEL __launch_bounds__(256)
join_rows(const float* __restrict__ x, const unsigned* __restrict__ starts, float* __restrict__ y, int rows, int cols,
            int utterances, int each) {
    const int row = blockIdx.x * 8 + (threadIdx.x >> 5), lane = threadIdx.x & 31;
    if (row >= rows) return;
    int utterance = 0;
    while (utterance < utterances && row >= (int)starts[utterance + 1]) utterance++;
    const bool counts = utterance < utterances;
    const long long from = counts ? (long long)utterance * each + row - (int)starts[utterance] : 0;
    for (int col = lane; col < cols; col += 32) y[(long long)row * cols + col] = counts ? x[from * cols + col] : 0.0f;
}

// From behind each other to apart: y [utterances, each, cols]. A warp a row. Grid: (ceil(each / 8), utterances).
KERNEL __launch_bounds__(256)
part_rows(const float* __restrict__ x, const unsigned* __restrict__ starts, float* __restrict__ y, int cols, int each) {
    const int row = blockIdx.x * 8 + (threadIdx.x >> 5), lane = threadIdx.x & 31;
    if (row >= each) return;
    const long long from = (long long)starts[blockIdx.y] + row, to = (long long)blockIdx.y * each + row;
    const bool counts = from < (long long)starts[blockIdx.y + 1];
    for (int col = lane; col < cols; col += 32) y[to * cols + col] = counts ? x[from * cols + col] : 0.0f;
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
