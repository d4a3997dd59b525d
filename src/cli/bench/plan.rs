//! What a run consists of: models, methods, test sets, conditions and streams, and the tasks they make.

use super::arguments::RunArguments;
use super::methods::{MethodSpec, is_episodic};
use crate::audio::mix::{Condition, Mixer, MixerCompatibility, NamedStream, Prepared, StreamPlan};
use crate::cli::Failure;
use crate::cli::transcribe::{load_model, with_ctc_head};
use crate::decode::whisper::DecodingOptions;
use crate::eval::testset::{TestSet, TestSetOptions, TestUtterance};
use crate::{AdaptationConfig, Bundled, Device, Recognizer};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Raised when the same model, settings and samples would give other results than before, so that they are made again.
const RESULT_SCHEMA: u32 = 1;
/// Numbers of steps after which transcripts are kept, beside the last.
const KEPT_STEPS: [usize; 8] = [0, 1, 3, 5, 10, 20, 50, 100];

/// A run.
pub(super) struct Plan {
    pub(super) models: Vec<Recognizer>,
    pub(super) methods: Vec<MethodSpec>,
    /// Per model, per method: the model, with the CTC head that the method adapts it through.
    pub(super) recognizers: Vec<Vec<Recognizer>>,
    /// Per model, per method.
    pub(super) settings: Vec<Vec<AdaptationConfig>>,
    pub(super) sets: Vec<TestSet>,
    /// Per set, per utterance: BLAKE3 of the file and of what of it is the utterance; an error where it cannot be read.
    pub(super) contents: Vec<Vec<Result<String, String>>>,
    /// Each once; those of streams' blocks too.
    pub(super) conditions: Vec<Prepared>,
    pub(super) lanes: Vec<Lane>,
    /// Of Whispers.
    pub(super) decoding: DecodingOptions,
    pub(super) seed: u64,
    pub(super) compatibility: MixerCompatibility,
}

/// What a result is reported under: a condition, or a stream of them.
pub(super) struct Lane {
    /// Unique in the run.
    pub(super) name: String,
    /// The condition, or the stream's, as can be typed again.
    pub(super) spec: String,
    pub(super) kind: LaneKind,
}

pub(super) enum LaneKind {
    /// Every utterance of a set, in one condition.
    Condition(usize),
    /// Blocks of (condition, utterances).
    Stream(StreamPlan, Vec<usize>),
}

/// One utterance of a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) utterance: usize,
    pub(super) condition: usize,
    /// In a stream: the block, and the place from its beginning.
    pub(super) place: Option<(usize, usize)>,
}

/// What one worker does in one session, in order.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) model: usize,
    pub(super) method: usize,
    pub(super) set: usize,
    pub(super) lane: usize,
    pub(super) items: Vec<Item>,
}

impl Plan {
    /// Loads what `typed` names, and checks all of it before any work is done.
    pub(super) fn resolve(typed: &RunArguments) -> Result<Self, Failure> {
        let methods = MethodSpec::all(&typed.adapt, &typed.method)?;
        let asked = typed.conditions.conditions().map_err(Failure::usage)?;
        let streams = streams(typed)?;
        if asked.is_empty() && streams.is_empty() {
            return Err(Failure::usage(
                "nothing to measure: with --no-clean, give a --noise, --delta, --reverb, --condition or --stream",
            ));
        }
        let sets = open_sets(typed)?;
        let compatibility = typed.conditions.compatibility();
        let mut mixer = Mixer::new(typed.seed, compatibility);
        let (mut conditions, mut lanes) = (Vec::new(), Vec::new());
        for condition in &asked {
            let index = prepared(&mut mixer, &mut conditions, condition)?;
            lanes.push(Lane {
                name: condition.label(),
                spec: condition.to_string(),
                kind: LaneKind::Condition(index),
            });
        }
        for (text, stream) in streams {
            let blocks = stream
                .blocks
                .iter()
                .map(|block| prepared(&mut mixer, &mut conditions, &block.condition));
            let blocks = blocks.collect::<Result<_, _>>()?;
            lanes.push(Lane {
                name: format!("stream {}", stream.name),
                spec: text,
                kind: LaneKind::Stream(stream, blocks),
            });
        }
        tell_apart(&mut lanes);
        let models = models(&typed.model)?;
        let (mut recognizers, mut settings) = (Vec::with_capacity(models.len()), Vec::with_capacity(models.len()));
        for model in &models {
            let mut ready: Vec<Recognizer> = Vec::with_capacity(methods.len());
            for (index, method) in methods.iter().enumerate() {
                // Methods through one CTC head share it.
                let alike = methods[..index].iter().position(|other| other.head() == method.head());
                ready.push(match alike {
                    Some(other) => ready[other].clone(),
                    None => with_ctc_head(model.clone(), method.head())?,
                });
            }
            let configs = methods.iter().zip(&ready);
            let configs: Vec<_> = configs
                .map(|(method, recognizer)| method.settings(recognizer.default_adaptation()))
                .collect();
            for ((method, recognizer), config) in methods.iter().zip(&ready).zip(&configs) {
                recognizer.check_adaptation(config).map_err(|error| {
                    Failure::usage(format_args!("{}: method {}: {error}", model.info().name, method.name))
                })?;
            }
            recognizers.push(ready);
            settings.push(configs);
        }
        let contents = contents(&sets);
        Ok(Self {
            models,
            methods,
            recognizers,
            settings,
            sets,
            contents,
            conditions,
            lanes,
            decoding: typed.decoding.options(),
            seed: typed.seed,
            compatibility,
        })
    }

