//! How bits lie in memory.

/// Values that one look-up sums up.
pub(super) const NIBBLE: usize = 4;

/// Rows whose bits lie together, so that one instruction looks up a part of each.
pub(super) const GROUP: usize = 32;

/// Two nibbles of each of [`GROUP`] rows. Byte `16 p + i` has nibble `p` of row `i` below and of row `i + 16` above.
pub(super) type Nibbles = [u8; 32];

/// Values from which on a row's first bits are read in two steps. Of fewer, the first step would say too little to leave any row out.
const TWO_STEPS_FROM: usize = 384;

/// Pairs of a row's nibbles that are read first.
pub(super) fn head(dim: usize) -> usize {
    if dim < TWO_STEPS_FROM { 0 } else { pairs(dim) * 5 / 16 }
}

/// Of all values, those that are read first; 1 where there is but one step.
pub(super) fn share(dim: usize) -> f32 {
    match head(dim) {
        0 => 1.0,
        pairs => (2 * NIBBLE * pairs) as f32 / dim as f32,
    }
}

/// Nibbles of so many values, halved.
pub(super) fn pairs(dim: usize) -> usize {
    dim.div_ceil(2 * NIBBLE)
}
