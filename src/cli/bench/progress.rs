//! Progress of a run on standard error: for a person, a log or a program.

use crate::cli::tell;
use crate::cli::transcribe::{BAR_UNITS, ProgressChoice, bar, clock, event};
use indicatif::ProgressBar;
use serde_json::json;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

enum Style {
    Bar(ProgressBar),
    /// Errors and the summary.
    Quiet,
    /// A line for every twentieth of the work as well.
    Plain,
    /// One JSON object per event.
    Json,
    /// Errors alone.
    None,
}

/// What is shown while a run goes on.
pub(super) struct Progress {
    style: Style,
    begun: Instant,
    total: f64,
    utterances: usize,
    done: usize,
    /// Work done now, and done by earlier runs.
    worked: f64,
    passed: f64,
    told: usize,
}

/// What a run did.
#[derive(Debug, Default)]
pub(super) struct Summary {
    pub(super) done: usize,
    pub(super) before: usize,
    pub(super) failed: usize,
    pub(super) interrupted: bool,
    pub(super) written: Vec<String>,
}

impl Progress {
    pub(super) fn new(choice: ProgressChoice) -> Self {
        let style = match choice {
            ProgressChoice::Auto if std::io::stderr().is_terminal() => Style::Bar(bar()),
            ProgressChoice::Auto => Style::Quiet,
            ProgressChoice::Plain => Style::Plain,
            ProgressChoice::Json => Style::Json,
            ProgressChoice::None => Style::None,
        };
        Self {
            style,
            begun: Instant::now(),
            total: 0.0,
            utterances: 0,
            done: 0,
            worked: 0.0,
            passed: 0.0,
            told: 0,
        }
    }

    pub(super) fn is_json(&self) -> bool {
        matches!(self.style, Style::Json)
    }

    /// So many utterances, and so much work in all, in any unit.
    pub(super) fn start(&mut self, utterances: usize, total: f64, jobs: usize) {
        (self.begun, self.utterances, self.total) = (Instant::now(), utterances, total);
        match &self.style {
            Style::Bar(bar) => bar.enable_steady_tick(Duration::from_millis(200)),
            Style::Plain => tell(format_args!("{utterances} utterances to recognise, {jobs} at a time")),
            Style::Json => event("start", json!({ "utterances": utterances, "jobs": jobs })),
            Style::Quiet | Style::None => {}
        }
    }

    /// One utterance is over with, and with it so much work; `before` if an earlier run did it.
    pub(super) fn passed(&mut self, work: f64, before: bool) {
        self.done += 1;
        *(if before { &mut self.passed } else { &mut self.worked }) += work;
        let share = (self.worked + self.passed) / self.total.max(1e-9);
        let elapsed = self.begun.elapsed().as_secs_f64();
        let left =
            (self.worked > 0.0).then(|| (self.total - self.worked - self.passed).max(0.0) * elapsed / self.worked);
        let shown = left.map_or_else(|| "?".to_string(), clock);
        match &self.style {
            Style::Bar(bar) => {
                bar.set_position((share * BAR_UNITS as f64) as u64);
                bar.set_message(format!("{}/{} utterances, {shown} left", self.done, self.utterances));
            }
            Style::Plain | Style::Json => {
                let twentieth = (share * 20.0) as usize;
                if twentieth > self.told {
                    self.told = twentieth;
                    if self.is_json() {
                        event(
                            "progress",
                            json!({ "done": self.done, "utterances": self.utterances, "left": left }),
                        );
                    } else {
                        tell(format_args!(
                            "{}/{} utterances, {shown} left",
                            self.done, self.utterances
                        ));
                    }
                }
            }
            Style::Quiet | Style::None => {}
        }
    }

    pub(super) fn warning(&self, message: &str) {
        self.message("warning", message);
    }

    pub(super) fn error(&self, message: &str) {
        self.message("error", message);
    }

    fn message(&self, kind: &str, message: &str) {
        match &self.style {
            Style::Json => event(kind, json!({ "message": message })),
            Style::None if kind == "warning" => {}
            Style::Bar(bar) => bar.suspend(|| tell(format_args!("{kind}: {message}"))),
            _ => tell(format_args!("{kind}: {message}")),
        }
    }

    /// The last word; `table` is the result for people.
    pub(super) fn summary(&self, summary: &Summary) {
        if let Style::Bar(bar) = &self.style {
            bar.finish_and_clear();
        }
        if self.is_json() {
            return event(
                "summary",
                json!({
                    "done": summary.done, "before": summary.before, "failed": summary.failed,
                    "interrupted": summary.interrupted, "wall_seconds": self.begun.elapsed().as_secs_f64(),
                    "written": summary.written,
                }),
            );
        }
        if matches!(self.style, Style::None) && !summary.interrupted {
            return;
        }
        let mut text = format!("{} utterances recognised", summary.done);
        for (count, what) in [(summary.before, "done before"), (summary.failed, "failed")] {
            if count > 0 {
                text.push_str(&format!(", {count} {what}"));
            }
        }
        text.push_str(&format!(" in {}", clock(self.begun.elapsed().as_secs_f64())));
        if !summary.written.is_empty() {
            text.push_str(&format!("\nwritten: {}", summary.written.join(", ")));
        }
        if summary.interrupted {
            text.push_str("\ninterrupted: run the same command again to go on");
        }
        tell(text);
    }
}
