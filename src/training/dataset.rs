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
    /// `[pictures, traits]`: numbers that describe the hand shown, not a number where unknown. May be
    /// empty.
    pub traits: Vec<f32>,
}

impl LabelledPixels {
    /// How many traits describe a picture.
    #[must_use]
    pub fn trait_count(&self) -> usize {
        self.traits.len() / self.len().max(1)
    }

    /// Brings each trait to mean 0 and deviation 1 over the pictures in which it is known.
    pub fn standardise_traits(&mut self) {
        let count = self.trait_count();
        for column in 0..count {
            let known: Vec<f64> = self.traits[column..]
                .iter()
                .step_by(count)
                .filter(|v| v.is_finite())
                .map(|v| f64::from(*v))
                .collect();
            let n = known.len().max(1) as f64;
            let mean = known.iter().sum::<f64>() / n;
            let variance = known.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / n;
            let deviation = variance.sqrt().max(1e-6);
            for value in self.traits[column..].iter_mut().step_by(count) {
                *value = ((f64::from(*value) - mean) / deviation) as f32;
            }
        }
    }

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

    /// The traits of picture `index`.
    #[must_use]
    pub fn traits_of(&self, index: usize) -> &[f32] {
        let n = self.trait_count();
        &self.traits[index * n..(index + 1) * n]
    }

    /// The pixels of picture `index`, `[size, size, 3]`.
    #[must_use]
    pub fn picture(&self, index: usize) -> &[u8] {
        let n = self.size * self.size * 3;
        &self.pixels[index * n..(index + 1) * n]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traits_are_standardised_over_the_pictures_that_show_them() {
        let mut data = LabelledPixels {
            hands: vec![0, 1, 2],
            traits: vec![1.0, f32::NAN, 3.0, 5.0, 5.0, 9.0],
            ..LabelledPixels::default()
        };
        assert_eq!(data.trait_count(), 2);
        data.standardise_traits();
        let root = 1.5_f32.sqrt();
        for (got, want) in [(data.traits[0], -root), (data.traits[2], 0.0), (data.traits[4], root)]
        {
            assert!((got - want).abs() < 1e-6, "{got} {want}");
        }
        assert!(data.traits[1].is_nan());
        assert_eq!((data.traits[3], data.traits[5]), (-1.0, 1.0));
    }
}
