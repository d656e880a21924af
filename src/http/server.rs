use std::future::Future;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_web::middleware::{Compress, from_fn};
use actix_web::{App, HttpServer, web};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use utoipa_actix_web::AppExt as _;
use utoipa_swagger_ui::SwaggerUi;

use crate::config::{HttpArgs, OpenPort};
use crate::service::Service;
use crate::telemetry::Metrics;

use super::document::{document, paths};
use super::extract::BodyLimits;
use super::frame::{Frame, around};
use super::health::Started;
use super::jobs::Streams;
use super::rate::Rates;
use super::routes;
use super::tls::{Certificates, TlsError};

/// Why the server could not start or stopped.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// An address that others can reach.
    #[error(transparent)]
    OpenPort(#[from] OpenPort),
    /// The address cannot be had.
    #[error("cannot listen on {address}: is another server running there?")]
    Bind {
        /// The address asked for.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// Certificates that cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The server failed while it ran.
    #[error("the server failed")]
    Run(#[source] std::io::Error),
}

/// A server that listens and does not answer yet.
pub struct Server {
    address: SocketAddr,
    server: actix_web::dev::Server,
    handle: ServerHandle,
    signals: bool,
    certificates: Option<Arc<Certificates>>,
}

/// Stops a server from elsewhere.
#[derive(Clone)]
pub struct ServerHandle {
    server: actix_web::dev::ServerHandle,
    closing: Arc<watch::Sender<bool>>,
}

impl ServerHandle {
    /// Stops the server, whether or not the future is awaited. With `graceful`, requests in flight are answered;
    /// streams of events end, since they would go on for as long as their jobs do.
    pub fn stop(&self, graceful: bool) -> impl Future<Output = ()> + use<> {
        self.closing.send_replace(true);
        self.server.stop(graceful)
    }
}

impl Server {
    /// Binds first, so that the port is known and errors come early. Must be called in an actix system.
    /// With `signals`, SIGINT and SIGTERM stop it: requests in flight are answered. A second one stops it at once.
    ///
    /// # Errors
    /// [`ServerError`].
    pub fn bind(service: Service, args: &HttpArgs, signals: bool) -> Result<Self, ServerError> {
        args.check(service.is_open())?;
        let tls = Certificates::configure(&args.tls)?;
        let bind_error = |source| ServerError::Bind { address: args.server.listen, source };
        let listener = TcpListener::bind(args.server.listen).map_err(bind_error)?;
        let address = listener.local_addr().map_err(bind_error)?;
        let timeout = Duration::from_secs(args.request_timeout_s);
        let limits = web::Data::new(BodyLimits::new(args.max_upload_bytes, timeout));
        let (metrics, rates) = (Metrics::default(), args.rate_limit.map(Rates::new));
        let frame = Frame::new(metrics, args.max_requests, rates, paths(&document()));
        let frame = web::Data::new(frame);
        let (service, started) = (web::Data::new(service), web::Data::new(Started(Instant::now())));
        let closing = Arc::new(watch::Sender::new(false));
        let streams = web::Data::new(Streams::new(closing.subscribe()));
        let factory = move || {
            let (app, _) = App::new().into_utoipa_app().configure(routes).split_for_parts();
            app.app_data(service.clone())
                .app_data(limits.clone())
                .app_data(frame.clone())
                .app_data(started.clone())
                .app_data(streams.clone())
                .service(SwaggerUi::new("/docs/{_:.*}").url("/openapi.json", document()))
                .service(web::redirect("/docs", "/docs/"))
                .wrap(from_fn(around))
                .wrap(Compress::default())
        };
        let http = HttpServer::new(factory)
            .workers(args.workers.max(1))
            .max_connections(4096)
            .client_request_timeout(timeout)
            .client_disconnect_timeout(Duration::from_secs(1))
            .keep_alive(Duration::from_secs(30))
            .shutdown_timeout(args.shutdown_s)
            // They are heeded below, because streams have to hear of them too.
            .disable_signals();
        let (listening, certificates) = match tls {
            None => (http.listen(listener), None),
            Some((certificates, config)) => {
                (http.listen_rustls_0_23(listener, config), Some(certificates))
            }
        };
        let server = listening.map_err(bind_error)?.run();
        let handle = ServerHandle { server: server.handle(), closing };
        Ok(Self { address, server, handle, signals, certificates })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether it answers over TLS only.
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        self.certificates.is_some()
    }

    /// Stops it from elsewhere.
    #[must_use]
    pub fn handle(&self) -> ServerHandle {
        self.handle.clone()
    }

    /// Answers until it is stopped. `ready` is called once signals are heeded and requests answered.
    ///
    /// # Errors
    /// [`ServerError::Run`].
    pub async fn run(self, ready: impl FnOnce(SocketAddr)) -> Result<(), ServerError> {
        if self.signals {
            let caught = |kind| signal(kind).map_err(ServerError::Run);
            let (term, int) = (caught(SignalKind::terminate())?, caught(SignalKind::interrupt())?);
            actix_web::rt::spawn(heed(term, int, self.handle));
        }
        let watching =
            self.certificates.map(|certificates| actix_web::rt::spawn(certificates.watch()));
        let running = actix_web::rt::spawn(self.server);
        tokio::task::yield_now().await;
        ready(self.address);
        let ended = running.await;
        if let Some(watching) = watching {
            watching.abort();
        }
        match ended {
            Ok(result) => result.map_err(ServerError::Run),
            Err(error) => Err(ServerError::Run(std::io::Error::other(error))),
        }
    }
}

/// Stops the server at a first signal, and at once at a second.
async fn heed(mut term: Signal, mut int: Signal, handle: ServerHandle) {
    for graceful in [true, false] {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
        drop(handle.stop(graceful));
    }
}
