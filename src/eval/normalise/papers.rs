//! What particular corpora and papers do to their texts.

use super::python::words;
use unicode_normalization::char::is_combining_mark;

/// LibriSpeech's writing.
pub(super) fn librispeech(text: &str) -> String {
    let plain: String = text
        .to_uppercase()
        .chars()
        .map(|c| match c {
            '\'' | '\u{2019}' => '\'',
            c if c.is_alphanumeric() || is_combining_mark(c) => c,
            _ => ' ',
        })
        .collect();
    join(&plain)
}

/// SUTA's `preprocess_text` for Common Voice. The abbreviations are replaced before the case is.
pub(super) fn suta_common_voice(text: &str) -> String {
    const ABBREVIATIONS: [(&str, &str); 5] = [
        ("i.e.", "that is"),
        ("e.g.", "for example"),
        ("Mr.", "Mister"),
        ("Mrs.", "Mistress"),
        ("Dr.", "Doctor"),
    ];
    let spelt = ABBREVIATIONS
        .iter()
        .fold(text.to_string(), |text, (short, long)| text.replace(short, long));
    capitals(&spelt.replace('-', " "))
}

/// SUTA's `preprocess_text` for TED-LIUM, whose transcripts write `it 's`.
pub(super) fn suta_ted(text: &str) -> String {
    capitals(&text.to_uppercase().replace(" '", "'").replace('-', " "))
}

/// ASCII punctuation removed, lower case.
pub(super) fn dsuta(text: &str) -> String {
    let plain: String = text.chars().filter(|c| !c.is_ascii_punctuation()).collect();
    join(&plain.to_lowercase())
}

/// Upper case; of the rest, what is neither a space, an ASCII capital nor an apostrophe is dropped.
fn capitals(text: &str) -> String {
    let kept: String = text
        .to_uppercase()
        .chars()
        .filter(|c| matches!(c, ' ' | '\'' | 'A'..='Z'))
        .collect();
    join(&kept)
}

fn join(text: &str) -> String {
    words(text).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_the_papers_scripts_write() {
        assert_eq!(
            suta_common_voice("Dr. Who, i.e. \"Mr. X-ray\" isn't  na\u{ef}ve."),
            "DOCTOR WHO THAT IS MISTER X RAY ISN'T NAVE"
        );
        assert_eq!(
            suta_ted("it 's the well-known <unk> thing"),
            "IT'S THE WELL KNOWN UNK THING"
        );
        assert_eq!(dsuta("Don't STOP, well-known."), "dont stop wellknown");
        assert_eq!(
            librispeech("\u{201c}Don\u{2019}t,\u{201d} said Zo\u{eb}\u{2014}well-known."),
            "DON'T SAID ZO\u{cb} WELL KNOWN"
        );
    }
}
