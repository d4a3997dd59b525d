//! Subtitle cues of readable size from words with times.

use super::{milliseconds, one_line, spoken};
use crate::{Transcript, Word};

/// Characters of one line, and lines of one cue, that can be read at a glance.
const LINE: usize = 42;
const LINES: usize = 2;
/// A cue stands no longer than this, in seconds.
const LONGEST: f64 = 7.0;
/// A pause in speech this long ends a cue, in seconds.
const PAUSE: f64 = 1.0;

/// One subtitle.
pub(super) struct Cue {
    /// Milliseconds.
    pub(super) start: u64,
    /// Milliseconds, later than `start`.
    pub(super) end: u64,
    /// At most [`LINES`] lines, unless a single word is longer than that.
    pub(super) lines: Vec<String>,
}

/// The transcript as cues: in order, not overlapping, each at least a millisecond long.
pub(super) fn cues(transcript: &Transcript) -> Vec<Cue> {
    let mut cues: Vec<Cue> = Vec::new();
    for utterance in spoken(transcript) {
        if utterance.words.is_empty() {
            let text = one_line(&utterance.text);
            let words: Vec<&str> = text.split_whitespace().collect();
            push(&mut cues, utterance.start, utterance.end, wrap(&words));
            continue;
        }
        let mut group: Vec<&Word> = Vec::new();
        for word in &utterance.words {
            let full = group.first().is_some_and(|first| {
                let texts: Vec<&str> = group
                    .iter()
                    .copied()
                    .chain([word])
                    .map(|word| word.word.as_str())
                    .collect();
                let gap = group.last().is_some_and(|last| word.start - last.end >= PAUSE);
                gap || word.end - first.start > LONGEST || wrap(&texts).len() > LINES
            });
            if full {
                close(&mut cues, &mut group);
            }
            group.push(word);
        }
        close(&mut cues, &mut group);
    }
    for index in 1..cues.len() {
        let next = cues[index].start;
        let cue = &mut cues[index - 1];
        cue.end = cue.end.min(next).max(cue.start + 1);
    }
    cues
}

fn close(cues: &mut Vec<Cue>, group: &mut Vec<&Word>) {
    if let (Some(first), Some(last)) = (group.first(), group.last()) {
        let texts: Vec<String> = group.iter().map(|word| one_line(&word.word)).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        push(cues, first.start, last.end, wrap(&texts));
    }
    group.clear();
}

fn push(cues: &mut Vec<Cue>, start: f64, end: f64, lines: Vec<String>) {
    let earliest = cues.last().map_or(0, |cue| cue.start + 1);
    let start = milliseconds(start).max(earliest);
    cues.push(Cue {
        start,
        end: milliseconds(end).max(start + 1),
        lines,
    });
}

/// Words into lines of at most [`LINE`] characters; a longer word has a line of its own.
fn wrap(words: &[&str]) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in words {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= LINE => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push((*word).into()),
        }
    }
    lines
}
