//! `aurist models list`: the bundled models and those in the cache.

use super::size;
use crate::cli::{Exit, Failure};
use crate::hub::{Cache, MAIN, State};
use crate::model::ModelConfig;
#[cfg(feature = "bundled-model")]
use crate::model::{Bundled, ModelFiles};
use clap::Args;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// `aurist models list`, as typed.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// One JSON object instead of a table.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Listing {
    /// Where the cache is.
    cache: PathBuf,
    models: Vec<Listed>,
}

#[derive(Debug, Serialize)]
struct Listed {
    name: String,
    revision: Option<String>,
    architecture: Option<String>,
    bytes: u64,
    state: State,
    /// Whether it is of an architecture that aurist runs; `None` where nothing tells.
    runs: Option<bool>,
    path: Option<PathBuf>,
}

/// Runs the command.
pub(super) fn run(typed: &Arguments) -> Result<Exit, Failure> {
    let cache = Cache::standard().map_err(Failure::failed)?;
    let mut models = bundled()?;
    models.extend(cache.models().into_iter().map(|model| {
        let architecture = model.path.as_deref().and_then(architecture);
        Listed {
            name: model.name.to_string(),
            revision: Some(model.revision),
            runs: architecture.as_ref().map(|(_, runs)| *runs),
            architecture: architecture.map(|(name, _)| name),
            bytes: model.bytes,
            state: model.state,
            path: model.path,
        }
    }));
    let listing = Listing {
        cache: cache.root().to_path_buf(),
        models,
    };
    let text = if typed.json {
        serde_json::to_string_pretty(&listing).map_err(Failure::failed)? + "\n"
    } else {
        describe(&listing)
    };
    super::print(&text)?;
    Ok(Exit::Done)
}

#[cfg(feature = "bundled-model")]
fn bundled() -> Result<Vec<Listed>, Failure> {
    let opened = Bundled::ALL.into_iter().map(ModelFiles::bundled);
    let listed = opened.map(|files| {
        files.map(|files| Listed {
            name: files.name,
            revision: None,
            architecture: Some(files.config.architecture),
            bytes: files.bytes,
            state: State::Complete,
            runs: Some(true),
            path: None,
        })
    });
    listed.collect::<Result<_, _>>().map_err(Failure::failed)
}

#[cfg(not(feature = "bundled-model"))]
fn bundled() -> Result<Vec<Listed>, Failure> {
    Ok(Vec::new())
}

/// A directory's architecture by its configuration alone, and whether it is one that aurist runs.
fn architecture(path: &Path) -> Option<(String, bool)> {
    if path.join("model.bin").is_file() {
        return Some(("Whisper (CTranslate2)".into(), true));
    }
    let file = std::fs::File::open(path.join("config.json")).ok()?;
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut std::io::Read::take(file, 1 << 20), &mut bytes).ok()?;
    let value: serde_json::Value = serde_json::from_slice(&bytes).ok()?;
    let name = value["architectures"][0].as_str()?;
    // A name from a file: whatever it holds, it stays in its column.
    let name: String = name.chars().filter(char::is_ascii_graphic).take(40).collect();
    Some((name, ModelConfig::parse(&bytes, None).is_ok()))
}

fn describe(listing: &Listing) -> String {
    let is_other = |model: &&Listed| model.runs == Some(false);
    let shown: Vec<&Listed> = listing.models.iter().filter(|model| !is_other(model)).collect();
    let others = listing.models.len() - shown.len();
    let named = |model: &Listed| match model.revision.as_deref() {
        None | Some(MAIN) => model.name.clone(),
        // A commit is known by its first digits.
        Some(revision) if revision.len() == 40 => format!("{} at {}", model.name, &revision[..12]),
        Some(revision) => format!("{} at {revision}", model.name),
    };
    let row = |name: &str, bytes: &str, architecture: &str, state: &str, width: usize| {
        let row = format!("{name:<width$}  {bytes:>9}  {architecture:<21}  {state}");
        row.trim_end().to_string() + "\n"
    };
    let width = shown.iter().map(|model| named(model).len()).max().unwrap_or(0).max(4);
    let mut text = row("NAME", "SIZE", "ARCHITECTURE", "", width);
    for model in &shown {
        let state = match model.state {
            State::Complete => "",
            State::Incomplete => "incomplete: pull it again",
        };
        let architecture = model.architecture.as_deref().unwrap_or("unknown");
        text += &row(&named(model), &size(model.bytes), architecture, state, width);
    }
    text += &format!("\nCache: {}\n", listing.cache.display());
    if others > 0 {
        let (s, holds) = if others == 1 { ("", "holds") } else { ("s", "hold") };
        text += &format!("{others} other model{s} in it {holds} nothing that aurist runs (--json lists them).\n");
    }
    text
}
