//! From a stranger's bytes to a picture, or a reason why not.

use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};

use ::image::codecs::png::PngDecoder;
use ::image::codecs::webp::WebPDecoder;
use ::image::{ColorType, ImageDecoder, Limits};
use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

use super::container::{self, Container};
use super::orientation::upright;
use super::{Format, ImageError, Picture};

/// How much of a picture is taken. Checked from the header, before memory is set aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecodeLimits {
    /// Longest side, in pixels.
    pub max_side: u32,
    /// Decoded size, in bytes: pixels times the bytes that one takes in the file's own depth and
    /// channels, and at least 3.
    pub max_decoded_bytes: u64,
    /// What a decoder holds at most at a time, in bytes: the decoded pixels, what it needs besides (a progressive JPEG's coefficients, a
    /// copy to turn upright), and the file without what is not decoded.
    pub max_working_bytes: u64,
    /// Size of the file, in bytes.
    pub max_file_bytes: usize,
}

impl Default for DecodeLimits {
    fn default() -> Self {
        Self {
            max_side: 8192,
            max_decoded_bytes: 64 << 20,
            max_working_bytes: 256 << 20,
            max_file_bytes: 32 << 20,
        }
    }
}

impl DecodeLimits {
    pub(super) fn check(
        &self,
        format: Format,
        width: u32,
        height: u32,
        bytes_per_pixel: u64,
    ) -> Result<(), ImageError> {
        if width == 0 || height == 0 {
            return Err(ImageError::corrupt(format, format!("its size is {width}x{height}")));
        }
        if width > self.max_side || height > self.max_side {
            return Err(ImageError::SideTooLong { width, height, max: self.max_side });
        }
        let bytes = u64::from(width) * u64::from(height) * bytes_per_pixel.max(3);
        if bytes > self.max_decoded_bytes {
            let max = self.max_decoded_bytes;
            return Err(ImageError::TooManyPixels { width, height, bytes, max });
        }
        Ok(())
    }
}

/// Decodes a JPEG, PNG or WebP image, told apart by content, and turns it upright by its EXIF
/// orientation. Alpha is dropped and 16-bit samples keep their high byte, as PIL does; colour
/// profiles are not applied.
///
/// # Errors
/// Anything else, anything over `limits`, damaged, cut off, animated, or followed by other data.
pub fn decode(bytes: &[u8], limits: &DecodeLimits) -> Result<Picture, ImageError> {
    let container = container::inspect(bytes, limits)?;
    let working = container.working_bytes();
    if working > limits.max_working_bytes {
        let Container { width, height, .. } = container;
        let max = limits.max_working_bytes;
        return Err(ImageError::WorkingMemory { width, height, bytes: working, max });
    }
    let corrupt = |detail: String| ImageError::corrupt(container.format, detail);
    // Three foreign decoders read what strangers send: a panic in one is a bad file, not a crash.
    let pixels = catch_unwind(AssertUnwindSafe(|| match container.format {
        Format::Jpeg => jpeg(&container),
        Format::Png => png(&container, limits),
        Format::Webp => webp(&container, limits),
    }));
    let rgb = match pixels {
        Ok(Ok(rgb)) => rgb,
        Ok(Err(detail)) => return Err(corrupt(detail)),
        Err(_) => return Err(corrupt("the decoder gave up".to_owned())),
    };
    if rgb.len() as u64 != u64::from(container.width) * u64::from(container.height) * 3 {
        return Err(corrupt("its header and its data differ in size".to_owned()));
    }
    let (width, height, rgb) =
        upright(container.width, container.height, rgb, container.orientation);
    Picture::from_rgb(width, height, rgb)
}

/// In strict mode, which `image` does not offer: a damaged scan is an error, not grey blocks.
fn jpeg(container: &Container) -> Result<Vec<u8>, String> {
    let options = DecoderOptions::default()
        .set_strict_mode(true)
        .set_max_width(container.width as usize)
        .set_max_height(container.height as usize)
        .jpeg_set_out_colorspace(ColorSpace::RGB);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(&container.bare), options);
    decoder.decode().map_err(|e| format!("{e:?}"))
}

fn png(container: &Container, limits: &DecodeLimits) -> Result<Vec<u8>, String> {
    let reader = Cursor::new(&container.bare);
    let decoder =
        PngDecoder::with_limits(reader, decoder_limits(limits)).map_err(|e| e.to_string())?;
    read(decoder)
}

fn webp(container: &Container, limits: &DecodeLimits) -> Result<Vec<u8>, String> {
    let mut decoder = WebPDecoder::new(Cursor::new(&container.bare)).map_err(|e| e.to_string())?;
    decoder.set_limits(decoder_limits(limits)).map_err(|e| e.to_string())?;
    read(decoder)
}

fn decoder_limits(limits: &DecodeLimits) -> Limits {
    let mut inner = Limits::no_limits();
    inner.max_image_width = Some(limits.max_side);
    inner.max_image_height = Some(limits.max_side);
    inner.max_alloc = Some(limits.max_decoded_bytes.saturating_mul(2));
    inner
}

fn read(decoder: impl ImageDecoder) -> Result<Vec<u8>, String> {
    let colour = decoder.color_type();
    let bytes = usize::try_from(decoder.total_bytes()).map_err(|e| e.to_string())?;
    let mut pixels = vec![0u8; bytes];
    decoder.read_image(&mut pixels).map_err(|e| e.to_string())?;
    to_rgb(pixels, colour)
}

/// Decoded samples to RGB: grey is spread, alpha dropped, 16 bits (native order) cut to the high 8.
fn to_rgb(mut pixels: Vec<u8>, colour: ColorType) -> Result<Vec<u8>, String> {
    let wide = colour.bytes_per_pixel() / colour.channel_count() == 2;
    if wide {
        let high = if cfg!(target_endian = "little") { 1 } else { 0 };
        let samples = pixels.len() / 2;
        for i in 0..samples {
            pixels[i] = pixels[i * 2 + high];
        }
        pixels.truncate(samples);
    }
    match colour.channel_count() {
        channels @ (1 | 2) => {
            let mut rgb = Vec::with_capacity(pixels.len() / usize::from(channels) * 3);
            for pixel in pixels.chunks_exact(channels.into()) {
                rgb.extend_from_slice(&[pixel[0]; 3]);
            }
            Ok(rgb)
        }
        3 => Ok(pixels),
        4 => {
            let count = pixels.len() / 4;
            for i in 0..count {
                pixels.copy_within(i * 4..i * 4 + 3, i * 3);
            }
            pixels.truncate(count * 3);
            Ok(pixels)
        }
        channels => Err(format!("it has {channels} channels")),
    }
}
