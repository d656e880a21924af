//! Consents, how long people are kept, and that nobody who was erased comes back with a backup.

use std::num::NonZeroU32;
use std::path::Path;

use handclip::domain::{Consent, ConsentError, GalleryId, GalleryPolicy, SampleFlag, now_ms};
use handclip::gallery::{
    Galleries, Gallery, GalleryError, GalleryOptions, GallerySpec, NewSample, Overdue,
    apply_erasures, erasures,
};
use handclip::storage::{MasterKey, Store, stage, verify_backup};

use crate::gallery::{near, new_sample, open, open_store, params, sample_id, spec, subject};

const DIM: usize = 16;
const DAY_MS: u64 = 24 * 3600 * 1000;

fn sample(number: usize, of: usize) -> NewSample {
    use rand::SeedableRng;
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(number as u64);
    new_sample(number, of, near(&[0.0; DIM], 1.0, &mut rng))
}

fn consent(days: u64) -> Consent {
    let given_at_ms = now_ms();
    let expires_at_ms = given_at_ms + days * DAY_MS;
    Consent { purpose: "entry to the laboratory".to_owned(), given_at_ms, expires_at_ms }
}

fn create(galleries: &Galleries, id: &str, policy: GalleryPolicy) -> std::sync::Arc<Gallery> {
    galleries.create(GallerySpec { policy, ..spec(id, DIM) }).unwrap()
}

fn main_gallery(galleries: &Galleries, id: &str) -> std::sync::Arc<Gallery> {
    galleries.get(&GalleryId::new(id).unwrap()).unwrap()
}

#[test]
fn nobody_is_enrolled_without_the_consent_that_a_gallery_asks_for() {
    let dir = tempfile::tempdir().unwrap();
    let galleries = open(dir.path(), &GalleryOptions::default());
    let policy = GalleryPolicy { require_consent: true, ..GalleryPolicy::default() };
    let gallery = create(&galleries, "main", policy);
    let refused = |gallery: &Gallery, sample| {
        assert!(matches!(gallery.enrol(sample), Err(GalleryError::ConsentRequired { .. })));
    };
    refused(&gallery, sample(1, 1));
    let with = |number, of| NewSample { consent: Some(consent(30)), ..sample(number, of) };
    gallery.enrol(with(1, 1)).unwrap();
    // Once given it holds for what comes later, in the same batch too.
    gallery.enrol(sample(2, 1)).unwrap();
    let batch = gallery.enrol_batch(vec![with(3, 2), sample(4, 2), sample(5, 3)]);
    assert!(batch[0].is_ok() && batch[1].is_ok() && batch[2].is_err());
    let ended = Consent { expires_at_ms: now_ms() - 1, given_at_ms: 1, ..consent(1) };
    assert!(matches!(
        gallery.enrol(NewSample { consent: Some(ended.clone()), ..sample(6, 4) }),
        Err(GalleryError::Consent(ConsentError::Expired))
    ));
    assert!(gallery.set_consent(&subject(1), ended).is_err());
    assert!(matches!(
        gallery.set_consent(&subject(9), consent(1)),
        Err(GalleryError::SubjectNotFound(_))
    ));
    let renewed = consent(60);
    gallery.set_consent(&subject(1), renewed.clone()).unwrap();
    drop(gallery);
    galleries.close().unwrap();
    drop(galleries);
    let galleries = open(dir.path(), &GalleryOptions::default());
    let gallery = main_gallery(&galleries, "main");
    assert_eq!(gallery.policy(), policy);
    assert_eq!(gallery.subject(&subject(1)).unwrap().consent, Some(renewed));
    refused(&gallery, sample(7, 5));
    gallery.enrol(sample(7, 1)).unwrap();
    gallery.set_policy(GalleryPolicy::default()).unwrap();
    gallery.enrol(sample(8, 5)).unwrap();
}

