//! What a store keeps through backups, restores and attempts to change its journal.

mod backup;
mod journal;

use std::path::Path;

use handclip::storage::{MasterKey, Store, StoreOptions};

fn key(digit: char) -> MasterKey {
    MasterKey::from_hex(&digit.to_string().repeat(64)).unwrap()
}

fn open(dir: &Path) -> Store {
    Store::open(StoreOptions { ballast_bytes: 0, ..StoreOptions::new(dir, key('a')) }).unwrap()
}

fn records(store: &Store) -> Vec<(Vec<u8>, Vec<u8>)> {
    store.scan(&[]).map(Result::unwrap).filter(|(key, _)| key != &[0, b'M']).collect()
}
