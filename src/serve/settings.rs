//! The adaptation that a client asks for: a method and a few numbers, in place of the model's own.

use super::App;
use super::error::ApiError;
use crate::{AdaptationConfig, Method};
use serde::{Deserialize, Serialize};

/// Steps an utterance at most: a client chooses what a server computes.
const MOST_STEPS: usize = 50;

/// What a client may choose; what it leaves out is the model's.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Choice {
    /// `none`, `suta`, `sdpl`, `cea`, `csuta`, `dsuta`, `replay`, `awmc`, `guarded`.
    pub(super) method: Option<Method>,
    /// Steps an utterance.
    pub(super) steps: Option<usize>,
    /// AdamW's learning rate.
    pub(super) learning_rate: Option<f64>,
    /// A third of the steps, each three times as long; SUTA only.
    #[serde(default)]
    pub(super) fast: bool,
}

impl App {
    /// The settings that a client asks for, if the model can be adapted so.
    pub(super) fn adaptation(&self, choice: &Choice) -> Result<AdaptationConfig, ApiError> {
        let settings = choice.settings(&self.recognizer.default_adaptation())?;
        let checked = self.recognizer.check_adaptation(&settings);
        checked.map_err(|error| ApiError::invalid("adapt", error))?;
        Ok(settings)
    }
}

impl Choice {
    /// The settings, from the model's own.
    fn settings(&self, of_model: &AdaptationConfig) -> Result<AdaptationConfig, ApiError> {
        let mut settings = AdaptationConfig::of_method(self.method.unwrap_or(of_model.method), of_model);
        if self.fast {
            if settings.method != Method::Suta {
                return Err(ApiError::invalid("fast", "`fast` is for the method `suta`"));
            }
            settings = settings.fast();
        }
        if let Some(steps) = self.steps {
            if steps > MOST_STEPS {
                return Err(ApiError::invalid("steps", format!("`steps` is at most {MOST_STEPS}")));
            }
            settings.steps = steps;
        }
        if let Some(rate) = self.learning_rate {
            if !(rate.is_finite() && rate > 0.0 && rate <= 1.0) {
                return Err(ApiError::invalid(
                    "learning_rate",
                    "`learning_rate` is greater than 0 and at most 1",
                ));
            }
            settings.learning_rate = rate;
        }
        Ok(settings)
    }
}
