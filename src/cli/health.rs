use std::net::TcpStream;
use std::time::Duration;

use ureq::tls::TlsConfig;

use crate::config::{ListenArgs, TlsArgs};

use super::Failure;

/// How long a server may take.
const PATIENCE: Duration = Duration::from_secs(4);

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    server: ListenArgs,
    /// The server answers over TLS, as it does where there is a certificate; that is not looked at, since nothing is sent
    #[arg(long)]
    tls: bool,
    // As the server beside it has them from the environment: a container asks with nothing else.
    #[command(flatten)]
    certificates: TlsArgs,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let listen = args.server.listen;
    if args.certificates.tls_client_ca.is_some() {
        // Whoever has no certificate of theirs is told nothing more than that somebody is there.
        TcpStream::connect_timeout(&listen, PATIENCE)
            .map_err(|error| Failure::from(format!("nobody listens on {listen}: {error}")))?;
        say!("listening on {listen}; it answers only to whoever shows a certificate")?;
        return Ok(());
    }
    let tls = args.tls || args.certificates.tls_cert.is_some();
    let scheme = if tls { "https" } else { "http" };
    let url = format!("{scheme}://{listen}/readyz");
    let agent = ureq::Agent::config_builder()
        .timeout_global(Some(PATIENCE))
        .tls_config(TlsConfig::builder().disable_verification(tls).build())
        .build();
    let mut response = ureq::Agent::from(agent).get(&url).call()?;
    say!("{}", response.body_mut().read_to_string()?)
}
