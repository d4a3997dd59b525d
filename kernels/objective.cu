// SUTA's objective (Lin, Li and Lee 2022) and its gradient in one launch; no class-confusion matrix is ever built.
//
// With u = z/T, p = softmax(u), H its entropy, N the frames whose best symbol is not blank:
//   entropy E = (1/N) Σ_{non-blank} H_t,  ∂E/∂z = -p (log p + H) / (N T) on those frames;
//   frame weights w_t ∝ 1 + exp(-H_t) with mean 1, held constant;
//   C = 1 - (1/V) Σ_j a_j / s_j,  a_j = Σ_t w_t p_tj²,  s_j = Σ_t w_t p_tj;
//   ∂C/∂p_tj = g_tj = -w_t (2 p_tj - a_j / s_j) / (s_j V),  ∂C/∂z = p (g - Σ_k p_k g_k) / T.
// A block an utterance: with `starts`, frames lie behind each other. Padding is in no sum, and its gradient is 0.
//
// Exponentials in f32, sums over frames in f64: they must not lose what tells the classes apart.
#include "common.cuh"

#define WARPS 16

// One block an utterance: T times V is a few ten thousand values. `frame_terms` [frames, 4] and `class_terms` [utterances,
// classes, 2] are scratch; `result` [utterances, 4] receives loss, E, C, N. Grid: utterances.
KERNEL __launch_bounds__(512, 1)
entropy_mcc(const float* __restrict__ logits, const unsigned* OPTIONAL starts, float* __restrict__ dlogits,
            double* __restrict__ frame_terms, double* __restrict__ class_terms, double* __restrict__ result, int rows,
            int classes, int blank, double temperature, double entropy_weight) {
    __shared__ double partial[WARPS];
    __shared__ double squares[WARPS][32], sums[WARPS][32];
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    const Span span = span_of(starts, blockIdx.x, gridDim.x, rows);
    const int frames = span.rows;
    logits += (long long)span.first * classes;
    dlogits += (long long)span.first * classes;
    frame_terms += 4 * (long long)span.first;
    class_terms += 2 * (long long)blockIdx.x * classes;
    const float inverse_temperature = (float)(1.0 / temperature);

    // A warp a frame: highest logit and where it is first, log Σ exp, entropy.
    double count = 0.0, entropies = 0.0, weights = 0.0;
    for (int frame = warp; frame < frames; frame += WARPS) {
        const float* z = logits + (long long)frame * classes;
        float highest = MINUS_INFINITY;
        int best = classes;
        for (int index = lane; index < classes; index += 32) {
            if (z[index] > highest) {
                highest = z[index];
                best = index;
            }
        }
        for (int offset = 16; offset > 0; offset >>= 1) {
            const float other = __shfl_xor_sync(ALL_LANES, highest, offset);
            const int other_best = __shfl_xor_sync(ALL_LANES, best, offset);
            if (other > highest || (other == highest && other_best < best)) {
                highest = other;
                best = other_best;
            }
        }
        double sum = 0.0, weighted = 0.0;
        for (int index = lane; index < classes; index += 32) {
            const float u = (z[index] - highest) * inverse_temperature;
            const float e = expf(u);
            sum += e;
            weighted += (double)e * u;
        }
        sum = warp_sum(sum);
        weighted = warp_sum(weighted);
        const double log_sum = log(sum), entropy = log_sum - weighted / sum;
        const double raw = 1.0 + exp(-entropy);
        const bool non_blank = best != blank;
        if (lane == 0) {
            frame_terms[4 * frame] = highest;
            frame_terms[4 * frame + 1] = log_sum;
            frame_terms[4 * frame + 2] = entropy;
            // The sign tells a blank frame.
            frame_terms[4 * frame + 3] = non_blank ? raw : -raw;
            count += non_blank ? 1.0 : 0.0;
            entropies += non_blank ? entropy : 0.0;
            weights += raw;
        }
    }
    count = block_sum<WARPS>(count, partial);
    entropies = block_sum<WARPS>(entropies, partial);
    weights = block_sum<WARPS>(weights, partial);
    const double scale = frames / weights;

    // 32 classes at a time, a warp every sixteenth frame. class_terms: a_j / s_j, and 1 / (s_j V) or 0.
    double confusion = 0.0;
    for (int first = 0; first < classes; first += 32) {
        const int index = first + lane;
        double a = 0.0, s = 0.0;
        if (index < classes) {
            for (int frame = warp; frame < frames; frame += WARPS) {
                const float u = (logits[(long long)frame * classes + index] - (float)frame_terms[4 * frame]) *
                                inverse_temperature;
                const double p = expf(u - (float)frame_terms[4 * frame + 1]);
                const double weight = fabs(frame_terms[4 * frame + 3]) * scale;
                a += weight * p * p;
                s += weight * p;
            }
        }
        squares[warp][lane] = a;
        sums[warp][lane] = s;
        __syncthreads();
        if (warp == 0 && index < classes) {
            for (int other = 1; other < WARPS; other++) {
                a += squares[other][lane];
                s += sums[other][lane];
            }
            // A class no frame gives any probability confuses nothing; its quotient's limit is 0.
            class_terms[2 * index] = s > 0.0 ? a / s : 0.0;
            class_terms[2 * index + 1] = s > 0.0 ? 1.0 / (s * classes) : 0.0;
            confusion += s > 0.0 ? a / s : 0.0;
        }
        __syncthreads();
    }
    confusion = 1.0 - block_sum<WARPS>(confusion, partial) / classes;

    const double confusion_weight = 1.0 - entropy_weight;
    const double entropy_share = count > 0.0 ? entropy_weight / (count * temperature) : 0.0;
    for (int frame = warp; frame < frames; frame += WARPS) {
        const float* z = logits + (long long)frame * classes;
        float* d = dlogits + (long long)frame * classes;
        const float highest = (float)frame_terms[4 * frame], log_sum = (float)frame_terms[4 * frame + 1];
        const double entropy = frame_terms[4 * frame + 2], weight = fabs(frame_terms[4 * frame + 3]) * scale;
        const bool non_blank = frame_terms[4 * frame + 3] > 0.0;
        double mean = 0.0;
        for (int index = lane; index < classes; index += 32) {
            const double p = expf((z[index] - highest) * inverse_temperature - log_sum);
            mean -= p * weight * (2.0 * p - class_terms[2 * index]) * class_terms[2 * index + 1];
        }
        mean = warp_sum(mean);
        for (int index = lane; index < classes; index += 32) {
            const float log_p = (z[index] - highest) * inverse_temperature - log_sum;
            const double p = expf(log_p);
            const double g = -weight * (2.0 * p - class_terms[2 * index]) * class_terms[2 * index + 1];
            double gradient = confusion_weight * p * (g - mean) / temperature;
            if (non_blank && p > 0.0) gradient -= entropy_share * p * (log_p + entropy);
            d[index] = (float)gradient;
        }
    }
    for (long long index = (long long)frames * classes + threadIdx.x; index < (long long)span.all * classes;
         index += 512) {
        dlogits[index] = 0.0f;
    }
    if (threadIdx.x == 0) {
        result += 4 * blockIdx.x;
        const double mean_entropy = count > 0.0 ? entropies / count : 0.0;
        result[0] = entropy_weight * mean_entropy + confusion_weight * confusion;
        result[1] = mean_entropy;
        result[2] = confusion;
        result[3] = count;
    }
}
