//! How much recognition loses to damaged pictures, and whether it serves all groups of people alike.
//!
//! One picture without accessories of each subject is enrolled, within each aspect and side, and the others
//! are asked about, in several draws; then the same again with every kind of damage. Everything is judged at the
//! one threshold that was fixed on clean pictures of everybody.

mod plan;
mod report;
mod studio;

use std::path::PathBuf;

use serde::Serialize;

use crate::dataset::{self, DatasetError, LabelledImage};
use crate::evaluation::{
    Bootstrap, Damage, EvaluationError, GroupTable, LEAST_SUBJECTS, Scores, Standing, Tally, Terms,
    Trial, by_group, claim_fmr, lowest_fmr,
};
use crate::image::ImageError;
pub use crate::image::{Corruption, Family, Severity};
use crate::model::{ModelError, ModelSummary};
use crate::storage::StorageError;
use crate::storage::file::write_atomic;

use super::error::ServiceError;
use super::leak::{LeakError, check_leak};
use super::ledger::{LedgerError, RunKind, RunRecord, data_name};
use super::measured::{Measured, measured};
use super::options::ModelChoice;
use plan::Plan;
use studio::{Look, Studio};

/// Which pictures are damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum On {
    /// Those that are asked about; what is enrolled is clean.
    Probe,
    /// Those enrolled too, each by a draw of its own.
    Both,
}

/// What to measure.
#[derive(Debug, Clone, PartialEq)]
pub struct RobustnessRequest {
    /// The model.
    pub model: ModelChoice,
    /// `auto`, `cpu` or `cuda:N`.
    pub device: String,
    /// A labelled data set.
    pub data: PathBuf,
    /// Kinds of damage; none of them measures groups and accessories only.
    pub corruptions: Vec<Corruption>,
    /// Severities of each.
    pub severities: Vec<Severity>,
    /// Which pictures are damaged.
    pub on: On,
    /// Names the draws and the damage: run r draws with `seed + r`.
    pub seed: u64,
    /// Draws of gallery and probes that figures are the mean of.
    pub runs: usize,
    /// Only the subjects that `train` holds out with this share and seed: those of a fine-tuned model's own
    /// training say nothing of others.
    pub hold_out: Option<(f64, u64)>,
    /// Whether subjects that the model was trained on may be measured on.
    pub allow_leak: bool,
    /// Only the first so many subjects of those.
    pub limit_subjects: Option<usize>,
    /// FMR of clean pictures that the threshold is set for; the lowest that the subjects can support where that
    /// is higher.
    pub target_fmr: f64,
    /// Replicates of the bootstrap over subjects.
    pub replicates: usize,
    /// Where the report goes; made where it is missing.
    pub out: Option<PathBuf>,
    /// The command that asked, for the ledger.
    pub command: String,
}

/// Why nothing could be measured.
#[derive(Debug, thiserror::Error)]
pub enum RobustnessError {
    /// The run's record could not be written.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The model was trained on whom it is to be measured on, or nobody can tell.
    #[error(transparent)]
    Leak(#[from] LeakError),
    /// The data set cannot be read.
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    /// The model or the device cannot be used.
    #[error(transparent)]
    Service(#[from] ServiceError),
    /// The folder holds something already.
    #[error("{path} is not empty: name a new folder", path = .0.display())]
    NotEmpty(PathBuf),
    /// The model refused a picture.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A file cannot be read.
    #[error("cannot read {path}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A picture cannot be decoded or damaged.
    #[error("cannot use {path}", path = path.display())]
    Picture {
        /// The file.
        path: PathBuf,
        /// Why.
        source: ImageError,
    },
    /// Too little to compare.
    #[error(
        "robustness needs at least two subjects, one of them with two pictures of one hand without accessories"
    )]
    TooFew,
    /// The figures cannot be taken.
    #[error(transparent)]
    Evaluation(#[from] EvaluationError),
    /// The report cannot be written.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The report's folder cannot be made.
    #[error("cannot make {path}", path = path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The report cannot be put into JSON.
    #[error("the report cannot be written as JSON")]
    Json(#[from] serde_json::Error),
}

/// One kind and severity of damage.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ConditionRow {
    /// The kind.
    pub corruption: Corruption,
    /// How bad.
    pub severity: Severity,
    /// What it costs.
    #[serde(flatten)]
    pub damage: Damage,
}

/// One kind of damage, mean over its severities.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct CorruptionRow {
    /// The kind.
    pub corruption: Corruption,
    /// Its family.
    pub family: Family,
    /// What it costs.
    #[serde(flatten)]
    pub damage: Damage,
}

/// One family of damage, mean over its kinds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct FamilyRow {
    /// The family.
    pub family: Family,
    /// What it costs.
    #[serde(flatten)]
    pub damage: Damage,
}

