use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{Entry, Session, Trial};
use crate::tensor::Panels;

/// Most mates whose ranks are counted one by one; with more, sorting the row is cheaper.
const COUNTED: usize = 48;

/// What became of one probe that has a mate. Ranks count gallery samples, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Place among the session's probes.
    pub probe: usize,
    /// Its row among the embeddings.
    pub row: usize,
    /// Whose it is.
    pub label: u64,
    /// Mates that it has in the gallery.
    pub mates: usize,
    /// Rank of its first mate.
    pub rank: usize,
    /// Similarity of its first mate.
    pub similarity: f32,
    /// Average precision, standard.
    pub average_precision: f64,
    /// Average precision, trapezoid.
    pub average_precision_trapezoid: f64,
    /// Inverse negative penalty: mates over the rank of the last one.
    pub inverse_negative_penalty: f64,
}

/// A probe without a mate in the gallery.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Stranger {
    /// Place among the session's probes.
    pub probe: usize,
    /// Its row among the embeddings.
    pub row: usize,
    /// Whose it is.
    pub label: u64,
    /// Its highest similarity; `None` with an empty gallery.
    pub similarity: Option<f32>,
}

/// The outcomes of one session.
#[derive(Debug, Clone, PartialEq)]
pub struct Ranking {
    /// Probes with a mate, in the session's order.
    pub outcomes: Vec<Outcome>,
    /// Probes without one, left out of the figures.
    pub strangers: Vec<Stranger>,
    /// Samples in the gallery.
    pub gallery: usize,
}

/// Closed-set identification figures over many probes. Shares, not percentages.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct RankFigures {
    /// Share of probes whose first hit is at rank 1.
    pub rank1: f64,
    /// Share of probes whose first hit is at rank 5 or better.
    pub rank5: f64,
    /// Share of probes whose first hit is at rank 10 or better.
    pub rank10: f64,
    /// Share of probes whose first hit is at rank 20 or better.
    pub rank20: f64,
    /// Mean average precision, standard.
    pub map: f64,
    /// Mean average precision, trapezoid.
    pub map_trapezoid: f64,
    /// Mean inverse negative penalty.
    pub minp: f64,
    /// Probes with a mate in the gallery.
    pub probes: usize,
    /// Probes without one, left out of the figures.
    pub without_mate: usize,
}

/// A gallery sample as one probe sees it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// Its row among the embeddings.
    pub row: usize,
    /// Whose it is.
    pub label: u64,
    /// How close.
    pub similarity: f32,
    /// Whether it is the probe's mate.
    pub mate: bool,
}

/// Ranks every probe of a trial against its whole gallery, by similarity, descending; ties keep gallery
/// order. Nothing is sorted: the ranks of a probe's mates are what is asked for, and those are counted.
#[must_use]
pub fn rank(trial: &Trial<'_>) -> Ranking {
    let Session { gallery, probes } = trial.session;
    let mates = Mates::of(gallery);
    let seen = trial.each_probe(|at, similarities| {
        let probe = probes[at];
        let entry = |index: &usize| gallery[*index];
        let own = mates.of_label(probe.label);
        let kept: Vec<usize> =
            own.iter().copied().filter(|index| trial.counts(probe, entry(index))).collect();
        if kept.is_empty() {
            // A filter drops mates only, so where none is left everybody else counts.
            let highest = (0..gallery.len())
                .filter(|index| own.binary_search(index).is_err())
                .map(|index| similarities[index])
                .reduce(f32::max);
            let Entry { row, label } = probe;
            return Err(Stranger { probe: at, row, label, similarity: highest });
        }
        let dropped: Vec<usize> =
            own.iter().copied().filter(|index| !kept.contains(index)).collect();
        let ranks = ranks_of(similarities, &kept, &dropped);
        Ok(outcome(at, probe, &ranks, first_similarity(similarities, &kept)))
    });
    let mut ranking =
        Ranking { outcomes: Vec::new(), strangers: Vec::new(), gallery: gallery.len() };
    for probe in seen {
        match probe {
            Ok(outcome) => ranking.outcomes.push(outcome),
            Err(stranger) => ranking.strangers.push(stranger),
        }
    }
    ranking
}

/// The first `count` candidates of one probe, given by its place in the session: what a failure gallery
/// shows. Nothing where there is no such probe.
#[must_use]
pub fn candidates(trial: &Trial<'_>, probe: usize, count: usize) -> Vec<Candidate> {
    let Some(probe) = trial.session.probes.get(probe).copied() else {
        return Vec::new();
    };
    let similarities = trial.similarities(probe);
    let gallery = &trial.session.gallery;
    let mut order: Vec<usize> =
        (0..gallery.len()).filter(|index| trial.counts(probe, gallery[*index])).collect();
    order.sort_by(|a, b| similarities[*b].total_cmp(&similarities[*a]));
    order
        .into_iter()
        .take(count)
        .map(|index| Candidate {
            row: gallery[index].row,
            label: gallery[index].label,
            similarity: similarities[index],
            mate: gallery[index].label == probe.label,
        })
        .collect()
}

