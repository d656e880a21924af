//! Integration tests: one binary, a module per promise.

mod images;
mod preprocessing;
mod support;
