//! The models inside this binary (feature `bundled-model`).

use super::ModelError;
use super::source::Folder;

/// A model inside this binary. Licence and origin of each stand beside its files in `models/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Bundled {
    /// Whisper tiny.en (OpenAI's weights in 8 bits): English with punctuation, written by its decoder.
    TinyEn,
    /// Whisper tiny.en's encoder with a small CTC head: rough text, for the methods that adapt CTC models and for live captions.
    TinyEnCtc,
}

impl Bundled {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::TinyEn, Self::TinyEnCtc];

    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Self::TinyEn => "tiny.en",
            Self::TinyEnCtc => "tiny.en-ctc",
        }
    }

    /// The one that is called so.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|bundled| bundled.name() == name)
    }

    #[cfg(feature = "bundled-model")]
    pub(super) fn folder(self) -> Result<Folder<'static>, ModelError> {
        macro_rules! embedded {
            ($folder:literal: $($file:literal)*) => {
                Folder::Embedded(&[$((
                    $file,
                    include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/models/", $folder, "/", $file)),
                )),*])
            };
        }
        Ok(match self {
            Self::TinyEn => embedded!("whisper-tiny.en": "config.json" "model.bin" "tokenizer.json"),
            Self::TinyEnCtc => embedded!(
                "whisper-tiny.en-ctc":
                "adaptation.json" "config.json" "model.safetensors" "preprocessor_config.json" "vocab.json"
            ),
        })
    }

    #[cfg(not(feature = "bundled-model"))]
    pub(super) fn folder(self) -> Result<Folder<'static>, ModelError> {
        Err(ModelError::NoBundledModel)
    }
}

#[cfg(all(test, feature = "bundled-model"))]
mod tests {
    use super::*;
    use crate::model::ModelFiles;
    use std::path::Path;

    /// What is embedded is what lies in `models/`, under an identity that does not depend on where it is read.
    #[test]
    fn a_bundled_model_is_the_one_in_its_directory() {
        for (bundled, dir) in [
            (Bundled::TinyEn, "models/whisper-tiny.en"),
            (Bundled::TinyEnCtc, "models/whisper-tiny.en-ctc"),
        ] {
            let embedded = ModelFiles::bundled(bundled).expect("embedded");
            let on_disk = ModelFiles::from_dir(&Path::new(env!("CARGO_MANIFEST_DIR")).join(dir)).expect("a model");
            assert_eq!(embedded.identity, on_disk.identity);
            assert_eq!(embedded.name, format!("bundled:{}", bundled.name()));
            assert_eq!(embedded.generation.is_some(), bundled == Bundled::TinyEn);
            assert_eq!(Bundled::named(bundled.name()), Some(bundled));
        }
    }
}
