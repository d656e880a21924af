//! The model computes what transformers computes, from Hugging Face's and OpenCLIP's weights, and
//! reads text as CLIPTokenizer does. Golden files: `tests/reference/clip.py`.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use candle_core::{D, DType, Device, Tensor};
use candle_transformers::models::clip as oracle;
use handclip::image::Preprocessing;
use handclip::model::{
    BatchOptions, Batcher, Clip, ClipConfig, Embedder, ModelError, Parameters, Tokenizer, inspect,
    inspect_nano, normalise,
};
use serde::Deserialize;

use crate::support::{golden, shared_data};

const MODELS: [&str; 4] =
    ["patch32_quick_gelu", "patch16_gelu", "legacy_eos", "new_eos_other_widths"];

#[derive(Deserialize)]
struct Expected {
    pixels: Vec<f32>,
    ids: Vec<Vec<u32>>,
    image_features: Vec<Vec<f32>>,
    text_features: Vec<Vec<f32>>,
    logits_per_image: Vec<Vec<f32>>,
}

impl Expected {
    fn read(name: &str) -> Self {
        let path = golden("clip").join(name).join("expected.json");
        serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
    }

    /// `[4, 3, side, side]`: the stored values over and over.
    fn pixels(&self, config: &ClipConfig) -> Tensor {
        let side = config.vision.image_size;
        let values: Vec<f32> =
            self.pixels.iter().copied().cycle().take(4 * 3 * side * side).collect();
        Tensor::from_vec(values, (4, 3, side, side), &Device::Cpu).unwrap()
    }

    fn ids(&self) -> Tensor {
        Tensor::new(self.ids.clone(), &Device::Cpu).unwrap()
    }
}

