use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use crate::domain::{Fingerprint, Generation, SampleId, SubjectId, now_ms};
use crate::storage::{Batch, DataKey, Seal, Store};

use super::catalogue::{Busy, State, SubjectEntry};
use super::index::RowInfo;
use super::key::{self, Key};
use super::record::{SampleDoc, SubjectDoc, template_to_bytes, to_json};
use super::space::{Role, Spaces};
use super::types::{Enrolled, MAX_BATCH, NewSample};
use super::{Gallery, GalleryError};

/// Bytes after which a batch is committed and the next begun.
const COMMIT_BYTES: usize = 4 * 1024 * 1024;

/// A sample that was checked and will be written.
struct Planned {
    at: usize,
    sample: NewSample,
    name: SampleId,
    subject_number: u64,
    number: u64,
    data_key: DataKey,
    created_at_ms: u64,
    /// Whether the subject's record is to be written with it.
    first: bool,
}

/// What the samples planned so far will have changed.
#[derive(Default)]
struct Overlay {
    subjects: HashMap<SubjectId, (u64, DataKey)>,
    consents: HashSet<SubjectId>,
    names: HashMap<SampleId, (SubjectId, [u8; 32])>,
    contents: HashMap<(SubjectId, [u8; 32]), SampleId>,
    count: usize,
}

impl Gallery {
    /// Enrols a sample. Durable, and found by every search that begins later, when this returns.
    /// The same content for the same subject again changes nothing and says `created: false`.
    ///
    /// # Errors
    /// [`GalleryError`] naming what does not fit; nothing was changed then.
    pub fn enrol(&self, sample: NewSample) -> Result<Enrolled, GalleryError> {
        match self.enrol_batch(vec![sample]).pop() {
            Some(result) => result,
            None => Err(GalleryError::BatchTooLarge { got: 0 }),
        }
    }

    /// Enrols many samples at the cost of few syncs. Each is answered in its place; one that is
    /// refused does not hinder the others.
    pub fn enrol_batch(&self, samples: Vec<NewSample>) -> Vec<Result<Enrolled, GalleryError>> {
        if samples.len() > MAX_BATCH {
            let error = GalleryError::BatchTooLarge { got: samples.len() };
            return samples.iter().map(|_| Err(error.clone())).collect();
        }
        let mut results: Vec<Option<Result<Enrolled, GalleryError>>> = Vec::new();
        let mut checked = Vec::new();
        for (at, sample) in samples.into_iter().enumerate() {
            match self.check(&sample) {
                Ok(()) => {
                    let name = sample.sample.clone().map_or_else(made_up, Ok);
                    match name {
                        Ok(name) => {
                            checked.push((at, name, sample));
                            results.push(None);
                        }
                        Err(error) => results.push(Some(Err(error))),
                    }
                }
                Err(error) => results.push(Some(Err(error))),
            }
        }
        let names: HashSet<Busy> = checked
            .iter()
            .flat_map(|(_, name, sample)| {
                [Busy::Subject(sample.subject.clone()), Busy::Sample(name.clone())]
            })
            .collect();
        // The spaces must be the same from the check to the index.
        let _shift = self.shift.read();
        let spaces = self.spaces.load();
        let checked = checked.into_iter().filter_map(|(at, name, sample)| {
            match check_templates(&spaces, &sample) {
                Ok(()) => Some((at, name, sample)),
                Err(error) => {
                    results[at] = Some(Err(error));
                    None
                }
            }
        });
        let checked: Vec<_> = checked.collect();
        if spaces.partial {
            self.make_room(&checked, &mut results);
        }
        let _reservation = self.reserve(names.into_iter().collect());
        let planned = self.plan(checked, &mut results);
        self.write(&spaces, planned, &mut results);
        let lost = || GalleryError::BatchTooLarge { got: 0 };
        results.into_iter().map(|result| result.unwrap_or_else(|| Err(lost()))).collect()
    }

    /// Content that is enrolled and was dropped by a deployment counts as new: the old sample makes room for it.
    fn make_room(
        &self,
        checked: &[(usize, SampleId, NewSample)],
        results: &mut [Option<Result<Enrolled, GalleryError>>],
    ) {
        for (at, _, new) in checked {
            let old = {
                let state = self.state();
                let entry = state.subjects.get(&new.subject);
                entry.and_then(|entry| entry.by_content.get(&new.content_hash).cloned())
            };
            let Some(old) = old else { continue };
            if self.has_content(&new.subject, &new.content_hash).is_none()
                && let Err(error) = self.remove_sample(&new.subject, &old)
            {
                results[*at] = Some(Err(error));
            }
        }
    }

