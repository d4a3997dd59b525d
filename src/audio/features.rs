//! What a model hears of an utterance's samples: log-mel frames, or the waveform itself.

use super::LogMel;
use super::log_mel::HOP;

/// Turns samples into a model's input; keeps its plans and buffers from call to call.
pub struct Features {
    kind: Kind,
}

enum Kind {
    LogMel { front_end: Box<LogMel>, bands: usize },
    Waveform { normalise: bool },
}

impl Features {
    /// Whisper's log-mel frames, `[frames, bands]`.
    pub fn log_mel(bands: usize) -> Self {
        let front_end = Box::new(LogMel::new(bands));
        Self {
            kind: Kind::LogMel { front_end, bands },
        }
    }

    /// The samples, normalised to mean 0 and variance 1 or as they are.
    pub fn waveform(normalise: bool) -> Self {
        Self {
            kind: Kind::Waveform { normalise },
        }
    }

    /// How many values so many samples give.
    pub fn values(&self, samples: usize) -> usize {
        match &self.kind {
            Kind::LogMel { bands, .. } => LogMel::frames(samples) * bands,
            Kind::Waveform { .. } => samples,
        }
    }

    /// The most samples that give at most so many values, `usize::MAX` for no limit.
    pub fn most_samples(&self, values: usize) -> usize {
        match &self.kind {
            Kind::LogMel { bands, .. } => (values / bands).saturating_mul(HOP),
            Kind::Waveform { .. } => values,
        }
    }

    /// The input of one utterance.
    pub fn compute(&mut self, samples: &[f32]) -> Vec<f32> {
        match &mut self.kind {
            Kind::LogMel { front_end, .. } => front_end.compute(samples),
            Kind::Waveform { normalise: true } => normalised(samples),
            Kind::Waveform { normalise: false } => samples.to_vec(),
        }
    }
}

/// `(x - mean) / sqrt(variance + 1e-7)` over the utterance, as transformers' feature extractor computes it.
fn normalised(samples: &[f32]) -> Vec<f32> {
    let count = samples.len().max(1) as f64;
    let mean = samples.iter().map(|&x| x as f64).sum::<f64>() / count;
    let variance = samples.iter().map(|&x| (x as f64 - mean).powi(2)).sum::<f64>() / count;
    let inverse = 1.0 / (variance + 1e-7).sqrt();
    samples.iter().map(|&x| ((x as f64 - mean) * inverse) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_normalised_waveform_has_mean_0_and_variance_1() {
        let samples: Vec<f32> = (0..1000).map(|n| 0.3 + 0.1 * (n as f32 * 0.37).sin()).collect();
        let out = Features::waveform(true).compute(&samples);
        let mean = out.iter().map(|&x| x as f64).sum::<f64>() / 1000.0;
        let variance = out.iter().map(|&x| (x as f64 - mean).powi(2)).sum::<f64>() / 1000.0;
        assert!(mean.abs() < 1e-6 && (variance - 1.0).abs() < 1e-4, "{mean} {variance}");
        assert_eq!(Features::waveform(false).compute(&samples), samples);
        // Silence stays silence: nothing is divided by zero.
        assert_eq!(Features::waveform(true).compute(&[0.0; 10]), [0.0; 10]);
        assert!(Features::waveform(true).compute(&[]).is_empty());
    }
}
