//! The results in one table, for standard output.

use super::table::Table;
use crate::eval::report::{Results, Verdict};
use crate::eval::statistics::Interval;

/// A line per run: its word error rate, and where there is a baseline how far from that, in percent and points.
pub(super) fn overview(results: &Results) -> String {
    let several_models = results.models.len() > 1;
    let mut header = vec![
        "set",
        "condition",
        "method",
        "WER %",
        "95 %",
        "change",
        "95 %",
        "verdict",
    ];
    if several_models {
        header.insert(0, "model");
    }
    let mut table = Table::new(&header);
    for run in &results.runs {
        let mut cells = vec![run.set.clone(), run.condition.clone(), run.method.clone()];
        if several_models {
            cells.insert(0, run.model.clone());
        }
        cells.push(format!("{:.1}", 100.0 * run.wer));
        cells.push(interval(run.wer_interval, false));
        if let Some(comparison) = results.comparison(run) {
            cells.push(format!("{:+.1}", 100.0 * comparison.difference));
            cells.push(interval(comparison.interval, true));
            let verdict = match comparison.verdict {
                Verdict::Better => "better",
                Verdict::Worse => "worse",
                Verdict::Undecided => "-",
            };
            cells.push(verdict.to_string());
        }
        table.row(cells);
    }
    let note = if results.comparisons.is_empty() {
        String::new()
    } else {
        format!(
            "\nchange: from none, in points, on the same utterances. better, worse: by the paired bootstrap and by MAPSSWE, \
             Holm's\ncorrection over {} comparisons, at 0.05.\n",
            results.comparisons.len()
        )
    };
    table.plain(if several_models { 4 } else { 3 }) + &note
}

fn interval(interval: Option<Interval>, signed: bool) -> String {
    match interval {
        None => "-".to_string(),
        Some(Interval { low, high, .. }) if signed => format!("{:+.1} to {:+.1}", 100.0 * low, 100.0 * high),
        Some(Interval { low, high, .. }) => format!("{:.1} to {:.1}", 100.0 * low, 100.0 * high),
    }
}
