//! Large zeroed buffers.

use std::alloc::{Layout, alloc_zeroed};

/// `len` zeros, or `None` when the system refuses. Its pages come from the system zeroed, and not before they are first
/// touched: slots that a plan reserves and nobody uses take no memory.
pub(super) fn zeros(len: usize) -> Option<Vec<f32>> {
    let layout = Layout::array::<f32>(len).ok()?;
    if len == 0 {
        return Some(Vec::new());
    }
    // SAFETY: the layout's size is not zero.
    let start = unsafe { alloc_zeroed(layout) }.cast::<f32>();
    if start.is_null() {
        return None;
    }
    // SAFETY: allocated by the global allocator with the layout of `len` values, every one of which is the f32 zero.
    Some(unsafe { Vec::from_raw_parts(start, len, len) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_zeroed_and_impossible_ones_are_refused() {
        for len in [0, 1, 1000, 1 << 20] {
            let mut buffer = zeros(len).unwrap();
            assert!(buffer.len() == len && buffer.iter().all(|value| value.to_bits() == 0));
            buffer.push(1.0);
        }
        assert!(zeros(usize::MAX / 8).is_none() && zeros(usize::MAX).is_none());
    }
}
