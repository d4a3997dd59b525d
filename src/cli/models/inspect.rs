//! `aurist models inspect`: what a model is, or what is wrong with it.

use super::size;
use crate::adapt::Selection;
use crate::cli::{Exit, Failure};
use crate::engine::cpu::CpuBackend;
use crate::model::{Bundled, CtcModel, Input, ModelConfig, ModelError, ModelFiles, NamedTensor, Symbol, Vocabulary};
use crate::{AdaptationConfig, Compatibility, Half, ParameterChoice};
use clap::Args;
use serde::Serialize;
use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;
use std::path::PathBuf;

const CHOICES: [(&str, ParameterChoice); 5] = [
    ("layer-norm", ParameterChoice::LayerNorm),
    ("feature", ParameterChoice::Feature),
    ("layer-norm+feature", ParameterChoice::LayerNormAndFeature),
    ("bias", ParameterChoice::Bias),
    ("all", ParameterChoice::All),
];

/// `aurist models inspect`, as typed.
#[derive(Debug, Args)]
#[command(after_help = "\
All weights are read and checked.
Exit codes: 0 it can be loaded, 1 it cannot, and what is wrong is said; 2 wrong usage.")]
pub(super) struct Arguments {
    /// A model directory, or the name of a bundled model or of one in the Hugging Face cache [default: $AURIST_MODEL, or tiny.en, which is bundled].
    #[arg(value_name = "DIR|NAME")]
    model: Option<PathBuf>,

    /// One JSON object instead of words.
    #[arg(long)]
    json: bool,
}

/// What was found; the JSON output has these fields.
#[derive(Debug, Serialize)]
struct Report {
    name: String,
    architecture: String,
    /// Of the weights.
    format: &'static str,
    /// Of all the files that were read.
    bytes: u64,
    identity: String,
    width: usize,
    layers: usize,
    heads: usize,
    feed_forward: usize,
    input: &'static str,
    mel_bands: Option<usize>,
    /// Whether an utterance is brought to mean 0 and variance 1 before the model.
    normalised: Option<bool>,
    seconds_per_frame: f64,
    /// `None` where only memory limits it.
    longest_seconds: Option<f64>,
    parameters: usize,
    tensors: usize,
    /// Tensors in the file that are not needed, such as a decoder's beside a CTC head.
    unused_tensors: usize,
    /// `None` for a model without a CTC head.
    vocabulary: Option<Symbols>,
    /// Whisper's; `None` for a model without one, or with a CTC head in its place.
    decoder: Option<DecoderReport>,
    /// The settings that `transcribe` starts from, and where they come from.
    adaptation: AdaptationConfig,
    adaptation_chosen_on: Option<String>,
    /// What each value of `--parameters` would move.
    adapted: Vec<Adapted>,
}

#[derive(Debug, Serialize)]
struct DecoderReport {
    layers: usize,
    heads: usize,
    feed_forward: usize,
    tokens: usize,
    /// The longest sequence, prompt included.
    positions: usize,
    /// Codes; none for an English-only model.
    languages: Vec<String>,
    /// Layer and head, for the times of words.
    alignment_heads: Vec<(usize, usize)>,
}

