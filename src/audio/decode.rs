//! Any recording to a stream of 16 kHz mono samples.

use super::{AudioError, Resampler, SAMPLE_RATE};
use std::fs::File;
use std::io::{Cursor, ErrorKind, Read, Seek};
use std::path::Path;
use symphonia::core::codecs::audio::{AudioDecoder, AudioDecoderOptions};
use symphonia::core::errors::Error as SymphoniaError;
use symphonia::core::formats::probe::Hint;
use symphonia::core::formats::{FormatOptions, FormatReader, TrackType};
use symphonia::core::io::{MediaSource, MediaSourceStream, ReadOnlySource};
use symphonia::core::meta::MetadataOptions;

/// Rates that real recordings have, from telephone to ultrasound.
const RATES: std::ops::RangeInclusive<u32> = 1_000..=768_000;
/// More channels than any microphone array here is a damaged header.
const MOST_CHANNELS: usize = 256;

/// A recording being read: decoded, mixed down (the mean of the channels) and resampled as it goes, so that memory
/// does not depend on its length.
pub struct AudioReader {
    format: Box<dyn FormatReader>,
    decoder: Box<dyn AudioDecoder>,
    track: u32,
    resampler: Option<Resampler>,
    rate: u32,
    channels: usize,
    declared_frames: Option<u64>,
    /// A streamed wav says "as long as can be": no promise that could be broken.
    open_ended: bool,
    cut_off: bool,
    decoded_frames: u64,
    damaged_packets: u64,
    interleaved: Vec<f32>,
    ended: bool,
    warnings: Vec<String>,
    /// Samples that a chunk has at least, but for the last.
    piece: usize,
}

impl AudioReader {
    /// Opens a file.
    pub fn open(path: &Path) -> Result<Self, AudioError> {
        let mut file = File::open(path)?;
        let metadata = file.metadata()?;
        if metadata.is_dir() {
            return Err(std::io::Error::from(ErrorKind::IsADirectory).into());
        }
        let extension = path.extension().and_then(|extension| extension.to_str());
        if !metadata.is_file() {
            // A pipe or a device: seeking in it fails, or waits for ever.
            return Self::from_stream(Box::new(file), extension);
        }
        let head = head(&mut file)?;
        file.rewind()?;
        Self::from_media(Box::new(file), extension, &head)
    }

    /// Reads standard input, to its end.
    pub fn from_stdin() -> Result<Self, AudioError> {
        Self::from_stream(Box::new(std::io::stdin()), None)
    }

    /// Reads a stream that cannot seek. `extension` is a hint at the format.
    pub fn from_stream(mut source: Box<dyn Read + Send + Sync>, extension: Option<&str>) -> Result<Self, AudioError> {
        let head = head(&mut source)?;
        let mut whole = Cursor::new(head.clone()).chain(source);
        if is_mp4(&head) {
            // Its index usually stands at the end: nothing can be decoded before all of it is here.
            let mut spool = tempfile::tempfile()?;
            std::io::copy(&mut whole, &mut spool)?;
            spool.rewind()?;
            return Self::from_media(Box::new(spool), extension, &head);
        }
        Self::from_media(Box::new(ReadOnlySource::new(whole)), extension, &head)
    }

