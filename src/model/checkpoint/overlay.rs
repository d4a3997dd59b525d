//! One checkpoint in front of another: a CTC head beside a published encoder, a profile over its source model.

use super::{Checkpoint, Stored};
use crate::model::ModelError;

/// The first checkpoint's tensors, and the second's where the first has none.
pub struct Overlay {
    /// Looked into first.
    pub front: Box<dyn Checkpoint>,
    /// Looked into then.
    pub back: Box<dyn Checkpoint>,
}

impl Overlay {
    fn of(&self, name: &str) -> &dyn Checkpoint {
        if self.front.shape(name).is_some() {
            &*self.front
        } else {
            &*self.back
        }
    }
}

impl Checkpoint for Overlay {
    fn shape(&self, name: &str) -> Option<&[usize]> {
        self.of(name).shape(name)
    }

    fn storage(&self, name: &str) -> Stored {
        self.of(name).storage(name)
    }

    fn values(&self, name: &str) -> Result<Vec<f32>, ModelError> {
        self.of(name).values(name)
    }

    fn names(&self) -> Vec<&str> {
        let mut names = self.front.names();
        names.extend(self.back.names());
        names.sort_unstable();
        names.dedup();
        names
    }
}
