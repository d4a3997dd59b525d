//! DSUTA's timeline, on a model of one value.

use super::*;
use crate::adapt::HostSnapshot;
use crate::adapt::moves::States;
use crate::engine::ObjectiveValue;

/// A model of one value, which each step raises by one. The source model's loss is 1 on every utterance; any other
/// state's is 1 + the utterance's first value. An utterance whose second value is 0 is all blank; one whose second
/// value is 2 has a gradient that is not finite.
#[derive(Default)]
struct Fake {
    value: f32,
    steps: u32,
    gradient: f64,
    looks: usize,
    /// The lengths of the transcripts rehearsed.
    rehearsed: Vec<usize>,
}

impl States for Fake {
    type Snapshot = (f32, u32);

    fn snapshot(&self) -> Result<(f32, u32), EngineError> {
        Ok((self.value, self.steps))
    }
    fn snapshot_into(&self, snapshot: &mut (f32, u32)) {
        *snapshot = (self.value, self.steps);
    }
    fn restore(&mut self, snapshot: &(f32, u32)) {
        (self.value, self.steps) = *snapshot;
    }
    fn restore_source(&mut self) {
        (self.value, self.steps) = (0.0, 0);
    }
    fn values(&self) -> Vec<f32> {
        vec![self.value]
    }
    fn set_values(&mut self, values: &[f32]) {
        self.value = values[0];
    }
    fn source_values(&self) -> Vec<f32> {
        vec![0.0]
    }
    fn zero_gradients(&mut self) {
        self.gradient = 0.0;
    }
    fn step(&mut self) -> bool {
        let finite = self.gradient.is_finite();
        if finite {
            assert!((self.gradient - 1.0).abs() < 1e-12, "the mean over the buffer");
            self.value += 1.0;
            self.steps += 1;
        }
        finite
    }
    fn is_finite(&self) -> bool {
        self.value.is_finite()
    }
    fn download(&self, snapshot: &(f32, u32)) -> HostSnapshot {
        HostSnapshot {
            values: vec![snapshot.0],
            first_moment: Vec::new(),
            second_moment: Vec::new(),
            step: snapshot.1,
        }
    }
    fn upload(&self, from: &HostSnapshot, to: &mut (f32, u32)) -> bool {
        *to = (from.values[0], from.step);
        true
    }
}

impl Moves for Fake {
    fn look(&mut self, input: &[f32]) -> Result<Option<ObjectiveValue>, EngineError> {
        self.looks += 1;
        let loss = if self.value == 0.0 {
            1.0
        } else {
            1.0 + f64::from(input[0])
        };
        Ok(Some(ObjectiveValue {
            loss,
            entropy: loss,
            class_confusion: loss,
            non_blank_frames: usize::from(input[1] != 0.0),
        }))
    }
    fn accumulate(&mut self, input: &[f32], weight: f64) -> Result<Option<ObjectiveValue>, EngineError> {
        self.gradient += if input[1] == 2.0 { f64::NAN } else { weight };
        self.look(input)
    }
    fn rehearse(&mut self, input: &[f32], labels: &[usize], weight: f64) -> Result<(), EngineError> {
        assert_eq!((input[0] as usize, labels), (labels.len(), &vec![1; labels.len()][..]));
        self.gradient += weight;
        self.rehearsed.push(labels.len());
        Ok(())
    }
    fn classes(&self) -> usize {
        32
    }
}

const NONE: [u64; 0] = [];

struct Stream {
    moves: Fake,
    dsuta: Dsuta<(f32, u32)>,
}

impl Stream {
    fn new(config: ContinualConfig) -> Self {
        let mut moves = Fake::default();
        let dsuta = Dsuta::new(&config, false, &mut moves).unwrap();
        Self { moves, dsuta }
    }

    /// With a reservoir of 10.
    fn rehearsing() -> Self {
        let config = ContinualConfig {
            reservoir: 10,
            ..ContinualConfig::default()
        };
        let mut moves = Fake::default();
        let dsuta = Dsuta::new(&config, true, &mut moves).unwrap();
        Self { moves, dsuta }
    }

