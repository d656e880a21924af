//! Who may ask for what: API keys and what they allow. Knows no HTTP, and no operation by name.
//!
//! A key is a token that is shown once, `hck_<id>_<secret>`; the store keeps an HMAC of its secret under a key derived from
//! the master key, so neither the store nor a copy of it lets anybody in. Keys are few and asked for with every request:
//! all of them are in memory, and a request reads them without a lock.
//!
//! Invariant: a store that has once had a key never lets anybody in without one, whatever became of its keys.
//! Invariant: there is an admin key that does not expire, for as long as there are keys.

mod caller;
mod error;
mod id;
mod keys;
mod record;
mod token;

pub use caller::Caller;
pub use error::{AccessError, Refusal};
pub use id::{KeyId, KeyIdError};
pub use keys::{ApiKeys, MAX_KEYS, NewKey, RawKey};
pub use record::{KeyInfo, KeyState};
pub use token::Token;
