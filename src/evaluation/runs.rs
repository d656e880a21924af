use serde::{Deserialize, Serialize};

use super::RankFigures;

/// Mean and standard deviation of a figure over runs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// Mean of the runs.
    pub mean: f64,
    /// Sample standard deviation: squares over one less than the runs (`ddof = 1`). `None` for one run.
    pub sd: Option<f64>,
}

impl Spread {
    /// Of the runs' values; `None` without a run.
    #[must_use]
    pub fn of(values: &[f64]) -> Option<Self> {
        let runs = values.len() as f64;
        let mean = values.iter().sum::<f64>() / runs;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        let sd = (values.len() > 1).then(|| (squares / (runs - 1.0)).sqrt());
        (!values.is_empty()).then_some(Self { mean, sd })
    }
}

/// Figures run by run, with their mean and spread.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunTable {
    /// Each run's.
    pub runs: Vec<RankFigures>,
    /// Rank-1.
    pub rank1: Spread,
    /// Rank-5.
    pub rank5: Spread,
    /// Rank-10.
    pub rank10: Spread,
    /// Rank-20.
    pub rank20: Spread,
    /// Mean average precision, standard.
    pub map: Spread,
    /// Mean average precision, trapezoid.
    pub map_trapezoid: Spread,
    /// Mean inverse negative penalty.
    pub minp: Spread,
}

impl RunTable {
    /// Of the runs' figures; `None` without a run.
    #[must_use]
    pub fn of(runs: Vec<RankFigures>) -> Option<Self> {
        let spread =
            |of: fn(&RankFigures) -> f64| Spread::of(&runs.iter().map(of).collect::<Vec<f64>>());
        Some(Self {
            rank1: spread(|run| run.rank1)?,
            rank5: spread(|run| run.rank5)?,
            rank10: spread(|run| run.rank10)?,
            rank20: spread(|run| run.rank20)?,
            map: spread(|run| run.map)?,
            map_trapezoid: spread(|run| run.map_trapezoid)?,
            minp: spread(|run| run.minp)?,
            runs,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deviation_divides_by_one_less_than_the_runs() {
        assert_eq!(Spread::of(&[1.0, 3.0]), Some(Spread { mean: 2.0, sd: Some(2.0_f64.sqrt()) }));
        assert_eq!(Spread::of(&[0.5]), Some(Spread { mean: 0.5, sd: None }));
        assert_eq!(Spread::of(&[]), None);
    }

    #[test]
    fn a_table_holds_every_run() {
        let run = |rank1, map| RankFigures { rank1, map, probes: 4, ..RankFigures::default() };
        let table = RunTable::of(vec![run(1.0, 0.75), run(0.5, 0.25)]).unwrap();
        assert_eq!((table.rank1.mean, table.map.mean, table.runs.len()), (0.75, 0.5, 2));
        assert_eq!(RunTable::of(Vec::new()), None);
    }
}
