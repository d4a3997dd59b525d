//! Large zeroed buffers, and each thread's scratch memory.

use std::alloc::{Layout, alloc_zeroed};
use std::cell::Cell;

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
    advise_huge_pages(start, len);
    // SAFETY: allocated by the global allocator with the layout of `len` values, every one of which is the f32 zero.
    Some(unsafe { Vec::from_raw_parts(start, len, len) })
}

/// Values in a cache line.
const LINE: usize = 16;

thread_local! {
    static SCRATCH: Cell<Vec<Vec<f32>>> = const { Cell::new(Vec::new()) };
}

/// Lends `len` values of this thread's own that begin at a cache line and hold anything. They are kept for the next
/// call, so nothing is allocated once every operation has run; calls may be nested.
pub(super) fn with_scratch<R>(len: usize, task: impl FnOnce(&mut [f32]) -> R) -> R {
    let mut free = SCRATCH.take();
    let mut buffer = free.pop().unwrap_or_default();
    SCRATCH.set(free);
    if buffer.len() < len + LINE {
        buffer = zeros(len + LINE).expect("memory for an operation's operands");
    }
    let start = buffer.as_ptr().cast::<u8>().align_offset(LINE * size_of::<f32>()) / size_of::<f32>();
    let result = task(&mut buffer[start..start + len]);
    let mut free = SCRATCH.take();
    free.push(buffer);
    SCRATCH.set(free);
    result
}

/// Moves values that are many pages of 2 MiB into such pages. Packing a weight walks over so many of its rows at once that
/// the processor's table of ordinary pages is too short (measured: 5 % of a step on 2 s of audio). A hint, which may fail.
pub(super) fn into_huge_pages(values: &mut [f32]) {
    // Linux 6.1 and later.
    const MADV_COLLAPSE: i32 = 25;
    advise(values.as_mut_ptr(), values.len(), MADV_COLLAPSE);
}

/// Asks for pages of 2 MiB where a buffer is many of them: a product over a convolution's frames walks so many rows that
/// the processor's table of ordinary pages is too short (measured: 3 to 10 % of its time). A hint, which may fail.
fn advise_huge_pages(start: *mut f32, len: usize) {
    const MADV_HUGEPAGE: i32 = 14;
    advise(start, len, MADV_HUGEPAGE);
}

/// Gives the system advice that changes no content on a buffer of a few huge pages or more.
#[cfg(target_os = "linux")]
fn advise(start: *mut f32, len: usize, advice: i32) {
    const PAGE: usize = 4096;
    const HUGE_PAGE: usize = 2 << 20;
    unsafe extern "C" {
        fn madvise(start: *mut std::ffi::c_void, len: usize, advice: i32) -> i32;
    }
    let bytes = len * size_of::<f32>();
    if bytes < 2 * HUGE_PAGE {
        return;
    }
    let offset = start.cast::<u8>().align_offset(PAGE);
    // SAFETY: the range is inside the buffer (it is longer than a page), and the advice changes no content.
    unsafe {
        madvise(start.cast::<u8>().add(offset).cast(), bytes - offset, advice);
    }
}

#[cfg(not(target_os = "linux"))]
fn advise(_start: *mut f32, _len: usize, _advice: i32) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn huge_pages_change_no_value() {
        for len in [0, 1000, 3 << 20] {
            let mut values: Vec<f32> = (0..len).map(|value| value as f32).collect();
            into_huge_pages(&mut values);
            assert!(values.iter().enumerate().all(|(place, value)| *value == place as f32));
        }
    }

    #[test]
    fn buffers_are_zeroed_and_impossible_ones_are_refused() {
        for len in [0, 1, 1000, 1 << 22] {
            let mut buffer = zeros(len).unwrap();
            assert!(buffer.len() == len && buffer.iter().all(|value| value.to_bits() == 0));
            buffer.push(1.0);
        }
        assert!(zeros(usize::MAX / 8).is_none() && zeros(usize::MAX).is_none());
    }
}
