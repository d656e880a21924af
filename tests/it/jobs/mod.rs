//! What the queue, its runner and its part of the REST API promise.

mod crash;
mod queue;
