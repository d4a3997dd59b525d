//! Streams for continual adaptation: utterances one after another, in blocks of one condition each.

use super::random::{shuffled, uniform};
use super::{Condition, ConditionError, Effect};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The published streams' signal-to-noise ratio in dB.
const PUBLISHED_SNR: f64 = 5.0;
/// Utterances in a block of `md-easy` and `md-hard`, and in the whole of `md-long`.
const PUBLISHED_BLOCK: usize = 500;
const PUBLISHED_TOTAL: usize = 10_000;
/// Utterances in a block of `md-long`.
const PUBLISHED_SEGMENT: (usize, usize) = (20, 500);

/// The MS-SNSD recordings of LibriSpeech-C; white noise stands for itself.
const AIR_CONDITIONER: &str = "AirConditioner";
const AIRPORT: &str = "AirportAnnouncements";
const BABBLE: &str = "Babble";
const COPY_MACHINE: &str = "CopyMachine";
const GAUSSIAN: &str = "gaussian";
const MUNCHING: &str = "Munching";
const NEIGHBOUR: &str = "Neighbor";
const SHUTTING_DOOR: &str = "ShuttingDoor";
const TYPING: &str = "Typing";
const VACUUM_CLEANER: &str = "VacuumCleaner";

/// The streams of DSUTA (Lin, Huang and Lee, EMNLP 2024), at 5 dB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NamedStream {
    /// Air conditioner, copy machine, typing, airport announcements, shutting door: a block each.
    MdEasy,
    /// White noise, munching, vacuum cleaner, babble, neighbour: a block each.
    MdHard,
    /// All ten in blocks of random length, 20 to 500 utterances, none twice in a row.
    MdLong,
}

impl NamedStream {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::MdEasy, Self::MdHard, Self::MdLong];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::MdEasy => "md-easy",
            Self::MdHard => "md-hard",
            Self::MdLong => "md-long",
        }
    }

    fn noises(self) -> &'static [&'static str] {
        match self {
            Self::MdEasy => &[AIR_CONDITIONER, COPY_MACHINE, TYPING, AIRPORT, SHUTTING_DOOR],
            Self::MdHard => &[GAUSSIAN, MUNCHING, VACUUM_CLEANER, BABBLE, NEIGHBOUR],
            Self::MdLong => &[
                GAUSSIAN,
                AIR_CONDITIONER,
                AIRPORT,
                BABBLE,
                COPY_MACHINE,
                MUNCHING,
                NEIGHBOUR,
                SHUTTING_DOOR,
                TYPING,
                VACUUM_CLEANER,
            ],
        }
    }
}

impl FromStr for NamedStream {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|stream| stream.name() == text).ok_or(())
    }
}

/// A run of utterances in one condition.
#[derive(Debug, Clone, PartialEq)]
pub struct Block {
    /// The condition.
    pub condition: Condition,
    /// How many utterances.
    pub utterances: usize,
}

/// A stream's blocks in their order.
#[derive(Debug, Clone, PartialEq)]
pub struct StreamPlan {
    /// For tables.
    pub name: String,
    /// From first to last.
    pub blocks: Vec<Block>,
}

/// Why there is no stream.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// A published stream's noises are not all there.
    #[error("{stream} needs noise named {missing} in {directory}; no file there has such a name")]
    MissingNoises {
        /// The stream.
        stream: &'static str,
        /// What is missing.
        missing: String,
        /// Where it was looked for.
        directory: String,
    },
    /// A file could not be read.
    #[error("{path}: {reason}")]
    Unreadable {
        /// The file or directory.
        path: String,
        /// Why.
        reason: std::io::Error,
    },
    /// A line of a stream's file that is none.
    #[error("{path}:{line}: {reason}; a line is a number of utterances and a condition, such as `50 rain.flac@5`")]
    Line {
        /// The file.
        path: String,
        /// Counted from 1.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// A file without a block.
    #[error(
        "{path}: there is no block in it; a line is a number of utterances and a condition, such as `50 rain.flac@5`"
    )]
    Empty {
        /// The file.
        path: String,
    },
}

