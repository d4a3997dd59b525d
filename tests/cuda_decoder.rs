//! What Whisper's decoder needs, on the CUDA backend: its operations against formulas in f64 and the CPU backend's, and a tiny
//! random Whisper's texts, decoded and adapted.
#![cfg(feature = "cuda")]

mod common;
mod cuda_support;

use aurist::decode::whisper::{DecodingOptions, Transcription, WhisperDecoder};
use aurist::engine::cpu::CpuBackend;
use aurist::engine::{CrossAttention, DecoderBackend};
use aurist::model::ModelFiles;
use aurist::{AdaptationConfig, Half, Method, ParameterChoice, WhisperAdaptation};
use common::{Golden, relative_difference, repository};
use cuda_support::random;
use std::sync::Arc;

/// By the definition, in f64: the output and its log-sum-exps.
fn attend(shape: CrossAttention, q: &[f64], kv: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let (width, dim) = (shape.width(), shape.head_dim);
    let (mut out, mut log_sum_exp) = (vec![0.0; q.len()], vec![0.0; shape.heads * shape.queries]);
    for (query, head) in (0..shape.queries).flat_map(|query| (0..shape.heads).map(move |head| (query, head))) {
        let at = query * width + head * dim;
        let part = |key: usize, which: usize| &kv[key * 2 * width + which * width + head * dim..][..dim];
        let score =
            |key: usize| -> f64 { (0..dim).map(|d| q[at + d] * part(key, 0)[d]).sum::<f64>() / (dim as f64).sqrt() };
        let scores: Vec<f64> = (0..shape.visible(query)).map(score).collect();
        let total: f64 = scores.iter().map(|score| score.exp()).sum();
        log_sum_exp[head * shape.queries + query] = total.ln();
        for (key, score) in scores.iter().enumerate() {
            (0..dim).for_each(|d| out[at + d] += score.exp() / total * part(key, 1)[d]);
        }
    }
    (out, log_sum_exp)
}

#[test]
fn attention_to_other_rows_and_its_gradients() {
    for (queries, keys, heads, head_dim, causal) in [
        (1, 1, 1, 1, false),
        (1, 499, 2, 64, false),
        (1, 9, 3, 33, true),
        (5, 127, 2, 7, false),
        (7, 7, 1, 80, true),
        (31, 33, 2, 128, true),
        (33, 32, 1, 31, false),
        (32, 63, 2, 3, true),
    ] {
        let shape = CrossAttention {
            queries,
            keys,
            heads,
            head_dim,
            causal,
        };
        let width = shape.width();
        let (q, kv) = (random(queries * width, 1), random(keys * 2 * width, 2));
        let dout = random(queries * width, 3);
        let case = format!("{shape:?}");
        compare!(case.clone(), 2e-5, |host| {
            let (q, kv, dout) = (host.put(&q), host.put(&kv), host.put(&dout));
            let mut scratch = host.space(host.0.cross_attention_scratch(shape));
            let (mut out, mut saved) = (host.space(queries * width), host.space(heads * queries));
            let (into, lse) = (out.view_mut(), saved.view_mut());
            host.0
                .cross_attention(shape, q.view(), kv.view(), into, lse, scratch.view_mut());
            let (mut dq, mut dkv) = (host.space(queries * width), host.space(keys * 2 * width));
            let (first, second, lse) = (dq.view_mut(), dkv.view_mut(), saved.view());
            let (q, kv, dout, scratch) = (q.view(), kv.view(), dout.view(), scratch.view_mut());
            host.0
                .cross_attention_backward(shape, q, kv, out.view(), lse, dout, first, second, scratch);
            [out, saved, dq, dkv].map(|values| values.get()).to_vec()
        });
        // And not only as the CPU backend has it.
        let Some(backend) = cuda_support::backend() else {
            continue;
        };
        let host = cuda_support::Host(backend);
        let wide = |values: &[f32]| values.iter().map(|value| f64::from(*value)).collect::<Vec<f64>>();
        let narrow = |values: &[f64]| values.iter().map(|value| *value as f32).collect::<Vec<f32>>();
        let (on, of) = (host.put(&q), host.put(&kv));
        let (mut out, mut saved) = (host.space(queries * width), host.space(heads * queries));
        let mut scratch = host.space(host.0.cross_attention_scratch(shape));
        let (into, lse) = (out.view_mut(), saved.view_mut());
        host.0
            .cross_attention(shape, on.view(), of.view(), into, lse, scratch.view_mut());
        let (exact, log_sum_exp) = attend(shape, &wide(&q), &wide(&kv));
        let found = [out.get(), saved.get()];
        cuda_support::assert_same(&case, &found, &[narrow(&exact), narrow(&log_sum_exp)], 2e-5);
        // The directional derivative, by central differences.
        let (mut dq, mut dkv) = (host.space(q.len()), host.space(kv.len()));
        let (first, second, d) = (dq.view_mut(), dkv.view_mut(), host.put(&dout));
        let (out, lse, scratch) = (out.view(), saved.view(), scratch.view_mut());
        host.0
            .cross_attention_backward(shape, on.view(), of.view(), out, lse, d.view(), first, second, scratch);
        let along = |by: f64| {
            let moved = |values: &[f32], seed: u64| {
                let way = random(values.len(), seed);
                let pairs = values.iter().zip(&way);
                pairs
                    .map(|(value, way)| f64::from(*value) + by * f64::from(*way))
                    .collect::<Vec<f64>>()
            };
            let (out, _) = attend(shape, &moved(&q, 4), &moved(&kv, 5));
            out.iter().zip(&dout).map(|(out, d)| out * f64::from(*d)).sum::<f64>()
        };
        let expected = (along(1e-4) - along(-1e-4)) / 2e-4;
        let dot = |gradient: &[f32], seed: u64| {
            let pairs = gradient.iter().zip(random(gradient.len(), seed));
            pairs.map(|(d, way)| f64::from(*d) * f64::from(way)).sum::<f64>()
        };
        let found = dot(&dq.get(), 4) + dot(&dkv.get(), 5);
        assert!(
            (found - expected).abs() < 1e-4 * expected.abs().max(1.0),
            "{case}: {found} {expected}"
        );
    }
}

