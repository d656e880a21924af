use super::*;
use crate::storage::{MasterKey, StoreOptions};

const NOW: u64 = 1_800_000_000_000;

fn store(dir: &std::path::Path) -> Store {
    Store::open(StoreOptions::new(dir, MasterKey::from_hex(&"5a".repeat(32)).unwrap())).unwrap()
}

fn new(name: &str, scopes: &[Scope]) -> NewKey {
    let scopes = scopes.iter().copied().collect();
    NewKey { name: name.to_owned(), scopes, ..NewKey::default() }
}

fn refused<T>(result: Result<T, AccessError>) -> String {
    result.err().map(|error| error.to_string()).unwrap_or_default()
}

#[test]
fn keys_let_in_until_they_are_revoked_and_never_fall_open() {
    let dir = tempfile::tempdir().unwrap();
    let keys = ApiKeys::open(store(dir.path())).unwrap();
    assert!(keys.is_open());
    assert_eq!(keys.authenticate(None, NOW), Ok(Caller::local()));

    for early in [
        new("gate", &[Scope::Identify]),
        NewKey { expires_at_ms: Some(NOW + 1), ..new("ops", &[Scope::Admin]) },
    ] {
        assert!(refused(keys.create(early, NOW)).contains("first key"));
    }
    let (admin, token) = keys.create(new("ops", &[Scope::Admin]), NOW).unwrap();
    assert_eq!(keys.authenticate(None, NOW), Err(Refusal::Missing));
    assert_eq!(keys.authenticate(Some("hck_1"), NOW), Err(Refusal::Malformed));
    let caller = keys.authenticate(Some(token.expose()), NOW).unwrap();
    assert_eq!(caller.key(), Some(admin.id));
    assert!(caller.has_any(&[Scope::Erase]) && caller.may_reach("staff"));
    assert_eq!(keys.read(admin.id, NOW).unwrap().used_at_ms, Some(NOW));

    assert!(refused(keys.revoke(admin.id, NOW)).contains("last one"));
    let (second, _) = keys.create(new("ops 2", &[Scope::Admin]), NOW + 1).unwrap();
    assert_eq!(keys.revoke(admin.id, NOW).unwrap().state, KeyState::Revoked);
    assert_eq!(keys.authenticate(Some(token.expose()), NOW), Err(Refusal::Revoked));
    assert!(refused(keys.rotate(admin.id, Duration::ZERO, NOW)).contains("revoked"));
    assert!(refused(keys.revoke(second.id, NOW)).contains("last one"));
    drop(keys);

    let keys = ApiKeys::open(store(dir.path())).unwrap();
    assert!(!keys.is_open());
    assert_eq!(keys.authenticate(Some(token.expose()), NOW), Err(Refusal::Revoked));
    let states: Vec<KeyState> = keys.list(NOW).iter().map(|key| key.state).collect();
    assert_eq!(states, [KeyState::Revoked, KeyState::Active]);
}

#[test]
fn a_key_reaches_its_galleries_for_as_long_as_it_lasts() {
    let dir = tempfile::tempdir().unwrap();
    let keys = ApiKeys::open(store(dir.path())).unwrap();
    keys.create(new("ops", &[Scope::Admin]), NOW).unwrap();
    let galleries: BTreeSet<_> = [GalleryId::new("staff").unwrap()].into();
    let bounded = NewKey {
        galleries: Some(galleries.clone()),
        expires_at_ms: Some(NOW + 1000),
        ..new("door", &[Scope::Identify])
    };
    let (_, token) = keys.create(bounded, NOW).unwrap();
    let caller = keys.authenticate(Some(token.expose()), NOW + 999).unwrap();
    assert!(caller.has_any(&[Scope::Erase, Scope::Identify]));
    assert!(!caller.has_any(&[Scope::Erase, Scope::Admin]));
    assert!(caller.may_reach("staff") && !caller.may_reach("Staff") && !caller.may_reach("other"));
    assert_eq!(keys.authenticate(Some(token.expose()), NOW + 1000), Err(Refusal::Expired));

    for scope in Scope::ALL.into_iter().filter(|scope| scope.is_server_wide()) {
        let wide = NewKey { galleries: Some(galleries.clone()), ..new("wide", &[scope]) };
        assert!(refused(keys.create(wide, NOW)).contains("whole server"), "{scope}");
    }
    for bad in [
        new("", &[Scope::Read]),
        new("a\nb", &[Scope::Read]),
        new("none", &[]),
        NewKey { galleries: Some(BTreeSet::new()), ..new("nowhere", &[Scope::Read]) },
        NewKey { expires_at_ms: Some(NOW), ..new("over", &[Scope::Read]) },
    ] {
        assert!(
            matches!(keys.create(bad.clone(), NOW), Err(AccessError::Invalid { .. })),
            "{bad:?}"
        );
    }
}

#[test]
fn a_rotated_secret_is_taken_until_its_overlap_ends() {
    let dir = tempfile::tempdir().unwrap();
    let keys = ApiKeys::open(store(dir.path())).unwrap();
    let (info, first) = keys.create(new("ops", &[Scope::Admin]), NOW).unwrap();
    let (info, second) = keys.rotate(info.id, Duration::from_secs(60), NOW).unwrap();
    assert_eq!(info.rotating_until_ms, Some(NOW + 60_000));
    let ask = |token: &Token, at| keys.authenticate(Some(token.expose()), at).map(|c| c.key());
    assert_eq!(ask(&first, NOW + 59_999), Ok(Some(info.id)));
    assert_eq!(ask(&first, NOW + 60_000), Err(Refusal::Revoked));
    let (_, third) = keys.rotate(info.id, Duration::ZERO, NOW + 1).unwrap();
    assert_eq!(
        ask(&first, NOW + 1),
        Err(Refusal::Revoked),
        "no overlap ends the one before it too"
    );
    assert_eq!(ask(&second, NOW + 1), Err(Refusal::Revoked));
    assert_eq!(ask(&third, NOW + 60_001), Ok(Some(info.id)));
    let over = keys.rotate(info.id, MAX_OVERLAP + Duration::from_secs(1), NOW);
    assert!(matches!(over, Err(AccessError::Invalid { field: "overlap_s", .. })));
    // A secret that is nobody's, under an id that is somebody's.
    let (_, other) = keys.create(new("other", &[Scope::Read]), NOW).unwrap();
    let forged = format!("hck_{}_{}", info.id, &other.expose()[21..]);
    assert_eq!(keys.authenticate(Some(&forged), NOW), Err(Refusal::Unknown));
}

#[test]
fn no_secret_is_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let keys = ApiKeys::open(store.clone()).unwrap();
    let (info, token) = keys.create(new("a name to look for", &[Scope::Admin]), NOW).unwrap();
    let secret = token.expose()[21..].to_owned();
    let (_, read) = Token::parse(token.expose()).unwrap();
    drop((keys, store));
    let mut files = 0;
    for entry in walkdir::WalkDir::new(dir.path()).into_iter().filter_map(Result::ok) {
        let Ok(bytes) = std::fs::read(entry.path()) else { continue };
        files += 1;
        for needle in [secret.as_bytes(), read.bytes(), b"a name to look for"] {
            let found = bytes.windows(needle.len()).any(|window| window == needle);
            assert!(!found, "{}", entry.path().display());
        }
    }
    assert!(files > 3, "the scan saw the store");
    // The same scan finds what is there: the id is part of the record's key.
    let id = info.id.to_bytes();
    let log = std::fs::read(dir.path().join("sled/db")).unwrap();
    assert!(log.windows(id.len()).any(|window| window == id));
}
