//! Swaps while everybody goes on asking, enrolling and erasing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use serde_json::{Value, json};

use super::{create, deploy, live, oracle::Oracle, overridden, register};
use crate::support::app::{TestApp, hands};

const SWAPS: usize = 20;
const PROMPT: &str = "a palmar left hand";
/// Enrolled before the first swap and left alone.
const STAYING: usize = 12;

/// What the clients know: which picture a subject was enrolled with, and who is gone.
#[derive(Default)]
struct Known {
    pictures: BTreeMap<String, usize>,
    erased: BTreeSet<String>,
}

struct Crowd<'a> {
    app: &'a TestApp,
    models: &'a [Oracle],
    known: Mutex<Known>,
    /// Answers that were checked, by kind.
    asked: [AtomicUsize; 4],
    stop: AtomicBool,
}

impl Crowd<'_> {
    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn going(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    fn model(&self, answer: &Value) -> &Oracle {
        let found = self.models.iter().find(|model| answer["fingerprint"] == model.fingerprint());
        found.unwrap_or_else(|| panic!("an answer of no model: {answer}"))
    }

    fn identify(&self, round: usize) {
        let probe = round % hands().len();
        let gone = self.known().erased.clone();
        let path = "/v1/galleries/g:identify?limit=1000";
        let answer = self.app.post_bytes(path, "image/jpeg", &hands()[probe].jpeg).ok();
        let model = self.model(&answer);
        let candidates = answer["candidates"].as_array().unwrap();
        assert!(candidates.len() >= STAYING, "{answer}");
        for candidate in candidates {
            let subject = candidate["subject"].as_str().unwrap();
            assert!(!gone.contains(subject), "{subject} was erased before this question");
            let picture = picture_of(subject);
            let similarity = candidate["similarity"].as_f64().unwrap();
            assert!(model.agrees(probe, picture, similarity), "{candidate} of {answer}");
        }
        self.asked[0].fetch_add(1, Ordering::Relaxed);
    }

    fn words(&self) {
        let body = json!({"prompt": PROMPT, "limit": 1000});
        let answer = self.app.post("/v1/galleries/g:search", &body).ok();
        let model = self.model(&answer);
        for hit in answer["hits"].as_array().unwrap() {
            let picture = picture_of(hit["subject"].as_str().unwrap());
            assert!(model.agrees_on_words(picture, hit["similarity"].as_f64().unwrap()), "{hit}");
        }
        self.asked[1].fetch_add(1, Ordering::Relaxed);
    }

    fn enrol(&self, name: &str, picture: usize) {
        let path = format!("/v1/galleries/g/subjects/{name}/samples");
        let answer = self.app.post_bytes(&path, "image/jpeg", &hands()[picture].jpeg).ok();
        assert_eq!(answer["created"], true);
        self.known().pictures.insert(name.to_owned(), picture);
        self.asked[2].fetch_add(1, Ordering::Relaxed);
    }

    fn erase(&self, name: &str) {
        let answer = self.app.delete(&format!("/v1/galleries/g/subjects/{name}"));
        assert_eq!(answer.status, 200, "{}", answer.text);
        let mut known = self.known();
        known.pictures.remove(name);
        known.erased.insert(name.to_owned());
        drop(known);
        self.asked[3].fetch_add(1, Ordering::Relaxed);
    }

    /// Everybody whose enrolment was acknowledged is there, nobody who was erased is.
    fn settle(&self) {
        let known = self.known();
        let gallery = self.app.get("/v1/galleries/g").ok();
        assert_eq!(gallery["samples"], known.pictures.len(), "{gallery}");
        for (subject, picture) in &known.pictures {
            let path = format!("/v1/galleries/g:verify?subject={subject}");
            let answer = self.app.post_bytes(&path, "image/jpeg", &hands()[*picture].jpeg).ok();
            assert!(answer["similarity"].as_f64().unwrap() > 0.999, "{subject}: {answer}");
        }
        for subject in &known.erased {
            let path = format!("/v1/galleries/g/subjects/{subject}");
            self.app.get(&path).refused(404, "subject_not_found");
        }
    }
}

/// Subjects are named after their picture: `n7-3` shows picture 7.
fn picture_of(subject: &str) -> usize {
    subject[1..].split('-').next().unwrap().parse().unwrap()
}

