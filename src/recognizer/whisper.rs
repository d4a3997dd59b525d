//! Recordings through Whisper's decoder.

use super::ctc_head::AttachedHead;
use super::{Error, Recognizer, Session, Writer, check_finite};
use crate::adapt::PolicyState;
use crate::audio::{SAMPLE_RATE, Segmenter, SegmenterConfig};
#[cfg(feature = "serve")]
use crate::decode::whisper::SpokenLanguage;
use crate::decode::whisper::{DecodingOptions, Progress, Segment, Transcription, WhisperDecoder};
#[cfg(feature = "cuda")]
use crate::device::PlacedModel;
use crate::engine::DecoderBackend;
use crate::engine::cpu::CpuBackend;
#[cfg(feature = "cuda")]
use crate::engine::{Backend, cuda::CudaBackend};
use crate::model::Generation;
use crate::{AdaptationConfig, Method, Trace, Transcript, Utterance, Word};
use std::borrow::Cow;
use std::sync::Arc;
use std::time::Instant;

/// Where stretches of speech are decoded side by side, a stretch ends at a pause after so many seconds.
const FULL_WINDOW: f64 = 20.0;

/// Whisper's decoder and what it runs on.
pub(super) enum OnBackend {
    Cpu(Box<Placed<CpuBackend>>),
    #[cfg(feature = "cuda")]
    Cuda(Box<Placed<CudaBackend>>),
}

pub(super) struct Placed<B: DecoderBackend> {
    backend: B,
    decoder: WhisperDecoder<B>,
}

/// Does the same on any backend.
macro_rules! on_any {
    ($value:expr, $placed:ident => $body:expr) => {
        match $value {
            OnBackend::Cpu($placed) => $body,
            #[cfg(feature = "cuda")]
            OnBackend::Cuda($placed) => $body,
        }
    };
}

impl OnBackend {
    /// Where the recognizer's model is; on the processor with so many threads.
    pub(super) fn new(
        recognizer: &Recognizer,
        generation: &Arc<Generation>,
        config: &AdaptationConfig,
        decoding: &DecodingOptions,
        threads: usize,
    ) -> Result<Self, Error> {
        let head = recognizer.head.as_ref().filter(|_| config.is_through_ctc_head());
        let (generation, options) = (generation.clone(), decoding.clone());
        #[cfg(feature = "cuda")]
        if let (PlacedModel::Cuda(device, model), None) = (&recognizer.loaded.model, head) {
            let (backend, model) = (CudaBackend::new(device)?, model.clone());
            let decoder = WhisperDecoder::new(&backend, model, config, generation, options)?;
            return Ok(Self::Cuda(Box::new(Placed { backend, decoder })));
        }
        let (backend, model) = (CpuBackend::new(threads)?, recognizer.model_on_cpu()?.clone());
        let head = head.map(AttachedHead::on_cpu).transpose()?;
        let decoder = WhisperDecoder::with_ctc_head(&backend, model, config, generation, options, head)?;
        Ok(Self::Cpu(Box::new(Placed { backend, decoder })))
    }

    pub(super) fn begin_stream(&mut self) {
        on_any!(self, placed => placed.decoder.begin_stream(&placed.backend));
    }

    pub(super) fn domain_changed(&mut self) {
        on_any!(self, placed => placed.decoder.domain_changed(&placed.backend));
    }

    pub(super) fn state(&mut self) -> PolicyState {
        on_any!(self, placed => placed.decoder.state(&placed.backend))
    }

    pub(super) fn resume(&mut self, state: &PolicyState) -> Option<()> {
        on_any!(self, placed => placed.decoder.resume(&placed.backend, state))
    }

    pub(super) fn carried_values(&mut self) -> Vec<f32> {
        on_any!(self, placed => placed.decoder.carried_values(&placed.backend))
    }

    fn options(&self) -> &DecodingOptions {
        on_any!(self, placed => placed.decoder.options())
    }

    #[cfg(feature = "serve")]
    fn set_language(&mut self, language: Option<String>) {
        on_any!(self, placed => placed.decoder.set_language(language));
    }

    /// See [`WhisperDecoder::transcribe_together`].
    fn transcribe_together(
        &mut self,
        log_mels: &[&[f32]],
        progress: &mut (dyn FnMut(usize, f64) -> bool + Send),
    ) -> Result<Option<Vec<Transcription>>, Error> {
        match self {
            Self::Cpu(placed) => {
                let Placed { backend, decoder } = &mut **placed;
                let backend = &*backend;
                Ok(backend.within(|| decoder.transcribe_together(backend, log_mels, progress))?)
            }
            #[cfg(feature = "cuda")]
            Self::Cuda(placed) => {
                let Placed { backend, decoder } = &mut **placed;
                let found = decoder.transcribe_together(backend, log_mels, progress);
                // A device that failed writes nonsense.
                backend.status()?;
                Ok(found?)
            }
        }
    }
}

