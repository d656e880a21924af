//! Files made by hand, byte by byte where an encoder would not.

use handclip::image::{Picture, encode_jpeg, encode_png};
use image::ImageEncoder as _;

/// Every pixel of its own colour, with structure at all scales.
pub(crate) fn picture(width: u32, height: u32) -> Picture {
    let mut rgb = Vec::new();
    for y in 0..height {
        for x in 0..width {
            rgb.extend([(x * 5 + y) as u8, (y * 7) as u8, (x * y / 3) as u8]);
        }
    }
    Picture::from_rgb(width, height, rgb).unwrap()
}

pub(crate) fn png(width: u32, height: u32) -> Vec<u8> {
    encode_png(&picture(width, height)).unwrap()
}

pub(crate) fn jpeg(width: u32, height: u32) -> Vec<u8> {
    encode_jpeg(&picture(width, height), 90).unwrap()
}

/// Lossless, in the simple layout: `RIFF size WEBP VP8L…`.
pub(crate) fn webp(width: u32, height: u32) -> Vec<u8> {
    let source = picture(width, height);
    let mut out = Vec::new();
    image::codecs::webp::WebPEncoder::new_lossless(&mut out)
        .write_image(source.rgb(), width, height, image::ExtendedColorType::Rgb8)
        .unwrap();
    out
}

pub(crate) fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            (crc >> 1) ^ (0xedb88320 & (crc & 1).wrapping_neg())
        })
    })
}

pub(crate) fn png_chunk(kind: &[u8; 4], body: &[u8]) -> Vec<u8> {
    let named = [kind.as_slice(), body].concat();
    [&(body.len() as u32).to_be_bytes(), named.as_slice(), &crc32(&named).to_be_bytes()].concat()
}

/// Puts a chunk right after the header chunk.
pub(crate) fn png_with(file: &[u8], kind: &[u8; 4], body: &[u8]) -> Vec<u8> {
    let (head, rest) = file.split_at(8 + 25);
    [head, &png_chunk(kind, body), rest].concat()
}

/// A PNG of `depth` and `colour` type from raw scan lines (filter bytes included), stored.
pub(crate) fn png_raw(width: u32, height: u32, depth: u8, colour: u8, lines: &[u8]) -> Vec<u8> {
    let header =
        [&width.to_be_bytes()[..], &height.to_be_bytes(), &[depth, colour, 0, 0, 0]].concat();
    let length = (lines.len() as u16).to_le_bytes();
    let inverse = (!(lines.len() as u16)).to_le_bytes();
    let (mut a, mut b) = (1u32, 0u32);
    for &byte in lines {
        a = (a + u32::from(byte)) % 65521;
        b = (b + a) % 65521;
    }
    let adler = (b << 16 | a).to_be_bytes();
    let zlib = [&[0x78, 0x01, 1][..], &length, &inverse, lines, &adler].concat();
    [
        b"\x89PNG\r\n\x1a\n".to_vec(),
        png_chunk(b"IHDR", &header),
        png_chunk(b"IDAT", &zlib),
        png_chunk(b"IEND", &[]),
    ]
    .concat()
}

/// A zlib stream of `length` zeros: one literal, then matches of 258 at distance 1.
pub(crate) fn zlib_of_zeros(length: usize) -> Vec<u8> {
    let mut out = vec![0x78, 0x9c];
    let (mut bits, mut count) = (0u32, 0);
    let mut put = |value: u32, width: u32, out: &mut Vec<u8>| {
        bits |= value << count;
        count += width;
        while count >= 8 {
            out.push(bits as u8);
            bits >>= 8;
            count -= 8;
        }
    };
    // Final block, fixed codes; codes are written most significant bit first.
    put(0b011, 3, &mut out);
    put(0b00110000u32.reverse_bits() >> 24, 8, &mut out);
    let matches = (length - 1) / 258;
    for _ in 0..matches {
        put(0b11000101u32.reverse_bits() >> 24, 8, &mut out);
        put(0, 5, &mut out);
    }
    let zeros = 1 + matches * 258;
    put(0, 7 + 8, &mut out);
    out.extend(((zeros % 65521) as u32 * 65536 + 1).to_be_bytes());
    out
}

