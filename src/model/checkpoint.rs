//! Strict reading and writing of weights: nothing is invented, nothing is passed over.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use half::{bf16, f16};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};

use super::files::{MAX_WEIGHTS, NamedBytes, read_weights};
use super::openclip::{self, Place};
use super::parameters::ParameterSpec;
use super::{CheckpointError, ClipConfig, ModelError, Parameters};
use crate::storage::file::write_atomic;

/// Longest header taken, in bytes; that of a ViT-L/14 has 80 kB.
pub(super) const MAX_HEADER: u64 = 8 << 20;

/// What a set of weight files holds, with everything that is wrong with it.
#[derive(Default)]
pub(super) struct Checkpoint {
    /// Values by Hugging Face name, in f32.
    tensors: BTreeMap<String, Vec<f32>>,
    /// How many tensors are stored in each type.
    pub(super) dtypes: BTreeMap<String, usize>,
    /// Whether the names were OpenCLIP's.
    pub(super) openclip: bool,
    pub(super) problems: Vec<CheckpointError>,
}

impl Checkpoint {
    pub(super) fn read(files: &[NamedBytes], spec: &ParameterSpec) -> Self {
        let mut checkpoint = Self::default();
        let mut unknown = Vec::new();
        for file in files {
            match open(file) {
                Ok(tensors) => checkpoint.take(&tensors, spec, &mut unknown),
                Err(problem) => checkpoint.problems.push(problem),
            }
        }
        // A damaged file would make everything missing: say what is wrong with the file alone.
        if checkpoint.problems.iter().any(|problem| !is_about_one_tensor(problem)) {
            return checkpoint;
        }
        let faulty = |name: &str| checkpoint.problems.iter().any(|p| names(p) == Some(name));
        let missing: Vec<String> = spec
            .shapes()
            .map(|(name, _)| name.to_owned())
            .filter(|name| !checkpoint.tensors.contains_key(name) && !faulty(name))
            .collect();
        if !missing.is_empty() {
            checkpoint.problems.push(CheckpointError::Missing(missing));
        }
        if !unknown.is_empty() {
            unknown.sort();
            checkpoint.problems.push(CheckpointError::Unknown(unknown));
        }
        checkpoint
    }

    fn take(&mut self, file: &SafeTensors<'_>, spec: &ParameterSpec, unknown: &mut Vec<String>) {
        let mut views: Vec<(&str, TensorView<'_>)> = file.iter().collect();
        views.sort_by_key(|(name, _)| *name);
        let openclip = openclip::is_openclip(views.iter().map(|(name, _)| *name));
        self.openclip |= openclip;
        for (name, view) in views {
            let place = if openclip { openclip::place(name) } else { own_place(name, spec) };
            let parts = match place {
                Place::Buffer => continue,
                Place::Unknown => {
                    unknown.push(name.to_owned());
                    continue;
                }
                Place::Same(to) => split(name, &view, &[to], spec),
                Place::Joined(to) => split(name, &view, &to, spec),
                Place::Transposed(to) => transposed(name, &view, to, spec),
            };
            match parts {
                Ok(parts) => {
                    *self.dtypes.entry(view.dtype().to_string()).or_default() += 1;
                    for (to, values) in parts {
                        match self.tensors.entry(to) {
                            Entry::Occupied(there) => {
                                self.problems.push(CheckpointError::Duplicate(there.key().clone()));
                            }
                            Entry::Vacant(free) => {
                                free.insert(values);
                            }
                        }
                    }
                }
                Err(Refusal::Unknown) => unknown.push(name.to_owned()),
                Err(Refusal::Problem(problem)) => self.problems.push(problem),
            }
        }
    }

    /// The values by name, if nothing is wrong.
    pub(super) fn into_values(self) -> Result<BTreeMap<String, Vec<f32>>, ModelError> {
        match self.problems.into_iter().next() {
            Some(problem) => Err(problem.into()),
            None => Ok(self.tensors),
        }
    }

    /// The parameters, if nothing is wrong.
    pub(super) fn into_parameters(
        self,
        spec: &ParameterSpec,
        device: &Device,
    ) -> Result<Parameters, ModelError> {
        let tensors = self.into_values()?.into_iter().map(|(name, values)| {
            let shape = spec.shape(&name).unwrap_or_default().to_vec();
            Ok((name, Tensor::from_vec(values, shape, device)?))
        });
        Parameters::from_tensors(tensors.collect::<Result<Vec<_>, ModelError>>()?)
    }
}

fn is_about_one_tensor(problem: &CheckpointError) -> bool {
    names(problem).is_some()
}

/// The one tensor a problem is about.
fn names(problem: &CheckpointError) -> Option<&str> {
    match problem {
        CheckpointError::Duplicate(name)
        | CheckpointError::Shape { name, .. }
        | CheckpointError::Dtype { name, .. }
        | CheckpointError::NonFinite { name, .. }
        | CheckpointError::Overflow { name, .. } => Some(name),
        CheckpointError::Pickle(_)
        | CheckpointError::NoWeights(_)
        | CheckpointError::Malformed { .. }
        | CheckpointError::HeaderTooLarge { .. }
        | CheckpointError::TooLarge { .. }
        | CheckpointError::Missing(_)
        | CheckpointError::Unknown(_) => None,
    }
}

/// Hugging Face names are the parameters' own, but for a buffer that older versions stored.
fn own_place(name: &str, spec: &ParameterSpec) -> Place {
    if name.ends_with(".embeddings.position_ids") {
        Place::Buffer
    } else if spec.shape(name).is_some() {
        Place::Same(name.to_owned())
    } else {
        Place::Unknown
    }
}

fn open(file: &NamedBytes) -> Result<SafeTensors<'_>, CheckpointError> {
    let bytes = &file.bytes;
    let zip = bytes.starts_with(b"PK\x03\x04");
    let pickle =
        matches!(bytes.as_slice(), [0x80, 2..=5, b'}' | b'c' | b'(' | b']' | 0x8a | 0x95, ..]);
    if zip || pickle {
        return Err(CheckpointError::Pickle(file.name.clone()));
    }
    let malformed =
        |problem: String| CheckpointError::Malformed { file: file.name.clone(), problem };
    let header = bytes.first_chunk().map(|length| u64::from_le_bytes(*length));
    match header {
        None => Err(malformed(format!("it has {} bytes", bytes.len()))),
        Some(got) if got > MAX_HEADER => {
            Err(CheckpointError::HeaderTooLarge { file: file.name.clone(), got, max: MAX_HEADER })
        }
        Some(_) => SafeTensors::deserialize(bytes).map_err(|error| malformed(error.to_string())),
    }
}

