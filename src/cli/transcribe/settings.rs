//! What the arguments mean: checked against each other, with the defaults filled in.

use super::arguments::{AdaptationArguments, Arguments, CompatChoice, FormatChoice, HalfChoice, MethodChoice};
use super::decoding::DecodingArguments;
use super::streams::StreamBy;
use crate::cli::{Failure, cores};
use crate::decode::whisper::DecodingOptions;
use crate::engine::{CudaPrecision, EngineError};
use crate::model::{Bundled, ModelError};
use crate::output::Format;
use crate::{AdaptationConfig, Compatibility, Device, Error, Half, Method, ModelInfo, Recognizer, Reset, Settled};
use std::path::{Path, PathBuf};

/// Raised when the same audio, model and settings would give other outputs than before, so that a resumed run
/// does them again.
const OUTPUT_SCHEMA: u32 = 2;
/// More sessions than this by default would cost more memory than they save time.
const MOST_DEFAULT_JOBS: usize = 8;

/// The settings of one `aurist transcribe` run, but for those the model decides.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) paths: Vec<PathBuf>,
    pub(super) model: Option<PathBuf>,
    /// Without repetitions, in the order typed.
    pub(super) formats: Vec<Format>,
    pub(super) output_dir: Option<PathBuf>,
    pub(super) overwrite: bool,
    pub(super) device: Device,
    pub(super) adaptation: AdaptationArguments,
    pub(super) decoding: DecodingArguments,
    jobs: Option<usize>,
}

impl Settings {
    /// What `typed` means.
    pub(super) fn resolve(typed: Arguments) -> Result<Self, Failure> {
        let formats = distinct_formats(&typed.format);
        if typed.output_dir.is_none() && formats.len() > 1 {
            return Err(Failure::usage(
                "several formats need an output directory: add -o DIR, or choose one format for standard output",
            ));
        }
        let unsaved = typed.adaptation.adapt == Some(MethodChoice::None) || typed.adaptation.steps == Some(0);
        if typed.adaptation.save_adapted.is_some() && unsaved {
            return Err(Failure::usage(
                "--save-adapted needs adaptation: leave out --adapt none and --steps 0",
            ));
        }
        check_continual(&typed.adaptation)?;
        let suta = matches!(
            typed.adaptation.adapt,
            None | Some(MethodChoice::Suta | MethodChoice::None)
        );
        if typed.adaptation.fast && !suta {
            return Err(Failure::usage(
                "--fast is chosen for SUTA: leave out --adapt, or give --steps and --lr instead of --fast",
            ));
        }
        Ok(Self {
            paths: typed.paths,
            model: typed.model,
            formats,
            output_dir: typed.output_dir,
            overwrite: typed.overwrite,
            device: typed.device.resolve()?,
            adaptation: typed.adaptation,
            decoding: typed.decoding,
            jobs: typed.jobs.map(usize::from),
        })
    }

    /// Whether standard output gets one recording's output as it is: only when one file was named. A directory's
    /// files are always labelled, so that a script need not know how many there are.
    pub(super) fn unlabelled(&self) -> bool {
        self.paths.len() == 1 && self.paths.first().is_some_and(|path| !path.is_dir())
    }

    /// Sessions at the same time for so many streams, and the threads of each.
    pub(super) fn parallelism(&self, streams: usize) -> (usize, usize) {
        let cores = cores();
        let jobs = self.jobs.unwrap_or(cores.min(MOST_DEFAULT_JOBS)).min(streams).max(1);
        (jobs, (cores / jobs).max(1))
    }
}

