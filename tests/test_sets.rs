//! Test sets as they are published: told apart, read, and what is wrong with them said at once.

use aurist::eval::testset::{ChimeSplits, Format, TestSet, TestSetOptions};
use std::fs;
use std::path::Path;
use tempfile::TempDir;

/// A directory with these files.
fn directory(files: &[(&str, &str)]) -> TempDir {
    let directory = TempDir::new().expect("a directory");
    for (name, text) in files {
        let path = directory.path().join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        fs::write(path, text).expect("a file");
    }
    directory
}

fn open(directory: &TempDir, path: &str) -> TestSet {
    let path = directory.path().join(path);
    TestSet::open(&path, &TestSetOptions::default()).unwrap_or_else(|error| panic!("{error}"))
}

fn problems(directory: &TempDir, path: &str) -> String {
    let path = directory.path().join(path);
    TestSet::open(&path, &TestSetOptions::default())
        .expect_err("a broken set")
        .to_string()
}

/// Identifiers, references and speakers.
fn content(set: &TestSet) -> Vec<(&str, &str, Option<&str>)> {
    let utterances = set.utterances.iter();
    utterances
        .map(|utterance| {
            assert!(utterance.audio.is_file(), "{}", utterance.audio.display());
            (
                utterance.id.as_str(),
                utterance.reference.as_str(),
                utterance.speaker.as_deref(),
            )
        })
        .collect()
}

#[test]
fn the_tests_own_recordings() {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/librivox.jsonl");
    let set = TestSet::open(&manifest, &TestSetOptions::default()).expect("the set");
    assert_eq!((set.name.as_str(), set.utterances.len()), ("librivox", 5));
    assert!(content(&set).iter().all(|(_, reference, _)| !reference.is_empty()));
    assert_eq!(set.warnings, Vec::<String>::new());
    let limited = TestSetOptions {
        limit: Some(2),
        ..TestSetOptions::default()
    };
    assert_eq!(
        TestSet::open(&manifest, &limited).expect("the set").utterances,
        set.utterances[..2]
    );
}

#[test]
fn every_format_is_told_by_what_is_there() {
    let files = directory(&[
        (
            "nemo/list",
            "{\"audio_filepath\": \"a.wav\", \"text\": \"one\", \"speaker\": \"s\"}\n",
        ),
        ("nemo/a.wav", ""),
        ("libri/1998/15444/1998-15444.trans.txt", "1998-15444-0000 ONE TWO\n"),
        ("libri/1998/15444/1998-15444-0000.flac", ""),
        ("cv/test.tsv", "client_id\tpath\tsentence\nabc\tx.mp3\tOne.\n"),
        ("cv/clips/x.mp3", ""),
        ("ted/stm/talk.stm", "talk 1 anna 1.0 2.5 <o,f0,female> one\n"),
        ("ted/wav/talk.wav", ""),
        ("plain.txt", "sounds/a.wav\tone two\tbob\n"),
        ("sounds/a.wav", ""),
    ]);
    assert_eq!(content(&open(&files, "nemo/list")), [("a", "one", Some("s"))]);
    assert_eq!(
        content(&open(&files, "libri")),
        [("1998-15444-0000", "ONE TWO", Some("1998"))]
    );
    assert_eq!(content(&open(&files, "cv")), [("x", "One.", Some("abc"))]);
    assert_eq!(content(&open(&files, "cv/test.tsv")), [("x", "One.", Some("abc"))]);
    let ted = open(&files, "ted");
    assert_eq!(content(&ted), [("talk-1.0-2.5", "one", Some("anna"))]);
    assert_eq!((ted.utterances[0].start, ted.utterances[0].end), (Some(1.0), Some(2.5)));
    assert_eq!(
        content(&open(&files, "plain.txt")),
        [("sounds/a", "one two", Some("bob"))]
    );
}

#[test]
fn a_name_and_a_format_before_the_path() {
    let files = directory(&[("list", "a.wav\tone\n"), ("a.wav", "")]);
    let typed = format!("mine=tsv:{}", files.path().join("list").display());
    let set = TestSet::open(&typed, &TestSetOptions::default()).expect("the set");
    assert_eq!((set.name.as_str(), content(&set)), ("mine", vec![("a", "one", None)]));
    let forced = TestSetOptions {
        format: Some(Format::Jsonl),
        ..TestSetOptions::default()
    };
    let error = TestSet::open(files.path().join("list"), &forced).expect_err("no JSON");
    assert!(error.to_string().contains("bad JSON: line 1"), "{error}");
}

