//! Integration tests: one binary, a module per promise.

mod layers;
mod images;
mod preprocessing;
mod gallery;
mod support;
