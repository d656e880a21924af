use std::collections::BTreeMap;

use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

/// One split of samples into gallery and query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draw {
    /// Indices enrolled, by ascending label.
    pub gallery: Vec<usize>,
    /// Indices asked about, in order.
    pub query: Vec<usize>,
}

/// The protocol of 11k Hands: one random sample of every label in the gallery, the rest asked about.
/// Labels are compared as numbers.
#[must_use]
pub fn one_a_label<L: Ord + Copy>(labels: &[L], seed: u64) -> Draw {
    let mut by_label: BTreeMap<L, Vec<usize>> = BTreeMap::new();
    for (index, label) in labels.iter().enumerate() {
        by_label.entry(*label).or_default().push(index);
    }
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let gallery: Vec<usize> =
        by_label.values().map(|samples| samples[rng.random_range(0..samples.len())]).collect();
    let mut enrolled = vec![false; labels.len()];
    gallery.iter().for_each(|index| enrolled[*index] = true);
    let query = (0..labels.len()).filter(|index| !enrolled[*index]).collect();
    Draw { gallery, query }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_label_is_enrolled_once_and_the_rest_is_asked_about() {
        let labels = [7, 7, 7, 3, 3, 1];
        let draw = one_a_label(&labels, 4);
        let enrolled: Vec<u32> = draw.gallery.iter().map(|i| labels[*i]).collect();
        assert_eq!(enrolled, [1, 3, 7]);
        assert_eq!(draw.query.len(), 3);
        assert!(draw.query.iter().all(|i| !draw.gallery.contains(i)));
    }

    #[test]
    fn draws_differ_by_seed_and_repeat_by_seed() {
        let labels: Vec<u32> = (0..200).map(|i| i / 10).collect();
        assert_eq!(one_a_label(&labels, 1), one_a_label(&labels, 1));
        assert_ne!(one_a_label(&labels, 1), one_a_label(&labels, 2));
    }
}
