//! `--save DIR`: audio, captions and events on disk as they come. Each write is complete in itself and goes to the
//! system at once, so that a process that is killed at any moment loses nothing that was shown as committed.

use crate::audio::SAMPLE_RATE;
use crate::audio::mix::{wav_writer, write_samples};
use crate::live::{Event, Final};
use crate::output::{Document, Format};
use crate::{AdaptationConfig, ModelInfo, Transcript, Utterance};
use hound::WavWriter;
use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Error, ErrorKind, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// A wav file's lengths have 32 bits: before that is full, the next file begins.
const MOST_BYTES: u64 = (u32::MAX - 65_536) as u64;

/// The files of one recording.
pub(super) struct Recording {
    folder: PathBuf,
    audio: Wav,
    files: u32,
    events: File,
    captions: Captions,
    /// Committed words of the open utterance that are in the events already.
    stable: (u64, usize),
}

impl Recording {
    /// Begins a recording in a folder that holds none.
    pub(super) fn begin(folder: &Path, model: &ModelInfo, settings: &AdaptationConfig) -> std::io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let mut events = new_file(&folder.join("events.jsonl"))?;
        let begin = serde_json::json!({
            "type": "begin", "version": crate::VERSION, "model": model, "settings": settings, "sample_rate": SAMPLE_RATE,
        });
        events.write_all(format!("{begin}\n").as_bytes())?;
        Ok(Self {
            audio: Wav::create(&folder.join("audio.wav"))?,
            files: 1,
            events,
            captions: Captions {
                file: new_file(&folder.join("captions.srt"))?,
                model: model.clone(),
                settings: settings.clone(),
                cues: 0,
                bytes: 0,
                open: Vec::new(),
            },
            folder: folder.to_path_buf(),
            stable: (0, 0),
        })
    }

    /// More samples; before the events that come of them.
    pub(super) fn samples(&mut self, samples: &[f32]) -> std::io::Result<()> {
        if self.audio.bytes() + 2 * samples.len() as u64 > MOST_BYTES {
            self.files += 1;
            let name = format!("audio-{}.wav", self.files);
            self.audio = Wav::create(&self.folder.join(name))?;
        }
        self.audio.write(samples)
    }

    /// An event. Of partials only those that commit something are kept.
    pub(super) fn event(&mut self, event: &Event) -> std::io::Result<()> {
        match event {
            Event::Partial(partial) => {
                if (partial.utterance, partial.stable) == self.stable || partial.stable == 0 {
                    return Ok(());
                }
                self.stable = (partial.utterance, partial.stable);
            }
            Event::Final(is_final) => self.captions.add(is_final)?,
            Event::Revision(revision) => self.captions.revise(revision.utterance, &revision.result)?,
            Event::Failed { utterance, .. } => self.captions.settle(*utterance)?,
        }
        let line = serde_json::to_string(event)? + "\n";
        self.events.write_all(line.as_bytes())?;
        // Against a power cut, too: a few times a minute, that is cheap.
        if matches!(event, Event::Final(_) | Event::Revision(_)) {
            self.events.sync_data()?;
        }
        Ok(())
    }

    /// The end.
    pub(super) fn end(&mut self) -> std::io::Result<()> {
        self.audio.file.sync_all()?;
        self.events.sync_all()?;
        self.captions.file.sync_all()
    }
}

fn new_file(path: &Path) -> std::io::Result<File> {
    let file = OpenOptions::new().write(true).create_new(true).open(path);
    file.map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => Error::new(
            error.kind(),
            format!("{} is there already; give another directory", path.display()),
        ),
        _ => error,
    })
}

/// A wav file that is whole after every write.
struct Wav {
    writer: WavWriter<BufWriter<File>>,
    /// The same file.
    file: File,
}

impl Wav {
    fn create(path: &Path) -> std::io::Result<Self> {
        let file = new_file(path)?;
        let writer = wav_writer(BufWriter::new(file.try_clone()?))?;
        let mut wav = Self { writer, file };
        wav.write(&[])?;
        Ok(wav)
    }

    fn write(&mut self, samples: &[f32]) -> std::io::Result<()> {
        write_samples(&mut self.writer, samples)
    }

    fn bytes(&self) -> u64 {
        2 * u64::from(self.writer.len())
    }
}

/// captions.srt: appended to with each final; a revision rewrites the end of the file, from its utterance on.
struct Captions {
    file: File,
    model: ModelInfo,
    settings: AdaptationConfig,
    /// Cues, and bytes, of the utterances that will not change any more.
    cues: usize,
    bytes: u64,
    /// The others: their number, what they say now, and whether that is for good.
    open: Vec<(u64, Utterance, bool)>,
}

impl Captions {
    fn add(&mut self, is_final: &Final) -> std::io::Result<()> {
        let utterance = Utterance {
            text: is_final.text.clone(),
            words: is_final.words.clone(),
            ..Utterance::empty(is_final.start, is_final.end)
        };
        self.open.push((is_final.utterance, utterance, false));
        self.write()
    }

    fn revise(&mut self, number: u64, result: &Utterance) -> std::io::Result<()> {
        if let Some(open) = self.open.iter_mut().find(|(of, ..)| *of == number) {
            open.1 = result.clone();
        }
        self.settle(number)
    }

