//! Conditions made ready: their files loaded, and applied to utterances.

use super::effects::{self, rms64};
use super::random::{digest, normals};
use super::{Condition, Effect, MIX_VERSION, MixError, rms};
use crate::audio::{AudioReader, SAMPLE_RATE, read_all};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Whose mixer makes the additive noise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MixerCompatibility {
    /// A true signal-to-noise ratio.
    #[default]
    None,
    /// SGEM's and CEA's published mixers, whose ratio in dB is half the nominal one.
    Sgem,
}

/// A noise or an impulse response: 16 kHz mono samples.
#[derive(Debug, Clone)]
pub struct NoiseFile {
    /// Where it came from.
    pub path: PathBuf,
    /// BLAKE3 of its samples at 16 kHz, hexadecimal.
    pub hash: String,
    samples: Arc<[f32]>,
}

/// Makes conditions ready; a file that several of them name is loaded once.
#[derive(Debug)]
pub struct Mixer {
    seed: u64,
    compatibility: MixerCompatibility,
    files: HashMap<PathBuf, NoiseFile>,
}

/// An effect with what it needs.
#[derive(Debug)]
enum Ready {
    Noise { files: Vec<NoiseFile>, snr: f64 },
    Reverb(NoiseFile),
    Plain(Effect),
}

/// A condition that is ready to be applied, on any thread.
#[derive(Debug)]
pub struct Prepared {
    condition: Condition,
    seed: u64,
    compatibility: MixerCompatibility,
    effects: Vec<Ready>,
}

impl Mixer {
    /// A mixer whose draws `seed` decides.
    pub fn new(seed: u64, compatibility: MixerCompatibility) -> Self {
        Self {
            seed,
            compatibility,
            files: HashMap::new(),
        }
    }

    /// Loads what a condition needs.
    pub fn prepare(&mut self, condition: &Condition) -> Result<Prepared, MixError> {
        let mut effects = Vec::new();
        for effect in &condition.effects {
            effects.push(match effect {
                Effect::Noise { path, snr } => Ready::Noise {
                    files: self.noises(path)?,
                    snr: *snr,
                },
                Effect::Reverb { path } => Ready::Reverb(self.load(path)?),
                plain => Ready::Plain(plain.clone()),
            });
        }
        Ok(Prepared {
            condition: condition.clone(),
            seed: self.seed,
            compatibility: self.compatibility,
            effects,
        })
    }

    /// A recording, or all recordings of a directory (not of those within), by name.
    fn noises(&mut self, path: &Path) -> Result<Vec<NoiseFile>, MixError> {
        if !path.is_dir() {
            return Ok(vec![self.load(path)?]);
        }
        let shown = path.display().to_string();
        let list = || -> std::io::Result<Vec<PathBuf>> {
            let mut paths = Vec::new();
            for entry in std::fs::read_dir(path)? {
                let entry = entry?;
                let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
                if !hidden && entry.path().is_file() {
                    paths.push(entry.path());
                }
            }
            paths.sort();
            Ok(paths)
        };
        let paths = list().map_err(|reason| MixError::Directory {
            path: shown.clone(),
            reason,
        })?;
        // A list or a licence beside the recordings is no noise.
        let recordings: Vec<PathBuf> = paths
            .into_iter()
            .filter(|path| AudioReader::open(path).is_ok())
            .collect();
        if recordings.is_empty() {
            return Err(MixError::NoNoise { path: shown });
        }
        recordings.iter().map(|path| self.load(path)).collect()
    }

    fn load(&mut self, path: &Path) -> Result<NoiseFile, MixError> {
        if let Some(file) = self.files.get(path) {
            return Ok(file.clone());
        }
        let shown = path.display().to_string();
        let samples = read_all(path).map_err(|reason| MixError::Unreadable {
            path: shown.clone(),
            reason,
        })?;
        if rms(&samples) == 0.0 {
            return Err(MixError::Silent { path: shown });
        }
        let file = NoiseFile {
            path: path.to_path_buf(),
            hash: samples_hash(&samples),
            samples: samples.into(),
        };
        self.files.insert(path.to_path_buf(), file.clone());
        Ok(file)
    }
}

impl NoiseFile {
    /// Tiled from its first sample, and cut to `length`.
    fn tiled(&self, length: usize) -> Vec<f64> {
        self.samples
            .iter()
            .cycle()
            .take(length)
            .map(|&sample| f64::from(sample))
            .collect()
    }
}

impl Prepared {
    /// The condition.
    pub fn condition(&self) -> &Condition {
        &self.condition
    }

