use std::collections::BTreeMap;
use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use handclip::storage::{
    Batch, Seal, StorageError, Store, StoreOptions, backup_of, rotate_master_key, stage,
    verify_backup,
};

use super::{key, open, records};

fn filled(store: &Store, count: u32) {
    for part in 0..count / 100 {
        let mut batch = Batch::default();
        for n in part * 100..(part + 1) * 100 {
            let data_key = store.create_data_key().unwrap();
            let at = [&[2][..], &n.to_be_bytes()].concat();
            batch.put(at, n.to_le_bytes().repeat(100), Seal::Data(data_key));
            let image = [&[0x81][..], &n.to_be_bytes()].concat();
            batch.put(image, vec![n as u8; 3_000], Seal::Data(data_key));
        }
        batch.note(format!("part {part}").into_bytes());
        store.commit(batch).unwrap();
    }
}

#[test]
fn a_backup_put_back_is_the_store_of_its_moment() {
    let dir = tempfile::tempdir().unwrap();
    let (at, file) = (dir.path().join("data"), dir.path().join("backup"));
    let store = open(&at);
    filled(&store, 1_000);
    let before = records(&store);
    let made = store.backup(std::fs::File::create(&file).unwrap()).unwrap();
    assert_eq!(made.bytes, std::fs::metadata(&file).unwrap().len());
    assert_eq!(made.store, store.id());
    filled(&store, 200);
    store.close();
    drop(store);
    assert_eq!(verify_backup(&file, &key('a')).unwrap(), made);
    assert_eq!(backup_of(&file).unwrap(), made.store);
    // Over what is there, and where nothing is.
    for target in [at, dir.path().join("elsewhere")] {
        let staged = stage(&file, &target, &key('a')).unwrap();
        assert!(matches!(
            Store::open(StoreOptions::new(&target, key('a'))),
            Err(StorageError::InUse { .. })
        ));
        let unpacked = open(&staged.dir());
        assert_eq!(records(&unpacked), before);
        unpacked.close();
        drop(unpacked);
        staged.install().unwrap();
        let store = open(&target);
        assert_eq!(records(&store), before);
        assert_eq!(store.check_journal(&[]).unwrap().problems, []);
        assert!(!target.join("restore.tmp").exists() && !target.join("restore.ready").exists());
        filled(&store, 100);
    }
}

/// Passes what is written on, slowly enough for others to write meanwhile.
struct Slow<W>(W);

impl<W: Write> Write for Slow<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        std::thread::sleep(std::time::Duration::from_millis(5));
        self.0.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}

/// Two counters that every commit raises together, at both ends of the order of keys, and many that come, change and go.
#[test]
fn a_backup_made_while_others_write_is_one_moment() {
    let dir = tempfile::tempdir().unwrap();
    let (at, file) = (dir.path().join("data"), dir.path().join("backup"));
    let store = open(&at);
    filled(&store, 2_000);
    let (stop, commits) = (AtomicBool::new(false), AtomicU64::new(0));
    let write = |writer: u8| {
        let mut erased = None;
        for n in 0_u64.. {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            let mut batch = Batch::default();
            for end in [1, 0x6f] {
                batch.put(vec![end, writer], n.to_le_bytes().to_vec(), Seal::Store);
            }
            let data_key = store.create_data_key().unwrap();
            let place = |n: u64| [&[3, writer][..], &n.to_be_bytes()].concat();
            batch.put(place(n), vec![n as u8; 500], Seal::Data(data_key));
            if let Some((n, data_key)) = erased.take() {
                store.destroy_data_keys(&[data_key]).unwrap();
                batch.remove(place(n));
            }
            erased = Some((n, data_key));
            batch.note(n.to_le_bytes().to_vec());
            store.commit(batch).unwrap();
            commits.fetch_add(1, Ordering::Relaxed);
        }
    };
    let (before, made) = std::thread::scope(|scope| {
        let write = &write;
        (0..3).for_each(|writer| drop(scope.spawn(move || write(writer))));
        while commits.load(Ordering::Relaxed) < 20 {
            std::thread::yield_now();
        }
        let before = commits.load(Ordering::Relaxed);
        let made = store.backup(Slow(std::fs::File::create(&file).unwrap()));
        stop.store(true, Ordering::Relaxed);
        (before, made.unwrap())
    });
    assert!(commits.load(Ordering::Relaxed) > before + 20, "nobody wrote meanwhile");
    let verified = verify_backup(&file, &key('a')).unwrap();
    assert_eq!((verified.commit, verified.records), (made.commit, made.records));
    let staged = stage(&file, &dir.path().join("other"), &key('a')).unwrap();
    let unpacked = open(&staged.dir());
    let held: BTreeMap<Vec<u8>, Vec<u8>> =
        unpacked.scan(&[1]).chain(unpacked.scan(&[0x6f])).map(Result::unwrap).collect();
    for writer in 0..3 {
        assert_eq!(held[&vec![1, writer]], held[&vec![0x6f, writer]], "writer {writer} was torn");
        // Nothing but the newest is left of the writer, and perhaps one whose key was gone already.
        let left = unpacked.keys(&[3, writer]).unwrap().len();
        assert!((1..=2).contains(&left), "{left}");
    }
    assert_eq!(unpacked.check_journal(&[]).unwrap().problems, []);
    drop(unpacked);
    staged.discard().unwrap();
}

