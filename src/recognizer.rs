//! The public face: a [`Recognizer`] holds a model, a [`Session`] does the work of one thread of utterances.

use crate::adapt::{Episode, LoadedProfile, Profile, StreamError, StreamState};
use crate::audio::{Features, SAMPLE_RATE, Segmenter, SegmenterConfig};
use crate::decode::whisper::{DecodingError, DecodingOptions, Progress};
use crate::decode::{Hypothesis, greedy};
use crate::device::{Device, PlacedModel, Worker};
use crate::engine::cpu::CpuBackend;
use crate::engine::{EngineError, ObjectiveValue};
use crate::model::checkpoint::{Checkpoint, Overlay, Stored};
use crate::model::{Bundled, CtcModel, Generation, Input, ModelError, ModelFiles, ModelSource, Preset, Vocabulary};
use crate::{AdaptationConfig, Trace, Transcript, Utterance, Word};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

mod ctc_head;
mod judgement;
mod together;
mod whisper;

use ctc_head::AttachedHead;
pub use ctc_head::CtcHeadError;
use judgement::judge;
use together::check_finite;
use whisper::OnBackend;

/// What can go wrong in recognition.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The model could not be loaded.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The device failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// More audio than the model's positions reach.
    #[error(
        "an utterance of {seconds:.1} s is longer than the {longest:.1} s that the model can take at once; cut it with `audio::Segmenter`, or call `Recognizer::transcribe`"
    )]
    TooLong {
        /// The utterance.
        seconds: f64,
        /// The limit.
        longest: f64,
    },
    /// Partial hypotheses, and what is adapted through a CTC head, are made on the processor alone.
    #[error(
        "partial hypotheses and adaptation through a CTC head are computed on the processor alone: use `Device::Cpu` (--device cpu)"
    )]
    OnGpu,
    /// Whisper's decoder failed, or was asked for what it cannot do.
    #[error(transparent)]
    Decoding(#[from] DecodingError),
    /// A method, or an option of one, that a model which writes with a decoder does not have.
    #[error(
        "a Whisper is adapted with --adapt suta, sdpl, sequence-entropy, csuta, dsuta or replay, without --stop-when-settled, --skip-confident, --safeguard, --compat or profiles: use one of these (dsuta for guarded or awmc, suta for cea), or --adapt none, or a CTC model (`-m tiny.en-ctc` is bundled)"
    )]
    NotAdaptable,
    /// The entropy over texts of a model that has no decoder.
    #[error(
        "--adapt sequence-entropy, --half, --samples and --no-guard are for a Whisper that writes with its decoder"
    )]
    NoDecoderToAdapt,
    /// A Whisper that writes with its decoder, where captions are wanted while someone speaks.
    #[error(
        "this version captions live speech with CTC models: use one (`-m tiny.en-ctc` is bundled), or put a CTC head beside the Whisper (ctc_head.safetensors)"
    )]
    NotLive,
    /// A CTC model that a Whisper cannot be adapted through, or not so.
    #[error(transparent)]
    CtcHead(#[from] CtcHeadError),
    /// A stream cannot go on from a state.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// A sample that is NaN or infinite.
    #[error("the sample at {seconds:.3} s is not a finite number")]
    NotFinite {
        /// Where, in seconds from the utterance's start.
        seconds: f64,
    },
}

/// What a loaded model is.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct ModelInfo {
    /// The directory, or `bundled:` and the name of one in the binary.
    pub name: String,
    /// BLAKE3 of the configuration, the vocabulary and the weights, hexadecimal.
    pub identity: String,
    /// As config.json names it.
    pub architecture: String,
    /// Number of parameters.
    pub parameters: usize,
    /// Output symbols.
    pub vocabulary: usize,
}

struct Loaded {
    info: ModelInfo,
    preset: Preset,
    writer: Writer,
    model: PlacedModel,
    /// Of the model without a profile.
    source_identity: String,
    profile: Option<Arc<LoadedProfile>>,
}

/// What turns the model's output into text.
enum Writer {
    Ctc(Vocabulary),
    Whisper(Arc<Generation>),
}

