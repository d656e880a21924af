//! Keys of gallery records. Numbers are big-endian, so records lie in order of enrolment; no key
//! says a name, because deleted keys stay in the log.
//!
//! ```text
//! gallery         01 | gallery u32
//! subject         02 | gallery u32 | subject u64
//! sample          03 | gallery u32 | subject u64 | sample u64
//! template        04 | gallery u32 | subject u64 | sample u64 | generation u64
//! tombstone       05 | gallery u32 | keyed hash of the subject's id, 16 bytes | receipt 16 bytes
//! erasure begun   06 | gallery u32 | subject u64
//! deletion begun  07 | gallery u32
//! calibration     08 | gallery u32 | generation u64
//! deployment      09
//! consent         0a | gallery u32 | subject u64
//! interaction     0b | gallery u32 | subject u64
//! policy          0c | gallery u32
//! deletion        0d | gallery u32
//! image chunk     81 | gallery u32 | subject u64 | sample u64 | chunk u32
//! segment chunk   82 | gallery u32 | chunk u32
//! ```
//! From 80 on: bulk records, see [`crate::storage::Batch::put`].

/// A record's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    Gallery { gallery: u32 },
    Subject { gallery: u32, subject: u64 },
    Sample { gallery: u32, subject: u64, sample: u64 },
    Template { gallery: u32, subject: u64, sample: u64, generation: u64 },
    Tombstone { gallery: u32, name: [u8; 16], receipt: [u8; 16] },
    ErasureBegun { gallery: u32, subject: u64 },
    DeletionBegun { gallery: u32 },
    Calibration { gallery: u32, generation: u64 },
    Deployment,
    Consent { gallery: u32, subject: u64 },
    Interaction { gallery: u32, subject: u64 },
    Policy { gallery: u32 },
    Deletion { gallery: u32 },
    ImageChunk { gallery: u32, subject: u64, sample: u64, chunk: u32 },
    SegmentChunk { gallery: u32, chunk: u32 },
}

pub(super) const GALLERY: u8 = 0x01;
pub(super) const SUBJECT: u8 = 0x02;
pub(super) const SAMPLE: u8 = 0x03;
pub(super) const TEMPLATE: u8 = 0x04;
pub(super) const TOMBSTONE: u8 = 0x05;
pub(super) const ERASURE_BEGUN: u8 = 0x06;
pub(super) const DELETION_BEGUN: u8 = 0x07;
pub(super) const CALIBRATION: u8 = 0x08;
pub(super) const DEPLOYMENT: u8 = 0x09;
pub(super) const CONSENT: u8 = 0x0a;
pub(super) const INTERACTION: u8 = 0x0b;
pub(super) const POLICY: u8 = 0x0c;
pub(super) const DELETION: u8 = 0x0d;
pub(super) const IMAGE_CHUNK: u8 = 0x81;
pub(super) const SEGMENT_CHUNK: u8 = 0x82;

/// Kinds of which a subject has records.
pub(super) const OF_SUBJECT: [u8; 6] =
    [SUBJECT, SAMPLE, TEMPLATE, CONSENT, INTERACTION, IMAGE_CHUNK];
/// Kinds of which a gallery has records, itself and its deletion left out.
pub(super) const OF_GALLERY: [u8; 11] = [
    SUBJECT,
    SAMPLE,
    TEMPLATE,
    TOMBSTONE,
    ERASURE_BEGUN,
    CALIBRATION,
    CONSENT,
    INTERACTION,
    POLICY,
    IMAGE_CHUNK,
    SEGMENT_CHUNK,
];

/// The start of every key of a kind in a gallery.
pub(super) fn in_gallery(kind: u8, gallery: u32) -> Vec<u8> {
    let mut prefix = vec![kind];
    prefix.extend_from_slice(&gallery.to_be_bytes());
    prefix
}

/// The start of every key of a kind for a subject.
pub(super) fn of_subject(kind: u8, gallery: u32, subject: u64) -> Vec<u8> {
    let mut prefix = in_gallery(kind, gallery);
    prefix.extend_from_slice(&subject.to_be_bytes());
    prefix
}

/// The start of every key of a kind for a sample.
pub(super) fn of_sample(kind: u8, gallery: u32, subject: u64, sample: u64) -> Vec<u8> {
    let mut prefix = of_subject(kind, gallery, subject);
    prefix.extend_from_slice(&sample.to_be_bytes());
    prefix
}