#[test]
fn chime_with_eight_splits_or_seven() {
    let mut files = Vec::new();
    for place in ["bus", "caf", "ped", "str"] {
        for kind in ["real", "simu"] {
            let (split, id) = (
                format!("et05_{place}_{kind}"),
                format!("F05_1_{}", place.to_uppercase()),
            );
            files.push((
                format!("data/transcriptions/{split}/{id}.trn"),
                format!("{id} GOOD MORNING\n"),
            ));
            files.push((format!("data/audio/16kHz/enhanced/{split}/{id}.wav"), String::new()));
        }
    }
    files.push((
        "data/transcriptions/dt05_bus_real/F01_1_BUS.trn".into(),
        "F01_1_BUS NO\n".into(),
    ));
    let files: Vec<(&str, &str)> = files
        .iter()
        .map(|(name, text)| (name.as_str(), text.as_str()))
        .collect();
    let files = directory(&files);
    let eight = open(&files, "");
    assert_eq!((content(&eight).len(), eight.warnings.len()), (8, 1));
    assert!(
        eight.warnings[0].starts_with("8 CHiME-3 splits: et05_bus_real"),
        "{:?}",
        eight.warnings
    );
    let seven = TestSetOptions {
        chime_splits: ChimeSplits::Seven,
        ..TestSetOptions::default()
    };
    let seven = TestSet::open(files.path(), &seven).expect("the set");
    assert_eq!(content(&seven).len(), 7);
    assert!(seven.warnings[0].contains("7 CHiME-3 splits (et05_ped_real left out)"));
    assert!(!seven.warnings[0].contains(", et05_ped_real"));
    fs::remove_dir_all(files.path().join("data/transcriptions/et05_str_simu")).expect("removed");
    assert!(open(&files, "").warnings[1].contains("not there: et05_str_simu"));
}

#[test]
fn everything_that_is_wrong_is_told_at_once() {
    let lines: String = (0..30)
        .map(|i| format!("{{\"audio_filepath\": \"no{i:02}.wav\", \"text\": \"x\"}}\n"))
        .collect();
    let duplicate = "{\"audio_filepath\": \"a.wav\", \"text\": \"x\", \"id\": \"same\"}\n".repeat(2);
    let text = format!("{lines}{duplicate}{{oops\n");
    let files = directory(&[
        ("set.jsonl", &text),
        ("a.wav", ""),
        ("empty.jsonl", "\n"),
        ("odd.bin", "words alone"),
    ]);
    let told = problems(&files, "set.jsonl");
    for part in [
        "bad JSON: line 33, column 2",
        "missing audio file (30 times): ",
        "no00.wav, ",
        "no09.wav, and 20 more",
        "duplicate id: same",
    ] {
        assert!(told.contains(part), "{told}");
    }
    assert!(!told.contains("no10.wav"), "{told}");
    assert!(problems(&files, "empty.jsonl").contains("no utterance"));
    assert!(problems(&files, "odd.bin").contains("FORMAT:PATH"));
    assert!(problems(&files, "nowhere").contains("no such file"));
    let unchecked = TestSetOptions {
        skip_audio_check: true,
        limit: Some(3),
        ..TestSetOptions::default()
    };
    let error = TestSet::open(files.path().join("set.jsonl"), &unchecked).expect_err("bad JSON still");
    assert!(!error.to_string().contains("missing audio"), "{error}");
}

#[test]
fn what_leaves_a_set_usable_is_a_warning() {
    let files = directory(&[
        ("set.tsv", "a.wav\t\nb.wav\tone\n"),
        ("a.wav", ""),
        ("b.wav", ""),
        (
            "same.jsonl",
            "{\"audio_filepath\": \"a.wav\", \"text\": \"x\", \"id\": \"1\"}\n{\"audio_filepath\": \"a.wav\", \"text\": \"y\", \"id\": \"2\"}\n",
        ),
        ("talks/t.stm", "t 1 s 0 1 one\n"),
        ("talks/t.sph", ""),
    ]);
    let warnings = open(&files, "set.tsv").warnings;
    assert!(
        warnings[0].contains("empty reference") && warnings[0].ends_with(": a"),
        "{warnings:?}"
    );
    let warnings = open(&files, "same.jsonl").warnings;
    assert!(warnings[0].contains("the same audio twice: 1 and 2"), "{warnings:?}");
    // Audio that nothing here decodes is an error, and says what to do.
    assert!(problems(&files, "talks").contains("sox"));
}
