//! A recording being transcribed for a request: an utterance at a time, in turn with everybody else's.

use super::error::ApiError;
use super::form::Share;
use crate::adapt::StreamState;
use crate::audio::{AudioReader, SAMPLE_RATE, Segment, Segmenter};
use crate::decode::whisper::{DecodingError, DecodingOptions, SpokenLanguage};
use crate::live::{Lane, Seat, Worker};
use crate::{AdaptationConfig, Error, Recognizer, Utterance};
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::Instant;

/// What a job tells its request.
#[derive(Debug)]
pub(super) enum Progress {
    Utterance(Box<Utterance>),
    /// The end: seconds of audio, and the language where a multilingual Whisper wrote it.
    Done(f64, Option<SpokenLanguage>),
    Failed(ApiError),
}

/// What a request asks for, and what it may cost.
pub(super) struct Order {
    pub(super) recognizer: Recognizer,
    pub(super) settings: AdaptationConfig,
    /// For a Whisper that writes with its decoder.
    pub(super) decoding: DecodingOptions,
    /// The longest recording.
    pub(super) most_seconds: f64,
    /// After this it is given up.
    pub(super) deadline: Instant,
    /// Its place among the requests, and its share of the memory for uploads: both are free again when the computing is
    /// over, however slowly the answer is read.
    pub(super) _place: (OwnedSemaphorePermit, Share),
}

/// A recording, and how far it is.
pub(super) struct Job {
    order: Order,
    /// Nobody listens any more when this is closed: then the job ends.
    to: UnboundedSender<Progress>,
    seat: Arc<Seat>,
    audio: Audio,
    segments: VecDeque<Segment>,
    samples: usize,
    carried: Option<StreamState>,
    language: Option<SpokenLanguage>,
}

/// Seconds of a recording that are searched for speech in one turn.
const SEARCH: f64 = 60.0;

/// What a search came to.
enum Found {
    Segment(Segment),
    /// Nobody spoke so far: the next turn goes on from there.
    Nothing,
    End,
}

enum Audio {
    Encoded(Vec<u8>, Option<String>),
    Open(Box<(AudioReader, Segmenter)>),
    Over,
}

impl Job {
    /// Of a recording in memory.
    pub(super) fn new(
        order: Order,
        (file, extension): (Vec<u8>, Option<String>),
        to: UnboundedSender<Progress>,
        seat: Arc<Seat>,
    ) -> Self {
        Self {
            order,
            to,
            seat,
            audio: Audio::Encoded(file, extension),
            segments: VecDeque::new(),
            samples: 0,
            carried: None,
            language: None,
        }
    }

    /// Gets in line for the next utterance.
    pub(super) fn submit(mut self) {
        let seat = Arc::clone(&self.seat);
        let task = move |worker: &mut Worker| {
            if self.to.is_closed() {
                return;
            }
            let to = self.to.clone();
            let end = match self.next(worker) {
                Ok(Some(utterances)) => {
                    let tell = |utterance| to.send(Progress::Utterance(Box::new(utterance))).is_ok();
                    if utterances.into_iter().all(tell) {
                        self.submit();
                    }
                    return;
                }
                Ok(None) => {
                    let seconds = self.samples as f64 / f64::from(SAMPLE_RATE);
                    Progress::Done(seconds, self.language.take())
                }
                Err(error) => Progress::Failed(error),
            };
            // Whoever hears of the end may come again at once: the place is free before.
            drop(self);
            let _ = to.send(end);
        };
        seat.submit(Lane::Adapt, false, Box::new(task));
    }

    /// The next utterance, or a Whisper's segments of the next stretch of speech; `None` at the recording's end.
    fn next(&mut self, worker: &mut Worker) -> Result<Option<Vec<Utterance>>, ApiError> {
        if Instant::now() > self.order.deadline {
            return Err(ApiError::late());
        }
        let segment = match self.segment()? {
            Found::Segment(segment) => segment,
            Found::Nothing => return Ok(Some(Vec::new())),
            Found::End => return Ok(None),
        };
        let settings = &self.order.settings;
        let session = worker
            .decoding_session(settings, &self.order.decoding)
            .map_err(failed)?;
        match &self.carried {
            Some(carried) => session.resume_stream(carried).map_err(failed)?,
            None => session.begin_stream(),
        }
        session.limit_steps(usize::MAX);
        session.limit_time(None);
        let start = segment.start as f64 / f64::from(SAMPLE_RATE);
        let (utterances, language) = session
            .transcribe_stretch(&segment.samples, start, self.language.as_ref())
            .map_err(failed)?;
        self.language = self.language.take().or(language);
        self.carried = settings.method.is_continual().then(|| session.stream_state());
        Ok(Some(utterances))
    }

    fn segment(&mut self) -> Result<Found, ApiError> {
        let unreadable = |error: crate::audio::AudioError| ApiError::invalid("file", format!("the recording: {error}"));
        let begun = self.samples;
        loop {
            if let Some(segment) = self.segments.pop_front() {
                return Ok(Found::Segment(segment));
            }
            if (self.samples - begun) as f64 > SEARCH * f64::from(SAMPLE_RATE) {
                return Ok(Found::Nothing);
            }
            match &mut self.audio {
                Audio::Over => return Ok(Found::End),
                Audio::Encoded(bytes, extension) => {
                    let reader = AudioReader::from_bytes(std::mem::take(bytes), extension.as_deref());
                    let opened = (reader.map_err(unreadable)?, self.order.recognizer.segmenter());
                    self.audio = Audio::Open(Box::new(opened));
                }
                Audio::Open(open) => match open.0.next_chunk().map_err(unreadable)? {
                    Some(chunk) => {
                        self.samples += chunk.len();
                        let most = self.order.most_seconds;
                        if self.samples as f64 > most * f64::from(SAMPLE_RATE) {
                            let message = format!("the recording is longer than {most:.0} s");
                            return Err(ApiError::too_large(message));
                        }
                        self.segments.extend(open.1.push(&chunk));
                    }
                    None => {
                        if let Audio::Open(open) = std::mem::replace(&mut self.audio, Audio::Over) {
                            self.segments.extend(open.1.finish());
                        }
                    }
                },
            }
        }
    }
}

fn failed(error: Error) -> ApiError {
    match error {
        Error::Decoding(error @ (DecodingError::EnglishOnly(_) | DecodingError::UnknownLanguage(_))) => {
            ApiError::invalid("language", error)
        }
        error => ApiError::internal(error),
    }
}
