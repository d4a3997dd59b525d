//! Where the samples come from: a recording played at its pace, or a microphone.

use super::arguments::Arguments;
use crate::audio::{AudioReader, SAMPLE_RATE};
use crate::cli::Failure;
use std::path::Path;
use std::time::{Duration, Instant};

/// Samples handed on at a time, 20 ms.
const PIECE: usize = SAMPLE_RATE as usize / 50;

/// What a source gives.
pub(super) enum Heard {
    Samples(Vec<f32>),
    /// So many seconds were not heard.
    #[cfg_attr(not(feature = "mic"), allow(dead_code))]
    Gap(f64),
    /// Nothing yet; ask again.
    #[cfg_attr(not(feature = "mic"), allow(dead_code))]
    Nothing,
    End,
}

/// A source of samples.
pub(super) trait Source {
    /// The next samples, when it is time for them.
    fn next(&mut self) -> Result<Heard, Failure>;
    /// What was wrong but survivable, since the last call.
    fn warnings(&mut self) -> Vec<String>;
}

/// The source that was asked for.
pub(super) fn open(typed: &Arguments) -> Result<Box<dyn Source + Send>, Failure> {
    match &typed.input {
        Some(path) => Ok(Box::new(Playback::open(path, typed.speed)?)),
        #[cfg(feature = "mic")]
        None => Ok(Box::new(super::microphone::Microphone::open(
            typed.device_name.as_deref(),
        )?)),
        #[cfg(not(feature = "mic"))]
        None => Err(Failure::usage(
            "this build cannot use a microphone: build aurist with --features mic, or give --input FILE (or - for a pipe)",
        )),
    }
}

/// A recording, played.
struct Playback {
    reader: AudioReader,
    name: String,
    speed: f64,
    begun: Option<Instant>,
    played: usize,
    waiting: Vec<f32>,
    is_over: bool,
}

impl Playback {
    fn open(path: &Path, speed: f64) -> Result<Self, Failure> {
        let name = path.display().to_string();
        let reader = if name == "-" {
            AudioReader::from_stdin()
        } else {
            AudioReader::open(path)
        };
        let reader = reader.map_err(|error| Failure::failed(format_args!("{name}: {error}")))?;
        Ok(Self {
            reader: reader.in_pieces_of(PIECE),
            name,
            speed,
            begun: None,
            played: 0,
            waiting: Vec::new(),
            is_over: false,
        })
    }
}

impl Source for Playback {
    fn next(&mut self) -> Result<Heard, Failure> {
        while self.waiting.len() < PIECE && !self.is_over {
            let chunk = self.reader.next_chunk();
            match chunk.map_err(|error| Failure::failed(format_args!("{}: {error}", self.name)))? {
                Some(chunk) => self.waiting.extend(chunk),
                None => self.is_over = true,
            }
        }
        if self.waiting.is_empty() {
            return Ok(Heard::End);
        }
        let rest = self.waiting.split_off(PIECE.min(self.waiting.len()));
        let piece = std::mem::replace(&mut self.waiting, rest);
        self.played += piece.len();
        if self.speed > 0.0 {
            // A pipe may be slower than real time: then it sets the pace, and nothing is made up for afterwards.
            let due = Duration::from_secs_f64(self.played as f64 / f64::from(SAMPLE_RATE) / self.speed);
            let begun = *self.begun.get_or_insert_with(Instant::now);
            std::thread::sleep(due.saturating_sub(begun.elapsed()));
        }
        Ok(Heard::Samples(piece))
    }

    fn warnings(&mut self) -> Vec<String> {
        if self.is_over {
            self.reader.warnings().to_vec()
        } else {
            Vec::new()
        }
    }
}
