//! The server's page in a headless Chromium whose microphone plays a real recording. Skipped, with a word, where there is no
//! Chromium. Pictures of it are left in target/page/. With AURIST_AXE=axe.min.js (of npm's axe-core) its accessibility is
//! checked by that too.
#![cfg(all(feature = "bundled-model", feature = "serve", unix))]

#[path = "page/browser.rs"]
mod browser;
mod cli_support;
#[allow(dead_code, reason = "of the server's tests this one uses a part")]
#[path = "live/server.rs"]
mod server;

use browser::Browser;
use cli_support::{aurist, clips, json_lines, short_clip};
use serde_json::{Value, json};
use server::Server;
use std::path::{Path, PathBuf};

/// Two clips with pauses, 13 s.
fn recording(folder: &Path) -> PathBuf {
    let mut samples = vec![0.0; 8_000];
    for clip in &clips()[1..3] {
        samples.extend(aurist::audio::read_all(clip).expect("audio"));
        samples.extend(std::iter::repeat_n(0.0, 28_000));
    }
    let path = folder.join("recording.wav");
    aurist::audio::mix::write_wav(&path, &samples).expect("a recording");
    path
}

/// What the command makes of a recording: each utterance's words.
fn said(recording: &Path) -> Vec<String> {
    let ended = aurist()
        .args(["listen", "--json", "--adapt", "none", "--speed", "0", "--input"])
        .arg(recording)
        .assert()
        .success();
    let events = json_lines(&ended.get_output().stdout);
    let revisions = events.iter().filter(|event| event["type"] == "revision");
    revisions
        .map(|event| event["text"].as_str().expect("a text").to_owned())
        .collect()
}

/// That most letters of one text are in the other, in their order. Letters, not words: a weak
/// model spells a word otherwise after the browser has resampled it, and that is no fault of the
/// page's. Two texts that have nothing to do with one another share less than half of theirs.
fn assert_resembles(text: &str, wanted: &str) {
    let [a, b]: [Vec<char>; 2] = [text, wanted].map(|text| text.chars().collect());
    let mut table = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..a.len() {
        for j in 0..b.len() {
            table[i + 1][j + 1] = if a[i] == b[j] {
                table[i][j] + 1
            } else {
                table[i][j + 1].max(table[i + 1][j])
            };
        }
    }
    let common = table[a.len()][b.len()];
    assert!(
        4 * common >= 3 * a.len().max(b.len()),
        "{text:?} is not like {wanted:?}"
    );
}

/// The captions, oldest first: adapted and unadapted.
fn captions(browser: &mut Browser) -> Vec<(String, String)> {
    let rows = browser.eval(
        "[...document.querySelectorAll('#rows tr')].reverse().map((row) =>
           [row.querySelector('.after').textContent.trim(), row.querySelector('.before').textContent.trim()])",
    );
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let pair = |row: &Value| (text(&row[0]), text(&row[1]));
    rows.as_array().expect("rows").iter().map(pair).collect()
}

/// That nothing is asked of any other host, and nothing went wrong in the page.
fn assert_at_home(browser: &mut Browser, server: &Server) {
    let home = |address: &String| {
        let known = [
            format!("http://{}/", server.address),
            format!("ws://{}/", server.address),
        ];
        known.iter().any(|known| address.starts_with(known))
            || ["blob:", "data:", "about:"].iter().any(|own| address.starts_with(own))
    };
    let strangers: Vec<String> = browser
        .requested()
        .into_iter()
        .filter(|address| !home(address))
        .collect();
    assert!(strangers.is_empty(), "{strangers:?}");
    let complaints = browser.complaints();
    assert!(complaints.is_empty(), "{complaints:?}");
}

/// That everything one can act on or that changes has a name for those who do not see it.
fn assert_named(browser: &mut Browser) {
    let tree = browser.call("Accessibility.getFullAXTree", json!({}));
    let nodes = tree["nodes"]
        .as_array()
        .expect("nodes")
        .iter()
        .filter(|node| node["ignored"] == json!(false));
    let mut roles = Vec::new();
    for node in nodes {
        let role = node["role"]["value"].as_str().unwrap_or_default();
        if [
            "button", "combobox", "meter", "table", "log", "textbox", "region", "image",
        ]
        .contains(&role)
        {
            let name = node["name"]["value"].as_str().unwrap_or_default();
            assert!(!name.trim().is_empty(), "no name: {node}");
            roles.push(role.to_owned());
        }
    }
    for role in ["button", "combobox", "meter", "table", "log", "region", "image"] {
        assert!(roles.iter().any(|found| found == role), "no {role} among {roles:?}");
    }
}

