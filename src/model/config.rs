//! config.json and adaptation.json.

use super::checkpoint::EncoderSizes;
use super::decoder::DecoderConfig;
use super::positional::PositionalConfig;
use super::transformer::{LayerNames, TransformerConfig};
use super::{Input, ModelError};
use serde::Deserialize;
use serde_json::Value;

const FILE: &str = "config.json";

/// What config.json says, as far as the engine is concerned.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// As config.json names it, e.g. `Wav2Vec2ForCTC`.
    pub architecture: String,
    /// Output symbols, V; 0 where there is no output layer.
    pub vocab_size: usize,
    /// Index of CTC's blank.
    pub blank: usize,
    /// The transformer layers' sizes.
    pub transformer: TransformerConfig,
    /// What comes before them.
    pub frontend: FrontendConfig,
    /// Whisper's decoder, where the configuration has one.
    pub decoder: Option<DecoderConfig>,
    /// What stands before `encoder.` or `feature_extractor.` in the tensors' names.
    prefix: &'static str,
}

/// What turns the signal into frames.
#[derive(Debug, Clone, PartialEq)]
pub enum FrontendConfig {
    /// Whisper's.
    Whisper(WhisperConfig),
    /// That of wav2vec2 and its family.
    Wav2Vec2(Wav2Vec2Config),
}

/// Whisper's frontend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WhisperConfig {
    /// Mel bands of the input.
    pub num_mel_bins: usize,
    /// Longest input, in output frames.
    pub max_source_positions: usize,
}

/// The frontend of wav2vec2 and its family.
#[derive(Debug, Clone, PartialEq)]
pub struct Wav2Vec2Config {
    /// Channels, kernel and stride of each convolution.
    pub convolutions: Vec<(usize, usize, usize)>,
    /// Whether they have biases.
    pub conv_bias: bool,
    /// A layer norm after each (the large models), or a norm over time after the first (the base ones).
    pub layer_norms: bool,
    /// Whether a norm stands before the projection.
    pub projection_norm: bool,
    /// The positional embedding.
    pub positional: PositionalConfig,
    /// Whether an utterance is normalised (preprocessor_config.json).
    pub normalise: bool,
}

/// What an architecture calls its tensors.
pub(super) struct Names {
    /// Before `feature_extractor.`
    pub(super) base: String,
    /// Before `layers.`
    pub(super) encoder: String,
    pub(super) layer: LayerNames,
    pub(super) head: &'static str,
}

/// config.json of a Whisper encoder.
#[derive(Deserialize)]
struct WhisperJson {
    d_model: usize,
    encoder_layers: usize,
    encoder_attention_heads: usize,
    encoder_ffn_dim: usize,
    num_mel_bins: usize,
    max_source_positions: usize,
    #[serde(default)]
    vocab_size: usize,
    #[serde(default)]
    decoder_layers: usize,
    #[serde(default)]
    decoder_attention_heads: usize,
    #[serde(default)]
    decoder_ffn_dim: usize,
    #[serde(default)]
    max_target_positions: usize,
    ctc_blank_id: Option<usize>,
    #[serde(default)]
    pad_token_id: usize,
    #[serde(default = "gelu")]
    activation_function: String,
}

fn gelu() -> String {
    "gelu".into()
}

/// config.json of the wav2vec2 family; defaults are those of transformers.
#[derive(Deserialize)]
#[serde(default)]
struct Wav2Vec2Json {
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    hidden_act: String,
    feat_extract_activation: String,
    feat_extract_norm: String,
    conv_dim: Vec<usize>,
    conv_kernel: Vec<usize>,
    conv_stride: Vec<usize>,
    conv_bias: bool,
    num_conv_pos_embeddings: usize,
    num_conv_pos_embedding_groups: usize,
    /// data2vec
    conv_pos_kernel_size: usize,
    do_stable_layer_norm: bool,
    layer_norm_eps: f64,
    vocab_size: usize,
    pad_token_id: usize,
    /// HuBERT
    feat_proj_layer_norm: bool,
    conv_pos_batch_norm: bool,
    /// WavLM
    num_buckets: usize,
    max_bucket_distance: usize,
    add_adapter: bool,
    adapter_attn_dim: Option<usize>,
}

