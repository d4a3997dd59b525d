//! CSUTA: SUTA that never goes back. Each utterance starts from where the last one ended, moments included.

use super::{PolicyState, start_from};
use crate::adapt::Snapshot;
use crate::adapt::episode::{Descent, Episode};
use crate::adapt::stepper::{Moves, Stepper};
use crate::engine::{Backend, EngineError};
use crate::{Carried, ResetReason};

/// What CSUTA carries.
pub(in crate::adapt) struct Csuta<S> {
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
}

impl<B: Backend> Csuta<Snapshot<B>> {
    /// Adapts to the loaded utterance, which the source model has run on.
    pub(in crate::adapt) fn run(
        &mut self,
        stepper: &mut Stepper<'_, B>,
        mut descent: Descent<'_, B>,
        episode: &mut Episode,
    ) {
        self.heard += 1;
        let mut reset = None;
        if self.updates > 0 && !start_from(stepper, &self.state, episode) {
            self.forget(stepper);
            stepper.forward();
            reset = Some(ResetReason::NonFinite);
        }
        let carried = Carried {
            position: self.heard,
            updates: self.updates,
            reset,
            ..Carried::default()
        };
        descent.run(stepper, episode);
        // A state that is not finite is not carried: the one before stays.
        if episode.steps > 0 && stepper.is_finite() {
            stepper.snapshot_into(&mut self.state);
            self.updates += episode.steps as u64;
        }
        episode.carried = Some(carried);
    }
}
