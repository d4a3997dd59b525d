//! The Hugging Face hub's cache on this machine, in its standard layout, and downloads into it.
//!
//! `models--ORG--NAME/` holds `blobs/ETAG` (contents by checksum), `refs/REVISION` (the commit it stands for) and
//! `snapshots/COMMIT/FILE` (links to blobs): what Python's huggingface_hub reads and writes too.

mod cached;
#[cfg(feature = "hub")]
mod client;
#[cfg(feature = "hub")]
mod download;

pub use cached::{Cached, State};
#[cfg(feature = "hub")]
pub use client::Client;
#[cfg(feature = "hub")]
pub use download::{Progress, pull};

use std::path::{Path, PathBuf};

/// The revision that a name alone means.
pub const MAIN: &str = "main";

/// What can go wrong with the hub.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// A name that is no `ORG/NAME`.
    #[error("`{0}` is no model's name; names look like facebook/wav2vec2-base-960h")]
    Name(String),
    /// A revision that cannot be one.
    #[error("`{0}` is no revision; give a branch, a tag or a commit, such as main")]
    Revision(String),
    /// There is nowhere to put the cache.
    #[error("there is no home directory for the model cache; set HF_HOME")]
    NoHome,
    /// Offline, and not in the cache.
    #[error("{0} is not in the cache, and this run is offline; pull it once while online")]
    Offline(String),
    /// The hub could not be reached.
    #[error(
        "{url} could not be reached: {reason}; check the connection (HF_ENDPOINT sets another server), then run the same command again: it goes on where it stopped"
    )]
    Unreachable {
        /// What was asked for.
        url: String,
        /// Why not.
        reason: String,
    },
    /// The hub said no.
    #[error("{url}: the server answered {status}{hint}")]
    Status {
        /// What was asked for.
        url: String,
        /// HTTP's status.
        status: u16,
        /// What to do about it.
        hint: &'static str,
    },
    /// An answer that makes no sense.
    #[error("{url}: {reason}")]
    Answer {
        /// What was asked for.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A file whose content is not what the hub says.
    #[error(
        "{file} arrived damaged (its checksum is {found}, not {expected}) and was thrown away; run the same command again"
    )]
    Damaged {
        /// The file.
        file: String,
        /// Computed.
        found: String,
        /// Stated.
        expected: String,
    },
    /// The repository has nothing that aurist could run.
    #[error(
        "{0} has no files of a model that aurist reads: a config.json with model.safetensors or pytorch_model.bin, or a CTranslate2 model.bin"
    )]
    NoModel(String),
    /// The cache could not be read or written.
    #[error("{}: {source}", .path.display())]
    Disk {
        /// Where.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
}

impl HubError {
    #[cfg_attr(not(feature = "hub"), allow(dead_code))]
    pub(crate) fn disk(path: &Path) -> impl FnOnce(std::io::Error) -> Self + use<> {
        let path = path.to_path_buf();
        |source| Self::Disk { path, source }
    }
}

/// A model's name on the hub, `ORG/NAME`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepoName(String);

impl RepoName {
    /// Parses `ORG/NAME`.
    pub fn parse(text: &str) -> Result<Self, HubError> {
        let good = |part: &str| {
            !part.is_empty()
                && part.len() <= 96
                && !part.starts_with(['.', '-'])
                && part.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
                && !part.contains("--")
                && !part.contains("..")
        };
        match text.split_once('/') {
            Some((org, name)) if good(org) && good(name) => Ok(Self(text.into())),
            _ => Err(HubError::Name(text.into())),
        }
    }

    fn folder(&self) -> String {
        format!("models--{}", self.0.replace('/', "--"))
    }
}

impl std::fmt::Display for RepoName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// The cache.
#[derive(Debug, Clone)]
pub struct Cache {
    root: PathBuf,
}

fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name)
        .filter(|value| !value.is_empty())
        .map(PathBuf::from)
}