fn config(name: &str) -> ClipConfig {
    let path = golden("clip").join(name).join("config.json");
    ClipConfig::from_json(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn parameters(name: &str) -> Parameters {
    Parameters::load(&config(name), &golden("clip").join(name), &Device::Cpu).unwrap()
}

fn unit(features: &[Vec<f32>]) -> Tensor {
    normalise(&Tensor::new(features.to_vec(), &Device::Cpu).unwrap()).unwrap()
}

fn largest_difference(a: &Tensor, b: &Tensor) -> f32 {
    (a - b).unwrap().abs().unwrap().max_all().unwrap().to_scalar().unwrap()
}

fn assert_parity(name: &str, clip: &Clip, expected: &Expected) {
    let images = clip.image_features(&expected.pixels(clip.config())).unwrap();
    let images = normalise(&images).unwrap();
    let texts = normalise(&clip.text_features(&expected.ids()).unwrap()).unwrap();
    let image = largest_difference(&images, &unit(&expected.image_features));
    let text = largest_difference(&texts, &unit(&expected.text_features));
    assert!(image < 2e-5, "{name}: image features differ by {image:e}");
    assert!(text < 2e-5, "{name}: text features differ by {text:e}");
    let scale = clip.logit_scale().exp().unwrap();
    let logits = images.matmul(&texts.t().unwrap()).unwrap().broadcast_mul(&scale).unwrap();
    let want = Tensor::new(expected.logits_per_image.clone(), &Device::Cpu).unwrap();
    let size = want.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
    let logit = largest_difference(&logits, &want) / size;
    assert!(logit < 1e-3, "{name}: logits differ by {logit:e} of the largest");
}

#[test]
fn features_and_logits_are_those_of_transformers() {
    for name in MODELS {
        let expected = Expected::read(name);
        let spread = largest_difference(
            &unit(&expected.image_features[..1]),
            &unit(&expected.image_features[1..2]),
        );
        assert!(spread > 1e-2, "{name}: the golden images hardly differ");
        let (config, parameters) = (config(name), parameters(name));
        assert_parity(name, &Clip::frozen(&config, &parameters).unwrap(), &expected);
        assert_parity(name, &Clip::new(&config, &parameters).unwrap(), &expected);
    }
}

#[test]
fn the_operations_of_other_devices_give_the_same_features() {
    let name = "patch16_gelu";
    let expected = Expected::read(name);
    // The basic operations that a GPU runs, in double precision on a CPU.
    let (config, parameters) = (config(name), parameters(name));
    let clip = Clip::learning(&config, &parameters, &|_| false, None, DType::F64).unwrap();
    assert_parity(name, &clip, &expected);
    assert_eq!(clip.text_features(&expected.ids()).unwrap().dtype(), DType::F32);
}

#[test]
fn padding_after_the_end_token_changes_nothing() {
    for name in MODELS {
        let clip = Clip::frozen(&config(name), &parameters(name)).unwrap();
        let ids = Expected::read(name).ids();
        let all = clip.text_features(&ids).unwrap();
        // The first text of the batch has three tokens.
        let alone = clip.text_features(&ids.narrow(0, 0, 1).unwrap().narrow(1, 0, 3).unwrap());
        let difference = largest_difference(&all.narrow(0, 0, 1).unwrap(), &alone.unwrap());
        assert!(difference < 1e-5, "{name}: {difference:e}");
    }
}

#[test]
fn features_are_those_of_candle_transformers() {
    let name = "patch32_quick_gelu";
    let (config, expected) = (config(name), Expected::read(name));
    let (v, t) = (&config.vision, &config.text);
    let theirs = oracle::ClipConfig {
        text_config: oracle::text_model::ClipTextConfig {
            vocab_size: t.vocab_size,
            embed_dim: t.hidden_size,
            activation: oracle::text_model::Activation::QuickGelu,
            intermediate_size: t.intermediate_size,
            max_position_embeddings: t.max_position_embeddings,
            pad_with: None,
            num_hidden_layers: t.num_hidden_layers,
            num_attention_heads: t.num_attention_heads,
            projection_dim: config.projection_dim,
        },
        vision_config: oracle::vision_model::ClipVisionConfig {
            embed_dim: v.hidden_size,
            activation: oracle::text_model::Activation::QuickGelu,
            intermediate_size: v.intermediate_size,
            num_hidden_layers: v.num_hidden_layers,
            num_attention_heads: v.num_attention_heads,
            projection_dim: config.projection_dim,
            num_channels: 3,
            image_size: v.image_size,
            patch_size: v.patch_size,
        },
        logit_scale_init_value: 2.6592,
        image_size: v.image_size,
    };
    let parameters = parameters(name);
    let tensors: HashMap<String, Tensor> =
        parameters.vars().into_iter().map(|(name, var)| (name, var.as_detached_tensor())).collect();
    let vars = candle_nn::VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
    let theirs = oracle::ClipModel::new(vars, &theirs).unwrap();
    let ours = Clip::frozen(&config, &parameters).unwrap();
    let pixels = expected.pixels(&config);
    let image = largest_difference(
        &ours.image_features(&pixels).unwrap(),
        &theirs.get_image_features(&pixels).unwrap(),
    );
    let text = largest_difference(
        &ours.text_features(&expected.ids()).unwrap(),
        &theirs.get_text_features(&expected.ids()).unwrap(),
    );
    assert!(image < 1e-4 && text < 1e-4, "image {image:e}, text {text:e}");
}

/// The tensors of a golden model under OpenCLIP's names and in its layout.
fn as_openclip(parameters: &Parameters) -> HashMap<String, Tensor> {
    let tensor = |name: &str| parameters.get(name).unwrap().as_detached_tensor();
    let mut out = HashMap::new();
    for (name, var) in parameters.vars() {
        let tower = if name.starts_with("vision_model") { "visual." } else { "" };
        let plain = match name.as_str() {
            "logit_scale" => "logit_scale".to_owned(),
            "text_projection.weight" => "text_projection".to_owned(),
            "visual_projection.weight" => "visual.proj".to_owned(),
            "text_model.embeddings.token_embedding.weight" => "token_embedding.weight".to_owned(),
            "vision_model.embeddings.class_embedding" => "visual.class_embedding".to_owned(),
            "vision_model.embeddings.patch_embedding.weight" => "visual.conv1.weight".to_owned(),
            other => other
                .replace("text_model.", tower)
                .replace("vision_model.", tower)
                .replace("embeddings.position_embedding.weight", "positional_embedding")
                .replace("final_layer_norm", "ln_final")
                .replace("pre_layrnorm", "ln_pre")
                .replace("post_layernorm", "ln_post")
                .replace("encoder.layers", "transformer.resblocks")
                .replace("layer_norm1", "ln_1")
                .replace("layer_norm2", "ln_2")
                .replace("self_attn.out_proj", "attn.out_proj")
                .replace("mlp.fc1", "mlp.c_fc")
                .replace("mlp.fc2", "mlp.c_proj"),
        };
        if plain.ends_with("projection") || plain.ends_with("visual.proj") {
            let transposed = var.as_detached_tensor().t().unwrap().contiguous().unwrap();
            out.insert(plain, transposed);
        } else if let Some((at, leaf)) = plain.split_once("self_attn.q_proj.") {
            let parts =
                ["q", "k", "v"].map(|p| tensor(&name.replace("q_proj", &format!("{p}_proj"))));
            out.insert(format!("{at}attn.in_proj_{leaf}"), Tensor::cat(&parts, 0).unwrap());
        } else if !plain.contains("self_attn") {
            out.insert(plain, var.as_detached_tensor());
        }
    }
    out
}

#[test]
fn openclip_weights_give_the_same_model_and_fingerprint() {
    let name = "new_eos_other_widths";
    let dir = tempfile::tempdir().unwrap();
    let tensors = as_openclip(&parameters(name));
    assert!(tensors.contains_key("visual.transformer.resblocks.1.attn.in_proj_weight"));
    assert!(tensors.contains_key("transformer.resblocks.2.mlp.c_fc.bias"));
    let path = dir.path().join("open_clip_model.safetensors");
    candle_core::safetensors::save(&tensors, &path).unwrap();
    let parameters = Parameters::load(&config(name), dir.path(), &Device::Cpu).unwrap();
    let clip = Clip::frozen(&config(name), &parameters).unwrap();
    assert_parity(name, &clip, &Expected::read(name));

    let hugging_face = model_directory(name);
    for file in ["config.json", "tokenizer.json", "preprocessor_config.json"] {
        std::fs::copy(hugging_face.path().join(file), dir.path().join(file)).unwrap();
    }
    let (one, other) = (inspect(hugging_face.path()).unwrap(), inspect(dir.path()).unwrap());
    assert_eq!((one.layout, other.layout), ("hugging face", "openclip"));
    assert!(one.fingerprint.is_some());
    assert_eq!(one.fingerprint, other.fingerprint);
}

#[test]
fn weights_in_several_files_are_one_model() {
    let name = "legacy_eos";
    let dir = tempfile::tempdir().unwrap();
    let mut map = serde_json::Map::new();
    let mut files = [HashMap::new(), HashMap::new()];
    for (i, (name, var)) in parameters(name).vars().into_iter().enumerate() {
        map.insert(name.clone(), format!("part-{}.safetensors", i % 2).into());
        files[i % 2].insert(name, var.as_detached_tensor());
    }
    for (i, tensors) in files.iter().enumerate() {
        let path = dir.path().join(format!("part-{i}.safetensors"));
        candle_core::safetensors::save(tensors, path).unwrap();
    }
    let index = serde_json::json!({ "weight_map": map }).to_string();
    write(dir.path(), "model.safetensors.index.json", index.as_bytes());
    let parameters = Parameters::load(&config(name), dir.path(), &Device::Cpu).unwrap();
    let clip = Clip::frozen(&config(name), &parameters).unwrap();
    assert_parity(name, &clip, &Expected::read(name));
}

#[test]
fn text_is_read_as_clip_tokenizer_reads_it() {
    let Some(shared) = shared_data("text_is_read_as_clip_tokenizer_reads_it") else { return };
    let json = std::fs::read(shared.join("clip/tokenizer.json")).unwrap();
    let tokenizer = Tokenizer::from_bytes(&json, &ClipConfig::from_json("{}").unwrap()).unwrap();
    let lines = std::fs::read_to_string(golden("clip/texts.jsonl")).unwrap();
    let (mut texts, mut empty, mut cut) = (0, 0, 0);
    for line in lines.lines() {
        let (text, ids): (String, Vec<u32>) = serde_json::from_str(line).unwrap();
        texts += 1;
        if ids.iter().all(|id| *id >= 49_406) {
            empty += 1;
            let refused = tokenizer.encode(&text);
            assert!(matches!(refused, Err(ModelError::EmptyPrompt)), "{text:?} gave {refused:?}");
            continue;
        }
        cut += usize::from(ids.len() == 77);
        assert_eq!(tokenizer.encode(&text).unwrap(), ids, "{text:?}");
    }
    assert!(texts >= 1000 && cut >= 5 && empty >= 3, "{texts} texts, {cut} cut, {empty} empty");
}

#[test]
fn a_batch_of_prompts_is_padded_and_a_vast_one_refused() {
    let Some(shared) = shared_data("a_batch_of_prompts_is_padded_and_a_vast_one_refused") else {
        return;
    };
    let json = std::fs::read(shared.join("clip/tokenizer.json")).unwrap();
    let tokenizer = Tokenizer::from_bytes(&json, &ClipConfig::from_json("{}").unwrap()).unwrap();
    let batch = tokenizer.encode_batch(&["a hand", "a photo of a left hand"]).unwrap();
    assert_eq!(batch[0].len(), batch[1].len());
    assert_eq!(batch[0][..4], tokenizer.encode("a hand").unwrap());
    assert!(batch[0][3..].iter().all(|id| *id == tokenizer.end()));
    assert!(matches!(
        tokenizer.encode(&"a".repeat(1 << 20)),
        Err(ModelError::PromptTooLong { .. })
    ));
}

#[test]
fn a_tokenizer_that_does_not_fit_the_model_is_refused() {
    let good = config("patch16_gelu");
    let json = small_tokenizer(94, 95);
    assert!(Tokenizer::from_bytes(json.as_bytes(), &good).is_ok());
    for (json, why) in [
        ("{}".to_owned(), "Model missing"),
        (small_tokenizer(94, 96), "knows 96 tokens"),
        (small_tokenizer(94, 93), "the model looks for 95"),
    ] {
        let Err(error) = Tokenizer::from_bytes(json.as_bytes(), &good) else {
            panic!("took a tokenizer for which {why}");
        };
        assert!(error.to_string().contains(why), "{error}");
    }
}

/// Whole words, with the special tokens of a golden model.
fn small_tokenizer(begin: u32, end: u32) -> String {
    let words = ["[UNK]", "a", "photo", "of", "the", "left", "right", "hand", "palm"];
    let mut vocab: serde_json::Map<String, serde_json::Value> =
        words.iter().enumerate().map(|(i, word)| ((*word).to_owned(), i.into())).collect();
    vocab.insert("<s>".to_owned(), begin.into());
    vocab.insert("</s>".to_owned(), end.into());
    let added = [("<s>", begin), ("</s>", end)].map(|(content, id)| {
        serde_json::json!({
            "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true,
        })
    });
    serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": added,
        "normalizer": {"type": "Lowercase"},
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [
                {"SpecialToken": {"id": "<s>", "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
                {"SpecialToken": {"id": "</s>", "type_id": 0}},
            ],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {
                "<s>": {"id": "<s>", "ids": [begin], "tokens": ["<s>"]},
                "</s>": {"id": "</s>", "ids": [end], "tokens": ["</s>"]},
            },
        },
        "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "[UNK]"},
    })
    .to_string()
}

pub(crate) fn write(dir: &Path, name: &str, bytes: &[u8]) {
    handclip::storage::file::write_atomic(&dir.join(name), bytes).unwrap();
}

/// A golden model with all that a user's directory has.
pub(crate) fn model_directory(name: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(golden("clip").join(name).join(file), dir.path().join(file)).unwrap();
    }
    let config = config(name);
    let tokenizer = match config.text.eos_token_id {
        2 => small_tokenizer(94, 95),
        end => small_tokenizer(config.text.bos_token_id, end),
    };
    write(dir.path(), "tokenizer.json", tokenizer.as_bytes());
    let preprocessing = Preprocessing::clip(config.vision.image_size as u32);
    write(dir.path(), "preprocessor_config.json", preprocessing.to_json().as_bytes());
    dir
}

