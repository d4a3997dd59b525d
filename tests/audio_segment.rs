//! Cutting into utterances: short recordings stay whole, long ones are cut in pauses, no word is lost.

use aurist::audio::{SAMPLE_RATE, Segment, Segmenter, SegmenterConfig, read_all};
use proptest::prelude::*;
use std::path::Path;

const SECOND: usize = SAMPLE_RATE as usize;

fn clips() -> Vec<Vec<f32>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/librivox");
    ["0870", "0880", "0890", "0920", "0930"]
        .map(|clip| read_all(&root.join(format!("sense_and_sensibility_01_austen_64kb-{clip}.wav"))).unwrap())
        .into()
}

fn cut(samples: &[f32], piece: usize) -> Vec<Segment> {
    let mut segmenter = Segmenter::new(SegmenterConfig::default());
    let mut segments: Vec<Segment> = samples.chunks(piece).flat_map(|part| segmenter.push(part)).collect();
    segments.extend(segmenter.finish());
    segments
}

/// A little noise, so that a pause is not digital silence. A multiplicative generator suffices.
fn hiss(len: usize, level: f32) -> Vec<f32> {
    let mut state = 1u64;
    let mut next = || {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..len).map(|_| level * next()).collect()
}

/// The clips one after another `times`, with `pause` seconds between; and where the speech is.
fn recording(times: usize, pause: f64, level: f32) -> (Vec<f32>, Vec<std::ops::Range<usize>>) {
    let clips = clips();
    let (mut samples, mut speech) = (Vec::new(), Vec::new());
    for clip in (0..times).flat_map(|_| &clips) {
        speech.push(samples.len()..samples.len() + clip.len());
        samples.extend_from_slice(clip);
        samples.extend(std::iter::repeat_n(0.0, (pause * SECOND as f64) as usize));
    }
    let noise = hiss(samples.len(), level);
    samples
        .iter_mut()
        .zip(noise)
        .for_each(|(sample, noise)| *sample += noise);
    (samples, speech)
}

fn assert_sound(segments: &[Segment], samples: &[f32]) {
    let mut end = 0;
    for segment in segments {
        assert!(segment.start >= end, "segments overlap or are out of order");
        end = segment.start + segment.samples.len();
        assert!(end <= samples.len() && !segment.samples.is_empty());
        assert!(
            segment.samples.len() <= 30 * SECOND,
            "{} samples",
            segment.samples.len()
        );
        assert_eq!(
            segment.samples,
            samples[segment.start..end],
            "samples are not the recording's"
        );
    }
}

#[test]
fn a_recording_of_one_utterance_is_left_whole() {
    for clip in clips() {
        let segments = cut(&clip, 4000);
        assert_eq!(
            segments,
            [Segment {
                start: 0,
                samples: clip
            }]
        );
    }
    let (samples, _) = recording(1, 1.0, 1e-4);
    assert!(samples.len() < 30 * SECOND);
    assert_eq!(cut(&samples, 777).len(), 1);
}

#[test]
fn silence_is_no_utterance() {
    assert!(cut(&[], 100).is_empty());
    assert!(cut(&vec![0.0; 5 * SECOND], 1000).is_empty());
    assert!(cut(&vec![0.0; 100 * SECOND], 1000).is_empty());
    assert!(cut(&hiss(100 * SECOND, 1e-5), 1000).is_empty());
}

#[test]
fn long_recordings_are_cut_in_their_pauses() {
    let (samples, speech) = recording(5, 0.6, 1e-3);
    assert!(samples.len() > 120 * SECOND);
    let segments = cut(&samples, 16_000);
    assert_sound(&segments, &samples);
    assert!(segments.len() >= 4, "{} segments", segments.len());
    // The reader takes a breath inside some clips too; most cuts fall between clips, where the pauses are longest.
    let ends: Vec<usize> = segments
        .iter()
        .map(|segment| segment.start + segment.samples.len())
        .collect();
    let between = |at: usize| {
        !speech
            .iter()
            .any(|clip| clip.start + SECOND / 2 < at && at + SECOND / 2 < clip.end)
    };
    assert!(
        ends.iter().all(|&end| between(end)),
        "a cut falls inside a sentence: {ends:?} {speech:?}"
    );
    assert!(
        segments.iter().all(|segment| segment.samples.len() > SECOND),
        "a mere syllable"
    );
}

#[test]
fn every_word_is_in_some_utterance_whatever_the_noise() {
    for (pause, level) in [
        (0.0, 0.0),
        (0.3, 1e-3),
        (2.0, 1e-3),
        (5.0, 0.0),
        (5.0, 1e-3),
        (1.0, 0.02),
        (4.0, 0.05),
    ] {
        let (samples, speech) = recording(4, pause, level);
        let segments = cut(&samples, 5000);
        assert_sound(&segments, &samples);
        for clip in &speech {
            // The recordings have a little silence of their own at both ends.
            for at in (clip.start + SECOND / 2..clip.end - SECOND / 2).step_by(SECOND / 10) {
                let kept = segments
                    .iter()
                    .any(|s| (s.start..s.start + s.samples.len()).contains(&at));
                assert!(
                    kept,
                    "pause {pause}, noise {level}: speech at {:.1} s is lost",
                    at as f64 / SECOND as f64
                );
            }
        }
    }
}

#[test]
fn long_silences_are_dropped_and_times_stay_right() {
    let (samples, speech) = recording(2, 20.0, 2e-4);
    let segments = cut(&samples, 5000);
    assert_sound(&segments, &samples);
    let kept: usize = segments.iter().map(|segment| segment.samples.len()).sum();
    let spoken: usize = speech.iter().map(|clip| clip.len()).sum();
    assert!(
        kept < spoken + 10 * SECOND,
        "{} s kept of {} s of speech",
        kept / SECOND,
        spoken / SECOND
    );
}

#[test]
fn speech_without_a_pause_is_still_cut_in_time() {
    // Voiced all the time: a harmonic tone that never stops.
    let tone = |n: usize| {
        (1..12)
            .map(|k| (n as f32 * 0.047 * k as f32).sin() / k as f32)
            .sum::<f32>()
            * 0.1
    };
    let samples: Vec<f32> = (0..95 * SECOND).map(tone).collect();
    let segments = cut(&samples, 9999);
    assert_sound(&segments, &samples);
    assert_eq!(
        segments.iter().map(|segment| segment.samples.len()).sum::<usize>(),
        samples.len()
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6, ..ProptestConfig::default() })]

    #[test]
    fn the_sizes_in_which_samples_arrive_change_nothing(piece in 1usize..50_000, pause in 0.0f64..3.0) {
        let (samples, _) = recording(2, pause, 1e-3);
        prop_assert_eq!(cut(&samples, piece), cut(&samples, samples.len()));
    }
}
