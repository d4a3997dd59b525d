//! The CUDA backend on a GPU: each operation at wav2vec2-base's sizes on ten seconds, checked against the CPU and timed;
//! then ten steps of SUTA with the bundled model for 1, 8 and 32 utterances of ten seconds at a time, a stream each and
//! in one pass.
//!
//! ```text
//! cargo bench --bench gpu -- [--out FILE] [--quick]
//! ```
//!
//! Writes one JSON (standard output without `--out`). `--quick` takes a hundredth of the sizes: it is for the emulated
//! GPU, where times mean nothing.

#[cfg(feature = "cuda")]
mod gpu {
    use aurist::adapt::{Adapter, BatchAdapter};
    use aurist::engine::cpu::CpuBackend;
    use aurist::engine::cuda::{CudaBackend, CudaDevice};
    use aurist::engine::{
        AdamW, Attention, Backend, Conv1d, CudaPrecision, GroupedConv1d, Linear, ObjectiveTerms, Rows,
    };
    use aurist::model::{Bundled, ModelFiles};
    use aurist::{AdaptationConfig, ParameterChoice, audio};
    use serde_json::{Value, json};
    use std::sync::Arc;
    use std::time::Instant;

    /// Frames, width, frames of the first convolution, steps and how many utterances at once.
    struct Sizes {
        frames: usize,
        width: usize,
        convolved: usize,
        seconds: f64,
        together: &'static [usize],
        repeats: usize,
    }

    const FULL: Sizes = Sizes {
        frames: 499,
        width: 768,
        convolved: 31_999,
        seconds: 10.0,
        together: &[1, 8, 32],
        repeats: 20,
    };

    const QUICK: Sizes = Sizes {
        frames: 49,
        width: 128,
        convolved: 319,
        seconds: 0.5,
        together: &[1, 2],
        repeats: 1,
    };

    fn values(len: usize, seed: u64) -> Vec<f32> {
        let mut random = fastrand::Rng::with_seed(seed);
        (0..len).map(|_| random.f32() - 0.5).collect()
    }

