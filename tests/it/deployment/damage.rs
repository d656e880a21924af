//! The files of a model that serves are damaged while the server is away: it names the model and does not start, or answers as it did.

use std::path::Path;
use std::time::{Duration, Instant};

use handclip::domain::{AttributeFilter, GalleryId};
use handclip::service::{Combine, Identify, Service, ServiceOptions};
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;

use super::{create, deploy, overridden, register};
use crate::crash::{copy, damage};
use crate::support::app::{TestApp, hands};

/// What a search finds, to the last bit; or why the service does not open.
fn outcome(options: &ServiceOptions) -> Result<Vec<(String, u32)>, String> {
    let service = Service::open(options).map_err(|error| error.to_string())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let ask = Identify {
            image: hands()[3].jpeg.clone(),
            limit: 5,
            filter: AttributeFilter::default(),
            combine: Combine::Best,
            threshold: None,
        };
        let found = service.identify(&GalleryId::new("g").unwrap(), ask).await.unwrap();
        let of = found.candidates.iter();
        Ok(of.map(|one| (one.subject.to_string(), one.similarity.to_bits())).collect())
    })
}

#[test]
fn damaged_models_are_refused_or_serve_as_they_did() {
    let mut app = TestApp::spawn();
    register(&app.options.data_dir, "b", 1);
    create(&app, "g", true);
    for hand in hands().iter().take(12) {
        app.enrol("g", hand);
    }
    deploy(&app, "b", &overridden(0));
    app.halt();
    let dir = tempfile::tempdir().unwrap();
    let of = |data_dir: &Path| ServiceOptions {
        master_key: app.options.master_key.clone(),
        data_dir: data_dir.to_path_buf(),
        job_threads: 0,
        ..ServiceOptions::new(data_dir)
    };
    let whole = app.options.data_dir.clone();
    let expected = outcome(&of(&whole)).expect("undamaged");
    assert_eq!(expected[0].0, hands()[3].subject);

    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let kinds = ["a bit", "many bytes", "an end", "a page of zeros", "the whole file"];
    for (file, trials) in [
        ("files/model.safetensors", 30),
        ("files/preprocessor_config.json", 10),
        ("files/config.json", 10),
        ("files/tokenizer.json", 10),
        ("model.json", 10),
    ] {
        let (mut refused, mut served) = (0, 0);
        for kind in kinds {
            for trial in 0..if kind == "the whole file" { 1 } else { trials } {
                let copied = dir.path().join("trial");
                copy(&whole, &copied);
                damage(&copied.join("models/b").join(file), kind, &mut rng);
                let begun = Instant::now();
                let about = format!("{file}, {kind}, trial {trial}");
                match outcome(&of(&copied)) {
                    Ok(found) => {
                        assert_eq!(found, expected, "{about}");
                        served += 1;
                    }
                    Err(error) => {
                        let named = ["model b ", "model: b: ", "model `b`"];
                        assert!(named.iter().any(|by| error.contains(by)), "{about}: {error}");
                        refused += 1;
                    }
                }
                assert!(begun.elapsed() < Duration::from_secs(10), "{about}: slow");
                std::fs::remove_dir_all(copied).unwrap();
            }
        }
        println!("{file}: {refused} damages refused, {served} served right");
    }
}
