//! The little language of conditions.
//!
//! ```text
//! condition = "clean" | effect { "+" effect }
//! effect    = NOISE "@" SNR | "gaussian@" SNR | "delta:" X | "reverb:" FILE | "telephone"
//!           | "gain:" DB | "clip:" LEVEL | "codec:" ("mu-law" | "a-law" | "8-bit" | "adpcm")
//! ```
//!
//! NOISE is a recording or a directory of them, SNR a signal-to-noise ratio in dB. Effects apply from left to right. A
//! plus that is part of a file's name is written `\+`.

use super::Codec;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// One thing that happens to the samples.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Noise from a recording (or one recording of a directory), at a signal-to-noise ratio in dB.
    Noise {
        /// The recording or the directory.
        path: PathBuf,
        /// In dB.
        snr: f64,
    },
    /// White Gaussian noise at a signal-to-noise ratio in dB.
    Gaussian {
        /// In dB.
        snr: f64,
    },
    /// `x + delta N(0, 1)` whatever the level of x, as in LS+δ (Lin, Li and Lee, Interspeech 2022).
    Delta {
        /// The noise's standard deviation; full scale is 1.
        delta: f64,
    },
    /// Convolution with a room's impulse response.
    Reverb {
        /// The impulse response.
        path: PathBuf,
    },
    /// 300 to 3400 Hz, at 8 kHz, through μ-law.
    Telephone,
    /// A gain in dB; what goes beyond full scale is clipped.
    Gain {
        /// In dB.
        db: f64,
    },
    /// Clipping at a fraction of the utterance's peak.
    Clip {
        /// In (0, 1].
        level: f64,
    },
    /// A codec, and back.
    Codec(Codec),
}

/// A condition: the effects in their order; none for clean speech.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Condition {
    /// From first to last.
    pub effects: Vec<Effect>,
}

/// What is wrong with a condition's text.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("`{text}`: {reason}")]
pub struct ConditionError {
    /// The part that is wrong.
    pub text: String,
    /// What is wrong with it.
    pub reason: String,
}

const FORMS: &str = "an effect is FILE@SNR, DIR@SNR, gaussian@SNR, delta:X, reverb:FILE, telephone, gain:DB, \
                     clip:LEVEL or codec:NAME, joined with +; or the whole is `clean`";

impl Condition {
    /// Clean speech.
    pub fn clean() -> Self {
        Self::default()
    }

    /// Reads a condition whose relative paths start at `base`.
    pub fn parse(text: &str, base: &Path) -> Result<Self, ConditionError> {
        if text.trim() == "clean" {
            return Ok(Self::clean());
        }
        let effects = split(text)
            .iter()
            .map(|part| effect(part, base))
            .collect::<Result<_, _>>()?;
        Ok(Self { effects })
    }

    /// A name for tables: the text with each file's stem in place of its path.
    pub fn label(&self) -> String {
        self.describe(|path| {
            path.file_stem()
                .unwrap_or(path.as_os_str())
                .to_string_lossy()
                .into_owned()
        })
    }

    /// Where a condition lies on a chart of error against SNR: what it is but for the ratio, and the ratio of its first
    /// noise in dB. `None` where it has no ratio.
    pub fn ratio(&self) -> Option<(String, f64)> {
        let mut found = None;
        let mut rest = self.clone();
        for effect in &mut rest.effects {
            if let (Effect::Noise { snr, .. } | Effect::Gaussian { snr }, None) = (&mut *effect, found) {
                found = Some(std::mem::take(snr));
            }
        }
        found.map(|snr| (rest.label().replacen("@0", "", 1), snr))
    }

    fn describe(&self, name: impl Fn(&Path) -> String) -> String {
        if self.effects.is_empty() {
            return "clean".to_string();
        }
        let parts: Vec<String> = self.effects.iter().map(|effect| effect.describe(&name)).collect();
        parts.join("+")
    }
}

impl Effect {
    fn describe(&self, name: impl Fn(&Path) -> String) -> String {
        match self {
            Self::Noise { path, snr } => format!("{}@{snr}", name(path)),
            Self::Gaussian { snr } => format!("gaussian@{snr}"),
            Self::Delta { delta } => format!("delta:{delta}"),
            Self::Reverb { path } => format!("reverb:{}", name(path)),
            Self::Telephone => "telephone".to_string(),
            Self::Gain { db } => format!("gain:{db}"),
            Self::Clip { level } => format!("clip:{level}"),
            Self::Codec(codec) => format!("codec:{codec}"),
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.describe(|path| path.to_string_lossy().replace('+', "\\+")))
    }
}

impl FromStr for Condition {
    type Err = ConditionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text, Path::new(""))
    }
}

/// Splits at every plus without a backslash before it, and takes those backslashes out.
fn split(text: &str) -> Vec<String> {
    let (mut parts, mut part) = (Vec::new(), String::new());
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\\' if characters.peek() == Some(&'+') => part.extend(characters.next()),
            '+' => parts.push(std::mem::take(&mut part)),
            _ => part.push(character),
        }
    }
    parts.push(part);
    parts
}

