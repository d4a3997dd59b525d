//! One worker: takes recordings from the queue, transcribes them with a session of its own.

use super::inputs::Input;
use crate::audio::{AudioReader, SAMPLE_RATE};
use crate::{AdaptationConfig, Recognizer, Session, Transcript};
use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::Sender;

/// What a worker tells the main thread.
pub(super) enum Event {
    /// So many seconds of a recording have been transcribed.
    Progress(f64),
    /// A recording is finished, or given up.
    Finished {
        /// Its place among the inputs.
        index: usize,
        /// What came of it.
        outcome: Outcome,
    },
}

/// What came of one recording.
pub(super) enum Outcome {
    /// Its transcript.
    Done(Box<Done>),
    /// It was done before.
    Skipped,
    /// It could not be transcribed.
    Failed(String),
    /// The user interrupted.
    Interrupted,
}

/// A finished recording.
pub(super) struct Done {
    pub(super) content: String,
    pub(super) transcript: Transcript,
    pub(super) warnings: Vec<String>,
}

/// What all workers share.
pub(super) struct Shared<'a> {
    pub(super) inputs: &'a [Input],
    pub(super) next: AtomicUsize,
    pub(super) stop: &'a AtomicBool,
    pub(super) recognizer: &'a Recognizer,
    pub(super) adaptation: &'a AdaptationConfig,
    pub(super) threads: usize,
    /// Says, by place and content hash, whether a recording is done already, or why it cannot be.
    pub(super) before: &'a (dyn Fn(usize, &str) -> Result<bool, String> + Sync),
    /// Whether `before` needs content hashes at all.
    pub(super) hash: bool,
}

/// Works until the queue is empty, the user interrupts, or nobody listens any more.
pub(super) fn work(shared: &Shared<'_>, events: &Sender<Event>) {
    let mut session: Option<Session> = None;
    loop {
        let index = shared.next.fetch_add(1, Ordering::Relaxed);
        let Some(input) = shared.inputs.get(index) else { return };
        let outcome = if shared.stop.load(Ordering::Relaxed) {
            Outcome::Interrupted
        } else {
            catch_unwind(AssertUnwindSafe(|| attempt(shared, input, index, &mut session, events))).unwrap_or_else(
                |_| {
                    // Its session may be in any state; the next recording gets a new one.
                    session = None;
                    Outcome::Failed("an internal error; please report it, with the recording if you can".into())
                },
            )
        };
        if events.send(Event::Finished { index, outcome }).is_err() {
            return;
        }
    }
}

fn attempt(
    shared: &Shared<'_>,
    input: &Input,
    index: usize,
    session: &mut Option<Session>,
    events: &Sender<Event>,
) -> Outcome {
    match transcribe(shared, input, index, session, events) {
        Ok(outcome) => outcome,
        Err(message) => Outcome::Failed(message),
    }
}

fn transcribe(
    shared: &Shared<'_>,
    input: &Input,
    index: usize,
    session: &mut Option<Session>,
    events: &Sender<Event>,
) -> Result<Outcome, String> {
    let content = if !shared.hash {
        String::new()
    } else if input.is_stdin() {
        // It can be read only once; it is never taken for done.
        "stdin".to_string()
    } else {
        hash(input).map_err(|error| format!("it could not be read: {error}"))?
    };
    if (shared.before)(index, &content)? {
        return Ok(Outcome::Skipped);
    }
    let reader = if input.is_stdin() {
        AudioReader::from_stdin()
    } else {
        AudioReader::open(&input.path)
    };
    let mut reader = reader.map_err(|error| error.to_string())?;
    let session = match session {
        Some(session) => session,
        None => {
            let new = shared.recognizer.session(shared.adaptation, shared.threads);
            session.insert(new.map_err(|error| error.to_string())?)
        }
    };
    let mut segmenter = shared.recognizer.segmenter();
    let mut transcript = Transcript::default();
    let mut samples = 0u64;
    let mut told = 0.0;
    loop {
        let chunk = reader.next_chunk().map_err(|error| error.to_string())?;
        let last = chunk.is_none();
        let segments = match chunk {
            Some(chunk) => {
                samples += chunk.len() as u64;
                segmenter.push(&chunk)
            }
            None => std::mem::replace(&mut segmenter, shared.recognizer.segmenter()).finish(),
        };
        for segment in segments {
            if shared.stop.load(Ordering::Relaxed) {
                return Ok(Outcome::Interrupted);
            }
            let start = segment.start as f64 / SAMPLE_RATE as f64;
            let utterance = session
                .transcribe_utterance(&segment.samples, start)
                .map_err(|error| error.to_string())?;
            let _ = events.send(Event::Progress(utterance.end - told));
            told = utterance.end;
            transcript.utterances.push(utterance);
        }
        if shared.stop.load(Ordering::Relaxed) {
            return Ok(Outcome::Interrupted);
        }
        if last {
            break;
        }
    }
    transcript.duration = samples as f64 / SAMPLE_RATE as f64;
    let _ = events.send(Event::Progress(transcript.duration - told));
    Ok(Outcome::Done(Box::new(Done {
        content,
        transcript,
        warnings: reader.warnings().to_vec(),
    })))
}

fn hash(input: &Input) -> std::io::Result<String> {
    let mut file = std::fs::File::open(&input.path)?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0u8; 1 << 16];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hasher.finalize().to_hex().to_string()),
            Ok(count) => {
                hasher.update(&buffer[..count]);
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