#[test]
fn whose_consent_ended_or_who_was_not_seen_is_overdue() {
    let dir = tempfile::tempdir().unwrap();
    let galleries = open(dir.path(), &GalleryOptions::default());
    let retention_days = NonZeroU32::new(10);
    let gallery =
        create(&galleries, "main", GalleryPolicy { retention_days, ..GalleryPolicy::default() });
    let flags = vec![SampleFlag::FarFromSubject];
    gallery.enrol(NewSample { flags: flags.clone(), ..sample(1, 1) }).unwrap();
    gallery.enrol(NewSample { consent: Some(consent(5)), ..sample(2, 2) }).unwrap();
    gallery.enrol(sample(3, 3)).unwrap();
    let start = now_ms();
    let at = |gallery: &Gallery, days: u64| gallery.overdue(start + days * DAY_MS);
    assert_eq!(at(&gallery, 4), []);
    assert_eq!(at(&gallery, 6), [(subject(2), Overdue::ConsentExpired)]);
    gallery.interacted(&subject(3), start + 8 * DAY_MS);
    let expected = [(subject(1), Overdue::NotSeen), (subject(2), Overdue::ConsentExpired)];
    assert_eq!(at(&gallery, 11), expected);
    // Of the others their own records say when they were enrolled.
    assert_eq!(gallery.save_interactions().unwrap(), 1);
    // Not for every step through a door.
    gallery.interacted(&subject(3), start + 8 * DAY_MS + 60_000);
    assert_eq!(gallery.save_interactions().unwrap(), 0);
    drop(gallery);
    galleries.close().unwrap();
    drop(galleries);
    let galleries = open(dir.path(), &GalleryOptions::default());
    let gallery = main_gallery(&galleries, "main");
    assert_eq!(at(&gallery, 11), expected);
    assert_eq!(at(&gallery, 19).len(), 3);
    assert_eq!(gallery.subject(&subject(3)).unwrap().last_interaction_ms, start + 8 * DAY_MS);
    assert_eq!(gallery.sample(&subject(1), &sample_id(1)).unwrap().flags, flags);
    for (who, _) in at(&gallery, 11) {
        gallery.erase_subject(&who).unwrap();
    }
    assert_eq!(at(&gallery, 11), []);
    assert_eq!(gallery.info().subjects, 1);
}

#[test]
fn nobody_is_erased_whose_time_is_not_over_any_more() {
    let dir = tempfile::tempdir().unwrap();
    let galleries = open(dir.path(), &GalleryOptions::default());
    let gallery = create(&galleries, "main", GalleryPolicy::default());
    for number in 1..=4 {
        let consent = Some(consent(5));
        gallery.enrol(NewSample { consent, ..sample(number, number) }).unwrap();
    }
    let then = now_ms() + 6 * DAY_MS;
    let list = gallery.overdue(then);
    assert_eq!(list.len(), 4);
    // Since the list was made one agreed anew, one was erased and enrolled again, one was erased.
    gallery.set_consent(&subject(1), consent(60)).unwrap();
    gallery.erase_subject(&subject(2)).unwrap();
    gallery.enrol(sample(20, 2)).unwrap();
    gallery.erase_subject(&subject(3)).unwrap();
    let erased: Vec<bool> =
        list.iter().map(|(who, _)| gallery.erase_overdue(who, then).unwrap().is_some()).collect();
    assert_eq!(erased, [false, false, false, true]);
    assert_eq!(gallery.why_overdue(&subject(1), then), None);
    for (number, there) in [(1, true), (2, true), (3, false), (4, false)] {
        assert_eq!(gallery.subject(&subject(number)).is_ok(), there, "{number}");
    }
}

/// Somebody whose only sample was removed, before anything else was written of when they were seen.
#[test]
fn who_has_no_sample_left_is_kept_as_long_as_others() {
    let dir = tempfile::tempdir().unwrap();
    let galleries = open(dir.path(), &GalleryOptions::default());
    let policy = GalleryPolicy { retention_days: NonZeroU32::new(10), ..GalleryPolicy::default() };
    let gallery = create(&galleries, "main", policy);
    gallery.enrol(sample(1, 1)).unwrap();
    gallery.remove_sample(&subject(1), &sample_id(1)).unwrap();
    let start = now_ms();
    drop(gallery);
    galleries.close().unwrap();
    drop(galleries);
    let galleries = open(dir.path(), &GalleryOptions::default());
    let gallery = main_gallery(&galleries, "main");
    assert_eq!(gallery.overdue(start + 9 * DAY_MS), []);
    assert_eq!(gallery.overdue(start + 10 * DAY_MS), [(subject(1), Overdue::NotSeen)]);
}

fn key() -> MasterKey {
    MasterKey::from_hex(&"5a".repeat(32)).unwrap()
}

/// Opens what `tests/it/gallery.rs` opens as a store alone.
fn store(dir: &Path) -> Store {
    open_store(dir)
}

