//! What was typed: the arguments as clap reads them, checked one by one but not against each other.

use super::decoding::DecodingArguments;
use super::streams::StreamBy;
use crate::cli::device::DeviceArguments;
use crate::cli::{EXIT_CODES, Failure};
use crate::output::Format;
use crate::{Method, ParameterChoice, Reset};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, ValueEnum};
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  aurist transcribe talk.mp3                          the text, on standard output
  aurist transcribe talk.mp3 -f srt > talk.srt        subtitles
  aurist transcribe recordings/ -o text/ -f txt,json  a directory; run it again to go on
  aurist transcribe talk.wav -m wav2vec2-base-960h    a CTC model, once pulled, adapted to each utterance
  aurist transcribe talk.wav -m tiny.en-ctc           the same with the one that is bundled: rough text
  aurist transcribe talk.wav -m tiny.en-ctc --fast    fewer steps: a third of the cost
  aurist transcribe talk.wav -m tiny.en-ctc --paper   with the settings of the SUTA paper
  aurist transcribe me.wav -m tiny.en-ctc --save-adapted me.profile    a speaker's profile, to start
  aurist transcribe *.wav -m tiny.en-ctc --load-adapted me.profile     from with --load-adapted
  ffmpeg -i film.mkv -f wav - | aurist transcribe -   from another program

Inputs: directories are searched for audio files (hidden files are skipped); a file that is named
itself is always tried.

Standard output: one file's output is printed as it is. With several files or a directory, every
line of `txt` is `FILE<TAB>TEXT`, `json` is one object per line, `ctm` has a `;; FILE` comment before
each file, and the other formats have a line `==> FILE <==`. Progress, errors and the summary go to
standard error.

Output directory: DIR/sub/a.wav becomes OUT/sub/a.txt (a.wav.txt where another input would have the
same name). OUT/.aurist-journal.jsonl records what is done, so the same command run again skips it;
a recording is done again when its content, the model, the settings or the formats changed, or its
output is gone. Files that are not aurist's own are never overwritten without --overwrite.
With a continual method, a recording's output also depends on those before it in its stream: the
state after each recording is kept in OUT/.aurist-stream-*.safetensors, from which a stopped run goes
on; where one of those recordings changed or failed, its stream is done again from its start.

--progress json writes one object per line to standard error. Its `event` is one of
  start    files, jobs, threads, model, settings
  file     file, status (done or skipped), outputs, duration, seconds, entropy_before, entropy_after
  warning  file (or null), message
  error    file (or null), message
  summary  done, skipped, failed, not_started, interrupted, audio_seconds, wall_seconds, speed,
           entropy_before, entropy_after, output_dir
  saved    path, utterances (with --save-adapted)
with durations in seconds and entropies in nats.";

/// `aurist transcribe`, as typed.
#[derive(Debug, Args)]
#[command(after_help = "Run with --help for examples, outputs and exit codes.",
          after_long_help = format!("{EXAMPLES}\n\n{EXIT_CODES}"))]
pub(in crate::cli) struct Arguments {
    /// Audio files, directories of them (searched recursively), or `-` for standard input.
    #[arg(required = true, value_name = "PATH")]
    pub(super) paths: Vec<PathBuf>,

    /// Model directory, or the name of a bundled model or of one that `aurist models pull` fetched [default: $AURIST_MODEL,
    /// or tiny.en, a bundled Whisper; tiny.en-ctc, bundled too, is one that all methods adapt].
    #[arg(short, long, value_name = "DIR|NAME")]
    pub(super) model: Option<PathBuf>,

