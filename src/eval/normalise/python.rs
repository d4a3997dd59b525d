//! Character classes as Python's `re` and `str` define them; they differ from Unicode's recommendations, which Rust
//! follows, at the edges.

use unicode_properties::{GeneralCategory, GeneralCategoryGroup, UnicodeGeneralCategory};

/// `\s` and `str.isspace`: Unicode's white space, and the four separators among the control characters.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// `\w`: letters, numbers of every kind and the underscore; no combining marks.
pub(super) fn is_word(c: char) -> bool {
    let letter_or_number = matches!(
        c.general_category_group(),
        GeneralCategoryGroup::Letter | GeneralCategoryGroup::Number
    );
    c == '_' || letter_or_number
}

/// `\d`: decimal digits of any script.
pub(super) fn is_digit(c: char) -> bool {
    c.general_category() == GeneralCategory::DecimalNumber
}

/// The value of a decimal digit of any script. Unicode lays them out as runs from zero to nine.
pub(super) fn digit_value(c: char) -> u32 {
    if let Some(value) = c.to_digit(10) {
        return value;
    }
    let below = (0..c as u32).rev().map_while(char::from_u32);
    below.take_while(|c| is_digit(*c)).count() as u32 % 10
}

/// `str.split()`.
pub(super) fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(is_space).filter(|word| !word.is_empty())
}

/// `re.sub(r"\s+", " ", text)`: also at the ends.
pub(super) fn collapse_spaces(text: &str) -> String {
    let mut collapsed = String::with_capacity(text.len());
    for c in text.chars() {
        match is_space(c) {
            false => collapsed.push(c),
            true if collapsed.ends_with(' ') => {}
            true => collapsed.push(' '),
        }
    }
    collapsed
}

/// `re.sub` of the literal `pattern` where it ends at the end of a word, and, with `whole`, begins at a word's
/// beginning: `\bPATTERN\b` or `PATTERN\b`. The pattern's last character is a word character, and so is its first
/// with `whole`.
pub(super) fn replace_word(text: &str, pattern: &str, whole: bool, replacement: &str) -> String {
    let (mut replaced, mut done, mut from) = (String::with_capacity(text.len()), 0, 0);
    while let Some(found) = text[from..].find(pattern) {
        let (start, end) = (from + found, from + found + pattern.len());
        let begins = !whole || !text[..start].chars().next_back().is_some_and(is_word);
        if begins && !text[end..].chars().next().is_some_and(is_word) {
            replaced.push_str(&text[done..start]);
            replaced.push_str(replacement);
            (done, from) = (end, end);
        } else {
            from = start + pattern.chars().next().map_or(1, char::len_utf8);
        }
    }
    replaced.push_str(&text[done..]);
    replaced
}
