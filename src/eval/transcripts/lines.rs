//! The formats that have an utterance a line.

use super::{Place, Segment, StmLine};

/// The line's number is the id. Empty lines are empty texts.
pub(super) fn txt(text: &str) -> Vec<Segment> {
    let segment = |(number, line): (usize, &str)| Segment {
        id: number.to_string(),
        text: line.trim().to_string(),
        ..Segment::default()
    };
    (1..).zip(text.lines()).map(segment).collect()
}

/// `TEXT (ID)`; lines that begin with `;;` are comments.
pub(super) fn trn(text: &str) -> Result<Vec<Segment>, String> {
    let mut segments = Vec::new();
    for (number, line) in utterances(text) {
        let inner = line.strip_suffix(')').and_then(|line| line.rsplit_once('('));
        let Some((text, id)) = inner.filter(|(_, id)| !id.trim().is_empty()) else {
            return Err(format!("line {number} does not end with an id in parentheses: {line}"));
        };
        let id = id.trim();
        segments.push(Segment {
            id: id.to_string(),
            text: text.trim().to_string(),
            speaker: id.split_once(['-', '_']).map(|(speaker, _)| speaker.to_string()),
            place: None,
        });
    }
    Ok(segments)
}

/// `ID<TAB>TEXT`. Of an id that is a path, the extension is left out.
pub(super) fn tsv(text: &str) -> Result<Vec<Segment>, String> {
    let mut segments = Vec::new();
    for (number, line) in utterances(text) {
        let (id, text) = line
            .split_once('\t')
            .map_or_else(|| (line, None), |(id, text)| (id, Some(text)));
        let Some(text) = text.filter(|_| !id.trim().is_empty()) else {
            return Err(format!("line {number} is not `ID<TAB>TEXT`: {line}"));
        };
        let (text, speaker) = text.split_once('\t').unwrap_or((text, ""));
        segments.push(Segment {
            id: super::json::without_audio_extension(id.trim()).to_string(),
            text: text.trim().to_string(),
            speaker: Some(speaker.trim().to_string()).filter(|name| !name.is_empty()),
            place: None,
        });
    }
    Ok(segments)
}

pub(super) fn stm(text: &str) -> Result<Vec<Segment>, String> {
    let mut segments = Vec::new();
    for (number, line) in utterances(text) {
        let Some(line) = StmLine::parse(line).map_err(|error| format!("line {number}: {error}"))? else {
            continue;
        };
        segments.push(Segment {
            id: format!("{}-{}-{}", line.file, line.written.0, line.written.1),
            text: line.text,
            speaker: Some(line.speaker.to_string()),
            place: Some(Place {
                recording: line.file.to_string(),
                channel: line.channel.to_string(),
                start: line.start,
                end: line.end,
            }),
        });
    }
    Ok(segments)
}

/// The lines that are neither empty nor comments, with their numbers. A tab at the end stays, for an empty text.
fn utterances(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = (1..).zip(text.lines());
    lines
        .map(|(number, line)| (number, line.trim_matches([' ', '\r'])))
        .filter(|(_, line)| !line.is_empty() && !line.starts_with(";;"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lines_ids_and_speakers() {
        assert_eq!(txt("a b\n\nc\n").len(), 3);
        let segments = trn(";; comment\nyes (or no) (anna-1)\n (bob_2)\n").unwrap();
        assert_eq!(segments[0].text, "yes (or no)");
        assert_eq!(segments[0].speaker.as_deref(), Some("anna"));
        assert_eq!((segments[1].id.as_str(), segments[1].text.as_str()), ("bob_2", ""));
        assert!(trn("a b\n").unwrap_err().contains("line 1"));
        let segments = tsv("x/a.wav\thello\tanna\nb\t\n").unwrap();
        assert_eq!(
            (segments[0].id.as_str(), segments[0].speaker.as_deref()),
            ("x/a", Some("anna"))
        );
        assert_eq!((segments[1].id.as_str(), segments[1].text.as_str()), ("b", ""));
        assert!(tsv("a b\n").unwrap_err().contains("line 1"));
        assert!(stm("f 1 s 0 x text").unwrap_err().contains("line 1"));
    }

    proptest! {
        #[test]
        fn never_panics(text in "(\\PC|\n|\t|\\(|\\)){0,200}") {
            txt(&text);
            let _ = trn(&text);
            let _ = tsv(&text);
            let _ = stm(&text);
        }
    }
}
