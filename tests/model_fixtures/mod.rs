//! Small model directories in every format, written here or copied from the goldens.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};
use zip::write::SimpleFileOptions;

pub(crate) fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// A copy of a golden model's directory without its golden.
pub(crate) fn copy_of(model: &str, to: &Path) {
    std::fs::create_dir_all(to).expect("a directory");
    for entry in std::fs::read_dir(repository("tests/data/goldens").join(model)).expect("a golden") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name");
        if name != "golden.safetensors" {
            std::fs::copy(&path, to.join(name)).expect("a copy");
        }
    }
}

/// wav2vec2-base's directory with `torch.save`'s file instead (f32, f16 or bf16).
pub(crate) fn pytorch(kind: &str, to: &Path) {
    copy_of("wav2vec2-base", to);
    std::fs::remove_file(to.join("model.safetensors")).expect("removed");
    let file = repository("tests/data/formats").join(format!("pytorch_model.{kind}.bin"));
    std::fs::copy(file, to.join("pytorch_model.bin")).expect("a copy");
}

/// A stored zip archive of these entries.
pub(crate) fn archive(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let stored = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for (name, bytes) in entries {
        writer.start_file(*name, stored).expect("an entry");
        writer.write_all(bytes).expect("its bytes");
    }
    writer.finish().expect("an archive").into_inner()
}

/// The pickle of one tensor `weight`, a view of an f32 storage `0`.
pub(crate) fn pickled_tensor(shape: &[u32], strides: &[u32]) -> Vec<u8> {
    fn text(program: &mut Vec<u8>, text: &str) {
        program.push(b'X');
        program.extend((text.len() as u32).to_le_bytes());
        program.extend(text.as_bytes());
    }
    fn tuple(program: &mut Vec<u8>, numbers: &[u32]) {
        program.push(b'(');
        for number in numbers {
            program.push(b'J');
            program.extend(number.to_le_bytes());
        }
        program.push(b't');
    }
    let mut program = b"\x80\x02}(".to_vec();
    text(&mut program, "weight");
    program.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
    text(&mut program, "storage");
    program.extend(b"ctorch\nFloatStorage\n");
    text(&mut program, "0");
    text(&mut program, "cpu");
    program.extend(b"K\x04tQK\x00");
    tuple(&mut program, shape);
    tuple(&mut program, strides);
    program.extend(b"\x89ccollections\nOrderedDict\n)RtRu.");
    program
}

/// A variable of a CTranslate2 file: name, dimensions, type, data.
pub(crate) type Variable = (String, Vec<u32>, u8, Vec<u8>);

/// A CTranslate2 file.
pub(crate) fn ctranslate2_file(variables: &[Variable]) -> Vec<u8> {
    fn text(file: &mut Vec<u8>, text: &str) {
        file.extend((text.len() as u16 + 1).to_le_bytes());
        file.extend(text.as_bytes());
        file.push(0);
    }
    let mut file = 6u32.to_le_bytes().to_vec();
    text(&mut file, "WhisperSpec");
    file.extend(3u32.to_le_bytes());
    file.extend((variables.len() as u32).to_le_bytes());
    for (name, shape, kind, data) in variables {
        text(&mut file, name);
        file.push(shape.len() as u8);
        shape.iter().for_each(|size| file.extend(size.to_le_bytes()));
        file.push(*kind);
        file.extend((data.len() as u32).to_le_bytes());
        file.extend(data);
    }
    file.extend(0u32.to_le_bytes());
    file
}

/// A tiny Whisper encoder's variables: one layer of width 64, 8 bands, 16 positions; the first feed-forward matrix in
/// 8 bits, convolutions in f16, the rest in f32.
pub(crate) fn ctranslate2_variables() -> Vec<Variable> {
    let mut variables: Vec<Variable> = Vec::new();
    let mut state = 1u32;
    let mut value = move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32 - 0.5
    };
    let mut add = |name: &str, shape: &[u32], kind: u8| {
        let count: u32 = shape.iter().product();
        let data = (0..count).flat_map(|_| match kind {
            0 => value().to_le_bytes().to_vec(),
            4 => half::f16::from_f32(value()).to_le_bytes().to_vec(),
            _ => vec![(value() * 250.0) as i8 as u8],
        });
        variables.push((format!("encoder/{name}"), shape.to_vec(), kind, data.collect()));
    };
    add("conv1/weight", &[64, 8, 3], 4);
    add("conv1/bias", &[64], 4);
    add("conv2/weight", &[64, 64, 3], 4);
    add("conv2/bias", &[64], 4);
    add("position_encodings/encodings", &[16, 64], 0);
    for norm in [
        "layer_norm",
        "layer_0/self_attention/layer_norm",
        "layer_0/ffn/layer_norm",
    ] {
        add(&format!("{norm}/gamma"), &[64], 0);
        add(&format!("{norm}/beta"), &[64], 0);
    }
    for (linear, rows) in [
        ("self_attention/linear_0", 192),
        ("self_attention/linear_1", 64),
        ("ffn/linear_1", 64),
    ] {
        add(&format!("layer_0/{linear}/weight"), &[rows, 64], 0);
        add(&format!("layer_0/{linear}/bias"), &[rows], 0);
    }
    add("layer_0/ffn/linear_0/weight", &[64, 64], 1);
    add("layer_0/ffn/linear_0/bias", &[64], 0);
    let scales = vec![100f32; 64].into_iter().flat_map(f32::to_le_bytes).collect();
    variables.push(("encoder/layer_0/ffn/linear_0/weight_scale".into(), vec![64], 0, scales));
    variables
}
