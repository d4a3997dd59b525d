//! What the server counts, in Prometheus' text format.

use axum::http::StatusCode;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Upper ends of the delays' buckets, in seconds.
const BUCKETS: [f64; 9] = [0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// Counters and gauges since the start.
#[derive(Default)]
pub(super) struct Metrics {
    connections: AtomicI64,
    connections_refused: AtomicU64,
    connections_slow: AtomicU64,
    streams: AtomicI64,
    refused: Mutex<BTreeMap<u16, u64>>,
    requests: Mutex<BTreeMap<u16, u64>>,
    audio_milliseconds: AtomicU64,
    utterances: AtomicU64,
    finals: Mutex<Delays>,
    revisions: Mutex<Delays>,
    skipped: AtomicU64,
}

#[derive(Default)]
struct Delays {
    buckets: [u64; BUCKETS.len()],
    count: u64,
    sum: f64,
}

impl Delays {
    fn add(&mut self, seconds: f64) {
        for (bucket, end) in self.buckets.iter_mut().zip(BUCKETS) {
            *bucket += u64::from(seconds <= end);
        }
        self.count += 1;
        self.sum += seconds;
    }
}

fn add(counts: &Mutex<BTreeMap<u16, u64>>, status: StatusCode) {
    let mut counts = counts.lock().unwrap_or_else(PoisonError::into_inner);
    *counts.entry(status.as_u16()).or_default() += 1;
}

impl Metrics {
    pub(super) fn connection(&self, change: i64) {
        self.connections.fetch_add(change, Ordering::Relaxed);
    }

    pub(super) fn connection_refused(&self) {
        self.connections_refused.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn connection_slow(&self) {
        self.connections_slow.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn stream(&self, change: i64) {
        self.streams.fetch_add(change, Ordering::Relaxed);
    }

    /// A request was refused before it was looked at.
    pub(super) fn refused(&self, status: StatusCode) {
        add(&self.refused, status);
    }

    /// A transcription was answered.
    pub(super) fn request(&self, status: StatusCode) {
        add(&self.requests, status);
    }

    pub(super) fn utterance(&self, seconds: f64) {
        self.utterances.fetch_add(1, Ordering::Relaxed);
        self.audio_milliseconds
            .fetch_add((seconds * 1000.0) as u64, Ordering::Relaxed);
    }

    pub(super) fn final_after(&self, delay: f64) {
        self.finals.lock().unwrap_or_else(PoisonError::into_inner).add(delay);
    }

    pub(super) fn revision_after(&self, delay: f64, skipped: bool) {
        self.skipped.fetch_add(skipped.into(), Ordering::Relaxed);
        self.revisions.lock().unwrap_or_else(PoisonError::into_inner).add(delay);
    }

    /// The text; `waiting` are the tasks in the decoding and the adapting line.
    pub(super) fn text(&self, waiting: [usize; 2]) -> String {
        let mut out = String::new();
        let mut metric = |name: &str, kind: &str, help: &str, samples: &[(String, f64)]| {
            let _ = writeln!(out, "# HELP aurist_{name} {help}\n# TYPE aurist_{name} {kind}");
            for (labels, value) in samples {
                let _ = writeln!(out, "aurist_{name}{labels} {value}");
            }
        };
        let one = |value: f64| [(String::new(), value)];
        let count = |counter: &AtomicU64| one(counter.load(Ordering::Relaxed) as f64);
        let gauge = |counter: &AtomicI64| one(counter.load(Ordering::Relaxed) as f64);
        let by_status = |counts: &Mutex<BTreeMap<u16, u64>>| -> Vec<(String, f64)> {
            let counts = counts.lock().unwrap_or_else(PoisonError::into_inner);
            let sample = |(status, count): (&u16, &u64)| (format!("{{status=\"{status}\"}}"), *count as f64);
            counts.iter().map(sample).collect()
        };
        metric("connections", "gauge", "Open connections.", &gauge(&self.connections));
        let refused = count(&self.connections_refused);
        metric(
            "connections_refused_total",
            "counter",
            "Connections closed because there were too many.",
            &refused,
        );
        metric(
            "connections_slow_total",
            "counter",
            "Connections closed because the client took too long to ask or to read.",
            &count(&self.connections_slow),
        );
        metric("streams", "gauge", "Live streams.", &gauge(&self.streams));
        metric(
            "requests_total",
            "counter",
            "Transcriptions answered.",
            &by_status(&self.requests),
        );
        metric(
            "refused_total",
            "counter",
            "Requests refused unread.",
            &by_status(&self.refused),
        );
        let audio = one(self.audio_milliseconds.load(Ordering::Relaxed) as f64 / 1000.0);
        metric("audio_seconds_total", "counter", "Audio recognised.", &audio);
        metric(
            "utterances_total",
            "counter",
            "Utterances recognised.",
            &count(&self.utterances),
        );
        let skipped = count(&self.skipped);
        metric(
            "adaptations_skipped_total",
            "counter",
            "Live utterances not adapted to.",
            &skipped,
        );
        let lanes = ["decode", "adapt"].map(|lane| format!("{{lane=\"{lane}\"}}"));
        let waiting: Vec<_> = lanes.into_iter().zip(waiting.map(|count| count as f64)).collect();
        metric("tasks_waiting", "gauge", "Tasks in line for a thread.", &waiting);
        for (name, help, delays) in [
            (
                "final_delay_seconds",
                "From an utterance's end to its final.",
                &self.finals,
            ),
            (
                "revision_delay_seconds",
                "From an utterance's end to its revision.",
                &self.revisions,
            ),
        ] {
            let delays = delays.lock().unwrap_or_else(PoisonError::into_inner);
            let _ = writeln!(out, "# HELP aurist_{name} {help}\n# TYPE aurist_{name} histogram");
            for (end, bucket) in BUCKETS.iter().zip(delays.buckets) {
                let _ = writeln!(out, "aurist_{name}_bucket{{le=\"{end}\"}} {bucket}");
            }
            let (count, sum) = (delays.count, delays.sum);
            let _ = writeln!(out, "aurist_{name}_bucket{{le=\"+Inf\"}} {count}");
            let _ = writeln!(out, "aurist_{name}_sum {sum}\naurist_{name}_count {count}");
        }
        out
    }
}