/// A loaded model. Cheap to clone; sessions on several threads share its weights.
///
/// ```
/// use aurist::{AdaptationConfig, Bundled, Recognizer};
///
/// # #[cfg(feature = "bundled-model")] {
/// let recognizer = Recognizer::bundled(Bundled::TinyEnCtc)?;
/// let samples = aurist::audio::read_all("tests/data/librivox/sense_and_sensibility_01_austen_64kb-0880.wav".as_ref())?;
///
/// let plain = recognizer.transcribe(&samples, &AdaptationConfig::none())?;
/// let adapted = recognizer.transcribe(&samples, &recognizer.default_adaptation())?;
/// assert!(adapted.utterances[0].entropy_after < adapted.utterances[0].entropy_before);
/// println!("{}\n{}", plain.text(), adapted.text());
/// # }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Recognizer {
    loaded: Arc<Loaded>,
    head: Option<AttachedHead>,
}

impl Recognizer {
    /// Loads a model directory, as Hugging Face or CTranslate2 lay it out; see [`ModelFiles::from_dir`].
    pub fn from_dir(dir: &Path) -> Result<Self, Error> {
        Self::open(&dir.into(), None, Device::Cpu)
    }

    /// A model in the binary (feature `bundled-model`).
    pub fn bundled(bundled: Bundled) -> Result<Self, Error> {
        Self::open(&bundled.into(), None, Device::Cpu)
    }

    /// A model with a profile that [`Recognizer::save_profile`] wrote: every utterance then starts from the profile.
    pub fn with_profile(source: &ModelSource, profile: &Path) -> Result<Self, Error> {
        Self::open(source, Some(profile), Device::Cpu)
    }

    /// A model with or without a profile, on a device. All else here is on the processor.
    pub fn open(source: &ModelSource, profile: Option<&Path>, device: Device) -> Result<Self, Error> {
        Self::from_files(ModelFiles::open(source)?, profile, device)
    }

    fn from_files(mut files: ModelFiles, profile: Option<&Path>, device: Device) -> Result<Self, Error> {
        let source_identity = files.identity.clone();
        let mut loaded_profile = None;
        if let Some(path) = profile {
            let profile = Arc::new(LoadedProfile::load(path, &source_identity)?);
            profile.check(&*files.checkpoint)?;
            files.identity = blake3::hash(format!("{source_identity} {}", profile.identity).as_bytes())
                .to_hex()
                .to_string();
            files.checkpoint = Box::new(Overlay {
                front: Box::new(Arc::clone(&profile)),
                back: files.checkpoint,
            });
            loaded_profile = Some(profile);
        }
        let writer = match (files.vocabulary.clone(), files.generation.clone()) {
            (Some(vocabulary), _) => Writer::Ctc(vocabulary),
            (None, Some(generation)) => Writer::Whisper(Arc::new(generation)),
            (None, None) => return Err(ModelError::NoHead.into()),
        };
        let (identity, name, preset) = (files.identity.clone(), files.name.clone(), files.preset.clone());
        let model = PlacedModel::load(files, device)?;
        let info = ModelInfo {
            identity,
            name,
            architecture: model.config().architecture.clone(),
            parameters: model.parameter_count(),
            vocabulary: match &writer {
                Writer::Ctc(vocabulary) => vocabulary.len(),
                Writer::Whisper(generation) => generation.tokenizer.len,
            },
        };
        Ok(Self {
            head: None,
            loaded: Arc::new(Loaded {
                info,
                preset,
                writer,
                model,
                source_identity,
                profile: loaded_profile,
            }),
        })
    }

    /// What the model is.
    pub fn info(&self) -> &ModelInfo {
        &self.loaded.info
    }

    /// The device that it is on, in words.
    pub fn device(&self) -> String {
        self.loaded.model.describe()
    }

    /// SUTA with the settings chosen for this model on data (its adaptation.json), or the paper's where nobody chose. A
    /// Whisper that writes with its decoder is not adapted unless a method is asked for; these are its settings then. With
    /// a CTC head it is, through that.
    pub fn default_adaptation(&self) -> AdaptationConfig {
        match (&self.loaded.writer, &self.head) {
            (_, Some(head)) => head.adaptation(),
            (Writer::Ctc(_), _) => self.loaded.preset.adaptation(),
            (Writer::Whisper(_), _) => AdaptationConfig::whisper(),
        }
    }

