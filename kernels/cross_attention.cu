// Softmax attention of some rows to others, softmax(s Q Kᵀ) V per head: a decoder's to the encoder's output, and to its own
// past. q is [queries, heads, head_dim], kv [keys, 2, heads, head_dim], out as q, log_sum_exp [heads, queries]. With
// `causal`, query i sees the keys 0 ..= keys - queries + i.
//
// A step of decoding has one query or a few and up to 1500 keys, so a block has one query of one head, and each of its
// warps goes through every eighth key: a warp a key, its lanes side by side along the head. Forward, a warp keeps a running
// maximum m, a sum l of e^(score - m) and the sum of e^(score - m) V; in the end the warps' are joined: M = max m,
// out = Σ_w e^(m_w - M) sum_w / Σ_w e^(m_w - M) l_w. All warps take equally many turns, since their lanes must stay
// together; whose key is beyond the last looks at the last, which counts for nothing.
//
// Backward, from the scores made again: P = exp(S - log_sum_exp), D_i = Σ_d dO_id O_id (attention_row_terms), dP = dO Vᵀ,
// dS = P (dP - D); dQ = s dS K, a block a query; dK = s dSᵀ Q and dV = Pᵀ dO, a block a key, so that nothing is added to
// from two blocks and sums have a fixed order.
//
// Heads have up to 128 values: four a lane.
#include "common.cuh"

#define WARPS 8
#define MOST 128
#define EACH (MOST / 32)

__device__ __forceinline__ void load_row(float (&to)[EACH], const float* from, int head_dim) {
    const int lane = threadIdx.x & 31;
#pragma unroll
    for (int j = 0; j < EACH; j++) to[j] = lane + 32 * j < head_dim ? from[lane + 32 * j] : 0.0f;
}

__device__ __forceinline__ float product(const float (&x)[EACH], const float (&y)[EACH]) {
    float sum = 0.0f;
#pragma unroll
    for (int j = 0; j < EACH; j++) sum += x[j] * y[j];
    return warp_sum(sum);
}

__device__ __forceinline__ void add_scaled(float (&to)[EACH], float factor, const float (&from)[EACH]) {
#pragma unroll
    for (int j = 0; j < EACH; j++) to[j] += factor * from[j];
}

__device__ __forceinline__ void keep_row(float* to, const float (&from)[EACH]) {
    const int lane = threadIdx.x & 31;
#pragma unroll
    for (int j = 0; j < EACH; j++) to[lane + 32 * j] = from[j];
}

__device__ __forceinline__ int keys_seen(int query, int queries, int keys, int causal) {
    return causal ? keys - queries + query + 1 : keys;
}

// Grid: (queries, heads).
KERNEL __launch_bounds__(256)
cross_attention_forward(const float* __restrict__ q, const float* __restrict__ kv, float* __restrict__ out,
                        float* __restrict__ log_sum_exp, int queries, int keys, int heads, int head_dim, int causal,
                        float scale) {
    __shared__ float highest[WARPS], totals[WARPS], sums[WARPS][MOST];
    const int warp = threadIdx.x >> 5, query = blockIdx.x, head = blockIdx.y;
    const int width = heads * head_dim, seen = keys_seen(query, queries, keys, causal);
    const long long place = (long long)query * width + head * head_dim;
    kv += head * head_dim;
    float own[EACH], sum[EACH] = {}, most = MINUS_INFINITY, total = 0.0f;
    load_row(own, q + place, head_dim);
#pragma unroll 4
    for (int turn = 0; turn < seen; turn += WARPS) {
        const bool counts = turn + warp < seen;
        const int key = counts ? turn + warp : seen - 1;
        float k[EACH], v[EACH];
        load_row(k, kv + 2 * (long long)key * width, head_dim);
        load_row(v, kv + (2 * (long long)key + 1) * width, head_dim);
        const float score = scale * product(own, k), best = counts ? fmaxf(most, score) : most;
        // Two infinities have no difference.
        const float shrink = most == best ? 1.0f : expf(most - best), probability = counts ? expf(score - best) : 0.0f;
        most = best;
        total = total * shrink + probability;
#pragma unroll
        for (int j = 0; j < EACH; j++) sum[j] = sum[j] * shrink + probability * v[j];
    }
    keep_row(sums[warp], sum);
    if ((threadIdx.x & 31) == 0) {
        highest[warp] = most;
        totals[warp] = total;
    }
    __syncthreads();
    // The first warp saw a key, so `best` is finite; one that saw none counts for nothing.
    float best = MINUS_INFINITY, all = 0.0f;
    for (int other = 0; other < WARPS; other++) best = fmaxf(best, highest[other]);
    for (int other = 0; other < WARPS; other++) all += totals[other] * expf(highest[other] - best);
    const int d = threadIdx.x;
    if (d < head_dim) {
        float value = 0.0f;
        for (int other = 0; other < WARPS; other++) value += sums[other][d] * expf(highest[other] - best);
        out[place + d] = value / all;
    }
    if (d == 0) log_sum_exp[(long long)head * queries + query] = best + logf(all);
}

