//! What vectors are compared by, compiled for the widest registers that the machine has.

mod dots;
mod hamming;
mod lookup;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::ops::Range;

use pulp::{NullaryFnOnce, Simd};

use super::layout::GROUP;
pub(super) use dots::{largest, whole};
pub(super) use hamming::{Count, Hamming, PLANES, Planes, WORD, Words};
use lookup::LookUp;
pub(super) use lookup::{Estimates, Group, HIGHEST};
#[cfg(target_arch = "x86_64")]
use x86::Counting;

/// The one way that templates are compared, so that an exact scan and a re-ranked walk give the same
/// bits: lanes are summed in one order, whatever the width of the machine's vectors.
#[derive(Debug, Clone, Copy)]
pub(in crate::gallery) struct Kernel(Vectors);

/// The widest that the machine has; the binary itself is built for any x86-64.
#[derive(Debug, Clone, Copy)]
enum Vectors {
    #[cfg(target_arch = "x86_64")]
    Avx512(pulp::x86::V4, Option<Counting>),
    #[cfg(target_arch = "x86_64")]
    Avx2(pulp::x86::V3),
    Baseline,
}

/// Any processor's instructions.
#[derive(Debug, Clone, Copy)]
struct Portable;

/// Work that is compiled for vectors of one kind.
struct Work<F>(F);

impl<R, F: FnOnce() -> R> NullaryFnOnce for Work<F> {
    type Output = R;

    #[inline(always)]
    fn call(self) -> R {
        (self.0)()
    }
}

/// What an expression gives, compiled for each kind of vectors, with the instructions of those that the machine has.
macro_rules! widest {
    ($kernel:expr, |$instructions:ident| $work:expr) => {
        match $kernel.0 {
            #[cfg(target_arch = "x86_64")]
            Vectors::Avx512($instructions, _) => Simd::vectorize(
                $instructions,
                Work(
                    #[inline(always)]
                    || $work,
                ),
            ),
            #[cfg(target_arch = "x86_64")]
            Vectors::Avx2($instructions) => Simd::vectorize(
                $instructions,
                Work(
                    #[inline(always)]
                    || $work,
                ),
            ),
            Vectors::Baseline => {
                let $instructions = Portable;
                $work
            }
        }
    };
}

impl Kernel {
    pub(in crate::gallery) fn new() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if let Some(simd) = pulp::x86::V4::try_new() {
                return Self(Vectors::Avx512(simd, Counting::try_new()));
            }
            if let Some(simd) = pulp::x86::V3::try_new() {
                return Self(Vectors::Avx2(simd));
            }
        }
        Self(Vectors::Baseline)
    }

    /// One for each kind of vectors that the machine has.
    #[cfg(test)]
    pub(super) fn every() -> Vec<Self> {
        let mut every = vec![Self(Vectors::Baseline)];
        #[cfg(target_arch = "x86_64")]
        {
            every.extend(pulp::x86::V3::try_new().map(|simd| Self(Vectors::Avx2(simd))));
            every.extend(pulp::x86::V4::try_new().map(|simd| Self(Vectors::Avx512(simd, None))));
            every.push(Self::new());
        }
        every
    }

    /// Sum of products of two slices of the same length.
    pub(in crate::gallery) fn dot(self, a: &[f32], b: &[f32]) -> f32 {
        widest!(self, |instructions| dots::dot(instructions, a, b))
    }

    /// Dot product of two int8 codes of the same length. Exact: 127² · 4096 fits an i32.
    pub(in crate::gallery) fn dot_codes(self, a: &[i8], b: &[i8]) -> i32 {
        widest!(self, |instructions| dots::dot_codes(instructions, a, b))
    }

    /// Sum of products of a vector with a template in 24 bits a value, in parts of its step. All slices are of the same length.
    pub(in crate::gallery) fn dot_parts(self, a: &[f32], codes: &[i8], parts: &[i16]) -> f32 {
        widest!(self, |instructions| dots::dot_parts(instructions, a, codes, parts))
    }

    /// Multiplies `values` by `signs`, both of one length, and turns those in `part`, whose length is a power of two, by
    /// Walsh and Hadamard's matrix.
    pub(super) fn mix(self, values: &mut [f32], signs: &[f32], part: Range<usize>) {
        self.widest(
            #[inline(always)]
            || {
                values.iter_mut().zip(signs).for_each(|(value, sign)| *value *= sign);
                walsh_hadamard(&mut values[part]);
            },
        );
    }

    /// What a group's rows are estimated at.
    #[inline]
    pub(super) fn estimate(self, group: &Group<'_>) -> Estimates {
        widest!(self, |instructions| instructions.estimate(group))
    }

    /// The same for many groups, behind one another: what their rows are estimated at, and the highest of each. `group` must be inlined.
    #[inline]
    pub(super) fn estimate_all<'a>(
        self,
        groups: Range<usize>,
        group: impl Fn(usize) -> Group<'a>,
        values: &mut Vec<[f32; GROUP]>,
        peaks: &mut Vec<f32>,
    ) {
        widest!(self, |instructions| {
            for at in groups {
                let estimates = instructions.estimate(&group(at));
                values.push(estimates.values);
                peaks.push(estimates.peak);
            }
        });
    }

    /// The highest of each alone.
    #[inline]
    pub(super) fn peaks<'a>(
        self,
        groups: Range<usize>,
        group: impl Fn(usize) -> Group<'a>,
        peaks: &mut Vec<f32>,
    ) {
        widest!(self, |instructions| {
            for at in groups {
                peaks.push(instructions.estimate(&group(at)).peak);
            }
        });
    }

    /// What `work` gives, whose loops are compiled for instructions that count bits where there are any.
    pub(super) fn count<W: Count>(self, work: W) -> W::Output {
        #[cfg(target_arch = "x86_64")]
        if let Vectors::Avx512(_, Some(counting)) = self.0 {
            return counting.vectorize(Work(
                #[inline(always)]
                || work.by(counting),
            ));
        }
        widest!(self, |instructions| work.by(instructions))
    }

    /// Which values are not below `bar`.
    #[inline]
    pub(super) fn reaching(self, values: &[f32; GROUP], bar: f32) -> Marked {
        Marked(widest!(self, |instructions| instructions.reaching(values, bar)))
    }

    /// Runs a loop compiled for the widest vectors of this machine. It must be inlined into `work`.
    #[inline(always)]
    pub(super) fn widest<R>(self, work: impl FnOnce() -> R) -> R {
        widest!(self, |_instructions| work())
    }
}

