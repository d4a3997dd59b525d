//! vocab.json and tokenizer_config.json: the symbols a CTC model writes.

use super::ModelError;
use serde_json::Value;
use std::collections::BTreeMap;

/// The output symbols of a CTC model, by index.
#[derive(Debug, Clone)]
pub struct Vocabulary {
    symbols: Vec<Symbol>,
    blank: usize,
}

/// What a symbol means in a transcript.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Symbol {
    /// Text, usually one letter.
    Text(String),
    /// The word boundary.
    Boundary,
    /// Nothing: the blank, and special symbols such as `<s>`.
    Silent,
}

/// What tokenizer_config.json says.
#[derive(Clone, Default)]
struct Tokenizer {
    pad: Option<String>,
    delimiter: Option<String>,
    special: Vec<String>,
    lower_case: bool,
    /// Tokens beyond vocab.json, by index.
    added: Vec<(usize, String)>,
}

impl Tokenizer {
    fn parse(bytes: &[u8]) -> Result<Self, ModelError> {
        let file = "tokenizer_config.json";
        let value: Value = serde_json::from_slice(bytes).map_err(|error| ModelError::invalid(file, error))?;
        // A token is a string, or an object with its content.
        let token = |name: &str| -> Option<String> {
            let token = &value[name];
            let text = token.as_str().or_else(|| token["content"].as_str());
            text.map(String::from)
        };
        let mut special: Vec<String> = ["pad_token", "unk_token", "bos_token", "eos_token"]
            .into_iter()
            .filter_map(token)
            .collect();
        let mut added = Vec::new();
        for (index, entry) in value["added_tokens_decoder"].as_object().into_iter().flatten() {
            let (Ok(index), Some(content)) = (index.parse(), entry["content"].as_str()) else {
                return Err(ModelError::invalid(file, "added_tokens_decoder is not index to token"));
            };
            added.push((index, content.to_string()));
            if entry["special"].as_bool() == Some(true) && token("word_delimiter_token").as_deref() != Some(content) {
                special.push(content.to_string());
            }
        }
        Ok(Self {
            pad: token("pad_token"),
            delimiter: token("word_delimiter_token"),
            special,
            lower_case: value["do_lower_case"].as_bool() == Some(true),
            added,
        })
    }

    fn symbol(&self, token: &str) -> Symbol {
        let bracketed = |open, close| token.starts_with(open) && token.ends_with(close) && token.chars().count() > 2;
        let delimiter = self.delimiter.as_deref().unwrap_or("|");
        if token == delimiter || token == " " {
            Symbol::Boundary
        } else if bracketed('<', '>') || bracketed('[', ']') || self.special.iter().any(|special| special == token) {
            Symbol::Silent
        } else if self.lower_case {
            Symbol::Text(token.to_lowercase())
        } else {
            Symbol::Text(token.into())
        }
    }
}

impl Vocabulary {
    /// Parses vocab.json (`{"symbol": index}`), tokenizer_config.json and added_tokens.json. Every index in `0..size`
    /// must have exactly one symbol. `blank` is config.json's; a tokenizer's own padding token goes before it.
    pub fn parse(
        vocabulary: &[u8],
        tokenizer: Option<&[u8]>,
        added_tokens: Option<&[u8]>,
        size: usize,
        blank: usize,
    ) -> Result<Self, ModelError> {
        let file = "vocab.json";
        let invalid = |reason: String| ModelError::invalid(file, reason);
        let value: Value = serde_json::from_slice(vocabulary).map_err(|error| ModelError::invalid(file, error))?;
        if value.as_object().is_some_and(|map| map.values().any(Value::is_object)) {
            return Err(invalid(
                "it holds a vocabulary for each of several languages; keep one".into(),
            ));
        }
        let map: BTreeMap<String, usize> =
            serde_json::from_value(value).map_err(|error| ModelError::invalid(file, error))?;
        let tokenizer = tokenizer.map(Tokenizer::parse).transpose()?.unwrap_or_default();
        if let Some((token, index)) = map.iter().find(|(_, index)| **index >= size) {
            return Err(invalid(format!(
                "`{token}` has the index {index}, but config.json says that there are {size} symbols"
            )));
        }
        let mut tokens: Vec<Option<String>> = vec![None; size];
        for (token, index) in map {
            if tokens[index].replace(token).is_some() {
                return Err(invalid(format!("index {index} stands for two symbols")));
            }
        }
        let mut added = tokenizer.added.clone();
        if let Some(bytes) = added_tokens {
            let map: BTreeMap<String, usize> =
                serde_json::from_slice(bytes).map_err(|error| ModelError::invalid("added_tokens.json", error))?;
            added.extend(map.into_iter().map(|(token, index)| (index, token)));
        }
        // Tokens beyond the output layer are the tokenizer's own affair.
        for (index, token) in added {
            if let Some(place) = tokens.get_mut(index) {
                place.get_or_insert(token);
            }
        }
        let named = tokens.iter().flatten().count();
        if named != size {
            return Err(invalid(format!(
                "it has {named} symbols, but config.json says that there are {size}"
            )));
        }
        let tokens: Vec<String> = tokens.into_iter().flatten().collect();
        let pad = tokenizer.pad.as_ref();
        let blank = pad
            .and_then(|pad| tokens.iter().position(|token| token == pad))
            .unwrap_or(blank);
        let mut symbols: Vec<Symbol> = tokens.iter().map(|token| tokenizer.symbol(token)).collect();
        match symbols.get_mut(blank) {
            Some(symbol) => *symbol = Symbol::Silent,
            None => return Err(invalid(format!("the blank's index {blank} is outside it"))),
        }
        Ok(Self { symbols, blank })
    }

