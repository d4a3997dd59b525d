//! Decoding: every format gives the recording, damage gives a warning or one clear error, nothing gives a panic.

use aurist::audio::{AudioError, AudioReader, Resampler, SAMPLE_RATE, read_all};
use proptest::prelude::*;
use std::io::Cursor;
use std::path::{Path, PathBuf};

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

const CLIP: &str = "librivox/sense_and_sensibility_01_austen_64kb-0880.wav";

/// Decodes bytes as if they came through a pipe.
fn decode(bytes: Vec<u8>) -> Result<(Vec<f32>, Vec<String>), AudioError> {
    let mut reader = AudioReader::from_stream(Box::new(Cursor::new(bytes)), None)?;
    let mut samples = Vec::new();
    while let Some(chunk) = reader.next_chunk()? {
        samples.extend(chunk);
    }
    Ok((samples, reader.warnings().to_vec()))
}

/// A wav by hand: format tag 1 is integers, 3 floating point.
fn wav(tag: u16, bits: u16, channels: u16, rate: u32, data: &[u8]) -> Vec<u8> {
    let block = channels * bits / 8;
    let mut bytes = b"RIFF".to_vec();
    bytes.extend((36 + data.len() as u32).to_le_bytes());
    bytes.extend(b"WAVEfmt ");
    bytes.extend(16u32.to_le_bytes());
    bytes.extend(tag.to_le_bytes());
    bytes.extend(channels.to_le_bytes());
    bytes.extend(rate.to_le_bytes());
    bytes.extend((rate.wrapping_mul(block as u32)).to_le_bytes());
    bytes.extend(block.to_le_bytes());
    bytes.extend(bits.to_le_bytes());
    bytes.extend(b"data");
    bytes.extend((data.len() as u32).to_le_bytes());
    bytes.extend(data);
    bytes
}

fn tone(seconds: f64, rate: u32, hertz: f64) -> Vec<f32> {
    let count = (seconds * rate as f64) as usize;
    (0..count)
        .map(|n| (0.5 * (std::f64::consts::TAU * hertz * n as f64 / rate as f64).sin()) as f32)
        .collect()
}

/// The largest value of the normalised cross-correlation within `reach` samples, and where.
fn correlation(a: &[f32], b: &[f32], reach: i64) -> (f64, i64) {
    let norm = |x: &[f32]| x.iter().map(|v| (*v as f64).powi(2)).sum::<f64>().sqrt();
    let at = |lag: i64| {
        let pairs = a.iter().enumerate().filter_map(|(n, a)| {
            let other = b.get(usize::try_from(n as i64 + lag).ok()?)?;
            Some(*a as f64 * *other as f64)
        });
        pairs.sum::<f64>() / (norm(a) * norm(b))
    };
    (-reach..=reach)
        .map(|lag| (at(lag), lag))
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .unwrap()
}

#[test]
fn sixteen_bit_sixteen_kilohertz_passes_bit_exact() {
    let expected: Vec<f32> = hound::WavReader::open(data(CLIP))
        .unwrap()
        .samples::<i16>()
        .map(|s| s.unwrap() as f32 / 32768.0)
        .collect();
    assert_eq!(read_all(&data(CLIP)).unwrap(), expected);
    // flac is lossless, and has another decoder.
    assert_eq!(read_all(&data("audio/clip.flac")).unwrap(), expected);
    // Through a pipe nothing changes.
    assert_eq!(decode(std::fs::read(data(CLIP)).unwrap()).unwrap().0, expected);
}

#[test]
fn every_format_gives_the_same_recording_at_the_same_time() {
    let original = read_all(&data(CLIP)).unwrap();
    for (name, least, slack) in [
        ("audio/clip.mp3", 0.98, 2),
        // AAC begins with a priming frame, 23 ms here, that the decoder does not take off; the lag is no whole number.
        ("audio/clip.m4a", 0.94, 400),
        ("audio/clip.ogg", 0.98, 2),
        // Half the bandwidth.
        ("audio/clip-mulaw.wav", 0.9, 2),
    ] {
        for piped in [false, true] {
            let samples = if piped {
                decode(std::fs::read(data(name)).unwrap()).unwrap().0
            } else {
                read_all(&data(name)).unwrap()
            };
            let (height, lag) = correlation(&original, &samples, 500);
            assert!(
                height > least && lag.abs() <= slack,
                "{name}: correlation {height:.3} at {lag} samples"
            );
            let difference = samples.len().abs_diff(original.len());
            assert!(
                difference <= 2200,
                "{name}: {} samples for {}",
                samples.len(),
                original.len()
            );
        }
    }
}