    /// Hears an utterance of which `length` symbols were understood, with this confidence.
    fn understand(&mut self, length: usize, confidence: f64) -> Carried {
        let mut carried = Carried::default();
        let heard = Heard {
            input: vec![length as f32, 1.0],
            loss: 1.0,
            labels: vec![1; length],
            confidence,
        };
        self.dsuta.finish(&mut self.moves, Some(&heard), &mut carried).unwrap();
        carried
    }

    fn with(reset: Reset) -> Self {
        Self::new(ContinualConfig {
            reset,
            ..ContinualConfig::default()
        })
    }

    fn hear(&mut self, input: [f32; 2]) -> Carried {
        let mut carried = Carried::default();
        let heard = Heard {
            input: input.to_vec(),
            loss: 1.0,
            labels: Vec::new(),
            confidence: 0.0,
        };
        self.dsuta.finish(&mut self.moves, Some(&heard), &mut carried).unwrap();
        carried
    }

    /// Hears utterances `from..=to` of this improvement, give or take 0.1; at which the state was reset.
    fn hear_all(&mut self, from: u64, to: u64, improvement: f32) -> Vec<u64> {
        let mut resets = Vec::new();
        for n in from..=to {
            let sign = if n % 2 == 0 { 0.1 } else { -0.1 };
            if self.hear([improvement + sign, 1.0]).reset.is_some() {
                resets.push(n);
            }
        }
        resets
    }
}

#[test]
fn one_slow_step_every_full_buffer() {
    let mut stream = Stream::with(Reset::None);
    for n in 1..=23 {
        let carried = stream.hear([0.0, 1.0]);
        assert_eq!(carried.slow_loss.is_some(), n % 5 == 0, "{n}");
        assert_eq!(stream.dsuta.updates, n / 5);
        assert_eq!(stream.dsuta.slow, ((n / 5) as f32, (n / 5) as u32));
        assert_eq!(stream.dsuta.buffer.len() as u64, n % 5);
    }
}

#[test]
fn an_utterance_that_teaches_nothing_counts_and_is_not_buffered() {
    let mut stream = Stream::with(Reset::dynamic());
    for n in 1..=100u64 {
        // Every even one, 50 among them, is passed over.
        let (looks, mut carried) = (stream.moves.looks, Carried::default());
        match n % 2 {
            0 => stream.dsuta.finish(&mut stream.moves, None, &mut carried).unwrap(),
            _ => carried = stream.hear([-1.0, 1.0]),
        }
        let taught = n.div_ceil(2);
        let updates = taught % 5 == 0 && n % 2 == 1;
        assert_eq!(carried.slow_loss.is_some(), updates, "{n}");
        assert_eq!((stream.dsuta.schedule.heard(), stream.dsuta.updates), (n, taught / 5));
        assert_eq!(stream.dsuta.domain, (n >= 50).then_some((5.0, 5)), "{n}");
        let improvement = (51..=99).contains(&n) && n % 2 == 1;
        assert_eq!(
            stream.moves.looks - looks,
            5 * usize::from(updates) + usize::from(improvement)
        );
    }
    assert!(stream.dsuta.schedule.compares());
}

#[test]
fn the_domain_is_learned_from_51_to_99_and_compared_from_105_on() {
    let mut stream = Stream::with(Reset::dynamic());
    for n in 1..=100u64 {
        let looks = stream.moves.looks;
        let carried = stream.hear([if n % 2 == 0 { -0.9 } else { -1.1 }, 1.0]);
        assert_eq!((carried.reset, carried.deviation), (None, None), "{n}");
        // The slow state after its update at 50 is the domain's, and stays so.
        assert_eq!(stream.dsuta.domain, (n >= 50).then_some((10.0, 10)), "{n}");
        let improvements = usize::from((51..=99).contains(&n));
        let updates = if n % 5 == 0 { 5 } else { 0 };
        assert_eq!(stream.moves.looks - looks, improvements + updates, "{n}");
        assert_eq!(stream.dsuta.schedule.compares(), n == 100);
    }
    // 49 values, 25 of them -1.1: the standard deviation has n - 1 below.
    let (mean, spread): (f64, f64) = (-(24.0 * 0.9 + 25.0 * 1.1) / 49.0, {
        let p = 24.0 / 49.0;
        (0.04 * p * (1.0 - p) * 49.0 / 48.0f64).sqrt()
    });
    let mut last = Carried::default();
    for n in 101..=105u64 {
        last = stream.hear([if n % 2 == 0 { -0.9 } else { -1.1 }, 1.0]);
    }
    let expected = (-(2.0 * 0.9 + 3.0 * 1.1) / 5.0 - mean) / (spread / 5f64.sqrt());
    assert!((f64::from(last.deviation.unwrap()) - expected).abs() < 1e-5);
    assert_eq!(last.reset, None);
}