/// A TIFF block that holds an orientation and nothing else.
pub(crate) fn exif(orientation: u16, big_endian: bool) -> Vec<u8> {
    let short = |v: u16| if big_endian { v.to_be_bytes() } else { v.to_le_bytes() };
    let long = |v: u32| if big_endian { v.to_be_bytes() } else { v.to_le_bytes() };
    let mut out = if big_endian { b"MM".to_vec() } else { b"II".to_vec() };
    out.extend(short(42));
    out.extend(long(8));
    out.extend(short(1));
    out.extend(short(0x0112));
    out.extend(short(3));
    out.extend(long(1));
    out.extend(short(orientation));
    out.extend(short(0));
    out.extend(long(0));
    out
}

pub(crate) fn jpeg_segment(marker: u8, body: &[u8]) -> Vec<u8> {
    [&[0xff, marker][..], &(body.len() as u16 + 2).to_be_bytes(), body].concat()
}

/// Puts a segment right after the start marker.
pub(crate) fn jpeg_with(file: &[u8], marker: u8, body: &[u8]) -> Vec<u8> {
    [&file[..2], &jpeg_segment(marker, body), &file[2..]].concat()
}

/// A progressive JPEG of one grey, as large as it says and a few hundred kilobytes long: one scan of three components,
/// a bit a block.
pub(crate) fn progressive_jpeg(width: u16, height: u16) -> Vec<u8> {
    grey_jpeg(width, height, 0xc2, 1, &[[3, 1, 0, 2, 0, 3, 0, 0, 0, 0]])
}

/// The same, not progressive, each component in a scan of its own: two bits a block.
pub(crate) fn jpeg_of_three_scans(width: u16, height: u16) -> Vec<u8> {
    grey_jpeg(width, height, 0xc0, 2, &[1, 2, 3].map(|component| [1, component, 0, 0, 63, 0]))
}

/// A frame of three components and its scans, a block of which takes so many bits, all of them zero, a component.
fn grey_jpeg<const N: usize>(
    width: u16,
    height: u16,
    kind: u8,
    bits: usize,
    scans: &[[u8; N]],
) -> Vec<u8> {
    let side = |side: u16| side.to_be_bytes();
    let components = [1, 0x11, 0, 2, 0x11, 0, 3, 0x11, 0];
    let frame = [&[8][..], &side(height), &side(width), &[3], &components].concat();
    // One code of one bit: for a difference of zero, and for the end of a block.
    let codes = |class: u8| [&[class, 1][..], &[0; 15], &[0]].concat();
    let blocks = usize::from(width).div_ceil(8) * usize::from(height).div_ceil(8);
    let mut file = [
        &[0xff, 0xd8][..],
        &jpeg_segment(0xdb, &[&[0][..], &[1; 64]].concat()),
        &jpeg_segment(kind, &frame),
        &jpeg_segment(0xc4, &codes(0)),
        &jpeg_segment(0xc4, &codes(0x10)),
    ]
    .concat();
    for scan in scans {
        file.extend(jpeg_segment(0xda, scan));
        file.extend(vec![0; (blocks * usize::from(scan[0]) * bits).div_ceil(8)]);
    }
    file.extend([0xff, 0xd9]);
    file
}

pub(crate) fn riff_chunk(kind: &[u8; 4], body: &[u8]) -> Vec<u8> {
    let padding = vec![0; body.len() & 1];
    [kind.as_slice(), &(body.len() as u32).to_le_bytes(), body, &padding].concat()
}

pub(crate) fn riff(chunks: &[u8]) -> Vec<u8> {
    [b"RIFF", &(chunks.len() as u32 + 4).to_le_bytes()[..], b"WEBP", chunks].concat()
}

/// The extended header of a `width` x `height` canvas.
pub(crate) fn vp8x(flags: u8, width: u32, height: u32) -> Vec<u8> {
    let side = |side: u32| (side - 1).to_le_bytes()[..3].to_vec();
    riff_chunk(b"VP8X", &[vec![flags, 0, 0, 0], side(width), side(height)].concat())
}

pub(crate) fn webp_with_exif(width: u32, height: u32, exif: &[u8]) -> Vec<u8> {
    let image = &webp(width, height)[12..];
    riff(&[&vp8x(0x08, width, height), image, &riff_chunk(b"EXIF", exif)].concat())
}

pub(crate) fn animated_webp(width: u32, height: u32) -> Vec<u8> {
    let image = &webp(width, height)[12..];
    let side = |side: u32| (side - 1).to_le_bytes()[..3].to_vec();
    let frame =
        [vec![0; 6], side(width), side(height), vec![100, 0, 0, 0], image.to_vec()].concat();
    let frame = riff_chunk(b"ANMF", &frame);
    let chunks =
        [vp8x(0x02, width, height), riff_chunk(b"ANIM", &[0; 6]), frame.clone(), frame].concat();
    riff(&chunks)
}
