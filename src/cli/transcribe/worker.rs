//! A worker: takes recordings from the queue and transcribes them in its own session, one after another.

use super::inputs::{Input, Source};
use super::journal::{Entry, Status};
use super::outputs::{OutputDir, WriteError};
use super::queue::Queue;
use super::streams::{self, Course, Stream};
use crate::adapt::Profile;
use crate::audio::{AudioError, AudioReader, SAMPLE_RATE, Segment};
use crate::cli::interrupt::Interrupt;
use crate::decode::whisper::DecodingOptions;
use crate::engine::EngineError;
use crate::output::{Document, Format};
use crate::{AdaptationConfig, Error, Recognizer, Session, Transcript, VERSION};
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::mpsc::Sender;
use std::time::Instant;

/// Seconds of audio that may be decoded but not yet recognised, about.
const LONGEST_UTTERANCE: f64 = 30.0;

/// What every worker of a run shares.
pub(super) struct Job {
    pub(super) inputs: Vec<Input>,
    /// What is taken from the queue.
    pub(super) streams: Vec<Stream>,
    pub(super) queue: Queue,
    pub(super) recognizer: Recognizer,
    pub(super) adaptation: AdaptationConfig,
    /// Of Whisper's decoder.
    pub(super) decoding: DecodingOptions,
    pub(super) settings_key: String,
    pub(super) threads: usize,
    pub(super) to: Destination,
    /// Where the one stream is kept, when the user says so.
    pub(super) state: Option<PathBuf>,
    pub(super) interrupt: Interrupt,
    /// What all workers' utterances make of the model, when the run is to save that.
    pub(super) profile: Option<Mutex<Profile>>,
}

/// Where outputs go.
pub(super) enum Destination {
    Directory(Box<OutputDir>),
    /// Standard output, in one format, labelled with the file or not.
    Stdout(Format, bool),
}

/// What a worker tells the run.
pub(super) enum Event {
    /// So much of recording `index` is heard: seconds, and as a fraction where its length is known.
    Heard {
        index: usize,
        seconds: f64,
        fraction: Option<f64>,
    },
    /// Recording `index` is over with.
    Finished { index: usize, outcome: Outcome },
    /// A worker has ended.
    Ended,
    /// Ctrl-C asks the run to stop.
    Stop,
}

/// How a recording ended.
pub(super) enum Outcome {
    Done(Box<Done>),
    /// Done by an earlier run.
    Skipped,
    Failed(String),
    /// It failed for a reason that every other would fail for too.
    Fatal(String),
    Interrupted,
}

/// A transcribed recording.
pub(super) struct Done {
    /// Its output, if that goes to standard output.
    pub(super) text: Option<String>,
    /// Its outputs' paths otherwise.
    pub(super) outputs: Vec<PathBuf>,
    /// Seconds of audio.
    pub(super) duration: f64,
    /// Wall-clock seconds.
    pub(super) seconds: f64,
    pub(super) entropy: Entropy,
    pub(super) warnings: Vec<String>,
}

/// Entropy before and after adaptation, summed over utterances.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Entropy {
    before: f64,
    after: f64,
    utterances: usize,
}

impl Entropy {
    fn of(transcript: &Transcript) -> Self {
        let mut sum = Self::default();
        for utterance in &transcript.utterances {
            if let (Some(before), Some(after)) = (utterance.entropy_before, utterance.entropy_after) {
                sum.add(Self {
                    before: before.into(),
                    after: after.into(),
                    utterances: 1,
                });
            }
        }
        sum
    }

    pub(super) fn add(&mut self, other: Self) {
        self.before += other.before;
        self.after += other.after;
        self.utterances += other.utterances;
    }

    /// The means over utterances, in nats.
    pub(super) fn means(self) -> Option<(f64, f64)> {
        let count = self.utterances as f64;
        (self.utterances > 0).then(|| (self.before / count, self.after / count))
    }
}

/// Tells the run that this worker ended, however it did.
struct EndNotice(Sender<Event>);

impl Drop for EndNotice {
    fn drop(&mut self) {
        let _ = self.0.send(Event::Ended);
    }
}

/// Where the last panic happened: all that the hook may say, since standard error belongs to the progress bar.
static PANICKED_AT: Mutex<String> = Mutex::new(String::new());

/// Keeps panics off standard error: a worker reports its own as its recording's error.
pub(in crate::cli) fn quiet_panics() {
    std::panic::set_hook(Box::new(|info| {
        if let (Some(at), Ok(mut last)) = (info.location(), PANICKED_AT.lock()) {
            *last = at.to_string();
        }
    }));
}

