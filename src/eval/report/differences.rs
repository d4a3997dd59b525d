//! Word-level differences, marked up.

use super::Hypothesis;
use crate::eval::{Costs, Edit, align};
use maud::{Markup, html};

/// A hypothesis word by word beside its reference: a wrong word with the right one, a missing one, one too many. Each
/// has a letter too, for those to whom its colour says nothing.
pub(super) fn difference(hypothesis: &Hypothesis) -> Markup {
    let reference: Vec<&str> = hypothesis.scored_reference.split_whitespace().collect();
    let words: Vec<&str> = hypothesis.scored_text.split_whitespace().collect();
    html! {
        @for edit in align(&reference, &words, Costs::Levenshtein) {
            @match edit {
                Edit::Hit { hypothesis, .. } => { (words[hypothesis]) }
                Edit::Substitution { reference: right, hypothesis } => {
                    span.sub title={ "substitution: should be " (reference[right]) } {
                        (words[hypothesis]) del { (reference[right]) }
                    }
                }
                Edit::Deletion { reference: missing } => { span.del title="deletion" { (reference[missing]) } }
                Edit::Insertion { hypothesis } => { span.ins title="insertion" { (words[hypothesis]) } }
            }
            " "
        }
    }
}
