//! What survives a SIGKILL and a damaged file. The test binary runs itself as the child that is
//! killed, or that opens what may hang.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use handclip::domain::{Embedding, GalleryId, Generation};
use handclip::gallery::{Galleries, Gallery, GalleryOptions, Role, Template, TemplateSpace};
use handclip::storage::{MasterKey, Store, StoreOptions};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::gallery::{FINGERPRINT, near, new_sample, open, params, sample_id, spec, subject};

const DIR: &str = "HANDCLIP_TEST_CHILD_DIR";
const SEED: &str = "HANDCLIP_TEST_CHILD_SEED";
const DIM: usize = 32;
const WRITERS: usize = 2;

#[expect(clippy::disallowed_methods, reason = "how the parent speaks to the child it runs")]
fn told(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn child(test: &str, dir: &Path, seed: u64) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(DIR, dir)
        .env(SEED, seed.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn template(number: usize) -> Embedding {
    template_of(1, number)
}

/// What the model of a generation makes of a sample: something else than any other.
fn template_of(generation: u64, number: usize) -> Embedding {
    let seed = generation << 40 | number as u64;
    near(&[0.0; DIM], 1.0, &mut ChaCha8Rng::seed_from_u64(seed))
}

/// In the generation that is searched and those that may be soon or were before: the gallery takes what it needs.
fn templates(gallery: &Gallery, number: usize) -> Vec<Template> {
    let now = gallery.info().generation.0;
    let of = now.saturating_sub(9).max(1)..=now + 9;
    of.map(|generation| crate::gallery::template(generation, template_of(generation, number)))
        .collect()
}

fn number(text: &str) -> usize {
    text[1..].parse().unwrap()
}

fn main_gallery(galleries: &Galleries) -> std::sync::Arc<Gallery> {
    galleries.get(&GalleryId::new("main").unwrap()).unwrap()
}

/// The samples of each subject.
type Held = BTreeMap<usize, BTreeSet<usize>>;

fn held(gallery: &Gallery) -> Held {
    let mut held = Held::new();
    for summary in gallery.subjects(None, 10_000).unwrap() {
        let record = gallery.subject(&summary.subject).unwrap();
        let samples = record.samples.iter().map(|s| number(s.sample.as_str())).collect();
        held.insert(number(summary.subject.as_str()), samples);
    }
    held
}

/// One deployment, and a merge on the way; in the galleries' record stands the last generation that was begun.
fn swap(galleries: &Galleries, gallery: &Gallery, rng: &mut ChaCha8Rng, say: &dyn Fn(String)) {
    // What a kill, or the deployment before, left: a filling is given up, a way back taken or given up.
    let before = galleries.deployment_record().unwrap().unwrap_or_else(|| b"1".to_vec());
    galleries.give_up(Role::Filling, before.clone(), || ()).unwrap();
    if rng.random_range(0..3) == 0 {
        galleries.return_to_previous(before.clone(), || ()).unwrap();
    }
    galleries.give_up(Role::Previous, before.clone(), || ()).unwrap();
    galleries.purge().unwrap();
    // A number that was used is not used again, whether or not it came to be searched.
    let next = String::from_utf8(before).unwrap().parse::<u64>().unwrap() + 1;
    let record = || next.to_string().into_bytes();
    let space = TemplateSpace { generation: Generation(next), fingerprint: FINGERPRINT, dim: DIM };
    galleries.begin_space(space, |_| true, record(), || ()).unwrap();
    loop {
        let gaps = gallery.gaps();
        if gaps.is_empty() {
            break;
        }
        let made = gaps.into_iter().take(7).map(|gap| {
            let made = template_of(next, number(gap.sample().as_str()));
            (gap, made)
        });
        gallery.fill(space, made.collect()).unwrap();
    }
    match rng.random_range(0..4) {
        0 => gallery.compact().unwrap(),
        1 => gallery.save().unwrap(),
        _ => {}
    }
    // Somebody may be enrolling without a template there.
    if galleries.promote_space(space, |_| false, record(), || ()).is_ok() {
        say("swapped".to_owned());
    }
}

/// As a child: changes the gallery until it is killed, saying `begin` and `done` of each change.
#[test]
fn child_writes_until_killed() {
    let (Some(dir), Some(seed)) = (told(DIR), told(SEED)) else { return };
    let seed: u64 = seed.parse().unwrap();
    let options = GalleryOptions { exact_up_to: 40, ..GalleryOptions::default() };
    let galleries = open(Path::new(&dir), &options);
    let gallery = main_gallery(&galleries);
    let say = |line: String| {
        let mut out = std::io::stdout().lock();
        writeln!(out, "{line}").and_then(|()| out.flush()).unwrap();
    };
    let start = held(&gallery);
    // The harness has begun a line of its own ("test … ... "), which would hide the first change.
    say(String::new());
    std::thread::scope(|scope| {
        let (galleries, gallery, say) = (&galleries, &*gallery, &say);
        scope.spawn(move || {
            let mut rng = ChaCha8Rng::seed_from_u64(seed * 100 + 99);
            loop {
                swap(galleries, gallery, &mut rng, say);
            }
        });
        for writer in 0..WRITERS {
            // Each writer has subjects and samples of its own, so that the log tells the order.
            let mut mine: Held = start
                .iter()
                .filter(|(of, _)| *of % WRITERS == writer)
                .map(|(k, v)| (*k, v.clone()))
                .collect();
            scope.spawn(move || {
                let mut rng = ChaCha8Rng::seed_from_u64(seed * 100 + writer as u64);
                for turn in 0_usize.. {
                    let of = rng.random_range(0..12) * WRITERS + writer;
                    let number = (seed as usize * 10_000 + turn) * WRITERS + writer;
                    let samples = mine.entry(of).or_default();
                    let picked = samples.iter().nth(rng.random_range(0..samples.len().max(1)));
                    match (rng.random_range(0..10), picked.copied()) {
                        (0, Some(_)) => {
                            say(format!("begin {writer} X {of} 0"));
                            gallery.erase_subject(&subject(of)).unwrap();
                            say(format!("done {writer} X {of} 0"));
                            mine.remove(&of);
                        }
                        (1..4, Some(picked)) => {
                            say(format!("begin {writer} R {of} {picked}"));
                            gallery.remove_sample(&subject(of), &sample_id(picked)).unwrap();
                            say(format!("done {writer} R {of} {picked}"));
                            samples.remove(&picked);
                        }
                        _ => {
                            say(format!("begin {writer} E {of} {number}"));
                            let mut sample = new_sample(number, of, template(number));
                            sample.templates = templates(gallery, number);
                            sample.image = Some(vec![number as u8; 30_000]);
                            gallery.enrol(sample).unwrap();
                            say(format!("done {writer} E {of} {number}"));
                            samples.insert(number);
                        }
                    }
                }
            });
        }
    });
}

fn apply(model: &mut Held, change: &str) {
    let mut words = change.split(' ');
    let kind = words.next().unwrap();
    let mut number = || words.next().unwrap().parse::<usize>().unwrap();
    let (of, sample) = (number(), number());
    match kind {
        "E" => drop(model.entry(of).or_default().insert(sample)),
        "R" => drop(model.get_mut(&of).unwrap().remove(&sample)),
        "X" => drop(model.remove(&of)),
        other => panic!("odd change {other}"),
    }
}

#[test]
fn kills_lose_nothing_acknowledged_and_bring_nothing_back() {
    let dir = tempfile::tempdir().unwrap();
    let options = GalleryOptions { exact_up_to: 40, ..GalleryOptions::default() };
    open(dir.path(), &options).create(spec("main", DIM)).unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let mut model = Held::new();
    let (mut acknowledged, mut swaps) = (0, 0);
    // Three hundred take a minute: HANDCLIP_KILLS=300.
    let kills = told("HANDCLIP_KILLS").and_then(|text| text.parse().ok()).unwrap_or(60);
    for cycle in 0..kills {
        let mut child = child("crash::child_writes_until_killed", dir.path(), cycle);
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut log = String::new();
        while !log.contains("done") {
            assert!(out.read_line(&mut log).unwrap() > 0, "cycle {cycle}: the child ended: {log}");
        }
        std::thread::sleep(Duration::from_millis(rng.random_range(0..250)));
        child.kill().unwrap();
        child.wait().unwrap();
        out.read_to_string(&mut log).unwrap();

        let mut open_changes: BTreeMap<&str, &str> = BTreeMap::new();
        // A line that the kill cut short counts as not said.
        let whole = &log[..log.rfind('\n').unwrap() + 1];
        swaps += whole.lines().filter(|line| *line == "swapped").count();
        for line in whole.lines() {
            let Some((said, rest)) = line.split_once(' ') else { continue };
            let Some((writer, change)) = rest.split_once(' ') else { continue };
            match said {
                "begin" => drop(open_changes.insert(writer, change)),
                "done" => {
                    apply(&mut model, change);
                    open_changes.remove(writer);
                    acknowledged += 1;
                }
                _ => {}
            }
        }
        let galleries = open(dir.path(), &options);
        let gallery = main_gallery(&galleries);
        let found = held(&gallery);
        // A change begun and not acknowledged may have happened, whole, or not.
        for change in open_changes.values() {
            let mut with = model.clone();
            apply(&mut with, change);
            let of: usize = change.split(' ').nth(1).unwrap().parse().unwrap();
            if found.get(&of) == with.get(&of) {
                model = with;
            }
        }
        for of in found.keys().chain(model.keys()) {
            assert_eq!(found.get(of), model.get(of), "cycle {cycle}, subject {of}; said: {whole}");
        }
        // Every one has a template of the generation that is searched, and of none else there.
        let generation = gallery.info().generation.0;
        for (of, samples) in &model {
            for sample in samples {
                let probe = template_of(generation, *sample);
                let hit = gallery.verify(&subject(*of), &probe).unwrap().remove(0);
                assert_eq!(hit.sample, sample_id(*sample));
                assert!(hit.similarity.get() > 0.9999);
            }
            if let Some(sample) = samples.first() {
                let image = gallery.image(&subject(*of), &sample_id(*sample)).unwrap();
                assert_eq!(image, Some(vec![*sample as u8; 30_000]));
            }
        }
    }
    println!("{acknowledged} acknowledged changes and {swaps} swaps survived {kills} kills");
    let enough = acknowledged > 200 && swaps > 20;
    assert!(enough, "only {acknowledged} changes and {swaps} swaps: the test shows little");
}

/// As a child: opens a store that may be damaged, and says what came of it.
#[test]
fn child_opens_what_may_be_damaged() {
    let Some(dir) = told(DIR) else { return };
    let mut options = StoreOptions::new(&dir, MasterKey::from_hex(&"5a".repeat(32)).unwrap());
    options.ballast_bytes = 0;
    options.open_timeout = Duration::from_secs(10);
    let load = |store: &Store| Galleries::open(store.clone(), GalleryOptions::default());
    let opened =
        Store::open_with(options, load).map_err(|error| error.to_string()).map(|(_, galleries)| {
            let gallery = main_gallery(&galleries);
            let everything = gallery.search_samples(&template(0), &params(10_000)).unwrap();
            (held(&gallery), everything.len())
        });
    println!(
        "\noutcome {}",
        match opened {
            Ok((held, found)) => format!("held {found} {held:?}"),
            Err(error) => format!("refused {error}"),
        }
    );
    // A thread that hangs in sled must not keep the process.
    std::process::exit(0);
}

pub(crate) fn copy(from: &Path, to: &Path) {
    for entry in walkdir::WalkDir::new(from) {
        let entry = entry.unwrap();
        let target = to.join(entry.path().strip_prefix(from).unwrap());
        if entry.file_type().is_dir() {
            std::fs::create_dir_all(target).unwrap();
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn outcome(dir: PathBuf) -> String {
    let mut child = child("crash::child_opens_what_may_be_damaged", &dir, 0);
    let mut out = child.stdout.take().unwrap();
    let (said, heard) = mpsc::channel();
    std::thread::spawn(move || {
        let mut text = String::new();
        let read = out.read_to_string(&mut text);
        let _ = said.send(read.map(|_| text));
    });
    let text = heard.recv_timeout(Duration::from_secs(60));
    let _ = child.kill();
    child.wait().unwrap();
    let text = text.expect("the open hung").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("outcome "));
    line.unwrap_or_else(|| panic!("the open crashed: {text}")).to_owned()
}

#[test]
fn damaged_files_are_refused_or_served_right() {
    let dir = tempfile::tempdir().unwrap();
    let whole = dir.path().join("whole");
    let galleries = open(&whole, &GalleryOptions::default());
    let gallery = galleries.create(spec("main", DIM)).unwrap();
    for number in 0..300 {
        gallery.enrol(new_sample(number, number / 3, template(number))).unwrap();
    }
    for number in (0..90).step_by(3) {
        gallery.remove_sample(&subject(number / 3), &sample_id(number)).unwrap();
    }
    for of in 60..80 {
        gallery.erase_subject(&subject(of)).unwrap();
    }
    let expected = format!("held {} {:?}", gallery.info().samples, held(&gallery));
    galleries.close().unwrap();
    drop((galleries, gallery));
    assert_eq!(outcome(whole.clone()), expected, "undamaged");

    const TRIALS: usize = 30;
    let mut rng = ChaCha8Rng::seed_from_u64(11);
    for file in ["sled/db", "keys.slots", "commit.mark", "store.json"] {
        let (mut refused, mut served) = (0, 0);
        for kind in ["a bit", "many bytes", "an end", "a page of zeros", "the whole file"] {
            for trial in 0..if kind == "the whole file" { 1 } else { TRIALS } {
                let copied = dir.path().join("trial");
                copy(&whole, &copied);
                damage(&copied.join(file), kind, &mut rng);
                let begun = std::time::Instant::now();
                let outcome = outcome(copied.clone());
                let about = format!("{file}, {kind}, trial {trial}: {outcome}");
                assert!(begun.elapsed() < Duration::from_secs(12), "{about}: slow");
                if outcome == expected {
                    served += 1;
                } else {
                    assert!(outcome.starts_with("refused"), "{about}");
                    let named = ["damaged", "data key", "master key", "store has format"];
                    assert!(named.iter().any(|name| outcome.contains(name)), "unclear: {about}");
                    refused += 1;
                }
                std::fs::remove_dir_all(copied).unwrap();
            }
        }
        println!("{file}: {refused} damages refused, {served} served right");
        assert!(refused > 0 || file == "commit.mark", "{file}: no damage was noticed");
    }
}

pub(crate) fn damage(path: &Path, kind: &str, rng: &mut ChaCha8Rng) {
    if kind == "the whole file" {
        std::fs::remove_file(path).unwrap();
        return;
    }
    let mut bytes = std::fs::read(path).unwrap();
    let used = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    let at = rng.random_range(0..used);
    match kind {
        "a bit" => bytes[at] ^= 1 << rng.random_range(0..8),
        "many bytes" => {
            (0..200).for_each(|_| bytes[rng.random_range(0..used)] ^= rng.random::<u8>())
        }
        "an end" => bytes.truncate(at),
        _ => {
            let from = at / 4096 * 4096;
            let to = (from + 4096).min(bytes.len());
            bytes[from..to].fill(0);
        }
    }
    std::fs::File::create(path).unwrap().write_all(&bytes).unwrap();
}

pub(crate) fn log_of(dir: &Path) -> sled::Db {
    let config = sled::Config::new().path(dir.join("sled")).segment_size(2 * 1024 * 1024);
    (0..250)
        .find_map(|_| {
            std::thread::sleep(Duration::from_millis(20));
            config.open().ok()
        })
        .unwrap()
}

/// What sled itself does not notice: a log that is in order, and not the one that was acknowledged.
#[test]
fn a_log_that_lost_regained_or_forgot_records_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let whole = dir.path().join("whole");
    let galleries = open(&whole, &GalleryOptions::default());
    let gallery = galleries.create(spec("main", DIM)).unwrap();
    for number in 0..20 {
        gallery.enrol(new_sample(number, number / 2, template(number))).unwrap();
    }
    galleries.close().unwrap();
    drop((galleries, gallery));
    let older = dir.path().join("older");
    copy(&whole, &older);
    let log = log_of(&whole);
    let (key, value) = log.scan_prefix([4]).next().unwrap().unwrap();
    drop(log);
    let galleries = open(&whole, &GalleryOptions::default());
    let gallery = main_gallery(&galleries);
    gallery.remove_sample(&subject(0), &sample_id(0)).unwrap();
    let expected = format!("held {} {:?}", gallery.info().samples, held(&gallery));
    galleries.close().unwrap();
    drop((galleries, gallery));
    assert_eq!(outcome(whole.clone()), expected);

    let tampered = |name: &str, change: &dyn Fn(&sled::Db)| {
        let copied = dir.path().join(name);
        copy(&whole, &copied);
        let log = log_of(&copied);
        change(&log);
        log.flush().unwrap();
        drop(log);
        outcome(copied)
    };
    assert_eq!(tampered("untouched", &|_| {}), expected);
    let regained = tampered("regained", &|log| drop(log.insert(&key, &value).unwrap()));
    assert!(regained.contains("holds 51 records, its manifest says 50"), "{regained}");
    let lost = tampered("lost", &|log| {
        let (key, _) = log.scan_prefix([3]).next_back().unwrap().unwrap();
        log.remove(key).unwrap();
    });
    assert!(lost.contains("holds 49 records, its manifest says 50"), "{lost}");
    let swapped = tampered("swapped", &|log| {
        let mut templates = log.scan_prefix([4]);
        let (first, second) =
            (templates.next().unwrap().unwrap(), templates.next().unwrap().unwrap());
        log.insert(first.0, second.1).unwrap();
    });
    assert!(swapped.contains("damaged"), "{swapped}");
    // The whole log of a moment ago: consistent in itself, and what was removed would be back.
    let rolled_back = dir.path().join("rolled-back");
    copy(&whole, &rolled_back);
    std::fs::remove_dir_all(rolled_back.join("sled")).unwrap();
    copy(&older.join("sled"), &rolled_back.join("sled"));
    let rolled_back = outcome(rolled_back);
    assert!(rolled_back.contains("the log ends at commit"), "{rolled_back}");
    let gone = dir.path().join("gone");
    copy(&whole, &gone);
    std::fs::remove_dir_all(gone.join("sled")).unwrap();
    assert!(outcome(gone).contains("the log ends at commit 0"));
}
