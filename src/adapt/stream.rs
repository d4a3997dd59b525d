//! A stream's state in a file: what a continual policy carries, of which model and settings it is, and which recordings
//! it has heard.

use super::PolicyState;
use super::profile::write_whole;
use crate::AdaptationConfig;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use std::collections::HashMap;
use std::path::Path;

/// Says what the file is, and of which layout: raised when an older file would be misread.
const FORMAT: &str = "aurist-stream/1";

/// Why a stream cannot go on from a file.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The file could not be read.
    #[error("cannot read {file}: {reason}")]
    Unreadable {
        /// The file.
        file: String,
        /// The system's reason.
        reason: String,
    },
    /// It is no state, or one of another layout.
    #[error("{file} is not a stream's state that this version can read ({reason}); begin a new one with another name")]
    Format {
        /// The file.
        file: String,
        /// What is wrong with it.
        reason: String,
    },
    /// It was made by another model.
    #[error("the stream's state was made with another model; use that one, or begin a new stream with another file")]
    Model,
    /// It was made with other settings.
    #[error(
        "the stream's state was made with other adaptation settings ({0}); use those, or begin a new stream with another file"
    )]
    Settings(String),
    /// It lacks something, or has another size.
    #[error("the stream's state does not fit the model; begin a new stream with another file")]
    Mismatch,
}

/// Everything a stream carries from one utterance to the next.
#[derive(Debug, Clone, PartialEq)]
pub struct StreamState {
    /// The model's identity.
    model: String,
    /// The settings, as JSON.
    settings: String,
    /// The recordings heard so far, in order, by what their driver calls them (no commas).
    pub recordings: Vec<String>,
    /// What the policy carries.
    pub policy: PolicyState,
}

impl StreamState {
    /// Of a policy run by this model with these settings.
    pub fn new(model: &str, settings: &AdaptationConfig, policy: PolicyState) -> Self {
        Self {
            model: model.into(),
            settings: as_json(settings),
            recordings: Vec::new(),
            policy,
        }
    }

    /// That it was made by this model with these settings.
    pub fn check(&self, model: &str, settings: &AdaptationConfig) -> Result<(), StreamError> {
        if self.model != model {
            return Err(StreamError::Model);
        }
        // As text: a number read back may differ from the one written in its last bit.
        if self.settings != as_json(settings) {
            return Err(StreamError::Settings(self.settings.clone()));
        }
        Ok(())
    }

    /// Writes the state, whole or not at all.
    pub fn save(&self, path: &Path) -> std::io::Result<()> {
        let statistics = self.policy.statistics.iter().map(|(name, values)| {
            let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            (format!("statistic.{name}"), Dtype::F64, values.len(), bytes)
        });
        let tensors = self.policy.tensors.iter().map(|(name, values)| {
            let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            (format!("tensor.{name}"), Dtype::F32, values.len(), bytes)
        });
        let data: Vec<_> = statistics.chain(tensors).collect();
        let views: Result<Vec<_>, _> = data
            .iter()
            .map(|(name, dtype, len, bytes)| Ok((name.as_str(), TensorView::new(*dtype, vec![*len], bytes)?)))
            .collect();
        let views = views.map_err(|error: safetensors::SafeTensorError| std::io::Error::other(error.to_string()))?;
        let metadata = HashMap::from([
            ("format".to_string(), FORMAT.to_string()),
            ("model".to_string(), self.model.clone()),
            ("settings".to_string(), self.settings.clone()),
            ("recordings".to_string(), self.recordings.join(",")),
            ("counts".to_string(), serde_json::to_string(&self.policy.counts)?),
        ]);
        let file =
            safetensors::serialize(views, Some(metadata)).map_err(|error| std::io::Error::other(error.to_string()))?;
        write_whole(path, &file)
    }

    /// Reads a state.
    pub fn load(path: &Path) -> Result<Self, StreamError> {
        let file = path.display().to_string();
        let bytes = std::fs::read(path).map_err(|error| StreamError::Unreadable {
            file: file.clone(),
            reason: error.to_string(),
        })?;
        Self::parse(&bytes).map_err(|reason| StreamError::Format { file, reason })
    }

