//! Integration tests: one binary, a module per promise.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a test that cannot go on says so by failing"
)]

mod access;
mod api;
mod checkpoint;
mod cli;
mod commands;
mod crash;
mod cuda;
mod datasets;
mod deployment;
mod dropped;
mod evaluate;
mod evaluation;
mod evaluations;
mod explain;
mod fine_tune;
mod gallery;
mod hub;
mod images;
mod jobs;
mod layers;
mod model;
mod nano;
mod preprocessing;
mod real_photos;
mod registry;
mod retention;
mod robustness;
mod scan;
mod service;
mod storage;
mod support;
mod training;
mod training_runs;
mod trust;
