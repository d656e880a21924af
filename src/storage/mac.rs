use sha2::{Digest, Sha256};

/// HMAC-SHA-256 (RFC 2104) over the concatenation of `parts`.
#[must_use]
pub fn hmac_sha256(key: &[u8; 32], parts: &[&[u8]]) -> [u8; 32] {
    // A 32-byte key is shorter than the hash's block, so it is padded and never hashed first.
    let pad = |byte: u8| {
        let mut block = [byte; 64];
        block.iter_mut().zip(key).for_each(|(b, k)| *b ^= k);
        block
    };
    let mut inner = Sha256::new();
    inner.update(pad(0x36));
    parts.iter().for_each(|part| inner.update(part));
    let mut outer = Sha256::new();
    outer.update(pad(0x5c));
    outer.update(inner.finalize());
    outer.finalize().into()
}

/// Compares two MACs in time that does not depend on where they differ.
#[must_use]
pub fn macs_equal(a: &[u8; 32], b: &[u8; 32]) -> bool {
    std::hint::black_box(a.iter().zip(b).fold(0_u8, |differ, (x, y)| differ | (x ^ y))) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hmac_matches_the_published_vectors() {
        // RFC 4231, test cases 1 and 3, whose keys are zero-padded here to 32 bytes, which
        // HMAC does with short keys itself.
        let mut key = [0_u8; 32];
        key[..20].fill(0x0b);
        let hex = |bytes: [u8; 32]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        assert_eq!(
            hex(hmac_sha256(&key, &[b"Hi ", b"There"])),
            "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"
        );
        key[..20].fill(0xaa);
        assert_eq!(
            hex(hmac_sha256(&key, &[&[0xdd; 50]])),
            "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe"
        );
    }

    #[test]
    fn macs_differ_by_any_bit() {
        let mac = [7_u8; 32];
        assert!(macs_equal(&mac, &mac));
        for bit in 0..256 {
            let mut other = mac;
            other[bit / 8] ^= 1 << (bit % 8);
            assert!(!macs_equal(&mac, &other));
        }
    }
}
