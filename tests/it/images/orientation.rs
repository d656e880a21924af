//! EXIF orientation, in every container, checked pixel by pixel against the standard's wording.

use handclip::image::{DecodeLimits, Picture, decode};

use super::build;

/// EXIF 2.3, tag 0x0112: for each value, where on the visible picture the stored pixel (x, y) of a
/// `w` x `h` image lies. "Row 0 is the right side, column 0 the top": 6, and so on.
fn visible(orientation: u16, x: u32, y: u32, w: u32, h: u32) -> (u32, u32) {
    match orientation {
        1 => (x, y),
        2 => (w - 1 - x, y),
        3 => (w - 1 - x, h - 1 - y),
        4 => (x, h - 1 - y),
        5 => (y, x),
        6 => (h - 1 - y, x),
        7 => (h - 1 - y, w - 1 - x),
        8 => (y, w - 1 - x),
        _ => unreachable!(),
    }
}

fn pixel(picture: &Picture, x: u32, y: u32) -> &[u8] {
    &picture.rgb()[(y * picture.width() + x) as usize * 3..][..3]
}

fn assert_upright(file: &[u8], stored: &Picture, orientation: u16) {
    let (w, h) = (stored.width(), stored.height());
    let picture = decode(file, &DecodeLimits::default()).unwrap();
    let size = if orientation >= 5 { (h, w) } else { (w, h) };
    assert_eq!((picture.width(), picture.height()), size, "orientation {orientation}");
    for y in 0..h {
        for x in 0..w {
            let (to_x, to_y) = visible(orientation, x, y, w, h);
            assert_eq!(
                pixel(&picture, to_x, to_y),
                pixel(stored, x, y),
                "orientation {orientation}, stored pixel {x}, {y}"
            );
        }
    }
}

#[test]
fn all_eight_orientations_are_turned_upright_in_every_container() {
    // Longer than one tile of the turning loop, and of no special size.
    let (w, h) = (71, 38);
    let stored = build::picture(w, h);
    let plain_jpeg = build::jpeg(w, h);
    let stored_jpeg = decode(&plain_jpeg, &DecodeLimits::default()).unwrap();
    for orientation in 1..=8 {
        for big_endian in [false, true] {
            let exif = build::exif(orientation, big_endian);
            let prefixed = [b"Exif\0\0", exif.as_slice()].concat();
            let png = build::png_with(&build::png(w, h), b"eXIf", &exif);
            assert_upright(&png, &stored, orientation);
            assert_upright(&build::webp_with_exif(w, h, &exif), &stored, orientation);
            assert_upright(&build::webp_with_exif(w, h, &prefixed), &stored, orientation);
            let jpeg = build::jpeg_with(&plain_jpeg, 0xe1, &prefixed);
            assert_upright(&jpeg, &stored_jpeg, orientation);
        }
    }
}

#[test]
fn a_damaged_exif_block_leaves_the_picture_as_it_is() {
    let stored = build::picture(20, 10);
    let whole = build::exif(6, false);
    for block in [&b""[..], b"II", &whole[..12], &build::exif(9, true), &build::exif(0, true)] {
        let png = build::png_with(&build::png(20, 10), b"eXIf", block);
        assert_upright(&png, &stored, 1);
    }
}
