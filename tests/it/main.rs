//! Integration tests: one binary, a module per promise.

mod gallery;
mod images;
mod layers;
mod preprocessing;
mod support;
