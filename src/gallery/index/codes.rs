//! Templates in 24 bits a value, of which the upper eight alone say how far a similarity can be off at most.

use super::kernel::{Kernel, largest};
use super::template::Packed;

/// Rows in 24 bits, in two parts, in the order in which they were added.
#[derive(Debug, Clone, Default)]
pub(super) struct Codes {
    dim: usize,
    /// `[rows, dim]`, each row scaled so that its largest value is 127.
    values: Vec<i8>,
    /// `[rows, dim]`: what that leaves.
    parts: Vec<i16>,
    /// `[rows]`: what a row's values are to be multiplied by.
    scales: Vec<f32>,
}

impl Codes {
    pub(super) fn new(dim: usize, rows: usize) -> Self {
        Self {
            dim,
            values: Vec::with_capacity(rows * dim),
            parts: Vec::with_capacity(rows * dim),
            scales: Vec::with_capacity(rows),
        }
    }

    pub(super) fn bytes(&self) -> usize {
        let scaled = size_of_val(&*self.parts) + size_of_val(&*self.scales);
        self.values.len() + scaled
    }

    pub(super) fn push(&mut self, row: Packed<'_>) {
        self.values.extend_from_slice(row.codes);
        self.parts.extend_from_slice(row.parts);
        self.scales.push(row.scale);
    }

    /// Overwrites a row with zeros.
    pub(super) fn wipe(&mut self, row: usize) {
        let at = row * self.dim..(row + 1) * self.dim;
        self.values[at.clone()].fill(0);
        self.parts[at].fill(0);
        self.scales[row] = 0.0;
    }

    pub(super) fn row(&self, row: usize) -> Packed<'_> {
        let at = row * self.dim..(row + 1) * self.dim;
        Packed { codes: &self.values[at.clone()], parts: &self.parts[at], scale: self.scales[row] }
    }
}

/// Values scaled to -127..127, and what to multiply them by to get them back.
pub(super) fn eight_bits(kernel: Kernel, values: &[f32]) -> (Vec<i8>, f32) {
    kernel.widest(
        #[inline(always)]
        || {
            let largest = largest(values);
            if largest == 0.0 {
                return (vec![0; values.len()], 0.0);
            }
            let steps = 127.0 / largest;
            /// Added to a small number, it leaves the nearest whole one in the lowest bits. A cast that is right for numbers of any size
            /// takes three times as long.
            const ROUND: f32 = 12_582_912.0;
            let round = |value: &f32| (value * steps + ROUND).to_bits() as i8;
            (values.iter().map(round).collect(), largest / 127.0)
        },
    )
}

#[cfg(test)]
mod tests {
    use super::super::template::PackedTemplate;
    use super::*;

    #[test]
    fn a_removed_row_is_zeros_and_its_neighbours_stay() {
        let kernel = Kernel::new();
        let rows = [[0.5_f32, -0.25, 0.125], [1.0, 0.75, -0.5], [-0.125, 0.25, 0.5]];
        let mut codes = Codes::new(3, rows.len());
        rows.iter().for_each(|row| codes.push(PackedTemplate::new(row).view()));
        codes.wipe(1);
        let values = |row| codes.row(row).values(kernel);
        assert_eq!(values(1), [0.0; 3]);
        for row in [0, 2] {
            let near =
                values(row).iter().zip(rows[row]).all(|(got, want)| (got - want).abs() < 1e-6);
            assert!(near, "{:?}", values(row));
        }
    }
}