    /// Whether the model is a Whisper that writes with its decoder: it hears recordings whole, in windows of its own.
    pub fn is_whisper(&self) -> bool {
        matches!(self.loaded.writer, Writer::Whisper(_))
    }

    /// The longest utterance that the model takes at once, in seconds; infinite where nothing but memory limits it.
    pub fn longest_utterance(&self) -> f64 {
        if self.is_whisper() {
            return f64::INFINITY;
        }
        match self
            .features()
            .most_samples(self.loaded.model.config().most_input_values())
        {
            usize::MAX => f64::INFINITY,
            samples => samples as f64 / SAMPLE_RATE as f64,
        }
    }

    /// The model in the processor's memory.
    pub(crate) fn model_on_cpu(&self) -> Result<&Arc<CtcModel<CpuBackend>>, Error> {
        self.loaded.model.on_cpu().ok_or(Error::OnGpu)
    }

    /// Whether live captions can be made with the model: an error that says why not.
    pub fn check_live(&self) -> Result<(), Error> {
        self.vocabulary()?;
        self.model_on_cpu().map(drop)
    }

    /// A CTC model's symbols.
    pub(crate) fn vocabulary(&self) -> Result<&Vocabulary, Error> {
        match &self.loaded.writer {
            Writer::Ctc(vocabulary) => Ok(vocabulary),
            Writer::Whisper(_) => Err(Error::NotLive),
        }
    }

    pub(crate) fn features(&self) -> Features {
        match self.loaded.model.config().input() {
            Input::LogMel { bands } => Features::log_mel(bands),
            Input::Waveform { normalise } => Features::waveform(normalise),
        }
    }

    /// How a recording is cut into utterances for this model.
    pub fn segmenter(&self) -> Segmenter {
        let default = SegmenterConfig::default();
        Segmenter::new(SegmenterConfig {
            longest: default.longest.min(self.longest_utterance()),
            ..default
        })
    }

    /// Writes a profile gathered with [`Session::take_profile`] to a file.
    pub fn save_profile(&self, profile: &Profile, path: &Path) -> std::io::Result<()> {
        profile.save(path, &self.loaded.source_identity, self.loaded.profile.as_deref())
    }

    /// Transcribes 16 kHz mono samples of any length, on all cores.
    pub fn transcribe(&self, samples: &[f32], config: &AdaptationConfig) -> Result<Transcript, Error> {
        let threads = std::thread::available_parallelism().map_or(1, |count| count.get());
        let mut session = self.session(config, threads)?;
        let transcript = session.transcribe_recording(samples, &mut |_| true)?;
        // Nothing stopped it.
        Ok(transcript.unwrap_or_default())
    }

    /// A session on `threads` threads (at least 1; a GPU needs none). It keeps its memory from utterance to utterance.
    pub fn session(&self, config: &AdaptationConfig, threads: usize) -> Result<Session, Error> {
        self.decoding_session(config, &DecodingOptions::default(), threads)
    }

    /// The same with options of Whisper's decoder, which other models have no use for.
    pub fn decoding_session(
        &self,
        config: &AdaptationConfig,
        decoding: &DecodingOptions,
        threads: usize,
    ) -> Result<Session, Error> {
        self.check_adaptation(config)?;
        let whisper = match &self.loaded.writer {
            Writer::Ctc(_) => None,
            Writer::Whisper(generation) => Some(OnBackend::new(self, generation, config, decoding, threads)?),
        };
        // Of a Whisper only the decoder works, on a pool of its own.
        let none = AdaptationConfig::none();
        let (threads, of_worker) = if whisper.is_some() {
            (1, &none)
        } else {
            (threads, config)
        };
        let worker = self.loaded.model.worker(of_worker, threads)?;
        let features = self.features();
        Ok(Session {
            recognizer: self.clone(),
            settings: config.clone(),
            worker,
            whisper,
            features,
            profile: None,
            trace: Trace::default(),
        })
    }
}

impl Checkpoint for Arc<LoadedProfile> {
    fn shape(&self, name: &str) -> Option<&[usize]> {
        self.checkpoint.shape(name)
    }

