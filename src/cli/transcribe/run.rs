//! The run: from settings to workers, and what they report to standard output, standard error and the exit code.

use super::arguments::Arguments;
use super::inputs::{self, Inputs};
use super::outputs::OutputDir;
use super::progress::{Progress, Start, Summary};
use super::queue::Queue;
use super::settings::{self, Settings};
use super::streams::{self, StreamBy};
use super::worker::{self, Destination, Done, Event, Job, Outcome};
use crate::cli::interrupt::Interrupt;
use crate::cli::{Exit, Failure};
use crate::model::Bundled;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};

/// How many results may wait for an earlier one that standard output must show first.
const STDOUT_WINDOW: usize = 256;

/// Runs the command.
pub(in crate::cli) fn run(typed: Arguments) -> Result<Exit, Failure> {
    let mut progress = Progress::new(typed.progress);
    match go(typed, &mut progress) {
        // A program that reads JSON is told in JSON why the run could not start.
        Err(failure) if progress.is_json() => {
            progress.error(None, &failure.message);
            Ok(failure.exit)
        }
        ended => ended,
    }
}

fn go(typed: Arguments, progress: &mut Progress) -> Result<Exit, Failure> {
    let settings = Settings::resolve(typed)?;
    let found = inputs::collect(&settings.paths);
    for (path, message) in &found.unreadable {
        progress.error(Some(path), message);
    }
    if found.inputs.is_empty() {
        return nothing_to_do(&found);
    }
    for path in &found.empty {
        progress.warning(Some(path), "no audio files in this directory");
    }
    let streams = if settings.adaptation.is_continual() {
        let by = settings.adaptation.stream_by.as_ref().unwrap_or(&StreamBy::All);
        streams::group(&found.inputs, by, settings.adaptation.manifest.as_deref())?
    } else {
        streams::singly(found.inputs.len())
    };
    let to = match &settings.output_dir {
        Some(root) => Destination::Directory(Box::new(OutputDir::open(root, &found.inputs, &settings)?)),
        None => Destination::Stdout(settings.formats[0], !settings.unlabelled()),
    };
    let profile = settings.adaptation.load_adapted.as_deref();
    let recognizer = settings::load_model(settings.model.as_deref(), Bundled::TinyEn, profile, settings.device)?;
    let recognizer = settings::with_ctc_head(recognizer, settings.adaptation.ctc_head.as_deref())?;
    settings::check_model(&recognizer, &settings.adaptation, &settings.decoding)?;
    let decoding = settings.decoding.options();
    let (events, incoming) = channel();
    let signals = events.clone();
    let interrupt = Interrupt::listen(move || {
        let _ = signals.send(Event::Stop);
    })?;

    let files = found.inputs.len();
    let (jobs, threads) = settings.parallelism(streams.len());
    let adaptation = settings::adaptation(&settings.adaptation, recognizer.default_adaptation());
    for option in settings::idle_options(&settings.adaptation, adaptation.method) {
        progress.warning(
            None,
            &format!("{option} has no effect without adaptation (--adapt METHOD)"),
        );
    }
    let info = recognizer.info();
    let settings_key = settings::settings_key(
        info,
        &adaptation,
        recognizer.is_whisper().then_some(&decoding),
        settings.device,
    );
    // A stream's results may all wait for an earlier stream's, which must not wait for them.
    let window = if settings.output_dir.is_some() || adaptation.method.is_continual() {
        usize::MAX
    } else {
        STDOUT_WINDOW
    };
    let queue = Queue::new(streams.len(), window);
    let inputs = found.inputs;
    let job = Arc::new(Job {
        inputs,
        streams,
        queue,
        recognizer,
        adaptation,
        decoding,
        settings_key,
        threads,
        to,
        state: settings.adaptation.state.clone(),
        interrupt,
        profile: settings.adaptation.save_adapted.as_ref().map(|_| Mutex::default()),
    });

    let bytes = job.inputs.iter().map(|input| input.bytes).collect();
    progress.start(Start {
        bytes,
        jobs,
        threads,
        model: job.recognizer.info(),
        settings: &job.adaptation,
    });
    worker::quiet_panics();
    // Threads of their own, not scoped ones: a run that is interrupted must not wait for them.
    for i in 0..jobs {
        let (job, events) = (Arc::clone(&job), events.clone());
        let name = format!("worker {i}");
        let spawned = std::thread::Builder::new()
            .name(name)
            .spawn(move || worker::work(&job, events));
        spawned.map_err(|error| Failure::failed(format_args!("cannot start a worker: {error}")))?;
    }
    let exit = Run {
        job: &job,
        progress: &mut *progress,
        summary: Summary {
            files: files + found.unreadable.len(),
            failed: found.unreadable.len(),
            ..Summary::default()
        },
        waiting: BTreeMap::new(),
        printed: 0,
        workers: jobs,
    }
    .listen(&incoming)?;
    match &settings.adaptation.save_adapted {
        Some(path) if exit != Exit::Interrupted => save_profile(&job, path, progress).map(|()| exit),
        _ => Ok(exit),
    }
}

