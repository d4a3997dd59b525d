//! NeMo-style manifests.

use super::TestUtterance;
use super::problems::{Problems, read_text};
use serde_json::{Map, Value};
use std::path::Path;

pub(super) fn read(path: &Path, problems: &mut Problems) -> Vec<TestUtterance> {
    let text = read_text(path, problems).unwrap_or_default();
    parse(&text, path.parent().unwrap_or(Path::new("")), problems)
}

/// The manifest's text; `directory` is where its paths begin.
fn parse(text: &str, directory: &Path, problems: &mut Problems) -> Vec<TestUtterance> {
    let mut utterances = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        if line.trim().is_empty() {
            continue;
        }
        match serde_json::from_str::<Map<String, Value>>(line) {
            Ok(object) => utterances.extend(utterance(&object, number, directory, problems)),
            Err(error) => {
                let column = error.column();
                problems.error("bad JSON", format_args!("line {number}, column {column}: {error}"));
            }
        }
    }
    utterances
}

fn utterance(
    object: &Map<String, Value>,
    line: usize,
    directory: &Path,
    problems: &mut Problems,
) -> Option<TestUtterance> {
    let string = |names: &[&str]| names.iter().find_map(|name| object.get(*name)).and_then(Value::as_str);
    let audio = string(&["audio_filepath", "audio", "path"]);
    let reference = string(&["text", "sentence", "reference"]);
    if audio.is_none() {
        problems.error("line without an `audio_filepath`", format_args!("line {line}"));
    }
    if reference.is_none() {
        problems.error("line without a `text`", format_args!("line {line}"));
    }
    let mut seconds = |name: &str| match object.get(name) {
        None | Some(Value::Null) => None,
        Some(value) => {
            let seconds = value.as_f64().filter(|seconds| seconds.is_finite() && *seconds >= 0.0);
            if seconds.is_none() {
                problems.error(
                    "a time that is no number of seconds",
                    format_args!("line {line}: `{name}` is {value}"),
                );
            }
            seconds
        }
    };
    let (start, duration) = (seconds("offset"), seconds("duration"));
    let (audio, reference) = (audio?, reference?);
    let named = |name: &str| match object.get(name)? {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    };
    let id = named("id").unwrap_or_else(|| match start {
        Some(start) => format!("{}@{start}", without_extension(audio)),
        None => without_extension(audio).to_string(),
    });
    Some(TestUtterance {
        id,
        audio: directory.join(audio),
        start,
        end: start.zip(duration).map(|(start, duration)| start + duration),
        reference: reference.to_string(),
        speaker: named("speaker").or_else(|| named("speaker_id")),
        duration,
    })
}

/// The path as written, without its last component's extension.
pub(in crate::eval) fn without_extension(path: &str) -> &str {
    let begin = path.rfind(['/', '\\']).map_or(0, |slash| slash + 1);
    match path[begin..].rfind('.') {
        None | Some(0) => path,
        Some(dot) => &path[..begin + dot],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn offsets_speakers_and_ids() {
        let text = r#"{"audio_filepath": "a/b.c.wav", "text": "x y", "offset": 1.5, "duration": 2, "speaker": 7}

{"audio_filepath": "/abs.flac", "text": "", "id": "u1"}"#;
        let mut problems = Problems::default();
        let set = parse(text, Path::new("dir"), &mut problems);
        assert_eq!(problems.finish(Path::new("m"), false).unwrap(), Vec::<String>::new());
        assert_eq!(set[0].id, "a/b.c@1.5");
        assert_eq!(
            (set[0].start, set[0].end, set[0].duration),
            (Some(1.5), Some(3.5), Some(2.0))
        );
        assert_eq!(set[0].speaker.as_deref(), Some("7"));
        assert_eq!(set[0].audio, Path::new("dir/a/b.c.wav"));
        assert_eq!((set[1].id.as_str(), set[1].start), ("u1", None));
        assert_eq!(set[1].audio, Path::new("/abs.flac"));
    }

    #[test]
    fn every_bad_line_is_told_at_once() {
        let text = "{\"audio_filepath\": \"a.wav\"}\n{oops\n{\"text\": \"x\", \"duration\": \"long\"}\n[1]\n";
        let mut problems = Problems::default();
        assert!(parse(text, Path::new(""), &mut problems).is_empty());
        let told = problems.finish(Path::new("m.jsonl"), true).unwrap_err().to_string();
        for part in [
            "without a `text`: line 1",
            "bad JSON (2 times): line 2, column 2",
            "without an `audio_filepath`: line 3",
            "`duration` is \"long\"",
            "line 4",
        ] {
            assert!(told.contains(part), "{told}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in "(\\PC|\n){0,200}", field in "\\PC{0,20}", number in any::<f64>()) {
            let mut problems = Problems::default();
            parse(&text, Path::new("d"), &mut problems);
            let line = serde_json::json!({"audio_filepath": field, "text": field, "offset": number, "duration": number});
            let set = parse(&line.to_string(), Path::new("d"), &mut problems);
            prop_assert!(set.len() <= 1);
        }
    }
}