/// The options of continual methods, against each other and the method.
pub(super) fn check_continual(typed: &AdaptationArguments) -> Result<(), Failure> {
    let continual = typed.is_continual();
    let replay = typed.adapt == Some(MethodChoice::Replay);
    let slow = replay || typed.adapt == Some(MethodChoice::Dsuta);
    let (with_slow, any) = (
        "--adapt dsuta or replay",
        "--adapt csuta, dsuta, replay, awmc or guarded",
    );
    let restore = typed.stochastic_restore.is_some();
    let needs = [
        ("--reset", typed.reset.is_some(), slow, with_slow),
        ("--buffer", typed.buffer.is_some(), slow, with_slow),
        ("--stochastic-restore", restore, slow, with_slow),
        ("--reservoir", typed.reservoir.is_some(), replay, "--adapt replay"),
        ("--state", typed.state.is_some(), continual, any),
        ("--stream-by", typed.stream_by.is_some(), continual, any),
    ];
    if let Some((option, .., method)) = needs.iter().find(|(_, given, has, _)| *given && !has) {
        return Err(Failure::usage(format_args!("{option} needs {method}")));
    }
    if continual && typed.save_adapted.is_some() {
        return Err(Failure::usage(
            "--save-adapted is for methods that start each utterance anew; a continual one keeps its stream with --state",
        ));
    }
    let shortened = typed.stop_when_settled.is_some() || typed.skip_confident.is_some() || typed.safeguard;
    let unshortened = match typed.adapt {
        Some(MethodChoice::Awmc) => Some("awmc"),
        Some(MethodChoice::Cea) => Some("cea"),
        _ => None,
    };
    if let (Some(method), true) = (unshortened, shortened) {
        return Err(Failure::usage(format_args!(
            "--adapt {method} takes all its steps: leave out --stop-when-settled, --skip-confident and --safeguard"
        )));
    }
    let by_directory = typed.stream_by == Some(StreamBy::Directory);
    if typed.state.is_some() && typed.stream_by.as_ref().is_some_and(|by| *by != StreamBy::All) {
        return Err(Failure::usage(
            "--state keeps one stream: leave out --stream-by, or keep the streams in an output directory (-o DIR)",
        ));
    }
    if typed.reset == Some(Reset::Oracle) && by_directory {
        return Err(Failure::usage(
            "--reset oracle resets where the directory changes, which within --stream-by directory it never does",
        ));
    }
    Ok(())
}

fn distinct_formats(choices: &[FormatChoice]) -> Vec<Format> {
    let mut formats = Vec::new();
    for choice in choices {
        let chosen = match choice {
            FormatChoice::One(format) => vec![*format],
            FormatChoice::All => Format::ALL.to_vec(),
        };
        for format in chosen {
            if !formats.contains(&format) {
                formats.push(format);
            }
        }
    }
    formats
}

/// The adaptation settings: the model's own (or the paper's), with the options typed in their place.
pub(in crate::cli) fn adaptation(typed: &AdaptationArguments, of_model: AdaptationConfig) -> AdaptationConfig {
    let mut config = match typed.adapt {
        Some(MethodChoice::None) => return AdaptationConfig::none(),
        // One set of settings serves all of a Whisper's methods.
        method if of_model.whisper.is_some() => {
            AdaptationConfig::of_method(method.map_or(of_model.method, MethodChoice::method), &of_model)
        }
        Some(MethodChoice::Sdpl) => AdaptationConfig::sdpl(),
        Some(MethodChoice::Awmc) => AdaptationConfig::awmc(),
        Some(MethodChoice::Cea) if typed.paper => AdaptationConfig::cea(),
        Some(MethodChoice::Csuta) if typed.paper => AdaptationConfig::csuta(),
        Some(MethodChoice::Dsuta) if typed.paper => AdaptationConfig::dsuta(),
        Some(MethodChoice::Replay) if typed.paper => AdaptationConfig::replay(),
        Some(MethodChoice::Guarded) if typed.paper => AdaptationConfig::guarded(),
        Some(MethodChoice::Cea) => AdaptationConfig::of_method(Method::Cea, &of_model),
        Some(MethodChoice::Csuta) => AdaptationConfig::of_method(Method::Csuta, &of_model),
        Some(MethodChoice::Dsuta) => AdaptationConfig::of_method(Method::Dsuta, &of_model),
        Some(MethodChoice::Replay) => AdaptationConfig::of_method(Method::Replay, &of_model),
        Some(MethodChoice::Guarded) => AdaptationConfig::of_method(Method::Guarded, &of_model),
        Some(MethodChoice::SequenceEntropy) => AdaptationConfig::of_method(Method::SequenceEntropy, &of_model),
        Some(MethodChoice::Suta) | None if typed.paper => AdaptationConfig::paper(),
        Some(MethodChoice::Suta) | None => of_model,
    };
    if typed.fast {
        config = config.fast();
    }
    config.steps = typed.steps.map_or(config.steps, usize::from);
    config.learning_rate = typed.lr.unwrap_or(config.learning_rate);
    config.temperature = typed.temperature.unwrap_or(config.temperature);
    config.parameters = typed.parameters.unwrap_or(config.parameters);
    config.top_layers = typed.top_layers.map(usize::from);
    config.continual.reset = typed.reset.unwrap_or(config.continual.reset);
    config.continual.buffer = typed.buffer.map_or(config.continual.buffer, usize::from);
    config.continual.reservoir = typed.reservoir.map_or(config.continual.reservoir, usize::from);
    config.continual.restore_probability = typed.stochastic_restore.unwrap_or(0.0);
    if let Some(loss_change) = typed.stop_when_settled {
        let steps = typed.settled_steps.map_or(Settled::default().steps, usize::from);
        config.stop_when_settled = Some(Settled { loss_change, steps });
    }
    if typed.half.is_some() || typed.samples.is_some() || typed.no_guard {
        let whisper = config.whisper.get_or_insert_default();
        whisper.half = match typed.half {
            Some(HalfChoice::Encoder) => Half::Encoder,
            Some(HalfChoice::Decoder) => Half::Decoder,
            Some(HalfChoice::Both) => Half::Both,
            None => whisper.half,
        };
        whisper.samples = typed.samples.map_or(whisper.samples, usize::from);
        whisper.guard &= !typed.no_guard;
    }
    config.skip_confident = typed.skip_confident.or(config.skip_confident);
    config.safeguard |= typed.safeguard;
    match typed.compat {
        Some(CompatChoice::Suta) => config.compatibility = Compatibility::Suta,
        Some(CompatChoice::Dsuta) => config.compatibility = Compatibility::Dsuta,
        None => {}
    }
    config
}