/// Pictures with accessories, asked of a gallery without: occlusion as it occurs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct NaturalRow {
    /// Subjects who wear something in a picture of a hand that is enrolled without.
    pub subjects: usize,
    /// Their pictures with accessories.
    pub probes: usize,
    /// What those score.
    pub worn: Standing,
    /// What pictures of the same hands without accessories score; `None` where all of them are enrolled.
    pub bare: Option<Standing>,
}

/// Everything measured. Shares, not percentages.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RobustnessReport {
    /// The model.
    pub model: ModelSummary,
    /// Which pictures were damaged.
    pub on: On,
    /// Names the draws and the damage.
    pub seed: u64,
    /// Draws.
    pub runs: usize,
    /// Subjects of pictures without accessories.
    pub subjects: usize,
    /// Pictures without accessories.
    pub images: usize,
    /// Asked about in a draw.
    pub probes: usize,
    /// FMR that the threshold was set for.
    pub target_fmr: f64,
    /// Why that is not the one asked for.
    pub note: Option<String>,
    /// What took part of the data set, where that is not all of it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub data_notes: Vec<String>,
    /// The threshold: accepted is what is not below it.
    pub threshold: f32,
    /// Clean pictures.
    pub clean: Standing,
    /// Every kind and severity.
    pub conditions: Vec<ConditionRow>,
    /// Every kind.
    pub corruptions: Vec<CorruptionRow>,
    /// Every family.
    pub families: Vec<FamilyRow>,
    /// Accessories; `None` where no hand is shown with and without.
    pub natural: Option<NaturalRow>,
    /// Groups of people and pictures, clean.
    pub groups: Vec<GroupTable>,
}

impl RobustnessReport {
    /// The run in the ledger's words.
    fn record(&self, request: &RobustnessRequest) -> RunRecord {
        let mut record = RunRecord::new(RunKind::Robustness, &request.command);
        record.set("model", &self.model.name);
        record.set("fingerprint", self.model.fingerprint);
        record.set("data", data_name(&request.data));
        record.set("seed", self.seed);
        record.set("runs", self.runs);
        record.set("subjects", self.subjects);
        record.figure("rank1", self.clean.rank1.value);
        record.figure("fnmr", self.clean.fnmr.value);
        record.figure("threshold", f64::from(self.threshold));
        record.figure("target_fmr", self.target_fmr);
        record
    }

    /// For people.
    #[must_use]
    pub fn markdown(&self) -> String {
        report::markdown(self)
    }
}

/// Measures a model. `progress` gets pictures looked at and in all.
///
/// # Errors
/// [`RobustnessError`].
pub fn measure_robustness(
    request: &RobustnessRequest,
    progress: &(dyn Fn(usize, usize) + Sync),
) -> Result<RobustnessReport, RobustnessError> {
    // Before any work: a folder that cannot be made is found out at once.
    if let Some(out) = &request.out {
        if std::fs::read_dir(out).is_ok_and(|mut entries| entries.next().is_some()) {
            return Err(RobustnessError::NotEmpty(out.clone()));
        }
        std::fs::create_dir_all(out)
            .map_err(|source| RobustnessError::Folder { path: out.clone(), source })?;
    }
    let embedder = super::open_model(&request.model, &request.device, &mut Vec::new())?;
    let everybody = dataset::read(&request.data)?;
    let Measured { images, notes } = measured(&request.data, request.hold_out)?;
    let images = plan::limited(images, request.limit_subjects);
    if !request.allow_leak {
        let keys: Vec<String> = images.iter().map(LabelledImage::key).collect();
        check_leak(&request.model, &keys.iter().map(String::as_str).collect(), &everybody)?;
    }
    let plan = Plan::draw(&images, request.runs, request.seed);
    if !plan.is_enough() {
        return Err(RobustnessError::TooFew);
    }
    let looks = 1 + request.corruptions.len() * request.severities.len();
    let total = plan.bare.len() * looks + plan.worn.len();
    let step = |done| progress(done, total);
    let studio = Studio::new(&embedder, &images, request.seed, &step);
    let clean = studio.clean(&plan.bare)?;
    let asker = Asker::new(&plan, &clean, request)?;
    let mut report = RobustnessReport {
        model: embedder.summary(),
        on: request.on,
        seed: request.seed,
        runs: request.runs,
        subjects: plan.subjects(),
        images: plan.bare.len(),
        probes: plan.probes(),
        target_fmr: asker.target,
        note: asker.note.clone(),
        data_notes: notes,
        threshold: asker.threshold,
        clean: asker.standing,
        conditions: Vec::new(),
        corruptions: Vec::new(),
        families: Vec::new(),
        natural: None,
        groups: asker.groups(&images)?,
    };
    let mut by_family: Vec<(Family, Vec<Tally>)> = Vec::new();
    for corruption in &request.corruptions {
        let (corruption, family) = (*corruption, corruption.family());
        let mut tallies = Vec::new();
        let looks = studio.damaged(&plan.bare, corruption, &request.severities)?;
        for (severity, look) in request.severities.iter().zip(looks) {
            let tally = asker.ask(&look)?;
            let damage = asker.damage(&tally)?;
            report.conditions.push(ConditionRow { corruption, severity: *severity, damage });
            tallies.push(tally);
        }
        let Some(mean) = Tally::mean(&tallies)? else { continue };
        let damage = asker.damage(&mean)?;
        report.corruptions.push(CorruptionRow { corruption, family, damage });
        match by_family.iter_mut().find(|(name, _)| *name == family) {
            Some((_, means)) => means.push(mean),
            None => by_family.push((family, vec![mean])),
        }
    }
    for (family, means) in by_family {
        if let Some(mean) = Tally::mean(&means)? {
            report.families.push(FamilyRow { family, damage: asker.damage(&mean)? });
        }
    }
    report.natural = asker.natural(&studio.clean(&plan.worn)?)?;
    if let Some(out) = &request.out {
        let json = serde_json::to_vec_pretty(&report)?;
        write_atomic(&out.join("robustness.json"), &json)?;
        write_atomic(&out.join("robustness.md"), report.markdown().as_bytes())?;
        write_atomic(&out.join("robustness.html"), report::html(&report).as_bytes())?;
        report.record(request).save(out)?;
    }
    Ok(report)
}

