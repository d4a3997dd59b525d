//! Every operation's time at the sizes of a real model, beside its floating-point operations: where a step's time goes.
//!
//! ```text
//! cargo bench --bench ops -- [--model wav2vec2-base|whisper-tiny] [--seconds S] [--threads N] [--repeats N] [--only WORD]
//! ```
//!
//! Prints a Markdown table. With one thread the time is the thread's own on the processor, so that what else the
//! machine does disturbs it less (Linux; wall time elsewhere); each is the least of some repeats. "A step" counts how
//! often a SUTA step (layer-norm+feature) runs the operation, GFLOP what the definition asks for, also where a
//! faster algorithm needs fewer.

use aurist::engine::cpu::{CpuBackend, measured_gflops};
use aurist::engine::{Attention, Backend, Conv1d, GroupedConv1d, Linear, Rows};
use std::time::Instant;

/// What is asked for.
struct Settings {
    model: String,
    seconds: f64,
    threads: usize,
    repeats: usize,
    only: Option<String>,
}

fn settings() -> Settings {
    let mut settings = Settings {
        model: "wav2vec2-base".into(),
        seconds: 10.0,
        threads: 1,
        repeats: 5,
        only: None,
    };
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    while let Some(argument) = arguments.next() {
        let value = arguments.next().unwrap_or_else(|| panic!("{argument} needs a value"));
        match argument.as_str() {
            "--model" => settings.model = value,
            "--seconds" => settings.seconds = value.parse().expect("--seconds S"),
            "--threads" => settings.threads = value.parse().expect("--threads N"),
            "--repeats" => settings.repeats = value.parse().expect("--repeats N"),
            "--only" => settings.only = Some(value),
            _ => panic!("{argument} is no option here"),
        }
    }
    settings
}

/// Seconds this thread has spent on a processor.
#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
fn processor_seconds() -> Option<f64> {
    const CLOCK_THREAD_CPUTIME_ID: i32 = 3;
    unsafe extern "C" {
        fn clock_gettime(clock: i32, time: *mut [i64; 2]) -> i32;
    }
    let mut time = [0; 2];
    // SAFETY: the system writes a timespec, two 64-bit integers here, and keeps nothing.
    let failed = unsafe { clock_gettime(CLOCK_THREAD_CPUTIME_ID, &mut time) } != 0;
    (!failed).then(|| time[0] as f64 + time[1] as f64 * 1e-9)
}

#[cfg(not(all(target_os = "linux", target_pointer_width = "64")))]
fn processor_seconds() -> Option<f64> {
    None
}

/// Times operations and prints their rows.
struct Bench {
    settings: Settings,
    backend: CpuBackend,
    /// GFLOP and seconds of a step so far.
    step: (f64, f64),
}

impl Bench {
    fn seconds(&self, mut task: impl FnMut()) -> f64 {
        let mut best = f64::INFINITY;
        for _ in 0..=self.settings.repeats {
            let cpu = processor_seconds().filter(|_| self.settings.threads == 1);
            let start = Instant::now();
            task();
            let wall = start.elapsed().as_secs_f64();
            best = best.min(match (cpu, processor_seconds()) {
                (Some(before), Some(after)) => after - before,
                _ => wall,
            });
        }
        best
    }

    /// A row: `flops` of one call, `bytes` that it must move at least, how often a step makes it.
    fn row(&mut self, name: &str, flops: f64, bytes: usize, a_step: usize, task: impl FnMut()) {
        if self
            .settings
            .only
            .as_ref()
            .is_some_and(|only| !name.contains(only.as_str()))
        {
            return;
        }
        let seconds = self.seconds(task);
        self.step.0 += a_step as f64 * flops * 1e-9;
        self.step.1 += a_step as f64 * seconds;
        println!(
            "| {name} | {:.3} | {:.1} | {:.2} | {:.1} | {:.1} | {a_step} | {:.1} |",
            flops * 1e-9,
            bytes as f64 / f64::from(1 << 20),
            seconds * 1e3,
            flops * 1e-9 / seconds,
            bytes as f64 * 1e-9 / seconds,
            a_step as f64 * seconds * 1e3
        );
    }

