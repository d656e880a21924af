//! Integration tests: one binary, a module per promise.

mod crash;
mod gallery;
mod images;
mod layers;
mod preprocessing;
mod support;
