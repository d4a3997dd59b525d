//! What is shown: events as JSON, settled utterances as lines, or a terminal that changes as somebody speaks.

use crate::Word;
use crate::live::{Event, Partial, Revision};
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

/// Nobody reads any more.
pub(super) struct Closed;

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
            line.set_style(ProgressStyle::with_template("{wide_msg}").unwrap_or_else(|_| ProgressStyle::default_bar()));
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
    pub(super) fn event(&mut self, event: &Event) -> Result<(), Closed> {
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
        terminal.status.set_message(format!(
            "{DIM}{} [{}{}] {}{}{PLAIN}",
            clock(status.clock),
            "#".repeat(cells),
            " ".repeat(METER - cells),
            if status.speech { "speech" } else { "silence" },
            terminal.adapted,
        ));
    }

    /// A line on standard error that does not disturb the others.
    pub(super) fn tell(&self, line: &str) {
        match self {
            Self::Terminal(terminal) => terminal.all.suspend(|| crate::cli::tell(line)),
            _ => crate::cli::tell(line),
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
                    let words: Vec<String> = revision.result.words.iter().map(shaded).collect();
                    let line = format!("{DIM}{}{mark}{PLAIN}{}", times(revision), words.join(" "));
                    let _ = self.all.println(line);
                }
            }
            Event::Failed { message, .. } => {
                let _ = self.all.println(format!("error: {message}"));
            }
        }
        let waiting: Vec<&str> = self.finals.iter().map(|(_, text)| text.as_str()).collect();
        self.waiting.set_message(format!("{DIM}{}{PLAIN}", waiting.join(" / ")));
    }
}

fn columns() -> usize {
    usize::from(console::Term::stdout().size().1).max(20)
}

/// The end of a partial hypothesis, as much of it as fits on a line.
fn shown(partial: &Partial, columns: usize) -> String {
    let mut room = columns.saturating_sub(2);
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

fn print(line: &str) -> Result<(), Closed> {
    let mut stdout = std::io::stdout().lock();
    match writeln!(stdout, "{line}").and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(Closed),
        // A full disk, say: what is kept with --save is kept all the same.
        _ => Ok(()),
    }
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
        assert_eq!(shown(&partial, 13), format!("{BOLD}TWO{PLAIN} {DIM}THREE{PLAIN} "));
        assert_eq!(shown(&partial, 80).matches(PLAIN).count(), 3);
    }

    #[test]
    fn clocks_carry() {
        assert_eq!(clock(3599.96), "1:00:00.0");
    }
}
