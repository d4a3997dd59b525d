//! The plainest table: `AUDIO<TAB>TEXT`, optionally `<TAB>SPEAKER`.

use super::TestUtterance;
use super::jsonl::without_extension;
use super::problems::{Problems, read_text};
use std::path::Path;

/// What a first line that is a header begins with.
const HEADERS: [&str; 5] = ["audio", "audio_filepath", "path", "file", "filename"];

pub(super) fn read(path: &Path, problems: &mut Problems) -> Vec<TestUtterance> {
    let text = read_text(path, problems).unwrap_or_default();
    parse(&text, path.parent().unwrap_or(Path::new("")), problems)
}

fn parse(text: &str, directory: &Path, problems: &mut Problems) -> Vec<TestUtterance> {
    let mut utterances = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let mut fields = line.split('\t').map(str::trim);
        let audio = fields.next().unwrap_or_default();
        if line.trim().is_empty() || (number == 1 && HEADERS.contains(&audio.to_lowercase().as_str())) {
            continue;
        }
        let (Some(reference), false) = (fields.next(), audio.is_empty()) else {
            problems.error("line that is not `audio<TAB>text`", format_args!("line {number}"));
            continue;
        };
        utterances.push(TestUtterance {
            id: without_extension(audio).to_string(),
            audio: directory.join(audio),
            reference: reference.to_string(),
            speaker: fields.next().filter(|name| !name.is_empty()).map(str::to_string),
            ..TestUtterance::default()
        });
    }
    utterances
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_header_is_no_utterance() {
        let mut problems = Problems::default();
        let set = parse(
            "path\ttext\na.wav\tone two\tanna\nb/c.flac\t\nno tab\n",
            Path::new("d"),
            &mut problems,
        );
        assert_eq!(set.len(), 2);
        assert_eq!((set[0].id.as_str(), set[0].speaker.as_deref()), ("a", Some("anna")));
        assert_eq!(
            (set[1].audio.as_path(), set[1].reference.as_str()),
            (Path::new("d/b/c.flac"), "")
        );
        assert!(
            problems
                .finish(Path::new("t"), false)
                .unwrap_err()
                .to_string()
                .contains("line 4")
        );
    }

    proptest! {
        #[test]
        fn never_panics(text in "(\\PC|\n|\t){0,200}") {
            parse(&text, Path::new("d"), &mut Problems::default());
        }
    }
}