enum Refusal {
    /// The configuration has no such parameter.
    Unknown,
    Problem(CheckpointError),
}

impl From<CheckpointError> for Refusal {
    fn from(problem: CheckpointError) -> Self {
        Self::Problem(problem)
    }
}

type Parts = Vec<(String, Vec<f32>)>;

/// Cuts a tensor along its first axis into the parameters `to`, which have equal shapes.
fn split(
    name: &str,
    view: &TensorView<'_>,
    to: &[String],
    spec: &ParameterSpec,
) -> Result<Parts, Refusal> {
    let shape = to.first().and_then(|to| spec.shape(to)).ok_or(Refusal::Unknown)?;
    let mut expected = shape.to_vec();
    if let Some(first) = expected.first_mut() {
        *first *= to.len();
    }
    // For one parameter the name in the message is the reader's; for three it is the file's.
    let label = if let [one] = to { one } else { name };
    check_shape(label, view, expected)?;
    let values = floats(label, view)?;
    let length = shape.iter().product::<usize>().max(1);
    Ok(to.iter().cloned().zip(values.chunks(length).map(<[f32]>::to_vec)).collect())
}

/// Transposes a matrix.
fn transposed(
    name: &str,
    view: &TensorView<'_>,
    to: String,
    spec: &ParameterSpec,
) -> Result<Parts, Refusal> {
    let &[rows, columns] = spec.shape(&to).ok_or(Refusal::Unknown)? else {
        return Err(Refusal::Unknown);
    };
    check_shape(name, view, vec![columns, rows])?;
    let values = floats(name, view)?;
    let at = |i: usize| values[(i % columns) * rows + i / columns];
    Ok(vec![(to, (0..values.len()).map(at).collect())])
}

fn check_shape(
    name: &str,
    view: &TensorView<'_>,
    expected: Vec<usize>,
) -> Result<(), CheckpointError> {
    if view.shape() == expected {
        return Ok(());
    }
    Err(CheckpointError::Shape { name: name.to_owned(), got: view.shape().to_vec(), expected })
}

/// The shape of a parameter of this name, `Some(None)` for a buffer that is not needed, `None` for what is neither.
pub(super) fn own_name<'a>(name: &str, spec: &'a ParameterSpec) -> Option<Option<&'a [usize]>> {
    match own_place(name, spec) {
        Place::Buffer => Some(None),
        Place::Same(_) => spec.shape(name).map(Some),
        Place::Unknown | Place::Joined(_) | Place::Transposed(_) => None,
    }
}

/// A tensor's values in f32, all of them finite.
fn floats(name: &str, view: &TensorView<'_>) -> Result<Vec<f32>, CheckpointError> {
    floats_of(name, view.dtype(), view.data())
}

/// Values of a type in f32, all of them finite.
pub(super) fn floats_of(
    name: &str,
    dtype: Dtype,
    data: &[u8],
) -> Result<Vec<f32>, CheckpointError> {
    // The format is not extended without a new version of its crate: whatever else comes is refused.
    #[expect(clippy::wildcard_enum_match_arm, reason = "the enum is non-exhaustive")]
    let values: Vec<f32> = match dtype {
        Dtype::F32 => data.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect(),
        Dtype::F16 => {
            data.as_chunks().0.iter().map(|bytes| f16::from_le_bytes(*bytes).to_f32()).collect()
        }
        Dtype::BF16 => {
            data.as_chunks().0.iter().map(|bytes| bf16::from_le_bytes(*bytes).to_f32()).collect()
        }
        other => {
            let dtype = other.to_string();
            return Err(CheckpointError::Dtype { name: name.to_owned(), dtype });
        }
    };
    match values.iter().position(|value| !value.is_finite()) {
        Some(index) => Err(CheckpointError::NonFinite { name: name.to_owned(), index }),
        None => Ok(values),
    }
}

