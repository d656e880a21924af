use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::domain::{GalleryId, Scope};

use super::id::KeyId;

/// A secret as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SecretMac {
    /// HMAC-SHA-256 of the secret.
    pub(super) mac: [u8; 32],
    /// When it stops to be taken, milliseconds since 1970: it was rotated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) until_ms: Option<u64>,
}

/// A key as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct KeyRecord {
    pub(super) id: KeyId,
    pub(super) name: String,
    pub(super) scopes: BTreeSet<Scope>,
    /// `None` for every gallery, those to come too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) galleries: Option<BTreeSet<GalleryId>>,
    pub(super) created_at_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) expires_at_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) revoked_at_ms: Option<u64>,
    /// The newest first.
    pub(super) secrets: Vec<SecretMac>,
}

/// Whether a key lets anybody in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyState {
    /// It does.
    Active,
    /// It was revoked.
    Revoked,
    /// Its time is over.
    Expired,
}

impl KeyState {
    /// Its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Revoked => "revoked",
            Self::Expired => "expired",
        }
    }
}

impl KeyRecord {
    pub(super) fn state(&self, now_ms: u64) -> KeyState {
        if self.revoked_at_ms.is_some() {
            KeyState::Revoked
        } else if self.expires_at_ms.is_some_and(|at| at <= now_ms) {
            KeyState::Expired
        } else {
            KeyState::Active
        }
    }

    /// Whether other keys can be made with it for good.
    pub(super) fn is_lasting_admin(&self) -> bool {
        self.scopes.contains(&Scope::Admin)
            && self.expires_at_ms.is_none()
            && self.revoked_at_ms.is_none()
    }
}

/// A key, without anything that would let anybody in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyInfo {
    /// Which.
    pub id: KeyId,
    /// What it is called.
    pub name: String,
    /// What it allows.
    pub scopes: BTreeSet<Scope>,
    /// In which galleries; `None` for all.
    pub galleries: Option<BTreeSet<GalleryId>>,
    /// Whether it lets anybody in.
    pub state: KeyState,
    /// When it was made, milliseconds since 1970.
    pub created_at_ms: u64,
    /// When it expires.
    pub expires_at_ms: Option<u64>,
    /// When it was revoked.
    pub revoked_at_ms: Option<u64>,
    /// When the secret before the last rotation stops to be taken.
    pub rotating_until_ms: Option<u64>,
    /// When it was last taken, as far as this process knows.
    pub used_at_ms: Option<u64>,
}

impl KeyInfo {
    pub(super) fn new(record: &KeyRecord, used_at_ms: u64, now_ms: u64) -> Self {
        let rotating = record.secrets.iter().filter_map(|secret| secret.until_ms);
        Self {
            id: record.id,
            name: record.name.clone(),
            scopes: record.scopes.clone(),
            galleries: record.galleries.clone(),
            state: record.state(now_ms),
            created_at_ms: record.created_at_ms,
            expires_at_ms: record.expires_at_ms,
            revoked_at_ms: record.revoked_at_ms,
            rotating_until_ms: rotating.filter(|until| *until > now_ms).max(),
            used_at_ms: Some(used_at_ms).filter(|at| *at > 0),
        }
    }
}
