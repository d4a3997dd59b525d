//! How an utterance is adapted to: the settings a caller chooses.

use serde::{Deserialize, Serialize};

/// Which adaptation method runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// The source model as it is.
    None,
    /// Single-utterance test-time adaptation (Lin, Li and Lee, Interspeech 2022): episodic.
    Suta,
    /// Pseudo-label CTC (SUTA's paper's baseline): the model's own greedy transcript as the target.
    Sdpl,
    /// Continual SUTA: each utterance goes on from where the last one ended, moments included.
    Csuta,
    /// Fast and slow adaptation (Lin, Huang and Lee, EMNLP 2024): each utterance is adapted to from a slow state, which
    /// takes one step on every full buffer of utterances.
    Dsuta,
    /// Anchor, leader and chaser (Lee et al., ASRU 2023): CTC towards the transcripts of the source model and of an
    /// average of the adapted ones.
    Awmc,
    /// Confidence-weighted entropy, then temporal coherence (Liu, Huang and Wang, EMNLP 2024): episodic.
    Cea,
    /// Adapts each utterance from the source model and from a domain state, and emits what evidence without labels favours.
    Guarded,
    /// DSUTA whose slow steps also rehearse earlier utterances' confident transcripts, against forgetting.
    Replay,
    /// A Whisper's entropy over whole texts, by its exact gradient's estimate from samples (arXiv 2605.08186): episodic.
    SequenceEntropy,
}

impl Method {
    /// Whether it carries what it learned from one utterance to the next.
    pub fn is_continual(self) -> bool {
        matches!(
            self,
            Self::Csuta | Self::Dsuta | Self::Awmc | Self::Replay | Self::Guarded
        )
    }
}

/// Which of the model's tensors adaptation moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ParameterChoice {
    /// Every layer norm's weight and bias.
    #[serde(rename = "layer-norm")]
    LayerNorm,
    /// The feature extractor: the convolutions (and a projection, where the model has one).
    #[serde(rename = "feature")]
    Feature,
    /// Both of the above: the paper's choice.
    #[serde(rename = "layer-norm+feature")]
    LayerNormAndFeature,
    /// Every bias vector of the encoder.
    #[serde(rename = "bias")]
    Bias,
    /// Every layer norm's weight and bias, and every other bias of the encoder above the feature extractor.
    #[serde(rename = "bias+layer-norm")]
    BiasAndLayerNorm,
    /// Every layer norm's weight and bias, and the convolutions' biases: what ports of SUTA to Whisper adapt.
    #[serde(rename = "layer-norm+conv-bias")]
    LayerNormAndConvBias,
    /// Everything, the output layer included.
    #[serde(rename = "all")]
    All,
}

/// Which half of a Whisper adaptation moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Half {
    /// The encoder alone.
    Encoder,
    /// The decoder alone: the encoder then runs once a window.
    #[default]
    Decoder,
    /// Both.
    Both,
}

/// What is a Whisper's alone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct WhisperAdaptation {
    /// Which half moves.
    pub half: Half,
    /// Texts drawn a step to estimate the gradient of the entropy over texts, at least 2.
    pub samples: usize,
    /// Whether the unadapted text stands where evidence without labels speaks against the adapted one.
    pub guard: bool,
    /// Seed of what is drawn.
    pub seed: u64,
    /// The identity of the CTC model that the encoder's lowest layers are adapted through, in place of the Whisper's own
    /// text; see [`crate::Recognizer::with_ctc_head`]. Nothing of the decoder moves then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ctc_head: Option<String>,
}

impl Default for WhisperAdaptation {
    fn default() -> Self {
        Self {
            half: Half::Decoder,
            samples: 4,
            guard: true,
            seed: 0,
            ctc_head: None,
        }
    }
}

/// The settings of adaptation. `Recognizer::default_adaptation` gives the ones chosen for a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AdaptationConfig {
    /// The method.
    pub method: Method,
    /// Optimizer steps per utterance.
    pub steps: usize,
    /// AdamW's learning rate.
    pub learning_rate: f64,
    /// Softmax temperature of the objective.
    pub temperature: f64,
    /// Weight of the entropy of non-blank frames; minimum class confusion has the rest.
    pub entropy_weight: f64,
    /// Which tensors move.
    pub parameters: ParameterChoice,
    /// Of those, only the ones in this many transformer layers at the top, or above them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_layers: Option<usize>,
    /// What a continual method carries from utterance to utterance, and when it forgets it.
    #[serde(default, skip_serializing_if = "ContinualConfig::is_default")]
    pub continual: ContinualConfig,
    /// Whether a published implementation's quirks are kept.
    #[serde(default, skip_serializing_if = "Compatibility::is_none")]
    pub compatibility: Compatibility,
    /// Stop before the last step once loss and transcript have settled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_when_settled: Option<Settled>,
    /// Take no step where the source model's entropy over non-blank frames (nats, at `temperature`) is below this: the
    /// utterance then costs one forward pass (a continual method's, two).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skip_confident: Option<f64>,
    /// Take back a step that raises the loss or turns every frame blank, and try it again at half the learning rate,
    /// which then stays halved. Steps taken back count as steps.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub safeguard: bool,
    /// Of a Whisper that writes with its decoder; `None` elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub whisper: Option<WhisperAdaptation>,
}

