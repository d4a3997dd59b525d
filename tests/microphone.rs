//! `aurist listen` at a microphone: an ALSA device of the tests' own (microphone/virtual.c) that plays a real recording at
//! its pace, in one format, as hardware does. Needs `--features mic`, a C compiler and ALSA's development files.
#![cfg(all(feature = "mic", feature = "bundled-model", target_os = "linux"))]

mod cli_support;

use cli_support::{aurist, clips, json_lines, short_clip};
use predicates::prelude::PredicateBooleanExt;
use predicates::str::contains;
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader, Lines};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdout, Command, Stdio};
use tempfile::TempDir;

/// A device: its rate, channels and sample format.
#[derive(Clone, Copy)]
struct Format {
    rate: u32,
    channels: usize,
    samples: &'static str,
}

const FORMATS: [Format; 4] = [
    Format {
        rate: 44_100,
        channels: 1,
        samples: "S16_LE",
    },
    Format {
        rate: 44_100,
        channels: 2,
        samples: "S32_LE",
    },
    Format {
        rate: 48_000,
        channels: 1,
        samples: "FLOAT_LE",
    },
    Format {
        rate: 48_000,
        channels: 2,
        samples: "S16_LE",
    },
];

impl Format {
    fn id(&self) -> String {
        format!("recording-{}-{}", self.rate, self.channels)
    }

    fn name(&self) -> String {
        format!("A recording, {} Hz, {} channels", self.rate, self.channels)
    }

    /// The samples as the device gives them. Of two channels the second is half as loud: their mean is 0.75.
    fn encode(&self, clip: &[f32]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for sample in resampled(clip, self.rate) {
            for channel in 0..self.channels {
                let sample = f64::from(sample) / (channel + 1) as f64;
                match self.samples {
                    "S16_LE" => bytes.extend(((sample * 32_767.0).round() as i16).to_le_bytes()),
                    "S32_LE" => bytes.extend(((sample * 2_147_483_647.0).round() as i32).to_le_bytes()),
                    _ => bytes.extend((sample as f32).to_le_bytes()),
                }
            }
        }
        bytes
    }

    fn gain(&self) -> f32 {
        if self.channels == 1 { 1.0 } else { 0.75 }
    }
}

/// 16 kHz samples at a higher rate: the sinc series under a Hann window of 65 samples.
fn resampled(samples: &[f32], rate: u32) -> Vec<f32> {
    let count = samples.len() * rate as usize / 16_000;
    let at = |n: usize| {
        let time = n as f64 * 16_000.0 / f64::from(rate);
        let sinc = |x: f64| if x.abs() < 1e-9 { 1.0 } else { x.sin() / x };
        let taps = (time.floor() as isize - 31)..=(time.floor() as isize + 32);
        let term = |k: isize| {
            let sample = usize::try_from(k)
                .ok()
                .and_then(|k| samples.get(k))
                .copied()
                .unwrap_or(0.0);
            let away = std::f64::consts::PI * (time - k as f64);
            f64::from(sample) * sinc(away) * (0.5 + 0.5 * (away / 33.0).cos())
        };
        taps.map(term).sum::<f64>() as f32
    };
    (0..count).map(at).collect()
}

/// A machine with microphones of the formats above, the last of which is the system's choice.
struct Machine {
    folder: TempDir,
}

