//! NIST's segment time marks: `FILE CHANNEL SPEAKER BEGIN END [<LABELS>] TEXT`, the segments of long recordings.

use super::TestUtterance;
use super::problems::{Problems, read_text};
use std::path::{Path, PathBuf};
use walkdir::WalkDir;

/// A speaker whose segments are silence (TED-LIUM), and a text that says not to score (NIST).
const GAP: &str = "inter_segment_gap";
const IGNORED: &str = "ignore_time_segment_in_scoring";
/// What can be decoded, then NIST SPHERE, which cannot, to say so.
const EXTENSIONS: [&str; 6] = ["wav", "flac", "mp3", "ogg", "m4a", "sph"];

/// One line.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct StmLine<'a> {
    pub(crate) file: &'a str,
    pub(crate) channel: &'a str,
    pub(crate) speaker: &'a str,
    pub(crate) start: f64,
    pub(crate) end: f64,
    /// The two as written, for ids.
    pub(crate) written: (&'a str, &'a str),
    pub(crate) text: String,
}

impl<'a> StmLine<'a> {
    /// `Ok(None)` for an empty line, a comment (`;;`) and a segment that is not to be scored.
    pub(crate) fn parse(line: &'a str) -> Result<Option<Self>, String> {
        let mut words = line.split_whitespace();
        let Some(file) = words.next().filter(|word| !word.starts_with(";;")) else {
            return Ok(None);
        };
        let mut field = |name: &str| words.next().ok_or_else(|| format!("no {name}"));
        let (channel, speaker) = (field("channel")?, field("speaker")?);
        let written = (field("begin")?, field("end")?);
        let (start, end) = (seconds(written.0)?, seconds(written.1)?);
        let mut words = words.peekable();
        // The labels are one word in angle brackets with commas between; `<unk>` is a word of the text.
        words.next_if(|word| word.starts_with('<') && word.ends_with('>') && word.contains(','));
        let text = words.collect::<Vec<_>>().join(" ");
        if speaker == GAP || text.eq_ignore_ascii_case(IGNORED) {
            return Ok(None);
        }
        Ok(Some(Self {
            file,
            channel,
            speaker,
            start,
            end,
            written,
            text,
        }))
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|seconds: &f64| seconds.is_finite() && *seconds >= 0.0)
        .ok_or_else(|| format!("`{text}` is no number of seconds"))
}

/// `path` is a file or a directory with `.stm` files in it.
pub(super) fn read(path: &Path, problems: &mut Problems) -> Vec<TestUtterance> {
    let mut utterances = Vec::new();
    for entry in WalkDir::new(path).sort_by_file_name() {
        match entry {
            Ok(entry) if entry.file_type().is_dir() => {}
            Ok(entry) if entry.depth() == 0 || entry.path().extension().is_some_and(|e| e == "stm") => {
                let text = read_text(entry.path(), problems).unwrap_or_default();
                utterances.extend(parse(&text, entry.path(), problems));
            }
            Ok(_) => {}
            Err(error) => problems.error("unreadable directory", error),
        }
    }
    utterances
}

fn parse(text: &str, stm: &Path, problems: &mut Problems) -> Vec<TestUtterance> {
    let mut utterances = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = match StmLine::parse(line) {
            Ok(None) => continue,
            Ok(Some(line)) => line,
            Err(error) => {
                problems.error(
                    "bad STM line",
                    format_args!("{}, line {number}: {error}", stm.display()),
                );
                continue;
            }
        };
        let audio = find_recording(stm.parent().unwrap_or(Path::new("")), line.file);
        if audio.extension().is_some_and(|extension| extension == "sph") && audio.is_file() {
            problems.error(
                "NIST SPHERE audio, which is not read (`sox IN.sph OUT.wav` converts it)",
                audio.display(),
            );
        }
        if line.text.contains('{') {
            let id = line.file;
            problems.warning(
                "alternatives `{ a / b }`, whose words all count",
                format_args!("{id}, line {number}"),
            );
        }
        utterances.push(TestUtterance {
            id: format!("{}-{}-{}", line.file, line.written.0, line.written.1),
            audio,
            start: Some(line.start),
            end: Some(line.end),
            reference: line.text,
            speaker: Some(line.speaker.to_string()),
            duration: Some(line.end - line.start),
        });
    }
    utterances
}

/// The recording beside the STM file, or in `wav/`, `flac/` or `sph/` beside its directory.
fn find_recording(directory: &Path, file: &str) -> PathBuf {
    let parent = directory.parent().unwrap_or(directory);
    let directories = [
        directory.to_path_buf(),
        parent.join("wav"),
        parent.join("flac"),
        parent.join("sph"),
    ];
    for candidate in &directories {
        let audio = super::find_audio(candidate, file, &EXTENSIONS);
        if audio.is_file() {
            return audio;
        }
    }
    super::find_audio(directory, file, &EXTENSIONS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn labels_gaps_and_comments() {
        let text = ";; comment\n\
            talk 1 anna 15.86 20.50 <o,f0,female> it 's <unk> here\n\
            talk 1 inter_segment_gap 0 15.86 <o,,unknown>\n\
            talk 1 anna 20.50 21 ignore_time_segment_in_scoring\n\
            talk 1 anna 21 22 <unk> yes\n\
            talk 1 anna x 22 no\ntalk 1\n";
        let mut problems = Problems::default();
        let set = parse(text, Path::new("d/talk.stm"), &mut problems);
        assert_eq!(set.len(), 2);
        assert_eq!(
            (set[0].id.as_str(), set[0].reference.as_str()),
            ("talk-15.86-20.50", "it 's <unk> here")
        );
        assert_eq!(
            (set[0].start, set[0].end, set[0].speaker.as_deref()),
            (Some(15.86), Some(20.5), Some("anna"))
        );
        assert_eq!(set[1].reference, "<unk> yes");
        let told = problems.finish(Path::new("d"), false).unwrap_err().to_string();
        assert!(told.contains("line 6: `x` is no number of seconds"), "{told}");
        assert!(told.contains("line 7: no speaker"), "{told}");
    }

    proptest! {
        #[test]
        fn never_panics(text in "(\\PC|\n| |<|,|;){0,200}", line in "[a-z]( [a-z0-9.<>,{}]{1,5}){0,8}") {
            let mut problems = Problems::default();
            parse(&text, Path::new("d/x.stm"), &mut problems);
            parse(&line, Path::new("d/x.stm"), &mut problems);
        }
    }
}
