//! Whisper built from candle's differentiable operations in f64, for its autograd.
//!
//! Layer norm and softmax are composed from elementary operations here: candle's fused ones cut the gradient silently.

// Each test binary uses its part, and sees this as its own module.
#![allow(dead_code, unreachable_pub)]

use candle_core::{D, DType, Device, Result, Tensor, Var};
use std::collections::HashMap;
use std::path::Path;

/// A Whisper's weights as variables.
pub struct Graph {
    pub variables: HashMap<String, Var>,
    prefix: &'static str,
    layers: usize,
    heads: usize,
    /// Layers and heads.
    decoder: Option<(usize, usize)>,
}

impl Graph {
    /// `prefix` stands before `encoder.` in the tensors' names.
    pub fn load(path: &Path, config: &aurist::model::ModelConfig, prefix: &'static str) -> Result<Self> {
        let tensors = candle_core::safetensors::load(path, &Device::Cpu)?;
        let variables = tensors
            .into_iter()
            .map(|(name, tensor)| Ok((name, Var::from_tensor(&tensor.to_dtype(DType::F64)?)?)))
            .collect::<Result<_>>()?;
        Ok(Self {
            variables,
            prefix,
            layers: config.transformer.layers,
            heads: config.transformer.heads,
            decoder: config.decoder.as_ref().map(|decoder| (decoder.layers, decoder.heads)),
        })
    }

    fn get(&self, name: &str) -> &Tensor {
        &self.variables[&format!("{}{name}", self.prefix)]
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

    /// `[frames, bands]` → the encoder's output, `[T, D]`.
    pub fn encoded(&self, log_mel: &Tensor) -> Result<Tensor> {
        let x = self.convolution(&log_mel.t()?.unsqueeze(0)?, "encoder.conv1", 1)?;
        let mut x = self
            .convolution(&x, "encoder.conv2", 2)?
            .squeeze(0)?
            .t()?
            .contiguous()?;
        let (frames, _) = x.dims2()?;
        x = (x + self.get("encoder.embed_positions.weight").narrow(0, 0, frames)?)?;
        for layer in 0..self.layers {
            let name = |part: &str| format!("encoder.layers.{layer}.{part}");
            let normed = self.layer_norm(&x, &name("self_attn_layer_norm"))?;
            x = (x + self.attention(&normed, &normed, &name("self_attn"), self.heads, None)?)?;
            x = self.feed_forward(&x, &name(""))?;
        }
        self.layer_norm(&x, "encoder.layer_norm")
    }

    /// `[frames, bands]` → logits of the CTC head, `[T, V]`.
    pub fn logits(&self, log_mel: &Tensor) -> Result<Tensor> {
        self.linear(&self.encoded(log_mel)?, "ctc_head", true)
    }

    /// The encoder's output `[T, D]` and tokens → the decoder's logits after each of them, `[tokens, V]`.
    pub fn decoder_logits(&self, encoded: &Tensor, tokens: &[u32]) -> Result<Tensor> {
        let (layers, heads) = self.decoder.expect("a model with a decoder");
        let embedding = self.get("decoder.embed_tokens.weight");
        let mut x = embedding.index_select(&Tensor::new(tokens, &Device::Cpu)?, 0)?;
        x = (x + self.get("decoder.embed_positions.weight").narrow(0, 0, tokens.len())?)?;
        let hidden = (0..tokens.len()).flat_map(|query| (0..tokens.len()).map(move |key| key > query));
        let mask: Vec<f64> = hidden.map(|is| if is { -1e30 } else { 0.0 }).collect();
        let mask = Tensor::from_vec(mask, (tokens.len(), tokens.len()), &Device::Cpu)?;
        for layer in 0..layers {
            let name = |part: &str| format!("decoder.layers.{layer}.{part}");
            let normed = self.layer_norm(&x, &name("self_attn_layer_norm"))?;
            x = (x + self.attention(&normed, &normed, &name("self_attn"), heads, Some(&mask))?)?;
            let normed = self.layer_norm(&x, &name("encoder_attn_layer_norm"))?;
            x = (x + self.attention(&normed, encoded, &name("encoder_attn"), heads, None)?)?;
            x = self.feed_forward(&x, &name(""))?;
        }
        self.layer_norm(&x, "decoder.layer_norm")?.matmul(&embedding.t()?)
    }

    fn attention(
        &self,
        x: &Tensor,
        source: &Tensor,
        name: &str,
        heads: usize,
        mask: Option<&Tensor>,
    ) -> Result<Tensor> {
        let (rows, width) = x.dims2()?;
        let head_dim = width / heads;
        let split = |x: Tensor| x.reshape(((), heads, head_dim))?.transpose(0, 1)?.contiguous();
        let q = split(self.linear(x, &format!("{name}.q_proj"), true)?)?;
        let k = split(self.linear(source, &format!("{name}.k_proj"), false)?)?;
        let v = split(self.linear(source, &format!("{name}.v_proj"), true)?)?;
        let mut scores = (q.matmul(&k.t()?)? * (1.0 / (head_dim as f64).sqrt()))?;
        if let Some(mask) = mask {
            scores = scores.broadcast_add(mask)?;
        }
        let out = softmax(&scores)?.matmul(&v)?.transpose(0, 1)?.reshape((rows, width))?;
        self.linear(&out, &format!("{name}.out_proj"), true)
    }

    fn feed_forward(&self, x: &Tensor, layer: &str) -> Result<Tensor> {
        let normed = self.layer_norm(x, &format!("{layer}final_layer_norm"))?;
        let wide = self.linear(&normed, &format!("{layer}fc1"), true)?.gelu_erf()?;
        x + self.linear(&wide, &format!("{layer}fc2"), true)?
    }
}

/// Over the last dimension.
pub fn softmax(x: &Tensor) -> Result<Tensor> {
    let exp = x.broadcast_sub(&x.max_keepdim(D::Minus1)?.detach())?.exp()?;
    exp.broadcast_div(&exp.sum_keepdim(D::Minus1)?)
}
