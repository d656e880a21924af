//! Processors without instructions for neighbours that are used here.

use std::convert::Infallible;

use super::Row;
use super::octets::{OctetRow, OctetRows, Scale};
use super::pairs::{HalfRow, HalfRows};

/// Never there.
#[derive(Debug, Clone, Copy)]
pub(super) struct Dot(Infallible);

impl Dot {
    pub(super) fn detect() -> Option<Self> {
        None
    }

    #[cfg(test)]
    pub(super) fn for_any_rows(self) -> Self {
        match self.0 {}
    }

    pub(super) fn for_rows(self, _: usize) -> Option<Self> {
        match self.0 {}
    }

    pub(super) fn strips(
        self,
        _: &[HalfRow],
        _: usize,
        _: &[HalfRows],
        _: &mut [Row],
        _: &mut impl FnMut(),
    ) {
        match self.0 {}
    }
}

/// Never there.
#[derive(Debug, Clone, Copy)]
pub(super) struct DotOctets(Infallible);

impl DotOctets {
    pub(super) fn detect() -> Option<Self> {
        None
    }

    pub(super) fn strips(
        self,
        _: (&[OctetRow], usize, &[Scale]),
        _: (&[OctetRows], &Row),
        _: &mut [Row],
        _: &mut impl FnMut(),
    ) {
        match self.0 {}
    }
}

#[cfg(test)]
pub(super) fn is_amd() -> bool {
    false
}
