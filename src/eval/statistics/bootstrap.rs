//! Bootstrap intervals for error rates, after Bisani and Ney, "Bootstrap estimates for confidence intervals in ASR
//! performance evaluation" (ICASSP 2004), with whole speakers resampled where there are enough of them.

use crate::eval::Counts;
use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};
use rayon::prelude::*;
use serde::Serialize;
use std::collections::BTreeMap;

/// Below this many speakers, resampling them gives intervals that are too narrow and too coarse.
const LEAST_SPEAKERS: usize = 10;

/// How a bootstrap is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Bootstrap {
    /// Resampled test sets.
    pub replicates: usize,
    /// The probability that an interval should hold the true rate, in (0, 1).
    pub level: f64,
    /// Each replicate has a random stream of its own, of this seed.
    pub seed: u64,
}

impl Default for Bootstrap {
    fn default() -> Self {
        Self {
            replicates: 10_000,
            level: 0.95,
            seed: 0,
        }
    }
}

/// An interval of an error rate or of a difference of two.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// What is resampled as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    /// Everything one speaker said, for a speaker's errors go together.
    Speaker,
    /// One utterance: the interval holds for these speakers only.
    Utterance,
}

impl Unit {
    /// In a sentence.
    pub fn name(self) -> &'static str {
        match self {
            Unit::Speaker => "speaker",
            Unit::Utterance => "utterance",
        }
    }
}

/// The units of a test set: which utterances are drawn together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Units {
    unit: Unit,
    members: Vec<Vec<usize>>,
}

impl Units {
    /// Every utterance by itself.
    pub fn utterances(count: usize) -> Self {
        Self {
            unit: Unit::Utterance,
            members: (0..count).map(|index| vec![index]).collect(),
        }
    }

    /// The utterances of each speaker together, in the order of the speakers' names. `None` where an utterance has no
    /// speaker.
    pub fn speakers<S: AsRef<str>>(speakers: &[Option<S>]) -> Option<Self> {
        let mut members: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (index, speaker) in speakers.iter().enumerate() {
            members.entry(speaker.as_ref()?.as_ref()).or_default().push(index);
        }
        Some(Self {
            unit: Unit::Speaker,
            members: members.into_values().collect(),
        })
    }

    /// Speakers where every utterance has one and there are at least 10, else utterances.
    pub fn choose<S: AsRef<str>>(speakers: &[Option<S>]) -> Self {
        Self::speakers(speakers)
            .filter(|units| units.len() >= LEAST_SPEAKERS)
            .unwrap_or_else(|| Self::utterances(speakers.len()))
    }

    /// What a unit is.
    pub fn unit(&self) -> Unit {
        self.unit
    }

    /// Number of units.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there is nothing to draw.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Each unit's sum.
    fn sums(&self, counts: &[Counts]) -> Vec<Counts> {
        let sum = |members: &Vec<usize>| members.iter().map(|index| counts[*index]).sum();
        self.members.iter().map(sum).collect()
    }
}

/// The percentile interval of the pooled error rate. `counts` are the utterances' that `units` was made for; `None`
/// where there are not two units to tell apart.
pub fn error_rate_interval(counts: &[Counts], units: &Units, settings: &Bootstrap) -> Option<Interval> {
    let sums = units.sums(counts);
    let mut rates = replicate(sums.len(), settings, |drawn| {
        drawn.map(|unit| sums[unit]).sum::<Counts>().error_rate()
    })?;
    Some(interval(&mut rates, settings.level))
}

/// Two systems on the same utterances.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct PairedBootstrap {
    /// The second system's pooled error rate less the first's: negative where the second is better.
    pub difference: f64,
    /// The difference's percentile interval.
    pub interval: Interval,
    /// The share of the replicates in which the second system's error rate is lower (Bisani and Ney).
    pub probability_of_improvement: f64,
    /// Two-sided: twice the smaller of the shares at or beyond zero on either side, the observed set counted in.
    pub p: f64,
}

/// Draws the same units for both systems. `None` where there are not two units.
pub fn paired_bootstrap(
    first: &[Counts],
    second: &[Counts],
    units: &Units,
    settings: &Bootstrap,
) -> Option<PairedBootstrap> {
    let (first, second) = (units.sums(first), units.sums(second));
    let difference = |(first, second): (Counts, Counts)| second.error_rate() - first.error_rate();
    let add = |(a, b): (Counts, Counts), unit: usize| (a + first[unit], b + second[unit]);
    let mut differences = replicate(first.len(), settings, |drawn| {
        difference(drawn.fold(Default::default(), add))
    })?;
    let count = |holds: fn(f64) -> bool| differences.iter().filter(|d| holds(**d)).count();
    let (better, not_better, not_worse) = (count(|d| d < 0.0), count(|d| d >= 0.0), count(|d| d <= 0.0));
    let beyond = |count: usize| (count + 1) as f64 / (differences.len() + 1) as f64;
    let p = (2.0 * beyond(not_better.min(not_worse))).min(1.0);
    let probability_of_improvement = better as f64 / differences.len() as f64;
    Some(PairedBootstrap {
        difference: difference((first.iter().copied().sum(), second.iter().copied().sum())),
        interval: interval(&mut differences, settings.level),
        probability_of_improvement,
        p,
    })
}

