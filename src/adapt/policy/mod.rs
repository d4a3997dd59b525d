//! Continual policies: what is carried from one utterance to the next, and when it is forgotten. Each is a small state
//! machine over [`Moves`].

mod awmc;
mod cea;
mod csuta;
mod dsuta;
mod guarded;
mod reservoir;
mod reset;

use super::HostSnapshot;
use super::episode::Episode;
use super::moves::{Moves, States};
use super::stepper::Stepper;
use crate::engine::{Backend, EngineError};
use crate::{AdaptationConfig, Carried, Method};
use awmc::Awmc;
use cea::Cea;
use csuta::Csuta;
use dsuta::Dsuta;
pub(crate) use dsuta::Heard;
use guarded::Guarded;
use std::collections::BTreeMap;

/// What is carried, and how; `S` is a state of the adapted parameters.
pub(crate) enum Policy<S> {
    /// Nothing is.
    Episodic,
    Csuta(Csuta<S>),
    Dsuta(Box<Dsuta<S>>),
    Awmc(Awmc<S>),
    Cea(Cea<S>),
    Guarded(Guarded),
}

impl<S> Policy<S> {
    /// At the start of a stream.
    pub(crate) fn new<M: Moves<Snapshot = S>>(config: &AdaptationConfig, moves: &mut M) -> Result<Self, EngineError> {
        Ok(match config.method {
            Method::None | Method::Suta | Method::Sdpl | Method::SequenceEntropy => Self::Episodic,
            Method::Guarded => Self::Guarded(Guarded::default()),
            Method::Cea => Self::Cea(Cea::new(moves)?),
            Method::Csuta => Self::Csuta(Csuta::new(moves)?),
            Method::Dsuta => Self::Dsuta(Box::new(Dsuta::new(&config.continual, false, moves)?)),
            Method::Replay => Self::Dsuta(Box::new(Dsuta::new(&config.continual, true, moves)?)),
            Method::Awmc => Self::Awmc(Awmc::new(config.continual.average, moves)?),
        })
    }

    /// Back to the start of a stream.
    pub(crate) fn begin<M: Moves<Snapshot = S>>(&mut self, moves: &mut M) {
        match self {
            Self::Episodic | Self::Cea(_) => {}
            Self::Csuta(csuta) => csuta.begin(moves),
            Self::Dsuta(dsuta) => dsuta.begin(moves),
            Self::Awmc(awmc) => awmc.begin(moves),
            Self::Guarded(guarded) => guarded.begin(),
        }
    }

    /// The next utterance is of another domain.
    pub(crate) fn domain_changed<M: Moves<Snapshot = S>>(&mut self, moves: &mut M) {
        if let Self::Dsuta(dsuta) = self {
            dsuta.domain_changed(moves);
        }
    }

    /// Makes what is carried the present state.
    pub(crate) fn show<M: Moves<Snapshot = S>>(&self, moves: &mut M) {
        match self {
            Self::Episodic | Self::Cea(_) => {}
            Self::Csuta(csuta) => csuta.show(moves),
            Self::Dsuta(dsuta) => dsuta.show(moves),
            Self::Awmc(awmc) => awmc.show(moves),
            Self::Guarded(guarded) => guarded.show(moves),
        }
    }

    /// Everything that is carried.
    pub(crate) fn save<M: Moves<Snapshot = S>>(&self, moves: &mut M) -> PolicyState {
        let mut state = PolicyState::default();
        match self {
            Self::Episodic | Self::Cea(_) => {}
            Self::Csuta(csuta) => csuta.save(moves, &mut state),
            Self::Dsuta(dsuta) => dsuta.save(moves, &mut state),
            Self::Awmc(awmc) => awmc.save(moves, &mut state),
            Self::Guarded(guarded) => guarded.save(&mut state),
        }
        state
    }

    /// Goes on from what was saved; `None`, half-way, when it lacks something or has another model's lengths.
    pub(crate) fn load<M: Moves<Snapshot = S>>(&mut self, moves: &mut M, state: &PolicyState) -> Option<()> {
        match self {
            Self::Episodic | Self::Cea(_) => Some(()),
            Self::Csuta(csuta) => csuta.load(moves, state),
            Self::Dsuta(dsuta) => dsuta.load(moves, state),
            Self::Awmc(awmc) => awmc.load(moves, state),
            Self::Guarded(guarded) => guarded.load(moves, state),
        }
    }