impl Default for Wav2Vec2Json {
    fn default() -> Self {
        Self {
            hidden_size: 768,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            intermediate_size: 3072,
            hidden_act: gelu(),
            feat_extract_activation: gelu(),
            feat_extract_norm: "group".into(),
            conv_dim: vec![512; 7],
            conv_kernel: vec![10, 3, 3, 3, 3, 2, 2],
            conv_stride: vec![5, 2, 2, 2, 2, 2, 2],
            conv_bias: false,
            num_conv_pos_embeddings: 128,
            num_conv_pos_embedding_groups: 16,
            conv_pos_kernel_size: 19,
            do_stable_layer_norm: false,
            layer_norm_eps: 1e-5,
            vocab_size: 32,
            pad_token_id: 0,
            feat_proj_layer_norm: true,
            conv_pos_batch_norm: false,
            num_buckets: 320,
            max_bucket_distance: 800,
            add_adapter: false,
            adapter_attn_dim: None,
        }
    }
}

fn invalid(reason: impl std::fmt::Display) -> ModelError {
    ModelError::invalid(FILE, reason)
}

/// Sizes that no model has are errors here, and not a failed allocation later.
fn check_sizes(sizes: &[(&str, usize, usize)]) -> Result<(), ModelError> {
    match sizes.iter().find(|(_, size, most)| *size == 0 || size > most) {
        Some((name, size, most)) => Err(invalid(format!("{name} is {size}; it must be from 1 to {most}"))),
        None => Ok(()),
    }
}

fn check_gelu(name: &str, found: &str) -> Result<(), ModelError> {
    match found {
        "gelu" => Ok(()),
        _ => Err(invalid(format!("{name} is {found}; only gelu is implemented"))),
    }
}

impl ModelConfig {
    /// Parses and checks config.json, and preprocessor_config.json where there is one.
    pub fn parse(config: &[u8], preprocessor: Option<&[u8]>) -> Result<Self, ModelError> {
        let value: Value = serde_json::from_slice(config).map_err(invalid)?;
        let architecture = value["architectures"][0].as_str().unwrap_or("not stated");
        let parsed = match architecture {
            "WhisperForCTC" | "WhisperModel" => Self::parse_whisper(architecture, value.clone(), "")?,
            "WhisperForConditionalGeneration" => Self::parse_whisper(architecture, value.clone(), "model.")?,
            "Wav2Vec2ForCTC" => Self::parse_wav2vec2(architecture, value.clone(), "wav2vec2.")?,
            "HubertForCTC" => Self::parse_wav2vec2(architecture, value.clone(), "hubert.")?,
            "Data2VecAudioForCTC" => Self::parse_wav2vec2(architecture, value.clone(), "data2vec_audio.")?,
            "WavLMForCTC" => Self::parse_wav2vec2(architecture, value.clone(), "wavlm.")?,
            _ => {
                return Err(ModelError::Architecture {
                    found: architecture.into(),
                });
            }
        };
        let parsed = parsed.with_preprocessor(preprocessor)?;
        parsed.check()?;
        Ok(parsed)
    }

