//! Utterances in a live stream: speech found while it arrives, one detector's frame after the other.
//!
//! Unlike [`super::Segmenter`], which sees a recording's pauses from both sides, this one must end an utterance with
//! nothing but the past to go by: after a silence (the hang-over) that becomes shorter as the utterance grows, and at
//! the latest at a limit, at the quietest moment near it.

use super::segment::{FRAME, to_frames};
use super::{SAMPLE_RATE, Segment};
use std::collections::VecDeque;

/// Samples of one frame of the voice-activity detector, 16 ms.
pub const ENDPOINT_FRAME: usize = FRAME;
/// From this probability on a frame is speech.
const SPEECH: f32 = 0.5;
/// Within an utterance: from this one on.
const STILL_SPEECH: f32 = 0.35;
/// A frame this weak (power) is silence, whatever the detector says: -80 dBFS.
const SILENT_POWER: f32 = 1e-8;
/// In front of a noise that goes on: the power averaged over so many frames, the quietest such average of the last four
/// seconds, and how much louder speech is than that. What the detector takes for speech below it is a hiss or a hum.
const SMOOTHED: usize = 5;
const FLOOR_WITHIN: usize = 250;
const ABOVE_FLOOR: f32 = 2.5;
/// Speech begins where so many of the last frames are speech: a click is none.
const BEGIN_FRAMES: usize = 3;
const BEGIN_WITHIN: usize = 6;
/// Seconds of silence kept at an utterance's end.
const TAIL: f64 = 0.4;
/// Where a too long utterance is cut: the quietest so many frames.
const QUIET_SPAN: usize = 5;

/// How utterances are found in a live stream.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EndpointConfig {
    /// Seconds before the first frame of speech that belong to the utterance.
    pub pre_roll: f64,
    /// Seconds of silence that end an utterance; up to half as much again for a short one, down to a third for a long.
    pub hang_over: f64,
    /// The longest utterance in seconds.
    pub longest: f64,
}

impl Default for EndpointConfig {
    fn default() -> Self {
        Self {
            pre_roll: 0.4,
            hang_over: 0.8,
            longest: 20.0,
        }
    }
}

impl EndpointConfig {
    /// Within what works: a fifth of a second of silence at least, utterances of two seconds to what the model takes.
    pub fn within(self, longest: f64) -> Self {
        Self {
            pre_roll: self.pre_roll.clamp(0.0, 2.0),
            hang_over: self.hang_over.clamp(0.2, 5.0),
            longest: self.longest.min(longest).max(2.0),
        }
    }

    /// The silence, in seconds, that ends an utterance of so many seconds.
    fn silence(&self, seconds: f64) -> f64 {
        let share = seconds / self.longest;
        let factor = if seconds < 2.0 {
            1.5
        } else if share < 0.5 {
            1.0
        } else if share < 0.75 {
            0.6
        } else {
            1.0 / 3.0
        };
        factor * self.hang_over
    }
}

/// The utterance being spoken.
struct Open {
    start: usize,
    samples: Vec<f32>,
    /// Of each whole frame: its power, and whether it is speech.
    frames: Vec<(f32, bool)>,
    /// Frames without speech at the end.
    silent: usize,
}

/// Finds utterances; holds at most one and the pre-roll.
pub struct Endpointer {
    config: EndpointConfig,
    detector: Box<earshot::Detector>,
    floor: Floor,
    /// The frames before speech: samples, power, whether it is speech.
    before: VecDeque<(Vec<f32>, f32, bool)>,
    open: Option<Open>,
    /// Samples heard.
    clock: usize,
}

/// How loud it is where nobody speaks.
#[derive(Default)]
struct Floor {
    /// The last frames' powers.
    recent: VecDeque<f32>,
    /// Their averages, without those of digital silence.
    averages: VecDeque<f32>,
}

