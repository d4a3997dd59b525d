//! What a live stream has the pool do for it: partial and final hypotheses, and adaptation.

use super::{MOST_WAITING, Shared, State, Unfinished, after, seconds};
use crate::audio::Segment;
use crate::decode::Hypothesis;
use crate::live::budget::{Budget, updated};
use crate::live::stable::StablePrefix;
use crate::live::{Event, Final, Lane, Partial, Revision, Skipped, Worker, text_of};
use crate::{Error, Utterance};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Instant;

/// Counts a task as outstanding until it is done, dropped, or has panicked.
pub(super) struct Outstanding {
    shared: Arc<Shared>,
    utterance: u64,
    release: Release,
    is_done: bool,
}

/// What a task gives back when it ends, however it ends: after a panic too the stream goes on.
pub(super) enum Release {
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
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn wait(&self, until: impl Fn(&State) -> bool) {
        let mut state = self.lock();
        while !until(&state) {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    pub(super) fn ask(
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

    pub(super) fn partial(self: &Arc<Self>, worker: &mut Worker) -> Result<(), Error> {
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

    pub(super) fn finish(
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
