//! What was typed.

use crate::audio::mix::{Condition, ConditionError, MixerCompatibility};
use crate::cli::EXIT_CODES;
use crate::cli::transcribe::{DecodingArguments, ProgressChoice};
use crate::eval::Normaliser;
use clap::{Args, Subcommand, ValueEnum};
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  aurist bench test.jsonl -o run/ --report run.html       none and suta on clean speech
  aurist bench test.jsonl -o run/ --noise babble.flac@0,5,10 --delta 0.01,0.02
  aurist bench a.jsonl b.jsonl -o run/ --noise noises/@5  a noise of the directory for each utterance
  aurist bench test.jsonl -o run/ --condition reverb:hall.wav+gaussian@10 --condition telephone
  aurist bench test.jsonl -o run/ --method suta:steps=5,lr=1e-3,parameters=layer-norm --method sdpl
  aurist bench test.jsonl -o run/ --stream day.stream     blocks of conditions, one after another
  aurist bench score reference.txt hypothesis.txt         score transcripts without a model

Conditions: clean speech, unless --no-clean, and each --noise, --delta, --reverb and --condition. A
condition is effects joined with `+`, applied from left to right:
  FILE@SNR or DIR@SNR   recorded noise at a signal-to-noise ratio in dB
  gaussian@SNR          white noise
  delta:X               x + X N(0, 1), whatever the level of x
  reverb:FILE           a room, by its impulse response
  telephone             300 to 3400 Hz at 8 kHz, mu-law
  gain:DB, clip:LEVEL, codec:mu-law, codec:a-law, codec:8-bit, codec:adpcm

Methods: `none` always, and each --adapt and --method. A method is a name of --adapt with options of
`aurist transcribe` behind a colon, such as suta:steps=5,lr=1e-3 or suta:paper.

Streams: md-easy, md-hard or md-long (their recordings by name from --stream-noises; md-easy:20 for
blocks of 20 utterances), or a file of lines `COUNT CONDITION`.

Run directory: OUT/journal.jsonl records every utterance as it is done, so the same command run
again goes on; OUT/results.json is the same to the byte however often the run was interrupted and
however many jobs it had. See docs/benchmarking.md.";

/// `aurist bench`, as typed.
#[derive(Debug, Args)]
#[command(after_help = "Run with --help for examples, conditions, methods, streams and exit codes.",
          after_long_help = format!("{EXAMPLES}\n\n{EXIT_CODES}"),
          args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(in crate::cli) struct Arguments {
    #[command(subcommand)]
    pub(super) command: Option<Command>,

    #[command(flatten)]
    pub(super) run: RunArguments,
}

/// What is done instead of a run.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Score given hypotheses against references, without a model.
    Score(Box<super::score::Arguments>),
}

/// A run's arguments.
#[derive(Debug, Args)]
pub(super) struct RunArguments {
    /// Test sets: NeMo-style JSONL, LibriSpeech trees, Common Voice TSV, STM, CHiME-3 trn lists, `audio<TAB>text`.
    #[arg(required = true, value_name = "SET")]
    pub(super) sets: Vec<PathBuf>,

    /// Run directory: the journal and the results.
    #[arg(short, long, value_name = "DIR", required = true)]
    pub(super) output_dir: Option<PathBuf>,

    /// Model directory or name; repeatable [default: $AURIST_MODEL, or tiny.en-ctc, the bundled CTC model].
    #[arg(short, long, value_name = "DIR")]
    pub(super) model: Vec<PathBuf>,

    /// Adaptation methods with the model's settings, as `aurist transcribe --adapt` has them [default: suta].
    #[arg(long, value_name = "METHOD", value_delimiter = ',')]
    pub(super) adapt: Vec<String>,

    /// A method with settings, such as suta:steps=5,lr=1e-3,parameters=layer-norm; repeatable.
    #[arg(long, value_name = "METHOD")]
    pub(super) method: Vec<String>,

    /// At most N utterances of each set, the first ones.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) limit: Option<u32>,

    /// What both texts go through before they are compared: none, basic, whisper-english, librispeech, suta-cv,
    /// suta-ted or dsuta.
    #[arg(long, value_name = "NAME", default_value = "basic")]
    pub(super) normalise: Normaliser,

    /// What chance decides: noise, the choice of noises, the order of streams, resampling.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(super) seed: u64,

    /// Utterances at the same time, each on one thread [default: one per core].
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(super) jobs: Option<u16>,

    /// Progress on standard error. auto: a bar on a terminal, else errors and the summary only; plain: a line
    /// per condition; json: an object per event; none: errors only.
    #[arg(long, value_name = "HOW", default_value = "auto")]
    pub(super) progress: ProgressChoice,

    #[command(flatten)]
    pub(super) decoding: DecodingArguments,

    #[command(flatten)]
    pub(super) conditions: ConditionArguments,

    #[command(flatten)]
    pub(super) report: ReportArguments,
}

