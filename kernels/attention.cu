// Softmax attention, softmax(s Q Kᵀ + bias) V per head, fused: a block holds a tile of rows in shared memory and goes
// through the other side tile by tile, so memory is linear in T (Dao et al. 2022). qkv is [T, 3, heads, head_dim], out
// [T, heads, head_dim], log_sum_exp [heads, T]. WavLM's relative bias adds gate[i] table[j - i] to row i's score for j.
//
// Forward keeps a running maximum and sum a row. Backward, from the scores made again: P = exp(S - log_sum_exp),
// D_i = Σ_d dO_id O_id, dP = dO Vᵀ, dS = P (dP - D); dV = Pᵀ dO, dK = s dSᵀ Q, dQ = s dS K; dgate_i = Σ_j dS_ij
// table[j - i], dtable[d] = Σ_i gate_i dS_i,i+d. One kernel sums over queries (dK, dV), one over keys (dQ, dgate,
// dtable): the scores are made three times in all, but nothing is added to from two blocks, save dtable.
//
// With `starts`, T rows are those of several utterances, a grid layer each: rows look at their own utterance's alone, and
// log_sum_exp, terms and gate are [heads, its rows] behind each other. No row looks at padding, and what would be written
// for it is 0. (A relative bias is for a single utterance.)
//
// 128 threads: sixteen across (tx), eight down (ty). A thread has rows ty + 8 a and columns tx + 16 b of a product. A
// tile's rows are `dims` + 1 apart in shared memory, so that sixteen neighbouring rows lie in different banks. Head
// sizes below `dims` are filled up with zeros.
#include "common.cuh"

// Four blocks a multiprocessor: up to 128 registers a thread.
#define THREADS 128
#define OWN 32

// A tile [count, head_dim] from rows `stride` apart in global memory, the first being `first`; zeros outside.
template <int dims>
__device__ __forceinline__ void load_tile(float* tile, const float* from, int stride, int first, int count, int frames,
                                          int head_dim) {
    for (int index = threadIdx.x; index < count * dims; index += THREADS) {
        const int row = index / dims, d = index % dims;
        const bool inside = first + row < frames && d < head_dim;
        tile[row * (dims + 1) + d] = inside ? from[(long long)(first + row) * stride + d] : 0.0f;
    }
}

// sum[a][b] = Σ_d x[row a][d] y[row b][d]
template <int dims, int wide>
__device__ __forceinline__ void rows_by_rows(const float* x, const float* y, float (&sum)[4][wide]) {
    const int tx = threadIdx.x & 15, ty = threadIdx.x >> 4;
#pragma unroll
    for (int a = 0; a < 4; a++) {
#pragma unroll
        for (int b = 0; b < wide; b++) sum[a][b] = 0.0f;
    }
#pragma unroll 8
    for (int d = 0; d < dims; d++) {
        float left[4], right[wide];
#pragma unroll
        for (int a = 0; a < 4; a++) left[a] = x[(ty + 8 * a) * (dims + 1) + d];
#pragma unroll
        for (int b = 0; b < wide; b++) right[b] = y[(tx + 16 * b) * (dims + 1) + d];
#pragma unroll
        for (int a = 0; a < 4; a++) {
#pragma unroll
            for (int b = 0; b < wide; b++) sum[a][b] += left[a] * right[b];
        }
    }
}

// sum[a][b] += Σ_j p[row a][j] y[j][d of b]; p [32, count] without padding.
template <int dims, int count>
__device__ __forceinline__ void add_weighted_rows(const float* p, const float* y, float (&sum)[4][dims / 16]) {
    const int tx = threadIdx.x & 15, ty = threadIdx.x >> 4;
#pragma unroll 4
    for (int j = 0; j < count; j++) {
        float left[4], right[dims / 16];
#pragma unroll
        for (int a = 0; a < 4; a++) left[a] = p[(ty + 8 * a) * count + j];
#pragma unroll
        for (int b = 0; b < dims / 16; b++) right[b] = y[j * (dims + 1) + tx + 16 * b];
#pragma unroll
        for (int a = 0; a < 4; a++) {
#pragma unroll
            for (int b = 0; b < dims / 16; b++) sum[a][b] += left[a] * right[b];
        }
    }
}

