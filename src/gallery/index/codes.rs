//! Templates in 24 bits a value, of which the upper eight alone say how far a similarity can be off at most, and in one bit a value, which
//! says about how far.

use super::encoder::Encoder;
use super::kernel::{Affine, Kernel};
use super::template::Packed;

/// Rows whose bits lie together, so that one instruction looks up a part of each.
pub(super) const GROUP: usize = 32;

/// Values that one look-up sums up.
const NIBBLE: usize = 4;

/// Two nibbles of each of [`GROUP`] rows. Byte `16 p + i` has nibble `p` of row `i` below and of row `i + 16` above.
pub(super) type Nibbles = [u8; 32];

/// Rows in one bit a value, in the order in which they were added.
#[derive(Debug, Clone, Default)]
pub(super) struct Bits {
    dim: usize,
    rows: usize,
    /// `[rows / GROUP, dim / 8]`, both rounded up.
    nibbles: Vec<Nibbles>,
    /// Each group's rows: what is to be multiplied with a sum of the probe's values, signed as a row's bits say.
    alphas: Vec<[f32; GROUP]>,
    /// Each group's rows: what is to be added then.
    bases: Vec<[f32; GROUP]>,
}

impl Bits {
    fn new(dim: usize, rows: usize) -> Self {
        let groups = rows.div_ceil(GROUP);
        Self {
            dim,
            rows: 0,
            nibbles: Vec::with_capacity(groups * pairs(dim)),
            alphas: Vec::with_capacity(groups),
            bases: Vec::with_capacity(groups),
        }
    }

    /// Those of all these rows, in order.
    pub(super) fn of(dim: usize, rows: &[Signs]) -> Self {
        let mut bits = Self::new(dim, rows.len());
        rows.iter().for_each(|row| bits.push(row));
        bits
    }

    pub(super) fn len(&self) -> usize {
        self.rows
    }

    pub(super) fn bytes(&self) -> usize {
        let affine = size_of_val(&*self.alphas) + size_of_val(&*self.bases);
        size_of_val(&*self.nibbles) + affine
    }

    fn push(&mut self, row: &Signs) {
        let (group, at) = (self.rows / GROUP, self.rows % GROUP);
        if at == 0 {
            self.nibbles.resize((group + 1) * pairs(self.dim), [0; 32]);
            self.alphas.push([0.0; GROUP]);
            self.bases.push([0.0; GROUP]);
        }
        self.rows += 1;
        self.alphas[group][at] = row.alpha;
        self.bases[group][at] = row.base;
        for (pair, nibbles) in self.group_mut(group).iter_mut().zip(row.nibbles.chunks(2)) {
            for (half, nibble) in nibbles.iter().enumerate() {
                pair[16 * half + at % 16] |= nibble << (NIBBLE * (at / 16));
            }
        }
    }

    /// Overwrites a row with zeros.
    fn wipe(&mut self, row: usize) {
        let (group, at) = (row / GROUP, row % GROUP);
        self.alphas[group][at] = 0.0;
        self.bases[group][at] = 0.0;
        let keep = if at < 16 { 0xf0 } else { 0x0f };
        for pair in self.group_mut(group) {
            pair[at % 16] &= keep;
            pair[16 + at % 16] &= keep;
        }
    }

    fn group_mut(&mut self, group: usize) -> &mut [Nibbles] {
        let pairs = pairs(self.dim);
        &mut self.nibbles[group * pairs..(group + 1) * pairs]
    }

    /// About how similar the probe is to each row of a group, up to what is the same for all rows of the gallery, and a bit
    /// for each row for which that is not below `bar`. Rows that are not there have an estimate too.
    #[inline]
    pub(super) fn estimates(
        &self,
        kernel: Kernel,
        probe: &BitProbe,
        group: usize,
        bar: f32,
    ) -> ([f32; GROUP], u32) {
        let pairs = pairs(self.dim);
        let nibbles = &self.nibbles[group * pairs..(group + 1) * pairs];
        let affine = Affine {
            step: probe.step,
            offset: probe.offset,
            alphas: &self.alphas[group],
            bases: &self.bases[group],
        };
        kernel.estimate(nibbles, &probe.tables, &affine, bar)
    }
}

