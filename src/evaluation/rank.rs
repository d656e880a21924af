use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::mates::{Mates, average_precision, average_precision_trapezoid, descending, ranks_of};
use super::{Entry, Session, Trial};
use crate::tensor::Panels;

/// Probes taken at a time by [`rank_figures`].
const CHUNK: usize = 64;

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

/// A probe without a mate in the gallery, or with none left by the filter of captures.
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
    order.sort_by(|a, b| descending(similarities[*a], similarities[*b]));
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
    let outcomes: Vec<Vec<Outcome>> = asked
        .par_chunks(CHUNK)
        .map(|asked| {
            let left: Vec<&[f32]> = asked.iter().map(|probe| probes[probe.row].0).collect();
            let mut similarities = vec![0.0; left.len() * gallery.len()];
            panels.products(&left, &mut similarities);
            let rows = similarities.chunks_exact(gallery.len().max(1));
            let ranked = asked.iter().zip(rows).map(|(probe, similarities)| {
                let own = mates.of_label(probe.label);
                let ranks = ranks_of(similarities, own, &[]);
                let first = first_similarity(similarities, own);
                (!own.is_empty()).then(|| outcome(probe.row, *probe, &ranks, first))
            });
            ranked.flatten().collect()
        })
        .collect();
    let outcomes: Vec<Outcome> = outcomes.into_iter().flatten().collect();
    let without_mate = probes.len() - outcomes.len();
    let ranking = Ranking { outcomes, strangers: Vec::new(), gallery: gallery.len() };
    RankFigures { without_mate, ..ranking.figures() }
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

#[cfg(test)]
mod tests {
    use super::super::{EvaluationError, Vectors};
    use super::*;

    #[test]
    fn a_probe_without_a_mate_is_left_out_and_counted() {
        let (x, y) = ([1.0_f32, 0.0], [0.0_f32, 1.0]);
        let gallery = [(&x[..], 1), (&y[..], 2)];
        let probes = [(&x[..], 1), (&x[..], 2), (&y[..], 9)];
        let figures = rank_figures(&probes, &gallery);
        assert_eq!((figures.probes, figures.without_mate), (2, 1));
        assert_eq!((figures.rank1, figures.rank5, figures.map), (0.5, 1.0, 0.75));
    }

    /// Two dimensions are enough: the second row is orthogonal to the first.
    const AXES: [[f32; 2]; 4] = [[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]];

    fn session(gallery: &[(usize, u64)], probes: &[(usize, u64)]) -> Session {
        let entries =
            |of: &[(usize, u64)]| of.iter().map(|&(row, label)| Entry { row, label }).collect();
        Session { gallery: entries(gallery), probes: entries(probes) }
    }

    #[test]
    fn figures_of_a_session_equal_those_worked_by_hand() {
        let vectors = Vectors::new(2, AXES.concat()).unwrap();
        // Similarities of row 0 to the gallery: 0, 1, 0, -1.
        let session = session(&[(1, 1), (0, 2), (3, 3), (2, 1)], &[(0, 1), (0, 2), (0, 3), (0, 9)]);
        let trial = Trial::new(&vectors, &session).unwrap();
        let ranking = rank(&trial);
        let ranks: Vec<(usize, f32)> =
            ranking.outcomes.iter().map(|outcome| (outcome.rank, outcome.similarity)).collect();
        assert_eq!(ranks, [(2, 0.0), (1, 1.0), (3, 0.0)], "the tie keeps gallery order");
        let first = ranking.outcomes[0];
        assert_eq!((first.mates, first.average_precision), (2, (1.0 / 2.0 + 2.0 / 4.0) / 2.0));
        assert_eq!(first.inverse_negative_penalty, 0.5);
        let stranger = Stranger { probe: 3, row: 0, label: 9, similarity: Some(1.0) };
        assert_eq!(ranking.strangers, [stranger]);
        let third = 1.0 / 3.0;
        assert_eq!(ranking.cmc(), [third, 2.0 * third, 1.0, 1.0]);
        let figures = ranking.figures();
        assert_eq!((figures.rank1, figures.rank5, figures.rank20), (third, 1.0, 1.0));
        assert_eq!((figures.probes, figures.without_mate), (3, 1));
        let worst: Vec<usize> = ranking.worst(2).iter().map(|outcome| outcome.probe).collect();
        assert_eq!(worst, [2, 0]);
        let shown: Vec<(usize, bool)> =
            candidates(&trial, 2, 3).iter().map(|c| (c.row, c.mate)).collect();
        assert_eq!(shown, [(0, false), (1, false), (3, true)]);
        assert!(candidates(&trial, 4, 3).is_empty());
    }

    #[test]
    fn gallery_samples_of_the_probes_capture_are_dropped_for_their_own_subject_only() {
        let vectors = Vectors::new(2, AXES.concat()).unwrap();
        let session = session(&[(0, 1), (1, 2), (1, 1)], &[(0, 1), (0, 2)]);
        let trial = Trial::new(&vectors, &session).unwrap();
        assert_eq!(rank(&trial).outcomes[0].rank, 1);
        let ranking = rank(&trial.without_same_capture(&[5, 6, 7, 7]).unwrap());
        let outcome = ranking.outcomes[0];
        assert_eq!((outcome.rank, outcome.mates, outcome.similarity), (2, 1, 0.0));
        assert_eq!(ranking.outcomes[1].rank, 2, "another subject's sample of that capture stays");
        let all_one = trial.without_same_capture(&[5; 4]).unwrap();
        let ranking = rank(&all_one);
        assert_eq!(ranking.strangers[0].similarity, Some(0.0), "its own samples are not there");
        assert!(matches!(
            trial.without_same_capture(&[1]),
            Err(EvaluationError::Captures { got: 1, rows: 4 })
        ));
        let none = Session { gallery: vec![Entry { row: 4, label: 0 }], probes: Vec::new() };
        let refused = Trial::new(&vectors, &none).err();
        assert_eq!(refused, Some(EvaluationError::NoSuchRow { row: 4, rows: 4 }));
    }

    #[test]
    fn many_blocks_and_many_mates_rank_as_one_probe_by_itself() {
        let (rows, dim, labels) = (700, 8, 5);
        let value = |row: usize, d: usize| ((row * 37 + d * 101 + row * row % 13) as f32).sin();
        let mut values: Vec<f32> = Vec::new();
        for row in 0..rows {
            let raw: Vec<f32> = (0..dim).map(|d| value(row, d)).collect();
            let norm = raw.iter().map(|v| v * v).sum::<f32>().sqrt();
            values.extend(raw.iter().map(|v| v / norm));
        }
        let vectors = Vectors::new(dim, values).unwrap();
        let entries: Vec<(usize, u64)> =
            (0..rows).map(|row| (row, (row % labels) as u64)).collect();
        let session = session(&entries[..300], &entries[300..]);
        let trial = Trial::new(&vectors, &session).unwrap();
        let ranking = rank(&trial);
        for outcome in ranking.outcomes.iter().step_by(29) {
            let own = candidates(&trial, outcome.probe, 300);
            let similarities: Vec<f32> = own.iter().map(|c| c.similarity).collect();
            assert!(similarities.is_sorted_by(|a, b| a >= b));
            let ranks: Vec<usize> = (0..300).filter(|rank| own[*rank].mate).collect();
            assert_eq!(outcome.rank, ranks[0] + 1);
            assert_eq!(Some(outcome.average_precision), average_precision(&ranks));
        }
    }
}
