//! Methods as typed: a name of `--adapt`, with options of `aurist transcribe` behind a colon.

use crate::AdaptationConfig;
use crate::cli::Failure;
use crate::cli::transcribe::{AdaptationArguments, adaptation};
use clap::Parser;
use std::path::Path;

/// Its options are those of `aurist transcribe`, so that both commands mean the same by them.
#[derive(Debug, Parser)]
#[command(no_binary_name = true, disable_help_flag = true)]
struct Options {
    #[command(flatten)]
    adaptation: AdaptationArguments,
}

/// A method as typed, checked but for what the model decides.
#[derive(Debug)]
pub(super) struct MethodSpec {
    /// As typed: its name in the report.
    pub(super) name: String,
    typed: AdaptationArguments,
}

impl MethodSpec {
    /// Reads `suta:steps=5,lr=1e-3`; an option without a value is a flag, as in `suta:paper`.
    pub(super) fn parse(text: &str) -> Result<Self, Failure> {
        let (method, settings) = text.split_once(':').unwrap_or((text, ""));
        let mut arguments = vec!["--adapt".to_string(), method.trim().to_string()];
        for setting in settings.split(',').filter(|setting| !setting.trim().is_empty()) {
            match setting.split_once('=') {
                Some((key, value)) => arguments.push(format!("--{}={}", key.trim(), value.trim())),
                None => arguments.push(format!("--{}", setting.trim())),
            }
        }
        let options = Options::try_parse_from(&arguments).map_err(|error| {
            let text_of_error = error.to_string();
            let first = text_of_error.lines().next().unwrap_or("it cannot be read");
            let first = first.strip_prefix("error: ").unwrap_or(first);
            Failure::usage(format_args!(
                "method `{text}`: {first}; see `aurist transcribe --help` for its options"
            ))
        })?;
        let typed = options.adaptation;
        if typed.load_adapted.is_some() || typed.save_adapted.is_some() {
            return Err(Failure::usage(format_args!(
                "method `{text}`: profiles are not a method's; merge one into a model, or use `aurist transcribe`"
            )));
        }
        Ok(Self {
            name: text.trim().to_string(),
            typed,
        })
    }

    /// The methods asked for: each once, `none` first.
    pub(super) fn all(adapt: &[String], method: &[String]) -> Result<Vec<Self>, Failure> {
        let mut methods = vec![Self::parse("none")?];
        let default = ["suta".to_string()];
        let adapt = if adapt.is_empty() && method.is_empty() {
            &default
        } else {
            adapt
        };
        for text in adapt.iter().chain(method) {
            let parsed = Self::parse(text)?;
            if methods.iter().all(|known| known.name != parsed.name) {
                methods.push(parsed);
            }
        }
        Ok(methods)
    }

    /// The CTC model that the method adapts a Whisper through, as typed.
    pub(super) fn head(&self) -> Option<&Path> {
        self.typed.ctc_head.as_deref()
    }

    /// The settings for a model with these defaults.
    pub(super) fn settings(&self, of_model: AdaptationConfig) -> AdaptationConfig {
        adaptation(&self.typed, of_model)
    }
}

/// Whether each utterance is adapted to by itself, so that it matters neither what came before nor on which thread.
pub(super) fn is_episodic(config: &AdaptationConfig) -> bool {
    !config.method.is_continual()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Method, ParameterChoice};

    #[test]
    fn settings_are_those_of_transcribe() {
        let method = MethodSpec::parse("suta:steps=5,lr=1e-3,parameters=layer-norm+feature").expect("a method");
        let config = method.settings(AdaptationConfig::paper());
        assert_eq!(
            (config.method, config.steps, config.learning_rate),
            (Method::Suta, 5, 1e-3)
        );
        assert_eq!(config.parameters, ParameterChoice::LayerNormAndFeature);
        let paper = MethodSpec::parse("suta:paper").expect("a method");
        let of_model = AdaptationConfig {
            steps: 3,
            ..AdaptationConfig::paper()
        };
        assert_eq!(paper.settings(of_model), AdaptationConfig::paper());
    }

    #[test]
    fn none_is_always_there_and_no_method_twice() {
        let names = |adapt: &[&str], method: &[&str]| -> Vec<String> {
            let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_string()).collect::<Vec<_>>();
            let methods = MethodSpec::all(&owned(adapt), &owned(method)).expect("methods");
            methods.into_iter().map(|method| method.name).collect()
        };
        assert_eq!(names(&[], &[]), ["none", "suta"]);
        assert_eq!(
            names(&["none", "sdpl"], &["suta:steps=1", "sdpl"]),
            ["none", "sdpl", "suta:steps=1"]
        );
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, expected) in [
            ("tent", "tent"),
            ("suta:steps=x", "steps"),
            ("suta:stops=1", "stops"),
            ("suta:lr=0", "greater than 0"),
            ("suta:save-adapted=x", "profiles"),
        ] {
            let failure = MethodSpec::parse(text).expect_err(text);
            assert!(failure.message.contains(expected), "{text}: {}", failure.message);
        }
    }
}