#[test]
fn an_embedder_answers_each_input_by_itself() {
    let name = "patch16_gelu";
    let dir = model_directory(name);
    let embedder = Embedder::open(dir.path(), &Device::Cpu).unwrap();
    let expected = Expected::read(name);
    let side = config(name).vision.image_size;
    // More than one chunk, with a short image and one of NaN in between.
    let images: Vec<Vec<f32>> =
        expected.pixels(&config(name)).reshape((4, ())).unwrap().to_vec2().unwrap();
    let mut inputs: Vec<Vec<f32>> = images.iter().cycle().take(70).cloned().collect();
    inputs[3].pop();
    inputs[33] = vec![f32::NAN; 3 * side * side];
    let results = embedder.embed_pixels(&inputs).unwrap();
    assert_eq!(results.len(), 70);
    assert!(matches!(results[3], Err(ModelError::PixelCount { .. })));
    assert!(matches!(results[33], Err(ModelError::Feature(_))));
    let want = unit(&expected.image_features).to_vec2::<f32>().unwrap();
    for (i, result) in results.iter().enumerate().filter(|(i, _)| ![3, 33].contains(i)) {
        let got = result.as_ref().unwrap();
        assert_eq!(got.dim(), embedder.dim());
        for (a, b) in got.as_slice().iter().zip(&want[i % 4]) {
            assert!((a - b).abs() < 2e-5, "image {i}");
        }
    }
    let prompts = ["a photo of the left hand", "  ", "palm", "right hand"].map(str::to_owned);
    let together = embedder.embed_texts(&prompts).unwrap();
    assert!(matches!(together[1], Err(ModelError::EmptyPrompt)));
    let alone = embedder.embed_texts(&prompts[2..3]).unwrap();
    let similarity = together[2].as_ref().unwrap().similarity(alone[0].as_ref().unwrap()).unwrap();
    assert!(similarity.get() > 0.999_999);
    assert!(embedder.embed_pixels(&[]).unwrap().is_empty());
}

