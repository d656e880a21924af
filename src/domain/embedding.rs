use crate::domain::Similarity;

/// Why a feature cannot become an [`Embedding`].
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum EmbeddingError {
    /// No dimensions at all.
    #[error("the feature is empty")]
    Empty,
    /// A NaN or an infinity.
    #[error("the feature has a non-finite value at dimension {dim}")]
    NonFinite {
        /// First offending dimension.
        dim: usize,
    },
    /// A length that cannot be normalised.
    #[error("the feature has length {norm:e}, which gives no direction")]
    NoDirection {
        /// Euclidean length found.
        norm: f64,
    },
    /// Stored values that are not a unit vector.
    #[error("the embedding has length {norm}, not 1")]
    NotUnit {
        /// Euclidean length found.
        norm: f64,
    },
}

/// A direction in embedding space. Invariant: finite, and of unit length to 1e-3.
#[derive(Debug, Clone, PartialEq)]
pub struct Embedding(Box<[f32]>);

impl Embedding {
    /// Normalises a raw feature `[dim]` to unit length.
    ///
    /// # Errors
    /// [`EmbeddingError`] for an empty, non-finite or zero feature.
    pub fn from_raw(mut feature: Vec<f32>) -> Result<Self, EmbeddingError> {
        let norm = length(&feature)?;
        // Below this the direction is rounding noise.
        if norm < 1e-12 {
            return Err(EmbeddingError::NoDirection { norm });
        }
        for value in &mut feature {
            *value = (f64::from(*value) / norm) as f32;
        }
        Ok(Self(feature.into_boxed_slice()))
    }

    /// Takes values that are of unit length already, as read from a store.
    ///
    /// # Errors
    /// [`EmbeddingError`] when they are not.
    pub fn from_unit(values: Vec<f32>) -> Result<Self, EmbeddingError> {
        if is_surely_unit(&values) {
            return Ok(Self(values.into_boxed_slice()));
        }
        let norm = length(&values)?;
        if (norm - 1.0).abs() > 1e-3 {
            return Err(EmbeddingError::NotUnit { norm });
        }
        Ok(Self(values.into_boxed_slice()))
    }

    /// Number of dimensions.
    #[must_use]
    pub fn dim(&self) -> usize {
        self.0.len()
    }

    /// The values, `[dim]`.
    #[must_use]
    pub fn as_slice(&self) -> &[f32] {
        &self.0
    }

    /// Cosine similarity, or `None` when the dimensions differ.
    #[must_use]
    pub fn similarity(&self, other: &Self) -> Option<Similarity> {
        (self.dim() == other.dim()).then(|| {
            Similarity::clamped(self.0.iter().zip(other.0.iter()).map(|(a, b)| a * b).sum())
        })
    }
}

/// Whether values are a unit vector by a margin: all are finite then. Fast, for who reads many.
fn is_surely_unit(values: &[f32]) -> bool {
    const LANES: usize = 16;
    let mut squares = [0.0_f32; LANES];
    for part in values.chunks(LANES) {
        part.iter().zip(&mut squares).for_each(|(value, sum)| *sum += value * value);
    }
    (squares.iter().sum::<f32>() - 1.0).abs() < 1e-3
}

fn length(values: &[f32]) -> Result<f64, EmbeddingError> {
    if values.is_empty() {
        return Err(EmbeddingError::Empty);
    }
    if let Some(dim) = values.iter().position(|v| !v.is_finite()) {
        return Err(EmbeddingError::NonFinite { dim });
    }
    Ok(values.iter().map(|v| f64::from(*v) * f64::from(*v)).sum::<f64>().sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_feature_without_direction_is_refused() {
        assert_eq!(Embedding::from_raw(vec![]), Err(EmbeddingError::Empty));
        assert_eq!(
            Embedding::from_raw(vec![1.0, f32::NAN]),
            Err(EmbeddingError::NonFinite { dim: 1 })
        );
        assert!(matches!(
            Embedding::from_raw(vec![0.0; 4]),
            Err(EmbeddingError::NoDirection { .. })
        ));
    }

    #[test]
    fn normalising_survives_extreme_lengths() {
        for scale in [1e-6_f32, 1.0, 1e30] {
            let e = Embedding::from_raw(vec![3.0 * scale, 4.0 * scale]).unwrap();
            assert!((e.as_slice()[0] - 0.6).abs() < 1e-6);
            assert!((e.as_slice()[1] - 0.8).abs() < 1e-6);
        }
    }

    #[test]
    fn similarity_is_the_cosine_and_needs_equal_dimensions() {
        let a = Embedding::from_raw(vec![1.0, 0.0]).unwrap();
        let b = Embedding::from_raw(vec![1.0, 1.0]).unwrap();
        let c = Embedding::from_raw(vec![1.0, 1.0, 1.0]).unwrap();
        assert!((a.similarity(&b).unwrap().get() - 0.5_f32.sqrt()).abs() < 1e-6);
        assert_eq!(a.similarity(&c), None);
    }

    #[test]
    fn stored_values_must_be_of_unit_length() {
        assert!(Embedding::from_unit(vec![0.6, 0.8]).is_ok());
        assert!(matches!(
            Embedding::from_unit(vec![0.6, 0.9]),
            Err(EmbeddingError::NotUnit { .. })
        ));
        for (length, taken) in [(0.9989, false), (0.9991, true), (1.0009, true), (1.0011, false)] {
            let values = vec![length / 20.0_f32; 400];
            assert_eq!(Embedding::from_unit(values).is_ok(), taken, "{length}");
        }
        for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let refused = Embedding::from_unit(vec![0.6, 0.8, odd]);
            assert_eq!(refused, Err(EmbeddingError::NonFinite { dim: 2 }));
        }
    }
}