/// When adaptation has settled: loss and greedy transcript changed no more for some steps in a row.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Settled {
    /// The loss changed by less than this share of itself in a step.
    pub loss_change: f64,
    /// So many steps in a row, at least 1.
    pub steps: usize,
}

impl Default for Settled {
    fn default() -> Self {
        Self {
            loss_change: 0.01,
            steps: 3,
        }
    }
}

/// Which published implementation's quirks are kept, where they change the numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Compatibility {
    /// None: the method as described.
    #[default]
    None,
    /// SUTA's own code: its optimiser lists the feature extractor's tensors two to five times, which makes as many
    /// updates a step; SDPL's softmax runs over time instead of over the symbols.
    Suta,
    /// DSUTA's own code: the same, but that it lists a layer norm of the feature extractor once less.
    Dsuta,
}

/// What a continual method carries, and when it forgets it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContinualConfig {
    /// Utterances that DSUTA gathers for each step of the slow state.
    pub buffer: usize,
    /// When DSUTA's slow state goes back to the source model.
    pub reset: Reset,
    /// After each slow update, the probability with which each value goes back to the source model's (CoTTA, Wang et
    /// al. 2022, has 0.01; moments stay).
    pub restore_probability: f64,
    /// How much of AWMC's leader stays at each step.
    pub average: f64,
    /// Earlier utterances that replay keeps.
    pub reservoir: usize,
    /// The mean probability of its non-blank frames' best symbols from which on replay keeps an utterance.
    pub confidence: f64,
    /// Seed of what is drawn at random.
    pub seed: u64,
}

impl ContinualConfig {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl Default for ContinualConfig {
    fn default() -> Self {
        Self {
            buffer: 5,
            reset: Reset::None,
            restore_probability: 0.0,
            average: 0.999,
            reservoir: 20,
            confidence: 0.8,
            seed: 0,
        }
    }
}

/// When a slow state goes back to the source model and an empty optimizer. Looked at when a buffer is full.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reset {
    /// Never.
    #[default]
    None,
    /// After so many utterances.
    Fixed {
        /// Their number.
        every: u64,
    },
    /// Where the caller says that the domain changes.
    Oracle,
    /// When the improvement of the loss since the domain was learned has become worse, by over two standard errors in
    /// so many full buffers after one another (DSUTA's paper).
    Dynamic {
        /// K: the domain is learned in the first half of so many utterances, its improvement in the second.
        window: u64,
        /// Full buffers.
        patience: u32,
    },
    /// When the moving average of the slow updates' entropy (0.9 of it stays) falls below so many nats: the model has
    /// collapsed (SAR, Niu et al. 2023).
    Collapse {
        /// In nats.
        below: f64,
    },
}

impl Reset {
    /// The settings of DSUTA's paper: K 100, patience 2.
    pub fn dynamic() -> Self {
        Self::Dynamic {
            window: 100,
            patience: 2,
        }
    }
}

impl Compatibility {
    /// Whether there is nothing to keep.
    pub fn is_none(&self) -> bool {
        *self == Self::None
    }
}

impl AdaptationConfig {
    /// The source model as it is, without a step.
    pub fn none() -> Self {
        Self {
            method: Method::None,
            ..Self::paper()
        }
    }

    /// SDPL with the settings of SUTA's published code: Adam (AdamW without decay) at 1e-4, layer norms, 10 steps.
    pub fn sdpl() -> Self {
        Self {
            method: Method::Sdpl,
            learning_rate: 1e-4,
            parameters: ParameterChoice::LayerNorm,
            ..Self::paper()
        }
    }

    /// CSUTA with the settings of its authors' scripts: one step an utterance.
    pub fn csuta() -> Self {
        Self {
            method: Method::Csuta,
            steps: 1,
            ..Self::paper()
        }
    }

    /// DSUTA with the settings of the paper's scripts: five fast steps, buffers of five utterances, no reset.
    pub fn dsuta() -> Self {
        Self {
            method: Method::Dsuta,
            steps: 5,
            ..Self::paper()
        }
    }

    /// CEA with the settings of its authors' scripts: ten steps at 2e-5, then ten at ten times that on the norms alone.
    pub fn cea() -> Self {
        Self {
            method: Method::Cea,
            ..Self::paper()
        }
    }

