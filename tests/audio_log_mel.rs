//! The log-mel front-end against PyTorch's, on the golden's two real clips.

use aurist::audio::{LogMel, read_all};
use safetensors::SafeTensors;
use std::path::Path;

#[test]
fn log_mel_follows_pytorch() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let bytes = std::fs::read(root.join("models/whisper-tiny.en-ctc/golden.safetensors")).unwrap();
    let golden = SafeTensors::deserialize(&bytes).unwrap();
    for clip in ["0870", "0890"] {
        let name = format!("tests/data/librivox/sense_and_sensibility_01_austen_64kb-{clip}.wav");
        let samples = read_all(&root.join(name)).unwrap();
        let log_mel = LogMel::new(80).compute(&samples);
        let tensor = golden.tensor(&format!("{clip}.log_mel")).unwrap();
        let (bands, frames) = (tensor.shape()[0], tensor.shape()[1]);
        assert_eq!((log_mel.len(), frames), (frames * bands, LogMel::frames(samples.len())));
        for (index, bytes) in tensor.data().chunks_exact(4).enumerate() {
            let expected = f32::from_le_bytes(bytes.try_into().unwrap());
            let (band, frame) = (index / frames, index % frames);
            let value = log_mel[frame * bands + band];
            assert!(
                (value - expected).abs() < 1e-4,
                "{clip}, band {band}, frame {frame}: {value} against {expected}"
            );
        }
    }
}
