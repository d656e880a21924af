//! Little-endian numbers from bytes that may be anything.

pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    fn many(&mut self, count: usize, size: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(count.checked_mul(size)?)?;
        self.0 = rest;
        Some(head)
    }

    pub(super) fn words(&mut self, count: usize) -> Option<Vec<u32>> {
        let words = self.many(count, 4)?.as_chunks::<4>().0;
        Some(words.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect())
    }

    pub(super) fn long_words(&mut self, count: usize) -> Option<Vec<u64>> {
        let words = self.many(count, 8)?.as_chunks::<8>().0;
        Some(words.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect())
    }

    pub(super) fn word(&mut self) -> Option<u32> {
        let (head, rest) = self.0.split_first_chunk::<4>()?;
        self.0 = rest;
        Some(u32::from_le_bytes(*head))
    }
}
