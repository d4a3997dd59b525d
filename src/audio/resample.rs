//! Any sample rate to 16 kHz, streaming, with the filter's delay taken out.

use super::{AudioError, SAMPLE_RATE};
use audioadapter_buffers::direct::InterleavedSlice;
use rubato::{Fft, FixedSync, Indexing, Resampler as _, WindowFunction};

/// A streaming mono resampler. At 16 kHz it passes samples through untouched.
pub struct Resampler {
    rate: u32,
    filter: Option<Fft<f32>>,
    pending: Vec<f32>,
    output: Vec<f32>,
    /// Samples of the filter's delay still to be dropped.
    to_skip: usize,
    received: u64,
    produced: u64,
}

impl Resampler {
    /// From `rate` Hz to 16 kHz.
    pub fn new(rate: u32) -> Result<Self, AudioError> {
        let filter = if rate == SAMPLE_RATE {
            None
        } else {
            // Blackman-Harris squared: the stop band is far below 16 bits, so nothing above 8 kHz folds back.
            let window = WindowFunction::BlackmanHarris2;
            let (from, to) = (rate as usize, SAMPLE_RATE as usize);
            // An even number of whole periods of the two rates: else the filter's delay is half a sample off.
            let period = 2 * from / greatest_common_divisor(from, to);
            let chunk = 4096usize.div_ceil(period) * period;
            let filter = Fft::new_custom(from, to, chunk, 1, 1, window, FixedSync::Input).map_err(|error| {
                AudioError::Resample {
                    rate,
                    reason: error.to_string(),
                }
            })?;
            Some(filter)
        };
        let to_skip = filter.as_ref().map_or(0, |filter| filter.output_delay());
        let output = vec![0.0; filter.as_ref().map_or(0, |filter| filter.output_frames_max())];
        Ok(Self {
            rate,
            filter,
            pending: Vec::new(),
            output,
            to_skip,
            received: 0,
            produced: 0,
        })
    }

    /// More samples in; what is ready comes out.
    pub fn push(&mut self, samples: &[f32]) -> Result<Vec<f32>, AudioError> {
        self.received += samples.len() as u64;
        if self.filter.is_none() {
            return Ok(samples.to_vec());
        }
        self.pending.extend_from_slice(samples);
        let mut out = Vec::new();
        while self.pending.len() >= self.chunk() {
            self.process(None, &mut out)?;
        }
        Ok(out)
    }

    /// The end of the recording: what the filter still holds. In all, `samples * 16000 / rate` come out, rounded.
    pub fn finish(&mut self) -> Result<Vec<f32>, AudioError> {
        let mut out = Vec::new();
        if self.filter.is_none() {
            return Ok(out);
        }
        let total = (self.received as f64 * SAMPLE_RATE as f64 / self.rate as f64).round() as u64;
        while self.produced < total {
            let available = self.pending.len().min(self.chunk());
            let before = self.produced;
            self.process(Some(available), &mut out)?;
            if self.produced > total {
                out.truncate(out.len() - (self.produced - total) as usize);
                self.produced = total;
            }
            if self.produced == before && available == 0 && self.to_skip == 0 {
                break;
            }
        }
        Ok(out)
    }

    fn chunk(&self) -> usize {
        self.filter.as_ref().map_or(1, |filter| filter.input_frames_next())
    }

    /// One chunk through the filter; `partial` says how many of its samples there are, the rest being silence.
    fn process(&mut self, partial: Option<usize>, out: &mut Vec<f32>) -> Result<(), AudioError> {
        let rate = self.rate;
        let Some(filter) = &mut self.filter else { return Ok(()) };
        let wrap = |reason: String| AudioError::Resample { rate, reason };
        let chunk = filter.input_frames_next();
        self.pending.resize(self.pending.len().max(chunk), 0.0);
        let indexing = partial.map(|count| Indexing::new().partial_len(count));
        let input = InterleavedSlice::new(&self.pending[..chunk], 1, chunk).map_err(|e| wrap(e.to_string()))?;
        let capacity = self.output.len();
        let mut output = InterleavedSlice::new_mut(&mut self.output, 1, capacity).map_err(|e| wrap(e.to_string()))?;
        let (_, written) = filter
            .process_into_buffer(&input, &mut output, indexing.as_ref())
            .map_err(|e| wrap(e.to_string()))?;
        self.pending.drain(..chunk);
        let skipped = self.to_skip.min(written);
        self.to_skip -= skipped;
        out.extend_from_slice(&self.output[skipped..written]);
        self.produced += (written - skipped) as u64;
        Ok(())
    }
}

fn greatest_common_divisor(a: usize, b: usize) -> usize {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}
