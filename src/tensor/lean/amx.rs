//! Products of bfloat16 by tiles (AMX, Intel since Sapphire Rapids): an instruction multiplies sixteen rows of 32 inputs with sixteen
//! outputs of theirs, sixteen times what a fused multiply-add on full registers does in its time.
#![expect(
    unsafe_code,
    reason = "the instructions are only there if the processor and the system say so, and have no other form; the tests compare with plain arithmetic"
)]

use std::arch::asm;
use std::arch::x86_64::{__cpuid, __cpuid_count};
use std::marker::PhantomData;
use std::sync::OnceLock;

use super::pairs::{HalfRow, HalfRows};
use super::{Row, WIDTH};

/// Rows of a tile.
const HEIGHT: usize = 16;
/// Rows that are multiplied at a time.
pub(super) const BLOCK: usize = 2 * HEIGHT;
/// Panels of inputs to take at a time: their part of a panel of weights stays in the first-level cache.
pub(super) const DEPTH: usize = 8;

/// Bytes from the weights that are multiplied to those that are asked for: memory takes as long to answer as so many take to be used up.
const AHEAD: usize = 32 << 10;
/// Lines of the cache that a panel's part of the weights for 32 inputs takes.
const LINES: usize = WIDTH / 2 * size_of::<HalfRows>() / 64;

/// Says that this processor multiplies tiles of bfloat16, and that the system lets this process.
#[derive(Debug, Clone, Copy)]
pub(super) struct Amx(());

impl Amx {
    /// `None` where there is none.
    pub(super) fn detect() -> Option<Self> {
        static ALLOWED: OnceLock<bool> = OnceLock::new();
        ALLOWED.get_or_init(|| has_tiles() && is_allowed()).then_some(Self(()))
    }

    /// Shapes the tiles of this thread until it is dropped.
    pub(super) fn shape(self) -> Shaped {
        // SAFETY: an `Amx` is only made where the instruction is there and allowed; it reads 64 bytes that are there.
        unsafe {
            asm!("ldtilecfg [{}]", in(reg) &SHAPES, options(nostack, preserves_flags, readonly));
        }
        Shaped { filled: [[Row::ZERO; HEIGHT]; 2], thread: PhantomData }
    }
}

fn has_tiles() -> bool {
    const BF16: u32 = 1 << 22;
    const TILES: u32 = 1 << 24;
    __cpuid(0).eax >= 7 && __cpuid_count(7, 0).edx & (BF16 | TILES) == BF16 | TILES
}

/// Linux saves the tiles of a process only if it was asked to; for all threads of it from then on.
fn is_allowed() -> bool {
    const ARCH_PRCTL: isize = 158;
    const ARCH_REQ_XCOMP_PERM: usize = 0x1023;
    const TILE_DATA: usize = 18;
    let mut result = ARCH_PRCTL;
    // SAFETY: this call takes two numbers and changes no memory of the process; it fails where the system knows no such thing.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") result,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") TILE_DATA,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result == 0
}

/// All eight tiles have sixteen rows of 64 bytes.
static SHAPES: Shapes = {
    let mut shapes = [0; 64];
    shapes[0] = 1;
    let mut tile = 0;
    while tile < 8 {
        shapes[16 + 2 * tile] = 64;
        shapes[48 + tile] = HEIGHT as u8;
        tile += 1;
    }
    Shapes(shapes)
};

#[repr(C, align(64))]
struct Shapes([u8; 64]);

/// Tiles that have their shape, on the thread where they got it. A system that changes threads would save them over and over: they are
/// given up in the end.
pub(super) struct Shaped {
    /// Where tiles of a result lie that have fewer rows.
    filled: [[Row; HEIGHT]; 2],
    thread: PhantomData<*const ()>,
}

impl Drop for Shaped {
    fn drop(&mut self) {
        // SAFETY: there is a `Shaped` only where the instruction is there and allowed; nobody else on this thread has tiles.
        unsafe { asm!("tilerelease", options(nostack, preserves_flags, nomem)) }
    }
}