#[test]
fn who_was_erased_after_a_backup_does_not_come_back_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let (at, file) = (dir.path().join("data"), dir.path().join("backup"));
    let galleries = open(&at, &GalleryOptions::default());
    let gallery = create(&galleries, "main", GalleryPolicy::default());
    let doomed = create(&galleries, "doomed", GalleryPolicy::default());
    for n in 1..=5 {
        gallery.enrol(sample(n, n)).unwrap();
        doomed.enrol(sample(n, n)).unwrap();
    }
    drop((gallery, doomed));
    galleries.close().unwrap();
    drop(galleries);
    let before = store(&at);
    before.backup(std::fs::File::create(&file).unwrap()).unwrap();
    drop(before);
    verify_backup(&file, &key()).unwrap();

    let galleries = open(&at, &GalleryOptions::default());
    let gallery = main_gallery(&galleries, "main");
    gallery.erase_subject(&subject(2)).unwrap();
    gallery.erase_subject(&subject(3)).unwrap();
    // Somebody who agreed anew: the backup's template goes all the same.
    gallery.enrol(sample(30, 3)).unwrap();
    galleries.delete(&GalleryId::new("doomed").unwrap()).unwrap();
    galleries.close().unwrap();
    drop((gallery, galleries));
    let after = store(&at);
    let gone = erasures(&after).unwrap();
    assert_eq!(gone.len(), 3);
    drop(after);
    // As a person would take them along.
    let gone: Vec<_> = serde_json::from_str(&serde_json::to_string(&gone).unwrap()).unwrap();

    let held = |apply: bool, target: &str| {
        let target = dir.path().join(target);
        let staged = stage(&file, &target, &key()).unwrap();
        let unpacked = store(&staged.dir());
        let erased = if apply { apply_erasures(&unpacked, &gone).unwrap() } else { 0 };
        if apply {
            assert_eq!(apply_erasures(&unpacked, &gone).unwrap(), 0, "once is enough");
        }
        unpacked.close();
        drop(unpacked);
        staged.install().unwrap();
        let galleries = open(&target, &GalleryOptions::default());
        let names: Vec<String> = galleries.list().iter().map(|g| g.id().to_string()).collect();
        let gallery = main_gallery(&galleries, "main");
        let subjects = gallery.subjects(None, 100).unwrap();
        let found = gallery.search(&sample(3, 3).templates[0].embedding, &params(10)).unwrap();
        assert_eq!(found.len(), subjects.len());
        // What was taken along stays: the next backup may be older still.
        if apply {
            assert!(gallery.erased_at_ms(&subject(2)).unwrap().is_some());
            assert!(gallery.erased_at_ms(&subject(1)).unwrap().is_none());
        }
        drop(gallery);
        galleries.close().unwrap();
        drop(galleries);
        let kept = erasures(&store(&target)).unwrap();
        assert_eq!(kept.len(), if apply { 3 } else { 0 });
        (erased, names, subjects.into_iter().map(|s| s.subject).collect::<Vec<_>>())
    };
    let everybody: Vec<_> = (1..=5).map(subject).collect();
    assert_eq!(held(false, "control"), (0, vec!["doomed".into(), "main".into()], everybody));
    let left = vec![subject(1), subject(4), subject(5)];
    assert_eq!(held(true, "restored"), (7, vec!["main".into()], left));
}

#[test]
fn the_number_of_a_deleted_gallery_is_not_given_again() {
    let dir = tempfile::tempdir().unwrap();
    let galleries = open(dir.path(), &GalleryOptions::default());
    create(&galleries, "first", GalleryPolicy::default());
    galleries.delete(&GalleryId::new("first").unwrap()).unwrap();
    galleries.close().unwrap();
    drop(galleries);
    let galleries = open(dir.path(), &GalleryOptions::default());
    let gallery = create(&galleries, "second", GalleryPolicy::default());
    gallery.enrol(sample(1, 1)).unwrap();
    drop(gallery);
    galleries.close().unwrap();
    drop(galleries);
    let opened = store(dir.path());
    let deleted = erasures(&opened).unwrap();
    assert_eq!(deleted.len(), 1);
    assert_eq!(apply_erasures(&opened, &deleted).unwrap(), 0, "it was made later");
    drop(opened);
    assert_eq!(
        main_gallery(&open(dir.path(), &GalleryOptions::default()), "second").info().subjects,
        1
    );
}
