//! The run-time choice of instruction set: one binary for every x86-64, whose baseline has neither AVX nor fused
//! multiply-add, and for other processors. Knows nothing of what is computed.

use pulp::{NullaryFnOnce, Simd, WithSimd};

/// Runs `f` compiled for the widest vectors of this machine. Loops must be inlined into `f`: code called through a plain
/// function is compiled for the baseline.
#[inline]
pub fn vectorised<R>(f: impl FnOnce() -> R) -> R {
    dispatch(Closure(f))
}

/// A closure as pulp takes it. It must be inlined, and what it calls.
pub struct Closure<F>(pub F);

impl<R, F: FnOnce() -> R> NullaryFnOnce for Closure<F> {
    type Output = R;

    #[inline(always)]
    fn call(self) -> R {
        (self.0)()
    }
}

/// The widest vectors of this machine, for what is written for some of them by name.
#[derive(Debug, Clone, Copy)]
pub enum Vectors {
    /// AVX-512.
    #[cfg(target_arch = "x86_64")]
    Avx512(pulp::x86::V4),
    /// AVX2.
    #[cfg(target_arch = "x86_64")]
    Avx2(pulp::x86::V3),
    /// Whatever else there is.
    Others,
}

impl Vectors {
    /// Those of this machine.
    #[inline]
    #[must_use]
    pub fn widest() -> Self {
        // pulp's own choice leaves AVX2 out unless its feature `x86-v3` is on, which gemm does not ask.
        #[cfg(target_arch = "x86_64")]
        {
            if let Some(simd) = pulp::x86::V4::try_new() {
                return Self::Avx512(simd);
            }
            if let Some(simd) = pulp::x86::V3::try_new() {
                return Self::Avx2(simd);
            }
        }
        Self::Others
    }
}

/// Runs `op` with the widest vectors of this machine.
#[inline]
pub fn dispatch<Op: WithSimd>(op: Op) -> Op::Output {
    match Vectors::widest() {
        #[cfg(target_arch = "x86_64")]
        Vectors::Avx512(simd) => Simd::vectorize(simd, op),
        #[cfg(target_arch = "x86_64")]
        Vectors::Avx2(simd) => Simd::vectorize(simd, op),
        Vectors::Others => pulp::Arch::new().dispatch(op),
    }
}
