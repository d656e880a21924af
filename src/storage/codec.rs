//! What a record looks like at rest.
//!
//! ```text
//! under the store's key    01 | nonce 24 | ciphertext | tag 16
//! under a data key         02 | slot u32 LE | serial u64 LE | nonce 24 | ciphertext | tag 16
//! ```
//! XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha-03): nonces so long that random ones never meet.
//! Associated data: `handclip record` | format u16 LE | the record's whole key | the bytes before
//! the nonce. A record moved to another key, or to another format, does not open.

use chacha20::{R20, hchacha};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use zeroize::Zeroizing;

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
    let mut out = Vec::with_capacity(NONCE + plain.len() + TAG);
    out.extend_from_slice(&nonce);
    out.extend_from_slice(plain);
    let tag = cipher(key, &nonce).and_then(|(cipher, rest)| {
        cipher.seal_in_place_separate_tag(rest, Aad::from(context), &mut out[NONCE..]).ok()
    });
    let too_large = || StorageError::TooLarge { got: plain.len(), max: super::MAX_VALUE };
    out.extend_from_slice(tag.ok_or_else(too_large)?.as_ref());
    Ok(out)
}

/// Undoes [`encrypt`]; `None` when the bytes, the key or the context are not the same.
pub(super) fn decrypt(key: &[u8; 32], context: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
    let mut plain = Vec::new();
    decrypt_into(&mut plain, key, context, sealed)?;
    Some(plain)
}

/// The same into a buffer, whose content is lost.
fn decrypt_into(plain: &mut Vec<u8>, key: &[u8; 32], context: &[u8], sealed: &[u8]) -> Option<()> {
    let (nonce, body) = sealed.split_first_chunk::<NONCE>()?;
    let (cipher, rest) = cipher(key, nonce)?;
    plain.clear();
    plain.extend_from_slice(body);
    let length = cipher.open_in_place(rest, Aad::from(context), plain).ok()?.len();
    plain.truncate(length);
    Some(())
}

/// The cipher with a short nonce that stands for one with a long nonce: the beginning of the nonce goes into the key.
fn cipher(key: &[u8; 32], nonce: &[u8; NONCE]) -> Option<(LessSafeKey, Nonce)> {
    let (beginning, rest) = nonce.split_at(16);
    let mut block = [0; 16];
    block.copy_from_slice(beginning);
    let derived = Zeroizing::new(<[u8; 32]>::from(hchacha::<R20>(&(*key).into(), &block.into())));
    let mut short = [0; NONCE_LEN];
    short[NONCE_LEN - rest.len()..].copy_from_slice(rest);
    let key = UnboundKey::new(&CHACHA20_POLY1305, &*derived).ok()?;
    Some((LessSafeKey::new(key), Nonce::assume_unique_for_key(short)))
}

/// Seals and opens records.
pub(super) struct Codec {
    store_key: Zeroizing<[u8; 32]>,
}

/// What opening one record leaves for the next: its data key, since most of a subject's records lie together, and room. Held by whoever
/// reads many records, no longer than that takes.
#[derive(Default)]
pub(super) struct Opener {
    last: Option<(DataKey, Zeroizing<[u8; 32]>)>,
    context: Vec<u8>,
    plain: Vec<u8>,
}

impl Opener {
    /// The content of the record that was opened last.
    pub(super) fn into_plain(self) -> Vec<u8> {
        self.plain
    }
}

impl Codec {
    pub(super) fn new(store_key: Zeroizing<[u8; 32]>) -> Self {
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
        let mut context = Vec::new();
        put_context(&mut context, key, &out);
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
        let mut opener = Opener::default();
        let opened = self.open_next(slots, &mut opener, key, sealed)?.is_some();
        Ok(opened.then(|| opener.into_plain()))
    }

    /// The same for one of many.
    pub(super) fn open_next<'a>(
        &self,
        slots: &Slots,
        opener: &'a mut Opener,
        key: &[u8],
        sealed: &[u8],
    ) -> Result<Option<&'a [u8]>, StorageError> {
        let Some((seal, head)) = parse_head(sealed) else { return Ok(None) };
        let Opener { last, context, plain } = opener;
        put_context(context, key, head);
        let with = match (seal, &mut *last) {
            (Seal::Store, _) => &self.store_key,
            (Seal::Data(wanted), Some((held, data_key))) if wanted == *held => data_key,
            (Seal::Data(wanted), _) => &last.insert((wanted, slots.unwrap(wanted)?)).1,
        };
        Ok(decrypt_into(plain, with, context, &sealed[head.len()..]).map(|()| plain.as_slice()))
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

fn put_context(context: &mut Vec<u8>, key: &[u8], head: &[u8]) {
    context.clear();
    context.extend_from_slice(b"handclip record");
    context.extend_from_slice(&RECORD_FORMAT.to_le_bytes());
    context.extend_from_slice(key);
    context.extend_from_slice(head);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::hex;

    /// draft-irtf-cfrg-xchacha-03, appendix A.3.1.
    #[test]
    fn the_cipher_is_that_of_the_published_vector() {
        let key: [u8; 32] = std::array::from_fn(|at| 0x80 + at as u8);
        let nonce: [u8; NONCE] = std::array::from_fn(|at| 0x40 + at as u8);
        let context = [0x50, 0x51, 0x52, 0x53, 0xc0, 0xc1, 0xc2, 0xc3, 0xc4, 0xc5, 0xc6, 0xc7];
        let plain = b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, \
            sunscreen would be it.";
        let (cipher, rest) = cipher(&key, &nonce).unwrap();
        let mut sealed = plain.to_vec();
        cipher.seal_in_place_append_tag(rest, Aad::from(context), &mut sealed).unwrap();
        assert_eq!(
            hex(&sealed),
            "bd6d179d3e83d43b9576579493c0e939572a1700252bfaccbed2902c21396cbb731c7f1b0b4aa6440bf3a82f4eda7e39\
             ae64c6708c54c216cb96b72e1213b4522f8c9ba40db5d945b11b69b982c1bb9e3f3fac2bc369488f76b2383565d3fff9\
             21f9664c97637da9768812f615c68b13b52ec0875924c1c7987947deafd8780acf49"
        );
        let whole = [&nonce[..], &sealed].concat();
        assert_eq!(decrypt(&key, &context, &whole).unwrap(), plain);
    }

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
