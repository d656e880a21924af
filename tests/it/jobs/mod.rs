//! What the queue, its runner and its part of the REST API promise.

mod api;
mod crash;
mod queue;