fn save_profile(job: &Job, path: &Path, progress: &mut Progress) -> Result<(), Failure> {
    let gathered = job.profile.as_ref().and_then(|profile| profile.lock().ok());
    let profile = gathered
        .map(|mut profile| std::mem::take(&mut *profile))
        .unwrap_or_default();
    if profile.utterances() == 0 {
        return Err(Failure::failed(
            "nothing was adapted to in this run, so there is no profile to save (recordings done before do not count)",
        ));
    }
    job.recognizer
        .save_profile(&profile, path)
        .map_err(|error| Failure::failed(format_args!("cannot write {}: {error}", path.display())))?;
    progress.saved(path, profile.utterances());
    Ok(())
}

fn nothing_to_do(found: &Inputs) -> Result<Exit, Failure> {
    if !found.unreadable.is_empty() {
        return Ok(Exit::Failed);
    }
    Err(Failure::usage(format_args!(
        "no audio files in {} (looked for {})",
        found.empty.join(", "),
        inputs::known_extensions()
    )))
}

/// A run in progress, as its main thread sees it.
struct Run<'a> {
    job: &'a Job,
    progress: &'a mut Progress,
    summary: Summary,
    /// Results that standard output must show after an earlier one.
    waiting: BTreeMap<usize, Option<String>>,
    /// Recordings whose turn on standard output is over.
    printed: usize,
    workers: usize,
}

/// Why a run stops before its end.
enum Stop {
    Interrupted,
    /// The reader of standard output has enough.
    NobodyReads,
    Fatal(String),
}

impl Run<'_> {
    fn listen(mut self, incoming: &Receiver<Event>) -> Result<Exit, Failure> {
        let stopped = self.handle_all(incoming).err();
        self.job.queue.close();
        if let Destination::Directory(directory) = &self.job.to {
            directory.freeze();
            self.summary.output_dir = Some(directory.root().display().to_string());
        }
        match stopped {
            None => {
                self.progress.summary(&self.summary);
                Ok(if self.summary.failed > 0 {
                    Exit::Failed
                } else {
                    Exit::Done
                })
            }
            Some(Stop::Interrupted) => {
                self.summary.interrupted = true;
                self.progress.summary(&self.summary);
                Ok(Exit::Interrupted)
            }
            Some(Stop::NobodyReads) => {
                self.progress.clear();
                Ok(if self.summary.failed > 0 {
                    Exit::Failed
                } else {
                    Exit::Done
                })
            }
            Some(Stop::Fatal(message)) => {
                self.progress.error(None, &message);
                self.progress.summary(&self.summary);
                Ok(Exit::Failed)
            }
        }
    }

    fn handle_all(&mut self, incoming: &Receiver<Event>) -> Result<(), Stop> {
        while self.workers > 0 {
            match incoming.recv() {
                Ok(Event::Heard {
                    index,
                    seconds,
                    fraction,
                }) => self.progress.heard(index, seconds, fraction),
                Ok(Event::Finished { index, outcome }) => self.finished(index, outcome)?,
                Ok(Event::Ended) => self.workers -= 1,
                Ok(Event::Stop) => return Err(Stop::Interrupted),
                Err(_) => break,
            }
        }
        Ok(())
    }

    fn finished(&mut self, index: usize, outcome: Outcome) -> Result<(), Stop> {
        let name = self.job.inputs.get(index).map_or("", |input| input.name.as_str());
        let mut text = None;
        match outcome {
            Outcome::Done(done) => {
                let Done { duration, entropy, .. } = *done;
                self.summary.done += 1;
                self.summary.audio_seconds += duration;
                self.summary.entropy.add(entropy);
                for warning in &done.warnings {
                    self.progress.warning(Some(name), warning);
                }
                self.progress.done(index, name, &done);
                text = done.text;
            }
            Outcome::Skipped => {
                self.summary.skipped += 1;
                self.progress.skipped(index, name);
            }
            Outcome::Failed(message) => {
                self.summary.failed += 1;
                self.progress.error(Some(name), &message);
                self.progress.passed(index);
            }
            Outcome::Fatal(message) => return Err(Stop::Fatal(message)),
            Outcome::Interrupted => return Err(Stop::Interrupted),
        }
        self.waiting.insert(index, text);
        while let Some(text) = self.waiting.remove(&self.printed) {
            self.printed += 1;
            self.job.queue.release(self.printed);
            if let Some(text) = text {
                self.progress.suspend(|| print(&text))?;
            }
        }
        Ok(())
    }
}

fn print(text: &str) -> Result<(), Stop> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Stop::NobodyReads),
        Err(error) => Err(Stop::Fatal(format!("cannot write to standard output: {error}"))),
    }
}
