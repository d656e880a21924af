//! What can be wrong with a picture, or with what describes its preparation.

use super::Format;

/// Why a picture, or a preprocessing description, is refused. Each variant has one stable
/// [`code`](ImageError::code).
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ImageError {
    /// No bytes at all.
    #[error("the image is empty")]
    Empty,
    /// The content is neither JPEG, PNG nor WebP, whatever its name says.
    #[error("the content is not a JPEG, PNG or WebP image")]
    UnsupportedMediaType,
    /// The format is right, but this flavour of it is not taken.
    #[error("{what} are not supported in {format} images")]
    UnsupportedVariant {
        /// The format by its content.
        format: Format,
        /// What is not taken, in plural.
        what: &'static str,
    },
    /// More bytes than [`max_file_bytes`](super::DecodeLimits::max_file_bytes).
    #[error("the image file has {bytes} bytes, at most {max} are taken")]
    FileTooLarge {
        /// Size of the file in bytes.
        bytes: usize,
        /// The limit in bytes.
        max: usize,
    },
    /// A side longer than [`max_side`](super::DecodeLimits::max_side).
    #[error("the image is {width}x{height} pixels, at most {max} a side are taken")]
    SideTooLong {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
        /// The limit in pixels.
        max: u32,
    },
    /// More than [`max_decoded_bytes`](super::DecodeLimits::max_decoded_bytes) once decoded.
    #[error("the {width}x{height} image takes {bytes} bytes decoded, at most {max} are taken")]
    TooManyPixels {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
        /// What the decoded pixels would take, in bytes.
        bytes: u64,
        /// The limit in bytes.
        max: u64,
    },
    /// Within the limit of pixels, and a decoder would hold more than it may: see
    /// [`DecodeLimits::max_working_bytes`](super::DecodeLimits::max_working_bytes).
    #[error(
        "decoding the {width}x{height} image takes {bytes} bytes, at most {max} are taken: make it smaller, or save it upright, as a JPEG that is not progressive and of one scan"
    )]
    WorkingMemory {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
        /// What its decoder would hold, in bytes.
        bytes: u64,
        /// The limit in bytes.
        max: u64,
    },
    /// The file ends before the image does.
    #[error("the {format} image is cut off")]
    Truncated {
        /// The format by its content.
        format: Format,
    },
    /// The file breaks the rules of its format.
    #[error("the {format} image is damaged: {detail}")]
    Corrupt {
        /// The format by its content.
        format: Format,
        /// What is broken.
        detail: String,
    },
    /// An APNG or an animated WebP: which frame would be the probe?
    #[error("the {format} image is animated")]
    Animated {
        /// The format by its content.
        format: Format,
    },
    /// Bytes follow the end of the image.
    #[error("{bytes} bytes follow the end of the {format} image")]
    TrailingData {
        /// The format by its content.
        format: Format,
        /// How many bytes follow.
        bytes: usize,
    },
    /// Fewer pixels a side than [`min_side`](super::QualityLimits::min_side).
    #[error("the image is {width}x{height} pixels, at least {min} a side are needed")]
    TooSmall {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
        /// The limit in pixels.
        min: u32,
    },
    /// Hardly any contrast: a covered lens or a plain colour.
    #[error("the image is blank: its contrast is {contrast:.4}, at least {min} is needed")]
    Blank {
        /// Standard deviation of the luma, 0..0.5.
        contrast: f32,
        /// The limit.
        min: f32,
    },
    /// A buffer that does not hold `width * height * 3` bytes, or holds none.
    #[error("{bytes} bytes are not a {width}x{height} RGB picture")]
    PixelCount {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
        /// Length of the buffer in bytes.
        bytes: usize,
    },
    /// A preprocessing description that is not JSON.
    #[error("the preprocessing is not a JSON object: {detail}")]
    PreprocessingSyntax {
        /// What the parser said.
        detail: String,
    },
    /// A key of a preprocessing description with a value that is not understood.
    #[error("preprocessing key `{key}`: {detail}")]
    PreprocessingValue {
        /// The key.
        key: &'static str,
        /// What is wrong with it.
        detail: String,
    },
    /// The encoder failed.
    #[error("the picture cannot be written as {format}: {detail}")]
    Encode {
        /// The format asked for.
        format: Format,
        /// What the encoder said.
        detail: String,
    },
}

impl ImageError {
    /// A name for programs: stable across releases, one for each kind of failure.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Empty => "image_empty",
            Self::UnsupportedMediaType => "unsupported_media_type",
            Self::UnsupportedVariant { .. } => "image_unsupported_variant",
            Self::FileTooLarge { .. } => "image_file_too_large",
            Self::SideTooLong { .. } | Self::TooManyPixels { .. } | Self::WorkingMemory { .. } => {
                "image_too_large"
            }
            Self::Truncated { .. } => "image_truncated",
            Self::Corrupt { .. } => "image_corrupt",
            Self::Animated { .. } => "image_animated",
            Self::TrailingData { .. } => "image_trailing_data",
            Self::TooSmall { .. } => "image_too_small",
            Self::Blank { .. } => "image_blank",
            Self::PixelCount { .. } => "image_pixel_count",
            Self::PreprocessingSyntax { .. } | Self::PreprocessingValue { .. } => {
                "preprocessing_invalid"
            }
            Self::Encode { .. } => "image_encoding_failed",
        }
    }

    pub(super) fn corrupt(format: Format, detail: impl Into<String>) -> Self {
        Self::Corrupt { format, detail: detail.into() }
    }
}
