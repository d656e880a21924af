use serde::Serialize;
use serde_json::{Map, Value};

use super::ModelError;
use crate::tensor::lean::{WIDTH, panels};

/// Most patches of an image, and most tokens of a text: an attention looks at all pairs of them.
const MOST_TOKENS: usize = 4_096;

/// The activation between the two layers of an MLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `x * sigmoid(1.702 x)`, of OpenAI's weights.
    QuickGelu,
    /// The exact GELU, of most OpenCLIP weights.
    Gelu,
}

/// The image tower.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct VisionConfig {
    /// Width of a token.
    pub hidden_size: usize,
    /// Width between the two layers of an MLP.
    pub intermediate_size: usize,
    /// Transformer blocks.
    pub num_hidden_layers: usize,
    /// Heads a block.
    pub num_attention_heads: usize,
    /// Side of the square input, in pixels.
    pub image_size: usize,
    /// Side of a square patch, in pixels; divides `image_size`.
    pub patch_size: usize,
    /// Activation of the MLPs.
    pub hidden_act: Activation,
    /// Added to the variance in every norm.
    pub layer_norm_eps: f64,
}

impl VisionConfig {
    /// Patches an image is cut into.
    #[must_use]
    pub fn patches(&self) -> usize {
        let side = self.image_size / self.patch_size;
        side * side
    }
}

/// The text tower.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TextConfig {
    /// Tokens known.
    pub vocab_size: usize,
    /// Width of a token.
    pub hidden_size: usize,
    /// Width between the two layers of an MLP.
    pub intermediate_size: usize,
    /// Transformer blocks.
    pub num_hidden_layers: usize,
    /// Heads a block.
    pub num_attention_heads: usize,
    /// Longest sequence, with its begin and end token.
    pub max_position_embeddings: usize,
    /// Activation of the MLPs.
    pub hidden_act: Activation,
    /// Added to the variance in every norm.
    pub layer_norm_eps: f64,
    /// Token before a text, as the configuration has it.
    pub bos_token_id: u32,
    /// Token after a text. 2 is a mistake of old configurations: the feature is then taken at the
    /// largest id, which the end token of every CLIP vocabulary is.
    pub eos_token_id: u32,
    /// Token that fills a batch, as the configuration has it.
    pub pad_token_id: u32,
}

/// A CLIP model's `config.json`, as Hugging Face lays it out.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ClipConfig {
    /// Image tower.
    #[serde(rename = "vision_config")]
    pub vision: VisionConfig,
    /// Text tower.
    #[serde(rename = "text_config")]
    pub text: TextConfig,
    /// Dimensions that both towers project to.
    pub projection_dim: usize,
    /// Logarithm of the scale of the logits before training.
    pub logit_scale_init_value: f64,
}

impl ClipConfig {
    /// Reads a `config.json`. Missing keys take the defaults of transformers' CLIPConfig; keys that
    /// do not bear on the forward pass are left alone.
    ///
    /// # Errors
    /// [`ModelError::Config`] naming the key, for another model or one this program cannot compute.
    pub fn from_json(json: &str) -> Result<Self, ModelError> {
        let root: Map<String, Value> =
            serde_json::from_str(json).map_err(|error| problem("config", &error.to_string()))?;
        let root = Section { name: "", values: &root };
        let kind = root.text("model_type", "clip")?;
        if kind != "clip" {
            return Err(problem("model_type", &format!("is `{kind}`, only `clip` is known")));
        }
        let empty = Map::new();
        let config = Self {
            vision: vision(&root.tower("vision_config", &empty)?)?,
            text: text(&root.tower("text_config", &empty)?)?,
            projection_dim: root.size("projection_dim", 512)?,
            logit_scale_init_value: root.number("logit_scale_init_value", 2.6592)?,
        };
        config.validate()?;
        Ok(config)
    }

    /// The configuration as transformers reads it; equal configurations give equal bytes.
    #[must_use]
    pub fn to_json(&self) -> String {
        #[derive(Serialize)]
        struct File<'a> {
            architectures: [&'static str; 1],
            model_type: &'static str,
            #[serde(flatten)]
            config: &'a ClipConfig,
        }
        let file = File { architectures: ["CLIPModel"], model_type: "clip", config: self };
        // A value tree sorts its keys; writing one cannot fail.
        let value = serde_json::to_value(file).unwrap_or_default();
        format!("{value:#}\n")
    }