#[test]
fn every_sample_format_is_scaled_to_one() {
    let samples: Vec<f32> = tone(0.1, SAMPLE_RATE, 440.0);
    let integers = |bits: u32| -> Vec<i64> {
        samples
            .iter()
            .map(|s| (*s as f64 * (1i64 << (bits - 1)) as f64).round() as i64)
            .collect()
    };
    let eight: Vec<u8> = integers(8).iter().map(|s| (s + 128) as u8).collect();
    let sixteen: Vec<u8> = integers(16).iter().flat_map(|s| (*s as i16).to_le_bytes()).collect();
    let twenty_four: Vec<u8> = integers(24)
        .iter()
        .flat_map(|s| s.to_le_bytes()[..3].to_vec())
        .collect();
    let thirty_two: Vec<u8> = integers(32).iter().flat_map(|s| (*s as i32).to_le_bytes()).collect();
    let single: Vec<u8> = samples.iter().flat_map(|s| s.to_le_bytes()).collect();
    let double: Vec<u8> = samples.iter().flat_map(|s| (*s as f64).to_le_bytes()).collect();
    for (tag, bits, data, step) in [
        (1, 8, eight, 1.0 / 128.0),
        (1, 16, sixteen, 1.0 / 32768.0),
        (1, 24, twenty_four, 1e-6),
        (1, 32, thirty_two, 1e-7),
        (3, 32, single, 0.0),
        (3, 64, double, 0.0),
    ] {
        let (decoded, warnings) = decode(wav(tag, bits, 1, SAMPLE_RATE, &data)).unwrap();
        assert!(warnings.is_empty(), "{bits} bits: {warnings:?}");
        assert_eq!(decoded.len(), samples.len());
        let worst = decoded
            .iter()
            .zip(&samples)
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f32::max);
        assert!(worst <= step, "{bits} bits: off by {worst}");
    }
}

#[test]
fn any_number_of_channels_is_mixed_to_the_mean() {
    for channels in [1u16, 2, 3, 5, 6, 7, 8] {
        let frames = 400;
        let data: Vec<u8> = (0..frames)
            .flat_map(|_| {
                (0..channels)
                    .flat_map(|channel| (channel as f32 / 16.0).to_le_bytes())
                    .collect::<Vec<_>>()
            })
            .collect();
        let (samples, _) = decode(wav(3, 32, channels, SAMPLE_RATE, &data)).unwrap();
        let mean = (channels - 1) as f32 / 32.0;
        assert_eq!(samples.len(), frames);
        assert!(samples.iter().all(|s| (s - mean).abs() < 1e-6), "{channels} channels");
    }
}

#[test]
fn resampling_keeps_length_amplitude_and_time_and_folds_nothing_back() {
    for rate in [8_000, 11_025, 22_050, 44_100, 48_000, 96_000, 192_000] {
        let convert = |input: &[f32], piece: usize| {
            let mut resampler = Resampler::new(rate).unwrap();
            let mut out: Vec<f32> = input
                .chunks(piece)
                .flat_map(|part| resampler.push(part).unwrap())
                .collect();
            out.extend(resampler.finish().unwrap());
            out
        };
        let low = convert(&tone(1.0, rate, 1000.0), 777);
        let expected = tone(1.0, SAMPLE_RATE, 1000.0);
        assert!(
            low.len().abs_diff(expected.len()) <= 1,
            "{rate} Hz: {} samples",
            low.len()
        );
        // Away from the abrupt ends every sample is the sampled sine: amplitude and time at once.
        let worst = low[2000..14_000]
            .iter()
            .zip(&expected[2000..14_000])
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f32::max);
        assert!(worst < 0.0025, "{rate} Hz: a 1 kHz tone is off by {worst}");
        if rate >= 44_100 {
            let high = convert(&tone(1.0, rate, 10_000.0), 4096);
            let rest = high[2000..14_000].iter().map(|s| s.abs()).fold(0.0, f32::max);
            assert!(rest < 0.5e-3, "{rate} Hz: 10 kHz leaves {rest}");
        }
        for count in [0, 1, 100, 5000] {
            let input = tone(1.0, rate, 300.0);
            let wanted = (count as f64 * SAMPLE_RATE as f64 / rate as f64).round() as usize;
            assert_eq!(
                convert(&input[..count], 4096).len(),
                wanted,
                "{count} samples at {rate} Hz"
            );
        }
    }
}

