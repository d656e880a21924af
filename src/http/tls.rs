//! TLS: certificates that may be changed while the server runs, and, where it is asked for, clients that must show theirs.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{RootCertStore, ServerConfig};
use tokio::signal::unix::{SignalKind, signal};

use crate::config::TlsArgs;

/// How often it is looked whether the files have changed.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file that cannot be read, or holds no PEM.
    #[error("cannot read `{}` as PEM: {detail}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// A certificate and a key that do not belong together, or of a kind that is not taken.
    #[error("the certificate in `{}` cannot be used with its key: {detail}", path.display())]
    Certificate {
        /// The certificate's file.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// Clients whose certificates cannot be checked.
    #[error("clients cannot be checked by `{}`: {detail}", path.display())]
    ClientCa {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
}

/// What the files looked like when they were read.
type Seen = [Option<(SystemTime, u64)>; 2];

/// The certificate that is shown, and where the next one comes from.
pub(super) struct Certificates {
    cert: PathBuf,
    key: PathBuf,
    provider: Arc<CryptoProvider>,
    current: ArcSwap<CertifiedKey>,
}

impl std::fmt::Debug for Certificates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Certificates({})", self.cert.display())
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }
}

impl Certificates {
    /// TLS 1.2 and 1.3 with the certificate of these files.
    ///
    /// # Errors
    /// [`TlsError`].
    pub(super) fn configure(args: &TlsArgs) -> Result<Option<(Arc<Self>, ServerConfig)>, TlsError> {
        let (Some(cert), Some(key)) = (&args.tls_cert, &args.tls_key) else { return Ok(None) };
        let provider = Arc::new(ring::default_provider());
        let current = ArcSwap::from_pointee(read(cert, key, &provider)?);
        let (cert, key) = (cert.clone(), key.clone());
        let certificates = Arc::new(Self { cert, key, provider: Arc::clone(&provider), current });
        let versions = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13, &TLS12])
            .map_err(|error| TlsError::Certificate {
                path: certificates.cert.clone(),
                detail: error.to_string(),
            })?;
        let checked = match &args.tls_client_ca {
            None => versions.with_no_client_auth(),
            Some(path) => {
                let failed = |detail: String| TlsError::ClientCa { path: path.clone(), detail };
                let mut roots = RootCertStore::empty();
                for certificate in pem(path)? {
                    roots.add(certificate).map_err(|error| failed(error.to_string()))?;
                }
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                        .build()
                        .map_err(|error| failed(error.to_string()))?;
                versions.with_client_cert_verifier(verifier)
            }
        };
        let resolver = Arc::clone(&certificates);
        Ok(Some((certificates, checked.with_cert_resolver(resolver))))
    }

    /// Reads the files again. Connections that are open go on with what they have.
    ///
    /// # Errors
    /// [`TlsError`]; the certificate that was shown is shown further.
    fn reload(&self) -> Result<(), TlsError> {
        self.current.store(Arc::new(read(&self.cert, &self.key, &self.provider)?));
        Ok(())
    }

    fn seen(&self) -> Seen {
        [&self.cert, &self.key].map(|path| {
            let metadata = std::fs::metadata(path).ok()?;
            Some((metadata.modified().ok()?, metadata.len()))
        })
    }

    /// Reads the files again when they have changed, and at SIGHUP.
    pub(super) async fn watch(self: Arc<Self>) {
        let mut seen = self.seen();
        let Ok(mut asked) = signal(SignalKind::hangup()) else { return };
        loop {
            let now = tokio::select! {
                _ = asked.recv() => true,
                () = tokio::time::sleep(LOOK_EVERY) => false,
            };
            let found = self.seen();
            if !now && found == seen {
                continue;
            }
            match self.reload() {
                Ok(()) => tracing::info!("certificates read again"),
                // A certificate is often there a moment before its key: looked at again with the next change.
                Err(error) => tracing::warn!(%error, "the certificate before is shown further"),
            }
            seen = found;
        }
    }
}

fn pem(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let failed = |detail: String| TlsError::File { path: path.to_owned(), detail };
    let certificates = CertificateDer::pem_file_iter(path)
        .map_err(|error| failed(error.to_string()))?
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| failed(error.to_string()))?;
    if certificates.is_empty() {
        return Err(failed("it holds no certificate".to_owned()));
    }
    Ok(certificates)
}

fn read(cert: &Path, key: &Path, provider: &CryptoProvider) -> Result<CertifiedKey, TlsError> {
    let chain = pem(cert)?;
    let private = PrivateKeyDer::from_pem_file(key)
        .map_err(|error| TlsError::File { path: key.to_owned(), detail: error.to_string() })?;
    CertifiedKey::from_der(chain, private, provider)
        .map_err(|error| TlsError::Certificate { path: cert.to_owned(), detail: error.to_string() })
}
