//! Preprocessing equals transformers' `CLIPImageProcessor` on its Pillow back end. Golden files:
//! `tests/reference/preprocessing.py`.

use handclip::image::{DecodeLimits, Picture, Preprocessing, decode};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use crate::support::golden;

#[derive(Deserialize)]
struct Case {
    name: String,
    pattern: String,
    width: u32,
    height: u32,
    config: serde_json::Value,
    out_height: u32,
    out_width: u32,
    stored: bool,
    pixels_sha256: String,
    values_sha256: String,
}

/// The formulas of the reference script.
fn picture(pattern: &str, width: u32, height: u32) -> Picture {
    let sample = |x: u32, y: u32, c: u32| -> u32 {
        match pattern {
            "noise" => {
                let v =
                    x.wrapping_mul(73856093) ^ y.wrapping_mul(19349663) ^ c.wrapping_mul(83492791);
                let v = (v ^ (v >> 13)).wrapping_mul(0x5bd1e995);
                v ^ (v >> 15)
            }
            "waves" => (x * (c + 3) + y * (5 - c)) / 2,
            "edges" => ((x / 3 + y / 5 + c) & 1) * 255,
            other => panic!("no pattern {other}"),
        }
    };
    let mut rgb = Vec::new();
    for y in 0..height {
        for x in 0..width {
            rgb.extend([0, 1, 2].map(|c| (sample(x, y, c) & 255) as u8));
        }
    }
    Picture::from_rgb(width, height, rgb).unwrap()
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn cases() -> Vec<Case> {
    let text = std::fs::read_to_string(golden("image/preprocessing.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

#[test]
fn pixels_equal_transformers_in_every_case() {
    let cases = cases();
    assert!(cases.len() >= 30);
    for case in cases {
        let preprocessing = Preprocessing::from_json(&case.config.to_string()).unwrap();
        assert_eq!(preprocessing.size(), (case.out_height, case.out_width), "{}", case.name);
        let source = picture(&case.pattern, case.width, case.height);
        let pixels = preprocessing.pixels(&source);
        if case.stored {
            let file = std::fs::read(golden(&format!("image/{}.png", case.name))).unwrap();
            let expected = decode(&file, &DecodeLimits::default()).unwrap();
            assert_eq!(pixels.len(), expected.rgb().len(), "{}", case.name);
            let apart = pixels.iter().zip(expected.rgb()).map(|(a, b)| a.abs_diff(*b));
            let (off, worst) =
                apart.fold((0, 0), |(off, worst), d| (off + usize::from(d > 0), worst.max(d)));
            assert_eq!(
                (off, worst),
                (0, 0),
                "{}: samples that differ, worst difference, of {}",
                case.name,
                pixels.len()
            );
        }
        assert_eq!(hex(&pixels), case.pixels_sha256, "{}", case.name);
    }
}

#[test]
fn normalised_values_equal_transformers_to_the_last_bit() {
    for case in cases() {
        let preprocessing = Preprocessing::from_json(&case.config.to_string()).unwrap();
        let values = preprocessing.apply(&picture(&case.pattern, case.width, case.height));
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        assert_eq!(hex(&bytes), case.values_sha256, "{}", case.name);
    }
}

#[test]
fn what_is_written_prepares_pictures_as_what_was_read() {
    for case in cases() {
        let read = Preprocessing::from_json(&case.config.to_string()).unwrap();
        let again = Preprocessing::from_json(&read.to_json()).unwrap();
        assert_eq!(again, read, "{}", case.name);
        assert_eq!(again.to_json(), read.to_json(), "{}", case.name);
    }
}
