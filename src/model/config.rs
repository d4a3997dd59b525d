//! config.json and adaptation.json.

use super::ModelError;
use serde::Deserialize;

/// What config.json of a `WhisperForCTC` directory says.
#[derive(Debug, Clone, Deserialize)]
pub struct ModelConfig {
    /// e.g. `["WhisperForCTC"]`
    #[serde(default)]
    pub architectures: Vec<String>,
    /// D.
    pub d_model: usize,
    /// Transformer layers.
    pub encoder_layers: usize,
    /// Attention heads.
    pub encoder_attention_heads: usize,
    /// Width of the feed-forward part.
    pub encoder_ffn_dim: usize,
    /// Mel bands of the input.
    pub num_mel_bins: usize,
    /// Longest input, in output frames.
    pub max_source_positions: usize,
    /// Output symbols, V.
    pub vocab_size: usize,
    /// CTC's blank, where it is not the padding symbol.
    pub ctc_blank_id: Option<usize>,
    /// The padding symbol: CTC's blank in the wav2vec2 family's convention.
    #[serde(default)]
    pub pad_token_id: usize,
    /// Must be the exact GELU.
    #[serde(default = "gelu")]
    pub activation_function: String,
}

fn gelu() -> String {
    "gelu".into()
}

impl ModelConfig {
    /// Parses and checks: sizes that do not fit together, or that no model has, are errors here and not later.
    pub fn parse(bytes: &[u8]) -> Result<Self, ModelError> {
        let file = "config.json";
        let value: serde_json::Value = serde_json::from_slice(bytes).map_err(|e| ModelError::invalid(file, e))?;
        let architecture = value["architectures"][0].as_str().unwrap_or("not stated");
        if architecture != "WhisperForCTC" {
            return Err(ModelError::Architecture {
                found: architecture.into(),
            });
        }
        let config: Self = serde_json::from_value(value).map_err(|e| ModelError::invalid(file, e))?;
        let sizes = [
            ("d_model", config.d_model, 16_384),
            ("encoder_layers", config.encoder_layers, 256),
            ("encoder_attention_heads", config.encoder_attention_heads, 1_024),
            ("encoder_ffn_dim", config.encoder_ffn_dim, 65_536),
            ("num_mel_bins", config.num_mel_bins, 256),
            ("max_source_positions", config.max_source_positions, 65_536),
            ("vocab_size", config.vocab_size, 1_000_000),
        ];
        for (name, size, most) in sizes {
            if size == 0 || size > most {
                return Err(ModelError::invalid(
                    file,
                    format!("{name} is {size}; it must be from 1 to {most}"),
                ));
            }
        }
        if !config.d_model.is_multiple_of(config.encoder_attention_heads) {
            let (d, heads) = (config.d_model, config.encoder_attention_heads);
            return Err(ModelError::invalid(
                file,
                format!("d_model {d} is not divisible by {heads} heads"),
            ));
        }
        if config.activation_function != "gelu" {
            let found = &config.activation_function;
            return Err(ModelError::invalid(
                file,
                format!("activation_function is {found}; only gelu is implemented"),
            ));
        }
        if config.blank() >= config.vocab_size {
            return Err(ModelError::invalid(file, "the blank's index is outside the vocabulary"));
        }
        Ok(config)
    }

    /// Index of CTC's blank.
    pub fn blank(&self) -> usize {
        self.ctc_blank_id.unwrap_or(self.pad_token_id)
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
