//! Fetching a model: from a hub of our own on a free port, cut off and gone on with, and without
//! any hub.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use handclip::model::{Embedder, Hub, ModelError};
use sha2::{Digest as _, Sha256};

use crate::model::{model_directory, write};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A hub with one model. Answers as the real one does for as much as a client needs.
struct FakeHub {
    address: String,
    /// Path and first byte asked for, of every request.
    requests: Arc<Mutex<Vec<(String, usize)>>>,
    /// How many bytes of the weights to send before hanging up, once.
    cut: Arc<Mutex<Option<usize>>>,
    /// Whether to send other weights than there are, once.
    spoil: Arc<AtomicBool>,
}

impl FakeHub {
    fn start(dir: PathBuf) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let hub = Self {
            address: format!("http://{}", listener.local_addr().unwrap()),
            requests: Arc::default(),
            cut: Arc::default(),
            spoil: Arc::default(),
        };
        let (requests, cut) = (Arc::clone(&hub.requests), Arc::clone(&hub.cut));
        let spoil = Arc::clone(&hub.spoil);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                // A client that hangs up is not this thread's problem.
                let _ = answer(stream, &dir, &requests, &cut, &spoil);
            }
        });
        hub
    }

    fn hub(&self) -> Hub {
        Hub { endpoint: self.address.clone(), token: None }
    }
}

fn answer(
    mut stream: TcpStream,
    dir: &Path,
    requests: &Mutex<Vec<(String, usize)>>,
    cut: &Mutex<Option<usize>>,
    spoil: &AtomicBool,
) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let request = lines.next().unwrap_or_else(|| Ok(String::new()))?;
    let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
    let (mut first, mut last) = (0, usize::MAX);
    for line in lines.map_while(Result::ok).take_while(|line| !line.is_empty()) {
        if let Some(range) = line.to_ascii_lowercase().strip_prefix("range: bytes=") {
            let (from, to) = range.split_once('-').unwrap_or_default();
            (first, last) = (from.parse().unwrap_or(0), to.parse().unwrap_or(usize::MAX));
        }
    }
    requests.lock().unwrap().push((path.clone(), first));
    if path == "/api/models/owner/hands/revision/v1" {
        let siblings: Vec<_> = std::fs::read_dir(dir)?
            .map_while(Result::ok)
            .map(|entry| serde_json::json!({"rfilename": entry.file_name().to_string_lossy()}))
            .collect();
        let body = serde_json::json!({"siblings": siblings, "sha": COMMIT}).to_string();
        return write!(
            stream,
            "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        );
    }
    let name = path.strip_prefix(&format!("/owner/hands/resolve/{COMMIT}/")).map(str::to_owned);
    let Some(bytes) = name.as_ref().and_then(|name| std::fs::read(dir.join(name)).ok()) else {
        let head = "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        return stream.write_all(head.as_bytes());
    };
    // Large files are named by their sum.
    let name = name.unwrap_or_default();
    let etag = match name.ends_with(".safetensors") {
        true => hexadecimal(&bytes),
        false => name.replace('.', "-"),
    };
    let end = last.min(bytes.len() - 1) + 1;
    write!(
        stream,
        "HTTP/1.1 206 Partial Content\r\ncontent-length: {}\r\ncontent-range: bytes {first}-{}/{}\r\n\
         etag: \"{etag}\"\r\nx-repo-commit: {COMMIT}\r\nconnection: close\r\n\r\n",
        end - first,
        end - 1,
        bytes.len(),
    )?;
    let wanted = &bytes[first..end];
    if wanted.len() > 1 && name.ends_with(".safetensors") && spoil.swap(false, Ordering::Relaxed) {
        return stream.write_all(&vec![0; wanted.len()]);
    }
    if wanted.len() > 1
        && path.ends_with(".safetensors")
        && let Some(bytes) = cut.lock().unwrap().take()
    {
        return stream.write_all(&wanted[..bytes]);
    }
    stream.write_all(wanted)
}

