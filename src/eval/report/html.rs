//! The report as one HTML page that needs nothing else: no script, no network.

use super::examples::examples;
use super::{Clip, Results, breakdown, sections, steps, summary};
use maud::{DOCTYPE, Markup, PreEscaped, html};

const STYLE: &str = include_str!("style.css");

/// The page: `count` utterances of each comparison shown in full on either side, `clips` to be played beside them.
pub fn page(results: &Results, count: usize, clips: &[Clip]) -> String {
    let shown = examples(results, count);
    let sets: Vec<&str> = results.sets.iter().map(|set| set.name.as_str()).collect();
    let markup = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta name="generator" content={ "aurist " (results.version) };
                title { "Word error rates: " (sets.join(", ")) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                header {
                    p.brand { "aurist bench" }
                    h1 { "Word error rates: " (sets.join(", ")) }
                    p { (subtitle(results)) }
                }
                main {
                    section {
                        h2 { "In short" }
                        @for sentence in summary::sentences(results) { p.summary { (sentence) } }
                    }
                    (sections::table(results))
                    @if !results.comparisons.is_empty() { (sections::differences(results)) }
                    (sections::ratios(results))
                    (steps::streams(results))
                    (steps::steps(results))
                    @if !results.comparisons.is_empty() {
                        (sections::scatters(results))
                        (sections::changed(results, &shown, clips))
                    }
                    (breakdown::section(results))
                    (sections::cost(results))
                    (sections::reproduction(results))
                }
            }
        }
    };
    markup.into_string()
}

fn subtitle(results: &Results) -> Markup {
    let models: Vec<&str> = results.models.iter().map(|model| model.name.as_str()).collect();
    let utterances: usize = results.sets.iter().map(|set| set.utterances).sum();
    let methods: Vec<&str> = std::iter::once(super::BASELINE)
        .chain(results.adapted_methods())
        .collect();
    html! {
        (models.join(", ")) " · " (methods.join(", ")) " · " (utterances) " utterances in " (results.conditions.len())
        @if results.conditions.len() == 1 { " condition" } @else { " conditions" }
        " · normaliser " (results.normaliser.0) " (" (results.normaliser.1) ")"
    }
}