#[test]
fn a_damaged_backup_a_foreign_file_and_another_key_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (at, file) = (dir.path().join("data"), dir.path().join("backup"));
    let store = open(&at);
    filled(&store, 500);
    store.backup(std::fs::File::create(&file).unwrap()).unwrap();
    let before = records(&store);
    store.close();
    drop(store);
    let whole = std::fs::read(&file).unwrap();
    let mut bad: Vec<(String, Vec<u8>)> = vec![
        ("empty".into(), vec![]),
        ("foreign".into(), b"PK\x03\x04 an archive, not a backup".to_vec()),
        ("longer".into(), [&whole[..], b"x"].concat()),
    ];
    for part in 1..30 {
        let place = whole.len() * part / 30;
        bad.push((format!("cut at {place}"), whole[..place].to_vec()));
        let mut flipped = whole.clone();
        flipped[place] ^= 1 << (part % 8);
        bad.push((format!("flipped at {place}"), flipped));
        let mut zeroed = whole.clone();
        let end = (place + 4096).min(zeroed.len());
        zeroed[place..end].fill(0);
        bad.push((format!("zeroed at {place}"), zeroed));
    }
    let altered = dir.path().join("altered");
    for (what, bytes) in bad {
        std::fs::write(&altered, bytes).unwrap();
        let refused = |error: Option<StorageError>| {
            assert!(matches!(error, Some(StorageError::Backup { .. })), "{what}: {error:?}");
        };
        refused(verify_backup(&altered, &key('a')).err());
        refused(stage(&altered, &at, &key('a')).err());
        assert!(!at.join("restore.tmp").exists(), "{what}");
    }
    assert!(matches!(verify_backup(&file, &key('b')), Err(StorageError::Backup { .. })));
    assert_eq!(records(&open(&at)), before);
}

/// Cut off at every step, the next start has one of both stores, whole.
#[test]
fn a_restore_that_is_cut_off_is_finished_or_never_was() {
    let dir = tempfile::tempdir().unwrap();
    let (at, file) = (dir.path().join("data"), dir.path().join("backup"));
    let store = open(&at);
    filled(&store, 100);
    store.backup(std::fs::File::create(&file).unwrap()).unwrap();
    let backed_up = records(&store);
    filled(&store, 300);
    let present = records(&store);
    store.close();
    drop(store);
    let files = ["sled", "keys.slots", "commit.mark", "store.json"];
    for moved in 0..=files.len() + 1 {
        let copy = dir.path().join(format!("copy{moved}"));
        crate::crash::copy(&at, &copy);
        drop(stage(&file, &copy, &key('a')).unwrap());
        if moved > 0 {
            std::fs::write(copy.join("restore.ready"), b"").unwrap();
        }
        for name in &files[..moved.saturating_sub(1)] {
            let old = copy.join(name);
            if old.is_dir() {
                std::fs::remove_dir_all(&old).unwrap();
            }
            std::fs::rename(copy.join("restore.tmp").join(name), old).unwrap();
        }
        let expected = if moved == 0 { &present } else { &backed_up };
        assert_eq!(&records(&open(&copy)), expected, "after {moved} steps");
        assert!(!copy.join("restore.tmp").exists() && !copy.join("restore.ready").exists());
    }
}

#[test]
fn another_master_key_takes_the_place_of_the_first() {
    let dir = tempfile::tempdir().unwrap();
    let (at, file) = (dir.path().join("data"), dir.path().join("backup"));
    let store = open(&at);
    filled(&store, 100);
    store.backup(std::fs::File::create(&file).unwrap()).unwrap();
    let before = records(&store);
    let in_use = rotate_master_key(&at, &key('a'), &key('b'));
    assert!(matches!(in_use, Err(StorageError::InUse { .. })));
    store.close();
    drop(store);
    rotate_master_key(&at, &key('a'), &key('b')).unwrap();
    let opened = |digit| {
        Store::open(StoreOptions { ballast_bytes: 0, ..StoreOptions::new(&at, key(digit)) })
    };
    assert!(matches!(opened('a'), Err(StorageError::WrongMasterKey { .. })));
    assert_eq!(records(&opened('b').unwrap()), before);
    // A backup keeps the key of its time.
    assert!(verify_backup(&file, &key('a')).is_ok() && verify_backup(&file, &key('b')).is_err());
}
