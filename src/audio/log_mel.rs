//! Whisper's input: an 80- or 128-band log-mel spectrogram (Radford et al. 2022), over the recording's true length.

use super::SAMPLE_RATE;
use realfft::{RealFftPlanner, RealToComplex};
use std::sync::Arc;

/// Samples of one analysis window.
const WINDOW: usize = 400;
/// Samples from one frame to the next: 10 ms.
pub const HOP: usize = 160;
/// Frequencies of one frame.
const BINS: usize = WINDOW / 2 + 1;

/// Computes log-mel frames; keeps its plan and buffers from call to call.
pub struct LogMel {
    fft: Arc<dyn RealToComplex<f64>>,
    window: Vec<f64>,
    filters: Vec<Filter>,
}

/// One triangular band: its weights from the bin `first` on.
struct Filter {
    first: usize,
    weights: Vec<f64>,
}

impl LogMel {
    /// A front-end of so many bands (80, or 128 for the newest Whispers).
    pub fn new(bands: usize) -> Self {
        let fft = RealFftPlanner::new().plan_fft_forward(WINDOW);
        let turn = 2.0 * std::f64::consts::PI / WINDOW as f64;
        let window = (0..WINDOW).map(|n| 0.5 - 0.5 * (turn * n as f64).cos()).collect();
        Self {
            fft,
            window,
            filters: filters(bands),
        }
    }

    /// Samples of one analysis window.
    pub const WINDOW: usize = WINDOW;

    /// For a device that computes them: the cosines of a turn in [`LogMel::WINDOW`] parts, and all bands' weights of all
    /// frequencies, `[bands, 201]`.
    pub fn tables(bands: usize) -> (Vec<f64>, Vec<f64>) {
        let turn = 2.0 * std::f64::consts::PI / WINDOW as f64;
        let cosines = (0..WINDOW).map(|n| (turn * n as f64).cos()).collect();
        let mut weights = vec![0.0; bands * BINS];
        for (filter, row) in filters(bands).iter().zip(weights.chunks_exact_mut(BINS)) {
            row[filter.first..filter.first + filter.weights.len()].copy_from_slice(&filter.weights);
        }
        (cosines, weights)
    }

    /// How many frames so many samples give.
    pub fn frames(samples: usize) -> usize {
        samples / HOP
    }

    /// Log-mel frames `[frames, bands]`, `frames = samples / 160` rounded down.
    ///
    /// The signal is reflected at its start and followed by zeros, as when Whisper pads a clip to 30 s; the dynamic
    /// range is cut 8 decades of power below the clip's own maximum.
    pub fn compute(&mut self, samples: &[f32]) -> Vec<f32> {
        let (frames, bands) = (Self::frames(samples.len()), self.filters.len());
        let mut out = Vec::with_capacity(frames * bands);
        let mut frame = self.fft.make_input_vec();
        let mut spectrum = self.fft.make_output_vec();
        let mut scratch = self.fft.make_scratch_vec();
        let mut power = [0.0f64; BINS];
        let mut highest = f64::NEG_INFINITY;
        for index in 0..frames {
            let start = (index * HOP) as isize - (WINDOW / 2) as isize;
            for (n, (value, window)) in frame.iter_mut().zip(&self.window).enumerate() {
                // Before the start the signal is mirrored (sample 0 is not repeated); after the end it is silent.
                let position = (start + n as isize).unsigned_abs();
                *value = window * samples.get(position).copied().unwrap_or(0.0) as f64;
            }
            self.fft
                .process_with_scratch(&mut frame, &mut spectrum, &mut scratch)
                .expect("the buffers were made by this plan");
            for (power, value) in power.iter_mut().zip(&spectrum) {
                *power = value.norm_sqr();
            }
            for filter in &self.filters {
                let bins = &power[filter.first..filter.first + filter.weights.len()];
                let energy: f64 = bins.iter().zip(&filter.weights).map(|(p, w)| p * w).sum();
                let log = energy.max(1e-10).log10();
                highest = highest.max(log);
                out.push(log as f32);
            }
        }
        let floor = (highest - 8.0) as f32;
        for value in &mut out {
            *value = (value.max(floor) + 4.0) / 4.0;
        }
        out
    }
}

/// Slaney's mel scale: linear below 1 kHz, logarithmic above.
fn mel_to_hz(mel: f64) -> f64 {
    if mel < 15.0 {
        mel * 200.0 / 3.0
    } else {
        1000.0 * ((mel - 15.0) * 6.4f64.ln() / 27.0).exp()
    }
}

fn hz_to_mel(hz: f64) -> f64 {
    if hz < 1000.0 {
        hz * 3.0 / 200.0
    } else {
        15.0 + (hz / 1000.0).ln() * 27.0 / 6.4f64.ln()
    }
}

/// Triangular filters from 0 Hz to half the sample rate, each of unit area.
fn filters(bands: usize) -> Vec<Filter> {
    let nyquist = SAMPLE_RATE as f64 / 2.0;
    let top = hz_to_mel(nyquist);
    let edges: Vec<f64> = (0..bands + 2)
        .map(|i| mel_to_hz(top * i as f64 / (bands + 1) as f64))
        .collect();
    let hz = |bin: usize| bin as f64 * nyquist / (BINS - 1) as f64;
    edges
        .windows(3)
        .map(|edge| {
            let weight = |bin: usize| {
                let rise = (hz(bin) - edge[0]) / (edge[1] - edge[0]);
                let fall = (edge[2] - hz(bin)) / (edge[2] - edge[1]);
                rise.min(fall).max(0.0) * 2.0 / (edge[2] - edge[0])
            };
            let inside: Vec<usize> = (0..BINS).filter(|&bin| weight(bin) > 0.0).collect();
            let first = inside.first().copied().unwrap_or(0);
            Filter {
                first,
                weights: inside.into_iter().map(weight).collect(),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_length_gives_its_frames_and_finite_values() {
        let mut log_mel = LogMel::new(80);
        for len in [0, 1, 159, 160, 161, 200, 201, 399, 400, 401, 16_000] {
            let samples: Vec<f32> = (0..len).map(|n| (n as f32 * 0.1).sin()).collect();
            let values = log_mel.compute(&samples);
            assert_eq!(values.len(), len / HOP * 80, "{len} samples");
            assert!(values.iter().all(|value| value.is_finite()));
        }
    }

    #[test]
    fn silence_is_the_floor() {
        let values = LogMel::new(80).compute(&[0.0; 1600]);
        // log10(1e-10) = -10, and (-10 + 4) / 4 = -1.5
        assert!(values.iter().all(|value| *value == -1.5));
    }
}
