//! What the results say, in words: computed from the comparisons, claiming no more than they do.

use super::{BASELINE, Comparison, Results, Verdict};

/// Percent, with a decimal.
pub(super) fn percent(rate: f64) -> String {
    format!("{:.1}", 100.0 * rate)
}

/// Percentage points, with their sign.
pub(super) fn points(difference: f64) -> String {
    let rounded = (1000.0 * difference).round() / 10.0;
    match rounded {
        value if value < 0.0 => format!("−{:.1}", -value),
        value if value > 0.0 => format!("+{value:.1}"),
        _ => "±0.0".to_string(),
    }
}

/// A p-value.
pub(super) fn probability(p: Option<f64>) -> String {
    match p {
        None => "n/a".to_string(),
        Some(p) if p < 0.001 => "< 0.001".to_string(),
        Some(p) => format!("{p:.3}"),
    }
}

/// A few sentences for each model and method, and what is to be kept in mind.
pub(super) fn sentences(results: &Results) -> Vec<String> {
    let mut sentences = Vec::new();
    for model in &results.models {
        for method in results.adapted_methods() {
            let of: Vec<&Comparison> = results
                .comparisons
                .iter()
                .filter(|comparison| comparison.model == model.name && comparison.method == method)
                .collect();
            if !of.is_empty() {
                sentences.push(verdicts(results, &model.name, method, &of));
            }
        }
    }
    if results.comparisons.is_empty() {
        sentences.push(format!("Only `{BASELINE}` was run: there is nothing to compare."));
    }
    sentences
}

fn verdicts(results: &Results, model: &str, method: &str, of: &[&Comparison]) -> String {
    let with = |verdict: Verdict| of.iter().copied().filter(|c| c.verdict == verdict).collect::<Vec<_>>();
    let (better, worse, undecided) = (with(Verdict::Better), with(Verdict::Worse), with(Verdict::Undecided));
    let subject = if results.models.len() > 1 {
        format!("With {model}, {method}")
    } else {
        method.to_string()
    };
    let mut text = format!(
        "{subject} was compared with {BASELINE} on {}. ",
        count(of.len(), "set and condition", "sets and conditions")
    );
    if !better.is_empty() {
        text.push_str(&format!(
            "It lowered the word error rate significantly in {}: {}. ",
            better.len(),
            list(&better)
        ));
    }
    if !worse.is_empty() {
        text.push_str(&format!(
            "It raised it significantly in {}: {}. ",
            worse.len(),
            list(&worse)
        ));
    }
    if better.is_empty() && worse.is_empty() {
        text.push_str("In none of them is the difference significant. ");
    } else if !undecided.is_empty() {
        text.push_str(&format!(
            "In the other {} the difference is not significant. ",
            undecided.len()
        ));
    }
    let lower = undecided
        .iter()
        .filter(|comparison| comparison.difference < 0.0)
        .count();
    let higher = undecided
        .iter()
        .filter(|comparison| comparison.difference > 0.0)
        .count();
    if !undecided.is_empty() {
        let equal = undecided.len() - lower - higher;
        text.push_str(&format!(
            "Of those, the measured rate is lower in {lower}, higher in {higher}"
        ));
        text.push_str(&if equal > 0 {
            format!(", the same in {equal}. ")
        } else {
            ". ".to_string()
        });
    }
    let helped: usize = of.iter().map(|comparison| comparison.helped).sum();
    let hurt: usize = of.iter().map(|comparison| comparison.hurt).sum();
    let all: usize = of
        .iter()
        .map(|comparison| comparison.helped + comparison.hurt + comparison.unchanged)
        .sum();
    text.push_str(&format!(
        "Of {all} transcripts it bettered {helped}, worsened {hurt} and left {} with as many errors.",
        all - helped - hurt
    ));
    text
}

/// The comparisons, the largest change first, at most a few by name.
fn list(comparisons: &[&Comparison]) -> String {
    const MOST: usize = 4;
    let mut sorted = comparisons.to_vec();
    sorted.sort_by(|a, b| b.difference.abs().total_cmp(&a.difference.abs()));
    let mut names: Vec<String> = sorted
        .iter()
        .take(MOST)
        .map(|c| {
            format!(
                "{} {} ({} to {} %)",
                c.set,
                c.condition,
                percent(c.baseline_wer),
                percent(c.wer)
            )
        })
        .collect();
    if sorted.len() > MOST {
        names.push(format!("and {} more", sorted.len() - MOST));
    }
    names.join(", ")
}

fn count(number: usize, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!([-0.0213, 0.05, 0.0001].map(points), ["−2.1", "+5.0", "±0.0"]);
        assert_eq!(probability(Some(0.0002)), "< 0.001");
        assert_eq!(probability(Some(0.04)), "0.040");
        assert_eq!(percent(0.1234), "12.3");
    }
}
