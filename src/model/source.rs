//! A model's files: from a directory in one of the published layouts, or embedded in the binary.

use super::checkpoint::{Checkpoint, Ctranslate2Checkpoint, Overlay, PickleCheckpoint, SafetensorsCheckpoint};
use super::{Bundled, CtcModel, Generation, ModelConfig, ModelError, Preset, Vocabulary};
use crate::engine::Backend;
use std::borrow::Cow;
use std::path::{Component, Path, PathBuf};

/// Where a model is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelSource {
    /// A directory, as Hugging Face or CTranslate2 lay it out.
    Directory(PathBuf),
    /// In this binary.
    Bundled(Bundled),
}

impl std::fmt::Display for ModelSource {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Directory(dir) => write!(out, "model {}", dir.display()),
            Self::Bundled(bundled) => write!(out, "bundled model {}", bundled.name()),
        }
    }
}

impl From<&Path> for ModelSource {
    fn from(dir: &Path) -> Self {
        Self::Directory(dir.to_path_buf())
    }
}

impl From<Bundled> for ModelSource {
    fn from(bundled: Bundled) -> Self {
        Self::Bundled(bundled)
    }
}

/// A model's files, opened: configuration checked, weights ready to be read.
pub struct ModelFiles {
    /// What to call the model.
    pub name: String,
    /// config.json and preprocessor_config.json.
    pub config: ModelConfig,
    /// vocab.json and tokenizer_config.json; `None` where the model has no CTC head.
    pub vocabulary: Option<Vocabulary>,
    /// How a Whisper's decoder writes; `None` where a CTC head does, or nothing can.
    pub generation: Option<Generation>,
    /// adaptation.json: the adaptation settings chosen for this model, where somebody chose.
    pub preset: Preset,
    /// The weights.
    pub checkpoint: Box<dyn Checkpoint>,
    /// BLAKE3 over all the files' contents, hexadecimal: what a transcript was made with.
    pub identity: String,
    /// The weights' file format, in words.
    pub format: &'static str,
    /// All the files' sizes.
    pub bytes: u64,
}

/// Weights on disk (mapped, so that only what is read costs memory) or in the binary.
pub enum WeightBytes {
    /// Part of the binary.
    Embedded(&'static [u8]),
    /// A mapped file.
    Mapped(memmap2::Mmap),
    /// In memory.
    Owned(Vec<u8>),
}

impl std::ops::Deref for WeightBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Embedded(bytes) => bytes,
            Self::Mapped(map) => map,
            Self::Owned(bytes) => bytes,
        }
    }
}

/// Configuration files are a few kilobytes; anything this large is something else.
const LARGEST_JSON: u64 = 16 << 20;

/// The bytes behind a model's identity and configuration.
#[derive(Default)]
struct Texts {
    config: Cow<'static, [u8]>,
    preprocessor: Option<Cow<'static, [u8]>>,
    vocabulary: Option<Cow<'static, [u8]>>,
    tokenizer: Option<Cow<'static, [u8]>>,
    added_tokens: Option<Cow<'static, [u8]>>,
    adaptation: Option<Cow<'static, [u8]>>,
}

