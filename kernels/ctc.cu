// The pseudo-label objective: CTC (Graves et al. 2006) of a target over the softmax of the logits [T, V], divided by the
// target's length L, and its gradient. In the log domain and f64: what is compared are sums over very many paths.
//
// The target with a blank before, between and after its symbols has S = 2 L + 1 states; state s is the blank where s is
// even, else symbol (s - 1) / 2. With lp_t(s) the log-probability of s's symbol at frame t, and a blank between two
// different symbols that may be skipped:
//   α_t(s) = lp_t(s) + log(Σ exp α_{t-1}(s'), s' in {s, s-1, s-2 where s may be reached by a skip})
//   β_t(s) = log(Σ exp (β_{t+1}(s') + lp_{t+1}(s')), s' in {s, s+1, s+2 where that may be reached by a skip})
//   log p = log(exp α_T(S-1) + exp α_T(S-2));  occupancy_t(v) = Σ_{s of v} exp(α_t(s) + β_t(s) - log p)
//   ∂loss/∂z = (softmax(z) Σ occupancy - occupancy) / L, the sum over what the softmax runs over: a frame's symbols (where
// it is 1), or, as SUTA's published code has it (`over_time`), a symbol's frames.
#include "common.cuh"

#define NEVER __longlong_as_double(0xfff0000000000000LL)

__device__ __forceinline__ double log_add(double a, double b) {
    const double high = a > b ? a : b, low = a > b ? b : a;
    return high == NEVER ? high : high + log1p(exp(low - high));
}

__device__ __forceinline__ double warp_max(double value) {
#pragma unroll
    for (int offset = 16; offset > 0; offset >>= 1) {
        const double other = __shfl_xor_sync(ALL_LANES, value, offset);
        value = other > value ? other : value;
    }
    return value;
}

// A group is what one softmax runs over: a frame, or (`over_time`) a symbol's frames.
struct Group {
    long long first, stride;
    int count;
};
__device__ __forceinline__ Group group(int index, int frames, int classes, int over_time) {
    if (over_time) return {index, classes, frames};
    return {(long long)index * classes, 1, classes};
}

// log_probabilities [T, V] of the logits. A warp a group. Grid: ceil(groups / 4).
KERNEL __launch_bounds__(128)
ctc_log_softmax(const float* __restrict__ logits, double* __restrict__ log_probabilities, int frames, int classes,
                int over_time) {
    const int index = blockIdx.x * 4 + (threadIdx.x >> 5), lane = threadIdx.x & 31;
    if (index >= (over_time ? classes : frames)) return;
    const Group own = group(index, frames, classes, over_time);
    double highest = NEVER;
#pragma unroll 1
    for (int k = lane; k < own.count; k += 32) {
        const double z = logits[own.first + k * own.stride];
        highest = z > highest ? z : highest;
    }
    highest = warp_max(highest);
    double sum = 0.0;
#pragma unroll 1
    for (int k = lane; k < own.count; k += 32) sum += exp(logits[own.first + k * own.stride] - highest);
    const double log_sum = highest + log(warp_sum(sum));
    for (int k = lane; k < own.count; k += 32) {
        log_probabilities[own.first + k * own.stride] = logits[own.first + k * own.stride] - log_sum;
    }
}

// α [T, S] by the first block, β [T, S] by the second: both go through the frames with a barrier at each. Grid: 2.
KERNEL __launch_bounds__(256)
ctc_paths(const double* __restrict__ log_probabilities, const unsigned* __restrict__ target, double* __restrict__ alpha,
          double* __restrict__ beta, int frames, int classes, int length, int blank) {
    const int states = 2 * length + 1;
    const bool backward = blockIdx.x == 1;
    double* own = backward ? beta : alpha;
    for (int step = 0; step < frames; step++) {
        const int frame = backward ? frames - 1 - step : step;
        const double* before = own + (long long)(backward ? frame + 1 : frame - 1) * states;
        const double* emission = log_probabilities + (long long)(backward ? frame + 1 : frame) * classes;
        for (int state = threadIdx.x; state < states; state += blockDim.x) {
            double value;
            if (step == 0) {
                value = backward ? (state + 2 >= states ? 0.0 : NEVER)
                                 : (state < 2 ? emission[state ? target[0] : blank] : NEVER);
            } else if (backward) {
                value = NEVER;
                for (int next = state; next < states && next <= state + 2; next++) {
                    if (next == state + 2 && !(next % 2 == 1 && target[next / 2] != target[next / 2 - 1])) continue;
                    value = log_add(value, before[next] + emission[next % 2 ? target[next / 2] : blank]);
                }
            } else {
                value = before[state];
                if (state > 0) value = log_add(value, before[state - 1]);
                if (state % 2 == 1 && state > 1 && target[state / 2] != target[state / 2 - 1]) {
                    value = log_add(value, before[state - 2]);
                }
                value += emission[state % 2 ? target[state / 2] : blank];
            }
            own[(long long)frame * states + state] = value;
        }
        __syncthreads();
    }
}

__device__ __forceinline__ double log_likelihood(const double* alpha, int frames, int states) {
    const double* end = alpha + (long long)(frames - 1) * states;
    return states > 1 ? log_add(end[states - 1], end[states - 2]) : end[0];
}

// occupancy [T, V]; all 0 where the target does not fit into the frames. A thread a frame and symbol, its states in order.
// Grid: (ceil(classes / 128), frames).
KERNEL __launch_bounds__(128)
ctc_occupancy(const double* __restrict__ alpha, const double* __restrict__ beta, const unsigned* __restrict__ target,
              double* __restrict__ occupancy, int frames, int classes, int length, int blank) {
    const int frame = blockIdx.y, symbol = blockIdx.x * 128 + threadIdx.x, states = 2 * length + 1;
    if (symbol >= classes) return;
    const double total = log_likelihood(alpha, frames, states);
    const double *a = alpha + (long long)frame * states, *b = beta + (long long)frame * states;
    double sum = 0.0;
    if (total != NEVER && symbol == blank) {
        for (int state = 0; state < states; state += 2) sum += exp(a[state] + b[state] - total);
    } else if (total != NEVER) {
        for (int place = 0; place < length; place++) {
            if (target[place] == symbol) sum += exp(a[2 * place + 1] + b[2 * place + 1] - total);
        }
    }
    occupancy[(long long)frame * classes + symbol] = sum;
}

// The gradient, and the loss into `loss` (infinite where the target does not fit, the gradient then 0). A warp a group.
// Grid: ceil(groups / 4).
KERNEL __launch_bounds__(128)
ctc_gradient(const double* __restrict__ log_probabilities, const double* __restrict__ alpha,
             const double* __restrict__ occupancy, float* __restrict__ dlogits, double* __restrict__ loss, int frames,
             int classes, int length, int over_time) {
    const int index = blockIdx.x * 4 + (threadIdx.x >> 5), lane = threadIdx.x & 31;
    if (index >= (over_time ? classes : frames)) return;
    const double divisor = length > 0 ? length : 1;
    const Group own = group(index, frames, classes, over_time);
    double sum = 0.0;
    for (int k = lane; k < own.count; k += 32) sum += occupancy[own.first + k * own.stride];
    sum = warp_sum(sum);
    for (int k = lane; k < own.count; k += 32) {
        const long long at = own.first + k * own.stride;
        dlogits[at] = (float)((exp(log_probabilities[at]) * sum - occupancy[at]) / divisor);
    }
    if (index == 0 && lane == 0) *loss = -log_likelihood(alpha, frames, 2 * length + 1) / divisor;
}