/// Some rows of a group, a bit each; gives their places.
#[derive(Debug, Clone, Copy)]
pub(super) struct Marked(pub(super) u32);

impl Marked {
    pub(super) fn many(self) -> usize {
        self.0.count_ones() as usize
    }
}

impl Iterator for Marked {
    type Item = usize;

    #[inline]
    fn next(&mut self) -> Option<usize> {
        let at = self.0.trailing_zeros() as usize;
        self.0 &= self.0.wrapping_sub(1);
        (at < GROUP).then_some(at)
    }
}

/// Unscaled butterflies, then one scaling that makes them a rotation.
#[inline(always)]
fn walsh_hadamard(values: &mut [f32]) {
    const WITHIN: usize = 8;
    // Those of the closest neighbours on a register at a time.
    let (registers, _) = values.as_chunks_mut::<WITHIN>();
    let mut half = 1;
    if !registers.is_empty() {
        for register in registers {
            within::<1>(register);
            within::<2>(register);
            within::<4>(register);
        }
        half = WITHIN;
    }
    while half < values.len() {
        for pair in values.chunks_exact_mut(2 * half) {
            let (low, high) = pair.split_at_mut(half);
            for (a, b) in low.iter_mut().zip(high) {
                (*a, *b) = (*a + *b, *a - *b);
            }
        }
        half *= 2;
    }
    let scale = 1.0 / (values.len() as f32).sqrt();
    values.iter_mut().for_each(|value| *value *= scale);
}

#[inline(always)]
fn within<const HALF: usize>(values: &mut [f32; 8]) {
    let other: [f32; 8] = std::array::from_fn(|at| values[at ^ HALF]);
    let signed: [f32; 8] =
        std::array::from_fn(|at| if at & HALF == 0 { values[at] } else { -values[at] });
    *values = std::array::from_fn(|at| other[at] + signed[at]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_reaches_a_bar_is_marked(values in prop::array::uniform32(-1.0_f32..1.0), bar in -1.0_f32..1.0) {
            let expected: Vec<usize> = (0..GROUP).filter(|at| values[*at] >= bar).collect();
            for kernel in Kernel::every() {
                let marked = kernel.reaching(&values, bar);
                prop_assert_eq!(marked.many(), expected.len());
                prop_assert_eq!(marked.collect::<Vec<_>>(), &*expected, "{:?}", kernel);
                prop_assert_eq!(kernel.reaching(&values, f32::NEG_INFINITY).many(), GROUP);
            }
        }
    }
}