/// Rows in 24 bits, in two parts, and in one bit a value, in the order in which they were added.
#[derive(Debug, Clone, Default)]
pub(super) struct Codes {
    dim: usize,
    /// `[rows, dim]`, each row scaled so that its largest value is 127.
    values: Vec<i8>,
    /// `[rows, dim]`: what that leaves.
    parts: Vec<i16>,
    /// `[rows]`: what a row's values are to be multiplied by.
    scales: Vec<f32>,
    pub(super) bits: Bits,
}

impl Codes {
    pub(super) fn new(dim: usize, rows: usize) -> Self {
        Self {
            dim,
            values: Vec::with_capacity(rows * dim),
            parts: Vec::with_capacity(rows * dim),
            scales: Vec::with_capacity(rows),
            bits: Bits::new(dim, rows),
        }
    }

    pub(super) fn bytes(&self) -> usize {
        let scaled = size_of_val(&*self.parts) + size_of_val(&*self.scales);
        self.values.len() + scaled + self.bits.bytes()
    }

    pub(super) fn push(&mut self, row: Packed<'_>, signs: &Signs) {
        self.values.extend_from_slice(row.codes);
        self.parts.extend_from_slice(row.parts);
        self.scales.push(row.scale);
        self.bits.push(signs);
    }

    /// Overwrites a row with zeros.
    pub(super) fn wipe(&mut self, row: usize) {
        let at = row * self.dim..(row + 1) * self.dim;
        self.values[at.clone()].fill(0);
        self.parts[at].fill(0);
        self.scales[row] = 0.0;
        self.bits.wipe(row);
    }

    pub(super) fn row(&self, row: usize) -> Packed<'_> {
        let at = row * self.dim..(row + 1) * self.dim;
        Packed { codes: &self.values[at.clone()], parts: &self.parts[at], scale: self.scales[row] }
    }
}

fn pairs(dim: usize) -> usize {
    dim.div_ceil(2 * NIBBLE)
}

/// What a template's bits say of it.
#[derive(Debug)]
pub(super) struct Signs {
    /// The signs of four turned values each.
    nibbles: Vec<u8>,
    alpha: f32,
    base: f32,
    /// How long what the bits leave out is.
    pub(super) error: f32,
}

impl Signs {
    /// template: `[dim]`.
    ///
    /// The turned template `o` is about `alpha s` where `s` are its signs; with `alpha = o·o / sum |o|` the product of `o`
    /// with any `q` is right on average over all ways to turn.
    pub(super) fn new(kernel: Kernel, encoder: &Encoder, template: &[f32]) -> Self {
        let turned = encoder.turned(kernel, template);
        let (square, sum, nibbles) = kernel.widest(
            #[inline(always)]
            || signs(&turned),
        );
        let alpha = if sum > 0.0 { square / sum } else { 0.0 };
        // x·q = (x - m)·(q - m) + x·m and what is the same for all x.
        let base = kernel.dot(template, &encoder.mean);
        let error = (alpha * alpha * turned.len() as f32 - square).max(0.0).sqrt();
        Self { nibbles, alpha, base, error }
    }

    /// Those of a direction from the mean, whose estimates are its products with a probe's way from the mean.
    pub(super) fn direction(kernel: Kernel, encoder: &Encoder, direction: &[f32]) -> Self {
        let from_mean: Vec<f32> =
            direction.iter().zip(&encoder.mean).map(|(value, mean)| value + mean).collect();
        Self { base: 0.0, ..Self::new(kernel, encoder, &from_mean) }
    }

    /// The same, with estimates lower by `by`.
    pub(super) fn lowered(self, by: f32) -> Self {
        Self { base: self.base - by, ..self }
    }
}

