//! The microphone: what the system's callback gives goes through a ring buffer, and a device that goes away is waited
//! for.

use super::source::{Heard, Source};
use crate::audio::Resampler;
use crate::cli::Failure;
use cpal::traits::{DeviceTrait, HostTrait, StreamTrait};
use cpal::{
    BufferSize, Device, ErrorKind, FromSample, SampleFormat, SizedSample, Stream, StreamConfig, SupportedBufferSize,
    SupportedStreamConfig,
};
use ringbuf::traits::{Consumer, Producer, Split};
use ringbuf::{HeapCons, HeapProd, HeapRb};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Seconds of sound that may wait to be fetched.
const RING: usize = 5;
/// How often it is fetched.
const FETCH: Duration = Duration::from_millis(20);
/// The device hands on so many periods a second, and holds two: what ALSA would choose, the least it can, is lost whenever
/// all cores are busy.
const PERIODS_PER_SECOND: u32 = 20;
/// A device that gives nothing for so long is gone, whatever the system says.
const SILENT: Duration = Duration::from_secs(3);
/// How often a device that is gone is looked for.
const RETRY: Duration = Duration::from_secs(1);

/// The microphones: the system's identifier of each, and its name, of which several may be the same.
pub(super) fn list() -> Result<Vec<(String, String)>, Failure> {
    let devices = cpal::default_host().input_devices();
    let devices = devices.map_err(|error| Failure::failed(format_args!("cannot list the microphones: {error}")))?;
    Ok(devices
        .map(|device| (identifier(&device), device.to_string()))
        .collect())
}

fn identifier(device: &Device) -> String {
    device.id().map_or_else(|_| String::new(), |id| id.id().to_string())
}

/// The device of that identifier or name, or whose name contains it, or the system's own choice.
fn find(name: Option<&str>) -> Result<Device, String> {
    let host = cpal::default_host();
    let Some(name) = name else {
        return host
            .default_input_device()
            .ok_or_else(|| "there is no microphone".into());
    };
    let mut devices: Vec<Device> = host.input_devices().map_err(|error| error.to_string())?.collect();
    let lower = name.to_lowercase();
    let found = (devices.iter().position(|device| identifier(device) == name))
        .or_else(|| devices.iter().position(|device| device.to_string() == name))
        .or_else(|| {
            devices
                .iter()
                .position(|device| device.to_string().to_lowercase().contains(&lower))
        });
    let found =
        found.ok_or_else(|| format!("there is no microphone `{name}`; --list-devices shows those there are"))?;
    Ok(devices.swap_remove(found))
}

/// What the callbacks share with who fetches.
#[derive(Default)]
struct Shared {
    /// Frames that are not in the ring, after those that are. While there are any, nothing more goes in.
    lost: AtomicUsize,
    /// The device itself has lost sound, nobody knows how much.
    overrun: AtomicBool,
    is_gone: AtomicBool,
}

/// The callback's end of the ring. Real time: nothing here allocates, waits or writes.
struct Ring {
    sound: HeapProd<f32>,
    shared: Arc<Shared>,
    rate: u32,
    /// Frames that the device gave or lost, since when.
    frames: usize,
    begun: Option<Instant>,
}

impl Ring {
    fn push(&mut self, samples: impl ExactSizeIterator<Item = f32>, now: Instant) {
        let count = samples.len();
        let length = Duration::from_secs_f64(count as f64 / f64::from(self.rate));
        let begun = *self.begun.get_or_insert(now.checked_sub(length).unwrap_or(now));
        self.frames += count;
        if self.shared.overrun.swap(false, Ordering::Relaxed) {
            let due = (now - begun).as_secs_f64() * f64::from(self.rate);
            let missing = (due as usize).saturating_sub(self.frames);
            self.frames += missing;
            self.shared.lost.fetch_add(missing, Ordering::Release);
        }
        let taken = if self.shared.lost.load(Ordering::Acquire) == 0 {
            self.sound.push_iter(samples)
        } else {
            0
        };
        self.shared.lost.fetch_add(count - taken, Ordering::Release);
    }
}

/// What there is, and how many frames were lost behind it.
fn fetch(sound: &mut HeapCons<f32>, shared: &Shared) -> (Vec<f32>, usize) {
    // Nothing is added to the ring after a loss until that is taken note of: what is there comes before it.
    let is_lost = shared.lost.load(Ordering::Acquire) > 0;
    let samples = sound.pop_iter().collect();
    let lost = if is_lost {
        shared.lost.swap(0, Ordering::AcqRel)
    } else {
        0
    };
    (samples, lost)
}

