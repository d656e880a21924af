//! An order of templates in which those that are alike lie together (k-means).

use std::sync::atomic::{AtomicBool, Ordering};

use rayon::prelude::*;

use super::bits::Bits;
use super::encoder::Encoder;
use super::kernel::Kernel;
use super::lists::{ends, within};
use super::probe::BitProbe;
use super::shortlist::{Shortlist, highest};
use super::signs::Signs;
use super::template::Packed;

/// Templates of a list, on average: about as many as a person has, so that most people have a list. At 64 a list, one in 25 of those that
/// belong to a probe lay where no search of a few lists looks; at 10 none of 10,000.
const LIST: usize = 10;
/// Times that every template is put with the centre closest to it.
const ROUNDS: usize = 4;
/// Centres that are compared exactly.
const COMPARED: usize = 8;
/// One pivot in so many is looked into for the centres closest to a template.
const LOOKED_INTO_ONE_IN: usize = 16;
/// One template in so many lies in no list, those that lie furthest from where their list does: who looks for them looks elsewhere.
const STRAY_ONE_IN: usize = 32;

/// Lists of templates.
pub(super) struct Arranged {
    /// Places of the templates, list by list, and of those in none.
    pub(super) order: Vec<u32>,
    /// Templates in each list.
    pub(super) sizes: Vec<u32>,
}

