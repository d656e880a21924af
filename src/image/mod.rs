//! Pictures: from the bytes of a stranger's file to the pixels a model sees.
//!
//! Owns decoding within limits, upright orientation, quality, the one preprocessing that
//! training, evaluation, enrolment and identification share, and the damage that robustness is
//! measured with. Knows nothing of tensors, models,
//! galleries or HTTP.

mod blur;
mod container;
mod corruption;
mod decode;
mod encode;
mod error;
mod orientation;
mod overlay;
mod preprocessing;
mod quality;
mod resample;
mod sample;

pub use blur::gaussian_blur;
pub use container::Format;
pub use corruption::{Corruption, Family, Severity, UnknownCorruption, UnknownSeverity, corrupt};
pub use decode::{DecodeLimits, decode};
pub use encode::{encode_jpeg, encode_png, through_jpeg};
pub use error::ImageError;
pub use overlay::{HeatMap, overlay};
pub use preprocessing::{Framing, Placement, Preprocessing};
pub use quality::{Quality, QualityLimits, assess, gate};
pub use resample::Filter;
pub use sample::bilinear;

/// Pixels of an upright image: 8-bit RGB, row-major. Invariant: both sides are at least 1 and the
/// buffer is `width * height * 3` bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct Picture {
    width: u32,
    height: u32,
    rgb: Vec<u8>,
}

impl Picture {
    /// A picture from `rgb`, `[height, width, 3]`.
    ///
    /// # Errors
    /// [`ImageError::PixelCount`] if a side is 0 or the buffer has another length.
    pub fn from_rgb(width: u32, height: u32, rgb: Vec<u8>) -> Result<Self, ImageError> {
        let expected = u64::from(width).checked_mul(u64::from(height));
        let expected = expected.and_then(|pixels| pixels.checked_mul(3));
        if width == 0 || height == 0 || expected != Some(rgb.len() as u64) {
            return Err(ImageError::PixelCount { width, height, bytes: rgb.len() });
        }
        Ok(Self { width, height, rgb })
    }

    /// The picture at another size, as Pillow resizes; a side of 0 counts as 1.
    #[must_use]
    pub fn resized(&self, width: u32, height: u32, filter: Filter) -> Self {
        let (width, height) = (width.max(1), height.max(1));
        let rgb = resample::resize(self, &resample::Target::whole(width, height), filter);
        Self { width, height, rgb }
    }

    /// Width in pixels, at least 1.
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Height in pixels, at least 1.
    pub fn height(&self) -> u32 {
        self.height
    }

    /// The pixels, `[height, width, 3]`.
    pub fn rgb(&self) -> &[u8] {
        &self.rgb
    }

    /// Other pixels in the same shape; `rgb` must be as long as this picture's.
    fn with_rgb(&self, rgb: Vec<u8>) -> Self {
        debug_assert_eq!(rgb.len(), self.rgb.len());
        Self { width: self.width, height: self.height, rgb }
    }
}

impl std::fmt::Debug for Picture {
    /// Only the size: a picture of a hand has no place in a log.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Picture({}x{})", self.width, self.height)
    }
}
