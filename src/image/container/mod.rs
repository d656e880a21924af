//! What a file says about itself, read before any decoder sees it.
//!
//! Each format is walked from its first byte to its last. What comes out is a minimal file that
//! holds the pixels and nothing else: compressed profiles and texts (the usual bombs), thumbnails
//! and comments never reach a decoder.

mod jpeg;
mod png;
mod webp;

use std::fmt;

use ::image::metadata::Orientation;

use super::{DecodeLimits, ImageError};

/// An image format this program takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// JPEG, baseline or progressive, grey or colour.
    Jpeg,
    /// PNG, any colour type, not animated.
    Png,
    /// WebP, lossy or lossless, not animated.
    Webp,
}

impl Format {
    /// The format by the first bytes, whatever the file is called.
    pub fn sniff(bytes: &[u8]) -> Option<Self> {
        if bytes.starts_with(&[0xff, 0xd8]) {
            Some(Self::Jpeg)
        } else if bytes.starts_with(&png::SIGNATURE) {
            Some(Self::Png)
        } else if bytes.starts_with(b"RIFF") && bytes.get(8..12) == Some(b"WEBP") {
            Some(Self::Webp)
        } else {
            None
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Jpeg => "JPEG",
            Self::Png => "PNG",
            Self::Webp => "WebP",
        })
    }
}

/// A file that was walked to its end: well-formed, alone, still, and within the limits.
pub(super) struct Container {
    pub(super) format: Format,
    /// As stored, in pixels.
    pub(super) width: u32,
    /// As stored, in pixels.
    pub(super) height: u32,
    pub(super) orientation: Orientation,
    /// What a decoder holds at the most, its output too, in bytes.
    decoder_bytes: u64,
    /// The same image with its pixel data only.
    pub(super) bare: Vec<u8>,
}

impl Container {
    /// What is held at the most while this is decoded and turned upright, in bytes.
    pub(super) fn working_bytes(&self) -> u64 {
        let pixels = u64::from(self.width) * u64::from(self.height);
        // Turning makes a second copy, when the decoder's own buffers are gone.
        let turned = if self.orientation == Orientation::NoTransforms { 0 } else { 6 * pixels };
        self.decoder_bytes.max(turned) + self.bare.len() as u64
    }
}

/// Walks `bytes` and checks what can be checked without decoding.
pub(super) fn inspect(bytes: &[u8], limits: &DecodeLimits) -> Result<Container, ImageError> {
    if bytes.is_empty() {
        return Err(ImageError::Empty);
    }
    let format = Format::sniff(bytes).ok_or(ImageError::UnsupportedMediaType)?;
    if bytes.len() > limits.max_file_bytes {
        return Err(ImageError::FileTooLarge { bytes: bytes.len(), max: limits.max_file_bytes });
    }
    match format {
        Format::Jpeg => jpeg::inspect(bytes, limits),
        Format::Png => png::inspect(bytes, limits),
        Format::Webp => webp::inspect(bytes, limits),
    }
}

/// The `N` bytes at `at`, or `None` past the end.
fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}
