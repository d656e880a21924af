use super::prompts::Facts;

/// Labelled pictures in memory, all square and of one size.
#[derive(Debug, Clone, Default)]
pub struct LabelledPixels {
    /// Side of a picture, pixels.
    pub size: usize,
    /// `[pictures, size, size, 3]`, RGB8.
    pub pixels: Vec<u8>,
    /// The identity of each picture: a number for each hand of each subject, from 0.
    pub hands: Vec<u32>,
    /// What is true of each picture.
    pub facts: Vec<Facts>,
}

impl LabelledPixels {
    /// Number of pictures.
    #[must_use]
    pub fn len(&self) -> usize {
        self.hands.len()
    }

    /// Whether there are no pictures.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.hands.is_empty()
    }

    /// Number of identities.
    #[must_use]
    pub fn classes(&self) -> usize {
        self.hands.iter().max().map_or(0, |top| *top as usize + 1)
    }

    /// The pixels of picture `index`, `[size, size, 3]`.
    #[must_use]
    pub fn picture(&self, index: usize) -> &[u8] {
        let n = self.size * self.size * 3;
        &self.pixels[index * n..(index + 1) * n]
    }
}
