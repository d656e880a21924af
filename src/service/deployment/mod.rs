//! Which models serve, and how one takes the place of another without a query noticing.
//!
//! A request loads the [`Deployment`] once. It holds the model that serves, the one before it for as long as it can be
//! returned to, the one that is being brought, and those that galleries without images stay with. Every step is stored with
//! the galleries' records in one batch ([`record`]) and told by one swap of a pointer while no template can be written.

mod backfill;
mod gate;
mod job;
mod keeper;
mod preflight;
mod record;
mod serving;
mod shadow;
mod steps;
mod table;
mod thresholds;
mod views;

pub(super) use job::deploy;
pub(super) use keeper::Keeper;
pub(super) use serving::{Deployment, Seat, Serving};
pub(super) use table::Deployments;

pub use steps::{DeployRequest, WithoutImages};
pub use views::{ChallengerView, DeploymentView, HistoryView, PreviousView};