    fn from_media(source: Box<dyn MediaSource>, extension: Option<&str>, head: &[u8]) -> Result<Self, AudioError> {
        let stream = MediaSourceStream::new(source, Default::default());
        let mut hint = Hint::new();
        if let Some(extension) = extension {
            hint.with_extension(extension);
        }
        let format = symphonia::default::get_probe()
            .probe(&hint, stream, FormatOptions::default(), MetadataOptions::default())
            .map_err(|error| match error {
                SymphoniaError::IoError(error) if error.kind() != ErrorKind::UnexpectedEof => error.into(),
                _ if is_known(head) => AudioError::NothingDecoded,
                _ => AudioError::UnknownFormat,
            })?;
        let track = format.default_track(TrackType::Audio).ok_or(AudioError::NoAudioTrack)?;
        let parameters = track
            .codec_params
            .as_ref()
            .and_then(|parameters| parameters.audio())
            .ok_or(AudioError::NoAudioTrack)?;
        if let Some(rate) = parameters.sample_rate {
            check_rate(rate)?;
        }
        if let Some(channels) = &parameters.channels {
            check_channels(channels.count())?;
        }
        let decoder = symphonia::default::get_codecs()
            .make_audio_decoder(parameters, &AudioDecoderOptions::default())
            .map_err(|_| AudioError::UnsupportedCodec)?;
        let (id, declared_frames) = (track.id, track.num_frames);
        let rate = parameters.sample_rate.unwrap_or(0);
        let channels = parameters.channels.as_ref().map_or(0, |channels| channels.count());
        let frame_bytes = channels as u64 * u64::from(parameters.bits_per_sample.unwrap_or(16).div_ceil(8));
        let largest = |frames: u64| frames.saturating_mul(frame_bytes) >= i32::MAX as u64 - 65_536;
        let open_ended = head.starts_with(b"RIFF") && declared_frames.is_none_or(largest);
        Ok(Self {
            track: id,
            declared_frames: declared_frames.filter(|_| !open_ended),
            open_ended,
            cut_off: false,
            format,
            decoder,
            resampler: None,
            rate,
            channels,
            decoded_frames: 0,
            damaged_packets: 0,
            interleaved: Vec::new(),
            ended: false,
            warnings: Vec::new(),
            piece: SAMPLE_RATE as usize,
        })
    }

    /// Reads a recording that is in memory. `extension` is a hint at the format.
    pub fn from_bytes(bytes: Vec<u8>, extension: Option<&str>) -> Result<Self, AudioError> {
        let mut bytes = Cursor::new(bytes);
        let head = head(&mut bytes)?;
        bytes.rewind()?;
        Self::from_media(Box::new(bytes), extension, &head)
    }

    /// From now on hands out chunks of about so many samples instead of a second's: for what is heard while it is read.
    pub fn in_pieces_of(mut self, samples: usize) -> Self {
        self.piece = samples.max(1);
        self
    }

    /// Length in seconds, where the header tells.
    pub fn duration_hint(&self) -> Option<f64> {
        (self.rate > 0)
            .then(|| self.declared_frames.map(|frames| frames as f64 / self.rate as f64))
            .flatten()
    }

    /// The recording's own sample rate in Hz.
    pub fn source_rate(&self) -> u32 {
        self.rate
    }

    /// The recording's own number of channels.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// What was wrong with the recording but did not keep it from being read; complete after the last chunk.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// About a second of 16 kHz mono samples (or [`AudioReader::in_pieces_of`] so many); `None` at the end.
    pub fn next_chunk(&mut self) -> Result<Option<Vec<f32>>, AudioError> {
        let mut chunk = Vec::new();
        while !self.ended && chunk.len() < self.piece {
            match self.format.next_packet() {
                Ok(Some(packet)) if packet.track_id != self.track => {}
                Ok(Some(packet)) => match self.decoder.decode(&packet) {
                    Ok(decoded) => {
                        let spec = decoded.spec();
                        let (rate, channels) = (spec.rate(), spec.channels().count());
                        self.interleaved.resize(decoded.samples_interleaved(), 0.0);
                        decoded.copy_to_slice_interleaved(&mut self.interleaved);
                        self.accept(rate, channels, &mut chunk)?;
                    }
                    Err(SymphoniaError::DecodeError(_) | SymphoniaError::IoError(_)) => self.damaged_packets += 1,
                    Err(SymphoniaError::ResetRequired) => self.decoder.reset(),
                    Err(_) => return Err(AudioError::UnsupportedCodec),
                },
                Ok(None) => self.end(&mut chunk)?,
                Err(SymphoniaError::IoError(error)) if error.kind() != ErrorKind::UnexpectedEof => {
                    return Err(error.into());
                }
                // Cut off, or damaged beyond finding the next packet: what was decoded so far still counts.
                Err(_) => {
                    self.cut_off = !self.open_ended;
                    self.end(&mut chunk)?;
                }
            }
        }
        Ok(if chunk.is_empty() { None } else { Some(chunk) })
    }

