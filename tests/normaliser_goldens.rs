//! The `basic`, `whisper-english` and `whisper-normalizer` normalisers against the Python packages, string by string.
//!
//! `benches/reference/normaliser_goldens.py` wrote the goldens; `AURIST_NORMALISER_GOLDENS` names a larger file of its.

use aurist::eval::Normaliser;

#[test]
fn every_string_comes_out_as_the_packages_write_it() {
    let path = std::env::var("AURIST_NORMALISER_GOLDENS")
        .unwrap_or_else(|_| concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/goldens/normalisers.jsonl").into());
    let goldens = std::fs::read_to_string(&path).expect("the goldens");
    let (mut strings, mut mismatches) = (0, Vec::new());
    for line in goldens.lines() {
        let [text, basic, english, other]: [String; 4] =
            serde_json::from_str(line).expect("a text and its three forms");
        strings += 1;
        let forms = [
            (Normaliser::Basic, basic),
            (Normaliser::WhisperEnglish, english),
            (Normaliser::WhisperNormalizer, other),
        ];
        for (normaliser, expected) in forms {
            let ours = normaliser.apply(&text);
            if ours != expected {
                mismatches.push(format!(
                    "{normaliser} of {text:?}\n  expected {expected:?}\n  got      {ours:?}"
                ));
            }
        }
    }
    assert!(strings >= 1000, "{strings} strings in {path}");
    let told = mismatches.iter().take(20).cloned().collect::<Vec<_>>().join("\n");
    assert!(
        mismatches.is_empty(),
        "{} of {strings} strings differ:\n{told}",
        mismatches.len()
    );
    println!("{strings} strings, no mismatch");
}
