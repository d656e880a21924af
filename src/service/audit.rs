//! Who did what: a line in the store's journal before anything is changed, and one on how it went.
//!
//! A line that cannot be written keeps the change from being made. Lines name galleries, models and keys; people by a keyed hash,
//! which only this store's keys make, so that a name that was erased is nowhere. Nothing biometric is in them.

use std::future::Future;

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use zeroize::Zeroizing;

use crate::access::Caller;
use crate::domain::{GalleryId, SubjectId, hex, now_ms};
use crate::storage::{Batch, JournalHead, Note, Store, hmac_sha256};

use super::error::ServiceError;
use super::{Service, blocking};

/// Most lines of a page.
const MAX_PAGE: usize = 1_000;
/// Most lines that are read for a page: where few are wanted of many, the next page goes on.
const MAX_READ: u64 = 20_000;

/// What is about to be done.
#[derive(Debug, Clone, Default)]
pub(super) struct Deed {
    action: &'static str,
    gallery: Option<GalleryId>,
    /// A line each, with what is done to them where it is not the same for all.
    subjects: Vec<(SubjectId, Option<String>)>,
    about: Option<String>,
    erases: bool,
}

impl Deed {
    pub(super) fn new(action: &'static str) -> Self {
        Self { action, ..Self::default() }
    }

    /// One that is written even where the disk is full.
    pub(super) fn erasing(action: &'static str) -> Self {
        Self { erases: true, ..Self::new(action) }
    }

    pub(super) fn gallery(mut self, gallery: &GalleryId) -> Self {
        self.gallery = Some(gallery.clone());
        self
    }

    pub(super) fn subject(mut self, subject: &SubjectId) -> Self {
        self.subjects.push((subject.clone(), None));
        self
    }

    /// One of several, and what is done to this one.
    pub(super) fn subject_about(mut self, subject: &SubjectId, about: impl ToString) -> Self {
        self.subjects.push((subject.clone(), Some(about.to_string())));
        self
    }

    /// What else it is done to: a model, a key, a job. Never anything of a person.
    pub(super) fn about(mut self, about: impl ToString) -> Self {
        self.about = Some(about.to_string().chars().take(200).collect());
        self
    }
}

/// How what a line says ended.
#[derive(Debug, Clone, Default)]
pub(super) struct Outcome {
    pub(super) done: bool,
    /// What was not, of several.
    pub(super) about: Option<String>,
}

impl Outcome {
    pub(super) fn of(done: bool) -> Self {
        Self { done, about: None }
    }
}

/// A line as it is written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditLine {
    /// When, milliseconds since 1970.
    pub at_ms: u64,
    /// Who: a key's id, `local` for whoever has the data directory or a server without keys, `retention` for the server itself.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub by: String,
    /// What was about to be done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<String>,
    /// In which gallery.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gallery: Option<String>,
    /// To whom: a keyed hash of the subject's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// To what else; with an outcome, how much of it was done where that is not all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub about: Option<String>,
    /// Instead of an action: the number of the line whose action ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome_of: Option<u64>,
    /// How it ended: `done` or `refused`. Where no line says so the server ended first: then it was done wholly or not at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<String>,
}

/// A line and its place in the chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditEntry {
    /// Its number, from 1.
    pub number: u64,
    /// SHA-256 over the number, the hash of the line before and the content, in hexadecimal.
    pub hash: String,
    /// The line as it was written, JSON.
    pub content: String,
    /// The same, read.
    pub line: AuditLine,
}

/// The end of the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditHead {
    /// Number of the last line.
    pub number: u64,
    /// Its hash, in hexadecimal. Kept elsewhere it tells later whether lines were taken away.
    pub hash: String,
}

impl From<JournalHead> for AuditHead {
    fn from(head: JournalHead) -> Self {
        Self { number: head.length, hash: hex(&head.hash) }
    }
}

