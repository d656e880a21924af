//! The `handclip` binary: parse, start the log, dispatch, print what went wrong.

use std::process::ExitCode;

use clap::Parser as _;
use handclip::{cli, config, telemetry};

// The index builds and decoders allocate from many threads; the system's allocator is slower at it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    let log = config::LogConfig::from_env(cli.default_log());
    telemetry::start_log(&log.filter, log.json);
    match cli::run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if cli::reader_left(&*error) => ExitCode::SUCCESS,
        Err(error) => {
            cli::complain(&*error);
            ExitCode::FAILURE
        }
    }
}