// dq = ...; `terms` is D, [heads, queries]. Grid: (queries, heads).
KERNEL __launch_bounds__(256)
cross_attention_backward_queries(const float* __restrict__ q, const float* __restrict__ kv,
                                 const float* __restrict__ log_sum_exp, const float* __restrict__ terms,
                                 const float* __restrict__ dout, float* __restrict__ dq, int queries, int keys, int heads,
                                 int head_dim, int causal, float scale) {
    __shared__ float sums[WARPS][MOST];
    const int warp = threadIdx.x >> 5, query = blockIdx.x, head = blockIdx.y;
    const int width = heads * head_dim, seen = keys_seen(query, queries, keys, causal);
    const long long place = (long long)query * width + head * head_dim, row = (long long)head * queries + query;
    const float saved = log_sum_exp[row], term = terms[row];
    kv += head * head_dim;
    float own[EACH], down[EACH], sum[EACH] = {};
    load_row(own, q + place, head_dim);
    load_row(down, dout + place, head_dim);
#pragma unroll 4
    for (int turn = 0; turn < seen; turn += WARPS) {
        const bool counts = turn + warp < seen;
        const int key = counts ? turn + warp : seen - 1;
        float k[EACH], v[EACH];
        load_row(k, kv + 2 * (long long)key * width, head_dim);
        load_row(v, kv + (2 * (long long)key + 1) * width, head_dim);
        const float score = scale * product(own, k), probability = counts ? expf(score - saved) : 0.0f;
        add_scaled(sum, scale * probability * (product(down, v) - term), k);
    }
    keep_row(sums[warp], sum);
    __syncthreads();
    const int d = threadIdx.x;
    if (d < head_dim) {
        float value = 0.0f;
        for (int other = 0; other < WARPS; other++) value += sums[other][d];
        dq[place + d] = value;
    }
}

// dkv = ..., zeros for a key that nobody sees. Grid: (keys, heads).
KERNEL __launch_bounds__(256)
cross_attention_backward_keys(const float* __restrict__ q, const float* __restrict__ kv,
                              const float* __restrict__ log_sum_exp, const float* __restrict__ terms,
                              const float* __restrict__ dout, float* __restrict__ dkv, int queries, int keys, int heads,
                              int head_dim, int causal, float scale) {
    __shared__ float dk_sums[WARPS][MOST], dv_sums[WARPS][MOST];
    const int warp = threadIdx.x >> 5, key = blockIdx.x, head = blockIdx.y, width = heads * head_dim;
    // The first query that sees the key.
    const int first = causal ? max(0, key - (keys - queries)) : 0;
    const long long place = 2 * (long long)key * width + head * head_dim;
    q += head * head_dim;
    dout += head * head_dim;
    float k[EACH], v[EACH], dk[EACH] = {}, dv[EACH] = {};
    load_row(k, kv + place, head_dim);
    load_row(v, kv + place + width, head_dim);
#pragma unroll 4
    for (int turn = first; turn < queries; turn += WARPS) {
        const bool counts = turn + warp < queries;
        const int query = counts ? turn + warp : queries - 1;
        const long long row = (long long)head * queries + query;
        float own[EACH], down[EACH];
        load_row(own, q + (long long)query * width, head_dim);
        load_row(down, dout + (long long)query * width, head_dim);
        const float score = scale * product(own, k), probability = counts ? expf(score - log_sum_exp[row]) : 0.0f;
        add_scaled(dk, scale * probability * (product(down, v) - terms[row]), own);
        add_scaled(dv, probability, down);
    }
    keep_row(dk_sums[warp], dk);
    keep_row(dv_sums[warp], dv);
    __syncthreads();
    const int d = threadIdx.x;
    if (d < head_dim) {
        float to_k = 0.0f, to_v = 0.0f;
        for (int other = 0; other < WARPS; other++) {
            to_k += dk_sums[other][d];
            to_v += dv_sums[other][d];
        }
        dkv[place + d] = to_k;
        dkv[place + width + d] = to_v;
    }
}