/// Works until the queue is empty. Nobody need listen to `events` any more: then the work is for nothing, and ends.
pub(super) fn work(job: &Job, events: Sender<Event>) {
    let notice = EndNotice(events);
    let mut session = None;
    while let Some(stream) = job.queue.take() {
        let Some(stream) = job.streams.get(stream) else { return };
        if !follow(job, stream, &mut session, &notice.0) {
            return;
        }
    }
}

/// One stream's recordings in order; `false` when nobody listens any more.
fn follow(job: &Job, stream: &Stream, session: &mut Option<Session>, events: &Sender<Event>) -> bool {
    let (mut course, done) = match begin(job, stream) {
        Ok(begun) => begun,
        Err(message) => {
            let index = stream.inputs.first().copied().unwrap_or_default();
            let outcome = Outcome::Fatal(message);
            return events.send(Event::Finished { index, outcome }).is_ok();
        }
    };
    for (place, &index) in stream.inputs.iter().enumerate() {
        if place < done {
            if let (Some(course), Some(input)) = (&mut course, job.inputs.get(index)) {
                course.skipped(streams::folder(input));
            }
            let outcome = Outcome::Skipped;
            if events.send(Event::Finished { index, outcome }).is_err() {
                return false;
            }
            continue;
        }
        // After a panic the session is in an unknown state; it is dropped with the unwinding.
        let mut mine = session.take();
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            let outcome = process(
                job,
                index,
                &mut mine,
                stream.key.as_deref().zip(course.as_mut()),
                events,
            );
            (outcome, mine)
        }));
        let outcome = match outcome {
            Ok((outcome, kept)) => {
                *session = kept;
                outcome
            }
            Err(panic) => Outcome::Failed(describe_panic(panic.as_ref())),
        };
        let outcome = match (outcome, &job.to) {
            (Outcome::Failed(message), Destination::Directory(directory)) => {
                record_failure(job, index, directory, message)
            }
            (outcome, _) => outcome,
        };
        let ended = matches!(outcome, Outcome::Fatal(_) | Outcome::Interrupted);
        if events.send(Event::Finished { index, outcome }).is_err() || ended {
            return false;
        }
    }
    true
}

/// Where a stream begins, and how many of its recordings are behind it; `None` where nothing is carried.
fn begin(job: &Job, stream: &Stream) -> Result<(Option<Course>, usize), String> {
    let Some(key) = &stream.key else {
        return Ok((None, 0));
    };
    let of_user = job
        .state
        .as_deref()
        .map(|file| Course::from_file(file, job.recognizer.info(), &job.adaptation))
        .transpose()
        .map_err(|error| error.to_string())?;
    let Destination::Directory(directory) = &job.to else {
        return Ok((Some(of_user.unwrap_or_else(|| Course::new(None))), 0));
    };
    let (known, mut course) = match of_user {
        Some(course) => (true, course),
        None => (false, Course::new(Some(directory.root().join(streams::file_name(key))))),
    };
    let inputs = stream.inputs.iter().filter_map(|index| job.inputs.get(*index));
    // A recording that cannot be read fails in its turn; nothing from it on is done.
    let contents: Vec<_> = inputs
        .map(|input| content_hash(&input.source).unwrap_or_default())
        .collect();
    let done = course.resume(directory, &stream.inputs, &contents, &job.settings_key, known);
    Ok((Some(course), done))
}

pub(in crate::cli) fn describe_panic(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message");
    let at = PANICKED_AT.lock().map(|at| at.clone()).unwrap_or_default();
    format!("internal error: {text} ({at}); please report it with what `aurist doctor` says")
}

fn record_failure(job: &Job, index: usize, directory: &OutputDir, message: String) -> Outcome {
    let Some(input) = job.inputs.get(index) else {
        return Outcome::Failed(message);
    };
    match directory.record_failure(entry(input, None, job.settings_key.clone()), &message) {
        Ok(()) => Outcome::Failed(message),
        Err(WriteError::File(error) | WriteError::Fatal(error)) => Outcome::Fatal(error),
    }
}

fn entry(input: &Input, content: Option<String>, settings: String) -> Entry {
    Entry {
        status: Status::Writing,
        file: input.name.clone(),
        content,
        settings,
        outputs: Vec::new(),
        formats: Vec::new(),
        duration: 0.0,
        seconds: 0.0,
        message: None,
        version: VERSION.to_string(),
    }
}