#[test]
fn a_feature_without_direction_is_an_error() {
    let name = "patch16_gelu";
    let dir = model_directory(name);
    let parameters = parameters(name);
    let projection = parameters.get("visual_projection.weight").unwrap();
    projection.set(&projection.zeros_like().unwrap()).unwrap();
    parameters.save(&dir.path().join("model.safetensors"), DType::F32).unwrap();
    let embedder = Embedder::open(dir.path(), &Device::Cpu).unwrap();
    let side = config(name).vision.image_size;
    let results = embedder.embed_pixels(&[vec![0.5; 3 * side * side]]).unwrap();
    assert!(matches!(results[0], Err(ModelError::Feature(_))));
}

#[test]
fn the_fingerprint_follows_everything_that_decides_an_embedding() {
    let name = "patch16_gelu";
    let open =
        |dir: &tempfile::TempDir| Embedder::open(dir.path(), &Device::Cpu).unwrap().fingerprint();
    let dir = model_directory(name);
    let start = open(&dir);
    assert_eq!(open(&model_directory(name)), start);
    let mut seen = vec![start];

    let parameters = parameters(name);
    let bias = parameters.get("text_model.final_layer_norm.bias").unwrap();
    bias.set(&(bias.as_tensor() + 1e-3).unwrap()).unwrap();
    parameters.save(&dir.path().join("model.safetensors"), DType::F32).unwrap();
    seen.push(open(&dir));
    let tokenizer = small_tokenizer(94, 95).replace("palm", "back");
    write(dir.path(), "tokenizer.json", tokenizer.as_bytes());
    seen.push(open(&dir));
    let squash = Preprocessing::clip(48).with_framing(handclip::image::Framing::Squash);
    write(dir.path(), "preprocessor_config.json", squash.to_json().as_bytes());
    seen.push(open(&dir));
    let mut config = config(name);
    config.vision.layer_norm_eps = 1e-6;
    write(dir.path(), "config.json", config.to_json().as_bytes());
    seen.push(open(&dir));
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 5);
}