/// Asks the same of every look at the pictures.
struct Asker<'a> {
    plan: &'a Plan,
    clean: &'a Look,
    on: On,
    bootstrap: Bootstrap,
    target: f64,
    note: Option<String>,
    threshold: f32,
    tally: Tally,
    standing: Standing,
}

impl<'a> Asker<'a> {
    /// Fixes the threshold on clean pictures.
    fn new(
        plan: &'a Plan,
        clean: &'a Look,
        request: &RobustnessRequest,
    ) -> Result<Self, RobustnessError> {
        let bootstrap = Bootstrap {
            replicates: request.replicates,
            seed: request.seed,
            ..Bootstrap::default()
        };
        let seen = plan.seen(clean, clean)?;
        let scores = Scores::gather(&seen.trials()?.concat(), &[], |label| label)?;
        let subjects = scores.subjects().unwrap_or(0);
        let refused = claim_fmr(request.target_fmr, subjects).err();
        let target = request.target_fmr.max(lowest_fmr(subjects));
        let threshold = scores.threshold_at_fmr(target);
        let tally = seen.tally(plan, threshold)?;
        let standing = tally.standing(&bootstrap)?;
        let note = refused.map(|refused| refused.to_string());
        Ok(Self {
            plan,
            clean,
            on: request.on,
            bootstrap,
            target,
            note,
            threshold,
            tally,
            standing,
        })
    }

    fn ask(&self, look: &Look) -> Result<Tally, RobustnessError> {
        let gallery = match self.on {
            On::Probe => self.clean,
            On::Both => look,
        };
        self.plan.seen(gallery, look)?.tally(self.plan, self.threshold)
    }

    fn damage(&self, tally: &Tally) -> Result<Damage, RobustnessError> {
        Ok(tally.against(&self.tally, &self.bootstrap)?)
    }

    /// worn: the look at pictures with accessories.
    fn natural(&self, worn: &Look) -> Result<Option<NaturalRow>, RobustnessError> {
        let plan = self.plan.with_accessories();
        let (subjects, probes) = plan.askers();
        if probes == 0 {
            return Ok(None);
        }
        let standing = |plan: &Plan, look: &Look| -> Result<Standing, RobustnessError> {
            let tally = plan.seen(self.clean, look)?.tally(plan, self.threshold)?;
            Ok(tally.standing(&self.bootstrap)?)
        };
        let bare = self.plan.of_hands_in(&plan);
        let bare = if bare.askers().1 > 0 { Some(standing(&bare, self.clean)?) } else { None };
        Ok(Some(NaturalRow { subjects, probes, worn: standing(&plan, worn)?, bare }))
    }

    fn groups(
        &self,
        images: &[dataset::LabelledImage],
    ) -> Result<Vec<GroupTable>, RobustnessError> {
        let seen = self.plan.seen(self.clean, self.clean)?;
        let runs: Vec<Vec<Trial<'_>>> = seen.trials()?;
        let terms = Terms {
            threshold: self.threshold,
            least_subjects: LEAST_SUBJECTS,
            bootstrap: self.bootstrap,
        };
        let groupings = seen.groupings(self.plan, images);
        let tables = groupings.iter().map(|grouping| Ok(by_group(&runs, grouping, &terms)?));
        tables.collect()
    }
}
