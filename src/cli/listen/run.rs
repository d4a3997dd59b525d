//! The run: one thread hears, the pool recognises, and this one passes everything on.

use super::arguments::Arguments;
use super::save::Recording;
use super::source::{self, Heard, Source};
use super::view::{Status, Unshown, View};
use crate::Device;
use crate::adapt::StreamState;
use crate::audio::EndpointConfig;
use crate::cli::interrupt::Interrupt;
use crate::cli::transcribe::{adaptation, load_model, quiet_panics};
use crate::cli::{Exit, Failure};
use crate::live::{Event, LiveConfig, LiveSession, Pool};
use crate::model::Bundled;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, channel, sync_channel};
use std::time::{Duration, Instant};

/// Pieces of sound that may wait for this thread; of 20 ms each, a few seconds.
const PIECES: usize = 200;
/// How often the screen changes at least.
const TICK: Duration = Duration::from_millis(50);

/// Runs the command.
pub(in crate::cli) fn run(typed: Arguments) -> Result<Exit, Failure> {
    if typed.list_devices {
        return list_devices();
    }
    typed.adaptation.check_live()?;
    let mut source = source::open(&typed)?;
    let recognizer = load_model(
        typed.model.as_deref(),
        Bundled::TinyEnCtc,
        typed.adaptation.load_adapted.as_deref(),
        Device::Cpu,
    )?;
    recognizer.check_live().map_err(Failure::failed)?;
    let settings = adaptation(&typed.adaptation, recognizer.default_adaptation());
    let config = LiveConfig {
        endpoint: EndpointConfig {
            hang_over: typed.hang_over,
            longest: typed.longest,
            ..EndpointConfig::default()
        },
        latency: typed.latency,
        lockstep: typed.input.is_some() && typed.speed == 0.0,
        ..LiveConfig::new(settings.clone())
    };
    let failed = |error: std::io::Error| Failure::failed(format_args!("cannot start: {error}"));
    let pool = Pool::on_all_cores(&recognizer).map_err(failed)?;
    let (send, events) = channel();
    let mut session = LiveSession::new(&pool, config, move |event| {
        let _ = send.send(event);
    });
    let state = typed.adaptation.state.as_deref();
    if let Some(path) = state.filter(|path| path.exists()) {
        let resumed = StreamState::load(path)
            .map_err(crate::Error::from)
            .and_then(|state| session.resume(state));
        resumed.map_err(|error| Failure::failed(format_args!("{}: {error}", path.display())))?;
    }
    let recording = typed.save.as_deref().map(|folder| {
        Recording::begin(folder, recognizer.info(), &settings).map_err(|error| unwritable(folder, &error))
    });
    let interrupt = Interrupt::listen(|| {})?;
    quiet_panics();
    let (heard, pieces) = sync_channel(PIECES);
    let reading = interrupt.clone();
    let reader = move || read(&mut *source, &heard, &reading);
    std::thread::Builder::new()
        .name("listen".into())
        .spawn(reader)
        .map_err(failed)?;
    let mut listening = Listening {
        session,
        events,
        view: View::new(typed.json),
        recording: recording.transpose()?,
        folder: typed.save.as_deref(),
        state,
        interrupt,
        failures: 0,
        is_closed: false,
        is_unshown: false,
    };
    let ended = listening.listen(&pieces);
    listening.view.end();
    let interrupted = ended?;
    Ok(if listening.failures > 0 {
        Exit::Failed
    } else if interrupted && typed.input.is_some() {
        Exit::Interrupted
    } else {
        Exit::Done
    })
}

#[cfg(feature = "mic")]
fn list_devices() -> Result<Exit, Failure> {
    let devices = super::microphone::list()?;
    let width = devices
        .iter()
        .map(|(identifier, _)| identifier.len())
        .max()
        .unwrap_or(0);
    for (identifier, name) in devices {
        println!("{identifier:width$}  {name}");
    }
    Ok(Exit::Done)
}

#[cfg(not(feature = "mic"))]
fn list_devices() -> Result<Exit, Failure> {
    Err(Failure::usage(
        "this build cannot use a microphone: build aurist with --features mic",
    ))
}

fn unwritable(folder: &Path, error: &std::io::Error) -> Failure {
    Failure::failed(format_args!("cannot write to {}: {error}", folder.display()))
}

/// What the reading thread sends: sound, a warning, or why it ends.
enum Piece {
    Heard(Heard),
    Warning(String),
    Failed(Failure),
}