/// Refuses what the loaded model cannot do: methods that are not a Whisper's, and options of decoders where there is none.
pub(super) fn check_model(
    recognizer: &Recognizer,
    adaptation: &AdaptationArguments,
    decoding: &DecodingArguments,
) -> Result<(), Failure> {
    let config = self::adaptation(adaptation, recognizer.default_adaptation());
    recognizer.check_adaptation(&config).map_err(Failure::usage)?;
    if recognizer.is_whisper() {
        // Not silently without: who types these wants a CTC model adapted.
        let wants_ctc = adaptation.paper || adaptation.fast && adaptation.ctc_head.is_none();
        let saves = adaptation.save_adapted.is_some() && config.method != Method::None;
        return match wants_ctc || saves {
            true => Err(Failure::usage(crate::Error::NotAdaptable)),
            false => Ok(()),
        };
    }
    match decoding.typed() {
        Some(option) => Err(Failure::usage(format_args!(
            "{option} is for a Whisper that writes with its decoder; this model is {}",
            recognizer.info().architecture
        ))),
        None => Ok(()),
    }
}

/// The options typed that have no effect where nothing is adapted.
pub(super) fn idle_options(typed: &AdaptationArguments, method: Method) -> Vec<&'static str> {
    if method != Method::None {
        return Vec::new();
    }
    let options = [
        ("--steps", typed.steps.is_some()),
        ("--lr", typed.lr.is_some()),
        ("--temperature", typed.temperature.is_some()),
        ("--parameters", typed.parameters.is_some()),
        ("--top-layers", typed.top_layers.is_some()),
        ("--stop-when-settled", typed.stop_when_settled.is_some()),
        ("--skip-confident", typed.skip_confident.is_some()),
        ("--safeguard", typed.safeguard),
        ("--half", typed.half.is_some()),
        ("--samples", typed.samples.is_some()),
        ("--no-guard", typed.no_guard),
        ("--ctc-head", typed.ctc_head.is_some()),
        ("--compat", typed.compat.is_some()),
        ("--paper", typed.paper),
        ("--fast", typed.fast),
    ];
    options
        .into_iter()
        .filter(|(_, given)| *given)
        .map(|(name, _)| name)
        .collect()
}

/// What decides the content of a recording's outputs beside the recording: the model, the adaptation settings and
/// the outputs' schema. Hexadecimal.
pub(super) fn settings_key(
    model: &ModelInfo,
    config: &AdaptationConfig,
    decoding: Option<&DecodingOptions>,
    device: Device,
) -> String {
    let mut parts = serde_json::json!({ "schema": OUTPUT_SCHEMA, "model": model.identity, "adaptation": config });
    if let Some(decoding) = decoding {
        parts["decoding"] = serde_json::json!(decoding);
    }
    // Devices differ by roundings of f32 alone, which is no reason to do anything again; these differ by more.
    if let Device::Auto(precision) | Device::Cuda(_, precision) = device
        && precision != CudaPrecision::Exact
    {
        parts["precision"] = serde_json::json!(format!("{precision:?}"));
    }
    blake3::hash(parts.to_string().as_bytes()).to_hex().to_string()
}

