//! LibriSpeech's directory tree.

use super::TestUtterance;
use super::problems::{Problems, read_text};
use std::path::Path;
use walkdir::WalkDir;

/// The audio's extensions, the published one first.
const EXTENSIONS: [&str; 4] = ["flac", "wav", "ogg", "mp3"];

pub(super) fn read(path: &Path, problems: &mut Problems) -> Vec<TestUtterance> {
    let mut utterances = Vec::new();
    for entry in WalkDir::new(path).sort_by_file_name() {
        match entry {
            Ok(entry) if entry.file_name().to_string_lossy().ends_with(".trans.txt") => {
                let directory = entry.path().parent().unwrap_or(Path::new(""));
                let text = read_text(entry.path(), problems).unwrap_or_default();
                utterances.extend(parse(&text, directory));
            }
            Ok(_) => {}
            Err(error) => problems.error("unreadable directory", error),
        }
    }
    utterances
}

/// `ID TEXT` a line; `ID` is `SPEAKER-CHAPTER-NUMBER`.
fn parse(text: &str, directory: &Path) -> Vec<TestUtterance> {
    let utterance = |line: &str| {
        let (id, reference) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        TestUtterance {
            id: id.to_string(),
            audio: super::find_audio(directory, id, &EXTENSIONS),
            reference: reference.trim().to_string(),
            speaker: id.split_once('-').map(|(speaker, _)| speaker.to_string()),
            ..TestUtterance::default()
        }
    };
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .map(utterance)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ids_hold_speakers() {
        let set = parse(
            "1998-15444-0000 IF CALLED TO\n\n1998-15444-0001\tHE\nlone\n",
            Path::new("d"),
        );
        assert_eq!(set.len(), 3);
        assert_eq!(
            (set[0].id.as_str(), set[0].speaker.as_deref(), set[0].reference.as_str()),
            ("1998-15444-0000", Some("1998"), "IF CALLED TO")
        );
        assert_eq!(set[0].audio, Path::new("d/1998-15444-0000.flac"));
        assert_eq!(set[1].reference, "HE");
        assert_eq!((set[2].speaker.as_deref(), set[2].reference.as_str()), (None, ""));
    }

    proptest! {
        #[test]
        fn never_panics(text in "(\\PC|\n|-| ){0,200}") {
            parse(&text, Path::new("nowhere"));
        }
    }
}
