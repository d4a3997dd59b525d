//! `aurist bench score`: error rates of given hypotheses, and whether the systems they are of differ.

mod report;
mod tables;

use crate::cli::{Exit, Failure, tell};
use crate::eval::statistics::{Bootstrap, Units};
use crate::eval::transcripts::{Missing, Role, TranscriptFormat, Transcripts, pair};
use crate::eval::{Costs, Normaliser};
use clap::{Args, ValueEnum};
use report::{Report, System, Utterance};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

const HELP: &str = "\
Formats, told by the extension and the content, or named as FORMAT:PATH:
  txt    a text a line; references and hypotheses are paired line by line
  trn    TEXT (ID); the speaker is the id up to its first - or _
  stm    segments of recordings; a ctm is cut to a reference's segments
  ctm    words with times
  json   JSON lines, an object or a list: text or pred_text, and an id (id, utt_id, audio_filepath, file); what
         `aurist transcribe` writes; a directory stands for the *.json in it
  tsv    ID<TAB>TEXT
References can also be a LibriSpeech tree, a Common Voice table or CHiME-3's transcriptions.
Several hypotheses are compared pair by pair; name them as NAME=PATH.

Examples:
  aurist bench score ref.txt hyp.txt --normalise whisper-english
  aurist bench score ref.stm none=a.ctm suta=b.ctm --intervals --by speaker
  aurist bench score manifest.jsonl transcripts/ --cer --json > scores.json

docs/scoring.md says what each figure means.";

/// `aurist bench score`, as typed.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(super) struct Arguments {
    /// What is said.
    #[arg(value_name = "REFERENCE")]
    reference: PathBuf,
    /// What was recognised, by one system or by several.
    #[arg(value_name = "[NAME=]HYPOTHESIS", required = true)]
    hypotheses: Vec<PathBuf>,
    /// What both texts go through first: none, basic, whisper-english, whisper-normalizer, librispeech, suta-cv,
    /// suta-ted or dsuta.
    #[arg(long, value_name = "NAME", default_value_t)]
    normalise: Normaliser,
    /// Costs and ties of the alignment: levenshtein (as jiwer) or sclite.
    #[arg(long, value_name = "NAME", default_value_t)]
    alignment: Costs,
    /// Character error rates too.
    #[arg(long)]
    cer: bool,
    /// Also by speaker, utterance or length.
    #[arg(long, value_name = "GROUP", value_enum)]
    by: Option<Grouping>,
    /// Bootstrap intervals of the error rates.
    #[arg(long)]
    intervals: bool,
    /// What is resampled as a whole.
    #[arg(long, value_name = "UNIT", value_enum, default_value_t)]
    resample: Resample,
    /// Bootstrap replicates.
    #[arg(long, value_name = "N", default_value_t = Bootstrap::default().replicates)]
    replicates: usize,
    /// Seed of the bootstrap.
    #[arg(long, value_name = "N", default_value_t = Bootstrap::default().seed)]
    seed: u64,
    /// Where ids do not match on both sides.
    #[arg(long, value_name = "WHAT", value_enum, default_value_t)]
    missing: MissingChoice,
    /// Everything as one JSON object, the utterances included.
    #[arg(long, conflicts_with = "csv")]
    json: bool,
    /// One CSV line per system, or per system and group with --by.
    #[arg(long)]
    csv: bool,
}

