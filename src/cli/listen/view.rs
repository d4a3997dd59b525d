//! What is shown: events as JSON, settled utterances as lines, or a terminal that changes as somebody speaks.

use crate::Word;
use crate::live::{Event, Partial, Revision};
use console::{measure_text_width, truncate_str};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{ErrorKind, IsTerminal, Write};

const DIM: &str = "\x1b[2m";
const BOLD: &str = "\x1b[1m";
const PLAIN: &str = "\x1b[0m";
/// Words below this confidence are dim.
const SURE: f32 = 0.8;
/// Cells of the level meter, and the level of its left end in decibels below full scale.
const METER: usize = 10;
const METER_FLOOR: f32 = -60.0;

/// Columns at a line's end that stay free: a terminal that shows Ctrl-C as `^C` would begin a new line there, and lines
/// drawn before would stay.
const MARGIN: usize = 4;
/// Columns before the second line of a settled utterance.
const INDENT: usize = 4;

/// What was to be shown could not be.
pub(super) enum Unshown {
    /// Nobody reads any more.
    Closed,
    /// A full disk, say.
    Failed(std::io::Error),
}

/// How events are shown.
pub(super) enum View {
    Json,
    Plain,
    Terminal(Box<Terminal>),
}

/// What the status line tells.
pub(super) struct Status {
    /// Seconds heard.
    pub(super) clock: f64,
    /// Root mean square of the last samples.
    pub(super) level: f32,
    /// Whether somebody is speaking.
    pub(super) speech: bool,
}

/// Lines that change below lines that stay.
pub(super) struct Terminal {
    all: MultiProgress,
    waiting: ProgressBar,
    partial: ProgressBar,
    status: ProgressBar,
    /// Finals that are not adapted to yet, with their utterances.
    finals: Vec<(u64, String)>,
    adapted: String,
}

impl View {
    pub(super) fn new(json: bool) -> Self {
        if json {
            return Self::Json;
        }
        if !std::io::stdout().is_terminal() {
            return Self::Plain;
        }
        let all = MultiProgress::with_draw_target(ProgressDrawTarget::stdout());
        let line = || {
            let line = all.add(ProgressBar::no_length());
            // The template is a constant: it parses.
            line.set_style(ProgressStyle::with_template("{msg}").unwrap_or_else(|_| ProgressStyle::default_bar()));
            line
        };
        let (waiting, partial, status) = (line(), line(), line());
        Self::Terminal(Box::new(Terminal {
            waiting,
            partial,
            status,
            all,
            finals: Vec::new(),
            adapted: String::new(),
        }))
    }

    /// Shows an event.
    pub(super) fn event(&mut self, event: &Event) -> Result<(), Unshown> {
        match self {
            Self::Json => print(&serde_json::to_string(event).unwrap_or_default()),
            Self::Plain => match event {
                Event::Revision(revision) if !revision.result.text.is_empty() => {
                    print(&format!("{} {}", times(revision), revision.result.text))
                }
                _ => Ok(()),
            },
            Self::Terminal(terminal) => {
                terminal.event(event);
                Ok(())
            }
        }
    }

    /// Brings the status line up to date.
    pub(super) fn status(&self, status: &Status) {
        let Self::Terminal(terminal) = self else { return };
        let decibels = 20.0 * status.level.max(1e-6).log10();
        let cells = ((1.0 - decibels / METER_FLOOR).clamp(0.0, 1.0) * METER as f32).round() as usize;
        let line = format!(
            "{DIM}{} [{}{}] {}{}{PLAIN}",
            clock(status.clock),
            "#".repeat(cells),
            " ".repeat(METER - cells),
            if status.speech { "speech" } else { "silence" },
            terminal.adapted,
        );
        terminal.status.set_message(fitted(&line, columns()));
    }

    /// A line on standard error that does not disturb the others.
    pub(super) fn tell(&self, line: &str) {
        match self {
            Self::Terminal(terminal) => terminal.all.suspend(|| crate::cli::tell(line)),
            _ => crate::cli::tell(line),
        }
    }

    /// After Ctrl-C, while the last words are recognised.
    pub(super) fn finishing(&self) {
        if let Self::Terminal(terminal) = self {
            let line = format!("{DIM}finishing; Ctrl-C once more ends at once{PLAIN}");
            terminal.status.set_message(fitted(&line, columns()));
        }
    }

    /// Nothing changes any more.
    pub(super) fn end(&mut self) {
        if let Self::Terminal(terminal) = self {
            let _ = terminal.all.clear();
        }
    }
}

impl Terminal {
    fn event(&mut self, event: &Event) {
        match event {
            Event::Partial(partial) => self.partial.set_message(shown(partial, columns())),
            Event::Final(is_final) => {
                self.partial.set_message("");
                if !is_final.text.is_empty() {
                    self.finals.push((is_final.utterance, is_final.text.clone()));
                }
            }
            Event::Revision(revision) => {
                self.finals.retain(|(utterance, _)| *utterance != revision.utterance);
                self.adapted = adapted(revision);
                if !revision.result.text.is_empty() {
                    let mark = if revision.changed { '~' } else { ' ' };
                    let begin = format!("{DIM}{}{mark}{PLAIN}", times(revision));
                    let words = revision.result.words.iter().map(shaded);
                    let _ = self.all.println(wrapped(begin, words, columns()));
                }
            }
            // It is told on standard error.
            Event::Failed { .. } => {}
        }
        let waiting: Vec<&str> = self.finals.iter().map(|(_, text)| text.as_str()).collect();
        let line = format!("{DIM}{}{PLAIN}", waiting.join(" / "));
        self.waiting.set_message(fitted(&line, columns()));
    }
}