#[test]
fn preprocessing_of_another_size_than_the_model_is_refused() {
    let dir = model_directory("patch16_gelu");
    let other = Preprocessing::clip(64).to_json();
    write(dir.path(), "preprocessor_config.json", other.as_bytes());
    let refused = Embedder::open(dir.path(), &Device::Cpu);
    assert!(matches!(refused, Err(ModelError::ImageSize { .. })));
    let report = inspect(dir.path()).unwrap();
    assert_eq!(report.problems.len(), 1, "{:?}", report.problems);
    assert_eq!(report.fingerprint, None);
}

#[test]
fn the_embedded_model_is_whole_and_embeds_images_and_prompts() {
    let report = inspect_nano().unwrap();
    assert_eq!(report.problems, Vec::<String>::new());
    let nano = Embedder::nano(&Device::Cpu).unwrap();
    assert_eq!(report.fingerprint, Some(nano.fingerprint()));
    assert_eq!(report.parameters.total, nano.summary().parameters);
    let bytes: u64 = report.files.iter().map(|file| file.bytes).sum();
    assert!(bytes <= 8 << 20, "{bytes} bytes");
    let (height, width) = nano.summary().image_size;
    let pixels = vec![vec![0.3; 3 * height as usize * width as usize]];
    assert_eq!(nano.embed_pixels(&pixels).unwrap()[0].as_ref().unwrap().dim(), nano.dim());
    let prompts = ["a photo of the back of a left hand".to_owned()];
    assert_eq!(nano.embed_texts(&prompts).unwrap()[0].as_ref().unwrap().dim(), nano.dim());
}

