//! Rows in one bit a value, and in a second where one does not tell enough.
//!
//! A turned value `o` is about `alpha s`, where `s` is its sign. With a second bit it is about `beta (2 s + t)`, where `t` is `s` if `o` is
//! large for its row and `-s` if not: one of four steps, -3, -1, 1 and 3. Both bits are looked up in the same tables, so the second is
//! read only where the first leaves too much.

use std::ops::Range;

use super::kernel::{Estimates, Group, Kernel};
use super::layout::{GROUP, NIBBLE, Nibbles, head, pairs};
use super::probe::BitProbe;
use super::signs::{RowBits, Signs};

/// A bit of each value of rows, or of some of each row's values.
#[derive(Debug, Clone)]
struct Plane {
    /// Nibbles of a row, halved.
    pairs: usize,
    /// `[groups, pairs]`.
    nibbles: Vec<Nibbles>,
}

impl Plane {
    fn new(pairs: usize, groups: usize) -> Self {
        Self { pairs, nibbles: Vec::with_capacity(groups * pairs) }
    }

    fn add_group(&mut self) {
        self.nibbles.resize(self.nibbles.len() + self.pairs, [0; 32]);
    }

    fn set(&mut self, group: usize, at: usize, nibbles: &[u8]) {
        for (pair, nibbles) in self.group_mut(group).iter_mut().zip(nibbles.chunks(2)) {
            for (half, nibble) in nibbles.iter().enumerate() {
                pair[16 * half + at % 16] |= nibble << (NIBBLE * (at / 16));
            }
        }
    }

    /// Overwrites a row with zeros.
    fn wipe(&mut self, group: usize, at: usize) {
        let keep = if at < 16 { 0xf0 } else { 0x0f };
        for pair in self.group_mut(group) {
            pair[at % 16] &= keep;
            pair[16 + at % 16] &= keep;
        }
    }

    fn group(&self, group: usize) -> &[Nibbles] {
        &self.nibbles[group * self.pairs..(group + 1) * self.pairs]
    }

    fn group_mut(&mut self, group: usize) -> &mut [Nibbles] {
        &mut self.nibbles[group * self.pairs..(group + 1) * self.pairs]
    }
}

/// Rows in one bit a value, in the order in which they were added.
#[derive(Debug, Clone)]
pub(super) struct Bits {
    rows: usize,
    /// Those of the first values, apart from the others: most searches of many rows read no more.
    head: Plane,
    rest: Plane,
    /// Each group's rows: what is to be multiplied with a sum of the probe's values, signed as a row's bits say.
    alphas: Vec<[f32; GROUP]>,
    /// Each group's rows: what is to be added.
    bases: Vec<[f32; GROUP]>,
}

impl Bits {
    /// Those of many rows, to be read in steps.
    pub(super) fn in_steps(dim: usize, rows: usize) -> Self {
        Self::new(head(dim), dim, rows)
    }

    fn new(head: usize, dim: usize, rows: usize) -> Self {
        let groups = rows.div_ceil(GROUP);
        Self {
            rows: 0,
            head: Plane::new(head, groups),
            rest: Plane::new(pairs(dim) - head, groups),
            alphas: Vec::with_capacity(groups),
            bases: Vec::with_capacity(groups),
        }
    }

