//! Spelt-out numbers as digits, the way OpenAI's `EnglishNumberNormalizer` reads them, oddities included.
//!
//! It reads word by word, with the word before and the word after in view, and keeps the number read so far: a whole
//! number while arithmetic is possible (`two hundred` + `five`), a text once digits are strung together (`one oh one`,
//! `three point one four`).

use super::python::{digit_value, is_digit, is_space, is_word, words};
use num_bigint::BigUint;
use std::collections::HashMap;
use std::sync::LazyLock;

/// What a word means to the reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meaning {
    /// `o`, `oh`, `zero`.
    Zero,
    /// 1 to 19.
    One(u32),
    /// 0 to 19 with the ending kept in digits: `third`, `threes`.
    OneSuffixed(u32, &'static str),
    /// 20, 30, ... 90.
    Ten(u32),
    /// `twentieth`, `twenties`.
    TenSuffixed(u32, &'static str),
    /// A power of ten, by its exponent: `hundred` is 2.
    Multiplier(usize),
    /// `hundredth`, `hundreds`.
    MultiplierSuffixed(usize, &'static str),
    /// A sign, spoken before its number.
    Sign(char),
    /// A currency, spoken after its number.
    Currency(char),
    Per,
    Percent,
    And,
    /// `double`, `triple`: how often the next digit is written.
    Repeat(usize),
    Point,
}

const ONES: [&str; 19] = [
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
];
const TENS: [&str; 8] = [
    "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety",
];
const MULTIPLIERS: [(&str, usize); 12] = [
    ("hundred", 2),
    ("thousand", 3),
    ("million", 6),
    ("billion", 9),
    ("trillion", 12),
    ("quadrillion", 15),
    ("quintillion", 18),
    ("sextillion", 21),
    ("septillion", 24),
    ("octillion", 27),
    ("nonillion", 30),
    ("decillion", 33),
];
const OTHERS: [(&str, Meaning); 28] = [
    ("o", Meaning::Zero),
    ("oh", Meaning::Zero),
    ("zero", Meaning::Zero),
    ("zeroth", Meaning::OneSuffixed(0, "th")),
    ("first", Meaning::OneSuffixed(1, "st")),
    ("second", Meaning::OneSuffixed(2, "nd")),
    ("third", Meaning::OneSuffixed(3, "rd")),
    ("fifth", Meaning::OneSuffixed(5, "th")),
    ("twelfth", Meaning::OneSuffixed(12, "th")),
    ("minus", Meaning::Sign('-')),
    ("negative", Meaning::Sign('-')),
    ("plus", Meaning::Sign('+')),
    ("positive", Meaning::Sign('+')),
    ("pound", Meaning::Currency('\u{a3}')),
    ("pounds", Meaning::Currency('\u{a3}')),
    ("euro", Meaning::Currency('\u{20ac}')),
    ("euros", Meaning::Currency('\u{20ac}')),
    ("dollar", Meaning::Currency('$')),
    ("dollars", Meaning::Currency('$')),
    ("cent", Meaning::Currency('\u{a2}')),
    ("cents", Meaning::Currency('\u{a2}')),
    ("per", Meaning::Per),
    ("percent", Meaning::Percent),
    ("and", Meaning::And),
    ("double", Meaning::Repeat(2)),
    ("triple", Meaning::Repeat(3)),
    ("point", Meaning::Point),
    // Of the regular plurals, the one that takes an `e`.
    ("sixes", Meaning::OneSuffixed(6, "s")),
];

static MEANINGS: LazyLock<HashMap<String, Meaning>> = LazyLock::new(|| {
    let mut meanings: HashMap<String, Meaning> = OTHERS.map(|(word, meaning)| (word.to_string(), meaning)).into();
    for (value, word) in (1..).zip(ONES) {
        meanings.insert(word.to_string(), Meaning::One(value));
        if word != "six" {
            meanings.insert(format!("{word}s"), Meaning::OneSuffixed(value, "s"));
        }
        // `eighth` has one t; `ninth` is not among them, for `nineth` is what the rule makes.
        if value > 3 && value != 5 && value != 12 {
            let ending = if word.ends_with('t') { "h" } else { "th" };
            meanings.insert(format!("{word}{ending}"), Meaning::OneSuffixed(value, "th"));
        }
    }
    for (value, word) in (2..).zip(TENS) {
        let stem = word.trim_end_matches('y');
        meanings.insert(word.to_string(), Meaning::Ten(10 * value));
        meanings.insert(format!("{stem}ies"), Meaning::TenSuffixed(10 * value, "s"));
        meanings.insert(format!("{stem}ieth"), Meaning::TenSuffixed(10 * value, "th"));
    }
    for (word, exponent) in MULTIPLIERS {
        meanings.insert(word.to_string(), Meaning::Multiplier(exponent));
        meanings.insert(format!("{word}s"), Meaning::MultiplierSuffixed(exponent, "s"));
        meanings.insert(format!("{word}th"), Meaning::MultiplierSuffixed(exponent, "th"));
    }
    meanings
});

/// The text with its numbers in digits. The words come out separated by single spaces.
pub(super) fn normalise(text: &str) -> String {
    let text = separate_digits(&halves(text));
    let words: Vec<&str> = words(&text).collect();
    let mut reader = Reader::default();
    reader.read(&words);
    one_in_words(&lone_cents(&join_cents(&reader.written.join(" "))))
}

/// `<number> and a half` becomes `<number> point five`.
fn halves(text: &str) -> String {
    let segments = split_at_halves(text);
    let mut results: Vec<&str> = Vec::new();
    for (index, segment) in segments.iter().enumerate() {
        if words(segment).next().is_none() {
            continue;
        }
        results.push(segment);
        if index + 1 < segments.len() {
            let is_number = words(segment).last().is_some_and(|word| {
                matches!(
                    MEANINGS.get(word),
                    Some(Meaning::Zero | Meaning::One(_) | Meaning::Ten(_) | Meaning::Multiplier(_))
                )
            });
            results.push(if is_number { "point five" } else { "and a half" });
        }
    }
    results.join(" ")
}

/// The text around every `\band\s+a\s+half\b`.
fn split_at_halves(text: &str) -> Vec<&str> {
    let (mut segments, mut begin, mut from) = (Vec::new(), 0, 0);
    while let Some(found) = text[from..].find("and") {
        let start = from + found;
        from = start + 3;
        if text[..start].chars().next_back().is_some_and(is_word) {
            continue;
        }
        let end = after_spaces(&text[start + 3..])
            .and_then(|rest| after_spaces(rest.strip_prefix('a')?))
            .and_then(|rest| rest.strip_prefix("half"))
            .filter(|rest| !rest.chars().next().is_some_and(is_word))
            .map(|rest| text.len() - rest.len());
        if let Some(end) = end {
            segments.push(&text[begin..start]);
            (begin, from) = (end, end);
        }
    }
    segments.push(&text[begin..]);
    segments
}

/// What follows the white space that the text begins with, if it does.
fn after_spaces(text: &str) -> Option<&str> {
    text.starts_with(is_space).then(|| text.trim_start_matches(is_space))
}

/// A space where a letter and a digit meet, but none before a suffix: `9am` is `9 am`, `9 th` is `9th`.
fn separate_digits(text: &str) -> String {
    let mut spaced = String::with_capacity(text.len());
    let mut last = '\0';
    for c in text.chars() {
        if (last.is_ascii_lowercase() && c.is_ascii_digit()) || (last.is_ascii_digit() && c.is_ascii_lowercase()) {
            spaced.push(' ');
        }
        spaced.push(c);
        last = c;
    }
    let mut closed = String::with_capacity(spaced.len());
    let mut rest = spaced.as_str();
    while let Some(c) = rest.chars().next() {
        closed.push(c);
        rest = &rest[c.len_utf8()..];
        if c.is_ascii_digit()
            && let Some(after) = after_spaces(rest)
            && ["st", "nd", "rd", "th", "s"].iter().any(|suffix| {
                after
                    .strip_prefix(suffix)
                    .is_some_and(|tail| !tail.chars().next().is_some_and(is_word))
            })
        {
            rest = after;
        }
    }
    closed
}

/// The number read so far.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Value {
    Whole(BigUint),
    /// Digits strung together; perhaps with points.
    Text(String),
}

impl Value {
    fn text(&self) -> String {
        match self {
            Value::Whole(number) => number.to_string(),
            Value::Text(text) => text.clone(),
        }
    }

    /// The value times a power of ten where that is a whole number.
    fn times_power(&self, exponent: usize) -> Option<BigUint> {
        let text = match self {
            Value::Whole(number) => return Some(number * power_of_ten(exponent)),
            Value::Text(text) => text,
        };
        let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
        let digits = |text: &str| text.chars().all(is_digit);
        if (whole.is_empty() && decimals.is_empty()) || !digits(whole) || !digits(decimals) {
            return None;
        }
        let decimals = decimals.trim_end_matches(|c| digit_value(c) == 0);
        let missing = exponent.checked_sub(decimals.chars().count())?;
        Some(parse(&format!("{whole}{decimals}")) * power_of_ten(missing))
    }
}

fn power_of_ten(exponent: usize) -> BigUint {
    BigUint::from(10u32).pow(exponent as u32)
}

/// Decimal digits of any script as a number; none are 0.
fn parse(digits: &str) -> BigUint {
    let values: Vec<u8> = digits.chars().map(|c| digit_value(c) as u8).collect();
    BigUint::from_radix_be(&values, 10).unwrap_or_default()
}

/// `\d+(\.\d+)?`.
fn is_arabic(word: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.chars().all(is_digit);
    match word.split_once('.') {
        None => digits(word),
        Some((whole, decimals)) => digits(whole) && digits(decimals),
    }
}

/// Reads words, writes words.
#[derive(Debug, Default)]
struct Reader {
    written: Vec<String>,
    value: Option<Value>,
    prefix: Option<char>,
}

impl Reader {
    fn read(&mut self, words: &[&str]) {
        let meaning = |word: Option<&&str>| word.and_then(|word| MEANINGS.get(*word)).copied();
        let mut index = 0;
        while let Some(&word) = words.get(index) {
            let previous = index.checked_sub(1).and_then(|before| meaning(words.get(before)));
            let next = words.get(index + 1);
            let next_meaning = meaning(next);
            let number_follows = next_meaning.is_some() || next.is_some_and(|word| is_arabic(word));
            let consumed = match meaning(Some(&word)) {
                None => self.arabic_or_word(word),
                Some(Meaning::Zero) => self.zero(),
                Some(Meaning::One(value)) => self.one(value, previous),
                Some(Meaning::OneSuffixed(value, suffix)) => {
                    self.one(value, previous);
                    self.finish_with(suffix)
                }
                Some(Meaning::Ten(value)) => self.ten(value),
                Some(Meaning::TenSuffixed(value, suffix)) => {
                    // Unlike after the other suffixed words the value is not put down in so many words, but writing
                    // it clears it all the same.
                    self.ten(value);
                    self.finish_with(suffix)
                }
                Some(Meaning::Multiplier(exponent)) => self.multiply(exponent),
                Some(Meaning::MultiplierSuffixed(exponent, suffix)) => self.multiply_suffixed(exponent, suffix),
                Some(Meaning::Sign(sign)) => self.sign(word, sign, number_follows),
                Some(Meaning::Currency(symbol)) => self.currency(word, symbol),
                Some(Meaning::Per) => self.percent(word, next.is_some_and(|next| *next == "cent"), 2),
                Some(Meaning::Percent) => self.percent(word, true, 1),
                // The rest are special only where a number may follow.
                Some(_) if !number_follows => self.plain(word),
                Some(Meaning::And) => match previous {
                    Some(Meaning::Multiplier(_)) => 1,
                    _ => self.plain(word),
                },
                Some(Meaning::Repeat(times)) => match next_meaning {
                    Some(Meaning::One(digit)) => self.repeat(digit, times),
                    Some(Meaning::Zero) => self.repeat(0, times),
                    _ => self.plain(word),
                },
                Some(Meaning::Point) => {
                    let decimals = matches!(next_meaning, Some(Meaning::One(_) | Meaning::Ten(_) | Meaning::Zero));
                    if decimals || next.is_some_and(|word| is_arabic(word)) {
                        self.append(".");
                    }
                    1
                }
            };
            index += consumed;
        }
        self.flush();
    }

    /// Writes a result, with the sign or currency that waits for one.
    fn write(&mut self, result: &str) {
        let prefix = self.prefix.take().map(String::from).unwrap_or_default();
        self.written.push(prefix + result);
        self.value = None;
    }

    /// Writes the value, if there is one.
    fn flush(&mut self) {
        if let Some(value) = &self.value {
            let text = value.text();
            self.write(&text);
        }
    }

    /// A word that is no part of a number.
    fn plain(&mut self, word: &str) -> usize {
        self.flush();
        self.write(word);
        1
    }

    /// Writes the value with a suffix.
    fn finish_with(&mut self, suffix: &str) -> usize {
        let text = self.value.as_ref().map(Value::text).unwrap_or_default();
        self.write(&(text + suffix));
        1
    }

    /// The value as text, nothing where it is missing or zero: what digits are appended to.
    fn digits_so_far(&self) -> String {
        match &self.value {
            Some(Value::Whole(number)) if *number == BigUint::ZERO => String::new(),
            Some(value) => value.text(),
            None => String::new(),
        }
    }

    fn append(&mut self, text: &str) {
        self.value = Some(Value::Text(self.digits_so_far() + text));
    }

    fn arabic_or_word(&mut self, word: &str) -> usize {
        let mut rest = word.chars();
        let symbol = rest
            .next()
            .filter(|c| ['-', '+', '\u{a3}', '\u{20ac}', '$', '\u{a2}'].contains(c));
        let number = if symbol.is_some() { rest.as_str() } else { word };
        if !is_arabic(number) {
            return self.plain(word);
        }
        if let Some(Value::Text(text)) = &self.value
            && text.ends_with('.')
        {
            // Decimals, or a part of an address.
            self.value = Some(Value::Text(format!("{text}{word}")));
            return 1;
        }
        self.flush();
        self.prefix = symbol.or(self.prefix);
        let text = Value::Text(number.to_string());
        self.value = Some(text.times_power(0).map_or(text, Value::Whole));
        1
    }

    fn zero(&mut self) -> usize {
        self.append("0");
        1
    }

    /// A number below 20 after what has been read: added where it fits, else strung on.
    fn one(&mut self, ones: u32, previous: Option<Meaning>) -> usize {
        let after_one = matches!(previous, Some(Meaning::One(_)));
        let after_ten = matches!(previous, Some(Meaning::Ten(_)));
        self.value = Some(match self.value.take() {
            None => Value::Whole(ones.into()),
            Some(Value::Text(text)) if after_ten && ones < 10 => {
                Value::Text(format!("{}{ones}", text.strip_suffix('0').unwrap_or(&text)))
            }
            Some(Value::Text(text)) => Value::Text(format!("{text}{ones}")),
            Some(Value::Whole(number)) => {
                let room = if ones < 10 { 10u32 } else { 100 };
                if !after_one && &number % room == BigUint::ZERO {
                    Value::Whole(number + ones)
                } else {
                    Value::Text(format!("{number}{ones}"))
                }
            }
        });
        1
    }

    fn ten(&mut self, tens: u32) -> usize {
        self.value = Some(match self.value.take() {
            None => Value::Whole(tens.into()),
            Some(Value::Whole(number)) if &number % 100u32 == BigUint::ZERO => Value::Whole(number + tens),
            Some(value) => Value::Text(format!("{}{tens}", value.text())),
        });
        1
    }

    fn multiply(&mut self, exponent: usize) -> usize {
        let value = match self.value.take() {
            None => power_of_ten(exponent),
            Some(Value::Whole(number)) => multiply_residual(&number, exponent),
            Some(text) => match text.times_power(exponent) {
                Some(product) => product,
                None => {
                    self.write(&text.text());
                    power_of_ten(exponent)
                }
            },
        };
        self.value = Some(Value::Whole(value));
        1
    }

    fn multiply_suffixed(&mut self, exponent: usize, suffix: &str) -> usize {
        self.multiply(exponent);
        self.finish_with(suffix)
    }

    fn sign(&mut self, word: &str, sign: char, number_follows: bool) -> usize {
        self.flush();
        if number_follows {
            self.prefix = Some(sign);
        } else {
            self.write(word);
        }
        1
    }

    fn currency(&mut self, word: &str, symbol: char) -> usize {
        if self.value.is_some() {
            self.prefix = Some(symbol);
            self.flush();
        } else {
            self.write(word);
        }
        1
    }

    /// `percent` and `per cent`, of which the second word may be another.
    fn percent(&mut self, word: &str, complete: bool, words: usize) -> usize {
        match &self.value {
            Some(_) if complete => {
                self.finish_with("%");
                words
            }
            _ => self.plain(word),
        }
    }

    fn repeat(&mut self, digit: u32, times: usize) -> usize {
        self.append(&digit.to_string().repeat(times));
        2
    }
}

/// The last three digits are multiplied, the thousands before them stay: `two thousand three` `hundred` is 2300.
fn multiply_residual(number: &BigUint, exponent: usize) -> BigUint {
    let residual = number % 1000u32;
    let thousands = number - &residual;
    thousands + residual * power_of_ten(exponent)
}

/// `$2 and ¢7` becomes `$2.07`.
fn join_cents(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let matched = |start: usize| -> Option<(usize, String)> {
        let digits = |from: usize| chars[from..].iter().take_while(|c| c.is_ascii_digit()).count();
        let literal = |from: usize, literal: &str| {
            let fits = chars
                .get(from..)?
                .iter()
                .copied()
                .take(literal.chars().count())
                .eq(literal.chars());
            fits.then(|| from + literal.chars().count())
        };
        if !is_main_currency(chars[start]) {
            return None;
        }
        let whole = digits(start + 1);
        let after = literal(start + 1 + whole, " ").filter(|_| whole > 0)?;
        let cents = literal(literal(after, "and ").unwrap_or(after), "\u{a2}")?;
        let count = digits(cents);
        let end = cents + count;
        if !(1..=2).contains(&count) || chars.get(end).copied().is_some_and(is_word) {
            return None;
        }
        let dollars: String = chars[start..=start + whole].iter().collect();
        let cents: String = chars[cents..end].iter().collect();
        Some((end, format!("{dollars}.{cents:0>2}")))
    };
    rewrite(&chars, matched)
}

/// `$0.07` becomes `¢7`. The pattern's point stands for any character.
fn lone_cents(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let matched = |start: usize| -> Option<(usize, String)> {
        if !is_main_currency(chars[start]) || chars.get(start + 1) != Some(&'0') || chars.get(start + 2) == Some(&'\n')
        {
            return None;
        }
        let count = chars
            .get(start + 3..)?
            .iter()
            .take_while(|c| c.is_ascii_digit())
            .count();
        let end = start + 3 + count;
        if !(1..=2).contains(&count) || chars.get(end).copied().is_some_and(is_word) {
            return None;
        }
        let cents: String = chars[start + 3..end].iter().collect();
        let cents = cents.trim_start_matches('0');
        Some((end, format!("\u{a2}{}", if cents.is_empty() { "0" } else { cents })))
    };
    rewrite(&chars, matched)
}

/// `1` and `1s` as words, in words again.
fn one_in_words(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let matched = |start: usize| -> Option<(usize, String)> {
        if chars[start] != '1' || start.checked_sub(1).is_some_and(|before| is_word(chars[before])) {
            return None;
        }
        let plural = chars.get(start + 1) == Some(&'s');
        let end = start + 1 + usize::from(plural);
        let ends = !chars.get(end).copied().is_some_and(is_word);
        ends.then(|| (end, if plural { "ones" } else { "one" }.to_string()))
    };
    rewrite(&chars, matched)
}

fn is_main_currency(c: char) -> bool {
    ['\u{20ac}', '\u{a3}', '$'].contains(&c)
}

/// Goes through the text; where `matched` gives an end and a replacement, writes that and goes on at the end.
fn rewrite(chars: &[char], matched: impl Fn(usize) -> Option<(usize, String)>) -> String {
    let (mut written, mut index) = (String::with_capacity(chars.len()), 0);
    while index < chars.len() {
        if let Some((end, replacement)) = matched(index) {
            written.push_str(&replacement);
            index = end;
        } else {
            written.push(chars[index]);
            index += 1;
        }
    }
    written
}