impl AuditHead {
    fn expected(&self) -> Result<JournalHead, ServiceError> {
        let problem = || ServiceError::Invalid {
            field: "expect",
            problem: "must be a line's number and its hash, 64 hexadecimal digits".to_owned(),
        };
        let hash: crate::domain::Fingerprint = self.hash.parse().map_err(|_| problem())?;
        Ok(JournalHead { length: self.number, hash: hash.0 })
    }
}

/// Some lines, the oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditPage {
    /// The lines.
    pub entries: Vec<AuditEntry>,
    /// The end of the journal.
    pub head: AuditHead,
    /// Give this as `after` for the next page; left out on the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_after: Option<u64>,
}

/// What a check of the journal found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditCheckView {
    /// Whether every line is there, unaltered, in its place.
    pub sound: bool,
    /// The end of the journal.
    pub head: AuditHead,
    /// What is wrong: the first hundred.
    pub problems: Vec<AuditProblemView>,
}

/// A line that is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditProblemView {
    /// Its number.
    pub number: u64,
    /// `missing`, `altered`, `does not follow the one before`, `comes after the end`.
    pub problem: String,
}

/// Which lines are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct AuditQuery {
    /// Lines after this number; 0, the default, for the first.
    #[param(value_type = Option<u64>, default = 0)]
    pub after: u64,
    /// Most lines, 1 to 1000.
    #[param(value_type = Option<usize>, default = 100, minimum = 1, maximum = 1000)]
    pub limit: usize,
    /// Only of this gallery.
    #[param(value_type = Option<String>)]
    pub gallery: Option<GalleryId>,
    /// Only of this subject.
    #[param(value_type = Option<String>)]
    pub subject: Option<SubjectId>,
}

/// The journal of a store, read as lines. Cheap to clone.
#[derive(Clone)]
pub(super) struct AuditLog {
    store: Store,
    name_key: Zeroizing<[u8; 32]>,
}

/// A deed that was written down and has not ended.
pub(super) struct Begun {
    first: u64,
    lines: u64,
    erases: bool,
}

impl AuditLog {
    pub(super) fn new(store: Store) -> Self {
        let name_key = store.derive_key("audited name");
        Self { store, name_key }
    }

    fn name(&self, subject: &SubjectId) -> String {
        hex(&hmac_sha256(&self.name_key, &[subject.as_str().as_bytes()])[..16])
    }

    /// Writes down what is about to be done; durable when this returns.
    pub(super) fn begin(&self, by: &str, deed: &Deed) -> Result<Begun, ServiceError> {
        let line = AuditLine {
            at_ms: now_ms(),
            by: by.to_owned(),
            action: Some(deed.action.to_owned()),
            gallery: deed.gallery.as_ref().map(ToString::to_string),
            about: deed.about.clone(),
            ..AuditLine::default()
        };
        let mut batch = if deed.erases { Batch::of_erasure() } else { Batch::default() };
        if deed.subjects.is_empty() {
            batch.note(content(&line)?);
        }
        for (subject, about) in &deed.subjects {
            let about = about.clone().or_else(|| line.about.clone());
            let line = AuditLine { subject: Some(self.name(subject)), about, ..line.clone() };
            batch.note(content(&line)?);
        }
        let lines = deed.subjects.len().max(1) as u64;
        Ok(Begun { first: self.store.committed(batch)?, lines, erases: deed.erases })
    }

    /// Writes down how it went, for each line; the last of `outcomes` is that of all further ones. A crash may take these lines, and
    /// nothing else.
    pub(super) fn end(&self, begun: &Begun, outcomes: &[Outcome]) {
        let mut batch = if begun.erases { Batch::of_erasure() } else { Batch::default() };
        let line = |at: u64| {
            let outcome =
                outcomes.get(at as usize).or(outcomes.last()).cloned().unwrap_or_default();
            AuditLine {
                at_ms: now_ms(),
                outcome_of: Some(begun.first + at),
                outcome: Some(if outcome.done { "done" } else { "refused" }.to_owned()),
                about: outcome.about,
                ..AuditLine::default()
            }
        };
        let contents: Result<Vec<Vec<u8>>, ServiceError> =
            (0..begun.lines).map(|at| content(&line(at))).collect();
        let written = contents.and_then(|contents| {
            contents.into_iter().for_each(|content| batch.note(content));
            Ok(self.store.commit_later(batch)?)
        });
        if let Err(error) = written {
            tracing::warn!(%error, "how something went is not in the audit log");
        }
    }

