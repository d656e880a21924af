use super::*;
use crate::model::Clip;

fn config(vision: &str, text: &str) -> ClipConfig {
    let json = format!(
        r#"{{"projection_dim":24,"vision_config":{{{vision}}},
        "text_config":{{{text},"vocab_size":60,"max_position_embeddings":20,"bos_token_id":58,"eos_token_id":59,"pad_token_id":59}}}}"#
    );
    ClipConfig::from_json(&json).unwrap()
}

/// Towers of all sorts: widths and heads that fill panels and that do not, odd patches, both activations, a single block.
fn configs() -> Vec<ClipConfig> {
    let tower = |width, inner, layers, heads, act| {
        format!(
            r#""hidden_size":{width},"intermediate_size":{inner},"num_hidden_layers":{layers},"num_attention_heads":{heads},"hidden_act":"{act}""#
        )
    };
    let image =
        |tower: String, side, patch| format!(r#"{tower},"image_size":{side},"patch_size":{patch}"#);
    vec![
        config(
            &image(tower(128, 256, 3, 2, "quick_gelu"), 64, 16),
            &tower(64, 128, 2, 2, "quick_gelu"),
        ),
        config(&image(tower(160, 200, 2, 2, "gelu"), 42, 14), &tower(48, 100, 3, 3, "gelu")),
        config(&image(tower(40, 30, 1, 5, "gelu"), 35, 7), &tower(24, 32, 1, 4, "quick_gelu")),
        config(&image(tower(32, 64, 1, 4, "gelu"), 16, 8), &tower(32, 64, 1, 1, "gelu")),
    ]
}

fn engine(parameters: &Parameters, config: &ClipConfig, precision: Precision) -> Engine {
    Engine::new(config, parameters, precision).unwrap()
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |x: &[f32], y: &[f32]| -> f64 {
        x.iter().zip(y).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum()
    };
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// Largest difference, to the length of `b`.
fn apart(a: &[f32], b: &[f32]) -> f64 {
    let length = b.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    let differences = a.iter().zip(b).map(|(a, b)| f64::from((a - b).abs()));
    differences.fold(0.0, f64::max) / length
}

#[test]
fn both_executions_of_any_towers_agree() {
    for config in configs() {
        let parameters = Parameters::init(&config, 5, &Device::Cpu).unwrap();
        // Away from the start, where norms and biases would not show.
        for (at, (_, var)) in parameters.vars().into_iter().enumerate() {
            let noise = |i: usize| ((i * 31 + at * 7) as f32 * 0.61).sin() * 0.05;
            let noise: Vec<f32> = (0..var.elem_count()).map(noise).collect();
            let noise = Tensor::from_vec(noise, var.shape(), &Device::Cpu).unwrap();
            var.set(&(var.as_detached_tensor() + noise).unwrap()).unwrap();
        }
        let clip = Clip::frozen(&config, &parameters).unwrap();
        let side = config.vision.image_size;
        let size = 3 * side * side;
        let pixels: Vec<f32> = (0..5 * size).map(|i| (i as f32 * 0.37).sin() * 2.0).collect();
        let shape = (5, 3, side, side);
        let tensor = Tensor::from_slice(&pixels, shape, &Device::Cpu).unwrap();
        let want = clip.image_features(&tensor).unwrap().to_vec2::<f32>().unwrap();
        let images: Vec<&[f32]> = pixels.chunks(size).collect();
        // Lengths from the shortest to the longest, in one batch.
        let texts: Vec<Vec<u32>> = [0_u32, 3, 18, 7]
            .iter()
            .map(|words| {
                let words = (0..*words).map(|word| (word * 11 + 3) % 58);
                std::iter::once(58).chain(words).chain([59]).collect()
            })
            .collect();
        let mut padded = texts.clone();
        padded.iter_mut().for_each(|ids| ids.resize(20, 59));
        let ids = Tensor::new(padded.clone(), &Device::Cpu).unwrap();
        let want_texts = clip.text_features(&ids).unwrap().to_vec2::<f32>().unwrap();
        let padded: Vec<&[u32]> = padded.iter().map(Vec::as_slice).collect();

        let exact = engine(&parameters, &config, Precision::F32);
        let half = engine(&parameters, &config, Precision::Bf16);
        let eighth = engine(&parameters, &config, Precision::Int8);
        assert_eq!((exact.precision(), half.precision()), (Precision::F32, Precision::Bf16));
        let same = |got: &[Vec<f32>], want: &[Vec<f32>], least: f64| {
            for (got, want) in got.iter().zip(want) {
                assert!(cosine(got, want) > least, "{config:?}: {}", cosine(got, want));
            }
        };
        // Twice: what one pass leaves behind is nothing to the next, larger or smaller.
        for batch in [5, 1, 3, 5] {
            let got = exact.image_features(&images[..batch]);
            for (at, got) in got.iter().enumerate() {
                assert!(
                    apart(got, &want[at]) < 1e-5,
                    "{:?}: {}",
                    config.vision,
                    apart(got, &want[at])
                );
            }
            same(&half.image_features(&images[..batch]), &want, 0.9999);
            same(&eighth.image_features(&images[..batch]), &want, 0.999);
        }
        for batch in [1, 4] {
            let got = exact.text_features(&padded[..batch]).unwrap();
            for (at, got) in got.iter().enumerate() {
                assert!(apart(got, &want_texts[at]) < 1e-5, "{:?}", config.text);
            }
            same(&half.text_features(&padded[..batch]).unwrap(), &want_texts, 0.9999);
            same(&eighth.text_features(&padded[..batch]).unwrap(), &want_texts, 0.999);
        }
        for engine in [&exact, &half, &eighth] {
            let alone = engine.image_features(&images[2..3]);
            let among = engine.image_features(&images);
            assert_eq!(alone[0], among[2], "alone and in a batch, to the last bit");
        }

        // What was packed comes out again.
        let unpacked = exact.parameters(&config).unwrap();
        for (name, var) in parameters.vars() {
            let values =
                |var: &candle_core::Var| var.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let again = unpacked.require(&name).unwrap();
            assert_eq!(again.shape(), var.shape(), "{name}");
            assert_eq!(values(again), values(&var), "{name}");
        }
    }
}

#[test]
fn sequences_that_have_no_end_are_refused() {
    let config = &configs()[0];
    let parameters = Parameters::init(config, 5, &Device::Cpu).unwrap();
    let engine = engine(&parameters, config, Precision::F32);
    let long: Vec<u32> = std::iter::repeat_n(1, 20).chain([59]).collect();
    for bad in [&[58, 1, 2][..], &[58, 60, 59], &[], &long] {
        let error = engine.text_features(&[&[58, 59], bad]).unwrap_err();
        assert!(matches!(error, ModelError::Tokens { row: 1, .. }), "{bad:?}: {error}");
    }
}