    fn parse(bytes: &[u8]) -> Result<Self, String> {
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(|error| error.to_string())?;
        let metadata = header.metadata().clone().unwrap_or_default();
        let entry = |key: &str| metadata.get(key).cloned().ok_or_else(|| format!("it has no {key}"));
        let format = entry("format")?;
        if format != FORMAT {
            return Err(format!("its format is {format}, not {FORMAT}"));
        }
        let recordings = entry("recordings")?;
        let mut policy = PolicyState {
            counts: serde_json::from_str(&entry("counts")?).map_err(|error| error.to_string())?,
            ..PolicyState::default()
        };
        let tensors = SafeTensors::deserialize(bytes).map_err(|error| error.to_string())?;
        for (name, tensor) in tensors.iter() {
            if let (Some(name), Dtype::F64) = (name.strip_prefix("statistic."), tensor.dtype()) {
                let values = tensor
                    .data()
                    .as_chunks()
                    .0
                    .iter()
                    .map(|bytes| f64::from_le_bytes(*bytes));
                policy.statistics.insert(name.into(), values.collect());
            } else if let (Some(name), Dtype::F32) = (name.strip_prefix("tensor."), tensor.dtype()) {
                let values = tensor
                    .data()
                    .as_chunks()
                    .0
                    .iter()
                    .map(|bytes| f32::from_le_bytes(*bytes));
                policy.tensors.insert(name.into(), values.collect());
            } else {
                return Err(format!("{name} is unknown"));
            }
        }
        let finite = policy.tensors.values().flatten().all(|value| value.is_finite());
        if !finite {
            return Err("it has values that are not finite".into());
        }
        Ok(Self {
            model: entry("model")?,
            settings: entry("settings")?,
            recordings: recordings
                .split(',')
                .filter(|name| !name.is_empty())
                .map(String::from)
                .collect(),
            policy,
        })
    }
}

fn as_json(settings: &AdaptationConfig) -> String {
    // Names and numbers only: serialisation has no way to fail.
    serde_json::to_string(settings).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn state() -> StreamState {
        let policy = PolicyState {
            counts: BTreeMap::from([("heard".into(), 7)]),
            statistics: BTreeMap::from([("domain".into(), vec![0.1 + 0.2, -1e-300]), ("gathered".into(), vec![])]),
            tensors: BTreeMap::from([("slow.values".into(), vec![1.5, -0.25])]),
        };
        let mut state = StreamState::new("model", &AdaptationConfig::dsuta(), policy);
        state.recordings = vec!["a".into(), "b".into()];
        state
    }

    #[test]
    fn a_state_is_read_back_to_the_last_bit() {
        let file = tempfile::NamedTempFile::new().unwrap();
        state().save(file.path()).unwrap();
        let read = StreamState::load(file.path()).unwrap();
        assert_eq!(read, state());
        read.check("model", &AdaptationConfig::dsuta()).unwrap();
        assert!(matches!(
            read.check("another", &AdaptationConfig::dsuta()),
            Err(StreamError::Model)
        ));
        assert!(matches!(
            read.check("model", &AdaptationConfig::csuta()),
            Err(StreamError::Settings(_))
        ));
    }

    #[test]
    fn what_is_no_state_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut values = state();
        values.policy.tensors.insert("slow.values".into(), vec![f32::NAN]);
        values.save(file.path()).unwrap();
        let error = StreamState::load(file.path()).unwrap_err().to_string();
        assert!(error.contains("not finite"), "{error}");
        let missing = StreamState::load(&file.path().with_extension("missing")).unwrap_err();
        assert!(matches!(missing, StreamError::Unreadable { .. }));
    }

    proptest! {
        #[test]
        fn damaged_files_are_errors_not_panics(at in 0usize..700, byte: u8, length in 0usize..700) {
            let file = tempfile::NamedTempFile::new().unwrap();
            state().save(file.path()).unwrap();
            let mut bytes = std::fs::read(file.path()).unwrap();
            let at = at % bytes.len();
            bytes[at] = byte;
            bytes.truncate(length.max(1));
            let _ = StreamState::parse(&bytes);
        }
    }
}
