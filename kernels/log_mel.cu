// Whisper's log-mel frames (Radford et al. 2022): x [samples] to [frames, bands], frames = samples / 160. Frame t is the
// 400 samples from 160 t - 200 on, under a Hann window; before its start the signal is mirrored, after its end silent.
//   power_k = |Σ_n w_n x_n exp(-2πi k n / 400)|², k = 0 .. 200;  band = log10(max(Σ_k filter_k power_k, 1e-10))
//   value = (max(band, highest - 8) + 4) / 4, `highest` over all frames and bands.
//
// The transform is the sum itself, 400 terms a frequency from a table of one turn's cosines: a 10 s recording has 160
// million of them, some microseconds' work. In f64, as on the CPU: a quiet band beside a loud one is a difference of large
// sums.
#include "common.cuh"

#define WINDOW 400
#define HOP 160
#define BINS 201

// The logarithms into `out`, a frame's highest into `highest` [frames]. `cosines` [400] is a turn; `filters` [bands, 201].
// A block a frame, a thread a frequency, then a band. Grid: frames.
KERNEL __launch_bounds__(256)
log_mel_bands(const float* __restrict__ x, const double* __restrict__ cosines, const double* __restrict__ filters,
              float* __restrict__ out, float* __restrict__ highest, int samples, int bands) {
    __shared__ double turn[WINDOW], signal[WINDOW], power[BINS];
    __shared__ float tops[8];
    const int frame = blockIdx.x, start = frame * HOP - WINDOW / 2;
    for (int n = threadIdx.x; n < WINDOW; n += 256) {
        int position = start + n;
        position = position < 0 ? -position : position;
        turn[n] = cosines[n];
        signal[n] = position < samples ? (0.5 - 0.5 * cosines[n]) * x[position] : 0.0;
    }
    __syncthreads();
    if (threadIdx.x < BINS) {
        double real = 0.0, imaginary = 0.0;
        // k n modulo a turn; the sine is the cosine a quarter before.
        for (int n = 0, phase = 0; n < WINDOW; n++) {
            real += signal[n] * turn[phase];
            imaginary += signal[n] * turn[phase >= WINDOW / 4 ? phase - WINDOW / 4 : phase + 3 * WINDOW / 4];
            phase += threadIdx.x;
            if (phase >= WINDOW) phase -= WINDOW;
        }
        power[threadIdx.x] = real * real + imaginary * imaginary;
    }
    __syncthreads();
    float top = MINUS_INFINITY;
    for (int band = threadIdx.x; band < bands; band += 256) {
        double energy = 0.0;
        for (int k = 0; k < BINS; k++) energy += filters[band * BINS + k] * power[k];
        const float value = (float)log10(energy > 1e-10 ? energy : 1e-10);
        out[(long long)frame * bands + band] = value;
        top = fmaxf(top, value);
    }
#pragma unroll
    for (int offset = 16; offset > 0; offset >>= 1) top = fmaxf(top, __shfl_xor_sync(ALL_LANES, top, offset));
    if ((threadIdx.x & 31) == 0) tops[threadIdx.x >> 5] = top;
    __syncthreads();
    if (threadIdx.x == 0) {
        for (int warp = 1; warp < 8; warp++) top = fmaxf(top, tops[warp]);
        highest[frame] = top;
    }
}

// In place, the range cut and scaled; every block finds the highest of all frames anew. Grid: any.
KERNEL __launch_bounds__(256)
log_mel_scale(const float* __restrict__ highest, float* __restrict__ out, int frames, long long len) {
    __shared__ float tops[8];
    float top = MINUS_INFINITY;
    for (int frame = threadIdx.x; frame < frames; frame += 256) top = fmaxf(top, highest[frame]);
#pragma unroll
    for (int offset = 16; offset > 0; offset >>= 1) top = fmaxf(top, __shfl_xor_sync(ALL_LANES, top, offset));
    if ((threadIdx.x & 31) == 0) tops[threadIdx.x >> 5] = top;
    __syncthreads();
    for (int warp = 0; warp < 8; warp++) top = fmaxf(top, tops[warp]);
    for (long long index = (long long)blockIdx.x * blockDim.x + threadIdx.x; index < len;
         index += (long long)gridDim.x * blockDim.x) {
        out[index] = (fmaxf(out[index], top - 8.0f) + 4.0f) / 4.0f;
    }
}
