//! What each effect does to an utterance's samples: functions of f32 samples in [-1, 1] at 16 kHz.

use super::MixError;
use super::codec::Codec;
use super::filter::{band_pass, convolve};
use super::rms;
use crate::audio::{Resampler, SAMPLE_RATE};

/// The level that the published mixers bring speech and noise to, -25 dB below full scale.
const PUBLISHED_LEVEL_DB: f64 = -25.0;

/// Adds noise at a true signal-to-noise ratio: scaled so that `rms(clean) / rms(noise)` is `snr` dB. Both are as long as
/// the utterance. The sum is clipped to [-1, 1].
pub(super) fn add_noise(clean: &[f32], noise: &[f64], snr: f64) -> Vec<f32> {
    let gain = rms(clean) / rms64(noise) * 10_f64.powf(-snr / 20.0);
    let sum = clean.iter().zip(noise).map(|(x, n)| f64::from(*x) + gain * n);
    sum.map(clipped).collect()
}

/// Adds noise as SGEM's and CEA's mixers do: speech and noise brought to -25 dB, a square root too many in the noise's
/// gain (so that the ratio in dB is half the nominal one), and 16-bit samples, clipped.
pub(super) fn add_noise_sgem(clean: &[f32], noise: &[f64], snr: f64) -> Vec<f32> {
    let level = 10_f64.powf(PUBLISHED_LEVEL_DB / 20.0);
    let (clean_rms, noise_rms) = (rms(clean), rms64(noise));
    if clean_rms == 0.0 {
        return clean.to_vec();
    }
    let (clean_gain, noise_gain) = (level / clean_rms, level / noise_rms);
    let gain = noise_gain * (level / 10_f64.powf(snr / 20.0) / level).sqrt();
    let sum = clean
        .iter()
        .zip(noise)
        .map(|(x, n)| f64::from(*x) * clean_gain + gain * n);
    sum.map(soundfile_pcm16).collect()
}

/// A sample after libsndfile's way through a 16-bit file: scaled to 32 bits, clipped, the lower half cut off.
fn soundfile_pcm16(sample: f64) -> f32 {
    let scaled = (sample * f64::from(i32::MAX)).round_ties_even() as i32;
    f32::from((scaled >> 16) as i16) / 32_768.0
}

/// `x + delta n` for draws n of N(0, 1), clipped to [-1, 1].
pub(super) fn add_delta(clean: &[f32], normals: &[f64], delta: f64) -> Vec<f32> {
    let sum = clean.iter().zip(normals).map(|(x, n)| f64::from(*x) + delta * n);
    sum.map(clipped).collect()
}

/// A room: convolution with its impulse response, aligned at the response's largest peak so that words keep their
/// times, cut to the utterance's length, at the utterance's level.
pub(super) fn reverberate(clean: &[f32], response: &[f32]) -> Vec<f32> {
    let response: Vec<f64> = response.iter().map(|&value| f64::from(value)).collect();
    let peak = (0..response.len()).max_by(|&i, &j| response[i].abs().total_cmp(&response[j].abs()));
    let wet: Vec<f64> = convolve(clean, &response)
        .into_iter()
        .skip(peak.unwrap_or(0))
        .take(clean.len())
        .collect();
    let level = rms64(&wet);
    let gain = if level > 0.0 { rms(clean) / level } else { 0.0 };
    wet.iter().map(|value| clipped(value * gain)).collect()
}

/// A telephone line: 300 to 3400 Hz, sampled at 8 kHz, through G.711 μ-law, and back to 16 kHz.
pub(super) fn telephone(clean: &[f32]) -> Result<Vec<f32>, MixError> {
    const HALF: usize = 400;
    let rate = f64::from(SAMPLE_RATE);
    let filter = band_pass(300.0 / rate, 3_400.0 / rate, HALF);
    let filtered = convolve(clean, &filter).into_iter().skip(HALF).take(clean.len());
    let mut narrow: Vec<f32> = filtered.step_by(2).map(clipped).collect();
    Codec::MuLaw.apply(&mut narrow);
    let mut resampler = Resampler::new(SAMPLE_RATE / 2).map_err(MixError::Resample)?;
    let mut wide = resampler.push(&narrow).map_err(MixError::Resample)?;
    wide.extend(resampler.finish().map_err(MixError::Resample)?);
    wide.truncate(clean.len());
    wide.resize(clean.len(), 0.0);
    Ok(wide.into_iter().map(|sample| clipped(f64::from(sample))).collect())
}

/// A gain in dB, clipped to [-1, 1].
pub(super) fn amplify(clean: &[f32], db: f64) -> Vec<f32> {
    let gain = 10_f64.powf(db / 20.0);
    clean.iter().map(|x| clipped(f64::from(*x) * gain)).collect()
}