    /// One operation on one backend: inputs of these lengths, one output of that length, which it may add to.
    struct Operation<'a> {
        name: &'a str,
        inputs: &'a [usize],
        output: usize,
        /// Bytes it must move at least, and floating-point operations.
        bytes: usize,
        flops: f64,
    }

    type Buffers<B> = Vec<<B as Backend>::Buffer>;

    /// Seconds a call, and what the output is after the first.
    fn run<B: Backend>(
        backend: &B,
        operation: &Operation<'_>,
        repeats: usize,
        call: impl Fn(&B, &[B::View<'_>], B::ViewMut<'_>),
    ) -> (f64, Vec<f32>) {
        let buffers: Buffers<B> = (1..)
            .zip(operation.inputs)
            .map(|(seed, len)| backend.buffer(values(*len, seed)).expect("memory"))
            .collect();
        let views: Vec<B::View<'_>> = buffers
            .iter()
            .map(|buffer| backend.view(buffer, 0..backend.len(buffer)))
            .collect();
        let mut output = backend.buffer(values(operation.output, 99)).expect("memory");
        call(backend, &views, backend.view_mut(&mut output, 0..operation.output));
        let mut first = vec![0.0; operation.output];
        backend.download(backend.view(&output, 0..operation.output), &mut first);
        let begun = Instant::now();
        for _ in 0..repeats {
            call(backend, &views, backend.view_mut(&mut output, 0..operation.output));
        }
        backend.status().expect("the device");
        (begun.elapsed().as_secs_f64() / repeats.max(1) as f64, first)
    }

    fn relative_difference(a: &[f32], b: &[f32]) -> f64 {
        let square = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>();
        let difference = square(&mut a.iter().zip(b).map(|(a, b)| f64::from(a - b)));
        (difference / square(&mut b.iter().map(|b| f64::from(*b))).max(1e-30)).sqrt()
    }

    /// Times on the GPU, checks against the CPU.
    macro_rules! row {
        ($rows:ident, $sizes:ident, $cpu:ident, $gpu:ident, $operation:expr, |$b:ident, $v:ident, $out:ident| $call:expr) => {{
            let operation = $operation;
            let (seconds, found) = run(&$gpu, &operation, $sizes.repeats, |$b, $v, $out| $call);
            let (_, expected) = run(&$cpu, &operation, 0, |$b, $v, $out| $call);
            let difference = relative_difference(&found, &expected);
            assert!(difference < 1e-4, "{}: {difference:e} off the CPU's", operation.name);
            $rows.push(json!({
                "operation": operation.name,
                "microseconds": seconds * 1e6,
                "gigabytes_per_second": operation.bytes as f64 / seconds * 1e-9,
                "gigaflops": operation.flops / seconds * 1e-9,
                "relative_difference_to_cpu": difference,
            }));
        }};
    }

    fn operations(device: &Arc<CudaDevice>, sizes: &Sizes) -> Vec<Value> {
        let threads = std::thread::available_parallelism().map_or(1, |count| count.get());
        let cpu = CpuBackend::new(threads).expect("threads");
        let gpu = CudaBackend::new(device).expect("a stream");
        let (t, d) = (sizes.frames, sizes.width);
        let mut rows = Vec::new();
        for (name, inputs, outputs) in [
            ("linear D to D", d, d),
            ("linear D to 4D", d, 4 * d),
            ("linear 4D to D", 4 * d, d),
        ] {
            let shape = Linear::new(t, inputs, outputs);
            let lens = [t * inputs, inputs * outputs, outputs];
            let operation = Operation {
                name,
                inputs: &lens,
                output: t * outputs,
                bytes: 4 * (t * inputs + inputs * outputs + t * outputs),
                flops: 2.0 * (t * inputs * outputs) as f64,
            };
            row!(rows, sizes, cpu, gpu, operation, |b, v, out| b.linear(
                shape,
                v[0],
                v[1],
                Some(v[2]),
                out,
                false
            ));
        }
        let first = Conv1d {
            padded_frames: 5 * sizes.convolved + 5,
            c_in: 1,
            c_out: 512,
            kernel: 10,
            stride: 5,
        };
        let operation = Operation {
            name: "first convolution",
            inputs: &[first.padded_frames, 5120],
            output: first.out_frames() * 512,
            bytes: 4 * first.out_frames() * 512,
            flops: 20.0 * (first.out_frames() * 512) as f64,
        };
        row!(rows, sizes, cpu, gpu, operation, |b, v, out| b.linear(
            first.as_linear(),
            v[0],
            v[1],
            None,
            out,
            false
        ));
        let norm = Rows { rows: t, cols: d };
        let operation = Operation {
            name: "layer norm, dx",
            inputs: &[t * d, 2 * t, d, t * d],
            output: t * d,
            bytes: 16 * t * d,
            flops: 12.0 * (t * d) as f64,
        };
        row!(rows, sizes, cpu, gpu, operation, |b, v, out| b
            .layer_norm_backward_input(norm, v[0], v[1], v[2], v[3], out, true));
        let operation = Operation {
            name: "GELU's gradient",
            inputs: &[4 * t * d],
            output: 4 * t * d,
            bytes: 48 * t * d,
            flops: 140.0 * (t * d) as f64,
        };
        row!(rows, sizes, cpu, gpu, operation, |b, v, out| b.gelu_backward(v[0], out));
        let grouped = GroupedConv1d {
            frames: t,
            channels: d,
            groups: 16,
            kernel: 128,
            padding: 64,
        };
        let operation = Operation {
            name: "positional convolution, dx",
            inputs: &[t * d, grouped.weight_len()],
            output: t * d,
            bytes: 4 * (2 * t * d + grouped.weight_len()),
            flops: 2.0 * (t * grouped.weight_len()) as f64,
        };
        let space = cpu.grouped_conv1d_scratch(grouped).max(1);
        row!(rows, sizes, cpu, gpu, operation, |b, v, out| {
            let mut scratch = b.zeros(space).expect("memory");
            let scratch = b.view_mut(&mut scratch, 0..space);
            b.grouped_conv1d_backward_input(grouped, v[0], v[1], out, true, scratch);
        });
        let attention = Attention {
            frames: t,
            heads: d / 64,
            head_dim: 64,
        };
        let operation = Operation {
            name: "attention",
            inputs: &[3 * t * d],
            output: t * d,
            bytes: 16 * t * d,
            flops: 4.0 * (t * t * d) as f64,
        };
        let (saved, space) = (
            t * attention.heads,
            cpu.attention_scratch(attention).max(t * attention.heads),
        );
        row!(rows, sizes, cpu, gpu, operation, |b, v, out| {
            let mut memory = b.zeros(saved + space).expect("memory");
            let slots = [(0, saved), (saved, space)].map(|(offset, len)| aurist::engine::Slot { offset, len });
            let ([], [lse, scratch]) = b.split(&mut memory, [], slots);
            b.attention(attention, None, v[0], None, out, lse, scratch);
        });
        let terms = ObjectiveTerms {
            temperature: 2.5,
            entropy_weight: 0.3,
            blank: 0,
        };
        let logits = Rows { rows: t, cols: 32 };
        let operation = Operation {
            name: "objective",
            inputs: &[t * 32],
            output: t * 32,
            bytes: 8 * t * 32,
            flops: 60.0 * (t * 32) as f64,
        };
        row!(rows, sizes, cpu, gpu, operation, |b, v, out| {
            b.entropy_mcc(&terms, logits, None, v[0], out);
        });
        let len = 90 * d * d / 8;
        let operation = Operation {
            name: "AdamW",
            inputs: &[len],
            output: len,
            bytes: 28 * len,
            flops: 12.0 * len as f64,
        };
        row!(rows, sizes, cpu, gpu, operation, |b, v, out| {
            let mut moments = b.zeros(2 * len).expect("memory");
            let slots = [0, len].map(|offset| aurist::engine::Slot { offset, len });
            let ([], [m, second]) = b.split(&mut moments, [], slots);
            b.adamw(&AdamW::suta(1e-5), 1, out, v[0], m, second);
        });
        rows
    }

    /// Seconds of ten steps for so many utterances at once, and the utterances a second.
    fn adaptation(device: &Arc<CudaDevice>, sizes: &Sizes) -> Vec<Value> {
        let files = ModelFiles::bundled(Bundled::TinyEnCtc).expect("the bundled model");
        let backend = CudaBackend::new(device).expect("a stream");
        let model = Arc::new(files.load(&backend).expect("the model"));
        let samples = values((sizes.seconds * 16_000.0) as usize, 7);
        let input = match model.input() {
            aurist::model::Input::LogMel { bands } => audio::Features::log_mel(bands).compute(&samples),
            aurist::model::Input::Waveform { normalise } => audio::Features::waveform(normalise).compute(&samples),
        };
        let config = AdaptationConfig::paper();
        let mut rows = Vec::new();
        for &together in sizes.together {
            let mut workers: Vec<(CudaBackend, Adapter<CudaBackend>)> = (0..together)
                .map(|_| {
                    let backend = CudaBackend::new(device).expect("a stream");
                    let adapter = Adapter::new(&backend, model.clone(), &config).expect("memory");
                    (backend, adapter)
                })
                .collect();
            let mut round = || {
                let begun = Instant::now();
                std::thread::scope(|scope| {
                    for (backend, adapter) in &mut workers {
                        scope.spawn(|| adapter.run(backend, &input).expect("the device"));
                    }
                });
                begun.elapsed().as_secs_f64()
            };
            let seconds = settled(sizes, &mut round);
            rows.push(json!({
                "utterances": together,
                "how": "a stream each",
                "audio_seconds_each": sizes.seconds,
                "steps": config.steps,
                "seconds": seconds,
                "audio_seconds_per_second": together as f64 * sizes.seconds / seconds,
            }));
        }
        rows
    }

    /// The same in one pass, of what batches take: layer norms alone, and the convolutions with them.
    fn batches(device: &Arc<CudaDevice>, sizes: &Sizes) -> Vec<Value> {
        let files = ModelFiles::bundled(Bundled::TinyEnCtc).expect("the bundled model");
        let backend = CudaBackend::new(device).expect("a stream");
        let model = Arc::new(files.load(&backend).expect("the model"));
        let samples = values((sizes.seconds * 16_000.0) as usize, 7);
        let input = audio::Features::log_mel(80).compute(&samples);
        let mut rows = Vec::new();
        for parameters in [ParameterChoice::LayerNormAndFeature, ParameterChoice::LayerNorm] {
            let config = AdaptationConfig {
                parameters,
                ..AdaptationConfig::paper()
            };
            for &together in sizes.together {
                let inputs = vec![&input[..]; together];
                let made = BatchAdapter::new(&backend, model.clone(), &config).expect("memory");
                let mut batch = made.expect("a model that takes batches");
                let seconds = settled(sizes, &mut || {
                    let begun = Instant::now();
                    batch.run(&backend, &inputs).expect("the device");
                    begun.elapsed().as_secs_f64()
                });
                rows.push(json!({
                    "utterances": together,
                    "how": "one pass",
                    "parameters": format!("{parameters:?}"),
                    "audio_seconds_each": sizes.seconds,
                    "steps": config.steps,
                    "seconds": seconds,
                    "audio_seconds_per_second": together as f64 * sizes.seconds / seconds,
                }));
            }
        }
        rows
    }

    /// The median of five rounds, after those that find memory unallocated, products unplanned and passes unrecorded; of
    /// `--quick` one after one.
    fn settled(sizes: &Sizes, round: &mut dyn FnMut() -> f64) -> f64 {
        for _ in 0..sizes.repeats.min(3) {
            round();
        }
        let mut seconds: Vec<f64> = (0..sizes.repeats.min(5)).map(|_| round()).collect();
        seconds.sort_by(f64::total_cmp);
        seconds[seconds.len() / 2]
    }

    pub(super) fn main() {
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        let sizes = if arguments.iter().any(|argument| argument == "--quick") {
            &QUICK
        } else {
            &FULL
        };
        let out = arguments.iter().skip_while(|argument| *argument != "--out").nth(1);
        let device = CudaDevice::open(0).unwrap_or_else(|error| {
            eprintln!("{error}");
            std::process::exit(1);
        });
        let mut adaptations = serde_json::Map::new();
        for (name, precision) in [
            ("f32", CudaPrecision::Exact),
            ("tf32", CudaPrecision::Tf32),
            ("bf16", CudaPrecision::Bf16),
        ] {
            let device = CudaDevice::with_precision(0, precision).expect("the device");
            let mut rows = adaptation(&device, sizes);
            rows.extend(batches(&device, sizes));
            adaptations.insert(name.into(), rows.into());
        }
        let report = json!({
            "gpu": device.describe(),
            "aurist": aurist::VERSION,
            "operations": operations(&device, sizes),
            "ten_steps_of_suta": adaptations,
        });
        let text = serde_json::to_string_pretty(&report).expect("JSON") + "\n";
        match out {
            Some(file) => std::fs::write(file, text).expect("the report"),
            None => print!("{text}"),
        }
    }
}

fn main() {
    #[cfg(feature = "cuda")]
    gpu::main();
    #[cfg(not(feature = "cuda"))]
    eprintln!("built without the feature `cuda`");
}