// Shared memory: Q [32, dims + 1], K or V [other, dims + 1], P [32, other].
template <int dims, int other>
__device__ __forceinline__ void forward(float* memory, const float* qkv, const float* gate, const float* table,
                                        const unsigned* starts, float* out, float* log_sum_exp, int rows, int heads,
                                        int head_dim, float scale) {
    float* q = memory;
    float* kv = q + OWN * (dims + 1);
    float* p = kv + other * (dims + 1);
    const int tx = threadIdx.x & 15, ty = threadIdx.x >> 4, first = blockIdx.x * OWN, head = blockIdx.y;
    const int width = heads * head_dim, stride = 3 * width;
    const Span span = span_of(starts, blockIdx.z, gridDim.z, rows);
    const int frames = span.rows, all = span.all;
    qkv += (long long)span.first * stride + head * head_dim;
    out += (long long)span.first * width;
    log_sum_exp += (long long)span.first * heads;
    load_tile<dims>(q, qkv, stride, first, OWN, frames, head_dim);
    float highest[4], total[4], sum[4][dims / 16] = {};
#pragma unroll
    for (int a = 0; a < 4; a++) {
        highest[a] = MINUS_INFINITY;
        total[a] = 0.0f;
    }
    for (int key = 0; first < frames && key < frames; key += other) {
        __syncthreads();
        load_tile<dims>(kv, qkv + width, stride, key, other, frames, head_dim);
        __syncthreads();
        float score[4][other / 16];
        rows_by_rows<dims, other / 16>(q, kv, score);
#pragma unroll
        for (int a = 0; a < 4; a++) {
            const int row = first + ty + 8 * a;
            float best = MINUS_INFINITY;
#pragma unroll
            for (int b = 0; b < other / 16; b++) {
                const int col = key + tx + 16 * b;
                score[a][b] *= scale;
                if (gate && row < frames && col < frames) {
                    score[a][b] += gate[(long long)head * all + row] *
                                   table[(long long)head * (2 * all - 1) + col - row + all - 1];
                }
                if (col >= frames) score[a][b] = MINUS_INFINITY;
                best = fmaxf(best, score[a][b]);
            }
            // Column `key` is always inside, so `best` is finite.
            best = fmaxf(half_warp_max(best), highest[a]);
            const float shrink = expf(highest[a] - best);
            float row_sum = 0.0f;
#pragma unroll
            for (int b = 0; b < other / 16; b++) {
                const float probability = expf(score[a][b] - best);
                row_sum += probability;
                p[(ty + 8 * a) * other + tx + 16 * b] = probability;
            }
            highest[a] = best;
            total[a] = total[a] * shrink + half_warp_sum(row_sum);
#pragma unroll
            for (int b = 0; b < dims / 16; b++) sum[a][b] *= shrink;
        }
        __syncthreads();
        load_tile<dims>(kv, qkv + 2 * width, stride, key, other, frames, head_dim);
        __syncthreads();
        add_weighted_rows<dims, other>(p, kv, sum);
    }
#pragma unroll
    for (int a = 0; a < 4; a++) {
        const int row = first + ty + 8 * a;
        if (row >= all) continue;
        if (tx == 0) log_sum_exp[(long long)head * all + row] = row < frames ? highest[a] + logf(total[a]) : 0.0f;
#pragma unroll
        for (int b = 0; b < dims / 16; b++) {
            const int d = tx + 16 * b;
            if (d < head_dim) {
                out[(long long)row * width + head * head_dim + d] = row < frames ? sum[a][b] / total[a] : 0.0f;
            }
        }
    }
}

// Grid: (ceil(longest / 32), heads, utterances). Dynamic shared memory for head sizes up to 64: (32 + 64) · 65 + 32 · 64 values (33 KB).
KERNEL __launch_bounds__(THREADS, 4)
attention_forward_64(const float* __restrict__ qkv, const float* OPTIONAL gate, const float* OPTIONAL table,
                     const unsigned* OPTIONAL starts, float* __restrict__ out, float* __restrict__ log_sum_exp,
                     int frames, int heads, int head_dim, float scale) {
    DYNAMIC_SHARED(float, memory);
    forward<64, 64>(memory, qkv, gate, table, starts, out, log_sum_exp, frames, heads, head_dim, scale);
}

// Head sizes up to 128. Grid: (ceil(longest / 32), heads, utterances). Dynamic shared memory: (32 + 32) · 129 + 32 · 32 values (37 KB).
KERNEL __launch_bounds__(THREADS, 4)
attention_forward_128(const float* __restrict__ qkv, const float* OPTIONAL gate, const float* OPTIONAL table,
                      const unsigned* OPTIONAL starts, float* __restrict__ out, float* __restrict__ log_sum_exp,
                      int frames, int heads, int head_dim, float scale) {
    DYNAMIC_SHARED(float, memory);
    forward<128, 32>(memory, qkv, gate, table, starts, out, log_sum_exp, frames, heads, head_dim, scale);
}

