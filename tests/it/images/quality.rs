//! The gate lets pictures of things through, and nothing else.

use handclip::image::{DecodeLimits, Picture, QualityLimits, assess, decode, gate};

use super::build;
use crate::support::shared_data;

fn plain(width: u32, height: u32, colour: [u8; 3]) -> Picture {
    Picture::from_rgb(width, height, colour.repeat((width * height) as usize)).unwrap()
}

fn code(picture: &Picture) -> &'static str {
    gate(picture, &QualityLimits::default()).map_or_else(|e| e.code(), |_| "passed")
}

#[test]
fn tiny_pictures_are_refused_by_their_shorter_side() {
    assert_eq!(code(&build::picture(1, 1)), "image_too_small");
    assert_eq!(code(&build::picture(31, 500)), "image_too_small");
    assert_eq!(code(&build::picture(500, 31)), "image_too_small");
    assert_eq!(code(&build::picture(32, 32)), "passed");
    let patient = QualityLimits { min_side: 8, ..QualityLimits::default() };
    assert!(gate(&build::picture(8, 8), &patient).is_ok());
}

#[test]
fn blank_and_nearly_blank_pictures_are_refused() {
    for colour in [[0; 3], [255; 3], [180, 140, 120]] {
        assert_eq!(code(&plain(64, 64, colour)), "image_blank");
        assert_eq!(code(&plain(700, 300, colour)), "image_blank");
    }
    // A wall with sensor noise of +-3 levels.
    let noise = |i: u32| 128 + (i.wrapping_mul(2654435761) >> 24) as u8 % 7;
    let noisy = Picture::from_rgb(300, 300, (0..270_000).map(noise).collect()).unwrap();
    assert_eq!(code(&noisy), "image_blank");
    // One bright speck is no picture either.
    let mut speck = plain(200, 200, [10; 3]).rgb().to_vec();
    speck[30_000..30_003].fill(255);
    assert_eq!(code(&Picture::from_rgb(200, 200, speck).unwrap()), "image_blank");
}

#[test]
fn figures_follow_what_they_name() {
    let stripes = |period: u32| {
        let row =
            (0..256u32).flat_map(|x| [if (x / period).is_multiple_of(2) { 60 } else { 200 }; 3]);
        Picture::from_rgb(256, 256, row.collect::<Vec<u8>>().repeat(256)).unwrap()
    };
    let (fine, coarse) = (assess(&stripes(2)), assess(&stripes(64)));
    assert!(fine.sharpness > 10.0 * coarse.sharpness);
    // Half 60, half 200: mean 130, deviation 70.
    assert!((fine.brightness - 130.0 / 255.0).abs() < 1e-4);
    assert!((fine.contrast - 70.0 / 255.0).abs() < 1e-4);
    assert!(fine.score > coarse.score);
    let black = assess(&plain(64, 64, [0; 3]));
    assert_eq!((black.sharpness, black.contrast, black.brightness), (0.0, 0.0, 0.0));
    assert_eq!(black.score, 0.0);
    for side in [1, 2, 3, 1000] {
        let quality = assess(&build::picture(side, 1));
        assert!((0.0..=1.0).contains(&quality.score) && quality.sharpness.is_finite());
    }
}

#[test]
fn sharpness_of_a_large_picture_compares_with_that_of_a_small_one() {
    let small = build::picture(256, 256);
    let large = {
        let wide = small.rgb().chunks_exact(3).flat_map(|p| p.repeat(4)).collect::<Vec<u8>>();
        wide.chunks_exact(256 * 4 * 3).flat_map(|row| row.repeat(4)).collect()
    };
    let large = Picture::from_rgb(1024, 1024, large).unwrap();
    assert_eq!(assess(&small), assess(&large));
}

#[test]
fn real_photos_pass_whole_and_are_refused_when_cut() {
    let Some(root) = shared_data("real photos") else { return };
    let mut paths: Vec<_> = std::fs::read_dir(root.join("hands11k/Hands"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "jpg"))
        .collect();
    paths.sort();
    assert!(!paths.is_empty());
    for path in &paths {
        let bytes = std::fs::read(path).unwrap();
        let name = path.file_name().unwrap().to_string_lossy();
        let picture =
            decode(&bytes, &DecodeLimits::default()).unwrap_or_else(|e| panic!("{name}: {e}"));
        let quality = gate(&picture, &QualityLimits::default()).unwrap();
        assert!(quality.score > 0.3, "{name}: {quality:?}");
        let cut = &bytes[..bytes.len() / 10];
        let refused = decode(cut, &DecodeLimits::default()).unwrap_err();
        assert_eq!(refused.code(), "image_truncated", "{name}");
    }
}
