//! One live stream: its samples come in on the caller's thread, its events go out from the pool's.

mod work;

use super::stable::StablePrefix;
use super::{Event, Lane, LiveConfig, Pool, Seat};
use crate::adapt::StreamState;
use crate::audio::{ENDPOINT_FRAME, EndpointConfig, Endpointer, SAMPLE_RATE, Segment};
use crate::{AdaptationConfig, Error, Recognizer};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};
use work::Release;

/// Seconds of ended utterances that may wait to be recognised before the caller should wait.
const BACKLOG: f64 = 60.0;
/// Seconds after its last sound with which an utterance has been heard to its end: a partial hypothesis of more silence
/// would be the same again.
const SILENCE_HEARD: f64 = 0.2;
/// With less than so many seconds waiting, a stream keeps pace.
const PACE: f64 = 1.0;
/// Utterances that may wait to be adapted to; those that come then are skipped.
const MOST_WAITING: usize = 4;

/// A live stream. Dropping it drops what it still waits for; [`LiveSession::end`] and [`LiveSession::wait`] first to get
/// everything.
pub struct LiveSession {
    shared: Arc<Shared>,
    endpointer: Endpointer,
    /// Samples that fill no frame yet.
    pending: Vec<f32>,
    /// The open utterance's length at which its next partial is due.
    next_partial: usize,
    /// So many samples of it were in its last partial.
    in_partial: usize,
    utterances: u64,
    /// Where the last of them ended.
    last_end: usize,
    level: f32,
}

/// Where speech was found, in seconds on the stream's clock.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Heard {
    /// So many utterances have ended; the one that is open, or opens next, has the number after.
    pub ended: u64,
    /// Where the last of them ended.
    pub last_end: f64,
    /// Where the open one began.
    pub open: Option<f64>,
}

/// An utterance that is being spoken, as far as it was heard.
struct Unfinished {
    utterance: u64,
    start: f64,
    samples: Vec<f32>,
    at: Instant,
}

struct Shared {
    config: LiveConfig,
    recognizer: Recognizer,
    seat: Seat,
    sink: Box<dyn Fn(Event) + Send + Sync>,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    adaptation: AdaptationConfig,
    /// Counts changes of the settings and resets: what was begun before is not carried on.
    generation: u64,
    /// What a continual method carries, and the values that decoding begins with.
    carried: Option<(StreamState, Arc<Vec<f32>>)>,
    /// Committed words of the utterance of this number.
    stable: (u64, StablePrefix),
    partial_asked: bool,
    /// What it will be made of, until it is begun with.
    unfinished: Option<Unfinished>,
    /// The last utterance that has ended: a partial of it would come too late.
    ended: u64,
    /// Tasks asked for and not done.
    outstanding: usize,
    /// Seconds of utterances that wait to be recognised.
    backlog: f64,
    closed: bool,
}

/// So many seconds after a moment; `None` for never.
fn after(moment: Instant, seconds: f64) -> Option<Instant> {
    moment.checked_add(Duration::try_from_secs_f64(seconds).ok()?)
}

fn seconds(samples: usize) -> f64 {
    samples as f64 / f64::from(SAMPLE_RATE)
}

impl LiveSession {
    /// A stream at its start. `sink` gets the events, in order for each utterance, from the pool's threads: it must not
    /// block for long.
    pub fn new(pool: &Pool, config: LiveConfig, sink: impl Fn(Event) + Send + Sync + 'static) -> Self {
        let endpoint = config.endpoint.within(pool.recognizer().longest_utterance());
        let state = State {
            adaptation: config.adaptation.clone(),
            generation: 0,
            carried: None,
            stable: (0, StablePrefix::default()),
            partial_asked: false,
            unfinished: None,
            ended: 0,
            outstanding: 0,
            backlog: 0.0,
            closed: false,
        };
        Self {
            shared: Arc::new(Shared {
                config,
                recognizer: pool.recognizer().clone(),
                seat: pool.seat(),
                sink: Box::new(sink),
                state: Mutex::new(state),
                changed: Condvar::new(),
            }),
            endpointer: Endpointer::new(endpoint),
            pending: Vec::with_capacity(ENDPOINT_FRAME),
            next_partial: 0,
            in_partial: 0,
            utterances: 0,
            last_end: 0,
            level: 0.0,
        }
    }

    /// More 16 kHz mono samples, in pieces of any size; those that are not finite count as silence.
    pub fn push(&mut self, samples: &[f32]) {
        let squares: f32 = samples.iter().map(|sample| sample * sample).sum();
        if !samples.is_empty() {
            self.level = (squares / samples.len() as f32).sqrt();
        }
        for sample in samples {
            self.pending.push(if sample.is_finite() { *sample } else { 0.0 });
            if let Ok(frame) = <&[f32; ENDPOINT_FRAME]>::try_from(self.pending.as_slice()) {
                let ended = self.endpointer.push(frame);
                self.pending.clear();
                if let Some(segment) = ended {
                    self.ended(segment);
                }
                self.partial_if_due();
            }
        }
    }

    /// The end of the stream, or of a stretch of it: an utterance that is open ends here.
    pub fn end(&mut self) {
        let rest = std::mem::take(&mut self.pending);
        if let Some(segment) = self.endpointer.finish(&rest) {
            self.ended(segment);
        }
    }

    /// So many seconds could not be heard, because a microphone was gone, for example: the clock goes on.
    pub fn gap(&mut self, seconds: f64) {
        self.end();
        self.endpointer
            .skip((seconds.max(0.0) * f64::from(SAMPLE_RATE)) as usize);
    }

    /// Seconds heard, gaps included.
    pub fn clock(&self) -> f64 {
        seconds(self.endpointer.clock() + self.pending.len())
    }