impl Parameters {
    /// Reads the weights that `path`, a model directory or one of its weight files, holds.
    /// F32, F16 and BF16 become f32; Hugging Face's and OpenCLIP's names are known.
    ///
    /// # Errors
    /// [`CheckpointError`] naming the tensor, for anything but exactly what `config` calls for.
    pub fn load(config: &ClipConfig, path: &Path, device: &Device) -> Result<Self, ModelError> {
        config.validate()?;
        let spec = ParameterSpec::of(config);
        let checkpoint = Checkpoint::read(&read_weights(path, most_bytes(&spec))?, &spec);
        checkpoint.into_parameters(&spec, device)
    }

    /// The weights as the bytes of a safetensors file, in `dtype` F32, F16 or BF16.
    ///
    /// # Errors
    /// [`CheckpointError`] for another type, or a value that is not finite or does not fit it.
    pub fn to_safetensors(&self, dtype: DType) -> Result<Vec<u8>, ModelError> {
        let stored = Stored::of(dtype)?;
        let mut tensors = Vec::new();
        for (name, var) in self.iter() {
            let values = var.as_detached_tensor().flatten_all()?.to_device(&Device::Cpu)?;
            let bytes = stored.encode(name, &values.to_vec1::<f32>()?)?;
            tensors.push((name, var.dims().to_vec(), bytes));
        }
        let malformed = |error: safetensors::SafeTensorError| CheckpointError::Malformed {
            file: "the new checkpoint".to_owned(),
            problem: error.to_string(),
        };
        let views = tensors
            .iter()
            .map(|(name, shape, bytes)| {
                Ok((*name, TensorView::new(stored.dtype(), shape.clone(), bytes)?))
            })
            .collect::<Result<Vec<_>, _>>()
            .map_err(malformed)?;
        // transformers refuses a file that does not say so.
        let metadata = [("format".to_owned(), "pt".to_owned())].into();
        Ok(safetensors::serialize(views, Some(metadata)).map_err(malformed)?)
    }

    /// Writes the weights as a safetensors file, whole or not at all.
    ///
    /// # Errors
    /// As [`Parameters::to_safetensors`], and when the file cannot be written.
    pub fn save(&self, path: &Path, dtype: DType) -> Result<(), ModelError> {
        Ok(write_atomic(path, &self.to_safetensors(dtype)?)?)
    }
}

/// Bytes that weights of this configuration can have: twice their size in f32 leaves room for
/// headers and buffers, and bounds the memory that a wrong file takes.
pub(super) fn most_bytes(spec: &ParameterSpec) -> u64 {
    let values: usize = spec.shapes().map(|(_, shape)| shape.iter().product::<usize>()).sum();
    (values as u64 * 8 + (64 << 20)).min(MAX_WEIGHTS)
}

/// A type that weights are stored in.
#[derive(Clone, Copy)]
enum Stored {
    F32,
    F16,
    BF16,
}

impl Stored {
    fn of(dtype: DType) -> Result<Self, CheckpointError> {
        if dtype == DType::F32 {
            Ok(Self::F32)
        } else if dtype == DType::F16 {
            Ok(Self::F16)
        } else if dtype == DType::BF16 {
            Ok(Self::BF16)
        } else {
            let dtype = dtype.as_str().to_owned();
            Err(CheckpointError::Dtype { name: "the new checkpoint".to_owned(), dtype })
        }
    }

    fn dtype(self) -> Dtype {
        match self {
            Self::F32 => Dtype::F32,
            Self::F16 => Dtype::F16,
            Self::BF16 => Dtype::BF16,
        }
    }

    fn holds(self, value: f32) -> bool {
        match self {
            Self::F32 => value.is_finite(),
            Self::F16 => f16::from_f32(value).is_finite(),
            Self::BF16 => bf16::from_f32(value).is_finite(),
        }
    }

    fn encode(self, name: &str, values: &[f32]) -> Result<Vec<u8>, CheckpointError> {
        if let Some((index, value)) = values.iter().enumerate().find(|(_, v)| !self.holds(**v)) {
            return Err(CheckpointError::Overflow {
                name: name.to_owned(),
                index,
                value: format!("{value:e}"),
                dtype: match self {
                    Self::F32 => "F32",
                    Self::F16 => "F16",
                    Self::BF16 => "BF16",
                },
            });
        }
        let values = values.iter();
        Ok(match self {
            Self::F32 => values.flat_map(|v| v.to_le_bytes()).collect(),
            Self::F16 => values.flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect(),
            Self::BF16 => values.flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect(),
        })
    }
}