    fn storage(&self, name: &str) -> Stored {
        self.checkpoint.storage(name)
    }

    fn values(&self, name: &str) -> Result<Vec<f32>, ModelError> {
        self.checkpoint.values(name)
    }

    fn names(&self) -> Vec<&str> {
        self.checkpoint.names()
    }
}

/// One worker's memory and state. `Send`, not shared: one utterance at a time.
pub struct Session {
    recognizer: Recognizer,
    settings: AdaptationConfig,
    worker: Worker,
    whisper: Option<OnBackend>,
    features: Features,
    profile: Option<Profile>,
    trace: Trace,
}

impl Session {
    /// From now on, gathers what adaptation makes of each utterance.
    pub fn gather_profile(&mut self) {
        self.profile.get_or_insert_default();
    }

    /// What was gathered since the last call.
    pub fn take_profile(&mut self) -> Profile {
        self.profile.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Begins a new stream: a continual method goes back to the source model.
    pub fn begin_stream(&mut self) {
        match &mut self.whisper {
            Some(whisper) => whisper.begin_stream(),
            None => self.worker.begin_stream(),
        }
    }

    /// Says that the next utterance is of another domain, for [`crate::Reset::Oracle`].
    pub fn domain_changed(&mut self) {
        match &mut self.whisper {
            Some(whisper) => whisper.domain_changed(),
            None => self.worker.domain_changed(),
        }
    }

    /// What a continual method carries at this moment, to go on from later with [`Session::resume_stream`].
    pub fn stream_state(&mut self) -> StreamState {
        let policy = match &mut self.whisper {
            Some(whisper) => whisper.state(),
            None => self.worker.state(),
        };
        StreamState::new(&self.recognizer.info().identity, &self.settings, policy)
    }

    /// Goes on from a state made by the same model with the same settings, exactly as if nothing had been between.
    pub fn resume_stream(&mut self, state: &StreamState) -> Result<(), Error> {
        state.check(&self.recognizer.info().identity, &self.settings)?;
        let resumed = match &mut self.whisper {
            Some(whisper) => whisper.resume(&state.policy),
            None => self.worker.resume(&state.policy),
        };
        resumed.ok_or(StreamError::Mismatch.into())
    }

    /// From now on takes at most so many steps an utterance, and never more than configured: for one that must keep
    /// pace with a speaker.
    pub fn limit_steps(&mut self, steps: usize) {
        self.worker.limit_steps(steps);
    }

    /// From now on begins no step after this moment; the transcript is then what the steps before it made.
    pub fn limit_time(&mut self, deadline: Option<Instant>) {
        self.worker.limit_time(deadline);
    }

    /// The adapted values that a continual method would start the next utterance from, in the engine's own order: what
    /// [`crate::live::Decoder`] recognises with.
    pub fn carried_values(&mut self) -> Vec<f32> {
        match &mut self.whisper {
            Some(whisper) => whisper.carried_values(),
            None => self.worker.carried_values(),
        }
    }

    /// From now on decodes after each of these numbers of steps too, for [`Session::trace`]; an empty list stops that.
    pub fn trace_steps(&mut self, steps: &[usize]) {
        self.worker.keep_logits_after(steps);
    }

    /// What the last utterance's adaptation was like from step to step.
    pub fn trace(&self) -> &Trace {
        &self.trace
    }

    /// Transcribes 16 kHz mono samples of any length. `progress` hears how many seconds are done and may stop the work:
    /// then `None`.
    pub fn transcribe_recording(
        &mut self,
        samples: &[f32],
        progress: Progress<'_>,
    ) -> Result<Option<Transcript>, Error> {
        if self.whisper.is_some() {
            return self.transcribe_whisper(samples, 0.0, progress);
        }
        let mut segmenter = self.recognizer.segmenter();
        let mut segments = segmenter.push(samples);
        segments.extend(segmenter.finish());
        let mut utterances = Vec::with_capacity(segments.len());
        let seconds = |samples: usize| samples as f64 / SAMPLE_RATE as f64;
        while let Some(next) = segments.get(utterances.len()) {
            if !progress(seconds(next.start)) {
                return Ok(None);
            }
            let rest = &segments[utterances.len()..];
            let count = self.together(rest.iter().map(|segment| segment.samples.len()));
            let parts = rest[..count].iter();
            let parts: Vec<_> = parts.map(|part| (&part.samples[..], seconds(part.start))).collect();
            match self.transcribe_together(&parts)? {
                Some(together) => utterances.extend(together),
                None => utterances.push(self.transcribe_utterance(&next.samples, seconds(next.start))?),
            }
        }
        Ok(Some(Transcript {
            utterances,
            duration: samples.len() as f64 / SAMPLE_RATE as f64,
            language: None,
        }))
    }

    /// Transcribes one utterance of 16 kHz mono samples that starts `start` seconds into its recording, adapting to
    /// it as configured. An episodic method leaves no trace in the next; a continual one goes on from it.
    pub fn transcribe_utterance(&mut self, samples: &[f32], start: f64) -> Result<Utterance, Error> {
        if self.whisper.is_some() {
            return self.transcribe_whisper_utterance(samples, start);
        }
        let begin = Instant::now();
        let seconds = samples.len() as f64 / SAMPLE_RATE as f64;
        let longest = self.recognizer.longest_utterance();
        if self.features.values(samples.len()) > self.recognizer.loaded.model.config().most_input_values() {
            return Err(Error::TooLong { seconds, longest });
        }
        check_finite(samples)?;
        let input = self.input(samples)?;
        let episode = self.worker.run(&input)?;
        if let Some(profile) = &mut self.profile
            && episode.steps > 0
        {
            profile.add(seconds, self.worker.tensors());
        }
        self.trace = self.trace_of(&episode);
        let mut utterance = self.describe(&episode, start, seconds);
        utterance.compute_seconds = begin.elapsed().as_secs_f64();
        utterance.real_time_factor = if seconds > 0.0 {
            utterance.compute_seconds / seconds
        } else {
            0.0
        };
        Ok(utterance)
    }

    fn describe(&self, episode: &Episode, start: f64, seconds: f64) -> Utterance {
        let unadapted = self.decode(&episode.source_logits);
        let adapted = self.decode(&episode.adapted_logits);
        let (guard, kept) = judge(episode.guard, &unadapted, adapted);
        let words = kept.words.into_iter().map(|word| Word {
            start: word.start + start,
            end: word.end + start,
            ..word
        });
        Utterance {
            text: kept.text,
            unadapted_text: unadapted.text,
            start,
            end: start + seconds,
            words: words.collect(),
            entropy_before: episode.first.as_ref().and_then(mean_entropy),
            entropy_after: episode.last.as_ref().and_then(mean_entropy),
            losses: episode
                .objectives
                .iter()
                .map(|objective| objective.loss as f32)
                .collect(),
            steps: episode.steps,
            rollbacks: episode.rollbacks,
            forwards: episode.forwards,
            backwards: episode.backwards,
            carried: episode.carried.clone(),
            stopped: episode.stopped,
            guard,
            evidence: None,
            compute_seconds: 0.0,
            real_time_factor: 0.0,
            decoding: None,
        }
    }

    fn trace_of(&self, episode: &Episode) -> Trace {
        let objectives = episode.objectives.iter();
        // The last kept step's objective follows those that a step was taken from, unless it is one of them.
        let last = (episode.steps == episode.objectives.len())
            .then_some(())
            .and(episode.last.as_ref());
        Trace {
            texts: episode
                .step_logits
                .iter()
                .map(|(step, logits)| (*step, self.decode(logits).text))
                .collect(),
            entropies: objectives.chain(last).map(mean_entropy).collect(),
            forwards: episode.forwards,
            source_seconds: episode.source_seconds,
        }
    }

    fn decode(&self, logits: &[f32]) -> Hypothesis {
        let Writer::Ctc(vocabulary) = &self.recognizer.loaded.writer else {
            unreachable!("a Whisper's logits are its decoder's");
        };
        greedy(
            logits,
            vocabulary,
            self.recognizer.loaded.model.config().samples_per_frame() as f64 / SAMPLE_RATE as f64,
        )
    }
}

/// Of the non-blank frames, in nats.
fn mean_entropy(objective: &ObjectiveValue) -> Option<f32> {
    (objective.non_blank_frames > 0).then_some(objective.entropy as f32)
}
