//! A recording being transcribed for a request: an utterance at a time, in turn with everybody else's.

use super::error::ApiError;
use crate::adapt::StreamState;
use crate::audio::{AudioReader, SAMPLE_RATE, Segment, Segmenter};
use crate::live::{Lane, Seat, Worker};
use crate::{AdaptationConfig, Recognizer, Utterance};
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::mpsc::UnboundedSender;

/// What a job tells its request.
#[derive(Debug)]
pub(super) enum Progress {
    Utterance(Box<Utterance>),
    /// The end: seconds of audio.
    Done(f64),
    Failed(ApiError),
}

/// A recording, and how far it is.
pub(super) struct Job {
    pub(super) recognizer: Recognizer,
    pub(super) settings: AdaptationConfig,
    pub(super) most_seconds: f64,
    /// Nobody listens any more when this is closed: then the job ends.
    pub(super) to: UnboundedSender<Progress>,
    pub(super) seat: Arc<Seat>,
    audio: Audio,
    segments: VecDeque<Segment>,
    samples: usize,
    carried: Option<StreamState>,
}

enum Audio {
    Encoded(Vec<u8>, Option<String>),
    Open(Box<(AudioReader, Segmenter)>),
    Over,
}

impl Job {
    /// Of a recording in memory.
    pub(super) fn new(
        recognizer: Recognizer,
        settings: AdaptationConfig,
        most_seconds: f64,
        (file, extension): (Vec<u8>, Option<String>),
        to: UnboundedSender<Progress>,
        seat: Arc<Seat>,
    ) -> Self {
        Self {
            recognizer,
            settings,
            most_seconds,
            to,
            seat,
            audio: Audio::Encoded(file, extension),
            segments: VecDeque::new(),
            samples: 0,
            carried: None,
        }
    }

    /// Gets in line for the next utterance.
    pub(super) fn submit(mut self) {
        let seat = Arc::clone(&self.seat);
        let task = move |worker: &mut Worker| match self.next(worker) {
            Ok(Some(utterance)) => {
                if self.to.send(Progress::Utterance(Box::new(utterance))).is_ok() {
                    self.submit();
                }
            }
            Ok(None) => {
                let seconds = self.samples as f64 / f64::from(SAMPLE_RATE);
                let _ = self.to.send(Progress::Done(seconds));
            }
            Err(error) => {
                let _ = self.to.send(Progress::Failed(error));
            }
        };
        seat.submit(Lane::Adapt, false, Box::new(task));
    }

    /// The next utterance; `None` at the recording's end.
    fn next(&mut self, worker: &mut Worker) -> Result<Option<Utterance>, ApiError> {
        let Some(segment) = self.segment()? else {
            return Ok(None);
        };
        let internal = |error: crate::Error| ApiError::internal(error);
        let session = worker.session(&self.settings).map_err(internal)?;
        match &self.carried {
            Some(carried) => session.resume_stream(carried).map_err(internal)?,
            None => session.begin_stream(),
        }
        session.limit_steps(usize::MAX);
        session.limit_time(None);
        let start = segment.start as f64 / f64::from(SAMPLE_RATE);
        let utterance = session
            .transcribe_utterance(&segment.samples, start)
            .map_err(internal)?;
        self.carried = self.settings.method.is_continual().then(|| session.stream_state());
        Ok(Some(utterance))
    }

    fn segment(&mut self) -> Result<Option<Segment>, ApiError> {
        let unreadable = |error: crate::audio::AudioError| ApiError::invalid("file", format!("the recording: {error}"));
        loop {
            if let Some(segment) = self.segments.pop_front() {
                return Ok(Some(segment));
            }
            match &mut self.audio {
                Audio::Over => return Ok(None),
                Audio::Encoded(bytes, extension) => {
                    let reader = AudioReader::from_bytes(std::mem::take(bytes), extension.as_deref());
                    let opened = (reader.map_err(unreadable)?, self.recognizer.segmenter());
                    self.audio = Audio::Open(Box::new(opened));
                }
                Audio::Open(open) => match open.0.next_chunk().map_err(unreadable)? {
                    Some(chunk) => {
                        self.samples += chunk.len();
                        if self.samples as f64 > self.most_seconds * f64::from(SAMPLE_RATE) {
                            let message = format!("the recording is longer than {:.0} s", self.most_seconds);
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