#[test]
fn a_batcher_answers_as_its_embedder() {
    let dir = model_directory("new_eos_other_widths");
    let embedder = Arc::new(Embedder::open(dir.path(), &Device::Cpu).unwrap());
    let batcher = Batcher::spawn(Arc::clone(&embedder), BatchOptions::default()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let pixels = vec![0.25; 3 * 32 * 32];
        let (image, text, empty) = tokio::join!(
            batcher.image(pixels.clone()),
            batcher.text("the left hand".to_owned()),
            batcher.text(String::new()),
        );
        let alone = embedder.embed_pixels(&[pixels]).unwrap().remove(0).unwrap();
        assert_eq!(image.unwrap().as_slice(), alone.as_slice());
        assert_eq!(text.unwrap().dim(), embedder.dim());
        assert!(matches!(empty, Err(ModelError::EmptyPrompt)));
    });
    assert_eq!(batcher.queue_depth(), 0);
    assert_eq!(batcher.embedder().name(), embedder.name());
}

#[test]
fn the_golden_texts_differ() {
    // The golden text features differ, or the parity above would prove little.
    for name in MODELS {
        let texts = unit(&Expected::read(name).text_features);
        let cosines = texts.matmul(&texts.t().unwrap()).unwrap();
        let largest = cosines.narrow(0, 0, 1).unwrap().narrow(1, 1, 2).unwrap();
        let largest = largest.max(D::Minus1).unwrap().to_vec1::<f32>().unwrap()[0];
        assert!(largest < 0.99, "{name}: {largest}");
    }
}
