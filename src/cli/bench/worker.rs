//! A worker: takes tasks from the queue and recognises their utterances in its own session, one after another.

use super::journal::{Entry, Journal, Recognised, Seconds};
use super::methods::is_episodic;
use super::plan::{Item, Plan, Task, kept_steps};
use crate::audio::mix::samples_hash;
use crate::audio::{SAMPLE_RATE, read_all};
use crate::cli::interrupt::Interrupt;
use crate::cli::transcribe::{Queue, describe_panic};
use crate::eval::testset::TestUtterance;
use crate::{Recognizer, Session, VERSION};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::mpsc::Sender;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// What every worker of a run shares.
pub(super) struct Job {
    pub(super) plan: Plan,
    pub(super) tasks: Vec<Task>,
    pub(super) queue: Queue,
    pub(super) journal: Mutex<Journal>,
    pub(super) interrupt: Interrupt,
}

/// What a worker tells the run.
pub(super) enum Event {
    /// One utterance of task `task` is done, now or by an earlier run.
    Done { task: usize, place: usize, before: bool },
    /// It cannot be done.
    Failed { task: usize, place: usize, message: String },
    /// None can.
    Fatal(String),
    /// A worker has ended.
    Ended,
    /// Ctrl-C asks the run to stop.
    Stop,
}

impl Job {
    pub(super) fn journal(&self) -> MutexGuard<'_, Journal> {
        // A panic while it was held leaves it as consistent as a kill would.
        self.journal.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells the run that this worker ended, however it did.
struct EndNotice(Sender<Event>);

impl Drop for EndNotice {
    fn drop(&mut self) {
        let _ = self.0.send(Event::Ended);
    }
}

/// One worker's memory.
#[derive(Default)]
struct Worker {
    /// The session in use, and of which model and method it is.
    session: Option<((usize, usize), Session)>,
    /// The recording last read: a test set's utterances often lie in one.
    recording: Option<(PathBuf, Vec<f32>)>,
}

/// What went wrong with an utterance: it alone, or everything.
enum Trouble {
    Utterance(String),
    Fatal(String),
}

/// Works until the queue is empty. Nobody need listen to `events` any more: then the work is for nothing, and ends.
pub(super) fn work(job: &Job, events: Sender<Event>) {
    let notice = EndNotice(events);
    let mut worker = Worker::default();
    while let Some(index) = job.queue.take() {
        if !worker.task(job, index, &notice.0) {
            return;
        }
    }
}

impl Worker {
    /// One task; `false` when the run is to stop.
    fn task(&mut self, job: &Job, index: usize, events: &Sender<Event>) -> bool {
        let task = &job.tasks[index];
        let keys: Vec<_> = task
            .items
            .iter()
            .map(|item| job.plan.key(task.model, task.method, task.set, task.lane, *item))
            .collect();
        let is_done = |key: &Result<String, String>| key.as_ref().is_ok_and(|key| job.journal().get(key).is_some());
        let config = &job.plan.settings[task.model][task.method];
        // What a method carries along is not in the journal: such a task is done as a whole, or again.
        let again = !is_episodic(config) && !keys.iter().all(is_done);
        if again {
            // Every lane begins with the source model.
            self.session = None;
        }
        for (place, (item, key)) in task.items.iter().zip(&keys).enumerate() {
            if job.interrupt.is_set() {
                return false;
            }
            let before = is_done(key);
            let sent = if before && !again {
                events.send(Event::Done {
                    task: index,
                    place,
                    before,
                })
            } else {
                // After a panic the session is in an unknown state; it is dropped with the unwinding.
                let mut mine = std::mem::take(self);
                let block = |item: &Item| item.place.map(|(block, _)| block);
                let changed = place > 0 && block(&task.items[place - 1]) != block(item);
                let outcome = catch_unwind(AssertUnwindSafe(|| {
                    if let (true, Some((_, session))) = (changed, &mut mine.session) {
                        session.domain_changed();
                    }
                    let outcome = mine.utterance(job, task, *item, key);
                    (outcome, mine)
                }));
                let outcome = match outcome {
                    Ok((outcome, mine)) => {
                        *self = mine;
                        outcome
                    }
                    Err(panic) => Err(Trouble::Utterance(describe_panic(panic.as_ref()))),
                };
                events.send(match outcome {
                    Ok(()) => Event::Done {
                        task: index,
                        place,
                        before,
                    },
                    Err(Trouble::Utterance(message)) => Event::Failed {
                        task: index,
                        place,
                        message,
                    },
                    Err(Trouble::Fatal(message)) => Event::Fatal(message),
                })
            };
            if sent.is_err() {
                return false;
            }
        }
        true
    }

