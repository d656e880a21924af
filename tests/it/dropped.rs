//! Samples that a deployment drops: gone once there is no way back, and nothing else with them.

use std::cell::Cell;
use std::sync::Arc;

use handclip::domain::{GalleryPolicy, Generation};
use handclip::gallery::{
    Galleries, Gallery, GalleryError, GalleryOptions, NewSample, Role, TemplateSpace,
};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::gallery::{
    FINGERPRINT, create, near, new_sample, open, params, sample_id, subject, template,
};

const DIM: usize = 16;

fn space(generation: u64) -> TemplateSpace {
    TemplateSpace { generation: Generation(generation), fingerprint: FINGERPRINT, dim: DIM }
}

/// A subject's only sample, of the same number, with templates of these generations.
fn sample(number: usize, generations: &[u64]) -> NewSample {
    let own = near(&[0.0; DIM], 1.0, &mut ChaCha8Rng::seed_from_u64(number as u64));
    let templates = generations.iter().map(|of| template(*of, own.clone())).collect();
    NewSample { templates, ..new_sample(number, number, own) }
}

fn begin(galleries: &Galleries, generation: u64) -> Result<(), GalleryError> {
    galleries.begin_space(space(generation), |_| true, Vec::new(), || ())
}

/// A deployment that has templates of so many samples, and drops the others.
fn deploy_with(galleries: &Galleries, gallery: &Gallery, generation: u64, kept: usize) {
    begin(galleries, generation).unwrap();
    let made = gallery.gaps().into_iter().take(kept).map(|gap| {
        let number = gap.sample().as_str()[1..].parse().unwrap();
        (gap, sample(number, &[generation]).templates[0].embedding.clone())
    });
    gallery.fill(space(generation), made.collect()).unwrap();
    galleries.promote_space(space(generation), |_| true, Vec::new(), || ()).unwrap();
}

fn give_up(galleries: &Galleries, role: Role) {
    galleries.give_up(role, Vec::new(), || ()).unwrap();
}

/// So many samples, of which a deployment dropped all but the first.
fn dropped(dir: &std::path::Path, samples: usize) -> (Galleries, Arc<Gallery>) {
    let (galleries, gallery) = create(dir, &GalleryOptions::default(), DIM);
    let all = (1..=samples).map(|number| sample(number, &[1])).collect();
    assert!(gallery.enrol_batch(all).iter().all(Result::is_ok));
    deploy_with(&galleries, &gallery, 2, 1);
    (galleries, gallery)
}

fn reopened(galleries: Galleries, gallery: Arc<Gallery>, dir: &std::path::Path) -> Galleries {
    galleries.close().unwrap();
    drop((galleries, gallery));
    open(dir, &GalleryOptions::default())
}

#[test]
fn who_is_enrolled_again_while_dropped_samples_go_stays() {
    const SAMPLES: usize = 1_500;
    let dir = tempfile::tempdir().unwrap();
    let (galleries, gallery) = dropped(dir.path(), SAMPLES);
    give_up(&galleries, Role::Previous);
    std::thread::scope(|scope| {
        let purge = scope.spawn(|| galleries.purge());
        // The list of who is to go is made by then, and the last of it is far from its turn.
        while gallery.info().samples == SAMPLES && !purge.is_finished() {}
        let again = gallery.enrol(sample(SAMPLES, &[2])).unwrap();
        assert_eq!((again.created, again.sample), (true, sample_id(SAMPLES)));
        purge.join().unwrap().unwrap();
    });
    assert_eq!(gallery.info().samples, 2);
    let galleries = reopened(galleries, gallery, dir.path());
    let gallery = galleries.list().remove(0);
    let found = gallery.search(&sample(SAMPLES, &[2]).templates[0].embedding, &params(1)).unwrap();
    assert_eq!(found[0].subject, subject(SAMPLES));
    assert!(gallery.sample(&subject(SAMPLES), &sample_id(SAMPLES)).is_ok());
}

