//! `aurist models pull`, `list`, and `transcribe -m NAME` against a hub on this machine: resuming, checksums, faults,
//! the token, the cache's layout.
#![cfg(feature = "hub")]

mod cli_support;
mod hub_server;

use assert_cmd::Command;
use assert_cmd::assert::Assert;
use cli_support::tree;
use hub_server::{COMMIT, Faults, Server};
use predicates::prelude::PredicateBooleanExt;
use predicates::str::{contains, is_match};
use std::path::{Path, PathBuf};
use std::time::Duration;

const NAME: &str = "facebook/wav2vec2-base-960h";

/// A small model's files, as a repository has them: beside those that are wanted, some that are not.
fn files() -> Vec<(&'static str, Vec<u8>)> {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/goldens/wav2vec2-base");
    let read = |name: &str| std::fs::read(model.join(name)).expect("a golden's file");
    let mut files: Vec<(&str, Vec<u8>)> = [
        "config.json",
        "preprocessor_config.json",
        "vocab.json",
        "model.safetensors",
    ]
    .map(|name| (name, read(name)))
    .into();
    files.push(("pytorch_model.bin", vec![0; 5000]));
    files.push(("README.md", b"# a model".to_vec()));
    files
}

fn hub(faults: Faults) -> Server {
    let files = files();
    let files: Vec<(&str, &[u8])> = files.iter().map(|(name, bytes)| (*name, bytes.as_slice())).collect();
    Server::start(NAME, &files, faults)
}

fn aurist(server: &Server, home: &Path) -> Command {
    let mut command = cli_support::aurist();
    command.env("HF_ENDPOINT", &server.address).env("HF_HOME", home);
    for inherited in ["HF_TOKEN", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"] {
        command.env_remove(inherited);
    }
    command
}

fn pull(server: &Server, home: &Path, options: &[&str]) -> Assert {
    aurist(server, home)
        .args(["models", "pull", NAME])
        .args(options)
        .assert()
}

fn repository(home: &Path) -> PathBuf {
    home.join("hub/models--facebook--wav2vec2-base-960h")
}

fn weights() -> usize {
    files()[3].1.len()
}

fn assert_whole(home: &Path) {
    let snapshot = repository(home).join("snapshots").join(COMMIT);
    for (name, bytes) in files().iter().take(4) {
        assert!(std::fs::read(snapshot.join(name)).expect("a file") == *bytes, "{name}");
    }
    assert_eq!(tree(&snapshot).len(), 4, "only what is wanted");
    assert_eq!(
        std::fs::read_to_string(repository(home).join("refs/main")).expect("a ref"),
        COMMIT
    );
    let blobs = tree(&repository(home).join("blobs"));
    assert_eq!(
        blobs.iter().filter(|name| name.ends_with(".incomplete")).count(),
        0,
        "{blobs:?}"
    );
}

#[test]
fn a_pull_fills_the_cache_and_the_model_transcribes_by_name() {
    let (home, server) = (tempfile::tempdir().unwrap(), hub(Faults::default()));
    let home = home.path();
    let missing = |command: &mut Command| {
        let told = format!("{NAME} is not in the cache").to_string();
        command
            .assert()
            .code(1)
            .stderr(contains(told).and(contains(format!("aurist models pull {NAME}"))));
    };
    let clip = cli_support::short_clip();
    missing(aurist(&server, home).args(["transcribe", "-m", NAME]).arg(&clip));
    missing(aurist(&server, home).args(["models", "inspect", "wav2vec2-base-960h"]));
    assert!(server.requests().is_empty(), "only `pull` uses the network");

    let snapshot = repository(home).join("snapshots").join(COMMIT);
    // The short name.
    let pulled = aurist(&server, home)
        .args(["models", "pull", "wav2vec2-base-960h"])
        .assert()
        .success();
    pulled
        .stdout(format!("{}\n", snapshot.display()))
        .stderr(contains("model.safetensors: "));
    assert_whole(home);
    #[cfg(unix)]
    assert!(
        std::fs::read_link(snapshot.join("config.json"))
            .unwrap()
            .starts_with("../../blobs")
    );

    // What is there is not fetched again.
    let before = server.requests().len();
    pull(&server, home, &[])
        .success()
        .stderr(contains("model.safetensors: ").not());
    assert!(
        server.requests()[before..]
            .iter()
            .all(|request| !request.path.starts_with("/contents/"))
    );
    for options in [
        &["models", "list"][..],
        &["models", "inspect", NAME],
        &["models", "pull", NAME, "--offline"],
    ] {
        aurist(&server, home)
            .args(options)
            .assert()
            .success()
            .stdout(contains("wav2vec2-base-960h"));
    }
    let adapt = ["--adapt", "none", "--progress", "none", "-m", NAME];
    aurist(&server, home)
        .arg("transcribe")
        .arg(&clip)
        .args(adapt)
        .assert()
        .success();
}