    /// A linear layer: forward, the input's gradient, and the weight's where a step makes it.
    fn linear(&mut self, name: &str, shape: Linear, a_step: usize, weight_gradients: usize) {
        let (rows, inputs, outputs) = (shape.rows, shape.inputs, shape.outputs);
        let (x, weight, bias) = (values(rows * inputs), values(inputs * outputs), values(outputs));
        let (mut y, mut dx) = (vec![0.0; rows * outputs], vec![0.0; rows * inputs]);
        let flops = 2.0 * (rows * inputs * outputs) as f64;
        let bytes = 4 * (x.len() + weight.len() + y.len());
        let backend = backend(&self.settings);
        self.row(name, flops, bytes, a_step, || {
            backend.linear(shape, &x, &weight, Some(&bias), &mut y, false);
        });
        self.row(&format!("{name}, dX"), flops, bytes, a_step, || {
            backend.linear_backward_input(shape, &y, &weight, &mut dx, false);
        });
        if weight_gradients > 0 {
            let mut dweight = vec![0.0; inputs * outputs];
            self.row(&format!("{name}, dW"), flops, bytes, weight_gradients, || {
                backend.linear_backward_weight(shape, &x, &y, &mut dweight);
            });
        }
    }

    /// A convolution with GELU: forward, and both gradients.
    fn convolution(&mut self, name: &str, shape: Conv1d, with_gelu: bool, input_gradient: bool) {
        let frames = shape.out_frames();
        let (x, weight, bias) = (
            values(shape.padded_frames * shape.c_in),
            values(shape.c_out * shape.kernel * shape.c_in),
            values(shape.c_out),
        );
        let (mut pre, mut y) = (vec![0.0; frames * shape.c_out], vec![0.0; frames * shape.c_out]);
        let flops = 2.0 * (frames * shape.c_out * shape.kernel * shape.c_in) as f64;
        let bytes = 4 * (x.len() + weight.len() + y.len());
        let backend = backend(&self.settings);
        self.row(name, flops, bytes + if with_gelu { 4 * y.len() } else { 0 }, 1, || {
            if with_gelu {
                backend.conv1d_gelu(shape, &x, &weight, &bias, &mut pre, &mut y);
            } else {
                backend.linear(shape.as_linear(), &x, &weight, Some(&bias), &mut pre, false);
            }
        });
        if with_gelu {
            self.row(&format!("{name}, GELU's gradient"), 0.0, 12 * y.len(), 1, || {
                backend.gelu_backward(&pre, &mut y);
            });
        }
        let (dpre, mut dx, mut dweight) = (values(pre.len()), vec![0.0; x.len()], vec![0.0; weight.len()]);
        if input_gradient {
            self.row(&format!("{name}, dX"), flops, bytes, 1, || {
                backend.conv1d_backward_input(shape, &dpre, &weight, &mut dx);
            });
        }
        self.row(&format!("{name}, dW"), flops, bytes, 1, || {
            backend.conv1d_backward_weight(shape, &x, &dpre, &mut dweight);
        });
    }

    fn attention(&mut self, shape: Attention, layers: usize) {
        let (frames, width) = (shape.frames, shape.width());
        let (qkv, dout) = (values(frames * 3 * width), values(frames * width));
        let (mut out, mut dqkv) = (vec![0.0; frames * width], vec![0.0; frames * 3 * width]);
        let mut log_sum_exp = vec![0.0; frames * shape.heads];
        let mut scratch = vec![0.0; self.backend.attention_scratch(shape)];
        let product = 2.0 * (frames * frames * width) as f64;
        let backend = backend(&self.settings);
        self.row("attention", 2.0 * product, 16 * out.len(), layers, || {
            backend.attention(shape, None, &qkv, None, &mut out, &mut log_sum_exp, &mut scratch);
        });
        // Two of its five products make again what forward did not store: the scores are one of them.
        self.row("attention, gradient", 5.0 * product, 32 * out.len(), layers, || {
            backend.attention_backward(
                shape,
                None,
                &qkv,
                None,
                &out,
                &log_sum_exp,
                &dout,
                &mut dqkv,
                &mut scratch,
            );
        });
    }

    fn layer_norm(&mut self, shape: Rows, a_step: usize) {
        let len = shape.rows * shape.cols;
        let (x, dy, weight, bias) = (values(len), values(len), values(shape.cols), values(shape.cols));
        let (mut y, mut statistics) = (vec![0.0; len], vec![0.0; shape.rows * 2]);
        let (mut dweight, mut dbias) = (vec![0.0; shape.cols], vec![0.0; shape.cols]);
        let backend = backend(&self.settings);
        self.row("layer norm", 0.0, 8 * len, a_step, || {
            backend.layer_norm(shape, &x, &weight, &bias, &mut y, &mut statistics);
        });
        self.row("layer norm, gradients", 0.0, 20 * len, a_step, || {
            let gradients = (Some(&mut dweight[..]), Some(&mut dbias[..]));
            backend.layer_norm_backward_parameters(shape, &x, &statistics, &dy, gradients.0, gradients.1);
            backend.layer_norm_backward_input(shape, &x, &statistics, &weight, &dy, &mut y, false);
        });
    }

