//! Integration tests: one binary, a module per promise.

mod preprocessing;
mod support;