/// Clips at a fraction of the utterance's peak.
pub(super) fn clip(clean: &[f32], level: f64) -> Vec<f32> {
    let peak = clean.iter().fold(0.0_f32, |peak, sample| peak.max(sample.abs()));
    let limit = (f64::from(peak) * level) as f32;
    clean.iter().map(|sample| sample.clamp(-limit, limit)).collect()
}

fn clipped(sample: f64) -> f32 {
    sample.clamp(-1.0, 1.0) as f32
}

pub(super) fn rms64(samples: &[f64]) -> f64 {
    if samples.is_empty() {
        return 0.0;
    }
    (samples.iter().map(|sample| sample * sample).sum::<f64>() / samples.len() as f64).sqrt()
}

#[cfg(test)]
mod tests {
    use super::super::random::normals;
    use super::*;
    use proptest::prelude::*;

    fn tone(count: usize, level: f32) -> Vec<f32> {
        (0..count).map(|i| level * (i as f32 * 0.05).sin()).collect()
    }

    fn snr(clean: &[f32], mixed: &[f32]) -> f64 {
        let noise: Vec<f64> = mixed
            .iter()
            .zip(clean)
            .map(|(m, c)| f64::from(*m) - f64::from(*c))
            .collect();
        20.0 * (rms(clean) / rms64(&noise)).log10()
    }

    #[test]
    fn the_ratio_is_the_one_asked_for() {
        let clean = tone(16_000, 0.02);
        for asked in [-5.0, 0.0, 5.0, 10.0, 20.0] {
            let mixed = add_noise(&clean, &normals(1, &["n"], clean.len()), asked);
            assert!((snr(&clean, &mixed) - asked).abs() < 0.01, "{asked}");
        }
    }

    #[test]
    fn sgems_ten_decibels_are_five() {
        let clean = tone(16_000, 0.1);
        let levelled = {
            let gain = 10_f64.powf(PUBLISHED_LEVEL_DB / 20.0) / rms(&clean);
            clean
                .iter()
                .map(|x| (f64::from(*x) * gain) as f32)
                .collect::<Vec<f32>>()
        };
        let mixed = add_noise_sgem(&clean, &normals(1, &["n"], clean.len()), 10.0);
        assert!(
            (snr(&levelled, &mixed) - 5.0).abs() < 0.05,
            "{}",
            snr(&levelled, &mixed)
        );
        assert!(mixed.iter().all(|sample| (sample * 32_768.0).fract() == 0.0));
    }

    #[test]
    fn an_echo_comes_when_it_should_and_the_level_stays() {
        let mut clean = vec![0.0; 1_000];
        clean[100] = 0.5;
        let mut response = vec![0.0; 300];
        (response[10], response[210]) = (1.0, 0.5);
        let wet = reverberate(&clean, &response);
        assert_eq!(wet.len(), clean.len());
        assert!((wet[300] / wet[100] - 0.5).abs() < 1e-3, "{} {}", wet[100], wet[300]);
        assert!((rms(&wet) - rms(&clean)).abs() < 1e-6);
    }

    #[test]
    fn a_telephone_keeps_its_band_only() {
        let sine = |hertz: f64| -> Vec<f32> {
            (0..16_000)
                .map(|i| (0.3 * (std::f64::consts::TAU * hertz * f64::from(i) / 16_000.0).sin()) as f32)
                .collect()
        };
        let level = |hertz: f64| rms(&telephone(&sine(hertz)).expect("a telephone")) / rms(&sine(hertz));
        assert!((level(1_000.0) - 1.0).abs() < 0.05, "{}", level(1_000.0));
        assert!(
            level(100.0) < 0.05 && level(5_000.0) < 0.05,
            "{} {}",
            level(100.0),
            level(5_000.0)
        );
        // In phase with what went in: word times do not move.
        let (dry, wet) = (sine(1_000.0), telephone(&sine(1_000.0)).expect("a telephone"));
        assert!(snr(&dry[2_000..14_000], &wet[2_000..14_000]) > 20.0);
    }

    proptest! {
        #[test]
        fn clipping_never_wraps(samples in proptest::collection::vec(-1.0_f32..=1.0, 1..200), db in 0.0_f64..60.0, snr in -40.0_f64..20.0) {
            let noise = normals(5, &["n"], samples.len());
            for out in [amplify(&samples, db), add_noise(&samples, &noise, snr), add_noise_sgem(&samples, &noise, snr),
                        add_delta(&samples, &noise, 1.0), clip(&samples, 0.5)] {
                prop_assert_eq!(out.len(), samples.len());
                prop_assert!(out.iter().all(|sample| (-1.0..=1.0).contains(sample)));
            }
            let amplified = amplify(&samples, db);
            prop_assert!(samples.iter().zip(&amplified).all(|(x, y)| x * y >= 0.0 && y.abs() >= x.abs() - 1e-6));
        }
    }
}