    fn utterance(&mut self, job: &Job, task: &Task, item: Item, key: &Result<String, String>) -> Result<(), Trouble> {
        let key = key.as_ref().map_err(|message| Trouble::Utterance(message.clone()))?;
        let plan = &job.plan;
        let utterance = plan.utterance(task.set, item);
        let samples = self.samples(utterance).map_err(Trouble::Utterance)?;
        let condition = &plan.conditions[item.condition];
        let heard = condition.apply(&samples, &utterance.id);
        let heard = heard.map_err(|error| Trouble::Utterance(error.to_string()))?;
        let (result, seconds) = self.recognise(plan, task, &heard)?;
        let entry = Entry {
            key: key.clone(),
            model: plan.models[task.model].info().name.clone(),
            method: plan.methods[task.method].name.clone(),
            condition: condition.condition().label(),
            set: plan.sets[task.set].name.clone(),
            utterance: utterance.id.clone(),
            result,
            seconds,
            version: VERSION.to_string(),
        };
        let mut journal = job.journal();
        let appended = journal.append(entry);
        appended.map_err(|error| Trouble::Fatal(format!("cannot write {}: {error}", journal.path().display())))
    }

    /// An utterance's samples.
    fn samples(&mut self, utterance: &TestUtterance) -> Result<Vec<f32>, String> {
        if self.recording.as_ref().is_none_or(|(path, _)| *path != utterance.audio) {
            let samples =
                read_all(&utterance.audio).map_err(|error| format!("{}: {error}", utterance.audio.display()))?;
            self.recording = Some((utterance.audio.clone(), samples));
        }
        let whole = self.recording.as_ref().map_or(&[][..], |(_, samples)| samples);
        stretch(whole, utterance)
    }

    fn recognise(&mut self, plan: &Plan, task: &Task, heard: &[f32]) -> Result<(Recognised, Seconds), Trouble> {
        let model = &plan.models[task.model];
        let session = self.session(plan, task).map_err(Trouble::Fatal)?;
        let begun = Instant::now();
        let mut result = Recognised {
            duration: heard.len() as f64 / f64::from(SAMPLE_RATE),
            heard: samples_hash(heard),
            ..Recognised::default()
        };
        let mut source = 0.0;
        let pieces = pieces(model, heard);
        result.pieces = pieces.len();
        for (index, piece) in pieces.iter().enumerate() {
            let recognised = session.transcribe_utterance(piece, 0.0);
            let utterance = recognised.map_err(|error| Trouble::Utterance(error.to_string()))?;
            let trace = session.trace();
            join(&mut result.text, &utterance.text);
            join(&mut result.unadapted_text, &utterance.unadapted_text);
            result.steps = if index == 0 {
                utterance.steps
            } else {
                result.steps.min(utterance.steps)
            };
            result.guard = result.guard.or(utterance.guard);
            result.evidence = result.evidence.or(utterance.evidence);
            result.forwards += trace.forwards;
            source += trace.source_seconds;
            // Steps of different pieces are not one utterance's.
            if pieces.len() == 1 {
                result.losses = utterance.losses;
                result.entropies.clone_from(&trace.entropies);
                result.step_texts.clone_from(&trace.texts);
            }
        }
        let compute = begun.elapsed().as_secs_f64();
        Ok((result, Seconds { compute, source }))
    }

    /// The session of a task: a new one where the task is another method's, or must begin with the source model.
    fn session(&mut self, plan: &Plan, task: &Task) -> Result<&mut Session, String> {
        let of = (task.model, task.method);
        if self.session.as_ref().is_none_or(|(other, _)| *other != of) {
            // The old one's memory is free before the new one asks for its own.
            self.session = None;
            let config = &plan.settings[task.model][task.method];
            // One thread: the order of sums, and so the result, does not depend on how many there are.
            let mut session = plan.recognizers[task.model][task.method]
                .decoding_session(config, &plan.decoding, 1)
                .map_err(|error| error.to_string())?;
            session.trace_steps(&kept_steps(config));
            self.session = Some((of, session));
        }
        match &mut self.session {
            Some((_, session)) => Ok(session),
            None => Err("there is no session".to_string()),
        }
    }
}

/// What of a recording is an utterance.
pub(super) fn stretch(whole: &[f32], utterance: &TestUtterance) -> Result<Vec<f32>, String> {
    let sample = |seconds: f64| (seconds.max(0.0) * f64::from(SAMPLE_RATE)).round() as usize;
    let start = utterance.start.map_or(0, sample);
    let end = utterance.end.map_or(whole.len(), sample).min(whole.len());
    if start >= end {
        return Err(format!(
            "{}: the recording ends at {:.2} s, before the utterance begins",
            utterance.audio.display(),
            whole.len() as f64 / f64::from(SAMPLE_RATE)
        ));
    }
    Ok(whole[start..end].to_vec())
}

/// An utterance as the model can take it: as it is, or cut at pauses where it is too long.
fn pieces(model: &Recognizer, heard: &[f32]) -> Vec<Vec<f32>> {
    if heard.len() as f64 / f64::from(SAMPLE_RATE) <= model.longest_utterance() {
        return vec![heard.to_vec()];
    }
    let mut segmenter = model.segmenter();
    let mut segments = segmenter.push(heard);
    segments.extend(segmenter.finish());
    segments.into_iter().map(|segment| segment.samples).collect()
}

fn join(text: &mut String, more: &str) {
    if !text.is_empty() && !more.is_empty() {
        text.push(' ');
    }
    text.push_str(more);
}

/// The samples of an utterance, read anew.
pub(super) fn read(utterance: &TestUtterance) -> Result<Vec<f32>, String> {
    Worker::default().samples(utterance)
}
