//! Rows to test with.

use std::sync::Arc;

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use crate::domain::{HandAttributes, SampleId, SubjectId};

use super::RowInfo;
use super::template::PackedTemplate;

/// `[dim]`, of length 1, in any direction.
pub(super) fn unit(rng: &mut ChaCha8Rng, dim: usize) -> Vec<f32> {
    near(rng, &vec![0.0; dim], 1.0)
}

/// `[dim]`, of length 1, about as far from `centre` as `spread` says.
pub(super) fn near(rng: &mut ChaCha8Rng, centre: &[f32], spread: f32) -> Vec<f32> {
    let spread = spread * (3.0 / centre.len() as f32).sqrt();
    let row: Vec<f32> =
        centre.iter().map(|value| value + spread * rng.random_range(-1.0..1.0_f32)).collect();
    let length = row.iter().map(|value| value * value).sum::<f32>().sqrt();
    row.iter().map(|value| value / length).collect()
}

/// As an index is filled with them, each of a subject of its own.
pub(super) fn loaded(
    rows: &[Vec<f32>],
    attributes: impl Fn(u64) -> HandAttributes,
) -> Vec<(Arc<RowInfo>, PackedTemplate)> {
    let subject = Arc::new(SubjectId::new("p").unwrap());
    let one = |(number, row): (u64, &Vec<f32>)| {
        let info = RowInfo {
            number,
            subject_number: number,
            subject: Arc::clone(&subject),
            sample: SampleId::new(format!("s{number}")).unwrap(),
            attributes: attributes(number),
        };
        (Arc::new(info), PackedTemplate::new(row))
    };
    (0..).zip(rows).map(one).collect()
}
