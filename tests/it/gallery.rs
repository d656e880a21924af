//! The gallery's promises: found when acknowledged, never fewer than asked for, gone when erased,
//! the same after a restart, and never a wrong answer from a damaged store.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use handclip::domain::{
    Aspect, AttributeFilter, Embedding, Fingerprint, GalleryId, GalleryPolicy, Generation,
    HandAttributes, SampleId, Side, SubjectId,
};
use handclip::gallery::{
    Aggregate, Galleries, Gallery, GalleryError, GalleryOptions, GallerySpec, NewSample,
    SearchParams, Template,
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

/// The galleries of a server that has stopped.
pub(crate) fn open_as_server(dir: &Path) -> Galleries {
    let (key, _) = MasterKey::load_or_create(&dir.join("master.key")).unwrap();
    let store = Store::open(StoreOptions::new(dir, key)).unwrap();
    Galleries::open(store, GalleryOptions::default()).unwrap()
}

pub(crate) fn spec(id: &str, dim: usize) -> GallerySpec {
    GallerySpec {
        id: GalleryId::new(id).unwrap(),
        dim,
        generation: Generation(1),
        fingerprint: FINGERPRINT,
        beside: None,
        retain_images: true,
        allow_training: false,
        description: "test".into(),
        policy: GalleryPolicy::default(),
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

pub(crate) fn template(generation: u64, embedding: Embedding) -> Template {
    Template { generation: Generation(generation), fingerprint: FINGERPRINT, embedding }
}

pub(crate) fn new_sample(number: usize, of: usize, embedding: Embedding) -> NewSample {
    let mut content_hash = [0; 32];
    content_hash[..8].copy_from_slice(&(number as u64).to_le_bytes());
    NewSample {
        subject: subject(of),
        sample: Some(sample_id(number)),
        attributes: attributes(number),
        quality: 0.5,
        templates: vec![template(1, embedding)],
        content_hash,
        image: None,
        consent: None,
        flags: Vec::new(),
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

pub(crate) fn filters() -> Vec<AttributeFilter> {
    let open = AttributeFilter::default();
    vec![
        open.clone(),
        AttributeFilter { aspect: Some(Aspect::Dorsal), ..open.clone() },
        AttributeFilter { side: Some(Side::Right), ..open.clone() },
        AttributeFilter { accessories: Some(true), ..open.clone() },
        AttributeFilter { extra: BTreeMap::from([("site".into(), "north".into())]), ..open },
    ]
}

pub(crate) fn create(
    dir: &Path,
    options: &GalleryOptions,
    dim: usize,
) -> (Galleries, Arc<Gallery>) {
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

    let with = |template: Template| NewSample { templates: vec![template], ..sample.clone() };
    let own = sample.templates[0].embedding.clone();
    let older = with(template(0, own.clone()));
    assert!(matches!(gallery.enrol(older), Err(GalleryError::Generation { .. })));
    let foreign = with(Template { fingerprint: Fingerprint([0; 32]), ..template(1, own) });
    assert!(matches!(gallery.enrol(foreign), Err(GalleryError::Fingerprint { .. })));
    let short = with(template(1, near(&[1.0; 4], 0.5, &mut rng)));
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

/// Bits of few samples, so that the paths of large galleries are tested in seconds.
fn small_binary() -> GalleryOptions {
    GalleryOptions { exact_up_to: 500, background: false, ..GalleryOptions::default() }
}

/// Few samples and still lists.
fn small_lists() -> GalleryOptions {
    GalleryOptions { scan_up_to: 500, ..small_binary() }
}

/// Few lists and still a graph.
fn small_graph() -> GalleryOptions {
    GalleryOptions { graph_from: 20, ..small_lists() }
}

/// Every way to search that is not exact.
fn ways() -> [(&'static str, GalleryOptions); 3] {
    [("binary", small_binary()), ("lists", small_lists()), ("hnsw", small_graph())]
}

/// `subjects` people with `each` samples, enrolled in batches; the centres, to probe near.
fn populate(gallery: &Gallery, subjects: usize, each: usize, dim: usize) -> Vec<Vec<f32>> {
    let mut rng = ChaCha8Rng::seed_from_u64(42);
    let centres: Vec<Vec<f32>> = (0..subjects).map(|_| random(&mut rng, dim)).collect();
    let numbers: Vec<usize> = (0..subjects * each).collect();
    for part in numbers.chunks(2_000) {
        let samples = part
            .iter()
            .map(|n| new_sample(*n, n / each, near(&centres[n / each], 0.7, &mut rng)))
            .collect();
        for result in gallery.enrol_batch(samples) {
            assert!(result.unwrap().created);
        }
    }
    centres
}

/// Share of the exact answer that a search gives, over `probes` probes.
fn recall(gallery: &Gallery, centres: &[Vec<f32>], filter: &AttributeFilter, probes: usize) -> f64 {
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let (mut found, mut wanted) = (0, 0);
    for _ in 0..probes {
        let probe = near(&centres[rng.random_range(0..centres.len())], 0.7, &mut rng);
        let walk = SearchParams { filter: filter.clone(), ..params(10) };
        let exact = SearchParams { exact: true, ..walk.clone() };
        let got = gallery.search_samples(&probe, &walk).unwrap();
        let want = gallery.search_samples(&probe, &exact).unwrap();
        assert_eq!(got.len(), want.len(), "under-returned with {filter:?}");
        assert!(got.iter().all(|hit| filter.admits(&hit.attributes)));
        wanted += want.len();
        found += want.iter().filter(|hit| got.contains(hit)).count();
    }
    found as f64 / wanted as f64
}

/// The exact scan against sums of products written out here, independent of the index.
#[test]
fn a_scan_gives_the_largest_cosines_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let (_galleries, gallery) = create(dir.path(), &GalleryOptions::default(), 37);
    let mut rng = rng();
    let templates: Vec<Embedding> = (0..500).map(|_| near(&[0.1; 37], 1.0, &mut rng)).collect();
    for (n, template) in templates.iter().enumerate() {
        gallery.enrol(new_sample(n, n / 2, template.clone())).unwrap();
    }
    for _ in 0..20 {
        let probe = near(&[0.1; 37], 1.0, &mut rng);
        let cosine = |t: &Embedding| -> f64 {
            let pairs = t.as_slice().iter().zip(probe.as_slice());
            pairs.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
        };
        let mut oracle: Vec<(f64, usize)> =
            templates.iter().enumerate().map(|(n, t)| (cosine(t), n)).collect();
        oracle.sort_by(|a, b| b.0.total_cmp(&a.0));
        let hits = gallery.search_samples(&probe, &params(10)).unwrap();
        assert_eq!(hits.len(), 10);
        for (hit, (similarity, n)) in hits.iter().zip(&oracle) {
            assert!((f64::from(hit.similarity.get()) - similarity).abs() < 1e-5);
            assert_eq!((&hit.sample, &hit.subject), (&sample_id(*n), &subject(n / 2)));
        }
    }
}

#[test]
fn every_way_finds_what_an_exact_scan_finds_whatever_is_filtered_or_removed() {
    for (kind, options) in ways() {
        let dir = tempfile::tempdir().unwrap();
        let (_galleries, gallery) = create(dir.path(), &options, 64);
        let centres = populate(&gallery, 800, 5, 64);
        gallery.compact().unwrap();
        let index = gallery.info().index;
        assert_eq!((index.kind, index.segment + index.tail), (kind, 4_000));
        assert_eq!(index.tail, if kind == "binary" { 4_000 } else { 4_000 / 32 });
        let audit = gallery.audit().unwrap();
        assert_eq!(
            (audit.found, audit.samples),
            (4_000, 4_000),
            "{kind} missed {:?}",
            audit.missed
        );
        for filter in filters() {
            let recall = recall(&gallery, &centres, &filter, 40);
            assert!(recall >= 0.99, "{kind}: recall {recall} with {filter:?}");
        }
        for n in (0..4_000).step_by(3) {
            gallery.remove_sample(&subject(n / 5), &sample_id(n)).unwrap();
        }
        for filter in filters() {
            let recall = recall(&gallery, &centres, &filter, 40);
            assert!(recall >= 0.99, "{kind}, after removals: recall {recall} with {filter:?}");
        }
        let everything =
            gallery.search_samples(&near(&centres[0], 0.1, &mut rng()), &params(10_000));
        assert_eq!(everything.unwrap().len(), gallery.info().samples);
    }
}

fn rng() -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(99)
}

/// Into a fifth of the lists only, or a tenth.
#[test]
fn few_lists_hold_the_right_person() {
    for (lists_searched, most_lost) in [(128, 10), (64, 15)] {
        for options in [small_lists(), small_graph()] {
            let dir = tempfile::tempdir().unwrap();
            let options = GalleryOptions { lists_searched, ..options };
            let (_galleries, gallery) = create(dir.path(), &options, 512);
            let centres = populate(&gallery, 2_500, 4, 512);
            gallery.compact().unwrap();
            let kind = gallery.info().index.kind;
            let mut rng = rng();
            let lost = (0..1_000).filter(|i| {
                let of = i * 7 % centres.len();
                let probe = near(&centres[of], 0.7, &mut rng);
                let found = gallery.search_samples(&probe, &params(1)).unwrap();
                found[0].subject != subject(of)
            });
            let lost = lost.count();
            println!("{kind}, {lists_searched} lists: {lost} of 1,000 lost");
            assert!(lost <= most_lost, "{kind}: {lost}");
        }
    }
}

#[test]
fn at_100_000_samples_recall_stays_above_99_percent() {
    let dir = tempfile::tempdir().unwrap();
    let options = GalleryOptions { background: false, ..GalleryOptions::default() };
    let (_galleries, gallery) = create(dir.path(), &options, 512);
    let start = std::time::Instant::now();
    let centres = populate(&gallery, 10_000, 10, 512);
    println!("enrolled 100k x 512 in {:?}", start.elapsed());
    let start = std::time::Instant::now();
    gallery.compact().unwrap();
    println!("fitted in {:?}", start.elapsed());
    measure_recall(&gallery, &centres, "with all");
    let mut rng = rng();
    let probes: Vec<Embedding> =
        (0..500).map(|i| near(&centres[i * 17 % centres.len()], 0.7, &mut rng)).collect();
    for exact in [false, true] {
        let asked = SearchParams { exact, ..params(10) };
        let probes = if exact { &probes[..50] } else { &probes[..] };
        let start = std::time::Instant::now();
        for probe in probes {
            assert_eq!(gallery.search_samples(probe, &asked).unwrap().len(), 10);
        }
        println!("exact {exact}: {:?} a query", start.elapsed() / probes.len() as u32);
    }
    for n in (0..10_000).step_by(97) {
        gallery.erase_subject(&subject(n)).unwrap();
    }
    measure_recall(&gallery, &centres, "after erasures");
}

/// What is lost is lost by chance, so that takes many probes to see.
fn measure_recall(gallery: &Gallery, centres: &[Vec<f32>], when: &str) {
    for filter in filters() {
        let probes = if filter == AttributeFilter::default() { 1_000 } else { 30 };
        let recall = recall(gallery, centres, &filter, probes);
        let named = serde_json::to_string(&filter).unwrap();
        println!("{when}: recall@10 {recall:.4} of {probes} probes with {named}");
        assert!(recall >= 0.99, "{when}: recall {recall} with {named}");
    }
}

#[test]
fn an_enrolment_is_found_as_soon_as_it_is_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let (_galleries, gallery) =
        create(dir.path(), &GalleryOptions { exact_up_to: 50, ..GalleryOptions::default() }, 16);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let gallery = &gallery;
            scope.spawn(move || {
                let mut rng = ChaCha8Rng::seed_from_u64(thread as u64);
                for i in 0..60 {
                    let n = thread * 1_000 + i;
                    let template = near(&random(&mut rng, 16), 0.1, &mut rng);
                    gallery.enrol(new_sample(n, n, template.clone())).unwrap();
                    let found = gallery.search(&template, &params(1)).unwrap();
                    assert_eq!(found[0].best.sample, sample_id(n));
                    if i % 3 == 0 {
                        gallery.erase_subject(&subject(n)).unwrap();
                        let found = gallery.search(&template, &params(1_000)).unwrap();
                        assert!(found.iter().all(|c| c.subject != subject(n)));
                    }
                }
            });
        }
    });
    assert_eq!(gallery.info().samples, 160);
}

#[test]
fn subjects_are_ranked_by_their_best_sample_or_by_the_mean_of_their_closest() {
    let dir = tempfile::tempdir().unwrap();
    let (_galleries, gallery) = create(dir.path(), &small_binary(), 2);
    let at = |degrees: f32| {
        Embedding::from_raw(vec![degrees.to_radians().cos(), degrees.to_radians().sin()]).unwrap()
    };
    // Subject 1: 10 and 80 degrees. Subject 2: 20 and 30. Subject 3: the same template as subject 2's
    // first, enrolled later.
    for (n, of, degrees) in [(1, 1, 10.0), (2, 1, 80.0), (3, 2, 20.0), (4, 2, 30.0), (5, 3, 20.0)] {
        gallery.enrol(new_sample(n, of, at(degrees))).unwrap();
    }
    let ranked = |aggregate| -> Vec<(SubjectId, f32)> {
        let asked = SearchParams { aggregate, ..params(10) };
        let found = gallery.search(&at(0.0), &asked).unwrap();
        found.into_iter().map(|c| (c.subject, c.similarity.get())).collect()
    };
    let cos = |degrees: f32| degrees.to_radians().cos();
    let close = |got: &[(SubjectId, f32)], want: &[(usize, f32)]| {
        assert_eq!(got.len(), want.len());
        for ((id, similarity), (number, expected)) in got.iter().zip(want) {
            assert_eq!(id, &subject(*number));
            assert!((similarity - expected).abs() < 1e-6);
        }
    };
    close(&ranked(Aggregate::Best), &[(1, cos(10.0)), (2, cos(20.0)), (3, cos(20.0))]);
    let mean = |a: f32, b: f32| (cos(a) + cos(b)) / 2.0;
    close(
        &ranked(Aggregate::MeanTop(2)),
        &[(3, cos(20.0)), (2, mean(20.0, 30.0)), (1, mean(10.0, 80.0))],
    );
    let compared = gallery.verify(&subject(1), &at(80.0)).unwrap();
    let order: Vec<_> = compared.iter().map(|hit| hit.sample.clone()).collect();
    assert_eq!(order, [sample_id(2), sample_id(1)]);
    // One subject fills every near place, and another is still to be found.
    for n in 100..1_400 {
        gallery.enrol(new_sample(n, 9, at(0.001 * n as f32))).unwrap();
    }
    gallery.compact().unwrap();
    assert_eq!(gallery.info().index.kind, "binary");
    let found = gallery.search(&at(0.0), &params(4)).unwrap();
    let order: Vec<_> = found.into_iter().map(|c| c.subject).collect();
    assert_eq!(order, [subject(9), subject(1), subject(2), subject(3)]);
}

#[test]
fn a_restart_answers_the_same_from_saved_and_from_damaged_lists() {
    let dir = tempfile::tempdir().unwrap();
    let options = small_graph();
    let (galleries, gallery) = create(dir.path(), &options, 32);
    let centres = populate(&gallery, 300, 4, 32);
    gallery.compact().unwrap();
    let mut rng = rng();
    for (n, centre) in centres.iter().enumerate().take(20) {
        let template = near(centre, 0.7, &mut rng);
        gallery.enrol(new_sample(90_000 + n, n, template)).unwrap();
    }
    gallery.remove_sample(&subject(30), &sample_id(121)).unwrap();
    gallery.erase_subject(&subject(31)).unwrap();
    let probes: Vec<Embedding> = centres.iter().map(|c| near(c, 0.7, &mut rng)).collect();
    let answers = |gallery: &Gallery| -> Vec<_> {
        probes.iter().map(|p| gallery.search(p, &params(5)).unwrap()).collect()
    };
    let before = answers(&gallery);
    galleries.close().unwrap();
    drop((galleries, gallery));
    let reopen = || {
        let galleries = open(dir.path(), &options);
        let gallery = galleries.get(&GalleryId::new("main").unwrap()).unwrap();
        (galleries, gallery)
    };
    let (galleries, gallery) = reopen();
    let index = gallery.info().index;
    assert_eq!((index.kind, index.segment, index.tail), ("hnsw", 1_158, 57));
    assert_eq!(answers(&gallery), before);
    drop((galleries, gallery));

    // One chunk replaced by another sealed one: it opens, and the lists do not fit together.
    let store = open_store(dir.path());
    let keys = store.keys(&[0x82]).unwrap();
    let mut batch = handclip::storage::Batch::default();
    batch.put(keys[0].clone(), vec![1, 2, 3], handclip::storage::Seal::Store);
    store.commit(batch).unwrap();
    drop(store);
    let (galleries, gallery) = reopen();
    assert_eq!(gallery.info().index.kind, "binary", "the damaged lists are not used");
    assert_eq!(answers(&gallery), before);
    gallery.compact().unwrap();
    assert_eq!(answers(&gallery), before);
    drop((galleries, gallery));
    let (_galleries, gallery) = reopen();
    assert_eq!(gallery.info().index.kind, "hnsw");
    assert_eq!(answers(&gallery), before);
}

fn files_hold(dir: &Path, needle: &[u8]) -> bool {
    walkdir::WalkDir::new(dir).into_iter().any(|entry| {
        let entry = entry.unwrap();
        entry.file_type().is_file()
            && std::fs::read(entry.path())
                .unwrap()
                .windows(needle.len())
                .any(|window| window == needle)
    })
}

#[test]
fn an_erased_subject_is_in_no_file_and_does_not_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let (galleries, gallery) = create(dir.path(), &GalleryOptions::default(), 64);
    let mut rng = rng();
    let marker = b"PLAINTEXT-MARKER-OF-A-HAND-IMAGE".repeat(3_000);
    let template = near(&random(&mut rng, 64), 0.1, &mut rng);
    let bytes: Vec<u8> = template.as_slice().iter().flat_map(|v| v.to_le_bytes()).collect();
    let mut sample = new_sample(1, 1, template.clone());
    sample.image = Some(marker.clone());
    gallery.enrol(sample).unwrap();
    gallery.enrol(new_sample(2, 2, near(&random(&mut rng, 64), 0.1, &mut rng))).unwrap();
    assert_eq!(gallery.image(&subject(1), &sample_id(1)).unwrap(), Some(marker.clone()));
    let slots = std::fs::read(dir.path().join("keys.slots")).unwrap();
    let receipt = gallery.erase_subject(&subject(1)).unwrap();
    assert_eq!((receipt.samples, receipt.subject.clone()), (1, subject(1)));
    assert!(gallery.is_genuine(&receipt));
    assert!(!gallery.is_genuine(&handclip::gallery::ErasureReceipt { samples: 2, ..receipt }));
    let check = |gallery: &Gallery| {
        assert!(gallery.erased_at_ms(&subject(1)).unwrap().is_some());
        assert!(gallery.erased_at_ms(&subject(2)).unwrap().is_none());
        assert_eq!(gallery.search(&template, &params(10)).unwrap().len(), 1);
        assert!(matches!(gallery.subject(&subject(1)), Err(GalleryError::SubjectNotFound(_))));
        assert!(gallery.image(&subject(1), &sample_id(1)).is_err());
        assert!(gallery.verify(&subject(1), &template).is_err());
    };
    check(&gallery);
    let after = std::fs::read(dir.path().join("keys.slots")).unwrap();
    assert_eq!(slots.len(), after.len());
    assert!(slots[128..256].iter().any(|b| *b != 0) && after[128..256].iter().all(|b| *b == 0));
    galleries.close().unwrap();
    drop((galleries, gallery));
    assert!(std::fs::read_dir(dir.path().join("sled/blobs")).unwrap().next().is_none());
    for needle in [&marker[..32], &bytes[..64], &bytes[128..192], b"p00001"] {
        assert!(!files_hold(dir.path(), needle));
    }
    let control = dir.path().join("control");
    handclip::storage::file::write_atomic(&control, &[&[0; 9][..], &marker, &bytes].concat())
        .unwrap();
    assert!(files_hold(dir.path(), &marker[..32]) && files_hold(dir.path(), &bytes[..64]));
    let galleries = open(dir.path(), &GalleryOptions::default());
    check(&galleries.get(&GalleryId::new("main").unwrap()).unwrap());
}