/// One recording; in a continual method's stream, the next one of its course.
fn process(
    job: &Job,
    index: usize,
    session: &mut Option<Session>,
    mut stream: Option<(&str, &mut Course)>,
    events: &Sender<Event>,
) -> Outcome {
    let Some(input) = job.inputs.get(index) else {
        return Outcome::Failed("no such input".to_string());
    };
    let begun = Instant::now();
    let mut content = None;
    if let Destination::Directory(directory) = &job.to
        && let Err(message) = directory.check(index)
    {
        return Outcome::Failed(message);
    }
    if stream.is_some() || matches!(job.to, Destination::Directory(_)) {
        content = match content_hash(&input.source) {
            Ok(content) => content,
            Err(error) => return Outcome::Failed(format!("it could not be read: {error}")),
        };
    }
    // What is done in a stream, its course knows.
    if let (Destination::Directory(directory), Some(content), None) = (&job.to, &content, &stream)
        && directory.is_done(index, content, &job.settings_key)
    {
        return Outcome::Skipped;
    }
    let session = match session {
        Some(session) => session,
        None => match job
            .recognizer
            .decoding_session(&job.adaptation, &job.decoding, job.threads)
        {
            Ok(mut new) => {
                if job.profile.is_some() {
                    new.gather_profile();
                }
                session.insert(new)
            }
            Err(error) => return Outcome::Fatal(error.to_string()),
        },
    };
    // What a recording that failed half-way left.
    session.take_profile();
    let mut settings_key = job.settings_key.clone();
    if let Some((_, course)) = &mut stream {
        settings_key = course.settings_key(&settings_key);
        if let Err(error) = course.place(session, &streams::folder(input)) {
            return Outcome::Fatal(error.to_string());
        }
    }
    let (transcript, warnings) = match transcribe(job, index, input, session, events) {
        Ok(Some(transcribed)) => transcribed,
        Ok(None) => return Outcome::Interrupted,
        Err(Trouble::Recording(message)) => return Outcome::Failed(message),
        Err(Trouble::Device(message)) => return Outcome::Fatal(message),
    };
    if let Some(Ok(mut profile)) = job.profile.as_ref().map(Mutex::lock) {
        profile.merge(session.take_profile());
    }
    let (duration, seconds) = (transcript.duration, begun.elapsed().as_secs_f64());
    let document = Document {
        file: &input.name,
        transcript: &transcript,
        model: job.recognizer.info(),
        settings: &job.adaptation,
        decoding: job.recognizer.is_whisper().then_some(&job.decoding),
        stream: stream.as_ref().map(|(key, _)| *key),
        warnings: &warnings,
    };
    let (mut text, mut outputs) = (None, Vec::new());
    match &job.to {
        Destination::Stdout(format, true) => text = Some(format.render_labelled(&document)),
        Destination::Stdout(format, false) => text = Some(format.render(&document)),
        Destination::Directory(directory) => {
            let entry = Entry {
                duration,
                seconds,
                ..entry(input, content.clone(), settings_key)
            };
            match directory.write(index, entry, |format| format.render(&document)) {
                Ok(written) => outputs = written,
                Err(WriteError::File(message)) => return Outcome::Failed(message),
                Err(WriteError::Fatal(message)) => return Outcome::Fatal(message),
            }
        }
    }
    // After the outputs: a run that is killed between the two makes them once more, from the state before.
    if let Some((_, course)) = stream {
        course.heard(session, content.as_deref(), streams::folder(input));
        if let Err(message) = course.save() {
            return Outcome::Fatal(message);
        }
    }
    let entropy = Entropy::of(&transcript);
    Outcome::Done(Box::new(Done {
        text,
        outputs,
        duration,
        seconds,
        entropy,
        warnings,
    }))
}

/// Why a recording has no transcript.
enum Trouble {
    /// It, or what it takes, is at fault; the next may do.
    Recording(String),
    /// No other would do any better.
    Device(String),
}

impl From<AudioError> for Trouble {
    fn from(error: AudioError) -> Self {
        Self::Recording(error.to_string())
    }
}

/// BLAKE3 of a recording's bytes, hexadecimal; `None` for what can be read only once.
fn content_hash(source: &Source) -> std::io::Result<Option<String>> {
    match source {
        Source::File(path) if is_plain(path)? => {
            let mut hasher = blake3::Hasher::new();
            hasher.update_reader(File::open(path)?)?;
            Ok(Some(hasher.finalize().to_hex().to_string()))
        }
        _ => Ok(None),
    }
}

fn is_plain(path: &Path) -> std::io::Result<bool> {
    Ok(path.metadata()?.is_file())
}

