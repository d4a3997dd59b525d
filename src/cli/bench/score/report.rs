//! What was scored; the JSON output is this.

use crate::eval::statistics::{
    Bootstrap, Interval, MatchedPairs, PairedBootstrap, Units, error_rate_interval, holm, mapsswe, paired_bootstrap,
};
use crate::eval::{Costs, Counts, Edit, Normaliser, align, character_counts};
use serde::Serialize;
use serde_json::json;
use std::path::PathBuf;

/// An utterance, the same for every system.
pub(super) struct Utterance {
    pub(super) id: String,
    pub(super) speaker: Option<String>,
    /// Normalised.
    pub(super) reference: String,
}

/// One system's hypotheses, scored.
pub(super) struct System {
    pub(super) name: String,
    pub(super) path: PathBuf,
    /// Normalised, utterance by utterance, as what follows is.
    hypotheses: Vec<String>,
    alignments: Vec<Vec<Edit>>,
    pub(super) words: Vec<Counts>,
    pub(super) characters: Option<Vec<Counts>>,
    pub(super) interval: Option<Interval>,
    pub(super) character_interval: Option<Interval>,
}

impl System {
    pub(super) fn score(
        name: String,
        path: PathBuf,
        utterances: &[Utterance],
        hypotheses: Vec<String>,
        costs: Costs,
        characters: bool,
    ) -> Self {
        let texts = || {
            utterances
                .iter()
                .map(|utterance| utterance.reference.as_str())
                .zip(&hypotheses)
        };
        let alignments: Vec<Vec<Edit>> = texts()
            .map(|(reference, hypothesis)| {
                let (reference, hypothesis): (Vec<_>, Vec<_>) = (
                    reference.split_whitespace().collect(),
                    hypothesis.split_whitespace().collect(),
                );
                align(&reference, &hypothesis, costs)
            })
            .collect();
        let of_characters = |(reference, hypothesis): (&str, &String)| character_counts(reference, hypothesis, costs);
        Self {
            words: alignments.iter().map(|edits| Counts::of(edits)).collect(),
            characters: characters.then(|| texts().map(of_characters).collect()),
            name,
            path,
            alignments,
            hypotheses,
            interval: None,
            character_interval: None,
        }
    }

    pub(super) fn pooled(&self) -> Counts {
        self.words.iter().copied().sum()
    }

    pub(super) fn pooled_characters(&self) -> Option<Counts> {
        Some(self.characters.as_ref()?.iter().copied().sum())
    }

    /// Utterances with any error, over all.
    pub(super) fn sentence_error_rate(&self) -> f64 {
        let wrong = self.words.iter().filter(|counts| counts.errors() > 0).count();
        wrong as f64 / self.words.len() as f64
    }
}

/// Two systems compared.
#[derive(Debug, Serialize)]
pub(super) struct Comparison {
    pub(super) first: String,
    pub(super) second: String,
    pub(super) bootstrap: Option<PairedBootstrap>,
    /// The bootstrap's p after Holm's correction over all pairs.
    pub(super) bootstrap_p_holm: Option<f64>,
    pub(super) mapsswe: Option<MatchedPairs>,
    /// The same of MAPSSWE's.
    pub(super) mapsswe_p_holm: Option<f64>,
}

pub(super) struct Report {
    pub(super) normaliser: Normaliser,
    pub(super) costs: Costs,
    pub(super) utterances: Vec<Utterance>,
    /// Where every utterance has a speaker.
    pub(super) speakers: Option<usize>,
    pub(super) unit: &'static str,
    pub(super) units: usize,
    pub(super) bootstrap: Bootstrap,
    pub(super) systems: Vec<System>,
    pub(super) comparisons: Vec<Comparison>,
}

impl Report {
    pub(super) fn new(
        (normaliser, costs): (Normaliser, Costs),
        utterances: Vec<Utterance>,
        mut systems: Vec<System>,
        speakers: Option<usize>,
        (units, bootstrap, intervals): (&Units, Bootstrap, bool),
    ) -> Self {
        if intervals {
            for system in &mut systems {
                system.interval = error_rate_interval(&system.words, units, &bootstrap);
                let characters = system.characters.as_ref();
                system.character_interval =
                    characters.and_then(|counts| error_rate_interval(counts, units, &bootstrap));
            }
        }
        Self {
            comparisons: compare(&systems, units, &bootstrap),
            normaliser,
            costs,
            utterances,
            speakers,
            unit: units.unit().name(),
            units: units.len(),
            bootstrap,
            systems,
        }
    }

