//! A damaged or hostile model directory gives one clear error: no panic, no code run, no memory out of proportion.

mod cli_support;
mod model_fixtures;
mod model_loading;

use aurist::engine::cpu::CpuBackend;
use model_fixtures::{archive, copy_of, ctranslate2_file, ctranslate2_variables, pickled_tensor, pytorch};
use model_loading::{load, pickle, tiny_whisper, write};
use predicates::str::contains;
use serde_json::{Value, json};
use std::path::Path;

fn edit(dir: &Path, name: &str, change: impl FnOnce(&mut Value)) {
    let mut value: Value = serde_json::from_slice(&std::fs::read(dir.join(name)).unwrap()).unwrap();
    change(&mut value);
    write(dir, name, value.to_string());
}

/// A safetensors file with this header and no data.
fn header(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

type Damage = (&'static str, fn(&Path), &'static str);

/// Each damages a copy of a model, and what the error must then say.
fn check(base: fn(&Path), damages: &[Damage]) {
    let backend = CpuBackend::new(1).unwrap();
    for (what, damage, told) in damages {
        let folder = tempfile::tempdir().unwrap();
        base(folder.path());
        assert_eq!(load(&backend, folder.path()), None, "before: {what}");
        damage(folder.path());
        let error = load(&backend, folder.path()).unwrap_or_else(|| panic!("{what}: it loaded"));
        assert!(error.contains(told), "{what}: {error}");
    }
}

#[test]
fn damaged_directories() {
    check(
        |dir| copy_of("wav2vec2-base", dir),
        &[
            (
                "no configuration",
                |dir| std::fs::remove_file(dir.join("config.json")).unwrap(),
                "config.json could not be read",
            ),
            (
                "no vocabulary",
                |dir| std::fs::remove_file(dir.join("vocab.json")).unwrap(),
                "vocab.json could not be read",
            ),
            (
                "no weights",
                |dir| std::fs::remove_file(dir.join("model.safetensors")).unwrap(),
                "no weights",
            ),
            (
                "a directory for a file",
                |dir| {
                    std::fs::remove_file(dir.join("model.safetensors")).unwrap();
                    std::fs::create_dir(dir.join("model.safetensors")).unwrap();
                },
                "no regular file",
            ),
            (
                "empty weights",
                |dir| write(dir, "model.safetensors", b""),
                "model.safetensors",
            ),
            (
                "truncated weights",
                |dir| {
                    let bytes = std::fs::read(dir.join("model.safetensors")).unwrap();
                    write(dir, "model.safetensors", &bytes[..bytes.len() - 100]);
                },
                "model.safetensors",
            ),
            (
                "truncated header",
                |dir| {
                    let bytes = std::fs::read(dir.join("model.safetensors")).unwrap();
                    write(dir, "model.safetensors", &bytes[..100]);
                },
                "model.safetensors",
            ),
            (
                "weights that are not numbers",
                |dir| {
                    let mut bytes = std::fs::read(dir.join("model.safetensors")).unwrap();
                    let len = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
                    let names: Value = serde_json::from_slice(&bytes[8..8 + len]).unwrap();
                    let place = names["lm_head.bias"]["data_offsets"][0].as_u64().unwrap() as usize;
                    bytes[8 + len + place..][..4].copy_from_slice(&f32::NAN.to_le_bytes());
                    write(dir, "model.safetensors", bytes);
                },
                "not finite numbers",
            ),
            (
                "another shape",
                |dir| edit(dir, "config.json", |config| config["intermediate_size"] = 7.into()),
                "has the shape",
            ),
            (
                "more layers",
                |dir| edit(dir, "config.json", |config| config["num_hidden_layers"] = 3.into()),
                "lack the tensor",
            ),
            (
                "a smaller vocabulary",
                |dir| write(dir, "vocab.json", r#"{"<pad>": 0, "|": 1}"#),
                "2 symbols",
            ),
            (
                "a larger vocabulary",
                |dir| edit(dir, "vocab.json", |map| map["x"] = 32.into()),
                "index 32",
            ),
            (
                "another output layer",
                |dir| edit(dir, "config.json", |config| config["vocab_size"] = 31.into()),
                "31 symbols",
            ),
            (
                "a blank outside",
                |dir| edit(dir, "config.json", |config| config["pad_token_id"] = 32.into()),
                "blank",
            ),
            (
                "another architecture",
                |dir| {
                    edit(dir, "config.json", |config| {
                        config["architectures"] = json!(["BertModel"])
                    })
                },
                "BertModel",
            ),
            ("no architecture", |dir| write(dir, "config.json", "{}"), "not stated"),
            (
                "an absurd width",
                |dir| {
                    edit(dir, "config.json", |config| {
                        config["hidden_size"] = 1_000_000_000_000u64.into()
                    })
                },
                "must be from 1 to",
            ),
            (
                "absurdly many layers",
                |dir| {
                    edit(dir, "config.json", |config| {
                        config["num_hidden_layers"] = 1_000_000_000u64.into()
                    })
                },
                "layers",
            ),
            (
                "absurd strides",
                |dir| {
                    edit(dir, "config.json", |config| {
                        let count = config["conv_stride"].as_array().unwrap().len();
                        config["conv_stride"] = json!(vec![1024; count]);
                    })
                },
                "conv_stride",
            ),
            (
                "no heads",
                |dir| edit(dir, "config.json", |config| config["num_attention_heads"] = 0.into()),
                "heads",
            ),
            (
                "a negative size",
                |dir| edit(dir, "config.json", |config| config["num_hidden_layers"] = (-1).into()),
                "config.json",
            ),
            (
                "deep JSON",
                |dir| write(dir, "config.json", "[".repeat(1 << 20)),
                "recursion",
            ),
            (
                "deep JSON in the vocabulary",
                |dir| write(dir, "vocab.json", "{\"a\":".repeat(1 << 20)),
                "recursion",
            ),
            (
                "configuration of gigabytes",
                |dir| {
                    let file = std::fs::File::create(dir.join("tokenizer_config.json")).unwrap();
                    file.set_len(1 << 34).unwrap();
                },
                "too many for a configuration file",
            ),
            (
                "settings that are none",
                |dir| write(dir, "adaptation.json", r#"{"learning_rate": -1}"#),
                "learning_rate",
            ),
        ],
    );
}

#[test]
fn hostile_safetensors() {
    check(
        |dir| copy_of("wav2vec2-base", dir),
        &[
            (
                "10^12 elements",
                |dir| {
                    write(
                        dir,
                        "model.safetensors",
                        header(
                            r#"{"lm_head.weight": {"dtype": "F32", "shape": [1000000, 1000000], "data_offsets": [0, 4000000000000]}}"#,
                        ),
                    )
                },
                "model.safetensors",
            ),
            (
                "10^12 elements in no bytes",
                |dir| {
                    write(
                        dir,
                        "model.safetensors",
                        header(
                            r#"{"lm_head.weight": {"dtype": "F32", "shape": [1000000, 1000000], "data_offsets": [0, 0]}}"#,
                        ),
                    )
                },
                "model.safetensors",
            ),
            (
                "more than can be counted",
                |dir| {
                    write(
                        dir,
                        "model.safetensors",
                        header(
                            r#"{"lm_head.weight": {"dtype": "F32", "shape": [18446744073709551615, 2], "data_offsets": [0, 8]}}"#,
                        ),
                    )
                },
                "model.safetensors",
            ),
            (
                "a header longer than memory",
                |dir| write(dir, "model.safetensors", [&u64::MAX.to_le_bytes()[..], b"{}"].concat()),
                "model.safetensors",
            ),
            (
                "a header deeper than the stack",
                |dir| write(dir, "model.safetensors", header(&"[".repeat(1 << 20))),
                "model.safetensors",
            ),
            (
                "offsets backwards",
                |dir| {
                    write(
                        dir,
                        "model.safetensors",
                        header(r#"{"lm_head.weight": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}"#),
                    )
                },
                "model.safetensors",
            ),
            (
                "whole numbers",
                |dir| {
                    let text = std::fs::read(dir.join("model.safetensors")).unwrap();
                    let len = u64::from_le_bytes(text[..8].try_into().unwrap()) as usize;
                    let names = std::str::from_utf8(&text[8..8 + len])
                        .unwrap()
                        .replace("\"F32\"", "\"I32\"");
                    write(
                        dir,
                        "model.safetensors",
                        [&text[..8], names.as_bytes(), &text[8 + len..]].concat(),
                    );
                },
                "is stored as I32",
            ),
            (
                "a shard elsewhere",
                |dir| {
                    std::fs::remove_file(dir.join("model.safetensors")).unwrap();
                    write(
                        dir,
                        "model.safetensors.index.json",
                        r#"{"weight_map": {"a": "../config.json"}}"#,
                    );
                },
                "is no file name",
            ),
            (
                "a shard above",
                |dir| {
                    std::fs::remove_file(dir.join("model.safetensors")).unwrap();
                    write(dir, "model.safetensors.index.json", r#"{"weight_map": {"a": ".."}}"#);
                },
                "is no file name",
            ),
            (
                "an absolute shard",
                |dir| {
                    std::fs::remove_file(dir.join("model.safetensors")).unwrap();
                    write(
                        dir,
                        "model.safetensors.index.json",
                        r#"{"weight_map": {"a": "/etc/hostname"}}"#,
                    );
                },
                "is no file name",
            ),
            (
                "an index without shards",
                |dir| {
                    std::fs::remove_file(dir.join("model.safetensors")).unwrap();
                    write(dir, "model.safetensors.index.json", r#"{"weight_map": {}}"#);
                },
                "lack the tensor",
            ),
            (
                "an index of gigabytes",
                |dir| {
                    std::fs::remove_file(dir.join("model.safetensors")).unwrap();
                    let file = std::fs::File::create(dir.join("model.safetensors.index.json")).unwrap();
                    file.set_len(1 << 34).unwrap();
                },
                "too many for a configuration file",
            ),
        ],
    );
}

#[test]
fn hostile_pickles() {
    check(
        |dir| pytorch("f16", dir),
        &[
            (
                "a shell command",
                |dir| {
                    let mut program = b"\x80\x02cposix\nsystem\nX".to_vec();
                    let command = format!("touch {}", dir.join("ran").display());
                    program.extend((command.len() as u32).to_le_bytes());
                    program.extend([command.as_bytes(), b"\x85R."].concat());
                    pickle(dir, &program, b"");
                },
                "`posix.system`",
            ),
            (
                "os.system as protocol 0 writes it",
                |dir| pickle(dir, b"cos\nsystem\n(S'touch ran'\ntR.", b""),
                "`os.system`",
            ),
            (
                "eval by a name on the stack",
                |dir| {
                    pickle(dir, b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93\x8c\x041+1\n\x85R.", b"");
                },
                "`builtins.eval`",
            ),
            (
                "a class to be built",
                |dir| pickle(dir, b"\x80\x02(csubprocess\nPopen\no.", b""),
                "`subprocess.Popen`",
            ),
            (
                "an instance by INST",
                |dir| pickle(dir, b"(S'id'\nios\nsystem\n.", b""),
                "its index",
            ),
            (
                "a storage that is none",
                |dir| pickle(dir, b"\x80\x02ctorch.storage\n_load_from_bytes\nC\x01x\x85R.", b""),
                "`torch.storage._load_from_bytes`",
            ),
            (
                "no zip archive",
                |dir| write(dir, "pytorch_model.bin", b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."),
                "no zip archive",
            ),
            (
                "an archive of something else",
                |dir| write(dir, "pytorch_model.bin", archive(&[("a", b"b")])),
                "data.pkl",
            ),
            (
                "no dictionary",
                |dir| pickle(dir, b"\x80\x02K\x01.", b""),
                "something else than a dictionary",
            ),
            (
                "an index without an end",
                |dir| pickle(dir, b"\x80\x02}", b""),
                "ends in the middle",
            ),
            ("an empty index", |dir| pickle(dir, b"", b""), "ends in the middle"),
            (
                "a tensor of 10^12 elements in four bytes",
                |dir| {
                    pickle(dir, &pickled_tensor(&[1_000_000, 1_000_000], &[0, 0]), &[0; 4]);
                },
                "many times larger than the file",
            ),
            (
                "a tensor outside its data",
                |dir| pickle(dir, &pickled_tensor(&[2], &[1000]), &[0; 8]),
                "lack the tensor",
            ),
            (
                "more dimensions than there are",
                |dir| {
                    pickle(dir, &pickled_tensor(&[1; 1000], &[1; 1000]), &[0; 8]);
                },
                "has no shape",
            ),
            (
                "a negative size",
                |dir| pickle(dir, &pickled_tensor(&[u32::MAX], &[1]), &[0; 8]),
                "has no shape",
            ),
            (
                "tuples in tuples",
                |dir| {
                    let program = [&b"\x80\x02"[..], b")", &b"\x85".repeat(100_000), b"."].concat();
                    pickle(dir, &program, b"");
                },
                "nested too deeply",
            ),
            (
                "data that is missing",
                |dir| {
                    write(
                        dir,
                        "pytorch_model.bin",
                        archive(&[("m/data.pkl", &pickled_tensor(&[1], &[1]))]),
                    );
                },
                "is missing",
            ),
            (
                "a compressed archive",
                |dir| {
                    let mut bytes = archive(&[("m/data.pkl", &pickled_tensor(&[2], &[1])), ("m/data/0", &[0; 8])]);
                    // Compression's method in the entries' own headers and in the directory.
                    for (signature, method) in [(b"PK\x03\x04", 8), (b"PK\x01\x02", 10)] {
                        let places: Vec<usize> = (0..bytes.len() - 4)
                            .filter(|at| bytes[*at..].starts_with(signature))
                            .collect();
                        places.into_iter().for_each(|at| bytes[at + method] = 8);
                    }
                    write(dir, "pytorch_model.bin", bytes);
                },
                "pytorch_model.bin",
            ),
            (
                "a cut archive",
                |dir| {
                    let bytes = std::fs::read(dir.join("pytorch_model.bin")).unwrap();
                    write(dir, "pytorch_model.bin", &bytes[..bytes.len() / 2]);
                },
                "pytorch_model.bin",
            ),
        ],
    );
}

/// One storage of 64 kB set 50,000 times under a name of a megabyte: memory must follow the file, not their product.
#[test]
fn a_pickle_that_repeats_itself() {
    let folder = tempfile::tempdir().unwrap();
    pytorch("f16", folder.path());
    let backend = CpuBackend::new(1).unwrap();
    // The name and the tensor are memoised once, and set again and again.
    let single = pickled_tensor(&[16_384], &[1]);
    let name = "n".repeat(1 << 20);
    let mut program = b"\x80\x02}(X".to_vec();
    program.extend((name.len() as u32).to_le_bytes());
    program.extend(name.as_bytes());
    program.extend(b"q\x01");
    let tensor = single.windows(7).position(|window| window == b"ctorch.").unwrap();
    program.extend(&single[tensor..single.len() - 2]);
    program.extend(b"q\x02");
    for _ in 0..50_000 {
        program.extend(b"h\x01h\x02");
    }
    program.extend(b"u.");
    pickle(folder.path(), &program, &vec![0; 1 << 16]);
    let error = load(&backend, folder.path()).unwrap();
    assert!(error.contains("many times larger than the file"), "{error}");
}

/// The file with one variable changed.
fn whisper_with(dir: &Path, name: &str, change: fn(&mut model_fixtures::Variable)) {
    let mut variables = ctranslate2_variables();
    change(variables.iter_mut().find(|variable| variable.0 == name).unwrap());
    write(dir, "model.bin", ctranslate2_file(&variables));
}

#[test]
fn hostile_ctranslate2() {
    check(
        tiny_whisper,
        &[
            (
                "a size beyond the data",
                |dir| whisper_with(dir, "encoder/conv1/weight", |variable| variable.1 = vec![64, 8, 9]),
                "fewer values",
            ),
            (
                "sizes whose product overflows",
                |dir| whisper_with(dir, "encoder/conv2/weight", |variable| variable.1 = vec![u32::MAX; 3]),
                "fewer values",
            ),
            (
                "255 dimensions",
                |dir| whisper_with(dir, "encoder/conv2/bias", |variable| variable.1 = vec![u32::MAX; 255]),
                "fewer values",
            ),
            (
                "a width of billions",
                |dir| {
                    whisper_with(dir, "encoder/conv1/weight", |variable| {
                        variable.1 = vec![u32::MAX, 1, 1]
                    })
                },
                "model.bin",
            ),
            (
                "no dimension",
                |dir| whisper_with(dir, "encoder/conv1/weight", |variable| variable.1 = vec![]),
                "dimensions",
            ),
            (
                "an empty matrix",
                |dir| {
                    whisper_with(dir, "encoder/layer_0/ffn/linear_0/weight", |variable| {
                        variable.1 = vec![0, 64]
                    })
                },
                "feed-forward",
            ),
            (
                "numbers that are none",
                |dir| whisper_with(dir, "encoder/layer_norm/beta", |variable| variable.3.fill(0xff)),
                "not finite",
            ),
            (
                "scales of nothing",
                |dir| {
                    whisper_with(dir, "encoder/layer_0/ffn/linear_0/weight_scale", |variable| {
                        variable.3.fill(0)
                    })
                },
                "not finite",
            ),
            (
                "scales that have scales",
                |dir| {
                    whisper_with(dir, "encoder/layer_0/ffn/linear_0/weight_scale", |variable| {
                        (variable.2, variable.3) = (1, vec![1; 64]);
                    })
                },
                "8 bits",
            ),
            (
                "a type of its own",
                |dir| whisper_with(dir, "encoder/layer_norm/beta", |variable| variable.2 = 9),
                "type 9",
            ),
            (
                "another name",
                |dir| whisper_with(dir, "encoder/layer_norm/beta", |variable| variable.0 = "x".into()),
                "lack the tensor",
            ),
            (
                "billions of variables",
                |dir| {
                    let mut bytes = ctranslate2_file(&ctranslate2_variables());
                    bytes[22..26].fill(0xff);
                    write(dir, "model.bin", bytes);
                },
                "model.bin",
            ),
            (
                "a cut file",
                |dir| {
                    let bytes = ctranslate2_file(&ctranslate2_variables());
                    write(dir, "model.bin", &bytes[..bytes.len() / 2]);
                },
                "ends in the middle",
            ),
            (
                "another version",
                |dir| write(dir, "model.bin", [7, 0, 0, 0]),
                "version",
            ),
            (
                "a translator",
                |dir| write(dir, "model.bin", b"\x06\0\0\0\x10\0TransformerSpec\0\x01\0\0\0\0\0\0\0"),
                "not a Whisper",
            ),
            (
                "a head of no size",
                |dir| write(dir, "ctc_head.safetensors", header("{}")),
                "ctc_head.bias",
            ),
        ],
    );
}

#[cfg(unix)]
#[test]
fn a_pipe_for_weights_is_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    copy_of("wav2vec2-base", folder.path());
    let weights = folder.path().join("model.safetensors");
    std::fs::remove_file(&weights).unwrap();
    assert!(
        std::process::Command::new("mkfifo")
            .arg(&weights)
            .status()
            .unwrap()
            .success()
    );
    let error = load(&CpuBackend::new(1).unwrap(), folder.path()).unwrap();
    assert!(error.contains("no regular file"), "{error}");
}

#[test]
fn the_command_says_what_is_wrong_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    pytorch("f16", folder.path());
    let inspect = |options: &[&str]| {
        cli_support::aurist()
            .args(["models", "inspect"])
            .args(options)
            .arg(folder.path())
            .assert()
    };
    inspect(&[]).success().stdout(contains("Wav2Vec2ForCTC"));
    pickle(folder.path(), b"cos\nsystem\n(S'touch ran'\ntR.", b"");
    let ended = inspect(&[]).code(1).stdout("").stderr(contains("nothing was run"));
    assert_eq!(String::from_utf8_lossy(&ended.get_output().stderr).lines().count(), 1);
    inspect(&["--json"]).code(1).stdout(contains("\"error\"")).stderr("");
    let mut transcribe = cli_support::aurist();
    transcribe
        .args(["transcribe", "-m"])
        .arg(folder.path())
        .arg(cli_support::short_clip());
    transcribe.assert().code(1).stderr(contains("nothing was run"));
    assert!(!folder.path().join("ran").exists() && !Path::new("ran").exists());
}