impl Key {
    pub(super) fn encode(self) -> Vec<u8> {
        match self {
            Self::Gallery { gallery } => in_gallery(GALLERY, gallery),
            Self::Subject { gallery, subject } => of_subject(SUBJECT, gallery, subject),
            Self::Sample { gallery, subject, sample } => {
                of_sample(SAMPLE, gallery, subject, sample)
            }
            Self::Template { gallery, subject, sample, generation } => {
                let mut key = of_sample(TEMPLATE, gallery, subject, sample);
                key.extend_from_slice(&generation.to_be_bytes());
                key
            }
            Self::Tombstone { gallery, name, receipt } => {
                let mut key = in_gallery(TOMBSTONE, gallery);
                key.extend_from_slice(&name);
                key.extend_from_slice(&receipt);
                key
            }
            Self::ErasureBegun { gallery, subject } => of_subject(ERASURE_BEGUN, gallery, subject),
            Self::DeletionBegun { gallery } => in_gallery(DELETION_BEGUN, gallery),
            Self::Calibration { gallery, generation } => {
                let mut key = in_gallery(CALIBRATION, gallery);
                key.extend_from_slice(&generation.to_be_bytes());
                key
            }
            Self::Deployment => vec![DEPLOYMENT],
            Self::Consent { gallery, subject } => of_subject(CONSENT, gallery, subject),
            Self::Interaction { gallery, subject } => of_subject(INTERACTION, gallery, subject),
            Self::Policy { gallery } => in_gallery(POLICY, gallery),
            Self::Deletion { gallery } => in_gallery(DELETION, gallery),
            Self::ImageChunk { gallery, subject, sample, chunk } => {
                let mut key = of_sample(IMAGE_CHUNK, gallery, subject, sample);
                key.extend_from_slice(&chunk.to_be_bytes());
                key
            }
            Self::SegmentChunk { gallery, chunk } => {
                let mut key = in_gallery(SEGMENT_CHUNK, gallery);
                key.extend_from_slice(&chunk.to_be_bytes());
                key
            }
        }
    }

    /// `None` for bytes that are no key of a gallery record.
    pub(super) fn decode(key: &[u8]) -> Option<Self> {
        let mut reader = Reader(key);
        let [kind] = reader.take()?;
        if kind == DEPLOYMENT {
            return reader.0.is_empty().then_some(Self::Deployment);
        }
        let gallery = u32::from_be_bytes(reader.take()?);
        let decoded = match kind {
            GALLERY => Self::Gallery { gallery },
            SUBJECT => Self::Subject { gallery, subject: reader.number()? },
            SAMPLE => Self::Sample { gallery, subject: reader.number()?, sample: reader.number()? },
            TEMPLATE => Self::Template {
                gallery,
                subject: reader.number()?,
                sample: reader.number()?,
                generation: reader.number()?,
            },
            TOMBSTONE => Self::Tombstone { gallery, name: reader.take()?, receipt: reader.take()? },
            ERASURE_BEGUN => Self::ErasureBegun { gallery, subject: reader.number()? },
            DELETION_BEGUN => Self::DeletionBegun { gallery },
            CONSENT => Self::Consent { gallery, subject: reader.number()? },
            INTERACTION => Self::Interaction { gallery, subject: reader.number()? },
            POLICY => Self::Policy { gallery },
            DELETION => Self::Deletion { gallery },
            CALIBRATION => Self::Calibration { gallery, generation: reader.number()? },
            IMAGE_CHUNK => Self::ImageChunk {
                gallery,
                subject: reader.number()?,
                sample: reader.number()?,
                chunk: u32::from_be_bytes(reader.take()?),
            },
            SEGMENT_CHUNK => {
                Self::SegmentChunk { gallery, chunk: u32::from_be_bytes(reader.take()?) }
            }
            _ => return None,
        };
        reader.0.is_empty().then_some(decoded)
    }
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    fn number(&mut self) -> Option<u64> {
        self.take().map(u64::from_be_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_key() -> impl Strategy<Value = Key> {
        let numbers = (any::<u32>(), any::<u64>(), any::<u64>(), any::<u64>(), any::<u32>());
        (0..15_u8, numbers, any::<[u8; 16]>(), any::<[u8; 16]>()).prop_map(
            |(kind, (gallery, subject, sample, generation, chunk), name, receipt)| match kind {
                0 => Key::Gallery { gallery },
                1 => Key::Subject { gallery, subject },
                2 => Key::Sample { gallery, subject, sample },
                3 => Key::Template { gallery, subject, sample, generation },
                4 => Key::Tombstone { gallery, name, receipt },
                5 => Key::ErasureBegun { gallery, subject },
                6 => Key::DeletionBegun { gallery },
                7 => Key::Calibration { gallery, generation },
                8 => Key::ImageChunk { gallery, subject, sample, chunk },
                9 => Key::Deployment,
                10 => Key::Consent { gallery, subject },
                11 => Key::Interaction { gallery, subject },
                12 => Key::Policy { gallery },
                13 => Key::Deletion { gallery },
                _ => Key::SegmentChunk { gallery, chunk },
            },
        )
    }

    proptest! {
        #[test]
        fn a_key_reads_back_as_it_was_written(key in any_key()) {
            let bytes = key.encode();
            prop_assert_eq!(Key::decode(&bytes), Some(key));
            prop_assert_eq!(Key::decode(&bytes[..bytes.len() - 1]), None);
            let mut longer = bytes;
            longer.push(0);
            prop_assert_eq!(Key::decode(&longer), None);
        }

        #[test]
        fn keys_of_a_sample_lie_in_order_of_enrolment(a in any::<u64>(), b in any::<u64>()) {
            let key = |sample| Key::Sample { gallery: 1, subject: 7, sample }.encode();
            prop_assert_eq!(key(a).cmp(&key(b)), a.cmp(&b));
        }
    }

    #[test]
    fn keys_are_laid_out_as_documented() {
        let key = Key::ImageChunk { gallery: 1, subject: 2, sample: 3, chunk: 4 };
        let expected = [&[0x81_u8][..], &[0, 0, 0, 1], &[0, 0, 0, 0, 0, 0, 0, 2]].concat();
        assert!(key.encode().starts_with(&expected));
        assert_eq!(key.encode().len(), 1 + 4 + 8 + 8 + 4);
    }
}
