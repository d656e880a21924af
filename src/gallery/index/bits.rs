//! Rows in one bit a value, and in a second where one does not tell enough.
//!
//! A turned value `o` is about `alpha s`, where `s` is its sign. With a second bit it is about `beta (2 s + t)`, where `t` is `s` if `o` is
//! large for its row and `-s` if not: one of four steps, -3, -1, 1 and 3. Both bits are looked up in the same tables, so the second is
//! read only where the first leaves too much.

use super::encoder::Encoder;
use super::kernel::{Affine, Kernel};
use super::signs::{NIBBLE, RowBits, Signs};

/// Rows whose bits lie together, so that one instruction looks up a part of each.
pub(super) const GROUP: usize = 32;

/// Two nibbles of each of [`GROUP`] rows. Byte `16 p + i` has nibble `p` of row `i` below and of row `i + 16` above.
pub(super) type Nibbles = [u8; 32];

/// A bit of each value of rows.
#[derive(Debug, Clone)]
pub(super) struct Plane {
    /// Nibbles of a row, halved.
    pairs: usize,
    rows: usize,
    /// `[rows / GROUP, pairs]`, rounded up.
    nibbles: Vec<Nibbles>,
    /// Each group's rows: what is to be multiplied with a sum of the probe's values, signed as a row's bits say.
    alphas: Vec<[f32; GROUP]>,
}

impl Plane {
    pub(super) fn new(dim: usize, rows: usize) -> Self {
        let (pairs, groups) = (pairs(dim), rows.div_ceil(GROUP));
        let nibbles = Vec::with_capacity(groups * pairs);
        Self { pairs, rows: 0, nibbles, alphas: Vec::with_capacity(groups) }
    }

    pub(super) fn bytes(&self) -> usize {
        size_of_val(&*self.nibbles) + size_of_val(&*self.alphas)
    }

    /// Adds those of another behind whole groups.
    pub(super) fn append(&mut self, other: &Self) {
        debug_assert!(self.rows.is_multiple_of(GROUP), "rows would be left out");
        self.rows += other.rows;
        self.nibbles.extend_from_slice(&other.nibbles);
        self.alphas.extend_from_slice(&other.alphas);
    }

    pub(super) fn push(&mut self, row: &RowBits) {
        let (group, at) = (self.rows / GROUP, self.rows % GROUP);
        if at == 0 {
            self.nibbles.resize((group + 1) * self.pairs, [0; 32]);
            self.alphas.push([0.0; GROUP]);
        }
        self.rows += 1;
        self.alphas[group][at] = row.alpha;
        for (pair, nibbles) in self.group_mut(group).iter_mut().zip(row.nibbles.chunks(2)) {
            for (half, nibble) in nibbles.iter().enumerate() {
                pair[16 * half + at % 16] |= nibble << (NIBBLE * (at / 16));
            }
        }
    }

    /// Overwrites a row with zeros.
    pub(super) fn wipe(&mut self, row: usize) {
        let (group, at) = (row / GROUP, row % GROUP);
        self.alphas[group][at] = 0.0;
        let keep = if at < 16 { 0xf0 } else { 0x0f };
        for pair in self.group_mut(group) {
            pair[at % 16] &= keep;
            pair[16 + at % 16] &= keep;
        }
    }

    fn group_mut(&mut self, group: usize) -> &mut [Nibbles] {
        &mut self.nibbles[group * self.pairs..(group + 1) * self.pairs]
    }

    /// For each row of a group, its base and what the plane adds to it, and a bit for each for which that is not below `bar`.
    #[inline]
    fn estimates(
        &self,
        kernel: Kernel,
        probe: &BitProbe,
        group: usize,
        bases: &[f32; GROUP],
        bar: f32,
    ) -> ([f32; GROUP], u32) {
        let nibbles = &self.nibbles[group * self.pairs..(group + 1) * self.pairs];
        let (step, offset, alphas) = (probe.step, probe.offset, &self.alphas[group]);
        kernel.estimate(nibbles, &probe.tables, &Affine { step, offset, alphas, bases }, bar)
    }
}

