use std::time::Duration;

use crate::config::ServeArgs;
use crate::http::Server;
use crate::service::evaluate::GateMargins;
use crate::service::tools::has_store;
use crate::service::{DataRootError, Service, ServiceOptions};

use super::memory::return_freed_memory;
use super::{Failure, offline};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    serve: ServeArgs,
}

pub(super) fn options(args: &ServeArgs) -> Result<ServiceOptions, Failure> {
    let mut options = offline::options(&args.store, &args.model)?;
    options.max_image_bytes = args.http.max_upload_bytes;
    options.decoders = args.decoders.unwrap_or(options.decoders).max(1);
    options.decode_queue = args.queue;
    options.queue = args.queue;
    options.max_batch = args.max_batch.max(1);
    options.job_threads = args.job_threads.unwrap_or(options.job_threads).max(1);
    options.max_wait = Duration::from_micros(args.max_wait_us);
    options.data_roots =
        args.data_roots.iter().map(|root| root.parse()).collect::<Result<_, DataRootError>>()?;
    let (gate, usual) = (&args.gate, GateMargins::default());
    options.gate_margins = GateMargins {
        rank1: gate.gate_rank1.unwrap_or(usual.rank1),
        map: gate.gate_map.unwrap_or(usual.map),
        fnir: gate.gate_fnir.unwrap_or(usual.fnir),
        fpir: gate.gate_fpir.unwrap_or(usual.fpir),
        text_recall: gate.gate_text_recall.unwrap_or(usual.text_recall),
        latency_ratio: gate.gate_latency.unwrap_or(usual.latency_ratio),
    };
    options.max_dataset_bytes = args.max_dataset_bytes;
    options.max_model_bytes = args.max_model_bytes;
    options.deploy_memory_bytes = args.deploy_memory_bytes;
    options.failpoint.clone_from(&args.failpoint);
    Ok(options)
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    return_freed_memory();
    if !has_store(&args.serve.store.data_dir)? {
        // A store that is not there has no keys: before anything is made.
        args.serve.http.check(true)?;
    }
    let service = Service::open(&options(&args.serve)?)?;
    for notice in service.notices() {
        note!("note: {notice}");
    }
    if !args.serve.http.server.listen.ip().is_loopback() && args.serve.http.tls.tls_cert.is_none() {
        note!(
            "note: keys and images reach this server unencrypted: give it a certificate with --tls-cert and --tls-key, or put a proxy before it that ends TLS"
        );
    }
    actix_web::rt::System::new().block_on(async {
        let server = Server::bind(service.clone(), &args.serve.http, true)?;
        // A server whose starter does not listen serves all the same.
        let scheme = if server.is_encrypted() { "https" } else { "http" };
        server.run(|address| drop(say!("listening on {scheme}://{address}"))).await?;
        note!("stopped; writing snapshots");
        service.close().await?;
        Ok(())
    })
}