/// An open device.
struct Open {
    /// Sound comes for as long as it lives.
    stream: Stream,
    sound: HeapCons<f32>,
    shared: Arc<Shared>,
    resampler: Resampler,
    rate: u32,
    last: Instant,
}

/// A microphone, there or waited for.
pub(super) struct Microphone {
    name: Option<String>,
    open: Option<Open>,
    gone_since: Instant,
    /// What was heard and not handed on yet.
    heard: VecDeque<Heard>,
    warnings: Vec<String>,
}

impl Microphone {
    pub(super) fn open(name: Option<&str>) -> Result<Self, Failure> {
        Ok(Self {
            name: name.map(String::from),
            open: Some(Open::new(name).map_err(failed)?),
            gone_since: Instant::now(),
            heard: VecDeque::new(),
            warnings: Vec::new(),
        })
    }

    /// What an open device has for us.
    fn listen(&mut self, mut open: Open) -> Result<(), String> {
        let (samples, lost) = fetch(&mut open.sound, &open.shared);
        if !samples.is_empty() {
            open.last = Instant::now();
            self.heard.push_back(Heard::Samples(open.resampled(&samples)?));
        }
        if lost > 0 {
            let seconds = lost as f64 / f64::from(open.rate);
            self.warnings
                .push(format!("{seconds:.2} s of sound were lost: this machine is too busy"));
            self.heard.push_back(Heard::Samples(open.rest()?));
            self.heard.push_back(Heard::Gap(seconds));
        }
        let is_over = open.shared.is_gone.load(Ordering::Relaxed) || open.last.elapsed() > SILENT;
        if is_over && samples.is_empty() && lost == 0 {
            self.gone_since = open.last;
            self.heard.push_back(Heard::Samples(open.rest()?));
            // What was said up to here is an utterance, however long the device stays away.
            self.heard.push_back(Heard::Gap(0.0));
            self.warnings.push("the microphone is gone; waiting for it".into());
            open.close();
        } else {
            self.open = Some(open);
        }
        Ok(())
    }
}

fn failed(reason: impl std::fmt::Display) -> Failure {
    Failure::failed(format_args!("microphone: {reason}"))
}

impl Source for Microphone {
    fn next(&mut self) -> Result<Heard, Failure> {
        if let Some(heard) = self.heard.pop_front() {
            return Ok(heard);
        }
        if let Some(open) = self.open.take() {
            std::thread::sleep(FETCH);
            self.listen(open).map_err(failed)?;
        } else {
            std::thread::sleep(RETRY);
            if let Ok(open) = Open::new(self.name.as_deref()) {
                self.open = Some(open);
                self.warnings.push("the microphone is back".into());
                self.heard
                    .push_back(Heard::Gap(self.gone_since.elapsed().as_secs_f64()));
            }
        }
        Ok(self.heard.pop_front().unwrap_or(Heard::Nothing))
    }

    fn warnings(&mut self) -> Vec<String> {
        std::mem::take(&mut self.warnings)
    }
}

impl Open {
    fn new(name: Option<&str>) -> Result<Self, String> {
        let device = find(name)?;
        let config = device.default_input_config().map_err(|error| error.to_string())?;
        let rate = config.sample_rate();
        let resampler = Resampler::new(rate).map_err(|error| error.to_string())?;
        let (producer, sound) = HeapRb::new(RING * rate as usize).split();
        let shared = Arc::new(Shared::default());
        let ring = Ring {
            sound: producer,
            shared: Arc::clone(&shared),
            rate,
            frames: 0,
            begun: None,
        };
        let stream = stream(&device, &config, ring).map_err(|error| error.to_string())?;
        stream.play().map_err(|error| error.to_string())?;
        Ok(Self {
            stream,
            sound,
            shared,
            resampler,
            rate,
            last: Instant::now(),
        })
    }

    /// Closes a device that is gone, on a thread of its own: that may wait for ever for a sound server that has died.
    fn close(self) {
        let _ = std::thread::Builder::new()
            .name("close".into())
            .spawn(|| drop(self.stream));
    }

    fn resampled(&mut self, samples: &[f32]) -> Result<Vec<f32>, String> {
        self.resampler.push(samples).map_err(|error| error.to_string())
    }

