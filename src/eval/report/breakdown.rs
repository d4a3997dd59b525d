//! Error rates by speaker and by length, pooled over conditions.

use super::summary::percent;
use super::{Hypothesis, Results};
use crate::eval::Counts;
use maud::{Markup, html};
use std::collections::BTreeMap;

/// Upper ends of the classes of length, in seconds.
const LENGTHS: [f64; 4] = [2.0, 4.0, 8.0, 16.0];

/// Tables by speaker and by length for each model and set.
pub(super) fn section(results: &Results) -> Markup {
    html! {
        section {
            h2 { "By speaker and length" }
            p.note { "Word error rate in %, pooled over all conditions of a set." }
            @for model in &results.models {
                @for set in &results.sets {
                    details {
                        summary { (set.name) @if results.models.len() > 1 { " · " (model.name) } }
                        div.scroll { (table(results, &model.name, &set.name, "Length", length)) }
                        @if set.speakers > 1 {
                            div.scroll { (table(results, &model.name, &set.name, "Speaker", speaker)) }
                        }
                    }
                }
            }
        }
    }
}

/// A class, with what it is sorted by.
type Class = (usize, String);

fn length(hypothesis: &Hypothesis) -> Class {
    let class = LENGTHS.iter().take_while(|end| hypothesis.duration >= **end).count();
    let name = match class {
        0 => format!("under {} s", LENGTHS[0]),
        4 => format!("{} s and more", LENGTHS[3]),
        _ => format!("{} to {} s", LENGTHS[class - 1], LENGTHS[class]),
    };
    (class, name)
}

fn speaker(hypothesis: &Hypothesis) -> Class {
    (0, hypothesis.speaker.clone().unwrap_or_else(|| "not told".to_string()))
}

fn table(results: &Results, model: &str, set: &str, title: &str, class: impl Fn(&Hypothesis) -> Class) -> Markup {
    let mut methods: Vec<&str> = Vec::new();
    let mut cells: BTreeMap<Class, BTreeMap<&str, (Counts, usize)>> = BTreeMap::new();
    for run in results.runs.iter().filter(|run| run.model == model && run.set == set) {
        if !methods.contains(&run.method.as_str()) {
            methods.push(&run.method);
        }
        for hypothesis in &run.hypotheses {
            let cell = cells
                .entry(class(hypothesis))
                .or_default()
                .entry(&run.method)
                .or_default();
            cell.0 += hypothesis.words;
            cell.1 += 1;
        }
    }
    html! {
        table {
            caption { span { (set) ", by " (title.to_lowercase()) } }
            thead { tr {
                th scope="col" { (title) }
                th.number scope="col" { "Transcripts" }
                th.number scope="col" { "Words" }
                @for method in &methods { th.number scope="col" { (method) } }
            } }
            tbody {
                @for ((_, name), of) in &cells {
                    @let first = methods.first().and_then(|method| of.get(method)).copied().unwrap_or_default();
                    tr {
                        th scope="row" { (name) }
                        td.number { (first.1) }
                        td.number { (first.0.reference()) }
                        @for method in &methods {
                            td.number { (of.get(method).map_or_else(String::new, |(counts, _)| percent(counts.error_rate()))) }
                        }
                    }
                }
            }
        }
    }
}
