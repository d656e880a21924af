//! Vectors by the signs of their turned values.
//!
//! Two vectors' signs differ in about `angle / pi` of all (Charikar, "Similarity estimation techniques from rounding algorithms", STOC 2002), which
//! takes next to nothing to count. Those that do not differ in many are compared with the probe's values in four bits each (Gao and Long,
//! "RaBitQ", SIGMOD 2024, section 3.3), which says as much as looking them up in tables does.

use super::kernel::{Count, Hamming, Kernel, Marked, PLANES, Planes, WORD, Words, largest};
use super::layout::GROUP;
use super::shortlist::Shortlist;

/// Rows that are looked at closely: so many, and one of so many others.
const NEAR: usize = 100;
/// Rows that are compared with one another, at equal steps, to know how many bits those differ in.
const COMPARED: usize = 512;

/// Words of so many signs; an even number, so that they can be read two at a time.
fn words(dim: usize) -> usize {
    2 * dim.div_ceil(2 * WORD)
}

/// The signs of a turned vector's values.
#[derive(Debug)]
pub(super) struct SimHash {
    words: Vec<u32>,
    /// What a sum of a probe's values, signed as these are, is to be multiplied with, to be the product on average.
    alpha: f32,
}

impl SimHash {
    /// turned: `[dim]`.
    pub(super) fn new(turned: &[f32]) -> Self {
        let sum: f32 = turned.iter().map(|value| value.abs()).sum();
        let square: f32 = turned.iter().map(|value| value * value).sum();
        Self { words: signs(turned), alpha: if sum > 0.0 { square / sum } else { 0.0 } }
    }
}

/// How many pairs of some of these differ in so many bits or fewer, for every number of bits.
fn differing(dim: usize, hashes: &[SimHash]) -> Vec<u32> {
    let step = hashes.len().div_ceil(COMPARED).max(1);
    let some: Vec<&SimHash> = hashes.iter().step_by(step).collect();
    let mut pairs = vec![0; dim + 1];
    for (at, a) in some.iter().enumerate() {
        for b in &some[..at] {
            let words = a.words.iter().zip(&b.words);
            pairs[words.map(|(a, b)| (a ^ b).count_ones() as usize).sum::<usize>()] += 1;
        }
    }
    let mut sum = 0;
    for pairs in &mut pairs {
        sum += *pairs;
        *pairs = sum;
    }
    pairs
}

#[inline(always)]
fn signs(turned: &[f32]) -> Vec<u32> {
    let mut words = vec![0; words(turned.len())];
    for (word, values) in words.iter_mut().zip(turned.chunks(WORD)) {
        for (at, value) in values.iter().enumerate() {
            *word |= u32::from(*value > 0.0) << at;
        }
    }
    words
}

/// A probe, ready to be compared with hashes.
#[derive(Debug)]
pub(super) struct HashProbe {
    words: Vec<u32>,
    /// Its values in steps, in two's complement.
    planes: Vec<Planes>,
    step: f32,
    /// Of all values, in steps.
    sum: i64,
}

impl HashProbe {
    /// turned: `[dim]`.
    pub(super) fn new(kernel: Kernel, turned: &[f32]) -> Self {
        kernel.widest(
            #[inline(always)]
            || Self::of(turned),
        )
    }

    #[inline(always)]
    fn of(turned: &[f32]) -> Self {
        const MOST: f32 = ((1 << (PLANES - 1)) - 1) as f32;
        let step = (largest(turned) / MOST).max(f32::MIN_POSITIVE);
        let words = signs(turned);
        let mut planes = vec![[0; PLANES]; words.len() / 2];
        let mut sum = 0;
        for (planes, values) in planes.iter_mut().zip(turned.chunks(2 * WORD)) {
            let mut codes = [0_i8; 2 * WORD];
            for (code, value) in codes.iter_mut().zip(values) {
                *code = (value / step).round_ties_even() as i8;
            }
            sum += codes.iter().map(|code| i64::from(*code)).sum::<i64>();
            for (plane, bits) in planes.iter_mut().enumerate() {
                for (at, code) in codes.iter().enumerate() {
                    *bits |= u64::from(*code as u8 >> plane & 1) << at;
                }
            }
        }
        Self { words, planes, step, sum }
    }

