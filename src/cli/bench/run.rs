//! The run: from the plan to workers, and from the journal to results and reports.

use super::arguments::RunArguments;
use super::journal::Journal;
use super::plan::{Plan, Task};
use super::progress::{Progress, Summary};
use super::results;
use super::worker::{self, Event, Job};
use crate::cli::interrupt::Interrupt;
use crate::cli::transcribe::{Queue, lock, quiet_panics};
use crate::cli::{Exit, Failure, cores};
use crate::eval::report::Failed;
use rayon::prelude::*;
use std::io;
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};

/// What a step costs, in forward passes: a forward and a backward one.
const STEP_COST: f64 = 2.5;
/// For an utterance whose length the set does not tell.
const USUAL_SECONDS: f64 = 6.0;
/// So many failures are told one by one.
const MOST_TOLD: usize = 20;

/// Runs the command.
pub(super) fn run(typed: RunArguments) -> Result<Exit, Failure> {
    let mut progress = Progress::new(typed.progress);
    match go(&typed, &mut progress) {
        // A program that reads JSON is told in JSON why the run could not start.
        Err(failure) if progress.is_json() => {
            progress.error(&failure.message);
            Ok(failure.exit)
        }
        ended => ended,
    }
}

fn go(typed: &RunArguments, progress: &mut Progress) -> Result<Exit, Failure> {
    let Some(root) = &typed.output_dir else {
        return Err(Failure::usage("name the run directory: -o DIR"));
    };
    let plan = Plan::resolve(typed)?;
    for set in &plan.sets {
        for warning in &set.warnings {
            progress.warning(&format!("{}: {warning}", set.name));
        }
    }
    let unusable = |error: io::Error| {
        Failure::failed(format_args!(
            "cannot write to run directory {}: {error}",
            root.display()
        ))
    };
    std::fs::create_dir_all(root).map_err(unusable)?;
    let _lock = lock(root, &unusable)?;
    let journal = Journal::open(root).map_err(unusable)?;
    if let Some(dir) = &typed.conditions.write_mixed {
        write_mixed(&plan, dir).map_err(Failure::failed)?;
    }
    let (events, incoming) = channel();
    let signals = events.clone();
    let interrupt = Interrupt::listen(move || {
        let _ = signals.send(Event::Stop);
    })?;
    let tasks = plan.tasks();
    let jobs = typed.jobs.map_or_else(cores, usize::from).clamp(1, tasks.len().max(1));
    let job = Arc::new(Job {
        queue: Queue::new(tasks.len(), usize::MAX),
        plan,
        tasks,
        journal: Mutex::new(journal),
        interrupt,
    });
    let utterances = job.tasks.iter().map(|task| task.items.len()).sum();
    let total = job.tasks.iter().map(|task| {
        (0..task.items.len())
            .map(|place| work(&job.plan, task, place))
            .sum::<f64>()
    });
    progress.start(utterances, total.sum(), jobs);
    quiet_panics();
    // Threads of their own, not scoped ones: a run that is interrupted must not wait for them.
    for i in 0..jobs {
        let (job, events) = (Arc::clone(&job), events.clone());
        let spawned = std::thread::Builder::new()
            .name(format!("worker {i}"))
            .spawn(move || worker::work(&job, events));
        spawned.map_err(|error| Failure::failed(format_args!("cannot start a worker: {error}")))?;
    }
    let (mut summary, failures) = listen(&job, &incoming, jobs, progress)?;
    if summary.interrupted {
        progress.summary(&summary);
        return Ok(Exit::Interrupted);
    }
    let (written, table) = results::write(typed, root, &job.plan, &job.journal(), failures)?;
    summary.written = written;
    progress.summary(&summary);
    super::print(&table)?;
    Ok(if summary.failed > 0 { Exit::Failed } else { Exit::Done })
}

fn listen(
    job: &Job,
    incoming: &Receiver<Event>,
    mut workers: usize,
    progress: &mut Progress,
) -> Result<(Summary, Vec<Failed>), Failure> {
    let (mut summary, mut failures) = (Summary::default(), Vec::new());
    while workers > 0 {
        match incoming.recv() {
            Ok(Event::Done { task, place, before }) => {
                *(if before { &mut summary.before } else { &mut summary.done }) += 1;
                progress.passed(work(&job.plan, &job.tasks[task], place), before);
            }
            Ok(Event::Failed { task, place, message }) => {
                let task = &job.tasks[task];
                let utterance = job.plan.utterance(task.set, task.items[place]);
                let set = &job.plan.sets[task.set].name;
                let condition = job.plan.lanes[task.lane].name.clone();
                summary.failed += 1;
                if summary.failed <= MOST_TOLD {
                    progress.error(&format!("{set}, {condition}, {}: {message}", utterance.id));
                }
                failures.push(Failed {
                    set: set.clone(),
                    condition,
                    utterance: utterance.id.clone(),
                    message,
                });
                progress.passed(work(&job.plan, task, place), true);
            }
            Ok(Event::Fatal(message)) => {
                job.queue.close();
                progress.summary(&summary);
                return Err(Failure::failed(message));
            }
            Ok(Event::Ended) => workers -= 1,
            Ok(Event::Stop) | Err(_) => {
                job.queue.close();
                summary.interrupted = true;
                // Held to the end of the process: the line in hand is whole.
                std::mem::forget(job.journal());
                return Ok((summary, failures));
            }
        }
    }
    if summary.failed > MOST_TOLD {
        progress.error(&format!(
            "{} more utterances failed; results.json lists them all",
            summary.failed - MOST_TOLD
        ));
    }
    Ok((summary, failures))
}

/// What an utterance costs, in seconds of audio through the model once.
fn work(plan: &Plan, task: &Task, place: usize) -> f64 {
    let seconds = plan
        .utterance(task.set, task.items[place])
        .duration
        .unwrap_or(USUAL_SECONDS);
    seconds * (1.0 + STEP_COST * plan.settings[task.model][task.method].planned_steps() as f64)
}

/// Writes what the models hear: DIR/SET/CONDITION/UTTERANCE.wav.
fn write_mixed(plan: &Plan, dir: &Path) -> Result<(), String> {
    for (index, set) in plan.sets.iter().enumerate() {
        for lane in 0..plan.lanes.len() {
            let folder = dir.join(file_name(&set.name)).join(file_name(&plan.lanes[lane].name));
            std::fs::create_dir_all(&folder)
                .map_err(|error| format!("cannot write to {}: {error}", folder.display()))?;
            plan.items(index, lane).into_par_iter().try_for_each(|item| {
                let utterance = plan.utterance(index, item);
                let mut name = file_name(&utterance.id);
                if let Some((_, place)) = item.place {
                    name = format!("{place:05}-{name}");
                }
                let path = folder.join(format!("{name}.wav"));
                // What cannot be read is told when it is recognised.
                let Ok(samples) = worker::read(utterance) else {
                    return Ok(());
                };
                let Ok(heard) = plan.conditions[item.condition].apply(&samples, &utterance.id) else {
                    return Ok(());
                };
                crate::audio::mix::write_wav(&path, &heard)
                    .map_err(|error| format!("cannot write {}: {error}", path.display()))
            })?;
        }
    }
    Ok(())
}

/// A name without what a file's must not have.
fn file_name(text: &str) -> String {
    text.chars()
        .map(|c| {
            if c.is_alphanumeric() || "-_.@+:=,".contains(c) {
                c
            } else {
                '_'
            }
        })
        .collect()
}
