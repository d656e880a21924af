//! What the service takes and gives. Everything given is `Serialize` and has a schema, so that the
//! REST API and `--json` print the same.

mod enrolled;
mod explain;
mod jobs;
mod keys;
mod recognition;
mod system;

pub use enrolled::*;
pub use explain::*;
pub use jobs::*;
pub use keys::*;
pub use recognition::*;
pub use system::*;
