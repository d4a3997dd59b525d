//! One live stream: its samples come in on the caller's thread, its events go out from the pool's.

use super::budget::{Budget, updated};
use super::stable::StablePrefix;
use super::{Event, Final, Lane, LiveConfig, Partial, Pool, Revision, Seat, Skipped, Worker, text_of};
use crate::adapt::StreamState;
use crate::audio::{ENDPOINT_FRAME, EndpointConfig, Endpointer, SAMPLE_RATE, Segment};
use crate::decode::Hypothesis;
use crate::{AdaptationConfig, Error, Recognizer, Utterance};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

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

/// Counts a task as outstanding until it is done, dropped, or has panicked.
struct Outstanding {
    shared: Arc<Shared>,
    utterance: u64,
    release: Release,
    is_done: bool,
}

/// What a task gives back when it ends, however it ends: after a panic too the stream goes on.
enum Release {
    Nothing,
    /// The next partial hypothesis may be asked for.
    Partial,
    /// So many seconds need no longer wait to be recognised.
    Backlog(f64),
}

impl Drop for Outstanding {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.outstanding -= 1;
        match self.release {
            Release::Nothing => {}
            Release::Partial => (state.partial_asked, state.unfinished) = (false, None),
            Release::Backlog(waited) => state.backlog -= waited,
        }
        let failed = !self.is_done && !state.closed;
        drop(state);
        if failed {
            (self.shared.sink)(Event::Failed {
                utterance: self.utterance,
                message: "an error inside aurist; please report it with what standard error says".into(),
            });
        }
        self.shared.changed.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait(&self, until: impl Fn(&State) -> bool) {
        let mut state = self.lock();
        while !until(&state) {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn ask(
        self: &Arc<Self>,
        lane: Lane,
        urgent_from: Option<Instant>,
        utterance: u64,
        release: Release,
        work: impl FnOnce(&Arc<Self>, &mut Worker) -> Result<(), Error> + Send + 'static,
    ) {
        self.lock().outstanding += 1;
        let mut outstanding = Outstanding {
            shared: Arc::clone(self),
            utterance,
            release,
            is_done: false,
        };
        let task = move |worker: &mut Worker| {
            let result = work(&outstanding.shared, worker);
            outstanding.is_done = true;
            if let Err(error) = result {
                let message = error.to_string();
                (outstanding.shared.sink)(Event::Failed { utterance, message });
            }
        };
        self.seat.submit_urgent_from(lane, urgent_from, Box::new(task));
    }

    /// The hypothesis with the parameters that are there.
    fn decode(&self, worker: &mut Worker, samples: &[f32], start: f64) -> Result<Hypothesis, Error> {
        let (adaptation, values) = {
            let state = self.lock();
            let values = state.carried.as_ref().map(|(_, values)| Arc::clone(values));
            (state.adaptation.clone(), values)
        };
        let decoder = worker.decoder(&adaptation)?;
        decoder.decode(samples, start, values.as_ref().map(|values| values.as_slice()))
    }

    fn partial(self: &Arc<Self>, worker: &mut Worker) -> Result<(), Error> {
        let unfinished = {
            let mut state = self.lock();
            let ended = state.ended;
            state.unfinished.take().filter(|of| of.utterance > ended)
        };
        let Some(Unfinished {
            utterance,
            start,
            samples,
            at,
        }) = unfinished
        else {
            return Ok(());
        };
        let hypothesis = self.decode(worker, &samples, start)?;
        let end = start + seconds(samples.len());
        let mut state = self.lock();
        if state.stable.0 != utterance {
            state.stable = (utterance, StablePrefix::default());
        }
        let words = state.stable.1.update(&hypothesis.words, end);
        let stable = state.stable.1.committed();
        drop(state);
        (self.sink)(Event::Partial(Partial {
            utterance,
            start,
            end,
            text: text_of(&words),
            stable,
            words,
            delay: at.elapsed().as_secs_f64(),
        }));
        Ok(())
    }

    fn finish(
        self: &Arc<Self>,
        worker: &mut Worker,
        utterance: u64,
        segment: Segment,
        at: Instant,
    ) -> Result<(), Error> {
        let start = seconds(segment.start);
        let end = start + seconds(segment.samples.len());
        let begun = Instant::now();
        let whole = self.decode(worker, &segment.samples, start)?;
        let pass_seconds = begun.elapsed().as_secs_f64();
        let (words, adaptation) = {
            let mut state = self.lock();
            let stable = std::mem::take(&mut state.stable);
            let stable = if stable.0 == utterance {
                stable.1
            } else {
                StablePrefix::default()
            };
            (stable.finish(&whole.words), state.adaptation.clone())
        };
        let text = text_of(&words);
        (self.sink)(Event::Final(Final {
            utterance,
            start,
            end,
            text: text.clone(),
            words,
            delay: at.elapsed().as_secs_f64(),
        }));
        let waiting = self.seat.waiting(Lane::Adapt);
        let skipped = if adaptation.planned_steps() == 0 {
            Some(Skipped::Off)
        } else {
            (waiting >= MOST_WAITING && !self.config.lockstep).then_some(Skipped::Behind)
        };
        let ended = Ended {
            utterance,
            start,
            end,
            text,
            whole,
            pass_seconds,
            at,
        };
        match skipped {
            Some(reason) => self.skip(ended, reason),
            None => self.ask(
                Lane::Adapt,
                if self.config.lockstep {
                    None
                } else {
                    after(at, self.config.latency)
                },
                utterance,
                Release::Nothing,
                move |shared, worker| shared.adapt(worker, ended, &segment.samples),
            ),
        }
        Ok(())
    }

    fn adapt(&self, worker: &mut Worker, ended: Ended, samples: &[f32]) -> Result<(), Error> {
        let (adaptation, carried, generation) = {
            let state = self.lock();
            let carried = state.carried.as_ref().map(|(carried, _)| carried.clone());
            (state.adaptation.clone(), carried, state.generation)
        };
        let audio = seconds(samples.len());
        let waited = ended.at.elapsed().as_secs_f64();
        let budget = Budget {
            left: if self.config.lockstep {
                f64::INFINITY
            } else {
                self.config.latency - waited
            },
            audio,
            // The first time, as much as a pass without a way back took.
            pass_cost: worker.pass_cost.or(Some(ended.pass_seconds / audio)),
        };
        let Some(allowed_steps) = budget.steps(adaptation.planned_steps()) else {
            self.skip(ended, Skipped::Behind);
            return Ok(());
        };
        let session = worker.session(&adaptation)?;
        match &carried {
            Some(carried) => session.resume_stream(carried)?,
            None => session.begin_stream(),
        }
        session.limit_steps(allowed_steps);
        // Whatever the estimate: where others have taken the cores meanwhile, it ends with the step that it is at.
        session.limit_time(after(Instant::now(), budget.left));
        let result = session.transcribe_utterance(samples, ended.start)?;
        let carried = adaptation
            .method
            .is_continual()
            .then(|| (session.stream_state(), Arc::new(session.carried_values())));
        let passes = (result.forwards + result.backwards) as f64;
        worker.pass_cost = updated(worker.pass_cost, result.compute_seconds / (passes * audio));
        {
            let mut state = self.lock();
            if state.generation == generation && carried.is_some() {
                state.carried = carried;
            }
        }
        (self.sink)(Event::Revision(Box::new(Revision {
            utterance: ended.utterance,
            changed: result.text != ended.text,
            skipped: None,
            allowed_steps,
            delay: ended.at.elapsed().as_secs_f64(),
            result,
        })));
        Ok(())
    }

    /// The revision of a final that is not adapted to: what was recognised of the whole utterance.
    fn skip(&self, ended: Ended, reason: Skipped) {
        let delay = ended.at.elapsed().as_secs_f64();
        (self.sink)(Event::Revision(Box::new(Revision {
            utterance: ended.utterance,
            changed: ended.whole.text != ended.text,
            skipped: Some(reason),
            allowed_steps: 0,
            delay,
            result: Utterance {
                unadapted_text: ended.whole.text.clone(),
                text: ended.whole.text,
                words: ended.whole.words,
                forwards: 1,
                ..Utterance::empty(ended.start, ended.end)
            },
        })));
    }
}

/// An utterance whose final is out.
struct Ended {
    utterance: u64,
    start: f64,
    end: f64,
    /// The final's text.
    text: String,
    /// The hypothesis of the whole, with nothing committed.
    whole: Hypothesis,
    /// How long that took.
    pass_seconds: f64,
    at: Instant,
}
