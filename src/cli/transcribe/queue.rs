//! The queue of streams (for an episodic method, of recordings): workers take them in order, but not further ahead of the
//! output than a window.

use std::sync::{Condvar, Mutex, PoisonError};

/// Indices 0 to `total`, handed out in order.
#[derive(Debug)]
pub(in crate::cli) struct Queue {
    state: Mutex<State>,
    moved: Condvar,
    total: usize,
    window: usize,
}

#[derive(Debug, Default)]
struct State {
    next: usize,
    released: usize,
    closed: bool,
}

impl Queue {
    /// A queue whose `take` waits while `window` indices are taken but not released: what bounds the results that
    /// pile up behind a slow first one.
    pub(in crate::cli) fn new(total: usize, window: usize) -> Self {
        Self {
            state: Mutex::default(),
            moved: Condvar::new(),
            total,
            window,
        }
    }

    /// The next index, or `None` when there is none left or the queue is closed.
    pub(in crate::cli) fn take(&self) -> Option<usize> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        while !state.closed && state.next < self.total && state.next >= state.released.saturating_add(self.window) {
            state = self.moved.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.closed || state.next >= self.total {
            return None;
        }
        state.next += 1;
        Some(state.next - 1)
    }

    /// The results of the first `count` indices are out of the way.
    pub(super) fn release(&self, count: usize) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).released = count;
        self.moved.notify_all();
    }

    /// Hands out no more.
    pub(in crate::cli) fn close(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
        self.moved.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hands_out_in_order_and_waits_at_the_window() {
        let queue = Queue::new(3, 2);
        assert_eq!((queue.take(), queue.take()), (Some(0), Some(1)));
        std::thread::scope(|scope| {
            let third = scope.spawn(|| queue.take());
            queue.release(1);
            assert_eq!(third.join().ok(), Some(Some(2)));
        });
        assert_eq!(queue.take(), None);
    }

    #[test]
    fn closing_ends_the_wait() {
        let queue = Queue::new(3, 1);
        queue.take();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| queue.take());
            queue.close();
            assert_eq!(waiting.join().ok(), Some(None));
        });
    }
}
