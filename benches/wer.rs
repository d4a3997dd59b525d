//! Word error rates of the bundled model with and without SUTA, clean and in noise, over NeMo-style manifests.
//!
//! ```text
//! cargo bench --bench wer -- MANIFEST[:LIMIT]... [--delta X]... [--seed N] [--lr X]... [--steps N] [--parameters SET]
//! ```
//!
//! `--delta` adds `x + delta N(0, 1)`, clipped to [-1, 1], seeded by clip, so that a clip's noise does not depend on
//! what else runs. The rates are pooled; the intervals are 95 % bootstrap percentiles over clips (1,000 draws).

use aurist::eval::{Costs, Counts, word_counts};
use aurist::{AdaptationConfig, ParameterChoice, Recognizer};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use rand_distr::{Distribution, StandardNormal};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

struct Clip {
    path: PathBuf,
    reference: String,
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let (mut manifests, mut deltas, mut rates, mut seed) = (Vec::new(), vec![0.0f64], Vec::new(), 0u64);
    let recognizer = Recognizer::bundled().expect("the bundled model");
    let mut base = recognizer.default_adaptation();
    let mut arguments = arguments.into_iter();
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().unwrap_or_else(|| panic!("{argument} needs a value"));
        match argument.as_str() {
            "--delta" => deltas.push(value().parse().expect("--delta X")),
            "--seed" => seed = value().parse().expect("--seed N"),
            "--lr" => rates.push(value().parse().expect("--lr X")),
            "--steps" => base.steps = value().parse().expect("--steps N"),
            "--parameters" => {
                let set = serde_json::Value::String(value());
                base.parameters = serde_json::from_value::<ParameterChoice>(set).expect("--parameters SET");
            }
            manifest => manifests.push(manifest.to_string()),
        }
    }
    if manifests.is_empty() {
        manifests.push(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/librivox.jsonl").into());
    }
    if rates.is_empty() {
        rates.push(base.learning_rate);
    }
    let mut methods = vec![("none".to_string(), AdaptationConfig::none())];
    for learning_rate in rates {
        let name = format!("SUTA {learning_rate:.0e}");
        methods.push((
            name,
            AdaptationConfig {
                learning_rate,
                ..base.clone()
            },
        ));
    }
    println!(
        "| set | clips | delta | method | WER % | 95 % | sub | del | ins |\n|---|---|---|---|---|---|---|---|---|"
    );
    for manifest in &manifests {
        let (path, limit) = match manifest.rsplit_once(':') {
            Some((path, limit)) => (path, limit.parse().expect("MANIFEST:LIMIT")),
            None => (manifest.as_str(), usize::MAX),
        };
        let clips = read(Path::new(path), limit);
        let name = Path::new(path).file_stem().unwrap_or_default().to_string_lossy();
        for &delta in &deltas {
            for (method, config) in &methods {
                let counts = score(&recognizer, config, &clips, delta, seed);
                let total: Counts = counts.iter().copied().sum();
                let (low, high) = interval(&counts);
                println!(
                    "| {name} | {} | {delta} | {method} | {:.1} | {:.1} to {:.1} | {} | {} | {} |",
                    clips.len(),
                    100.0 * total.error_rate(),
                    100.0 * low,
                    100.0 * high,
                    total.substitutions,
                    total.deletions,
                    total.insertions
                );
            }
        }
    }
}

fn read(manifest: &Path, limit: usize) -> Vec<Clip> {
    let text = std::fs::read_to_string(manifest).unwrap_or_else(|error| panic!("{}: {error}", manifest.display()));
    let directory = manifest.parent().unwrap_or(Path::new("."));
    let line = |line: &str| {
        let value: serde_json::Value = serde_json::from_str(line).expect("a JSON object a line");
        Clip {
            path: directory.join(value["audio_filepath"].as_str().expect("audio_filepath")),
            reference: value["text"].as_str().expect("text").to_lowercase(),
        }
    };
    text.lines()
        .filter(|line| !line.trim().is_empty())
        .take(limit)
        .map(line)
        .collect()
}

/// Each clip's counts, two clips at a time on one thread each.
fn score(recognizer: &Recognizer, config: &AdaptationConfig, clips: &[Clip], delta: f64, seed: u64) -> Vec<Counts> {
    let counts = Mutex::new(vec![Counts::default(); clips.len()]);
    let next = AtomicUsize::new(0);
    let workers = std::thread::available_parallelism().map_or(1, |count| count.get());
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                let mut session = recognizer.session(config, 1).expect("a session");
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(clip) = clips.get(index) else { return };
                    let mut samples = aurist::audio::read_all(&clip.path).expect("a recording");
                    let mut noise = StdRng::seed_from_u64(seed << 32 | index as u64);
                    if delta > 0.0 {
                        for sample in &mut samples {
                            let normal: f64 = StandardNormal.sample(&mut noise);
                            *sample = (*sample as f64 + delta * normal).clamp(-1.0, 1.0) as f32;
                        }
                    }
                    let text = session
                        .transcribe_utterance(&samples, 0.0)
                        .expect("a transcript")
                        .text
                        .to_lowercase();
                    counts.lock().expect("no panic")[index] = word_counts(&clip.reference, &text, Costs::Levenshtein);
                }
            });
        }
    });
    counts.into_inner().expect("no panic")
}

fn interval(counts: &[Counts]) -> (f64, f64) {
    let mut draw = StdRng::seed_from_u64(1);
    let mut rates: Vec<f64> = (0..1000)
        .map(|_| {
            (0..counts.len())
                .map(|_| counts[draw.random_range(0..counts.len())])
                .sum::<Counts>()
                .error_rate()
        })
        .collect();
    rates.sort_by(f64::total_cmp);
    (rates[25], rates[974])
}
