//! A model directory with bytes overwritten or cut off loads or gives one error: no panic, no memory out of proportion.

mod model_fixtures;
mod model_loading;

use aurist::engine::cpu::CpuBackend;
use model_fixtures::{copy_of, pytorch};
use model_loading::{load, pickle, tiny_whisper};
use proptest::prelude::*;
use std::path::Path;

/// Bytes overwritten at places given as fractions of the file; half of the places lie in its first part, where headers
/// are. `cut`: how much is left of it.
#[derive(Debug, Clone)]
struct Mutation {
    bytes: Vec<(f64, bool, u8)>,
    cut: Option<f64>,
}

impl Mutation {
    fn apply(&self, bytes: &mut Vec<u8>) {
        for (place, early, value) in &self.bytes {
            let reach = if *early { bytes.len().min(6000) } else { bytes.len() };
            let at = (place * reach as f64) as usize;
            if let Some(byte) = bytes.get_mut(at) {
                *byte = *value;
            }
        }
        if let Some(cut) = self.cut {
            bytes.truncate((cut * bytes.len() as f64) as usize);
        }
    }
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let value = prop_oneof![
        any::<u8>(),
        prop::sample::select(b"0123456789[]{}\",:-\x00\xff".to_vec())
    ];
    let bytes = prop::collection::vec((0.0..1.0f64, any::<bool>(), value), 1..8);
    let cut = prop::option::weighted(0.1, 0.0..1.0f64);
    (bytes, cut).prop_map(|(bytes, cut)| Mutation { bytes, cut })
}

/// Mutates a file of a model again and again. Whatever it then is, it loads or gives an error.
fn mutate(base: impl Fn(&Path), cases: u32) {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    base(dir);
    let backend = CpuBackend::new(1).unwrap();
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let files: Vec<_> = entries.map(|path| (std::fs::read(&path).unwrap(), path)).collect();
    assert_eq!(load(&backend, dir), None);
    let config = ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    proptest!(config, |(index in any::<prop::sample::Index>(), mutation in mutation())| {
        let (original, path) = &files[index.index(files.len())];
        let mut bytes = original.clone();
        mutation.apply(&mut bytes);
        std::fs::write(path, &bytes).unwrap();
        load(&backend, dir);
        std::fs::write(path, original).unwrap();
    });
}

#[test]
fn mutated_safetensors_directories() {
    for model in [
        "wav2vec2-base",
        "hubert-large",
        "data2vec-audio",
        "wavlm-large",
        "whisper-ctc-tiny",
    ] {
        mutate(|dir| copy_of(model, dir), 150);
    }
}

#[test]
fn mutated_pytorch_archives() {
    mutate(|dir| pytorch("f16", dir), 300);
    // The index alone, where an archive's checksum would hide most mutations.
    let folder = tempfile::tempdir().unwrap();
    pytorch("f16", folder.path());
    let bytes = std::fs::read(folder.path().join("pytorch_model.bin")).unwrap();
    let mut file = zip::ZipArchive::new(std::io::Cursor::new(&bytes)).unwrap();
    let mut program = Vec::new();
    let name = file
        .file_names()
        .filter_map(|name| name.ok())
        .map(|name| name.into_owned())
        .find(|name| name.ends_with("data.pkl"));
    std::io::Read::read_to_end(&mut file.by_name(&name.unwrap()).unwrap(), &mut program).unwrap();
    let backend = CpuBackend::new(1).unwrap();
    proptest!(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() }, |(mutation in mutation())| {
        let mut program = program.clone();
        mutation.apply(&mut program);
        pickle(folder.path(), &program, &[0; 4096]);
        load(&backend, folder.path());
    });
}

#[test]
fn mutated_ctranslate2_files() {
    mutate(tiny_whisper, 500);
}