#[test]
fn embeddings_and_their_gradients() {
    // Some rows several times, first and last among them.
    for (rows, cols, table) in [
        (vec![0], 1, 1),
        (vec![4, 0, 4, 4, 2, 0, 31, 31], 33, 32),
        (vec![7, 3, 499], 384, 500),
    ] {
        let (values, before) = (random(table * cols, 1), random(table * cols, 2));
        let dy = random(rows.len() * cols, 3);
        compare!(format!("{rows:?} of {table}"), 1e-6, |host| {
            let (values, dy) = (host.put(&values), host.put(&dy));
            let (mut y, mut dtable) = (host.space(rows.len() * cols), host.put(&before));
            host.0.gather_rows(&rows, cols, values.view(), y.view_mut());
            host.0.gather_rows_backward(&rows, cols, dy.view(), dtable.view_mut());
            vec![y.get(), dtable.get()]
        });
    }
}

#[test]
#[should_panic(expected = "a row beyond 3")]
fn a_token_that_the_table_has_not_is_refused() {
    let Some(backend) = cuda_support::backend() else {
        panic!("a row beyond 3: not tried, there is no device")
    };
    let host = cuda_support::Host(backend);
    let (table, mut y) = (host.put(&[0.0; 6]), host.space(2));
    host.0.gather_rows(&[3], 2, table.view(), y.view_mut());
}

/// The tiny random Whisper's logits after a few tokens, and its text of the golden window.
fn transcribed<B: DecoderBackend>(
    backend: &B,
    config: &AdaptationConfig,
    options: &DecodingOptions,
) -> (Vec<f32>, Transcription) {
    let directory = repository("tests/data/goldens/whisper-tiny");
    let files = ModelFiles::from_dir(&directory).unwrap();
    let generation = Arc::new(files.generation.clone().unwrap());
    let model = Arc::new(files.load(backend).unwrap());
    let log_mel = Golden::read(&directory).get("log_mel");
    let mut decoder = WhisperDecoder::new(backend, model, config, generation, options.clone()).unwrap();
    let logits = decoder
        .logits(backend, &log_mel, &[265, 266, 270, 40, 77, 300])
        .unwrap();
    let found = decoder.transcribe(backend, &log_mel, &mut |_| true).unwrap().unwrap();
    (logits.concat(), found)
}

#[test]
fn a_whole_whisper_decodes_and_adapts_as_on_the_processor() {
    let Some(cuda) = cuda_support::backend() else { return };
    let cpu = CpuBackend::new(1).unwrap();
    let options = |beam_size| DecodingOptions {
        beam_size,
        temperature: vec![0.0],
        max_new_tokens: Some(12),
        ..DecodingOptions::default()
    };
    let adapting = |method, half| AdaptationConfig {
        method,
        parameters: ParameterChoice::LayerNorm,
        steps: 2,
        learning_rate: 1e-2,
        whisper: Some(WhisperAdaptation {
            half,
            guard: false,
            ..WhisperAdaptation::default()
        }),
        ..AdaptationConfig::whisper()
    };
    for (case, config, options) in [
        ("beam", AdaptationConfig::none(), options(3)),
        (
            "greedy, adapted on both halves",
            adapting(Method::Suta, Half::Both),
            options(1),
        ),
    ] {
        let (logits, expected) = transcribed(&cpu, &config, &options);
        let (found_logits, found) = transcribed(&cuda, &config, &options);
        let relative = relative_difference(&found_logits, &logits);
        assert!(relative < 1e-5, "{case}: the logits are {relative:e} off");
        assert!(!expected.segments.is_empty(), "{case}: nothing was written");
        let written = |transcription: &Transcription| -> Vec<(String, Vec<u32>)> {
            let segments = transcription.segments.iter();
            segments
                .map(|segment| (segment.text.clone(), segment.decoding.tokens.clone()))
                .collect()
        };
        assert_eq!(written(&found), written(&expected), "{case}");
        let losses = |transcription: &Transcription| -> Vec<f32> {
            let adaptations = transcription
                .segments
                .iter()
                .filter_map(|segment| segment.adaptation.as_ref());
            adaptations.flat_map(|adaptation| adaptation.losses.clone()).collect()
        };
        let (found, expected) = (losses(&found), losses(&expected));
        eprintln!("{case}: {expected:?}");
        assert_eq!(expected.is_empty(), config.planned_steps() == 0, "{case}");
        let relative = relative_difference(&found, &expected);
        assert!(
            found.is_empty() || relative < 1e-4,
            "{case}: losses {found:?} and {expected:?}"
        );
    }
}
