//! What is kept between two products: values as they are, or rounded to bfloat16, as a product of pairs or tiles takes them. Rounded where they are
//! written, while they are at hand, by all who write: rounded by the product that reads them, one thread did it and the others waited.

use super::pairs::{HalfRow, halve};
use super::{Row, amx};

/// A row's part in a panel, one way or the other.
pub trait Held: Copy + Send + Sync + 'static {
    /// All zero.
    const ZERO: Self;
    /// So many must be there behind the last of a left side, with whatever is in them.
    const BEHIND: usize;

    /// As a product takes it.
    fn left(rows: &[Self]) -> Left<'_>;

    /// The same place for values as they are, if it is one.
    fn rows(place: &mut [Self]) -> Option<&mut [Row]>;

    /// Puts so many values into a place of their own.
    fn put(values: &[Row], place: &mut [Self]);
}

/// The left side of a product.
#[derive(Debug, Clone, Copy)]
pub enum Left<'a> {
    /// As it is.
    Rows(&'a [Row]),
    /// Rounded, with [`Held::BEHIND`] behind.
    Halves(&'a [HalfRow]),
}

impl Held for Row {
    const ZERO: Self = Self::ZERO;
    const BEHIND: usize = 0;

    fn left(rows: &[Self]) -> Left<'_> {
        Left::Rows(rows)
    }

    #[inline(always)]
    fn rows(place: &mut [Self]) -> Option<&mut [Row]> {
        Some(place)
    }

    #[inline(always)]
    fn put(values: &[Row], place: &mut [Self]) {
        place.copy_from_slice(values);
    }
}

impl Held for HalfRow {
    const ZERO: Self = Self::ZERO;
    const BEHIND: usize = amx::BLOCK - 1;

    fn left(rows: &[Self]) -> Left<'_> {
        Left::Halves(rows)
    }

    #[inline(always)]
    fn rows(_: &mut [Self]) -> Option<&mut [Row]> {
        None
    }

    #[inline(always)]
    fn put(values: &[Row], place: &mut [Self]) {
        halve(values, place);
    }
}