    fn check(&self, sample: &NewSample) -> Result<(), GalleryError> {
        sample.attributes.validate()?;
        if let Some(consent) = &sample.consent {
            consent.validate(now_ms())?;
        }
        // What is left of the record holds ids and numbers of bounded length.
        let (got, max) =
            (to_json("attributes", &sample.attributes)?.len(), Store::max_value() - 1024);
        if got > max {
            return Err(GalleryError::TooLong { what: "attributes", got, max });
        }
        if !(0.0..=1.0).contains(&sample.quality) {
            return Err(GalleryError::Quality { got: sample.quality });
        }
        let image = sample.image.as_ref().map_or(0, Vec::len);
        if image > self.options.max_image_bytes {
            let max = self.options.max_image_bytes;
            return Err(GalleryError::ImageTooLarge { got: image, max });
        }
        Ok(())
    }

    /// Decides what becomes of each sample. What was decided earlier in the batch counts for what
    /// comes later.
    fn plan(
        &self,
        checked: Vec<(usize, SampleId, NewSample)>,
        results: &mut [Option<Result<Enrolled, GalleryError>>],
    ) -> Vec<Planned> {
        let mut overlay = Overlay::default();
        let mut planned = Vec::new();
        let mut state = self.state();
        for (at, name, sample) in checked {
            if results[at].is_some() {
                continue;
            }
            let decided = if state.deleted {
                Err(GalleryError::GalleryNotFound(self.doc.id.clone()))
            } else {
                known(&state, &overlay, &name, &sample)
            };
            let decided = decided.and_then(|known| match known {
                Some(existing) => Ok(Err(Enrolled {
                    subject: sample.subject.clone(),
                    sample: existing,
                    created: false,
                })),
                None => self.admit(&mut state, &mut overlay, at, name, sample).map(Ok),
            });
            match decided {
                Ok(Ok(plan)) => planned.push(plan),
                Ok(Err(existing)) => results[at] = Some(Ok(existing)),
                Err(error) => results[at] = Some(Err(error)),
            }
        }
        planned
    }

    fn admit(
        &self,
        state: &mut State,
        overlay: &mut Overlay,
        at: usize,
        name: SampleId,
        sample: NewSample,
    ) -> Result<Planned, GalleryError> {
        let max = self.options.max_samples;
        if state.samples.len() + overlay.count >= max {
            return Err(GalleryError::Full { max });
        }
        let created_at_ms = now_ms();
        let agreed = sample.consent.is_some()
            || overlay.consents.contains(&sample.subject)
            || state.subjects.get(&sample.subject).is_some_and(|entry| {
                entry.consent.as_ref().is_some_and(|consent| consent.holds_at(created_at_ms))
            });
        if self.policy.load().require_consent && !agreed {
            let (gallery, subject) = (self.doc.id.clone(), sample.subject.clone());
            return Err(GalleryError::ConsentRequired { gallery, subject });
        }
        if sample.consent.is_some() {
            overlay.consents.insert(sample.subject.clone());
        }
        let known = state.subjects.get(&sample.subject).map(|entry| (entry.number, entry.data_key));
        let known = known.or_else(|| overlay.subjects.get(&sample.subject).copied());
        let (subject_number, data_key, first) = match known {
            Some((number, data_key)) => (number, data_key, false),
            None => {
                let data_key = self.store.create_data_key()?;
                let number = state.next_subject;
                state.next_subject += 1;
                overlay.subjects.insert(sample.subject.clone(), (number, data_key));
                (number, data_key, true)
            }
        };
        let number = state.next_sample;
        state.next_sample += 1;
        overlay.count += 1;
        let content = (sample.subject.clone(), sample.content_hash);
        overlay.contents.insert(content.clone(), name.clone());
        overlay.names.insert(name.clone(), content);
        Ok(Planned { at, sample, name, subject_number, number, data_key, created_at_ms, first })
    }

