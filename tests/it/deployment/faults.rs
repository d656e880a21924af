//! What goes wrong while a model is brought: the one that serves serves on, and the job says why.

use std::sync::Arc;

use handclip::domain::{Fingerprint, GalleryId, Generation};
use handclip::gallery::Template;
use serde_json::{Value, json};

use super::{create, ended, first, live, overridden, register};
use crate::support::app::{TestApp, hands};

fn ready(change: impl FnOnce(&mut handclip::service::ServiceOptions)) -> TestApp {
    let app = TestApp::spawn_with(|options, _| {
        options.job_threads = 1;
        change(options);
    });
    register(&app.options.data_dir, "b", 1);
    create(&app, "g", true);
    for hand in &hands()[..12] {
        app.enrol("g", hand);
    }
    app
}

/// The job failed for this reason, and nothing else happened.
fn failed(app: &TestApp, job: &Value, code: &str, words: &str) {
    let job = ended(app, job);
    assert_eq!(job["state"], "failed", "{job}");
    assert_eq!(job["error"]["code"], code, "{job}");
    let message = job["error"]["message"].as_str().unwrap();
    assert!(message.contains(words), "{message}");
    let dir = app.options.data_dir.to_string_lossy().into_owned();
    assert!(!message.contains(&dir), "{message}");
    assert_eq!(live(app), ("nano".into(), 1));
    assert_eq!(app.get("/v1/deployment").ok()["challenger"], json!(null));
    let (subject, similarity, answer) = first(app, "g", &hands()[5]);
    assert_eq!((subject, answer["generation"].as_u64()), (hands()[5].subject.clone(), Some(1)));
    assert!(similarity > 0.999);
}

#[test]
fn a_damaged_challenger_is_refused_or_fails_its_job() {
    let app = ready(|_| {});
    let files = app.options.data_dir.join("models/b/files");
    let mut slow = overridden(3600);
    slow["images_per_second"] = json!(1);
    // Damaged between the request and the job: another job keeps the slot until then.
    let other = app.post("/v1/models/b:deploy", &slow).json();
    app.post(&format!("/v1/jobs/{}:cancel", other["job"].as_str().unwrap()), &json!({}));
    ended(&app, &other);
    let mut bytes = std::fs::read(files.join("model.safetensors")).unwrap();
    let at = bytes.len() / 2;
    let job = app.post("/v1/models/b:deploy", &slow).json();
    bytes[at] ^= 0x40;
    std::fs::write(files.join("model.safetensors"), &bytes).unwrap();
    let state = ended(&app, &job);
    // The job may have opened it just before.
    if state["state"] == "failed" {
        assert!(
            ["model", "model_changed"].contains(&state["error"]["code"].as_str().unwrap()),
            "{state}"
        );
    }
    std::fs::write(files.join("model.safetensors"), &bytes[..at]).unwrap();
    let job = app.post("/v1/models/b:deploy", &overridden(0));
    assert!(job.status >= 400, "{}", job.text);
}

#[test]
fn a_model_that_does_not_fit_is_refused_before_anything_begins() {
    let app = ready(|options| options.deploy_memory_bytes = Some(1 << 20));
    app.post("/v1/models/b:deploy", &overridden(0)).refused(507, "insufficient_memory");
    assert_eq!(app.get("/v1/jobs").ok()["jobs"], json!([]));
    assert_eq!(live(&app), ("nano".into(), 1));
}

/// An image that was enrolled by a version that took what this one cannot decode.
#[test]
fn an_image_that_cannot_be_decoded_fails_the_job() {
    let mut app = ready(|_| {});
    app.halt();
    {
        let galleries = crate::gallery::open_as_server(&app.options.data_dir);
        let gallery: Arc<_> = galleries.get(&GalleryId::new("g").unwrap()).unwrap();
        let info = gallery.info();
        let mut sample = crate::gallery::new_sample(
            1,
            1,
            handclip::domain::Embedding::from_raw(vec![1.0; info.dim]).unwrap(),
        );
        let fingerprint: Fingerprint = info.fingerprint;
        sample.templates = vec![Template {
            generation: Generation(1),
            fingerprint,
            embedding: sample.templates[0].embedding.clone(),
        }];
        sample.image = Some(b"no picture at all".to_vec());
        gallery.enrol(sample).unwrap();
        galleries.close().unwrap();
    }
    let app = app.restart();
    let job = app.post("/v1/models/b:deploy", &overridden(0)).json();
    failed(&app, &job, "image", "gallery `g`");
}