    fn parse_whisper(architecture: &str, value: Value, prefix: &'static str) -> Result<Self, ModelError> {
        let json: WhisperJson = serde_json::from_value(value).map_err(invalid)?;
        check_gelu("activation_function", &json.activation_function)?;
        check_sizes(&[
            ("num_mel_bins", json.num_mel_bins, 256),
            ("max_source_positions", json.max_source_positions, 65_536),
        ])?;
        // Without a CTC head, the vocabulary is the decoder's.
        let has_head = architecture == "WhisperForCTC";
        let decoder = DecoderConfig {
            layers: json.decoder_layers,
            heads: json.decoder_attention_heads,
            ffn: json.decoder_ffn_dim,
            vocab_size: json.vocab_size,
            positions: json.max_target_positions,
        };
        let decoder = (!has_head && decoder.layers > 0).then_some(decoder);
        if let Some(decoder) = &decoder {
            check_sizes(&[
                ("decoder_layers", decoder.layers, 256),
                ("decoder_attention_heads", decoder.heads, 1_024),
                ("decoder_ffn_dim", decoder.ffn, 65_536),
                ("vocab_size", decoder.vocab_size, 1_000_000),
                ("max_target_positions", decoder.positions, 65_536),
            ])?;
            if decoder.positions < 16 {
                return Err(invalid(format!("max_target_positions is {}", decoder.positions)));
            }
            if !json.d_model.is_multiple_of(decoder.heads) {
                return Err(invalid("d_model is not divisible by decoder_attention_heads"));
            }
        }
        Ok(Self {
            architecture: architecture.into(),
            vocab_size: if has_head { json.vocab_size } else { 0 },
            blank: if has_head {
                json.ctc_blank_id.unwrap_or(json.pad_token_id)
            } else {
                0
            },
            transformer: TransformerConfig {
                width: json.d_model,
                layers: json.encoder_layers,
                heads: json.encoder_attention_heads,
                ffn: json.encoder_ffn_dim,
                norm_first: true,
                relative_positions: None,
            },
            frontend: FrontendConfig::Whisper(WhisperConfig {
                num_mel_bins: json.num_mel_bins,
                max_source_positions: json.max_source_positions,
            }),
            decoder,
            prefix,
        })
    }

    /// Of a CTranslate2 directory, which has no configuration of the encoder: its tensors' sizes tell.
    pub(super) fn of_whisper_encoder(sizes: &EncoderSizes) -> Result<Self, ModelError> {
        let decoder = sizes.decoder.as_ref();
        let value = serde_json::json!({
            "decoder_layers": decoder.map_or(0, |decoder| decoder.layers),
            "decoder_attention_heads": decoder.map_or(0, |decoder| decoder.heads),
            "decoder_ffn_dim": decoder.map_or(0, |decoder| decoder.ffn),
            "max_target_positions": decoder.map_or(0, |decoder| decoder.positions),
            "vocab_size": decoder.map_or(0, |decoder| decoder.vocab_size),
            "d_model": sizes.width,
            "encoder_layers": sizes.layers,
            "encoder_attention_heads": sizes.heads,
            "encoder_ffn_dim": sizes.ffn,
            "num_mel_bins": sizes.bands,
            "max_source_positions": sizes.positions,
        });
        let config = Self::parse_whisper("WhisperModel", value, "")?;
        config.check()?;
        Ok(config)
    }

