//! What a Whisper's decoder needs beside its weights: tokens, and what generation_config.json (or CTranslate2's
//! config.json) says of them.

use super::{DecoderConfig, ModelError, Tokenizer};
use serde_json::Value;

/// From so many tokens on, a Whisper knows languages; the English-only ones have one fewer.
const MULTILINGUAL: usize = 51_865;

/// How a Whisper's text is generated.
#[derive(Clone)]
pub struct Generation {
    /// Its tokens.
    pub tokenizer: Tokenizer,
    /// Tokens that no text begins with.
    pub suppressed_at_begin: Vec<u32>,
    /// Layer and head of the attention that follows the speech, for the times of words.
    pub alignment_heads: Vec<(usize, usize)>,
}

impl Generation {
    /// From tokenizer.json, and from generation_config.json, CTranslate2's config.json or the model's own config.json, the
    /// first of them that says something.
    pub(super) fn parse(tokenizer: &[u8], texts: &[(&str, &[u8])], config: &DecoderConfig) -> Result<Self, ModelError> {
        let mut values = Vec::with_capacity(texts.len());
        for (file, bytes) in texts {
            let value: Value = serde_json::from_slice(bytes).map_err(|error| ModelError::invalid(file, error))?;
            values.push(value);
        }
        let find = |keys: &[&str]| {
            let found = values.iter().flat_map(|value| keys.iter().map(|key| &value[*key]));
            found.into_iter().find(|value| !value.is_null())
        };
        let multilingual = find(&["is_multilingual"])
            .and_then(Value::as_bool)
            .unwrap_or(config.vocab_size >= MULTILINGUAL);
        let tokenizer = Tokenizer::parse(tokenizer, config.vocab_size, multilingual)?;
        let number = |value: &Value| value.as_u64().map(|number| number as usize);
        let begin = find(&["begin_suppress_tokens", "suppress_ids_begin"]).and_then(Value::as_array);
        let suppressed_at_begin = match begin {
            Some(tokens) => tokens.iter().filter_map(number).map(|token| token as u32).collect(),
            None => [tokenizer.encode(" "), vec![tokenizer.eot]].concat(),
        };
        let pairs = find(&["alignment_heads"]).and_then(Value::as_array);
        let mut alignment_heads: Vec<(usize, usize)> = pairs
            .into_iter()
            .flatten()
            .filter_map(|pair| Some((number(&pair[0])?, number(&pair[1])?)))
            .filter(|(layer, head)| *layer < config.layers && *head < config.heads)
            .collect();
        if alignment_heads.is_empty() {
            // Where nobody chose, the upper half's heads follow the speech best.
            let upper = config.layers / 2..config.layers;
            alignment_heads = upper
                .flat_map(|layer| (0..config.heads).map(move |head| (layer, head)))
                .collect();
        }
        Ok(Self {
            tokenizer,
            suppressed_at_begin,
            alignment_heads,
        })
    }
}
