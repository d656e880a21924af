//! Integration tests: one binary, a module per promise.

mod checkpoint;
mod gallery;
mod hub;
mod images;
mod layers;
mod model;
mod preprocessing;
mod support;
