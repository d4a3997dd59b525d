//! What can be wrong with a recording, in one clear sentence each; the caller adds the path.

/// Why a recording could not be read.
#[derive(Debug, thiserror::Error)]
pub enum AudioError {
    /// The system could not open or read it.
    #[error("it could not be read: {0}")]
    Io(#[from] std::io::Error),
    /// Nothing in it.
    #[error("the file is empty (0 bytes)")]
    EmptyFile,
    /// No format recognised.
    #[error(
        "it is not a recording in a format that is read here (wav, flac, mp3, m4a/aac, ogg/vorbis, aiff, caf, mkv); convert it, e.g. with `ffmpeg -i INPUT -ar 16000 -ac 1 OUTPUT.wav`"
    )]
    UnknownFormat,
    /// A known container without sound.
    #[error("the file holds no audio track")]
    NoAudioTrack,
    /// A codec that is not decoded.
    #[error(
        "its audio is coded in a way that is not decoded here (Opus and HE-AAC, for example, are not); convert it, e.g. with `ffmpeg -i INPUT -ar 16000 -ac 1 OUTPUT.wav`"
    )]
    UnsupportedCodec,
    /// A header that no recording has.
    #[error("its header is not credible: {0}")]
    Implausible(String),
    /// A format was recognised, but nothing could be decoded.
    #[error("nothing in it could be decoded; the file is damaged or incomplete")]
    NothingDecoded,
    /// A valid file with no samples.
    #[error("the recording has no samples")]
    NoSamples,
    /// NaN or infinity in a floating-point file.
    #[error(
        "the sample at {seconds:.3} s is not a finite number; the file is damaged, or was written by a faulty program"
    )]
    NotFinite {
        /// Where, in seconds.
        seconds: f64,
    },
    /// The resampler refused.
    #[error("its sample rate of {rate} Hz could not be converted to 16000 Hz: {reason}")]
    Resample {
        /// The recording's rate.
        rate: u32,
        /// The resampler's reason.
        reason: String,
    },
}
