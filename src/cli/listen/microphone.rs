//! The microphone: what the system's callback gives goes through a ring buffer, and a device that goes away is waited
//! for.

use super::source::{Heard, Source};
use crate::audio::Resampler;
use crate::cli::Failure;
use cpal::traits::{DeviceTrait, HostTrait, StreamTrait};
use cpal::{Device, ErrorKind, FromSample, SampleFormat, SizedSample, Stream, StreamConfig, SupportedStreamConfig};
use ringbuf::traits::{Consumer, Producer, Split};
use ringbuf::{HeapCons, HeapProd, HeapRb};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Seconds of sound that may wait to be fetched.
const RING: usize = 5;
/// How often it is fetched.
const FETCH: Duration = Duration::from_millis(20);
/// A device that gives nothing for so long is gone, whatever the system says.
const SILENT: Duration = Duration::from_secs(3);
/// How often a device that is gone is looked for.
const RETRY: Duration = Duration::from_secs(1);

/// The names of the microphones.
pub(super) fn names() -> Result<Vec<String>, Failure> {
    let devices = cpal::default_host().input_devices();
    let devices = devices.map_err(|error| Failure::failed(format_args!("cannot list the microphones: {error}")))?;
    Ok(devices.map(|device| device.to_string()).collect())
}

/// The device of that name, or whose name contains it, or the system's own choice.
fn find(name: Option<&str>) -> Result<Device, String> {
    let host = cpal::default_host();
    let Some(name) = name else {
        return host
            .default_input_device()
            .ok_or_else(|| "there is no microphone".into());
    };
    let devices: Vec<Device> = host.input_devices().map_err(|error| error.to_string())?.collect();
    let exact = devices.iter().position(|device| device.to_string() == name);
    let lower = name.to_lowercase();
    let found = exact.or(devices
        .iter()
        .position(|device| device.to_string().to_lowercase().contains(&lower)));
    let device = found.and_then(|index| devices.into_iter().nth(index));
    device.ok_or_else(|| format!("there is no microphone `{name}`; --list-devices shows those there are"))
}

/// What the callback shares.
#[derive(Default)]
struct Shared {
    /// Frames for which there was no room.
    lost: AtomicUsize,
    is_gone: AtomicBool,
}

/// An open device.
struct Open {
    /// Sound comes for as long as it lives.
    _stream: Stream,
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
    warnings: Vec<String>,
}

impl Microphone {
    pub(super) fn open(name: Option<&str>) -> Result<Self, Failure> {
        let open = Open::new(name).map_err(|reason| Failure::failed(format_args!("microphone: {reason}")))?;
        Ok(Self {
            name: name.map(String::from),
            open: Some(open),
            gone_since: Instant::now(),
            warnings: Vec::new(),
        })
    }
}

impl Source for Microphone {
    fn next(&mut self) -> Result<Heard, Failure> {
        let Some(open) = &mut self.open else {
            std::thread::sleep(RETRY);
            let Ok(open) = Open::new(self.name.as_deref()) else {
                return Ok(Heard::Nothing);
            };
            self.open = Some(open);
            self.warnings.push("the microphone is back".into());
            return Ok(Heard::Gap(self.gone_since.elapsed().as_secs_f64()));
        };
        std::thread::sleep(FETCH);
        let lost = open.shared.lost.swap(0, Ordering::Relaxed);
        if lost > 0 {
            let seconds = lost as f64 / f64::from(open.rate);
            self.warnings
                .push(format!("{seconds:.2} s of sound were lost: this machine is too busy"));
            return Ok(Heard::Gap(seconds));
        }
        let samples: Vec<f32> = open.sound.pop_iter().collect();
        if !samples.is_empty() {
            open.last = Instant::now();
            let resampled = open.resampler.push(&samples);
            return match resampled {
                Ok(samples) => Ok(Heard::Samples(samples)),
                Err(error) => Err(Failure::failed(format_args!("microphone: {error}"))),
            };
        }
        if open.shared.is_gone.load(Ordering::Relaxed) || open.last.elapsed() > SILENT {
            self.gone_since = open.last;
            self.open = None;
            self.warnings.push("the microphone is gone; waiting for it".into());
        }
        Ok(Heard::Nothing)
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
        let (ring, sound) = HeapRb::new(RING * rate as usize).split();
        let shared = Arc::new(Shared::default());
        let stream = stream(&device, &config, ring, &shared).map_err(|error| error.to_string())?;
        stream.play().map_err(|error| error.to_string())?;
        Ok(Self {
            _stream: stream,
            sound,
            shared,
            resampler,
            rate,
            last: Instant::now(),
        })
    }
}

fn stream(
    device: &Device,
    config: &SupportedStreamConfig,
    ring: HeapProd<f32>,
    shared: &Arc<Shared>,
) -> Result<Stream, cpal::Error> {
    let plain = config.config();
    match config.sample_format() {
        SampleFormat::I8 => stream_of::<i8>(device, plain, ring, shared),
        SampleFormat::U8 => stream_of::<u8>(device, plain, ring, shared),
        SampleFormat::I16 => stream_of::<i16>(device, plain, ring, shared),
        SampleFormat::U16 => stream_of::<u16>(device, plain, ring, shared),
        SampleFormat::I24 => stream_of::<cpal::I24>(device, plain, ring, shared),
        SampleFormat::I32 => stream_of::<i32>(device, plain, ring, shared),
        SampleFormat::U32 => stream_of::<u32>(device, plain, ring, shared),
        SampleFormat::F64 => stream_of::<f64>(device, plain, ring, shared),
        // What is none of these is refused by the device.
        _ => stream_of::<f32>(device, plain, ring, shared),
    }
}

fn stream_of<T: SizedSample>(
    device: &Device,
    config: StreamConfig,
    mut ring: HeapProd<f32>,
    shared: &Arc<Shared>,
) -> Result<Stream, cpal::Error>
where
    f32: FromSample<T>,
{
    let channels = usize::from(config.channels.max(1));
    let (of_sound, of_errors) = (Arc::clone(shared), Arc::clone(shared));
    // Real time: nothing here allocates, waits or writes.
    let sound = move |data: &[T], _: &cpal::InputCallbackInfo| {
        for frame in data.chunks_exact(channels) {
            let sum: f32 = frame.iter().map(|sample| f32::from_sample_(*sample)).sum();
            if ring.try_push(sum / channels as f32).is_err() {
                of_sound.lost.fetch_add(1, Ordering::Relaxed);
            }
        }
    };
    let errors = move |error: cpal::Error| {
        let harmless = matches!(
            error.kind(),
            ErrorKind::DeviceChanged | ErrorKind::Xrun | ErrorKind::RealtimeDenied
        );
        if !harmless {
            of_errors.is_gone.store(true, Ordering::Relaxed);
        }
    };
    device.build_input_stream(config, sound, errors, Some(Duration::from_secs(2)))
}