    /// What the symbol of this index means. Panics outside the vocabulary.
    pub fn symbol(&self, index: usize) -> &Symbol {
        &self.symbols[index]
    }

    /// CTC's blank.
    pub fn blank(&self) -> usize {
        self.blank
    }

    /// V.
    pub fn len(&self) -> usize {
        self.symbols.len()
    }

    /// Whether there is no symbol at all (never, once parsed).
    pub fn is_empty(&self) -> bool {
        self.symbols.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vocabulary_must_cover_its_indices_exactly() {
        let good = br#"{"<pad>": 0, "|": 1, "A": 2}"#;
        let vocabulary = Vocabulary::parse(good, None, None, 3, 0).unwrap();
        assert_eq!(vocabulary.symbol(0), &Symbol::Silent);
        assert_eq!(vocabulary.symbol(1), &Symbol::Boundary);
        assert_eq!(vocabulary.symbol(2), &Symbol::Text("A".into()));
        for bad in [
            &br#"{"<pad>": 0, "|": 1}"#[..],
            br#"{"a": 0, "b": 0, "c": 1}"#,
            br#"{"a": 0, "b": 1, "c": 9}"#,
            b"[]",
            b"{",
        ] {
            assert!(
                Vocabulary::parse(bad, None, None, 3, 0).is_err(),
                "{}",
                String::from_utf8_lossy(bad)
            );
        }
    }

    #[test]
    fn the_tokenizer_names_the_blank_the_boundary_and_the_case() {
        let vocabulary = br#"{"a": 0, "SCH": 1, "_": 2, "[PAD]": 3, "[UNK]": 4}"#;
        let tokenizer = br#"{"pad_token": {"content": "[PAD]"}, "unk_token": "[UNK]", "word_delimiter_token": "_",
            "do_lower_case": true,
            "added_tokens_decoder": {"5": {"content": "<s>", "special": true}, "6": {"content": "</s>"}}}"#;
        // The output layer has one of the two added tokens.
        let parsed = Vocabulary::parse(vocabulary, Some(tokenizer), None, 6, 0).unwrap();
        assert_eq!(parsed.blank(), 3);
        let text = |text: &str| Symbol::Text(text.into());
        let symbols: Vec<&Symbol> = (0..6).map(|index| parsed.symbol(index)).collect();
        let expected = [
            text("a"),
            text("sch"),
            Symbol::Boundary,
            Symbol::Silent,
            Symbol::Silent,
            Symbol::Silent,
        ];
        assert_eq!(symbols, expected.iter().collect::<Vec<_>>());
        let added = br#"{"<s>": 5, "</s>": 6}"#;
        assert_eq!(Vocabulary::parse(vocabulary, None, Some(added), 6, 3).unwrap().len(), 6);
        assert!(Vocabulary::parse(vocabulary, None, None, 6, 3).is_err());
        assert!(Vocabulary::parse(br#"{"en": {"a": 0}}"#, None, None, 1, 0).is_err());
    }
}