impl Floor {
    /// Takes in a frame's power, and tells whether the frame is louder than the floor.
    fn is_below(&mut self, power: f32) -> bool {
        self.recent.push_back(power);
        if self.recent.len() > SMOOTHED {
            self.recent.pop_front();
        }
        let average = self.recent.iter().sum::<f32>() / self.recent.len() as f32;
        if power < SILENT_POWER {
            return false;
        }
        let floor = self.averages.iter().copied().reduce(f32::min);
        // An average that holds a part of digital silence is no floor.
        if self.recent.len() == SMOOTHED && self.recent.iter().all(|power| *power >= SILENT_POWER) {
            self.averages.push_back(average);
        }
        if self.averages.len() > FLOOR_WITHIN {
            self.averages.pop_front();
        }
        floor.is_none_or(|floor| average >= ABOVE_FLOOR * floor)
    }
}

fn seconds(samples: usize) -> f64 {
    samples as f64 / f64::from(SAMPLE_RATE)
}

impl Endpointer {
    /// At a stream's start.
    pub fn new(config: EndpointConfig) -> Self {
        Self {
            config,
            detector: earshot::Detector::default_boxed(),
            floor: Floor::default(),
            before: VecDeque::new(),
            open: None,
            clock: 0,
        }
    }

    /// From now on finds utterances like this; one that is open goes on.
    pub fn set_config(&mut self, config: EndpointConfig) {
        self.config = config;
    }

    /// Samples heard so far, gaps included.
    pub fn clock(&self) -> usize {
        self.clock
    }

    /// The utterance being spoken: its first sample's index in the stream, and what was heard of it.
    pub fn open(&self) -> Option<(usize, &[f32])> {
        self.open.as_ref().map(|open| (open.start, open.samples.as_slice()))
    }

    /// Of the utterance being spoken, the samples up to its last frame of speech.
    pub fn spoken(&self) -> usize {
        let frames = self.open.as_ref().map_or(0, |open| open.frames.len() - open.silent);
        frames * ENDPOINT_FRAME
    }

    /// Samples held: the open utterance's, or those before one.
    pub fn buffered(&self) -> usize {
        let open = self.open.as_ref().map_or(0, |open| open.samples.len());
        open + ENDPOINT_FRAME * self.before.len()
    }

    /// One frame of 16 kHz mono samples more; the utterance that it ends comes out.
    pub fn push(&mut self, frame: &[f32; ENDPOINT_FRAME]) -> Option<Segment> {
        let power = frame.iter().map(|sample| sample * sample).sum::<f32>() / ENDPOINT_FRAME as f32;
        // The detector wants [-1, 1]; louder samples occur.
        let probability = self.detector.predict_f32(&frame.map(|sample| sample.clamp(-1.0, 1.0)));
        let threshold = if self.open.is_some() { STILL_SPEECH } else { SPEECH };
        let speech = self.floor.is_below(power) && probability >= threshold;
        self.clock += ENDPOINT_FRAME;
        match &mut self.open {
            None => {
                self.wait(frame, power, speech);
                None
            }
            Some(open) => {
                open.samples.extend_from_slice(frame);
                open.frames.push((power, speech));
                open.silent = if speech { 0 } else { open.silent + 1 };
                self.end_if_due()
            }
        }
    }

    /// The end of the stream, or of a stretch of it, with the samples that fill no frame.
    pub fn finish(&mut self, rest: &[f32]) -> Option<Segment> {
        self.clock += rest.len();
        self.before.clear();
        let mut open = self.open.take()?;
        open.samples.extend_from_slice(rest);
        Some(Segment {
            start: open.start,
            samples: open.samples,
        })
    }

    /// So many samples were not heard: the clock goes on. Call [`Endpointer::finish`] first.
    pub fn skip(&mut self, samples: usize) {
        self.clock += samples;
        self.detector = earshot::Detector::default_boxed();
        self.floor = Floor::default();
    }