fn effect(text: &str, base: &Path) -> Result<Effect, ConditionError> {
    let wrong = |reason: String| ConditionError {
        text: text.to_string(),
        reason,
    };
    let number = |value: &str, what: &str| match value.trim().parse::<f64>() {
        Ok(number) if number.is_finite() => Ok(number),
        _ => Err(wrong(format!(
            "`{value}` is no {what}; give a number such as 5 or -2.5"
        ))),
    };
    let typed = text.trim();
    if typed == "telephone" {
        return Ok(Effect::Telephone);
    }
    if typed == "clean" {
        return Err(wrong(
            "clean speech stands alone: leave it out of a list of effects".to_string(),
        ));
    }
    if let Some(delta) = typed.strip_prefix("delta:") {
        return match number(delta, "standard deviation")? {
            delta if delta > 0.0 => Ok(Effect::Delta { delta }),
            _ => Err(wrong(
                "the noise's standard deviation must be greater than 0".to_string(),
            )),
        };
    }
    if let Some(path) = typed.strip_prefix("reverb:") {
        return match path {
            "" => Err(wrong("name the impulse response: reverb:FILE".to_string())),
            path => Ok(Effect::Reverb { path: base.join(path) }),
        };
    }
    if let Some(db) = typed.strip_prefix("gain:") {
        return Ok(Effect::Gain {
            db: number(db, "gain in dB")?,
        });
    }
    if let Some(level) = typed.strip_prefix("clip:") {
        return match number(level, "level")? {
            level if level > 0.0 && level <= 1.0 => Ok(Effect::Clip { level }),
            _ => Err(wrong(
                "the level is a fraction of the peak, above 0 and at most 1".to_string(),
            )),
        };
    }
    if let Some(codec) = typed.strip_prefix("codec:") {
        return codec.parse().map(Effect::Codec).map_err(wrong);
    }
    match typed.rsplit_once('@') {
        Some(("", _)) | None => Err(wrong(format!("unknown condition; {FORMS}"))),
        Some((noise, snr)) => {
            let snr = number(snr, "signal-to-noise ratio in dB")?;
            if !(-60.0..=100.0).contains(&snr) {
                return Err(wrong(
                    "the signal-to-noise ratio must lie between -60 and 100 dB".to_string(),
                ));
            }
            Ok(match noise {
                "gaussian" => Effect::Gaussian { snr },
                path => Effect::Noise {
                    path: base.join(path),
                    snr,
                },
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<Condition, ConditionError> {
        text.parse()
    }

    #[test]
    fn conditions_compose_and_read_back() {
        let text = "reverb:rooms/hall.wav+noise/babble.flac@5+delta:0.02+telephone+gain:-6+clip:0.5+codec:mu-law";
        let condition = parse(text).expect("a condition");
        assert_eq!(condition.effects.len(), 7);
        assert_eq!(condition.to_string(), text);
        assert_eq!(
            condition.label(),
            "reverb:hall+babble@5+delta:0.02+telephone+gain:-6+clip:0.5+codec:mu-law"
        );
        assert_eq!(parse("clean"), Ok(Condition::clean()));
        assert_eq!(Condition::clean().label(), "clean");
    }

    #[test]
    fn a_plus_or_an_at_in_a_name_is_no_obstacle() {
        let condition = parse("a\\+b@home.wav@-2.5+gaussian@10").expect("a condition");
        let path = PathBuf::from("a+b@home.wav");
        assert_eq!(
            condition.effects,
            [Effect::Noise { path, snr: -2.5 }, Effect::Gaussian { snr: 10.0 }]
        );
        assert_eq!(parse(&condition.to_string()), Ok(condition));
    }

    #[test]
    fn the_ratio_and_what_it_is_of() {
        let ratio = |text| parse(text).expect("a condition").ratio();
        assert_eq!(ratio("x/babble.flac@5"), Some(("babble".to_string(), 5.0)));
        assert_eq!(
            ratio("telephone+gaussian@-5"),
            Some(("telephone+gaussian".to_string(), -5.0))
        );
        assert_eq!(ratio("delta:0.1"), None);
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, expected) in [
            ("babble.flac", "unknown condition"),
            ("babble.flac@loud", "no signal-to-noise ratio"),
            ("babble.flac@nan", "no signal-to-noise ratio"),
            ("babble.flac@900", "between -60 and 100"),
            ("@5", "unknown condition"),
            ("delta:0", "greater than 0"),
            ("delta:-1", "greater than 0"),
            ("clip:2", "at most 1"),
            ("codec:opus", "mu-law, a-law, 8-bit, adpcm"),
            ("reverb:", "name the impulse response"),
            ("clean+gaussian@5", "stands alone"),
            ("", "unknown condition"),
        ] {
            let error = parse(text).expect_err(text).to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_typedis_a_condition_that_reads_back_or_an_error(text in ".{0,40}") {
            if let Ok(condition) = parse(&text) {
                prop_assert_eq!(parse(&condition.to_string()), Ok(condition));
            }
        }
    }
}
