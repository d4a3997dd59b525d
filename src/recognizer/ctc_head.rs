//! A Whisper with a CTC model that shares its lowest layers, to be adapted through it.

use super::{Error, Recognizer, Writer};
use crate::decode::whisper::CtcHead;
use crate::engine::cpu::CpuBackend;
use crate::model::{Apart, shared_layers};
use crate::{AdaptationConfig, Compatibility, Method, ParameterChoice};

/// Why a Whisper cannot be adapted through a CTC model, or not so.
#[derive(Debug, thiserror::Error)]
pub enum CtcHeadError {
    /// A model without a decoder.
    #[error(
        "--ctc-head is for a Whisper that writes with its decoder, such as -m tiny.en; this model is {0}, which is adapted by itself: leave out --ctc-head"
    )]
    NoDecoder(String),
    /// A CTC model was needed.
    #[error(
        "the CTC head's model {0} writes with a decoder: name a CTC model made of this Whisper's encoder, such as tiny.en-ctc, which is bundled, for tiny.en"
    )]
    NoHead(String),
    /// Nothing can be carried over.
    #[error(
        "the CTC head's model {head} shares no layer with {whisper}: {apart}; it must be made of this Whisper's encoder, whose convolutions, positions and lowest layers its training left as they were (tiny.en-ctc, which is bundled, is of tiny.en)"
    )]
    NothingShared {
        /// The CTC model.
        head: String,
        /// The Whisper.
        whisper: String,
        /// The first difference.
        apart: Apart,
    },
    /// A window of the Whisper's is too long for it.
    #[error("the CTC head's model {head} takes {most} frames of 10 ms at once, fewer than the {window} of a window")]
    TooShort {
        /// The CTC model.
        head: String,
        /// Frames that it takes.
        most: usize,
        /// Frames of a window.
        window: usize,
    },
    /// Another method than SUTA.
    #[error(
        "--ctc-head is for --adapt suta, which adapts to each window for itself: leave out --ctc-head for what moves down the Whisper's own text or goes on from window to window (sdpl, sequence-entropy, csuta, dsuta, replay), or carry on with the CTC model alone (-m tiny.en-ctc)"
    )]
    Method,
    /// Tensors that cannot be carried over.
    #[error(
        "through a CTC head norms and biases are carried over, not weights, which the two models may store with different roundings: choose --parameters layer-norm (what was measured), layer-norm+conv-bias, bias or bias+layer-norm"
    )]
    Parameters,
    /// Settings that have no meaning.
    #[error(
        "with --ctc-head the lowest layers move, those that both models share: leave out --top-layers and --compat"
    )]
    Settings,
    /// The configuration is of another CTC model, or the recognizer has none.
    #[error("these settings are for another CTC head than this recognizer has; see `Recognizer::with_ctc_head`")]
    Another,
}

/// A CTC model beside a Whisper.
#[derive(Clone)]
pub(super) struct AttachedHead {
    recognizer: Box<Recognizer>,
    layers: usize,
}

impl AttachedHead {
    /// SUTA through it.
    pub(super) fn adaptation(&self) -> AdaptationConfig {
        AdaptationConfig::through_ctc_head(self.recognizer.default_adaptation(), &self.recognizer.info().identity)
    }

    pub(super) fn on_cpu(&self) -> Result<CtcHead<CpuBackend>, Error> {
        Ok(CtcHead {
            model: self.recognizer.model_on_cpu()?.clone(),
            layers: self.layers,
        })
    }
}

impl Recognizer {
    /// The same Whisper, to be adapted through a CTC model that was made of its encoder: SUTA adapts the CTC model to each
    /// window, the tensors in the layers that both share are put into the Whisper, and its decoder writes. Its default
    /// adaptation is that then, with the settings chosen for the CTC model. Both are on the processor.
    ///
    /// Which layers are shared is found by comparing all values; see [`shared_layers`]. An error where none is.
    ///
    /// ```
    /// use aurist::{Bundled, Recognizer};
    ///
    /// # #[cfg(feature = "bundled-model")] {
    /// let whisper = Recognizer::bundled(Bundled::TinyEn)?;
    /// let whisper = whisper.with_ctc_head(&Recognizer::bundled(Bundled::TinyEnCtc)?)?;
    /// assert_eq!(whisper.shared_layers(), Some(2));
    ///
    /// let samples = aurist::audio::read_all("tests/data/librivox/sense_and_sensibility_01_austen_64kb-0880.wav".as_ref())?;
    /// let adapted = whisper.transcribe(&samples, &whisper.default_adaptation())?;
    /// assert_eq!(adapted.utterances[0].steps, 10);
    /// # }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn with_ctc_head(&self, head: &Recognizer) -> Result<Self, Error> {
        if !self.is_whisper() {
            return Err(CtcHeadError::NoDecoder(self.info().architecture.clone()).into());
        }
        let name = || head.info().name.clone();
        if head.is_whisper() {
            return Err(CtcHeadError::NoHead(name()).into());
        }
        let models = [self.model_on_cpu()?, head.model_on_cpu()?];
        let layers = shared_layers(&CpuBackend::new(1)?, models[0], models[1]);
        let layers = layers.map_err(|apart| CtcHeadError::NothingShared {
            head: name(),
            whisper: self.info().name.clone(),
            apart,
        })?;
        let bands = match models[0].input() {
            crate::model::Input::LogMel { bands } => bands,
            crate::model::Input::Waveform { .. } => 1,
        };
        let [window, most] = models.map(|model| model.config().most_input_values() / bands);
        if most < window {
            return Err(CtcHeadError::TooShort {
                head: name(),
                most,
                window,
            }
            .into());
        }
        Ok(Self {
            head: Some(AttachedHead {
                recognizer: Box::new(head.clone()),
                layers,
            }),
            ..self.clone()
        })
    }

    /// How many of the encoder's lowest layers the CTC head shares; `None` where there is no head.
    pub fn shared_layers(&self) -> Option<usize> {
        self.head.as_ref().map(|head| head.layers)
    }

    /// Whether the Whisper can be adapted so through its CTC head: an error that says why not.
    pub(super) fn check_through_ctc_head(&self, config: &AdaptationConfig) -> Result<(), Error> {
        let asked = config.whisper.as_ref().and_then(|whisper| whisper.ctc_head.as_ref());
        let identity = self.head.as_ref().map(|head| &head.recognizer.info().identity);
        let carried_over = matches!(
            config.parameters,
            ParameterChoice::LayerNorm
                | ParameterChoice::LayerNormAndConvBias
                | ParameterChoice::Bias
                | ParameterChoice::BiasAndLayerNorm
        );
        let error = match self.loaded.writer {
            Writer::Ctc(_) => CtcHeadError::NoDecoder(self.info().architecture.clone()),
            _ if asked != identity => CtcHeadError::Another,
            _ if config.method != Method::Suta => CtcHeadError::Method,
            _ if !carried_over => CtcHeadError::Parameters,
            _ if config.top_layers.is_some() || config.compatibility != Compatibility::None => CtcHeadError::Settings,
            _ => return Ok(()),
        };
        Err(error.into())
    }
}