impl Shaped {
    /// `out += left right`, [`BLOCK`] rows after [`BLOCK`] rows.
    ///
    /// left: `[panel][row]` with `rows` rows a panel, and behind the last as many of whatever as fill up a block; right:
    /// `[inputs / 2][WIDTH]`, the inputs a multiple of [`WIDTH`]; out: `[row][WIDTH]`. What lies behind `right` is asked for meanwhile.
    /// Panics where sizes do not fit.
    pub(super) fn strips(
        &mut self,
        left: &[HalfRow],
        rows: usize,
        right: &[HalfRows],
        out: &mut [Row],
    ) {
        let panels = right.len() / (WIDTH / 2);
        let Some(others) = panels.checked_sub(1) else { return };
        let read = others * rows + out.len().next_multiple_of(BLOCK);
        assert!(read <= left.len(), "a left side without the rows that fill up its tiles");
        let lines = LINES.div_ceil(out.len().div_ceil(BLOCK).max(1));
        let mut ahead = right.as_ptr().cast::<u8>().wrapping_add(AHEAD);
        for (at, out) in out.chunks_mut(BLOCK).enumerate() {
            let mut halves: [&mut [Row]; 2] = out.split_at_mut(HEIGHT.min(out.len())).into();
            let mut tiles = [std::ptr::null_mut(); 2];
            for ((tile, half), filled) in tiles.iter_mut().zip(&mut halves).zip(&mut self.filled) {
                let whole = half.len() == HEIGHT;
                if !whole {
                    filled[..half.len()].copy_from_slice(half);
                }
                *tile = if whole { half.as_mut_ptr() } else { filled.as_mut_ptr() };
            }
            let left = left[BLOCK * at..].as_ptr();
            let weights = Weights { at: right.as_ptr(), panels, ahead, lines };
            // SAFETY: the tiles have their shape. Of the left side it reads `panels` times 32 rows, `rows` apart, which are there as asserted
            // above; of the right side all; and it reads and writes sixteen rows of each half of the result, which is that long or
            // lies in `filled`.
            unsafe { multiply(left, rows * size_of::<HalfRow>(), weights, tiles) };
            ahead = ahead.wrapping_add(panels * lines * 64);
            for (half, filled) in halves.iter_mut().zip(&self.filled) {
                if half.len() < HEIGHT {
                    half.copy_from_slice(&filled[..half.len()]);
                }
            }
        }
    }
}

/// The right side of a product.
#[derive(Clone, Copy)]
struct Weights {
    at: *const HalfRows,
    /// How many inputs, in 32.
    panels: usize,
    /// What is asked for meanwhile: nothing is read there.
    ahead: *const u8,
    /// How many lines of the cache for each panel, at least one.
    lines: usize,
}

/// 32 rows by 32 outputs, in four tiles; two hold rows of the left side, two the weights.
///
/// # Safety
/// The tiles of this thread have their shape; 32 rows of the left side at every step, all weights and sixteen rows of each result are
/// there.
unsafe fn multiply(
    left: *const HalfRow,
    step: usize,
    right: Weights,
    [upper, lower]: [*mut Row; 2],
) {
    // SAFETY: as the caller promises; a prefetch cannot fault, whatever the address.
    unsafe {
        asm!(
            "tileloadd tmm0, [{upper} + {wide}]",
            "tileloadd tmm1, [{upper} + {wide} + 64]",
            "tileloadd tmm2, [{lower} + {wide}]",
            "tileloadd tmm3, [{lower} + {wide} + 64]",
            "2:",
            "tileloadd tmm6, [{right} + {wide}]",
            "tileloadd tmm4, [{left} + {narrow}]",
            "tileloadd tmm7, [{right} + {wide} + 64]",
            "tileloadd tmm5, [{left} + {narrow} + 1024]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "mov {line}, {lines}",
            "3:",
            "prefetcht1 [{ahead}]",
            "add {ahead}, 64",
            "dec {line}",
            "jnz 3b",
            "add {left}, {step}",
            "add {right}, 2048",
            "dec {panels}",
            "jnz 2b",
            "tilestored [{upper} + {wide}], tmm0",
            "tilestored [{upper} + {wide} + 64], tmm1",
            "tilestored [{lower} + {wide}], tmm2",
            "tilestored [{lower} + {wide} + 64], tmm3",
            left = inout(reg) left => _,
            right = inout(reg) right.at => _,
            panels = inout(reg) right.panels => _,
            ahead = inout(reg) right.ahead => _,
            line = out(reg) _,
            lines = in(reg) right.lines,
            step = in(reg) step,
            upper = in(reg) upper,
            lower = in(reg) lower,
            wide = in(reg) size_of::<Row>(),
            narrow = in(reg) size_of::<HalfRow>(),
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}
