//! OpenAI's basic normaliser, and the steps the English one shares.

use super::python::collapse_spaces;
use regex::{NoExpand, Regex};
use std::sync::LazyLock;
use unicode_normalization::UnicodeNormalization;
use unicode_properties::{GeneralCategoryGroup, UnicodeGeneralCategory};

/// `[...]` and `<...>`, in any mixture; what is in `(...)`, unless it is empty.
static BRACKETED: LazyLock<[Regex; 2]> =
    LazyLock::new(|| [r"[<\[][^>\]]*[>\]]", r"\([^)]+\)"].map(|pattern| Regex::new(pattern).expect("a valid pattern")));

/// The text without its bracketed parts.
pub(super) fn drop_bracketed(text: &str) -> String {
    BRACKETED.iter().fold(text.to_string(), |text, pattern| {
        pattern.replace_all(&text, NoExpand("")).into_owned()
    })
}

/// Whether Unicode calls it a mark, a symbol or punctuation.
pub(super) fn is_mark_or_symbol(c: char) -> bool {
    matches!(
        c.general_category_group(),
        GeneralCategoryGroup::Mark | GeneralCategoryGroup::Symbol | GeneralCategoryGroup::Punctuation
    )
}

/// `BasicTextNormalizer` with its default settings.
pub(super) fn normalise(text: &str) -> String {
    let text = drop_bracketed(&text.to_lowercase());
    let plain: String = text
        .nfkc()
        .map(|c| if is_mark_or_symbol(c) { ' ' } else { c })
        .collect();
    collapse_spaces(&plain.to_lowercase())
}