    /// An utterance stays as it is.
    fn settle(&mut self, number: u64) -> std::io::Result<()> {
        if let Some(open) = self.open.iter_mut().find(|(of, ..)| *of == number) {
            open.2 = true;
        }
        self.write()?;
        let settled = self.open.iter().take_while(|(.., settled)| *settled).count();
        for (_, utterance, _) in self.open.drain(..settled).collect::<Vec<_>>() {
            let text = self.render(&[utterance]);
            self.cues += text.matches(" --> ").count();
            self.bytes += text.len() as u64;
        }
        Ok(())
    }

    /// Cues of some utterances, each utterance's by themselves, numbered on from the settled ones.
    fn render(&self, utterances: &[Utterance]) -> String {
        let mut number = self.cues;
        let mut out = String::new();
        for utterance in utterances {
            let transcript = Transcript {
                utterances: vec![utterance.clone()],
                duration: utterance.end,
                language: None,
            };
            let document = Document {
                file: "",
                transcript: &transcript,
                model: &self.model,
                settings: &self.settings,
                decoding: None,
                stream: None,
                warnings: &[],
            };
            for cue in Format::Srt.render(&document).split_terminator("\n\n") {
                number += 1;
                let rest = cue.split_once('\n').map_or("", |(_, rest)| rest);
                out.push_str(&format!("{number}\n{rest}\n\n"));
            }
        }
        out
    }

    fn write(&mut self) -> std::io::Result<()> {
        let open: Vec<Utterance> = self.open.iter().map(|(_, utterance, _)| utterance.clone()).collect();
        let text = self.render(&open);
        self.file.seek(SeekFrom::Start(self.bytes))?;
        // Written over what was there, then cut: at no moment is a caption that was there gone.
        self.file.write_all(text.as_bytes())?;
        self.file.set_len(self.bytes + text.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Word;
    use crate::live::{Revision, Skipped};

    fn words(text: &str, start: f64) -> Vec<Word> {
        let word = |(index, word): (usize, &str)| Word {
            word: word.into(),
            start: start + index as f64,
            end: start + index as f64 + 0.5,
            confidence: 0.9,
        };
        text.split(' ').enumerate().map(word).collect()
    }

    fn is_final(utterance: u64, text: &str) -> Event {
        let start = 10.0 * utterance as f64;
        Event::Final(Final {
            utterance,
            start,
            end: start + 5.0,
            text: text.into(),
            words: words(text, start),
            delay: 0.1,
        })
    }

    fn revision(utterance: u64, text: &str) -> Event {
        let start = 10.0 * utterance as f64;
        Event::Revision(Box::new(Revision {
            utterance,
            changed: true,
            skipped: Some(Skipped::Behind),
            allowed_steps: 0,
            delay: 0.2,
            result: Utterance {
                text: text.into(),
                words: words(text, start),
                ..Utterance::empty(start, start + 5.0)
            },
        }))
    }

    fn recording(folder: &Path) -> Recording {
        let model = ModelInfo {
            name: String::new(),
            identity: String::new(),
            architecture: String::new(),
            parameters: 0,
            vocabulary: 0,
        };
        Recording::begin(folder, &model, &AdaptationConfig::none()).unwrap()
    }

    #[test]
    fn what_is_on_disk_is_whole_after_every_event() {
        let folder = tempfile::tempdir().unwrap();
        let mut recording = recording(folder.path());
        let captions = || std::fs::read_to_string(folder.path().join("captions.srt")).unwrap();
        recording.samples(&[0.5; 20_000]).unwrap();
        recording.event(&is_final(1, "ONE TWO")).unwrap();
        recording.event(&is_final(2, "THREE")).unwrap();
        assert!(captions().contains("ONE TWO") && captions().contains("THREE"));
        recording.event(&revision(1, "WON")).unwrap();
        let text = captions();
        assert!(
            text.starts_with("1\n00:00:10,000 --> ") && text.contains("WON\n\n2\n00:00:20,000"),
            "{text}"
        );
        assert!(!text.contains("ONE"), "{text}");
        recording.event(&revision(2, "TREE")).unwrap();
        recording.event(&is_final(3, "FOUR")).unwrap();
        assert!(captions().contains("TREE\n\n3\n00:00:30,000"), "{}", captions());
        // Not ended, as after kill -9: the audio is there, to the last sample.
        let samples = crate::audio::read_all(&folder.path().join("audio.wav")).unwrap();
        assert_eq!(samples.len(), 20_000);
        let events = std::fs::read_to_string(folder.path().join("events.jsonl")).unwrap();
        assert_eq!(events.lines().count(), 6);
        assert!(
            events
                .lines()
                .all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok())
        );
    }

    #[test]
    fn another_recording_is_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        drop(recording(folder.path()));
        let model = ModelInfo {
            name: String::new(),
            identity: String::new(),
            architecture: String::new(),
            parameters: 0,
            vocabulary: 0,
        };
        let error = Recording::begin(folder.path(), &model, &AdaptationConfig::none())
            .err()
            .unwrap();
        assert!(error.to_string().contains("another directory"), "{error}");
    }
}
