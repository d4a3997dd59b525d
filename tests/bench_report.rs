//! The report: one file that needs nothing else, well-formed, with the numbers of the results in it, in a browser too.

mod bench_support;
mod cli_support;

use bench_support::bench;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

struct Report {
    _dir: tempfile::TempDir,
    path: PathBuf,
    html: String,
    json: Value,
    csv: String,
}

/// One run for all tests: two conditions at two ratios, a stream, clips.
fn report() -> &'static Report {
    static REPORT: OnceLock<Report> = OnceLock::new();
    REPORT.get_or_init(|| {
        let dir = tempfile::tempdir().expect("a directory");
        let at = |name: &str| dir.path().join(name);
        fs::write(at("day.stream"), "2 clean\n2 gaussian@0\n").expect("a stream");
        let stream = at("day.stream").display().to_string();
        let (html, json, csv) = (at("report.html"), at("report.json"), at("report.csv"));
        let show = |path: &Path| path.display().to_string();
        let (html_text, json_text, csv_text) = (show(&html), show(&json), show(&csv));
        let options = [
            "--noise",
            "gaussian@0,5",
            "--method",
            "suta:steps=3",
            "--stream",
            &stream,
            "--clips",
            "1",
            "--report",
            &html_text,
            "--json",
            &json_text,
            "--csv",
            &csv_text,
        ];
        bench(&at("out"), &options).assert().success();
        let read = |path: &Path| fs::read_to_string(path).expect("a file");
        Report {
            html: read(&html),
            json: serde_json::from_str(&read(&json)).expect("JSON"),
            csv: read(&csv),
            path: html,
            _dir: dir,
        }
    })
}

/// Opening tags without their closing ones, or the reverse; quotes and entities as they must be.
fn check_well_formed(html: &str) {
    const VOID: [&str; 4] = ["meta", "br", "hr", "img"];
    let mut open: Vec<&str> = Vec::new();
    let mut rest = html;
    while let Some(start) = rest.find('<') {
        let text = &rest[..start];
        assert!(
            !text.contains('>') || open.last() == Some(&"style"),
            "a stray > in {text:?}"
        );
        rest = &rest[start + 1..];
        let end = rest.find('>').expect("a tag's end");
        let tag = &rest[..end];
        rest = &rest[end + 1..];
        if tag.starts_with('!') {
            continue;
        }
        assert!(tag.matches('"').count().is_multiple_of(2), "quotes in <{tag}>");
        let name = tag.trim_start_matches('/').split([' ', '\n']).next().expect("a name");
        if tag.starts_with('/') {
            assert_eq!(open.pop(), Some(name), "</{name}>");
        } else if !VOID.contains(&name) {
            open.push(name);
        }
    }
    assert!(open.is_empty(), "not closed: {open:?}");
}

#[test]
fn it_is_one_file_that_asks_for_nothing_else() {
    let html = &report().html;
    assert!(html.starts_with("<!DOCTYPE html>"));
    for needle in [
        "<script", "<link", "<iframe", "@import", "url(", "http://", "https://", "src=\"/", "src=\".",
    ] {
        assert!(!html.contains(needle), "{needle}");
    }
    let sources = html.matches(" src=\"").count();
    assert_eq!(sources, html.matches(" src=\"data:audio/wav;base64,").count());
    assert!(sources > 0, "no clip");
}

#[test]
fn it_is_well_formed_and_tells_a_screen_reader_what_it_shows() {
    let html = &report().html;
    check_well_formed(html);
    assert!(html.contains("<html lang=\"en\">"));
    let charts = html.matches("<svg").count();
    assert!(charts >= 6, "{charts} charts");
    assert_eq!(charts, html.matches("role=\"img\" aria-label=\"").count());
    assert_eq!(html.matches("<table").count(), html.matches("<caption").count());
    for needed in [
        "scope=\"row\"",
        "scope=\"col\"",
        "prefers-color-scheme: dark",
        "@media print",
        "name=\"viewport\"",
    ] {
        assert!(html.contains(needed), "{needed}");
    }
}

#[test]
fn it_holds_the_numbers_of_the_results() {
    let Report { html, json, csv, .. } = report();
    let runs = json["runs"].as_array().expect("runs");
    assert_eq!(runs.len(), 2 * 4);
    assert_eq!(csv.lines().count(), 1 + runs.len());
    for run in runs {
        for key in [
            "model",
            "method",
            "set",
            "condition",
            "wer",
            "wer_interval",
            "counts",
            "cost",
            "hypotheses",
        ] {
            assert!(!run[key].is_null(), "{key}");
        }
        let wer = run["wer"].as_f64().expect("a rate");
        assert!(html.contains(&format!("{:.1}", 100.0 * wer)), "{wer}");
        assert!(csv.contains(&format!("{wer:.6}")), "{wer}");
        // The rate is that of the hypotheses given, recounted from their own counts.
        let sum = |key: &str| -> u64 {
            let hypotheses = run["hypotheses"].as_array().expect("hypotheses").iter();
            hypotheses
                .map(|hypothesis| hypothesis["words"][key].as_u64().expect("a count"))
                .sum()
        };
        let errors = sum("substitutions") + sum("deletions") + sum("insertions");
        let words = sum("hits") + sum("substitutions") + sum("deletions");
        assert!((wer - errors as f64 / words as f64).abs() < 1e-12);
        for identity in ["model", "method"] {
            assert!(html.contains(run[identity].as_str().expect("a name")));
        }
    }
    let identity = json["models"][0]["identity"].as_str().expect("an identity");
    assert!(html.contains(identity));
    assert!(html.contains(json["reproduction"]["command"].as_str().expect("a command")));
    assert!(html.contains(json["normaliser"][1].as_str().expect("a version")));
}

#[test]
fn a_browser_shows_it_whole() {
    let names = ["chromium", "chromium-browser", "google-chrome", "chrome"];
    let Some(browser) = names.iter().find(|name| {
        Command::new(name)
            .arg("--version")
            .output()
            .is_ok_and(|o| o.status.success())
    }) else {
        eprintln!("skipped: no Chromium on this machine (looked for {})", names.join(", "));
        return;
    };
    let profile = tempfile::tempdir().expect("a directory");
    let screenshot = profile.path().join("page.png");
    let run = |extra: &[String]| {
        let mut command = Command::new(browser);
        command.args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
        ]);
        command
            .arg(format!("--user-data-dir={}", profile.path().join("profile").display()))
            .args(extra);
        let output = command
            .arg(format!("file://{}", report().path.display()))
            .output()
            .expect("a browser");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let dom = run(&["--dump-dom".to_string()]);
    // The browser's own reading of it: nothing dropped, nothing moved.
    for tag in ["<table", "<tr", "<svg", "<circle", "<details", "<audio", "<article"] {
        assert_eq!(dom.matches(tag).count(), report().html.matches(tag).count(), "{tag}");
    }
    run(&[
        format!("--screenshot={}", screenshot.display()),
        "--window-size=390,1200".to_string(),
    ]);
    assert!(fs::metadata(&screenshot).expect("a screenshot").len() > 10_000);
}