/// How the scores are broken down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Grouping {
    Speaker,
    Utterance,
    /// By the reference's number of words.
    Length,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum Resample {
    /// Speakers where every utterance has one and there are at least 10, else utterances.
    #[default]
    Auto,
    /// Everything a speaker said together.
    Speaker,
    /// Every utterance by itself.
    Utterance,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum MissingChoice {
    /// Say which, and stop.
    #[default]
    Error,
    /// Score what is in both.
    Skip,
    /// A missing hypothesis is an empty one.
    Empty,
}

pub(super) fn run(typed: &Arguments) -> Result<Exit, Failure> {
    let report = score(typed)?;
    let text = if typed.json {
        report.json()
    } else if typed.csv {
        tables::csv(&report, typed.by)
    } else {
        tables::plain(&report, typed.by)
    };
    super::print(&text)
}

fn score(typed: &Arguments) -> Result<Report, Failure> {
    let (_, format, path) = named(&typed.reference);
    let references = Transcripts::read(&path, Role::Reference, format).map_err(Failure::failed)?;
    if references.format == TranscriptFormat::Ctm {
        return Err(Failure::usage(
            "a ctm cannot be the reference: it has words and no utterances",
        ));
    }
    warn(&references.warnings);
    let mut systems: Vec<(String, PathBuf, Vec<Option<String>>)> = Vec::new();
    for hypothesis in &typed.hypotheses {
        let (name, format, path) = named(hypothesis);
        let hypotheses = Transcripts::read(&path, Role::Hypothesis, format).map_err(Failure::failed)?;
        let missing = match typed.missing {
            MissingChoice::Error => Missing::Error,
            MissingChoice::Skip => Missing::Skip,
            MissingChoice::Empty => Missing::Empty,
        };
        let (pairs, odd) = pair(&references, &hypotheses, missing).map_err(Failure::failed)?;
        warn(&odd);
        let mut texts = vec![None; references.segments.len()];
        for pair in pairs {
            texts[pair.index] = Some(pair.hypothesis);
        }
        if systems.iter().any(|(other, ..)| *other == name) {
            return Err(Failure::usage(format_args!(
                "two hypotheses are called `{name}`; name them as NAME=PATH"
            )));
        }
        systems.push((name, path, texts));
    }
    // Only what every system has is scored, so that all are scored on the same.
    let scored: Vec<usize> = (0..references.segments.len())
        .filter(|index| systems.iter().all(|(_, _, texts)| texts[*index].is_some()))
        .collect();
    if scored.is_empty() {
        return Err(Failure::failed("no utterance has both a reference and a hypothesis"));
    }
    let references: Vec<Utterance> = scored
        .iter()
        .map(|index| {
            let segment = &references.segments[*index];
            Utterance {
                id: segment.id.clone(),
                speaker: segment.speaker.clone(),
                reference: typed.normalise.apply(&segment.text),
            }
        })
        .collect();
    let systems = systems
        .into_iter()
        .map(|(name, path, mut texts)| {
            let text = |index: &usize| typed.normalise.apply(&texts[*index].take().unwrap_or_default());
            let hypotheses = scored.iter().map(text).collect();
            System::score(name, path, &references, hypotheses, typed.alignment, typed.cer)
        })
        .collect();
    let speakers: Vec<Option<&str>> = references
        .iter()
        .map(|utterance| utterance.speaker.as_deref())
        .collect();
    if speakers.iter().any(Option::is_none)
        && (typed.by == Some(Grouping::Speaker) || typed.resample == Resample::Speaker)
    {
        return Err(Failure::failed(
            "the references do not say who speaks in every utterance: trn ids, stm, a `speaker` field or a third tsv \
             column can",
        ));
    }
    let units = match typed.resample {
        Resample::Auto => Units::choose(&speakers),
        Resample::Speaker => Units::speakers(&speakers).unwrap_or_else(|| Units::utterances(speakers.len())),
        Resample::Utterance => Units::utterances(speakers.len()),
    };
    let known: BTreeSet<&str> = speakers.iter().flatten().copied().collect();
    let speaker_count = speakers.iter().all(Option::is_some).then_some(known.len());
    let bootstrap = Bootstrap {
        replicates: typed.replicates,
        seed: typed.seed,
        ..Bootstrap::default()
    };
    Ok(Report::new(
        (typed.normalise, typed.alignment),
        references,
        systems,
        speaker_count,
        (&units, bootstrap, typed.intervals),
    ))
}

fn warn(warnings: &[String]) {
    for warning in warnings {
        tell(format_args!("warning: {warning}"));
    }
}

/// `[NAME=][FORMAT:]PATH` taken apart; what exists as it stands is a path.
fn named(typed: &Path) -> (String, Option<TranscriptFormat>, PathBuf) {
    let stem = |path: &Path| path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let text = match typed.to_str() {
        Some(text) if !typed.exists() => text,
        _ => return (stem(typed), None, typed.to_path_buf()),
    };
    let (name, rest) = match text.split_once('=') {
        Some((name, rest)) if !name.is_empty() && !name.contains(['/', '\\']) => (Some(name.to_string()), rest),
        _ => (None, text),
    };
    let (format, path) = match rest.split_once(':') {
        Some((format, path)) if !Path::new(rest).exists() => match TranscriptFormat::named(format) {
            Some(format) => (Some(format), path),
            None => (None, rest),
        },
        _ => (None, rest),
    };
    let path = PathBuf::from(path);
    (name.unwrap_or_else(|| stem(&path)), format, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_formats() {
        let parse = |text: &str| named(Path::new(text));
        assert_eq!(parse("a/b.txt"), ("b".into(), None, "a/b.txt".into()));
        assert_eq!(parse("suta=a/b.txt"), ("suta".into(), None, "a/b.txt".into()));
        let txt = Some(TranscriptFormat::Txt);
        assert_eq!(parse("x=txt:a/b.hyp"), ("x".into(), txt, "a/b.hyp".into()));
        assert_eq!(parse("c:/b.hyp"), ("b".into(), None, "c:/b.hyp".into()));
    }
}