    /// Checks that the towers can be built.
    ///
    /// # Errors
    /// [`ModelError::Config`] naming the key.
    pub fn validate(&self) -> Result<(), ModelError> {
        let (v, t) = (&self.vision, &self.text);
        let heads = |section: &str, width: usize, heads: usize| {
            if width.is_multiple_of(heads) {
                return Ok(());
            }
            let key = format!("{section}.num_attention_heads");
            Err(problem(&key, &format!("is {heads}, which does not divide {width}")))
        };
        for (key, value, most) in [
            ("projection_dim", self.projection_dim, 8192),
            ("vision_config.hidden_size", v.hidden_size, 8192),
            ("vision_config.intermediate_size", v.intermediate_size, 65_536),
            ("vision_config.num_hidden_layers", v.num_hidden_layers, 256),
            ("vision_config.num_attention_heads", v.num_attention_heads, 256),
            ("vision_config.image_size", v.image_size, 2048),
            ("vision_config.patch_size", v.patch_size, v.image_size),
            ("text_config.vocab_size", t.vocab_size, 4_000_000),
            ("text_config.hidden_size", t.hidden_size, 8192),
            ("text_config.intermediate_size", t.intermediate_size, 65_536),
            ("text_config.num_hidden_layers", t.num_hidden_layers, 256),
            ("text_config.num_attention_heads", t.num_attention_heads, 256),
            ("text_config.max_position_embeddings", t.max_position_embeddings, MOST_TOKENS),
        ] {
            if value == 0 || value > most {
                return Err(problem(key, &format!("is {value}, outside 1 to {most}")));
            }
        }
        heads("vision_config", v.hidden_size, v.num_attention_heads)?;
        heads("text_config", t.hidden_size, t.num_attention_heads)?;
        if !v.image_size.is_multiple_of(v.patch_size) {
            let text = format!("is {}, which does not divide {}", v.patch_size, v.image_size);
            return Err(problem("vision_config.patch_size", &text));
        }
        if v.patches() > MOST_TOKENS {
            let text = format!(
                "cuts an image into {} patches, at most {MOST_TOKENS} are taken",
                v.patches()
            );
            return Err(problem("vision_config.patch_size", &text));
        }
        for (key, eps) in [("vision_config", v.layer_norm_eps), ("text_config", t.layer_norm_eps)] {
            if !(eps > 0.0 && eps < 1.0) {
                return Err(problem(&format!("{key}.layer_norm_eps"), &format!("is {eps}")));
            }
        }
        if t.eos_token_id as usize >= t.vocab_size && t.eos_token_id != TextConfig::LEGACY_EOS {
            let text = format!("is {}, beyond the vocabulary", t.eos_token_id);
            return Err(problem("text_config.eos_token_id", &text));
        }
        Ok(())
    }
}

impl ClipConfig {
    /// What the engine for CPUs holds of the weights in f32, in bytes. Every matrix takes whole panels, so a narrow model holds much
    /// more than its file does.
    #[must_use]
    pub fn engine_bytes(&self) -> u64 {
        let product = |inputs: usize, outputs: usize| {
            [inputs, outputs]
                .map(|columns| (panels(columns) * WIDTH) as u64)
                .iter()
                .product::<u64>()
        };
        let blocks = |layers: usize, width: usize, inner: usize| {
            let attention = product(width, 3 * width) + product(width, width);
            layers as u64 * (attention + product(width, inner) + product(inner, width))
        };
        let (v, t) = (&self.vision, &self.text);
        let patch = product(3 * v.patch_size.pow(2), v.hidden_size);
        let positions = (v.patches() + 1) * panels(v.hidden_size)
            + t.max_position_embeddings * panels(t.hidden_size);
        let values = blocks(v.num_hidden_layers, v.hidden_size, v.intermediate_size)
            + blocks(t.num_hidden_layers, t.hidden_size, t.intermediate_size)
            + patch
            + product(v.hidden_size, self.projection_dim)
            + product(t.hidden_size, self.projection_dim)
            + (positions * WIDTH) as u64;
        values * size_of::<f32>() as u64
    }
}

impl TextConfig {
    /// The wrong end token of configurations written before transformers' pull request 24773.
    pub const LEGACY_EOS: u32 = 2;
}

