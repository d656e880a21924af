//! Templates as an index keeps them: 24 bits a value, which is all that single precision holds of the largest, in two parts. The upper
//! eight are what scans read; the lower sixteen are read for the few rows that are compared exactly.

use super::kernel::{Kernel, largest, whole};

/// What the lower part counts of one step of the upper.
const PARTS: f32 = 65_536.0;

/// A template of its own.
#[derive(Debug, Clone)]
pub(in crate::gallery) struct PackedTemplate {
    codes: Vec<i8>,
    parts: Vec<i16>,
    scale: f32,
}

impl PackedTemplate {
    /// values: `[dim]`. Each is kept to within 6e-8 of the largest one's size, half of what single precision tells apart there: a product with
    /// a unit vector changes by less than it does in being rounded.
    pub(in crate::gallery) fn new(values: &[f32]) -> Self {
        /// Added to a number, it leaves the nearest whole one in the low bits.
        const ROUND: f64 = 6_755_399_441_055_744.0;
        let (codes, parts) = (vec![0; values.len()], vec![0; values.len()]);
        let mut template = Self { codes, parts, scale: 0.0 };
        Kernel::new().widest(
            #[inline(always)]
            || {
                let scale = largest(values) / 127.0;
                let kept = (scale / PARTS).is_normal();
                template.scale = if kept { scale } else { 0.0 };
                let steps = if kept { f64::from(PARTS) / f64::from(scale) } else { 0.0 };
                let kept = template.codes.iter_mut().zip(&mut template.parts);
                for (value, (code, part)) in values.iter().zip(kept) {
                    let whole = (f64::from(*value) * steps + ROUND).to_bits() as i32;
                    // Halfway between two steps belongs to the upper, so that what is left fits sixteen bits.
                    *code = ((whole + 0x8000) >> 16) as i8;
                    *part = whole as i16;
                }
            },
        );
        template
    }

    pub(super) fn view(&self) -> Packed<'_> {
        Packed { codes: &self.codes, parts: &self.parts, scale: self.scale }
    }
}

/// A template, wherever it lies. Value `i` is `scale * (codes[i] + parts[i] / 65536)`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Packed<'a> {
    /// `[dim]`, -127 to 127: each value in steps of `scale`, to the nearest.
    pub(super) codes: &'a [i8],
    /// `[dim]`: what that leaves, in parts of a step.
    pub(super) parts: &'a [i16],
    pub(super) scale: f32,
}

impl Packed<'_> {
    /// Its product with `query`, `[dim]`. The same bits on every machine.
    #[inline]
    pub(super) fn dot(self, kernel: Kernel, query: &[f32]) -> f32 {
        kernel.dot_parts(query, self.codes, self.parts) * (self.scale / PARTS)
    }

    /// `[dim]`.
    pub(super) fn values(self, kernel: Kernel) -> Vec<f32> {
        let scale = self.scale / PARTS;
        kernel.widest(
            #[inline(always)]
            || self.codes.iter().zip(self.parts).map(|(c, p)| whole(*c, *p) * scale).collect(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_template_keeps_its_values_and_the_nearest_codes(
            values in prop::collection::vec(-1.0_f32..1.0, 1..600),
            size in prop::sample::select(vec![0.0_f32, 1e-30, 1e-3, 1.0, 7.0]),
        ) {
            let values: Vec<f32> = values.into_iter().map(|value| value * size).collect();
            let kernel = Kernel::new();
            let template = PackedTemplate::new(&values);
            let packed = template.view();
            let largest = values.iter().fold(0.0_f32, |l, v| l.max(v.abs()));
            for ((value, back), code) in values.iter().zip(packed.values(kernel)).zip(packed.codes) {
                // Half a part, and rounding on the way back; what is smaller than all that a part may be is nothing.
                prop_assert!((value - back).abs() <= 1.25e-7 * largest + 1e-31, "{value} {back}");
                let off = (back - f32::from(*code) * packed.scale).abs();
                prop_assert!(off <= 0.5 * packed.scale * (1.0 + 1e-4), "{back} is {code}");
            }
        }

        #[test]
        fn products_are_those_of_the_values(
            pairs in prop::collection::vec((-1.0_f32..1.0, -1.0_f32..1.0), 1..600),
        ) {
            let kernel = Kernel::new();
            let length = pairs.iter().map(|p| p.1 * p.1).sum::<f32>().sqrt().max(1e-3);
            let query: Vec<f32> = pairs.iter().map(|p| p.0 / length).collect();
            let values: Vec<f32> = pairs.iter().map(|p| p.1 / length).collect();
            let template = PackedTemplate::new(&values);
            let plain: f64 = query.iter().zip(&values).map(|(q, v)| f64::from(*q) * f64::from(*v)).sum();
            let size: f64 = query.iter().zip(&values).map(|(q, v)| f64::from(q * v).abs()).sum();
            let got = f64::from(template.view().dot(kernel, &query));
            prop_assert!((got - plain).abs() <= 5e-7 * size.max(1.0), "{got} {plain}");
        }
    }

    #[test]
    fn the_largest_values_fit() {
        let kernel = Kernel::new();
        for largest in [1.0_f32, 0.1, 0.333_333_34, 0.999_999_94, 1.0e-30, 3.0e30] {
            let values = [largest, -largest, largest / 2.0, 0.0];
            let template = PackedTemplate::new(&values);
            assert_eq!(template.view().codes, [127, -127, 64, 0], "{largest}");
            let back = template.view().values(kernel);
            let near = |(a, b): (&f32, &f32)| (a - b).abs() <= 1.25e-7 * largest;
            assert!(values.iter().zip(&back).all(near), "{values:?} {back:?}");
        }
    }
}
