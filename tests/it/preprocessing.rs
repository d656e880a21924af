//! Preprocessing equals transformers' `CLIPImageProcessor` on its Pillow back end. Golden files:
//! `tests/reference/preprocessing.py`.

use handclip::image::{DecodeLimits, Framing, Picture, Preprocessing, decode};
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

#[test]
fn defaults_are_clips_and_old_files_mean_the_same() {
    let clip = Preprocessing::clip(224);
    assert_eq!(Preprocessing::from_json("{}").unwrap(), clip);
    // openai/clip-vit-base-patch32, as first published.
    let old = r#"{"crop_size": 224, "do_center_crop": true, "do_normalize": true, "do_resize": true,
        "feature_extractor_type": "CLIPFeatureExtractor", "size": 224, "resample": 3,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711]}"#;
    assert_eq!(Preprocessing::from_json(old).unwrap(), clip);
    let squashed = clip.with_framing(Framing::Squash);
    for square in [
        r#"{"size": 224, "use_square_size": true, "do_center_crop": false}"#,
        r#"{"size": {"shortest_edge": 224}, "use_square_size": true, "do_center_crop": false}"#,
    ] {
        assert_eq!(Preprocessing::from_json(square).unwrap(), squashed, "{square}");
    }
}

#[test]
fn framing_is_changed_and_written_and_changed_back() {
    let clip = Preprocessing::clip(96);
    for framing in [Framing::CentreCrop, Framing::Squash, Framing::Pad] {
        let framed = clip.clone().with_framing(framing);
        assert_eq!((framed.framing(), framed.size()), (framing, (96, 96)));
        assert_eq!(Preprocessing::from_json(&framed.to_json()).unwrap(), framed);
        assert_eq!(framed.with_framing(Framing::CentreCrop), clip);
    }
}

#[test]
fn the_canonical_text_does_not_change() {
    // Part of every fingerprint: changing a byte makes every enrolled template useless.
    let expected = r#"{
  "crop_size": {
    "height": 224,
    "width": 224
  },
  "do_center_crop": true,
  "do_convert_rgb": true,
  "do_normalize": true,
  "do_rescale": true,
  "do_resize": true,
  "handclip_framing": "centre_crop",
  "image_mean": [
    0.48145466,
    0.4578275,
    0.40821073
  ],
  "image_processor_type": "CLIPImageProcessor",
  "image_std": [
    0.26862954,
    0.26130258,
    0.27577711
  ],
  "resample": 3,
  "rescale_factor": 0.00392156862745098,
  "size": {
    "shortest_edge": 224
  }
}
"#;
    assert_eq!(Preprocessing::clip(224).to_json(), expected);
}

#[test]
fn a_step_that_is_not_known_is_refused_not_skipped() {
    for (text, key) in [
        (r#"{"do_pad": true}"#, "do_pad"),
        (r#"{"do_flip_channel_order": true}"#, "do_flip_channel_order"),
        (r#"{"resample": 0}"#, "resample"),
        (r#"{"resample": "bicubic"}"#, "resample"),
        (r#"{"size": {"longest_edge": 224}}"#, "size"),
        (r#"{"size": {"shortest_edge": 224, "longest_edge": 300}}"#, "size"),
        (r#"{"size": 0}"#, "size"),
        (r#"{"size": {"height": 224}}"#, "size"),
        (r#"{"crop_size": 100000}"#, "crop_size"),
        (r#"{"crop_size": {"height": 224}}"#, "crop_size"),
        (r#"{"crop_size": -1}"#, "crop_size"),
        (r#"{"do_center_crop": false}"#, "do_center_crop"),
        (r#"{"do_resize": "yes"}"#, "do_resize"),
        (r#"{"rescale_factor": 0}"#, "rescale_factor"),
        (r#"{"rescale_factor": "1/255"}"#, "rescale_factor"),
        (r#"{"image_mean": [0.5, 0.5]}"#, "image_mean"),
        (r#"{"image_std": [0.5, 0.5, 0]}"#, "image_std"),
        (r#"{"image_std": [0.5, 0.5, 1e-60]}"#, "image_std"),
        (r#"{"handclip_framing": "stretch"}"#, "handclip_framing"),
    ] {
        let refused = Preprocessing::from_json(text).unwrap_err();
        assert_eq!(refused.code(), "preprocessing_invalid");
        assert!(refused.to_string().contains(&format!("`{key}`")), "{text}: {refused}");
    }
    for text in ["", "[]", "224", "{", r#"{"size": NaN}"#] {
        let refused = Preprocessing::from_json(text).unwrap_err();
        assert_eq!(refused.code(), "preprocessing_invalid");
    }
}