impl StreamPlan {
    /// A published stream, its recordings looked up by name in `noises`. `length` is the utterances in a block (in the
    /// whole of `md-long`), where it is not the published one.
    pub fn published(
        stream: NamedStream,
        length: Option<usize>,
        noises: &Path,
        seed: u64,
    ) -> Result<Self, StreamError> {
        let conditions = find(stream, noises)?;
        let blocks = match stream {
            NamedStream::MdEasy | NamedStream::MdHard => {
                let utterances = length.unwrap_or(PUBLISHED_BLOCK);
                conditions
                    .into_iter()
                    .map(|condition| Block { condition, utterances })
                    .collect()
            }
            NamedStream::MdLong => segments(&conditions, length.unwrap_or(PUBLISHED_TOTAL), seed),
        };
        Ok(Self {
            name: stream.name().to_string(),
            blocks,
        })
    }

    /// One's own, from a file of lines `COUNT CONDITION`; `#` begins a comment, paths start at the file's directory.
    pub fn read(path: &Path) -> Result<Self, StreamError> {
        let shown = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|reason| StreamError::Unreadable {
            path: shown.clone(),
            reason,
        })?;
        let base = path.parent().unwrap_or(Path::new(""));
        let mut blocks = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            blocks.push(block(line, base).map_err(|reason| StreamError::Line {
                path: shown.clone(),
                line: index + 1,
                reason,
            })?);
        }
        if blocks.is_empty() {
            return Err(StreamError::Empty { path: shown });
        }
        Ok(Self {
            name: path
                .file_stem()
                .unwrap_or(path.as_os_str())
                .to_string_lossy()
                .into_owned(),
            blocks,
        })
    }

    /// Which utterances of a set of `count` the stream consists of, in its order: for each place the block and the
    /// utterance. The set is gone through in an order that `seed` decides, and again in another when it is used up.
    pub fn places(&self, count: usize, seed: u64) -> Vec<(usize, usize)> {
        let mut order = Vec::new();
        let mut round = 0_usize;
        let mut places = Vec::new();
        if count == 0 {
            return places;
        }
        for (block, of) in self.blocks.iter().enumerate() {
            for _ in 0..of.utterances {
                if order.is_empty() {
                    order = shuffled(seed, &["stream", &round.to_string()], count);
                    order.reverse();
                    round += 1;
                }
                places.extend(order.pop().map(|utterance| (block, utterance)));
            }
        }
        places
    }
}

fn block(line: &str, base: &Path) -> Result<Block, String> {
    let (count, condition) = line.split_once(char::is_whitespace).ok_or("there is no condition")?;
    let utterances = match count.parse::<usize>() {
        Ok(count) if (1..=1_000_000).contains(&count) => count,
        _ => return Err(format!("`{count}` is no number of utterances")),
    };
    let condition = Condition::parse(condition.trim(), base).map_err(|error: ConditionError| error.to_string())?;
    Ok(Block { condition, utterances })
}

fn find(stream: NamedStream, directory: &Path) -> Result<Vec<Condition>, StreamError> {
    let shown = directory.display().to_string();
    let list = || -> std::io::Result<Vec<PathBuf>> {
        let mut paths = std::fs::read_dir(directory)?
            .map(|entry| Ok(entry?.path()))
            .collect::<std::io::Result<Vec<_>>>()?;
        paths.sort();
        Ok(paths)
    };
    let paths = list().map_err(|reason| StreamError::Unreadable {
        path: shown.clone(),
        reason,
    })?;
    let (mut conditions, mut missing) = (Vec::new(), Vec::new());
    for &name in stream.noises() {
        let snr = PUBLISHED_SNR;
        if name == GAUSSIAN {
            conditions.push(Condition {
                effects: vec![Effect::Gaussian { snr }],
            });
            continue;
        }
        let has_name = |path: &&PathBuf| {
            path.file_stem()
                .is_some_and(|stem| stem.to_string_lossy().contains(name))
        };
        match paths.iter().find(has_name) {
            Some(path) => conditions.push(Condition {
                effects: vec![Effect::Noise {
                    path: path.clone(),
                    snr,
                }],
            }),
            None => missing.push(name),
        }
    }
    if missing.is_empty() {
        return Ok(conditions);
    }
    Err(StreamError::MissingNoises {
        stream: stream.name(),
        missing: missing.join(", "),
        directory: shown,
    })
}