    /// Commits what was planned, in parts that are each one batch, and publishes each part.
    fn write(
        &self,
        spaces: &Spaces,
        planned: Vec<Planned>,
        results: &mut [Option<Result<Enrolled, GalleryError>>],
    ) {
        let mut failed: Option<GalleryError> = None;
        let mut waiting: Vec<Planned> = Vec::new();
        let mut batch = Batch::default();
        let mut bytes = 0;
        let mut planned = planned.into_iter().peekable();
        while let Some(plan) = planned.next() {
            let at = plan.at;
            match self.records(spaces, &plan) {
                // A part whose subject record failed to be written must not be followed by samples
                // of that subject.
                _ if failed.is_some() => results[at] = failed.clone().map(Err),
                Ok((records, size)) => {
                    batch.append(records);
                    bytes += size;
                    waiting.push(plan);
                }
                Err(error) => {
                    results[at] = Some(Err(error.clone()));
                    if plan.first {
                        failed = Some(error);
                    }
                }
            }
            if bytes >= COMMIT_BYTES || planned.peek().is_none() {
                bytes = 0;
                let part = std::mem::take(&mut waiting);
                let committed = self.store.commit(std::mem::take(&mut batch));
                if committed.is_ok() {
                    self.publish(spaces, &part);
                }
                for plan in part {
                    results[plan.at] = Some(match &committed {
                        Ok(()) => Ok(Enrolled {
                            subject: plan.sample.subject,
                            sample: plan.name,
                            created: true,
                        }),
                        Err(error) => Err(error.clone().into()),
                    });
                }
                failed = failed.or(committed.err().map(GalleryError::from));
            }
        }
        self.changed();
    }

    /// A sample's records, and about how many bytes they take.
    fn records(&self, spaces: &Spaces, plan: &Planned) -> Result<(Batch, usize), GalleryError> {
        let Planned { sample, subject_number, number, data_key, created_at_ms, .. } = plan;
        let (gallery, subject, seal) = (self.number, *subject_number, Seal::Data(*data_key));
        let mut batch = Batch::default();
        if plan.first {
            let doc = SubjectDoc {
                id: sample.subject.clone(),
                data_key: *data_key,
                created_at_ms: *created_at_ms,
            };
            batch.put(Key::Subject { gallery, subject }.encode(), to_json("subject", &doc)?, seal);
        }
        if let Some(consent) = &sample.consent {
            let key = Key::Consent { gallery, subject };
            batch.put(key.encode(), to_json("consent", consent)?, seal);
        }
        let image = sample.image.as_deref().filter(|_| self.doc.retain_images);
        let doc = SampleDoc {
            id: plan.name.clone(),
            attributes: sample.attributes.clone(),
            quality: sample.quality,
            content_hash: Fingerprint(sample.content_hash),
            created_at_ms: *created_at_ms,
            image_bytes: image.map(<[u8]>::len),
            flags: sample.flags.clone(),
        };
        let doc = to_json("attributes", &doc)?;
        let mut size = doc.len() + image.map_or(0, <[u8]>::len);
        batch.put(Key::Sample { gallery, subject, sample: *number }.encode(), doc, seal);
        for space in spaces.both() {
            let Some(template) = space.mine(&sample.templates) else { continue };
            let template = template_to_bytes(template);
            size += template.len();
            let generation = space.of.generation.0;
            let key = Key::Template { gallery, subject, sample: *number, generation };
            batch.put(key.encode(), template, seal);
        }
        let chunks = image.unwrap_or_default().chunks(Store::max_value());
        for (chunk, bytes) in (0_u32..).zip(chunks) {
            let key = Key::ImageChunk { gallery, subject, sample: *number, chunk };
            batch.put(key.encode(), bytes.to_vec(), seal);
        }
        Ok((batch, size))
    }

