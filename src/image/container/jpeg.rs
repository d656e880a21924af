//! JPEG, marker by marker.
//!
//! A decoder is content with whatever comes before the first missing byte and paints the rest
//! grey, so the end marker is looked for here, by structure: an EOI inside a thumbnail does not
//! count. What lies between is the decoder's business: a scan that someone cut and closed with an EOI
//! of their own still decodes, with a grey rest.

use ::image::metadata::Orientation;

use super::{Container, Format, array};
use crate::image::orientation::from_exif;
use crate::image::{DecodeLimits, ImageError};

const SOI: u8 = 0xd8;
const EOI: u8 = 0xd9;
const PROGRESSIVE: u8 = 0xc2;
const SOS: u8 = 0xda;
const DNL: u8 = 0xdc;
/// Cameras round files up to a block; zeros say nothing and hide nothing.
const MAX_ZERO_PADDING: usize = 64 << 10;

pub(super) fn inspect(bytes: &[u8], limits: &DecodeLimits) -> Result<Container, ImageError> {
    let image = walk(bytes, Some(limits))?;
    after_end(&bytes[image.end..], image.multi_picture)?;
    let Frame { width, height, decoder_bytes, .. } = image.frame;
    Ok(Container {
        format: Format::Jpeg,
        width,
        height,
        orientation: image.orientation,
        decoder_bytes,
        bare: image.bare,
    })
}

/// One image of a file, from its SOI to its EOI.
struct Walked {
    frame: Frame,
    orientation: Orientation,
    /// It announces further pictures in the same file (CIPA DC-007).
    multi_picture: bool,
    /// The first byte after the EOI.
    end: usize,
    bare: Vec<u8>,
}

#[derive(Clone, Copy, Default)]
struct Frame {
    width: u32,
    height: u32,
    /// What a decoder holds, its output too.
    decoder_bytes: u64,
    /// All coefficients of the image, which a decoder keeps where no single scan holds all components.
    coefficients: u64,
    components: u8,
}

/// Walks one image. Without `limits` nothing is copied: only its end is wanted.
fn walk(bytes: &[u8], limits: Option<&DecodeLimits>) -> Result<Walked, ImageError> {
    let mut image = Walked {
        frame: Frame::default(),
        orientation: Orientation::NoTransforms,
        multi_picture: false,
        end: 0,
        bare: Vec::new(),
    };
    let keep = |bare: &mut Vec<u8>, piece: &[u8]| {
        if limits.is_some() {
            bare.extend_from_slice(piece);
        }
    };
    let (mut has_frame, mut has_scan, mut has_exif) = (false, false, false);
    keep(&mut image.bare, &[0xff, SOI]);
    let mut at = 2;
    loop {
        let (marker, body) = next_marker(bytes, at)?;
        if marker == EOI {
            if !has_scan {
                return Err(corrupt("it holds no scan"));
            }
            keep(&mut image.bare, &[0xff, EOI]);
            image.end = body;
            return Ok(image);
        }
        let length = array(bytes, body).map(u16::from_be_bytes).ok_or(TRUNCATED)?;
        if length < 2 {
            return Err(corrupt(format!("segment {marker:#04x} has length {length}")));
        }
        let next = body + usize::from(length);
        let segment = bytes.get(body + 2..next).ok_or(TRUNCATED)?;
        let kept = match marker {
            0xc4 | 0xdb | 0xdd => true,
            0xc0..=0xc2 => {
                if std::mem::replace(&mut has_frame, true) {
                    return Err(corrupt("it holds two frames"));
                }
                image.frame = frame(segment, marker == PROGRESSIVE, limits)?;
                true
            }
            0xc3 | 0xc5..=0xcf => {
                return Err(unsupported("lossless, hierarchical or arithmetic coding"));
            }
            SOS if has_frame => {
                let frame = &mut image.frame;
                if !has_scan && segment.first().is_some_and(|scan| *scan < frame.components) {
                    frame.decoder_bytes += std::mem::take(&mut frame.coefficients);
                }
                has_scan = true;
                true
            }
            DNL => return Err(unsupported("heights given after the scan")),
            0xe1 if segment.starts_with(b"Exif\0\0") => {
                if !std::mem::replace(&mut has_exif, true) {
                    image.orientation = from_exif(segment);
                }
                false
            }
            0xe2 if segment.starts_with(b"MPF\0") => {
                image.multi_picture = true;
                false
            }
            // Says which colour transform the scans use.
            0xee => segment.starts_with(b"Adobe"),
            0xe0..=0xef | 0xfe => false,
            _ => return Err(corrupt(format!("marker {marker:#04x} is out of place"))),
        };
        if kept {
            keep(&mut image.bare, &[0xff, marker]);
            keep(&mut image.bare, &bytes[body..next]);
        }
        at = next;
        if marker == SOS {
            at = scan_end(bytes, next)?;
            keep(&mut image.bare, &bytes[next..at]);
        }
    }
}

