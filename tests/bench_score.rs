//! `aurist bench score`: jiwer's numbers to the digit, every format, clear messages.

use aurist::eval::{Costs, Counts, character_counts, word_counts};
use serde_json::Value;
use std::fs;
use std::path::Path;
use tempfile::TempDir;

mod cli_support;
use cli_support::aurist;

/// Runs `aurist bench score` in a directory of these files; the exit code, standard output and standard error.
fn score(files: &[(&str, &str)], arguments: &[&str]) -> (i32, String, String) {
    let directory = TempDir::new().expect("a directory");
    for (name, text) in files {
        let path = directory.path().join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        fs::write(path, text).expect("a file");
    }
    let output = aurist()
        .current_dir(directory.path())
        .args(["bench", "score"])
        .args(arguments)
        .output()
        .expect("the command");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    (
        output.status.code().unwrap_or(-1),
        text(output.stdout),
        text(output.stderr),
    )
}

fn json(files: &[(&str, &str)], arguments: &[&str]) -> Value {
    let (code, output, errors) = score(files, &[arguments, &["--json"]].concat());
    assert_eq!(code, 0, "{errors}");
    serde_json::from_str(&output).expect("JSON")
}

/// `benches/reference/score_agreement.py --goldens` wrote them.
#[test]
fn counts_and_rates_are_jiwers() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/goldens/jiwer.jsonl");
    let goldens = fs::read_to_string(path).expect("the goldens");
    assert!(goldens.lines().count() > 50);
    for line in goldens.lines() {
        let golden: Value = serde_json::from_str(line).expect("JSON");
        let texts = |name: &str| golden[name].as_array().expect("texts").clone();
        let (references, hypotheses) = (texts("references"), texts("hypotheses"));
        let (mut words, mut characters) = (Counts::default(), Counts::default());
        for (reference, hypothesis) in references.iter().zip(&hypotheses) {
            let (reference, hypothesis) = (reference.as_str().expect("text"), hypothesis.as_str().expect("text"));
            words += word_counts(reference, hypothesis, Costs::Levenshtein);
            characters += character_counts(reference, hypothesis, Costs::Levenshtein);
        }
        let expected = &golden["jiwer"];
        let counts = |counts: Counts| [counts.hits, counts.substitutions, counts.deletions, counts.insertions];
        let names = ["hits", "substitutions", "deletions", "insertions"];
        let word_counts = names.map(|name| expected[name].as_u64().expect("a count") as usize);
        assert_eq!(counts(words), word_counts, "{line}");
        let of_characters: [usize; 4] = serde_json::from_value(expected["character_counts"].clone()).expect("counts");
        assert_eq!(counts(characters), of_characters, "{line}");
        for (name, ours) in [
            ("wer", words.error_rate()),
            ("mer", words.match_error_rate()),
            ("wil", words.word_information_lost()),
            ("wip", words.word_information_preserved()),
            ("cer", characters.error_rate()),
        ] {
            // serde_json's reading of a number may be off by its last bit.
            let theirs = expected[name].as_f64().expect("a rate");
            assert!(
                (ours - theirs).abs() <= 2.0 * f64::EPSILON * theirs,
                "{name} of {line}: {ours}"
            );
        }
    }
}

#[test]
fn every_format_gives_the_same_score() {
    let files = [
        ("ref.txt", "one two three\nfour five\n"),
        ("hyp.txt", "one too three\nfour five six\n"),
        ("ref.trn", "one two three (s1_a)\nfour five (s2_b)\n"),
        ("hyp.trn", "four five six (s2_b)\none too three (s1_a)\n"),
        (
            "ref.stm",
            ";; comment\ns1_a 1 s1 0 3 <o,f0,male> one two three\ns2_b 1 s2 0 3 four five\n",
        ),
        ("hyp.stm", "s1_a 1 s1 0 3 one too three\ns2_b 1 s2 0 3 four five six\n"),
        (
            "hyp.ctm",
            "s1_a 1 0.1 0.2 one 0.9\ns1_a 1 0.5 0.2 too\ns1_a 1 1 0.2 three\ns2_b 1 0 1 four\ns2_b 1 1 1 five\n\
             s2_b 1 2 0.5 six\n",
        ),
        (
            "ref.jsonl",
            "{\"audio_filepath\": \"x/s1_a.wav\", \"text\": \"one two three\", \"speaker\": \"s1\"}\n\
             {\"audio_filepath\": \"x/s2_b.wav\", \"text\": \"four five\", \"speaker\": \"s2\"}\n",
        ),
        (
            "hyp.jsonl",
            "{\"id\": \"s1_a\", \"pred_text\": \"one too three\"}\n{\"id\": \"s2_b\", \"text\": \"four five six\"}\n",
        ),
        (
            "out/s1_a.json",
            "{\n  \"file\": \"/y/s1_a.flac\",\n  \"text\": \"one too three\"\n}\n",
        ),
        (
            "out/s2_b.json",
            "{\n  \"file\": \"s2_b.flac\",\n  \"text\": \"four five six\"\n}\n",
        ),
        ("ref.tsv", "s1_a.wav\tone two three\ts1\ns2_b.wav\tfour five\ts2\n"),
        ("tree/s1/x.trans.txt", "s1_a one two three\ns2_b four five\n"),
    ];
    for (reference, hypothesis) in [
        ("ref.txt", "hyp.txt"),
        ("ref.trn", "hyp.trn"),
        ("ref.stm", "hyp.stm"),
        ("ref.stm", "hyp.ctm"),
        ("ref.jsonl", "hyp.jsonl"),
        ("ref.jsonl", "out"),
        ("ref.tsv", "hyp.trn"),
        ("ref.trn", "hyp.ctm"),
        ("tree", "hyp.jsonl"),
        ("trn:ref.trn", "x=json:hyp.jsonl"),
    ] {
        let report = json(&files, &[reference, hypothesis, "--cer"]);
        let system = &report["systems"][0];
        assert_eq!(system["wer"], 0.4, "{reference} and {hypothesis}: {report}");
        assert_eq!(
            system["counts"],
            serde_json::json!({"hits": 4, "substitutions": 1, "deletions": 0, "insertions": 1}),
            "{reference} and {hypothesis}"
        );
        assert_eq!(
            system["character_counts"]["insertions"], 4,
            "{reference} and {hypothesis}"
        );
    }
}

