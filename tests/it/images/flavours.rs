//! What each flavour of a format decodes to, against Pillow. Golden files:
//! `tests/reference/images.py`.

use handclip::image::{DecodeLimits, Picture, decode, encode_jpeg, encode_png};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::build;
use crate::support::golden;

#[derive(Deserialize)]
struct Row {
    name: String,
    lossy: bool,
    sha256: String,
}

fn read(name: &str) -> Vec<u8> {
    std::fs::read(golden(&format!("image/decode/{name}"))).unwrap()
}

fn refusal(name: &str) -> Option<&'static str> {
    match name {
        "animated.png" | "animated.webp" => Some("image_animated"),
        "cmyk.jpg" => Some("image_unsupported_variant"),
        "image.gif" | "image.bmp" | "image.tiff" | "image.avif" => Some("unsupported_media_type"),
        _ => None,
    }
}

#[test]
fn every_flavour_decodes_as_in_pillow_or_is_refused_by_its_code() {
    let rows: Vec<Row> =
        serde_json::from_str(&String::from_utf8(read("decode.json")).unwrap()).unwrap();
    assert!(rows.len() >= 20);
    for Row { name, lossy, sha256 } in rows {
        let decoded = decode(&read(&name), &DecodeLimits::default());
        if let Some(code) = refusal(&name) {
            assert_eq!(decoded.unwrap_err().code(), code, "{name}");
            continue;
        }
        let decoded = decoded.unwrap_or_else(|e| panic!("{name}: {e}"));
        if lossy {
            let expected = read(&format!("{name}.expected.png"));
            let expected = decode(&expected, &DecodeLimits::default()).unwrap();
            let (mean, worst) = difference(&decoded, &expected);
            assert!(mean <= 1.0 && worst <= 6, "{name}: mean {mean}, worst {worst}");
        } else {
            let got: String =
                Sha256::digest(decoded.rgb()).iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(got, sha256, "{name}");
        }
    }
}

fn difference(a: &Picture, b: &Picture) -> (f64, u8) {
    assert_eq!((a.width(), a.height()), (b.width(), b.height()));
    let apart: Vec<u8> = a.rgb().iter().zip(b.rgb()).map(|(a, b)| a.abs_diff(*b)).collect();
    let sum: u64 = apart.iter().copied().map(u64::from).sum();
    (sum as f64 / apart.len() as f64, apart.into_iter().max().unwrap())
}

#[test]
fn sixteen_bits_keep_their_high_byte_and_alpha_is_dropped() {
    let decode = |file: Vec<u8>| decode(&file, &DecodeLimits::default()).unwrap().rgb().to_vec();
    let grey = build::png_raw(2, 1, 16, 0, &[0, 0x12, 0xff, 0xab, 0x00]);
    assert_eq!(decode(grey), [0x12, 0x12, 0x12, 0xab, 0xab, 0xab]);
    let rgb = build::png_raw(1, 1, 16, 2, &[0, 1, 255, 2, 255, 3, 255]);
    assert_eq!(decode(rgb), [1, 2, 3]);
    let rgba = build::png_raw(2, 1, 16, 6, &[0, 9, 9, 8, 8, 7, 7, 0, 0, 6, 6, 5, 5, 4, 4, 0, 0]);
    assert_eq!(decode(rgba), [9, 8, 7, 6, 5, 4]);
}

#[test]
fn what_is_encoded_is_decoded_again() {
    let picture = build::picture(61, 43);
    let png = encode_png(&picture).unwrap();
    assert_eq!(decode(&png, &DecodeLimits::default()).unwrap(), picture);
    let smooth = Picture::from_rgb(32, 32, (0..32 * 32 * 3).map(|i| (i / 96 * 7) as u8).collect());
    let smooth = smooth.unwrap();
    let jpeg = encode_jpeg(&smooth, 100).unwrap();
    let (mean, worst) = difference(&decode(&jpeg, &DecodeLimits::default()).unwrap(), &smooth);
    assert!(mean <= 1.0 && worst <= 8, "mean {mean}, worst {worst}");
    assert!(encode_jpeg(&picture, 0).unwrap().len() < encode_jpeg(&picture, 90).unwrap().len());
}

#[test]
fn a_buffer_of_another_length_is_no_picture() {
    for (width, height, bytes) in [(2, 2, 11), (2, 2, 13), (0, 5, 0), (u32::MAX, u32::MAX, 3)] {
        let refused = Picture::from_rgb(width, height, vec![0; bytes]).unwrap_err();
        assert_eq!(refused.code(), "image_pixel_count");
    }
}
