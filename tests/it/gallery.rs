//! The gallery's promises: found when acknowledged, never fewer than asked for, gone when erased,
//! the same after a restart, and never a wrong answer from a damaged store.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use handclip::domain::{
    Aspect, AttributeFilter, Embedding, Fingerprint, GalleryId, Generation, HandAttributes,
    SampleId, Side, SubjectId,
};
use handclip::gallery::{
    Aggregate, Galleries, Gallery, GalleryError, GalleryOptions, GallerySpec, NewSample,
    SearchParams,
};
use handclip::storage::{MasterKey, Store, StoreOptions};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

pub(crate) const FINGERPRINT: Fingerprint = Fingerprint([7; 32]);

pub(crate) fn open_store(dir: &Path) -> Store {
    let master_key = MasterKey::from_hex(&"5a".repeat(32)).unwrap();
    let mut options = StoreOptions::new(dir, master_key);
    options.ballast_bytes = 1 << 20;
    Store::open(options).unwrap()
}

pub(crate) fn open(dir: &Path, options: &GalleryOptions) -> Galleries {
    Galleries::open(open_store(dir), options.clone()).unwrap()
}

pub(crate) fn spec(id: &str, dim: usize) -> GallerySpec {
    GallerySpec {
        id: GalleryId::new(id).unwrap(),
        dim,
        generation: Generation(1),
        fingerprint: FINGERPRINT,
        retain_images: true,
        description: "test".into(),
    }
}

pub(crate) fn subject(number: usize) -> SubjectId {
    SubjectId::new(format!("p{number:05}")).unwrap()
}

pub(crate) fn sample_id(number: usize) -> SampleId {
    SampleId::new(format!("s{number:07}")).unwrap()
}

pub(crate) fn random(rng: &mut ChaCha8Rng, dim: usize) -> Vec<f32> {
    (0..dim).map(|_| rng.random::<f32>() - 0.5).collect()
}

/// A template near the subject's own centre, as a person's images lie.
pub(crate) fn near(centre: &[f32], spread: f32, rng: &mut ChaCha8Rng) -> Embedding {
    let noise = random(rng, centre.len());
    Embedding::from_raw(centre.iter().zip(noise).map(|(c, n)| c + spread * n).collect()).unwrap()
}

pub(crate) fn new_sample(number: usize, of: usize, embedding: Embedding) -> NewSample {
    let mut content_hash = [0; 32];
    content_hash[..8].copy_from_slice(&(number as u64).to_le_bytes());
    NewSample {
        subject: subject(of),
        sample: Some(sample_id(number)),
        attributes: attributes(number),
        quality: 0.5,
        embedding,
        generation: Generation(1),
        fingerprint: FINGERPRINT,
        content_hash,
        image: None,
    }
}

/// Half are dorsal, a tenth right, a hundredth wear something, a thousandth are of `site` north.
pub(crate) fn attributes(number: usize) -> HandAttributes {
    let site = if number % 1000 == 3 { "north" } else { "south" };
    HandAttributes {
        aspect: Some(if number.is_multiple_of(2) { Aspect::Dorsal } else { Aspect::Palmar }),
        side: Some(if number % 10 == 3 { Side::Right } else { Side::Left }),
        accessories: Some(number % 100 == 3),
        extra: BTreeMap::from([("site".into(), site.into())]),
    }
}

pub(crate) fn params(limit: usize) -> SearchParams {
    SearchParams {
        limit,
        filter: AttributeFilter::default(),
        aggregate: Aggregate::Best,
        exact: false,
    }
}

fn filters() -> Vec<AttributeFilter> {
    let open = AttributeFilter::default();
    vec![
        open.clone(),
        AttributeFilter { aspect: Some(Aspect::Dorsal), ..open.clone() },
        AttributeFilter { side: Some(Side::Right), ..open.clone() },
        AttributeFilter { accessories: Some(true), ..open.clone() },
        AttributeFilter { extra: BTreeMap::from([("site".into(), "north".into())]), ..open },
    ]
}

fn create(dir: &Path, options: &GalleryOptions, dim: usize) -> (Galleries, Arc<Gallery>) {
    let galleries = open(dir, options);
    let gallery = galleries.create(spec("main", dim)).unwrap();
    (galleries, gallery)
}

#[test]
fn an_enrolment_is_idempotent_by_content_and_conflicts_by_id() {
    let dir = tempfile::tempdir().unwrap();
    let (_galleries, gallery) = create(dir.path(), &GalleryOptions::default(), 8);
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let sample = new_sample(1, 1, near(&[1.0; 8], 0.5, &mut rng));
    assert!(gallery.enrol(sample.clone()).unwrap().created);
    let again = gallery.enrol(NewSample { sample: None, ..sample.clone() }).unwrap();
    assert_eq!((again.created, again.sample), (false, sample_id(1)));
    let other_content = NewSample { content_hash: [9; 32], ..sample.clone() };
    assert!(matches!(gallery.enrol(other_content), Err(GalleryError::SampleConflict { .. })));
    let other_subject = NewSample { subject: subject(2), ..sample.clone() };
    assert!(matches!(gallery.enrol(other_subject), Err(GalleryError::SampleConflict { .. })));
    let same_content = NewSample { subject: subject(2), sample: None, ..sample.clone() };
    assert!(gallery.enrol(same_content).unwrap().created, "another subject's content is its own");

    let older = NewSample { generation: Generation(0), ..sample.clone() };
    assert!(matches!(gallery.enrol(older), Err(GalleryError::Generation { .. })));
    let foreign = NewSample { fingerprint: Fingerprint([0; 32]), ..sample.clone() };
    assert!(matches!(gallery.enrol(foreign), Err(GalleryError::Fingerprint { .. })));
    let short = NewSample { embedding: near(&[1.0; 4], 0.5, &mut rng), ..sample.clone() };
    assert!(matches!(gallery.enrol(short), Err(GalleryError::Dimensions { .. })));
    let nan = NewSample { quality: f32::NAN, ..sample.clone() };
    assert!(matches!(gallery.enrol(nan), Err(GalleryError::Quality { .. })));
    let mut wordy = NewSample { content_hash: [3; 32], sample: None, ..sample.clone() };
    let control = "\u{1}".repeat(256);
    wordy.attributes.extra = (0..32).map(|i| (format!("{i}"), control.clone())).collect();
    assert!(matches!(gallery.enrol(wordy), Err(GalleryError::TooLong { .. })));
    let info = gallery.info();
    assert_eq!((info.subjects, info.samples), (2, 2), "what was refused changed nothing");
}