/// The marker at `at`, past any fill bytes, and where its body begins.
fn next_marker(bytes: &[u8], at: usize) -> Result<(u8, usize), ImageError> {
    if *bytes.get(at).ok_or(TRUNCATED)? != 0xff {
        return Err(corrupt("bytes between its segments"));
    }
    let mut body = at + 1;
    loop {
        let marker = *bytes.get(body).ok_or(TRUNCATED)?;
        body += 1;
        if marker != 0xff {
            return Ok((marker, body));
        }
    }
}

/// Where the entropy-coded data that begins at `at` ends: the first marker that is not a restart.
fn scan_end(bytes: &[u8], mut at: usize) -> Result<usize, ImageError> {
    loop {
        let rest = bytes.get(at..).unwrap_or_default();
        at += rest.iter().position(|&byte| byte == 0xff).ok_or(TRUNCATED)?;
        match *bytes.get(at + 1).ok_or(TRUNCATED)? {
            0x00 | 0xd0..=0xd7 => at += 2,
            0xff => at += 1,
            _ => return Ok(at),
        }
    }
}

/// What a start-of-frame segment says.
fn frame(
    segment: &[u8],
    progressive: bool,
    limits: Option<&DecodeLimits>,
) -> Result<Frame, ImageError> {
    let &[precision, h1, h0, w1, w0, components, ref sampling @ ..] = segment else {
        return Err(corrupt("its frame header is short"));
    };
    let height = u32::from(u16::from_be_bytes([h1, h0]));
    let width = u32::from(u16::from_be_bytes([w1, w0]));
    if let Some(limits) = limits {
        if precision != 8 {
            return Err(unsupported("samples of other than 8 bits"));
        }
        match components {
            1 | 3 => {}
            4 => return Err(unsupported("four colour components (CMYK)")),
            _ => return Err(corrupt(format!("it has {components} colour components"))),
        }
        limits.check(Format::Jpeg, width, height, 3)?;
    }
    let pixels = u64::from(width) * u64::from(height);
    // 16 bits each, as many a pixel as the components are sampled.
    let factors = sampling.chunks_exact(3).map(|component| (component[1] >> 4, component[1] & 15));
    let (mut sum, mut across, mut down) = (0, 1, 1);
    for (h, v) in factors.map(|(h, v)| (u64::from(h), u64::from(v))) {
        (sum, across, down) = (sum + h * v, across.max(h), down.max(v));
    }
    let coefficients = pixels * 2 * sum / (across * down);
    let mut frame = Frame { width, height, decoder_bytes: pixels * 3, coefficients, components };
    if progressive {
        frame.decoder_bytes += std::mem::take(&mut frame.coefficients);
    }
    Ok(frame)
}

/// What may follow the end: zeros up to a block's worth, and, where the image announced them
/// (`multi_picture`: previews and gain maps of most phones), further whole JPEG images. Those are
/// walked to their ends too, so that nothing else can ride along, and then ignored.
fn after_end(rest: &[u8], multi_picture: bool) -> Result<(), ImageError> {
    let trailing = ImageError::TrailingData { format: Format::Jpeg, bytes: rest.len() };
    let mut rest = rest;
    loop {
        let zeros = rest.iter().take_while(|&&byte| byte == 0).count();
        if zeros > MAX_ZERO_PADDING {
            return Err(trailing);
        }
        rest = &rest[zeros..];
        if rest.is_empty() {
            return Ok(());
        }
        if !multi_picture || !rest.starts_with(&[0xff, SOI]) {
            return Err(trailing);
        }
        rest = &rest[walk(rest, None)?.end..];
    }
}

const TRUNCATED: ImageError = ImageError::Truncated { format: Format::Jpeg };

fn corrupt(detail: impl Into<String>) -> ImageError {
    ImageError::corrupt(Format::Jpeg, detail)
}

fn unsupported(what: &'static str) -> ImageError {
    ImageError::UnsupportedVariant { format: Format::Jpeg, what }
}