#[test]
fn a_second_process_a_wrong_key_and_a_full_disk_are_named() {
    use handclip::storage::StorageError;
    let dir = tempfile::tempdir().unwrap();
    let (galleries, gallery) = create(dir.path(), &GalleryOptions::default(), 8);
    let sample = |n| new_sample(n, n, near(&[1.0; 8], 0.5, &mut rng()));
    gallery.enrol(sample(1)).unwrap();
    let other = galleries.create(spec("other", 8)).unwrap();
    other.enrol(sample(1)).unwrap();
    let options = |key: &str| StoreOptions::new(dir.path(), MasterKey::from_hex(key).unwrap());
    let right = "5a".repeat(32);
    assert!(matches!(Store::open(options(&right)), Err(StorageError::InUse { .. })));
    drop((galleries, gallery, other));
    let wrong = Store::open(options(&"5b".repeat(32)));
    assert!(matches!(wrong, Err(StorageError::WrongMasterKey { .. })));

    let mut full = options(&right);
    full.min_free_bytes = u64::MAX / 8;
    let galleries = Galleries::open(Store::open(full).unwrap(), GalleryOptions::default()).unwrap();
    let gallery = galleries.get(&GalleryId::new("main").unwrap()).unwrap();
    let refused = gallery.enrol(sample(2));
    assert!(matches!(refused, Err(GalleryError::Storage(StorageError::Full { .. }))));
    assert!(!dir.path().join("ballast").exists(), "the ballast is released");
    let twice = gallery.enrol_batch(vec![sample(2), sample(2)]);
    assert!(twice.iter().all(Result::is_err), "the second is no more enrolled than the first");
    assert_eq!(gallery.info().samples, 1, "what was refused changed nothing");
    gallery.remove_sample(&subject(1), &sample_id(1)).unwrap();
    assert_eq!(gallery.erase_subject(&subject(1)).unwrap().samples, 0);
    let other = GalleryId::new("other").unwrap();
    galleries.delete(&other).unwrap();
    assert!(galleries.get(&other).is_err());
    drop((galleries, gallery));
    let galleries = open(dir.path(), &GalleryOptions::default());
    let gallery = galleries.get(&GalleryId::new("main").unwrap()).unwrap();
    assert_eq!(gallery.info().samples, 0);
    gallery.enrol(sample(2)).unwrap();
}

