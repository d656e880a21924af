use std::time::Duration;

use crate::config::ListenArgs;

use super::Failure;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    server: ListenArgs,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let url = format!("http://{}/readyz", args.server.listen);
    let agent = ureq::Agent::config_builder().timeout_global(Some(Duration::from_secs(4))).build();
    let mut response = ureq::Agent::from(agent).get(&url).call()?;
    say!("{}", response.body_mut().read_to_string()?)
}
