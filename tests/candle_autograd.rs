//! The second oracle: the same graph built from candle's differentiable operations in f64, and its autograd.

mod candle_graph;

use aurist::adapt::Adapter;
use aurist::engine::cpu::CpuBackend;
use aurist::model::ModelFiles;
use aurist::{AdaptationConfig, ParameterChoice};
use candle_core::{D, DType, Device, Result, Tensor};
use candle_graph::{Graph, softmax};
use std::path::Path;
use std::sync::Arc;

/// SUTA's loss as its authors' code writes it: with the class-correlation matrix.
fn loss(logits: &Tensor) -> Result<Tensor> {
    let (frames, classes) = logits.dims2()?;
    let p = softmax(&(logits / 2.5)?)?;
    let entropies = (&p * p.log()?)?.sum(D::Minus1)?.neg()?;
    let non_blank = logits.argmax(D::Minus1)?.ne(0u32)?.to_dtype(DType::F64)?;
    let entropy = (entropies.mul(&non_blank)?.sum_all()? / non_blank.sum_all()?.to_scalar::<f64>()?)?;
    let weights = (entropies.detach().neg()?.exp()? + 1.0)?;
    let weights = (&weights * (frames as f64 / weights.sum_all()?.to_scalar::<f64>()?))?;
    let correlation = p.broadcast_mul(&weights.unsqueeze(1)?)?.t()?.matmul(&p)?;
    let normalised = correlation.broadcast_div(&correlation.sum_keepdim(1)?)?;
    let trace = (&normalised * Tensor::eye(classes, DType::F64, &Device::Cpu)?)?.sum_all()?;
    let confusion = ((normalised.sum_all()? - trace)? / classes as f64)?;
    (entropy * 0.3)? + (confusion * 0.7)?
}

#[test]
fn every_gradient_of_the_whole_graph_agrees() -> Result<()> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/goldens/whisper-ctc-tiny");
    let files = ModelFiles::from_dir(&directory).unwrap();
    let graph = Graph::load(&directory.join("model.safetensors"), &files.config, "")?;
    let golden = candle_core::safetensors::load(directory.join("golden.safetensors"), &Device::Cpu)?;
    let backend = CpuBackend::new(2).unwrap();
    let model = Arc::new(files.load(&backend).unwrap());
    for input in ["60.log_mel", "61.log_mel"] {
        let log_mel = &golden[input];
        let logits = graph.logits(&log_mel.to_dtype(DType::F64)?)?;
        let value = loss(&logits)?;
        let gradients = value.backward()?;
        let host: Vec<f32> = log_mel.flatten_all()?.to_vec1()?;
        for parameters in [
            ParameterChoice::LayerNorm,
            ParameterChoice::Feature,
            ParameterChoice::LayerNormAndFeature,
            ParameterChoice::Bias,
            ParameterChoice::All,
        ] {
            let settings = AdaptationConfig {
                parameters,
                steps: 1,
                learning_rate: 1e-3,
                ..AdaptationConfig::paper()
            };
            let mut adapter = Adapter::new(&backend, model.clone(), &settings).unwrap();
            let episode = adapter.run(&backend, &host).unwrap();
            let difference = episode.objectives[0].loss / value.to_scalar::<f64>()? - 1.0;
            assert!(
                difference.abs() < 1e-5,
                "{input}: loss differs by {difference:e} relative"
            );
            let names: Vec<String> = adapter.parameters().names().map(String::from).collect();
            for name in names {
                let (_, ours) = adapter.parameters().tensor(&backend, &name).unwrap();
                let theirs = gradients
                    .get(&graph.variables[&name])
                    .unwrap_or_else(|| panic!("candle cut {name}"));
                let theirs: Vec<f64> = theirs.flatten_all()?.to_vec1()?;
                let norm = theirs.iter().map(|d| d * d).sum::<f64>().sqrt();
                let error = ours
                    .iter()
                    .zip(&theirs)
                    .map(|(a, b)| (*a as f64 - b).powi(2))
                    .sum::<f64>()
                    .sqrt()
                    / norm;
                assert!(
                    norm > 0.0 && error < 1e-3,
                    "{input} {parameters:?} {name}: {error:e} relative"
                );
            }
        }
    }
    Ok(())
}
