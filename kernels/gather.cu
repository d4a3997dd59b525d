// An embedding: y[r] = table[rows[r]], table [_, cols] and y [count, cols]; backward dtable[rows[r]] += dy[r].
//
// A row may be asked for several times. The first place that asks for it adds up the gradients of all of them, in their
// order, so that no two blocks add to one row and the sum's order is fixed; whoever is not the first has nothing to do.
#include "common.cuh"

// Grid: count.
KERNEL __launch_bounds__(128)
gather_rows(const unsigned* __restrict__ rows, const float* __restrict__ table, float* __restrict__ y, int cols) {
    const float* from = table + (long long)rows[blockIdx.x] * cols;
    y += (long long)blockIdx.x * cols;
    for (int col = threadIdx.x; col < cols; col += blockDim.x) y[col] = from[col];
}

// Grid: count.
KERNEL __launch_bounds__(128)
gather_rows_backward(const unsigned* __restrict__ rows, const float* __restrict__ dy, float* dtable, int count, int cols) {
    const int own = blockIdx.x;
    const unsigned row = rows[own];
    for (int before = 0; before < own; before++) {
        if (rows[before] == row) return;
    }
    dtable += (long long)row * cols;
    for (int col = threadIdx.x; col < cols; col += blockDim.x) {
        float sum = dtable[col];
        for (int other = own; other < count; other++) {
            if (rows[other] == row) sum += dy[(long long)other * cols + col];
        }
        dtable[col] = sum;
    }
}
