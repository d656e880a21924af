use std::collections::BTreeMap;
use std::path::Path;

use candle_core::Device;
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::checkpoint::{Checkpoint, most_bytes};
use super::embedder::{ModelParts, nano_files};
use super::files::{CONFIG, NamedBytes, PREPROCESSOR, TOKENIZER, read_json, read_weights};
use super::parameters::ParameterSpec;
use super::{ClipConfig, Embedder, ModelError};
use crate::domain::Fingerprint;
use crate::image::Preprocessing;

/// What a model directory holds, and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ModelReport {
    /// Always `clip`.
    pub kind: &'static str,
    /// Whose names the weights have: `hugging face` or `openclip`.
    pub layout: &'static str,
    /// The configuration, with the defaults filled in.
    pub config: ClipConfig,
    /// Values in the parameters that the configuration calls for.
    pub parameters: ParameterCounts,
    /// Stored tensors by type.
    pub dtypes: BTreeMap<String, usize>,
    /// The files read.
    pub files: Vec<FileReport>,
    /// What decides the embeddings; only of a model without problems.
    pub fingerprint: Option<Fingerprint>,
    /// Why the model cannot be used; empty for one that can.
    pub problems: Vec<String>,
}

/// Values in the parameters of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct ParameterCounts {
    /// Image tower with its projection.
    pub vision: usize,
    /// Text tower with its projection.
    pub text: usize,
    /// Both and the logit scale.
    pub total: usize,
}

/// A file of a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileReport {
    /// Name in the directory.
    pub name: String,
    /// Size.
    pub bytes: u64,
    /// SHA-256 in hexadecimal.
    pub sha256: String,
}

impl FileReport {
    fn of(name: &str, bytes: &[u8]) -> Self {
        let sha256 = Fingerprint(Sha256::digest(bytes).into()).to_string();
        Self { name: name.to_owned(), bytes: bytes.len() as u64, sha256 }
    }
}

/// Reads a model directory and says what it holds. A file that is missing or damaged is one of the
/// problems, unless it is the configuration, without which nothing can be said.
///
/// # Errors
/// When config.json cannot be read or is not a CLIP model's.
pub fn inspect(dir: &Path) -> Result<ModelReport, ModelError> {
    let config_json = read_json(dir, CONFIG)?;
    let config = ClipConfig::from_json(&config_json)?;
    Ok(report(Found {
        weights: read_weights(dir, most_bytes(&ParameterSpec::of(&config))),
        tokenizer: read_json(dir, TOKENIZER),
        preprocessor: read_json(dir, PREPROCESSOR),
        config_json,
        config,
    }))
}

/// [`inspect`] for the model that this binary carries.
///
/// # Errors
/// When the embedded configuration is damaged.
pub fn inspect_nano() -> Result<ModelReport, ModelError> {
    let files = nano_files();
    Ok(report(Found {
        config: ClipConfig::from_json(&files.config)?,
        config_json: files.config,
        weights: Ok(files.weights),
        tokenizer: Ok(files.tokenizer),
        preprocessor: Ok(files.preprocessor),
    }))
}

struct Found {
    config_json: String,
    config: ClipConfig,
    weights: Result<Vec<NamedBytes>, ModelError>,
    tokenizer: Result<String, ModelError>,
    preprocessor: Result<String, ModelError>,
}

fn report(found: Found) -> ModelReport {
    let Found { config_json, config, weights, tokenizer, preprocessor } = found;
    let spec = ParameterSpec::of(&config);
    let mut report = ModelReport {
        kind: "clip",
        layout: "hugging face",
        parameters: count(&spec),
        dtypes: BTreeMap::new(),
        files: vec![FileReport::of(CONFIG, config_json.as_bytes())],
        fingerprint: None,
        problems: Vec::new(),
        config,
    };
    let mut text = |name: &str, read: Result<String, ModelError>| match read {
        Ok(text) => {
            report.files.push(FileReport::of(name, text.as_bytes()));
            Some(text)
        }
        Err(error) => {
            report.problems.push(error.to_string());
            None
        }
    };
    let tokenizer = text(TOKENIZER, tokenizer);
    let preprocessor = text(PREPROCESSOR, preprocessor);
    let checkpoint = match weights {
        Ok(files) => {
            report.files.extend(files.iter().map(|f| FileReport::of(&f.name, &f.bytes)));
            Some(Checkpoint::read(&files, &spec))
        }
        Err(error) => {
            report.problems.push(error.to_string());
            None
        }
    };
    if let Some(checkpoint) = &checkpoint {
        report.dtypes.clone_from(&checkpoint.dtypes);
        if checkpoint.openclip {
            report.layout = "openclip";
        }
        report.problems.extend(checkpoint.problems.iter().map(ToString::to_string));
    }
    if let (true, Some(tokenizer), Some(preprocessor), Some(checkpoint)) =
        (report.problems.is_empty(), tokenizer, preprocessor, checkpoint)
    {
        match load(&report.config, &spec, &tokenizer, &preprocessor, checkpoint) {
            Ok(embedder) => report.fingerprint = Some(embedder.fingerprint()),
            Err(error) => report.problems.push(error.to_string()),
        }
    }
    report
}

/// Whether all parts also fit each other.
fn load(
    config: &ClipConfig,
    spec: &ParameterSpec,
    tokenizer: &str,
    preprocessor: &str,
    checkpoint: Checkpoint,
) -> Result<Embedder, ModelError> {
    let device = Device::Cpu;
    let parts = ModelParts {
        config,
        parameters: &checkpoint.into_parameters(spec, &device)?,
        tokenizer: tokenizer.as_bytes(),
        preprocessing: Preprocessing::from_json(preprocessor)?,
        device: &device,
    };
    Embedder::from_parts("inspected", parts)
}

fn count(spec: &ParameterSpec) -> ParameterCounts {
    let mut counts = ParameterCounts::default();
    for (name, shape) in spec.shapes() {
        let values: usize = shape.iter().product();
        counts.total += values;
        if name.starts_with("text_") {
            counts.text += values;
        } else if name.starts_with("vis") {
            counts.vision += values;
        }
    }
    counts
}
