//! Cutting a recording into utterances at pauses.
//!
//! A recording that fits in one utterance is left whole, to the sample. A longer one is cut where the voice-activity
//! detector and the energy agree that nobody speaks: at the longest pause within reach, or, where there is none, at
//! the quietest moment. Decisions depend on the samples alone, never on the sizes in which they arrive.

use super::SAMPLE_RATE;

/// Samples of one frame of the voice-activity detector, 16 ms.
pub(super) const FRAME: usize = 256;
/// A recording or stretch whose loudest sample is below this (-80 dBFS) is silence, whatever a detector says.
const SILENT_PEAK: f32 = 1e-4;
/// Below this probability of speech a frame may belong to a pause.
const PAUSE_PROBABILITY: f32 = 0.5;
/// ... if it is also this much weaker (power) than the loudest moment near: -12 dB.
const PAUSE_POWER: f32 = 0.063;
/// A frame that is surely empty: hardly a chance of speech, and -30 dB.
const EMPTY_PROBABILITY: f32 = 0.3;
const EMPTY_POWER: f32 = 1e-3;
/// Shorter pauses are stops between consonants.
const SHORTEST_PAUSE: f64 = 0.1;
/// Around an utterance this much of a longer pause is kept.
const PADDING: f64 = 0.25;

/// How utterances are cut.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SegmenterConfig {
    /// The longest utterance in seconds.
    pub longest: f64,
    /// Where there is a choice, cuts fall no earlier than this after an utterance's start, in seconds.
    pub preferred_shortest: f64,
    /// An empty pause this long, in seconds, always ends an utterance, and its middle is dropped.
    pub long_pause: f64,
}

impl Default for SegmenterConfig {
    fn default() -> Self {
        Self {
            longest: 30.0,
            preferred_shortest: 8.0,
            long_pause: 3.0,
        }
    }
}

/// One utterance's samples.
#[derive(Debug, Clone, PartialEq)]
pub struct Segment {
    /// Index of its first sample in the recording.
    pub start: usize,
    /// 16 kHz mono.
    pub samples: Vec<f32>,
}

/// What is known of one frame.
#[derive(Debug, Clone, Copy)]
struct Frame {
    probability: f32,
    power: f32,
}

/// A stretch of frames without speech, as indices from the buffer's start.
#[derive(Debug, Clone, Copy)]
struct Pause {
    start: usize,
    end: usize,
    /// Its longest surely empty stretch, whose middle may be dropped. The detector's probability takes a few frames to
    /// fall and to rise, so a pause's ends seldom belong to it.
    empty: (usize, usize),
}

impl Pause {
    fn len(&self) -> usize {
        self.end - self.start
    }

    fn empty_len(&self) -> usize {
        self.empty.1 - self.empty.0
    }
}

/// Cuts a stream of samples into utterances; holds at most one utterance and a second.
pub struct Segmenter {
    config: SegmenterConfig,
    detector: Box<earshot::Detector>,
    /// Samples not yet given out; `start` is the first one's index in the recording.
    buffer: Vec<f32>,
    start: usize,
    frames: Vec<Frame>,
    /// Whether anything was cut off before the buffer: only then may the rest be trimmed.
    has_cut: bool,
}

pub(super) fn to_frames(seconds: f64) -> usize {
    (seconds * SAMPLE_RATE as f64 / FRAME as f64).round() as usize
}

impl Segmenter {
    /// A segmenter at a recording's start.
    pub fn new(config: SegmenterConfig) -> Self {
        Self {
            config,
            detector: earshot::Detector::default_boxed(),
            buffer: Vec::new(),
            start: 0,
            frames: Vec::new(),
            has_cut: false,
        }
    }

    /// More 16 kHz mono samples in; the utterances they complete come out.
    pub fn push(&mut self, samples: &[f32]) -> Vec<Segment> {
        let mut segments = Vec::new();
        for piece in samples.chunks(FRAME) {
            self.buffer.extend_from_slice(piece);
            while (self.frames.len() + 1) * FRAME <= self.buffer.len() {
                self.examine_frame();
                // A second more than can be needed: so that the rest of a recording is never a mere syllable.
                if self.frames.len() >= self.most_frames() + to_frames(1.0) {
                    segments.extend(self.cut());
                }
            }
        }
        segments
    }

    /// The end of the recording: the last utterances.
    pub fn finish(mut self) -> Vec<Segment> {
        let mut segments = Vec::new();
        while self.buffer.len() > (self.config.longest * SAMPLE_RATE as f64) as usize {
            segments.extend(self.cut());
        }
        if self.has_cut {
            self.drop_leading_silence();
            let is_empty = self.empty_test();
            let trailing = self.frames.iter().rev().take_while(|frame| is_empty(frame)).count();
            if trailing > to_frames(1.0) {
                let end = (self.frames.len() - trailing + to_frames(PADDING)) * FRAME;
                self.buffer.truncate(end);
            }
        }
        segments.extend(self.take(self.buffer.len()));
        segments
    }

    fn most_frames(&self) -> usize {
        to_frames(self.config.longest)
    }

