//! Notes that are numbered and chained: what is asked to be written down is never changed or taken away again.
//!
//! ```text
//! note   f0 | number u64 BE  ->  hash 32 | content
//! head   7f                  ->  number of the last note u64 LE | its hash 32
//! hash   SHA-256(`handclip journal` | number u64 LE | hash of the note before, zeros for the first | content)
//! ```
//! The head is counted by the manifest, so that notes taken off the end show as well; notes are bulk, since a journal only grows and a
//! start should not.

use sha2::{Digest, Sha256};

use super::{StorageError, Store};

/// Key of the head; from `01` to `6f` keys are the callers'.
pub(super) const HEAD_KEY: &[u8] = &[0x7f];
const NOTE: u8 = 0xf0;
/// Problems that a check names; more are as clear as these.
const MOST_PROBLEMS: usize = 100;

/// How long a journal is, and what its last note hashes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct JournalHead {
    /// Number of the last note; notes are numbered from 1.
    pub length: u64,
    /// Hash of the last note.
    pub hash: [u8; 32],
}

impl JournalHead {
    /// The head after one more note.
    #[must_use]
    pub fn after(self, content: &[u8]) -> Self {
        let length = self.length + 1;
        let mut hash = Sha256::new();
        hash.update(b"handclip journal");
        hash.update(length.to_le_bytes());
        hash.update(self.hash);
        hash.update(content);
        Self { length, hash: hash.finalize().into() }
    }

    pub(super) fn to_bytes(self) -> Vec<u8> {
        [&self.length.to_le_bytes()[..], &self.hash].concat()
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (length, hash) = bytes.split_first_chunk::<8>()?;
        Some(Self { length: u64::from_le_bytes(*length), hash: hash.try_into().ok()? })
    }
}

/// A note.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// Its number.
    pub number: u64,
    /// Its hash, over all notes before it too.
    pub hash: [u8; 32],
    /// What was written.
    pub content: Vec<u8>,
}

/// What is wrong with a note.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JournalProblem {
    /// It is not there.
    Missing,
    /// It does not open: its bytes are not those that were written.
    Altered,
    /// It opens, and is not the one that followed the note before.
    Unchained,
    /// It comes after the last one.
    BeyondTheEnd,
}

impl JournalProblem {
    /// In words.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Altered => "altered",
            Self::Unchained => "does not follow the one before",
            Self::BeyondTheEnd => "comes after the end",
        }
    }
}

/// What a check of the whole journal found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct JournalCheck {
    /// The head as it is kept.
    pub head: JournalHead,
    /// What is wrong, by number of note; the first hundred.
    pub problems: Vec<(u64, JournalProblem)>,
}

pub(super) fn note_key(number: u64) -> Vec<u8> {
    [&[NOTE][..], &number.to_be_bytes()].concat()
}

fn number_of(key: &[u8]) -> Option<u64> {
    let [NOTE, number @ ..] = key else { return None };
    Some(u64::from_be_bytes(number.try_into().ok()?))
}

impl Store {
    /// The journal's end.
    ///
    /// # Errors
    /// [`StorageError::Damaged`].
    pub fn journal_head(&self) -> Result<JournalHead, StorageError> {
        let Some(bytes) = self.get(HEAD_KEY)? else { return Ok(JournalHead::default()) };
        JournalHead::from_bytes(&bytes)
            .ok_or_else(|| StorageError::damaged(self.dir(), "the journal's head is not one"))
    }

    /// One note; `None` when there is none of this number.
    ///
    /// # Errors
    /// [`StorageError::Damaged`] when it does not open.
    pub fn note(&self, number: u64) -> Result<Option<Note>, StorageError> {
        let Some(value) = self.get(&note_key(number))? else { return Ok(None) };
        let split = value.split_first_chunk::<32>();
        let (hash, content) =
            split.ok_or_else(|| StorageError::damaged(self.dir(), "a note is cut short"))?;
        Ok(Some(Note { number, hash: *hash, content: content.to_vec() }))
    }

    /// Reads the whole journal and follows its chain. `expected` are heads that were seen before, at which the chain must still
    /// pass: only they tell a journal whose end was taken off with everything else.
    ///
    /// # Errors
    /// [`StorageError::Damaged`] when the log or the head cannot be read.
    pub fn check_journal(&self, expected: &[JournalHead]) -> Result<JournalCheck, StorageError> {
        let head = self.journal_head()?;
        let mut check = JournalCheck { head, problems: Vec::new() };
        let mut found = |number, problem| {
            if check.problems.len() < MOST_PROBLEMS {
                check.problems.push((number, problem));
            }
        };
        let mut last = JournalHead::default();
        for number in 1..=head.length {
            let expected = expected.iter().find(|head| head.length == number);
            match self.note(number) {
                Ok(Some(note)) => {
                    let now = last.after(&note.content);
                    // After one that is missing the chain is taken up again where it goes on.
                    let broken = now.hash != note.hash && last.length + 1 == number;
                    let another = expected.is_some_and(|head| head.hash != note.hash);
                    let at_the_end = number == head.length && note.hash != head.hash;
                    if broken || another || at_the_end {
                        found(number, JournalProblem::Unchained);
                    }
                    last = JournalHead { length: number, hash: note.hash };
                }
                Ok(None) => found(number, JournalProblem::Missing),
                Err(StorageError::Damaged { .. }) => found(number, JournalProblem::Altered),
                Err(error) => return Err(error),
            }
        }
        for beyond in expected.iter().filter(|expected| expected.length > head.length) {
            found(beyond.length, JournalProblem::Missing);
        }
        for number in self.keys(&[NOTE])?.iter().filter_map(|key| number_of(key)) {
            if number > head.length {
                found(number, JournalProblem::BeyondTheEnd);
            }
        }
        Ok(check)
    }
}