    /// Mixes a decoded packet down, checks it, resamples it.
    fn accept(&mut self, rate: u32, channels: usize, out: &mut Vec<f32>) -> Result<(), AudioError> {
        if channels == 0 || self.interleaved.is_empty() {
            return Ok(());
        }
        check_channels(channels)?;
        if self.resampler.is_none() || rate != self.rate {
            check_rate(rate)?;
            if let Some(mut previous) = self.resampler.take() {
                out.extend(previous.finish()?);
            }
            self.resampler = Some(Resampler::new(rate)?);
            self.rate = rate;
        }
        self.channels = channels;
        let mono: Vec<f32> = if channels == 1 {
            self.interleaved.clone()
        } else {
            self.interleaved
                .chunks_exact(channels)
                .map(|frame| frame.iter().sum::<f32>() / channels as f32)
                .collect()
        };
        if let Some(position) = mono.iter().position(|sample| !sample.is_finite()) {
            let seconds = (self.decoded_frames + position as u64) as f64 / rate as f64;
            return Err(AudioError::NotFinite { seconds });
        }
        self.decoded_frames += mono.len() as u64;
        if let Some(resampler) = &mut self.resampler {
            out.extend(resampler.push(&mono)?);
        }
        Ok(())
    }

    fn end(&mut self, out: &mut Vec<f32>) -> Result<(), AudioError> {
        self.ended = true;
        if let Some(resampler) = &mut self.resampler {
            out.extend(resampler.finish()?);
        }
        if self.decoded_frames == 0 {
            let promised = self.declared_frames.is_some_and(|frames| frames > 0);
            return Err(if self.damaged_packets > 0 || self.cut_off || promised {
                AudioError::NothingDecoded
            } else {
                AudioError::NoSamples
            });
        }
        let seconds = |frames: u64| frames as f64 / self.rate as f64;
        // Headers of compressed formats round; a missing fiftieth is no more than that.
        let declared = self
            .declared_frames
            .filter(|&frames| self.decoded_frames < frames - frames / 50);
        if let Some(declared) = declared {
            self.warnings.push(format!(
                "the file ends early: {:.1} of {:.1} s could be decoded",
                seconds(self.decoded_frames),
                seconds(declared)
            ));
        } else if self.cut_off {
            self.warnings.push(format!(
                "the file ends early, after {:.1} s",
                seconds(self.decoded_frames)
            ));
        }
        if self.damaged_packets > 0 {
            let packets = if self.damaged_packets == 1 {
                "packet was"
            } else {
                "packets were"
            };
            self.warnings
                .push(format!("{} damaged {packets} left out", self.damaged_packets));
        }
        Ok(())
    }
}

/// The first bytes; an error when there is none.
fn head(source: &mut dyn Read) -> Result<Vec<u8>, AudioError> {
    let mut head = Vec::new();
    source.take(12).read_to_end(&mut head)?;
    if head.is_empty() {
        Err(AudioError::EmptyFile)
    } else {
        Ok(head)
    }
}

fn is_mp4(head: &[u8]) -> bool {
    head.get(4..8) == Some(b"ftyp")
}

/// Whether a file begins as a recording does: if it cannot be read all the same, it is damaged, not something else.
fn is_known(head: &[u8]) -> bool {
    let begins = [
        b"RIFF".as_slice(),
        b"RF64",
        b"fLaC",
        b"OggS",
        b"FORM",
        b"caff",
        &[0x1a, 0x45, 0xdf, 0xa3],
    ];
    is_mp4(head) || begins.iter().any(|magic| head.starts_with(magic))
}

fn check_rate(rate: u32) -> Result<(), AudioError> {
    if RATES.contains(&rate) {
        Ok(())
    } else {
        Err(AudioError::Implausible(format!("a sample rate of {rate} Hz")))
    }
}

fn check_channels(channels: usize) -> Result<(), AudioError> {
    if channels <= MOST_CHANNELS {
        Ok(())
    } else {
        Err(AudioError::Implausible(format!("{channels} channels")))
    }
}