#[test]
fn a_shift_resets_at_110_at_the_earliest_and_the_next_at_220() {
    let mut stream = Stream::with(Reset::dynamic());
    assert_eq!(stream.hear_all(1, 100, -1.0), NONE);
    assert_eq!(stream.hear_all(101, 109, 0.0), NONE);
    assert_eq!(stream.dsuta.updates, 21, "the bad buffer at 105 was still learned from");
    assert_eq!(stream.hear_all(110, 110, 0.0), [110]);
    assert_eq!(
        (stream.dsuta.slow, stream.dsuta.updates),
        ((0.0, 0), 0),
        "no update at a reset"
    );
    assert_eq!((stream.dsuta.domain, stream.dsuta.buffer.len()), (None, 0));
    // 51 .. 99 after the reset, all else new.
    assert_eq!(stream.hear_all(111, 210, 0.0), NONE);
    assert_eq!(stream.hear_all(211, 300, 3.0), [220]);
}

#[test]
fn one_bad_buffer_and_a_better_loss_are_no_shift() {
    let mut stream = Stream::with(Reset::dynamic());
    stream.hear_all(1, 100, -1.0);
    for start in (101..200).step_by(10) {
        assert_eq!(stream.hear_all(start, start + 4, 0.0), NONE, "bad");
        assert_eq!(stream.hear_all(start + 5, start + 9, -1.0), NONE, "good again");
    }
    assert_eq!(stream.hear_all(201, 300, -9.0), NONE, "ever better");
}

#[test]
fn a_fixed_reset_waits_for_a_full_buffer() {
    let mut stream = Stream::with(Reset::Fixed { every: 50 });
    assert_eq!(stream.hear_all(1, 160, 0.0), [50, 100, 150]);
    let mut stream = Stream::with(Reset::Fixed { every: 12 });
    assert_eq!(stream.hear_all(1, 50, 0.0), [15, 25, 40, 50]);
}

#[test]
fn the_oracle_resets_when_told_to() {
    let mut stream = Stream::with(Reset::Oracle);
    stream.hear_all(1, 13, 0.0);
    assert_eq!((stream.dsuta.updates, stream.dsuta.buffer.len()), (2, 3));
    stream.dsuta.domain_changed(&mut stream.moves);
    assert_eq!((stream.dsuta.slow, stream.dsuta.buffer.len()), ((0.0, 0), 0));
    let mut deaf = Stream::with(Reset::None);
    deaf.hear_all(1, 13, 0.0);
    deaf.dsuta.domain_changed(&mut deaf.moves);
    assert_eq!((deaf.dsuta.updates, deaf.dsuta.buffer.len()), (2, 3));
}

#[test]
fn a_collapsed_entropy_resets_instead_of_stepping() {
    let mut stream = Stream::with(Reset::Collapse { below: 0.3 });
    // From the second update on the entropy is 0.05: 0.905, 0.82, ... until 0.9 of it is below 0.3.
    let mut average = 1.0f64;
    let mut updates = 1;
    while average >= 0.3 {
        average = 0.9 * average + 0.1 * 0.05;
        updates += 1;
    }
    assert_eq!(stream.hear_all(1, 5, 0.0), NONE);
    let mut reset = None;
    for n in 6..=200 {
        let carried = stream.hear([-0.95, 1.0]);
        if carried.reset.is_some() {
            reset = Some((n, carried.reset));
            break;
        }
    }
    assert_eq!(reset, Some((5 * updates, Some(ResetReason::Collapse))));
    assert_eq!(stream.dsuta.slow, (0.0, 0));
}