#[derive(Debug, Serialize)]
struct Symbols {
    size: usize,
    blank: usize,
    word_delimiter: Option<usize>,
    /// Symbols that stand for no text: the blank, `<s>` and their like.
    silent: usize,
    /// More than one character long.
    multi_character: usize,
    text: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Adapted {
    parameters: &'static str,
    tensors: usize,
    values: usize,
    /// With `--compat suta`: tensors by updates a step.
    updates_per_step: BTreeMap<u32, usize>,
}

/// Runs the command.
pub(super) fn run(typed: &Arguments) -> Result<Exit, Failure> {
    let report = examine(typed);
    if !typed.json {
        super::print(&describe(&report?))?;
        return Ok(Exit::Done);
    }
    let (value, exit) = match &report {
        Ok(report) => (serde_json::to_value(report), Exit::Done),
        // A program that reads JSON is told in JSON.
        Err(failure) => (Ok(serde_json::json!({ "error": failure.message })), failure.exit),
    };
    super::print(&format!("{:#}\n", value.map_err(Failure::failed)?))?;
    Ok(exit)
}

fn examine(typed: &Arguments) -> Result<Report, Failure> {
    let source = super::resolve(typed.model.as_deref(), Bundled::TinyEn)?;
    let failed = |error: ModelError| Failure::failed(format_args!("{source}: {error}"));
    let files = ModelFiles::open(&source).map_err(&failed)?;
    let backend = CpuBackend::new(1).map_err(Failure::failed)?;
    let model = files.load(&backend).map_err(&failed)?;
    Ok(report(files, &model))
}

fn report(files: ModelFiles, model: &CtcModel<CpuBackend>) -> Report {
    let config = &files.config;
    let weights = model.weights();
    let used: HashSet<&str> = weights.tensors().iter().map(|tensor| tensor.name.as_str()).collect();
    let unused = files.checkpoint.names().into_iter().filter(|name| !used.contains(name));
    let layers = (weights.layers(), weights.decoder_layers());
    let adapted = CHOICES.map(|(name, choice)| adapted(name, choice, weights.tensors(), layers));
    let (input, mel_bands, normalised) = match config.input() {
        Input::LogMel { bands } => ("log-mel", Some(bands), None),
        Input::Waveform { normalise } => ("waveform", None, Some(normalise)),
    };
    Report {
        architecture: config.architecture.clone(),
        format: files.format,
        bytes: files.bytes,
        width: config.transformer.width,
        layers: config.transformer.layers,
        heads: config.transformer.heads,
        feed_forward: config.transformer.ffn,
        input,
        mel_bands,
        normalised,
        seconds_per_frame: config.samples_per_frame() as f64 / f64::from(crate::audio::SAMPLE_RATE),
        longest_seconds: longest(config),
        parameters: weights.parameter_count(),
        tensors: weights.tensors().len(),
        unused_tensors: unused.count(),
        vocabulary: files.vocabulary.as_ref().map(symbols),
        decoder: decoder(&files),
        adaptation: match files.generation {
            Some(_) => AdaptationConfig::none(),
            None => files.preset.adaptation(),
        },
        adaptation_chosen_on: files.preset.chosen_on.clone(),
        adapted: adapted.into(),
        name: files.name,
        identity: files.identity,
    }
}

fn decoder(files: &ModelFiles) -> Option<DecoderReport> {
    let (config, generation) = (files.config.decoder.as_ref()?, files.generation.as_ref()?);
    let languages = generation.tokenizer.languages.iter().map(|(code, _)| code.clone());
    Some(DecoderReport {
        layers: config.layers,
        heads: config.heads,
        feed_forward: config.ffn,
        tokens: config.vocab_size,
        positions: config.positions,
        languages: languages.collect(),
        alignment_heads: generation.alignment_heads.clone(),
    })
}

fn longest(config: &ModelConfig) -> Option<f64> {
    match config.input() {
        Input::LogMel { bands } => {
            let frames = config.most_input_values() / bands;
            Some((frames * crate::audio::HOP) as f64 / f64::from(crate::audio::SAMPLE_RATE))
        }
        Input::Waveform { .. } => None,
    }
}

fn symbols(vocabulary: &Vocabulary) -> Symbols {
    let all = || (0..vocabulary.len()).map(|index| vocabulary.symbol(index));
    let text = all().filter_map(|symbol| match symbol {
        Symbol::Text(text) => Some(text.clone()),
        Symbol::Boundary | Symbol::Silent => None,
    });
    let text: Vec<String> = text.collect();
    Symbols {
        size: vocabulary.len(),
        blank: vocabulary.blank(),
        word_delimiter: all().position(|symbol| *symbol == Symbol::Boundary),
        silent: all().filter(|symbol| **symbol == Symbol::Silent).count(),
        multi_character: text.iter().filter(|text| text.chars().count() > 1).count(),
        text,
    }
}

fn adapted(
    parameters: &'static str,
    choice: ParameterChoice,
    tensors: &[NamedTensor],
    layers: (usize, usize),
) -> Adapted {
    let selection = Selection {
        choice,
        top_layers: None,
        lowest_layers: None,
        compatibility: Compatibility::Suta,
        half: Half::Both,
    };
    let chosen: Vec<&NamedTensor> = tensors
        .iter()
        .filter(|tensor| selection.includes(tensor, layers))
        .collect();
    let mut updates_per_step = BTreeMap::new();
    for tensor in &chosen {
        *updates_per_step.entry(selection.multiplicity(tensor)).or_default() += 1;
    }
    Adapted {
        parameters,
        tensors: chosen.len(),
        values: chosen.iter().map(|tensor| tensor.range.len()).sum(),
        updates_per_step,
    }
}

fn describe(report: &Report) -> String {
    let mut text = format!("{}\n", report.name);
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "{name:<16}{value}");
    };
    line("architecture", report.architecture.clone());
    line("weights", format!("{}, {}", report.format, size(report.bytes)));
    line(
        "encoder",
        format!(
            "{} layers of width {}, {} heads, feed-forward {}",
            report.layers, report.width, report.heads, report.feed_forward
        ),
    );
    line(
        "input",
        match (report.mel_bands, report.normalised) {
            (Some(bands), _) => format!("log-mel, {bands} bands"),
            (None, Some(true)) => "waveform, 16 kHz, each utterance normalised".to_string(),
            (None, _) => "waveform, 16 kHz, as it is".to_string(),
        },
    );
    let limit = report
        .longest_seconds
        .map_or(String::new(), |seconds| format!(", utterances of up to {seconds:.1} s"));
    line(
        "output",
        format!("a frame every {:.0} ms{limit}", report.seconds_per_frame * 1e3),
    );
    if let Some(decoder) = &report.decoder {
        let languages = match decoder.languages.len() {
            0 => "English only".to_string(),
            count => format!("{count} languages"),
        };
        line(
            "decoder",
            format!(
                "{} layers, {} heads, feed-forward {}, {} tokens, {languages}",
                decoder.layers,
                decoder.heads,
                decoder.feed_forward,
                thousands(decoder.tokens)
            ),
        );
    }
    line(
        "vocabulary",
        match &report.vocabulary {
            None if report.decoder.is_some() => "no CTC head: its decoder writes".to_string(),
            None => "none: an encoder without a decoder or a CTC head, which cannot transcribe by itself".to_string(),
            Some(symbols) => vocabulary_line(symbols),
        },
    );
    if let Some(symbols) = &report.vocabulary {
        line("symbols", sample(&symbols.text));
    }
    let unused = match report.unused_tensors {
        0 => String::new(),
        count => format!(" ({count} more in the file not used)"),
    };
    line(
        "parameters",
        format!("{} in {} tensors{unused}", thousands(report.parameters), report.tensors),
    );
    let adaptation = &report.adaptation;
    let chosen = if report.adaptation_chosen_on.is_some() {
        "its own"
    } else {
        "the SUTA paper's"
    };
    let parameters = CHOICES.iter().find(|(_, choice)| *choice == adaptation.parameters);
    let settings = match report.decoder {
        Some(_) => "none unless --adapt asks for it (suta, sdpl, sequence-entropy, csuta, dsuta or replay)".to_string(),
        None => format!(
            "{chosen}: lr {:e}, {}, {} steps",
            adaptation.learning_rate,
            parameters.map_or("", |(name, _)| name),
            adaptation.steps
        ),
    };
    line("settings", settings);
    line("identity", report.identity.clone());
    if report.decoder.is_some() {
        return text;
    }
    text += "\n--parameters          tensors       values  updates a step with --compat suta\n";
    for adapted in &report.adapted {
        let updates: Vec<String> = adapted
            .updates_per_step
            .iter()
            .rev()
            .map(|(updates, tensors)| format!("{updates} x {tensors}"))
            .collect();
        let _ = writeln!(
            text,
            "{:<20}  {:>7}  {:>11}  {}",
            adapted.parameters,
            adapted.tensors,
            thousands(adapted.values),
            updates.join(", ")
        );
    }
    text
}

