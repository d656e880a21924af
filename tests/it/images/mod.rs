//! Pictures from files: every flavour, every orientation, and what must be refused.

pub(crate) mod build;
mod flavours;
mod hostile;
mod orientation;
mod quality;
