//! Integration tests: one binary, a module per promise.

mod layers;
mod preprocessing;
mod support;
