//! What a model is called: a directory, a name on the hub, or one of a few short names.

use crate::cli::Failure;
use crate::hub::{Cache, HubError, MAIN, RepoName};
use crate::model::{Bundled, ModelSource};
use std::path::Path;

/// Checkpoints that the literature on test-time adaptation uses, one of each architecture, under their last part.
pub(super) const SHORT_NAMES: [&str; 8] = [
    "facebook/wav2vec2-base-960h",
    "facebook/wav2vec2-large-960h-lv60-self",
    "facebook/hubert-large-ls960-ft",
    "facebook/data2vec-audio-base-960h",
    "facebook/data2vec-audio-large-960h",
    "patrickvonplaten/wavlm-libri-clean-100h-base-plus",
    "openai/whisper-tiny.en",
    "openai/whisper-base.en",
];

/// Whispers by the names that faster-whisper gives them, in its format: half the size of the originals.
pub(super) const WHISPERS: [(&str, &str); 16] = [
    ("tiny.en", "Systran/faster-whisper-tiny.en"),
    ("tiny", "Systran/faster-whisper-tiny"),
    ("base.en", "Systran/faster-whisper-base.en"),
    ("base", "Systran/faster-whisper-base"),
    ("small.en", "Systran/faster-whisper-small.en"),
    ("small", "Systran/faster-whisper-small"),
    ("medium.en", "Systran/faster-whisper-medium.en"),
    ("medium", "Systran/faster-whisper-medium"),
    ("large-v2", "Systran/faster-whisper-large-v2"),
    ("large-v3", "Systran/faster-whisper-large-v3"),
    ("distil-small.en", "Systran/faster-distil-whisper-small.en"),
    ("distil-medium.en", "Systran/faster-distil-whisper-medium.en"),
    ("distil-large-v3", "Systran/faster-distil-whisper-large-v3"),
    ("distil-large-v3.5", "distil-whisper/distil-large-v3.5-ct2"),
    ("large-v3-turbo", "mobiuslabsgmbh/faster-whisper-large-v3-turbo"),
    ("turbo", "mobiuslabsgmbh/faster-whisper-large-v3-turbo"),
];

/// The model on the hub that a name means.
pub(super) fn repository(text: &str) -> Result<RepoName, HubError> {
    let whisper = WHISPERS.iter().find(|(short, _)| *short == text).map(|(_, full)| *full);
    let ends_so = |name: &&&str| name.split_once('/').is_some_and(|(_, short)| short == text);
    let short = SHORT_NAMES.iter().find(ends_so).copied();
    RepoName::parse(whisper.or(short).unwrap_or(text))
}

/// The environment's variable that names the model where none is typed.
const VARIABLE: &str = "AURIST_MODEL";

/// The model that was asked for on the command line, in the environment, or else the command's own choice.
pub(in crate::cli) fn resolve(typed: Option<&Path>, default: Bundled) -> Result<ModelSource, Failure> {
    let from_environment = std::env::var_os(VARIABLE).filter(|value| typed.is_none() && !value.is_empty());
    match typed.or(from_environment.as_deref().map(Path::new)) {
        Some(asked) => find(asked),
        None => Ok(default.into()),
    }
}

/// A model by directory or name. Nothing is fetched.
fn find(typed: &Path) -> Result<ModelSource, Failure> {
    if typed.exists() {
        return Ok(typed.into());
    }
    // As they are listed, and as people type them.
    let name = typed.to_str().map(|text| text.strip_prefix("bundled:").unwrap_or(text));
    let bundled = name.and_then(Bundled::named);
    if let (Some(bundled), true) = (bundled, name != typed.to_str()) {
        return Ok(bundled.into());
    }
    // What can only be a path is told so where it is read.
    let Some(name) = typed.to_str().and_then(|text| repository(text).ok()) else {
        return Ok(bundled.map_or_else(|| typed.into(), ModelSource::from));
    };
    let cache = Cache::standard().map_err(Failure::failed)?;
    // One that was fetched has the published precision; the bundled one is there without.
    let fetched = cache.snapshot(&name, MAIN).map(ModelSource::Directory);
    fetched.or(bundled.map(ModelSource::from)).ok_or_else(|| {
        Failure::failed(format_args!(
            "model {}: there is no such directory, and {name} is not in the cache ({}); fetch it with `aurist models pull {name}`",
            typed.display(),
            cache.root().display()
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_are_distinct_and_full_names_pass() {
        for full in SHORT_NAMES {
            let (_, short) = full.split_once('/').expect("two parts");
            assert_eq!(repository(short).expect("known").to_string(), full);
            assert_eq!(repository(full).expect("valid").to_string(), full);
        }
        for (index, (short, full)) in WHISPERS.iter().enumerate() {
            assert_eq!(repository(short).expect("known").to_string(), *full);
            assert!(
                WHISPERS[..index].iter().all(|(other, _)| other != short),
                "{short} twice"
            );
        }
        assert!(repository("unheard-of").is_err());
    }

    #[test]
    fn a_directory_is_itself_and_an_impossible_name_is_left_to_the_reader() {
        let folder = tempfile::tempdir().expect("a directory");
        assert_eq!(find(folder.path()).expect("there"), folder.path().into());
        let nowhere = Path::new("no/such/directory");
        assert_eq!(find(nowhere).expect("a path"), nowhere.into());
    }

    #[test]
    fn a_bundled_model_goes_by_its_name() {
        assert_eq!(
            find(Path::new("tiny.en-ctc")).expect("bundled"),
            Bundled::TinyEnCtc.into()
        );
        assert_eq!(
            find(Path::new("bundled:tiny.en")).expect("bundled"),
            Bundled::TinyEn.into()
        );
        assert!(find(Path::new("tiny.en-ctx")).is_ok_and(|found| matches!(found, ModelSource::Directory(_))));
    }
}