    /// An utterance begins where this is not run by [`super::Adapter`]: what was carried becomes the present state. `runs`
    /// makes it that, and tells whether the utterance's output is finite there; where it is not, the stream begins anew,
    /// and the present state is the source model's. `None` where nothing is carried.
    pub(crate) fn start<M: Moves<Snapshot = S>>(
        &mut self,
        moves: &mut M,
        runs: impl FnOnce(&mut M, &S) -> bool,
    ) -> Option<Carried> {
        match self {
            Self::Csuta(csuta) => Some(csuta.start(moves, runs)),
            Self::Dsuta(dsuta) => Some(dsuta.start(moves, runs)),
            Self::Episodic | Self::Awmc(_) | Self::Cea(_) | Self::Guarded(_) => None,
        }
    }

    /// That utterance is over, and the present state what `steps` made of the one that it began with; `None` where it
    /// must teach nothing. The present state is undefined afterwards.
    pub(crate) fn learn<M: Moves<Snapshot = S>>(
        &mut self,
        moves: &mut M,
        heard: Option<&Heard>,
        steps: usize,
        carried: &mut Carried,
    ) -> Result<(), EngineError> {
        match self {
            Self::Csuta(csuta) => csuta.learn(moves, heard.map_or(0, |_| steps)),
            Self::Dsuta(dsuta) => dsuta.finish(moves, heard, carried)?,
            Self::Episodic | Self::Awmc(_) | Self::Cea(_) | Self::Guarded(_) => {}
        }
        Ok(())
    }
}

/// Everything that a policy carries, by name, on the host.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PolicyState {
    /// Counters.
    pub counts: BTreeMap<String, u64>,
    /// Statistics.
    pub statistics: BTreeMap<String, Vec<f64>>,
    /// Adapted values, moments, utterances.
    pub tensors: BTreeMap<String, Vec<f32>>,
}

impl PolicyState {
    fn count(&self, name: &str) -> Option<u64> {
        self.counts.get(name).copied()
    }

    fn set_count(&mut self, name: &str, count: u64) {
        self.counts.insert(name.into(), count);
    }

    fn put_snapshot(&mut self, name: &str, snapshot: HostSnapshot) {
        self.set_count(&format!("{name}.step"), snapshot.step.into());
        for (part, values) in [
            ("values", snapshot.values),
            ("first_moment", snapshot.first_moment),
            ("second_moment", snapshot.second_moment),
        ] {
            self.tensors.insert(format!("{name}.{part}"), values);
        }
    }

    fn snapshot(&self, name: &str) -> Option<HostSnapshot> {
        let part = |part: &str| self.tensors.get(&format!("{name}.{part}")).cloned();
        Some(HostSnapshot {
            values: part("values")?,
            first_moment: part("first_moment")?,
            second_moment: part("second_moment")?,
            step: u32::try_from(self.count(&format!("{name}.step"))?).ok()?,
        })
    }
}

/// Draws for one purpose, of turn number `turn`. They depend on nothing else, so that a resumed stream makes them again.
fn generator(seed: u64, purpose: u64, turn: u64) -> fastrand::Rng {
    fastrand::Rng::with_seed(
        seed ^ turn.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ purpose.wrapping_mul(0xD1B5_4A32_D192_ED03),
    )
}

/// Runs the loaded utterance from a carried state, which becomes the present one. `false`, with the present state
/// undefined, when its output is not finite.
fn start_from<B: Backend>(stepper: &mut Stepper<'_, B>, state: &super::Snapshot<B>, episode: &mut Episode) -> bool {
    // What the source model's forward pass left.
    let first = stepper.objective();
    episode.first = first.loss.is_finite().then_some(first);
    stepper.restore(state);
    stepper.forward();
    let logits = stepper.logits();
    let finite = logits.iter().all(|logit| logit.is_finite());
    if finite {
        episode.adapted_logits = logits;
    }
    finite
}