// D [heads, T]. A warp a row and head. Grid: (ceil(longest · heads / 4), 1, utterances).
KERNEL __launch_bounds__(THREADS)
attention_row_terms(const float* __restrict__ out, const float* __restrict__ dout, const unsigned* OPTIONAL starts,
                    float* __restrict__ terms, int rows, int heads, int head_dim) {
    const int index = blockIdx.x * 4 + (threadIdx.x >> 5), lane = threadIdx.x & 31;
    const Span span = span_of(starts, blockIdx.z, gridDim.z, rows);
    const int frames = span.all;
    if (index >= frames * heads) return;
    out += (long long)span.first * heads * head_dim;
    dout += (long long)span.first * heads * head_dim;
    terms += (long long)span.first * heads;
    float sum = 0.0f;
    for (int d = lane; d < head_dim; d += 32) sum += out[(long long)index * head_dim + d] * dout[(long long)index * head_dim + d];
    sum = warp_sum(sum);
    if (lane == 0) terms[(long long)(index % heads) * frames + index / heads] = sum;
}

// A block has 32 keys and goes through the queries. Shared memory: K, V [32, dims + 1], Q, dO [other, dims + 1], Pᵀ or
// dSᵀ [32, other].
template <int dims, int other>
__device__ __forceinline__ void backward_keys(float* memory, const float* qkv, const float* gate, const float* table,
                                              const unsigned* starts, const float* log_sum_exp, const float* terms,
                                              const float* dout, float* dqkv, int rows, int heads, int head_dim,
                                              float scale) {
    float* k = memory;
    float* v = k + OWN * (dims + 1);
    float* q = v + OWN * (dims + 1);
    float* dout_tile = q + other * (dims + 1);
    float* p = dout_tile + other * (dims + 1);
    const int tx = threadIdx.x & 15, ty = threadIdx.x >> 4, first = blockIdx.x * OWN, head = blockIdx.y;
    const int width = heads * head_dim, stride = 3 * width;
    const Span span = span_of(starts, blockIdx.z, gridDim.z, rows);
    const int frames = span.rows, all = span.all;
    qkv += (long long)span.first * stride + head * head_dim;
    dqkv += (long long)span.first * stride + head * head_dim;
    dout += (long long)span.first * width;
    log_sum_exp += (long long)span.first * heads;
    terms += (long long)span.first * heads;
    load_tile<dims>(k, qkv + width, stride, first, OWN, frames, head_dim);
    load_tile<dims>(v, qkv + 2 * width, stride, first, OWN, frames, head_dim);
    float dk[4][dims / 16] = {}, dv[4][dims / 16] = {};
    for (int query = 0; first < frames && query < frames; query += other) {
        __syncthreads();
        load_tile<dims>(q, qkv, stride, query, other, frames, head_dim);
        load_tile<dims>(dout_tile, dout + head * head_dim, width, query, other, frames, head_dim);
        __syncthreads();
        float probability[4][other / 16], d[4][other / 16];
        rows_by_rows<dims, other / 16>(k, q, probability);
        rows_by_rows<dims, other / 16>(v, dout_tile, d);
#pragma unroll
        for (int b = 0; b < other / 16; b++) {
            const int row = query + tx + 16 * b;
            const bool in_time = row < frames;
            const long long at = (long long)head * all + row;
            const float lse = in_time ? log_sum_exp[at] : 0.0f, term = in_time ? terms[at] : 0.0f;
            const float row_gate = gate && in_time ? gate[at] : 0.0f;
#pragma unroll
            for (int a = 0; a < 4; a++) {
                const int col = first + ty + 8 * a;
                const bool inside = in_time && col < frames;
                float score = probability[a][b] * scale;
                if (gate && inside) {
                    score += row_gate * table[(long long)head * (2 * all - 1) + col - row + all - 1];
                }
                probability[a][b] = inside ? expf(score - lse) : 0.0f;
                d[a][b] = probability[a][b] * (d[a][b] - term);
                p[(ty + 8 * a) * other + tx + 16 * b] = probability[a][b];
            }
        }
        __syncthreads();
        add_weighted_rows<dims, other>(p, dout_tile, dv);
        __syncthreads();
#pragma unroll
        for (int a = 0; a < 4; a++) {
#pragma unroll
            for (int b = 0; b < other / 16; b++) p[(ty + 8 * a) * other + tx + 16 * b] = d[a][b];
        }
        __syncthreads();
        add_weighted_rows<dims, other>(p, q, dk);
    }
#pragma unroll
    for (int a = 0; a < 4; a++) {
        const int row = first + ty + 8 * a;
#pragma unroll
        for (int b = 0; b < dims / 16; b++) {
            const int d = tx + 16 * b;
            if (row < all && d < head_dim) {
                // A padded key's sums are 0: no query has given it any weight.
                dqkv[(long long)row * stride + width + d] = scale * dk[a][b];
                dqkv[(long long)row * stride + 2 * width + d] = dv[a][b];
            }
        }
    }
}

