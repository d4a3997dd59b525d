//! What is wrong with a test set, all of it at once, with a cap.

use std::fmt::{self, Display};
use std::path::{Path, PathBuf};

/// How many examples of one kind are told.
const EXAMPLES: usize = 10;

/// Why a test set cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {problems}", path.display())]
pub struct TestSetError {
    /// The set.
    pub path: PathBuf,
    /// Everything that is wrong, one kind a line, with the first examples of each.
    pub problems: String,
}

impl TestSetError {
    pub(super) fn new(path: &Path, problem: impl Display) -> Self {
        Self {
            path: path.to_path_buf(),
            problems: problem.to_string(),
        }
    }
}

/// One kind of problem.
#[derive(Debug)]
struct Kind {
    what: &'static str,
    examples: Vec<String>,
    count: usize,
}

impl Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.count == 1 {
            return write!(f, "{}: {}", self.what, self.examples[0]);
        }
        write!(f, "{} ({} times): {}", self.what, self.count, self.examples.join(", "))?;
        match self.count - self.examples.len() {
            0 => Ok(()),
            more => write!(f, ", and {more} more"),
        }
    }
}

/// Collects problems by kind.
#[derive(Debug, Default)]
pub(super) struct Problems {
    errors: Vec<Kind>,
    warnings: Vec<Kind>,
    notes: Vec<String>,
}

impl Problems {
    /// Something that makes the set unusable.
    pub(super) fn error(&mut self, what: &'static str, example: impl Display) {
        add(&mut self.errors, what, example);
    }

    /// Something that does not.
    pub(super) fn warning(&mut self, what: &'static str, example: impl Display) {
        add(&mut self.warnings, what, example);
    }

    /// A choice that was made.
    pub(super) fn note(&mut self, note: impl Display) {
        self.notes.push(note.to_string());
    }

    /// The warnings, or everything that is wrong.
    pub(super) fn finish(self, path: &Path, empty: bool) -> Result<Vec<String>, TestSetError> {
        let mut lines: Vec<String> = self.errors.iter().map(Kind::to_string).collect();
        if lines.is_empty() && empty {
            lines.push("there is no utterance in it".into());
        }
        match lines.as_slice() {
            [] => {
                let warnings = self.warnings.iter().map(Kind::to_string);
                Ok(self.notes.into_iter().chain(warnings).collect())
            }
            [one] => Err(TestSetError::new(path, one)),
            several => Err(TestSetError::new(path, format!("\n  {}", several.join("\n  ")))),
        }
    }
}

fn add(kinds: &mut Vec<Kind>, what: &'static str, example: impl Display) {
    let kind = match kinds.iter_mut().position(|kind| kind.what == what) {
        Some(index) => &mut kinds[index],
        None => {
            kinds.push(Kind {
                what,
                examples: Vec::new(),
                count: 0,
            });
            kinds.last_mut().expect("just added")
        }
    };
    kind.count += 1;
    if kind.examples.len() < EXAMPLES {
        kind.examples.push(example.to_string());
    }
}

/// The file's text, or an error among the problems. Bytes that are no UTF-8 are replaced, with a warning.
pub(super) fn read_text(path: &Path, problems: &mut Problems) -> Option<String> {
    match std::fs::read(path) {
        Ok(bytes) => {
            let text = String::from_utf8_lossy(&bytes);
            if text.contains('\u{fffd}') {
                problems.warning("text that is not UTF-8", path.display());
            }
            Some(text.trim_start_matches('\u{feff}').to_string())
        }
        Err(error) => {
            problems.error("unreadable file", format_args!("{}: {error}", path.display()));
            None
        }
    }
}
