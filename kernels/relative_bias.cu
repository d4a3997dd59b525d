// WavLM's gated relative position bias (Chen et al. 2022). The gate of a row and head is
// sigmoid(a) (sigmoid(b) c - 1) + 2, a the sum of the projection's first four values, b of its last four, c the head's
// constant. How gate and table enter the scores is in attention.cu.
//
// Backward: with s = sigmoid, da = d (s(b) c - 1) s(a) (1 - s(a)), db = d s(a) c s(b) (1 - s(b)), dc = Σ_rows d s(a) s(b).
#include "common.cuh"

__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

// The gate's two factors.
__device__ __forceinline__ void gate_factors(const float* projection, float& a, float& b) {
    a = sigmoid(projection[0] + projection[1] + projection[2] + projection[3]);
    b = sigmoid(projection[4] + projection[5] + projection[6] + projection[7]);
}

// projection [frames, heads, 8] to gate [heads, frames]. Grid: ceil(frames · heads / 256).
KERNEL __launch_bounds__(256)
relative_gate_forward(const float* __restrict__ projection, const float* __restrict__ constant,
                      float* __restrict__ gate, int frames, int heads) {
    const int index = blockIdx.x * 256 + threadIdx.x;
    if (index >= frames * heads) return;
    const int frame = index / heads, head = index % heads;
    float a, b;
    gate_factors(projection + 8LL * index, a, b);
    gate[(long long)head * frames + frame] = a * (b * constant[head] - 1.0f) + 2.0f;
}

// dprojection = ..., and dconstant += ... where it is not null. A block a head, for the sum over its rows. Grid: heads.
KERNEL __launch_bounds__(256)
relative_gate_backward(const float* __restrict__ projection, const float* __restrict__ constant,
                       const float* __restrict__ dgate, float* __restrict__ dprojection, float* OPTIONAL dconstant,
                       int frames, int heads) {
    __shared__ double partial[8];
    const int head = blockIdx.x;
    const float c = constant[head];
    double sum = 0.0;
    for (int frame = threadIdx.x; frame < frames; frame += 256) {
        const long long at = 8 * ((long long)frame * heads + head);
        const float d = dgate[(long long)head * frames + frame];
        float a, b;
        gate_factors(projection + at, a, b);
        const float da = d * (b * c - 1.0f) * a * (1.0f - a), db = d * a * c * b * (1.0f - b);
        for (int index = 0; index < 4; index++) {
            dprojection[at + index] = da;
            dprojection[at + 4 + index] = db;
        }
        sum += d * a * b;
    }
    sum = block_sum<8>(sum, partial);
    if (dconstant && threadIdx.x == 0) dconstant[head] += (float)sum;
}

// table[h, d] = embedding[buckets[d], h]. Grid: ceil(heads · distances / 256).
KERNEL __launch_bounds__(256)
relative_table_forward(const unsigned* __restrict__ buckets, const float* __restrict__ embedding,
                       float* __restrict__ table, int heads, int distances) {
    const int index = blockIdx.x * 256 + threadIdx.x;
    if (index >= heads * distances) return;
    const int head = index / distances, distance = index % distances;
    table[index] = embedding[(long long)buckets[distance] * heads + head];
}

// dembedding[b, h] += Σ dtable[h, d] over the distances d of bucket b. A warp a bucket and head, in a fixed order; the
// table is small. Grid: ceil(buckets · heads / 8).
KERNEL __launch_bounds__(256)
relative_table_backward(const unsigned* __restrict__ buckets, const float* __restrict__ dtable,
                        float* __restrict__ dembedding, int bucket_count, int heads, int distances) {
    const int index = blockIdx.x * 8 + (threadIdx.x >> 5), lane = threadIdx.x & 31;
    if (index >= bucket_count * heads) return;
    const unsigned bucket = index / heads;
    const int head = index % heads;
    float sum = 0.0f;
    for (int distance = lane; distance < distances; distance += 32) {
        if (buckets[distance] == bucket) sum += dtable[(long long)head * distances + distance];
    }
    sum = warp_sum(sum);
    if (lane == 0) dembedding[index] += sum;
}