    fn wait(&mut self, frame: &[f32], power: f32, speech: bool) {
        self.before.push_back((frame.to_vec(), power, speech));
        while self.before.len() > to_frames(self.config.pre_roll) + BEGIN_WITHIN {
            self.before.pop_front();
        }
        let recent = self.before.iter().rev().take(BEGIN_WITHIN);
        if recent.filter(|(.., speech)| *speech).count() < BEGIN_FRAMES {
            return;
        }
        let mut samples = Vec::new();
        let mut frames = Vec::new();
        for (frame, power, speech) in self.before.drain(..) {
            samples.extend(frame);
            frames.push((power, speech));
        }
        self.open = Some(Open {
            start: self.clock - samples.len(),
            samples,
            frames,
            silent: 0,
        });
    }

    fn end_if_due(&mut self) -> Option<Segment> {
        let open = self.open.as_mut()?;
        let spoken = open.frames.len() - open.silent;
        if open.silent >= to_frames(self.config.silence(seconds(spoken * ENDPOINT_FRAME))) {
            let mut open = self.open.take()?;
            let kept = (spoken + to_frames(TAIL).min(open.silent)) * ENDPOINT_FRAME;
            // What follows may be the next utterance's pre-roll, a frame's worth of context at least.
            let rest = open.samples.split_off(kept);
            let frames = open.frames.iter().skip(kept / ENDPOINT_FRAME);
            let rest = rest.chunks_exact(ENDPOINT_FRAME).zip(frames);
            self.before
                .extend(rest.map(|(samples, (power, _))| (samples.to_vec(), *power, false)));
            return Some(Segment {
                start: open.start,
                samples: open.samples,
            });
        }
        if open.frames.len() < to_frames(self.config.longest) {
            return None;
        }
        let cut = cut_of(&open.frames);
        let rest = open.samples.split_off(cut * ENDPOINT_FRAME);
        let frames = open.frames.split_off(cut);
        let segment = Segment {
            start: open.start,
            samples: std::mem::take(&mut open.samples),
        };
        *open = Open {
            start: segment.start + segment.samples.len(),
            samples: rest,
            silent: frames.iter().rev().take_while(|(_, speech)| !speech).count(),
            frames,
        };
        Some(segment)
    }
}

