//! From the journal to results: what was measured, and the files that tell it.

use super::arguments::RunArguments;
use super::journal::Journal;
use super::overview::overview;
use super::plan::{Item, LaneKind, Plan};
use super::worker;
use crate::audio::mix::{MixerCompatibility, wav_bytes};
use crate::cli::{Failure, cores};
use crate::eval::report::{
    Clip, ConditionEntry, Experiment, Failed, Hypotheses, Hypothesis, MethodSettings, Model, Reproduction, Results,
    Set, examples, page, score,
};
use crate::eval::statistics::Bootstrap;
use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;

/// Scores what the journal holds of the plan, and writes results.json and what else was asked for. Returns the paths, and
/// a table for standard output.
pub(super) fn write(
    typed: &RunArguments,
    root: &Path,
    plan: &Plan,
    journal: &Journal,
    failures: Vec<Failed>,
) -> Result<(Vec<String>, String), Failure> {
    let mut results = score(experiment(typed, plan, journal, failures));
    let mut written = Vec::new();
    let mut put = |path: &Path, text: &str| -> Result<(), Failure> {
        let failed = |error: std::io::Error| Failure::failed(format_args!("cannot write {}: {error}", path.display()));
        write_whole(path, text).map_err(failed)?;
        written.push(path.display().to_string());
        Ok(())
    };
    let json = |results: &Results| {
        results
            .json()
            .map_err(|error| Failure::failed(format_args!("results: {error}")))
    };
    put(&root.join("results.json"), &json(&results.without_costs())?)?;
    results.reproduction = Some(Reproduction {
        command: command(),
        platform: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        cores: cores(),
    });
    let asked = &typed.report;
    if let Some(path) = &asked.json {
        put(path, &json(&results)?)?;
    }
    if let Some(path) = &asked.csv {
        put(path, &results.csv())?;
    }
    if let Some(path) = &asked.report {
        let clips = asked
            .clips
            .map_or(Ok(Vec::new()), |count| clips(plan, &results, count))?;
        put(path, &page(&results, asked.examples, &clips))?;
    }
    Ok((written, overview(&results)))
}

