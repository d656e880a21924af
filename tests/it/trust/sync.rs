//! That what is acknowledged was synced, in the order that a loss of power asks for, as the system saw it.

use std::collections::HashMap;
use std::path::Path;
use std::process::{Command, Stdio};

use handclip::domain::GalleryId;
use handclip::gallery::GalleryOptions;

use crate::gallery::{create, near, new_sample, open, subject};

const DIR: &str = "HANDCLIP_SYNC_CHILD_DIR";
const DIM: usize = 32;

/// As a child: enrols and erases one after the other, saying when each begins and is done.
#[test]
fn child_enrols_and_erases() {
    use rand::SeedableRng;
    let Ok(dir) = std::env::var(DIR) else { return };
    let galleries = open(Path::new(&dir), &GalleryOptions::default());
    let gallery = galleries.get(&GalleryId::new("main").unwrap()).unwrap();
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(1);
    let say = |what: &str| std::fs::write(Path::new(&dir).join("said"), what).unwrap();
    for n in 0..8 {
        say("begin enrol");
        gallery.enrol(new_sample(n, n, near(&[0.0; DIM], 1.0, &mut rng))).unwrap();
        say("done enrol");
    }
    for n in 0..4 {
        say("begin erase");
        gallery.erase_subject(&subject(n)).unwrap();
        say("done erase");
    }
}

/// Has a process of its own enrol and erase, and gives what the system was asked for; `None` where that cannot be seen.
fn traced(data: &Path, more: &[&str]) -> Option<String> {
    if Command::new("strace").arg("--version").stdout(Stdio::null()).status().is_err() {
        println!("skipped: strace is not installed");
        return None;
    }
    let (galleries, gallery) = create(data, &GalleryOptions::default(), DIM);
    drop(gallery);
    galleries.close().unwrap();
    drop(galleries);
    let before = data.with_extension("before");
    crate::crash::copy(data, &before);
    let trace = data.with_extension("trace");
    let calls = "trace=write,writev,pwrite64,pwritev,lseek,ftruncate,fallocate,fsync,fdatasync";
    let status = Command::new("strace")
        .args(["-f", "-y", "-e", calls, "-o"])
        .arg(&trace)
        .args(more)
        .arg(std::env::current_exe().unwrap())
        .args(["trust::sync::child_enrols_and_erases", "--exact", "--test-threads=1"])
        .env(DIR, data)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    if !status.success() && std::fs::metadata(&trace).is_ok_and(|trace| trace.len() < 4096) {
        println!("skipped: strace may not trace here");
        return None;
    }
    Some(String::from_utf8_lossy(&std::fs::read(&trace).unwrap()).into_owned())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    WriteLog,
    SyncLog,
    WriteKeys,
    SyncKeys,
}

/// What happened to the two files between each `begin` and its `done`.
fn changes(trace: &str) -> Vec<(String, Vec<Event>)> {
    let mut changes = Vec::new();
    let mut under_way: Option<(String, Vec<Event>)> = None;
    let mut unfinished: HashMap<&str, &str> = HashMap::new();
    for line in trace.lines() {
        let Some((process, call)) = line.split_once(' ') else { continue };
        let call = call.trim_start();
        // A sync counts from when it returned, a write from when it began.
        let call = if call.contains("sync(") && call.ends_with("<unfinished ...>") {
            unfinished.insert(process, call);
            continue;
        } else if call.starts_with("<... f") && call.contains("sync resumed") {
            let Some(begun) = unfinished.remove(process) else { continue };
            begun
        } else {
            call
        };
        let writes = call.starts_with("pwrite") || call.starts_with("write");
        let syncs = call.starts_with("fdatasync(") || call.starts_with("fsync(");
        if call.contains("/said>") && writes {
            let what = if call.contains("enrol") { "enrol" } else { "erase" };
            if call.contains("begin") {
                under_way = Some((what.to_owned(), Vec::new()));
            } else if let Some(change) = under_way.take() {
                changes.push(change);
            }
            continue;
        }
        let Some((_, events)) = &mut under_way else { continue };
        let event = match (call.contains("/sled/db>"), call.contains("/keys.slots>")) {
            (true, _) if writes => Event::WriteLog,
            (true, _) if syncs => Event::SyncLog,
            (_, true) if writes => Event::WriteKeys,
            (_, true) if syncs => Event::SyncKeys,
            _ => continue,
        };
        events.push(event);
    }
    changes
}

