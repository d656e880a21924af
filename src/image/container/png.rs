//! PNG, chunk by chunk.

use ::image::metadata::Orientation;

use super::{Container, Format, array};
use crate::image::orientation::from_exif;
use crate::image::{DecodeLimits, ImageError};

pub(super) const SIGNATURE: [u8; 8] = *b"\x89PNG\r\n\x1a\n";
/// The whole end chunk: it has no body, so its checksum is a constant.
const END: [u8; 12] = *b"\0\0\0\0IEND\xae\x42\x60\x82";

pub(super) fn inspect(bytes: &[u8], limits: &DecodeLimits) -> Result<Container, ImageError> {
    let mut orientation = Orientation::NoTransforms;
    let mut size = None;
    let mut has_data = false;
    let mut bare = SIGNATURE.to_vec();
    let mut at = SIGNATURE.len();
    loop {
        let length = array(bytes, at).map(u32::from_be_bytes).ok_or(TRUNCATED)?;
        let kind: [u8; 4] = array(bytes, at + 4).ok_or(TRUNCATED)?;
        if length > i32::MAX as u32 || !kind.iter().all(u8::is_ascii_alphabetic) {
            return Err(corrupt("a chunk header is not one"));
        }
        let next = at + 12 + length as usize;
        let chunk = bytes.get(at..next).ok_or(TRUNCATED)?;
        let body = &chunk[8..chunk.len() - 4];
        if size.is_none() && kind != *b"IHDR" {
            return Err(corrupt("it does not begin with a header"));
        }
        match &kind {
            b"IHDR" => {
                if size.is_some() {
                    return Err(corrupt("it holds two headers"));
                }
                size = Some(header(body, limits)?);
                bare.extend_from_slice(chunk);
            }
            b"PLTE" => {
                // Three bytes a colour, 1 to 256 of them; the decoder takes that for granted.
                if body.is_empty() || !body.len().is_multiple_of(3) || body.len() > 3 * 256 {
                    return Err(corrupt("its palette is none"));
                }
                bare.extend_from_slice(chunk);
            }
            b"IDAT" => {
                has_data = true;
                bare.extend_from_slice(chunk);
            }
            b"IEND" => {
                if chunk != END {
                    return Err(corrupt("its end chunk is not one"));
                }
                bare.extend_from_slice(chunk);
                at = next;
                break;
            }
            b"acTL" | b"fcTL" | b"fdAT" => {
                return Err(ImageError::Animated { format: Format::Png });
            }
            b"eXIf" => orientation = from_exif(body),
            // Transparency is dropped with the alpha channel, as PIL's convert("RGB") does.
            // Profiles and texts are compressed: a few bytes can become gigabytes.
            _ if kind[0].is_ascii_lowercase() => {}
            _ => return Err(corrupt("it needs a chunk that is not known")),
        }
        at = next;
    }
    if !has_data {
        return Err(corrupt("it holds no image data"));
    }
    if at != bytes.len() {
        return Err(ImageError::TrailingData { format: Format::Png, bytes: bytes.len() - at });
    }
    let (width, height, decoder_bytes) = size.unwrap_or_default();
    Ok(Container { format: Format::Png, width, height, orientation, decoder_bytes, bare })
}

/// Width, height and what a decoder holds, from the header chunk's body.
fn header(body: &[u8], limits: &DecodeLimits) -> Result<(u32, u32, u64), ImageError> {
    let &[w3, w2, w1, w0, h3, h2, h1, h0, depth, colour, _, _, _] = body else {
        return Err(corrupt("its header is not 13 bytes long"));
    };
    let channels = match colour {
        0 => 1,
        2 | 3 => 3,
        4 => 2,
        6 => 4,
        _ => return Err(corrupt(format!("it has colour type {colour}"))),
    };
    let bytes_per_pixel = if depth == 16 { channels * 2 } else { channels };
    let width = u32::from_be_bytes([w3, w2, w1, w0]);
    let height = u32::from_be_bytes([h3, h2, h1, h0]);
    limits.check(Format::Png, width, height, bytes_per_pixel)?;
    // Of grey, RGB is made beside it.
    let held = if channels < 3 { bytes_per_pixel + 3 } else { bytes_per_pixel };
    Ok((width, height, u64::from(width) * u64::from(height) * held))
}

const TRUNCATED: ImageError = ImageError::Truncated { format: Format::Png };

fn corrupt(detail: impl Into<String>) -> ImageError {
    ImageError::corrupt(Format::Png, detail)
}