fn vision(section: &Section<'_>) -> Result<VisionConfig, ModelError> {
    let channels = section.size("num_channels", 3)?;
    if channels != 3 {
        return Err(section.problem("num_channels", &format!("is {channels}, only 3 is known")));
    }
    Ok(VisionConfig {
        hidden_size: section.size("hidden_size", 768)?,
        intermediate_size: section.size("intermediate_size", 3072)?,
        num_hidden_layers: section.size("num_hidden_layers", 12)?,
        num_attention_heads: section.size("num_attention_heads", 12)?,
        image_size: section.square("image_size", 224)?,
        patch_size: section.square("patch_size", 32)?,
        hidden_act: section.activation()?,
        layer_norm_eps: section.number("layer_norm_eps", 1e-5)?,
    })
}

fn text(section: &Section<'_>) -> Result<TextConfig, ModelError> {
    Ok(TextConfig {
        vocab_size: section.size("vocab_size", 49_408)?,
        hidden_size: section.size("hidden_size", 512)?,
        intermediate_size: section.size("intermediate_size", 2048)?,
        num_hidden_layers: section.size("num_hidden_layers", 12)?,
        num_attention_heads: section.size("num_attention_heads", 8)?,
        max_position_embeddings: section.size("max_position_embeddings", 77)?,
        hidden_act: section.activation()?,
        layer_norm_eps: section.number("layer_norm_eps", 1e-5)?,
        bos_token_id: section.token("bos_token_id", 49_406)?,
        eos_token_id: section.token("eos_token_id", 49_407)?,
        pad_token_id: section.token("pad_token_id", 1)?,
    })
}

fn problem(key: &str, problem: &str) -> ModelError {
    ModelError::Config { key: key.to_owned(), problem: problem.to_owned() }
}

/// A JSON object and where it lies, for messages.
struct Section<'a> {
    name: &'a str,
    values: &'a Map<String, Value>,
}

impl<'a> Section<'a> {
    fn problem(&self, key: &str, text: &str) -> ModelError {
        let dot = if self.name.is_empty() { "" } else { "." };
        problem(&format!("{}{dot}{key}", self.name), text)
    }

