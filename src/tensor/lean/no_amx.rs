//! Processors and systems without tiles that are used here.

use std::convert::Infallible;

use super::Row;
use super::pairs::{HalfRow, HalfRows};

pub(super) const BLOCK: usize = 32;
pub(super) const DEPTH: usize = 8;

/// Never there.
#[derive(Debug, Clone, Copy)]
pub(super) struct Amx(Infallible);

impl Amx {
    pub(super) fn detect() -> Option<Self> {
        None
    }

    pub(super) fn shape(self) -> Shaped {
        match self.0 {}
    }
}

/// Never there.
pub(super) struct Shaped(Infallible);

impl Shaped {
    pub(super) fn strips(&mut self, _: &[HalfRow], _: usize, _: &[HalfRows], _: &mut [Row]) {
        match self.0 {}
    }
}