impl Recognizer {
    /// Whether the model can be adapted so: an error that says why not.
    pub fn check_adaptation(&self, config: &AdaptationConfig) -> Result<(), Error> {
        let has_method = matches!(
            config.method,
            Method::Suta | Method::Sdpl | Method::SequenceEntropy | Method::Csuta | Method::Dsuta | Method::Replay
        );
        if config.method != Method::None && config.is_through_ctc_head() {
            return self.check_through_ctc_head(config);
        }
        let plain = config.stop_when_settled.is_none() && config.skip_confident.is_none() && !config.safeguard;
        let only_whisper = config.method == Method::SequenceEntropy || config.whisper.is_some();
        match self.loaded.writer {
            _ if config.method == Method::None => Ok(()),
            Writer::Whisper(_) if has_method && plain && config.compatibility.is_none() => Ok(()),
            Writer::Whisper(_) => Err(Error::NotAdaptable),
            Writer::Ctc(_) if only_whisper => Err(Error::NoDecoderToAdapt),
            Writer::Ctc(_) => Ok(()),
        }
    }
}

impl Session {
    /// One stretch of a recording, which starts `start` seconds into it: an utterance, or a Whisper's segments with the
    /// language that it wrote. `language` is what a stretch before it was in.
    #[cfg(feature = "serve")]
    pub(crate) fn transcribe_stretch(
        &mut self,
        samples: &[f32],
        start: f64,
        language: Option<&SpokenLanguage>,
    ) -> Result<(Vec<Utterance>, Option<SpokenLanguage>), Error> {
        let Some(whisper) = &mut self.whisper else {
            return Ok((vec![self.transcribe_utterance(samples, start)?], None));
        };
        let asked = whisper.options().language.clone();
        let known = language.map(|language| language.code.clone());
        whisper.set_language(asked.clone().or(known));
        let heard = self.transcribe_whisper(samples, start, &mut |_| true);
        if let Some(whisper) = &mut self.whisper {
            whisper.set_language(asked);
        }
        let heard = heard?.unwrap_or_default();
        Ok((heard.utterances, heard.language))
    }

    /// The same as one utterance that starts `start` seconds into its recording.
    pub(super) fn transcribe_whisper_utterance(&mut self, samples: &[f32], start: f64) -> Result<Utterance, Error> {
        let heard = self.transcribe_whisper(samples, start, &mut |_| true)?;
        let joined = joined(heard.unwrap_or_default(), start);
        self.trace = trace(&joined);
        Ok(joined)
    }

    /// Samples that start `start` seconds into their recording, in Whisper's windows; `None` where `progress` stopped it.
    pub(super) fn transcribe_whisper(
        &mut self,
        samples: &[f32],
        start: f64,
        progress: Progress<'_>,
    ) -> Result<Option<Transcript>, Error> {
        check_finite(samples)?;
        let begin = Instant::now();
        let duration = samples.len() as f64 / SAMPLE_RATE as f64;
        let Some(whisper) = &mut self.whisper else {
            return Ok(None);
        };
        let (features, options) = (&mut self.features, whisper.options());
        let parts: Vec<(usize, Cow<'_, [f32]>)> = if options.vad_filter || options.batch_size > 1 {
            // Side by side, full windows are decoded in the least time.
            let shortest = (options.batch_size > 1).then_some(FULL_WINDOW);
            let mut segmenter = Segmenter::new(SegmenterConfig {
                preferred_shortest: shortest.unwrap_or(SegmenterConfig::default().preferred_shortest),
                ..SegmenterConfig::default()
            });
            let mut parts = segmenter.push(samples);
            parts.extend(segmenter.finish());
            let owned = parts.into_iter().map(|part| (part.start, Cow::from(part.samples)));
            owned.collect()
        } else {
            vec![(0, Cow::from(samples))]
        };
        let offset = |part: usize| parts[part].0 as f64 / SAMPLE_RATE as f64;
        let log_mels: Vec<Vec<f32>> = parts.iter().map(|(_, samples)| features.compute(samples)).collect();
        let log_mels: Vec<&[f32]> = log_mels.iter().map(Vec::as_slice).collect();
        let mut farthest = 0.0f64;
        let mut shifted = |part: usize, seconds: f64| {
            // Of several at a time, one may be behind the others.
            farthest = farthest.max(offset(part) + seconds);
            progress(farthest)
        };
        let found = whisper.transcribe_together(&log_mels, &mut shifted)?;
        let Some(found) = found else {
            return Ok(None);
        };
        let mut heard = Transcription::default();
        for (part, found) in found.into_iter().enumerate() {
            let segments = found.segments.into_iter().map(|segment| moved(segment, offset(part)));
            heard.segments.extend(segments);
            heard.language = heard.language.or(found.language);
        }
        let spoken: f64 = heard.segments.iter().map(|segment| segment.end - segment.start).sum();
        let rate = begin.elapsed().as_secs_f64() / spoken.max(f64::MIN_POSITIVE);
        let utterances = heard
            .segments
            .into_iter()
            .map(|segment| utterance(segment, start, rate));
        Ok(Some(Transcript {
            utterances: utterances.collect(),
            duration,
            language: heard.language,
        }))
    }
}

