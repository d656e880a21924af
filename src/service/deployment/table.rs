//! The deployment in memory and in the store, and the steps between its states. One step at a time.

use std::collections::HashSet;
use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use crate::domain::{Generation, now_ms};
use crate::gallery::{Galleries, Gallery, Role, TemplateSpace};
use crate::jobs::JobId;
use crate::model::{BatchOptions, Batcher, Embedder, Precision, in_precision};

use super::record::{Asked, FillingDoc, ModelRef, Record, ServingDoc, What};
use super::serving::{Deployment, Seat, Serving};
use crate::service::error::{ServiceError, chain};
use crate::service::open_model;
use crate::service::options::{ModelChoice, ServiceOptions};
use crate::service::registry::Registry;
use crate::service::views::ModelView;
use crate::tensor::DeviceChoice;

/// How often a deployment looks whether requests that began before it are over.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// The deployment, and what changes it.
pub(in crate::service) struct Deployments {
    live: ArcSwap<Deployment>,
    /// Those before it that a request may still hold.
    before: Mutex<Vec<Weak<Deployment>>>,
    pub(super) galleries: Galleries,
    record: Mutex<Record>,
    batching: BatchOptions,
    device: String,
    registry: Registry,
}

impl Deployments {
    /// Loads the models that the store's record names, or the one that the options name where there is none.
    pub(in crate::service) fn open(
        options: &ServiceOptions,
        galleries: Galleries,
        registry: Registry,
        notices: &mut Vec<String>,
    ) -> Result<Self, ServiceError> {
        let batching = BatchOptions {
            max_batch: options.max_batch,
            max_wait: options.max_wait,
            queue: options.queue,
        };
        let recorded = Record::read(&galleries)?;
        let device = options.device.clone();
        let opener = Opener { batching, device: &device, registry: &registry };
        let (deployment, record) = match recorded {
            None => {
                let model = ModelRef::from(&options.model);
                let embedder = opener.embedder(&model, notices)?;
                let live = opener.serving(embedder, Generation(1), model)?;
                let record = Record::first(&live);
                (Deployment::first(live), record)
            }
            Some(record) => {
                let asked = ModelRef::from(&options.model);
                if asked != ModelRef::Nano && asked != record.live.model {
                    notices.push(format!(
                        "model {} serves, as it was deployed; {asked} was asked for: deploy it to have it serve",
                        record.live.model
                    ));
                }
                opener.recorded(record, &galleries, notices)?
            }
        };
        Ok(Self {
            live: ArcSwap::from_pointee(deployment),
            before: Mutex::default(),
            galleries,
            record: Mutex::new(record),
            batching,
            device,
            registry,
        })
    }

    pub(in crate::service) fn load(&self) -> Arc<Deployment> {
        self.live.load_full()
    }

    /// How models that serve keep their weights.
    pub(in crate::service) fn precision(&self) -> Precision {
        self.device.parse().map_or(Precision::F32, DeviceChoice::precision)
    }

    /// A gallery and its model. A step that was taken between two looks is no reason to refuse.
    pub(in crate::service) fn seat(&self, gallery: &Arc<Gallery>) -> Result<Seat, ServiceError> {
        let mut seat = Seat::take(self.load(), gallery);
        for _ in 0..3 {
            if seat.is_ok() {
                break;
            }
            seat = Seat::take(self.load(), gallery);
        }
        seat
    }

    /// Has every request from now on see this one. Those that began earlier keep what they hold.
    fn turn_to(&self, after: Deployment) {
        let gone = self.live.swap(Arc::new(after));
        let mut before = self.before.lock();
        before.retain(|held| held.strong_count() > 0);
        before.push(Arc::downgrade(&gone));
    }