impl Ranking {
    /// Share of probes whose first hit is at rank k or better, for k from 1 to the size of the gallery.
    /// Empty without a probe that has a mate.
    #[must_use]
    pub fn cmc(&self) -> Vec<f64> {
        if self.outcomes.is_empty() {
            return Vec::new();
        }
        let mut first = vec![0_usize; self.gallery];
        self.outcomes.iter().for_each(|outcome| first[outcome.rank - 1] += 1);
        let mut found = 0;
        first
            .into_iter()
            .map(|here| {
                found += here;
                found as f64 / self.outcomes.len() as f64
            })
            .collect()
    }

    /// The figures; zeros without a probe that has a mate.
    #[must_use]
    pub fn figures(&self) -> RankFigures {
        let mean = |of: &dyn Fn(&Outcome) -> f64| {
            self.outcomes.iter().map(of).sum::<f64>() / self.outcomes.len().max(1) as f64
        };
        let within = |k: usize| mean(&|outcome| f64::from(u8::from(outcome.rank <= k)));
        RankFigures {
            rank1: within(1),
            rank5: within(5),
            rank10: within(10),
            rank20: within(20),
            map: mean(&|outcome| outcome.average_precision),
            map_trapezoid: mean(&|outcome| outcome.average_precision_trapezoid),
            minp: mean(&|outcome| outcome.inverse_negative_penalty),
            probes: self.outcomes.len(),
            without_mate: self.strangers.len(),
        }
    }

    /// The `count` outcomes whose first hit comes latest; of equals that with the lower average precision,
    /// then the earlier probe.
    #[must_use]
    pub fn worst(&self, count: usize) -> Vec<Outcome> {
        let mut order = self.outcomes.clone();
        order.sort_by(|a, b| {
            b.rank
                .cmp(&a.rank)
                .then(a.average_precision.total_cmp(&b.average_precision))
                .then(a.probe.cmp(&b.probe))
        });
        order.truncate(count);
        order
    }
}

/// probes and gallery: unit embeddings of one size; labels: whose they are.
#[must_use]
pub fn rank_figures(probes: &[(&[f32], u32)], gallery: &[(&[f32], u32)]) -> RankFigures {
    let entries = |of: &[(&[f32], u32)]| -> Vec<Entry> {
        of.iter().enumerate().map(|(row, (_, l))| Entry { row, label: u64::from(*l) }).collect()
    };
    let (enrolled, asked) = (entries(gallery), entries(probes));
    let mates = Mates::of(&enrolled);
    let dim = gallery.first().map_or(0, |(sample, _)| sample.len());
    let panels = Panels::pack(dim, gallery.iter().map(|(sample, _)| *sample));
    let outcomes: Vec<Option<Outcome>> = asked
        .par_iter()
        .map_init(
            || vec![0.0; gallery.len()],
            |similarities, probe| {
                let own = mates.of_label(probe.label);
                (!own.is_empty()).then(|| {
                    panels.products(&[probes[probe.row].0], similarities);
                    let ranks = ranks_of(similarities, own, &[]);
                    outcome(probe.row, *probe, &ranks, first_similarity(similarities, own))
                })
            },
        )
        .collect();
    let outcomes: Vec<Outcome> = outcomes.into_iter().flatten().collect();
    let without_mate = probes.len() - outcomes.len();
    let ranking = Ranking { outcomes, strangers: Vec::new(), gallery: gallery.len() };
    RankFigures { without_mate, ..ranking.figures() }
}

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

/// ranks: of a probe's mates, from 0, ascending, at least one.
fn outcome(at: usize, probe: Entry, ranks: &[usize], similarity: f32) -> Outcome {
    let last = ranks.last().map_or(1, |rank| rank + 1);
    Outcome {
        probe: at,
        row: probe.row,
        label: probe.label,
        mates: ranks.len(),
        rank: ranks.first().map_or(1, |rank| rank + 1),
        similarity,
        average_precision: average_precision(ranks).unwrap_or(0.0),
        average_precision_trapezoid: average_precision_trapezoid(ranks).unwrap_or(0.0),
        inverse_negative_penalty: ranks.len() as f64 / last as f64,
    }
}

fn first_similarity(similarities: &[f32], mates: &[usize]) -> f32 {
    mates.iter().map(|index| similarities[*index]).fold(f32::NEG_INFINITY, f32::max)
}

/// Where the gallery holds each label.
struct Mates {
    /// (label, place in the gallery), by label, then by place.
    labels: Vec<u64>,
    places: Vec<usize>,
}

impl Mates {
    fn of(gallery: &[Entry]) -> Self {
        let mut sorted: Vec<(u64, usize)> =
            gallery.iter().enumerate().map(|(place, entry)| (entry.label, place)).collect();
        sorted.sort_unstable();
        let (labels, places) = sorted.into_iter().unzip();
        Self { labels, places }
    }

    /// Places of the label's samples in the gallery, ascending.
    fn of_label(&self, label: u64) -> &[usize] {
        let start = self.labels.partition_point(|other| *other < label);
        let end = self.labels.partition_point(|other| *other <= label);
        &self.places[start..end]
    }
}

/// Ranks from 0, ascending, of the gallery samples `mates`; `dropped` samples are not there. Both are
/// ascending places in the gallery.
fn ranks_of(similarities: &[f32], mates: &[usize], dropped: &[usize]) -> Vec<usize> {
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
    order.sort_by(|a, b| similarities[*b].total_cmp(&similarities[*a]));
    let found = order.iter().enumerate().filter(|(_, index)| mates.binary_search(index).is_ok());
    found.map(|(rank, _)| rank).collect()
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