#[test]
fn what_does_not_match_is_told() {
    let files = [
        ("ref.trn", "a b (s_1)\nc d (s_2)\ne (s_3)\n"),
        ("hyp.trn", "a b (s_1)\nx (s_9)\n"),
        ("hyp.txt", "a b\n"),
        ("bad.jsonl", "{\"id\": \"s_1\", \"text\": \"a\"}\n{oops}\n"),
        ("twice.trn", "a (s_1)\nb (s_1)\n"),
    ];
    let (code, output, errors) = score(&files, &["ref.trn", "hyp.trn"]);
    assert_eq!((code, output.as_str()), (1, ""));
    for part in ["lacks 2 of 3", "s_2, s_3", "have no reference: s_9", "--missing empty"] {
        assert!(errors.contains(part), "{errors}");
    }
    let empty = json(&files, &["ref.trn", "hyp.trn", "--missing", "empty"]);
    assert_eq!(empty["systems"][0]["counts"]["deletions"], 3);
    let skip = json(&files, &["ref.trn", "hyp.trn", "--missing", "skip"]);
    assert_eq!(
        (&skip["utterances"], &skip["systems"][0]["wer"]),
        (&Value::from(1), &Value::from(0.0))
    );
    for (hypothesis, part) in [
        ("hyp.txt", "plain text without ids"),
        ("bad.jsonl", "line 2, column 2"),
        ("twice.trn", "the id `s_1` twice"),
        ("none.trn", "none.trn: No such file"),
    ] {
        let (code, _, errors) = score(&files, &["ref.trn", hypothesis]);
        assert_eq!(code, 1);
        assert!(errors.contains(part), "{errors}");
    }
    let (code, _, errors) = score(&files, &["ref.trn", "hyp.trn", "--normalise", "wisper"]);
    assert_eq!(code, 2);
    assert!(errors.contains("whisper-english"), "{errors}");
}

#[test]
fn systems_are_compared_and_the_seed_decides() {
    let reference: String = (0..60)
        .map(|i| format!("a b c d e f g h (s{}_{i})\n", i % 12))
        .collect();
    let good: String = (0..60)
        .map(|i| {
            format!(
                "a b c d e f g {} (s{}_{i})\n",
                if i % 4 == 0 { "x" } else { "h" },
                i % 12
            )
        })
        .collect();
    let bad: String = (0..60)
        .map(|i| {
            format!(
                "a x c d e y {} h (s{}_{i})\n",
                if i % 3 == 0 { "g" } else { "" },
                i % 12
            )
        })
        .collect();
    let files = [("ref.trn", reference.as_str()), ("good.trn", &good), ("bad.trn", &bad)];
    let arguments = [
        "ref.trn",
        "bad.trn",
        "suta=good.trn",
        "other=good.trn",
        "--intervals",
        "--replicates",
        "2000",
    ];
    let report = json(&files, &arguments);
    assert_eq!(report["bootstrap"]["unit"], "speaker");
    assert_eq!(report["normaliser"]["name"], "none");
    let comparisons = report["comparisons"].as_array().expect("comparisons");
    assert_eq!(comparisons.len(), 3);
    assert!(comparisons[0]["bootstrap"]["difference"].as_f64() < Some(-0.2));
    assert!(comparisons[0]["mapsswe_p_holm"].as_f64() < Some(1e-6));
    assert_eq!(comparisons[2]["bootstrap_p_holm"], 1.0);
    assert_eq!(json(&files, &arguments), report);
    assert_ne!(json(&files, &[&arguments[..], &["--seed", "1"]].concat()), report);

    let (code, table, errors) = score(&files, &[&arguments[..], &["--by", "speaker"]].concat());
    assert_eq!((code, errors.as_str()), (0, ""));
    for part in [
        "60 utterances, 12 speakers; normaliser none (1)",
        "P(better)",
        "suta",
        "over 12 speakers",
    ] {
        assert!(table.contains(part), "{table}");
    }
    let (_, csv, _) = score(&files, &["ref.trn", "good.trn", "--csv", "--by", "length"]);
    let lines: Vec<&str> = csv.lines().collect();
    assert!(
        lines[0].starts_with("system,group,utterances,reference_words,hits"),
        "{csv}"
    );
    assert!(lines[1].starts_with("good,6 to 10,60,480,465,15,0,0,0.03125"), "{csv}");
}

#[test]
fn texts_are_normalised_on_both_sides() {
    let files = [
        ("ref.txt", "Twenty-one colours, Mr. Smith!\n"),
        ("hyp.txt", "21 colors mister smith\n"),
    ];
    let rate = |name: &str| json(&files, &["ref.txt", "hyp.txt", "--normalise", name])["systems"][0]["wer"].clone();
    assert_eq!(rate("whisper-english"), 0.0);
    assert_eq!(rate("none"), 1.0);
    assert_eq!(rate("basic"), 0.8);
}