/// Written whole, or not at all.
fn write_whole(path: &Path, text: &str) -> std::io::Result<()> {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    {
        // The file is for others to read, as far as the user's umask allows.
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    let mut file = builder.tempfile_in(folder)?;
    file.write_all(text.as_bytes())?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

/// The command line, quoted for a shell where it must be.
fn command() -> String {
    let quote = |argument: String| {
        let plain = |c: char| c.is_alphanumeric() || "-_./:=,@+%".contains(c);
        if !argument.is_empty() && argument.chars().all(plain) {
            argument
        } else {
            format!("'{}'", argument.replace('\'', "'\\''"))
        }
    };
    let arguments = std::env::args_os()
        .skip(1)
        .map(|argument| quote(argument.to_string_lossy().into_owned()));
    std::iter::once("aurist".to_string())
        .chain(arguments)
        .collect::<Vec<_>>()
        .join(" ")
}

fn experiment(typed: &RunArguments, plan: &Plan, journal: &Journal, failures: Vec<Failed>) -> Experiment {
    let infos = || plan.models.iter().map(|model| model.info());
    let methods = infos().zip(&plan.settings).flat_map(|(info, settings)| {
        plan.methods
            .iter()
            .zip(settings)
            .map(|(method, config)| MethodSettings {
                model: info.name.clone(),
                name: method.name.clone(),
                settings: serde_json::to_value(config).unwrap_or_default(),
            })
    });
    Experiment {
        seed: plan.seed,
        normaliser: typed.normalise,
        bootstrap: Bootstrap {
            seed: plan.seed,
            ..Bootstrap::default()
        },
        mixer: match plan.compatibility {
            MixerCompatibility::None => "true-snr".to_string(),
            MixerCompatibility::Sgem => "sgem".to_string(),
        },
        models: infos()
            .map(|info| Model {
                name: info.name.clone(),
                identity: info.identity.clone(),
                architecture: info.architecture.clone(),
                parameters: info.parameters,
            })
            .collect(),
        methods: methods.collect(),
        sets: (0..plan.sets.len())
            .map(|set| set_entry(typed, plan, set, journal))
            .collect(),
        conditions: (0..plan.lanes.len()).map(|lane| condition_entry(plan, lane)).collect(),
        runs: runs(plan, journal),
        failures,
    }
}

fn set_entry(typed: &RunArguments, plan: &Plan, index: usize, journal: &Journal) -> Set {
    let set = &plan.sets[index];
    let speakers: BTreeSet<&str> = set
        .utterances
        .iter()
        .filter_map(|utterance| utterance.speaker.as_deref())
        .collect();
    let mut hasher = blake3::Hasher::new();
    for (utterance, content) in set.utterances.iter().zip(&plan.contents[index]) {
        let content = content.as_deref().unwrap_or("unreadable");
        for part in [utterance.id.as_str(), utterance.reference.as_str(), content] {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        }
    }
    // What was heard tells an utterance's length where the set does not.
    let (source, lane) = (plan.source(0), 0);
    let seconds = plan
        .items(index, lane)
        .into_iter()
        .filter(|item| item.place.is_none())
        .map(|item| {
            let known = plan
                .key(0, source, index, lane, item)
                .ok()
                .and_then(|key| journal.get(&key));
            let told = plan.utterance(index, item).duration;
            told.or(known.map(|(result, _)| result.duration)).unwrap_or(0.0)
        });
    Set {
        name: set.name.clone(),
        path: typed.sets[index].display().to_string(),
        utterances: set.utterances.len(),
        seconds: seconds.sum(),
        speakers: speakers.len(),
        hash: hasher.finalize().to_hex().to_string(),
        warnings: set.warnings.clone(),
    }
}

fn condition_entry(plan: &Plan, lane: usize) -> ConditionEntry {
    let lane = &plan.lanes[lane];
    let (used, ratio, blocks) = match &lane.kind {
        LaneKind::Condition(index) => (vec![*index], plan.conditions[*index].condition().ratio(), Vec::new()),
        LaneKind::Stream(stream, conditions) => {
            let blocks = stream
                .blocks
                .iter()
                .map(|block| (block.condition.label(), block.utterances));
            (conditions.clone(), None, blocks.collect())
        }
    };
    let mut files: Vec<(String, String)> = Vec::new();
    for file in used.iter().flat_map(|index| plan.conditions[*index].files()) {
        let file = (file.path.display().to_string(), file.hash.clone());
        if !files.contains(&file) {
            files.push(file);
        }
    }
    ConditionEntry {
        name: lane.name.clone(),
        spec: lane.spec.clone(),
        ratio,
        files,
        blocks,
        stream: matches!(lane.kind, LaneKind::Stream(..)),
    }
}

fn runs(plan: &Plan, journal: &Journal) -> Vec<Hypotheses> {
    let mut runs = Vec::new();
    for model in 0..plan.models.len() {
        for set in 0..plan.sets.len() {
            for lane in 0..plan.lanes.len() {
                let items = plan.items(set, lane);
                for method in 0..plan.methods.len() {
                    let hypothesis = |item: &Item| hypothesis(plan, journal, (model, method, set, lane), *item);
                    runs.push(Hypotheses {
                        model: plan.models[model].info().name.clone(),
                        method: plan.methods[method].name.clone(),
                        set: plan.sets[set].name.clone(),
                        condition: plan.lanes[lane].name.clone(),
                        utterances: items.iter().filter_map(hypothesis).collect(),
                    });
                }
            }
        }
    }
    runs
}

/// One utterance's result; `None` where it failed. The source model's transcript is what an adapted run began with.
fn hypothesis(
    plan: &Plan,
    journal: &Journal,
    (model, method, set, lane): (usize, usize, usize, usize),
    item: Item,
) -> Option<Hypothesis> {
    let unadapted = plan.is_unadapted(model, method);
    let recognised_by = if unadapted { plan.source(model) } else { method };
    let key = plan.key(model, recognised_by, set, lane, item).ok()?;
    let (result, seconds) = journal.get(&key)?;
    let utterance = plan.utterance(set, item);
    let mut hypothesis = Hypothesis {
        utterance: utterance.id.clone(),
        speaker: utterance.speaker.clone(),
        duration: result.duration,
        block: item.place.map(|(block, _)| block),
        reference: utterance.reference.clone(),
        text: result.text.clone(),
        steps: result.steps,
        losses: result.losses.clone(),
        entropies: result.entropies.clone(),
        step_texts: result.step_texts.clone(),
        guard: result.guard,
        forwards: result.forwards,
        heard: result.heard.clone(),
        compute_seconds: seconds.compute,
        ..Hypothesis::default()
    };
    if unadapted {
        hypothesis.text.clone_from(&result.unadapted_text);
        hypothesis.steps = 0;
        hypothesis.losses.clear();
        hypothesis.entropies.truncate(1);
        hypothesis.step_texts.retain(|(step, _)| *step == 0);
        hypothesis.guard = None;
        // One for each piece; a run that adapts makes one more for each step.
        hypothesis.forwards = result.pieces;
        hypothesis.compute_seconds = seconds.source;
    }
    Some(hypothesis)
}

/// What the models heard of the utterances changed the most.
fn clips(plan: &Plan, results: &Results, count: usize) -> Result<Vec<Clip>, Failure> {
    let mut clips: Vec<Clip> = Vec::new();
    for example in examples(results, count) {
        let comparison = &results.comparisons[example.comparison];
        let Some(set) = plan.sets.iter().position(|set| set.name == comparison.set) else {
            continue;
        };
        let Some(lane) = plan.lanes.iter().position(|lane| lane.name == comparison.condition) else {
            continue;
        };
        let same = |clip: &Clip| {
            clip.set == comparison.set
                && clip.condition == comparison.condition
                && clip.hypothesis == example.hypothesis
        };
        let Some(run) = results.run(
            &comparison.model,
            &comparison.method,
            &comparison.set,
            &comparison.condition,
        ) else {
            continue;
        };
        if clips.iter().any(same) {
            continue;
        }
        let shown = &run.hypotheses[example.hypothesis];
        let is_shown = |item: &Item| {
            plan.utterance(set, *item).id == shown.utterance && item.place.map(|(block, _)| block) == shown.block
        };
        let Some(item) = plan.items(set, lane).into_iter().find(is_shown) else {
            continue;
        };
        let utterance = plan.utterance(set, item);
        let samples = worker::read(utterance).map_err(Failure::failed)?;
        let heard = plan.conditions[item.condition]
            .apply(&samples, &utterance.id)
            .map_err(Failure::failed)?;
        clips.push(Clip {
            set: comparison.set.clone(),
            condition: comparison.condition.clone(),
            hypothesis: example.hypothesis,
            wav: wav_bytes(&heard).map_err(|error| Failure::failed(format_args!("a clip: {error}")))?,
        });
    }
    Ok(clips)
}