    /// What the resampler holds back, before a gap: after it, it begins anew.
    fn rest(&mut self) -> Result<Vec<f32>, String> {
        let rest = self.resampler.finish().map_err(|error| error.to_string())?;
        self.resampler = Resampler::new(self.rate).map_err(|error| error.to_string())?;
        Ok(rest)
    }
}

fn stream(device: &Device, config: &SupportedStreamConfig, ring: Ring) -> Result<Stream, cpal::Error> {
    let mut plain = config.config();
    if let SupportedBufferSize::Range { min, max } = *config.buffer_size() {
        plain.buffer_size = BufferSize::Fixed((plain.sample_rate / PERIODS_PER_SECOND).clamp(min, max.max(min)));
    }
    match config.sample_format() {
        SampleFormat::I8 => stream_of::<i8>(device, plain, ring),
        SampleFormat::U8 => stream_of::<u8>(device, plain, ring),
        SampleFormat::I16 => stream_of::<i16>(device, plain, ring),
        SampleFormat::U16 => stream_of::<u16>(device, plain, ring),
        SampleFormat::I24 => stream_of::<cpal::I24>(device, plain, ring),
        SampleFormat::U24 => stream_of::<cpal::U24>(device, plain, ring),
        SampleFormat::I32 => stream_of::<i32>(device, plain, ring),
        SampleFormat::U32 => stream_of::<u32>(device, plain, ring),
        SampleFormat::F64 => stream_of::<f64>(device, plain, ring),
        // What is none of these is refused by the device.
        _ => stream_of::<f32>(device, plain, ring),
    }
}

fn stream_of<T: SizedSample>(device: &Device, config: StreamConfig, mut ring: Ring) -> Result<Stream, cpal::Error>
where
    f32: FromSample<T>,
{
    let channels = usize::from(config.channels.max(1));
    let shared = Arc::clone(&ring.shared);
    let sound = move |data: &[T], _: &cpal::InputCallbackInfo| {
        let mean = |frame: &[T]| frame.iter().map(|sample| f32::from_sample_(*sample)).sum::<f32>() / channels as f32;
        ring.push(data.chunks_exact(channels).map(mean), Instant::now());
    };
    let errors = move |error: cpal::Error| match error.kind() {
        ErrorKind::DeviceChanged | ErrorKind::RealtimeDenied => {}
        ErrorKind::Xrun => shared.overrun.store(true, Ordering::Relaxed),
        _ => shared.is_gone.store(true, Ordering::Relaxed),
    };
    device.build_input_stream(config, sound, errors, Some(Duration::from_secs(2)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(room: usize) -> (Ring, HeapCons<f32>, Arc<Shared>) {
        let (producer, sound) = HeapRb::new(room).split();
        let shared = Arc::new(Shared::default());
        let ring = Ring {
            sound: producer,
            shared: Arc::clone(&shared),
            rate: 1000,
            frames: 0,
            begun: None,
        };
        (ring, sound, shared)
    }

    fn samples(from: usize, to: usize) -> impl ExactSizeIterator<Item = f32> {
        (from..to).map(|n| n as f32)
    }

    /// What there was no room for comes after what was in the ring (it was told of before it, and the captions' clock went
    /// on five seconds too early).
    #[test]
    fn a_loss_comes_after_what_was_heard_before_it() {
        let (mut ring, mut sound, shared) = ring(10);
        let now = Instant::now();
        ring.push(samples(0, 8), now);
        ring.push(samples(8, 16), now);
        ring.push(samples(16, 24), now);
        let (heard, lost) = fetch(&mut sound, &shared);
        assert_eq!((heard, lost), (samples(0, 10).collect(), 14));
        ring.push(samples(24, 28), now);
        assert_eq!(fetch(&mut sound, &shared), (samples(24, 28).collect(), 0));
    }

    #[test]
    fn what_the_device_has_lost_is_counted_by_the_clock() {
        let (mut ring, mut sound, shared) = ring(1000);
        let now = Instant::now();
        ring.push(samples(0, 100), now);
        shared.overrun.store(true, Ordering::Relaxed);
        // The first hundred began 0.1 s before `now`: 600 frames are due, 200 came.
        ring.push(samples(500, 600), now + Duration::from_millis(500));
        let (heard, lost) = fetch(&mut sound, &shared);
        assert_eq!((heard, lost), (samples(0, 100).collect(), 500));
        ring.push(samples(600, 700), now + Duration::from_millis(600));
        assert_eq!(fetch(&mut sound, &shared).1, 0);
    }
}