fn vocabulary_line(symbols: &Symbols) -> String {
    let delimiter = symbols.word_delimiter.map_or("no word delimiter".to_string(), |index| {
        format!("word delimiter {index}")
    });
    let long = match symbols.multi_character {
        0 => String::new(),
        count => format!(", {count} of several characters"),
    };
    let (size, blank, silent) = (symbols.size, symbols.blank, symbols.silent);
    format!("{size} symbols: blank {blank}, {delimiter}, {silent} without text{long}")
}

/// As many symbols as a line holds.
fn sample(symbols: &[String]) -> String {
    let mut line = String::new();
    for symbol in symbols {
        let symbol: String = symbol.chars().filter(|c| !c.is_control()).collect();
        if line.chars().count() + symbol.chars().count() > 56 {
            return line + "...";
        }
        line += &symbol;
        line.push(' ');
    }
    line.trim_end().to_string()
}

/// 94371712 as 94,371,712.
fn thousands(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_and_symbols_cut() {
        assert_eq!((thousands(0), thousands(999)), ("0".to_string(), "999".to_string()));
        assert_eq!(thousands(94_371_712), "94,371,712");
        let many: Vec<String> = vec!["A".to_string(); 100];
        assert!(sample(&many).ends_with("...") && sample(&many).len() < 62);
        assert_eq!(sample(&many[..2]), "A A");
    }
}
