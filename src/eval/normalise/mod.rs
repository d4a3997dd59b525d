//! Text normalisers: what both texts go through before they are compared.
//!
//! The normaliser moves a word error rate more than many a published gain, so every score names the one it used and
//! its version.

mod basic;
mod english;
mod numbers;
mod papers;
mod python;

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A text normaliser. The same one is applied to reference and hypothesis.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Normaliser {
    /// The texts as they are; words are what whitespace separates.
    #[default]
    None,
    /// OpenAI's `BasicTextNormalizer`: lower case, bracketed parts dropped, symbols and punctuation become spaces.
    Basic,
    /// OpenAI's `EnglishTextNormalizer`: also contractions, titles, numbers, currencies and British spellings.
    WhisperEnglish,
    /// `EnglishTextNormalizer` of the PyPI package `whisper-normalizer`: OpenAI's, and four more words (`kinda`, `sorta`,
    /// `dunno`; `cause` becomes `because`).
    WhisperNormalizer,
    /// LibriSpeech's writing: upper case, apostrophes kept, every other punctuation mark becomes a space.
    Librispeech,
    /// What SUTA's published code does to Common Voice's sentences: a few abbreviations, upper case, `A-Z` and `'` only.
    SutaCv,
    /// What SUTA's published code does to TED-LIUM's transcripts: upper case, `A-Z` and `'` only, ` '` closed up.
    SutaTed,
    /// What DSUTA scores: ASCII punctuation, apostrophes included, removed, and lower case.
    Dsuta,
}

impl Normaliser {
    /// Every normaliser.
    pub const ALL: [Normaliser; 8] = [
        Normaliser::None,
        Normaliser::Basic,
        Normaliser::WhisperEnglish,
        Normaliser::WhisperNormalizer,
        Normaliser::Librispeech,
        Normaliser::SutaCv,
        Normaliser::SutaTed,
        Normaliser::Dsuta,
    ];

    /// As the command line and the reports spell it.
    pub fn name(self) -> &'static str {
        match self {
            Normaliser::None => "none",
            Normaliser::Basic => "basic",
            Normaliser::WhisperEnglish => "whisper-english",
            Normaliser::WhisperNormalizer => "whisper-normalizer",
            Normaliser::Librispeech => "librispeech",
            Normaliser::SutaCv => "suta-cv",
            Normaliser::SutaTed => "suta-ted",
            Normaliser::Dsuta => "dsuta",
        }
    }

    /// What a report records beside the name. It changes with every change that alters any output.
    pub fn version(self) -> &'static str {
        match self {
            Normaliser::Basic | Normaliser::WhisperEnglish => "openai-whisper 20250625",
            Normaliser::WhisperNormalizer => "whisper-normalizer 0.1.15",
            Normaliser::None | Normaliser::Librispeech => "1",
            Normaliser::SutaCv | Normaliser::SutaTed | Normaliser::Dsuta => "1",
        }
    }

    /// The normalised text.
    pub fn apply(self, text: &str) -> String {
        match self {
            Normaliser::None => text.to_string(),
            Normaliser::Basic => basic::normalise(text),
            Normaliser::WhisperEnglish => english::normalise(text),
            Normaliser::WhisperNormalizer => english::normalise_as_whisper_normalizer(text),
            Normaliser::Librispeech => papers::librispeech(text),
            Normaliser::SutaCv => papers::suta_common_voice(text),
            Normaliser::SutaTed => papers::suta_ted(text),
            Normaliser::Dsuta => papers::dsuta(text),
        }
    }
}

impl fmt::Display for Normaliser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The name given is no normaliser's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "unknown normaliser `{0}`: choose from none, basic, whisper-english, whisper-normalizer, librispeech, suta-cv, \
     suta-ted, dsuta"
)]
pub struct UnknownNormaliser(pub String);

impl FromStr for Normaliser {
    type Err = UnknownNormaliser;

    fn from_str(name: &str) -> Result<Self, UnknownNormaliser> {
        Normaliser::ALL
            .into_iter()
            .find(|normaliser| normaliser.name().eq_ignore_ascii_case(name.trim()))
            .ok_or_else(|| UnknownNormaliser(name.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_are_read_back() {
        for normaliser in Normaliser::ALL {
            assert_eq!(normaliser.to_string().parse(), Ok(normaliser));
            assert_eq!(
                serde_json::to_value(normaliser).ok(),
                Some(serde_json::Value::from(normaliser.name()))
            );
            let names = UnknownNormaliser(String::new()).to_string();
            assert!(names.contains(normaliser.name()), "{names}");
        }
    }

    proptest! {
        #[test]
        fn no_text_is_too_strange(text in "\\PC{0,40}", words in "((one|hundred|point|and|a|half|double|oh|\\$|5|¢|%|s|\u{661}|twenty|third|million|per|cent|') ?){0,12}") {
            for normaliser in Normaliser::ALL {
                normaliser.apply(&text);
                normaliser.apply(&words);
            }
        }
    }
}