#[test]
fn silence_and_what_is_not_finite_move_nothing() {
    let mut stream = Stream::with(Reset::None);
    stream.hear_all(1, 5, 0.0);
    for _ in 0..50 {
        assert_eq!(stream.hear([0.0, 0.0]).slow_loss, None);
    }
    assert_eq!(stream.dsuta.slow, (1.0, 1));
    for _ in 0..5 {
        stream.hear([0.0, 2.0]);
    }
    assert_eq!((stream.dsuta.slow, stream.dsuta.updates), ((1.0, 1), 1));
    stream.hear_all(1, 5, 0.0);
    assert_eq!(stream.dsuta.slow, (2.0, 2));
}

#[test]
fn the_stochastic_restore_draws_values_not_moments_and_the_same_ones_again() {
    let restored = |probability: f64, seed: u64| {
        let mut stream = Stream::new(ContinualConfig {
            restore_probability: probability,
            seed,
            ..ContinualConfig::default()
        });
        let mut values = Vec::new();
        for _ in 0..40 {
            stream.hear_all(1, 5, 0.0);
            values.push(stream.dsuta.slow.0);
        }
        assert_eq!(stream.dsuta.slow.1, 40);
        values
    };
    assert_eq!(restored(1.0, 0), [0.0; 40]);
    let half = restored(0.5, 0);
    let back = half.iter().filter(|value| **value == 0.0).count();
    assert!((10..=30).contains(&back), "{back} of 40");
    assert_eq!(half, restored(0.5, 0));
    assert_ne!(half, restored(0.5, 1));
}

#[test]
fn a_saved_stream_goes_on_as_if_nothing_had_been_between() {
    for stop in [3, 50, 73, 100, 104, 107, 110] {
        let mut whole = Stream::with(Reset::dynamic());
        let mut first = Stream::with(Reset::dynamic());
        let improvement = |n: u64| if n <= 100 { -1.0 } else { 0.5 };
        let mut second = Stream::with(Reset::dynamic());
        for n in 1..=230 {
            let expected = whole.hear_all(n, n, improvement(n));
            if n <= stop {
                first.hear_all(n, n, improvement(n));
                if n == stop {
                    let mut state = PolicyState::default();
                    first.dsuta.save(&mut first.moves, &mut state);
                    second.dsuta.load(&mut second.moves, &state).unwrap();
                }
            } else {
                assert_eq!(second.hear_all(n, n, improvement(n)), expected, "{n}");
                assert_eq!(second.dsuta.slow, whole.dsuta.slow);
            }
        }
        let (mut a, mut b) = (PolicyState::default(), PolicyState::default());
        whole.dsuta.save(&mut whole.moves, &mut a);
        second.dsuta.save(&mut second.moves, &mut b);
        assert_eq!(a, b, "stopped at {stop}");
    }
}

#[test]
fn what_is_rehearsed_was_heard_before_and_was_sure() {
    let mut stream = Stream::rehearsing();
    for n in 1..=60 {
        stream.understand(n, if n % 2 == 0 { 1.0 } else { 0.1 });
        let rehearsed = std::mem::take(&mut stream.moves.rehearsed);
        // None of the buffer that the step is for: there is nothing earlier at the first.
        let expected = if n % 5 == 0 { ((n - 5) / 2).min(5) } else { 0 };
        assert_eq!(rehearsed.len(), expected, "{n}");
        assert!(
            rehearsed.iter().all(|&length| length % 2 == 0 && length + 5 <= n),
            "{rehearsed:?}"
        );
    }
    assert_eq!(stream.dsuta.slow, (12.0, 12), "and a step a buffer");
}

#[test]
fn a_saved_rehearsal_goes_on_as_if_nothing_had_been_between() {
    for stop in [3, 5, 12, 50] {
        let (mut whole, mut parts) = (Stream::rehearsing(), Stream::rehearsing());
        for n in 1..=80 {
            if n == stop {
                let mut state = PolicyState::default();
                parts.dsuta.save(&mut parts.moves, &mut state);
                parts = Stream::rehearsing();
                parts.dsuta.load(&mut parts.moves, &state).unwrap();
                whole.moves.rehearsed.clear();
            }
            whole.understand(n, 1.0);
            parts.understand(n, 1.0);
        }
        assert_eq!(parts.moves.rehearsed, whole.moves.rehearsed, "stopped at {stop}");
        assert!(!parts.moves.rehearsed.is_empty());
    }
}