mod model {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[derive(Debug, Clone)]
    enum Step {
        Enrol { of: usize, number: usize },
        Remove { of: usize, number: usize },
        Erase { of: usize },
        Compact,
        Reopen,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            8 => (0..6_usize, 0..40_usize).prop_map(|(of, number)| Step::Enrol { of, number }),
            4 => (0..6_usize, 0..40_usize).prop_map(|(of, number)| Step::Remove { of, number }),
            1 => (0..6_usize).prop_map(|of| Step::Erase { of }),
            1 => Just(Step::Compact),
            1 => Just(Step::Reopen),
        ]
    }

    fn template(number: usize) -> Embedding {
        near(&[0.0; 8], 1.0, &mut ChaCha8Rng::seed_from_u64(number as u64))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]
        #[test]
        fn any_sequence_of_changes_leaves_what_a_map_would_hold(
            steps in prop::collection::vec(step(), 1..40),
        ) {
            let dir = tempfile::tempdir().unwrap();
            let options = GalleryOptions { exact_up_to: 8, scan_up_to: 20, graph_from: 1, ..small_graph() };
            let mut opened = create(dir.path(), &options, 8);
            let mut model: BTreeMap<usize, usize> = BTreeMap::new();
            let mut known = BTreeSet::new();
            for step in steps {
                let gallery = &opened.1;
                match step {
                    Step::Enrol { of, number } => {
                        let result = gallery.enrol(new_sample(number, of, template(number)));
                        match model.get(&number) {
                            Some(owner) if *owner == of => prop_assert!(!result.unwrap().created),
                            Some(_) => prop_assert!(result.is_err()),
                            None => {
                                prop_assert!(result.unwrap().created);
                                model.insert(number, of);
                                known.insert(of);
                            }
                        }
                    }
                    Step::Remove { of, number } => {
                        let removed = gallery.remove_sample(&subject(of), &sample_id(number));
                        let there = model.get(&number) == Some(&of);
                        prop_assert_eq!(removed.is_ok(), there);
                        if there {
                            model.remove(&number);
                        }
                    }
                    Step::Erase { of } => {
                        let erased = gallery.erase_subject(&subject(of));
                        prop_assert_eq!(erased.is_ok(), known.remove(&of));
                        model.retain(|_, owner| *owner != of);
                    }
                    Step::Compact => gallery.compact().unwrap(),
                    Step::Reopen => {
                        let (galleries, gallery) = opened;
                        galleries.close().unwrap();
                        drop((galleries, gallery));
                        let galleries = open(dir.path(), &options);
                        let gallery = galleries.get(&GalleryId::new("main").unwrap()).unwrap();
                        opened = (galleries, gallery);
                    }
                }
                let gallery = &opened.1;
                let all = gallery.search_samples(&template(1_000), &params(1_000)).unwrap();
                let held: BTreeMap<SampleId, SubjectId> =
                    all.into_iter().map(|hit| (hit.sample, hit.subject)).collect();
                let expected: BTreeMap<SampleId, SubjectId> =
                    model.iter().map(|(n, of)| (sample_id(*n), subject(*of))).collect();
                prop_assert_eq!(held, expected);
                let listed: Vec<SubjectId> =
                    gallery.subjects(None, 100).unwrap().into_iter().map(|s| s.subject).collect();
                let expected: Vec<SubjectId> = known.iter().map(|of| subject(*of)).collect();
                prop_assert_eq!(listed, expected);
            }
        }
    }
}