    /// What decides the samples that come out, beside those that go in and the utterance's name: the effects, the
    /// content of the files, the seed where chance plays a part. Hexadecimal.
    pub fn identity(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        let mut put = |text: &str| {
            hasher.update(&(text.len() as u64).to_le_bytes());
            hasher.update(text.as_bytes());
        };
        put(&format!("mix {MIX_VERSION}"));
        for effect in &self.effects {
            match effect {
                Ready::Noise { files, snr } => {
                    put(&format!("noise {snr} {:?}", self.compatibility));
                    for file in files {
                        put(&file.hash);
                        if files.len() > 1 {
                            put(&format!("{} {}", file_name(file), self.seed));
                        }
                    }
                }
                Ready::Reverb(file) => put(&format!("reverb {}", file.hash)),
                Ready::Plain(Effect::Gaussian { snr }) => {
                    put(&format!("gaussian {snr} {:?} {}", self.compatibility, self.seed))
                }
                Ready::Plain(Effect::Delta { delta }) => put(&format!("delta {delta} {}", self.seed)),
                Ready::Plain(effect) => put(&format!("{effect:?}")),
            }
        }
        hasher.finalize().to_hex().to_string()
    }

    /// The files it uses.
    pub fn files(&self) -> impl Iterator<Item = &NoiseFile> {
        self.effects.iter().flat_map(|effect| match effect {
            Ready::Noise { files, .. } => files.as_slice(),
            Ready::Reverb(file) => std::slice::from_ref(file),
            Ready::Plain(_) => &[],
        })
    }

    /// What the condition makes of an utterance's samples. `utterance` names it in its test set: the same name gets the
    /// same noise, whatever else runs.
    pub fn apply(&self, samples: &[f32], utterance: &str) -> Result<Vec<f32>, MixError> {
        let mut samples = samples.to_vec();
        for effect in &self.effects {
            samples = match effect {
                Ready::Noise { files, snr } => self.add_noise(&samples, files, *snr, utterance)?,
                Ready::Reverb(file) => effects::reverberate(&samples, &file.samples),
                Ready::Plain(effect) => self.plain(&samples, effect, utterance)?,
            };
        }
        Ok(samples)
    }

    fn add_noise(&self, samples: &[f32], files: &[NoiseFile], snr: f64, utterance: &str) -> Result<Vec<f32>, MixError> {
        // The file whose hash with the seed and the utterance is the least: adding a file to a directory changes only
        // the utterances that it takes over.
        let chosen = files
            .iter()
            .min_by_key(|file| digest(self.seed, &["noise", utterance, &file_name(file)]));
        let Some(file) = chosen else {
            return Ok(samples.to_vec());
        };
        let noise = file.tiled(samples.len());
        if rms64(&noise) == 0.0 && !samples.is_empty() {
            return Err(MixError::SilentStart {
                path: file.path.display().to_string(),
                seconds: samples.len() as f64 / f64::from(SAMPLE_RATE),
                utterance: utterance.to_string(),
            });
        }
        Ok(self.mix(samples, &noise, snr))
    }

    fn mix(&self, samples: &[f32], noise: &[f64], snr: f64) -> Vec<f32> {
        if samples.is_empty() {
            return Vec::new();
        }
        match self.compatibility {
            MixerCompatibility::None => effects::add_noise(samples, noise, snr),
            MixerCompatibility::Sgem => effects::add_noise_sgem(samples, noise, snr),
        }
    }

    fn plain(&self, samples: &[f32], effect: &Effect, utterance: &str) -> Result<Vec<f32>, MixError> {
        Ok(match effect {
            // One noise for every ratio and every delta: conditions then differ in the level alone.
            Effect::Gaussian { snr } => {
                let noise = normals(self.seed, &["gaussian", utterance], samples.len());
                self.mix(samples, &noise, *snr)
            }
            Effect::Delta { delta } => {
                let noise = normals(self.seed, &["delta", utterance], samples.len());
                effects::add_delta(samples, &noise, *delta)
            }
            Effect::Telephone => effects::telephone(samples)?,
            Effect::Gain { db } => effects::amplify(samples, *db),
            Effect::Clip { level } => effects::clip(samples, *level),
            Effect::Codec(codec) => {
                let mut samples = samples.to_vec();
                codec.apply(&mut samples);
                samples
            }
            Effect::Noise { .. } | Effect::Reverb { .. } => samples.to_vec(),
        })
    }
}

