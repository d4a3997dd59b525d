//! CTranslate2's model.bin, the format of faster-whisper: a Whisper encoder's tensors under Hugging Face's names.
//!
//! Little-endian: u32 version, the specification's name, u32 revision, u32 count; per variable a name, u8 rank, u32
//! dimensions, u8 type, u32 bytes, data; then aliases, which an encoder has no need of. A string is a u16 length that
//! counts a final zero byte, then the bytes.

use super::{Checkpoint, from_f16, from_f32};
use crate::model::ModelError;
use crate::model::source::WeightBytes;
use std::collections::HashMap;
use std::ops::Range;

const FILE: &str = "model.bin";

/// A Whisper's encoder.
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
        let layers = (0..)
            .take_while(|layer| {
                self.variables
                    .contains_key(&format!("encoder/layer_{layer}/self_attention/linear_0/weight"))
            })
            .count();
        // Every Whisper's heads are 64 wide; a variable says so where there is one.
        let heads = match self.variables.get("encoder/num_heads") {
            Some(variable) if !variable.data.is_empty() && variable.data.len() <= 8 => self.bytes
                [variable.data.clone()]
            .iter()
            .rev()
            .fold(0, |value, byte| value << 8 | *byte as usize),
            _ => conv[0] / 64,
        };
        Ok(EncoderSizes {
            width: conv[0],
            bands: conv[1],
            layers,
            heads,
            ffn: shape("encoder/layer_0/ffn/linear_0/weight", 2)?[0],
            positions: shape("encoder/position_encodings/encodings", 2)?[0],
        })
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
        norm(&mut names, "encoder.layer_norm".into(), "encoder/layer_norm".into());
        for layer in 0..sizes.layers {
            let (to, from) = (format!("encoder.layers.{layer}"), format!("encoder/layer_{layer}"));
            let attention = format!("{from}/self_attention");
            norm(
                &mut names,
                format!("{to}.self_attn_layer_norm"),
                format!("{attention}/layer_norm"),
            );
            norm(
                &mut names,
                format!("{to}.final_layer_norm"),
                format!("{from}/ffn/layer_norm"),
            );
            for (index, part) in ["q", "k", "v"].into_iter().enumerate() {
                let rows = Some(index * d..(index + 1) * d);
                let name = format!("{to}.self_attn.{part}_proj");
                names.push((
                    format!("{name}.weight"),
                    format!("{attention}/linear_0/weight"),
                    rows.clone(),
                ));
                // Whisper's keys have no bias: zeros are stored.
                if part != "k" {
                    names.push((format!("{name}.bias"), format!("{attention}/linear_0/bias"), rows));
                }
            }
            for (to, from) in [
                (format!("{to}.self_attn.out_proj"), format!("{attention}/linear_1")),
                (format!("{to}.fc1"), format!("{from}/ffn/linear_0")),
                (format!("{to}.fc2"), format!("{from}/ffn/linear_1")),
            ] {
                names.push((format!("{to}.weight"), format!("{from}/weight"), None));
                names.push((format!("{to}.bias"), format!("{from}/bias"), None));
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
