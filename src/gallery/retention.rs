//! Who agreed to be here, who was last seen when, and whose time is over.

use std::collections::HashMap;
use std::sync::Arc;

use crate::domain::{Consent, DAY_MS, GalleryPolicy, SubjectId, now_ms};
use crate::storage::{Batch, Seal};

use super::catalogue::{Busy, SubjectEntry};
use super::key::{self, Key};
use super::record::{from_json, to_json};
use super::{Gallery, GalleryError};

/// An interaction is written when what the store knows is this much older: a door that is passed all day costs one record.
const COARSE_MS: u64 = 3600 * 1000;

/// Why somebody is to be erased.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overdue {
    /// Their consent has ended.
    ConsentExpired,
    /// They were not seen for as long as the gallery keeps people.
    NotSeen,
}

impl Overdue {
    /// In words.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ConsentExpired => "consent expired",
            Self::NotSeen => "not seen",
        }
    }
}

impl Gallery {
    /// Who may be in it, and for how long.
    #[must_use]
    pub fn policy(&self) -> GalleryPolicy {
        **self.policy.load()
    }

    /// Changes who may be in it; durable when this returns. Who is there without a consent stays, and is enrolled no
    /// further.
    ///
    /// # Errors
    /// [`GalleryError::GalleryNotFound`] or the store's.
    pub fn set_policy(&self, policy: GalleryPolicy) -> Result<(), GalleryError> {
        let _reservation = self.reserve(vec![Busy::Policy]);
        if self.state().deleted {
            return Err(GalleryError::GalleryNotFound(self.doc.id.clone()));
        }
        let mut batch = Batch::default();
        let key = Key::Policy { gallery: self.number };
        batch.put(key.encode(), to_json("policy", &policy)?, Seal::Store);
        self.store.commit(batch)?;
        self.policy.store(Arc::new(policy));
        Ok(())
    }

    /// Writes down what a subject agreed to, in the place of what they agreed to before; durable when this returns.
    ///
    /// # Errors
    /// [`GalleryError::Consent`], [`GalleryError::SubjectNotFound`] or the store's.
    pub fn set_consent(&self, subject: &SubjectId, consent: Consent) -> Result<(), GalleryError> {
        consent.validate(now_ms())?;
        let _reservation = self.reserve(vec![Busy::Subject(subject.clone())]);
        let (number, data_key) = {
            let state = self.state();
            let entry = state.present(subject)?;
            (entry.number, entry.data_key)
        };
        let mut batch = Batch::default();
        let key = Key::Consent { gallery: self.number, subject: number };
        batch.put(key.encode(), to_json("consent", &consent)?, Seal::Data(data_key));
        self.store.commit(batch)?;
        if let Some(entry) = self.state().subjects.get_mut(subject) {
            entry.consent = Some(consent);
        }
        Ok(())
    }

    /// What a subject agreed to, by what is in memory.
    ///
    /// # Errors
    /// [`GalleryError::SubjectNotFound`], [`GalleryError::Erasing`].
    pub fn consent(&self, subject: &SubjectId) -> Result<Option<Consent>, GalleryError> {
        Ok(self.state().present(subject)?.consent.clone())
    }

    /// Notes that somebody was recognised. Kept in memory until [`Gallery::save_interactions`].
    pub fn interacted(&self, subject: &SubjectId, at_ms: u64) {
        self.state().interacted(subject, at_ms);
    }

    /// Writes down who was seen since, to the hour. Says how many.
    ///
    /// # Errors
    /// The store's.
    pub fn save_interactions(&self) -> Result<usize, GalleryError> {
        let due: Vec<SubjectId> = {
            let state = self.state();
            let due = state
                .subjects
                .iter()
                .filter(|(_, entry)| !entry.erasing && entry.last_ms > entry.saved_ms + COARSE_MS);
            due.map(|(subject, _)| subject.clone()).collect()
        };
        let mut saved = 0;
        for part in due.chunks(1_000) {
            let _reservation = self.reserve(part.iter().cloned().map(Busy::Subject).collect());
            let mut batch = Batch::default();
            let mut times = Vec::new();
            for subject in part {
                let state = self.state();
                // Erased meanwhile, or about to be.
                let Ok(entry) = state.present(subject) else { continue };
                let key = Key::Interaction { gallery: self.number, subject: entry.number };
                let seal = Seal::Data(entry.data_key);
                batch.put(key.encode(), entry.last_ms.to_le_bytes().to_vec(), seal);
                times.push((subject, entry.last_ms));
            }
            self.store.commit(batch)?;
            let mut state = self.state();
            for (subject, at_ms) in &times {
                if let Some(entry) = state.subjects.get_mut(*subject) {
                    entry.saved_ms = *at_ms;
                }
            }
            saved += times.len();
        }
        Ok(saved)
    }

    /// Whose time is over, by id.
    #[must_use]
    pub fn overdue(&self, now_ms: u64) -> Vec<(SubjectId, Overdue)> {
        let policy = self.policy();
        let state = self.state();
        let subjects = state.subjects.iter();
        subjects
            .filter_map(|(subject, entry)| Some((subject.clone(), why(entry, policy, now_ms)?)))
            .collect()
    }

    /// Why one subject's time is over; `None` when it is not, or they are gone.
    #[must_use]
    pub fn why_overdue(&self, subject: &SubjectId, now_ms: u64) -> Option<Overdue> {
        let policy = self.policy();
        why(self.state().subjects.get(subject)?, policy, now_ms)
    }

    /// Reads what is known of every subject by their number, and the gallery's policy.
    pub(super) fn load_retention(
        &self,
        names: &HashMap<u64, Arc<SubjectId>>,
    ) -> Result<(), GalleryError> {
        let at = Key::Policy { gallery: self.number }.encode();
        if let Some(text) = self.store.get(&at)? {
            self.policy.store(Arc::new(from_json(&at, &text)?));
        }
        let mut state = self.state();
        for kind in [key::CONSENT, key::INTERACTION] {
            for record in self.store.scan(&key::in_gallery(kind, self.number)) {
                let (at, text) = record?;
                let number = match Key::decode(&at) {
                    Some(Key::Consent { subject, .. } | Key::Interaction { subject, .. }) => {
                        subject
                    }
                    Some(_) | None => return Err(GalleryError::inconsistent(&at, "not its key")),
                };
                let entry = names.get(&number).and_then(|name| state.subjects.get_mut(&**name));
                let entry = entry
                    .ok_or_else(|| GalleryError::inconsistent(&at, "its subject is missing"))?;
                if kind == key::CONSENT {
                    entry.consent = Some(from_json(&at, &text)?);
                } else {
                    let bytes = <[u8; 8]>::try_from(text.as_slice());
                    let bytes = bytes.map_err(|_| GalleryError::inconsistent(&at, "not a time"))?;
                    entry.saved_ms = u64::from_le_bytes(bytes);
                    entry.last_ms = entry.last_ms.max(entry.saved_ms);
                }
            }
        }
        Ok(())
    }
}

fn why(entry: &SubjectEntry, policy: GalleryPolicy, now_ms: u64) -> Option<Overdue> {
    if entry.erasing {
        return None;
    }
    if entry.consent.as_ref().is_some_and(|consent| !consent.holds_at(now_ms)) {
        return Some(Overdue::ConsentExpired);
    }
    let over = u64::from(policy.retention_days?.get()) * DAY_MS;
    (now_ms.saturating_sub(entry.last_ms) >= over).then_some(Overdue::NotSeen)
}
