//! A line per run.

use super::{BASELINE, Comparison, Results, Run};

const HEADER: &str = "model,method,set,condition,utterances,words,wer,wer_low,wer_high,substitutions,deletions,insertions,cer,\
                      mer,wil,difference,difference_low,difference_high,p_bootstrap,p_bootstrap_holm,p_mapsswe,\
                      p_mapsswe_holm,helped,hurt,forwards_per_utterance,real_time_factor";

impl Results {
    /// A run's comparison with the baseline; `None` for the baseline itself.
    pub fn comparison(&self, run: &Run) -> Option<&Comparison> {
        self.comparisons.iter().find(|comparison| {
            run.method != BASELINE
                && (
                    &comparison.model,
                    &comparison.method,
                    &comparison.set,
                    &comparison.condition,
                ) == (&run.model, &run.method, &run.set, &run.condition)
        })
    }

    /// A table of the runs, with a header; rates are fractions.
    pub fn csv(&self) -> String {
        let mut text = HEADER.to_string() + "\n";
        for run in &self.runs {
            let comparison = self.comparison(run);
            let number = |value: Option<f64>| value.map_or_else(String::new, |value| format!("{value:.6}"));
            let interval = run.wer_interval;
            let difference = comparison.and_then(|comparison| comparison.interval);
            let cells = [
                quoted(&run.model),
                quoted(&run.method),
                quoted(&run.set),
                quoted(&run.condition),
                run.hypotheses.len().to_string(),
                run.counts.reference().to_string(),
                number(Some(run.wer)),
                number(interval.map(|interval| interval.low)),
                number(interval.map(|interval| interval.high)),
                run.counts.substitutions.to_string(),
                run.counts.deletions.to_string(),
                run.counts.insertions.to_string(),
                number(Some(run.cer)),
                number(Some(run.mer)),
                number(Some(run.wil)),
                number(comparison.map(|comparison| comparison.difference)),
                number(difference.map(|interval| interval.low)),
                number(difference.map(|interval| interval.high)),
                number(comparison.and_then(|comparison| comparison.p_bootstrap)),
                number(comparison.and_then(|comparison| comparison.p_bootstrap_holm)),
                number(comparison.and_then(|comparison| comparison.p_mapsswe)),
                number(comparison.and_then(|comparison| comparison.p_mapsswe_holm)),
                comparison.map_or_else(String::new, |comparison| comparison.helped.to_string()),
                comparison.map_or_else(String::new, |comparison| comparison.hurt.to_string()),
                number(Some(run.forwards_per_utterance)),
                number(run.cost.map(|cost| cost.real_time_factor)),
            ];
            text.push_str(&cells.join(","));
            text.push('\n');
        }
        text
    }
}

/// As RFC 4180 has it.
fn quoted(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn commas_and_quotes_are_quoted() {
        assert_eq!(quoted("suta:steps=5,lr=1"), "\"suta:steps=5,lr=1\"");
        assert_eq!(quoted("a \"b\""), "\"a \"\"b\"\"\"");
        assert_eq!(quoted("plain"), "plain");
    }
}