#[test]
fn a_gallery_that_is_deleted_meanwhile_does_not_matter() {
    let app = ready(|_| {});
    create(&app, "other", true);
    for hand in &hands()[..12] {
        app.enrol("other", hand);
    }
    let mut slow = overridden(3600);
    slow["images_per_second"] = json!(20);
    let job = app.post("/v1/models/b:deploy", &slow).json();
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert_eq!(app.delete("/v1/galleries/other").status, 204);
    assert_eq!(ended(&app, &job)["state"], "succeeded");
    assert_eq!(live(&app), ("b".into(), 2));
    assert_eq!(first(&app, "g", &hands()[5]).0, hands()[5].subject);
}

/// A small disk of its own; `None` where this user may not mount one.
struct Disk(tempfile::TempDir);

impl Disk {
    fn new(test: &str, size: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let option = format!("size={size}");
        let mut mount = std::process::Command::new("mount");
        let mount = mount.args(["-t", "tmpfs", "-o", &option, "tmpfs"]).arg(dir.path());
        if mount.output().is_ok_and(|output| output.status.success()) {
            return Some(Self(dir));
        }
        println!("skipped {test}: cannot mount a small disk here");
        None
    }

    /// Leaves so many bytes free.
    fn fill(&self, left: u64) {
        let about = rustix::fs::statvfs(self.0.path()).unwrap();
        let free = about.f_bavail * about.f_frsize;
        let file = std::fs::File::create(self.0.path().join("filler")).unwrap();
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, free - left).unwrap();
    }

    fn free(&self) {
        std::fs::remove_file(self.0.path().join("filler")).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(self.0.path()).output();
    }
}

#[test]
fn a_full_disk_keeps_a_deployment_from_beginning_or_fails_its_job() {
    let test = "a_full_disk_keeps_a_deployment_from_beginning_or_fails_its_job";
    let Some(disk) = Disk::new(test, "300m") else { return };
    let app = ready(|options| options.data_dir = disk.0.path().join("data"));
    // Enough for several batches.
    hands()[12..].iter().for_each(|hand| drop(app.enrol("g", hand)));
    disk.fill(40 << 20);
    app.post("/v1/models/b:deploy", &overridden(0)).refused(507, "storage_full");
    assert_eq!(app.get("/v1/jobs").ok()["jobs"], json!([]));
    disk.free();

    let mut slow = overridden(3600);
    slow["images_per_second"] = json!(8);
    let job = app.post("/v1/models/b:deploy", &slow).json();
    let begun = std::time::Instant::now();
    while app.get("/v1/deployment").ok()["challenger"] == json!(null) {
        assert!(begun.elapsed().as_secs() < 20);
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    disk.fill(4 << 20);
    // How the job ended cannot be written either until there is room again; who asks is answered all the while.
    for _ in 0..20 {
        let (subject, similarity, _) = first(&app, "g", &hands()[5]);
        assert_eq!(subject, hands()[5].subject);
        assert!(similarity > 0.999);
        std::thread::sleep(std::time::Duration::from_millis(150));
    }
    disk.free();
    let ended = ended(&app, &job);
    // With the last batch written before the disk was full it may have come to its end after all.
    if ended["state"] == "succeeded" {
        assert_eq!(live(&app), ("b".into(), 2));
        return;
    }
    assert_eq!(ended["error"]["code"], "storage_full", "{ended}");
    let begun = std::time::Instant::now();
    while app.get("/v1/deployment").ok()["challenger"] != json!(null) {
        assert!(begun.elapsed().as_secs() < 20, "what was begun is given up once there is room");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    failed(&app, &job, "storage_full", "disk");
    assert_eq!(
        app.post("/v1/models/b:deploy", &overridden(0)).status,
        202,
        "it can be tried again"
    );
}