/// The conditions, as typed.
#[derive(Debug, Args)]
#[command(next_help_heading = "Conditions")]
pub(super) struct ConditionArguments {
    /// Additive noise at a true signal-to-noise ratio: FILE@SNR, DIR@SNR or gaussian@SNR; several ratios with commas;
    /// repeatable.
    #[arg(long, value_name = "NOISE@SNR")]
    pub(super) noise: Vec<String>,

    /// x + X N(0, 1) on the waveform; several with commas.
    #[arg(long, value_name = "X", value_delimiter = ',', allow_negative_numbers = true)]
    pub(super) delta: Vec<String>,

    /// A room's impulse response; repeatable.
    #[arg(long, value_name = "FILE")]
    pub(super) reverb: Vec<String>,

    /// Any condition, such as reverb:hall.wav+babble.flac@5; repeatable.
    #[arg(long, value_name = "CONDITION")]
    pub(super) condition: Vec<String>,

    /// Leave clean speech out.
    #[arg(long)]
    pub(super) no_clean: bool,

    /// A stream of blocks: md-easy, md-hard or md-long (with :N for other lengths), or a file; repeatable.
    #[arg(long, value_name = "STREAM")]
    pub(super) stream: Vec<String>,

    /// Where the published streams' recordings are.
    #[arg(long, value_name = "DIR")]
    pub(super) stream_noises: Option<PathBuf>,

    /// Keep a published mixer's quirks. sgem: the ratio in dB is half the nominal one, speech and noise are brought to
    /// -25 dB, 16-bit samples.
    #[arg(long, value_name = "WHOSE", hide_possible_values = true)]
    pub(super) compat: Option<CompatChoice>,

    /// Keep what the models heard as wav files below DIR.
    #[arg(long, value_name = "DIR")]
    pub(super) write_mixed: Option<PathBuf>,
}

/// What is written at the end.
#[derive(Debug, Args)]
#[command(next_help_heading = "Report")]
pub(super) struct ReportArguments {
    /// One self-contained HTML file.
    #[arg(long, value_name = "FILE")]
    pub(super) report: Option<PathBuf>,

    /// Everything, with costs, as JSON.
    #[arg(long, value_name = "FILE")]
    pub(super) json: Option<PathBuf>,

    /// A line per run as CSV.
    #[arg(long, value_name = "FILE")]
    pub(super) csv: Option<PathBuf>,

    /// Utterances shown in full in the report, of those each run changed the most.
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub(super) examples: usize,

    /// Put what the models heard of the N utterances of each run changed the most into the report, to be played.
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "2")]
    pub(super) clips: Option<usize>,
}

/// A value of `--compat`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum CompatChoice {
    Sgem,
}

impl ConditionArguments {
    /// Whose mixer is used.
    pub(super) fn compatibility(&self) -> MixerCompatibility {
        match self.compat {
            Some(CompatChoice::Sgem) => MixerCompatibility::Sgem,
            None => MixerCompatibility::None,
        }
    }

    /// The conditions asked for, each once, in the order of this list: clean, --noise, --delta, --reverb, --condition.
    pub(super) fn conditions(&self) -> Result<Vec<Condition>, ConditionError> {
        let mut texts = Vec::new();
        for noise in &self.noise {
            texts.extend(ratios(noise)?);
        }
        texts.extend(self.delta.iter().map(|delta| format!("delta:{delta}")));
        texts.extend(
            self.reverb
                .iter()
                .map(|path| format!("reverb:{}", path.replace('+', "\\+"))),
        );
        texts.extend(self.condition.iter().cloned());
        let mut conditions = Vec::new();
        if !self.no_clean {
            conditions.push(Condition::clean());
        }
        for text in texts {
            let condition = text.parse()?;
            if !conditions.contains(&condition) {
                conditions.push(condition);
            }
        }
        Ok(conditions)
    }
}

/// `noise@0,5` is `noise@0` and `noise@5`.
fn ratios(noise: &str) -> Result<Vec<String>, ConditionError> {
    let Some((name, ratios)) = noise.rsplit_once('@') else {
        return Err(ConditionError {
            text: noise.to_string(),
            reason: "the signal-to-noise ratio is missing: give NOISE@SNR, such as babble.flac@5 or gaussian@0,5,10"
                .to_string(),
        });
    };
    let name = name.replace('+', "\\+");
    Ok(ratios.split(',').map(|ratio| format!("{name}@{ratio}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_ratios_are_several_conditions_each_once() {
        let typed = ConditionArguments {
            noise: vec!["gaussian@0,5".into(), "a+b.wav@5".into()],
            delta: vec!["0.01".into()],
            reverb: Vec::new(),
            condition: vec!["gaussian@5".into(), "telephone".into()],
            no_clean: false,
            stream: Vec::new(),
            stream_noises: None,
            compat: None,
            write_mixed: None,
        };
        let labels: Vec<String> = typed
            .conditions()
            .expect("conditions")
            .iter()
            .map(Condition::label)
            .collect();
        assert_eq!(
            labels,
            ["clean", "gaussian@0", "gaussian@5", "a+b@5", "delta:0.01", "telephone"]
        );
    }
}