    /// Those of all these rows, in order, to be read whole.
    pub(super) fn of<'a>(dim: usize, rows: impl ExactSizeIterator<Item = &'a Signs>) -> Self {
        let mut bits = Self::new(0, dim, rows.len());
        rows.for_each(|row| bits.push(row));
        bits
    }

    pub(super) fn len(&self) -> usize {
        self.rows
    }

    pub(super) fn bytes(&self) -> usize {
        let nibbles = size_of_val(&*self.head.nibbles) + size_of_val(&*self.rest.nibbles);
        nibbles + size_of_val(&*self.alphas) + size_of_val(&*self.bases)
    }

    /// Adds those of another behind whole groups.
    pub(super) fn append(&mut self, other: &Self) {
        debug_assert!(self.rows.is_multiple_of(GROUP), "rows would be left out");
        self.rows += other.rows;
        self.head.nibbles.extend_from_slice(&other.head.nibbles);
        self.rest.nibbles.extend_from_slice(&other.rest.nibbles);
        self.alphas.extend_from_slice(&other.alphas);
        self.bases.extend_from_slice(&other.bases);
    }

    pub(super) fn push(&mut self, row: &Signs) {
        let (group, at) = (self.rows / GROUP, self.rows % GROUP);
        if at == 0 {
            self.head.add_group();
            self.rest.add_group();
            self.alphas.push([0.0; GROUP]);
            self.bases.push([0.0; GROUP]);
        }
        self.rows += 1;
        self.alphas[group][at] = row.first.alpha;
        self.bases[group][at] = row.base;
        let (head, rest) = row.first.nibbles.split_at(2 * self.head.pairs);
        self.head.set(group, at, head);
        self.rest.set(group, at, rest);
    }

    /// Overwrites a row with zeros.
    pub(super) fn wipe(&mut self, row: usize) {
        let (group, at) = (row / GROUP, row % GROUP);
        self.alphas[group][at] = 0.0;
        self.bases[group][at] = 0.0;
        self.head.wipe(group, at);
        self.rest.wipe(group, at);
    }

    /// Whether there is a first step that does not read all.
    pub(super) fn have_steps(&self) -> bool {
        self.head.pairs > 0
    }

    /// About how similar the probe is to each row of a group, up to what is the same for all rows of the gallery. Rows that are not
    /// there have an estimate too.
    #[inline]
    pub(super) fn estimates(&self, kernel: Kernel, probe: &BitProbe, group: usize) -> Estimates {
        kernel.estimate(&self.whole(probe, group))
    }

    /// The highest estimate of each of some groups.
    pub(super) fn peaks(&self, kernel: Kernel, probe: &BitProbe, groups: Range<usize>) -> Vec<f32> {
        let mut peaks = Vec::with_capacity(groups.len());
        kernel.peaks(
            groups,
            #[inline(always)]
            |group| self.whole(probe, group),
            &mut peaks,
        );
        peaks
    }

    /// The same for groups behind one another, by what is read first of them: the bits of the first values, as if the others were like
    /// them, where there are steps.
    #[inline]
    pub(super) fn begin(
        &self,
        kernel: Kernel,
        probe: &BitProbe,
        groups: Range<usize>,
        values: &mut Vec<[f32; GROUP]>,
        peaks: &mut Vec<f32>,
    ) {
        if self.have_steps() {
            kernel.estimate_all(
                groups,
                #[inline(always)]
                |group| self.by_head(probe, group),
                values,
                peaks,
            );
        } else {
            kernel.estimate_all(
                groups,
                #[inline(always)]
                |group| self.whole(probe, group),
                values,
                peaks,
            );
        }
    }

    /// The same by all first bits, where `so_far` are the estimates that [`Bits::begin`] gave.
    #[inline]
    pub(super) fn go_on(
        &self,
        kernel: Kernel,
        probe: &BitProbe,
        group: usize,
        so_far: &[f32; GROUP],
    ) -> Estimates {
        let bases = &self.bases[group];
        let so_far = std::array::from_fn(|at| bases[at] + probe.share * (so_far[at] - bases[at]));
        kernel.estimate(&Group {
            parts: [(self.rest.group(group), &probe.tables[self.head.pairs..]), (&[], &[])],
            step: probe.step,
            offset: probe.offset - probe.head_offset,
            alphas: &self.alphas[group],
            bases: &so_far,
        })
    }

    #[inline(always)]
    fn by_head<'a>(&'a self, probe: &'a BitProbe, group: usize) -> Group<'a> {
        Group {
            parts: [(self.head.group(group), &probe.tables[..self.head.pairs]), (&[], &[])],
            step: probe.step / probe.share,
            offset: probe.head_offset / probe.share,
            alphas: &self.alphas[group],
            bases: &self.bases[group],
        }
    }

    #[inline(always)]
    fn whole<'a>(&'a self, probe: &'a BitProbe, group: usize) -> Group<'a> {
        let (head, rest) = probe.tables.split_at(self.head.pairs);
        Group {
            parts: [(self.head.group(group), head), (self.rest.group(group), rest)],
            step: probe.step,
            offset: probe.offset,
            alphas: &self.alphas[group],
            bases: &self.bases[group],
        }
    }
}

/// The second bits of rows.
#[derive(Debug, Clone)]
pub(super) struct SecondBits {
    rows: usize,
    plane: Plane,
    /// Each group's rows: what is to be multiplied with a sum of the probe's values, signed as a row's second bits say.
    betas: Vec<[f32; GROUP]>,
}

impl SecondBits {
    pub(super) fn new(dim: usize, rows: usize) -> Self {
        let groups = rows.div_ceil(GROUP);
        Self { rows: 0, plane: Plane::new(pairs(dim), groups), betas: Vec::with_capacity(groups) }
    }

    pub(super) fn bytes(&self) -> usize {
        size_of_val(&*self.plane.nibbles) + size_of_val(&*self.betas)
    }

