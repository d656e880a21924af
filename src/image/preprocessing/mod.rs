//! The one preparation of pixels that training, evaluation, enrolment and identification share,
//! equal to transformers' `CLIPImageProcessor` on its Pillow back end.

mod geometry;
mod json;

use geometry::Geometry;
pub use geometry::Placement;

use super::{Filter, ImageError, Picture};

/// How a picture of any shape becomes one of the model's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// CLIP's own: scale the shorter side to the model's, cut the middle out. A 4:3 photo of a hand
    /// loses its finger tips.
    CentreCrop,
    /// Scale both sides to the model's, whatever that does to proportions.
    Squash,
    /// Scale to fit and fill up around it with the median colour of the picture's border, so that
    /// a plain background goes on without an edge.
    Pad,
}

/// A model's preparation of pictures: geometry, filter, scale and normalisation.
#[derive(Debug, Clone, PartialEq)]
pub struct Preprocessing {
    geometry: Geometry,
    filter: Filter,
    /// Factor from samples to the unit that mean and deviation are in; `None` leaves 0..255.
    rescale: Option<f64>,
    normalisation: Option<Normalisation>,
}

/// By channel, in rescaled units.
#[derive(Debug, Clone, PartialEq)]
struct Normalisation {
    mean: [f64; 3],
    deviation: [f64; 3],
}

/// OpenAI's figures.
const CLIP: Normalisation = Normalisation {
    mean: [0.48145466, 0.4578275, 0.40821073],
    deviation: [0.26862954, 0.26130258, 0.27577711],
};

impl Preprocessing {
    /// Longest side a model may ask for, in pixels.
    pub const MAX_SIDE: u32 = 4096;

    /// OpenAI's CLIP: the shorter side to `size` pixels (bicubic), the middle square, CLIP's mean
    /// and deviation. `size` is taken into 1..=[`MAX_SIDE`](Self::MAX_SIDE).
    pub fn clip(size: u32) -> Self {
        let size = size.clamp(1, Self::MAX_SIDE);
        Self {
            geometry: Geometry::clip(size, size),
            filter: Filter::Bicubic,
            rescale: Some(1.0 / 255.0),
            normalisation: Some(CLIP),
        }
    }

    /// Reads a Hugging Face `preprocessor_config.json`. What is missing has the defaults of
    /// `CLIPImageProcessor`. `handclip_framing` (`centre_crop`, `squash` or `pad`) is ours.
    ///
    /// # Errors
    /// [`ImageError::PreprocessingSyntax`] and [`ImageError::PreprocessingValue`]: a step that is
    /// not known must not be skipped, or every embedding would be slightly wrong.
    pub fn from_json(text: &str) -> Result<Self, ImageError> {
        json::read(text)
    }

    /// The canonical `preprocessor_config.json`: equal preparations give equal bytes, so that it can
    /// be part of a fingerprint. transformers reads it too (`squash` included; `pad` has no
    /// counterpart there).
    pub fn to_json(&self) -> String {
        json::write(self)
    }

    /// The same preparation to the same size, framed differently.
    #[must_use]
    pub fn with_framing(mut self, framing: Framing) -> Self {
        if framing != self.framing() {
            let (height, width) = self.size();
            self.geometry = match framing {
                Framing::CentreCrop => Geometry::clip(height, width),
                Framing::Squash => Geometry::Squash { height, width },
                Framing::Pad => Geometry::Pad { height, width },
            };
        }
        self
    }

    /// How pictures are framed.
    pub fn framing(&self) -> Framing {
        match self.geometry {
            Geometry::Crop { .. } => Framing::CentreCrop,
            Geometry::Squash { .. } => Framing::Squash,
            Geometry::Pad { .. } => Framing::Pad,
        }
    }

    /// Height and width of what the model sees, in pixels.
    pub fn size(&self) -> (u32, u32) {
        self.geometry.size()
    }

    /// Where `picture` lies in what the model sees of it.
    pub fn placement(&self, picture: &Picture) -> Placement {
        self.geometry.place(picture)
    }

    /// The framed picture, `[height, width, 3]`, 0..=255.
    pub fn pixels(&self, picture: &Picture) -> Vec<u8> {
        self.geometry.frame(picture, self.filter)
    }

    /// What the model is given: `[3, height, width]`, rescaled and normalised.
    pub fn apply(&self, picture: &Picture) -> Vec<f32> {
        self.normalise(&self.pixels(picture))
    }

    /// `pixels`, `[height, width, 3]`, rescaled, normalised and by channel: `[3, height, width]`.
    /// Any number of whole pixels is taken.
    pub fn normalise(&self, pixels: &[u8]) -> Vec<f32> {
        let tables = [0, 1, 2].map(|channel| self.table(channel));
        let mut out = Vec::with_capacity(pixels.len());
        for (channel, table) in tables.iter().enumerate() {
            let samples = pixels.chunks_exact(3);
            out.extend(samples.map(|pixel| table[usize::from(pixel[channel])]));
        }
        out
    }

    /// The model's value of each sample. Rescaled in double precision and rounded, then normalised in
    /// single precision, as numpy does it there.
    fn table(&self, channel: usize) -> [f32; 256] {
        std::array::from_fn(|sample| {
            let value = match self.rescale {
                Some(factor) => (sample as f64 * factor) as f32,
                None => sample as f32,
            };
            match &self.normalisation {
                Some(n) => (value - n.mean[channel] as f32) / n.deviation[channel] as f32,
                None => value,
            }
        })
    }
}
