//! Progress and errors on standard error, in the way that was asked for.

use super::arguments::ProgressMode;
use crate::Transcript;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// The run's totals, and where they are shown.
pub(super) struct Progress {
    mode: ProgressMode,
    bar: Option<ProgressBar>,
    began: Instant,
    totals: Totals,
}

/// What the summary says.
#[derive(Debug, Default, Clone)]
pub(super) struct Totals {
    pub(super) files: usize,
    pub(super) done: usize,
    pub(super) skipped: usize,
    pub(super) failed: usize,
    audio_seconds: f64,
    live_seconds: f64,
    utterances: usize,
    guarded: usize,
    entropy_before: f64,
    entropy_after: f64,
    entropies: usize,
}

/// `1 h 02 min`, `3 min 05 s`, `7.5 s`.
fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        3600.. => format!("{} h {:02} min", whole / 3600, whole / 60 % 60),
        60.. => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{seconds:.1} s"),
    }
}

impl Progress {
    pub(super) fn new(mode: ProgressMode, files: usize) -> Self {
        let visible = mode == ProgressMode::Auto && std::io::stderr().is_terminal() && files > 1;
        let bar = visible.then(|| {
            let bar = ProgressBar::with_draw_target(Some(files as u64), ProgressDrawTarget::stderr());
            let style = ProgressStyle::with_template("{bar:24} {pos}/{len} files  {msg}  {eta} left");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.enable_steady_tick(Duration::from_millis(500));
            bar
        });
        let progress = Self {
            mode,
            bar,
            began: Instant::now(),
            totals: Totals {
                files,
                ..Totals::default()
            },
        };
        progress.event(|| json!({"event": "start", "files": files}));
        progress
    }

    /// The totals so far.
    pub(super) fn totals(&self) -> &Totals {
        &self.totals
    }

    /// Runs `print` while the bar is out of the way.
    pub(super) fn suspend<R>(&self, print: impl FnOnce() -> R) -> R {
        match &self.bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }

    /// More of a recording is transcribed.
    pub(super) fn advance(&mut self, seconds: f64) {
        self.totals.live_seconds += seconds;
        if let Some(bar) = &self.bar {
            let speed = self.totals.live_seconds / self.began.elapsed().as_secs_f64().max(1e-3);
            bar.set_message(format!(
                "{} of audio, {speed:.1}x real time",
                duration(self.totals.live_seconds)
            ));
        }
    }

    /// A recording is done.
    pub(super) fn done(&mut self, file: &str, transcript: &Transcript) {
        let totals = &mut self.totals;
        totals.done += 1;
        totals.audio_seconds += transcript.duration;
        let mut compute = 0.0;
        for utterance in &transcript.utterances {
            totals.utterances += 1;
            totals.guarded += usize::from(utterance.guard.is_some());
            compute += utterance.compute_seconds;
            if let (Some(before), Some(after)) = (utterance.entropy_before, utterance.entropy_after) {
                totals.entropy_before += before as f64;
                totals.entropy_after += after as f64;
                totals.entropies += 1;
            }
        }
        self.tick();
        let seconds = transcript.duration;
        if self.mode == ProgressMode::Plain {
            eprintln!("done: {file} ({} of audio in {})", duration(seconds), duration(compute));
        }
        self.event(|| json!({"event": "done", "file": file, "duration": seconds, "compute_seconds": compute}));
    }

    /// A recording was done before.
    pub(super) fn skipped(&mut self, file: &str) {
        self.totals.skipped += 1;
        self.tick();
        if self.mode == ProgressMode::Plain {
            eprintln!("done before: {file}");
        }
        self.event(|| json!({"event": "skipped", "file": file}));
    }

    /// Something to know about a recording that was transcribed nevertheless.
    pub(super) fn warning(&self, file: &str, message: &str) {
        match self.mode {
            ProgressMode::Json => self.event(|| json!({"event": "warning", "file": file, "message": message})),
            ProgressMode::None => {}
            _ => self.suspend(|| eprintln!("warning: {file}: {message}")),
        }
    }

    /// A recording failed; the others go on.
    pub(super) fn failed(&mut self, file: &str, message: &str) {
        self.totals.failed += 1;
        self.tick();
        match self.mode {
            ProgressMode::Json => self.event(|| json!({"event": "error", "file": file, "message": message})),
            _ => self.suspend(|| eprintln!("error: {file}: {message}")),
        }
    }

    fn tick(&self) {
        if let Some(bar) = &self.bar {
            bar.inc(1);
        }
    }

    fn event(&self, event: impl FnOnce() -> serde_json::Value) {
        if self.mode == ProgressMode::Json {
            eprintln!("{}", event());
        }
    }

    /// The last words.
    pub(super) fn summary(&self, place: Option<&str>) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        let totals = &self.totals;
        let seconds = self.began.elapsed().as_secs_f64();
        let speed = totals.audio_seconds / seconds.max(1e-3);
        let mean = |sum: f64| (totals.entropies > 0).then(|| sum / totals.entropies as f64);
        let (before, after) = (mean(totals.entropy_before), mean(totals.entropy_after));
        self.event(|| {
            json!({
                "event": "summary", "files": totals.files, "done": totals.done, "skipped": totals.skipped,
                "failed": totals.failed, "audio_seconds": totals.audio_seconds, "wall_seconds": seconds,
                "utterances": totals.utterances, "guarded": totals.guarded,
                "entropy_before": before, "entropy_after": after,
            })
        });
        let worth_telling = totals.files > 1 || place.is_some();
        if !worth_telling || matches!(self.mode, ProgressMode::Json | ProgressMode::None) {
            return;
        }
        let mut line = format!("{} done", totals.done);
        if totals.skipped > 0 {
            line += &format!(", {} done before", totals.skipped);
        }
        if totals.failed > 0 {
            line += &format!(", {} failed", totals.failed);
        }
        let left = totals
            .files
            .saturating_sub(totals.done + totals.skipped + totals.failed);
        if left > 0 {
            line += &format!(", {left} left");
        }
        if totals.done > 0 {
            let audio = duration(totals.audio_seconds);
            line += &format!("; {audio} of audio in {} ({speed:.1}x real time)", duration(seconds));
        }
        if let (Some(before), Some(after)) = (before, after)
            && before != after
        {
            line += &format!("; mean entropy {before:.3} -> {after:.3}");
        }
        if totals.guarded > 0 {
            line += &format!("; {} of {} utterances guarded", totals.guarded, totals.utterances);
        }
        if let Some(place) = place {
            line += &format!("; written to {place}");
        }
        eprintln!("{line}");
    }
}