/// The statistic of every replicate, in the replicates' order.
fn replicate<F>(units: usize, settings: &Bootstrap, statistic: F) -> Option<Vec<f64>>
where
    F: Fn(&mut dyn Iterator<Item = usize>) -> f64 + Sync,
{
    if units < 2 || settings.replicates == 0 {
        return None;
    }
    let one = |replicate: usize| {
        let mut random = ChaCha8Rng::seed_from_u64(settings.seed);
        random.set_stream(replicate as u64);
        statistic(&mut (0..units).map(|_| random.random_range(0..units)))
    };
    Some((0..settings.replicates).into_par_iter().map(one).collect())
}

/// The percentiles around the middle, interpolated between neighbours.
fn interval(values: &mut [f64], level: f64) -> Interval {
    values.sort_by(f64::total_cmp);
    let percentile = |share: f64| {
        let position = share * (values.len() - 1) as f64;
        let (below, above) = (position.floor() as usize, position.ceil() as usize);
        values[below] + (values[above] - values[below]) * (position - below as f64)
    };
    let tail = (1.0 - level) / 2.0;
    Interval {
        low: percentile(tail),
        high: percentile(1.0 - tail),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(errors: usize, words: usize) -> Counts {
        Counts {
            hits: words - errors,
            substitutions: errors,
            ..Counts::default()
        }
    }

    #[test]
    fn the_same_on_one_thread_and_on_many() {
        let set: Vec<Counts> = (0..60).map(|index| counts(index % 7, 10)).collect();
        let settings = Bootstrap {
            replicates: 500,
            ..Bootstrap::default()
        };
        let one = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| error_rate_interval(&set, &Units::utterances(set.len()), &settings))
        };
        assert_eq!(one(1), one(4));
        let other = Bootstrap { seed: 1, ..settings };
        assert_ne!(one(1), error_rate_interval(&set, &Units::utterances(set.len()), &other));
    }

    #[test]
    fn speakers_that_differ_widen_the_interval() {
        // Ten speakers of ten utterances: five make every error there is.
        let set: Vec<Counts> = (0..100)
            .map(|index| counts(if index / 10 < 5 { 5 } else { 0 }, 10))
            .collect();
        let speakers: Vec<Option<String>> = (0..100).map(|index| Some(format!("s{}", index / 10))).collect();
        let width = |units: &Units| {
            let interval = error_rate_interval(&set, units, &Bootstrap::default()).unwrap();
            interval.high - interval.low
        };
        let by_speaker = Units::choose(&speakers);
        assert_eq!((by_speaker.unit(), by_speaker.len()), (Unit::Speaker, 10));
        assert!(width(&by_speaker) > 2.5 * width(&Units::utterances(100)));
    }

    #[test]
    fn few_or_unknown_speakers_are_not_resampled() {
        let few: Vec<Option<&str>> = (0..50).map(|index| Some(["a", "b", "c"][index % 3])).collect();
        assert_eq!(Units::choose(&few).unit(), Unit::Utterance);
        assert_eq!(Units::speakers(&few).unwrap().len(), 3);
        let mut unknown = few;
        unknown[7] = None;
        assert_eq!(Units::speakers(&unknown), None);
        assert_eq!(Units::choose(&unknown).len(), 50);
    }

    #[test]
    fn a_system_that_is_always_better() {
        let (bad, good): (Vec<_>, Vec<_>) = (0..40).map(|_| (counts(3, 10), counts(1, 10))).unzip();
        let units = Units::utterances(40);
        let compared = paired_bootstrap(&bad, &good, &units, &Bootstrap::default()).unwrap();
        assert!((compared.difference + 0.2).abs() < 1e-12);
        assert_eq!(compared.probability_of_improvement, 1.0);
        assert!(compared.p < 0.001);
        let same = paired_bootstrap(&bad, &bad, &units, &Bootstrap::default()).unwrap();
        assert_eq!(
            (same.difference, same.p, same.probability_of_improvement),
            (0.0, 1.0, 0.0)
        );
    }

    #[test]
    fn one_unit_has_no_interval() {
        assert_eq!(
            error_rate_interval(&[counts(1, 2)], &Units::utterances(1), &Bootstrap::default()),
            None
        );
    }
}
