//! Weights as they are published: which file formats, and one way to read a tensor from any of them.

mod ctranslate2;
mod overlay;
mod pickle;
mod safetensors;

pub use self::ctranslate2::{Ctranslate2Checkpoint, EncoderSizes};
pub use self::overlay::Overlay;
pub use self::pickle::PickleCheckpoint;
pub use self::safetensors::SafetensorsCheckpoint;

use super::ModelError;

/// How a tensor's values are stored: by how much they may have been rounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Stored {
    /// In f32, or in what nobody told.
    #[default]
    F32,
    /// In f16.
    F16,
    /// In bf16.
    Bf16,
    /// In 8 bits, each row's largest value being 127 steps.
    Int8Rows,
}

/// Tensors by name.
pub trait Checkpoint: Send + Sync {
    /// A tensor's shape, when there is one of that name.
    fn shape(&self, name: &str) -> Option<&[usize]>;
    /// How its values are stored.
    fn storage(&self, _name: &str) -> Stored {
        Stored::default()
    }
    /// A tensor's values, row-major.
    fn values(&self, name: &str) -> Result<Vec<f32>, ModelError>;
    /// Every name.
    fn names(&self) -> Vec<&str>;
}

/// Little-endian f32s.
fn from_f32(data: &[u8]) -> Vec<f32> {
    let values = data.chunks_exact(4);
    values.map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

/// Little-endian f16s.
fn from_f16(data: &[u8]) -> Vec<f32> {
    let values = data.chunks_exact(2);
    values
        .map(|b| half::f16::from_le_bytes([b[0], b[1]]).to_f32())
        .collect()
}

/// Little-endian bf16s.
fn from_bf16(data: &[u8]) -> Vec<f32> {
    let values = data.chunks_exact(2);
    values
        .map(|b| half::bf16::from_le_bytes([b[0], b[1]]).to_f32())
        .collect()
}