    /// Does something between its two lines.
    pub(super) fn around<T>(
        &self,
        by: &str,
        deed: &Deed,
        work: impl FnOnce() -> Result<T, ServiceError>,
    ) -> Result<T, ServiceError> {
        let begun = self.begin(by, deed)?;
        let result = work();
        self.end(&begun, &[Outcome::of(result.is_ok())]);
        result
    }

    pub(super) fn page(&self, query: &AuditQuery) -> Result<AuditPage, ServiceError> {
        if !(1..=MAX_PAGE).contains(&query.limit) {
            let problem = format!("is {}, 1 to {MAX_PAGE} is taken", query.limit);
            return Err(ServiceError::Invalid { field: "limit", problem });
        }
        let head = self.store.journal_head()?;
        let subject = query.subject.as_ref().map(|subject| self.name(subject));
        let gallery = query.gallery.as_ref().map(GalleryId::as_str);
        let mut entries: Vec<AuditEntry> = Vec::new();
        let mut last = query.after.min(head.length);
        let until = head.length.min(last.saturating_add(MAX_READ));
        while last < until && entries.len() < query.limit {
            last += 1;
            let Some(note) = self.store.note(last)? else { continue };
            let entry = entry(note);
            let line = &entry.line;
            let wanted =
                |asked: Option<&str>, has: Option<&str>| asked.is_none_or(|a| has == Some(a));
            let matches = wanted(gallery, line.gallery.as_deref())
                && wanted(subject.as_deref(), line.subject.as_deref());
            // An outcome goes with the line that it is of.
            let of_one = |number| entries.binary_search_by_key(&number, |e| e.number).is_ok();
            if matches || line.outcome_of.is_some_and(of_one) {
                entries.push(entry);
            }
        }
        let next_after = (last < head.length).then_some(last);
        Ok(AuditPage { entries, head: head.into(), next_after })
    }

    pub(super) fn check(&self, expected: &[AuditHead]) -> Result<AuditCheckView, ServiceError> {
        let expected: Vec<JournalHead> =
            expected.iter().map(AuditHead::expected).collect::<Result<_, _>>()?;
        let check = self.store.check_journal(&expected)?;
        let problems = check.problems.into_iter().map(|(number, problem)| AuditProblemView {
            number,
            problem: problem.as_str().to_owned(),
        });
        let problems: Vec<_> = problems.collect();
        Ok(AuditCheckView { sound: problems.is_empty(), head: check.head.into(), problems })
    }
}

/// Follows the chain of lines that were exported, which needs no store and no key.
///
/// # Errors
/// [`ServiceError::Invalid`] for an expected head that is none.
pub fn check_exported(
    entries: &[AuditEntry],
    expected: &[AuditHead],
) -> Result<AuditCheckView, ServiceError> {
    let mut problems = Vec::new();
    let mut found = |number, problem: &str| {
        problems.push(AuditProblemView { number, problem: problem.to_owned() });
    };
    let mut head = JournalHead::default();
    for entry in entries {
        if entry.number != head.length + 1 {
            found(head.length + 1, "missing");
        }
        let stated: Option<crate::domain::Fingerprint> = entry.hash.parse().ok();
        let follows = head.length + 1 == entry.number;
        let now = head.after(entry.content.as_bytes());
        if stated.is_none() || (follows && Some(now.hash) != stated.map(|hash| hash.0)) {
            found(entry.number, "altered");
        }
        let hash = stated.map_or([0; 32], |hash| hash.0);
        head = JournalHead { length: entry.number, hash };
    }
    for expected in expected {
        let at = expected.expected()?;
        let held = entries.iter().find(|entry| entry.number == at.length);
        match held {
            Some(entry) if entry.hash == expected.hash => {}
            Some(_) => found(at.length, "does not follow the one before"),
            None => found(at.length, "missing"),
        }
    }
    Ok(AuditCheckView { sound: problems.is_empty(), head: head.into(), problems })
}

