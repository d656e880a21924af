use sha2::{Digest, Sha256};

use super::{ClipConfig, ModelError, Parameters, Precision};
use crate::domain::Fingerprint;
use crate::image::Preprocessing;

/// SHA-256 over all that decides an embedding. Weights count by their f32 values, so the type and
/// the names they are stored under make no difference.
///
/// counts: the parameters' names, sorted, and how many values each has; `read` gives the bytes of one, part by part ([`little_endian`]).
///
/// # Errors
/// What `read` says.
pub(super) fn fingerprint<'a>(
    config: &ClipConfig,
    tokenizer: &[u8],
    preprocessing: &Preprocessing,
    counts: impl Iterator<Item = (&'a str, usize)>,
    read: impl Fn(&str, &mut dyn FnMut(&[u8])) -> Result<(), ModelError>,
) -> Result<Fingerprint, ModelError> {
    let mut hash = Sha256::new();
    // Every field is preceded by its length, so that no two models share their bytes.
    let mut field = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    field(b"handclip model 1");
    field(config.to_json().as_bytes());
    field(tokenizer);
    field(preprocessing.to_json().as_bytes());
    field(&(config.projection_dim as u64).to_le_bytes());
    field(b"l2");
    for (name, count) in counts {
        hash.update((name.len() as u64).to_le_bytes());
        hash.update(name);
        hash.update((count as u64 * size_of::<f32>() as u64).to_le_bytes());
        read(name, &mut |part| hash.update(part))?;
    }
    Ok(Fingerprint(hash.finalize().into()))
}

/// Gives the bytes of values as they count, part by part.
pub(super) fn little_endian(values: &[f32], take: &mut dyn FnMut(&[u8])) {
    let mut bytes = [[0; 4]; 1024];
    for values in values.chunks(bytes.len()) {
        for (to, value) in bytes.iter_mut().zip(values) {
            *to = value.to_le_bytes();
        }
        take(bytes[..values.len()].as_flattened());
    }
}

/// [`fingerprint`] of parameters at hand.
///
/// # Errors
/// When they cannot be brought to the CPU.
pub(super) fn of_parameters(
    config: &ClipConfig,
    tokenizer: &[u8],
    preprocessing: &Preprocessing,
    parameters: &Parameters,
) -> Result<Fingerprint, ModelError> {
    let counts = parameters.iter().map(|(name, var)| (name, var.elem_count()));
    fingerprint(config, tokenizer, preprocessing, counts, |name, take| {
        little_endian(&parameters.values(name)?, take);
        Ok(())
    })
}

/// The fingerprint of a model whose weights are kept in another precision: its embeddings are others, by a little.
#[must_use]
pub fn in_precision(fingerprint: Fingerprint, precision: Precision) -> Fingerprint {
    if precision == Precision::F32 {
        return fingerprint;
    }
    let mut hash = Sha256::new();
    hash.update(b"handclip model in ");
    hash.update(precision.to_string());
    hash.update(fingerprint.0);
    Fingerprint(hash.finalize().into())
}