/// A segment of a part that starts at an offset into the recording.
fn moved(segment: Segment, offset: f64) -> Segment {
    let words = segment.words.into_iter().map(|word| Word {
        start: word.start + offset,
        end: word.end + offset,
        ..word
    });
    Segment {
        start: segment.start + offset,
        end: segment.end + offset,
        words: words.collect(),
        ..segment
    }
}

/// A segment as an utterance; `rate` is the seconds of computing for one of speech.
fn utterance(segment: Segment, offset: f64, rate: f64) -> Utterance {
    let segment = moved(segment, offset);
    let text = segment.text.trim().to_string();
    let adaptation = segment.adaptation.unwrap_or_default();
    Utterance {
        unadapted_text: segment.unadapted_text.unwrap_or_else(|| text.clone()),
        text,
        words: segment.words,
        entropy_before: adaptation.entropy_before,
        entropy_after: adaptation.entropy_after,
        losses: adaptation.losses,
        steps: adaptation.steps,
        rollbacks: adaptation.rollbacks,
        stopped: adaptation.stopped,
        forwards: adaptation.forwards,
        backwards: adaptation.backwards,
        guard: adaptation.guard,
        carried: adaptation.carried,
        evidence: adaptation.evidence,
        compute_seconds: rate * (segment.end - segment.start),
        real_time_factor: rate,
        decoding: Some(segment.decoding),
        ..Utterance::empty(segment.start, segment.end)
    }
}

/// An utterance's texts before and after adaptation, for who wants to see its steps.
fn trace(utterance: &Utterance) -> Trace {
    let mut texts = vec![(0, utterance.unadapted_text.clone())];
    if utterance.steps > 0 {
        texts.push((utterance.steps, utterance.text.clone()));
    }
    Trace {
        texts,
        entropies: vec![utterance.entropy_before, utterance.entropy_after],
        forwards: utterance.forwards,
        source_seconds: 0.0,
    }
}

/// All of a transcript as one utterance that starts at `start`.
fn joined(transcript: Transcript, start: f64) -> Utterance {
    let text = transcript.text();
    let unadapted: Vec<&str> = transcript
        .utterances
        .iter()
        .map(|utterance| utterance.unadapted_text.as_str())
        .collect();
    let unadapted_text = unadapted
        .into_iter()
        .filter(|text| !text.is_empty())
        .collect::<Vec<_>>()
        .join(" ");
    let compute_seconds = transcript
        .utterances
        .iter()
        .map(|utterance| utterance.compute_seconds)
        .sum();
    let mut joined = Utterance {
        unadapted_text,
        text,
        compute_seconds,
        real_time_factor: if transcript.duration > 0.0 {
            compute_seconds / transcript.duration
        } else {
            0.0
        },
        ..Utterance::empty(start, start + transcript.duration)
    };
    for utterance in transcript.utterances {
        joined.words.extend(utterance.words);
        joined.steps = joined.steps.max(utterance.steps);
        joined.rollbacks += utterance.rollbacks;
        joined.stopped = joined.stopped.or(utterance.stopped);
        joined.forwards += utterance.forwards;
        joined.backwards += utterance.backwards;
        joined.guard = joined.guard.or(utterance.guard);
        // What the next one begins with, the last window tells.
        joined.carried = utterance.carried.or(joined.carried);
        joined.evidence = joined.evidence.or(utterance.evidence);
        joined.entropy_before = joined.entropy_before.or(utterance.entropy_before);
        joined.entropy_after = joined.entropy_after.or(utterance.entropy_after);
        if joined.losses.is_empty() {
            joined.losses = utterance.losses;
        }
        match (&mut joined.decoding, utterance.decoding) {
            (Some(first), Some(next)) => first.tokens.extend(next.tokens),
            (first, next) => *first = first.take().or(next),
        }
    }
    joined
}
