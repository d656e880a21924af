//! Settings: flags and `HANDCLIP_*`. The only reader of the environment.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::path::PathBuf;

use clap::Args;

/// Where the store lies and what opens it.
#[derive(Debug, Clone, Args)]
pub struct StoreArgs {
    /// Folder of the store; made at the first start
    #[arg(long, env = "HANDCLIP_DATA_DIR", default_value = "handclip-data", value_name = "DIR")]
    pub data_dir: PathBuf,
    /// File with the master key, 64 hexadecimal digits; made at the first start [default: DIR/master.key]
    #[arg(long, env = "HANDCLIP_MASTER_KEY_FILE", value_name = "FILE")]
    pub master_key_file: Option<PathBuf>,
    /// Command that prints the master key, as a key management service's client does; instead of a file
    #[arg(
        long,
        env = "HANDCLIP_MASTER_KEY_COMMAND",
        value_name = "COMMAND",
        conflicts_with = "master_key_file"
    )]
    pub master_key_command: Option<String>,
    /// The master key itself; only from the environment, so that no process list shows it
    #[arg(skip)]
    pub master_key: Option<String>,
}

impl StoreArgs {
    /// The master key given in `HANDCLIP_MASTER_KEY`, if any.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "this module is the reader of the environment")]
    pub fn master_key_from_env(&self) -> Option<String> {
        self.master_key.clone().or_else(|| std::env::var("HANDCLIP_MASTER_KEY").ok())
    }
}

/// The API key and the certificates that a server is asked with.
#[derive(Debug, Clone, Default, Args)]
pub struct ApiKeyArgs {
    /// PEM file with the authority that the server's certificate is of, instead of the public ones
    #[arg(long, env = "HANDCLIP_CA", value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// PEM file with a certificate to show to a server that asks for one
    #[arg(long, env = "HANDCLIP_CLIENT_CERT", value_name = "FILE", requires = "client_key")]
    pub client_cert: Option<PathBuf>,
    /// PEM file with that certificate's private key
    #[arg(long, env = "HANDCLIP_CLIENT_KEY", value_name = "FILE", requires = "client_cert")]
    pub client_key: Option<PathBuf>,
    /// File with the API key that the server is asked with; without it `HANDCLIP_API_KEY`, if that is set
    #[arg(long, env = "HANDCLIP_API_KEY_FILE", value_name = "FILE")]
    pub api_key_file: Option<PathBuf>,
}

impl ApiKeyArgs {
    /// The key, if one is given. Never from a flag, which a process list shows.
    ///
    /// # Errors
    /// When the file cannot be read.
    #[expect(clippy::disallowed_methods, reason = "this module is the reader of the environment")]
    pub fn api_key(&self) -> std::io::Result<Option<String>> {
        match &self.api_key_file {
            Some(path) => Ok(Some(std::fs::read_to_string(path)?.trim().to_owned())),
            None => Ok(std::env::var("HANDCLIP_API_KEY").ok().map(|key| key.trim().to_owned())),
        }
    }
}

/// A server that is asked.
#[derive(Debug, Clone, Args)]
pub struct RemoteArgs {
    /// The server to ask
    #[arg(
        long,
        env = "HANDCLIP_SERVER",
        default_value = "http://127.0.0.1:8470",
        value_name = "URL"
    )]
    pub server: String,
    #[command(flatten)]
    #[expect(missing_docs, reason = "clap would print it as the command's help")]
    pub key: ApiKeyArgs,
}

/// A server that is asked instead of opening the data directory.
#[derive(Debug, Clone, Args)]
pub struct ServerArgs {
    /// Ask this running server, with an admin's key, instead of opening the data directory
    #[arg(long, env = "HANDCLIP_SERVER", value_name = "URL")]
    pub server: Option<String>,
    #[command(flatten)]
    #[expect(missing_docs, reason = "clap would print it as the command's help")]
    pub key: ApiKeyArgs,
}

/// Where the registry of models lies.
#[derive(Debug, Clone, Args)]
pub struct DataDirArgs {
    /// Folder of the store
    #[arg(long, env = "HANDCLIP_DATA_DIR", default_value = "handclip-data", value_name = "DIR")]
    pub data_dir: PathBuf,
}

/// What tells the allocator how long to keep freed memory before the system gets it back; -1 for ever.
pub const ALLOCATOR_PURGE: &str = "MIMALLOC_PURGE_DELAY";

/// Whether somebody has told the allocator how long to keep freed memory.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this module is the reader of the environment")]
pub fn allocator_is_told() -> bool {
    std::env::var_os(ALLOCATOR_PURGE).is_some()
}