    /// Output format: txt, json, srt, vtt, tsv, ctm or all; repeatable, and several with commas.
    #[arg(short, long, value_name = "FORMAT", value_delimiter = ',', default_value = "txt",
          value_parser = formats(), hide_possible_values = true)]
    pub(super) format: Vec<FormatChoice>,

    /// Write one output per recording and format into DIR; without it, output goes to standard output.
    #[arg(short, long, value_name = "DIR")]
    pub(super) output_dir: Option<PathBuf>,

    /// Do everything again, and overwrite existing files even if aurist did not write them.
    #[arg(long, requires = "output_dir")]
    pub(super) overwrite: bool,

    /// Recordings transcribed at the same time [default: one per core, at most 8].
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(super) jobs: Option<u16>,

    #[command(flatten)]
    pub(super) device: DeviceArguments,

    /// Progress on standard error. auto: a bar on a terminal, else errors and the summary only; plain: a line
    /// per file; json: an object per event; none: errors only.
    #[arg(long, value_name = "HOW", default_value = "auto")]
    pub(super) progress: ProgressChoice,

    #[command(flatten)]
    pub(super) adaptation: AdaptationArguments,

    #[command(flatten)]
    pub(super) decoding: DecodingArguments,
}

/// The options of adaptation, as typed.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Adaptation (defaults are chosen for each model; the JSON output states them)")]
pub(in crate::cli) struct AdaptationArguments {
    /// Adaptation method: suta (single-utterance test-time adaptation), sdpl (pseudo-label CTC: the model's own
    /// transcript as the target), cea (confidence-weighted entropy, then temporal coherence), or none; or a continual
    /// method, which carries what it learned from one recording to the next: guarded (from the source model and from
    /// what the stream taught, whichever evidence favours), csuta (no reset ever), dsuta (fast and slow), replay (dsuta
    /// that rehearses what it heard) or awmc (anchor, leader, chaser). A Whisper that writes with its decoder has suta (the
    /// token entropy of its own text), sdpl and sequence-entropy (the entropy over texts), and csuta, dsuta and replay,
    /// which carry from window to window what a text that stands taught; it is not adapted unless this is given [default:
    /// none for such a Whisper, else suta].
    #[arg(long, value_name = "METHOD", hide_possible_values = true)]
    pub(super) adapt: Option<MethodChoice>,

    /// Optimizer steps per utterance, 0 to 1000 [default: the model's].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(0..=1000))]
    pub(super) steps: Option<u16>,

    /// Learning rate, e.g. 2e-5 [default: the model's].
    #[arg(long, value_name = "X", value_parser = positive, allow_negative_numbers = true)]
    pub(super) lr: Option<f64>,

    /// Softmax temperature of the objective, e.g. 2.5 [default: the model's].
    #[arg(long, value_name = "X", value_parser = positive, allow_negative_numbers = true)]
    pub(super) temperature: Option<f64>,

    /// Which tensors move: layer-norm, feature (the convolutions, and the projection after them), layer-norm+feature,
    /// bias, bias+layer-norm, layer-norm+conv-bias or all [default: the model's].
    #[arg(long, value_name = "WHICH", value_parser = parameters(), hide_possible_values = true)]
    pub(super) parameters: Option<ParameterChoice>,

