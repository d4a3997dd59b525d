//! CHiME-3's evaluation set: a `.trn` file an utterance in `transcriptions/SPLIT/`, or one `.trn_all` list a split,
//! and the audio in `audio/16kHz/enhanced/SPLIT/`.

use super::TestUtterance;
use super::problems::{Problems, read_text};
use std::path::{Path, PathBuf};
use walkdir::WalkDir;

/// Which of the eight evaluation splits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChimeSplits {
    /// Bus, café, pedestrian area and street, each real and simulated.
    #[default]
    Eight,
    /// Without `et05_ped_real`, which the published lists of SUTA, SGEM and DSUTA leave out.
    Seven,
}

const SPLITS: [&str; 8] = [
    "et05_bus_real",
    "et05_bus_simu",
    "et05_caf_real",
    "et05_caf_simu",
    "et05_ped_real",
    "et05_ped_simu",
    "et05_str_real",
    "et05_str_simu",
];
const LEFT_OUT: &str = "et05_ped_real";

impl ChimeSplits {
    fn holds(self, split: &str) -> bool {
        SPLITS.contains(&split) && (self == ChimeSplits::Eight || split != LEFT_OUT)
    }
}

/// `path` is a directory at or above the transcriptions, or one list.
pub(super) fn read(path: &Path, splits: ChimeSplits, problems: &mut Problems) -> Vec<TestUtterance> {
    let (mut single, mut lists) = (Vec::new(), Vec::new());
    for entry in WalkDir::new(path).sort_by_file_name() {
        match entry {
            Ok(entry) if entry.file_type().is_dir() => {}
            Ok(entry) => match entry.path().extension().and_then(|extension| extension.to_str()) {
                Some("trn") if entry.depth() > 0 => single.push(entry.into_path()),
                Some("trn_all") => lists.push(entry.into_path()),
                _ if entry.depth() == 0 => lists.push(entry.into_path()),
                _ => {}
            },
            Err(error) => problems.error("unreadable directory", error),
        }
    }
    // The lists say again what the single files say.
    let files = if single.is_empty() { lists } else { single };
    let mut utterances = Vec::new();
    for file in &files {
        let text = read_text(file, problems).unwrap_or_default();
        utterances.extend(parse(&text, file, path));
    }
    // A set without split names is not CHiME-3's own layout: all of it counts.
    let split_of = |utterance: &TestUtterance| utterance.id.split_once('/').map(|(split, _)| split.to_string());
    if utterances.iter().any(|utterance| split_of(utterance).is_some()) {
        utterances.retain(|utterance| split_of(utterance).is_some_and(|split| splits.holds(&split)));
        let mut found: Vec<String> = utterances.iter().filter_map(split_of).collect();
        found.sort();
        found.dedup();
        let left_out = if splits == ChimeSplits::Seven {
            " (et05_ped_real left out)"
        } else {
            ""
        };
        problems.note(format_args!(
            "{} CHiME-3 splits{left_out}: {}",
            found.len(),
            found.join(", ")
        ));
        let missing: Vec<&str> = SPLITS
            .into_iter()
            .filter(|split| splits.holds(split) && !found.iter().any(|other| other == split))
            .collect();
        for split in missing {
            problems.warning("a split that is not there", split);
        }
    }
    utterances
}

/// `ID TEXT` a line. The split is the directory's name, or told by the id (`F05_440C0201_BUS_REAL`).
fn parse(text: &str, file: &Path, root: &Path) -> Vec<TestUtterance> {
    let directory = file.parent().unwrap_or(Path::new(""));
    let directory_name = directory.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let single = file.extension().is_some_and(|extension| extension == "trn");
    let mut utterances = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (mut name, reference) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let split = match split_of_id(name) {
            Some((stem, split)) => {
                name = stem;
                Some(split)
            }
            None => SPLITS
                .into_iter()
                .find(|split| *split == directory_name)
                .map(str::to_string),
        };
        let split = split.or_else(|| {
            let in_split_directory =
                single && directory_name.matches('_').count() == 2 && directory_name.contains("05_");
            in_split_directory.then(|| directory_name.to_string())
        });
        utterances.push(TestUtterance {
            id: match &split {
                Some(split) => format!("{split}/{name}"),
                None => name.to_string(),
            },
            audio: find_recording(directory, root, split.as_deref(), name),
            reference: reference.trim().to_string(),
            speaker: name.split_once('_').map(|(speaker, _)| speaker.to_string()),
            ..TestUtterance::default()
        });
    }
    utterances
}

/// `F05_440C0201_BUS_REAL` is `F05_440C0201_BUS` of `et05_bus_real`.
fn split_of_id(id: &str) -> Option<(&str, String)> {
    let (stem, kind) = id.rsplit_once('_')?;
    let (_, place) = stem.rsplit_once('_')?;
    let split = format!("et05_{}_{}", place.to_lowercase(), kind.to_lowercase());
    SPLITS.contains(&split.as_str()).then_some((stem, split))
}

/// The recording under `audio/16kHz/enhanced` of one of the directories above, or beside the transcription.
fn find_recording(directory: &Path, root: &Path, split: Option<&str>, name: &str) -> PathBuf {
    let split = split.unwrap_or_default();
    let above = directory.ancestors().take(4).chain([root]);
    let enhanced = above.flat_map(|base| {
        ["audio/16kHz/enhanced", "data/audio/16kHz/enhanced"].map(|folder| base.join(folder).join(split))
    });
    let beside = directory.join(format!("{name}.wav"));
    enhanced
        .map(|folder| folder.join(format!("{name}.wav")))
        .find(|audio| audio.is_file())
        .unwrap_or(beside)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn splits_are_told_by_directory_or_id() {
        let root = Path::new("CHiME3");
        let file = root.join("data/transcriptions/et05_caf_simu/F05_440C0201_CAF.trn");
        let set = parse("F05_440C0201_CAF GOOD MORNING\n", &file, root);
        assert_eq!(set[0].id, "et05_caf_simu/F05_440C0201_CAF");
        assert_eq!(
            (set[0].speaker.as_deref(), set[0].reference.as_str()),
            (Some("F05"), "GOOD MORNING")
        );
        let set = parse("M05_1_PED_REAL YES\n", &root.join("et05_real.trn_all"), root);
        assert_eq!(set[0].id, "et05_ped_real/M05_1_PED");
        assert!(ChimeSplits::Eight.holds("et05_ped_real") && !ChimeSplits::Seven.holds("et05_ped_real"));
        assert!(!ChimeSplits::Eight.holds("dt05_ped_real"));
    }

    proptest! {
        #[test]
        fn never_panics(text in "(\\PC|\n|_| ){0,200}") {
            parse(&text, Path::new("a/et05_x_real/x.trn"), Path::new("a"));
        }
    }
}