#[test]
fn what_is_broken_is_said_in_one_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let nan: Vec<u8> = [0.1f32, f32::NAN].iter().flat_map(|s| s.to_le_bytes()).collect();
    let m4a = std::fs::read(data("audio/clip.m4a")).unwrap();
    for (path, words) in [
        (write("empty.wav", b""), "empty"),
        (
            write("text.wav", b"this is a letter and not a recording, however it is named"),
            "not a recording",
        ),
        (write("none.wav", &wav(1, 16, 1, SAMPLE_RATE, b"")), "no samples"),
        (
            write("nan.wav", &wav(3, 32, 1, SAMPLE_RATE, &nan)),
            "not a finite number",
        ),
        (write("slow.wav", &wav(1, 16, 1, 1, &[0; 64])), "not credible"),
        (
            write("fast.wav", &wav(1, 16, 1, 4_000_000_000, &[0; 64])),
            "not credible",
        ),
        (write("half.m4a", &m4a[..m4a.len() / 2]), "damaged or incomplete"),
        (data("audio/clip.opus"), "not decoded here"),
        (dir.path().join("missing.wav"), "could not be read"),
        (dir.path().to_path_buf(), "could not be read"),
    ] {
        let error = read_all(&path).expect_err(&path.display().to_string()).to_string();
        assert!(error.contains(words), "{}: {error}", path.display());
        assert!(!error.contains("{ ") && !error.contains("Some("), "{error}");
    }
}

#[test]
fn a_file_cut_off_gives_what_there_is_and_a_warning() {
    for name in [CLIP, "audio/clip.mp3", "audio/clip.flac", "audio/clip.ogg"] {
        let bytes = std::fs::read(data(name)).unwrap();
        let whole = decode(bytes.clone()).unwrap().0.len();
        let (samples, warnings) = decode(bytes[..bytes.len() * 6 / 10].to_vec()).unwrap();
        assert!(
            (whole / 5..whole * 9 / 10).contains(&samples.len()),
            "{name}: {} of {whole}",
            samples.len()
        );
        assert!(
            warnings.iter().any(|w| w.contains("ends early")),
            "{name}: {warnings:?}"
        );
    }
}

#[test]
fn a_streamed_wav_that_claims_the_greatest_length_is_whole() {
    let mut bytes = std::fs::read(data(CLIP)).unwrap();
    let whole = decode(bytes.clone()).unwrap().0.len();
    let at = bytes.windows(4).position(|w| w == b"data").unwrap() + 4;
    for claim in [u32::MAX, 0x7fff_f000] {
        bytes[4..8].copy_from_slice(&claim.saturating_add(36).to_le_bytes());
        bytes[at..at + 4].copy_from_slice(&claim.to_le_bytes());
        let (samples, warnings) = decode(bytes.clone()).unwrap();
        assert_eq!((samples.len(), warnings), (whole, vec![]), "{claim:#x}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Damage of any kind ends in samples or in an error, never in a panic or a flood of samples.
    #[test]
    fn damaged_files_never_panic(
        which in 0usize..5,
        keep in 1usize..20_000,
        places in proptest::collection::vec((0usize..20_000, any::<u8>()), 0..40),
    ) {
        let name = ["audio/clip.mp3", "audio/clip.m4a", "audio/clip.ogg", "audio/clip.flac", CLIP][which];
        let mut bytes = std::fs::read(data(name)).unwrap();
        for (place, value) in places {
            let len = bytes.len();
            bytes[place % len] = value;
        }
        bytes.truncate(keep.max(64));
        if let Ok((samples, _)) = decode(bytes) {
            prop_assert!(samples.len() < 200 * SAMPLE_RATE as usize);
            prop_assert!(samples.iter().all(|s| s.is_finite()));
        }
    }

    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2000), riff in any::<bool>()) {
        let bytes = if riff { wav(1, 16, 1, 16_000, b"").into_iter().take(20).chain(bytes).collect() } else { bytes };
        let _ = decode(bytes);
    }

    #[test]
    fn absurd_headers_never_panic(
        tag in any::<u16>(), bits in any::<u16>(), channels in any::<u16>(), rate in any::<u32>(),
    ) {
        let bits = bits % 72;
        let block = (channels as u32 * bits as u32 / 8) as u16;
        let mut bytes = wav(tag, 16, 1, rate, &[7; 3000]);
        bytes[22..24].copy_from_slice(&channels.to_le_bytes());
        bytes[32..34].copy_from_slice(&block.to_le_bytes());
        bytes[34..36].copy_from_slice(&bits.to_le_bytes());
        let _ = decode(bytes);
    }
}
