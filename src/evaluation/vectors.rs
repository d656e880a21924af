use rayon::prelude::*;

use super::EvaluationError;
use crate::domain::Embedding;

/// How far from 1 the length of a row may be; that of [`Embedding`].
const SLACK: f64 = 1e-3;

/// Embeddings as one block of `[rows, dim]`. Invariant: finite, every row of unit length to 1e-3.
#[derive(Debug, Clone, PartialEq)]
pub struct Vectors {
    dim: usize,
    values: Vec<f32>,
}

impl Vectors {
    /// Takes `[rows, dim]` values, row after row.
    ///
    /// # Errors
    /// [`EvaluationError`] for no dimensions, a broken row, a non-finite value, a row not of unit length.
    pub fn new(dim: usize, values: Vec<f32>) -> Result<Self, EvaluationError> {
        if dim == 0 {
            return Err(EvaluationError::NoDimensions);
        }
        if !values.len().is_multiple_of(dim) {
            return Err(EvaluationError::Dimensions { dim, got: values.len() });
        }
        values.par_chunks_exact(dim).enumerate().try_for_each(|(row, values)| {
            if let Some(dim) = values.iter().position(|value| !value.is_finite()) {
                return Err(EvaluationError::NonFinite { row, dim });
            }
            let square: f64 = values.iter().map(|value| f64::from(*value).powi(2)).sum();
            let norm = square.sqrt();
            if (norm - 1.0).abs() > SLACK {
                return Err(EvaluationError::NotUnit { row, norm });
            }
            Ok(())
        })?;
        Ok(Self { dim, values })
    }

    /// Copies embeddings into one block.
    ///
    /// # Errors
    /// [`EvaluationError::NoDimensions`] for no embedding at all, [`EvaluationError::Dimensions`] when
    /// their sizes differ.
    pub fn from_embeddings<'a>(
        embeddings: impl IntoIterator<Item = &'a Embedding>,
    ) -> Result<Self, EvaluationError> {
        let (mut dim, mut values) = (0, Vec::new());
        for embedding in embeddings {
            if values.is_empty() {
                dim = embedding.dim();
            }
            if embedding.dim() != dim {
                return Err(EvaluationError::Dimensions { dim, got: embedding.dim() });
            }
            values.extend_from_slice(embedding.as_slice());
        }
        Self::new(dim, values)
    }

    /// Number of rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.values.len() / self.dim
    }

    /// Whether there is no row.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Number of dimensions.
    #[must_use]
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Row `row`, `[dim]`. Panics where there is none.
    #[must_use]
    pub fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.dim..(row + 1) * self.dim]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_block_of_unit_rows_is_refused() {
        assert_eq!(Vectors::new(0, vec![]), Err(EvaluationError::NoDimensions));
        assert_eq!(
            Vectors::new(2, vec![1.0; 3]),
            Err(EvaluationError::Dimensions { dim: 2, got: 3 })
        );
        assert_eq!(
            Vectors::new(2, vec![0.6, 0.8, 0.0, f32::NAN]),
            Err(EvaluationError::NonFinite { row: 1, dim: 1 })
        );
        assert!(matches!(
            Vectors::new(2, vec![0.6, 0.8, 0.6, 0.9]),
            Err(EvaluationError::NotUnit { row: 1, .. })
        ));
        let embeddings = [vec![1.0], vec![1.0, 0.0]].map(|v| Embedding::from_raw(v).unwrap());
        assert_eq!(
            Vectors::from_embeddings(&embeddings),
            Err(EvaluationError::Dimensions { dim: 1, got: 2 })
        );
    }

    #[test]
    fn rows_are_where_they_were_put() {
        let vectors = Vectors::new(2, vec![0.6, 0.8, 0.0, 1.0]).unwrap();
        assert_eq!((vectors.len(), vectors.dim(), vectors.is_empty()), (2, 2, false));
        assert_eq!(vectors.row(1), [0.0, 1.0]);
    }
}
