use rayon::prelude::*;
use serde::Serialize;

/// Ranks (from 0) of the gallery samples that are mates of a probe, ascending. Gallery samples are
/// ordered by similarity, descending; ties keep gallery order.
#[must_use]
pub fn mate_ranks(similarities: &[f32], is_mate: impl Fn(usize) -> bool) -> Vec<usize> {
    let mut order: Vec<usize> = (0..similarities.len()).collect();
    // A stable sort: equal similarities stay in gallery order.
    order.sort_by(|a, b| similarities[*b].total_cmp(&similarities[*a]));
    order.iter().enumerate().filter(|(_, i)| is_mate(**i)).map(|(rank, _)| rank).collect()
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

/// Closed-set identification figures over many probes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct RankFigures {
    /// Share of probes whose first hit is at rank 1.
    pub rank1: f64,
    /// Share of probes whose first hit is at rank 5 or better.
    pub rank5: f64,
    /// Mean average precision, standard.
    pub map: f64,
    /// Mean average precision, trapezoid.
    pub map_trapezoid: f64,
    /// Probes with a mate in the gallery.
    pub probes: usize,
    /// Probes without one, left out of the figures.
    pub without_mate: usize,
}

/// probes and gallery: unit embeddings; labels: whose they are.
#[must_use]
pub fn rank_figures(probes: &[(&[f32], u32)], gallery: &[(&[f32], u32)]) -> RankFigures {
    let ranks: Vec<Vec<usize>> = probes
        .par_iter()
        .map(|(probe, label)| {
            let similarities: Vec<f32> = gallery
                .iter()
                .map(|(sample, _)| probe.iter().zip(*sample).map(|(a, b)| a * b).sum())
                .collect();
            mate_ranks(&similarities, |i| gallery[i].1 == *label)
        })
        .collect();
    let hit: Vec<&Vec<usize>> = ranks.iter().filter(|ranks| !ranks.is_empty()).collect();
    let mean = |f: &dyn Fn(&[usize]) -> f64| {
        hit.iter().map(|ranks| f(ranks)).sum::<f64>() / hit.len().max(1) as f64
    };
    RankFigures {
        rank1: mean(&|ranks| f64::from(u8::from(ranks[0] < 1))),
        rank5: mean(&|ranks| f64::from(u8::from(ranks[0] < 5))),
        map: mean(&|ranks| average_precision(ranks).unwrap_or(0.0)),
        map_trapezoid: mean(&|ranks| average_precision_trapezoid(ranks).unwrap_or(0.0)),
        probes: hit.len(),
        without_mate: ranks.len() - hit.len(),
    }
}

#[cfg(test)]
mod tests {
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

    #[test]
    fn a_probe_without_a_mate_is_left_out_and_counted() {
        let (x, y) = ([1.0_f32, 0.0], [0.0_f32, 1.0]);
        let gallery = [(&x[..], 1), (&y[..], 2)];
        let probes = [(&x[..], 1), (&x[..], 2), (&y[..], 9)];
        let figures = rank_figures(&probes, &gallery);
        assert_eq!((figures.probes, figures.without_mate), (2, 1));
        assert_eq!((figures.rank1, figures.rank5, figures.map), (0.5, 1.0, 0.75));
    }
}