    fn wav2vec2_base(&mut self) {
        let samples = (self.settings.seconds * 16_000.0) as usize;
        let (mut frames, mut c_in) = (samples, 1);
        for (index, (kernel, stride)) in [(10, 5), (3, 2), (3, 2), (3, 2), (3, 2), (2, 2), (2, 2)]
            .iter()
            .enumerate()
        {
            let shape = Conv1d {
                padded_frames: frames,
                c_in,
                c_out: 512,
                kernel: *kernel,
                stride: *stride,
            };
            self.convolution(&format!("convolution {index}"), shape, index > 0, index > 0);
            frames = shape.out_frames();
            c_in = 512;
            if index == 0 {
                self.channel_norm(Rows {
                    rows: frames,
                    cols: c_in,
                });
            }
        }
        self.linear("projection", Linear::new(frames, 512, 768), 1, 1);
        self.positional(GroupedConv1d {
            frames,
            channels: 768,
            groups: 16,
            kernel: 128,
            padding: 64,
        });
        self.transformer(frames, 768, 12, 12, 25);
        self.adamw(4_630_000);
    }

    fn whisper_tiny(&mut self) {
        let frames = (self.settings.seconds * 100.0) as usize;
        for (index, (c_in, stride)) in [(80, 1), (384, 2)].iter().enumerate() {
            let shape = Conv1d {
                padded_frames: frames + 2,
                c_in: *c_in,
                c_out: 384,
                kernel: 3,
                stride: *stride,
            };
            self.convolution(&format!("convolution {index}"), shape, true, index > 0);
        }
        self.transformer(frames / 2, 384, 6, 4, 9);
    }

    fn channel_norm(&mut self, shape: Rows) {
        let len = shape.rows * shape.cols;
        let (x, dy, weight, bias) = (values(len), values(len), values(shape.cols), values(shape.cols));
        let (mut y, mut statistics) = (vec![0.0; len], vec![0.0; shape.cols * 2]);
        let (mut dweight, mut dbias) = (vec![0.0; shape.cols], vec![0.0; shape.cols]);
        let backend = backend(&self.settings);
        self.row("norm over time, GELU", 0.0, 8 * len, 1, || {
            backend.channel_norm_gelu(shape, None, &x, &weight, &bias, &mut y, &mut statistics);
        });
        let mut d = dy.clone();
        self.row("norm over time, GELU, gradients", 0.0, 12 * len, 1, || {
            let (dweight, dbias) = (Some(&mut dweight[..]), Some(&mut dbias[..]));
            backend.channel_norm_gelu_backward(shape, None, &x, &statistics, (&weight, &bias), &mut d, dweight, dbias);
        });
    }

    fn positional(&mut self, shape: GroupedConv1d) {
        let len = shape.frames * shape.channels;
        let (x, weight, bias) = (values(len), values(shape.weight_len()), values(shape.channels));
        let mut y = vec![0.0; len];
        let mut scratch = vec![0.0; self.backend.grouped_conv1d_scratch(shape)];
        let flops = 2.0 * (len * shape.kernel * shape.group()) as f64;
        let bytes = 4 * (2 * len + weight.len());
        let backend = backend(&self.settings);
        let prepared = backend.prepare_grouped_conv1d(shape, &weight);
        // Where the weight stays, a step takes the prepared way; its row counts the direct way's operations.
        let directly = prepared.is_none() as usize;
        self.row("positional convolution", flops, bytes, directly, || {
            backend.grouped_conv1d(shape, &x, &weight, &bias, &mut y, &mut scratch);
        });
        self.row("positional convolution, dX", flops, bytes, directly, || {
            backend.grouped_conv1d_backward_input(shape, &x, &weight, &mut y, false, &mut scratch);
        });
        if let Some(prepared) = prepared {
            let bytes = 4 * (2 * len + prepared.len());
            self.row("positional convolution, preparing", 0.0, bytes, 0, || {
                std::hint::black_box(backend.prepare_grouped_conv1d(shape, &weight));
            });
            self.row("positional convolution, prepared", flops, bytes, 1, || {
                backend.prepared_grouped_conv1d(shape, &x, &prepared, &bias, &mut y);
            });
            self.row("positional convolution, prepared, dX", flops, bytes, 1, || {
                backend.prepared_grouped_conv1d_backward_input(shape, &x, &prepared, &mut y, false);
            });
        }
        let (magnitude, mut made) = (values(shape.kernel), vec![0.0; weight.len()]);
        self.row("weight norm", 0.0, 8 * weight.len(), directly, || {
            backend.weight_norm(shape, &weight, &magnitude, &mut made);
        });
    }

