//! What a device writes down of a descent that it decides by itself: `kernels/descent.cu` has the rules, and the layout.

use super::{AdamW, Backend, ObjectiveTerms, ObjectiveValue, PlacedLabel, Rows, Spans};
use std::ops::Range;

/// Words of the head, and of a turn's record.
const HEAD: usize = 8;
const RECORD: usize = 5;
/// f32 values a word: the ledger's are f64.
const WORD: usize = 2;

/// What the ledger can say of the present turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Says {
    /// Its logits are the best so far.
    Keep = 4,
    /// It spoiled the state: back to the last good one.
    Restore = 5,
    /// State and gradients are good ones.
    Sound = 6,
}

/// What became of a turn: the objective of a state, and a step from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The state was worse than the last good one, from which a shorter step was taken.
    TakesBack,
    /// A step was taken.
    GoesOn,
    /// All planned steps are done.
    LastStep,
    /// No frame but blank ones: no step.
    AllBlank,
    /// The objective is not finite; back to the last good state.
    Spoiled,
    /// A gradient is not finite: no step.
    BadGradient,
}

/// A descent as the device wrote it down.
#[derive(Debug, Clone, PartialEq)]
pub struct Ledger {
    /// The turns up to the last that counted.
    pub turns: Vec<(ObjectiveValue, Verdict)>,
}

impl Ledger {
    /// f32 values that a descent of so many steps takes.
    pub fn len(steps: usize) -> usize {
        WORD * (HEAD + RECORD * (steps + 1))
    }

    /// What stands in it at first, and no more: the head.
    pub fn head() -> Vec<f32> {
        let mut words = [0.0f64; HEAD];
        // The learning rate's factor.
        words[2] = 1.0;
        to_values(&words)
    }

    /// Reads it; `None` where it is not one, as after a device's failure.
    pub fn read(values: &[f32]) -> Option<Self> {
        let words: Vec<f64> = values.chunks_exact(WORD).map(from_values).collect();
        let mut turns = Vec::new();
        for record in words.get(HEAD..)?.chunks_exact(RECORD) {
            let value = ObjectiveValue {
                loss: record[0],
                entropy: record[1],
                class_confusion: record[2],
                non_blank_frames: record[3] as usize,
            };
            let verdict = match record[4] {
                1.0 => Verdict::TakesBack,
                2.0 => Verdict::GoesOn,
                3.0 => Verdict::LastStep,
                4.0 => Verdict::AllBlank,
                5.0 => Verdict::Spoiled,
                6.0 => Verdict::BadGradient,
                _ => return None,
            };
            turns.push((value, verdict));
            if !matches!(verdict, Verdict::TakesBack | Verdict::GoesOn) {
                break;
            }
        }
        Some(Self { turns })
    }
}

/// f64 words as the f32 values that hold their bits.
pub fn to_values(words: &[f64]) -> Vec<f32> {
    let halves = words.iter().map(|word| word.to_bits());
    halves
        .flat_map(|bits| [bits as u32, (bits >> 32) as u32])
        .map(f32::from_bits)
        .collect()
}

fn from_values(pair: &[f32]) -> f64 {
    let [low, high] = [pair[0], pair[1]].map(|half| u64::from(half.to_bits()));
    f64::from_bits(high << 32 | low)
}

/// What belongs to each of several descents that are decided at once.
#[derive(Debug, Clone, Copy)]
pub enum Pieces<View> {
    /// Equally many values for each of so many.
    Even(usize),
    /// The rows of utterances, of so many columns.
    Rows(Spans<View>, usize),
}

/// A device that can decide descents by itself, one or several at once, whose ledgers lie behind each other. Everything
/// only puts work in its queue, and may be recorded.
pub trait Judge<B: Backend> {
    /// Each span's objective with its gradient ([`Backend::entropy_mcc`]), and what to make of it, into the ledgers. A single
    /// utterance's may be the pseudo-label objective ([`Backend::pseudo_label`]), of which it then has loss and gradient.
    fn decide(
        &self,
        terms: &ObjectiveTerms,
        rows: (Rows, Option<Spans<B::View<'_>>>),
        label: Option<PlacedLabel<B::View<'_>>>,
        logits: B::View<'_>,
        dlogits: B::ViewMut<'_>,
        ledgers: B::ViewMut<'_>,
        rules: Rules,
    );
    /// Takes back that a step may be taken where a gradient of a descent's share is not finite.
    fn check_gradients(&self, gradients: B::View<'_>, ledgers: B::ViewMut<'_>, count: usize);
    /// `to = from` of those whose ledgers say so.
    fn copy_where(
        &self,
        says: Says,
        ledgers: B::View<'_>,
        pieces: Pieces<B::View<'_>>,
        from: B::View<'_>,
        to: B::ViewMut<'_>,
    );
    /// [`Backend::adamw`] of this range of each share where the ledgers say so, with the learning rate they have come to, at
    /// the step `first` (one f64 word, [`to_values`]) and those that stand, each counted `multiplicity` times, and `repeat`.
    fn adamw_where(
        &self,
        settings: &AdamW,
        ledgers: B::View<'_>,
        at: (B::View<'_>, u32, u32),
        shares: (usize, Range<usize>),
        values: B::ViewMut<'_>,
        gradients: B::View<'_>,
        moments: [B::ViewMut<'_>; 2],
    );
}

/// The rules of a descent.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// Steps.
    pub steps: usize,
    /// Whether a step that made it worse is taken back.
    pub safeguard: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ledger_is_read_up_to_its_end_and_not_read_where_it_is_none() {
        let record = |verdict: f64| [0.5, 0.25, 0.75, 3.0, verdict];
        let words = [&[0.0; HEAD][..], &record(2.0), &record(1.0), &record(4.0), &record(4.0)].concat();
        let ledger = Ledger::read(&to_values(&words)).unwrap();
        let verdicts: Vec<_> = ledger.turns.iter().map(|(_, verdict)| *verdict).collect();
        assert_eq!(verdicts, [Verdict::GoesOn, Verdict::TakesBack, Verdict::AllBlank]);
        assert_eq!((ledger.turns[0].0.loss, ledger.turns[0].0.non_blank_frames), (0.5, 3));
        assert_eq!(Ledger::read(&vec![f32::NAN; Ledger::len(2)]), None);
        assert_eq!(Ledger::read(&[]), None);
    }
}
