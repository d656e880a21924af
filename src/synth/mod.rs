//! Hands of people who do not exist, drawn procedurally in the layout of 11k Hands. Knows nothing of
//! models or galleries; the demo, the tests and the embedded model use it instead of people's biometrics.

mod dataset;
mod details;
mod figure;
mod paint;
mod person;
mod render;
mod rng;
mod shape;
mod shot;
#[cfg(test)]
mod tests;

pub use dataset::{
    HANDS, SynthError, SynthSample, SynthSpec, SynthSummary, contact_sheet, write_dataset,
};
pub use person::Person;
pub use render::{RgbImage, render};
pub use shot::Shot;
