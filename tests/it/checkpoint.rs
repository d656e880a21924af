//! Damaged and hostile checkpoints are refused, each with an error that names what is wrong.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};
use handclip::model::{CheckpointError, ClipConfig, ModelError, Parameters, inspect};
use safetensors::tensor::{Dtype, TensorView};

use crate::model::{model_directory, write};
use crate::support::golden;

const NAME: &str = "legacy_eos";
const VICTIM: &str = "vision_model.encoder.layers.1.mlp.fc1.weight";

/// name -> type, shape, bytes
type Stored = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

fn config() -> ClipConfig {
    let path = golden("clip").join(NAME).join("config.json");
    ClipConfig::from_json(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn stored() -> Stored {
    let bytes = std::fs::read(golden("clip").join(NAME).join("model.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    file.iter()
        .map(|(n, t)| (n.to_owned(), (t.dtype(), t.shape().to_vec(), t.data().to_vec())))
        .collect()
}

fn bytes(stored: &Stored) -> Vec<u8> {
    let views = stored
        .iter()
        .map(|(n, (d, s, b))| (n, TensorView::new(*d, s.clone(), b).unwrap()))
        .collect::<Vec<_>>();
    safetensors::serialize(views, None).unwrap()
}

fn refusal(file: &str, bytes: &[u8]) -> CheckpointError {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), file, bytes);
    match Parameters::load(&config(), dir.path(), &Device::Cpu) {
        Err(ModelError::Checkpoint(error)) => error,
        Err(other) => panic!("refused for another reason: {other}"),
        Ok(_) => panic!("taken"),
    }
}

fn changed(change: impl Fn(&mut Stored)) -> CheckpointError {
    let mut stored = stored();
    change(&mut stored);
    refusal("model.safetensors", &bytes(&stored))
}

#[test]
fn a_missing_tensor_is_named_and_never_invented() {
    for name in [VICTIM, "vision_model.embeddings.class_embedding", "logit_scale"] {
        let error = changed(|tensors| {
            tensors.remove(name).unwrap();
        });
        assert_eq!(error, CheckpointError::Missing(vec![name.to_owned()]));
    }
}

#[test]
fn an_unknown_tensor_is_named_but_for_old_position_buffers() {
    let extra = |name: &str, tensors: &mut Stored| {
        tensors.insert(name.to_owned(), (Dtype::I64, vec![2], vec![0; 16]));
    };
    let error = changed(|tensors| extra("vision_model.head.weight", tensors));
    assert_eq!(error, CheckpointError::Unknown(vec!["vision_model.head.weight".to_owned()]));
    let mut tensors = stored();
    extra("text_model.embeddings.position_ids", &mut tensors);
    extra("vision_model.embeddings.position_ids", &mut tensors);
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "model.safetensors", &bytes(&tensors));
    assert!(Parameters::load(&config(), dir.path(), &Device::Cpu).is_ok());
}

#[test]
fn a_tensor_of_another_shape_or_type_is_named() {
    let error = changed(|tensors| tensors.get_mut(VICTIM).unwrap().1.reverse());
    let expected = CheckpointError::Shape {
        name: VICTIM.to_owned(),
        got: vec![16, 32],
        expected: vec![32, 16],
    };
    assert_eq!(error, expected);
    let error = changed(|tensors| tensors.get_mut(VICTIM).unwrap().0 = Dtype::I32);
    let dtype = "I32".to_owned();
    assert_eq!(error, CheckpointError::Dtype { name: VICTIM.to_owned(), dtype });
}

#[test]
fn a_non_finite_value_is_named_with_its_place() {
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let error = changed(|tensors| {
            tensors.get_mut(VICTIM).unwrap().2[4 * 7..4 * 8].copy_from_slice(&value.to_le_bytes());
        });
        assert_eq!(error, CheckpointError::NonFinite { name: VICTIM.to_owned(), index: 7 });
    }
}

