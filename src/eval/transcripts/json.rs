//! JSON: manifests with predictions, and aurist's own output.

use super::{Role, Segment};
use crate::eval::testset::without_extension;
use serde_json::{Map, Value};
use std::path::Path;

const IDS: [&str; 6] = ["id", "utt_id", "utterance_id", "audio_filepath", "file", "audio"];

/// Objects, one a line, or one value in all: an object or a list of objects.
pub(super) fn parse(text: &str, role: Role) -> Result<Vec<Segment>, String> {
    let objects: Vec<(usize, Value)> = match serde_json::from_str::<Value>(text) {
        Ok(Value::Array(values)) => (1..).zip(values).collect(),
        Ok(value) => vec![(1, value)],
        Err(_) => {
            let mut objects = Vec::new();
            for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
                let value = serde_json::from_str(line)
                    .map_err(|error| format!("line {number}, column {}: bad JSON: {error}", error.column()))?;
                objects.push((number, value));
            }
            objects
        }
    };
    let segment = |(number, value)| match value {
        Value::Object(object) => segment(&object, number, role),
        _ => Err(format!("entry {number} is no JSON object")),
    };
    objects.into_iter().map(segment).collect()
}

/// Every `*.json` and `*.jsonl` below the directory.
pub(super) fn read_directory(directory: &Path, role: Role) -> Result<Vec<Segment>, String> {
    let mut segments = Vec::new();
    for entry in walkdir::WalkDir::new(directory).sort_by_file_name() {
        let entry = entry.map_err(|error| error.to_string())?;
        let hidden = entry.file_name().to_string_lossy().starts_with('.');
        let json = entry
            .path()
            .extension()
            .is_some_and(|extension| extension == "json" || extension == "jsonl");
        if entry.file_type().is_file() && json && !hidden {
            let name = entry.path().display();
            let text = std::fs::read_to_string(entry.path()).map_err(|error| format!("{name}: {error}"))?;
            segments.extend(parse(&text, role).map_err(|error| format!("{name}: {error}"))?);
        }
    }
    match segments.is_empty() {
        true => Err("no *.json in this directory".into()),
        false => Ok(segments),
    }
}

fn segment(object: &Map<String, Value>, number: usize, role: Role) -> Result<Segment, String> {
    let field = |name: &&str| object.get(*name).and_then(Value::as_str);
    let texts: &[&str] = match role {
        Role::Reference => &["text", "reference", "sentence"],
        Role::Hypothesis => &["pred_text", "hypothesis", "prediction", "text"],
    };
    let Some(text) = texts.iter().find_map(field) else {
        return Err(format!("entry {number} has none of the fields {}", texts.join(", ")));
    };
    let as_text = |name: &str| match object.get(name)? {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    };
    let mut id = IDS
        .iter()
        .find_map(|name| as_text(name))
        .map_or_else(|| number.to_string(), |id| without_audio_extension(&id).to_string());
    // Segments of one recording are told apart as the test sets' reader does.
    if object.get("id").is_none()
        && let Some(offset) = object.get("offset").and_then(Value::as_f64)
    {
        id.push_str(&format!("@{offset}"));
    }
    Ok(Segment {
        id,
        text: text.to_string(),
        speaker: as_text("speaker").or_else(|| as_text("speaker_id")),
        place: None,
    })
}

/// A recording's name without `.wav` or the like; what else follows a point in an id is part of it.
pub(super) fn without_audio_extension(id: &str) -> &str {
    const AUDIO: [&str; 10] = ["wav", "flac", "mp3", "ogg", "opus", "m4a", "mp4", "aac", "sph", "webm"];
    let stem = without_extension(id);
    let extension = id.get(stem.len() + 1..).unwrap_or_default();
    if AUDIO.contains(&extension.to_lowercase().as_str()) {
        stem
    } else {
        id
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn manifests_and_our_own_output() {
        let lines = "{\"audio_filepath\": \"a/x.wav\", \"text\": \"ref\", \"pred_text\": \"hyp\", \"speaker\": 3}\n\n\
                     {\"id\": \"v1.2\", \"text\": \"both\", \"offset\": 1.5}\n";
        let texts = |role| {
            parse(lines, role)
                .unwrap()
                .into_iter()
                .map(|s| s.text)
                .collect::<Vec<_>>()
        };
        assert_eq!(texts(Role::Reference), ["ref", "both"]);
        assert_eq!(texts(Role::Hypothesis), ["hyp", "both"]);
        let segments = parse(lines, Role::Reference).unwrap();
        assert_eq!(
            (segments[0].id.as_str(), segments[0].speaker.as_deref()),
            ("a/x", Some("3"))
        );
        assert_eq!(segments[1].id, "v1.2");
        let pretty = "{\n  \"file\": \"clip.flac\",\n  \"text\": \"one two\"\n}\n";
        assert_eq!(parse(pretty, Role::Hypothesis).unwrap()[0].id, "clip");
        assert_eq!(
            parse("[{\"text\": \"a\"}, {\"text\": \"b\"}]", Role::Hypothesis).unwrap()[1].id,
            "2"
        );
        assert!(parse("{\"text\": 1}", Role::Reference).unwrap_err().contains("entry 1"));
        assert!(
            parse("{\"text\": \"a\"}\n{oops}", Role::Reference)
                .unwrap_err()
                .contains("line 2, column 2")
        );
    }

    proptest! {
        #[test]
        fn never_panics(text in "(\\PC|\n|\\{|\\}|\"){0,200}", id in "\\PC{0,20}") {
            let _ = parse(&text, Role::Hypothesis);
            without_audio_extension(&id);
        }
    }
}
