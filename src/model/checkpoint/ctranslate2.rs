//! CTranslate2's model.bin, the format of faster-whisper: a Whisper's tensors under Hugging Face's names.
//!
//! Little-endian: u32 version, the specification's name, u32 revision, u32 count; per variable a name, u8 rank, u32
//! dimensions, u8 type, u32 bytes, data; then aliases (the output layer's of the embedding), which nothing here needs. A string is a u16 length that
//! counts a final zero byte, then the bytes.

use super::{Checkpoint, Stored, from_f16, from_f32};
use crate::model::source::WeightBytes;
use crate::model::{DecoderConfig, ModelError};
use std::collections::HashMap;
use std::ops::Range;

const FILE: &str = "model.bin";

/// A Whisper.
pub struct Ctranslate2Checkpoint {
    bytes: WeightBytes,
    variables: HashMap<String, Variable>,
    tensors: HashMap<String, Tensor>,
}

#[derive(Debug, Clone)]
struct Variable {
    shape: Vec<usize>,
    kind: u8,
    data: Range<usize>,
}

impl Variable {
    /// Values of all the dimensions from `axis` on; no more than there are bytes.
    fn count(&self, axis: usize, name: &str) -> Result<usize, ModelError> {
        let mut sizes = self.shape.iter().skip(axis);
        let count = sizes.try_fold(1usize, |count, size| count.checked_mul(*size));
        count
            .filter(|count| *count <= self.data.len())
            .ok_or_else(|| too_few_values(name))
    }
}

fn too_few_values(name: &str) -> ModelError {
    ModelError::invalid(FILE, format!("`{name}` has fewer values than its shape says"))
}

/// Part of a variable under another name.
struct Tensor {
    shape: Vec<usize>,
    variable: String,
    /// Of its values.
    part: Range<usize>,
}

/// What the sizes of the variables tell of a Whisper encoder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncoderSizes {
    /// D.
    pub width: usize,
    /// Mel bands.
    pub bands: usize,
    /// Transformer layers.
    pub layers: usize,
    /// Attention heads.
    pub heads: usize,
    /// Width of the feed-forward part.
    pub ffn: usize,
    /// Output frames at most.
    pub positions: usize,
    /// The decoder's.
    pub decoder: Option<DecoderConfig>,
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], ModelError> {
        let end = self.at.checked_add(count).filter(|end| *end <= self.bytes.len());
        let end = end.ok_or_else(|| ModelError::invalid(FILE, "it ends in the middle"))?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn number(&mut self, bytes: usize) -> Result<usize, ModelError> {
        Ok(self
            .take(bytes)?
            .iter()
            .rev()
            .fold(0, |value, byte| value << 8 | *byte as usize))
    }

    fn text(&mut self) -> Result<String, ModelError> {
        let len = self.number(2)?;
        let bytes = self.take(len)?;
        let bytes = bytes.strip_suffix(&[0]).unwrap_or(bytes);
        String::from_utf8(bytes.to_vec()).map_err(|_| ModelError::invalid(FILE, "a name in it is no text"))
    }
}

impl Ctranslate2Checkpoint {
    /// Reads the index; the data stay where they are.
    pub fn new(bytes: WeightBytes) -> Result<Self, ModelError> {
        let mut reader = Reader { bytes: &bytes, at: 0 };
        let version = reader.number(4)?;
        if !(4..=6).contains(&version) {
            return Err(ModelError::invalid(
                FILE,
                format!("it is no CTranslate2 model of version 4 to 6 (it says {version})"),
            ));
        }
        let specification = reader.text()?;
        if specification != "WhisperSpec" {
            return Err(ModelError::invalid(
                FILE,
                format!("it is a {specification:?}, not a Whisper"),
            ));
        }
        reader.number(4)?;
        let count = reader.number(4)?;
        let mut variables = HashMap::new();
        for _ in 0..count {
            let name = reader.text()?;
            let rank = reader.number(1)?;
            let shape = (0..rank).map(|_| reader.number(4)).collect::<Result<Vec<_>, _>>()?;
            let kind = reader.number(1)? as u8;
            let len = reader.number(4)?;
            let start = reader.at;
            reader.take(len)?;
            let data = start..start + len;
            variables.insert(name, Variable { shape, kind, data });
        }
        let mut checkpoint = Self {
            bytes,
            variables,
            tensors: HashMap::new(),
        };
        checkpoint.name_tensors()?;
        Ok(checkpoint)
    }