/// Rows in one bit a value, in the order in which they were added.
#[derive(Debug, Clone)]
pub(super) struct Bits {
    signs: Plane,
    /// Each group's rows: what is to be added.
    bases: Vec<[f32; GROUP]>,
}

impl Bits {
    pub(super) fn new(dim: usize, rows: usize) -> Self {
        let bases = Vec::with_capacity(rows.div_ceil(GROUP));
        Self { signs: Plane::new(dim, rows), bases }
    }

    /// Those of all these rows, in order.
    pub(super) fn of(dim: usize, rows: &[Signs]) -> Self {
        let mut bits = Self::new(dim, rows.len());
        rows.iter().for_each(|row| bits.push(row));
        bits
    }

    pub(super) fn len(&self) -> usize {
        self.signs.rows
    }

    pub(super) fn bytes(&self) -> usize {
        self.signs.bytes() + size_of_val(&*self.bases)
    }

    /// Adds those of another behind whole groups.
    pub(super) fn append(&mut self, other: &Self) {
        self.signs.append(&other.signs);
        self.bases.extend_from_slice(&other.bases);
    }

    pub(super) fn push(&mut self, row: &Signs) {
        let (group, at) = (self.len() / GROUP, self.len() % GROUP);
        if at == 0 {
            self.bases.push([0.0; GROUP]);
        }
        self.bases[group][at] = row.base;
        self.signs.push(&row.first);
    }

    /// Overwrites a row with zeros.
    pub(super) fn wipe(&mut self, row: usize) {
        self.bases[row / GROUP][row % GROUP] = 0.0;
        self.signs.wipe(row);
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
        self.signs.estimates(kernel, probe, group, &self.bases[group], bar)
    }

    /// The same by two bits, of which `second` holds the other; `rough` are the estimates by the first.
    #[inline]
    pub(super) fn refined(
        &self,
        kernel: Kernel,
        probe: &BitProbe,
        group: usize,
        (second, rough): (&Plane, &[f32; GROUP]),
        bar: f32,
    ) -> ([f32; GROUP], u32) {
        let (alphas, bases, betas) =
            (&self.signs.alphas[group], &self.bases[group], &second.alphas[group]);
        // A rough estimate is `base + alpha S`, where `S` is the sum that the first bit signs; `base + 2 beta S` is wanted.
        let mut so_far = [0.0; GROUP];
        kernel.widest(
            #[inline(always)]
            || {
                for (at, so_far) in so_far.iter_mut().enumerate() {
                    let share = if alphas[at] > 0.0 { 2.0 * betas[at] / alphas[at] } else { 0.0 };
                    *so_far = bases[at] + share * (rough[at] - bases[at]);
                }
            },
        );
        second.estimates(kernel, probe, group, &so_far, bar)
    }
}

