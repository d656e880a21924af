//! WebP, RIFF chunk by RIFF chunk.

use ::image::metadata::Orientation;

use super::{Container, Format, array};
use crate::image::orientation::from_exif;
use crate::image::{DecodeLimits, ImageError};

/// Set in the extended header of an animation.
const ANIMATION_FLAG: u8 = 0x02;

pub(super) fn inspect(bytes: &[u8], limits: &DecodeLimits) -> Result<Container, ImageError> {
    let riff = array(bytes, 4).map(u32::from_le_bytes).ok_or(TRUNCATED)? as usize;
    let end = riff + 8;
    if bytes.len() < end {
        return Err(TRUNCATED);
    }
    // An odd length is followed by one byte of padding.
    let padded = end + (riff & 1);
    if bytes.len() > padded {
        let bytes = bytes.len() - padded;
        return Err(ImageError::TrailingData { format: Format::Webp, bytes });
    }
    let mut orientation = Orientation::NoTransforms;
    let mut canvas = None;
    let mut image: Option<((u32, u32), &[u8], u64)> = None;
    let mut at = 12;
    while at < end {
        let kind: [u8; 4] = array(&bytes[..end], at).ok_or_else(short_chunk)?;
        let length = array(&bytes[..end], at + 4).map(u32::from_le_bytes);
        let length = length.ok_or_else(short_chunk)? as usize;
        let body = bytes[..end].get(at + 8..at + 8 + length).ok_or_else(short_chunk)?;
        let size = match &kind {
            b"VP8 " => Some(lossy_size(body)?),
            b"VP8L" => Some(lossless_size(body)?),
            b"VP8X" => {
                canvas = Some(extended(body)?);
                None
            }
            b"ANIM" | b"ANMF" => return Err(ImageError::Animated { format: Format::Webp }),
            b"EXIF" => {
                orientation = from_exif(body);
                None
            }
            // Alpha is dropped, profiles and texts are not wanted.
            _ => None,
        };
        if let Some((width, height)) = size {
            if image.is_some() {
                return Err(corrupt("it holds two images"));
            }
            limits.check(Format::Webp, width, height, 4)?;
            // Lossless pixels are decoded as RGBA beside the output, lossy ones as planes of half the output's size.
            let held = if &kind == b"VP8L" { 8 } else { 6 };
            let held = u64::from(width) * u64::from(height) * held;
            image = Some(((width, height), &bytes[at..at + 8 + length], held));
        }
        at += 8 + length + (length & 1);
    }
    let ((width, height), chunk, decoder_bytes) =
        image.ok_or_else(|| corrupt("it holds no image"))?;
    if canvas.is_some_and(|canvas| canvas != (width, height)) {
        return Err(corrupt("its canvas and its image differ in size"));
    }
    let (format, bare) = (Format::Webp, alone(chunk));
    Ok(Container { format, width, height, orientation, decoder_bytes, bare })
}

/// A file of the one image chunk: without the extended header there is no alpha to expect.
fn alone(chunk: &[u8]) -> Vec<u8> {
    let padding = chunk.len() & 1;
    let mut bare = Vec::with_capacity(12 + chunk.len() + padding);
    bare.extend_from_slice(b"RIFF");
    bare.extend_from_slice(&((4 + chunk.len() + padding) as u32).to_le_bytes());
    bare.extend_from_slice(b"WEBP");
    bare.extend_from_slice(chunk);
    bare.resize(bare.len() + padding, 0);
    bare
}

/// Width and height from a lossy key frame's header (RFC 6386, 9.1).
fn lossy_size(body: &[u8]) -> Result<(u32, u32), ImageError> {
    let [_, _, _, 0x9d, 0x01, 0x2a, w0, w1, h0, h1] = array(body, 0).ok_or_else(short_chunk)?
    else {
        return Err(corrupt("its frame is not a key frame"));
    };
    let side = |low, high| u32::from(u16::from_le_bytes([low, high]) & 0x3fff);
    Ok((side(w0, w1), side(h0, h1)))
}

/// Width and height from a lossless header: a signature byte, then two fields of 14 bits.
fn lossless_size(body: &[u8]) -> Result<(u32, u32), ImageError> {
    let [signature, b0, b1, b2, b3] = array(body, 0).ok_or_else(short_chunk)?;
    if signature != 0x2f {
        return Err(corrupt("its lossless signature is wrong"));
    }
    let bits = u32::from_le_bytes([b0, b1, b2, b3]);
    Ok(((bits & 0x3fff) + 1, ((bits >> 14) & 0x3fff) + 1))
}

/// Canvas size from the extended header, which must not announce an animation.
fn extended(body: &[u8]) -> Result<(u32, u32), ImageError> {
    let [flags, _, _, _, w0, w1, w2, h0, h1, h2] = array(body, 0).ok_or_else(short_chunk)?;
    if flags & ANIMATION_FLAG != 0 {
        return Err(ImageError::Animated { format: Format::Webp });
    }
    let side = |b: [u8; 3]| u32::from_le_bytes([b[0], b[1], b[2], 0]) + 1;
    Ok((side([w0, w1, w2]), side([h0, h1, h2])))
}

const TRUNCATED: ImageError = ImageError::Truncated { format: Format::Webp };

fn short_chunk() -> ImageError {
    corrupt("a chunk is longer than the file")
}

fn corrupt(detail: impl Into<String>) -> ImageError {
    ImageError::corrupt(Format::Webp, detail)
}
