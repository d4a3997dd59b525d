//! NIST's conversation time marks: `RECORDING CHANNEL BEGIN DURATION WORD [CONFIDENCE]`.

use super::{Place, Segment};

/// Every word is a segment of its own; what they are parts of, the reference says.
pub(super) fn words(text: &str) -> Result<Vec<Segment>, String> {
    let mut segments = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let fields: Vec<&str> = line.split_whitespace().collect();
        if fields.first().is_none_or(|first| first.starts_with(";;")) {
            continue;
        }
        if fields.iter().any(|field| field.starts_with("<ALT")) {
            return Err(format!("line {number}: alternatives (<ALT_BEGIN>) are not supported"));
        }
        let &[recording, channel, begin, duration, word, ..] = fields.as_slice() else {
            return Err(format!(
                "line {number} is not `RECORDING CHANNEL BEGIN DURATION WORD`: {line}"
            ));
        };
        let seconds = |field: &str| match field.parse::<f64>() {
            Ok(seconds) if seconds.is_finite() && seconds >= 0.0 => Ok(seconds),
            _ => Err(format!("line {number}: `{field}` is no number of seconds")),
        };
        let start = seconds(begin)?;
        segments.push(Segment {
            id: number.to_string(),
            text: word.to_string(),
            speaker: None,
            place: Some(Place {
                recording: recording.to_string(),
                channel: channel.to_string(),
                start,
                end: start + seconds(duration)?,
            }),
        });
    }
    Ok(segments)
}

/// Puts words into the segments of an STM, as sclite does: a word belongs to the first segment of its recording and
/// channel that ends after the word's middle, and to the last where none does. Returns the segments' texts in their
/// order, and the recordings that no segment is of.
pub(super) fn into_segments(words: &[Segment], segments: &[Segment]) -> (Vec<String>, Vec<String>) {
    let place = |segment: &Segment| segment.place.clone();
    let mut order: Vec<(usize, Place)> = (0..).zip(segments.iter().filter_map(place)).collect();
    order.sort_by(|(_, a), (_, b)| a.end.total_cmp(&b.end));
    let mut timed: Vec<(&str, Place)> = words
        .iter()
        .filter_map(|word| Some((word.text.as_str(), place(word)?)))
        .collect();
    timed.sort_by(|(_, a), (_, b)| a.start.total_cmp(&b.start));
    let (mut texts, mut strangers) = (vec![String::new(); segments.len()], Vec::new());
    for (word, place) in timed {
        let middle = (place.start + place.end) / 2.0;
        let same = |(_, segment): &&(usize, Place)| {
            segment.recording == place.recording && segment.channel.eq_ignore_ascii_case(&place.channel)
        };
        let mut of_recording = order.iter().filter(same);
        let last = of_recording.clone().next_back();
        match of_recording.find(|(_, segment)| segment.end > middle).or(last) {
            Some((index, _)) => {
                let text = &mut texts[*index];
                if !text.is_empty() {
                    text.push(' ');
                }
                text.push_str(word);
            }
            None => {
                let stranger = format!("{} (channel {})", place.recording, place.channel);
                if !strangers.contains(&stranger) {
                    strangers.push(stranger);
                }
            }
        }
    }
    (texts, strangers)
}

/// One text a recording, in the order of the words' times; the id is the recording's name.
pub(super) fn by_recording(words: &[Segment]) -> Vec<Segment> {
    let mut segments: Vec<Segment> = Vec::new();
    let mut timed: Vec<(&str, &Place)> = words
        .iter()
        .filter_map(|word| Some((word.text.as_str(), word.place.as_ref()?)))
        .collect();
    timed.sort_by(|(_, a), (_, b)| a.recording.cmp(&b.recording).then(a.start.total_cmp(&b.start)));
    for (word, place) in timed {
        match segments.last_mut().filter(|segment| segment.id == place.recording) {
            Some(segment) => segment.text = format!("{} {word}", segment.text),
            None => segments.push(Segment {
                id: place.recording.clone(),
                text: word.to_string(),
                ..Segment::default()
            }),
        }
    }
    segments
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::transcripts::lines::stm;
    use proptest::prelude::*;

    #[test]
    fn words_go_where_sclite_puts_them() {
        let segments = stm("f 1 s 0.0 2.0 <o,f0,male> a b c\nf 1 s 3.0 5.0 <o,f0,male> d e f\n").unwrap();
        let heard = words(
            ";; aurist\nf 1 0.1 0.2 a 0.9\nf 1 0.5 0.2 b\nf 1 1.8 0.5 c\nf 1 2.4 0.2 gap\nf 1 3.1 0.1 d\n\
             f 1 5.5 0.1 late\ng 1 0 1 other\n",
        )
        .unwrap();
        let (texts, strangers) = into_segments(&heard, &segments);
        assert_eq!(texts, ["a b", "c gap d late"]);
        assert_eq!(strangers, ["g (channel 1)"]);
        let by_recording = by_recording(&heard);
        assert_eq!(by_recording[0].text, "a b c gap d late");
        assert_eq!(by_recording[1].id, "g");
        assert!(words("f 1 0.1 x a").unwrap_err().contains("line 1"));
        assert!(words("f 1 0.1").unwrap_err().contains("line 1"));
    }

    proptest! {
        #[test]
        fn never_panics(text in "(\\PC|\n| |;){0,200}", line in "[a-z] 1 [0-9.e]{1,4} [0-9.e]{1,4} w") {
            let _ = words(&text);
            let _ = words(&line).map(|words| by_recording(&words));
        }
    }
}
