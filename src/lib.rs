//! HandCLIP: a hand-biometric retrieval server with an embedded CLIP model.
//!
//! The modules are the rooms of the house, listed here in the order in which a newcomer should read
//! them. Each says in its first lines what it owns and what it must not know; ARCHITECTURE.md has the
//! table of who may use whom, which a test enforces.

// The words everybody speaks.
pub mod domain;

// What they are computed with, and by whom.
pub mod simd;
pub mod urgency;

// From a file to an embedding.
pub mod image;
pub mod tensor;

pub mod model;

// From an embedding to the people enrolled.
pub mod storage;

pub mod gallery;

// Who may ask.
pub mod access;

// Making and judging models.
pub mod synth;

pub mod evaluation;

pub mod dataset;

pub mod training;

// Work that outlives a request.
pub mod jobs;

// What a caller can ask for, and how.
pub mod report;
pub mod service;

pub mod config;
pub mod telemetry;

pub mod http;

pub mod cli;