    /// The method that a model's unadapted transcripts come from: the first that adapts to each utterance by itself,
    /// for it begins with the source model; else `none` itself.
    pub(super) fn source(&self, model: usize) -> usize {
        // Where a Whisper's next window begins depends on what it wrote in the last one, adapted or not.
        if self.models[model].is_whisper() {
            return 0;
        }
        let adapts = |config: &AdaptationConfig| config.planned_steps() > 0 && is_episodic(config);
        self.settings[model].iter().position(adapts).unwrap_or(0)
    }

    /// Whether a method's results are the source model's.
    pub(super) fn is_unadapted(&self, model: usize, method: usize) -> bool {
        self.settings[model][method].planned_steps() == 0
    }

    /// The utterances of a lane, in order.
    pub(super) fn items(&self, set: usize, lane: usize) -> Vec<Item> {
        let count = self.sets[set].utterances.len();
        match &self.lanes[lane].kind {
            LaneKind::Condition(condition) => {
                let item = |utterance| Item {
                    utterance,
                    condition: *condition,
                    place: None,
                };
                (0..count).map(item).collect()
            }
            LaneKind::Stream(stream, conditions) => {
                let places = stream.places(count, self.seed).into_iter().enumerate();
                let item = |(place, (block, utterance))| Item {
                    utterance,
                    condition: conditions[block],
                    place: Some((block, place)),
                };
                places.map(item).collect()
            }
        }
    }

    /// Everything there is to do. A stream is one task, in order; so is a set, where a method carries anything from one
    /// utterance to the next. Else every utterance is one.
    pub(super) fn tasks(&self) -> Vec<Task> {
        let mut tasks = Vec::new();
        for model in 0..self.models.len() {
            let source = self.source(model);
            for (method, config) in self.settings[model].iter().enumerate() {
                if self.is_unadapted(model, method) && method != source {
                    continue;
                }
                for set in 0..self.sets.len() {
                    for lane in 0..self.lanes.len() {
                        let items = self.items(set, lane);
                        let together = !is_episodic(config) || matches!(self.lanes[lane].kind, LaneKind::Stream(..));
                        let size = if together { items.len().max(1) } else { 1 };
                        tasks.extend(items.chunks(size).map(|items| Task {
                            model,
                            method,
                            set,
                            lane,
                            items: items.to_vec(),
                        }));
                    }
                }
            }
        }
        tasks
    }

    /// The test set's utterance.
    pub(super) fn utterance(&self, set: usize, item: Item) -> &TestUtterance {
        &self.sets[set].utterances[item.utterance]
    }

    /// Everything that decides what recognition makes of an utterance, hashed; an error where its audio cannot be read.
    pub(super) fn key(
        &self,
        model: usize,
        method: usize,
        set: usize,
        lane: usize,
        item: Item,
    ) -> Result<String, String> {
        let config = &self.settings[model][method];
        let content = self.contents[set][item.utterance].as_ref().map_err(Clone::clone)?;
        // What a method has carried along depends on all that came before.
        let carried = (!is_episodic(config)).then(|| {
            let identities: Vec<String> = self
                .items(set, lane)
                .iter()
                .take_while(|other| **other != item)
                .map(|other| {
                    format!(
                        "{} {}",
                        self.utterance(set, *other).id,
                        self.conditions[other.condition].identity()
                    )
                })
                .collect();
            blake3::hash(identities.join("\n").as_bytes()).to_hex().to_string()
        });
        let mut parts = serde_json::json!({
            "schema": RESULT_SCHEMA,
            "model": self.models[model].info().identity,
            "adaptation": config,
            "condition": self.conditions[item.condition].identity(),
            "utterance": self.utterance(set, item).id,
            "audio": content,
            "carried": carried,
        });
        // Other models' keys are as they were before there were decoders.
        if self.models[model].is_whisper() {
            parts["decoding"] = serde_json::json!(self.decoding);
        }
        Ok(blake3::hash(parts.to_string().as_bytes()).to_hex().to_string())
    }
}

