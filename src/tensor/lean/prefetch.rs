//! Asking for memory before it is needed.
#![expect(
    unsafe_code,
    reason = "the instruction has no safe form; it is a hint, and nothing follows from it"
)]

/// Asks for the whole of a value to be brought into the first-level cache. Changes nothing but the time that reading it takes:
/// without it a product with few rows waits for its weights (by a quarter of its time at 50 rows).
#[inline(always)]
pub(super) fn prefetch<T>(value: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let start = std::ptr::from_ref(value).cast::<i8>();
        for line in (0..size_of::<T>()).step_by(64) {
            // SAFETY: a prefetch reads and writes nothing and cannot fault, whatever the address; and it is one inside `value`.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(start.wrapping_add(line)) };
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = value;
}

/// What is needed next, asked for a little at a time.
pub(super) struct Ahead<'a, T> {
    left: &'a [T],
    each: usize,
}

impl<'a, T> Ahead<'a, T> {
    /// Up to `count` values from `at` on, in so many steps.
    #[inline(always)]
    pub(super) fn new(all: &'a [T], at: usize, count: usize, steps: usize) -> Self {
        let end = (at + count).min(all.len());
        Self { left: all.get(at..end).unwrap_or(&[]), each: count.div_ceil(steps.max(1)) }
    }

    #[inline(always)]
    pub(super) fn step(&mut self) {
        let (now, later) = self.left.split_at(self.each.min(self.left.len()));
        self.left = later;
        now.iter().for_each(prefetch);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_asked_for_once_and_nothing_beyond() {
        let values: Vec<[u8; 128]> = vec![[7; 128]; 10];
        let mut ahead = Ahead::new(&values, 3, 5, 2);
        let lengths: Vec<usize> = (0..3)
            .map(|_| {
                ahead.step();
                ahead.left.len()
            })
            .collect();
        assert_eq!(lengths, [2, 0, 0]);
        assert_eq!(Ahead::new(&values, 8, 5, 1).left.len(), 2);
        assert!(Ahead::new(&values, 11, 5, 1).left.is_empty());
        assert!(values.iter().all(|value| *value == [7; 128]));
    }
}