impl Machine {
    fn new(clip: &Path) -> Self {
        let folder = tempfile::tempdir().expect("a directory");
        let path = |name: &str| folder.path().join(name);
        let compiled = Command::new("cc")
            .args(["-shared", "-fPIC", "-DPIC", "-o"])
            .arg(path("virtual.so"))
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/microphone/virtual.c"))
            .arg("-lasound")
            .status();
        assert!(compiled.expect("a C compiler").success());
        let samples = aurist::audio::read_all(clip).expect("audio");
        let library = path("virtual.so");
        let mut config = format!("pcm_type.recording {{ lib \"{}\" }}\n", library.display());
        for format in FORMATS {
            let id = format.id();
            fs::write(path(&id), format.encode(&samples)).expect("a file");
            let device = format!(
                "{{ type recording file \"{}\" plug \"{}\" rate {} channels {} format \"{}\" \
                 hint {{ show on description \"{}\" }} }}",
                path(&id).display(),
                path("plugged").display(),
                format.rate,
                format.channels,
                format.samples,
                format.name(),
            );
            config += &format!("pcm.{id} {device}\n");
            if format.id() == FORMATS[3].id() {
                config += &format!("pcm.default {device}\n");
            }
        }
        fs::write(path("asound.conf"), config).expect("a file");
        let machine = Self { folder };
        machine.plug(true);
        machine
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn plug(&self, is_in: bool) {
        let plug = self.path("plugged");
        let done = if is_in {
            fs::write(plug, "")
        } else {
            fs::remove_file(plug)
        };
        done.expect("a file");
    }

    fn aurist(&self) -> assert_cmd::Command {
        let mut command = aurist();
        command.env("ALSA_CONFIG_PATH", self.path("asound.conf"));
        command
    }

    /// `aurist listen`, with what it keeps in a directory of that name.
    fn listen(&self, save: &str, options: &[&str]) -> Listening {
        // What never comes is not waited for for ever; `timeout` hands on signals and the exit code.
        let mut child = Command::new("timeout")
            .args([
                "--foreground",
                "120",
                env!("CARGO_BIN_EXE_aurist"),
                "listen",
                "--json",
                "--adapt",
                "none",
                "--save",
            ])
            .arg(self.path(save))
            .args(options)
            .env("ALSA_CONFIG_PATH", self.path("asound.conf"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("aurist");
        Listening {
            events: BufReader::new(child.stdout.take().expect("a pipe")).lines(),
            messages: BufReader::new(child.stderr.take().expect("a pipe")).lines(),
            child,
        }
    }
}

struct Listening {
    child: Child,
    events: Lines<BufReader<ChildStdout>>,
    messages: Lines<BufReader<ChildStderr>>,
}

impl Listening {
    /// The next event of a type.
    fn until(&mut self, kind: &str) -> Value {
        loop {
            let Some(Ok(line)) = self.events.next() else {
                let told: Vec<String> = self.messages.by_ref().map_while(Result::ok).collect();
                panic!("no more events: {told:?}");
            };
            let event: Value = serde_json::from_str(&line).expect("JSON");
            if event["type"] == kind {
                return event;
            }
        }
    }

    /// Waits for a message on standard error, of which there may be no other.
    fn told(&mut self, wanted: &str) {
        let line = self.messages.next().expect("a message").expect("a line");
        assert!(line.contains(wanted), "{line}");
    }

    /// Ctrl-C; then everything is written, and nothing more was said.
    fn interrupt(mut self) {
        let status = Command::new("kill")
            .args(["-INT", &self.child.id().to_string()])
            .status();
        assert!(status.expect("kill").success());
        let ended = self.child.wait().expect("ended");
        let rest: Vec<String> = self.messages.map_while(Result::ok).collect();
        assert!(ended.code() == Some(0) && rest.is_empty(), "{ended:?} {rest:?}");
    }
}

/// What of `heard` is not `gain` times `expected`, as a share of its power.
fn residual(expected: &[f32], heard: &[f32], gain: f32) -> f32 {
    let power = |values: &mut dyn Iterator<Item = f32>| values.map(|value| value * value).sum::<f32>();
    let off = power(&mut expected.iter().zip(heard).map(|(a, b)| gain * a - b));
    off / power(&mut expected.iter().map(|a| gain * a))
}

fn said(event: &Value) -> String {
    event["text"].as_str().expect("a text").to_owned()
}

#[test]
fn a_microphone_of_any_rate_and_channels_is_heard_as_the_file_is() {
    let machine = Machine::new(&short_clip());
    let of_file = aurist()
        .args(["listen", "--json", "--adapt", "none", "--speed", "0", "--input"])
        .arg(short_clip())
        .assert()
        .success();
    let of_file = said(json_lines(&of_file.get_output().stdout).last().expect("a revision"));
    let clip = aurist::audio::read_all(&short_clip()).expect("audio");
    let mut listening: Vec<(Format, Listening)> = FORMATS
        .map(|format| {
            (
                format,
                machine.listen(&format!("saved-{}", format.id()), &["--device-name", &format.name()]),
            )
        })
        .into();
    for (_, listening) in &mut listening {
        assert_eq!(said(&listening.until("revision")), of_file);
    }
    for (format, listening) in listening {
        listening.interrupt();
        let heard =
            aurist::audio::read_all(&machine.path(&format!("saved-{}", format.id())).join("audio.wav")).expect("audio");
        assert!(heard.len() > clip.len(), "{}", heard.len());
        // From its first sample on, and none is lost.
        let residual = residual(&clip, &heard, format.gain());
        assert!(residual < 1e-3, "{} Hz, {}: {residual}", format.rate, format.channels);
    }
}

#[test]
fn microphones_are_listed_and_chosen_by_name() {
    let machine = Machine::new(&short_clip());
    let listed = machine.aurist().args(["listen", "--list-devices"]).assert().success();
    let listed = String::from_utf8_lossy(&listed.get_output().stdout).into_owned();
    for format in FORMATS {
        let is_of = |line: &&str| line.contains(&format.id()) && line.ends_with(&format.name());
        assert_eq!(listed.lines().filter(is_of).count(), 1, "{listed}");
    }
    let unknown = machine
        .aurist()
        .args(["listen", "--device-name", "no such thing"])
        .assert();
    unknown
        .code(1)
        .stderr(contains("no microphone `no such thing`").and(contains("--list-devices")));
    // By its identifier, part of its name in another case, and not at all: the system's choice.
    let format = FORMATS[3];
    for (save, options) in [
        ("id", &["--device-name", &format.id()][..]),
        ("part", &["--device-name", "RECORDING, 48000 HZ, 2"]),
        ("default", &[]),
    ] {
        let mut listening = machine.listen(save, options);
        listening.until("partial");
        listening.interrupt();
    }
    machine.plug(false);
    let gone = machine.aurist().arg("listen").assert().code(1);
    let gone = String::from_utf8_lossy(&gone.get_output().stderr).into_owned();
    assert!(
        gone.starts_with("error: microphone: ") && gone.lines().count() == 1,
        "{gone}"
    );
}

#[test]
fn a_microphone_that_goes_away_is_waited_for() {
    let clip = clips().into_iter().next().expect("a recording");
    let machine = Machine::new(&clip);
    let mut listening = machine.listen("saved", &[]);
    let cut = loop {
        let partial = listening.until("partial");
        if partial["end"].as_f64() > Some(1.5) {
            break partial;
        }
    };
    machine.plug(false);
    let gone = std::time::Instant::now();
    listening.told("the microphone is gone");
    // What was said up to there is recognised meanwhile.
    let is_final = listening.until("final");
    assert_eq!(is_final["utterance"], cut["utterance"]);
    std::thread::sleep(std::time::Duration::from_secs(2));
    machine.plug(true);
    listening.told("the microphone is back");
    let away = gone.elapsed().as_secs_f64();
    let next = listening.until("final");
    let words = next["words"].as_array().expect("words").len();
    assert!(words > 5, "{next}");
    listening.interrupt();
    // The clock went on: the second utterance begins where it was heard, and the audio has silence in between.
    let [ended, start] = [&is_final["end"], &next["start"]].map(|time| time.as_f64().expect("seconds"));
    assert!(
        (away - 0.5..away + 2.0).contains(&(start - ended)),
        "{ended} {start} {away}"
    );
    let heard = aurist::audio::read_all(&machine.path("saved/audio.wav")).expect("audio");
    let place = |seconds: f64| (seconds * 16_000.0) as usize;
    assert!(
        heard[place(ended + 0.2)..place(start - 0.5)]
            .iter()
            .all(|sample| *sample == 0.0)
    );
    assert!(heard[place(start)..].iter().any(|sample| sample.abs() > 0.05));
}