/// `None` when told to stop.
pub(super) fn arrange(
    kernel: Kernel,
    encoder: &Encoder,
    templates: &[Packed<'_>],
    stop: &AtomicBool,
) -> Option<Arranged> {
    let lists = templates.len().div_ceil(LIST);
    let mut centres: Vec<Vec<f32>> =
        templates.iter().step_by(LIST).map(|template| template.values(kernel)).collect();
    let mut of = closest(kernel, encoder, templates, &centres, None, stop)?;
    for _ in 1..ROUNDS {
        move_to_means(kernel, &mut centres, templates, &of);
        of = closest(kernel, encoder, templates, &centres, Some(&of), stop)?;
    }
    move_to_means(kernel, &mut centres, templates, &of);
    let strays = strays(kernel, encoder, templates, &centres, &of);
    strays.iter().for_each(|stray| of[*stray as usize] = u32::MAX);
    let mut order: Vec<u32> = (0..templates.len() as u32).collect();
    // Stable, so that the order is the same every time.
    order.sort_by_key(|at| of[*at as usize]);
    let mut sizes = sizes(lists, &of);
    sizes.retain(|size| *size > 0);
    Some(Arranged { order, sizes })
}

/// How many lie in each of so many parts, where `of` says in which; those in none of them are not counted.
fn sizes(parts: usize, of: &[u32]) -> Vec<u32> {
    let mut sizes = vec![0; parts];
    for part in of {
        if let Some(size) = sizes.get_mut(*part as usize) {
            *size += 1;
        }
    }
    sizes
}

/// The templates whose ways from the mean of all are least like that of their list.
fn strays(
    kernel: Kernel,
    encoder: &Encoder,
    templates: &[Packed<'_>],
    centres: &[Vec<f32>],
    of: &[u32],
) -> Vec<u32> {
    let likeness = |(template, list): (&Packed<'_>, &u32)| {
        let [way, list] = [&template.values(kernel), &centres[*list as usize]]
            .map(|values| encoder.centred(values));
        let lengths = (kernel.dot(&way, &way) * kernel.dot(&list, &list)).sqrt();
        kernel.dot(&way, &list) / lengths.max(f32::MIN_POSITIVE)
    };
    let likeness: Vec<f32> = templates.par_iter().zip(of).map(likeness).collect();
    let mut by_likeness: Vec<u32> = (0..templates.len() as u32).collect();
    let strays = templates.len() / STRAY_ONE_IN;
    if strays > 0 {
        let least = |a: &u32, b: &u32| {
            likeness[*a as usize].total_cmp(&likeness[*b as usize]).then(a.cmp(b))
        };
        by_likeness.select_nth_unstable_by(strays - 1, least);
    }
    by_likeness.truncate(strays);
    by_likeness
}

/// Moves each centre to the mean of the templates closest to it; one without any stays.
fn move_to_means(kernel: Kernel, centres: &mut [Vec<f32>], templates: &[Packed<'_>], of: &[u32]) {
    let mut counts = vec![0_u32; centres.len()];
    let mut sums: Vec<Vec<f32>> = centres.iter().map(|centre| vec![0.0; centre.len()]).collect();
    for (template, list) in templates.iter().zip(of) {
        counts[*list as usize] += 1;
        let sum = &mut sums[*list as usize];
        let values = template.values(kernel);
        sum.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
    }
    for ((centre, sum), count) in centres.iter_mut().zip(sums).zip(&counts) {
        if *count > 0 {
            *centre = sum.into_iter().map(|value| value / *count as f32).collect();
        }
    }
}

/// The centre closest to each template, or one that is almost as close, and no further than the one in `before`.
fn closest(
    kernel: Kernel,
    encoder: &Encoder,
    templates: &[Packed<'_>],
    centres: &[Vec<f32>],
    before: Option<&[u32]>,
    stop: &AtomicBool,
) -> Option<Vec<u32>> {
    let halves: Vec<f32> = centres.par_iter().map(|c| 0.5 * kernel.dot(c, c)).collect();
    let among = Centres::new(kernel, encoder, centres, &halves);
    let closest = |(at, template): (usize, &Packed<'_>)| {
        if stop.load(Ordering::Relaxed) {
            return None;
        }
        let template = template.values(kernel);
        let probe = BitProbe::new(kernel, encoder, &template);
        let near = among.near(kernel, &probe, COMPARED);
        let exact = |centre: u32| {
            let at = centre as usize;
            (kernel.dot(&template, &centres[at]) - halves[at], centre)
        };
        let best = |a: &(f32, u32), b: &(f32, u32)| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1));
        let before = before.map(|before| before[at]);
        near.chain(before).map(exact).max_by(best).map(|(_, centre)| centre)
    };
    templates.par_iter().enumerate().map(closest).collect()
}

/// Centres, put with a few of them that lead to the others, so that nobody is compared with all.
struct Centres {
    /// Every centre, those of one pivot after those of another.
    bits: Bits,
    /// Which they are.
    order: Vec<u32>,
    pivots: Bits,
    /// The place behind the last centre of each pivot.
    ends: Vec<u32>,
}

impl Centres {
    fn new(kernel: Kernel, encoder: &Encoder, centres: &[Vec<f32>], halves: &[f32]) -> Self {
        // |x - c|² is least where x·c - c·c/2 is largest.
        let signs =
            |(centre, half): (&Vec<f32>, &f32)| Signs::new(kernel, encoder, centre).lowered(*half);
        let signs: Vec<Signs> = centres.par_iter().zip(halves).map(signs).collect();
        let dim = encoder.mean.len();
        let step = ((centres.len() as f32).sqrt() as usize).max(1);
        let pivots = Bits::of(dim, signs.iter().step_by(step));
        let pivot = |centre: &Vec<f32>| {
            let probe = BitProbe::new(kernel, encoder, centre);
            highest(kernel, &probe, &pivots, 1).next().unwrap_or(0)
        };
        let of: Vec<u32> = centres.par_iter().map(pivot).collect();
        let mut order: Vec<u32> = (0..centres.len() as u32).collect();
        order.sort_by_key(|centre| of[*centre as usize]);
        let bits = Bits::of(dim, order.iter().map(|centre| &signs[*centre as usize]));
        Self { bits, order, ends: ends(&sizes(pivots.len(), &of)), pivots }
    }

    /// About the `count` closest to a probe.
    fn near(&self, kernel: Kernel, probe: &BitProbe, count: usize) -> impl Iterator<Item = u32> {
        let looked_into = self.pivots.len().div_ceil(LOOKED_INTO_ONE_IN);
        let mut list = Shortlist::new(count, 0.0);
        for pivot in highest(kernel, probe, &self.pivots, looked_into) {
            let centres = within(&self.ends, pivot as usize);
            list.scan(kernel, probe, &self.bits, centres, 0, |_| true);
        }
        list.close().into_iter().map(|(_, place)| self.order[place as usize])
    }
}

#[cfg(test)]
mod tests {
    use super::super::template::PackedTemplate;
    use super::*;
    use rand::{Rng, SeedableRng};

    #[test]
    fn those_that_are_alike_lie_together() {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(4);
        let mut random = |scale: f32| -> Vec<f32> {
            (0..64).map(|_| scale * rng.random_range(-1.0_f32..1.0)).collect()
        };
        let centres: Vec<Vec<f32>> = (0..100).map(|_| random(1.0)).collect();
        // One of each in turn, so that neighbours are strangers.
        let mut rows: Vec<Vec<f32>> = (0..2_000)
            .map(|at| centres[at % 100].iter().zip(random(0.4)).map(|(c, n)| c + n).collect())
            .collect();
        // Somebody who is like nobody.
        rows[777] = random(1.0);
        let kernel = Kernel::new();
        let own: Vec<PackedTemplate> = rows.iter().map(|row| PackedTemplate::new(row)).collect();
        let templates: Vec<Packed<'_>> = own.iter().map(PackedTemplate::view).collect();
        let encoder = Encoder::fitted(64, rows.len(), |at| rows[at].clone());
        let go_on = AtomicBool::new(false);
        let Arranged { order, sizes } = arrange(kernel, &encoder, &templates, &go_on).unwrap();
        let mut all = order.clone();
        all.sort_unstable();
        assert!(all.into_iter().eq(0..2_000), "each once");
        let listed = 2_000 - 2_000 / STRAY_ONE_IN;
        assert_eq!(sizes.iter().sum::<u32>() as usize, listed);
        assert!(sizes.len() <= 2_000 / LIST && sizes.iter().all(|size| *size > 0), "{sizes:?}");
        let order = &order[..listed];
        let beside = order.windows(2).filter(|pair| pair[0] % 100 == pair[1] % 100).count();
        assert!(
            beside > 1_400,
            "{beside} of {listed} lie beside one of their own; by chance 20 would"
        );
        assert!(!order.contains(&777), "it lies in a list of others");
        let stop = AtomicBool::new(true);
        assert!(arrange(kernel, &encoder, &templates, &stop).is_none());
    }
}
