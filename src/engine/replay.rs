//! Names of work that is done again and again, by which a device keeps records of it.

/// Work that is done again and again: for the same value of this the same operations on the same memory, none of which
/// hands a result to the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Replay {
    /// Whose work it is, of all that use a backend; see [`Replay::new_owner`].
    pub owner: u64,
    /// Which of the owner's.
    pub pass: Pass,
    /// The stage it starts or ends at.
    pub stage: usize,
    /// The input's values, which decide the sizes.
    pub values: usize,
    /// Frames and symbols of the target that a step goes towards; 0 without one.
    pub label: (usize, usize),
}

/// A pass through a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Pass {
    /// From a stage up.
    Forward,
    /// Down to a stage.
    Backward,
    /// A whole step of a descent that the device decides; the stage is how many there are.
    Step,
    /// What follows the last one.
    Judgement,
}

impl Replay {
    /// A number that nobody else has.
    pub fn new_owner() -> u64 {
        static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
    }
}
