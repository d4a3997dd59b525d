//! The run: inputs, workers, and what they bring in order.

use super::arguments::Arguments;
use super::inputs::{self, Input};
use super::outputs::{Decision, OutputDirectory};
use super::progress::Progress;
use super::worker::{Done, Event, Outcome, Shared, work};
use crate::cli::Failure;
use crate::output::{Document, Format};
use crate::{AdaptationConfig, Recognizer};
use std::collections::BTreeMap;
use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, mpsc};

/// Set by the first Ctrl-C.
static STOP: AtomicBool = AtomicBool::new(false);

/// Transcripts change when this does; journals then do their recordings again.
const TRANSCRIPT_VERSION: u32 = 1;

/// Runs `aurist transcribe`.
pub(in crate::cli) fn run(arguments: Arguments) -> Result<(), Failure> {
    arguments.check_device()?;
    let formats = arguments.formats()?;
    let (inputs, unreadable) = inputs::collect(&arguments.paths);
    if inputs.is_empty() && unreadable.is_empty() {
        return Err(Failure::usage(
            "no recordings were found there; name a file, or a directory that holds wav, flac, mp3, m4a, ogg or other audio files",
        ));
    }
    let recognizer = match &arguments.model {
        Some(directory) => Recognizer::from_dir(directory),
        None => Recognizer::bundled(),
    };
    let recognizer = recognizer.map_err(Failure::usage)?;
    let adaptation = arguments.adaptation(&recognizer);
    let directory = match &arguments.output_dir {
        Some(path) => {
            let key = settings_key(&recognizer, &adaptation);
            Some(OutputDirectory::open(path, formats.clone(), key, arguments.overwrite)?)
        }
        None => None,
    };
    // The second Ctrl-C does not wait for the utterances in hand.
    let _ = ctrlc::set_handler(|| {
        if STOP.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
    });

    let mut progress = Progress::new(arguments.progress, inputs.len() + unreadable.len());
    for problem in &unreadable {
        progress.failed(
            &problem.path.display().to_string(),
            &format!("it could not be read: {}", problem.reason),
        );
    }
    let writer = match directory {
        Some(directory) => Writer::Directory(Mutex::new(directory)),
        None => Writer::Stdout {
            format: formats[0],
            several: inputs.len() > 1,
        },
    };
    let (jobs, threads) = arguments.split(inputs.len());
    let fatal = transcribe_all(&inputs, &recognizer, &adaptation, &writer, &mut progress, jobs, threads);
    let place = writer.place();
    progress.summary(place.as_deref());
    let interrupted = STOP.load(Ordering::Relaxed) && fatal.is_none();
    match fatal {
        Some(Stop::Failure(message)) => Err(Failure::failed(message)),
        // Whoever read standard output has seen enough.
        Some(Stop::NobodyReads) => Ok(()),
        None if interrupted => {
            let resume = if place.is_some() {
                "; run the same command again to go on"
            } else {
                ""
            };
            Err(Failure {
                message: format!("interrupted{resume}"),
                code: 130,
            })
        }
        None if progress.totals().failed > 0 => Err(Failure {
            message: String::new(),
            code: 1,
        }),
        None => Ok(()),
    }
}

/// Why everything stops.
enum Stop {
    Failure(String),
    NobodyReads,
}

/// Where transcripts go.
enum Writer {
    Directory(Mutex<OutputDirectory>),
    Stdout { format: Format, several: bool },
}

