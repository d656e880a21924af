//! Processors without instructions that round.

use std::convert::Infallible;

use super::pairs::{HalfRow, HalfRows};
use super::{Row, WIDTH};

/// Never there.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rounds(Infallible);

impl Rounds {
    pub(super) fn detect() -> Option<Self> {
        None
    }

    pub(super) fn halve(self, _: &[Row], _: &mut [HalfRow]) {
        match self.0 {}
    }

    pub(super) fn pair_up_apart(self, _: &[f32], _: usize, _: &mut [HalfRows; WIDTH / 2]) {
        match self.0 {}
    }
}