/// Where an utterance that is too long is cut: the middle of the longest pause in its last half, or, where there is
/// none, of the quietest stretch.
fn cut_of(frames: &[(f32, bool)]) -> usize {
    let first = frames.len() / 2;
    let mut longest = (0, 0);
    let mut run = 0;
    for (index, (_, speech)) in frames.iter().enumerate().skip(first) {
        run = if *speech { 0 } else { run + 1 };
        if run > longest.0 {
            longest = (run, index + 1);
        }
    }
    if longest.0 >= QUIET_SPAN {
        return longest.1 - longest.0 / 2;
    }
    let power = |index: usize| {
        frames[index..index + QUIET_SPAN]
            .iter()
            .map(|(power, _)| power)
            .sum::<f32>()
    };
    let quietest = (first..frames.len().saturating_sub(QUIET_SPAN)).min_by(|a, b| power(*a).total_cmp(&power(*b)));
    quietest.map_or(frames.len(), |index| index + QUIET_SPAN / 2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn clip(name: &str) -> Vec<f32> {
        let path = format!("tests/data/librivox/sense_and_sensibility_01_austen_64kb-{name}.wav");
        crate::audio::read_all(path.as_ref()).unwrap()
    }

    /// All utterances of a recording, heard in frames.
    fn hear(samples: &[f32], config: EndpointConfig) -> Vec<Segment> {
        let mut endpointer = Endpointer::new(config);
        let (frames, rest) = samples.as_chunks::<ENDPOINT_FRAME>();
        let mut segments: Vec<Segment> = frames.iter().filter_map(|frame| endpointer.push(frame)).collect();
        segments.extend(endpointer.finish(rest));
        assert_eq!(endpointer.clock(), samples.len());
        segments
    }

    #[test]
    fn each_clip_between_silences_is_an_utterance_with_its_place() {
        let gap = vec![0.0; 24_000];
        let (a, b) = (clip("0880"), clip("0930"));
        let samples = [&gap[..], &a, &gap, &b, &gap].concat();
        let segments = hear(&samples, EndpointConfig::default());
        assert_eq!(segments.len(), 2);
        for (segment, begin, len) in [
            (&segments[0], gap.len(), a.len()),
            (&segments[1], 2 * gap.len() + a.len(), b.len()),
        ] {
            let end = segment.start + segment.samples.len();
            assert!(
                segment.start <= begin + 8_000 && end + 8_000 >= begin + len,
                "{} {end}",
                segment.start
            );
            assert_eq!(segment.samples, samples[segment.start..end]);
        }
    }

    /// The detector alone takes a steady hiss after speech for more of it: utterances ended seconds late, or at the limit.
    #[test]
    fn a_steady_noise_between_clips_ends_an_utterance() {
        let gap = vec![0.0; 24_000];
        let clips = ["0870", "0880", "0890", "0920", "0930"].map(clip);
        let mut clean: Vec<f32> = gap.clone();
        let mut ends = Vec::new();
        for clip in &clips {
            clean.extend(clip);
            ends.push(clean.len());
            clean.extend(&gap);
        }
        for level in [1e-4, 3e-4, 1e-3, 3e-3f32] {
            let mut random = fastrand::Rng::with_seed(1);
            let noisy: Vec<f32> = clean
                .iter()
                .map(|sample| sample + level * 3.46 * (random.f32() - 0.5))
                .collect();
            let segments = hear(&noisy, EndpointConfig::default());
            let found: Vec<usize> = segments
                .iter()
                .map(|segment| segment.start + segment.samples.len())
                .collect();
            // None ends more than 0.7 s after its clip.
            for end in &ends {
                let near = found.iter().filter(|found| found.abs_diff(*end) <= 11_200);
                assert_eq!(near.count(), 1, "{level}: {found:?} {ends:?}");
            }
        }
    }

    #[test]
    fn endless_speech_is_cut_and_nothing_of_it_is_lost() {
        let samples = clip("0870").repeat(8);
        let config = EndpointConfig {
            longest: 5.0,
            hang_over: 5.0,
            ..EndpointConfig::default()
        };
        let segments = hear(&samples, config);
        assert!(segments.len() >= 10, "{}", segments.len());
        for pair in segments.windows(2) {
            assert_eq!(pair[0].start + pair[0].samples.len(), pair[1].start);
            assert!(pair[0].samples.len() <= 80_128);
        }
    }

    #[test]
    fn silence_and_a_click_are_no_speech() {
        let mut samples = vec![0.0; 160_000];
        samples[80_000] = 0.9;
        assert_eq!(hear(&samples, EndpointConfig::default()), []);
    }

    proptest! {
        /// Whatever is heard, utterances are in order, do not overlap, are no longer than allowed, and hold exactly the
        /// stream's samples.
        #[test]
        fn utterances_are_stretches_of_the_stream(
            parts in prop::collection::vec((0usize..3, 0.0f32..1.5, 1usize..40_000), 1..12),
            hang_over in 0.2f64..1.0,
        ) {
            let speech = clip("0890");
            let mut samples = Vec::new();
            for (kind, level, len) in parts {
                match kind {
                    0 => samples.extend(std::iter::repeat_n(0.0, len)),
                    1 => samples.extend((0..len).map(|n| level * ((n * n * 7919 % 1999) as f32 / 999.5 - 1.0))),
                    _ => samples.extend(speech.iter().cycle().take(len).map(|sample| level * sample)),
                }
            }
            let config = EndpointConfig { hang_over, longest: 4.0, ..EndpointConfig::default() };
            let mut end = 0;
            for segment in hear(&samples, config) {
                prop_assert!(segment.start >= end && !segment.samples.is_empty());
                end = segment.start + segment.samples.len();
                prop_assert!(segment.samples.len() <= 64_256 + ENDPOINT_FRAME);
                prop_assert_eq!(&segment.samples, &samples[segment.start..end]);
            }
        }
    }
}