    fn parse_wav2vec2(architecture: &str, value: Value, prefix: &'static str) -> Result<Self, ModelError> {
        let json: Wav2Vec2Json = serde_json::from_value(value).map_err(invalid)?;
        check_gelu("hidden_act", &json.hidden_act)?;
        check_gelu("feat_extract_activation", &json.feat_extract_activation)?;
        let count = json.conv_dim.len();
        if count == 0 || count > 32 || json.conv_kernel.len() != count || json.conv_stride.len() != count {
            return Err(invalid(
                "conv_dim, conv_kernel and conv_stride must be lists of one length",
            ));
        }
        for ((&dim, &kernel), &stride) in json.conv_dim.iter().zip(&json.conv_kernel).zip(&json.conv_stride) {
            check_sizes(&[
                ("conv_dim", dim, 16_384),
                ("conv_kernel", kernel, 1_024),
                ("conv_stride", stride, 1_024),
            ])?;
        }
        let per_frame = json
            .conv_stride
            .iter()
            .try_fold(1usize, |all, stride| all.checked_mul(*stride));
        if per_frame.is_none_or(|samples| samples > 1 << 20) {
            return Err(invalid("conv_stride leaves less than a frame a minute"));
        }
        let is_data2vec = architecture == "Data2VecAudioForCTC";
        let layer_norms = match json.feat_extract_norm.as_str() {
            _ if is_data2vec => true,
            "group" => false,
            "layer" => true,
            other => {
                return Err(invalid(format!(
                    "feat_extract_norm is {other}; it must be group or layer"
                )));
            }
        };
        let positional = PositionalConfig {
            layers: if is_data2vec { json.num_conv_pos_embeddings } else { 1 },
            kernel: if is_data2vec {
                json.conv_pos_kernel_size
            } else {
                json.num_conv_pos_embeddings
            },
            groups: json.num_conv_pos_embedding_groups,
            is_data2vec,
        };
        check_sizes(&[
            ("num_conv_pos_embeddings", positional.layers, 64),
            ("num_conv_pos_embeddings", positional.kernel, 4_096),
            ("num_conv_pos_embedding_groups", positional.groups, 16_384),
        ])?;
        if !json.hidden_size.is_multiple_of(positional.groups) {
            return Err(invalid("hidden_size is not divisible by num_conv_pos_embedding_groups"));
        }
        let not_yet = |what: &str| Err(invalid(format!("{what}; this version cannot run such models")));
        if json.layer_norm_eps != 1e-5 {
            return not_yet(&format!("layer_norm_eps is {}, not 1e-5", json.layer_norm_eps));
        }
        if json.conv_pos_batch_norm {
            return not_yet("conv_pos_batch_norm is set");
        }
        if json.add_adapter || json.adapter_attn_dim.is_some() {
            return not_yet("it has adapter layers");
        }
        let relative_positions = if architecture == "WavLMForCTC" {
            check_sizes(&[("max_bucket_distance", json.max_bucket_distance, 1 << 20)])?;
            if !(4..=65_536).contains(&json.num_buckets) || json.max_bucket_distance <= json.num_buckets / 4 {
                return Err(invalid("num_buckets and max_bucket_distance do not fit together"));
            }
            Some((json.num_buckets, json.max_bucket_distance))
        } else {
            None
        };
        let convolutions = json.conv_dim.iter().zip(&json.conv_kernel).zip(&json.conv_stride);
        Ok(Self {
            architecture: architecture.into(),
            vocab_size: json.vocab_size,
            blank: json.pad_token_id,
            transformer: TransformerConfig {
                width: json.hidden_size,
                layers: json.num_hidden_layers,
                heads: json.num_attention_heads,
                ffn: json.intermediate_size,
                norm_first: json.do_stable_layer_norm && !is_data2vec,
                relative_positions,
            },
            frontend: FrontendConfig::Wav2Vec2(Wav2Vec2Config {
                convolutions: convolutions
                    .map(|((dim, kernel), stride)| (*dim, *kernel, *stride))
                    .collect(),
                conv_bias: json.conv_bias,
                layer_norms,
                projection_norm: json.feat_proj_layer_norm,
                positional,
                normalise: true,
            }),
            decoder: None,
            prefix,
        })
    }

    /// preprocessor_config.json: `do_normalize`. Other fields must be what the models here were made for.
    fn with_preprocessor(mut self, preprocessor: Option<&[u8]>) -> Result<Self, ModelError> {
        let file = "preprocessor_config.json";
        let (Some(bytes), FrontendConfig::Wav2Vec2(config)) = (preprocessor, &mut self.frontend) else {
            return Ok(self);
        };
        let value: Value = serde_json::from_slice(bytes).map_err(|error| ModelError::invalid(file, error))?;
        if let Some(normalise) = value["do_normalize"].as_bool() {
            config.normalise = normalise;
        }
        match value["sampling_rate"].as_u64() {
            None | Some(16_000) => Ok(self),
            Some(rate) => Err(ModelError::invalid(
                file,
                format!("sampling_rate is {rate}; only models for 16000 are run"),
            )),
        }
    }

