//! Reports: hypotheses scored, compared and explained, as JSON, CSV and one self-contained HTML page.
//!
//! [`Experiment`] is what was measured, [`Results`] what it says; [`Results::json`], [`Results::csv`] and
//! [`page`] write it. Nothing here depends on the clock or the machine but what is in [`Reproduction`] and
//! [`Cost`], which [`Results::without_costs`] leaves out.

mod breakdown;
mod charts;
mod csv;
mod differences;
mod examples;
mod html;
mod scale;
mod scoring;
mod sections;
mod steps;
mod summary;

pub use examples::{Clip, Example, examples};
pub use html::page;
pub use scoring::score;

use crate::Guard;
use crate::eval::statistics::{Bootstrap, Interval};
use crate::eval::{Counts, Normaliser};
use serde::Serialize;

/// Raised when the JSON's layout changes.
pub const RESULTS_SCHEMA: u32 = 1;
/// The method that the others are compared with.
pub const BASELINE: &str = "none";
/// Below this, after Holm's correction and by both tests, a difference is called significant.
pub const SIGNIFICANCE: f64 = 0.05;

/// What was measured.
#[derive(Debug, Clone, Default)]
pub struct Experiment {
    /// What chance was seeded with.
    pub seed: u64,
    /// What both texts go through before they are compared.
    pub normaliser: Normaliser,
    /// How intervals are drawn.
    pub bootstrap: Bootstrap,
    /// Whose mixer made the noise: `true-snr` or `sgem`.
    pub mixer: String,
    /// The models.
    pub models: Vec<Model>,
    /// The methods, with each model's settings.
    pub methods: Vec<MethodSettings>,
    /// The test sets.
    pub sets: Vec<Set>,
    /// The conditions and streams.
    pub conditions: Vec<ConditionEntry>,
    /// What was recognised, model by model, set by set, condition by condition, the baseline first.
    pub runs: Vec<Hypotheses>,
    /// What could not be recognised; such an utterance is left out of the set's every run in that condition.
    pub failures: Vec<Failed>,
}

/// What one method of one model made of one set in one condition.
#[derive(Debug, Clone, Default)]
pub struct Hypotheses {
    /// The model's name.
    pub model: String,
    /// The method's.
    pub method: String,
    /// The set's.
    pub set: String,
    /// The condition's or the stream's.
    pub condition: String,
    /// In the set's order, or the stream's.
    pub utterances: Vec<Hypothesis>,
}

/// One utterance recognised.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Hypothesis {
    /// Its name in the set.
    pub utterance: String,
    /// Who speaks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub speaker: Option<String>,
    /// Seconds of audio.
    pub duration: f64,
    /// In a stream, the block, counted from 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub block: Option<usize>,
    /// What was said, as the set writes it.
    pub reference: String,
    /// What was recognised, as the model writes it.
    pub text: String,
    /// The reference after the normaliser.
    pub scored_reference: String,
    /// What was recognised, after the normaliser.
    pub scored_text: String,
    /// Word errors.
    pub words: Counts,
    /// Character errors.
    pub characters: Counts,
    /// Optimizer steps whose update was kept.
    pub steps: usize,
    /// The loss before each step.
    pub losses: Vec<f32>,
    /// Mean entropy in nats of non-blank frames after 0, 1, ... steps.
    pub entropies: Vec<Option<f32>>,
    /// The transcript after some numbers of steps.
    pub step_texts: Vec<(usize, String)>,
    /// Set when a safety guard acted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guard: Option<Guard>,
    /// Forward passes made.
    pub forwards: usize,
    /// BLAKE3 of the samples that the model heard, f32 little-endian.
    pub heard: String,
    /// Wall-clock seconds of one thread; in [`Cost`] only.
    #[serde(skip)]
    pub compute_seconds: f64,
}

/// A model.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Model {
    /// For tables.
    pub name: String,
    /// BLAKE3 of configuration, vocabulary and weights.
    pub identity: String,
    /// As its config.json names it.
    pub architecture: String,
    /// Number of parameters.
    pub parameters: usize,
}

/// A method's settings with one model.
#[derive(Debug, Clone, Default, Serialize)]
pub struct MethodSettings {
    /// The model's name.
    pub model: String,
    /// The method's.
    pub name: String,
    /// All of them.
    pub settings: serde_json::Value,
}

/// A test set.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Set {
    /// For tables.
    pub name: String,
    /// As it was typed.
    pub path: String,
    /// How many utterances.
    pub utterances: usize,
    /// Seconds of audio.
    pub seconds: f64,
    /// How many speakers are told apart; 0 where the set does not tell.
    pub speakers: usize,
    /// BLAKE3 of the utterances' names, references and recordings.
    pub hash: String,
    /// What was wrong with it.
    pub warnings: Vec<String>,
}

/// A condition or a stream.
#[derive(Debug, Clone, Default, Serialize)]
pub struct ConditionEntry {
    /// For tables.
    pub name: String,
    /// As it can be typed again.
    pub spec: String,
    /// What it is but for the ratio, and the signal-to-noise ratio in dB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ratio: Option<(String, f64)>,
    /// The recordings it uses, with BLAKE3 of their samples at 16 kHz.
    pub files: Vec<(String, String)>,
    /// A stream's blocks: the condition and the number of utterances.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub blocks: Vec<(String, usize)>,
    /// Whether it is a stream.
    pub stream: bool,
}

