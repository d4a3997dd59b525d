//! f32 products on Intel's matrix units (AMX), which multiply bfloat16 only.
//!
//! An f32 has 24 significant bits, a bfloat16 eight, so every f32 is the sum of three: `x = h + m + l`, exactly. A product of
//! two bfloat16 is exact in f32, where AMX sums up. Of the nine products of two such sums six are taken, the largest
//! (`hh, hm, mh, mm, hl, lh`); the three left out are at most about 2⁻²⁴ of `x y`, half a unit in an f32's last place. So a result
//! differs from that of f32 instructions by no more than two orders of summation do
//! (Henry, Tang and Heinecke, "Leveraging the bfloat16 Artificial Intelligence Datatype For Higher-Precision Computations", 2019).
//!
//! Six products of 1024 operations a cycle are 2.7 times an AVX-512 core's rate. What is smaller than 2⁻¹²⁶ counts as zero.

mod pack;

use super::super::memory::with_scratch;
use super::super::simd::{self, Level};
use super::transpose::{SIDE, first};
use super::vector::prefetch;
use super::{Matrix, Target};
use pack::{Form, panel_values};
use std::arch::asm;
use std::arch::x86_64::{
    __cpuid, __cpuid_count, _mm512_fmadd_ps, _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps, _mm512_set1_ps, _xgetbv,
};
use std::ops::Range;
use std::sync::OnceLock;

/// Values of the depth in a tile: each column holds two bfloat16.
const STEP: usize = 2 * SIDE;
/// Rows and columns of the result that stay in tile registers: four tiles, which leaves two for either operand.
pub(super) const BLOCK: usize = 2 * SIDE;
/// bfloat16 that an f32 is cut into.
const PARTS: usize = 3;

/// Values summed up in the tile registers, before the result is read and written.
const DEPTH: usize = 768;
/// Rows of the left operand that are packed at once: 590 KB, which stay in a second-level cache.
const LEFT_ROWS: usize = 128;
/// Columns of the right operand that are packed at once: 7 MB, in the third level.
const RIGHT_COLS: usize = 1536;
/// The same where all rows of the left one are.
const FEW_COLS: usize = 64;
/// A right panel is fetched from the third-level cache while the one before it meets so many left ones.
const SHARES: usize = LEFT_ROWS / BLOCK;
/// Smaller products are left to vector instructions: a whole block in each direction (not tuned).
const FEWEST: usize = 32;

/// Whether a product of these sizes is for the matrix units of this machine.
pub(super) fn suits(m: usize, n: usize, k: usize) -> bool {
    m.min(n).min(k) >= FEWEST && is_available()
}

/// Whether this machine has them, the system lets this process use them, and `AURIST_MATRIX_UNITS` is not `off`.
pub(in super::super) fn is_available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| {
        let wanted = std::env::var_os("AURIST_MATRIX_UNITS").is_none_or(|value| value != "off");
        wanted && simd::level() == Level::Avx512 && has_instructions() && is_permitted()
    })
}

fn has_instructions() -> bool {
    #[target_feature(enable = "xsave")]
    fn enabled() -> u64 {
        // SAFETY: the feature is enabled, and register 0 always exists.
        unsafe { _xgetbv(0) }
    }
    const OSXSAVE: u32 = 1 << 27;
    const AMX_BF16: u32 = 1 << 22;
    const AMX_TILE: u32 = 1 << 24;
    // The tiles' configuration and their data.
    const TILE_STATE: u64 = 0b11 << 17;
    if __cpuid(0).eax < 7 || __cpuid(1).ecx & OSXSAVE == 0 {
        return false;
    }
    let features = __cpuid_count(7, 0).edx;
    // SAFETY: the system has enabled XSAVE, to which XGETBV belongs.
    features & AMX_BF16 != 0 && features & AMX_TILE != 0 && unsafe { enabled() } & TILE_STATE == TILE_STATE
}