fn entry(note: Note) -> AuditEntry {
    let line = serde_json::from_slice(&note.content).unwrap_or_default();
    let content = String::from_utf8_lossy(&note.content).into_owned();
    AuditEntry { number: note.number, hash: hex(&note.hash), content, line }
}

fn content(line: &AuditLine) -> Result<Vec<u8>, ServiceError> {
    serde_json::to_vec(line).map_err(|error| ServiceError::Internal(error.to_string()))
}

/// Who a line names.
pub(super) fn author(caller: &Caller) -> String {
    caller.key().map_or_else(|| "local".to_owned(), |key| key.to_string())
}

impl Service {
    /// Does something between its two lines, by whoever asks.
    pub(super) async fn audited<T>(
        &self,
        deed: Deed,
        work: impl Future<Output = Result<T, ServiceError>>,
    ) -> Result<T, ServiceError> {
        self.audited_each(deed, work, |_| vec![Outcome::of(true)]).await
    }

    /// The same for a deed of several lines: `outcomes` says of each how it ended.
    pub(super) async fn audited_each<T>(
        &self,
        deed: Deed,
        work: impl Future<Output = Result<T, ServiceError>>,
        outcomes: impl FnOnce(&T) -> Vec<Outcome>,
    ) -> Result<T, ServiceError> {
        let (log, by) = (self.0.audit.clone(), author(&Caller::current()));
        let begun = blocking(move || log.begin(&by, &deed)).await?;
        let result = work.await;
        let log = self.0.audit.clone();
        let outcomes = result.as_ref().map_or_else(|_| vec![Outcome::of(false)], outcomes);
        // Not waited for: it may wait for others' commits.
        drop(tokio::task::spawn_blocking(move || log.end(&begun, &outcomes)));
        result
    }

    /// The same, away from the async threads.
    pub(super) async fn change<T: Send + 'static>(
        &self,
        deed: Deed,
        work: impl FnOnce() -> Result<T, ServiceError> + Send + 'static,
    ) -> Result<T, ServiceError> {
        self.audited(deed, blocking(work)).await
    }

    /// Lines of the audit log.
    ///
    /// # Errors
    /// [`ServiceError::Invalid`].
    pub async fn audit_lines(&self, query: AuditQuery) -> Result<AuditPage, ServiceError> {
        let log = self.0.audit.clone();
        blocking(move || log.page(&query)).await
    }

    /// Follows the chain of the whole audit log.
    ///
    /// # Errors
    /// [`ServiceError::Invalid`] for an expected head that is none.
    pub async fn check_audit(
        &self,
        expected: Vec<AuditHead>,
    ) -> Result<AuditCheckView, ServiceError> {
        let log = self.0.audit.clone();
        blocking(move || log.check(&expected)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{MasterKey, StoreOptions};

    /// A disk that has no room for a line has none for the change either; who is to be erased is erased all the same.
    #[test]
    fn what_cannot_be_written_down_is_not_done() {
        let dir = tempfile::tempdir().unwrap();
        let key = MasterKey::from_hex(&"1f".repeat(32)).unwrap();
        let options = StoreOptions {
            ballast_bytes: 0,
            min_free_bytes: u64::MAX,
            ..StoreOptions::new(dir.path(), key)
        };
        let log = AuditLog::new(Store::open(options).unwrap());
        let done = std::cell::Cell::new(0);
        let change = |deed: Deed| {
            log.around("local", &deed, || {
                done.set(done.get() + 1);
                Ok(())
            })
        };
        assert!(matches!(change(Deed::new("enrol")), Err(ServiceError::StorageFull(_))));
        assert_eq!(done.get(), 0);
        change(Deed::erasing("subject.erase")).unwrap();
        assert_eq!(done.get(), 1);
        log.store.close();
        // That has nothing to do with the disk, and where the store lies is nobody's business.
        let stopped = change(Deed::erasing("subject.erase"));
        assert!(matches!(stopped, Err(ServiceError::Internal(_))));
        assert_eq!(done.get(), 1);
    }
}