/// What could not be recognised.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Failed {
    /// The set's name.
    pub set: String,
    /// The condition's.
    pub condition: String,
    /// The utterance's.
    pub utterance: String,
    /// Why.
    pub message: String,
}

/// What it says.
#[derive(Debug, Clone, Serialize)]
pub struct Results {
    /// The layout's version.
    pub schema: u32,
    /// The version of aurist.
    pub version: &'static str,
    /// What chance was seeded with.
    pub seed: u64,
    /// The normaliser's name and version.
    pub normaliser: (&'static str, &'static str),
    /// How intervals were drawn.
    pub bootstrap: Bootstrap,
    /// Whose mixer made the noise.
    pub mixer: String,
    /// The models.
    pub models: Vec<Model>,
    /// The methods' settings.
    pub methods: Vec<MethodSettings>,
    /// The test sets.
    pub sets: Vec<Set>,
    /// The conditions and streams.
    pub conditions: Vec<ConditionEntry>,
    /// Model by model, set by set, condition by condition, the baseline first.
    pub runs: Vec<Run>,
    /// Every method with the baseline, in the same order.
    pub comparisons: Vec<Comparison>,
    /// What could not be recognised.
    pub failures: Vec<Failed>,
    /// How it came about on one machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reproduction: Option<Reproduction>,
}

/// How it came about on one machine.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Reproduction {
    /// What was typed.
    pub command: String,
    /// Operating system and architecture.
    pub platform: String,
    /// Cores that the process may use.
    pub cores: usize,
}

/// One run, scored.
#[derive(Debug, Clone, Serialize)]
pub struct Run {
    /// The model's name.
    pub model: String,
    /// The method's.
    pub method: String,
    /// The set's.
    pub set: String,
    /// The condition's.
    pub condition: String,
    /// Word error rate, pooled.
    pub wer: f64,
    /// Its bootstrap interval; `None` where there are not two units to draw.
    pub wer_interval: Option<Interval>,
    /// What was drawn as a whole: `speaker` or `utterance`.
    pub interval_unit: &'static str,
    /// Word errors.
    pub counts: Counts,
    /// Character error rate, pooled.
    pub cer: f64,
    /// Match error rate.
    pub mer: f64,
    /// Word information lost.
    pub wil: f64,
    /// Forward passes per utterance.
    pub forwards_per_utterance: f64,
    /// What it cost in time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost: Option<Cost>,
    /// After some numbers of steps.
    pub steps: Vec<StepMean>,
    /// What was recognised.
    pub hypotheses: Vec<Hypothesis>,
}

/// What a run cost in time.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Cost {
    /// Seconds of audio.
    pub audio_seconds: f64,
    /// Wall-clock seconds, one thread.
    pub compute_seconds: f64,
    /// The latter over the former.
    pub real_time_factor: f64,
}

/// A run after some number of steps.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct StepMean {
    /// The number.
    pub step: usize,
    /// Word error rate, pooled, where transcripts were kept; an utterance whose adaptation ended before counts with
    /// its last one.
    pub wer: Option<f64>,
    /// Mean over utterances of the mean entropy in nats.
    pub entropy: Option<f64>,
}

/// A method compared with the baseline on the same utterances.
#[derive(Debug, Clone, Serialize)]
pub struct Comparison {
    /// The model's name.
    pub model: String,
    /// The set's.
    pub set: String,
    /// The condition's.
    pub condition: String,
    /// The method's.
    pub method: String,
    /// The baseline's word error rate.
    pub baseline_wer: f64,
    /// The method's.
    pub wer: f64,
    /// The latter less the former: negative where the method helps.
    pub difference: f64,
    /// Its interval, by the paired bootstrap.
    pub interval: Option<Interval>,
    /// Two-sided, by the paired bootstrap.
    pub p_bootstrap: Option<f64>,
    /// After Holm's correction over all comparisons of the results.
    pub p_bootstrap_holm: Option<f64>,
    /// Two-sided, by the matched-pairs sentence-segment word error test.
    pub p_mapsswe: Option<f64>,
    /// After Holm's correction.
    pub p_mapsswe_holm: Option<f64>,
    /// What may be said.
    pub verdict: Verdict,
    /// Utterances with fewer errors than the baseline.
    pub helped: usize,
    /// With more.
    pub hurt: usize,
    /// With as many.
    pub unchanged: usize,
}

/// What a comparison may be said to show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The method has the lower error rate, significantly by both tests.
    Better,
    /// The higher one, significantly by both tests.
    Worse,
    /// Neither.
    Undecided,
}

impl Results {
    /// Without what depends on the clock or the machine.
    pub fn without_costs(&self) -> Self {
        let mut results = self.clone();
        results.reproduction = None;
        results.runs.iter_mut().for_each(|run| run.cost = None);
        results
    }

    /// As JSON, one key a line.
    pub fn json(&self) -> serde_json::Result<String> {
        serde_json::to_string_pretty(self).map(|text| text + "\n")
    }

    /// The run of a method.
    pub fn run(&self, model: &str, method: &str, set: &str, condition: &str) -> Option<&Run> {
        let is =
            |run: &&Run| run.model == model && run.method == method && run.set == set && run.condition == condition;
        self.runs.iter().find(is)
    }

    /// The methods but for the baseline, in order, each once.
    pub fn adapted_methods(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for method in &self.methods {
            if method.name != BASELINE && !names.contains(&method.name.as_str()) {
                names.push(&method.name);
            }
        }
        names
    }
}