fn transcribe_all(
    inputs: &[Input],
    recognizer: &Recognizer,
    adaptation: &AdaptationConfig,
    writer: &Writer,
    progress: &mut Progress,
    jobs: usize,
    threads: usize,
) -> Option<Stop> {
    let before = |index: usize, content: &str| writer.is_done(&inputs[index], content);
    let shared = Shared {
        inputs,
        next: AtomicUsize::new(0),
        stop: &STOP,
        recognizer,
        adaptation,
        threads,
        before: &before,
        hash: matches!(writer, Writer::Directory(_)),
    };
    let (sender, events) = mpsc::channel();
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            let (shared, sender) = (&shared, sender.clone());
            scope.spawn(move || work(shared, &sender));
        }
        drop(sender);
        // On standard output transcripts appear in the inputs' order, whichever is finished first.
        let mut waiting = BTreeMap::new();
        let mut turn = 0;
        for event in &events {
            let (index, outcome) = match event {
                Event::Progress(seconds) => {
                    progress.advance(seconds);
                    continue;
                }
                Event::Finished { index, outcome } => (index, outcome),
            };
            let in_order = matches!(writer, Writer::Stdout { .. });
            waiting.insert(index, outcome);
            while let Some((index, outcome)) = if in_order {
                waiting.remove_entry(&turn)
            } else {
                waiting.pop_first()
            } {
                turn += 1;
                let input = &inputs[index];
                let stopped = match outcome {
                    Outcome::Done(done) => finish(input, &done, recognizer, adaptation, writer, progress),
                    Outcome::Skipped => {
                        progress.skipped(&input.name());
                        None
                    }
                    Outcome::Failed(message) => {
                        progress.failed(&input.name(), &message);
                        None
                    }
                    Outcome::Interrupted => None,
                };
                if stopped.is_some() {
                    STOP.store(true, Ordering::Relaxed);
                    return stopped;
                }
            }
        }
        None
    })
}

/// Writes one transcript.
fn finish(
    input: &Input,
    done: &Done,
    recognizer: &Recognizer,
    adaptation: &AdaptationConfig,
    writer: &Writer,
    progress: &mut Progress,
) -> Option<Stop> {
    let name = input.name();
    for warning in &done.warnings {
        progress.warning(&name, warning);
    }
    let document = Document {
        file: &name,
        transcript: &done.transcript,
        model: recognizer.info(),
        settings: adaptation,
        warnings: &done.warnings,
    };
    match writer {
        Writer::Directory(directory) => {
            let written = lock(directory).write(input, &done.content, &document);
            match written {
                Ok(()) => progress.done(&name, &done.transcript),
                Err(error) if error.fatal => {
                    return Some(Stop::Failure(error.message));
                }
                Err(error) => progress.failed(&name, &error.message),
            }
        }
        Writer::Stdout { format, several } => {
            let text = match (format, several) {
                (Format::Json, true) => document.json_line(),
                (_, true) => format!("==> {name} <==\n{}", format.render(&document)),
                (_, false) => format.render(&document),
            };
            let written = progress.suspend(|| {
                let mut stdout = std::io::stdout().lock();
                stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush())
            });
            match written {
                Ok(()) => progress.done(&name, &done.transcript),
                Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Some(Stop::NobodyReads),
                Err(error) => {
                    return Some(Stop::Failure(format!(
                        "standard output could not be written to: {error}"
                    )));
                }
            }
        }
    }
    None
}

impl Writer {
    /// Whether a recording is done already; an error when its output is somebody else's.
    fn is_done(&self, input: &Input, content: &str) -> Result<bool, String> {
        let Self::Directory(directory) = self else {
            return Ok(false);
        };
        match lock(directory).decide(input, (!input.is_stdin()).then_some(content)) {
            Decision::Skip => Ok(true),
            Decision::Work => Ok(false),
            Decision::Foreign(output) => Err(format!(
                "{} exists and was not written by aurist; move it away, or give --overwrite",
                output.display()
            )),
        }
    }

    fn place(&self) -> Option<String> {
        match self {
            Self::Directory(directory) => Some(lock(directory).path().display().to_string()),
            Self::Stdout { .. } => None,
        }
    }
}

/// A worker that panicked while it held the lock only read.
fn lock(directory: &Mutex<OutputDirectory>) -> std::sync::MutexGuard<'_, OutputDirectory> {
    directory.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Everything that decides a transcript, as one hash.
fn settings_key(recognizer: &Recognizer, adaptation: &AdaptationConfig) -> String {
    let text = serde_json::json!([TRANSCRIPT_VERSION, recognizer.info().identity, adaptation]).to_string();
    blake3::hash(text.as_bytes()).to_hex().to_string()
}
