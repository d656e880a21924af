//! What a record looks like at rest.
//!
//! ```text
//! under the store's key    01 | nonce 24 | ciphertext | tag 16
//! under a data key         02 | slot u32 LE | serial u64 LE | nonce 24 | ciphertext | tag 16
//! ```
//! Associated data: `handclip record` | format u16 LE | the record's whole key | the bytes before
//! the nonce. A record moved to another key, or to another format, does not open.

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};

use super::StorageError;
use super::slots::{DataKey, Slots};

/// Bumped when the layout of records changes; part of what every record is sealed with.
pub(super) const RECORD_FORMAT: u16 = 1;
const NONCE: usize = 24;
const TAG: usize = 16;

/// Which key a record is sealed under.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seal {
    /// The store's own: bookkeeping that says nothing of a person's hand.
    Store,
    /// A data key: gone when the key is destroyed.
    Data(DataKey),
}

/// Encrypts under `key`, bound to `context`: `nonce | ciphertext | tag`.
pub(super) fn encrypt(
    key: &[u8; 32],
    context: &[u8],
    plain: &[u8],
) -> Result<Vec<u8>, StorageError> {
    let mut nonce = [0_u8; NONCE];
    getrandom::fill(&mut nonce).map_err(|_| StorageError::Random)?;
    let cipher = XChaCha20Poly1305::new(&(*key).into());
    let sealed = cipher
        .encrypt(&XNonce::from(nonce), Payload { msg: plain, aad: context })
        .map_err(|_| StorageError::TooLarge { got: plain.len(), max: super::MAX_VALUE })?;
    let mut out = Vec::with_capacity(NONCE + sealed.len());
    out.extend_from_slice(&nonce);
    out.extend_from_slice(&sealed);
    Ok(out)
}

/// Undoes [`encrypt`]; `None` when the bytes, the key or the context are not the same.
pub(super) fn decrypt(key: &[u8; 32], context: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
    let (nonce, body) = sealed.split_first_chunk::<NONCE>()?;
    XChaCha20Poly1305::new(&(*key).into())
        .decrypt(&XNonce::from(*nonce), Payload { msg: body, aad: context })
        .ok()
}

/// Seals and opens records.
pub(super) struct Codec {
    store_key: zeroize::Zeroizing<[u8; 32]>,
}

impl Codec {
    pub(super) fn new(store_key: zeroize::Zeroizing<[u8; 32]>) -> Self {
        Self { store_key }
    }

    pub(super) fn seal(
        &self,
        slots: &Slots,
        key: &[u8],
        plain: &[u8],
        seal: Seal,
    ) -> Result<Vec<u8>, StorageError> {
        let mut out = head(seal);
        let context = context(key, &out);
        let body = match seal {
            Seal::Store => encrypt(&self.store_key, &context, plain)?,
            Seal::Data(data_key) => encrypt(&*slots.unwrap(data_key)?, &context, plain)?,
        };
        out.extend_from_slice(&body);
        Ok(out)
    }

    /// `Ok(None)` when the record does not open: it, its key or its place was altered.
    pub(super) fn open(
        &self,
        slots: &Slots,
        key: &[u8],
        sealed: &[u8],
    ) -> Result<Option<Vec<u8>>, StorageError> {
        let Some((seal, head)) = parse_head(sealed) else { return Ok(None) };
        let context = context(key, head);
        let body = &sealed[head.len()..];
        match seal {
            Seal::Store => Ok(decrypt(&self.store_key, &context, body)),
            Seal::Data(data_key) => Ok(decrypt(&*slots.unwrap(data_key)?, &context, body)),
        }
    }
}

/// Bytes a record takes at rest beyond its content.
pub(super) const OVERHEAD: usize = 1 + 4 + 8 + NONCE + TAG;

fn head(seal: Seal) -> Vec<u8> {
    match seal {
        Seal::Store => vec![1],
        Seal::Data(DataKey { slot, serial }) => {
            let mut head = Vec::with_capacity(13);
            head.push(2);
            head.extend_from_slice(&slot.to_le_bytes());
            head.extend_from_slice(&serial.to_le_bytes());
            head
        }
    }
}

fn parse_head(sealed: &[u8]) -> Option<(Seal, &[u8])> {
    match sealed.first()? {
        1 => Some((Seal::Store, &sealed[..1])),
        2 => {
            let (slot, rest) = sealed[1..].split_first_chunk::<4>()?;
            let (serial, _) = rest.split_first_chunk::<8>()?;
            let data_key =
                DataKey { slot: u32::from_le_bytes(*slot), serial: u64::from_le_bytes(*serial) };
            Some((Seal::Data(data_key), &sealed[..13]))
        }
        _ => None,
    }
}

fn context(key: &[u8], head: &[u8]) -> Vec<u8> {
    let mut context = b"handclip record".to_vec();
    context.extend_from_slice(&RECORD_FORMAT.to_le_bytes());
    context.extend_from_slice(key);
    context.extend_from_slice(head);
    context
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_opens_only_where_and_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let slots = Slots::open(&dir.path().join("keys.slots"), [1; 32].into()).unwrap();
        let codec = Codec::new([2; 32].into());
        let data_key = slots.create().unwrap();
        for seal in [Seal::Store, Seal::Data(data_key)] {
            let sealed = codec.seal(&slots, b"key", b"a template", seal).unwrap();
            assert!(sealed.len() <= 10 + OVERHEAD);
            let open = |key: &[u8], bytes: &[u8]| codec.open(&slots, key, bytes).ok().flatten();
            assert_eq!(open(b"key", &sealed).unwrap(), b"a template");
            assert_eq!(open(b"kez", &sealed), None, "moved to another key");
            for bit in 0..sealed.len() * 8 {
                let mut altered = sealed.clone();
                altered[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(open(b"key", &altered), None, "bit {bit}");
            }
            for len in 0..sealed.len() {
                assert_eq!(open(b"key", &sealed[..len]), None, "cut to {len}");
            }
        }
    }
}