    /// Waits for requests that know nothing of the model that is being brought, of whichever deployment before: after this
    /// every enrolment writes for it, or has written. `going` says whether to go on waiting.
    ///
    /// One that began two or more steps ago counts too. It would come with templates of a model that was retired since,
    /// and be refused for no fault of its own. So there is no limit to the wait but `going`.
    pub(super) fn wait_for_those_before(&self, mut going: impl FnMut() -> bool) -> bool {
        let still_held = || {
            let mut before = self.before.lock();
            before.retain(|held| held.strong_count() > 0);
            !before.is_empty()
        };
        while still_held() {
            if !going() {
                return false;
            }
            std::thread::sleep(LOOK_EVERY);
        }
        true
    }

    pub(super) fn record(&self) -> Record {
        self.record.lock().clone()
    }

    /// Opens a model beside those that serve; `device` as a job has it.
    pub(super) fn open_challenger(&self, model: &ModelRef) -> Result<Embedder, ServiceError> {
        self.opener().embedder(model, &mut Vec::new())
    }

    /// The model inside the binary as one that can be deployed.
    pub(in crate::service) fn nano(&self) -> Result<ModelView, ServiceError> {
        let live = self.load();
        let summary = match live.in_use().find(|serving| serving.model == ModelRef::Nano) {
            Some(serving) => serving.batcher.embedder().summary(),
            None => self.open_challenger(&ModelRef::Nano)?.summary(),
        };
        Ok(summary.into())
    }