    fn examine_frame(&mut self) {
        let first = self.frames.len() * FRAME;
        let mut frame = [0.0f32; FRAME];
        frame.copy_from_slice(&self.buffer[first..first + FRAME]);
        let power = frame.iter().map(|sample| sample * sample).sum::<f32>() / FRAME as f32;
        // The detector wants [-1, 1]; louder samples occur in floating-point files.
        frame.iter_mut().for_each(|sample| *sample = sample.clamp(-1.0, 1.0));
        let probability = self.detector.predict_f32(&frame);
        self.frames.push(Frame { probability, power });
    }

    /// The loudest frame in the buffer.
    fn loudest(&self) -> f32 {
        self.frames.iter().map(|frame| frame.power).fold(0.0, f32::max)
    }

    /// The test for an empty frame, against the buffer's loudest.
    fn empty_test(&self) -> impl Fn(&Frame) -> bool + use<> {
        let threshold = EMPTY_POWER * self.loudest();
        move |frame| {
            frame.power < SILENT_PEAK * SILENT_PEAK
                || (frame.probability < EMPTY_PROBABILITY && frame.power < threshold)
        }
    }

    /// The pauses among the first `limit` frames.
    fn pauses(&self, limit: usize) -> Vec<Pause> {
        let threshold = PAUSE_POWER * self.loudest();
        let is_empty = self.empty_test();
        let mut pauses = Vec::new();
        let mut run: Option<Pause> = None;
        let mut empty_start = 0;
        for (index, frame) in self.frames.iter().take(limit).enumerate() {
            let quiet = frame.probability < PAUSE_PROBABILITY && frame.power <= threshold;
            if !(quiet && is_empty(frame)) {
                empty_start = index + 1;
            }
            if quiet {
                let pause = run.get_or_insert(Pause {
                    start: index,
                    end: index,
                    empty: (index, index),
                });
                pause.end = index + 1;
                if pause.end - empty_start.min(pause.end) > pause.empty_len() {
                    pause.empty = (empty_start, pause.end);
                }
            } else if let Some(pause) = run.take() {
                pauses.push(pause);
            }
        }
        pauses.extend(run);
        pauses.retain(|pause| pause.len() >= to_frames(SHORTEST_PAUSE));
        pauses
    }

    /// Ends the utterance at the front of the buffer.
    fn cut(&mut self) -> Option<Segment> {
        if self.drop_leading_silence() {
            return None;
        }
        let most = self.most_frames().min(self.frames.len());
        let pauses = self.pauses(most);
        let long = to_frames(self.config.long_pause);
        let after_speech = |pause: &&Pause| pause.start >= to_frames(1.0);
        let early = pauses
            .iter()
            .filter(after_speech)
            .find(|pause| pause.empty_len() >= long);
        let shortest = to_frames(self.config.preferred_shortest);
        let middle = |pause: &Pause| (pause.start + pause.end) / 2;
        // `max_by_key` takes the last of equals: the later cut makes the longer utterance.
        let longest = pauses
            .iter()
            .filter(|pause| middle(pause) >= shortest)
            .max_by_key(|pause| pause.len());
        self.has_cut = true;
        match early.or(longest).copied() {
            Some(pause) if pause.empty_len() > to_frames(1.0) => {
                let segment = self.take((pause.empty.0 + to_frames(PADDING)) * FRAME);
                self.discard(pause.empty_len() - 2 * to_frames(PADDING));
                segment
            }
            Some(pause) => self.take(middle(&pause) * FRAME),
            None => self.take(self.quietest(most / 2, most) * FRAME),
        }
    }

    /// Where there is no pause at all: the middle of the 80 ms of least power.
    fn quietest(&self, from: usize, to: usize) -> usize {
        const SPAN: usize = 5;
        let power = |index: usize| {
            self.frames[index..index + SPAN]
                .iter()
                .map(|frame| frame.power)
                .sum::<f32>()
        };
        let last = to.saturating_sub(SPAN).max(from);
        let best = (from..=last)
            .filter(|index| index + SPAN <= self.frames.len())
            .min_by(|a, b| power(*a).total_cmp(&power(*b)));
        best.map_or(to, |index| index + SPAN / 2).max(1)
    }

    /// Drops a longer empty stretch at the buffer's front, but for the padding; says whether anything was dropped.
    fn drop_leading_silence(&mut self) -> bool {
        let is_empty = self.empty_test();
        let leading = self.frames.iter().take_while(|frame| is_empty(frame)).count();
        if leading <= to_frames(1.0) {
            return false;
        }
        self.has_cut = true;
        self.discard(leading - to_frames(PADDING));
        true
    }

    fn discard(&mut self, frames: usize) {
        self.buffer.drain(..(frames * FRAME).min(self.buffer.len()));
        self.frames.drain(..frames.min(self.frames.len()));
        self.start += frames * FRAME;
    }

    /// The first `len` samples as an utterance, or nothing when they are silence.
    fn take(&mut self, len: usize) -> Option<Segment> {
        let len = len.min(self.buffer.len());
        let rest = self.buffer.split_off(len);
        let samples = std::mem::replace(&mut self.buffer, rest);
        self.frames.drain(..(len / FRAME).min(self.frames.len()));
        let start = self.start;
        self.start += len;
        samples
            .iter()
            .any(|sample| sample.abs() > SILENT_PEAK)
            .then_some(Segment { start, samples })
    }
}