    /// Of those, only the ones in the K transformer layers at the top, or above them [default: all layers].
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u16).range(1..))]
    pub(super) top_layers: Option<u16>,

    /// Stop before the last step once the loss changes by less than this share of itself in a step and the greedy
    /// transcript stays the same [default where no number is given: 0.01].
    #[arg(long, value_name = "CHANGE", num_args = 0..=1, require_equals = true, default_missing_value = "0.01",
          value_parser = positive)]
    pub(super) stop_when_settled: Option<f64>,

    /// So many steps in a row without such a change, before it stops [default: 3].
    #[arg(long, value_name = "K", requires = "stop_when_settled", value_parser = clap::value_parser!(u16).range(1..))]
    pub(super) settled_steps: Option<u16>,

    /// Take no step where the source model is sure: the mean entropy of its non-blank frames (`entropy_before` in the
    /// JSON, in nats) is below this.
    #[arg(long, value_name = "ENTROPY", value_parser = positive, allow_negative_numbers = true)]
    pub(super) skip_confident: Option<f64>,

    /// Take back a step that raises the loss or turns every frame blank, and try it again at half the learning rate.
    #[arg(long)]
    pub(super) safeguard: bool,

    /// Whisper: which half moves, encoder, decoder or both [default: decoder].
    #[arg(long, value_name = "WHICH", hide_possible_values = true)]
    pub(super) half: Option<HalfChoice>,

    /// Whisper, sequence-entropy: texts drawn a step [default: 4].
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u8).range(2..=32))]
    pub(super) samples: Option<u8>,

    /// Whisper: let the adapted text stand, and teach, whatever the evidence says.
    #[arg(long)]
    pub(super) no_guard: bool,

    /// Whisper: adapt it through a CTC model made of its encoder: a directory or a name, as for -m. suta moves the layer norms of
    /// the layers that both share, by the CTC model's objective and settings, and the Whisper writes with them; tiny.en-ctc
    /// is for tiny.en. Implies --adapt suta.
    #[arg(long, value_name = "DIR|NAME", conflicts_with_all = ["half", "samples", "top_layers", "compat", "paper"])]
    pub(in crate::cli) ctc_head: Option<PathBuf>,

    /// Keep a published implementation's quirks. suta: its optimiser lists the feature extractor's tensors two to
    /// five times, for as many updates a step; sdpl's softmax runs over time. dsuta: its optimiser's list.
    #[arg(long, value_name = "WHOSE", hide_possible_values = true)]
    pub(super) compat: Option<CompatChoice>,

    /// dsuta, replay: when to go back to the source model. none, fixed:N (after N utterances), dynamic or dynamic:K (when a shift
    /// of domain is detected, learned in K = 100 utterances), oracle (where the directory changes), or collapse:X (when
    /// the entropy falls below X nats) [default: none].
    #[arg(long, value_name = "WHEN", value_parser = reset)]
    pub(super) reset: Option<Reset>,

    /// dsuta, replay: utterances for each step of the slow state [default: 5].
    #[arg(long, value_name = "M", value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(super) buffer: Option<u16>,

    /// dsuta, replay: after each slow step, put each value back to the source model's with probability P, as CoTTA with 0.01.
    #[arg(long, value_name = "P", value_parser = probability)]
    pub(super) stochastic_restore: Option<f64>,

    /// replay: earlier utterances that are kept [default: 20].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(super) reservoir: Option<u16>,

    /// Continual methods: keep the stream in FILE, and go on from it if it exists; written after each recording.
    #[arg(long, value_name = "FILE")]
    pub(in crate::cli) state: Option<PathBuf>,

    /// Continual methods: which recordings are one stream, taken in order. all, directory, or a field of --manifest such
    /// as speaker [default: all]. Streams run side by side, so that the result does not depend on --jobs.
    #[arg(long, value_name = "KEY")]
    pub(super) stream_by: Option<StreamBy>,

    /// For --stream-by: one JSON object a line, with `audio_filepath` (relative to FILE) and the field.
    #[arg(long, value_name = "FILE", requires = "stream_by")]
    pub(super) manifest: Option<PathBuf>,

    /// Start every utterance from the speaker's or room's profile in FILE, made with --save-adapted.
    #[arg(long, value_name = "FILE")]
    pub(in crate::cli) load_adapted: Option<PathBuf>,

    /// Write what adaptation made of the model to FILE: the mean over all utterances of the run.
    #[arg(long, value_name = "FILE")]
    pub(in crate::cli) save_adapted: Option<PathBuf>,

    /// The SUTA paper's settings (lr 2e-5, layer-norm+feature, temperature 2.5, 10 steps); single options override.
    #[arg(long)]
    pub(super) paper: bool,

    /// 3 steps at 3 times the learning rate, for a third of the cost of 10 (chosen on the bundled model; its price in
    /// words is in docs/adaptation.md); single options override.
    #[arg(long, conflicts_with = "paper")]
    pub(super) fast: bool,
}

impl AdaptationArguments {
    /// Whether the method carries something from one recording to the next.
    pub(super) fn is_continual(&self) -> bool {
        use MethodChoice::{Awmc, Csuta, Dsuta, Guarded, Replay};
        matches!(self.adapt, Some(Csuta | Dsuta | Awmc | Replay | Guarded))
    }
}