    fn variable(&self, name: &str) -> Result<&Variable, ModelError> {
        self.variables
            .get(name)
            .ok_or_else(|| ModelError::MissingTensor(name.into()))
    }

    /// The encoder's sizes.
    pub fn sizes(&self) -> Result<EncoderSizes, ModelError> {
        let shape = |name: &str, rank: usize| -> Result<&[usize], ModelError> {
            let shape = &self.variable(name)?.shape;
            if shape.len() == rank {
                Ok(shape)
            } else {
                Err(ModelError::invalid(
                    FILE,
                    format!("`{name}` has {} dimensions", shape.len()),
                ))
            }
        };
        let conv = shape("encoder/conv1/weight", 3)?;
        let decoder = if self.variables.contains_key("decoder/embeddings/weight") {
            Some(DecoderConfig {
                layers: self.layers("decoder"),
                heads: self.heads("decoder", conv[0]),
                ffn: shape("decoder/layer_0/ffn/linear_0/weight", 2)?[0],
                vocab_size: shape("decoder/embeddings/weight", 2)?[0],
                positions: shape("decoder/position_encodings/encodings", 2)?[0],
            })
        } else {
            None
        };
        Ok(EncoderSizes {
            width: conv[0],
            bands: conv[1],
            layers: self.layers("encoder"),
            heads: self.heads("encoder", conv[0]),
            ffn: shape("encoder/layer_0/ffn/linear_0/weight", 2)?[0],
            positions: shape("encoder/position_encodings/encodings", 2)?[0],
            decoder,
        })
    }

    fn layers(&self, side: &str) -> usize {
        let attention = |layer: &usize| format!("{side}/layer_{layer}/self_attention/linear_0/weight");
        (0..)
            .take_while(|layer| self.variables.contains_key(&attention(layer)))
            .count()
    }

    /// Every Whisper's heads are 64 wide; a variable says so where there is one.
    fn heads(&self, side: &str, width: usize) -> usize {
        match self.variables.get(&format!("{side}/num_heads")) {
            Some(variable) if !variable.data.is_empty() && variable.data.len() <= 8 => self.bytes
                [variable.data.clone()]
            .iter()
            .rev()
            .fold(0, |value, byte| value << 8 | *byte as usize),
            _ => width / 64,
        }
    }

    fn name_tensors(&mut self) -> Result<(), ModelError> {
        let sizes = self.sizes()?;
        let d = sizes.width;
        let mut names = Vec::new();
        for conv in ["conv1", "conv2"] {
            for part in ["weight", "bias"] {
                names.push((format!("encoder.{conv}.{part}"), format!("encoder/{conv}/{part}"), None));
            }
        }
        let positions = "encoder/position_encodings/encodings".to_string();
        names.push(("encoder.embed_positions.weight".into(), positions, None));
        let norm = |names: &mut Vec<_>, to: String, from: String| {
            names.push((format!("{to}.weight"), format!("{from}/gamma"), None));
            names.push((format!("{to}.bias"), format!("{from}/beta"), None));
        };
        let rows = |part: usize| Some(part * d..(part + 1) * d);
        let mut sides = vec![("encoder", sizes.layers)];
        if let Some(decoder) = &sizes.decoder {
            sides.push(("decoder", decoder.layers));
            for (to, from) in [
                ("embed_tokens", "embeddings/weight"),
                ("embed_positions", "position_encodings/encodings"),
            ] {
                names.push((format!("decoder.{to}.weight"), format!("decoder/{from}"), None));
            }
        }
        for (side, layers) in sides {
            norm(&mut names, format!("{side}.layer_norm"), format!("{side}/layer_norm"));
            for layer in 0..layers {
                let (to, from) = (format!("{side}.layers.{layer}"), format!("{side}/layer_{layer}"));
                let own = format!("{from}/self_attention");
                // Name here, variable, its rows.
                let mut linear = vec![
                    ("self_attn.q_proj", format!("{own}/linear_0"), rows(0)),
                    ("self_attn.k_proj", format!("{own}/linear_0"), rows(1)),
                    ("self_attn.v_proj", format!("{own}/linear_0"), rows(2)),
                    ("self_attn.out_proj", format!("{own}/linear_1"), None),
                    ("fc1", format!("{from}/ffn/linear_0"), None),
                    ("fc2", format!("{from}/ffn/linear_1"), None),
                ];
                norm(
                    &mut names,
                    format!("{to}.self_attn_layer_norm"),
                    format!("{own}/layer_norm"),
                );
                norm(
                    &mut names,
                    format!("{to}.final_layer_norm"),
                    format!("{from}/ffn/layer_norm"),
                );
                if side == "decoder" {
                    let cross = format!("{from}/attention");
                    linear.extend([
                        ("encoder_attn.q_proj", format!("{cross}/linear_0"), None),
                        ("encoder_attn.k_proj", format!("{cross}/linear_1"), rows(0)),
                        ("encoder_attn.v_proj", format!("{cross}/linear_1"), rows(1)),
                        ("encoder_attn.out_proj", format!("{cross}/linear_2"), None),
                    ]);
                    norm(
                        &mut names,
                        format!("{to}.encoder_attn_layer_norm"),
                        format!("{cross}/layer_norm"),
                    );
                }
                for (name, variable, rows) in linear {
                    names.push((
                        format!("{to}.{name}.weight"),
                        format!("{variable}/weight"),
                        rows.clone(),
                    ));
                    // Whisper's keys have no bias: zeros are stored.
                    if !name.ends_with("k_proj") {
                        names.push((format!("{to}.{name}.bias"), format!("{variable}/bias"), rows));
                    }
                }
            }
        }
        for (name, variable_name, rows) in names {
            let variable = self.variable(&variable_name)?;
            let total = variable.count(0, &variable_name)?;
            let (shape, part) = match rows {
                None => (variable.shape.clone(), 0..total),
                Some(rows) => {
                    let row = variable.count(1, &variable_name)?;
                    if variable.shape.first().is_none_or(|count| *count < rows.end) {
                        return Err(ModelError::invalid(FILE, format!("`{variable_name}` is too small")));
                    }
                    let mut shape = variable.shape.clone();
                    shape[0] = rows.len();
                    (shape, rows.start * row..rows.end * row)
                }
            };
            let tensor = Tensor {
                shape,
                variable: variable_name,
                part,
            };
            self.tensors.insert(name, tensor);
        }
        Ok(())
    }

