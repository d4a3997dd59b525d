//! What lies in the cache.

use super::{Cache, RepoName};
use std::path::{Path, PathBuf};

/// How much of a model is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// The configuration and the weights.
    Complete,
    /// A download began and did not end.
    Incomplete,
}

/// A model in the cache, at one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cached {
    /// Its name on the hub.
    pub name: RepoName,
    /// The branch or tag it was asked for as, or the commit where nothing stands for it.
    pub revision: String,
    /// The directory with its files; `None` where there is not one whole file.
    pub path: Option<PathBuf>,
    /// Bytes of what is there.
    pub bytes: u64,
    /// How much of it is there.
    pub state: State,
}

impl Cache {
    /// Every model, by name and revision.
    pub fn models(&self) -> Vec<Cached> {
        let mut models: Vec<Cached> = entries(&self.root)
            .filter_map(|folder| {
                let file_name = folder.file_name()?.to_str()?;
                let name = RepoName::parse(&file_name.strip_prefix("models--")?.replacen("--", "/", 1)).ok()?;
                Some(revisions(&folder, &name))
            })
            .flatten()
            .collect();
        models.sort_by(|a, b| (&a.name.0, &a.revision).cmp(&(&b.name.0, &b.revision)));
        models
    }
}

fn entries(folder: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
}

fn bytes(folder: &Path) -> u64 {
    let lengths = entries(folder).filter_map(|file| std::fs::metadata(file).ok());
    lengths
        .filter(|metadata| metadata.is_file())
        .map(|metadata| metadata.len())
        .sum()
}

/// The revisions of a repository that something of is here.
fn revisions(repo: &Path, name: &RepoName) -> Vec<Cached> {
    let refs = repo.join("refs");
    let named = walkdir::WalkDir::new(&refs).into_iter().flatten();
    let mut revisions: Vec<(String, String)> = named
        .filter(|entry| entry.file_type().is_file())
        .filter_map(|entry| {
            let revision = entry.path().strip_prefix(&refs).ok()?.to_str()?.replace('\\', "/");
            let commit = std::fs::read_to_string(entry.path()).ok()?;
            Some((revision, commit.trim().to_string()))
        })
        .collect();
    for snapshot in entries(&repo.join("snapshots")) {
        let commit = snapshot
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default()
            .to_string();
        if !revisions.iter().any(|(_, known)| *known == commit) {
            revisions.push((commit.clone(), commit));
        }
    }
    // A file that is half here belongs to no snapshot yet.
    let half = entries(&repo.join("blobs")).filter(|blob| blob.extension().is_some_and(|end| end == "incomplete"));
    let half: u64 = half
        .filter_map(|blob| std::fs::metadata(blob).ok())
        .map(|metadata| metadata.len())
        .sum();
    if revisions.is_empty() && half > 0 {
        revisions.push((super::MAIN.into(), String::new()));
    }
    let cached = |(revision, commit): (String, String)| {
        let path = Some(repo.join("snapshots").join(&commit)).filter(|path| !commit.is_empty() && path.is_dir());
        let complete = path.as_deref().is_some_and(is_complete);
        Cached {
            name: name.clone(),
            revision,
            bytes: path.as_deref().map_or(0, bytes) + if complete { 0 } else { half },
            state: if complete { State::Complete } else { State::Incomplete },
            path,
        }
    };
    revisions.into_iter().map(cached).collect()
}

/// Whether a directory has weights, and all of their shards.
fn is_complete(snapshot: &Path) -> bool {
    let has = |name: &str| std::fs::metadata(snapshot.join(name)).is_ok_and(|metadata| metadata.is_file());
    if has("model.bin") {
        return true;
    }
    let sharded = |index: &str| {
        let text = std::fs::read(snapshot.join(index)).unwrap_or_default();
        let index: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
        let map = index["weight_map"].as_object();
        map.is_some_and(|map| !map.is_empty() && map.values().all(|shard| shard.as_str().is_some_and(has)))
    };
    has("config.json")
        && (has("model.safetensors")
            || has("pytorch_model.bin")
            || sharded("model.safetensors.index.json")
            || sharded("pytorch_model.bin.index.json"))
}
