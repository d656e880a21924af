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

fn log_of(dir: &Path) -> sled::Db {
    let config = sled::Config::new().path(dir.join("sled")).segment_size(2 * 1024 * 1024);
    (0..250)
        .find_map(|_| {
            std::thread::sleep(std::time::Duration::from_millis(20));
            config.open().ok()
        })
        .unwrap()
}