/// Which model, and where it runs.
#[derive(Debug, Clone, Args)]
pub struct ModelArgs {
    /// `nano`, a Hugging Face style directory, the folder of a run or an export, or a name of the data directory's registry
    #[arg(long, env = "HANDCLIP_MODEL", default_value = "nano", value_name = "M")]
    pub model: String,
    /// `auto`, `cpu`, `cpu:bf16` (weights in bfloat16: half the memory), `cpu:int8` (in eight bits: a quarter) or `cuda:N`
    #[arg(long, env = "HANDCLIP_DEVICE", default_value = "auto", value_name = "D")]
    pub device: String,
}

/// How the server serves.
#[derive(Debug, Clone, Args)]
pub struct ServeArgs {
    #[command(flatten)]
    #[expect(missing_docs, reason = "clap would print it as the command's help")]
    pub store: StoreArgs,
    #[command(flatten)]
    #[expect(missing_docs, reason = "clap would print it as the command's help")]
    pub model: ModelArgs,
    #[command(flatten)]
    #[expect(missing_docs, reason = "clap would print it as the command's help")]
    pub http: HttpArgs,
    /// Images decoded at a time, each in 64 MiB; larger ones take the places of several [default: processors, at least 2]
    #[arg(long, env = "HANDCLIP_DECODERS", value_name = "N")]
    pub decoders: Option<usize>,
    /// Embeddings computed together, at most
    #[arg(long, env = "HANDCLIP_MAX_BATCH", default_value_t = 16, value_name = "N")]
    pub max_batch: usize,
    /// How long the first request of a batch waits for others, in microseconds, unless the last eight waited for nobody
    #[arg(long, env = "HANDCLIP_MAX_WAIT_US", default_value_t = 500, value_name = "US")]
    pub max_wait_us: u64,
    /// Embeddings and images that may wait; one more is answered 429
    #[arg(long, env = "HANDCLIP_QUEUE", default_value_t = 128, value_name = "N")]
    pub queue: usize,
    /// Threads that a job computes on; they give way to those that serve [default: half the processors]
    #[arg(long, env = "HANDCLIP_JOB_THREADS", value_name = "N")]
    pub job_threads: Option<usize>,
    /// A folder of labelled images that training runs and evaluations may name, as NAME=DIR; may be repeated
    #[arg(
        long = "data-root",
        env = "HANDCLIP_DATA_ROOTS",
        value_delimiter = ';',
        value_name = "NAME=DIR"
    )]
    pub data_roots: Vec<String>,
    #[command(flatten)]
    #[expect(missing_docs, reason = "clap would print it as the command's help")]
    pub gate: GateArgs,
    /// Largest data set that may be uploaded, in bytes
    #[arg(long, env = "HANDCLIP_MAX_DATASET_BYTES", default_value_t = 2 << 30, value_name = "BYTES")]
    pub max_dataset_bytes: u64,
    /// Largest model that is taken into the registry, in bytes
    #[arg(long, env = "HANDCLIP_MAX_MODEL_BYTES", default_value_t = 8 << 30, value_name = "BYTES")]
    pub max_model_bytes: u64,
    /// Most memory that a deployment may take beside what serves, in bytes [default: what the system has free]
    #[arg(long, env = "HANDCLIP_DEPLOY_MEMORY_BYTES", value_name = "BYTES")]
    pub deploy_memory_bytes: Option<u64>,
    /// Ends the process at a step of a deployment or an erasure as if it crashed, to try what becomes of it
    #[arg(long, hide = true, value_name = "STEP")]
    pub failpoint: Option<String>,
}

/// How much worse than the model that serves a challenger may be; defaults are those of the gate.
#[derive(Debug, Clone, Copy, Args)]
pub struct GateArgs {
    /// Rank-1 that a challenger may lose, as a share [default: 0.02]
    #[arg(long, env = "HANDCLIP_GATE_RANK1", value_name = "SHARE")]
    pub gate_rank1: Option<f64>,
    /// mAP that a challenger may lose, as a share [default: 0.02]
    #[arg(long, env = "HANDCLIP_GATE_MAP", value_name = "SHARE")]
    pub gate_map: Option<f64>,
    /// FNIR that a challenger may gain, as a share [default: 0.05]
    #[arg(long, env = "HANDCLIP_GATE_FNIR", value_name = "SHARE")]
    pub gate_fnir: Option<f64>,
    /// The FPIR that FNIR is measured at; 0.1 needs 30 subjects that are not enrolled, 0.01 three hundred [default: 0.1]
    #[arg(long, env = "HANDCLIP_GATE_FPIR", value_name = "SHARE")]
    pub gate_fpir: Option<f64>,
    /// Text recall that a challenger may lose, as a share [default: 0.05]
    #[arg(long, env = "HANDCLIP_GATE_TEXT_RECALL", value_name = "SHARE")]
    pub gate_text_recall: Option<f64>,
    /// Times as long that a challenger may take for a picture [default: 1.5]
    #[arg(long, env = "HANDCLIP_GATE_LATENCY", value_name = "RATIO")]
    pub gate_latency: Option<f64>,
}

