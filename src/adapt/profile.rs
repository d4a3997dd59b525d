//! A speaker's or a room's profile: what adaptation made of a model's tensors, averaged over some utterances, in a small
//! safetensors file.

use crate::model::checkpoint::{Checkpoint, SafetensorsCheckpoint};
use crate::model::{ModelError, WeightBytes};
use safetensors::tensor::{Dtype, TensorView};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// Says what the file is, and of which layout.
const FORMAT: &str = "aurist-adapted/1";

/// Begins the names of files that are still being written.
pub(crate) const TEMPORARY_PREFIX: &str = ".aurist-tmp-";

/// Adapted tensors, summed over utterances with their lengths as weights.
#[derive(Debug, Clone, Default)]
pub struct Profile {
    seconds: f64,
    utterances: usize,
    tensors: BTreeMap<String, (Vec<usize>, Vec<f64>)>,
}

impl Profile {
    /// Adds one utterance's tensors: name, the checkpoint's shape, values in the checkpoint's order.
    pub fn add(&mut self, seconds: f64, tensors: impl IntoIterator<Item = (String, Vec<usize>, Vec<f32>)>) {
        self.seconds += seconds;
        self.utterances += 1;
        for (name, shape, values) in tensors {
            let (_, sums) = self
                .tensors
                .entry(name)
                .or_insert_with(|| (shape, vec![0.0; values.len()]));
            sums.iter_mut()
                .zip(values)
                .for_each(|(sum, value)| *sum += seconds * value as f64);
        }
    }

    /// Adds another profile's utterances, adapted under the same settings.
    pub fn merge(&mut self, other: Profile) {
        if self.utterances == 0 {
            *self = other;
            return;
        }
        self.seconds += other.seconds;
        self.utterances += other.utterances;
        for (name, (shape, values)) in other.tensors {
            let (_, sums) = self
                .tensors
                .entry(name)
                .or_insert_with(|| (shape, vec![0.0; values.len()]));
            sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
        }
    }

    /// How many utterances it is made of.
    pub fn utterances(&self) -> usize {
        self.utterances
    }

    /// Writes the mean over all utterances to a file, whole or not at all. `model` is the source model's identity;
    /// `base` are tensors of the profile that this one started from, kept where adaptation did not move them.
    pub fn save(&self, path: &Path, model: &str, base: Option<&LoadedProfile>) -> std::io::Result<()> {
        let seconds = if self.seconds > 0.0 { self.seconds } else { 1.0 };
        let mut data: BTreeMap<&str, (Vec<usize>, Vec<u8>)> = BTreeMap::new();
        let bytes = |values: &mut dyn Iterator<Item = f32>| values.flat_map(f32::to_le_bytes).collect::<Vec<u8>>();
        for name in base.iter().flat_map(|base| base.checkpoint.names()) {
            let checkpoint = base.map(|base| &base.checkpoint);
            if let Some((shape, values)) = checkpoint.and_then(|c| Some((c.shape(name)?, c.values(name).ok()?))) {
                data.insert(name, (shape.to_vec(), bytes(&mut values.into_iter())));
            }
        }
        for (name, (shape, sums)) in &self.tensors {
            let mean = bytes(&mut sums.iter().map(|sum| (sum / seconds) as f32));
            data.insert(name, (shape.clone(), mean));
        }
        let views: Result<Vec<_>, _> = data
            .iter()
            .map(|(name, (shape, bytes))| Ok((*name, TensorView::new(Dtype::F32, shape.clone(), bytes)?)))
            .collect();
        let views = views.map_err(|error: safetensors::SafeTensorError| std::io::Error::other(error.to_string()))?;
        let metadata = HashMap::from([
            ("format".to_string(), FORMAT.to_string()),
            ("model".to_string(), model.to_string()),
            ("utterances".to_string(), self.utterances.to_string()),
            ("seconds".to_string(), format!("{:.1}", self.seconds)),
        ]);
        let file =
            safetensors::serialize(views, Some(metadata)).map_err(|error| std::io::Error::other(error.to_string()))?;
        write_whole(path, &file)
    }
}

/// Writes a file, whole or not at all.
pub(super) fn write_whole(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let mut temporary = tempfile::Builder::new()
        .prefix(TEMPORARY_PREFIX)
        .tempfile_in(folder.unwrap_or(Path::new(".")))?;
    std::io::Write::write_all(&mut temporary, bytes)?;
    temporary.as_file().sync_all()?;
    temporary.persist(path).map_err(|error| error.error)?;
    Ok(())
}

/// A profile from a file.
pub struct LoadedProfile {
    pub(crate) checkpoint: SafetensorsCheckpoint,
    /// BLAKE3 of the file.
    pub(crate) identity: String,
}

impl LoadedProfile {
    /// Reads a profile, which must have been made of the model of this identity.
    pub fn load(path: &Path, model: &str) -> Result<Self, ModelError> {
        let name = path.display().to_string();
        let bytes = std::fs::read(path).map_err(|error| ModelError::Unreadable {
            file: name.clone(),
            reason: error.to_string(),
        })?;
        let identity = blake3::hash(&bytes).to_hex().to_string();
        let checkpoint = SafetensorsCheckpoint::new(vec![(name.clone(), WeightBytes::Owned(bytes))])?;
        if checkpoint.metadata("format") != Some(FORMAT) {
            return Err(ModelError::Profile {
                file: name,
                reason: "it was not written by --save-adapted".into(),
            });
        }
        if checkpoint.metadata("model") != Some(model) {
            return Err(ModelError::Profile {
                file: name,
                reason: "it was made of another model; load it with that one, or make a new one with --save-adapted"
                    .into(),
            });
        }
        Ok(Self { checkpoint, identity })
    }

    /// That every tensor is one of the model's, of the same shape.
    pub(crate) fn check(&self, source: &dyn Checkpoint) -> Result<(), ModelError> {
        for name in self.checkpoint.names() {
            let (found, expected) = (self.checkpoint.shape(name), source.shape(name));
            if expected.is_none() || found != expected {
                return Err(ModelError::Shape {
                    name: name.into(),
                    found: found.unwrap_or_default().to_vec(),
                    expected: expected.unwrap_or_default().to_vec(),
                });
            }
        }
        Ok(())
    }
}