// A block has 32 queries and goes through the keys. Shared memory: Q, dO [32, dims + 1], K, V [other, dims + 1], dS
// [32, other].
template <int dims, int other>
__device__ __forceinline__ void backward_queries(float* memory, const float* qkv, const float* gate, const float* table,
                                                 const unsigned* starts, const float* log_sum_exp,
                                                 const float* terms, const float* dout, float* dqkv, float* dgate,
                                                 float* dtable, int rows, int heads, int head_dim, float scale) {
    float* q = memory;
    float* dout_tile = q + OWN * (dims + 1);
    float* k = dout_tile + OWN * (dims + 1);
    float* v = k + other * (dims + 1);
    float* p = v + other * (dims + 1);
    const int tx = threadIdx.x & 15, ty = threadIdx.x >> 4, first = blockIdx.x * OWN, head = blockIdx.y;
    const int width = heads * head_dim, stride = 3 * width;
    const Span span = span_of(starts, blockIdx.z, gridDim.z, rows);
    const int frames = span.rows, all = span.all, distances = 2 * all - 1;
    qkv += (long long)span.first * stride + head * head_dim;
    dqkv += (long long)span.first * stride;
    dout += (long long)span.first * width;
    log_sum_exp += (long long)span.first * heads;
    terms += (long long)span.first * heads;
    load_tile<dims>(q, qkv, stride, first, OWN, frames, head_dim);
    load_tile<dims>(dout_tile, dout + head * head_dim, width, first, OWN, frames, head_dim);
    float lse[4], term[4], row_gate[4], gate_sum[4], dq[4][dims / 16] = {};
#pragma unroll
    for (int a = 0; a < 4; a++) {
        const int row = first + ty + 8 * a;
        const long long at = (long long)head * all + row;
        lse[a] = row < frames ? log_sum_exp[at] : 0.0f;
        term[a] = row < frames ? terms[at] : 0.0f;
        row_gate[a] = gate && row < frames ? gate[at] : 0.0f;
        gate_sum[a] = 0.0f;
    }
    for (int key = 0; first < frames && key < frames; key += other) {
        __syncthreads();
        load_tile<dims>(k, qkv + width, stride, key, other, frames, head_dim);
        load_tile<dims>(v, qkv + 2 * width, stride, key, other, frames, head_dim);
        __syncthreads();
        float score[4][other / 16], d[4][other / 16];
        rows_by_rows<dims, other / 16>(q, k, score);
        rows_by_rows<dims, other / 16>(dout_tile, v, d);
#pragma unroll
        for (int a = 0; a < 4; a++) {
            const int row = first + ty + 8 * a;
#pragma unroll
            for (int b = 0; b < other / 16; b++) {
                const int col = key + tx + 16 * b;
                const bool inside = row < frames && col < frames;
                float s = score[a][b] * scale, distance = 0.0f;
                if (gate && inside) {
                    distance = table[(long long)head * distances + col - row + all - 1];
                    s += row_gate[a] * distance;
                }
                const float ds = inside ? expf(s - lse[a]) * (d[a][b] - term[a]) : 0.0f;
                gate_sum[a] += ds * distance;
                p[(ty + 8 * a) * other + tx + 16 * b] = ds;
            }
        }
        __syncthreads();
        add_weighted_rows<dims, other>(p, k, dq);
        if (dtable) {
            // A thread a diagonal of the tile; other tiles add to the same distance.
            for (int diagonal = threadIdx.x; diagonal < OWN + other - 1; diagonal += THREADS) {
                float sum = 0.0f;
                for (int r = 0; r < OWN; r++) {
                    const int c = r + diagonal - (OWN - 1);
                    if (c >= 0 && c < other && first + r < frames && key + c < frames) {
                        sum += gate[(long long)head * all + first + r] * p[r * other + c];
                    }
                }
                const int distance = key - first + diagonal - (OWN - 1) + all - 1;
                if (distance >= 0 && distance < distances) {
                    atomicAdd(dtable + (long long)head * distances + distance, sum);
                }
            }
        }
    }
#pragma unroll
    for (int a = 0; a < 4; a++) {
        const int row = first + ty + 8 * a;
        const float sum = half_warp_sum(gate_sum[a]);
        if (dgate && tx == 0 && row < all) dgate[(long long)head * all + row] = sum;
#pragma unroll
        for (int b = 0; b < dims / 16; b++) {
            const int d = tx + 16 * b;
            if (row < all && d < head_dim) {
                dqkv[(long long)row * stride + head * head_dim + d] = scale * dq[a][b];
            }
        }
    }
}