    fn publish(&self, spaces: &Spaces, part: &[Planned]) {
        let mut names: BTreeMap<u64, Arc<SubjectId>> = BTreeMap::new();
        let mut state = self.state();
        for plan in part {
            if plan.first {
                let mut entry = SubjectEntry::new(plan.subject_number, plan.data_key);
                entry.saved_ms = plan.created_at_ms;
                state.subjects.insert(plan.sample.subject.clone(), entry);
            }
            let NewSample { subject, content_hash, .. } = &plan.sample;
            state.insert(subject, plan.name.clone(), plan.number, *content_hash);
            state.interacted(subject, plan.created_at_ms);
            if let Some(consent) = &plan.sample.consent
                && let Some(entry) = state.subjects.get_mut(subject)
            {
                entry.consent = Some(consent.clone());
            }
            names.entry(plan.subject_number).or_insert_with(|| Arc::new(subject.clone()));
        }
        // Under the state's lock, so that nobody who sees the subject misses its rows.
        let rows: Vec<(Arc<RowInfo>, &NewSample)> = part
            .iter()
            .filter_map(|plan| {
                let info = RowInfo {
                    number: plan.number,
                    subject_number: plan.subject_number,
                    subject: Arc::clone(names.get(&plan.subject_number)?),
                    sample: plan.name.clone(),
                    attributes: plan.sample.attributes.clone(),
                };
                Some((Arc::new(info), &plan.sample))
            })
            .collect();
        for space in spaces.both() {
            space.index.push(rows.iter().filter_map(|(info, sample)| {
                Some((Arc::clone(info), space.mine(&sample.templates)?.as_slice()))
            }));
        }
    }

    /// Removes a sample with its template and image. The subject stays, even without samples.
    ///
    /// # Errors
    /// [`GalleryError::SubjectNotFound`], [`GalleryError::SampleNotFound`] or the store's.
    pub fn remove_sample(
        &self,
        subject: &SubjectId,
        sample: &SampleId,
    ) -> Result<(), GalleryError> {
        let names = vec![Busy::Subject(subject.clone()), Busy::Sample(sample.clone())];
        let _reservation = self.reserve(names);
        let (subject_number, number) = self.sample_numbers(subject, sample)?;
        let mut batch = Batch::default();
        for kind in [key::SAMPLE, key::TEMPLATE, key::IMAGE_CHUNK] {
            let prefix = key::of_sample(kind, self.number, subject_number, number);
            self.store.keys(&prefix)?.into_iter().for_each(|key| batch.remove(key));
        }
        self.store.commit(batch)?;
        let mut state = self.state();
        if let Some(entry) = state.subjects.get_mut(subject)
            && let Some(removed) = entry.samples.remove(sample)
        {
            entry.by_content.remove(&removed.content_hash);
        }
        state.samples.remove(sample);
        self.spaces.each_index(|index| index.remove_sample(subject_number, number));
        drop(state);
        self.changed();
        Ok(())
    }
}

/// A template at home and in a space that is kept; one that is being filled may come later.
fn check_templates(spaces: &Spaces, sample: &NewSample) -> Result<(), GalleryError> {
    for space in spaces.both() {
        let filling = spaces
            .beside
            .as_ref()
            .is_some_and(|(beside, role)| *role == Role::Filling && Arc::ptr_eq(beside, space));
        match space.mine(&sample.templates) {
            Some(template) if template.dim() != space.of.dim => {
                let (got, expected) = (template.dim(), space.of.dim);
                return Err(GalleryError::Dimensions { got, expected });
            }
            Some(_) => {}
            None if filling => {}
            None => {
                let expected = space.of.generation;
                let of_it = sample.templates.iter().find(|t| t.generation == expected);
                return Err(match (of_it, sample.templates.first()) {
                    (Some(other), _) => GalleryError::Fingerprint {
                        got: other.fingerprint,
                        expected: space.of.fingerprint,
                    },
                    (None, first) => {
                        let got = first.map_or(Generation::default(), |first| first.generation);
                        GalleryError::Generation { got, expected }
                    }
                });
            }
        }
    }
    Ok(())
}

/// The sample that this one is already, if it is.
fn known(
    state: &State,
    overlay: &Overlay,
    name: &SampleId,
    sample: &NewSample,
) -> Result<Option<SampleId>, GalleryError> {
    let NewSample { subject, content_hash, .. } = sample;
    let entry = match state.subjects.get(subject) {
        Some(_) => Some(state.present(subject)?),
        None => None,
    };
    let by_content = entry.and_then(|entry| entry.by_content.get(content_hash));
    let by_content = by_content.or_else(|| overlay.contents.get(&(subject.clone(), *content_hash)));
    if let Some(existing) = by_content {
        return Ok(Some(existing.clone()));
    }
    if state.samples.contains_key(name) || overlay.names.contains_key(name) {
        return Err(GalleryError::SampleConflict { sample: name.clone() });
    }
    Ok(None)
}

/// A fresh name, in order of time.
fn made_up() -> Result<SampleId, GalleryError> {
    SampleId::new(uuid::Uuid::now_v7().simple().to_string())
        .map_err(|error| GalleryError::inconsistent(&[], error))
}