    /// Guarded adaptation: three fast steps from the source model and three from the domain state.
    pub fn guarded() -> Self {
        Self {
            method: Method::Guarded,
            ..Self::paper().fast()
        }
    }

    /// Replay with DSUTA's settings and a reservoir of 20 utterances.
    pub fn replay() -> Self {
        Self {
            method: Method::Replay,
            ..Self::dsuta()
        }
    }

    /// AWMC with the settings of its port in DSUTA's code: 2e-4, biases and layer norms, 10 steps.
    pub fn awmc() -> Self {
        Self {
            method: Method::Awmc,
            learning_rate: 2e-4,
            parameters: ParameterChoice::BiasAndLayerNorm,
            ..Self::paper()
        }
    }

    /// The same with 3 steps at 3 times the learning rate: a third of the passes of 10 steps, for about as long a way.
    /// Chosen on the bundled model, and not measured on others; docs/adaptation.md has the figures.
    ///
    /// ```
    /// let (paper, fast) = (aurist::AdaptationConfig::paper(), aurist::AdaptationConfig::paper().fast());
    /// assert_eq!((fast.steps, fast.learning_rate), (3, 3.0 * paper.learning_rate));
    /// ```
    pub fn fast(self) -> Self {
        Self {
            steps: 3,
            learning_rate: 3.0 * self.learning_rate,
            ..self
        }
    }

    /// A method with its own settings, but for how fast and which tensors move: that is the model's, whose settings
    /// `of_model` are. SDPL's and AWMC's are their papers' throughout, and a Whisper's are its own.
    pub fn of_method(method: Method, of_model: &Self) -> Self {
        let carried = |config: Self| Self {
            learning_rate: of_model.learning_rate,
            parameters: of_model.parameters,
            ..config
        };
        match method {
            // One set of settings serves all of a Whisper's methods, but that CSUTA keeps what each step did.
            _ if of_model.whisper.is_some() => Self {
                method,
                steps: if method == Method::Csuta { 1 } else { of_model.steps },
                ..of_model.clone()
            },
            Method::None => Self::none(),
            Method::SequenceEntropy => Self {
                method,
                ..Self::whisper()
            },
            Method::Suta => Self {
                method,
                ..of_model.clone()
            },
            Method::Sdpl => Self::sdpl(),
            Method::Csuta => carried(Self::csuta()),
            Method::Dsuta => carried(Self::dsuta()),
            Method::Replay => carried(Self::replay()),
            Method::Cea => carried(Self::cea()),
            Method::Guarded => Self {
                method,
                ..of_model.clone().fast()
            },
            Method::Awmc => Self::awmc(),
        }
    }

    /// Optimizer steps that will be tried.
    pub fn planned_steps(&self) -> usize {
        match self.method {
            Method::None => 0,
            Method::Cea => 2 * self.steps,
            _ => self.steps,
        }
    }

    /// SUTA with the settings of the paper's scripts (for wav2vec2-base-960h).
    pub fn paper() -> Self {
        Self {
            method: Method::Suta,
            steps: 10,
            learning_rate: 2e-5,
            temperature: 2.5,
            entropy_weight: 0.3,
            parameters: ParameterChoice::LayerNormAndFeature,
            top_layers: None,
            continual: ContinualConfig::default(),
            compatibility: Compatibility::None,
            stop_when_settled: None,
            skip_confident: None,
            safeguard: false,
            whisper: None,
        }
    }

    /// What a Whisper is adapted with where it is asked for: it is not by itself. docs/adaptation.md has the figures.
    pub fn whisper() -> Self {
        Self {
            method: Method::None,
            steps: 3,
            learning_rate: 2e-3,
            temperature: 1.0,
            entropy_weight: 1.0,
            parameters: ParameterChoice::LayerNorm,
            whisper: Some(WhisperAdaptation::default()),
            ..Self::paper()
        }
    }

    /// SUTA on a CTC model that shares its lowest layers with a Whisper, for [`crate::Recognizer::with_ctc_head`]: with the
    /// settings chosen for the CTC model, but that layer norms alone move.
    pub(crate) fn through_ctc_head(of_ctc_model: Self, identity: &str) -> Self {
        Self {
            method: Method::Suta,
            parameters: ParameterChoice::LayerNorm,
            whisper: Some(WhisperAdaptation {
                half: Half::Encoder,
                ctc_head: Some(identity.to_string()),
                ..WhisperAdaptation::default()
            }),
            ..of_ctc_model
        }
    }

    /// Whether a Whisper is adapted through a CTC model.
    pub fn is_through_ctc_head(&self) -> bool {
        self.whisper.as_ref().is_some_and(|whisper| whisper.ctc_head.is_some())
    }
}
