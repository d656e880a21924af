//! What a store keeps through backups, restores and attempts to change its journal.

mod backup;
mod journal;

use std::path::Path;

use handclip::storage::{Batch, MasterKey, Seal, StorageError, Store, StoreOptions};

use crate::crash::log_of;

fn key(digit: char) -> MasterKey {
    MasterKey::from_hex(&digit.to_string().repeat(64)).unwrap()
}

fn options(dir: &Path) -> StoreOptions {
    StoreOptions { ballast_bytes: 0, ..StoreOptions::new(dir, key('a')) }
}

fn open(dir: &Path) -> Store {
    Store::open(options(dir)).unwrap()
}

fn records(store: &Store) -> Vec<(Vec<u8>, Vec<u8>)> {
    store.scan(&[]).map(Result::unwrap).filter(|(key, _)| key != &[0, b'M']).collect()
}

/// A record under each of these numbers.
fn put(store: &Store, numbers: std::ops::Range<u8>) -> Result<(), StorageError> {
    let mut batch = Batch::default();
    for number in numbers {
        batch.put(vec![4, 0, 0, 0, 1, number], vec![number; 100], Seal::Store);
    }
    store.commit(batch)
}

fn walked(store: &Store) -> Result<Vec<Vec<u8>>, StorageError> {
    store.walk(&[4, 0, 0, 0, 1], |_| true, |_, plain| Ok(plain.to_vec()))
}

#[test]
fn what_is_read_while_a_store_opens_counts_as_checked_and_it_may_write() {
    let dir = tempfile::tempdir().unwrap();
    put(&open(dir.path()), 0..50).unwrap();
    let load = |store: &Store| {
        let before = walked(store)?;
        assert_eq!(walked(store)?, before, "read twice, counted once");
        put(store, 50..60)?;
        Ok::<_, StorageError>(before)
    };
    let (store, before) = Store::open_with(options(dir.path()), load).unwrap();
    assert_eq!(before.len(), 50);
    assert_eq!(walked(&store).unwrap().len(), 60);
    drop(store);
    // What `load` says is said, where nothing is damaged.
    let refused = |_: &Store| Err::<(), _>(StorageError::Random);
    let error = Store::open_with(options(dir.path()), refused).unwrap_err();
    assert!(matches!(error, StorageError::Random), "{error}");
    assert_eq!(walked(&open(dir.path())).unwrap().len(), 60);
}

#[test]
fn nothing_is_written_to_a_store_that_lost_or_regained_a_record() {
    for lost in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        put(&open(dir.path()), 0..50).unwrap();
        let log = log_of(dir.path());
        let (key, value) = log.scan_prefix([4]).next_back().unwrap().unwrap();
        if lost {
            log.remove(key).unwrap();
        } else {
            log.insert([&key[..], b"again"].concat(), value).unwrap();
        }
        log.flush().unwrap();
        let left = log.iter().count();
        drop(log);
        let stored = |store: &Store| {
            let wrote = [
                put(store, 50..60),
                store.create_data_key().map(drop),
                store.retain_data_keys(&std::collections::HashSet::new()).map(drop),
                store.destroy_data_keys(&[]),
            ];
            for refused in &wrote {
                assert!(matches!(refused, Err(StorageError::Damaged { .. })), "{refused:?}");
            }
            Ok::<_, StorageError>(())
        };
        let error = Store::open_with(options(dir.path()), stored).unwrap_err();
        assert!(error.to_string().contains("records, its manifest says 50"), "{error}");
        // An error of `load`'s own says less than what is behind it.
        let refused = |_: &Store| Err::<(), _>(StorageError::Random);
        let error = Store::open_with(options(dir.path()), refused).unwrap_err();
        assert!(matches!(error, StorageError::Damaged { .. }), "{error}");
        // A walk over what is damaged is not taken for a check.
        let error = Store::open_with(options(dir.path()), walked).unwrap_err();
        assert!(matches!(error, StorageError::Damaged { .. }), "{error}");
        assert_eq!(log_of(dir.path()).iter().count(), left);
    }
}
