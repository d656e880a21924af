//! Whether a model serves all groups of people alike, at one threshold for everybody.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::threshold::share;
use super::{Bootstrap, EvaluationError, Interval, ProbeValue, Rate, Trial, lowest_fmr, rank};

/// Fewest subjects of a group that figures are given for: with nine, one person weighs more than a tenth, and
/// a group's difference to another says more of whom was met than of the group.
pub const LEAST_SUBJECTS: usize = 10;

/// An attribute that people or pictures differ in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grouping {
    /// Its name.
    pub attribute: String,
    /// The group of every row of the embeddings; `None` where it is not known.
    pub of: Vec<Option<String>>,
    /// The group of every picture that the quality gate refused.
    pub refused: Vec<Option<String>>,
}

/// What a table is made with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Terms {
    /// Accepted is what is not below it.
    pub threshold: f32,
    /// Fewest subjects of a group with figures.
    pub least_subjects: usize,
    /// Of the intervals.
    pub bootstrap: Bootstrap,
}

/// The groups of one attribute.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GroupTable {
    /// Its name.
    pub attribute: String,
    /// By name.
    pub groups: Vec<GroupRow>,
    /// Probes of a run whose group is not known.
    pub unknown: usize,
    /// Lowest less highest Rank-1 of the groups with figures; `None` unless there are two.
    pub rank1_gap: Option<f64>,
    /// Highest over lowest FNMR of the groups with figures; `None` unless there are two, and none without a miss.
    pub fnmr_ratio: Option<f64>,
    /// Highest over lowest FMR of the groups with figures; `None` unless there are two, and none without a
    /// false match.
    pub fmr_ratio: Option<f64>,
}

/// One group.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GroupRow {
    /// Its name.
    pub group: String,
    /// Subjects that ask.
    pub subjects: usize,
    /// Probes of a run, on average.
    pub probes: usize,
    /// Pictures that the quality gate refused.
    pub refused: usize,
    /// `None` for a group that is too small.
    pub figures: Option<GroupFigures>,
    /// Why there are no figures.
    pub no_verdict: Option<String>,
}

/// Figures of a group. Shares, not percentages.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct GroupFigures {
    /// Share of the group's probes whose first candidate, among everybody, is right.
    pub rank1: f64,
    /// Its bootstrap interval over subjects.
    pub rank1_interval: Option<Interval>,
    /// Of the group's genuine comparisons. Errors and trials are those of one run, on average: that is as much
    /// evidence as there is, since runs ask the same pictures again.
    pub fnmr: Rate,
    /// Of comparisons of two subjects of the group, as NIST's FRTE takes it within demographics: pairs of one
    /// group are more alike than pairs of everybody. `None` where there is no such comparison.
    pub fmr: Option<Rate>,
    /// Lowest FMR that so many subjects can support.
    pub lowest_fmr: f64,
}

/// What is gathered of a group.
#[derive(Default)]
struct Gathered {
    subjects: BTreeSet<u64>,
    hits: Vec<Vec<ProbeValue>>,
    misses: Vec<Vec<ProbeValue>>,
    false_matches: u64,
    comparisons: u64,
}

