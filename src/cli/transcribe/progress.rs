//! Progress, errors and the summary, on standard error: for a person, a log or a program.

use super::arguments::ProgressChoice;
use super::worker::{Done, Entropy};
use crate::cli::tell;
use crate::{AdaptationConfig, ModelInfo};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::io::IsTerminal;
use std::path::Path;
use std::time::{Duration, Instant};

/// The bar's length: indicatif counts whole units, and a byte is too fine to redraw for.
pub(in crate::cli) const BAR_UNITS: u64 = 1000;

/// What a run is about to do.
pub(super) struct Start<'a> {
    /// Each recording's size: the measure of what is left, as lengths are unknown before decoding.
    pub(super) bytes: Vec<u64>,
    pub(super) jobs: usize,
    pub(super) threads: usize,
    pub(super) model: &'a ModelInfo,
    pub(super) settings: &'a AdaptationConfig,
}

/// What a run did.
#[derive(Debug, Default)]
pub(super) struct Summary {
    pub(super) files: usize,
    pub(super) done: usize,
    pub(super) skipped: usize,
    pub(super) failed: usize,
    pub(super) interrupted: bool,
    pub(super) audio_seconds: f64,
    pub(super) entropy: Entropy,
    pub(super) output_dir: Option<String>,
}

impl Summary {
    fn not_started(&self) -> usize {
        self.files.saturating_sub(self.done + self.skipped + self.failed)
    }
}

/// How progress is shown.
enum Style {
    Bar(ProgressBar),
    /// Errors and the summary.
    Quiet,
    /// A line per file as well.
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
    bytes: Vec<u64>,
    files_passed: usize,
    /// Bytes of the recordings transcribed, and of those passed over without work.
    bytes_done: u64,
    bytes_passed: u64,
    audio_seconds: f64,
    /// Of each recording in hand: seconds heard, and the fraction of it that is.
    in_hand: HashMap<usize, (f64, Option<f64>)>,
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
            bytes: Vec::new(),
            files_passed: 0,
            bytes_done: 0,
            bytes_passed: 0,
            audio_seconds: 0.0,
            in_hand: HashMap::new(),
        }
    }

    pub(super) fn is_json(&self) -> bool {
        matches!(self.style, Style::Json)
    }

    pub(super) fn start(&mut self, start: Start<'_>) {
        self.begun = Instant::now();
        // A recording of unknown size still counts for something.
        self.bytes = start.bytes.iter().map(|bytes| (*bytes).max(1)).collect();
        let files = self.bytes.len();
        match &self.style {
            Style::Bar(bar) => bar.enable_steady_tick(Duration::from_millis(200)),
            Style::Plain => {
                let (jobs, threads, model) = (start.jobs, start.threads, &start.model.name);
                tell(format_args!(
                    "{files} files, {jobs} at a time on {threads} threads each, model {model}"
                ));
            }
            Style::Json => event(
                "start",
                json!({
                    "files": files, "jobs": start.jobs, "threads": start.threads,
                    "model": start.model, "settings": start.settings,
                }),
            ),
            Style::Quiet | Style::None => {}
        }
        self.redraw();
    }

    /// A recording in hand is heard this far.
    pub(super) fn heard(&mut self, index: usize, seconds: f64, fraction: Option<f64>) {
        self.in_hand.insert(index, (seconds, fraction));
        self.redraw();
    }

    /// A recording is done.
    pub(super) fn done(&mut self, index: usize, name: &str, done: &Done) {
        self.in_hand.remove(&index);
        self.files_passed += 1;
        self.bytes_done += self.bytes.get(index).copied().unwrap_or(0);
        self.audio_seconds += done.duration;
        match &self.style {
            Style::Plain => tell(format_args!(
                "done {name}: {} in {} ({})",
                clock(done.duration),
                clock(done.seconds),
                speed(done.duration, done.seconds)
            )),
            Style::Json => {
                let (before, after) = done.entropy.means().unzip();
                let outputs: Vec<_> = done.outputs.iter().map(|path| path.display().to_string()).collect();
                event(
                    "file",
                    json!({
                        "file": name, "status": "done", "outputs": outputs, "duration": done.duration,
                        "seconds": done.seconds, "entropy_before": before, "entropy_after": after,
                    }),
                );
            }
            Style::Bar(_) | Style::Quiet | Style::None => {}
        }
        self.redraw();
    }

    /// A recording was done by an earlier run.
    pub(super) fn skipped(&mut self, index: usize, name: &str) {
        match &self.style {
            Style::Plain => tell(format_args!("skipped {name}: done before")),
            Style::Json => event("file", json!({ "file": name, "status": "skipped" })),
            Style::Bar(_) | Style::Quiet | Style::None => {}
        }
        self.passed(index);
    }

    /// A recording needs no more time, though it is not done.
    pub(super) fn passed(&mut self, index: usize) {
        self.in_hand.remove(&index);
        self.files_passed += 1;
        self.bytes_passed += self.bytes.get(index).copied().unwrap_or(0);
        self.redraw();
    }

    pub(super) fn warning(&self, file: Option<&str>, message: &str) {
        self.message("warning", file, message);
    }

    pub(super) fn error(&self, file: Option<&str>, message: &str) {
        self.message("error", file, message);
    }

    fn message(&self, kind: &str, file: Option<&str>, message: &str) {
        if self.is_json() {
            return event(kind, json!({ "file": file, "message": message }));
        }
        if matches!(self.style, Style::None) && kind == "warning" {
            return;
        }
        self.suspend(|| match file {
            Some(file) => tell(format_args!("{kind}: {file}: {message}")),
            None => tell(format_args!("{kind}: {message}")),
        });
    }

    /// Runs `write` with the bar out of the way, so that what it writes to a terminal is not drawn over.
    pub(super) fn suspend<T>(&self, write: impl FnOnce() -> T) -> T {
        match &self.style {
            Style::Bar(bar) => bar.suspend(write),
            _ => write(),
        }
    }

    /// Takes the bar away.
    pub(super) fn clear(&self) {
        if let Style::Bar(bar) = &self.style {
            bar.finish_and_clear();
        }
    }

    /// The last word.
    pub(super) fn summary(&self, summary: &Summary) {
        self.clear();
        let wall = self.begun.elapsed().as_secs_f64();
        match &self.style {
            Style::Json => event("summary", summary_json(summary, wall)),
            Style::None if !summary.interrupted => {}
            _ => tell(summary_text(summary, wall)),
        }
    }

    /// A profile was written.
    pub(super) fn saved(&self, path: &Path, utterances: usize) {
        let path = path.display();
        match &self.style {
            Style::Json => event("saved", json!({ "path": path.to_string(), "utterances": utterances })),
            Style::None => {}
            _ => tell(format_args!("profile of {utterances} utterances in {path}")),
        }
    }

    fn redraw(&self) {
        let Style::Bar(bar) = &self.style else { return };
        let heard: f64 = self.in_hand.values().map(|(seconds, _)| seconds).sum();
        let fractions = self.in_hand.iter().map(|(index, (_, fraction))| {
            self.bytes.get(*index).copied().unwrap_or(0) as f64 * fraction.unwrap_or(0.0)
        });
        let total: u64 = self.bytes.iter().sum();
        let worked = self.bytes_done as f64 + fractions.sum::<f64>();
        let passed = worked + self.bytes_passed as f64;
        let elapsed = self.begun.elapsed().as_secs_f64();
        let audio = self.audio_seconds + heard;
        let left = (worked > 0.0).then(|| (total as f64 - passed).max(0.0) * elapsed / worked);
        bar.set_position((passed / total.max(1) as f64 * BAR_UNITS as f64) as u64);
        bar.set_message(format!(
            "{}/{} files, {:.2} h audio, {}, {} left",
            self.files_passed,
            self.bytes.len(),
            audio / 3600.0,
            speed(audio, elapsed),
            left.map_or_else(|| "?".to_string(), clock)
        ));
    }
}