/// Where a server listens.
#[derive(Debug, Clone, Copy, Args)]
pub struct ListenArgs {
    /// Address to listen on; port 0 takes a free one
    #[arg(long, env = "HANDCLIP_LISTEN", default_value = "127.0.0.1:8470", value_name = "ADDR")]
    pub listen: SocketAddr,
}

/// Certificates. Files that change are read again while the server runs, at SIGHUP at once.
#[derive(Debug, Clone, Default, Args)]
pub struct TlsArgs {
    /// Answer over TLS only, with the certificate chain in this PEM file
    #[arg(long, env = "HANDCLIP_TLS_CERT", value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// PEM file with the certificate's private key
    #[arg(long, env = "HANDCLIP_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// Let only clients in that show a certificate of an authority in this PEM file, as well as a key
    #[arg(long, env = "HANDCLIP_TLS_CLIENT_CA", value_name = "FILE", requires = "tls_cert")]
    pub tls_client_ca: Option<PathBuf>,
}

/// The server's network side.
#[derive(Debug, Clone, Args)]
pub struct HttpArgs {
    #[command(flatten)]
    #[expect(missing_docs, reason = "clap would print it as the command's help")]
    pub server: ListenArgs,
    #[command(flatten)]
    #[expect(missing_docs, reason = "clap would print it as the command's help")]
    pub tls: TlsArgs,
    /// Threads that talk HTTP
    #[arg(long, env = "HANDCLIP_WORKERS", default_value_t = 2, value_name = "N")]
    pub workers: usize,
    /// Largest image file, in bytes
    #[arg(long, env = "HANDCLIP_MAX_UPLOAD_BYTES", default_value_t = 32 * 1024 * 1024, value_name = "BYTES")]
    pub max_upload_bytes: usize,
    /// Requests being answered at a time; one more is answered 503
    #[arg(long, env = "HANDCLIP_MAX_REQUESTS", default_value_t = 256, value_name = "N")]
    pub max_requests: usize,
    /// Requests that a key may ask for in a second; one more is answered 429 [default: any number]
    #[arg(long, env = "HANDCLIP_RATE_LIMIT", value_name = "N")]
    pub rate_limit: Option<NonZeroU32>,
    /// How long a client may take to send a request, in seconds
    #[arg(long, env = "HANDCLIP_REQUEST_TIMEOUT_S", default_value_t = 8, value_name = "S")]
    pub request_timeout_s: u64,
    /// How long requests in flight may take when the server is told to stop, in seconds
    #[arg(long, env = "HANDCLIP_SHUTDOWN_S", default_value_t = 20, value_name = "S")]
    pub shutdown_s: u64,
}

/// An address that may not be listened on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "will not listen on {0}: there are no API keys, so anybody who reaches the port could read and erase. Make one first (`handclip keys create --name NAME --scope admin`), or listen on a loopback address such as 127.0.0.1"
)]
pub struct OpenPort(pub IpAddr);

impl HttpArgs {
    /// Refuses an address that others can reach where there are no keys to be asked for.
    ///
    /// # Errors
    /// [`OpenPort`].
    pub fn check(&self, without_keys: bool) -> Result<(), OpenPort> {
        let ip = self.server.listen.ip();
        if ip.is_loopback() || !without_keys { Ok(()) } else { Err(OpenPort(ip)) }
    }
}

/// What is logged, and how. Read before the command line is, so that nothing is lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    /// Which events, as in `info,handclip=debug`.
    pub filter: String,
    /// A JSON object a line instead of text.
    pub json: bool,
}

impl LogConfig {
    /// From `HANDCLIP_LOG` (else `default`) and `HANDCLIP_LOG_FORMAT` (`text` or `json`).
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "this module is the reader of the environment")]
    pub fn from_env(default: &str) -> Self {
        let filter = std::env::var("HANDCLIP_LOG").unwrap_or_else(|_| default.to_owned());
        let json = std::env::var("HANDCLIP_LOG_FORMAT").is_ok_and(|format| format == "json");
        Self { filter, json }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        serve: ServeArgs,
    }

    #[test]
    fn only_loopback_is_listened_on_without_keys() {
        let check = |listen: &str, open| {
            Cli::parse_from(["handclip", "--listen", listen]).serve.http.check(open)
        };
        assert_eq!(check("127.0.0.1:0", true), Ok(()));
        assert_eq!(check("[::1]:8470", true), Ok(()));
        for open in ["0.0.0.0:8470", "[::]:1", "192.168.1.4:80", "[::ffff:127.0.0.1]:80"] {
            assert!(check(open, true).is_err(), "{open}");
            assert_eq!(check(open, false), Ok(()), "{open}");
        }
    }
}