impl AdaptationArguments {
    /// That nothing is asked for which only a run over recordings has.
    pub(in crate::cli) fn check_live(&self) -> Result<(), Failure> {
        let others = [
            ("--stream-by", self.stream_by.is_some()),
            ("--manifest", self.manifest.is_some()),
            ("--save-adapted", self.save_adapted.is_some()),
            ("--ctc-head", self.ctc_head.is_some()),
        ];
        if let Some((option, _)) = others.iter().find(|(_, given)| *given) {
            return Err(Failure::usage(format_args!("{option} is for `aurist transcribe`")));
        }
        super::settings::check_continual(self)
    }
}

/// A value of `--format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FormatChoice {
    One(Format),
    All,
}

/// A value of `--adapt`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum MethodChoice {
    None,
    Suta,
    Sdpl,
    Csuta,
    Dsuta,
    Awmc,
    Cea,
    Replay,
    Guarded,
    SequenceEntropy,
}

impl MethodChoice {
    /// What it stands for.
    pub(super) fn method(self) -> Method {
        match self {
            Self::None => Method::None,
            Self::Suta => Method::Suta,
            Self::Sdpl => Method::Sdpl,
            Self::Csuta => Method::Csuta,
            Self::Dsuta => Method::Dsuta,
            Self::Awmc => Method::Awmc,
            Self::Cea => Method::Cea,
            Self::Replay => Method::Replay,
            Self::Guarded => Method::Guarded,
            Self::SequenceEntropy => Method::SequenceEntropy,
        }
    }
}

/// A value of `--half`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum HalfChoice {
    Encoder,
    Decoder,
    Both,
}

/// A value of `--compat`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum CompatChoice {
    Suta,
    Dsuta,
}

/// A value of `--progress`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum ProgressChoice {
    Auto,
    Plain,
    Json,
    None,
}

fn formats() -> impl TypedValueParser<Value = FormatChoice> {
    let names = Format::ALL.into_iter().map(Format::extension).chain(["all"]);
    PossibleValuesParser::new(names).map(|name| name.parse().map_or(FormatChoice::All, FormatChoice::One))
}

fn parameters() -> impl TypedValueParser<Value = ParameterChoice> {
    let names = [
        "layer-norm",
        "feature",
        "layer-norm+feature",
        "bias",
        "bias+layer-norm",
        "layer-norm+conv-bias",
        "all",
    ];
    PossibleValuesParser::new(names).map(|name| match name.as_str() {
        "feature" => ParameterChoice::Feature,
        "layer-norm+feature" => ParameterChoice::LayerNormAndFeature,
        "bias" => ParameterChoice::Bias,
        "bias+layer-norm" => ParameterChoice::BiasAndLayerNorm,
        "layer-norm+conv-bias" => ParameterChoice::LayerNormAndConvBias,
        "all" => ParameterChoice::All,
        _ => ParameterChoice::LayerNorm,
    })
}

pub(super) fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() && value > 0.0 => Ok(value),
        _ => Err("give a finite number greater than 0, such as 2e-5 or 2.5".to_string()),
    }
}

pub(super) fn probability(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if (0.0..=1.0).contains(&value) => Ok(value),
        _ => Err("give a probability, from 0 to 1".to_string()),
    }
}

fn reset(text: &str) -> Result<Reset, String> {
    let (rule, value) = match text.split_once(':') {
        Some((rule, value)) => (rule, Some(value)),
        None => (text, None),
    };
    let count = |least: u64| {
        value
            .and_then(|value| value.parse().ok())
            .filter(|count| *count >= least)
    };
    let reset = match (rule, value) {
        ("none", None) => Some(Reset::None),
        ("oracle", None) => Some(Reset::Oracle),
        ("dynamic", None) => Some(Reset::dynamic()),
        ("dynamic", Some(_)) => count(10).map(|window| Reset::Dynamic { window, patience: 2 }),
        ("fixed", Some(_)) => count(1).map(|every| Reset::Fixed { every }),
        ("collapse", Some(value)) => positive(value).ok().map(|below| Reset::Collapse { below }),
        _ => None,
    };
    reset.ok_or_else(|| {
        "give none, fixed:N, oracle, dynamic, dynamic:K (K at least 10) or collapse:X, such as fixed:50".to_string()
    })
}
