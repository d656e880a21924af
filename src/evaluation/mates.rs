//! Where a probe's mates stand, without sorting its row.

use std::cmp::Ordering;

use super::Entry;

/// Most mates whose ranks are counted one by one; with more, sorting the row is cheaper.
const COUNTED: usize = 48;

/// Ranks (from 0) of the gallery samples that are mates of a probe, ascending. Gallery samples are
/// ordered by similarity, descending; ties keep gallery order.
#[must_use]
pub fn mate_ranks(similarities: &[f32], is_mate: impl Fn(usize) -> bool) -> Vec<usize> {
    let mates: Vec<usize> = (0..similarities.len()).filter(|index| is_mate(*index)).collect();
    ranks_of(similarities, &mates, &[])
}

/// Mean over hits of the precision at the hit; `None` without a hit.
#[must_use]
pub fn average_precision(ranks: &[usize]) -> Option<f64> {
    let sum: f64 =
        ranks.iter().enumerate().map(|(i, rank)| (i + 1) as f64 / (rank + 1) as f64).sum();
    (!ranks.is_empty()).then(|| sum / ranks.len() as f64)
}

/// The trapezoid of Market-1501's script, which MBA-Net's evaluation uses: at each hit the mean of the
/// precision before and after it; `None` without a hit.
#[must_use]
pub fn average_precision_trapezoid(ranks: &[usize]) -> Option<f64> {
    let sum: f64 = ranks
        .iter()
        .enumerate()
        .map(|(i, &rank)| {
            let before = if rank == 0 { 1.0 } else { i as f64 / rank as f64 };
            (before + (i + 1) as f64 / (rank + 1) as f64) / 2.0
        })
        .sum();
    (!ranks.is_empty()).then(|| sum / ranks.len() as f64)
}

/// Higher similarities first. Both zeros are equal, as they are in a comparison.
pub(super) fn descending(a: f32, b: f32) -> Ordering {
    (b + 0.0).total_cmp(&(a + 0.0))
}

/// Where the gallery holds each label.
pub(super) struct Mates {
    /// (label, place in the gallery), by label, then by place.
    labels: Vec<u64>,
    places: Vec<usize>,
}

impl Mates {
    pub(super) fn of(gallery: &[Entry]) -> Self {
        let mut sorted: Vec<(u64, usize)> =
            gallery.iter().enumerate().map(|(place, entry)| (entry.label, place)).collect();
        sorted.sort_unstable();
        let (labels, places) = sorted.into_iter().unzip();
        Self { labels, places }
    }

    /// Places of the label's samples in the gallery, ascending.
    pub(super) fn of_label(&self, label: u64) -> &[usize] {
        let start = self.labels.partition_point(|other| *other < label);
        let end = self.labels.partition_point(|other| *other <= label);
        &self.places[start..end]
    }
}

/// Ranks from 0, ascending, of the gallery samples `mates`; `dropped` samples are not there. Both are
/// ascending places in the gallery.
pub(super) fn ranks_of(similarities: &[f32], mates: &[usize], dropped: &[usize]) -> Vec<usize> {
    if mates.len() > COUNTED {
        return sorted_ranks(similarities, mates, dropped);
    }
    counted_ranks(similarities, mates, dropped)
}

/// A sample is beaten by all that are closer, and by those as close that come before it.
fn counted_ranks(similarities: &[f32], mates: &[usize], dropped: &[usize]) -> Vec<usize> {
    let mut ranks: Vec<usize> = mates
        .iter()
        .map(|&mate| {
            let own = similarities[mate];
            let beats = |index: usize, other: f32| other > own || (other == own && index < mate);
            let gone = dropped.iter().filter(|index| beats(**index, similarities[**index])).count();
            let (before, after) = similarities.split_at(mate);
            let before = before.iter().filter(|other| **other >= own).count();
            let after = after.iter().filter(|other| **other > own).count();
            before + after - gone
        })
        .collect();
    ranks.sort_unstable();
    ranks
}

/// The same by a stable sort of the whole row.
fn sorted_ranks(similarities: &[f32], mates: &[usize], dropped: &[usize]) -> Vec<usize> {
    let mut order: Vec<usize> =
        (0..similarities.len()).filter(|index| dropped.binary_search(index).is_err()).collect();
    order.sort_by(|a, b| descending(similarities[*a], similarities[*b]));
    let found = order.iter().enumerate().filter(|(_, index)| mates.binary_search(index).is_ok());
    found.map(|(rank, _)| rank).collect()
}
#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ties_are_broken_by_gallery_order() {
        assert_eq!(mate_ranks(&[0.5, 0.9, 0.5, 0.1], |i| i == 2 || i == 3), [2, 3]);
        assert_eq!(mate_ranks(&[0.5, 0.9, 0.5, 0.1], |i| i == 0), [1]);
    }

    #[test]
    fn both_precisions_equal_those_worked_by_hand() {
        // Hits at rows 0 and 3: (1/1 + 2/4) / 2 and ((1 + 1)/2 + (1/3 + 2/4)/2) / 2.
        assert_eq!(average_precision(&[0, 3]), Some(0.75));
        let trapezoid = average_precision_trapezoid(&[0, 3]).unwrap();
        assert!((trapezoid - (1.0 + 5.0 / 12.0) / 2.0).abs() < 1e-12);
        assert_eq!(average_precision(&[]), None);
        assert_eq!(average_precision_trapezoid(&[]), None);
    }

    #[test]
    fn with_one_mate_the_trapezoid_is_the_mean_of_rank_1_and_standard() {
        for rank in 0..6 {
            let rank1 = f64::from(u8::from(rank == 0));
            let standard = average_precision(&[rank]).unwrap();
            let trapezoid = average_precision_trapezoid(&[rank]).unwrap();
            assert!((trapezoid - (rank1 + standard) / 2.0).abs() < 1e-12, "{rank}");
        }
    }

    /// The definition: a stable sort of what is there.
    fn plain(similarities: &[f32], mates: &[usize], dropped: &[usize]) -> Vec<usize> {
        let mut order: Vec<usize> =
            (0..similarities.len()).filter(|index| !dropped.contains(index)).collect();
        order.sort_by(|a, b| similarities[*b].partial_cmp(&similarities[*a]).unwrap());
        (0..order.len()).filter(|rank| mates.contains(&order[*rank])).collect()
    }

    proptest! {
        #[test]
        fn counting_equals_a_stable_sort_ties_included(
            // Few different values, both zeros among them.
            row in prop::collection::vec((-2_i8..3, 0_u8..4, any::<bool>()), 1..60),
        ) {
            let zero = |negative: &bool| if *negative { -0.0_f32 } else { 0.0 };
            let similarities: Vec<f32> = row
                .iter()
                .map(|(value, _, sign)| if *value == 0 { zero(sign) } else { f32::from(*value) / 4.0 })
                .collect();
            let with = |kind: u8| -> Vec<usize> {
                (0..row.len()).filter(|index| row[*index].1 == kind).collect()
            };
            let (mates, dropped) = (with(1), with(2));
            let want = plain(&similarities, &mates, &dropped);
            prop_assert_eq!(counted_ranks(&similarities, &mates, &dropped), want.clone());
            prop_assert_eq!(sorted_ranks(&similarities, &mates, &dropped), want);
        }
    }
}