/// Loads the model that was asked for, with the profile that was asked for, onto the device that was asked for.
pub(in crate::cli) fn load_model(
    typed: Option<&Path>,
    default: Bundled,
    profile: Option<&Path>,
    device: Device,
) -> Result<Recognizer, Failure> {
    let source = crate::cli::models::resolve(typed, default)?;
    Recognizer::open(&source, profile, device).map_err(|error| match error {
        Error::Model(ModelError::Engine(EngineError::NoGpu(_))) => Failure::failed(error),
        _ => Failure::failed(format_args!("{source}: {error}")),
    })
}

/// The model with the CTC model beside it that was asked for with --ctc-head.
pub(in crate::cli) fn with_ctc_head(recognizer: Recognizer, typed: Option<&Path>) -> Result<Recognizer, Failure> {
    let Some(typed) = typed else {
        return Ok(recognizer);
    };
    let head = load_model(Some(typed), Bundled::TinyEnCtc, None, Device::Cpu)?;
    recognizer.with_ctc_head(&head).map_err(Failure::usage)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{Args, FromArgMatches};
    use serde_json::json;

    #[test]
    fn single_options_override_the_papers() {
        let typed = AdaptationArguments {
            paper: true,
            steps: Some(3),
            ..AdaptationArguments::default()
        };
        let of_model = AdaptationConfig {
            learning_rate: 0.5,
            ..AdaptationConfig::paper()
        };
        let config = adaptation(&typed, of_model);
        assert_eq!(
            config,
            AdaptationConfig {
                steps: 3,
                ..AdaptationConfig::paper()
            }
        );
    }

    #[test]
    fn options_without_effect_share_one_settings_key() {
        let none = Some(MethodChoice::None);
        let typed = AdaptationArguments {
            adapt: none,
            lr: Some(1.0),
            ..AdaptationArguments::default()
        };
        assert_eq!(adaptation(&typed, AdaptationConfig::paper()), AdaptationConfig::none());
        assert_eq!(idle_options(&typed, Method::None), ["--lr"]);
    }

    #[test]
    fn every_option_of_cost_is_recorded_and_makes_another_settings_key() {
        let model = ModelInfo {
            name: String::new(),
            identity: String::new(),
            architecture: String::new(),
            parameters: 0,
            vocabulary: 0,
        };
        let typed = |arguments: &[&str]| {
            let words = ["transcribe", "a.wav"].iter().chain(arguments);
            let matches = Arguments::augment_args(clap::Command::new("transcribe")).get_matches_from(words);
            Arguments::from_arg_matches(&matches).expect("arguments").adaptation
        };
        let mut keys = Vec::new();
        for (arguments, recorded) in [
            (vec![], json!({})),
            (
                vec!["--stop-when-settled"],
                json!({ "stop_when_settled": Settled::default() }),
            ),
            (
                vec!["--stop-when-settled=0.05", "--settled-steps", "2"],
                json!({ "stop_when_settled": { "loss_change": 0.05, "steps": 2 } }),
            ),
            (vec!["--skip-confident", "0.3"], json!({ "skip_confident": 0.3 })),
            (vec!["--safeguard"], json!({ "safeguard": true })),
            (vec!["--top-layers", "2"], json!({ "top_layers": 2 })),
            (vec!["--fast"], json!(AdaptationConfig::paper().fast())),
            (vec!["--fast", "--steps", "5"], json!({ "steps": 5 })),
        ] {
            let config = adaptation(&typed(&arguments), AdaptationConfig::paper());
            let written = json!(config);
            for (field, value) in recorded.as_object().expect("an object") {
                assert_eq!(&written[field], value, "{arguments:?}");
            }
            assert_eq!(
                serde_json::from_value::<AdaptationConfig>(written).expect("a config"),
                config
            );
            keys.push(settings_key(&model, &config, None, Device::Cpu));
        }
        for (index, key) in keys.iter().enumerate() {
            assert!(!keys[..index].contains(key), "options {index} share a key");
        }
    }

    #[test]
    fn settings_written_before_an_option_existed_are_read() {
        let old = json!({ "method": "suta", "steps": 10, "learning_rate": 2e-5, "temperature": 2.5,
            "entropy_weight": 0.3, "parameters": "layer-norm+feature" });
        let config: AdaptationConfig = serde_json::from_value(old.clone()).expect("a config");
        assert_eq!(config, AdaptationConfig::paper());
        // And the other way: an option that is off leaves no trace.
        assert_eq!(json!(config), old);
    }

    #[test]
    fn formats_are_distinct_and_in_the_order_typed() {
        let typed = [FormatChoice::One(Format::Vtt), FormatChoice::All];
        let formats = distinct_formats(&typed);
        assert_eq!(formats.len(), 6);
        assert_eq!(formats[0], Format::Vtt);
    }
}