fn columns() -> usize {
    usize::from(console::Term::stdout().size().1).max(20)
}

/// The beginning of a line, as much of it as fits.
fn fitted(line: &str, columns: usize) -> String {
    truncate_str(line, columns.saturating_sub(MARGIN), "").into_owned() + PLAIN
}

/// Words behind a beginning, in as many lines as they need.
fn wrapped(begin: String, words: impl Iterator<Item = String>, columns: usize) -> String {
    let mut width = measure_text_width(&begin);
    let (mut text, mut is_first) = (begin, true);
    for word in words {
        let long = measure_text_width(&word) + usize::from(!is_first);
        if !is_first && width + long > columns {
            text.push('\n');
            text.push_str(&" ".repeat(INDENT));
            width = INDENT + long - 1;
        } else {
            if !is_first {
                text.push(' ');
            }
            width += long;
        }
        text.push_str(&word);
        is_first = false;
    }
    text
}

/// The end of a partial hypothesis, as much of it as fits on a line.
fn shown(partial: &Partial, columns: usize) -> String {
    let mut room = columns.saturating_sub(MARGIN);
    let mut first = partial.words.len();
    for word in partial.words.iter().rev() {
        let width = word.word.chars().count() + 1;
        if width > room {
            break;
        }
        (room, first) = (room - width, first - 1);
    }
    let mut line = String::new();
    for (index, word) in partial.words.iter().enumerate().skip(first) {
        let style = if index < partial.stable { BOLD } else { DIM };
        line.push_str(&format!("{style}{}{PLAIN} ", word.word));
    }
    line
}

fn shaded(word: &Word) -> String {
    if word.confidence < SURE {
        format!("{DIM}{}{PLAIN}", word.word)
    } else {
        word.word.clone()
    }
}

fn adapted(revision: &Revision) -> String {
    let mut line = String::new();
    if let (Some(before), Some(after)) = (revision.result.entropy_before, revision.result.entropy_after) {
        line = format!(
            "  entropy {before:.3} -> {after:.3} in {} of {} steps",
            revision.result.steps, revision.allowed_steps
        );
    }
    if let Some(carried) = &revision.result.carried {
        line.push_str(&format!("  carried {} updates", carried.updates));
        if carried.reset.is_some() {
            line.push_str(", reset");
        }
    }
    line.push_str(&format!("  lag {:.1} s", revision.delay));
    line
}

fn times(revision: &Revision) -> String {
    format!("[{} - {}]", clock(revision.result.start), clock(revision.result.end))
}

fn clock(seconds: f64) -> String {
    let tenths = (seconds * 10.0).round() as u64;
    format!(
        "{}:{:02}:{:02}.{}",
        tenths / 36_000,
        tenths / 600 % 60,
        tenths / 10 % 60,
        tenths % 10
    )
}

fn print(line: &str) -> Result<(), Unshown> {
    let mut stdout = std::io::stdout().lock();
    let printed = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
    printed.map_err(|error| match error.kind() {
        ErrorKind::BrokenPipe => Unshown::Closed,
        _ => Unshown::Failed(error),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partial_shows_its_newest_words() {
        let words = ["ONE", "TWO", "THREE"].map(|word| Word {
            word: word.into(),
            start: 0.0,
            end: 0.0,
            confidence: 1.0,
        });
        let partial = Partial {
            utterance: 1,
            start: 0.0,
            end: 1.0,
            text: String::new(),
            stable: 2,
            words: words.into(),
            delay: 0.0,
        };
        assert_eq!(shown(&partial, 15), format!("{BOLD}TWO{PLAIN} {DIM}THREE{PLAIN} "));
        assert_eq!(shown(&partial, 80).matches(PLAIN).count(), 3);
    }

    /// Not within a word, as a terminal would.
    #[test]
    fn settled_lines_break_between_words() {
        let words = [
            "ONE",
            "\x1b[2mTWO\x1b[0m",
            "THREE",
            "FOUR",
            "INCOMPREHENSIBILITIES",
            "SIX",
        ]
        .map(String::from);
        let text = wrapped("[begin] ".into(), words.into_iter(), 17);
        let plain = console::strip_ansi_codes(&text).into_owned();
        assert_eq!(
            plain,
            "[begin] ONE TWO\n    THREE FOUR\n    INCOMPREHENSIBILITIES\n    SIX"
        );
        assert_eq!(measure_text_width(&fitted(&text, 14)), 10);
    }

    #[test]
    fn clocks_carry() {
        assert_eq!(clock(3599.96), "1:00:00.0");
    }
}