#[test]
fn a_cut_download_is_gone_on_with() {
    let (home, server) = (tempfile::tempdir().unwrap(), hub(Faults::default()));
    let half = weights() / 2;
    server.set(Faults {
        cut_after: Some(half),
        cuts: 1,
        ..Faults::default()
    });
    pull(&server, home.path(), &[])
        .code(1)
        .stderr(contains("goes on where it stopped"));
    let list = aurist(&server, home.path()).args(["models", "list"]).assert().success();
    list.stdout(
        is_match(format!(
            "{NAME} at 0123456789ab +[0-9.]+ [kM]B +Wav2Vec2ForCTC +incomplete"
        ))
        .unwrap(),
    );
    aurist(&server, home.path())
        .args(["models", "inspect", NAME])
        .assert()
        .code(1)
        .stderr(contains("models pull"));
    pull(&server, home.path(), &[]).success().stderr(contains("are here"));
    let ranges: Vec<usize> = server.requests().iter().filter_map(|request| request.range).collect();
    assert_eq!(ranges, [half]);
    assert_whole(home.path());
}

#[test]
fn a_server_that_ignores_ranges_sends_everything_again() {
    let (home, server) = (tempfile::tempdir().unwrap(), hub(Faults::default()));
    server.set(Faults {
        cut_after: Some(1000),
        cuts: 1,
        no_range: true,
        ..Faults::default()
    });
    pull(&server, home.path(), &[]).code(1);
    pull(&server, home.path(), &[]).success();
    assert!(server.requests().iter().any(|request| request.range == Some(1000)));
    assert_whole(home.path());
}

#[test]
fn a_wrong_checksum_is_thrown_away() {
    let (home, server) = (tempfile::tempdir().unwrap(), hub(Faults::default()));
    server.set(Faults {
        damaged: true,
        ..Faults::default()
    });
    pull(&server, home.path(), &[])
        .code(1)
        .stderr(contains("arrived damaged"));
    assert!(!repository(home.path()).join("refs/main").exists());
    assert!(
        !tree(&repository(home.path()).join("snapshots"))
            .iter()
            .any(|name| name.contains("safetensors"))
    );
    server.set(Faults::default());
    pull(&server, home.path(), &[]).success();
    assert_whole(home.path());
}

#[test]
fn the_servers_refusals_say_what_to_do() {
    let home = tempfile::tempdir().unwrap();
    for (status, told) in [
        (404, "no such model"),
        (401, "HF_TOKEN"),
        (403, "HF_TOKEN"),
        (429, "wait"),
        (500, "try again later"),
    ] {
        let server = hub(Faults {
            status: Some(status),
            ..Faults::default()
        });
        let ended = pull(&server, home.path(), &[]).code(1).stdout("");
        let errors = String::from_utf8_lossy(&ended.get_output().stderr).into_owned();
        assert!(
            errors.contains(told) && errors.contains(&status.to_string()),
            "{errors}"
        );
        assert_eq!(errors.lines().count(), 1, "{errors}");
    }
    let server = hub(Faults::default());
    let nowhere = |command: &mut Command, told: &str, code| {
        command.assert().code(code).stderr(contains(told));
    };
    nowhere(
        aurist(&server, home.path()).args(["models", "pull", "facebook/other"]),
        "no such model",
        1,
    );
    nowhere(
        aurist(&server, home.path()).args(["models", "pull", "nonsense"]),
        "facebook/wav2vec2-base-960h",
        2,
    );
    nowhere(
        aurist(&server, home.path()).args(["models", "pull", NAME, "--revision", "../../x"]),
        "no revision",
        1,
    );
    let mut gone = aurist(&server, home.path());
    gone.env("HF_ENDPOINT", "http://127.0.0.1:9");
    nowhere(gone.args(["models", "pull", NAME]), "could not be reached", 1);
    let empty = Server::start(NAME, &[("README.md", b"nothing")], Faults::default());
    nowhere(
        aurist(&empty, home.path()).args(["models", "pull", NAME]),
        "no files of a model",
        1,
    );
    assert!(
        !home.path().join("hub").exists(),
        "a pull that fetched nothing leaves nothing"
    );
}

