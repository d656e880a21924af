use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

/// Cosine similarity in [-1, 1]; higher is closer. Invariant: finite.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Similarity(f32);

impl Similarity {
    /// Clamps a dot product of unit vectors into [-1, 1]. Rounding may push it just outside;
    /// a NaN, which unit vectors cannot give, becomes the lowest similarity and never a match.
    #[must_use]
    pub fn clamped(dot: f32) -> Self {
        if dot.is_nan() { Self(-1.0) } else { Self(dot.clamp(-1.0, 1.0)) }
    }

    /// The value.
    #[must_use]
    pub fn get(self) -> f32 {
        self.0
    }
}

impl Eq for Similarity {}

impl PartialOrd for Similarity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Similarity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.total_cmp(&other.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nan_is_never_close() {
        assert_eq!(Similarity::clamped(f32::NAN).get(), -1.0);
        assert_eq!(Similarity::clamped(1.000_001).get(), 1.0);
        assert!(Similarity::clamped(0.3) > Similarity::clamped(0.2));
    }
}