    /// The last push's root mean square, 1 being full scale.
    pub fn level(&self) -> f32 {
        self.level
    }

    /// From now on finds utterances like this; one that is open goes on.
    pub fn set_endpoint(&mut self, endpoint: EndpointConfig) {
        let longest = self.shared.recognizer.longest_utterance();
        self.endpointer.set_config(endpoint.within(longest));
    }

    /// Forgets the utterance that is open, as if nobody had spoken; its number is not used again. A partial hypothesis
    /// that is being made may still come.
    pub fn discard(&mut self) {
        let rest = std::mem::take(&mut self.pending);
        if self.endpointer.finish(&rest).is_some() {
            self.utterances += 1;
            (self.next_partial, self.in_partial) = (0, 0);
            let mut state = self.shared.lock();
            state.ended = self.utterances;
            state.unfinished = None;
        }
    }

    /// What was found so far; exact between pushes of [`ENDPOINT_FRAME`] samples.
    pub fn heard(&self) -> Heard {
        Heard {
            ended: self.utterances,
            last_end: seconds(self.last_end),
            open: self.endpointer.open().map(|(start, _)| seconds(start)),
        }
    }

    /// Whether somebody is speaking.
    pub fn is_speech(&self) -> bool {
        self.endpointer.open().is_some()
    }

    /// Whether recognition keeps pace; if not, wait before the next push (a minute of utterances may wait at most).
    pub fn has_room(&self) -> bool {
        self.shared.lock().backlog < BACKLOG
    }

    /// Samples held for the utterance that may begin or is open; those of ended ones are counted by
    /// [`LiveSession::has_room`].
    pub fn buffered(&self) -> usize {
        self.pending.len() + self.endpointer.buffered()
    }

    /// Whether everything asked for so far is done.
    pub fn is_idle(&self) -> bool {
        self.shared.lock().outstanding == 0
    }

    /// Waits until everything asked for so far is done.
    pub fn wait(&self) {
        self.shared.wait(|state| state.outstanding == 0);
    }

    /// The adaptation settings in force.
    pub fn adaptation(&self) -> AdaptationConfig {
        self.shared.lock().adaptation.clone()
    }

    /// From the next utterance on adapts like this, from the source model.
    pub fn set_adaptation(&mut self, adaptation: AdaptationConfig) {
        self.shared.lock().adaptation = adaptation;
        self.reset();
    }

    /// From the next utterance on starts from the source model again.
    pub fn reset(&mut self) {
        let mut state = self.shared.lock();
        state.generation += 1;
        state.carried = None;
    }

    /// What a continual method carries at this moment; `None` before there is anything.
    pub fn state(&self) -> Option<StreamState> {
        self.shared.lock().carried.as_ref().map(|(state, _)| state.clone())
    }

    /// Goes on from a state that [`LiveSession::state`] gave, of the same model and settings. What does not fit is found
    /// here; the values are in use from the next hypothesis on.
    pub fn resume(&mut self, from: StreamState) -> Result<(), Error> {
        let mut state = self.shared.lock();
        let mut session = self.shared.recognizer.session(&state.adaptation, 1)?;
        session.resume_stream(&from)?;
        state.generation += 1;
        state.carried = Some((from, Arc::new(session.carried_values())));
        Ok(())
    }

    fn partial_if_due(&mut self) {
        let interval = self.shared.config.partial_interval;
        let Some((start, samples)) = self.endpointer.open().filter(|_| interval.is_finite()) else {
            return;
        };
        let utterance = self.utterances + 1;
        let next = samples.len() + (interval.max(0.1) * f64::from(SAMPLE_RATE)) as usize;
        let mut state = self.shared.lock();
        if let Some(waiting) = state.unfinished.as_mut().filter(|of| of.utterance == utterance) {
            // Its partial waits for its turn: it will be made of all that is heard by then.
            waiting.samples.extend_from_slice(&samples[waiting.samples.len()..]);
            waiting.at = Instant::now();
            (self.next_partial, self.in_partial) = (next, samples.len());
            return;
        }
        let is_heard = self.in_partial >= self.endpointer.spoken() + (SILENCE_HEARD * f64::from(SAMPLE_RATE)) as usize;
        // While one is being made, the next has to wait for it.
        if samples.len() < self.next_partial || is_heard || state.partial_asked {
            return;
        }
        state.partial_asked = true;
        state.unfinished = Some(Unfinished {
            utterance,
            start: seconds(start),
            samples: samples.to_vec(),
            at: Instant::now(),
        });
        drop(state);
        (self.next_partial, self.in_partial) = (next, samples.len());
        self.shared
            .ask(Lane::Decode, None, utterance, Release::Partial, Shared::partial);
        if self.shared.config.lockstep {
            self.wait();
        }
    }

    fn ended(&mut self, segment: Segment) {
        self.utterances += 1;
        self.last_end = segment.start + segment.samples.len();
        (self.next_partial, self.in_partial) = (0, 0);
        let (utterance, at) = (self.utterances, Instant::now());
        // A final goes before others' partials, but not that of a stream which sends faster than it is recognised.
        let urgent_from = {
            let mut state = self.shared.lock();
            let keeps_pace = state.backlog < PACE;
            state.backlog += seconds(segment.samples.len());
            state.ended = utterance;
            keeps_pace.then_some(at)
        };
        let release = Release::Backlog(seconds(segment.samples.len()));
        self.shared
            .ask(Lane::Decode, urgent_from, utterance, release, move |shared, worker| {
                shared.finish(worker, utterance, segment, at)
            });
        if self.shared.config.lockstep {
            self.wait();
        }
    }
}

impl Drop for LiveSession {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.seat.leave();
    }
}