fn file_name(file: &NoiseFile) -> String {
    file.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// BLAKE3 of samples, hexadecimal.
pub fn samples_hash(samples: &[f32]) -> String {
    let mut hasher = blake3::Hasher::new();
    for sample in samples {
        hasher.update(&sample.to_le_bytes());
    }
    hasher.finalize().to_hex().to_string()
}

#[cfg(test)]
mod tests {
    use super::super::write_wav;
    use super::*;

    fn noise(dir: &Path, name: &str, samples: &[f32]) -> PathBuf {
        let path = dir.join(name);
        write_wav(&path, samples).expect("a noise");
        path
    }

    fn speech() -> Vec<f32> {
        (0..8_000).map(|i| 0.05 * (i as f32 * 0.03).sin()).collect()
    }

    fn prepare(seed: u64, text: &str) -> Prepared {
        let condition = text.parse().expect("a condition");
        Mixer::new(seed, MixerCompatibility::None)
            .prepare(&condition)
            .expect("ready")
    }

    #[test]
    fn noise_is_tiled_from_its_start_at_the_true_ratio() {
        let dir = tempfile::tempdir().expect("a directory");
        let short: Vec<f32> = (0..1_000).map(|i| 0.3 * (i as f32 * 0.7).sin()).collect();
        let path = noise(dir.path(), "n.wav", &short);
        let clean = speech();
        let mixed = prepare(1, &format!("{}@5", path.display()))
            .apply(&clean, "u")
            .expect("mixed");
        let added: Vec<f32> = mixed.iter().zip(&clean).map(|(m, c)| m - c).collect();
        assert!((20.0 * (rms(&clean) / rms(&added)).log10() - 5.0).abs() < 0.01);
        assert!((added[10] - added[1_010]).abs() < 1e-6 && (added[10] - added[7_010]).abs() < 1e-6);
    }

    #[test]
    fn an_utterances_noise_depends_on_its_name_and_the_seed_alone() {
        let clean = speech();
        for text in ["gaussian@5", "delta:0.02"] {
            let apply = |seed, id| prepare(seed, text).apply(&clean, id).expect("mixed");
            let alone = apply(1, "b");
            let shared = prepare(1, text);
            let after_another =
                [shared.apply(&clean, "a"), shared.apply(&clean, "b")].map(|mixed| mixed.expect("mixed"));
            assert_eq!(after_another[1], alone);
            assert_ne!(after_another[0], alone);
            assert_ne!(apply(2, "b"), alone);
            // The same in a composition.
            let composed = prepare(1, &format!("gain:0+{text}")).apply(&clean, "b").expect("mixed");
            assert_eq!(composed, alone);
        }
    }

    #[test]
    fn a_directorys_noises_are_all_used_and_chosen_by_name() {
        let dir = tempfile::tempdir().expect("a directory");
        for (name, step) in [("a.wav", 0.5), ("b.wav", 0.6), ("c.wav", 0.7)] {
            noise(
                dir.path(),
                name,
                &(0..4_000).map(|i| 0.3 * (i as f32 * step).sin()).collect::<Vec<_>>(),
            );
        }
        std::fs::write(dir.path().join("LICENCE"), "not a recording at all").expect("a file");
        let condition = format!("{}@0", dir.path().display());
        let mixed = |seed, id: &str| samples_hash(&prepare(seed, &condition).apply(&speech(), id).expect("mixed"));
        let ids: Vec<String> = (0..30).map(|i| format!("u{i}")).collect();
        let first: Vec<String> = ids.iter().map(|id| mixed(1, id)).collect();
        assert_eq!(first.iter().collect::<std::collections::HashSet<_>>().len(), 3);
        assert_eq!(first, ids.iter().map(|id| mixed(1, id)).collect::<Vec<_>>());
        assert_ne!(first, ids.iter().map(|id| mixed(2, id)).collect::<Vec<_>>());
        assert_ne!(prepare(1, &condition).identity(), prepare(2, &condition).identity());
    }

    #[test]
    fn bad_noises_are_told_apart() {
        let dir = tempfile::tempdir().expect("a directory");
        let prepare = |path: &Path| {
            let condition = format!("{}@0", path.display()).parse().expect("a condition");
            Mixer::new(0, MixerCompatibility::None).prepare(&condition)
        };
        let silent = noise(dir.path(), "silent.wav", &[0.0; 100]);
        assert!(matches!(prepare(&silent), Err(MixError::Silent { .. })));
        assert!(matches!(
            prepare(&dir.path().join("missing.wav")),
            Err(MixError::Unreadable { .. })
        ));
        let empty = dir.path().join("empty");
        std::fs::create_dir(&empty).expect("a directory");
        assert!(matches!(prepare(&empty), Err(MixError::NoNoise { .. })));
        let mut late = vec![0.0; 20_000];
        late.push(0.5);
        let late = noise(dir.path(), "late.wav", &late);
        let prepared = prepare(&late).expect("it is not silent as a whole");
        assert!(matches!(
            prepared.apply(&speech(), "u"),
            Err(MixError::SilentStart { .. })
        ));
        assert_eq!(prepared.apply(&[], "u").expect("nothing"), Vec::<f32>::new());
    }

    #[test]
    fn the_identity_is_of_contents_not_of_places() {
        let (one, two) = (
            tempfile::tempdir().expect("a directory"),
            tempfile::tempdir().expect("a directory"),
        );
        let samples: Vec<f32> = speech();
        let paths = [
            noise(one.path(), "x.wav", &samples),
            noise(two.path(), "y.wav", &samples),
        ];
        let identity = |path: &Path, snr: f64| prepare(1, &format!("{}@{snr}", path.display())).identity();
        assert_eq!(identity(&paths[0], 5.0), identity(&paths[1], 5.0));
        assert_ne!(identity(&paths[0], 5.0), identity(&paths[0], 4.0));
    }
}
