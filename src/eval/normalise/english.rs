//! OpenAI's English normaliser: `EnglishTextNormalizer` of the Python package `openai-whisper`, rule by rule and in
//! its order, for the later rules see what the earlier ones wrote.

use super::basic::{drop_bracketed, is_mark_or_symbol};
use super::numbers;
use super::python::{collapse_spaces, is_space, replace_word, words};
use regex::{Captures, Regex};
use std::collections::HashMap;
use std::sync::LazyLock;
use unicode_normalization::UnicodeNormalization;
use unicode_properties::{GeneralCategory, UnicodeGeneralCategory};

const FILLERS: [&str; 6] = ["hmm", "mm", "mhm", "mmm", "uh", "um"];

/// Whole words and what is written instead. A title's space doubles; runs of spaces are collapsed at the end.
const WHOLE_WORDS: [(&str, &str); 35] = [
    ("won't", "will not"),
    ("can't", "can not"),
    ("let's", "let us"),
    ("ain't", "aint"),
    ("y'all", "you all"),
    ("wanna", "want to"),
    ("gotta", "got to"),
    ("gonna", "going to"),
    ("i'ma", "i am going to"),
    ("imma", "i am going to"),
    ("woulda", "would have"),
    ("coulda", "could have"),
    ("shoulda", "should have"),
    ("ma'am", "madam"),
    ("mr", "mister "),
    ("mrs", "missus "),
    ("st", "saint "),
    ("dr", "doctor "),
    ("prof", "professor "),
    ("capt", "captain "),
    ("gov", "governor "),
    ("ald", "alderman "),
    ("gen", "general "),
    ("sen", "senator "),
    ("rep", "representative "),
    ("pres", "president "),
    ("rev", "reverend "),
    ("hon", "honorable "),
    ("asst", "assistant "),
    ("assoc", "associate "),
    ("lt", "lieutenant "),
    ("col", "colonel "),
    ("jr", "junior "),
    ("sr", "senior "),
    ("esq", "esquire "),
];

/// Words that the PyPI package `whisper-normalizer` replaces and OpenAI's own code does not.
const WHISPER_NORMALIZER_WORDS: [(&str, &str); 4] = [
    ("kinda", "kind of"),
    ("sorta", "sort of"),
    ("dunno", "do not know"),
    ("cause", "because"),
];

/// Ends of words, after the whole words; the longer before the shorter that end them.
const ENDINGS: [(&str, &str); 14] = [
    ("'d been", " had been"),
    ("'s been", " has been"),
    ("'d gone", " had gone"),
    ("'s gone", " has gone"),
    ("'d done", " had done"),
    ("'s got", " has got"),
    ("n't", " not"),
    ("'re", " are"),
    ("'s", " is"),
    ("'d", " would"),
    ("'ll", " will"),
    ("'t", " not"),
    ("'ve", " have"),
    ("'m", " am"),
];

/// Symbols that numbers may keep.
const NUMERIC_SYMBOLS: &str = ".%$\u{a2}\u{20ac}\u{a3}";

/// British spellings and their American ones; `ORIGIN.md` says whence.
static SPELLINGS: LazyLock<HashMap<String, String>> = LazyLock::new(|| {
    serde_json::from_str(include_str!("english_spelling.json")).expect("the committed table is an object of strings")
});

struct Patterns {
    digits_with_comma: Regex,
    full_stop: Regex,
    symbol_before_no_digit: Regex,
    percent_after_no_digit: Regex,
}

static PATTERNS: LazyLock<Patterns> = LazyLock::new(|| {
    let pattern = |pattern| Regex::new(pattern).expect("a valid pattern");
    Patterns {
        digits_with_comma: pattern(r"(\d),(\d)"),
        full_stop: pattern(r"\.([^0-9]|$)"),
        symbol_before_no_digit: pattern(r"[.$\x{a2}\x{20ac}\x{a3}]([^0-9])"),
        percent_after_no_digit: pattern(r"([^0-9])%"),
    }
});

/// `EnglishTextNormalizer` of `openai-whisper`.
pub(super) fn normalise(text: &str) -> String {
    normalise_with(text, &[])
}

/// `EnglishTextNormalizer` of `whisper-normalizer`.
pub(super) fn normalise_as_whisper_normalizer(text: &str) -> String {
    normalise_with(text, &WHISPER_NORMALIZER_WORDS)
}

fn normalise_with(text: &str, more_words: &[(&str, &str)]) -> String {
    let patterns = &*PATTERNS;
    let mut text = drop_bracketed(&text.to_lowercase());
    for filler in FILLERS {
        text = replace_word(&text, filler, true, "");
    }
    text = close_up_apostrophes(&text);
    for (pattern, replacement) in more_words.iter().chain(&WHOLE_WORDS) {
        text = replace_word(&text, pattern, true, replacement);
    }
    for (pattern, replacement) in ENDINGS {
        text = replace_word(&text, pattern, false, replacement);
    }
    let text = patterns
        .digits_with_comma
        .replace_all(&text, |found: &Captures<'_>| format!("{}{}", &found[1], &found[2]));
    let text = patterns
        .full_stop
        .replace_all(&text, |found: &Captures<'_>| format!(" {}", &found[1]));
    let text = numbers::normalise(&plain_letters(&text));
    let spelt: Vec<&str> = words(&text)
        .map(|word| SPELLINGS.get(word).map_or(word, String::as_str))
        .collect();
    let text = spelt.join(" ");
    let text = patterns
        .symbol_before_no_digit
        .replace_all(&text, |found: &Captures<'_>| format!(" {}", &found[1]));
    let text = patterns
        .percent_after_no_digit
        .replace_all(&text, |found: &Captures<'_>| format!("{} ", &found[1]));
    collapse_spaces(&text)
}

/// White space before an apostrophe goes.
fn close_up_apostrophes(text: &str) -> String {
    let mut closed = String::with_capacity(text.len());
    for c in text.chars() {
        if c == '\'' {
            closed.truncate(closed.trim_end_matches(is_space).len());
        }
        closed.push(c);
    }
    closed
}

/// Compatibility forms and diacritics reduced to plain letters; other symbols become spaces, but for the numeric ones.
fn plain_letters(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for c in text.nfkd() {
        match c {
            c if NUMERIC_SYMBOLS.contains(c) => plain.push(c),
            // Letters that do not decompose. The text is in lower case, but for what a compatibility form brings back.
            '\u{153}' => plain.push_str("oe"),
            '\u{152}' => plain.push_str("OE"),
            '\u{f8}' => plain.push('o'),
            '\u{d8}' => plain.push('O'),
            '\u{e6}' => plain.push_str("ae"),
            '\u{c6}' => plain.push_str("AE"),
            '\u{df}' => plain.push_str("ss"),
            '\u{1e9e}' => plain.push_str("SS"),
            '\u{111}' | '\u{f0}' => plain.push('d'),
            '\u{110}' | '\u{d0}' => plain.push('D'),
            '\u{fe}' | '\u{de}' => plain.push_str("th"),
            '\u{142}' => plain.push('l'),
            '\u{141}' => plain.push('L'),
            c if c.general_category() == GeneralCategory::NonspacingMark => {}
            c if is_mark_or_symbol(c) => plain.push(' '),
            c => plain.push(c),
        }
    }
    plain
}