/// Numbers of steps after which a method's transcripts are kept.
pub(super) fn kept_steps(config: &AdaptationConfig) -> Vec<usize> {
    let last = config.planned_steps();
    let mut steps: Vec<usize> = KEPT_STEPS.into_iter().filter(|step| *step < last).collect();
    if last > 0 {
        steps.push(last);
    }
    steps
}

fn streams(typed: &RunArguments) -> Result<Vec<(String, StreamPlan)>, Failure> {
    let mut streams: Vec<(String, StreamPlan)> = Vec::new();
    for text in &typed.conditions.stream {
        let (name, length) = match text.split_once(':') {
            Some((name, length)) => (name, Some(length)),
            None => (text.as_str(), None),
        };
        let Ok(published) = name.parse::<NamedStream>() else {
            streams.push((
                text.clone(),
                StreamPlan::read(Path::new(text)).map_err(Failure::failed)?,
            ));
            continue;
        };
        let length = match length.map(str::parse::<usize>) {
            None => None,
            Some(Ok(length)) if (1..=1_000_000).contains(&length) => Some(length),
            Some(_) => {
                return Err(Failure::usage(format_args!(
                    "stream `{text}`: after the colon comes a number of utterances, as in md-easy:20"
                )));
            }
        };
        let Some(noises) = &typed.conditions.stream_noises else {
            return Err(Failure::usage(format_args!(
                "stream `{text}` needs --stream-noises DIR, where its recordings of MS-SNSD are"
            )));
        };
        let stream = StreamPlan::published(published, length, noises, typed.seed).map_err(Failure::failed)?;
        streams.push((text.clone(), stream));
    }
    Ok(streams)
}

fn open_sets(typed: &RunArguments) -> Result<Vec<TestSet>, Failure> {
    let options = TestSetOptions {
        limit: typed.limit.map(|limit| limit as usize),
        ..TestSetOptions::default()
    };
    let mut sets: Vec<TestSet> = Vec::new();
    for path in &typed.sets {
        let set = TestSet::open(path, &options).map_err(Failure::failed)?;
        if sets.iter().any(|other| other.name == set.name) {
            return Err(Failure::usage(format_args!(
                "two test sets are called `{}`: name one of them, as in other={}",
                set.name,
                path.display()
            )));
        }
        sets.push(set);
    }
    Ok(sets)
}

fn models(dirs: &[PathBuf]) -> Result<Vec<Recognizer>, Failure> {
    if dirs.is_empty() {
        return Ok(vec![load_model(None, Bundled::TinyEnCtc, None, Device::Cpu)?]);
    }
    let mut models: Vec<Recognizer> = Vec::new();
    for dir in dirs {
        let model = load_model(Some(dir), Bundled::TinyEnCtc, None, Device::Cpu)?;
        if models
            .iter()
            .all(|other| other.info().identity != model.info().identity)
        {
            models.push(model);
        }
    }
    Ok(models)
}

fn prepared(mixer: &mut Mixer, conditions: &mut Vec<Prepared>, condition: &Condition) -> Result<usize, Failure> {
    if let Some(index) = conditions.iter().position(|other| other.condition() == condition) {
        return Ok(index);
    }
    let ready = mixer.prepare(condition);
    conditions.push(ready.map_err(|error| Failure::failed(format_args!("condition `{condition}`: {error}")))?);
    Ok(conditions.len() - 1)
}

/// Lanes that would share a name are called by what was typed.
fn tell_apart(lanes: &mut [Lane]) {
    let names: Vec<String> = lanes.iter().map(|lane| lane.name.clone()).collect();
    for lane in lanes {
        if names.iter().filter(|name| **name == lane.name).count() > 1 {
            lane.name = lane.spec.clone();
        }
    }
}

fn contents(sets: &[TestSet]) -> Vec<Vec<Result<String, String>>> {
    let mut files: HashMap<&Path, Result<String, String>> = HashMap::new();
    sets.iter()
        .map(|set| {
            set.utterances
                .iter()
                .map(|utterance| content(utterance, &mut files))
                .collect()
        })
        .collect()
}

fn content<'a>(
    utterance: &'a TestUtterance,
    files: &mut HashMap<&'a Path, Result<String, String>>,
) -> Result<String, String> {
    let path = utterance.audio.as_path();
    let hash = files.entry(path).or_insert_with(|| {
        let mut hasher = blake3::Hasher::new();
        let hashed = std::fs::File::open(path).and_then(|file| hasher.update_reader(file).map(|_| ()));
        hashed.map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(hasher.finalize().to_hex().to_string())
    });
    let stretch = (utterance.start, utterance.end);
    hash.clone().map(|hash| format!("{hash} {stretch:?}"))
}
