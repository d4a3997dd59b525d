//! When a slow state goes back to the source model: the clock, and the detector of domain shifts.

use super::PolicyState;
use crate::{Reset, ResetReason};

/// A compared buffer is bad when its mean is this many standard errors above the domain's.
const LIMIT: f64 = 2.0;
/// How much of the entropy's moving average stays at each slow update (SAR).
const INERTIA: f64 = 0.9;

/// Counts utterances and says what is due. Utterance n, counted from 1, is heard, then a full buffer is dealt with, then
/// the detector learns.
///
/// The detector of domain shifts (DSUTA's paper), with K the window and utterances counted from the last reset: the
/// slow state after K/2 is the domain's. Of each utterance from K/2 + 1 to K - 1 the improvement `L(domain's state) -
/// L(source)` is taken; at K these give a mean and a standard deviation. Then each full buffer's mean improvement is
/// compared, in standard errors, and as many bad ones in a row as the patience is are a shift.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Schedule {
    reset: Reset,
    heard: u64,
    /// Heard at the last reset.
    last: u64,
    /// For fixed resets: the next one's earliest time.
    due: u64,
    failures: u32,
    /// Mean and standard deviation of the domain's improvement.
    domain: Option<(f64, f64)>,
    gathered: Vec<f64>,
    /// Of the slow updates' entropy.
    average: Option<f64>,
}

impl Schedule {
    pub(super) fn new(reset: Reset) -> Self {
        let due = match reset {
            Reset::Fixed { every } => every,
            _ => 0,
        };
        Self {
            reset,
            heard: 0,
            last: 0,
            due,
            failures: 0,
            domain: None,
            gathered: Vec::new(),
            average: None,
        }
    }

    /// An utterance more; how many it are.
    pub(super) fn hear(&mut self) -> u64 {
        self.heard += 1;
        self.heard
    }

    pub(super) fn heard(&self) -> u64 {
        self.heard
    }

    /// Whether a full buffer's improvements are to be compared.
    pub(super) fn compares(&self) -> bool {
        self.domain.is_some()
    }

    /// A full buffer, with its utterances' improvements where they are compared: the deviation, and whether to reset.
    pub(super) fn full_buffer(&mut self, improvements: &[f64]) -> (Option<f64>, Option<ResetReason>) {
        match self.reset {
            Reset::Fixed { every } if self.heard >= self.due => {
                self.due += every;
                (None, Some(ResetReason::Fixed))
            }
            Reset::Dynamic { patience, .. } => {
                let deviation = self.domain.map(|(mean, spread)| {
                    let count = improvements.len() as f64;
                    (improvements.iter().sum::<f64>() / count - mean) / (spread / count.sqrt())
                });
                let bad = deviation.is_some_and(|deviation| deviation > LIMIT);
                self.failures = if bad { self.failures + 1 } else { 0 };
                (deviation, (self.failures >= patience).then_some(ResetReason::Dynamic))
            }
            _ => (None, None),
        }
    }

    /// A slow update's mean entropy: whether the model has collapsed, and the update is not to be taken.
    pub(super) fn has_collapsed(&mut self, entropy: f64) -> bool {
        let Reset::Collapse { below } = self.reset else {
            return false;
        };
        let average = self
            .average
            .map_or(entropy, |average| INERTIA * average + (1.0 - INERTIA) * entropy);
        self.average = Some(average);
        average < below
    }

    /// The state went back to the source model's.
    pub(super) fn reset(&mut self) {
        *self = Self {
            heard: self.heard,
            last: self.heard,
            due: self.due,
            ..Self::new(self.reset)
        };
    }

    /// Whether the slow state is now the domain's.
    pub(super) fn keeps_domain(&self) -> bool {
        self.window().is_some_and(|window| self.heard == self.last + window / 2)
    }

    /// Whether the improvement on the utterance just heard is wanted.
    pub(super) fn gathers(&self) -> bool {
        self.window()
            .is_some_and(|window| (self.last + window / 2 + 1..self.last + window).contains(&self.heard))
    }

    /// That improvement.
    pub(super) fn gather(&mut self, improvement: f64) {
        self.gathered.push(improvement);
    }

    /// The utterance is done with.
    pub(super) fn end(&mut self) {
        if self.window().is_some_and(|window| self.heard == self.last + window) {
            let values = std::mem::take(&mut self.gathered);
            let count = values.len() as f64;
            let mean = values.iter().sum::<f64>() / count;
            let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
            self.domain = (values.len() > 1).then(|| (mean, (squares / (count - 1.0)).sqrt()));
        }
    }

    fn window(&self) -> Option<u64> {
        match self.reset {
            Reset::Dynamic { window, .. } => Some(window),
            _ => None,
        }
    }

    pub(super) fn save(&self, state: &mut PolicyState) {
        state.set_count("heard", self.heard);
        state.set_count("last_reset", self.last);
        state.set_count("next_reset", self.due);
        state.set_count("failures", self.failures.into());
        let domain = self.domain.map_or(Vec::new(), |(mean, spread)| vec![mean, spread]);
        state.statistics.insert("domain".into(), domain);
        state.statistics.insert("gathered".into(), self.gathered.clone());
        state
            .statistics
            .insert("average".into(), self.average.into_iter().collect());
    }

    pub(super) fn load(&mut self, state: &PolicyState) -> Option<()> {
        let domain = state.statistics.get("domain")?;
        *self = Self {
            reset: self.reset,
            heard: state.count("heard")?,
            last: state.count("last_reset")?,
            due: state.count("next_reset")?,
            failures: u32::try_from(state.count("failures")?).ok()?,
            domain: domain.first().copied().zip(domain.get(1).copied()),
            gathered: state.statistics.get("gathered")?.clone(),
            average: state.statistics.get("average")?.first().copied(),
        };
        (self.last <= self.heard).then_some(())
    }
}