    pub(super) fn json(&self) -> String {
        let systems: Vec<_> = self.systems.iter().map(|system| self.system_json(system)).collect();
        let value = json!({
            "version": crate::VERSION,
            "normaliser": { "name": self.normaliser.name(), "version": self.normaliser.version() },
            "alignment": self.costs,
            "utterances": self.utterances.len(),
            "speakers": self.speakers,
            "bootstrap": {
                "unit": self.unit, "units": self.units, "replicates": self.bootstrap.replicates,
                "level": self.bootstrap.level, "seed": self.bootstrap.seed,
            },
            "systems": systems,
            "comparisons": self.comparisons,
        });
        // Strings and numbers: serialisation has no way to fail.
        serde_json::to_string_pretty(&value).unwrap_or_default() + "\n"
    }

    fn system_json(&self, system: &System) -> serde_json::Value {
        let pooled = system.pooled();
        let ends = |interval: Option<Interval>| interval.map(|interval| [interval.low, interval.high]);
        let utterances: Vec<_> = (self.utterances.iter().enumerate())
            .map(|(index, utterance)| {
                let mut value = json!({
                    "id": utterance.id, "speaker": utterance.speaker, "reference": utterance.reference,
                    "hypothesis": system.hypotheses[index], "wer": system.words[index].error_rate(),
                    "counts": system.words[index],
                });
                if let Some(characters) = &system.characters {
                    value["cer"] = json!(characters[index].error_rate());
                    value["character_counts"] = json!(characters[index]);
                }
                value
            })
            .collect();
        let mut value = json!({
            "name": system.name, "file": system.path, "wer": pooled.error_rate(), "wer_interval": ends(system.interval),
            "mer": pooled.match_error_rate(), "wil": pooled.word_information_lost(),
            "wip": pooled.word_information_preserved(), "ser": system.sentence_error_rate(),
            "reference_words": pooled.reference(), "counts": pooled,
        });
        if let Some(characters) = system.pooled_characters() {
            value["cer"] = json!(characters.error_rate());
            value["cer_interval"] = json!(ends(system.character_interval));
            value["character_counts"] = json!(characters);
        }
        value["per_utterance"] = json!(utterances);
        value
    }
}

/// Every pair, in the order given, both tests corrected over all the pairs.
fn compare(systems: &[System], units: &Units, bootstrap: &Bootstrap) -> Vec<Comparison> {
    let mut comparisons = Vec::new();
    for (index, first) in systems.iter().enumerate() {
        for second in &systems[index + 1..] {
            let alignments = first.alignments.iter().zip(&second.alignments);
            comparisons.push(Comparison {
                first: first.name.clone(),
                second: second.name.clone(),
                bootstrap: paired_bootstrap(&first.words, &second.words, units, bootstrap),
                bootstrap_p_holm: None,
                mapsswe: mapsswe(alignments.map(|(first, second)| (first.as_slice(), second.as_slice()))),
                mapsswe_p_holm: None,
            });
        }
    }
    // A comparison that could not be made counts as one that shows nothing.
    let p = |p: Option<f64>| p.unwrap_or(1.0);
    let of_bootstrap: Vec<f64> = comparisons.iter().map(|c| p(c.bootstrap.map(|b| b.p))).collect();
    let of_mapsswe: Vec<f64> = comparisons.iter().map(|c| p(c.mapsswe.map(|m| m.p))).collect();
    for ((comparison, bootstrap), mapsswe) in comparisons.iter_mut().zip(holm(&of_bootstrap)).zip(holm(&of_mapsswe)) {
        comparison.bootstrap_p_holm = comparison.bootstrap.map(|_| bootstrap);
        comparison.mapsswe_p_holm = comparison.mapsswe.map(|_| mapsswe);
    }
    comparisons
}
