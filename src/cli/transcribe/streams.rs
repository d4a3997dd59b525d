//! Streams: which recordings a continual method goes through in order, carrying what it learned, and where each stream
//! is kept between runs.

use super::inputs::{Input, Source};
use super::outputs::OutputDir;
use crate::adapt::{StreamError, StreamState};
use crate::cli::Failure;
use crate::{ModelInfo, Session};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// What makes recordings one stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum StreamBy {
    /// All are one.
    All,
    /// Those of one directory.
    Directory,
    /// Those for which the manifest has the same value in this field.
    Field(String),
}

impl std::str::FromStr for StreamBy {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "all" => Self::All,
            "directory" => Self::Directory,
            field => Self::Field(field.into()),
        })
    }
}

/// Recordings that are taken in order by one worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stream {
    /// What they have in common; `None` where nothing is carried from one to another.
    pub(super) key: Option<String>,
    /// Indices of the inputs.
    pub(super) inputs: Vec<usize>,
}

/// Every recording by itself, as an episodic method takes them.
pub(super) fn singly(inputs: usize) -> Vec<Stream> {
    let single = |index| Stream {
        key: None,
        inputs: vec![index],
    };
    (0..inputs).map(single).collect()
}

/// The streams, in the order of their first recordings.
pub(super) fn group(inputs: &[Input], by: &StreamBy, manifest: Option<&Path>) -> Result<Vec<Stream>, Failure> {
    let fields = match (by, manifest) {
        (StreamBy::Field(field), Some(manifest)) => read_manifest(manifest, field)?,
        (StreamBy::Field(field), None) => {
            return Err(Failure::usage(format_args!(
                "--stream-by {field}: a field needs --manifest FILE; without one, choose all or directory"
            )));
        }
        _ => HashMap::new(),
    };
    let mut streams: Vec<Stream> = Vec::new();
    let mut places = HashMap::new();
    for (index, input) in inputs.iter().enumerate() {
        let key = match by {
            StreamBy::All => "all".to_string(),
            StreamBy::Directory => folder(input).display().to_string(),
            StreamBy::Field(field) => {
                let value = identity(input).and_then(|path| fields.get(&path)).cloned();
                value.ok_or_else(|| {
                    Failure::failed(format_args!(
                        "{}: the manifest has no `{field}` for it; add it, or choose another --stream-by",
                        input.name
                    ))
                })?
            }
        };
        let place = *places.entry(key.clone()).or_insert_with(|| {
            streams.push(Stream {
                key: Some(key),
                inputs: Vec::new(),
            });
            streams.len() - 1
        });
        streams[place].inputs.push(index);
    }
    Ok(streams)
}

/// The directory a recording is in, as the user would write it: also what `--reset oracle` takes for its domain.
pub(super) fn folder(input: &Input) -> PathBuf {
    match &input.source {
        Source::File(path) => path.parent().map_or_else(PathBuf::new, PathBuf::from),
        Source::Stdin => PathBuf::from("-"),
    }
}

fn identity(input: &Input) -> Option<PathBuf> {
    match &input.source {
        Source::File(path) => path.canonicalize().ok(),
        Source::Stdin => None,
    }
}