/// Blocks of random length and condition, no condition twice in a row, `total` utterances in all.
fn segments(conditions: &[Condition], total: usize, seed: u64) -> Vec<Block> {
    let (low, high) = PUBLISHED_SEGMENT;
    let most = total / low + 1;
    let lengths = uniform(seed, &["md-long", "lengths"], low, high, most);
    // Of the others than the last one.
    let choices = uniform(seed, &["md-long", "noises"], 0, conditions.len() - 2, most);
    let mut blocks = Vec::new();
    let (mut left, mut last) = (total, conditions.len() - 1);
    for (length, choice) in lengths.into_iter().zip(choices) {
        if left == 0 {
            break;
        }
        last = if choice >= last { choice + 1 } else { choice };
        let utterances = length.min(left);
        left -= utterances;
        blocks.push(Block {
            condition: conditions[last].clone(),
            utterances,
        });
    }
    blocks
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noises(names: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a directory");
        for name in names {
            std::fs::write(dir.path().join(format!("{name}_1.wav")), "").expect("a file");
        }
        dir
    }

    #[test]
    fn the_published_streams_are_laid_out_as_published() {
        let names: Vec<&str> = NamedStream::MdLong
            .noises()
            .iter()
            .copied()
            .filter(|name| *name != GAUSSIAN)
            .collect();
        let dir = noises(&names);
        let plan = |stream, length| StreamPlan::published(stream, length, dir.path(), 1).expect("a stream");
        let easy = plan(NamedStream::MdEasy, None);
        let labels: Vec<String> = easy.blocks.iter().map(|block| block.condition.label()).collect();
        let expected = [
            "AirConditioner_1@5",
            "CopyMachine_1@5",
            "Typing_1@5",
            "AirportAnnouncements_1@5",
            "ShuttingDoor_1@5",
        ];
        assert_eq!(labels, expected);
        assert!(easy.blocks.iter().all(|block| block.utterances == 500));
        assert_eq!(
            plan(NamedStream::MdHard, Some(20)).blocks[0],
            Block {
                condition: "gaussian@5".parse().expect("a condition"),
                utterances: 20,
            }
        );
        let long = plan(NamedStream::MdLong, None);
        assert_eq!(long.blocks.iter().map(|block| block.utterances).sum::<usize>(), 10_000);
        assert!(
            long.blocks
                .windows(2)
                .all(|pair| pair[0].condition != pair[1].condition)
        );
        let (all_but_last, _) = long.blocks.split_at(long.blocks.len() - 1);
        assert!(all_but_last.iter().all(|block| (20..=500).contains(&block.utterances)));
        assert_ne!(
            long,
            StreamPlan::published(NamedStream::MdLong, None, dir.path(), 2).expect("a stream")
        );
    }

    #[test]
    fn missing_noises_are_named() {
        let dir = noises(&["AirConditioner", "CopyMachine", "ShuttingDoor"]);
        let error = StreamPlan::published(NamedStream::MdEasy, None, dir.path(), 1).expect_err("two are missing");
        assert!(error.to_string().contains("Typing, AirportAnnouncements"), "{error}");
    }

    #[test]
    fn a_file_of_blocks() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("day.stream");
        std::fs::write(&path, "# a day\n2 clean\n\n3 noises/rain fall.flac@5\n").expect("a file");
        let plan = StreamPlan::read(&path).expect("a stream");
        assert_eq!(plan.name, "day");
        assert_eq!(
            plan.blocks.iter().map(|block| block.utterances).collect::<Vec<_>>(),
            [2, 3]
        );
        assert_eq!(
            plan.blocks[1].condition.effects,
            [Effect::Noise {
                path: dir.path().join("noises/rain fall.flac"),
                snr: 5.0
            }]
        );
        for (text, expected) in [
            ("x clean", ":1: `x` is no number"),
            ("3", "no condition"),
            ("0 clean", "no number"),
            ("1 clean\n2 what", ":2: `what`"),
            ("# nothing", "no block"),
        ] {
            std::fs::write(&path, text).expect("a file");
            let error = StreamPlan::read(&path).expect_err(text).to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn every_utterance_comes_once_before_any_comes_twice() {
        let block = |utterances| Block {
            condition: Condition::clean(),
            utterances,
        };
        let plan = StreamPlan {
            name: "x".into(),
            blocks: vec![block(4), block(7)],
        };
        let places = plan.places(5, 1);
        assert_eq!(places.len(), 11);
        assert_eq!(places.iter().filter(|(block, _)| *block == 0).count(), 4);
        let first: std::collections::HashSet<_> = places[..5].iter().map(|(_, utterance)| utterance).collect();
        assert_eq!(first.len(), 5);
        assert_ne!(places, plan.places(5, 2));
        assert!(plan.places(0, 1).is_empty());
    }
}