#[test]
fn what_is_acknowledged_was_written_and_synced_in_order() {
    use Event::{SyncKeys, SyncLog, WriteKeys, WriteLog};
    let dir = tempfile::tempdir().unwrap();
    let Some(trace) = traced(&dir.path().join("data"), &[]) else { return };
    let changes = changes(&trace);
    let count = |kind: &str| changes.iter().filter(|(what, _)| what == kind).count();
    assert_eq!((count("enrol"), count("erase")), (8, 4), "{changes:?}");
    for (what, events) in &changes {
        let last = |event| events.iter().rposition(|e| *e == event);
        let first = |event| events.iter().position(|e| *e == event);
        // Nothing of the log is left unsynced when it is said to be done.
        assert!(last(SyncLog) > last(WriteLog) && last(WriteLog).is_some(), "{what}: {events:?}");
        assert!(
            last(SyncKeys) > last(WriteKeys) && last(WriteKeys).is_some(),
            "{what}: {events:?}"
        );
        if what == "enrol" {
            // No record outlives the key that it is sealed under.
            assert!(last(SyncKeys) < first(WriteLog), "{events:?}");
        } else {
            // The note that it began, then the key, then the records.
            assert!(first(SyncLog) < first(WriteKeys), "{events:?}");
            assert!(last(SyncKeys) < last(WriteLog), "{events:?}");
        }
    }
}

/// The control: without a sync, or in another order, the check above fails.
#[test]
fn a_trace_without_its_syncs_is_told_from_one_with_them() {
    let said = |what: &str| format!("7 write(9</d/said>, \"{what} enrol\", 5) = 5\n");
    let log = "7 pwrite64(5</d/sled/db>, \"x\"..., 4096, 0) = 4096\n";
    let whole = format!(
        "{}{log}8 fdatasync(6</d/sled/db> <unfinished ...>\n8 <... fdatasync resumed>) = 0\n{}",
        said("begin"),
        said("done")
    );
    assert_eq!(changes(&whole)[0].1, [Event::WriteLog, Event::SyncLog]);
    let late = format!(
        "{}{log}8 fdatasync(6</d/sled/db> <unfinished ...>\n{}8 <... fdatasync resumed>) = 0\n",
        said("begin"),
        said("done")
    );
    assert_eq!(changes(&late)[0].1, [Event::WriteLog]);
}

/// A write to one of the files that make a store.
struct Written {
    file: &'static str,
    at: usize,
    bytes: Vec<u8>,
    synced: bool,
}

