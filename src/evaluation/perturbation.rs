use serde::Serialize;

/// How a score changes as more and more parts of a picture are changed, those that a map calls important first
/// (Petsiuk et al., 2018, "RISE"). Changing from the picture to nothing is deletion: a good map's score falls at once.
/// Changing from nothing to the picture is insertion: a good map's score rises at once.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PerturbationCurve {
    /// Share of parts changed, ascending from 0 to 1.
    pub shares: Vec<f64>,
    /// The score at each share.
    pub scores: Vec<f64>,
    /// Area under the curve, by trapezoids.
    pub auc: f64,
}

/// The curve of a map of `importance` by part, in at most `steps` steps of equal size. `score` gets, for each share in
/// order, which parts are changed, and gives as many scores. Ties go by position.
///
/// # Errors
/// What `score` fails with.
pub fn perturbation_curve<E>(
    importance: &[f32],
    steps: usize,
    score: impl FnOnce(&[Vec<bool>]) -> Result<Vec<f64>, E>,
) -> Result<PerturbationCurve, E> {
    let parts = importance.len();
    let mut order: Vec<usize> = (0..parts).collect();
    // A stable sort: equals stay in order.
    order.sort_by(|a, b| importance[*b].total_cmp(&importance[*a]));
    let steps = steps.clamp(1, parts.max(1));
    let counts: Vec<usize> = (0..=steps).map(|step| (parts * step).div_ceil(steps)).collect();
    let changed: Vec<Vec<bool>> = counts
        .iter()
        .map(|count| {
            let mut changed = vec![false; parts];
            order[..*count].iter().for_each(|part| changed[*part] = true);
            changed
        })
        .collect();
    let scores = score(&changed)?;
    let shares: Vec<f64> = counts.iter().map(|n| *n as f64 / parts.max(1) as f64).collect();
    let points: Vec<(f64, f64)> = shares.iter().copied().zip(scores.iter().copied()).collect();
    let auc = points.windows(2).map(|w| (w[1].0 - w[0].0) * (w[0].1 + w[1].1) / 2.0).sum();
    Ok(PerturbationCurve { shares, scores, auc })
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    /// Part 2 counts 3, part 0 counts 1, of 4: what is left after a deletion.
    fn left(changed: &[Vec<bool>]) -> Result<Vec<f64>, Infallible> {
        let counts = [1.0, 0.0, 3.0, 0.0];
        let left = |mask: &Vec<bool>| -> f64 {
            mask.iter().zip(counts).map(|(changed, n)| if *changed { 0.0 } else { n }).sum()
        };
        Ok(changed.iter().map(left).collect())
    }

    #[test]
    fn the_area_is_the_one_worked_out_by_hand_and_the_true_map_has_the_smallest() {
        let Ok(curve) = perturbation_curve(&[0.5, 0.1, 0.9, 0.1], 4, left);
        assert_eq!(curve.shares, [0.0, 0.25, 0.5, 0.75, 1.0]);
        assert_eq!(curve.scores, [4.0, 1.0, 0.0, 0.0, 0.0]);
        // 0.25 * (2.5 + 0.5)
        assert_eq!(curve.auc, 0.75);
        let Ok(worst) = perturbation_curve(&[0.1, 0.9, 0.0, 0.8], 4, left);
        assert_eq!(worst.scores, [4.0, 4.0, 4.0, 3.0, 0.0]);
        assert_eq!(worst.auc, 3.25);
    }

    #[test]
    fn fewer_steps_than_parts_still_end_at_all_and_ties_go_by_position() {
        let mut seen = Vec::new();
        let Ok(curve) = perturbation_curve(&[1.0; 5], 2, |changed| {
            seen = changed.to_vec();
            Ok::<_, Infallible>(vec![0.0; changed.len()])
        });
        assert_eq!(curve.shares, [0.0, 0.6, 1.0]);
        assert_eq!(seen[1], [true, true, true, false, false]);
        assert_eq!(seen[2], [true; 5]);
        let Ok(nothing) = perturbation_curve(&[], 3, |c| Ok::<_, Infallible>(vec![1.0; c.len()]));
        assert_eq!(nothing.auc, 0.0);
    }
}