    fn check(&self) -> Result<(), ModelError> {
        let transformer = &self.transformer;
        check_sizes(&[
            ("the model's width", transformer.width, 16_384),
            ("the number of layers", transformer.layers, 256),
            ("the number of heads", transformer.heads, 1_024),
            ("the feed-forward width", transformer.ffn, 65_536),
        ])?;
        if !transformer.width.is_multiple_of(transformer.heads) {
            let (width, heads) = (transformer.width, transformer.heads);
            return Err(invalid(format!("the width {width} is not divisible by {heads} heads")));
        }
        if self.vocab_size > 1_000_000 {
            return Err(invalid(format!("vocab_size is {}", self.vocab_size)));
        }
        if self.architecture.ends_with("ForCTC") && self.blank >= self.vocab_size {
            return Err(invalid("the blank's index is outside the vocabulary"));
        }
        Ok(())
    }

    /// What the model takes in.
    pub fn input(&self) -> Input {
        match &self.frontend {
            FrontendConfig::Whisper(config) => Input::LogMel {
                bands: config.num_mel_bins,
            },
            FrontendConfig::Wav2Vec2(config) => Input::Waveform {
                normalise: config.normalise,
            },
        }
    }

    /// The most values one utterance may have (log-mel frames times bands, or samples).
    pub fn most_input_values(&self) -> usize {
        match &self.frontend {
            FrontendConfig::Whisper(config) => 2 * config.max_source_positions * config.num_mel_bins,
            FrontendConfig::Wav2Vec2(_) => usize::MAX,
        }
    }

    /// Samples (at 16 kHz) from one output frame to the next.
    pub fn samples_per_frame(&self) -> usize {
        match &self.frontend {
            FrontendConfig::Whisper(_) => 2 * crate::audio::HOP,
            FrontendConfig::Wav2Vec2(config) => config.convolutions.iter().map(|(_, _, stride)| stride).product(),
        }
    }

    pub(super) fn names(&self) -> Names {
        let base = self.prefix.to_string();
        let encoder = format!("{base}encoder.");
        match self.frontend {
            FrontendConfig::Whisper(_) => Names {
                base,
                encoder,
                layer: LayerNames {
                    attention: "self_attn",
                    attention_norm: "self_attn_layer_norm",
                    ffn_norm: "final_layer_norm",
                    fc1: "fc1",
                    fc2: "fc2",
                },
                head: "ctc_head",
            },
            FrontendConfig::Wav2Vec2(_) => Names {
                base,
                encoder,
                layer: LayerNames {
                    attention: "attention",
                    attention_norm: "layer_norm",
                    ffn_norm: "final_layer_norm",
                    fc1: "feed_forward.intermediate_dense",
                    fc2: "feed_forward.output_dense",
                },
                head: "lm_head",
            },
        }
    }
}

/// adaptation.json: the settings of SUTA that were chosen for a model on data. What is left out is the paper's.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preset {
    /// AdamW's learning rate.
    pub learning_rate: Option<f64>,
    /// Which tensors move.
    pub parameters: Option<crate::ParameterChoice>,
    /// Steps.
    pub steps: Option<usize>,
    /// How it was chosen, in words.
    pub chosen_on: Option<String>,
}

impl Preset {
    /// SUTA with these settings; the paper's where nobody chose.
    pub fn adaptation(&self) -> crate::AdaptationConfig {
        let paper = crate::AdaptationConfig::paper();
        crate::AdaptationConfig {
            learning_rate: self.learning_rate.unwrap_or(paper.learning_rate),
            parameters: self.parameters.unwrap_or(paper.parameters),
            steps: self.steps.unwrap_or(paper.steps),
            ..paper
        }
    }

    /// Parses adaptation.json.
    pub fn parse(bytes: &[u8]) -> Result<Self, ModelError> {
        let preset: Self = serde_json::from_slice(bytes).map_err(|e| ModelError::invalid("adaptation.json", e))?;
        if preset
            .learning_rate
            .is_some_and(|rate| !(rate.is_finite() && rate > 0.0))
        {
            return Err(ModelError::invalid(
                "adaptation.json",
                "learning_rate must be a positive number",
            ));
        }
        Ok(preset)
    }
}
