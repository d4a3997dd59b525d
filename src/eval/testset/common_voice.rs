//! Common Voice's tables. They have a header line and no quoting: a tab is always a separator, a quotation mark text.

use super::TestUtterance;
use super::jsonl::without_extension;
use super::problems::{Problems, read_text};
use std::path::Path;

/// `path` is the table, or a release's directory, whose `test.tsv` is then read.
pub(super) fn read(path: &Path, problems: &mut Problems) -> Vec<TestUtterance> {
    let table = if path.is_dir() {
        path.join("test.tsv")
    } else {
        path.to_path_buf()
    };
    let text = read_text(&table, problems).unwrap_or_default();
    let directory = table.parent().unwrap_or(Path::new(""));
    let clips = directory.join("clips");
    parse(&text, if clips.is_dir() { &clips } else { directory }, problems)
}

fn parse(text: &str, clips: &Path, problems: &mut Problems) -> Vec<TestUtterance> {
    let mut lines = (1..).zip(text.lines());
    let header: Vec<&str> = lines.next().map_or("", |(_, line)| line).split('\t').collect();
    let column = |name: &str| header.iter().position(|column| *column == name);
    let (Some(path), Some(sentence)) = (column("path"), column("sentence")) else {
        problems.error(
            "no header with the columns `path` and `sentence`",
            format_args!("line 1 has {}", header.join(", ")),
        );
        return Vec::new();
    };
    let speaker = column("client_id");
    let mut utterances = Vec::new();
    for (number, line) in lines.filter(|(_, line)| !line.trim().is_empty()) {
        let fields: Vec<&str> = line.split('\t').collect();
        let (Some(file), Some(reference)) = (fields.get(path), fields.get(sentence)) else {
            let (found, expected) = (fields.len(), header.len());
            problems.error(
                "line with too few columns",
                format_args!("line {number} ({found} of {expected})"),
            );
            continue;
        };
        let audio = match without_extension(file) == *file {
            true => clips.join(format!("{file}.mp3")),
            false => clips.join(file),
        };
        let speaker = speaker.and_then(|column| fields.get(column));
        utterances.push(TestUtterance {
            id: without_extension(file).to_string(),
            audio,
            reference: reference.trim().to_string(),
            speaker: speaker.filter(|name| !name.is_empty()).map(|name| name.to_string()),
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
    fn columns_are_found_by_name() {
        let text =
            "client_id\tpath\tsentence\tup_votes\nabc\tcv_1.mp3\t\"Hello,\" he said.\t2\n\ndef\tcv_2\tYes\t1\nx\n";
        let mut problems = Problems::default();
        let set = parse(text, Path::new("clips"), &mut problems);
        assert_eq!(set.len(), 2);
        assert_eq!(set[0].reference, "\"Hello,\" he said.");
        assert_eq!((set[0].id.as_str(), set[0].speaker.as_deref()), ("cv_1", Some("abc")));
        assert_eq!(set[1].audio, Path::new("clips/cv_2.mp3"));
        let told = problems.finish(Path::new("test.tsv"), false).unwrap_err().to_string();
        assert!(told.contains("line 5 (1 of 4)"), "{told}");
    }

    proptest! {
        #[test]
        fn never_panics(text in "(\\PC|\n|\t){0,200}") {
            let mut problems = Problems::default();
            parse(&text, Path::new("c"), &mut problems);
            parse(&format!("sentence\tpath\n{text}"), Path::new("c"), &mut problems);
        }
    }
}