#[test]
fn the_token_goes_to_the_hub_alone() {
    let home = tempfile::tempdir().unwrap();
    let elsewhere = hub(Faults::default());
    let server = hub(Faults {
        contents_at: Some(elsewhere.address.clone()),
        ..Faults::default()
    });
    aurist(&server, home.path())
        .env("HF_TOKEN", "hf_secret")
        .args(["models", "pull", NAME])
        .assert()
        .success();
    assert_whole(home.path());
    assert!(
        server
            .requests()
            .iter()
            .all(|request| request.authorization.as_deref() == Some("Bearer hf_secret"))
    );
    let there = elsewhere.requests();
    assert!(there.iter().any(|request| request.path.contains("model.safetensors")));
    assert!(there.iter().all(|request| request.authorization.is_none()), "{there:?}");
    // A whole repository that is sent elsewhere is not told the token either.
    let (home, mover) = (tempfile::tempdir().unwrap(), hub(Faults::default()));
    mover.set(Faults {
        contents_at: Some(mover.address.replace("127.0.0.1", "localhost")),
        ..Faults::default()
    });
    aurist(&mover, home.path())
        .env("HF_TOKEN", "hf_secret")
        .args(["models", "pull", NAME])
        .assert()
        .success();
    let contents = mover
        .requests()
        .into_iter()
        .filter(|request| request.path.starts_with("/contents/"));
    assert!(
        contents
            .map(|request| request.authorization)
            .all(|token| token.is_none())
    );
    // A token on disk, as `hf auth login` leaves it.
    let (home, server) = (tempfile::tempdir().unwrap(), hub(Faults::default()));
    std::fs::write(home.path().join("token"), "hf_saved\n").unwrap();
    pull(&server, home.path(), &[]).success();
    let tokens = server.requests().into_iter().map(|request| request.authorization);
    assert!(
        tokens
            .into_iter()
            .all(|token| token.as_deref() == Some("Bearer hf_saved"))
    );
}

#[test]
fn offline_uses_what_is_there_and_nothing_else() {
    let (home, server) = (tempfile::tempdir().unwrap(), hub(Faults::default()));
    pull(&server, home.path(), &["--offline"])
        .code(1)
        .stderr(contains("this run is offline"));
    let mut command = aurist(&server, home.path());
    command.env("HF_HUB_OFFLINE", "1").args(["models", "pull", NAME]);
    command.assert().code(1).stderr(contains("this run is offline"));
    assert!(server.requests().is_empty());
    pull(&server, home.path(), &[]).success();
    let before = server.requests().len();
    command.assert().success().stdout(contains(COMMIT));
    pull(&server, home.path(), &["--offline", "--revision", COMMIT]).success();
    pull(&server, home.path(), &["--offline", "--revision", "v2"]).code(1);
    assert_eq!(server.requests().len(), before);
}

#[test]
fn two_pulls_at_once_fetch_once() {
    let (home, server) = (tempfile::tempdir().unwrap(), hub(Faults::default()));
    server.set(Faults {
        pause: Duration::from_millis(300),
        ..Faults::default()
    });
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| pull(&server, home.path(), &[]).success());
        }
    });
    assert_whole(home.path());
    let contents = server
        .requests()
        .into_iter()
        .filter(|request| request.path.starts_with("/contents/"));
    assert_eq!(contents.count(), 1, "the second waited for the first");
}