    /// Adds those of another behind whole groups.
    pub(super) fn append(&mut self, other: &Self) {
        self.rows += other.rows;
        self.plane.nibbles.extend_from_slice(&other.plane.nibbles);
        self.betas.extend_from_slice(&other.betas);
    }

    pub(super) fn push(&mut self, row: &RowBits) {
        let (group, at) = (self.rows / GROUP, self.rows % GROUP);
        if at == 0 {
            self.plane.add_group();
            self.betas.push([0.0; GROUP]);
        }
        self.rows += 1;
        self.betas[group][at] = row.alpha;
        self.plane.set(group, at, &row.nibbles);
    }

    /// Overwrites a row with zeros.
    pub(super) fn wipe(&mut self, row: usize) {
        self.betas[row / GROUP][row % GROUP] = 0.0;
        self.plane.wipe(row / GROUP, row % GROUP);
    }

    /// Estimates by both bits, where `rough` are those by the first ones, `first`.
    #[inline]
    pub(super) fn refine(
        &self,
        kernel: Kernel,
        probe: &BitProbe,
        group: usize,
        (first, rough): (&Bits, &[f32; GROUP]),
    ) -> Estimates {
        let (alphas, bases, betas) =
            (&first.alphas[group], &first.bases[group], &self.betas[group]);
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
        kernel.estimate(&Group {
            parts: [(self.plane.group(group), &probe.tables), (&[], &[])],
            step: probe.step,
            offset: probe.offset,
            alphas: betas,
            bases: &so_far,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::encoder::Encoder;
    use super::super::layout::share;
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

    /// Estimates of a group by the first bits of its first values, by all first bits, and by both.
    fn steps(run: &Run, kernel: Kernel, probe: &BitProbe, group: usize) -> [[f32; GROUP]; 3] {
        let whole = run.bits.estimates(kernel, probe, group).values;
        let (mut begun, mut peaks) = (Vec::new(), Vec::new());
        run.bits.begin(kernel, probe, group..group + 1, &mut begun, &mut peaks);
        let head = begun[0];
        let first = match run.bits.have_steps() {
            true => run.bits.go_on(kernel, probe, group, &head).values,
            false => head,
        };
        assert!(first.iter().zip(whole).all(|(a, b)| (a - b).abs() < 1e-4), "{first:?} {whole:?}");
        let both = run.second.refine(kernel, probe, group, (&run.bits, &first)).values;
        [head, first, both]
    }

    fn rows(dim: usize, count: usize) -> impl Strategy<Value = Vec<Vec<f32>>> {
        prop::collection::vec(prop::collection::vec(-1.0_f32..1.0, dim), count)
    }

    /// Any length, with rows in several groups.
    fn case() -> impl Strategy<Value = (Vec<Vec<f32>>, Vec<f32>)> {
        (prop_oneof![1_usize..200, 384_usize..600], 1_usize..80).prop_flat_map(|(dim, count)| {
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
                let got = run.bits.estimates(kernel, &probe, at / GROUP).values[at % GROUP];
                if at == rows.len() / 2 {
                    prop_assert_eq!(got, 0.0);
                    let got = steps(&run, kernel, &probe, at / GROUP).map(|by| by[at % GROUP]);
                    prop_assert_eq!(got, [0.0; 3]);
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

                let [head, _, got] = steps(&run, kernel, &probe, at / GROUP).map(|by| by[at % GROUP]);
                let read = (share(dim) * dim as f32).round() as usize;
                let part = of.iter().zip(&turned).take(read).map(signed).sum::<f32>() / share(dim);
                let expected = alpha * part + similarity(row, &encoder.mean);
                prop_assert!((head - expected).abs() <= allowed / share(dim), "{head} {expected}");

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
        let (kernel, dim) = (Kernel::new(), 512);
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
        let mut off = [Vec::new(), Vec::new(), Vec::new()];
        for _ in 0..20 {
            let query = unit();
            let probe = BitProbe::new(kernel, &encoder, &query);
            let same = similarity(&encoder.mean, &query) - similarity(&encoder.mean, &encoder.mean);
            for group in 0..rows.len() / GROUP {
                let steps = steps(&run, kernel, &probe, group);
                for (read, estimates) in steps.iter().enumerate() {
                    for (at, got) in estimates.iter().enumerate() {
                        let row = group * GROUP + at;
                        let exact = similarity(&rows[row], &query);
                        let error = probe.deviation(signs[row].errors[read]);
                        off[read].push((got + same - exact) / error);
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
        let share = |signs: &Signs| signs.errors[2] / signs.errors[1];
        let share = signs.iter().map(share).sum::<f32>() / signs.len() as f32;
        assert!((0.46..0.51).contains(&share), "{share}");
    }
}
