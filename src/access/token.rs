use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::Zeroizing;

use crate::storage::StorageError;

use super::error::Refusal;
use super::id::{KeyId, KeyIdError};

/// What every token begins with, so that scanners for leaked secrets know one.
const PREFIX: &str = "hck_";
const SECRET_BYTES: usize = 32;
/// Length of the secret as text.
const SECRET_TEXT: usize = 43;

/// The part of a token that nobody but its holder knows. Zeroed when dropped, never printed.
pub(super) struct Secret(Zeroizing<[u8; SECRET_BYTES]>);

impl Secret {
    pub(super) fn new() -> Result<Self, StorageError> {
        let mut bytes = Zeroizing::new([0; SECRET_BYTES]);
        getrandom::fill(bytes.as_mut()).map_err(|_| StorageError::Random)?;
        Ok(Self(bytes))
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &*self.0
    }
}

/// A key as its holder sends it. Never printed by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(Zeroizing<String>);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

impl Token {
    pub(super) fn new(id: KeyId, secret: &Secret) -> Self {
        let secret = Zeroizing::new(URL_SAFE_NO_PAD.encode(secret.bytes()));
        Self(Zeroizing::new(format!("{PREFIX}{id}_{}", *secret)))
    }

    /// The text to send.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Takes a text apart.
    pub(super) fn parse(text: &str) -> Result<(KeyId, Secret), Refusal> {
        let parts = text.strip_prefix(PREFIX).and_then(|rest| rest.split_once('_'));
        let (id, secret) = parts.ok_or(Refusal::Malformed)?;
        let id = id.parse().map_err(|KeyIdError| Refusal::Malformed)?;
        if secret.len() != SECRET_TEXT {
            return Err(Refusal::Malformed);
        }
        let mut bytes = Zeroizing::new([0; SECRET_BYTES]);
        match URL_SAFE_NO_PAD.decode_slice(secret, bytes.as_mut()) {
            Ok(SECRET_BYTES) => Ok((id, Secret(bytes))),
            Ok(_) | Err(_) => Err(Refusal::Malformed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_reads_back_and_nothing_else_does() {
        let (id, secret) = (KeyId::new().unwrap(), Secret::new().unwrap());
        let token = Token::new(id, &secret);
        let (read, again) = Token::parse(token.expose()).unwrap();
        assert_eq!((read, again.bytes()), (id, secret.bytes()));
        assert_eq!(format!("{token:?}"), "Token(..)");
        assert_eq!(id.to_string().parse(), Ok(id));
        let text = token.expose();
        for bad in [
            "",
            "hck_",
            &text[1..],
            &text[..text.len() - 1],
            &format!("{text}A"),
            &text.to_uppercase(),
            &text.replacen("hck_", "hck_z", 1),
            &format!("{}é", &text[..text.len() - 2]),
        ] {
            assert_eq!(Token::parse(bad).err(), Some(Refusal::Malformed), "{bad}");
        }
    }
}