/// A field by recording. A manifest has a JSON object a line, with the recording's path in `audio_filepath`, relative
/// to the manifest.
fn read_manifest(path: &Path, field: &str) -> Result<HashMap<PathBuf, String>, Failure> {
    let broken = |reason: String| Failure::failed(format_args!("manifest {}: {reason}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| broken(error.to_string()))?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let mut fields = HashMap::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let number = number + 1;
        let entry: serde_json::Value =
            serde_json::from_str(line).map_err(|error| broken(format!("line {number}: {error}")))?;
        let audio = entry["audio_filepath"]
            .as_str()
            .ok_or_else(|| broken(format!("line {number} has no `audio_filepath`")))?;
        let value = match &entry[field] {
            serde_json::Value::String(value) => value.clone(),
            value @ (serde_json::Value::Number(_) | serde_json::Value::Bool(_)) => value.to_string(),
            _ => continue,
        };
        if let Ok(path) = folder.join(audio).canonicalize() {
            fields.insert(path, value);
        }
    }
    Ok(fields)
}

/// A stream being worked on: what it has heard, and the state after that.
pub(super) struct Course {
    /// Where the state is kept; `None` when it is not.
    file: Option<PathBuf>,
    /// After the last whole recording; `None` at the stream's start.
    state: Option<StreamState>,
    /// The recordings heard, by content.
    heard: Vec<String>,
    /// Whether a session holds the state.
    placed: bool,
    /// The directory of the last recording heard.
    folder: Option<PathBuf>,
}

/// What stands for a recording's content where that cannot be read twice.
const PIPED: &str = "piped";

impl Course {
    /// A stream that goes on from the user's file, which is refused when it is another model's or setting's.
    pub(super) fn from_file(
        file: &Path,
        model: &ModelInfo,
        settings: &crate::AdaptationConfig,
    ) -> Result<Self, StreamError> {
        let mut course = Self::new(Some(file.to_path_buf()));
        // A file that is not there yet begins a stream; one that cannot be read must not be written over.
        if file.symlink_metadata().is_ok() {
            let state = StreamState::load(file)?;
            state.check(&model.identity, settings)?;
            course.go_to(state);
        }
        Ok(course)
    }

    /// A stream at its start.
    pub(super) fn new(file: Option<PathBuf>) -> Self {
        Self {
            file,
            state: None,
            heard: Vec::new(),
            placed: false,
            folder: None,
        }
    }

    fn go_to(&mut self, state: StreamState) {
        self.heard.clone_from(&state.recordings);
        self.state = Some(state);
    }

    /// Goes on where an earlier run into the directory stopped: how many of the recordings at the beginning are done.
    /// `contents` has theirs. With a state of the user's, those it has heard last; otherwise all it has heard.
    pub(super) fn resume(
        &mut self,
        directory: &OutputDir,
        inputs: &[usize],
        contents: &[Option<String>],
        settings_key: &str,
        of_user: bool,
    ) -> usize {
        let all_done = |base: &[String], count: usize| {
            let mut before = base.to_vec();
            inputs.iter().zip(contents).take(count).all(|(index, content)| {
                let Some(content) = content else { return false };
                let done = directory.is_done(*index, content, &key_after(settings_key, &before));
                before.push(content.clone());
                done
            })
        };
        let is_end_of = |heard: &[String], count: usize| {
            let end = heard[heard.len() - count..].iter().map(Some);
            end.eq(contents[..count].iter().map(Option::as_ref))
        };
        if !of_user {
            if let Some(state) = self.file.as_deref().and_then(|file| StreamState::load(file).ok()) {
                let count = state.recordings.len();
                if count <= inputs.len() && is_end_of(&state.recordings, count) && all_done(&[], count) {
                    self.go_to(state);
                    return count;
                }
            }
            // Without the state the rest cannot go on, unless there is no rest.
            return if all_done(&[], inputs.len()) { inputs.len() } else { 0 };
        }
        let most = self.heard.len().min(inputs.len());
        (1..=most)
            .rev()
            .find(|count| is_end_of(&self.heard, *count) && all_done(&self.heard[..self.heard.len() - count], *count))
            .unwrap_or(0)
    }

    /// The settings' key of the next recording's outputs: they depend on what was heard before.
    pub(super) fn settings_key(&self, settings_key: &str) -> String {
        key_after(settings_key, &self.heard)
    }

    /// Brings a session to where the stream is, for a recording of this directory.
    pub(super) fn place(&mut self, session: &mut Session, folder: &Path) -> Result<(), crate::Error> {
        if !self.placed {
            match &self.state {
                Some(state) => session.resume_stream(state)?,
                None => session.begin_stream(),
            }
        }
        // Until the recording is heard to its end, the session is ahead of the stream.
        self.placed = false;
        if self.folder.as_deref().is_some_and(|last| last != folder) {
            session.domain_changed();
        }
        Ok(())
    }

    /// The recording was heard to its end.
    pub(super) fn heard(&mut self, session: &mut Session, content: Option<&str>, folder: PathBuf) {
        self.heard.push(content.unwrap_or(PIPED).to_string());
        self.folder = Some(folder);
        let mut state = session.stream_state();
        state.recordings.clone_from(&self.heard);
        (self.state, self.placed) = (Some(state), true);
    }

    /// It was heard by an earlier run.
    pub(super) fn skipped(&mut self, folder: PathBuf) {
        self.folder = Some(folder);
    }

    /// Writes the state to its file, if it has one.
    pub(super) fn save(&self) -> Result<(), String> {
        match (&self.file, &self.state) {
            (Some(file), Some(state)) => state
                .save(file)
                .map_err(|error| format!("cannot write the stream's state {}: {error}", file.display())),
            _ => Ok(()),
        }
    }
}

fn key_after(settings_key: &str, heard: &[String]) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(settings_key.as_bytes());
    for content in heard {
        hasher.update(content.as_bytes());
        hasher.update(b",");
    }
    hasher.finalize().to_hex().to_string()
}

