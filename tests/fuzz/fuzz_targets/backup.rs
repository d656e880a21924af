//! Backups that come from elsewhere. The seed is a whole one under the key below.
#![no_main]

use handclip::storage::{MasterKey, backup_of, verify_backup};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(dir) = tempfile::tempdir() else { return };
    let path = dir.path().join("backup");
    if std::fs::write(&path, bytes).is_err() {
        return;
    }
    let Ok(key) = MasterKey::from_hex(&"5a".repeat(32)) else { return };
    let named = backup_of(&path);
    if let Ok(info) = verify_backup(&path, &key) {
        assert_eq!(named.ok(), Some(info.store));
    }
});
