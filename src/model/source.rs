//! A model's files: from a directory, or embedded in the binary.

use super::checkpoint::SafetensorsCheckpoint;
use super::{CtcModel, ModelConfig, ModelError};
use crate::engine::Backend;
use std::borrow::Cow;
use std::path::Path;

/// The bytes of a model directory.
pub struct ModelFiles {
    /// What to call the model.
    pub name: String,
    /// config.json
    pub config: Cow<'static, [u8]>,
    /// preprocessor_config.json, where there is one.
    pub preprocessor: Option<Cow<'static, [u8]>>,
    /// vocab.json
    pub vocabulary: Cow<'static, [u8]>,
    /// adaptation.json: the adaptation settings chosen for this model, where somebody chose.
    pub adaptation: Option<Cow<'static, [u8]>>,
    /// model.safetensors
    pub weights: WeightBytes,
}

/// Weights on disk (mapped, so that only what is read costs memory) or in the binary.
pub enum WeightBytes {
    /// Part of the binary.
    Embedded(&'static [u8]),
    /// A mapped file.
    Mapped(memmap2::Mmap),
}

impl std::ops::Deref for WeightBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Embedded(bytes) => bytes,
            Self::Mapped(map) => map,
        }
    }
}

/// Configuration files are a few kilobytes; anything this large is something else.
const LARGEST_JSON: u64 = 16 << 20;

impl ModelFiles {
    /// Reads a model directory: config.json, vocab.json, model.safetensors, and adaptation.json where there is one.
    pub fn from_dir(dir: &Path) -> Result<Self, ModelError> {
        if !dir.is_dir() {
            return Err(ModelError::NotADirectory(dir.to_path_buf()));
        }
        let read = |file: &str| -> Result<Vec<u8>, ModelError> {
            let unreadable = |reason: String| ModelError::Unreadable {
                file: file.into(),
                reason,
            };
            let path = dir.join(file);
            let size = std::fs::metadata(&path)
                .map_err(|error| unreadable(error.to_string()))?
                .len();
            if size > LARGEST_JSON {
                return Err(unreadable(format!(
                    "it has {size} bytes, too many for a configuration file"
                )));
            }
            std::fs::read(&path).map_err(|error| unreadable(error.to_string()))
        };
        let config = read("config.json")?;
        let vocabulary = read("vocab.json")?;
        let read_if_there = |file: &str| -> Result<Option<Cow<'static, [u8]>>, ModelError> {
            if dir.join(file).exists() {
                Ok(Some(read(file)?.into()))
            } else {
                Ok(None)
            }
        };
        let adaptation = read_if_there("adaptation.json")?;
        let preprocessor = read_if_there("preprocessor_config.json")?;
        let file = "model.safetensors";
        let unreadable = |error: std::io::Error| ModelError::Unreadable {
            file: file.into(),
            reason: error.to_string(),
        };
        let opened = std::fs::File::open(dir.join(file)).map_err(unreadable)?;
        // SAFETY: the map is only read. Another process that truncates the file meanwhile would fault, as with every
        // program that maps its weights; the values are copied out while loading, so the window is short.
        let weights = unsafe { memmap2::Mmap::map(&opened) }.map_err(unreadable)?;
        Ok(Self {
            name: dir.display().to_string(),
            config: config.into(),
            preprocessor,
            vocabulary: vocabulary.into(),
            adaptation,
            weights: WeightBytes::Mapped(weights),
        })
    }

    /// The model embedded in this binary.
    #[cfg(feature = "bundled-model")]
    pub fn bundled() -> Result<Self, ModelError> {
        macro_rules! embedded {
            ($file:literal) => {
                include_bytes!(concat!(
                    env!("CARGO_MANIFEST_DIR"),
                    "/models/whisper-tiny.en-ctc/",
                    $file
                ))
                .as_slice()
            };
        }
        Ok(Self {
            name: "bundled:whisper-tiny.en-ctc".into(),
            config: embedded!("config.json").into(),
            preprocessor: Some(embedded!("preprocessor_config.json").into()),
            vocabulary: embedded!("vocab.json").into(),
            adaptation: Some(embedded!("adaptation.json").into()),
            weights: WeightBytes::Embedded(embedded!("model.safetensors")),
        })
    }

    /// The model embedded in this binary: none.
    #[cfg(not(feature = "bundled-model"))]
    pub fn bundled() -> Result<Self, ModelError> {
        Err(ModelError::NoBundledModel)
    }

    /// The configuration, parsed and checked.
    pub fn parse_config(&self) -> Result<ModelConfig, ModelError> {
        ModelConfig::parse(&self.config, self.preprocessor.as_deref())
    }

    /// Reads the weights that a configuration asks for onto a device.
    pub fn load<B: Backend>(self, backend: &B, config: ModelConfig) -> Result<CtcModel<B>, ModelError> {
        let checkpoint = SafetensorsCheckpoint::new(vec![("model.safetensors".into(), self.weights)])?;
        CtcModel::load(backend, config, &checkpoint)
    }

    /// BLAKE3 over all the files' contents, hexadecimal: what a transcript was made with.
    pub fn identity(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for bytes in [&*self.config, &*self.vocabulary, &*self.weights] {
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        }
        hasher.finalize().to_hex().to_string()
    }
}