fn hexadecimal(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn what_was_damaged_on_its_way_is_refused_and_fetched_again() {
    let source = model_directory("patch16_gelu");
    let fake = FakeHub::start(source.path().to_owned());
    let out = tempfile::tempdir().unwrap();
    let pull = || fake.hub().pull("owner/hands@v1", out.path(), &mut |_, _, _| ());
    fake.spoil.store(true, Ordering::Relaxed);
    let spoilt = pull();
    let named = |error: &ModelError| matches!(error, ModelError::Changed { file, .. } if file == "model.safetensors");
    assert!(spoilt.as_ref().is_err_and(named), "{spoilt:?}");
    assert!(!out.path().join("model.safetensors").exists());
    pull().unwrap();
    Embedder::open(out.path(), &candle_core::Device::Cpu).unwrap();
}

#[test]
fn a_model_is_fetched_whole_after_being_cut_off_and_not_fetched_again() {
    let source = model_directory("patch16_gelu");
    write(source.path(), "pytorch_model.bin", b"never fetched");
    let fake = FakeHub::start(source.path().to_owned());
    let out = tempfile::tempdir().unwrap();
    let pull = || {
        let mut last = (0, 0);
        let manifest =
            fake.hub().pull("owner/hands@v1", out.path(), &mut |_, done, all| last = (done, all));
        (manifest, last)
    };

    *fake.cut.lock().unwrap() = Some(100_000);
    let (cut_off, _) = pull();
    assert!(matches!(cut_off, Err(ModelError::Fetch { .. })), "{cut_off:?}");
    assert!(!out.path().join("model.safetensors").exists());

    fake.requests.lock().unwrap().clear();
    let (manifest, (done, all)) = pull();
    let manifest = manifest.unwrap();
    assert_eq!((manifest.repository.as_str(), manifest.commit.as_str()), ("owner/hands", COMMIT));
    assert_eq!(done, all);
    let requests = std::mem::take(&mut *fake.requests.lock().unwrap());
    assert!(
        requests.iter().any(|(path, first)| path.ends_with("safetensors") && *first == 100_000),
        "{requests:?}"
    );
    // What the first attempt brought whole is not asked for again, nor is a pickle ever.
    assert!(!requests.iter().any(|(path, _)| path.ends_with(".json") || path.ends_with(".bin")));

    assert_eq!(manifest.files.len(), 4);
    for (name, sum) in &manifest.files {
        let bytes = std::fs::read(out.path().join(name)).unwrap();
        assert_eq!(bytes, std::fs::read(source.path().join(name)).unwrap());
        assert_eq!(*sum, hexadecimal(&bytes));
    }
    assert!(out.path().join("handclip-model.json").is_file());
    assert!(!out.path().join(".download").exists());
    Embedder::open(out.path(), &candle_core::Device::Cpu).unwrap();

    // A third time compares sums only; by its commit it does not even ask.
    assert_eq!(pull().0.unwrap(), manifest);
    let offline = Hub { endpoint: "http://127.0.0.1:9".to_owned(), token: None };
    let pinned = format!("owner/hands@{COMMIT}");
    assert_eq!(offline.pull(&pinned, out.path(), &mut |_, _, _| ()).unwrap(), manifest);
    write(out.path(), "tokenizer.json", b"{}");
    let changed = offline.pull(&pinned, out.path(), &mut |_, _, _| ());
    assert!(
        matches!(&changed, Err(ModelError::Changed { file, .. }) if file == "tokenizer.json"),
        "{changed:?}"
    );
}

#[test]
fn without_a_hub_the_error_says_what_to_do() {
    let out = tempfile::tempdir().unwrap();
    // Port 9 discards, if anybody listens at all.
    let hub = Hub { endpoint: "http://127.0.0.1:9".to_owned(), token: None };
    let error = hub.pull("owner/hands@v1", out.path(), &mut |_, _, _| ()).unwrap_err();
    assert!(matches!(error, ModelError::Fetch { .. }), "{error}");
    assert!(error.to_string().contains("point --model at their directory"), "{error}");
    let unnamed = hub.pull("owner/hands", out.path(), &mut |_, _, _| ());
    assert!(matches!(unnamed, Err(ModelError::Reference(_))));
}

#[test]
fn a_model_with_nothing_but_pickles_is_not_fetched() {
    let source = model_directory("legacy_eos");
    std::fs::remove_file(source.path().join("model.safetensors")).unwrap();
    write(source.path(), "pytorch_model.bin", b"code");
    let fake = FakeHub::start(source.path().to_owned());
    let out = tempfile::tempdir().unwrap();
    let error = fake.hub().pull("owner/hands@v1", out.path(), &mut |_, _, _| ()).unwrap_err();
    assert!(error.to_string().contains("pytorch_model.bin is a pickle"), "{error}");
    let requests = fake.requests.lock().unwrap();
    assert!(!requests.iter().any(|(path, _)| path.ends_with(".bin")));
}
