//! Memory over many utterances in one process: it must not grow.
//!
//! ```text
//! cargo bench --bench growth -- [--utterances N] [--seconds S] [--steps N]
//! ```
//!
//! Utterances of the bundled model, S seconds and less by turns, each adapted to from the source model. Prints the
//! resident memory now and then as a Markdown table (Linux), and fails when the second half grew by more than 1 %.

use aurist::{Bundled, Recognizer};
use std::time::Instant;

/// The process's resident memory in MiB.
fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("/proc/self/status");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
    let kibibytes: f64 = line
        .split_whitespace()
        .nth(1)
        .expect("a number")
        .parse()
        .expect("a number");
    kibibytes / 1024.0
}

fn main() {
    let (mut utterances, mut seconds, mut steps) = (10_000, 0.5f64, 1);
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    while let Some(argument) = arguments.next() {
        let value = arguments.next().unwrap_or_else(|| panic!("{argument} needs a value"));
        match argument.as_str() {
            "--utterances" => utterances = value.parse().expect("--utterances N"),
            "--seconds" => seconds = value.parse().expect("--seconds S"),
            "--steps" => steps = value.parse().expect("--steps N"),
            _ => panic!("{argument} is no option here"),
        }
    }
    let clip = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/data/librivox/sense_and_sensibility_01_austen_64kb-0870.wav"
    );
    let samples: Vec<f32> = hound::WavReader::open(clip)
        .expect("the clip")
        .into_samples::<i16>()
        .map(|sample| f32::from(sample.expect("a sample")) / 32768.0)
        .collect();
    let recognizer = Recognizer::bundled(Bundled::TinyEnCtc).expect("the bundled model");
    let mut adaptation = recognizer.default_adaptation();
    adaptation.steps = steps;
    let mut session = recognizer.session(&adaptation, 1).expect("a session");
    println!("{utterances} utterances of up to {seconds} s, {steps} steps.\n");
    println!("| utterances | resident MiB | seconds |\n|---|---|---|");
    let (start, mut half) = (Instant::now(), 0.0);
    for number in 0..=utterances {
        if number % (utterances / 10).max(1) == 0 {
            println!(
                "| {number} | {:.1} | {:.0} |",
                resident(),
                start.elapsed().as_secs_f64()
            );
        }
        if number == utterances / 2 {
            half = resident();
        }
        // Seven lengths, and places that differ from one utterance to the next.
        let len = (seconds * 16_000.0 * (1.0 - (number % 7) as f64 * 0.1)) as usize;
        let from = number * 1_001 % (samples.len() - len);
        session
            .transcribe_utterance(&samples[from..from + len], 0.0)
            .expect("a transcript");
    }
    let growth = 100.0 * (resident() / half - 1.0);
    println!("\nGrowth over the second half: {growth:.2} %.");
    assert!(growth < 1.0, "memory grew");
}
