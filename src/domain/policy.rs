use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};

/// What becomes of an enrolment that looks like somebody else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnMatch {
    /// It is refused.
    #[default]
    Refuse,
    /// It is enrolled and marked.
    Flag,
}

/// Who may be in a gallery, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GalleryPolicy {
    /// Nobody is enrolled without a consent that holds.
    pub require_consent: bool,
    /// Whoever was not enrolled, verified or identified for so many days is erased; `None` for nobody.
    pub retention_days: Option<NonZeroU32>,
    /// What becomes of an enrolment that matches another subject. Without thresholds none does.
    pub on_match: OnMatch,
}

/// Why somebody has to look at a sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SampleFlag {
    /// It matched another subject when it was enrolled.
    MatchesAnother,
    /// It looked like none of its subject's other samples of the same hand and aspect when it was enrolled.
    FarFromSubject,
}
