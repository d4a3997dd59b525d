//! Loading a model under an allocator that counts, and small files to load.

use crate::model_fixtures::{archive, ctranslate2_file, ctranslate2_variables};
use aurist::engine::cpu::CpuBackend;
use aurist::model::ModelFiles;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::Path;

thread_local! {
    /// Bytes this thread holds, and the most it held.
    static HELD: Cell<(isize, isize)> = const { Cell::new((0, 0)) };
}

/// The system's allocator, counting.
struct Counting;

fn count(bytes: isize) {
    // A thread that ends has nothing left to count.
    let _ = HELD.try_with(|held| {
        let (now, most) = held.get();
        held.set((now + bytes, most.max(now + bytes)));
    });
}

// SAFETY: every call goes on to the system's allocator as it came; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's promise.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The tiny models' files are some 100 kB.
const MOST_MEMORY: isize = 24 << 20;

/// Loads a directory as `transcribe` does; the error, if it is one.
pub(crate) fn load(backend: &CpuBackend, dir: &Path) -> Option<String> {
    let before = HELD.with(|held| {
        let (now, _) = held.get();
        held.set((now, now));
        now
    });
    let loaded = ModelFiles::from_dir(dir).and_then(|files| files.load(backend).map(drop));
    let most = HELD.with(|held| held.get().1) - before;
    assert!(most < MOST_MEMORY, "{most} bytes were allocated");
    let error = loaded.err()?.to_string();
    assert!(
        !error.contains('\n') && !error.is_empty() && error.len() < 1000,
        "{error}"
    );
    Some(error)
}

pub(crate) fn write(dir: &Path, name: &str, bytes: impl AsRef<[u8]>) {
    std::fs::write(dir.join(name), bytes).unwrap();
}

pub(crate) fn pickle(dir: &Path, program: &[u8], data: &[u8]) {
    write(
        dir,
        "pytorch_model.bin",
        archive(&[("m/data.pkl", program), ("m/data/0", data), ("m/version", b"3\n")]),
    );
}

pub(crate) fn tiny_whisper(dir: &Path) {
    write(dir, "model.bin", ctranslate2_file(&ctranslate2_variables()));
}