fn pairs(dim: usize) -> usize {
    dim.div_ceil(2 * NIBBLE)
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
    use super::super::planes::Run;
    use super::super::signs::LARGE;
    use super::*;
    use proptest::prelude::*;

    fn similarity(a: &[f32], b: &[f32]) -> f32 {
        a.iter().zip(b).map(|(a, b)| a * b).sum()
    }

    fn push(run: &mut Run, kernel: Kernel, encoder: &Encoder, row: &[f32]) -> Signs {
        let signs = Signs::new(kernel, encoder, row);
        run.push(&signs);
        signs
    }

    /// Estimates by two bits of a group.
    fn refined(run: &Run, kernel: Kernel, probe: &BitProbe, group: usize) -> [f32; GROUP] {
        let rough = run.bits.estimates(kernel, probe, group, 0.0).0;
        run.bits.refined(kernel, probe, group, (&run.second, &rough), 0.0).0
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
            let mut run = Run::new(dim, rows.len());
            rows.iter().for_each(|row| drop(push(&mut run, kernel, &encoder, row)));
            run.wipe(rows.len() / 2);
            let probe = BitProbe::new(kernel, &encoder, &query);
            let turned = encoder.turned(kernel, &query);
            for (at, row) in rows.iter().enumerate() {
                let got = run.bits.estimates(kernel, &probe, at / GROUP, 0.0).0[at % GROUP];
                if at == rows.len() / 2 {
                    prop_assert_eq!(got, 0.0);
                    prop_assert_eq!(refined(&run, kernel, &probe, at / GROUP)[at % GROUP], 0.0);
                    continue;
                }
                let of = encoder.turned(kernel, row);
                let sum: f32 = of.iter().map(|v| v.abs()).sum();
                let alpha = if sum > 0.0 { similarity(&of, &of) / sum } else { 0.0 };
                let signed = |(o, q): (&f32, &f32)| if *o > 0.0 { *q } else { -q };
                let expected = alpha * of.iter().zip(&turned).map(signed).sum::<f32>() + similarity(row, &encoder.mean);
                // Half a step for every look-up.
                let look_ups = probe.step * 0.5 * dim.div_ceil(NIBBLE) as f32;
                let allowed = alpha * look_ups + 1e-3;
                prop_assert!((got - expected).abs() <= allowed, "{got} {expected} {allowed}");

                let got = refined(&run, kernel, &probe, at / GROUP)[at % GROUP];
                let from = LARGE * (similarity(&of, &of) / dim as f32).sqrt();
                let steps: Vec<f32> = of
                    .iter()
                    .map(|v| if *v > 0.0 { 1.0 } else { -1.0 } * if v.abs() > from { 3.0 } else { 1.0 })
                    .collect();
                let product = similarity(&steps, &of);
                let beta = if product > 0.0 { similarity(&of, &of) / product } else { 0.0 };
                let expected = beta * similarity(&steps, &turned) + similarity(row, &encoder.mean);
                prop_assert!((got - expected).abs() <= 3.0 * beta * look_ups + 1e-3, "{got} {expected}");
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
        let mut run = Run::new(dim, rows.len());
        let signs: Vec<Signs> =
            rows.iter().map(|row| push(&mut run, kernel, &encoder, row)).collect();
        let mut off = [Vec::new(), Vec::new()];
        for _ in 0..20 {
            let query = unit();
            let probe = BitProbe::new(kernel, &encoder, &query);
            let same = similarity(&encoder.mean, &query) - similarity(&encoder.mean, &encoder.mean);
            for group in 0..rows.len() / GROUP {
                let by_one = run.bits.estimates(kernel, &probe, group, 0.0).0;
                let by_two = refined(&run, kernel, &probe, group);
                for (bits, estimates) in [by_one, by_two].iter().enumerate() {
                    for (at, got) in estimates.iter().enumerate() {
                        let row = group * GROUP + at;
                        let exact = similarity(&rows[row], &query);
                        let error = probe.deviation * signs[row].errors[bits];
                        off[bits].push((got + same - exact) / error);
                    }
                }
            }
        }
        for off in off {
            let mean = off.iter().sum::<f32>() / off.len() as f32;
            let deviation = (off.iter().map(|x| x * x).sum::<f32>() / off.len() as f32).sqrt();
            assert!(mean.abs() < 0.05 && (0.9..1.1).contains(&deviation), "{mean} {deviation}");
        }
        // What four steps leave of a normal distribution's variance is 0.119, what signs do is 1 - 2/pi, and an estimate that is right on
        // average leaves more: x / (1 - x).
        let share = |signs: &Signs| signs.errors[1] / signs.errors[0];
        let share = signs.iter().map(share).sum::<f32>() / signs.len() as f32;
        assert!((0.46..0.51).contains(&share), "{share}");
    }
}