/// Writes of a trace up to its `until`th acknowledgement, each with whether it was synced by then.
fn writes_until(trace: &str, until: usize) -> (Vec<Written>, Vec<String>) {
    const FILES: [&str; 3] = ["sled/db", "keys.slots", "commit.mark"];
    let mut written: Vec<Written> = Vec::new();
    let mut places: HashMap<&str, usize> = HashMap::new();
    let mut unfinished: HashMap<&str, (&str, usize)> = HashMap::new();
    let mut done = Vec::new();
    for line in trace.lines() {
        let Some((process, call)) = line.split_once(' ') else { continue };
        let mut call = call.trim_start();
        let mut covers = written.len();
        if call.contains("sync(") && call.ends_with("<unfinished ...>") {
            unfinished.insert(process, (call, covers));
            continue;
        }
        if call.starts_with("<... f") && call.contains("sync resumed") {
            // What was written after it was asked for, it may have missed.
            let Some((begun, before)) = unfinished.remove(process) else { continue };
            (call, covers) = (begun, before);
        }
        if call.contains("/said>") && call.starts_with("write") {
            let text = String::from_utf8(unescaped(call)).unwrap();
            if let Some(what) = text.strip_prefix("done ") {
                done.push(what.to_owned());
                if done.len() == until {
                    break;
                }
            }
            continue;
        }
        let file = FILES.iter().copied().find(|file| call.contains(&format!("/{file}>")));
        let Some(file) = file else { continue };
        if call.contains("sync(") {
            written[..covers].iter_mut().filter(|w| w.file == file).for_each(|w| w.synced = true);
        } else if call.starts_with("lseek(") {
            // Whoever writes has set its place before; others only ask.
            if !call.contains("SEEK_SET") {
                continue;
            }
            let place = call.split(", ").nth(1).and_then(|text| text.parse().ok());
            places.insert(file, place.unwrap());
        } else if call.starts_with("pwrite64(") {
            let call = call.strip_suffix("<unfinished ...>").unwrap_or(call);
            let arguments = call.rsplit_once(')').map_or(call, |(arguments, _)| arguments);
            let at = arguments.rsplit(", ").next().unwrap().trim().parse().unwrap();
            written.push(Written { file, at, bytes: unescaped(call), synced: false });
        } else if call.starts_with("write(") {
            let (at, bytes) = (places[file], unescaped(call));
            places.insert(file, at + bytes.len());
            written.push(Written { file, at, bytes, synced: false });
        } else {
            assert!(!call.starts_with("ftruncate"), "this test knows no {call}");
        }
    }
    (written, done)
}

/// The bytes of a call's text: `\\xNN` each, unless all of them are letters.
fn unescaped(call: &str) -> Vec<u8> {
    assert!(!call.contains("\"..."), "the trace was cut");
    let text = call.split('"').nth(1).unwrap();
    if !text.starts_with("\\x") {
        assert!(!text.contains('\\'), "{text}");
        return text.as_bytes().to_vec();
    }
    let digits: Vec<&str> = text.split("\\x").skip(1).collect();
    digits.iter().map(|digits| u8::from_str_radix(digits, 16).unwrap()).collect()
}

/// A loss of power takes any part of what was not synced. What was acknowledged by then is there, and nothing half.
#[test]
fn a_loss_of_power_takes_nothing_that_was_acknowledged() {
    use rand::{Rng, SeedableRng};
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let Some(trace) = traced(&data, &["-x", "-s", "16777216"]) else { return };
    let before = data.with_extension("before");
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(3);
    let mut lost = 0;
    for until in 1..=12 {
        let (written, done) = writes_until(&trace, until);
        assert_eq!(done.len(), until);
        // None, all, and two draws of what was not synced.
        for draw in 0..4 {
            let copy = dir.path().join("after");
            crate::crash::copy(&before, &copy);
            for write in &written {
                let survives = match draw {
                    0 => false,
                    1 => true,
                    _ => rng.random(),
                };
                if !write.synced && !survives {
                    lost += 1;
                    continue;
                }
                let path = copy.join(write.file);
                let mut bytes = std::fs::read(&path).unwrap();
                bytes.resize(bytes.len().max(write.at + write.bytes.len()), 0);
                bytes[write.at..write.at + write.bytes.len()].copy_from_slice(&write.bytes);
                std::fs::write(&path, bytes).unwrap();
            }
            let galleries = open(&copy, &GalleryOptions::default());
            let gallery = galleries.get(&GalleryId::new("main").unwrap()).unwrap();
            let enrolled = done.iter().filter(|what| *what == "enrol").count();
            let erased = done.len() - enrolled;
            let held = gallery.subjects(None, 100).unwrap();
            let held: Vec<_> = held.into_iter().map(|summary| summary.subject).collect();
            let expected: Vec<_> = (erased..enrolled).map(subject).collect();
            assert_eq!(held, expected, "after {until} acknowledgements, draw {draw}");
            galleries.close().unwrap();
            drop((galleries, gallery));
            std::fs::remove_dir_all(&copy).unwrap();
        }
    }
    println!("{lost} writes that were not synced were lost");
    assert!(lost > 0, "everything was synced: the test shows nothing");
}
