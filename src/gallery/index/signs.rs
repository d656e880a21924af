//! What the bits of a template are.

use super::encoder::Encoder;
use super::kernel::Kernel;
use super::layout::{NIBBLE, share};

/// What a value is large from, in its row's root mean square: of values spread normally, four equal steps that begin there lose least (Max,
/// "Quantizing for minimum distortion", 1960).
pub(super) const LARGE: f32 = 0.995_7;

/// A bit of each value of a row.
#[derive(Debug)]
pub(super) struct RowBits {
    /// Those of four turned values each.
    pub(super) nibbles: Vec<u8>,
    pub(super) alpha: f32,
}

/// What a template's bits say of it.
#[derive(Debug)]
pub(super) struct Signs {
    pub(super) first: RowBits,
    pub(super) second: RowBits,
    pub(super) base: f32,
    /// How long what is left out is: by the first bits of the first values, by all first bits, by both.
    pub(super) errors: [f32; 3],
}

impl Signs {
    /// template: `[dim]`.
    ///
    /// With `alpha = o·o / c·o`, where `c` is what its bits say of the turned template `o`, the product of `alpha c` with any `q` is that of
    /// `o` on average over all ways to turn. Of signs alone `c·o` is the sum of `|o|`.
    pub(super) fn new(kernel: Kernel, encoder: &Encoder, template: &[f32]) -> Self {
        let turned = encoder.turned(kernel, template);
        let Sums { square, sum, from, large, count } = kernel.widest(
            #[inline(always)]
            || Sums::of(&turned),
        );
        let right = |product: f32| if product > 0.0 { square / product } else { 0.0 };
        let (alpha, beta) = (right(sum), right(sum + 2.0 * large));
        let dim = turned.len() as f32;
        let error = |alpha: f32, length: f32| (alpha * alpha * length - square).max(0.0).sqrt();
        let [first, second] = kernel.widest(
            #[inline(always)]
            || both(&turned, from),
        );
        Self {
            first: RowBits { nibbles: first, alpha },
            second: RowBits { nibbles: second, alpha: beta },
            // x·q = (x - m)·(q - m) + x·m and what is the same for all x.
            base: kernel.dot(template, &encoder.mean),
            errors: [
                error(alpha, dim / share(turned.len())),
                error(alpha, dim),
                error(beta, dim + 8.0 * count),
            ],
        }
    }

    /// The same, with estimates lower by `by`.
    pub(super) fn lowered(self, by: f32) -> Self {
        Self { base: self.base - by, ..self }
    }
}

/// What a turned template's values add up to.
struct Sums {
    /// Of squares.
    square: f32,
    /// Of magnitudes.
    sum: f32,
    /// Where large values begin.
    from: f32,
    /// Of magnitudes of large values.
    large: f32,
    /// Large values.
    count: f32,
}

impl Sums {
    #[inline(always)]
    fn of(turned: &[f32]) -> Self {
        const LANES: usize = 16;
        let [mut squares, mut sums, mut larges, mut counts] = [[0.0_f32; LANES]; 4];
        for part in turned.chunks(LANES) {
            for ((value, square), sum) in part.iter().zip(&mut squares).zip(&mut sums) {
                *square += value * value;
                *sum += value.abs();
            }
        }
        let square: f32 = squares.iter().sum();
        let from = LARGE * (square / turned.len().max(1) as f32).sqrt();
        for part in turned.chunks(LANES) {
            for ((value, large), count) in part.iter().zip(&mut larges).zip(&mut counts) {
                let is = value.abs() > from;
                *large += if is { value.abs() } else { 0.0 };
                *count += if is { 1.0 } else { 0.0 };
            }
        }
        let [sum, large, count] = [sums, larges, counts].map(|lanes| lanes.iter().sum());
        Self { square, sum, from, large, count }
    }
}

/// The first and the second bits of values that are large from `from` on, four in a nibble.
#[inline(always)]
fn both(values: &[f32], from: f32) -> [Vec<u8>; 2] {
    let nibbles = values.len().div_ceil(NIBBLE);
    let mut both = [vec![0; nibbles], vec![0; nibbles]];
    let [first, second] = &mut both;
    for ((four, first), second) in values.chunks(NIBBLE).zip(first).zip(second) {
        for (at, value) in four.iter().enumerate() {
            let positive = *value > 0.0;
            *first |= u8::from(positive) << at;
            *second |= u8::from((value.abs() > from) == positive) << at;
        }
    }
    both
}