#[test]
fn a_damaged_file_is_refused_as_a_whole() {
    let good = bytes(&stored());
    let file = "model.safetensors";
    assert!(matches!(refusal(file, b""), CheckpointError::Malformed { .. }));
    assert!(matches!(refusal(file, &good[..good.len() - 1]), CheckpointError::Malformed { .. }));
    let mut longer = good.clone();
    longer.push(0);
    assert!(matches!(refusal(file, &longer), CheckpointError::Malformed { .. }));
    let mut header = good.clone();
    header[9] = b'!';
    assert!(matches!(refusal(file, &header), CheckpointError::Malformed { .. }));
    let mut huge = good;
    huge[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    let error = refusal(file, &huge);
    assert!(matches!(error, CheckpointError::HeaderTooLarge { got: u64::MAX, .. }), "{error}");
}

#[test]
fn a_file_far_larger_than_its_configuration_is_not_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.safetensors");
    // Sparse: takes no room on the disk.
    std::fs::File::create(&path).unwrap().set_len(1 << 40).unwrap();
    let refused = Parameters::load(&config(), dir.path(), &Device::Cpu);
    let Err(ModelError::Checkpoint(CheckpointError::TooLarge { got, .. })) = refused else {
        panic!("not refused for its size");
    };
    assert_eq!(got, 1 << 40);
}

#[test]
fn pickles_are_refused_by_name_and_by_content() {
    for name in ["pytorch_model.bin", "open_clip.pt", "model.pth", "epoch_3.CKPT"] {
        assert_eq!(refusal(name, b"anything"), CheckpointError::Pickle(name.to_owned()));
    }
    let file = "model.safetensors";
    for content in [&b"PK\x03\x04 a zip"[..], b"\x80\x02}q\x00.", b"\x80\x04\x95\x1a\x00"] {
        assert_eq!(refusal(file, content), CheckpointError::Pickle(file.to_owned()));
    }
    assert!(matches!(refusal("README.md", b"no weights"), CheckpointError::NoWeights(_)));
}

#[test]
fn half_precision_is_read_and_what_does_not_fit_is_not_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.safetensors");
    let load = || Parameters::load(&config(), dir.path(), &Device::Cpu);
    let start = Parameters::init(&config(), 5, &Device::Cpu).unwrap();
    for (dtype, tolerance) in [(DType::F32, 0.0), (DType::F16, 5e-4), (DType::BF16, 4e-3)] {
        start.save(&path, dtype).unwrap();
        let read = load().unwrap();
        for ((name, a), (other, b)) in start.vars().iter().zip(read.vars()) {
            assert_eq!((name, DType::F32), (&other, b.dtype()));
            let a: Vec<f32> = a.flatten_all().unwrap().to_vec1().unwrap();
            let b: Vec<f32> = b.flatten_all().unwrap().to_vec1().unwrap();
            for (a, b) in a.iter().zip(&b) {
                assert!((a - b).abs() <= tolerance * a.abs() + 1e-7 * tolerance.signum(), "{name}");
            }
        }
    }
    let victim = start.get(VICTIM).unwrap();
    victim.set(&(victim.ones_like().unwrap() * 1e5).unwrap()).unwrap();
    let before = std::fs::read(&path).unwrap();
    let error = start.save(&path, DType::F16).unwrap_err();
    assert!(error.to_string().contains(VICTIM), "{error}");
    assert!(start.save(&path, DType::F64).is_err());
    assert_eq!(std::fs::read(&path).unwrap(), before);
    let nan = Tensor::full(f32::NAN, victim.shape(), &Device::Cpu).unwrap();
    victim.set(&nan).unwrap();
    assert!(start.save(&path, DType::F32).is_err());
}

#[test]
fn inspecting_lists_every_problem_and_still_reports() {
    let dir = model_directory(NAME);
    let report = inspect(dir.path()).unwrap();
    assert_eq!(report.problems, Vec::<String>::new());
    assert_eq!(report.files.len(), 4);
    assert_eq!(report.dtypes, BTreeMap::from([("F32".to_owned(), stored().len())]));
    let counts = report.parameters;
    let values: usize = stored().values().map(|(_, _, bytes)| bytes.len() / 4).sum();
    assert_eq!((counts.total, counts.vision + counts.text + 1), (values, values));

    let mut tensors = stored();
    tensors.remove("logit_scale");
    tensors.get_mut(VICTIM).unwrap().1.reverse();
    write(dir.path(), "model.safetensors", &bytes(&tensors));
    std::fs::remove_file(dir.path().join("tokenizer.json")).unwrap();
    let report = inspect(dir.path()).unwrap();
    for part in ["tokenizer.json", VICTIM, "logit_scale"] {
        assert!(report.problems.iter().any(|p| p.contains(part)), "{part}: {:?}", report.problems);
    }
    assert_eq!((report.problems.len(), report.fingerprint), (3, None));
    assert!(inspect(&dir.path().join("nowhere")).is_err());
}
