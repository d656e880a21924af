//! What so many subjects can show at all. Without a single error among N independent trials the rate
//! lies below 3 / N at 95 % (the rule of three, ISO/IEC 19795-1).

/// A rate that the subjects cannot support.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum Unsupported {
    /// A false match rate.
    #[error(
        "FMR {target:e} cannot be claimed: {subjects} subjects make {pairs} independent pairs, which support {lowest:.1e} at best"
    )]
    Fmr {
        /// Asked for.
        target: f64,
        /// Subjects tested on.
        subjects: u64,
        /// Pairs of them.
        pairs: u64,
        /// Lowest rate that they support.
        lowest: f64,
    },
    /// A false positive identification rate.
    #[error(
        "FPIR {target:e} cannot be claimed: {subjects} subjects without a mate support {lowest:.1e} at best"
    )]
    Fpir {
        /// Asked for.
        target: f64,
        /// Subjects that are not enrolled.
        subjects: u64,
        /// Lowest rate that they support.
        lowest: f64,
    },
}

/// Lowest FMR that `subjects` can support: 3 over their s(s-1)/2 pairs, at most 1.
#[must_use]
pub fn lowest_fmr(subjects: u64) -> f64 {
    of_three(pairs(subjects))
}

/// Lowest FPIR that `subjects` who are not enrolled can support: several probes of one person are no
/// independent searches.
#[must_use]
pub fn lowest_fpir(subjects: u64) -> f64 {
    of_three(subjects)
}

/// Whether an FMR may be claimed on so many subjects.
///
/// # Errors
/// [`Unsupported`] below the lowest rate that they support.
pub fn claim_fmr(target: f64, subjects: u64) -> Result<(), Unsupported> {
    let lowest = lowest_fmr(subjects);
    if target >= lowest {
        return Ok(());
    }
    Err(Unsupported::Fmr { target, subjects, pairs: pairs(subjects), lowest })
}

/// Whether an FPIR may be claimed on so many subjects that are not enrolled.
///
/// # Errors
/// [`Unsupported`] below the lowest rate that they support.
pub fn claim_fpir(target: f64, subjects: u64) -> Result<(), Unsupported> {
    let lowest = lowest_fpir(subjects);
    if target >= lowest { Ok(()) } else { Err(Unsupported::Fpir { target, subjects, lowest }) }
}

fn pairs(subjects: u64) -> u64 {
    subjects.saturating_mul(subjects.saturating_sub(1)) / 2
}

fn of_three(trials: u64) -> f64 {
    if trials <= 3 { 1.0 } else { 3.0 / trials as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_subjects_support_so_much() {
        assert_eq!(lowest_fmr(71), 3.0 / 2485.0);
        assert!((lowest_fmr(190) - 1.7e-4).abs() < 1e-5);
        assert_eq!(
            (lowest_fmr(0), lowest_fmr(1), lowest_fmr(3), lowest_fmr(4)),
            (1.0, 1.0, 1.0, 0.5)
        );
        assert_eq!((lowest_fpir(300), lowest_fpir(2)), (0.01, 1.0));
    }

    #[test]
    fn what_is_below_is_refused_and_says_why() {
        assert_eq!(claim_fmr(1e-2, 71), Ok(()));
        let refused = claim_fmr(1e-3, 71).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "FMR 1e-3 cannot be claimed: 71 subjects make 2485 independent pairs, which support 1.2e-3 at best"
        );
        assert_eq!(claim_fmr(3.0 / 2485.0, 71), Ok(()), "the lowest itself is supported");
        assert_eq!(claim_fpir(1e-2, 300), Ok(()));
        assert!(matches!(claim_fpir(1e-2, 299), Err(Unsupported::Fpir { subjects: 299, .. })));
    }
}