/// One recording, from sound to transcript; `None` if the run was interrupted. Holds one chunk and one utterance of
/// audio at a time, or the few that a GPU takes together, so that a recording of hours needs no more memory than one of seconds.
fn transcribe(
    job: &Job,
    index: usize,
    input: &Input,
    session: &mut Session,
    events: &Sender<Event>,
) -> Result<Option<(Transcript, Vec<String>)>, Trouble> {
    let opened = match &input.source {
        Source::File(path) => AudioReader::open(path),
        Source::Stdin => AudioReader::from_stdin(),
    };
    let mut reader = opened?;
    let length = reader.duration_hint().filter(|length| *length > 0.0);
    if job.recognizer.is_whisper() {
        let transcript = transcribe_whole(job, index, &mut reader, session, events)?;
        return Ok(transcript.map(|transcript| (transcript, reader.warnings().to_vec())));
    }
    let mut segmenter = job.recognizer.segmenter();
    let mut transcript = Transcript::default();
    let mut samples = 0_usize;
    // Utterances that wait for others, to be transcribed together.
    let mut waiting: Vec<Segment> = Vec::new();
    while let Some(chunk) = reader.next_chunk()? {
        samples += chunk.len();
        waiting.extend(segmenter.push(&chunk));
        if session.are_enough(waiting.iter().map(|segment| segment.samples.len())) {
            if !recognize(job, session, &waiting, &mut transcript)? {
                return Ok(None);
            }
            waiting.clear();
        }
        // Decoding runs ahead of recognition by an utterance; only in silence is what is decoded also done with.
        let recognised = transcript.utterances.last().map_or(0.0, |utterance| utterance.end);
        let seconds = recognised.max(seconds(samples) - LONGEST_UTTERANCE);
        let fraction = length.map(|length| (seconds / length).min(1.0));
        let _ = events.send(Event::Heard {
            index,
            seconds,
            fraction,
        });
    }
    waiting.extend(segmenter.finish());
    if !recognize(job, session, &waiting, &mut transcript)? {
        return Ok(None);
    }
    transcript.duration = seconds(samples);
    Ok(Some((transcript, reader.warnings().to_vec())))
}

/// A recording for Whisper, whose loudness is judged against the whole of it: it is held in memory, 64 kB a second.
fn transcribe_whole(
    job: &Job,
    index: usize,
    reader: &mut AudioReader,
    session: &mut Session,
    events: &Sender<Event>,
) -> Result<Option<Transcript>, Trouble> {
    let mut samples = Vec::new();
    while let Some(chunk) = reader.next_chunk()? {
        samples.extend(chunk);
        if job.interrupt.is_set() {
            return Ok(None);
        }
    }
    let length = seconds(samples.len());
    let transcript = session.transcribe_recording(&samples, &mut |seconds| {
        let fraction = (length > 0.0).then(|| (seconds / length).min(1.0));
        let _ = events.send(Event::Heard {
            index,
            seconds,
            fraction,
        });
        !job.interrupt.is_set()
    });
    transcript.map_err(|error| Trouble::Recording(error.to_string()))
}

/// Transcribes the segments in order; `false` if the run was interrupted.
fn recognize(
    job: &Job,
    session: &mut Session,
    segments: &[Segment],
    transcript: &mut Transcript,
) -> Result<bool, Trouble> {
    let told = |error: Error, start: f64| match error {
        Error::Engine(EngineError::DeviceFailed { .. }) => Trouble::Device(error.to_string()),
        error => Trouble::Recording(format!("at {start:.1} s: {error}")),
    };
    let mut done = 0;
    while let Some(segment) = segments.get(done) {
        if job.interrupt.is_set() {
            return Ok(false);
        }
        let (start, rest) = (seconds(segment.start), &segments[done..]);
        let count = session.together(rest.iter().map(|segment| segment.samples.len()));
        let parts = rest[..count].iter();
        let parts: Vec<_> = parts.map(|part| (&part.samples[..], seconds(part.start))).collect();
        let together = session
            .transcribe_together(&parts)
            .map_err(|error| told(error, start))?;
        let utterances = match together {
            Some(together) => together,
            None => {
                let utterance = session.transcribe_utterance(&segment.samples, start);
                vec![utterance.map_err(|error| told(error, start))?]
            }
        };
        done += utterances.len();
        transcript.utterances.extend(utterances);
    }
    Ok(!job.interrupt.is_set())
}

fn seconds(samples: usize) -> f64 {
    samples as f64 / f64::from(SAMPLE_RATE)
}