/// On a phone and on a screen, light and dark: nothing is wider than the window, and axe-core, if there, has no complaint.
fn look_at(browser: &mut Browser, name: &str) {
    let axe = std::env::var_os("AURIST_AXE").map(|path| std::fs::read_to_string(path).expect("axe-core"));
    for (size, width, height) in [("screen", 1280, 900), ("phone", 390, 844)] {
        for scheme in ["light", "dark"] {
            browser.look(width, height, scheme);
            let fits = "document.documentElement.scrollWidth <= document.documentElement.clientWidth";
            assert_eq!(browser.eval(fits), json!(true), "{name} is wider than a {size}");
            browser.picture(&format!("{name}-{size}-{scheme}"));
            if let Some(axe) = &axe {
                browser.eval(&format!("{axe}; 0"));
                let found = browser.text("axe.run().then((found) => JSON.stringify(found.violations))");
                assert_eq!(found, "[]", "{name}, {size}, {scheme}");
            }
        }
    }
    browser.look(1280, 900, "light");
}

/// The times of cues, in seconds, and their texts.
fn cues(file: &str, separator: char) -> Vec<(f64, f64, String)> {
    let seconds = |stamp: &str| {
        let (whole, millis) = stamp.split_once(separator).expect("milliseconds");
        assert!(millis.len() == 3 && whole.len() == 8, "{stamp}");
        let fields: Vec<f64> = whole.split(':').map(|field| field.parse().expect("a number")).collect();
        3600.0 * fields[0] + 60.0 * fields[1] + fields[2] + millis.parse::<f64>().expect("a number") / 1000.0
    };
    let cue = |block: &str| {
        let mut lines = block.lines().skip_while(|line| !line.contains(" --> "));
        let (from, to) = lines.next()?.split_once(" --> ")?;
        Some((seconds(from), seconds(to), lines.collect::<Vec<_>>().join(" ")))
    };
    file.split("\n\n").filter_map(cue).collect()
}

#[test]
fn captions_of_a_microphone_by_keyboard_alone() {
    let folder = tempfile::tempdir().expect("a directory");
    let recording = recording(folder.path());
    let Some(mut browser) = Browser::start(&recording) else {
        return;
    };
    let server = Server::start(&[]);
    browser.look(1280, 900, "light");
    browser.open(&format!("http://{}/", server.address));
    look_at(&mut browser, "empty");
    browser.eval(
        "window.seen = []; new MutationObserver(() => {
           const text = document.getElementById('partial').textContent.trim();
           if (text) seen.push(text);
         }).observe(document.getElementById('partial'), { childList: true, subtree: true });",
    );
    browser.tab_to("microphone");
    browser.key("Enter");
    browser.until(
        "it listens",
        "document.getElementById('state').textContent.startsWith('Listening')",
    );
    browser.until(
        "a partial",
        "seen.length > 0 && document.getElementById('level').value > 0",
    );
    look_at(&mut browser, "listening");

    let settled = |count: usize| {
        format!(
            "[...document.querySelectorAll('#rows tr')].filter((row) =>
               !row.querySelector('.pending') && row.querySelector('.before').textContent).length >= {count}"
        )
    };
    browser.until("an utterance is settled", &settled(1));
    // Another policy, and forgetting, in the middle of it.
    browser.tab_to("policy");
    browser.key("ArrowDown");
    browser.until(
        "another policy",
        "document.getElementById('model').textContent.includes('dsuta')",
    );
    browser.tab_to("reset");
    browser.key(" ");
    browser.until(
        "it says so",
        "document.getElementById('notice').textContent.startsWith('Forgotten')",
    );
    browser.until("two utterances are settled", &settled(2));
    assert_named(&mut browser);
    browser.tab_to("microphone");
    browser.key("Enter");
    browser.until(
        "it ends",
        "document.getElementById('state').textContent === 'Not listening.'",
    );

    let (captions, said) = (captions(&mut browser), said(&recording));
    assert_eq!((captions.len(), said.len()), (2, 2), "{captions:?} {said:?}");
    for ((adapted, unadapted), said) in captions.iter().zip(&said) {
        assert_resembles(unadapted, said);
        assert_resembles(adapted, said);
    }
    assert_eq!(
        browser.eval("document.getElementById('log').textContent"),
        json!(captions[1].0)
    );
    // Each curve goes over both utterances, within the picture.
    for curve in ["a", "b", "c"] {
        let path = browser.text(&format!(
            "document.querySelector('#chart .curve.{curve}').getAttribute('d')"
        ));
        let points: Vec<f64> = path
            .split(['M', 'L', ' '])
            .filter_map(|number| number.parse().ok())
            .collect();
        assert_eq!(points.len(), 4, "{path}");
        assert!(
            points
                .chunks(2)
                .all(|point| (0.0..=600.0).contains(&point[0]) && (0.0..=120.0).contains(&point[1]))
        );
    }
    look_at(&mut browser, "captions");

    let all: String = captions.iter().map(|(adapted, _)| format!("{adapted}\n")).collect();
    let words = |text: &str| text.split_whitespace().map(String::from).collect::<Vec<_>>();
    for kind in ["srt", "vtt", "txt"] {
        browser.eval(&format!("document.querySelector('[data-save={kind}]').focus()"));
        browser.key("Enter");
        let file = browser.downloaded(&format!("captions.{kind}"));
        if kind == "txt" {
            assert_eq!(file, all);
            continue;
        }
        let cues = cues(&file, if kind == "srt" { ',' } else { '.' });
        assert_eq!(file.starts_with("WEBVTT\n\n"), kind == "vtt");
        assert!(kind == "vtt" || file.starts_with("1\n00:00:"), "{file}");
        assert!(cues.iter().all(|(from, to, _)| from < to && *to < 30.0), "{file}");
        assert!(cues.windows(2).all(|pair| pair[0].1 <= pair[1].0 + 0.2), "{file}");
        assert_eq!(
            words(&cues.iter().map(|cue| cue.2.clone()).collect::<Vec<_>>().join(" ")),
            words(&all)
        );
    }
    assert_at_home(&mut browser, &server);
}

