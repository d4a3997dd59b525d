//! Splitting one operation over the pool.

use super::CpuBackend;
use rayon::iter::{IndexedParallelIterator, IntoParallelIterator, ParallelIterator};
use std::marker::PhantomData;
use std::ops::Range;

impl CpuBackend {
    /// Runs `task(0) .. task(count - 1)`, in parallel when there is a pool.
    pub(super) fn run(&self, count: usize, task: impl Fn(usize) + Sync) {
        match &self.pool {
            Some(pool) if count > 1 => pool.install(|| (0..count).into_par_iter().with_max_len(1).for_each(&task)),
            _ => (0..count).for_each(task),
        }
    }

    /// The same for a loop over so many values whose work is little: on the caller's thread where they are few.
    pub(super) fn run_values(&self, len: usize, task: impl Fn(Range<usize>) + Sync) {
        self.run_parts(len, 1 << 14, task);
    }

    /// Cuts `0..len` into one contiguous part a thread (parts are multiples of `grain`, except the last).
    pub(super) fn run_parts(&self, len: usize, grain: usize, task: impl Fn(Range<usize>) + Sync) {
        let part = len.div_ceil(self.threads).next_multiple_of(grain).max(grain);
        self.run(len.div_ceil(part), |index| {
            task(index * part..((index + 1) * part).min(len))
        });
    }
}

/// A mutable slice that the tasks of one operation share, each writing its own stretch.
pub(super) struct Shared<'a, T = f32> {
    start: *mut T,
    len: usize,
    borrow: PhantomData<&'a mut [T]>,
}

// SAFETY: all access goes through the unsafe methods below, whose callers promise disjoint stretches.
unsafe impl<T: Send> Send for Shared<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shared<'_, T> {}

impl<'a, T> Shared<'a, T> {
    pub(super) fn new(values: &'a mut [T]) -> Self {
        Self {
            start: values.as_mut_ptr(),
            len: values.len(),
            borrow: PhantomData,
        }
    }

    /// # Safety
    /// No two stretches that are alive at the same time may overlap.
    #[allow(clippy::mut_from_ref)]
    pub(super) unsafe fn stretch(&self, range: Range<usize>) -> &'a mut [T] {
        assert!(
            range.start <= range.end && range.end <= self.len,
            "stretch {range:?} is outside {} values",
            self.len
        );
        // SAFETY: inside the slice; disjoint by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }

    /// A pointer to the matrix of `rows` rows of `cols` values, `stride` apart, that starts at `offset`; checked to
    /// lie inside.
    ///
    /// # Safety
    /// No two matrices written at the same time may share an element.
    pub(super) unsafe fn matrix(&self, offset: usize, rows: usize, cols: usize, stride: usize) -> *mut T {
        if rows > 0 && cols > 0 {
            assert!(
                offset + (rows - 1) * stride + cols <= self.len,
                "matrix outside {} values",
                self.len
            );
        }
        // SAFETY: the offset is inside, or one past the end of an empty matrix.
        unsafe { self.start.add(offset.min(self.len)) }
    }
}
