use std::time::Duration;

use ureq::tls::TlsConfig;

use crate::config::ListenArgs;

use super::Failure;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    server: ListenArgs,
    /// The server answers over TLS; its certificate is not looked at, since nothing is sent
    #[arg(long)]
    tls: bool,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let scheme = if args.tls { "https" } else { "http" };
    let url = format!("{scheme}://{}/readyz", args.server.listen);
    let agent = ureq::Agent::config_builder()
        .timeout_global(Some(Duration::from_secs(4)))
        .tls_config(TlsConfig::builder().disable_verification(args.tls).build())
        .build();
    let mut response = ureq::Agent::from(agent).get(&url).call()?;
    say!("{}", response.body_mut().read_to_string()?)
}