    /// The value of a key; null counts as missing.
    fn get(&self, key: &str) -> Option<&'a Value> {
        self.values.get(key).filter(|value| !value.is_null())
    }

    /// A tower's section. As in transformers, `<name>_dict` of old files replaces it whole.
    fn tower(
        &self,
        name: &'static str,
        empty: &'a Map<String, Value>,
    ) -> Result<Section<'a>, ModelError> {
        let dict = format!("{name}_dict");
        match self.get(&dict).or_else(|| self.get(name)) {
            None => Ok(Section { name, values: empty }),
            Some(Value::Object(values)) => Ok(Section { name, values }),
            Some(_) => Err(problem(name, "is not an object")),
        }
    }

    fn size(&self, key: &str, default: usize) -> Result<usize, ModelError> {
        self.get(key).map_or(Ok(default), |value| self.whole(key, value))
    }

    fn whole(&self, key: &str, value: &Value) -> Result<usize, ModelError> {
        value
            .as_u64()
            .and_then(|n| usize::try_from(n).ok())
            .ok_or_else(|| self.problem(key, &format!("is {value}, not a whole number")))
    }

    fn token(&self, key: &str, default: u32) -> Result<u32, ModelError> {
        let value = self.size(key, default as usize)?;
        u32::try_from(value).map_err(|_| self.problem(key, &format!("is {value}")))
    }

    /// A side given as one number, or as two equal ones.
    fn square(&self, key: &str, default: usize) -> Result<usize, ModelError> {
        match self.get(key) {
            Some(Value::Array(sides)) => match sides.as_slice() {
                [height, width] if height == width => self.whole(key, height),
                _ => Err(self.problem(key, "is not square")),
            },
            Some(value) => self.whole(key, value),
            None => Ok(default),
        }
    }

    fn number(&self, key: &str, default: f64) -> Result<f64, ModelError> {
        self.get(key).map_or(Ok(default), |value| {
            value
                .as_f64()
                .filter(|v| v.is_finite())
                .ok_or_else(|| self.problem(key, &format!("is {value}, not a number")))
        })
    }

    fn text(&self, key: &str, default: &'a str) -> Result<&'a str, ModelError> {
        self.get(key).map_or(Ok(default), |value| {
            value.as_str().ok_or_else(|| self.problem(key, &format!("is {value}, not a text")))
        })
    }

    fn activation(&self) -> Result<Activation, ModelError> {
        match self.text("hidden_act", "quick_gelu")? {
            "quick_gelu" => Ok(Activation::QuickGelu),
            "gelu" => Ok(Activation::Gelu),
            other => {
                let text = format!("is `{other}`, only `quick_gelu` and `gelu` are known");
                Err(self.problem("hidden_act", &text))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(json: &str) -> String {
        match ClipConfig::from_json(json) {
            Err(ModelError::Config { key, .. }) => key,
            other => panic!("{json} gave {other:?}"),
        }
    }

    #[test]
    fn an_empty_configuration_is_openai_vit_b_32() {
        let config = ClipConfig::from_json("{}").unwrap();
        assert_eq!((config.vision.hidden_size, config.vision.patches()), (768, 49));
        assert_eq!((config.text.hidden_size, config.text.eos_token_id), (512, 49_407));
        assert_eq!(config.projection_dim, 512);
        assert_eq!(config.text.hidden_act, Activation::QuickGelu);
    }

    /// Its two layers of an MLP are 65,536 numbers each in a file, and thirty-two times as many in panels.
    #[test]
    fn a_narrow_model_holds_more_than_its_file_does() {
        let narrow = r#"{"vision_config": {"hidden_size": 1, "num_attention_heads": 1,
            "intermediate_size": 65536, "num_hidden_layers": 256}}"#;
        let usual = ClipConfig::from_json("{}").unwrap().engine_bytes();
        // 12 blocks of 12 squares of the width, patches, positions and projections.
        let (image, text) = (12 * 12 * 768_u64.pow(2), 12 * 12 * 512_u64.pow(2));
        let others = (3072 + 50 + 512) * 768 + (77 + 512) * 512;
        assert_eq!(usual, 4 * (image + text + others));
        assert!(ClipConfig::from_json(narrow).unwrap().engine_bytes() > 4 << 30);
    }

    #[test]
    fn a_configuration_reads_what_it_writes() {
        let json = r#"{"projection_dim": 24, "text_config": {"vocab_size": 60, "eos_token_id": 59},
            "vision_config": {"image_size": [64, 64], "patch_size": 16, "hidden_act": "gelu"}}"#;
        let config = ClipConfig::from_json(json).unwrap();
        assert_eq!(ClipConfig::from_json(&config.to_json()).unwrap(), config);
        assert_eq!(config.to_json(), config.clone().to_json());
    }

    #[test]
    fn the_dict_of_an_old_file_replaces_the_section_with_its_defaults() {
        let json = r#"{"text_config": {"eos_token_id": 2, "hidden_size": 512},
            "text_config_dict": {"hidden_size": 256, "num_attention_heads": 4},
            "vision_config_dict": null, "vision_config": {"patch_size": 16}}"#;
        let config = ClipConfig::from_json(json).unwrap();
        assert_eq!((config.text.hidden_size, config.text.eos_token_id), (256, 49_407));
        assert_eq!(config.vision.patch_size, 16);
    }

    #[test]
    fn what_cannot_be_computed_is_refused_by_key() {
        for (json, key) in [
            ("[]", "config"),
            (r#"{"model_type": "siglip"}"#, "model_type"),
            (r#"{"projection_dim": 0}"#, "projection_dim"),
            (r#"{"projection_dim": -1}"#, "projection_dim"),
            (r#"{"vision_config": 3}"#, "vision_config"),
            (r#"{"vision_config": {"hidden_act": "relu"}}"#, "vision_config.hidden_act"),
            (r#"{"vision_config": {"num_channels": 1}}"#, "vision_config.num_channels"),
            (r#"{"vision_config": {"patch_size": 30}}"#, "vision_config.patch_size"),
            (
                r#"{"vision_config": {"image_size": 1040, "patch_size": 16}}"#,
                "vision_config.patch_size",
            ),
            (r#"{"vision_config": {"image_size": [2, 3]}}"#, "vision_config.image_size"),
            (r#"{"vision_config": {"image_size": 99999999}}"#, "vision_config.image_size"),
            (
                r#"{"vision_config": {"num_attention_heads": 7}}"#,
                "vision_config.num_attention_heads",
            ),
            (r#"{"text_config": {"layer_norm_eps": 0}}"#, "text_config.layer_norm_eps"),
            (r#"{"text_config": {"eos_token_id": [1, 2]}}"#, "text_config.eos_token_id"),
            (r#"{"text_config": {"vocab_size": 100}}"#, "text_config.eos_token_id"),
        ] {
            assert_eq!(refused(json), key, "{json}");
        }
    }
}