/// Sum of squares, sum of magnitudes, and the signs of four values each.
#[inline(always)]
fn signs(turned: &[f32]) -> (f32, f32, Vec<u8>) {
    const LANES: usize = 16;
    let (mut square, mut sum) = ([0.0_f32; LANES], [0.0_f32; LANES]);
    for part in turned.chunks(LANES) {
        for ((value, square), sum) in part.iter().zip(&mut square).zip(&mut sum) {
            *square += value * value;
            *sum += value.abs();
        }
    }
    let sign = |(at, value): (usize, &f32)| u8::from(*value > 0.0) << at;
    let nibbles = turned.chunks(NIBBLE).map(|four| four.iter().enumerate().map(sign).sum());
    (square.iter().sum(), sum.iter().sum(), nibbles.collect())
}

/// Values scaled to -127..127, and what to multiply them by to get them back.
pub(super) fn eight_bits(kernel: Kernel, values: &[f32]) -> (Vec<i8>, f32) {
    kernel.widest(
        #[inline(always)]
        || {
            let largest = values.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
            if largest == 0.0 {
                return (vec![0; values.len()], 0.0);
            }
            let steps = 127.0 / largest;
            // Half away from zero; the cast cuts off.
            let round = |value: &f32| (value * steps + 0.5_f32.copysign(*value)) as i8;
            (values.iter().map(round).collect(), largest / 127.0)
        },
    )
}

/// A probe, ready to be compared with bits.
#[derive(Debug)]
pub(super) struct BitProbe {
    /// For two nibbles each: what every nibble adds, in steps, from the least that any can.
    tables: Vec<[u8; 32]>,
    step: f32,
    offset: f32,
    /// Standard deviation of an estimate from a row whose bits leave out 1.
    pub(super) deviation: f32,
}

impl BitProbe {
    /// query: `[dim]`.
    pub(super) fn new(kernel: Kernel, encoder: &Encoder, query: &[f32]) -> Self {
        let turned = encoder.turned(kernel, query);
        let dim = turned.len();
        // The sum of all look-ups fits 16 bits.
        let most = (usize::from(u16::MAX) / dim.div_ceil(NIBBLE).max(1)).min(255) as f32;
        let reach = |four: &[f32]| four.iter().map(|value| value.abs()).sum::<f32>();
        let widest = turned.chunks(NIBBLE).map(reach).fold(0.0_f32, f32::max);
        let step = (2.0 * widest / most).max(f32::MIN_POSITIVE);
        let mut tables = vec![[0; 32]; pairs(dim)];
        for (at, four) in turned.chunks(NIBBLE).enumerate() {
            let least = -reach(four);
            for nibble in 0..16_usize {
                let signed = |(at, value): (usize, &f32)| {
                    if nibble >> at & 1 == 1 { *value } else { -value }
                };
                let sum: f32 = four.iter().enumerate().map(signed).sum();
                tables[at / 2][16 * (at % 2) + nibble] = ((sum - least) / step).round() as u8;
            }
        }
        let offset = -turned.chunks(NIBBLE).map(reach).sum::<f32>();
        let length = turned.iter().map(|value| value * value).sum::<f32>().sqrt();
        Self { tables, step, offset, deviation: length / (dim.max(1) as f32).sqrt() }
    }
}

#[cfg(test)]
mod tests {
    use super::super::template::PackedTemplate;
    use super::*;
    use proptest::prelude::*;

    fn similarity(a: &[f32], b: &[f32]) -> f32 {
        a.iter().zip(b).map(|(a, b)| a * b).sum()
    }

    fn push(codes: &mut Codes, kernel: Kernel, encoder: &Encoder, row: &[f32]) -> Signs {
        let signs = Signs::new(kernel, encoder, row);
        codes.push(PackedTemplate::new(row).view(), &signs);
        signs
    }

    fn rows(dim: usize, count: usize) -> impl Strategy<Value = Vec<Vec<f32>>> {
        prop::collection::vec(prop::collection::vec(-1.0_f32..1.0, dim), count)
    }

    /// Any length, with rows in several groups.
    fn case() -> impl Strategy<Value = (Vec<Vec<f32>>, Vec<f32>)> {
        (1_usize..200, 1_usize..80).prop_flat_map(|(dim, count)| {
            (rows(dim, count), prop::collection::vec(-1.0_f32..1.0, dim))
        })
    }