#[test]
fn no_deployment_begins_before_dropped_samples_are_gone() {
    let dir = tempfile::tempdir().unwrap();
    let (galleries, gallery) = dropped(dir.path(), 3);
    give_up(&galleries, Role::Previous);
    assert!(matches!(begin(&galleries, 3), Err(GalleryError::Dropping(_))));
    // Told to stop, it leaves the rest to the next.
    galleries.purge_while(&|| false).unwrap();
    assert!(matches!(begin(&galleries, 3), Err(GalleryError::Dropping(_))));
    assert_eq!(gallery.info().samples, 3);
    galleries.purge().unwrap();
    assert_eq!(gallery.info().samples, 1);
    begin(&galleries, 3).unwrap();
    let galleries = reopened(galleries, gallery, dir.path());
    assert_eq!(galleries.list()[0].info().samples, 1);
}

/// The way back is given up while what was left before is being removed, by somebody who saw that there was one.
#[test]
fn dropped_samples_count_as_gone_only_for_who_removed_them() {
    let dir = tempfile::tempdir().unwrap();
    let (galleries, gallery) = create(dir.path(), &GalleryOptions::default(), DIM);
    let all = (1..=3).map(|number| sample(number, &[1])).collect();
    assert!(gallery.enrol_batch(all).iter().all(Result::is_ok));
    begin(&galleries, 2).unwrap();
    let made = gallery.gaps().into_iter().map(|gap| (gap, sample(1, &[2])));
    let made = made.map(|(gap, made)| (gap, made.templates[0].embedding.clone())).collect();
    gallery.fill(space(2), made).unwrap();
    give_up(&galleries, Role::Filling);
    deploy_with(&galleries, &gallery, 3, 1);
    let asked = Cell::new(0);
    let meanwhile = || {
        if asked.replace(asked.get() + 1) == 0 {
            give_up(&galleries, Role::Previous);
        }
        true
    };
    galleries.purge_while(&meanwhile).unwrap();
    assert!(asked.get() > 0);
    assert!(matches!(begin(&galleries, 4), Err(GalleryError::Dropping(_))));
    let galleries = reopened(galleries, gallery, dir.path());
    let gallery = galleries.list().remove(0);
    assert_eq!((gallery.info().samples, gallery.templates_kept().unwrap()), (1, 1));
    begin(&galleries, 4).unwrap();
}

#[test]
fn a_dropped_sample_makes_room_only_for_what_is_enrolled() {
    let dir = tempfile::tempdir().unwrap();
    let (galleries, gallery) = dropped(dir.path(), 3);
    let again = |number| sample(number, &[1, 2]);
    gallery
        .set_policy(GalleryPolicy { require_consent: true, ..GalleryPolicy::default() })
        .unwrap();
    assert!(matches!(gallery.enrol(again(2)), Err(GalleryError::ConsentRequired { .. })));
    gallery.set_policy(GalleryPolicy::default()).unwrap();
    let taken = NewSample { sample: Some(sample_id(1)), ..again(2) };
    assert!(matches!(gallery.enrol(taken), Err(GalleryError::SampleConflict { .. })));
    assert!(
        gallery.sample(&subject(2), &sample_id(2)).is_ok(),
        "refused, and the old one is there"
    );
    assert_eq!(gallery.info().samples, 3);

    // Under its own name, under another, and twice in one batch.
    let renamed = NewSample { sample: Some(sample_id(30)), ..again(3) };
    let enrolled = gallery.enrol_batch(vec![again(2), again(2), renamed]);
    let created: Vec<bool> = enrolled.into_iter().map(|one| one.unwrap().created).collect();
    assert_eq!(created, [true, false, true]);
    assert_eq!(gallery.info().samples, 3);
    assert!(gallery.sample(&subject(3), &sample_id(3)).is_err());
    assert!(!gallery.enrol(again(2)).unwrap().created, "found from now on");
    galleries.return_to_previous(Vec::new(), || ()).unwrap();
    galleries.purge().unwrap();
    let galleries = reopened(galleries, gallery, dir.path());
    let gallery = galleries.list().remove(0);
    assert_eq!((gallery.info().samples, gallery.templates_kept().unwrap()), (3, 3));
    let found = gallery.search(&again(3).templates[0].embedding, &params(1)).unwrap();
    assert_eq!(found[0].best.sample, sample_id(30));
}
