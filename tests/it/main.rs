//! Integration tests: one binary, a module per promise.

mod gallery;
mod support;