    fn transformer(&mut self, frames: usize, width: usize, heads: usize, layers: usize, norms: usize) {
        self.linear(
            "queries, keys, values",
            Linear::new(frames, width, 3 * width),
            layers,
            0,
        );
        let head_dim = width / heads;
        self.attention(
            Attention {
                frames,
                heads,
                head_dim,
            },
            layers,
        );
        self.linear("attention's output", Linear::new(frames, width, width), layers, 0);
        let shape = Linear::new(frames, width, 4 * width);
        let (x, weight, bias) = (values(frames * width), values(4 * width * width), values(4 * width));
        let (mut pre, mut y) = (vec![0.0; frames * 4 * width], vec![0.0; frames * 4 * width]);
        let mut dx = vec![0.0; frames * width];
        let flops = 8.0 * (frames * width * width) as f64;
        let bytes = 4 * (x.len() + weight.len() + 2 * y.len());
        let backend = backend(&self.settings);
        self.row("feed-forward in, GELU", flops, bytes, layers, || {
            backend.linear_gelu(shape, &x, &weight, &bias, &mut pre, &mut y);
        });
        self.row("feed-forward, GELU's gradient", 0.0, 12 * y.len(), layers, || {
            backend.gelu_backward(&pre, &mut y);
        });
        self.row("feed-forward in, dX", flops, bytes, layers, || {
            backend.linear_backward_input(shape, &pre, &weight, &mut dx, true);
        });
        self.linear("feed-forward out", Linear::new(frames, 4 * width, width), layers, 0);
        self.layer_norm(
            Rows {
                rows: frames,
                cols: width,
            },
            norms,
        );
    }

    fn adamw(&mut self, len: usize) {
        let settings = aurist::engine::AdamW::suta(1e-5);
        let (mut x, d, mut m, mut v) = (values(len), values(len), values(len), vec![0.5; len]);
        let mut copy = vec![0.0; len];
        let backend = backend(&self.settings);
        self.row("AdamW", 0.0, 28 * len, 1, || {
            backend.adamw(&settings, 1, &mut x, &d, &mut m, &mut v);
        });
        self.row("a snapshot's three copies", 0.0, 24 * len, 1, || {
            for from in [&x, &m, &v] {
                backend.copy(from, &mut copy);
            }
        });
    }
}

/// Small values without a pattern that repeats soon.
fn values(len: usize) -> Vec<f32> {
    let mut state = 2_463_534_242_u32;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as f32 / u32::MAX as f32 - 0.5
    };
    (0..len).map(|_| next()).collect()
}

fn backend(settings: &Settings) -> CpuBackend {
    CpuBackend::new(settings.threads).expect("threads")
}

fn main() {
    let settings = settings();
    let backend = backend(&settings);
    let (model, seconds, threads) = (settings.model.clone(), settings.seconds, settings.threads);
    println!(
        "{model}, {seconds} s of audio, {threads} threads, {}; matrix products of 1024³ at {:.1} GFLOP/s.\n",
        CpuBackend::instructions(),
        measured_gflops(&backend, 1024, 10)
    );
    println!(
        "| operation | GFLOP | MiB | ms | GFLOP/s | GB/s | a step | ms a step |\n|---|---|---|---|---|---|---|---|"
    );
    let mut bench = Bench {
        settings,
        backend,
        step: (0.0, 0.0),
    };
    match model.as_str() {
        "wav2vec2-base" => bench.wav2vec2_base(),
        "whisper-tiny" => bench.whisper_tiny(),
        other => panic!("no sizes of {other} here"),
    }
    let (gflop, seconds) = bench.step;
    println!(
        "| a step | {gflop:.1} | | | {:.1} | | | {:.1} |",
        gflop / seconds,
        seconds * 1e3
    );
}