/// Hugging Face's directory: HF_HOME, XDG_CACHE_HOME/huggingface, or ~/.cache/huggingface.
fn home() -> Option<PathBuf> {
    let user = || std::env::home_dir().filter(|home| !home.as_os_str().is_empty());
    variable("HF_HOME")
        .or_else(|| variable("XDG_CACHE_HOME").map(|path| path.join("huggingface")))
        .or_else(|| user().map(|path| path.join(".cache/huggingface")))
}

/// A revision becomes part of a path and of a URL.
fn check_revision(revision: &str) -> Result<(), HubError> {
    let good = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part.chars().all(|c| c.is_ascii_alphanumeric() || "._-+".contains(c))
    };
    if revision.split('/').all(good) {
        Ok(())
    } else {
        Err(HubError::Revision(revision.into()))
    }
}

impl Cache {
    /// Where the environment puts it: HF_HUB_CACHE, or `hub` in HF_HOME, in XDG_CACHE_HOME/huggingface, or in
    /// ~/.cache/huggingface.
    pub fn standard() -> Result<Self, HubError> {
        let root = variable("HF_HUB_CACHE").or_else(|| home().map(|path| path.join("hub")));
        root.map(|root| Self { root }).ok_or(HubError::NoHome)
    }

    /// One at another place.
    pub fn at(root: &Path) -> Self {
        Self { root: root.into() }
    }

    /// Its directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn repo(&self, name: &RepoName) -> PathBuf {
        self.root.join(name.folder())
    }

    /// The directory of a model's files at a revision (a branch, a tag or a commit), when it is in the cache.
    pub fn snapshot(&self, name: &RepoName, revision: &str) -> Option<PathBuf> {
        let repo = self.repo(name);
        check_revision(revision).ok()?;
        let commit = std::fs::read_to_string(repo.join("refs").join(revision)).unwrap_or_else(|_| revision.into());
        let snapshot = repo.join("snapshots").join(commit.trim());
        (!commit.trim().is_empty() && !commit.contains(['/', '\\']) && snapshot.is_dir()).then_some(snapshot)
    }
}

/// Whether the environment asks for no network (HF_HUB_OFFLINE, TRANSFORMERS_OFFLINE).
pub fn is_offline() -> bool {
    let on = |name: &str| {
        std::env::var(name).is_ok_and(|value| ["1", "true", "yes", "on"].contains(&value.to_lowercase().as_str()))
    };
    on("HF_HUB_OFFLINE") || on("TRANSFORMERS_OFFLINE")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_two_plain_parts() {
        assert_eq!(
            RepoName::parse("facebook/wav2vec2-base-960h").unwrap().folder(),
            "models--facebook--wav2vec2-base-960h"
        );
        for bad in [
            "", "name", "a/b/c", "../x", "a/..", "/a", "a/", "a b/c", "a/b--c", "-a/b",
        ] {
            assert!(RepoName::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_snapshot_is_found_by_branch_and_by_commit_and_not_outside() {
        let folder = tempfile::tempdir().unwrap();
        let (cache, name) = (Cache::at(folder.path()), RepoName::parse("a/b").unwrap());
        let repo = folder.path().join("models--a--b");
        std::fs::create_dir_all(repo.join("snapshots/abc")).unwrap();
        std::fs::create_dir_all(repo.join("refs")).unwrap();
        std::fs::write(repo.join("refs/main"), "abc\n").unwrap();
        std::fs::write(repo.join("snapshots/abc/config.json"), "{}").unwrap();
        assert_eq!(cache.snapshot(&name, MAIN), Some(repo.join("snapshots/abc")));
        assert_eq!(cache.snapshot(&name, "abc"), Some(repo.join("snapshots/abc")));
        assert_eq!(cache.snapshot(&name, "../../.."), None);
        assert_eq!(cache.snapshot(&name, "other"), None);
        assert_eq!(cache.snapshot(&name, "/abc"), None);
        for bad in ["", "..", "a//b", "/a", "a/../b", ".git", "a b"] {
            assert!(check_revision(bad).is_err(), "{bad}");
        }
        assert!(check_revision("refs/pr/1").is_ok());
    }
}