// dK and dV. Grid: (ceil(longest / 32), heads, utterances). Dynamic shared memory for head sizes up to 64: 4 · 32 · 65 + 32 · 32 values
// (37 KB).
KERNEL __launch_bounds__(THREADS, 4)
attention_backward_keys_64(const float* __restrict__ qkv, const float* OPTIONAL gate, const float* OPTIONAL table,
                           const unsigned* OPTIONAL starts, const float* __restrict__ log_sum_exp,
                           const float* __restrict__ terms, const float* __restrict__ dout, float* __restrict__ dqkv, int frames,
                           int heads, int head_dim, float scale) {
    DYNAMIC_SHARED(float, memory);
    backward_keys<64, 32>(memory, qkv, gate, table, starts, log_sum_exp, terms, dout, dqkv, frames, heads, head_dim,
                          scale);
}

// Head sizes up to 128. Grid: (ceil(longest / 32), heads, utterances). Dynamic shared memory: 4 · 32 · 129 + 32 · 32 values (70 KB).
KERNEL __launch_bounds__(THREADS, 4)
attention_backward_keys_128(const float* __restrict__ qkv, const float* OPTIONAL gate, const float* OPTIONAL table,
                            const unsigned* OPTIONAL starts, const float* __restrict__ log_sum_exp,
                            const float* __restrict__ terms, const float* __restrict__ dout, float* __restrict__ dqkv, int frames,
                            int heads, int head_dim, float scale) {
    DYNAMIC_SHARED(float, memory);
    backward_keys<128, 32>(memory, qkv, gate, table, starts, log_sum_exp, terms, dout, dqkv, frames, heads, head_dim,
                          scale);
}

// dQ, and the relative bias's gradients: dgate is written, dtable accumulated where it is not null. Grid:
// (ceil(longest / 32), heads, utterances). Dynamic shared memory for head sizes up to 64: 4 · 32 · 65 + 32 · 32 values (37 KB).
KERNEL __launch_bounds__(THREADS, 4)
attention_backward_queries_64(const float* __restrict__ qkv, const float* OPTIONAL gate, const float* OPTIONAL table,
                              const unsigned* OPTIONAL starts, const float* __restrict__ log_sum_exp,
                              const float* __restrict__ terms, const float* __restrict__ dout, float* __restrict__ dqkv,
                              float* OPTIONAL dgate, float* OPTIONAL dtable, int frames, int heads, int head_dim,
                              float scale) {
    DYNAMIC_SHARED(float, memory);
    backward_queries<64, 32>(memory, qkv, gate, table, starts, log_sum_exp, terms, dout, dqkv, dgate, dtable, frames, heads,
                             head_dim, scale);
}

// Head sizes up to 128. Grid: (ceil(longest / 32), heads, utterances). Dynamic shared memory: 4 · 32 · 129 + 32 · 32 values (70 KB).
KERNEL __launch_bounds__(THREADS, 4)
attention_backward_queries_128(const float* __restrict__ qkv, const float* OPTIONAL gate, const float* OPTIONAL table,
                               const unsigned* OPTIONAL starts, const float* __restrict__ log_sum_exp,
                               const float* __restrict__ terms, const float* __restrict__ dout, float* __restrict__ dqkv,
                               float* OPTIONAL dgate, float* OPTIONAL dtable, int frames, int heads, int head_dim,
                               float scale) {
    DYNAMIC_SHARED(float, memory);
    backward_queries<128, 32>(memory, qkv, gate, table, starts, log_sum_exp, terms, dout, dqkv, dgate, dtable, frames, heads,
                             head_dim, scale);
}
