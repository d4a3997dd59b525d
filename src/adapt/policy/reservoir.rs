//! A bounded sample of the utterances that a stream has heard, with their confident transcripts: rehearsing them keeps a
//! slow state from forgetting.

use super::{PolicyState, generator};

/// What sets these draws apart from others of the same seed.
const KEEPING: u64 = 1;
const REHEARSING: u64 = 2;

/// Every confident utterance heard so far is in it with the same probability (Vitter's algorithm R). Its draws depend on
/// the seed and on how many were offered alone, so that a resumed stream makes them again.
pub(super) struct Reservoir {
    capacity: usize,
    confidence: f64,
    seed: u64,
    offered: u64,
    kept: Vec<Remembered>,
}

/// An utterance and what was understood of it.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Remembered {
    pub(super) input: Vec<f32>,
    /// Without blanks.
    pub(super) labels: Vec<usize>,
}

impl Reservoir {
    /// At most `capacity` utterances, each at least so confident.
    pub(super) fn new(capacity: usize, confidence: f64, seed: u64) -> Self {
        Self {
            capacity,
            confidence,
            seed,
            offered: 0,
            kept: Vec::new(),
        }
    }

    pub(super) fn clear(&mut self) {
        self.offered = 0;
        self.kept.clear();
    }

    /// An utterance and the mean probability of its non-blank frames' best symbols. One that is not confident, or in
    /// which nothing was said, is passed over.
    pub(super) fn offer(&mut self, utterance: Remembered, confidence: f64) {
        let is_sure = confidence >= self.confidence;
        if utterance.labels.is_empty() || !is_sure || self.capacity == 0 {
            return;
        }
        self.offered += 1;
        if self.kept.len() < self.capacity {
            self.kept.push(utterance);
            return;
        }
        let mut draws = generator(self.seed, KEEPING, self.offered);
        let place = (draws.f64() * self.offered as f64) as usize;
        if let Some(kept) = self.kept.get_mut(place) {
            *kept = utterance;
        }
    }

    /// At most `count` of them, none twice; another `turn`, another choice.
    pub(super) fn draw(&self, count: usize, turn: u64) -> Vec<&Remembered> {
        let mut draws = generator(self.seed, REHEARSING, turn);
        let mut order: Vec<usize> = (0..self.kept.len()).collect();
        let count = count.min(order.len());
        for place in 0..count {
            let left = order.len() - place;
            order.swap(place, place + (draws.f64() * left as f64) as usize);
        }
        order[..count].iter().map(|&index| &self.kept[index]).collect()
    }

    pub(super) fn save(&self, state: &mut PolicyState) {
        state.set_count("reservoir.offered", self.offered);
        state.set_count("reservoir.kept", self.kept.len() as u64);
        for (n, kept) in self.kept.iter().enumerate() {
            state.tensors.insert(format!("reservoir.{n}"), kept.input.clone());
            let labels = kept.labels.iter().map(|&label| label as f64).collect();
            state.statistics.insert(format!("reservoir.{n}.labels"), labels);
        }
    }

    /// Goes on from what was saved; `None` when it lacks something, or a label is not one of `classes`.
    pub(super) fn load(&mut self, state: &PolicyState, classes: usize) -> Option<()> {
        let count = state.count("reservoir.kept")?;
        let kept = (0..count).map(|n| {
            let labels = state.statistics.get(&format!("reservoir.{n}.labels"))?;
            let labels: Vec<usize> = labels.iter().map(|&label| label as usize).collect();
            let input = state.tensors.get(&format!("reservoir.{n}"))?.clone();
            let known = labels.iter().all(|&label| label < classes);
            known.then_some(Remembered { input, labels })
        });
        self.kept = kept.collect::<Option<_>>()?;
        self.offered = state.count("reservoir.offered")?;
        (self.kept.len() <= self.capacity).then_some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn utterance(n: usize) -> Remembered {
        Remembered {
            input: vec![n as f32],
            labels: vec![1 + n % 7],
        }
    }

    fn filled(offered: usize, seed: u64) -> Reservoir {
        let mut reservoir = Reservoir::new(8, 0.5, seed);
        for n in 0..offered {
            reservoir.offer(utterance(n), 0.5);
        }
        reservoir
    }

    #[test]
    fn it_is_bounded_and_early_and_late_utterances_are_equally_likely() {
        let mut late = 0;
        for seed in 0..200 {
            let reservoir = filled(80, seed);
            assert_eq!(reservoir.kept.len(), 8);
            late += reservoir.kept.iter().filter(|kept| kept.input[0] >= 40.0).count();
        }
        // Binomial, 1600 draws of a half: 8 standard deviations are 160.
        assert!((640..=960).contains(&late), "{late} of 1600");
    }

    #[test]
    fn what_is_not_sure_or_says_nothing_is_passed_over() {
        let mut reservoir = Reservoir::new(8, 0.5, 0);
        reservoir.offer(utterance(0), 0.49);
        reservoir.offer(Remembered::default(), 1.0);
        reservoir.offer(utterance(0), f64::NAN);
        assert_eq!((reservoir.offered, reservoir.kept.len()), (0, 0));
        assert!(reservoir.draw(5, 0).is_empty());
    }

    #[test]
    fn a_draw_has_none_twice_and_is_the_same_again() {
        let reservoir = filled(30, 3);
        for turn in 0..20 {
            let drawn = reservoir.draw(5, turn);
            let mut inputs: Vec<f32> = drawn.iter().map(|kept| kept.input[0]).collect();
            assert_eq!(drawn, reservoir.draw(5, turn));
            inputs.sort_by(f32::total_cmp);
            inputs.dedup();
            assert_eq!(inputs.len(), 5);
        }
        assert_ne!(reservoir.draw(5, 0), reservoir.draw(5, 1));
        assert_eq!(reservoir.draw(50, 0).len(), 8);
    }

    #[test]
    fn a_saved_one_goes_on_and_a_spoiled_one_is_refused() {
        let (whole, mut first) = (filled(40, 5), filled(20, 5));
        let mut state = PolicyState::default();
        first.save(&mut state);
        first = Reservoir::new(8, 0.5, 5);
        first.load(&state, 32).expect("a state");
        (20..40).for_each(|n| first.offer(utterance(n), 0.5));
        assert_eq!(first.kept, whole.kept);
        assert_eq!(first.load(&state, 3), None, "labels of another vocabulary");
        state.tensors.remove("reservoir.2");
        assert_eq!(first.load(&state, 32), None);
    }
}