    /// The sum of its values, each signed as a row's hash says, of the bits that this shares with each plane.
    #[inline(always)]
    fn signed(&self, [one, two, four, minus_eight]: Planes) -> f32 {
        let positive = (one + 2 * two + 4 * four) as i64 - 8 * minus_eight as i64;
        self.step * (2 * positive - self.sum) as f32
    }
}

/// The hashes of many vectors.
#[derive(Debug)]
pub(super) struct SimHashes {
    rows: usize,
    dim: usize,
    /// `[groups, words]`.
    words: Vec<Words>,
    /// `[groups]`: [`SimHash::alpha`].
    alphas: Vec<[f32; GROUP]>,
    /// [`differing`]: says in how many bits so many of them differ from a probe, about.
    differing: Vec<u32>,
}

impl SimHashes {
    /// hashes: of vectors of `dim` values, one at least.
    pub(super) fn new(dim: usize, hashes: &[SimHash]) -> Self {
        let (each, groups) = (words(dim), hashes.len().div_ceil(GROUP));
        let mut words = vec![[0; GROUP]; each * groups];
        let mut alphas = vec![[0.0; GROUP]; groups];
        for (row, hash) in hashes.iter().enumerate() {
            let (group, at) = (row / GROUP, row % GROUP);
            alphas[group][at] = hash.alpha;
            let words = words[group * each..].iter_mut();
            words.zip(&hash.words).for_each(|(words, word)| words[at] = *word);
        }
        Self { rows: hashes.len(), dim, words, alphas, differing: differing(dim, hashes) }
    }

    pub(super) fn bytes(&self) -> usize {
        let differing = size_of_val(&*self.differing);
        size_of_val(&*self.words) + size_of_val(&*self.alphas) + differing
    }

    /// About the `count` closest to a probe, and any as close as the last of them; all, if there are no more.
    pub(super) fn nearest(&self, kernel: Kernel, probe: &HashProbe, count: usize) -> Vec<u32> {
        let count = count.min(self.rows);
        let mut looked_at = (NEAR + self.rows / NEAR).max(4 * count);
        loop {
            let all = looked_at >= self.rows;
            let bar = if all { self.dim } else { self.bar(looked_at) };
            let found = kernel.count(Scan { hashes: self, probe, count, bar: bar as u32 });
            if all || found.len() >= count {
                return found;
            }
            looked_at *= 4;
        }
    }

    /// In how many bits so many rows differ at most from one that is none of them, about.
    fn bar(&self, rows: usize) -> usize {
        let pairs = self.differing.last().map_or(0, |pairs| *pairs as usize);
        let pairs = (rows * pairs / self.rows) as u32;
        self.differing.partition_point(|differing| *differing < pairs)
    }
}

/// A look for the `count` closest of those that differ from the probe in `bar` bits at most.
struct Scan<'a> {
    hashes: &'a SimHashes,
    probe: &'a HashProbe,
    count: usize,
    bar: u32,
}

