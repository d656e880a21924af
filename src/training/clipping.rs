use candle_core::Tensor;
use rayon::prelude::*;

use crate::tensor::{square_sum, widest, with_values};

/// Values that a thread takes at a time.
pub(super) const CHUNK: usize = 1 << 15;

/// How long all gradients are together, and what they are multiplied by so that they are no longer than allowed.
pub(super) enum Clipping {
    /// Known here: norm and factor.
    Host(f64, f64),
    /// Both on a card, which need not be waited for.
    Card(Tensor, Tensor),
}

impl Clipping {
    pub(super) fn of(gradients: &[&Tensor], longest: f64) -> candle_core::Result<Self> {
        if gradients.first().is_some_and(|gradient| gradient.device().is_cuda()) {
            let norm = square_sum(gradients)?.sqrt()?;
            let scale = (norm.maximum(longest)?.recip()? * longest)?;
            return Ok(Self::Card(norm, scale));
        }
        let squares = gradients.iter().map(|gradient| host_square_sum(gradient));
        let norm = squares.sum::<candle_core::Result<f64>>()?.sqrt();
        Ok(Self::Host(norm, if norm > longest { longest / norm } else { 1.0 }))
    }

    /// Waits for a card.
    pub(super) fn norm(&self) -> candle_core::Result<f64> {
        match self {
            Self::Host(norm, _) => Ok(*norm),
            Self::Card(norm, _) => norm.to_scalar::<f32>().map(f64::from),
        }
    }

    /// Waits for a card.
    pub(super) fn scale(&self) -> candle_core::Result<f64> {
        match self {
            Self::Host(_, scale) => Ok(*scale),
            Self::Card(_, scale) => scale.to_scalar::<f32>().map(f64::from),
        }
    }
}

fn host_square_sum(gradient: &Tensor) -> candle_core::Result<f64> {
    /// Sums that run side by side.
    const LANES: usize = 16;
    let add = |sum: &mut f64, value: &f32| *sum += f64::from(*value) * f64::from(*value);
    let of = |values: &[f32]| {
        widest(
            #[inline(always)]
            || {
                let mut sums = [0.0; LANES];
                let (whole, others) = values.as_chunks::<LANES>();
                for values in whole {
                    sums.iter_mut().zip(values).for_each(|(sum, value)| add(sum, value));
                }
                sums.iter_mut().zip(others).for_each(|(sum, value)| add(sum, value));
                sums.iter().sum::<f64>()
            },
        )
    };
    // In an order that does not depend on the threads.
    with_values(gradient, |values| {
        values.par_chunks(CHUNK).map(of).collect::<Vec<f64>>().iter().sum()
    })
}