    fn opener(&self) -> Opener<'_> {
        Opener { batching: self.batching, device: &self.device, registry: &self.registry }
    }

    /// The model that is being brought.
    pub(in crate::service) fn challenger(&self) -> Option<String> {
        self.record.lock().filling.as_ref().map(|filling| filling.serving.model.to_string())
    }

    /// Whether the record needs a model of the registry, loaded or not.
    pub(in crate::service) fn names(&self, name: &str) -> bool {
        let record = self.record.lock();
        let filling = record.filling.as_ref().map(|filling| &filling.serving);
        let docs = std::iter::once(&record.live).chain(&record.previous).chain(filling);
        let mut docs = docs.chain(&record.kept);
        docs.any(|doc| matches!(&doc.model, ModelRef::Registered(own) if own == name))
    }

    /// Has every gallery that is to move begin a space of a new generation. Says which: the same after a restart.
    pub(super) fn begin(
        &self,
        job: JobId,
        model: &ModelRef,
        embedder: Embedder,
        moves: impl Fn(&Gallery) -> bool,
        asked: Asked,
    ) -> Result<TemplateSpace, ServiceError> {
        let mut record = self.record.lock();
        let resumed = record.filling.clone();
        let generation = match &resumed {
            Some(filling) if filling.job == job => filling.serving.space.generation,
            Some(_) => return Err(ServiceError::DeploymentUnderWay),
            None if record.previous.is_some() => return Err(ServiceError::Soaking),
            None => Generation(record.next),
        };
        let serving = Arc::new(self.opener().serving(embedder, generation, model.clone())?);
        let space = serving.space();
        let before = self.load();
        let after = Deployment {
            filling: Some(Arc::clone(&serving)),
            filling_space: Some(space),
            ..Deployment::clone(&before)
        };
        if let Some(filling) = resumed {
            if filling.serving.space != space {
                return Err(ServiceError::ModelChanged(model.to_string()));
            }
            self.turn_to(after);
        } else {
            let mut next = record.clone();
            next.next += 1;
            next.filling = Some(FillingDoc { serving: (&*serving).into(), job });
            next.note(What::Began, &record.live.model.to_string(), &model.to_string(), asked);
            let stored = next.to_bytes()?;
            self.galleries.begin_space(space, moves, stored, || self.turn_to(after))?;
            *record = next;
        }
        Ok(space)
    }

    /// Has the model that was brought serve.
    pub(super) fn promote(
        &self,
        job: JobId,
        may_lack: impl Fn(&Gallery) -> bool,
        soak: Duration,
        asked: Asked,
    ) -> Result<(), ServiceError> {
        let mut record = self.record.lock();
        let filling = match &record.filling {
            Some(filling) if filling.job == job => filling.serving.clone(),
            Some(_) | None => return Err(ServiceError::NoDeployment),
        };
        let before = self.load();
        let Some(serving) = before.filling.clone().filter(|s| s.space() == filling.space) else {
            return Err(ServiceError::NoDeployment);
        };
        // A gallery that does not move stays with the model that it has; one that moves may return to it.
        let galleries = self.galleries.list();
        let homes = |of: &dyn Fn(&Arc<Gallery>) -> bool| -> HashSet<TemplateSpace> {
            galleries.iter().filter(|g| of(g)).map(|gallery| gallery.home().space()).collect()
        };
        let (all, staying) = (homes(&|_| true), homes(&|gallery| gallery.filling().is_none()));
        let mut kept = before.kept.clone();
        kept.retain(|serving| all.contains(&serving.space()));
        if staying.contains(&before.live.space()) {
            kept.push(Arc::clone(&before.live));
        }
        let mut next = record.clone();
        next.live = filling;
        next.previous = Some(record.live.clone());
        let soak_ms = u64::try_from(soak.as_millis()).unwrap_or(u64::MAX);
        next.soak_until_ms = Some(now_ms().saturating_add(soak_ms));
        next.filling = None;
        next.promoted_by = Some(job);
        next.kept = kept.iter().map(|serving| ServingDoc::from(&**serving)).collect();
        next.note(
            What::Promoted,
            &record.live.model.to_string(),
            &next.live.model.to_string(),
            asked,
        );
        let after = Deployment {
            live: serving,
            previous: Some(Arc::clone(&before.live)),
            filling: None,
            filling_space: None,
            kept,
        };
        let space = after.live.space();
        let stored = next.to_bytes()?;
        self.galleries.promote_space(space, may_lack, stored, || self.turn_to(after))?;
        *record = next;
        Ok(())
    }

    /// Has the model before serve again.
    pub(super) fn roll_back(&self, by: Option<String>) -> Result<(), ServiceError> {
        let mut record = self.record.lock();
        let before = self.load();
        let (Some(doc), Some(previous)) = (record.previous.clone(), before.previous.clone()) else {
            return Err(ServiceError::NothingToRollBack);
        };
        let mut next = record.clone();
        next.live = doc;
        next.previous = None;
        next.soak_until_ms = None;
        let homes: HashSet<TemplateSpace> =
            self.galleries.list().iter().map(|gallery| gallery.previous_or_home()).collect();
        let mut kept = before.kept.clone();
        kept.retain(|serving| {
            homes.contains(&serving.space()) && serving.space() != previous.space()
        });
        next.kept = kept.iter().map(|serving| ServingDoc::from(&**serving)).collect();
        let (from, to) = (record.live.model.to_string(), next.live.model.to_string());
        next.note(What::RolledBack, &from, &to, Asked::by(by));
        let after =
            Deployment { live: previous, previous: None, kept, ..Deployment::clone(&before) };
        let stored = next.to_bytes()?;
        self.galleries.return_to_previous(stored, || self.turn_to(after))?;
        *record = next;
        Ok(())
    }

    /// Gives up the way back.
    pub(super) fn retire(&self, by: Option<String>) -> Result<(), ServiceError> {
        let mut record = self.record.lock();
        let before = self.load();
        let Some(doc) = record.previous.clone() else {
            return Err(ServiceError::NothingToRollBack);
        };
        let mut next = record.clone();
        next.previous = None;
        next.soak_until_ms = None;
        let (from, to) = (doc.model.to_string(), record.live.model.to_string());
        next.note(What::Retired, &from, &to, Asked::by(by));
        let homes: HashSet<TemplateSpace> =
            self.galleries.list().iter().map(|gallery| gallery.home().space()).collect();
        let mut kept = before.kept.clone();
        kept.retain(|serving| homes.contains(&serving.space()));
        next.kept = kept.iter().map(|serving| ServingDoc::from(&**serving)).collect();
        let after = Deployment { previous: None, kept, ..Deployment::clone(&before) };
        let stored = next.to_bytes()?;
        self.galleries.give_up(Role::Previous, stored, || self.turn_to(after))?;
        *record = next;
        Ok(())
    }

    /// Gives up what a job was bringing. Nothing happens when it brings nothing (any more).
    pub(super) fn abandon(&self, job: JobId) -> Result<(), ServiceError> {
        let mut record = self.record.lock();
        let filling = match &record.filling {
            Some(filling) if filling.job == job => filling.serving.clone(),
            Some(_) | None => return Ok(()),
        };
        let mut next = record.clone();
        next.filling = None;
        let (from, to) = (record.live.model.to_string(), filling.model.to_string());
        next.note(What::Abandoned, &from, &to, Asked::default());
        let after =
            Deployment { filling: None, filling_space: None, ..Deployment::clone(&self.load()) };
        let stored = next.to_bytes()?;
        self.galleries.give_up(Role::Filling, stored, || self.turn_to(after))?;
        *record = next;
        Ok(())
    }
}

