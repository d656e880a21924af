//! Keys of job records. A UUID of version 7 starts with its time, so jobs lie in the order in which they came.
//!
//! ```text
//! job         20 | job id, 16 bytes
//! checkpoint  21 | job id, 16 bytes
//! journal     22 | job id, 16 bytes
//! ```
//! The kinds 01 to 08 and 81 to 82 are the gallery room's.

use super::job::JobId;

/// A record's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    Job(JobId),
    Checkpoint(JobId),
    Journal(JobId),
}

pub(super) const JOB: u8 = 0x20;
const CHECKPOINT: u8 = 0x21;
const JOURNAL: u8 = 0x22;

impl Key {
    pub(super) fn encode(self) -> Vec<u8> {
        let (kind, id) = match self {
            Self::Job(id) => (JOB, id),
            Self::Checkpoint(id) => (CHECKPOINT, id),
            Self::Journal(id) => (JOURNAL, id),
        };
        let mut key = vec![kind];
        key.extend_from_slice(&id.to_bytes());
        key
    }

    /// `None` for bytes that are no key of a job record.
    pub(super) fn decode(key: &[u8]) -> Option<Self> {
        let (kind, id) = key.split_first()?;
        let id = JobId::from_bytes(id.try_into().ok()?)?;
        match *kind {
            JOB => Some(Self::Job(id)),
            CHECKPOINT => Some(Self::Checkpoint(id)),
            JOURNAL => Some(Self::Journal(id)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_id() -> impl Strategy<Value = JobId> {
        any::<[u8; 16]>().prop_map(|mut bytes| {
            // Version 7 and its variant, as RFC 9562 lays them out.
            bytes[6] = 0x70 | (bytes[6] & 0x0f);
            bytes[8] = 0x80 | (bytes[8] & 0x3f);
            JobId::from_bytes(bytes).unwrap()
        })
    }

    proptest! {
        #[test]
        fn a_key_reads_back_as_it_was_written(kind in 0..3_u8, id in any_id()) {
            let key = match kind {
                0 => Key::Job(id),
                1 => Key::Checkpoint(id),
                _ => Key::Journal(id),
            };
            let bytes = key.encode();
            prop_assert_eq!(bytes.len(), 17);
            prop_assert_eq!(bytes[0], 0x20 + kind);
            prop_assert_eq!(Key::decode(&bytes), Some(key));
            prop_assert_eq!(Key::decode(&bytes[..16]), None);
            let mut longer = bytes;
            longer.push(0);
            prop_assert_eq!(Key::decode(&longer), None);
        }

        #[test]
        fn bytes_that_are_no_key_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..20)) {
            if let Some(key) = Key::decode(&bytes) {
                prop_assert_eq!(key.encode(), bytes);
            }
        }
    }
}
