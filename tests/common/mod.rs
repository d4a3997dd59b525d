//! What the golden tests share: reading PyTorch's tensors, and comparing with them.

// Each test binary uses its part, and sees this as its own module.
#![allow(dead_code, unreachable_pub)]

pub mod finite_differences;

use aurist::engine::cpu::CpuBackend;
use aurist::model::checkpoint::Checkpoint;
use aurist::model::{CtcModel, ModelError, ModelFiles, Vocabulary};
use aurist::{AdaptationConfig, Compatibility, ParameterChoice};
use safetensors::{Dtype, SafeTensors};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A path inside the repository.
pub fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

pub fn load(backend: &CpuBackend, dir: &Path) -> Arc<CtcModel<CpuBackend>> {
    Arc::new(ModelFiles::from_dir(dir).unwrap().load(backend).unwrap())
}

pub fn vocabulary(dir: &Path) -> Vocabulary {
    ModelFiles::from_dir(dir).unwrap().vocabulary.unwrap()
}

/// A model whose tensors were changed on the way in.
pub fn load_patched(
    backend: &CpuBackend,
    dir: &Path,
    patch: impl Fn(&str, &mut [f32]) + Send + Sync,
) -> Arc<CtcModel<CpuBackend>> {
    struct Patched<F>(Box<dyn Checkpoint>, F);
    impl<F: Fn(&str, &mut [f32]) + Send + Sync> Checkpoint for Patched<F> {
        fn shape(&self, name: &str) -> Option<&[usize]> {
            self.0.shape(name)
        }
        fn values(&self, name: &str) -> Result<Vec<f32>, ModelError> {
            let mut values = self.0.values(name)?;
            self.1(name, &mut values);
            Ok(values)
        }
        fn names(&self) -> Vec<&str> {
            self.0.names()
        }
    }
    let files = ModelFiles::from_dir(dir).unwrap();
    Arc::new(CtcModel::load(backend, files.config, &Patched(files.checkpoint, patch)).unwrap())
}

/// A golden.safetensors.
pub struct Golden(Vec<u8>);

impl Golden {
    pub fn read(dir: &Path) -> Self {
        Self(std::fs::read(dir.join("golden.safetensors")).unwrap())
    }

    fn file(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.0).unwrap()
    }

    pub fn names(&self) -> Vec<String> {
        self.file().names().into_iter().map(String::from).collect()
    }

    /// A text beside the tensors.
    pub fn metadata(&self, key: &str) -> String {
        let (_, metadata) = SafeTensors::read_metadata(&self.0).unwrap();
        metadata.metadata().as_ref().unwrap()[key].clone()
    }

    /// Whether a tensor was stored in f16, whose rounding a comparison must allow for.
    pub fn is_f16(&self, name: &str) -> bool {
        self.file().tensor(name).unwrap().dtype() == Dtype::F16
    }

    pub fn shape(&self, name: &str) -> Vec<usize> {
        self.file().tensor(name).unwrap().shape().to_vec()
    }

    pub fn get_i32(&self, name: &str) -> Vec<i32> {
        let file = self.file();
        let values = file.tensor(name).unwrap().data().chunks_exact(4);
        values.map(|b| i32::from_le_bytes(b.try_into().unwrap())).collect()
    }

    pub fn get_f64(&self, name: &str) -> Vec<f64> {
        let file = self.file();
        let values = file.tensor(name).unwrap().data().chunks_exact(8);
        values.map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect()
    }

    pub fn get(&self, name: &str) -> Vec<f32> {
        let file = self.file();
        let tensor = file.tensor(name).unwrap_or_else(|_| panic!("golden lacks {name}"));
        let data = tensor.data();
        match tensor.dtype() {
            Dtype::F32 => data
                .chunks_exact(4)
                .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
                .collect(),
            Dtype::F16 => data
                .chunks_exact(2)
                .map(|b| half::f16::from_le_bytes(b.try_into().unwrap()).to_f32())
                .collect(),
            other => panic!("{name} is {other:?}"),
        }
    }
}

/// The settings of the goldens' runs, by the name that stands before their tensors.
pub fn golden_settings(setting: &str, steps: usize) -> AdaptationConfig {
    let (parameters, compatibility) = match setting {
        "layer-norm" => (ParameterChoice::LayerNorm, Compatibility::None),
        "layer-norm+feature" => (ParameterChoice::LayerNormAndFeature, Compatibility::None),
        "compat" => (ParameterChoice::LayerNormAndFeature, Compatibility::Suta),
        "bias" => (ParameterChoice::Bias, Compatibility::None),
        "all" => (ParameterChoice::All, Compatibility::None),
        other => panic!("{other}"),
    };
    AdaptationConfig {
        learning_rate: 1e-3,
        parameters,
        compatibility,
        steps,
        ..AdaptationConfig::paper()
    }
}

/// The keys' biases shift a row's scores alike, which softmax cancels: their gradient is rounding, in PyTorch too.
pub fn has_no_gradient(tensor: &str) -> bool {
    tensor.contains("k_proj.bias")
}

/// ‖a - b‖ / ‖b‖
pub fn relative_difference(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let square = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>();
    let difference = square(&mut a.iter().zip(b).map(|(a, b)| (*a - *b) as f64));
    (difference / square(&mut b.iter().map(|b| *b as f64))).sqrt()
}

/// The largest `|a - b|`.
pub fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}
