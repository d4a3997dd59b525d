//! Named states of continual methods, kept between connections.

use crate::adapt::StreamState;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

/// Profiles kept at most.
const MOST: usize = 256;

/// Profiles by name, in memory or in a directory.
pub(super) struct Profiles {
    folder: Option<PathBuf>,
    in_memory: Mutex<BTreeMap<String, StreamState>>,
}

impl Profiles {
    pub(super) fn new(folder: Option<PathBuf>) -> Self {
        Self {
            folder,
            in_memory: Mutex::default(),
        }
    }

    /// A file named by a hash: nothing of the name itself is a path.
    fn file(&self, name: &str) -> Option<PathBuf> {
        let hash = blake3::hash(name.as_bytes()).to_hex();
        self.folder
            .as_ref()
            .map(|folder| folder.join(format!("{hash}.safetensors")))
    }

    pub(super) fn load(&self, name: &str) -> Result<StreamState, String> {
        check(name)?;
        let missing = || format!("there is no profile `{name}`");
        match self.file(name) {
            Some(path) if path.exists() => {
                StreamState::load(&path).map_err(|_| format!("the profile `{name}` cannot be read"))
            }
            Some(_) => Err(missing()),
            None => self.lock().get(name).cloned().ok_or_else(missing),
        }
    }

    pub(super) fn save(&self, name: &str, state: &StreamState) -> Result<(), String> {
        check(name)?;
        let full = || format!("{MOST} profiles are kept already");
        // One at a time, so that the count holds.
        let mut in_memory = self.lock();
        match self.file(name) {
            Some(path) => {
                let count = path
                    .parent()
                    .and_then(|folder| folder.read_dir().ok())
                    .map_or(0, Iterator::count);
                if count >= MOST && !path.exists() {
                    return Err(full());
                }
                state
                    .save(&path)
                    .map_err(|error| format!("the profile could not be written: {error}"))
            }
            None if in_memory.len() >= MOST && !in_memory.contains_key(name) => Err(full()),
            None => {
                in_memory.insert(name.into(), state.clone());
                Ok(())
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, StreamState>> {
        self.in_memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn check(name: &str) -> Result<(), String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if (1..=64).contains(&name.len()) && name.bytes().all(plain) {
        Ok(())
    } else {
        Err("a profile's name has 1 to 64 letters, digits, `-`, `_` and `.`".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::AdaptationConfig;
    use crate::adapt::PolicyState;

    #[test]
    fn names_lead_nowhere_but_into_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("profiles");
        std::fs::create_dir(&inner).unwrap();
        let profiles = Profiles::new(Some(inner.clone()));
        let state = StreamState::new("model", &AdaptationConfig::csuta(), PolicyState::default());
        for name in ["", "../x", "/etc/passwd", "a b", "é", &"x".repeat(65)] {
            assert!(profiles.save(name, &state).is_err(), "{name}");
            assert!(profiles.load(name).is_err(), "{name}");
        }
        profiles.save("..", &state).unwrap();
        assert_eq!(profiles.load("..").unwrap(), state);
        assert_eq!(inner.read_dir().unwrap().count(), 1);
        assert_eq!(folder.path().read_dir().unwrap().count(), 1);
    }
}
