//! Reading a gallery's records into memory.

use std::collections::HashMap;
use std::sync::Arc;

use crate::domain::SubjectId;
use crate::storage::StorageError;

use super::catalogue::SubjectEntry;
use super::index::{PackedTemplate, RowInfo, SavedLists, lists_from_bytes};
use super::key::{self, Key};
use super::record::{SampleDoc, SubjectDoc, from_json, template_from_bytes};
use super::space::{Role, Space, TemplateSpace};
use super::{Gallery, GalleryError};

/// Numbers of a subject and a sample, and its template.
type Stored = (u64, u64, PackedTemplate);
/// What a row stands for, and its template.
type Row = (Arc<RowInfo>, PackedTemplate);

impl Gallery {
    /// Reads the gallery's records into memory. Begun erasures must have been finished.
    pub(super) fn load(&self) -> Result<(), GalleryError> {
        let spaces = self.spaces.load();
        let home = &spaces.home;
        let (rows, stored) =
            rayon::join(|| self.load_subjects(), || self.stored_templates(home.of));
        let rows = rows?;
        let loaded = self.joined(home, &rows, stored?, spaces.partial)?;
        let (lists, any) = self.saved_lists(home.of)?;
        // A number that lists name is not given again, be its sample removed: the lists would say where another lies.
        if let Some(listed) = lists.as_ref().and_then(SavedLists::largest) {
            let mut state = self.state();
            state.next_sample = state.next_sample.max(listed.saturating_add(1));
        }
        if !home.index.fill(&loaded, lists) && any {
            tracing::warn!(gallery = %self.doc.id, "the saved index does not fit and is built anew");
        }
        if let Some((space, role)) = &spaces.beside {
            let stored = self.stored_templates(space.of)?;
            let loaded = self.joined(space, &rows, stored, *role == Role::Filling)?;
            space.index.fill(&loaded, None);
        }
        Ok(())
    }

    /// Reads who is enrolled, and gives what of everybody, in order of enrolment.
    fn load_subjects(&self) -> Result<Vec<Arc<RowInfo>>, GalleryError> {
        let mut state = self.state();
        let mut names: HashMap<u64, Arc<SubjectId>> = HashMap::new();
        let subjects = key::in_gallery(key::SUBJECT, self.number);
        let subjects = self.store.walk(
            &subjects,
            |_| true,
            |at, text| {
                let Some(Key::Subject { subject: number, .. }) = Key::decode(at) else {
                    return Err(GalleryError::inconsistent(at, "not a subject's key"));
                };
                Ok((number, from_json::<SubjectDoc>(at, text)?))
            },
        )?;
        for (number, doc) in subjects {
            names.insert(number, Arc::new(doc.id.clone()));
            state.next_subject = state.next_subject.max(number + 1);
            let entry = SubjectEntry::new(number, doc.data_key, doc.created_at_ms);
            if state.subjects.insert(doc.id, entry).is_some() {
                let at = Key::Subject { gallery: self.number, subject: number }.encode();
                return Err(GalleryError::inconsistent(&at, "a second record of one subject"));
            }
        }
        let samples = key::in_gallery(key::SAMPLE, self.number);
        let samples = self.store.walk(
            &samples,
            |_| true,
            |at, text| {
                let Some(Key::Sample { subject, sample, .. }) = Key::decode(at) else {
                    return Err(GalleryError::inconsistent(at, "not a sample's key"));
                };
                Ok((subject, sample, from_json::<SampleDoc>(at, text)?))
            },
        )?;
        let mut rows = Vec::with_capacity(samples.len());
        for (subject, number, doc) in samples {
            let name = names.get(&subject).ok_or_else(|| {
                let (gallery, sample) = (self.number, number);
                let at = Key::Sample { gallery, subject, sample }.encode();
                GalleryError::inconsistent(&at, "its subject is missing")
            })?;
            state.next_sample = state.next_sample.max(number + 1);
            state.interacted(name, doc.created_at_ms);
            state.insert(name, doc.id.clone(), number, doc.content_hash.0);
            rows.push(RowInfo {
                number,
                subject_number: subject,
                subject: Arc::clone(name),
                sample: doc.id,
                attributes: doc.attributes,
            });
        }
        drop(state);
        self.load_retention(&names)?;
        self.load_calibrations()?;
        rows.sort_unstable_by_key(|row| row.number);
        Ok(rows.into_iter().map(Arc::new).collect())
    }

    /// The templates of a space in key order, as they lie in the store. Those of another are left closed.
    fn stored_templates(&self, space: TemplateSpace) -> Result<Vec<Stored>, GalleryError> {
        let of_space = |at: &[u8]| match Key::decode(at) {
            Some(Key::Template { generation, .. }) => generation == space.generation.0,
            Some(_) | None => true,
        };
        self.store.walk(&key::in_gallery(key::TEMPLATE, self.number), of_space, |at, bytes| {
            let Some(Key::Template { subject, sample, .. }) = Key::decode(at) else {
                return Err(GalleryError::inconsistent(at, "not a template's key"));
            };
            let template = template_from_bytes(at, bytes, space.dim)?;
            Ok((subject, sample, PackedTemplate::new(template.as_slice())))
        })
    }

    /// The lists that were saved of a space, and whether any lists were saved.
    fn saved_lists(
        &self,
        space: TemplateSpace,
    ) -> Result<(Option<SavedLists>, bool), GalleryError> {
        let mut bytes = Vec::new();
        let mut readable = true;
        for record in self.store.scan(&key::in_gallery(key::SEGMENT_CHUNK, self.number)) {
            match record {
                Ok((_, chunk)) => bytes.extend_from_slice(&chunk),
                Err(StorageError::Damaged { .. }) => readable = false,
                Err(error) => return Err(error.into()),
            }
        }
        let lists = match bytes.split_first_chunk::<8>() {
            Some((generation, lists)) if readable => {
                let same = u64::from_be_bytes(*generation) == space.generation.0;
                if same { lists_from_bytes(lists) } else { None }
            }
            Some(_) | None => None,
        };
        Ok((lists, !bytes.is_empty()))
    }

    /// Each row with its template, in the order of `rows`.
    fn joined(
        &self,
        space: &Space,
        rows: &[Arc<RowInfo>],
        stored: Vec<Stored>,
        may_lack: bool,
    ) -> Result<Vec<Row>, GalleryError> {
        let mut wanted: Vec<&Arc<RowInfo>> = rows.iter().collect();
        wanted.sort_unstable_by_key(|row| (row.subject_number, row.number));
        let mut stored = stored.into_iter().peekable();
        let mut joined = Vec::with_capacity(rows.len());
        for row in wanted {
            let of = (row.subject_number, row.number);
            while stored.next_if(|(subject, sample, _)| (*subject, *sample) < of).is_some() {}
            match stored.next_if(|(subject, sample, _)| (*subject, *sample) == of) {
                Some((_, _, template)) => joined.push((Arc::clone(row), template)),
                None if may_lack => {}
                None => {
                    let (gallery, generation) = (self.number, space.of.generation.0);
                    let (subject, sample) = of;
                    let at = Key::Template { gallery, subject, sample, generation }.encode();
                    return Err(GalleryError::inconsistent(&at, "it is missing"));
                }
            }
        }
        joined.sort_unstable_by_key(|(row, _)| row.number);
        Ok(joined)
    }
}