/// What opening a model takes.
struct Opener<'a> {
    batching: BatchOptions,
    device: &'a str,
    registry: &'a Registry,
}

impl Opener<'_> {
    fn serving(
        &self,
        embedder: Embedder,
        generation: Generation,
        model: ModelRef,
    ) -> Result<Serving, ServiceError> {
        let batcher = Batcher::spawn(Arc::new(embedder), self.batching)?;
        let held = match &model {
            ModelRef::Registered(name) => {
                let held = self.registry.hold(name)?;
                // Deleted and made anew between the two: the next start would open another model than serves.
                let registered = self.registry.read(name)?.fingerprint;
                let embedder = batcher.embedder();
                if in_precision(registered, embedder.precision()) != embedder.fingerprint() {
                    return Err(ServiceError::ModelChanged(name.clone()));
                }
                Some(held)
            }
            ModelRef::Nano | ModelRef::Directory(_) => None,
        };
        Ok(Serving { generation, batcher, model, _held: held })
    }

    fn embedder(
        &self,
        model: &ModelRef,
        notices: &mut Vec<String>,
    ) -> Result<Embedder, ServiceError> {
        let choice = match model {
            ModelRef::Nano => ModelChoice::Nano,
            ModelRef::Directory(path) => ModelChoice::Directory(path.clone()),
            ModelRef::Registered(name) => self.registry.choice(name)?,
        };
        open_model(&choice, self.device, notices)
    }

    /// A model that answers must be the one that made the templates.
    fn again(&self, doc: &ServingDoc, notices: &mut Vec<String>) -> Result<Serving, ServiceError> {
        let embedder = self.embedder(&doc.model, notices)?;
        if embedder.fingerprint() != doc.space.fingerprint {
            return Err(ServiceError::ModelChanged(doc.model.to_string()));
        }
        self.serving(embedder, doc.space.generation, doc.model.clone())
    }

    /// The deployment that a record tells of. The way back is given up when its model is gone; the model that serves must
    /// be there.
    fn recorded(
        &self,
        mut record: Record,
        galleries: &Galleries,
        notices: &mut Vec<String>,
    ) -> Result<(Deployment, Record), ServiceError> {
        let live = Arc::new(self.again(&record.live, notices)?);
        let mut kept = Vec::new();
        for doc in &record.kept {
            kept.push(Arc::new(self.again(doc, notices)?));
        }
        let previous = match &record.previous {
            None => None,
            Some(doc) => match self.again(doc, notices) {
                Ok(serving) => Some(Arc::new(serving)),
                Err(error) => {
                    notices.push(format!(
                        "the model before, {}, cannot be opened ({}): there is no way back to it any more",
                        doc.model,
                        chain(&error)
                    ));
                    record.previous = None;
                    record.soak_until_ms = None;
                    galleries.give_up(Role::Previous, record.to_bytes()?, || ())?;
                    None
                }
            },
        };
        let filling_space = record.filling.as_ref().map(|filling| filling.serving.space);
        Ok((Deployment { live, previous, filling: None, filling_space, kept }, record))
    }
}
