//! Pictures back to files.

use ::image::codecs::jpeg::JpegEncoder;
use ::image::codecs::png::PngEncoder;
use ::image::{ExtendedColorType, ImageEncoder as _};

use super::{Format, ImageError, Picture};

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
