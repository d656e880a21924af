use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

use super::served::Served;
use crate::cli::{done, failed, handclip};

/// An authority, and files of what it signed.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    dir: PathBuf,
}

impl Authority {
    fn new(dir: &Path, name: &str) -> Self {
        let dir = dir.join(name);
        std::fs::create_dir_all(&dir).unwrap();
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        std::fs::write(dir.join("ca.pem"), issuer.pem()).unwrap();
        Self { issuer, dir }
    }

    fn file(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }

    /// A certificate and its key, as PEM.
    fn sign(&self) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let params = CertificateParams::new(names).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    fn write(&self, name: &str) -> (String, String) {
        let (cert, key) = self.sign();
        let files = (self.file(&format!("{name}.pem")), self.file(&format!("{name}.key")));
        std::fs::write(&files.0, cert).unwrap();
        std::fs::write(&files.1, key).unwrap();
        files
    }
}

#[test]
fn only_who_speaks_tls_and_knows_the_authority_is_answered_and_certificates_change_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let (first, second) = (Authority::new(dir.path(), "a"), Authority::new(dir.path(), "b"));
    let (cert, key) = first.write("server");
    let running = Served::start(&data, &["--tls-cert", &cert, "--tls-key", &key]);
    let url = running.url.clone();
    assert!(url.starts_with("https://"), "{url}");
    let ask =
        |ca: &[&str]| handclip(&[&["gallery", "erasures", "--server", &url][..], ca].concat());
    let (ca_a, ca_b) = (first.file("ca.pem"), second.file("ca.pem"));
    assert!(done(&ask(&["--ca", &ca_a])).contains("erasures"));
    failed(&ask(&["--ca", &ca_b]), 1);
    failed(&ask(&[]), 1);
    let health = ["health", "--listen", &url["https://".len()..]];
    assert!(done(&handclip(&[&health[..], &["--tls"]].concat())).contains("ready"));
    failed(&handclip(&health), 1);
    // As a container asks, which has the server's own settings and nothing else.
    let settings = [&health[..], &["--tls-cert", &cert, "--tls-key", &key]].concat();
    assert!(done(&handclip(&settings)).contains("ready"));
    // In the clear nothing is said.
    let mut plain = TcpStream::connect(("127.0.0.1", running.port)).unwrap();
    plain.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    plain.write_all(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
    let mut heard = Vec::new();
    let _ = plain.read_to_end(&mut heard);
    assert!(!heard.windows(4).any(|window| window == b"HTTP"), "{heard:?}");

    // What is no certificate changes nothing.
    std::fs::write(&cert, "not a certificate").unwrap();
    running.signal("-HUP");
    std::thread::sleep(Duration::from_millis(300));
    done(&ask(&["--ca", &ca_a]));
    let (new_cert, new_key) = second.sign();
    std::fs::write(&cert, new_cert).unwrap();
    std::fs::write(&key, new_key).unwrap();
    running.signal("-HUP");
    let begun = Instant::now();
    while !ask(&["--ca", &ca_b]).status.success() {
        assert!(begun.elapsed() < Duration::from_secs(15), "the new certificate is not shown");
    }
    failed(&ask(&["--ca", &ca_a]), 1);
}

#[test]
fn clients_without_a_certificate_are_kept_out_where_one_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let (ours, theirs) = (Authority::new(dir.path(), "ours"), Authority::new(dir.path(), "theirs"));
    let (cert, key) = ours.write("server");
    let (ca, client_ca) = (ours.file("ca.pem"), theirs.file("ca.pem"));
    let tls = ["--tls-cert", &cert, "--tls-key", &key, "--tls-client-ca", &client_ca];
    let running = Served::start(&data, &tls);
    let url = format!("https://localhost:{}", running.port);
    let ask = |with: &[&str]| {
        handclip(&[&["gallery", "erasures", "--server", &url, "--ca", &ca][..], with].concat())
    };
    failed(&ask(&[]), 1);
    let at = format!("127.0.0.1:{}", running.port);
    assert!(
        done(&handclip(&[&["health", "--listen", &at][..], &tls].concat())).contains("listening")
    );
    failed(&handclip(&[&["health", "--listen", "127.0.0.1:1"][..], &tls].concat()), 1);
    let (stranger, stranger_key) = ours.write("stranger");
    failed(&ask(&["--client-cert", &stranger, "--client-key", &stranger_key]), 1);
    let (known, known_key) = theirs.write("known");
    assert!(
        done(&ask(&["--client-cert", &known, "--client-key", &known_key])).contains("erasures")
    );
}

#[test]
fn certificates_that_cannot_be_used_are_named_before_anything_is_served() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data").display().to_string();
    let authority = Authority::new(dir.path(), "a");
    let (cert, key) = authority.write("server");
    let (_, other_key) = authority.write("other");
    let serve = |tls: &[&str]| {
        handclip(&[&["serve", "--data-dir", &data, "--listen", "127.0.0.1:0"][..], tls].concat())
    };
    let mixed = failed(&serve(&["--tls-cert", &cert, "--tls-key", &other_key]), 1);
    assert!(mixed.contains("cannot be used with its key"), "{mixed}");
    let missing = failed(&serve(&["--tls-cert", "nowhere.pem", "--tls-key", &key]), 1);
    assert!(missing.contains("nowhere.pem"), "{missing}");
    failed(&serve(&["--tls-cert", &cert]), 2);
}