#[test]
fn twenty_swaps_under_load_lose_and_mix_nothing() {
    let app = TestApp::spawn_with(|options, _| options.job_threads = 1);
    register(&app.options.data_dir, "b", 1);
    create(&app, "g", true);
    let models = [None, Some(app.options.data_dir.join("models/b/files"))]
        .map(|dir| Oracle::of(dir.as_deref(), PROMPT));
    let crowd = Crowd {
        app: &app,
        models: &models,
        known: Mutex::default(),
        asked: [const { AtomicUsize::new(0) }; 4],
        stop: AtomicBool::new(false),
    };
    for picture in 0..STAYING {
        crowd.enrol(&format!("n{picture}-0"), picture);
    }
    std::thread::scope(|scope| {
        let mut clients = Vec::new();
        clients.push(
            scope.spawn(|| (0..).take_while(|_| crowd.going()).for_each(|n| crowd.identify(n))),
        );
        clients.push(
            scope.spawn(|| (0..).take_while(|_| crowd.going()).for_each(|_: usize| crowd.words())),
        );
        clients.push(scope.spawn(|| {
            for n in (1_usize..).take_while(|_| crowd.going()) {
                let picture = n % hands().len();
                crowd.enrol(&format!("n{picture}-{n}"), picture);
                // The gallery stays small, so that many steps are met.
                if n > 10 {
                    let old = n - 10;
                    crowd.erase(&format!("n{}-{old}", old % hands().len()));
                }
            }
        }));
        for swap in 0..SWAPS {
            let to = if live(&app).0 == "b" { "nano" } else { "b" };
            deploy(&app, to, &overridden(3600));
            let step = if swap % 4 == 3 { "rollback" } else { "retire" };
            app.post(&format!("/v1/deployment:{step}"), &json!({})).ok();
        }
        crowd.stop.store(true, Ordering::Relaxed);
        for client in clients {
            client.join().expect("no question failed");
        }
    });
    crowd.settle();
    let asked = crowd.asked.each_ref().map(|count| count.load(Ordering::Relaxed));
    println!("identify, search, enrol, erase during {SWAPS} swaps: {asked:?}");
    assert!(asked.iter().all(|count| *count > SWAPS), "{asked:?}");
}

#[test]
fn a_rollback_after_enrolments_and_erasures_loses_and_resurrects_none() {
    let app = TestApp::spawn_with(|options, _| options.job_threads = 1);
    register(&app.options.data_dir, "b", 1);
    create(&app, "g", true);
    let models = [None, Some(app.options.data_dir.join("models/b/files"))]
        .map(|dir| Oracle::of(dir.as_deref(), PROMPT));
    let crowd = Crowd {
        app: &app,
        models: &models,
        known: Mutex::default(),
        asked: [const { AtomicUsize::new(0) }; 4],
        stop: AtomicBool::new(false),
    };
    for n in 0..40 {
        crowd.enrol(&format!("n{n}-0"), n);
    }
    deploy(&app, "b", &overridden(3600));
    for n in 0..100 {
        let picture = n % hands().len();
        crowd.enrol(&format!("n{picture}-{}", n + 1), picture);
    }
    // Half of those from before, half of those from after.
    for n in 0..5 {
        crowd.erase(&format!("n{n}-0"));
        crowd.erase(&format!("n{}-{}", n + 10, n + 11));
    }
    crowd.settle();
    let begun = std::time::Instant::now();
    app.post("/v1/deployment:rollback", &json!({})).ok();
    println!("rolled back in {:?}", begun.elapsed());
    assert!(begun.elapsed().as_secs() < 1);
    assert_eq!(live(&app), ("nano".into(), 1));
    crowd.settle();
    (0..hands().len()).for_each(|probe| crowd.identify(probe));
    crowd.words();
    let Crowd { known, asked, stop, .. } = crowd;
    let app = app.restart();
    let crowd = Crowd { app: &app, models: &models, known, asked, stop };
    crowd.settle();
    (0..12).for_each(|probe| crowd.identify(probe));
}

#[test]
fn an_enrolment_that_takes_longer_than_a_deployment_is_kept() {
    let app = TestApp::spawn_with(|options, _| {
        options.job_threads = 1;
        // A model waits so long for a second picture before it looks at the first.
        options.max_wait = std::time::Duration::from_secs(3);
    });
    register(&app.options.data_dir, "b", 1);
    create(&app, "g", true);
    deploy(&app, "b", &overridden(3600));
    let hand = &hands()[0];
    let enrolled = std::thread::scope(|scope| {
        let slow = scope.spawn(|| app.enrol("g", hand));
        let begun = std::time::Instant::now();
        while !app.get("/metrics").text.contains("handclip_model_queue 1\n") {
            assert!(begun.elapsed().as_secs() < 3, "the picture does not wait");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        // The enrolment makes templates of generations 1 and 2; after this only 3 is left.
        app.post("/v1/deployment:retire", &json!({})).ok();
        deploy(&app, "nano", &overridden(3600));
        app.post("/v1/deployment:retire", &json!({})).ok();
        slow.join().expect("the enrolment is kept")
    });
    assert_eq!(enrolled["generation"], 2);
    assert_eq!(live(&app), ("nano".into(), 3));
    assert_eq!(app.get("/v1/galleries/g").ok()["samples"], 1);
    let (subject, similarity, answer) = super::first(&app, "g", hand);
    assert_eq!((&subject, &answer["generation"]), (&hand.subject, &json!(3)));
    assert!(similarity > 0.999);
}
