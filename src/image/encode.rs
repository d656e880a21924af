//! Pictures back to files.

use ::image::codecs::jpeg::JpegEncoder;
use ::image::codecs::png::PngEncoder;
use ::image::{ExtendedColorType, ImageEncoder as _};

use super::{DecodeLimits, Format, ImageError, Picture, decode};

/// `picture` as a PNG: lossless, without metadata.
///
/// # Errors
/// [`ImageError::Encode`] if the encoder fails.
pub fn encode_png(picture: &Picture) -> Result<Vec<u8>, ImageError> {
    let mut out = Vec::new();
    PngEncoder::new(&mut out)
        .write_image(picture.rgb(), picture.width(), picture.height(), ExtendedColorType::Rgb8)
        .map_err(|e| ImageError::Encode { format: Format::Png, detail: e.to_string() })?;
    Ok(out)
}

/// `picture` as a baseline JPEG without metadata; `quality` is taken into 1..=100.
///
/// # Errors
/// [`ImageError::Encode`] if a side is over 65,535 pixels.
pub fn encode_jpeg(picture: &Picture, quality: u8) -> Result<Vec<u8>, ImageError> {
    let mut out = Vec::new();
    JpegEncoder::new_with_quality(&mut out, quality.clamp(1, 100))
        .write_image(picture.rgb(), picture.width(), picture.height(), ExtendedColorType::Rgb8)
        .map_err(|e| ImageError::Encode { format: Format::Jpeg, detail: e.to_string() })?;
    Ok(out)
}

/// `picture` as a JPEG of `quality` shows it.
///
/// # Errors
/// As [`encode_jpeg`], and when the picture is over the default limits of decoding.
pub fn through_jpeg(picture: &Picture, quality: u8) -> Result<Picture, ImageError> {
    decode(&encode_jpeg(picture, quality)?, &DecodeLimits::default())
}
