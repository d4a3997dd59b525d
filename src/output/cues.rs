//! Subtitle cues: an utterance's words in pieces a viewer can read.

use super::one_line;
use super::time::milliseconds;
use crate::{Transcript, Utterance};

/// The length of a subtitle line that broadcasters' style guides agree on, in characters.
const LINE_CHARS: usize = 42;
/// The longest a cue stays, in milliseconds.
const CUE_MS: u64 = 7000;
/// A cue stays at least this long where the next one allows it.
const SHORTEST_MS: u64 = 1000;
/// A pause this long between two words ends a cue.
const PAUSE_MS: u64 = 1000;

/// A piece of text with its time.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Token {
    pub(super) text: String,
    pub(super) start: u64,
    pub(super) end: u64,
    /// `None` where the time was interpolated, so nothing is known of the word by itself.
    pub(super) confidence: Option<f32>,
}

/// One or two lines shown from `start` to `end` milliseconds.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Cue {
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) lines: Vec<String>,
}

/// The utterance's words with their times. Where the words and the text disagree (or there are no words), the
/// text counts, and its words share the utterance's time by their length.
pub(super) fn tokens(utterance: &Utterance) -> Vec<Token> {
    let words: Vec<Token> = utterance
        .words
        .iter()
        .map(|word| Token {
            text: one_line(&word.word),
            start: milliseconds(word.start),
            end: milliseconds(word.end),
            confidence: Some(word.confidence),
        })
        .filter(|token| !token.text.is_empty())
        .collect();
    let text = one_line(&utterance.text);
    let spelled: Vec<&str> = words.iter().map(|token| token.text.as_str()).collect();
    if spelled.join(" ") == text {
        return words;
    }
    share(&text, milliseconds(utterance.start), milliseconds(utterance.end))
}

fn share(text: &str, start: u64, end: u64) -> Vec<Token> {
    let span = end.saturating_sub(start) as u128;
    let total = text.chars().count() + 1;
    let at = |chars: usize| start + (span * chars as u128 / total as u128) as u64;
    let mut chars = 0;
    let mut tokens = Vec::new();
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        let next = chars + word.chars().count() + 1;
        tokens.push(Token {
            text: word.to_string(),
            start: at(chars),
            end: at(next),
            confidence: None,
        });
        chars = next;
    }
    tokens
}

/// The transcript's cues: in time order, none empty in time or text, none overlapping the next.
pub(super) fn cues(transcript: &Transcript) -> Vec<Cue> {
    let mut cues = Vec::new();
    for utterance in &transcript.utterances {
        // A cue never spans two utterances: what separates them is a silence.
        let mut current: Vec<Token> = Vec::new();
        for token in tokens(utterance).into_iter().flat_map(cut_overlong) {
            if current.last().is_some_and(|last| token.start >= last.end + PAUSE_MS)
                || current.first().is_some_and(|first| token.end > first.start + CUE_MS)
                || !fits(&current, &token)
            {
                cues.extend(cue(&current));
                current.clear();
            }
            current.push(token);
        }
        cues.extend(cue(&current));
    }
    settle(&mut cues);
    cues
}

/// A word longer than a line is cut: there is no better place to break it.
fn cut_overlong(token: Token) -> Vec<Token> {
    let chars: Vec<char> = token.text.chars().collect();
    if chars.len() <= LINE_CHARS {
        return vec![token];
    }
    let span = token.end.saturating_sub(token.start) as u128;
    let at = |i: usize| token.start + (span * i.min(chars.len()) as u128 / chars.len() as u128) as u64;
    let pieces = chars.chunks(LINE_CHARS).enumerate();
    pieces
        .map(|(i, piece)| Token {
            text: piece.iter().collect(),
            start: at(i * LINE_CHARS),
            end: at((i + 1) * LINE_CHARS),
            confidence: token.confidence,
        })
        .collect()
}

fn fits(current: &[Token], next: &Token) -> bool {
    let texts = current.iter().chain([next]).map(|token| token.text.as_str());
    wrap(texts, LINE_CHARS).len() <= 2
}

/// Greedy line breaking: the fewest lines of at most `width` characters.
fn wrap<'a>(words: impl Iterator<Item = &'a str>, width: usize) -> Vec<String> {
    let mut lines: Vec<(String, usize)> = Vec::new();
    for word in words {
        let chars = word.chars().count();
        match lines.last_mut() {
            Some((line, used)) if *used + 1 + chars <= width => {
                line.push(' ');
                line.push_str(word);
                *used += 1 + chars;
            }
            _ => lines.push((word.to_string(), chars)),
        }
    }
    lines.into_iter().map(|(line, _)| line).collect()
}

fn cue(tokens: &[Token]) -> Option<Cue> {
    let (first, last) = (tokens.first()?, tokens.last()?);
    let texts = || tokens.iter().map(|token| token.text.as_str());
    let mut lines = wrap(texts(), LINE_CHARS);
    if lines.len() == 2 {
        // Two lines of even length read better than a full one and a remnant.
        let total = lines[0].chars().count() + lines[1].chars().count();
        let even = (total / 2..LINE_CHARS)
            .map(|width| wrap(texts(), width))
            .find(|lines| lines.len() == 2);
        lines = even.unwrap_or(lines);
    }
    Some(Cue {
        start: first.start,
        end: last.end.min(first.start + CUE_MS),
        lines,
    })
}

/// Makes times strictly increasing whatever the words' times were, and lets short cues stay where there is room.
fn settle(cues: &mut [Cue]) {
    let mut free_from = 0;
    for i in 0..cues.len() {
        let next_start = cues.get(i + 1).map_or(u64::MAX, |next| next.start);
        let cue = &mut cues[i];
        cue.start = cue.start.max(free_from);
        let wanted = cue.end.max(cue.start + SHORTEST_MS);
        cue.end = wanted.min(next_start).max(cue.start + 1);
        free_from = cue.end;
    }
}
