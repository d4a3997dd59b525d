//! Every published layout of weights and settings gives the same model: shards, PyTorch's archives in three types, both
//! names of weight norm, a CTC head beside a Whisper; tokenizer and preprocessor settings.

mod common;
mod model_fixtures;

use aurist::engine::cpu::CpuBackend;
use aurist::model::{Input, ModelFiles, Symbol};
use model_fixtures::{copy_of, ctranslate2_file, ctranslate2_variables, pytorch};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

fn read(path: &Path) -> Tensors {
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tensor =
        |(name, view): (String, TensorView<'_>)| (name, (view.dtype(), view.shape().to_vec(), view.data().to_vec()));
    file.tensors().into_iter().map(tensor).collect()
}

fn write(tensors: &Tensors, path: &Path) {
    let views = tensors
        .iter()
        .map(|(name, (dtype, shape, data))| (name, TensorView::new(*dtype, shape.clone(), data).unwrap()));
    std::fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

fn edit(path: &Path, change: impl FnOnce(&mut Value)) {
    let mut value: Value = std::fs::read(path).map_or(json!({}), |bytes| serde_json::from_slice(&bytes).unwrap());
    change(&mut value);
    std::fs::write(path, value.to_string()).unwrap();
}

/// Every value that the model is made of, through `round`.
fn values(dir: &Path, round: impl Fn(f32) -> f32) -> Vec<f32> {
    let backend = CpuBackend::new(1).unwrap();
    let model = ModelFiles::from_dir(dir).unwrap().load(&backend).unwrap();
    let weights = model.weights();
    weights
        .operands()
        .flat_map(|id| {
            weights
                .value(&backend, id)
                .iter()
                .map(|v| round(*v))
                .collect::<Vec<_>>()
        })
        .collect()
}

#[test]
fn pytorchs_archives_in_three_types_with_the_older_names_of_weight_norm() {
    let folder = tempfile::tempdir().unwrap();
    let golden = model_fixtures::repository("tests/data/goldens/wav2vec2-base");
    let published = read(&golden.join("model.safetensors"));
    assert!(
        published
            .keys()
            .any(|name| name.contains("parametrizations.weight.original0"))
    );
    for kind in ["f32", "f16", "bf16"] {
        let dir = folder.path().join(kind);
        pytorch(kind, &dir);
        let round = |value: f32| match kind {
            "f16" => half::f16::from_f32(value).to_f32(),
            "bf16" => half::bf16::from_f32(value).to_f32(),
            _ => value,
        };
        // Exact: the tensors stand in the same order in both.
        assert!(values(&dir, |v| v) == values(&golden, round), "{kind}");
        assert_eq!(ModelFiles::from_dir(&dir).unwrap().format, "PyTorch's zip archive");
    }
}

#[test]
fn safetensors_in_shards_in_other_types_and_with_the_older_names() {
    let folder = tempfile::tempdir().unwrap();
    let golden = model_fixtures::repository("tests/data/goldens/hubert-large");
    let tensors = read(&golden.join("model.safetensors"));

    let shards = folder.path().join("shards");
    copy_of("hubert-large", &shards);
    std::fs::remove_file(shards.join("model.safetensors")).unwrap();
    let mut parts = [Tensors::new(), Tensors::new(), Tensors::new()];
    let mut map = serde_json::Map::new();
    for (n, (name, tensor)) in tensors.iter().enumerate() {
        parts[n % 3].insert(name.clone(), tensor.clone());
        map.insert(
            name.clone(),
            format!("model-{:05}-of-00003.safetensors", n % 3 + 1).into(),
        );
    }
    for (n, part) in parts.iter().enumerate() {
        write(part, &shards.join(format!("model-{:05}-of-00003.safetensors", n + 1)));
    }
    let index = json!({ "metadata": { "total_size": 1 }, "weight_map": map });
    std::fs::write(shards.join("model.safetensors.index.json"), index.to_string()).unwrap();
    assert!(values(&shards, |v| v) == values(&golden, |v| v));
    std::fs::remove_file(shards.join("model-00002-of-00003.safetensors")).unwrap();
    let error = ModelFiles::from_dir(&shards).err().unwrap().to_string();
    assert!(error.contains("model-00002-of-00003.safetensors"), "{error}");

    for (dtype, kind) in [(Dtype::F16, "f16"), (Dtype::BF16, "bf16")] {
        let (dir, is_f16) = (folder.path().join(kind), dtype == Dtype::F16);
        copy_of("hubert-large", &dir);
        let round = |value: f32| match is_f16 {
            true => half::f16::from_f32(value).to_f32(),
            false => half::bf16::from_f32(value).to_f32(),
        };
        let narrow = tensors.iter().map(|(name, (_, shape, data))| {
            let numbers = data.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()));
            let data = numbers.flat_map(|value| match is_f16 {
                true => half::f16::from_f32(value).to_le_bytes(),
                false => half::bf16::from_f32(value).to_le_bytes(),
            });
            let name = name.replace("parametrizations.weight.original0", "weight_g");
            (
                name.replace("parametrizations.weight.original1", "weight_v"),
                (dtype, shape.clone(), data.collect()),
            )
        });
        write(&narrow.collect(), &dir.join("model.safetensors"));
        assert!(values(&dir, |v| v) == values(&golden, round), "{kind}");
    }
}

