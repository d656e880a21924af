//! Integration tests: one binary, a module per promise.

mod api;
mod cli;
mod crash;
mod gallery;
mod images;
mod layers;
mod preprocessing;
mod real_photos;
mod support;
