//! Turning pixels upright, as EXIF says.

use ::image::metadata::Orientation;

/// Reads the orientation from a TIFF-shaped EXIF block, with or without its `Exif\0\0` prefix. A
/// damaged block says nothing, as every viewer takes it.
pub(super) fn from_exif(block: &[u8]) -> Orientation {
    let tiff = block.strip_prefix(b"Exif\0\0").unwrap_or(block);
    Orientation::from_exif_chunk(tiff).unwrap_or(Orientation::NoTransforms)
}

/// Turns `rgb`, `[height, width, 3]`, upright. Returns the new width, height and pixels.
pub(super) fn upright(
    width: u32,
    height: u32,
    rgb: Vec<u8>,
    orientation: Orientation,
) -> (u32, u32, Vec<u8>) {
    let (w, h) = (width as isize, height as isize);
    // Source pixel of the output's (x, y): first + x * across + y * down.
    let (first, across, down, swapped) = match orientation {
        Orientation::NoTransforms => return (width, height, rgb),
        Orientation::FlipHorizontal => (w - 1, -1, w, false),
        Orientation::Rotate180 => (w * h - 1, -1, -w, false),
        Orientation::FlipVertical => (w * (h - 1), 1, -w, false),
        Orientation::Rotate90FlipH => (0, w, 1, true),
        Orientation::Rotate90 => (w * (h - 1), -w, 1, true),
        Orientation::Rotate270FlipH => (w * h - 1, -w, -1, true),
        Orientation::Rotate270 => (w - 1, w, -1, true),
    };
    let (out_width, out_height) = if swapped { (height, width) } else { (width, height) };
    let mut out = vec![0u8; rgb.len()];
    // Tiles keep both the source column and the output row in cache when the axes are swapped.
    const TILE: usize = 32;
    let (out_w, out_h) = (out_width as usize, out_height as usize);
    for tile_y in (0..out_h).step_by(TILE) {
        for tile_x in (0..out_w).step_by(TILE) {
            for y in tile_y..(tile_y + TILE).min(out_h) {
                let to_x = (tile_x + TILE).min(out_w);
                let row = &mut out[(y * out_w + tile_x) * 3..(y * out_w + to_x) * 3];
                let mut source = first + tile_x as isize * across + y as isize * down;
                for pixel in row.chunks_exact_mut(3) {
                    let at = source as usize * 3;
                    pixel.copy_from_slice(&rgb[at..at + 3]);
                    source += across;
                }
            }
        }
    }
    (out_width, out_height, out)
}