fn read(source: &mut dyn Source, pieces: &SyncSender<Piece>, interrupt: &Interrupt) {
    while !interrupt.is_set() {
        let (piece, is_over) = match source.next() {
            Ok(Heard::End) => (Piece::Heard(Heard::End), true),
            Ok(heard) => (Piece::Heard(heard), false),
            Err(failure) => (Piece::Failed(failure), true),
        };
        for warning in source.warnings() {
            let _ = pieces.send(Piece::Warning(warning));
        }
        if pieces.send(piece).is_err() || is_over {
            break;
        }
    }
}

struct Listening<'a> {
    session: LiveSession,
    events: Receiver<Event>,
    view: View,
    recording: Option<Recording>,
    folder: Option<&'a Path>,
    state: Option<&'a Path>,
    interrupt: Interrupt,
    failures: usize,
    /// Nobody reads standard output any more.
    is_closed: bool,
    /// It could not be written to, which was said.
    is_unshown: bool,
}

impl Listening<'_> {
    /// To the end, or to Ctrl-C, of which it tells.
    fn listen(&mut self, pieces: &Receiver<Piece>) -> Result<bool, Failure> {
        let mut failed = None;
        let mut drawn = Instant::now();
        while !self.interrupt.is_set() {
            match pieces.recv_timeout(TICK) {
                Ok(Piece::Heard(Heard::Samples(samples))) => {
                    while !self.session.has_room() && !self.interrupt.is_set() && !self.is_closed {
                        self.pass_on(Some(TICK));
                    }
                    self.keep(|recording| recording.samples(&samples));
                    self.session.push(&samples);
                }
                Ok(Piece::Heard(Heard::Gap(seconds))) => self.gap(seconds),
                Ok(Piece::Heard(Heard::Nothing)) | Err(RecvTimeoutError::Timeout) => {}
                Ok(Piece::Heard(Heard::End)) => break,
                Ok(Piece::Warning(warning)) => self.view.tell(&format!("warning: {warning}")),
                Ok(Piece::Failed(failure)) => {
                    failed = Some(failure);
                    break;
                }
                Err(RecvTimeoutError::Disconnected) => break,
            }
            self.pass_on(None);
            if self.is_closed {
                return Ok(false);
            }
            if drawn.elapsed() >= TICK {
                drawn = Instant::now();
                self.view.status(&Status {
                    clock: self.session.clock(),
                    level: self.session.level(),
                    speech: self.session.is_speech(),
                });
            }
        }
        // What was said before Ctrl-C is still recognised; a second one ends the process.
        if self.interrupt.is_set() {
            self.view.finishing();
        }
        self.session.end();
        while !self.session.is_idle() && !self.is_closed {
            self.pass_on(Some(TICK));
        }
        self.pass_on(None);
        self.keep(Recording::end);
        failed.map_or(Ok(self.interrupt.is_set()), Err)
    }

    /// Silence in the audio, so that its clock is the captions'.
    fn gap(&mut self, seconds: f64) {
        self.session.gap(seconds);
        let silence = vec![0.0; (seconds * f64::from(crate::audio::SAMPLE_RATE)) as usize];
        self.keep(|recording| recording.samples(&silence));
    }

    /// Writes to the recording, if there is one. Whoever reads the captions is not to lose them because of a full disk: they
    /// go on, and the recording ends.
    fn keep(&mut self, write: impl FnOnce(&mut Recording) -> std::io::Result<()>) {
        if let Some(Err(error)) = self.recording.as_mut().map(write) {
            self.recording = None;
            let failure = unwritable(self.folder.unwrap_or(Path::new(".")), &error);
            self.tell_failure(&format!(
                "{}; captions go on, but nothing more is kept",
                failure.message
            ));
        }
    }

    fn tell_failure(&mut self, message: &str) {
        self.failures += 1;
        self.view.tell(&format!("error: {message}"));
    }

    /// Passes on what events there are, after waiting for one where told to.
    fn pass_on(&mut self, wait: Option<Duration>) {
        let first = wait.and_then(|wait| self.events.recv_timeout(wait).ok());
        let events: Vec<Event> = first.into_iter().chain(self.events.try_iter()).collect();
        for event in events {
            self.keep(|recording| recording.event(&event));
            match &event {
                Event::Failed { message, .. } => self.tell_failure(message),
                Event::Revision(_) => {
                    if let (Some(path), Some(state)) = (self.state, self.session.state())
                        && let Err(error) = state.save(path)
                    {
                        self.state = None;
                        self.tell_failure(&format!("cannot write {}: {error}", path.display()));
                    }
                }
                _ => {}
            }
            match self.view.event(&event) {
                Ok(()) => {}
                Err(Unshown::Closed) => self.is_closed = true,
                Err(Unshown::Failed(_)) if self.is_unshown => {}
                Err(Unshown::Failed(error)) => {
                    self.is_unshown = true;
                    self.tell_failure(&format!("cannot write to standard output: {error}"));
                }
            }
        }
    }
}