    /// A part of a variable's values. 8-bit weights come with a scale a row: the stored value is the weight times it.
    fn read(&self, name: &str, variable: &Variable, part: Range<usize>) -> Result<Vec<f32>, ModelError> {
        let data = &self.bytes[variable.data.clone()];
        let slice = |size: usize| -> Result<&[u8], ModelError> {
            data.get(part.start * size..part.end * size)
                .ok_or_else(|| too_few_values(name))
        };
        match variable.kind {
            0 => Ok(from_f32(slice(4)?)),
            4 => Ok(from_f16(slice(2)?)),
            1 => {
                let scale_name = format!("{name}_scale");
                let scale = self.variable(&scale_name)?;
                // Scales of scales there are none: a chain of them would be as long as a file likes.
                if scale.kind == 1 {
                    return Err(ModelError::invalid(FILE, format!("`{scale_name}` is stored in 8 bits")));
                }
                let rows = variable.shape.first().copied().unwrap_or(1);
                let row = variable.count(1, name)?.max(1);
                let scales = self.read(&scale_name, scale, 0..rows)?;
                let values = slice(1)?.iter().enumerate();
                Ok(values
                    .map(|(index, value)| *value as i8 as f32 / scales[(part.start + index) / row])
                    .collect())
            }
            other => Err(ModelError::Type {
                name: name.into(),
                found: format!("CTranslate2's type {other}"),
            }),
        }
    }
}

impl Checkpoint for Ctranslate2Checkpoint {
    fn shape(&self, name: &str) -> Option<&[usize]> {
        Some(&self.tensors.get(name)?.shape)
    }

    fn storage(&self, name: &str) -> Stored {
        let variable = self
            .tensors
            .get(name)
            .and_then(|tensor| self.variables.get(&tensor.variable));
        match variable.map(|variable| variable.kind) {
            Some(1) => Stored::Int8Rows,
            Some(4) => Stored::F16,
            _ => Stored::F32,
        }
    }

    fn values(&self, name: &str) -> Result<Vec<f32>, ModelError> {
        let tensor = self
            .tensors
            .get(name)
            .ok_or_else(|| ModelError::MissingTensor(name.into()))?;
        self.read(&tensor.variable, self.variable(&tensor.variable)?, tensor.part.clone())
    }

    fn names(&self) -> Vec<&str> {
        self.tensors.keys().map(String::as_str).collect()
    }
}