/// Where a model's files are.
pub(super) enum Folder<'a> {
    OnDisk(&'a Path),
    /// In the binary: names and contents.
    #[cfg_attr(not(feature = "bundled-model"), expect(dead_code, reason = "nothing is embedded"))]
    Embedded(&'static [(&'static str, &'static [u8])]),
}

impl Folder<'_> {
    fn unreadable(file: &str, reason: impl ToString) -> ModelError {
        ModelError::Unreadable {
            file: file.into(),
            reason: reason.to_string(),
        }
    }

    fn has(&self, file: &str) -> bool {
        match self {
            Self::OnDisk(dir) => dir.join(file).exists(),
            Self::Embedded(files) => files.iter().any(|(name, _)| *name == file),
        }
    }

    fn embedded(files: &'static [(&str, &[u8])], file: &str) -> Result<&'static [u8], ModelError> {
        let found = files.iter().find(|(name, _)| *name == file);
        found
            .map(|(_, bytes)| *bytes)
            .ok_or_else(|| Self::unreadable(file, "it is not in this binary"))
    }

    fn read(&self, file: &str) -> Result<Cow<'static, [u8]>, ModelError> {
        let path = match self {
            Self::OnDisk(dir) => dir.join(file),
            Self::Embedded(files) => return Self::embedded(files, file).map(Cow::from),
        };
        let metadata = std::fs::metadata(&path).map_err(|error| Self::unreadable(file, error))?;
        if !metadata.is_file() || metadata.len() > LARGEST_JSON {
            let reason = format!("it has {} bytes, too many for a configuration file", metadata.len());
            return Err(Self::unreadable(file, reason));
        }
        let bytes = std::fs::read(&path).map_err(|error| Self::unreadable(file, error))?;
        Ok(bytes.into())
    }

    fn read_if_there(&self, file: &str) -> Result<Option<Cow<'static, [u8]>>, ModelError> {
        if self.has(file) {
            self.read(file).map(Some)
        } else {
            Ok(None)
        }
    }

    fn map(&self, file: &str) -> Result<(String, WeightBytes), ModelError> {
        let path = match self {
            Self::OnDisk(dir) => dir.join(file),
            Self::Embedded(files) => return Ok((file.into(), WeightBytes::Embedded(Self::embedded(files, file)?))),
        };
        // Before it is opened: a pipe would wait for a writer.
        if std::fs::metadata(&path).is_ok_and(|metadata| !metadata.is_file()) {
            return Err(Self::unreadable(file, "it is no regular file"));
        }
        let opened = std::fs::File::open(path).map_err(|error| Self::unreadable(file, error))?;
        // SAFETY: the map is only read. Another process that truncates the file meanwhile would fault, as with every
        // program that maps its weights; the values are copied out while loading, so the window is short.
        let map = unsafe { memmap2::Mmap::map(&opened) }.map_err(|error| Self::unreadable(file, error))?;
        Ok((file.into(), WeightBytes::Mapped(map)))
    }

    /// The weight files of a format: the one file, or the shards that an index names.
    fn weights(&self, file: &str, index: &str) -> Result<Option<Vec<(String, WeightBytes)>>, ModelError> {
        if self.has(file) {
            return Ok(Some(vec![self.map(file)?]));
        }
        let Some(bytes) = self.read_if_there(index)? else {
            return Ok(None);
        };
        let value: serde_json::Value =
            serde_json::from_slice(&bytes).map_err(|error| ModelError::invalid(index, error))?;
        let map = value["weight_map"].as_object();
        let map = map.ok_or_else(|| ModelError::invalid(index, "it has no weight_map"))?;
        let mut shards: Vec<&str> = map.values().filter_map(|shard| shard.as_str()).collect();
        shards.sort_unstable();
        shards.dedup();
        // A shard lies beside the index: a path that leads elsewhere is no shard.
        let is_name = |shard: &str| {
            let mut parts = Path::new(shard).components();
            matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None))
        };
        if let Some(shard) = shards.iter().find(|shard| !is_name(shard)) {
            return Err(ModelError::invalid(index, format!("`{shard}` is no file name")));
        }
        shards
            .into_iter()
            .map(|shard| self.map(shard))
            .collect::<Result<_, _>>()
            .map(Some)
    }
}

impl ModelFiles {
    /// Opens a model directory: config.json, vocab.json (a whole Whisper: tokenizer.json) and weights as model.safetensors or pytorch_model.bin, in one
    /// file or in shards, or a CTranslate2 model.bin; a Whisper without a CTC head may have one in
    /// ctc_head.safetensors and its symbols in ctc_vocab.json. Where there are, preprocessor_config.json,
    /// tokenizer_config.json, added_tokens.json and adaptation.json.
    pub fn from_dir(dir: &Path) -> Result<Self, ModelError> {
        if !dir.is_dir() {
            return Err(ModelError::NotADirectory(dir.to_path_buf()));
        }
        Self::from_folder(&Folder::OnDisk(dir), dir.display().to_string())
    }

    /// A model in this binary.
    pub fn bundled(bundled: Bundled) -> Result<Self, ModelError> {
        Self::from_folder(&bundled.folder()?, format!("bundled:{}", bundled.name()))
    }

    /// A model, wherever it is.
    pub fn open(source: &ModelSource) -> Result<Self, ModelError> {
        match source {
            ModelSource::Directory(dir) => Self::from_dir(dir),
            ModelSource::Bundled(bundled) => Self::bundled(*bundled),
        }
    }

    fn from_folder(directory: &Folder<'_>, name: String) -> Result<Self, ModelError> {
        if directory.has("model.bin") && !directory.has("model.safetensors") {
            return Self::from_ctranslate2(directory, name);
        }
        let config = directory.read("config.json")?;
        let (files, format) =
            if let Some(files) = directory.weights("model.safetensors", "model.safetensors.index.json")? {
                (files, "safetensors")
            } else if let Some(files) = directory.weights("pytorch_model.bin", "pytorch_model.bin.index.json")? {
                (files, "PyTorch's zip archive")
            } else {
                return Err(ModelError::NoWeights);
            };
        let mut texts = Texts {
            config,
            preprocessor: directory.read_if_there("preprocessor_config.json")?,
            tokenizer: directory.read_if_there("tokenizer_config.json")?,
            added_tokens: directory.read_if_there("added_tokens.json")?,
            adaptation: directory.read_if_there("adaptation.json")?,
            vocabulary: None,
        };
        let parsed = ModelConfig::parse(&texts.config, texts.preprocessor.as_deref())?;
        let mut hasher = Identity::new(&texts);
        files.iter().for_each(|(_, bytes)| hasher.add(bytes));
        let checkpoint: Box<dyn Checkpoint> = match format {
            "safetensors" => Box::new(SafetensorsCheckpoint::new(files)?),
            _ => Box::new(PickleCheckpoint::new(files)?),
        };
        if parsed.vocab_size == 0 {
            return Self::with_head(directory, name, parsed, texts, checkpoint, hasher, format);
        }
        texts.vocabulary = Some(directory.read("vocab.json")?);
        Self::assemble(name, parsed, texts, checkpoint, hasher, format)
    }

