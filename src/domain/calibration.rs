use serde::{Deserialize, Serialize};

use super::Fingerprint;

/// A threshold and the error rate that it was chosen for.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CalibratedThreshold {
    /// The highest error rate wanted: FMR for verification, FPIR for identification.
    pub target: f64,
    /// Accepted at this similarity or above.
    pub similarity: f32,
    /// The rate measured at it.
    pub rate: f64,
    /// Upper end of that rate's 95 % interval.
    pub upper: f64,
}

/// Which similarity means what, for one model: measured on subjects that nothing else was measured on.
/// Invariant: at least one threshold; within each list targets fall and similarities do not.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Parts", into = "Parts")]
pub struct Calibration(Parts);

/// What a calibration is made of, as it is written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parts {
    /// The model whose similarities were measured.
    pub fingerprint: Fingerprint,
    /// Subjects that were measured on.
    pub subjects: usize,
    /// Samples that a subject had in the gallery.
    pub samples_per_subject: usize,
    /// Subjects in the gallery that identification was measured with: a larger one has more false positives.
    pub gallery_subjects: usize,
    /// By FMR, the loosest target first.
    pub verification: Vec<CalibratedThreshold>,
    /// By FPIR, the loosest target first.
    pub identification: Vec<CalibratedThreshold>,
    /// When it was measured, milliseconds since 1970.
    pub made_at_ms: u64,
}

/// Why something is no calibration.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum CalibrationError {
    /// Neither list has a threshold.
    #[error("a calibration needs a threshold")]
    Empty,
    /// A target, rate or similarity out of range.
    #[error("{0} is no error rate between 0 and 1, or no similarity")]
    Range(f64),
    /// Thresholds out of order.
    #[error(
        "targets must fall and similarities must not: {target} at {similarity} is out of order"
    )]
    Order {
        /// The target.
        target: f64,
        /// Its similarity.
        similarity: f32,
    },
}

impl TryFrom<Parts> for Calibration {
    type Error = CalibrationError;

    fn try_from(parts: Parts) -> Result<Self, CalibrationError> {
        if parts.verification.is_empty() && parts.identification.is_empty() {
            return Err(CalibrationError::Empty);
        }
        for list in [&parts.verification, &parts.identification] {
            for threshold in list {
                let rates = [threshold.target, threshold.rate, threshold.upper];
                if let Some(bad) = rates.into_iter().find(|rate| !(0.0..=1.0).contains(rate)) {
                    return Err(CalibrationError::Range(bad));
                }
                // Just above 1 where no similarity is high enough.
                if !(-1.0..=1.001).contains(&threshold.similarity) {
                    return Err(CalibrationError::Range(f64::from(threshold.similarity)));
                }
            }
            for pair in list.windows(2) {
                if pair[1].target >= pair[0].target || pair[1].similarity < pair[0].similarity {
                    let CalibratedThreshold { target, similarity, .. } = pair[1];
                    return Err(CalibrationError::Order { target, similarity });
                }
            }
        }
        Ok(Self(parts))
    }
}

impl From<Calibration> for Parts {
    fn from(calibration: Calibration) -> Self {
        calibration.0
    }
}

impl std::ops::Deref for Calibration {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn threshold(target: f64, similarity: f32) -> CalibratedThreshold {
        CalibratedThreshold { target, similarity, rate: target / 2.0, upper: target }
    }

    fn parts(verification: Vec<CalibratedThreshold>) -> Parts {
        Parts {
            fingerprint: Fingerprint([7; 32]),
            subjects: 40,
            samples_per_subject: 1,
            gallery_subjects: 30,
            verification,
            identification: Vec::new(),
            made_at_ms: 1,
        }
    }

    #[test]
    fn a_calibration_is_in_order_and_stays_so_through_text() {
        let good = parts(vec![threshold(0.01, 0.7), threshold(0.001, 0.8)]);
        let calibration = Calibration::try_from(good.clone()).unwrap();
        let text = serde_json::to_string(&calibration).unwrap();
        assert_eq!(serde_json::from_str::<Calibration>(&text).unwrap(), calibration);
        assert_eq!(calibration.verification, good.verification);
        let unknown = text.replacen('{', "{\"x\":1,", 1);
        assert!(serde_json::from_str::<Calibration>(&unknown).is_err());
    }

    #[test]
    fn what_is_out_of_order_or_range_is_refused() {
        let refused = |list| Calibration::try_from(parts(list)).unwrap_err();
        assert_eq!(refused(vec![]), CalibrationError::Empty);
        let order = refused(vec![threshold(0.001, 0.8), threshold(0.01, 0.7)]);
        assert!(matches!(order, CalibrationError::Order { .. }));
        let order = refused(vec![threshold(0.01, 0.8), threshold(0.001, 0.7)]);
        assert!(matches!(order, CalibrationError::Order { .. }));
        assert_eq!(refused(vec![threshold(1.5, 0.8)]), CalibrationError::Range(1.5));
        assert!(matches!(refused(vec![threshold(0.1, f32::NAN)]), CalibrationError::Range(_)));
    }
}
