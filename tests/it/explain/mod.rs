//! Which patches count: equal to reference implementations, true to the model, and told over REST and on the command
//! line. Golden files: `tests/reference/explain.py`.

mod faithful;
mod surface;

use candle_core::{Device, Tensor};
use handclip::domain::Embedding;
use handclip::model::{Clip, ClipConfig, ExplainMethod, ModelError, Parameters, normalise};
use serde::Deserialize;
use serde_json::Value;

use crate::support::golden;

const MODELS: [&str; 4] =
    ["patch32_quick_gelu", "patch16_gelu", "legacy_eos", "new_eos_other_widths"];

/// What transformers made of the golden images.
#[derive(Deserialize)]
struct Features {
    pixels: Vec<f32>,
    image_features: Vec<Vec<f32>>,
    text_features: Vec<Vec<f32>>,
}

/// One image, one target, and the maps of reference implementations.
#[derive(Deserialize)]
struct Case {
    image: usize,
    target: String,
    row: usize,
    similarity: f32,
    maps: serde_json::Map<String, Value>,
}

struct Golden {
    config: ClipConfig,
    parameters: Parameters,
    features: Features,
}

impl Golden {
    fn read(name: &str) -> Self {
        let folder = golden("clip").join(name);
        let text = |file: &str| std::fs::read_to_string(folder.join(file)).unwrap();
        let config = ClipConfig::from_json(&text("config.json")).unwrap();
        let parameters = Parameters::load(&config, &folder, &Device::Cpu).unwrap();
        let features = serde_json::from_str(&text("expected.json")).unwrap();
        Self { config, parameters, features }
    }

    /// One of the golden images, `[1, 3, side, side]`.
    fn image(&self, index: usize) -> Tensor {
        let side = self.config.vision.image_size;
        let count = 3 * side * side;
        let values = self.features.pixels.iter().copied().cycle();
        let values: Vec<f32> = values.skip(index * count).take(count).collect();
        Tensor::from_vec(values, (1, 3, side, side), &Device::Cpu).unwrap()
    }

    fn target(&self, case: &Case) -> Embedding {
        let features = match case.target.as_str() {
            "image" => &self.features.image_features,
            _ => &self.features.text_features,
        };
        Embedding::from_raw(features[case.row].clone()).unwrap()
    }
}

fn cases(name: &str) -> Vec<Case> {
    let path = golden("explain").join(format!("{name}.json"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn maps_are_those_of_reference_implementations() {
    let mut worst = 0.0_f32;
    for name in MODELS {
        let golden = Golden::read(name);
        let frozen = Clip::frozen(&golden.config, &golden.parameters).unwrap();
        let learning = Clip::new(&golden.config, &golden.parameters).unwrap();
        for case in cases(name) {
            let (image, target) = (golden.image(case.image), golden.target(&case));
            assert_eq!(case.maps.len(), ExplainMethod::ALL.len());
            for (method, want) in &case.maps {
                let want: Vec<f32> = serde_json::from_value(want.clone()).unwrap();
                let method: ExplainMethod = method.parse().unwrap();
                for clip in [&frozen, &learning] {
                    let map = clip.explain(&image, &target, method).unwrap();
                    let about = format!("{name}, image {}, {method}", case.image);
                    assert!((map.similarity - case.similarity).abs() < 1e-4, "{about}");
                    assert_eq!(map.values.len(), want.len(), "{about}");
                    assert_eq!(map.rows * map.cols, want.len(), "{about}");
                    // Of the greatest value, which is below 1: stricter than an absolute 1e-4.
                    let size = want.iter().copied().fold(1e-3, f32::max);
                    for (got, want) in map.values.iter().zip(&want) {
                        let difference = (got - want).abs() / size;
                        worst = worst.max(difference);
                        assert!(difference < 1e-4, "{about}: {got} instead of {want}");
                    }
                }
            }
        }
    }
    println!("largest difference: {worst:e} of a map's greatest value");
}

#[test]
fn an_explaining_pass_sees_what_the_usual_pass_computes() {
    for name in MODELS {
        let golden = Golden::read(name);
        let clip = Clip::frozen(&golden.config, &golden.parameters).unwrap();
        for case in cases(name) {
            let (image, target) = (golden.image(case.image), golden.target(&case));
            let feature = normalise(&clip.image_features(&image).unwrap()).unwrap();
            let feature = feature.get(0).unwrap().to_vec1::<f32>().unwrap();
            let cosine: f32 = feature.iter().zip(target.as_slice()).map(|(a, b)| a * b).sum();
            for method in ExplainMethod::ALL {
                let map = clip.explain(&image, &target, method).unwrap();
                assert!((map.similarity - cosine).abs() < 1e-5, "{name} {method}: {cosine}");
                assert!(map.values.iter().all(|value| value.is_finite() && *value >= 0.0));
            }
        }
    }
}

#[test]
fn a_target_or_an_image_of_another_size_is_refused() {
    let golden = Golden::read("patch16_gelu");
    let clip = Clip::frozen(&golden.config, &golden.parameters).unwrap();
    let other = Embedding::from_raw(vec![1.0; 7]).unwrap();
    let error = clip.explain(&golden.image(0), &other, ExplainMethod::Relevance).unwrap_err();
    assert!(matches!(error, ModelError::Target { got: 7, expected: 16 }), "{error}");
    let small = Tensor::zeros((1, 3, 8, 8), candle_core::DType::F32, &Device::Cpu).unwrap();
    let target = golden.target(&cases("patch16_gelu")[0]);
    let error = clip.explain(&small, &target, ExplainMethod::GradCam).unwrap_err();
    assert!(matches!(error, ModelError::PixelCount { .. }), "{error}");
}
