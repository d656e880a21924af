use std::path::PathBuf;
use std::sync::Arc;

use crate::domain::EmbeddingError;
use crate::image::ImageError;
use crate::storage::StorageError;

/// Why a model cannot be read, or cannot answer.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A file that cannot be read or written.
    #[error("{path}: {source}", path = .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A configuration that is not one, or that this program cannot compute.
    #[error("the model's config.json: `{key}` {problem}")]
    Config {
        /// The key at fault, with the section it lies in.
        key: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A checkpoint that cannot be trusted.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A tokenizer.json that cannot be used with the model.
    #[error("the tokenizer: {0}")]
    Tokenizer(String),
    /// A prompt without any text.
    #[error("the prompt is empty")]
    EmptyPrompt,
    /// A prompt longer than the tokenizer will look at.
    #[error("the prompt has {got} bytes, at most {max} are taken")]
    PromptTooLong {
        /// Bytes given.
        got: usize,
        /// Bytes taken.
        max: usize,
    },
    /// Token ids the text tower cannot take.
    #[error("token sequence {row}: {problem}")]
    Tokens {
        /// Position in the batch.
        row: usize,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// Pixels of another size than the model's.
    #[error("an image of {got} values, the model takes {expected}")]
    PixelCount {
        /// Values given.
        got: usize,
        /// Values of `[3, height, width]`.
        expected: usize,
    },
    /// A preprocessor_config.json that cannot be used with the model.
    #[error("the preprocessing: {0}")]
    Preprocessing(#[from] ImageError),
    /// Preprocessing that makes images of another size than the model's.
    #[error("the preprocessing makes {got:?} pixels, the model takes {expected:?}")]
    ImageSize {
        /// Height and width that the preprocessing makes.
        got: (u32, u32),
        /// Height and width that the model takes.
        expected: (u32, u32),
    },
    /// A direction of another space than the model's.
    #[error("a target of {got} dimensions, the model's embeddings have {expected}")]
    Target {
        /// Dimensions given.
        got: usize,
        /// Dimensions of the model's embeddings.
        expected: usize,
    },
    /// A feature without direction.
    #[error("the model gave an unusable feature: {0}")]
    Feature(#[from] EmbeddingError),
    /// The bounded queue is full.
    #[error("the model is busy: {queue} requests are waiting")]
    Busy {
        /// Requests the queue holds.
        queue: usize,
    },
    /// The model's thread has ended.
    #[error("the model has stopped")]
    Stopped,
    /// A panic inside the model.
    #[error("the model failed on this request: {0}")]
    Panicked(String),
    /// What failed for a whole batch, shared by its requests.
    #[error(transparent)]
    Batch(Arc<ModelError>),
    /// A repository name that is not `owner/name@revision`.
    #[error("`{0}` is not a model to fetch: use owner/name@revision")]
    Reference(String),
    /// The hub cannot be reached or does not have the file.
    #[error(
        "cannot fetch {file} of {repository}: {reason}. Without a network, copy the model's files \
         by other means and point --model at their directory"
    )]
    Fetch {
        /// `owner/name@revision`.
        repository: String,
        /// File asked for.
        file: String,
        /// What the client said.
        reason: String,
    },
    /// A fetched file that differs from the one recorded before.
    #[error("{file} has SHA-256 {got}, {expected} is recorded in handclip-model.json")]
    Changed {
        /// File name.
        file: String,
        /// Sum found.
        got: String,
        /// Sum recorded.
        expected: String,
    },
    /// A file could not be written.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// An operation on tensors failed.
    #[error("computing failed: {0}")]
    Compute(#[from] candle_core::Error),
}

/// What is wrong with a weights file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    /// A pickle file, which can run code when loaded.
    #[error("{0} is a pickle file, which can run code when loaded: convert it to safetensors")]
    Pickle(String),
    /// No weights in the directory.
    #[error("no model.safetensors in {0}")]
    NoWeights(String),
    /// Not a safetensors file.
    #[error("{file} is not a safetensors file: {problem}")]
    Malformed {
        /// File name.
        file: String,
        /// What is wrong.
        problem: String,
    },
    /// A header longer than any real model's.
    #[error("{file} announces a header of {got} bytes, at most {max} are taken")]
    HeaderTooLarge {
        /// File name.
        file: String,
        /// Bytes announced.
        got: u64,
        /// Bytes taken.
        max: u64,
    },
    /// A file longer than is taken.
    #[error("{file} has {got} bytes, at most {max} are taken")]
    TooLarge {
        /// File name.
        file: String,
        /// Bytes found.
        got: u64,
        /// Bytes taken.
        max: u64,
    },
    /// Tensors that the configuration calls for.
    #[error("the checkpoint lacks {}", list(.0))]
    Missing(Vec<String>),
    /// Tensors that the configuration has no place for.
    #[error("the checkpoint holds unknown tensors: {}", list(.0))]
    Unknown(Vec<String>),
    /// The same tensor in two files or under two names.
    #[error("the checkpoint holds `{0}` twice")]
    Duplicate(String),
    /// A tensor of another shape.
    #[error("`{name}` has shape {got:?}, the configuration calls for {expected:?}")]
    Shape {
        /// Tensor's name.
        name: String,
        /// Shape found.
        got: Vec<usize>,
        /// Shape called for.
        expected: Vec<usize>,
    },
    /// A tensor whose type is not a float that is taken.
    #[error("`{name}` has type {dtype}, only F32, F16 and BF16 are taken")]
    Dtype {
        /// Tensor's name.
        name: String,
        /// Type found.
        dtype: String,
    },
    /// A NaN or an infinity.
    #[error("`{name}` holds a non-finite value at element {index}")]
    NonFinite {
        /// Tensor's name.
        name: String,
        /// First offending element.
        index: usize,
    },
    /// A value that the type it is saved as cannot hold.
    #[error("`{name}` holds {value} at element {index}, too large for {dtype}")]
    Overflow {
        /// Tensor's name.
        name: String,
        /// Element at fault.
        index: usize,
        /// Its value, as text.
        value: String,
        /// The type asked for.
        dtype: &'static str,
    },
}

/// The first few names, and how many more.
fn list(names: &[String]) -> String {
    const SHOWN: usize = 5;
    let shown: Vec<String> = names.iter().take(SHOWN).map(|name| format!("`{name}`")).collect();
    match names.len().saturating_sub(SHOWN) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}
