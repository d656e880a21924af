use crate::storage::StorageError;

use crate::domain::hex;

use super::id::KeyId;

/// Why a caller is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No key came with the request.
    #[error("this needs an API key: send `authorization: Bearer hck_…`")]
    Missing,
    /// What came is no key.
    #[error(
        "this is not an API key: one looks like `hck_…_…`, sent as `authorization: Bearer hck_…_…`"
    )]
    Malformed,
    /// A key that was never given, or is not spelled as it was.
    #[error("this API key is not known here")]
    Unknown,
    /// A key that was revoked, or the secret before a rotation.
    #[error("this API key was revoked")]
    Revoked,
    /// A key past its time.
    #[error("this API key has expired")]
    Expired,
}

/// Why keys cannot be changed as was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AccessError {
    /// No such key.
    #[error("there is no key `{0}`")]
    NotFound(KeyId),
    /// A key that lets nobody in any more.
    #[error("key `{0}` was revoked: make another")]
    Revoked(KeyId),
    /// Nobody could make another key.
    #[error(
        "the first key must allow `admin` and not expire: without one nobody could make or revoke others"
    )]
    FirstKey,
    /// Nobody could make another key.
    #[error(
        "key `{0}` is the last one that allows `admin` and does not expire: make another before it is revoked"
    )]
    LastAdmin(KeyId),
    /// As many keys as may be.
    #[error("there are {0} keys, which is as many as may be: revoke some")]
    Full(usize),
    /// A value that cannot be used.
    #[error("`{field}` {problem}")]
    Invalid {
        /// Of which field.
        field: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// A record that opened but makes no sense.
    #[error(
        "key record {key} is inconsistent: {detail}; put back a backup with `handclip gallery restore`"
    )]
    Inconsistent {
        /// The record's key, in hexadecimal.
        key: String,
        /// What is wrong with it.
        detail: String,
    },
    /// The store's answer.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl AccessError {
    pub(super) fn inconsistent(key: &[u8], detail: impl ToString) -> Self {
        let key = hex(key);
        Self::Inconsistent { key, detail: detail.to_string() }
    }
}