pub(in crate::cli) fn bar() -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:12} {wide_msg}").unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::with_draw_target(Some(BAR_UNITS), ProgressDrawTarget::stderr()).with_style(style)
}

pub(in crate::cli) fn event(kind: &str, mut fields: Value) {
    if let Some(fields) = fields.as_object_mut() {
        fields.insert("event".to_string(), kind.into());
    }
    tell(fields);
}

fn summary_json(summary: &Summary, wall: f64) -> Value {
    let (before, after) = summary.entropy.means().unzip();
    json!({
        "done": summary.done, "skipped": summary.skipped, "failed": summary.failed,
        "not_started": summary.not_started(), "interrupted": summary.interrupted,
        "audio_seconds": summary.audio_seconds, "wall_seconds": wall, "speed": summary.audio_seconds / wall.max(1e-9),
        "entropy_before": before, "entropy_after": after, "output_dir": summary.output_dir,
    })
}

fn summary_text(summary: &Summary, wall: f64) -> String {
    let mut counts = vec![format!("{} done", summary.done)];
    let others = [(summary.skipped, "skipped (done before)"), (summary.failed, "failed")];
    counts.extend(
        others
            .iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, what)| format!("{count} {what}")),
    );
    if summary.not_started() > 0 {
        counts.push(format!("{} not done", summary.not_started()));
    }
    let mut text = counts.join(", ");
    if summary.audio_seconds > 0.0 {
        let (audio, rate) = (clock(summary.audio_seconds), speed(summary.audio_seconds, wall));
        text.push_str(&format!("; {audio} of audio in {} ({rate})", clock(wall)));
    }
    if let Some((before, after)) = summary.entropy.means() {
        text.push_str(&format!("; mean entropy {before:.3} -> {after:.3}"));
    }
    if let Some(dir) = &summary.output_dir {
        text.push_str(&format!("\noutputs in {dir}"));
    }
    if summary.interrupted {
        text.push_str(match summary.output_dir {
            Some(_) => "\ninterrupted: run the same command again to go on",
            None => "\ninterrupted: with -o DIR a run can be interrupted and go on later",
        });
    }
    text
}

fn speed(audio: f64, wall: f64) -> String {
    format!("{:.1} x real time", audio / wall.max(1e-9))
}

/// `4.2 s`, `3:07` or `1:02:33`.
pub(in crate::cli) fn clock(seconds: f64) -> String {
    let whole = seconds.round().max(0.0) as u64;
    match whole {
        0..60 => format!("{seconds:.1} s"),
        60..3600 => format!("{}:{:02}", whole / 60, whole % 60),
        _ => format!("{}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_read_well() {
        let clocks = [4.21, 59.7, 187.0, 3753.0].map(clock);
        assert_eq!(clocks, ["4.2 s", "1:00", "3:07", "1:02:33"]);
    }

    #[test]
    fn the_summary_names_only_what_happened() {
        let summary = Summary {
            files: 3,
            done: 1,
            failed: 1,
            interrupted: true,
            ..Summary::default()
        };
        let text = summary_text(&summary, 1.0);
        assert!(text.starts_with("1 done, 1 failed, 1 not done\ninterrupted"), "{text}");
    }
}
