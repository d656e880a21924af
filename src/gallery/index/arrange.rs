//! An order of templates in which those that are alike lie together (k-means).

use std::sync::atomic::{AtomicBool, Ordering};

use rayon::prelude::*;

use super::bits::{BitProbe, Bits};
use super::encoder::Encoder;
use super::kernel::Kernel;
use super::rough::Shortlist;
use super::signs::Signs;
use super::template::Packed;

/// Templates of a list, on average: about as many as a person has, so that most people have a list. At 64 a list, one in 25 of those that
/// belong to a probe lay where no search of a few lists looks; at 10 none of 10,000.
const LIST: usize = 10;
/// Times that every template is put with the centre closest to it.
const ROUNDS: usize = 4;
/// Centres that are compared exactly.
const COMPARED: usize = 16;

/// Lists of templates.
pub(super) struct Arranged {
    /// Places of the templates, list by list.
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
    let mut of = closest(kernel, encoder, templates, &centres, stop)?;
    for _ in 1..ROUNDS {
        move_to_means(kernel, &mut centres, templates, &of);
        of = closest(kernel, encoder, templates, &centres, stop)?;
    }
    let mut order: Vec<u32> = (0..templates.len() as u32).collect();
    // Stable, so that the order is the same every time.
    order.sort_by_key(|at| of[*at as usize]);
    let mut sizes = vec![0; lists];
    of.iter().for_each(|list| sizes[*list as usize] += 1);
    Some(Arranged { order, sizes })
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

/// The centre closest to each template.
fn closest(
    kernel: Kernel,
    encoder: &Encoder,
    templates: &[Packed<'_>],
    centres: &[Vec<f32>],
    stop: &AtomicBool,
) -> Option<Vec<u32>> {
    // |x - c|² is least where x·c - c·c/2 is largest.
    let halves: Vec<f32> = centres.par_iter().map(|c| 0.5 * kernel.dot(c, c)).collect();
    let signs: Vec<Signs> = centres
        .par_iter()
        .zip(&halves)
        .map(|(centre, half)| Signs::new(kernel, encoder, centre).lowered(*half))
        .collect();
    let bits = Bits::of(encoder.mean.len(), &signs);
    let closest = |template: &Packed<'_>| {
        if stop.load(Ordering::Relaxed) {
            return None;
        }
        let template = template.values(kernel);
        let probe = BitProbe::new(kernel, encoder, &template);
        let mut list = Shortlist::new(COMPARED, 0.0);
        list.scan(kernel, &probe, &bits, 0..bits.len(), 0, |_| true);
        let exact = |(_, centre): &(f32, u32)| {
            let at = *centre as usize;
            (kernel.dot(&template, &centres[at]) - halves[at], *centre)
        };
        let best = |a: &(f32, u32), b: &(f32, u32)| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1));
        list.close().iter().map(exact).max_by(best).map(|(_, centre)| centre)
    };
    templates.par_iter().map(closest).collect()
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
        let rows: Vec<Vec<f32>> = (0..2_000)
            .map(|at| centres[at % 100].iter().zip(random(0.4)).map(|(c, n)| c + n).collect())
            .collect();
        let kernel = Kernel::new();
        let own: Vec<PackedTemplate> = rows.iter().map(|row| PackedTemplate::new(row)).collect();
        let templates: Vec<Packed<'_>> = own.iter().map(PackedTemplate::view).collect();
        let encoder = Encoder::fitted(64, rows.len(), |at| rows[at].clone());
        let go_on = AtomicBool::new(false);
        let Arranged { order, sizes } = arrange(kernel, &encoder, &templates, &go_on).unwrap();
        let mut all = order.clone();
        all.sort_unstable();
        assert!(all.into_iter().eq(0..2_000), "each once");
        assert_eq!((sizes.len(), sizes.iter().sum::<u32>()), (2_000 / LIST, 2_000));
        let beside = order.windows(2).filter(|pair| pair[0] % 100 == pair[1] % 100).count();
        assert!(
            beside > 1_400,
            "{beside} of 1,999 lie beside one of their own; by chance 20 would"
        );
        let stop = AtomicBool::new(true);
        assert!(arrange(kernel, &encoder, &templates, &stop).is_none());
    }
}