    proptest! {
        #[test]
        fn turning_keeps_products((rows, query) in case()) {
            let (kernel, dim) = (Kernel::new(), query.len());
            let encoder = Encoder::fitted(dim, rows.len(), |at| rows[at].clone());
            let centred = |v: &[f32]| -> Vec<f32> { v.iter().zip(&encoder.mean).map(|(v, m)| v - m).collect() };
            let turned = encoder.turned(kernel, &query);
            for row in &rows {
                let before = similarity(&centred(row), &centred(&query));
                let after = similarity(&encoder.turned(kernel, row), &turned);
                prop_assert!((before - after).abs() < 1e-3, "{before} {after}");
            }
        }

        #[test]
        fn estimates_are_those_of_the_signs_written_out((rows, query) in case()) {
            let (kernel, dim) = (Kernel::new(), query.len());
            let encoder = Encoder::fitted(dim, rows.len(), |at| rows[at].clone());
            let mut codes = Codes::new(dim, rows.len());
            rows.iter().for_each(|row| drop(push(&mut codes, kernel, &encoder, row)));
            codes.wipe(rows.len() / 2);
            let probe = BitProbe::new(kernel, &encoder, &query);
            let turned = encoder.turned(kernel, &query);
            for (at, row) in rows.iter().enumerate() {
                let got = codes.bits.estimates(kernel, &probe, at / GROUP, 0.0).0[at % GROUP];
                if at == rows.len() / 2 {
                    prop_assert_eq!(got, 0.0);
                    prop_assert!(codes.row(at).values(kernel).iter().all(|value| *value == 0.0));
                    continue;
                }
                let of = encoder.turned(kernel, row);
                let sum: f32 = of.iter().map(|v| v.abs()).sum();
                let alpha = if sum > 0.0 { similarity(&of, &of) / sum } else { 0.0 };
                let signed = |(o, q): (&f32, &f32)| if *o > 0.0 { *q } else { -q };
                let expected = alpha * of.iter().zip(&turned).map(signed).sum::<f32>() + similarity(row, &encoder.mean);
                // Half a step for every look-up.
                let allowed = alpha * probe.step * 0.5 * dim.div_ceil(NIBBLE) as f32 + 1e-3;
                prop_assert!((got - expected).abs() <= allowed, "{got} {expected} {allowed}");
            }
        }
    }

    /// Over many random pairs: no bias, and the spread that is promised.
    #[test]
    fn estimates_are_right_on_average_and_as_far_off_as_they_say() {
        use rand::{Rng, SeedableRng};
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(3);
        let (kernel, dim) = (Kernel::new(), 256);
        let mut unit = || -> Vec<f32> {
            let row: Vec<f32> = (0..dim).map(|_| rng.random_range(-1.0..1.0)).collect();
            let length = similarity(&row, &row).sqrt();
            row.iter().map(|value| value / length).collect()
        };
        let rows: Vec<Vec<f32>> = (0..640).map(|_| unit()).collect();
        let encoder = Encoder::fitted(dim, rows.len(), |at| rows[at].clone());
        let mut codes = Codes::new(dim, rows.len());
        let signs: Vec<Signs> =
            rows.iter().map(|row| push(&mut codes, kernel, &encoder, row)).collect();
        let mut off = Vec::new();
        for _ in 0..20 {
            let query = unit();
            let probe = BitProbe::new(kernel, &encoder, &query);
            let same = similarity(&encoder.mean, &query) - similarity(&encoder.mean, &encoder.mean);
            for group in 0..rows.len() / GROUP {
                for (at, got) in
                    codes.bits.estimates(kernel, &probe, group, 0.0).0.iter().enumerate()
                {
                    let row = group * GROUP + at;
                    let exact = similarity(&rows[row], &query);
                    off.push((got + same - exact) / (probe.deviation * signs[row].error));
                }
            }
        }
        let mean = off.iter().sum::<f32>() / off.len() as f32;
        let deviation = (off.iter().map(|x| x * x).sum::<f32>() / off.len() as f32).sqrt();
        assert!(mean.abs() < 0.05 && (0.9..1.1).contains(&deviation), "{mean} {deviation}");
    }
}
