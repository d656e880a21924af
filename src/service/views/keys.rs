//! API keys.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::access::{KeyInfo, Token};
use crate::domain::{GalleryId, Scope};

/// An API key, without what lets anybody in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KeyView {
    /// Its id: the part between the underscores of the token.
    #[schema(example = "0f1e2d3c4b5a6978")]
    pub key: String,
    /// What it is called.
    pub name: String,
    /// What it allows.
    #[schema(value_type = Vec<ScopeSchema>)]
    pub scopes: Vec<Scope>,
    /// In which galleries; `null` for all, those to come too.
    #[schema(value_type = Option<Vec<String>>)]
    pub galleries: Option<Vec<GalleryId>>,
    /// `active`, `revoked` or `expired`.
    pub state: String,
    /// When it was made, milliseconds since 1970.
    pub created_at_ms: u64,
    /// When it expires.
    pub expires_at_ms: Option<u64>,
    /// When it was revoked.
    pub revoked_at_ms: Option<u64>,
    /// When the secret before the last rotation stops to be taken.
    pub rotating_until_ms: Option<u64>,
    /// When it was last taken, since the server started.
    pub used_at_ms: Option<u64>,
}

/// A key that was made or rotated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NewKeyView {
    /// What to send as `authorization: Bearer <token>`. Shown this once; nothing here can show it again.
    #[schema(example = "hck_0f1e2d3c4b5a6978_…")]
    pub token: String,
    /// The key.
    #[serde(flatten)]
    pub key: KeyView,
}

/// All keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct KeyListView {
    /// The oldest first, revoked ones too.
    pub keys: Vec<KeyView>,
}

/// What a key allows.
#[derive(ToSchema)]
#[schema(as = Scope, rename_all = "snake_case")]
pub enum ScopeSchema {
    /// Ask who it is.
    Identify,
    /// Get embeddings.
    Embed,
    /// Read who is enrolled.
    Read,
    /// Enrol.
    Enrol,
    /// Erase subjects and remove samples.
    Erase,
    /// Train, evaluate, bring models in and out.
    Train,
    /// Have another model serve.
    Deploy,
    /// Read metrics, jobs and what serves.
    Monitor,
    /// Everything.
    Admin,
}

impl From<KeyInfo> for KeyView {
    fn from(info: KeyInfo) -> Self {
        Self {
            key: info.id.to_string(),
            name: info.name,
            scopes: info.scopes.into_iter().collect(),
            galleries: info.galleries.map(|galleries| galleries.into_iter().collect()),
            state: info.state.as_str().to_owned(),
            created_at_ms: info.created_at_ms,
            expires_at_ms: info.expires_at_ms,
            revoked_at_ms: info.revoked_at_ms,
            rotating_until_ms: info.rotating_until_ms,
            used_at_ms: info.used_at_ms,
        }
    }
}

impl From<(KeyInfo, Token)> for NewKeyView {
    fn from((info, token): (KeyInfo, Token)) -> Self {
        Self { token: token.expose().to_owned(), key: info.into() }
    }
}
