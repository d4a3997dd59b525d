//! The second oracle: the same graph built from candle's differentiable operations in f64, and its autograd.
//!
//! Layer norm and softmax are composed from elementary operations here: candle's fused ones cut the gradient silently.

use aurist::adapt::Adapter;
use aurist::engine::cpu::CpuBackend;
use aurist::model::ModelFiles;
use aurist::{AdaptationConfig, ParameterChoice};
use candle_core::{D, DType, Device, Result, Tensor, Var};
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

struct Graph {
    variables: HashMap<String, Var>,
    layers: usize,
    heads: usize,
}

impl Graph {
    fn load(path: &Path, config: &aurist::model::ModelConfig) -> Result<Self> {
        let tensors = candle_core::safetensors::load(path, &Device::Cpu)?;
        let variables = tensors
            .into_iter()
            .map(|(name, tensor)| Ok((name, Var::from_tensor(&tensor.to_dtype(DType::F64)?)?)))
            .collect::<Result<_>>()?;
        Ok(Self {
            variables,
            layers: config.transformer.layers,
            heads: config.transformer.heads,
        })
    }

    fn get(&self, name: &str) -> &Tensor {
        &self.variables[name]
    }

    fn linear(&self, x: &Tensor, name: &str, bias: bool) -> Result<Tensor> {
        let y = x.matmul(&self.get(&format!("{name}.weight")).t()?)?;
        if bias {
            y.broadcast_add(self.get(&format!("{name}.bias")))
        } else {
            Ok(y)
        }
    }

    fn layer_norm(&self, x: &Tensor, name: &str) -> Result<Tensor> {
        let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
        let deviation = (centred.sqr()?.mean_keepdim(D::Minus1)? + 1e-5)?.sqrt()?;
        let normalised = centred.broadcast_div(&deviation)?;
        normalised
            .broadcast_mul(self.get(&format!("{name}.weight")))?
            .broadcast_add(self.get(&format!("{name}.bias")))
    }

    fn convolution(&self, x: &Tensor, name: &str, stride: usize) -> Result<Tensor> {
        let y = x.conv1d(self.get(&format!("{name}.weight")), 1, stride, 1, 1)?;
        y.broadcast_add(&self.get(&format!("{name}.bias")).reshape((1, (), 1))?)?
            .gelu_erf()
    }

    /// `[frames, bands]` → logits `[T, V]`
    fn logits(&self, log_mel: &Tensor) -> Result<Tensor> {
        let x = self.convolution(&log_mel.t()?.unsqueeze(0)?, "encoder.conv1", 1)?;
        let mut x = self
            .convolution(&x, "encoder.conv2", 2)?
            .squeeze(0)?
            .t()?
            .contiguous()?;
        let (frames, width) = x.dims2()?;
        x = (x + self.get("encoder.embed_positions.weight").narrow(0, 0, frames)?)?;
        let head_dim = width / self.heads;
        let split = |x: Tensor| x.reshape((frames, self.heads, head_dim))?.transpose(0, 1)?.contiguous();
        for layer in 0..self.layers {
            let name = |part: &str| format!("encoder.layers.{layer}.{part}");
            let normed = self.layer_norm(&x, &name("self_attn_layer_norm"))?;
            let q = split(self.linear(&normed, &name("self_attn.q_proj"), true)?)?;
            let k = split(self.linear(&normed, &name("self_attn.k_proj"), false)?)?;
            let v = split(self.linear(&normed, &name("self_attn.v_proj"), true)?)?;
            let scores = (q.matmul(&k.t()?)? * (1.0 / (head_dim as f64).sqrt()))?;
            let out = softmax(&scores)?
                .matmul(&v)?
                .transpose(0, 1)?
                .reshape((frames, width))?;
            x = (x + self.linear(&out, &name("self_attn.out_proj"), true)?)?;
            let normed = self.layer_norm(&x, &name("final_layer_norm"))?;
            let wide = self.linear(&normed, &name("fc1"), true)?.gelu_erf()?;
            x = (x + self.linear(&wide, &name("fc2"), true)?)?;
        }
        self.linear(&self.layer_norm(&x, "encoder.layer_norm")?, "ctc_head", true)
    }
}

fn softmax(x: &Tensor) -> Result<Tensor> {
    let exp = x.broadcast_sub(&x.max_keepdim(D::Minus1)?.detach())?.exp()?;
    exp.broadcast_div(&exp.sum_keepdim(D::Minus1)?)
}

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
    let graph = Graph::load(&directory.join("model.safetensors"), &files.config)?;
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