#[test]
fn a_ctc_head_beside_a_whisper_makes_a_recogniser_of_it() {
    let (folder, backend) = (tempfile::tempdir().unwrap(), CpuBackend::new(1).unwrap());
    let dir = folder.path();
    std::fs::write(dir.join("model.bin"), ctranslate2_file(&ctranslate2_variables())).unwrap();
    let files = ModelFiles::from_dir(dir).unwrap();
    assert_eq!((files.format, files.config.vocab_size), ("CTranslate2", 0));
    assert_eq!(files.config.input(), Input::LogMel { bands: 8 });
    files.load(&backend).unwrap();
    let told = aurist::Recognizer::from_dir(dir).err().unwrap().to_string();
    assert!(told.contains("ctc_head.safetensors"), "{told}");

    // It always writes "a".
    let bias = [0f32, 0.0, 5.0].map(f32::to_le_bytes).concat();
    let head = Tensors::from([
        ("ctc_head.weight".into(), (Dtype::F32, vec![3, 64], vec![0; 4 * 3 * 64])),
        ("ctc_head.bias".into(), (Dtype::F32, vec![3], bias)),
    ]);
    write(&head, &dir.join("ctc_head.safetensors"));
    std::fs::write(dir.join("ctc_vocab.json"), r#"{"<pad>": 0, "|": 1, "a": 2}"#).unwrap();
    let whole = ModelFiles::from_dir(dir).unwrap();
    assert_ne!(whole.identity, files.identity);
    assert_eq!(whole.vocabulary.unwrap().len(), 3);
    let recognizer = aurist::Recognizer::from_dir(dir).unwrap();
    // 16 positions are 0.32 s.
    assert!((recognizer.longest_utterance() - 0.32).abs() < 0.02);
    let mut session = recognizer.session(&aurist::AdaptationConfig::none(), 1).unwrap();
    assert_eq!(session.transcribe_utterance(&[0.1; 4800], 0.0).unwrap().text, "a");
}

#[test]
fn the_preprocessors_settings() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    copy_of("wav2vec2-base", dir);
    let file = dir.join("preprocessor_config.json");
    let samples: Vec<f32> = (0..8000).map(|n| (n as f32 * 0.05).sin() * 0.3 + 0.1).collect();
    let run = || {
        let recognizer = aurist::Recognizer::from_dir(dir).unwrap();
        let config = aurist::AdaptationConfig {
            steps: 1,
            ..recognizer.default_adaptation()
        };
        let mut session = recognizer.session(&config, 1).unwrap();
        session.transcribe_utterance(&samples, 0.0).unwrap().entropy_before
    };
    // One utterance fills its batch: there is no padding that an attention mask could hide.
    edit(&file, |value| value["return_attention_mask"] = true.into());
    let masked = run();
    edit(&file, |value| value["return_attention_mask"] = false.into());
    assert_eq!(run(), masked);
    edit(&file, |value| value["do_normalize"] = false.into());
    assert_eq!(
        ModelFiles::from_dir(dir).unwrap().config.input(),
        Input::Waveform { normalise: false }
    );
    assert_ne!(run(), masked);
    edit(&file, |value| value["sampling_rate"] = 8000.into());
    let error = ModelFiles::from_dir(dir).err().unwrap().to_string();
    assert!(error.contains("sampling_rate is 8000"), "{error}");
}

#[test]
fn an_xlsr_vocabulary_of_another_language() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    copy_of("wav2vec2-large", dir);
    // 32 symbols in the order that fine-tuned XLSR models have them: the blank last, added tokens beyond the vocabulary.
    let letters = [
        "|", "a", "b", "c", "d", "e", "é", "è", "ñ", "ß", "ü", "ж", "я", "ch", "中", "'",
    ];
    let mut vocabulary = serde_json::Map::new();
    for (index, letter) in letters.iter().enumerate() {
        vocabulary.insert((*letter).into(), index.into());
    }
    for index in letters.len()..28 {
        vocabulary.insert(format!("{index}"), index.into());
    }
    vocabulary.insert("[UNK]".into(), 28.into());
    vocabulary.insert("[PAD]".into(), 29.into());
    std::fs::write(dir.join("vocab.json"), Value::Object(vocabulary).to_string()).unwrap();
    std::fs::write(dir.join("added_tokens.json"), r#"{"<s>": 30, "</s>": 31}"#).unwrap();
    std::fs::write(
        dir.join("tokenizer_config.json"),
        r#"{"pad_token": "[PAD]", "unk_token": "[UNK]", "word_delimiter_token": "|", "do_lower_case": false}"#,
    )
    .unwrap();
    edit(&dir.join("config.json"), |config| config["pad_token_id"] = 29.into());
    let vocabulary = ModelFiles::from_dir(dir).unwrap().vocabulary.unwrap();
    assert_eq!((vocabulary.len(), vocabulary.blank()), (32, 29));
    assert_eq!(vocabulary.symbol(0), &Symbol::Boundary);
    assert_eq!(vocabulary.symbol(13), &Symbol::Text("ch".into()));
    assert_eq!(vocabulary.symbol(14), &Symbol::Text("中".into()));
    assert!((28..32).all(|index| *vocabulary.symbol(index) == Symbol::Silent));
    // Greedy decoding: "ch", a pause, "é" twice with a blank between, the boundary, "ж".
    let path = [13, 13, 29, 6, 29, 6, 0, 28, 11];
    let mut logits = vec![0.0; path.len() * 32];
    path.iter()
        .enumerate()
        .for_each(|(t, symbol)| logits[t * 32 + symbol] = 9.0);
    assert_eq!(aurist::decode::greedy(&logits, &vocabulary, 0.02).text, "chéé ж");
}
