//! CSUTA: SUTA that never goes back. Each utterance starts from where the last one ended, moments included.

use super::{PolicyState, start_from};
use crate::adapt::Snapshot;
use crate::adapt::episode::{Descent, Episode};
use crate::adapt::moves::Moves;
use crate::adapt::stepper::Stepper;
use crate::engine::{Backend, EngineError};
use crate::{Carried, ResetReason};

/// What CSUTA carries.
pub(crate) struct Csuta<S> {
    state: S,
    heard: u64,
    /// Optimizer steps behind the state.
    updates: u64,
}

impl<S> Csuta<S> {
    pub(super) fn new<M: Moves<Snapshot = S>>(moves: &mut M) -> Result<Self, EngineError> {
        moves.restore_source();
        Ok(Self {
            state: moves.snapshot()?,
            heard: 0,
            updates: 0,
        })
    }

    pub(super) fn begin<M: Moves<Snapshot = S>>(&mut self, moves: &mut M) {
        self.forget(moves);
        self.heard = 0;
    }

    fn forget<M: Moves<Snapshot = S>>(&mut self, moves: &mut M) {
        moves.restore_source();
        moves.snapshot_into(&mut self.state);
        self.updates = 0;
    }

    pub(super) fn show<M: Moves<Snapshot = S>>(&self, moves: &mut M) {
        moves.restore(&self.state);
    }

    pub(super) fn save<M: Moves<Snapshot = S>>(&self, moves: &mut M, state: &mut PolicyState) {
        state.set_count("heard", self.heard);
        state.set_count("updates", self.updates);
        state.put_snapshot("state", moves.download(&self.state));
    }

    pub(super) fn load<M: Moves<Snapshot = S>>(&mut self, moves: &mut M, state: &PolicyState) -> Option<()> {
        (self.heard, self.updates) = (state.count("heard")?, state.count("updates")?);
        moves.upload(&state.snapshot("state")?, &mut self.state).then_some(())
    }

    /// An utterance begins, from what was carried: `runs` makes that the present state, and tells whether the
    /// utterance's output is finite there. Where it is not, the stream begins anew, and the present state is the source
    /// model's.
    pub(super) fn start<M: Moves<Snapshot = S>>(
        &mut self,
        moves: &mut M,
        runs: impl FnOnce(&mut M, &S) -> bool,
    ) -> Carried {
        self.heard += 1;
        let mut reset = None;
        if self.updates > 0 && !runs(moves, &self.state) {
            self.forget(moves);
            reset = Some(ResetReason::NonFinite);
        }
        Carried {
            position: self.heard,
            updates: self.updates,
            reset,
            ..Carried::default()
        }
    }

    /// The present state is what so many steps made of the one that the utterance began with.
    pub(super) fn learn<M: Moves<Snapshot = S>>(&mut self, moves: &mut M, steps: usize) {
        // A state that is not finite is not carried: the one before stays.
        if steps > 0 && moves.is_finite() {
            moves.snapshot_into(&mut self.state);
            self.updates += steps as u64;
        }
    }
}

impl<B: Backend> Csuta<Snapshot<B>> {
    /// Adapts to the loaded utterance, which the source model has run on.
    pub(in crate::adapt) fn run(
        &mut self,
        stepper: &mut Stepper<'_, B>,
        mut descent: Descent<'_, B>,
        episode: &mut Episode,
    ) {
        let carried = self.start(stepper, |stepper, state| start_from(stepper, state, episode));
        if carried.reset.is_some() {
            stepper.forward();
        }
        descent.run(stepper, episode);
        self.learn(stepper, episode.steps);
        episode.carried = Some(carried);
    }
}