impl Count for Scan<'_> {
    type Output = Vec<u32>;

    #[inline(always)]
    fn by(self, hamming: impl Hamming) -> Vec<u32> {
        let Self { hashes, probe, count, bar } = self;
        let mut list = Shortlist::new(count, 0.0);
        let groups = hashes.words.chunks_exact(words(hashes.dim)).zip(&hashes.alphas);
        for (first, (group, alphas)) in (0..).step_by(GROUP).zip(groups) {
            let distances = hamming.distances(group, &probe.words);
            for at in Marked(hamming.within(&distances, bar)) {
                let row = first + at;
                let estimate = alphas[at] * probe.signed(hamming.shared(group, at, &probe.planes));
                // Those that fill up the last group have hashes too.
                if row < hashes.rows {
                    list.offer(estimate, row as u32);
                }
            }
        }
        list.close().into_iter().map(|(_, row)| row).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples::{near, unit};
    use super::*;
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    fn hashed(rows: &[Vec<f32>]) -> SimHashes {
        let hashes: Vec<SimHash> = rows.iter().map(|row| SimHash::new(row)).collect();
        SimHashes::new(rows[0].len(), &hashes)
    }

    /// Some rows, and a probe of the same length, which may exceed what is counted in bytes.
    fn case() -> impl Strategy<Value = (Vec<Vec<f32>>, Vec<f32>)> {
        (prop_oneof![1_usize..200, 950_usize..1_100], 1_usize..80).prop_flat_map(|(dim, rows)| {
            let vector = prop::collection::vec(-1.0_f32..1.0, dim);
            (prop::collection::vec(vector.clone(), rows), vector)
        })
    }

    proptest! {
        #[test]
        fn all_instructions_find_what_is_closest_of_what_differs_little(
            (mut rows, probe) in case(),
            count in 1_usize..40,
            share in 0.3_f32..0.7,
        ) {
            let dim = probe.len();
            // One that differs in all.
            rows.push(probe.iter().map(|value| -value).collect());
            let bar = (share * dim as f32) as u32;
            let step = largest(&probe) / 7.0;
            let code = |value: &f32| (value / step).round_ties_even();
            let differ = |(a, b): &(&f32, &f32)| (**a > 0.0) != (**b > 0.0);
            let estimate = |row: &Vec<f32>| {
                let sum: f32 = row.iter().map(|value| value.abs()).sum();
                let square: f32 = row.iter().map(|value| value * value).sum();
                let signed = |(value, probe): (&f32, &f32)| if *value > 0.0 { code(probe) } else { -code(probe) };
                // Whole numbers, so that their order does not matter.
                let alpha = if sum > 0.0 { square / sum } else { 0.0 };
                alpha * (step * row.iter().zip(&probe).map(signed).sum::<f32>())
            };
            let close = |row: &Vec<f32>| row.iter().zip(&probe).filter(differ).count() <= bar as usize;
            let mut expected: Vec<f32> = rows.iter().filter(|row| close(row)).map(estimate).collect();
            expected.sort_by(|a, b| b.total_cmp(a));
            expected.truncate(count);
            let hashes = hashed(&rows);
            for kernel in Kernel::every() {
                let probe = &HashProbe::new(kernel, &probe);
                let found = kernel.count(Scan { hashes: &hashes, probe, count, bar });
                prop_assert!(found.iter().all(|row| close(&rows[*row as usize])), "{:?}", kernel);
                let mut found: Vec<f32> = found.iter().map(|row| estimate(&rows[*row as usize])).collect();
                found.sort_by(|a, b| b.total_cmp(a));
                // The last may have others that are as close.
                prop_assert!(found.len() >= expected.len());
                found.truncate(count);
                prop_assert_eq!(&found, &expected, "{:?}", kernel);
            }
        }
    }

    #[test]
    fn who_is_near_is_found_and_as_many_as_are_wanted() {
        const DIM: usize = 128;
        let mut rng = ChaCha8Rng::seed_from_u64(9);
        let kernel = Kernel::new();
        let rows: Vec<Vec<f32>> = (0..5_000).map(|_| unit(&mut rng, DIM)).collect();
        let hashes = hashed(&rows);
        let nearest = |hashes: &SimHashes, probe: &[f32], count| {
            hashes.nearest(kernel, &HashProbe::new(kernel, probe), count)
        };
        let mut found = 0;
        for (row, vector) in (0_u32..).zip(&rows).step_by(10) {
            // A cosine of 0.7 on average.
            let some = nearest(&hashes, &near(&mut rng, vector, 1.0), 16);
            assert_eq!(some.len(), 16);
            found += usize::from(some.contains(&row));
        }
        assert!(found >= 495, "{found} of 500");

        // Nobody is near.
        let centre = unit(&mut rng, DIM);
        let alike: Vec<Vec<f32>> = (0..100).map(|_| near(&mut rng, &centre, 0.3)).collect();
        let opposite: Vec<f32> = centre.iter().map(|value| -value).collect();
        let alike = hashed(&alike);
        assert_eq!(nearest(&alike, &opposite, 16).len(), 16);
        let mut all = nearest(&alike, &opposite, 1_000);
        all.sort_unstable();
        assert!(all.into_iter().eq(0..100));
    }
}