/// Linux saves 8 KiB of tiles a thread only for a process that has asked.
fn is_permitted() -> bool {
    use std::ffi::c_long;
    unsafe extern "C" {
        fn syscall(number: c_long, ...) -> c_long;
    }
    const ARCH_PRCTL: c_long = 158;
    const ARCH_REQ_XCOMP_PERM: c_long = 0x1023;
    const XFEATURE_XTILEDATA: c_long = 18;
    // SAFETY: the call reads its two numbers and changes only which registers this process may use.
    unsafe { syscall(ARCH_PRCTL, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
}

/// The tile registers of this thread, in use: eight of 16 rows of 64 bytes.
struct Tiles;

impl Tiles {
    /// # Safety
    /// AMX must be available.
    unsafe fn configure() -> Self {
        #[repr(C, align(64))]
        struct Configuration {
            palette: u8,
            start_row: u8,
            reserved: [u8; 14],
            bytes: [u16; 16],
            rows: [u8; 16],
        }
        let mut configuration = Configuration {
            palette: 1,
            start_row: 0,
            reserved: [0; 14],
            bytes: [0; 16],
            rows: [0; 16],
        };
        configuration.bytes[..8].fill(64);
        configuration.rows[..8].fill(SIDE as u8);
        // SAFETY: the caller's promise; the configuration is 64 bytes of a form that the instruction takes.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &configuration, options(nostack, readonly, preserves_flags)) };
        Self
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: the tiles are this value's own. Released, they cost nothing when threads change.
        unsafe { asm!("tilerelease", options(nostack, nomem, preserves_flags)) };
    }
}

/// Some rows and columns of a product, as `super::unit_product`.
///
/// # Safety
/// AMX must be available; c must point to that part of the result, which nobody else touches meanwhile, and a and b must
/// hold their operands.
pub(super) unsafe fn unit_product(
    rows: &Range<usize>,
    cols: &Range<usize>,
    k: usize,
    scale: f32,
    a: Matrix<'_>,
    b: Matrix<'_>,
    c: Target,
) {
    // SAFETY: the caller's promise.
    let _tiles = unsafe { Tiles::configure() };
    let depth_each = k.div_ceil(k.div_ceil(DEPTH)).next_multiple_of(STEP);
    let rows_each = LEFT_ROWS.min(rows.len().next_multiple_of(BLOCK));
    // Where no second block of rows comes, what is packed of the right operand is needed once, and stays near; unless
    // that means to read little of each of its rows.
    let is_one = rows.len() <= rows_each;
    let cols_most = if is_one && b.row_stride == 1 {
        FEW_COLS
    } else {
        RIGHT_COLS
    };
    let cols_each = cols_most.min(cols.len().next_multiple_of(BLOCK));
    with_scratch(panel_values(rows_each, depth_each) / 2, |left| {
        with_scratch(panel_values(cols_each, depth_each) / 2, |right| {
            let (left, right) = (left.as_mut_ptr().cast(), right.as_mut_ptr().cast());
            for start in (0..k).step_by(depth_each) {
                let depth = start..k.min(start + depth_each);
                for first_col in cols.clone().step_by(cols_each) {
                    let cols_here = first_col..cols.end.min(first_col + cols_each);
                    // SAFETY: the scratch holds the panels of as many lines and values.
                    unsafe { pack::lines(b.turned(), cols_here.clone(), depth.clone(), Form::Right, right) };
                    for first_row in rows.clone().step_by(rows_each) {
                        let rows_here = first_row..rows.end.min(first_row + rows_each);
                        // SAFETY: as above; the part of the result is the caller's promise.
                        unsafe {
                            if !is_one || first_col == cols.start {
                                pack::lines(a, rows_here.clone(), depth.clone(), Form::Left, left);
                            }
                            let c = c.part(first_row - rows.start, first_col - cols.start);
                            let c = if start > 0 { c.accumulating() } else { c };
                            let steps = depth.len().div_ceil(STEP);
                            blocks(steps, (rows_here.len(), cols_here.len()), left, right, scale, c);
                        }
                    }
                }
            }
        });
    });
}

/// A block of the result, on its way from the tiles to its place.
#[repr(C, align(64))]
struct Sums([f32; BLOCK * BLOCK]);

/// All left panels by all right panels.
///
/// # Safety
/// As for [`unit_product`].
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")]
unsafe fn blocks(
    steps: usize,
    (rows, cols): (usize, usize),
    left: *const u16,
    right: *const u16,
    scale: f32,
    c: Target,
) {
    let panel = panel_values(BLOCK, steps * STEP);
    let mut sums = Sums([0.0; BLOCK * BLOCK]);
    for col in (0..cols).step_by(BLOCK) {
        for row in (0..rows).step_by(BLOCK) {
            let here = (BLOCK.min(rows - row), BLOCK.min(cols - col));
            // SAFETY: the caller's promise.
            unsafe {
                let (left, right) = (left.add(row / BLOCK * panel), right.add(col / BLOCK * panel));
                let c = c.part(row, col);
                for row in 0..here.0 {
                    let line = c.start.wrapping_add(row * c.stride);
                    prefetch(line);
                    prefetch(line.wrapping_add(SIDE));
                }
                if here.0 > SIDE {
                    let share = row / BLOCK % SHARES * (panel / SHARES);
                    let next = right.wrapping_add(share + if col + BLOCK < cols { panel } else { 0 });
                    multiply(steps, left, right, next, &mut sums);
                } else {
                    multiply_half(steps, left, right, &mut sums);
                }
                write(&sums, here, scale, c.accumulate, c.start, c.stride);
                if let Some(twin) = c.twin {
                    let start = c.start.offset(twin.offset);
                    write(&sums, here, scale * twin.factor, twin.accumulate, start, c.stride);
                }
            }
        }
    }
}

/// `sums = scale⁻¹ result` of two tiles by two: for each step of the depth `h l, h m, h h, l h, m h, m m`, an order in
/// which each part of an operand is loaded once or twice. 24 lines a step are fetched from `next`, which may be anywhere.
///
/// # Safety
/// The tiles must be configured, and the panels hold so many steps.
unsafe fn multiply(steps: usize, left: *const u16, right: *const u16, next: *const u16, sums: &mut Sums) {
    // SAFETY: the caller's promise; what is stored is exactly the sums.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "2:",
            "tileloadd tmm4, [{a} + {line}*1]",
            "tileloadd tmm5, [{a} + {line}*1 + 1024]",
            "tileloadd tmm6, [{b} + {line}*1 + 4096]",
            "tileloadd tmm7, [{b} + {line}*1 + 5120]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "prefetcht1 [{next} + 0]",
            "prefetcht1 [{next} + 64]",
            "prefetcht1 [{next} + 128]",
            "prefetcht1 [{next} + 192]",
            "tileloadd tmm6, [{b} + {line}*1 + 2048]",
            "tileloadd tmm7, [{b} + {line}*1 + 3072]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "prefetcht1 [{next} + 256]",
            "prefetcht1 [{next} + 320]",
            "prefetcht1 [{next} + 384]",
            "prefetcht1 [{next} + 448]",
            "tileloadd tmm6, [{b} + {line}*1]",
            "tileloadd tmm7, [{b} + {line}*1 + 1024]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "prefetcht1 [{next} + 512]",
            "prefetcht1 [{next} + 576]",
            "prefetcht1 [{next} + 640]",
            "prefetcht1 [{next} + 704]",
            "tileloadd tmm4, [{a} + {line}*1 + 4096]",
            "tileloadd tmm5, [{a} + {line}*1 + 5120]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "prefetcht1 [{next} + 768]",
            "prefetcht1 [{next} + 832]",
            "prefetcht1 [{next} + 896]",
            "prefetcht1 [{next} + 960]",
            "tileloadd tmm4, [{a} + {line}*1 + 2048]",
            "tileloadd tmm5, [{a} + {line}*1 + 3072]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "prefetcht1 [{next} + 1024]",
            "prefetcht1 [{next} + 1088]",
            "prefetcht1 [{next} + 1152]",
            "prefetcht1 [{next} + 1216]",
            "tileloadd tmm6, [{b} + {line}*1 + 2048]",
            "tileloadd tmm7, [{b} + {line}*1 + 3072]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "prefetcht1 [{next} + 1280]",
            "prefetcht1 [{next} + 1344]",
            "prefetcht1 [{next} + 1408]",
            "prefetcht1 [{next} + 1472]",
            "add {a}, 6144",
            "add {b}, 6144",
            "add {next}, 1536",
            "dec {steps}",
            "jnz 2b",
            "tilestored [{sums} + {line}*2], tmm0",
            "tilestored [{sums} + {line}*2 + 64], tmm1",
            "tilestored [{sums} + {line}*2 + 2048], tmm2",
            "tilestored [{sums} + {line}*2 + 2112], tmm3",
            a = inout(reg) left => _,
            b = inout(reg) right => _,
            next = inout(reg) next => _,
            steps = inout(reg) steps => _,
            line = in(reg) 64usize,
            sums = in(reg) sums,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}

/// The same for a left panel of one tile: the first 16 rows are the sum of the sums' first 16 and last 16 rows, for two tiles
/// alone would wait for each other.
///
/// # Safety
/// As for [`multiply`].
unsafe fn multiply_half(steps: usize, left: *const u16, right: *const u16, sums: &mut Sums) {
    // SAFETY: the caller's promise; what is stored is exactly the sums.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "2:",
            "tileloadd tmm4, [{a} + {line}*1]",
            "tileloadd tmm5, [{a} + {line}*1 + 4096]",
            "tileloadd tmm6, [{b} + {line}*1]",
            "tileloadd tmm7, [{b} + {line}*1 + 1024]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "tileloadd tmm5, [{a} + {line}*1 + 2048]",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "tileloadd tmm6, [{b} + {line}*1 + 2048]",
            "tileloadd tmm7, [{b} + {line}*1 + 3072]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "tileloadd tmm6, [{b} + {line}*1 + 4096]",
            "tileloadd tmm7, [{b} + {line}*1 + 5120]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "add {a}, 6144",
            "add {b}, 6144",
            "dec {steps}",
            "jnz 2b",
            "tilestored [{sums} + {line}*2], tmm0",
            "tilestored [{sums} + {line}*2 + 64], tmm1",
            "tilestored [{sums} + {line}*2 + 2048], tmm2",
            "tilestored [{sums} + {line}*2 + 2112], tmm3",
            a = inout(reg) left => _,
            b = inout(reg) right => _,
            steps = inout(reg) steps => _,
            line = in(reg) 64usize,
            sums = in(reg) sums,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
    let (first, last) = sums.0.split_at_mut(SIDE * BLOCK);
    for (first, last) in first.iter_mut().zip(last) {
        *first += *last;
    }
}

/// `result = scale sums` (`+ result`) for the first rows and columns.
///
/// # Safety
/// The result must reach as far.
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")]
unsafe fn write(
    sums: &Sums,
    (rows, cols): (usize, usize),
    scale: f32,
    accumulate: bool,
    result: *mut f32,
    stride: usize,
) {
    let factor = _mm512_set1_ps(scale);
    let masks = [first(cols), first(cols.saturating_sub(SIDE))];
    for row in 0..rows {
        for (half, mask) in masks.into_iter().enumerate() {
            // SAFETY: the masks keep to the result's columns; the sums hold every row.
            unsafe {
                let to = result.wrapping_add(row * stride + half * SIDE);
                let sum = _mm512_maskz_loadu_ps(mask, sums.0.as_ptr().add(row * BLOCK + half * SIDE));
                let before = _mm512_maskz_loadu_ps(if accumulate { mask } else { 0 }, to);
                _mm512_mask_storeu_ps(to, mask, _mm512_fmadd_ps(factor, sum, before));
            }
        }
    }
}
