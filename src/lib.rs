//! HandCLIP: a hand-biometric retrieval server with an embedded CLIP model.

pub mod domain;

pub mod cli;
pub mod config;
pub mod evaluation;
pub mod gallery;
pub mod http;
pub mod image;
pub mod model;
pub mod service;
pub mod storage;
pub mod synth;
pub mod telemetry;
pub mod tensor;
pub mod training;