#[test]
fn a_disk_that_refuses_is_named() {
    let (home, server) = (tempfile::tempdir().unwrap(), hub(Faults::default()));
    // A file where the cache's directory should be: a refusal that also stops a privileged user.
    std::fs::write(home.path().join("hub"), "in the way").unwrap();
    let path = home.path().join("hub").display().to_string();
    let refused = pull(&server, home.path(), &[]).code(1).stderr(contains(path));
    assert_eq!(
        String::from_utf8_lossy(&refused.get_output().stderr)
            .lines()
            .filter(|line| line.starts_with("error"))
            .count(),
        1
    );
    aurist(&server, home.path()).args(["models", "list"]).assert().success();
}

#[test]
fn a_renamed_repository_is_found_and_keeps_the_name_it_was_asked_for_by() {
    let (home, server) = (tempfile::tempdir().unwrap(), hub(Faults::default()));
    server.set(Faults {
        renamed_from: Some("old/name".into()),
        ..Faults::default()
    });
    aurist(&server, home.path())
        .args(["models", "pull", "old/name"])
        .assert()
        .success();
    aurist(&server, home.path())
        .args(["models", "inspect", "old/name"])
        .assert()
        .success();
}

#[test]
fn sharded_weights_and_other_revisions() {
    let home = tempfile::tempdir().unwrap();
    let index =
        br#"{"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}"#;
    let (first, second) = (vec![1; 5000], vec![2; 6000]);
    let files: [(&str, &[u8]); 5] = [
        ("config.json", b"{}"),
        ("model.safetensors.index.json", index),
        ("model-00001-of-00002.safetensors", &first),
        ("model-00002-of-00002.safetensors", &second),
        ("evil/../../x.safetensors", b"no"),
    ];
    let server = Server::start("a/b", &files, Faults::default());
    aurist(&server, home.path())
        .args(["models", "pull", "a/b", "--revision", "refs/pr/1"])
        .assert()
        .success();
    assert!(
        server
            .requests()
            .iter()
            .any(|request| request.path.contains("refs%2Fpr%2F1"))
    );
    let list = aurist(&server, home.path())
        .args(["models", "list", "--json"])
        .assert()
        .success();
    let list: serde_json::Value = serde_json::from_slice(&list.get_output().stdout).unwrap();
    let model = list["models"].as_array().unwrap().last().unwrap();
    assert_eq!(
        (&model["name"], &model["revision"], &model["state"]),
        (&"a/b".into(), &"refs/pr/1".into(), &"complete".into())
    );
    let snapshot = home.path().join("hub/models--a--b/snapshots").join(COMMIT);
    assert_eq!(tree(&snapshot).len(), 4);
    std::fs::remove_file(snapshot.join("model-00002-of-00002.safetensors")).unwrap();
    let list = aurist(&server, home.path())
        .args(["models", "list", "--json"])
        .assert()
        .success();
    assert!(String::from_utf8_lossy(&list.get_output().stdout).contains("incomplete"));
}

#[cfg(unix)]
#[test]
fn ctrl_c_ends_with_130_and_loses_nothing() {
    let (home, server) = (tempfile::tempdir().unwrap(), hub(Faults::default()));
    // It stops in the middle of the weights, and stays silent.
    server.set(Faults {
        pause: Duration::from_secs(2),
        ..Faults::default()
    });
    let child = std::process::Command::new(env!("CARGO_BIN_EXE_aurist"))
        .args(["models", "pull", NAME])
        .env("HF_ENDPOINT", &server.address)
        .env("HF_HOME", home.path())
        .env_remove("HF_HUB_OFFLINE")
        .stderr(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let begun = || {
        server
            .requests()
            .iter()
            .any(|request| request.path.starts_with("/contents/"))
    };
    for _ in 0..600 {
        if begun() {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(begun());
    std::thread::sleep(Duration::from_millis(300));
    let killed = std::process::Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status()
        .unwrap();
    assert!(killed.success());
    let output = child.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{errors}");
    assert!(errors.contains("goes on where it stopped"), "{errors}");
    server.set(Faults::default());
    pull(&server, home.path(), &[]).success();
    assert_whole(home.path());
}
