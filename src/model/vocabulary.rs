//! vocab.json: the symbols a CTC model writes.

use super::ModelError;
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

impl Vocabulary {
    /// Parses vocab.json (`{"symbol": index}`), whose indices must be exactly `0..size`.
    pub fn parse(bytes: &[u8], size: usize, blank: usize) -> Result<Self, ModelError> {
        let file = "vocab.json";
        let map: BTreeMap<String, usize> = serde_json::from_slice(bytes).map_err(|e| ModelError::invalid(file, e))?;
        if map.len() != size {
            let found = map.len();
            return Err(ModelError::invalid(
                file,
                format!("it has {found} symbols, but config.json says {size}"),
            ));
        }
        let mut symbols = vec![None; size];
        for (text, index) in map {
            let place = symbols
                .get_mut(index)
                .ok_or_else(|| ModelError::invalid(file, format!("index {index} is outside 0..{size}")))?;
            let special = text.starts_with('<') && text.ends_with('>') && text.chars().count() > 2;
            let symbol = match text.as_str() {
                "|" | " " => Symbol::Boundary,
                _ if special || index == blank => Symbol::Silent,
                _ => Symbol::Text(text),
            };
            if place.replace(symbol).is_some() {
                return Err(ModelError::invalid(
                    file,
                    format!("index {index} stands for two symbols"),
                ));
            }
        }
        // As many distinct indices below `size` as symbols: every place is filled.
        Ok(Self {
            symbols: symbols.into_iter().flatten().collect(),
            blank,
        })
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
        let vocabulary = Vocabulary::parse(good, 3, 0).unwrap();
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
                Vocabulary::parse(bad, 3, 0).is_err(),
                "{}",
                String::from_utf8_lossy(bad)
            );
        }
    }
}
