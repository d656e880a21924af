use serde_json::json;

use crate::config::RemoteArgs;

use super::remote::Remote;
use super::{Failure, output};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    server: RemoteArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let remote = Remote::new(&args.server.server, &args.server.key)?;
    let now = remote.post("/v1/deployment:rollback", &json!({}))?;
    if args.json {
        return output::json(&now);
    }
    let live = &now["live"];
    let name = live["name"].as_str().unwrap_or("?");
    say!("{name} serves again, as generation {}", live["generation"])
}
