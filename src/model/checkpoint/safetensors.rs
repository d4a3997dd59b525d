//! model.safetensors, in one file or in shards.

use super::{Checkpoint, Stored, from_bf16, from_f16, from_f32};
use crate::model::ModelError;
use crate::model::source::WeightBytes;
use safetensors::tensor::Metadata;
use safetensors::{Dtype, SafeTensors};
use std::collections::HashMap;

/// One or several safetensors files; the first one that has a name wins.
pub struct SafetensorsCheckpoint {
    shards: Vec<Shard>,
    index: HashMap<String, usize>,
}

struct Shard {
    bytes: WeightBytes,
    /// Where the tensors' data start.
    start: usize,
    metadata: Metadata,
}

impl SafetensorsCheckpoint {
    /// Parses the headers, whose offsets are checked against each file's length there. `files` are names for errors,
    /// and bytes.
    pub fn new(files: Vec<(String, WeightBytes)>) -> Result<Self, ModelError> {
        let (mut shards, mut index) = (Vec::with_capacity(files.len()), HashMap::new());
        for (name, bytes) in files {
            let (header, metadata) =
                SafeTensors::read_metadata(&bytes).map_err(|error| ModelError::invalid(&name, error))?;
            let start = header + 8;
            if bytes.len() - start < metadata.data_len() {
                return Err(ModelError::invalid(&name, "the file is shorter than its header says"));
            }
            for tensor in metadata.offset_keys() {
                index.entry(tensor).or_insert(shards.len());
            }
            shards.push(Shard { bytes, start, metadata });
        }
        Ok(Self { shards, index })
    }

    /// The shards' text metadata (`__metadata__`), the first file's entry winning.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        let maps = self
            .shards
            .iter()
            .filter_map(|shard| shard.metadata.metadata().as_ref());
        maps.filter_map(|map| map.get(key)).next().map(String::as_str)
    }
}

impl Checkpoint for SafetensorsCheckpoint {
    fn shape(&self, name: &str) -> Option<&[usize]> {
        let shard = &self.shards[*self.index.get(name)?];
        Some(&shard.metadata.info(name)?.shape)
    }

    fn storage(&self, name: &str) -> Stored {
        let shard = self.index.get(name).map(|index| &self.shards[*index]);
        match shard.and_then(|shard| shard.metadata.info(name)).map(|info| info.dtype) {
            Some(Dtype::F16) => Stored::F16,
            Some(Dtype::BF16) => Stored::Bf16,
            _ => Stored::F32,
        }
    }

    fn values(&self, name: &str) -> Result<Vec<f32>, ModelError> {
        let missing = || ModelError::MissingTensor(name.into());
        let shard = &self.shards[*self.index.get(name).ok_or_else(missing)?];
        let info = shard.metadata.info(name).ok_or_else(missing)?;
        let data = &shard.bytes[shard.start + info.data_offsets.0..shard.start + info.data_offsets.1];
        match info.dtype {
            Dtype::F32 => Ok(from_f32(data)),
            Dtype::F16 => Ok(from_f16(data)),
            Dtype::BF16 => Ok(from_bf16(data)),
            other => Err(ModelError::Type {
                name: name.into(),
                found: format!("{other:?}"),
            }),
        }
    }

    fn names(&self) -> Vec<&str> {
        self.index.keys().map(String::as_str).collect()
    }
}