    fn from_ctranslate2(directory: &Folder<'_>, name: String) -> Result<Self, ModelError> {
        let (_, bytes) = directory.map("model.bin")?;
        let texts = Texts {
            adaptation: directory.read_if_there("adaptation.json")?,
            ..Texts::default()
        };
        let mut hasher = Identity::new(&texts);
        hasher.add(&bytes);
        let checkpoint = Ctranslate2Checkpoint::new(bytes)?;
        let config = ModelConfig::of_whisper_encoder(&checkpoint.sizes()?)?;
        Self::with_head(
            directory,
            name,
            config,
            texts,
            Box::new(checkpoint),
            hasher,
            "CTranslate2",
        )
    }

    /// A Whisper that was published without a CTC head, and the one laid beside it, if any.
    fn with_head(
        directory: &Folder<'_>,
        name: String,
        mut config: ModelConfig,
        mut texts: Texts,
        mut checkpoint: Box<dyn Checkpoint>,
        mut hasher: Identity,
        format: &'static str,
    ) -> Result<Self, ModelError> {
        if directory.has("ctc_head.safetensors") {
            let (file, bytes) = directory.map("ctc_head.safetensors")?;
            hasher.add(&bytes);
            let head = SafetensorsCheckpoint::new(vec![(file, bytes)])?;
            config.vocab_size = match head.shape("ctc_head.bias") {
                Some([size]) if (1..=1_000_000).contains(size) => *size,
                _ => return Err(ModelError::MissingTensor("ctc_head.bias".into())),
            };
            checkpoint = Box::new(Overlay {
                front: Box::new(head),
                back: checkpoint,
            });
            texts.vocabulary = Some(directory.read("ctc_vocab.json")?);
            // The tokenizer beside a Whisper is the decoder's.
            texts.tokenizer = None;
            texts.added_tokens = None;
        }
        if config.vocab_size > 0 || !has_decoder(&config, &*checkpoint) {
            config.decoder = None;
        }
        let mut generation = None;
        if let Some(decoder) = &config.decoder {
            let tokenizer = directory.read("tokenizer.json")?;
            let mut files = vec![("tokenizer.json", tokenizer)];
            for file in ["generation_config.json", "config.json"] {
                files.extend(directory.read_if_there(file)?.map(|bytes| (file, bytes)));
            }
            files.iter().for_each(|(_, bytes)| hasher.add(bytes));
            let texts: Vec<(&str, &[u8])> = files[1..].iter().map(|(file, bytes)| (*file, &**bytes)).collect();
            generation = Some(Generation::parse(&files[0].1, &texts, decoder)?);
        }
        let assembled = Self::assemble(name, config, texts, checkpoint, hasher, format)?;
        Ok(Self {
            generation,
            ..assembled
        })
    }

    fn assemble(
        name: String,
        mut config: ModelConfig,
        texts: Texts,
        checkpoint: Box<dyn Checkpoint>,
        mut hasher: Identity,
        format: &'static str,
    ) -> Result<Self, ModelError> {
        let vocabulary = match &texts.vocabulary {
            Some(bytes) => {
                hasher.add(bytes);
                let vocabulary = Vocabulary::parse(
                    bytes,
                    texts.tokenizer.as_deref(),
                    texts.added_tokens.as_deref(),
                    config.vocab_size,
                    config.blank,
                )?;
                config.blank = vocabulary.blank();
                Some(vocabulary)
            }
            None => None,
        };
        let preset = texts.adaptation.as_deref().map(Preset::parse).transpose()?;
        Ok(Self {
            name,
            config,
            vocabulary,
            generation: None,
            preset: preset.unwrap_or_default(),
            checkpoint,
            bytes: hasher.bytes,
            identity: hasher.finish(),
            format,
        })
    }

    /// Reads the weights that the configuration asks for onto a device.
    pub fn load<B: Backend>(&self, backend: &B) -> Result<CtcModel<B>, ModelError> {
        CtcModel::load(backend, self.config.clone(), &*self.checkpoint)
    }
}

/// Whether the weights are a whole Whisper's, not an encoder's alone.
fn has_decoder(config: &ModelConfig, checkpoint: &dyn Checkpoint) -> bool {
    let name = format!("{}decoder.embed_tokens.weight", config.names().base);
    config.decoder.is_some() && checkpoint.shape(&name).is_some()
}

/// BLAKE3 over what decides a model's output, each part after its length.
struct Identity {
    hasher: blake3::Hasher,
    bytes: u64,
}

impl Identity {
    fn new(texts: &Texts) -> Self {
        let mut identity = Self {
            hasher: blake3::Hasher::new(),
            bytes: 0,
        };
        identity.add(&texts.config);
        for text in [&texts.preprocessor, &texts.tokenizer, &texts.added_tokens] {
            identity.add(text.as_deref().unwrap_or_default());
        }
        identity
    }

    fn add(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        self.hasher.update(&(bytes.len() as u64).to_le_bytes());
        self.hasher.update(bytes);
    }

    fn finish(self) -> String {
        self.hasher.finalize().to_hex().to_string()
    }
}