/// The name of a stream's file in an output directory.
pub(super) fn file_name(key: &str) -> String {
    format!(
        ".aurist-stream-{}.safetensors",
        &blake3::hash(key.as_bytes()).to_hex()[..16]
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(path: &Path) -> Input {
        Input {
            source: Source::File(path.into()),
            name: path.display().to_string(),
            relative: path.file_name().map(PathBuf::from).unwrap_or_default(),
            bytes: 0,
        }
    }

    fn keys(streams: &[Stream]) -> Vec<(&str, &[usize])> {
        streams
            .iter()
            .map(|stream| (stream.key.as_deref().unwrap_or_default(), stream.inputs.as_slice()))
            .collect()
    }

    #[test]
    fn recordings_go_together_by_directory_or_field() -> std::io::Result<()> {
        let dir = tempfile::tempdir()?;
        for folder in ["a", "b"] {
            std::fs::create_dir(dir.path().join(folder))?;
        }
        let names = ["a/1.wav", "b/1.wav", "a/2.wav"];
        let mut manifest = String::new();
        for (name, speaker) in names.iter().zip(["7", "\"x\"", "\"x\""]) {
            std::fs::write(dir.path().join(name), "")?;
            manifest += &format!("{{\"audio_filepath\": \"{name}\", \"speaker\": {speaker}}}\n\n");
        }
        let path = dir.path().join("manifest.jsonl");
        std::fs::write(&path, &manifest)?;
        let inputs: Vec<Input> = names.iter().map(|name| input(&dir.path().join(name))).collect();
        let of = |by: &str, manifest: Option<&Path>| group(&inputs, &by.parse().unwrap_or(StreamBy::All), manifest);

        let all = of("all", None).map_err(|failure| std::io::Error::other(failure.message))?;
        assert_eq!(keys(&all), [("all", &[0, 1, 2][..])]);
        let by_directory = of("directory", None).map_err(|failure| std::io::Error::other(failure.message))?;
        let indices: Vec<_> = by_directory.iter().map(|stream| stream.inputs.clone()).collect();
        assert_eq!(indices, [vec![0, 2], vec![1]]);
        let by_speaker = of("speaker", Some(&path)).map_err(|failure| std::io::Error::other(failure.message))?;
        assert_eq!(keys(&by_speaker), [("7", &[0][..]), ("x", &[1, 2][..])]);
        assert!(of("speaker", None).is_err_and(|failure| failure.message.contains("--manifest")));
        assert!(of("room", Some(&path)).is_err_and(|failure| failure.message.contains("`room`")));
        std::fs::write(&path, "{}\n")?;
        assert!(of("speaker", Some(&path)).is_err_and(|failure| failure.message.contains("line 1")));
        Ok(())
    }

    #[test]
    fn an_outputs_key_depends_on_all_that_was_heard_before() {
        let heard = |contents: &[&str]| -> Vec<String> { contents.iter().map(|text| text.to_string()).collect() };
        assert_ne!(key_after("s", &heard(&["a", "b"])), key_after("s", &heard(&["b", "a"])));
        assert_ne!(key_after("s", &heard(&["ab"])), key_after("s", &heard(&["a", "b"])));
    }

    /// What a recording did before it failed half-way is taken back; where the directory changes, the oracle resets.
    #[cfg(feature = "bundled-model")]
    #[test]
    fn a_session_is_put_where_its_stream_is() -> Result<(), Box<dyn std::error::Error>> {
        use crate::{AdaptationConfig, Bundled, ContinualConfig, Recognizer, Reset};
        let clip = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/data/librivox/sense_and_sensibility_01_austen_64kb-0880.wav");
        let samples = crate::audio::read_all(&clip)?;
        let recognizer = Recognizer::bundled(Bundled::TinyEnCtc)?;
        let config = AdaptationConfig {
            steps: 1,
            continual: ContinualConfig {
                buffer: 1,
                reset: Reset::Oracle,
                ..ContinualConfig::default()
            },
            ..AdaptationConfig {
                method: crate::Method::Dsuta,
                ..recognizer.default_adaptation()
            }
        };
        let mut session = recognizer.session(&config, 1)?;
        let mut course = Course::new(None);
        let (a, b) = (Path::new("a"), Path::new("b"));
        let mut hear = |course: &mut Course, folder: &Path, whole: bool| -> Result<_, crate::Error> {
            course.place(&mut session, folder)?;
            let utterance = session.transcribe_utterance(&samples[..24_000], 0.0)?;
            if whole {
                course.heard(&mut session, Some("content"), folder.into());
            }
            Ok(utterance.carried.map(|carried| (carried.position, carried.updates)))
        };
        assert_eq!(hear(&mut course, a, false)?, Some((1, 0)));
        assert_eq!(hear(&mut course, a, true)?, Some((1, 0)), "the first left no trace");
        assert_eq!(hear(&mut course, a, false)?, Some((2, 1)));
        assert_eq!(hear(&mut course, a, true)?, Some((2, 1)));
        assert_eq!(hear(&mut course, b, false)?, Some((3, 0)), "another domain");
        assert_eq!(hear(&mut course, b, true)?, Some((3, 0)));
        assert_eq!(hear(&mut course, b, true)?, Some((4, 1)));
        Ok(())
    }
}