/// Figures by group over runs, each of one or more trials whose labels are people.
///
/// # Errors
/// Never for trials that hold together; see [`Bootstrap::mean`].
pub fn by_group(
    runs: &[Vec<Trial<'_>>],
    grouping: &Grouping,
    terms: &Terms,
) -> Result<GroupTable, EvaluationError> {
    let known = grouping.of.iter().chain(&grouping.refused).flatten();
    let mut groups: BTreeMap<&str, Gathered> = BTreeMap::new();
    for name in known {
        groups.entry(name).or_insert_with(|| Gathered {
            hits: vec![Vec::new(); runs.len()],
            misses: vec![Vec::new(); runs.len()],
            ..Gathered::default()
        });
    }
    let group_of = |row: usize| grouping.of.get(row).and_then(Option::as_deref);
    let mut unknown = 0;
    for (run, trials) in runs.iter().enumerate() {
        for trial in trials {
            for outcome in rank(trial).outcomes {
                let Some(own) = group_of(outcome.row).and_then(|name| groups.get_mut(name)) else {
                    unknown += 1;
                    continue;
                };
                let value = |yes: bool| ProbeValue {
                    probe: outcome.row,
                    subject: outcome.label,
                    value: f64::from(u8::from(yes)),
                };
                own.subjects.insert(outcome.label);
                own.hits[run].push(value(outcome.rank == 1));
                own.misses[run].push(value(outcome.similarity < terms.threshold));
            }
            for (group, wrong, all) in within_groups(trial, &group_of, terms.threshold) {
                if let Some(own) = groups.get_mut(group) {
                    own.false_matches += wrong;
                    own.comparisons += all;
                }
            }
        }
    }
    let count = runs.len().max(1);
    let rows: Vec<GroupRow> = groups
        .into_iter()
        .map(|(name, gathered)| {
            let of_it = |group: &&Option<String>| group.as_deref() == Some(name);
            let refused = grouping.refused.iter().filter(of_it).count();
            gathered.row(name, refused, count, terms)
        })
        .collect::<Result<_, _>>()?;
    let figures: Vec<GroupFigures> = rows.iter().filter_map(|row| row.figures).collect();
    let extremes = |values: Option<Vec<f64>>| {
        let values = values.filter(|values| values.len() > 1)?;
        let low = values.iter().copied().fold(f64::INFINITY, f64::min);
        Some((low, values.iter().copied().fold(0.0, f64::max)))
    };
    let ratio = |values: Option<Vec<f64>>| {
        extremes(values).filter(|(low, _)| *low > 0.0).map(|(low, high)| high / low)
    };
    let all = |of: fn(&GroupFigures) -> Option<f64>| figures.iter().map(of).collect();
    Ok(GroupTable {
        attribute: grouping.attribute.clone(),
        unknown: unknown / count,
        rank1_gap: extremes(all(|f| Some(f.rank1))).map(|(low, high)| low - high),
        fnmr_ratio: ratio(all(|f| Some(f.fnmr.value))),
        fmr_ratio: ratio(all(|f| f.fmr.map(|rate| rate.value))),
        groups: rows,
    })
}

/// Of every probe: its group, its false matches and its comparisons with others of the group.
fn within_groups<'g>(
    trial: &Trial<'_>,
    group_of: &(impl Fn(usize) -> Option<&'g str> + Sync),
    threshold: f32,
) -> Vec<(&'g str, u64, u64)> {
    let counted = trial.each_probe(|at, similarities| {
        let probe = trial.session.probes[at];
        let group = group_of(probe.row)?;
        let (mut wrong, mut all) = (0, 0);
        for (entry, similarity) in trial.session.gallery.iter().zip(similarities) {
            if entry.label != probe.label && group_of(entry.row) == Some(group) {
                wrong += u64::from(*similarity >= threshold);
                all += 1;
            }
        }
        Some((group, wrong, all))
    });
    counted.into_iter().flatten().collect()
}

impl Gathered {
    fn row(
        self,
        name: &str,
        refused: usize,
        runs: usize,
        terms: &Terms,
    ) -> Result<GroupRow, EvaluationError> {
        let subjects = self.subjects.len();
        let probes = self.hits.iter().map(Vec::len).sum::<usize>();
        let enough = subjects >= terms.least_subjects.max(1);
        let figures = if enough { Some(self.figures(runs, terms)?) } else { None };
        let few = || format!("{subjects} of at least {} subjects", terms.least_subjects);
        Ok(GroupRow {
            group: name.to_owned(),
            subjects,
            probes: probes / runs,
            refused,
            figures,
            no_verdict: (!enough).then(few),
        })
    }

    fn figures(&self, runs: usize, terms: &Terms) -> Result<GroupFigures, EvaluationError> {
        let bootstrap = &terms.bootstrap;
        let (rank1, rank1_interval) = bootstrap.mean(&self.hits)?;
        let (_, by_subject) = bootstrap.mean(&self.misses)?;
        let misses = self.misses.iter().flatten().filter(|value| value.value > 0.0).count() as u64;
        let probes = self.misses.iter().map(Vec::len).sum::<usize>() as u64;
        let rate = |errors: u64, trials: u64| {
            let a_run = |count: u64| (count as f64 / runs as f64).round() as u64;
            let level = bootstrap.level;
            Rate { value: share(errors, trials), ..Rate::of(a_run(errors), a_run(trials), level) }
        };
        Ok(GroupFigures {
            rank1,
            rank1_interval,
            fnmr: Rate { by_subject, ..rate(misses, probes) },
            fmr: (self.comparisons > 0).then(|| rate(self.false_matches, self.comparisons)),
            lowest_fmr: lowest_fmr(self.subjects.len() as u64),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluation::{Entry, Session, Vectors};

    /// Directions in a plane, by degrees.
    fn vectors(degrees: &[f32]) -> Vectors {
        let values = degrees.iter().flat_map(|d| [d.to_radians().cos(), d.to_radians().sin()]);
        Vectors::new(2, values.collect()).unwrap()
    }

    fn grouping(of: &[Option<&str>]) -> Grouping {
        let of = of.iter().map(|group| group.map(str::to_owned)).collect();
        Grouping { attribute: "skin".to_owned(), of, refused: vec![Some("b".to_owned())] }
    }

    /// Subjects 1 and 2 are of group a, 3 and 4 of group b; rows 0 to 3 are enrolled, 4 to 7 ask.
    fn session() -> Session {
        let entry = |row| Entry { row, label: row as u64 % 4 + 1 };
        Session { gallery: (0..4).map(entry).collect(), probes: (4..8).map(entry).collect() }
    }

    const TERMS: Terms = Terms {
        threshold: 0.98,
        least_subjects: 2,
        bootstrap: Bootstrap { replicates: 100, level: 0.95, seed: 1 },
    };
    const ROWS: [Option<&str>; 8] =
        [Some("a"), Some("a"), Some("b"), Some("b"), Some("a"), Some("a"), Some("b"), Some("b")];

    #[test]
    fn figures_equal_those_worked_by_hand() {
        // Group a is far apart. In b the two are 5 degrees apart (cosine 0.996), and the last probe is closer to
        // the other than to its own.
        let vectors = vectors(&[0.0, 60.0, 120.0, 125.0, 1.0, 75.0, 120.0, 121.0]);
        let session = session();
        let trials = vec![Trial::new(&vectors, &session).unwrap()];
        let table = by_group(&[trials], &grouping(&ROWS), &TERMS).unwrap();
        let [a, b] = &table.groups[..] else { panic!("{table:?}") };
        assert_eq!((a.group.as_str(), a.subjects, a.probes, a.refused), ("a", 2, 2, 0));
        assert_eq!((b.group.as_str(), b.subjects, b.probes, b.refused), ("b", 2, 2, 1));
        let (a, b) = (a.figures.unwrap(), b.figures.unwrap());
        assert_eq!((a.rank1, b.rank1), (1.0, 0.5));
        // 15 degrees from the enrolled picture are a cosine of 0.966.
        assert_eq!((a.fnmr.value, a.fnmr.errors, a.fnmr.trials), (0.5, 1, 2));
        assert_eq!(b.fnmr.value, 0.0);
        assert_eq!((a.fmr.unwrap().value, b.fmr.unwrap().value), (0.0, 1.0));
        assert_eq!(b.fmr.unwrap().trials, 2);
        assert_eq!(table.rank1_gap, Some(-0.5));
        assert_eq!((table.fnmr_ratio, table.fmr_ratio), (None, None), "none over nothing");
        assert_eq!(table.unknown, 0);
    }

    #[test]
    fn a_run_more_is_no_more_evidence() {
        let vectors = vectors(&[0.0, 60.0, 120.0, 150.0, 1.0, 75.0, 120.0, 121.0]);
        let session = session();
        let trial = Trial::new(&vectors, &session).unwrap();
        let once = by_group(&[vec![trial]], &grouping(&ROWS), &TERMS).unwrap();
        let thrice =
            by_group(&[vec![trial], vec![trial], vec![trial]], &grouping(&ROWS), &TERMS).unwrap();
        assert_eq!(once, thrice);
    }

    #[test]
    fn a_small_group_has_no_verdict_and_says_why() {
        let vectors = vectors(&[0.0, 60.0, 120.0, 125.0, 1.0, 75.0, 120.0, 121.0]);
        let session = session();
        let trials = vec![Trial::new(&vectors, &session).unwrap()];
        let mut groups = ROWS;
        groups[3] = None;
        groups[7] = None;
        let table = by_group(&[trials], &grouping(&groups), &TERMS).unwrap();
        assert!(table.groups[0].figures.is_some());
        let small = &table.groups[1];
        assert_eq!((small.subjects, small.figures), (1, None));
        assert_eq!(small.no_verdict.as_deref(), Some("1 of at least 2 subjects"));
        assert_eq!(table.unknown, 1);
        assert_eq!(table.rank1_gap, None, "one group is not compared");
    }
}
