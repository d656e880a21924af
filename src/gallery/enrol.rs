use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use crate::domain::{Fingerprint, Generation, SampleId, SubjectId, now_ms};
use crate::storage::{Batch, DataKey, Seal, Store};

use super::catalogue::{Busy, State, SubjectEntry};
use super::index::RowInfo;
use super::key::Key;
use super::record::{SampleDoc, SubjectDoc, template_to_bytes, to_json};
use super::remove::Doomed;
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
    /// The same content as a deployment dropped it, which makes room for this.
    replaces: Option<Doomed>,
}

/// A sample that nobody has, as it was given.
struct Asked {
    at: usize,
    name: SampleId,
    sample: NewSample,
    replaces: Option<Doomed>,
}

/// What a sample is before it is enrolled.
enum Known {
    /// Enrolled already, under this name.
    Enrolled(SampleId),
    /// The same as another of its batch, given at this place.
    Planned(usize),
    /// New, or as good as new: this one was dropped by a deployment.
    New(Option<Doomed>),
}

/// What the samples planned so far will have changed.
#[derive(Default)]
struct Overlay {
    subjects: HashMap<SubjectId, (u64, DataKey)>,
    consents: HashSet<SubjectId>,
    names: HashSet<SampleId>,
    contents: HashMap<(SubjectId, [u8; 32]), usize>,
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
        let _reservation = self.reserve(names.into_iter().collect());
        let (planned, repeated) = self.plan(&spaces, checked, &mut results);
        self.write(&spaces, planned, &mut results);
        for (at, of) in repeated {
            let first = results[of].clone();
            results[at] = first.map(|first| Ok(Enrolled { created: false, ..first? }));
        }
        let lost = || GalleryError::BatchTooLarge { got: 0 };
        results.into_iter().map(|result| result.unwrap_or_else(|| Err(lost()))).collect()
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
    /// comes later. Gives what is to be written, and the places of those that are another one of the batch, with its place: what
    /// becomes of that one is not known yet.
    fn plan(
        &self,
        spaces: &Spaces,
        checked: Vec<(usize, SampleId, NewSample)>,
        results: &mut [Option<Result<Enrolled, GalleryError>>],
    ) -> (Vec<Planned>, Vec<(usize, usize)>) {
        let mut overlay = Overlay::default();
        let (mut planned, mut repeated) = (Vec::new(), Vec::new());
        let mut state = self.state();
        for (at, name, sample) in checked {
            let decided = if state.deleted {
                Err(GalleryError::GalleryNotFound(self.doc.id.clone()))
            } else {
                known(&state, &overlay, spaces, &name, &sample)
            };
            match decided {
                Ok(Known::Enrolled(existing)) => {
                    let (subject, sample) = (sample.subject, existing);
                    results[at] = Some(Ok(Enrolled { subject, sample, created: false }));
                }
                Ok(Known::Planned(of)) => repeated.push((at, of)),
                Ok(Known::New(replaces)) => {
                    let plan = Asked { at, name, sample, replaces };
                    match self.admit(&mut state, &mut overlay, plan) {
                        Ok(plan) => planned.push(plan),
                        Err(error) => results[at] = Some(Err(error)),
                    }
                }
                Err(error) => results[at] = Some(Err(error)),
            }
        }
        (planned, repeated)
    }

    fn admit(
        &self,
        state: &mut State,
        overlay: &mut Overlay,
        asked: Asked,
    ) -> Result<Planned, GalleryError> {
        let Asked { at, name, sample, replaces } = asked;
        let max = self.options.max_samples;
        if replaces.is_none() && state.samples.len() + overlay.count >= max {
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
        overlay.count += usize::from(replaces.is_none());
        overlay.contents.insert((sample.subject.clone(), sample.content_hash), at);
        overlay.names.insert(name.clone());
        Ok(Planned {
            at,
            sample,
            name,
            subject_number,
            number,
            data_key,
            created_at_ms,
            first,
            replaces,
        })
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
        if let Some(dropped) = &plan.replaces {
            self.remove_records(dropped, &mut batch)?;
        }
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
        let dropped: Vec<Doomed> = part.iter().filter_map(|plan| plan.replaces.clone()).collect();
        self.forget_samples(&mut state, &dropped);
        for plan in part {
            if plan.first {
                let created_at_ms = plan.created_at_ms;
                let entry = SubjectEntry::new(plan.subject_number, plan.data_key, created_at_ms);
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

/// Whether a sample is one that is there, or that will be.
fn known(
    state: &State,
    overlay: &Overlay,
    spaces: &Spaces,
    name: &SampleId,
    sample: &NewSample,
) -> Result<Known, GalleryError> {
    let NewSample { subject, content_hash, .. } = sample;
    let entry = match state.subjects.get(subject) {
        Some(_) => Some(state.present(subject)?),
        None => None,
    };
    if let Some(of) = overlay.contents.get(&(subject.clone(), *content_hash)) {
        return Ok(Known::Planned(*of));
    }
    let existing = entry.and_then(|entry| {
        let (sample, of) = entry.samples.get_key_value(entry.by_content.get(content_hash)?)?;
        Some(Doomed {
            subject: subject.clone(),
            sample: sample.clone(),
            subject_number: entry.number,
            number: of.number,
        })
    });
    let dropped = match existing {
        Some(there) if spaces.finds(there.subject_number, there.number) => {
            return Ok(Known::Enrolled(there.sample));
        }
        other => other,
    };
    let own = dropped.as_ref().is_some_and(|dropped| dropped.sample == *name);
    if (state.samples.contains_key(name) && !own) || overlay.names.contains(name) {
        return Err(GalleryError::SampleConflict { sample: name.clone() });
    }
    Ok(Known::New(dropped))
}

/// A fresh name, in order of time.
fn made_up() -> Result<SampleId, GalleryError> {
    SampleId::new(uuid::Uuid::now_v7().simple().to_string())
        .map_err(|error| GalleryError::inconsistent(&[], error))
}