#[test]
fn a_chosen_file_and_what_is_no_recording() {
    let folder = tempfile::tempdir().expect("a directory");
    let recording = recording(folder.path());
    let Some(mut browser) = Browser::start(&short_clip()) else {
        return;
    };
    let server = Server::start(&[]);
    browser.open(&format!("http://{}/", server.address));
    let nonsense = folder.path().join("nonsense.wav");
    std::fs::write(&nonsense, "this is no recording").expect("a file");
    browser.choose("#file", &nonsense);
    browser.until(
        "an error",
        "document.getElementById('error').textContent.includes('could not be played')",
    );
    browser.choose("#file", &recording);
    browser.until(
        "no error any more",
        "document.getElementById('error').textContent === ''",
    );
    let ended = "document.getElementById('state').textContent === 'Not listening.'";
    browser.until(
        "it ends",
        &format!("document.querySelectorAll('#rows tr').length === 2 && {ended}"),
    );
    let (first, said) = (captions(&mut browser), said(&recording));
    for ((_, unadapted), said) in first.iter().zip(&said) {
        assert_resembles(unadapted, said);
    }
    // Another goes on after it, on the same clock.
    browser.choose("#file", &short_clip());
    browser.until(
        "it ends",
        &format!("document.querySelectorAll('#rows tr').length === 3 && {ended}"),
    );
    assert_eq!(captions(&mut browser)[..2], first[..]);
    let time = browser.text("document.querySelector('#rows .time').textContent");
    assert!(time.as_str() >= "0:12", "{time}");
    // A server that goes away in the middle.
    assert_at_home(&mut browser, &server);
    browser.eval("document.getElementById('microphone').click()");
    browser.until(
        "it listens",
        "document.getElementById('state').textContent.startsWith('Listening')",
    );
    drop(server);
    browser.until(
        "it says so",
        "document.getElementById('error').textContent.includes('connection ended')",
    );
    browser.until(
        "it can begin again",
        "document.getElementById('microphone').textContent === 'Start microphone'",
    );
}

#[test]
fn a_server_with_a_key_asks_for_it() {
    let Some(mut browser) = Browser::start(&short_clip()) else {
        return;
    };
    let server = Server::start(&["--api-key", "secret"]);
    browser.open(&format!("http://{}/", server.address));
    browser.until("it asks for the key", "!document.getElementById('keybox').hidden");
    look_at(&mut browser, "key");
    browser.eval("document.getElementById('microphone').click()");
    browser.until(
        "an error",
        "document.getElementById('error').textContent.includes('key')",
    );
    browser.eval("document.getElementById('key').value = 'secret'");
    browser.eval("document.getElementById('microphone').click()");
    browser.until(
        "it listens",
        "document.getElementById('state').textContent.startsWith('Listening')",
    );
    browser.until("a caption", "document.querySelectorAll('#rows tr').length === 1");
}
