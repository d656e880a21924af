//! The service as Rust callers hold it, on the embedded model and folders of its own.

use std::path::Path;

use handclip::domain::{AttributeFilter, GalleryId, GalleryPolicy, SampleId, SubjectId};
use handclip::service::{
    Combine, Decision, EmbeddingView, Enrolment, Identify, ModelChoice, NewGallery, Search,
    Service, ServiceError, ServiceOptions, Verify, tools,
};

use crate::support::app::{Hand, hands};

fn enrolment(hand: &Hand) -> Enrolment {
    Enrolment {
        subject: subject(hand),
        sample: None,
        attributes: hand.sample.attributes(),
        image: hand.jpeg.clone(),
        consent: None,
        allow_match: false,
    }
}

fn subject(hand: &Hand) -> SubjectId {
    SubjectId::new(hand.subject.as_str()).unwrap()
}

fn id() -> GalleryId {
    GalleryId::new("g").unwrap()
}

fn gallery() -> NewGallery {
    NewGallery {
        id: id(),
        retain_images: false,
        allow_training: false,
        description: String::new(),
        policy: GalleryPolicy::default(),
    }
}

fn identify(hand: &Hand) -> Identify {
    Identify {
        image: hand.jpeg.clone(),
        limit: 5,
        filter: AttributeFilter::default(),
        combine: Combine::Best,
        threshold: None,
    }
}

fn search(prompt: Option<&str>, image: Option<&Hand>, image_weight: f32) -> Search {
    Search {
        prompt: prompt.map(str::to_owned),
        image: image.map(|hand| hand.jpeg.clone()),
        image_weight,
        filter: AttributeFilter::default(),
        limit: 100,
    }
}

/// The embedded model with one number of its preprocessing changed: other embeddings, other fingerprint.
fn another_model(dir: &Path) -> ModelChoice {
    let nano = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/model/nano");
    for name in ["config.json", "model.safetensors", "tokenizer.json"] {
        std::fs::copy(nano.join(name), dir.join(name)).unwrap();
    }
    let name = "preprocessor_config.json";
    let changed = std::fs::read_to_string(nano.join(name)).unwrap().replace("0.4814", "0.4914");
    std::fs::write(dir.join(name), changed).unwrap();
    ModelChoice::Directory(dir.to_path_buf())
}

#[tokio::test]
async fn the_same_file_again_is_known_before_it_is_decoded() {
    let dir = tempfile::tempdir().unwrap();
    let service = Service::open(&ServiceOptions::new(dir.path().join("data"))).unwrap();
    service.create_gallery(gallery()).await.unwrap();
    let hands = &hands()[..16];
    let first = service.enrol(&id(), enrolment(&hands[0])).await.unwrap();
    assert!(first.created && first.timings.decode_us > 0 && first.timings.embed_us > 0);

    let again = service.enrol(&id(), enrolment(&hands[0])).await.unwrap();
    assert_eq!((again.created, &again.sample), (false, &first.sample));
    assert!((again.quality - first.quality).abs() < f32::EPSILON);
    assert_eq!((again.timings.decode_us, again.timings.embed_us), (0, 0));

    // Known and new in one batch keep their places.
    let batch = vec![enrolment(&hands[1]), enrolment(&hands[0]), enrolment(&hands[1])];
    let answers = service.enrol_batch(&id(), batch).await.unwrap();
    let created: Vec<bool> = answers.iter().map(|a| a.as_ref().unwrap().created).collect();
    assert_eq!(created, [true, false, false]);
    assert_eq!(answers[1].as_ref().unwrap().sample, first.sample);
    assert_eq!(service.gallery(&id()).unwrap().samples, 2);

    // The same file of another person is another sample.
    let other = Enrolment { subject: SubjectId::new("twin").unwrap(), ..enrolment(&hands[0]) };
    assert!(service.enrol(&id(), other).await.unwrap().created);
}

#[tokio::test]
async fn a_batch_larger_than_the_queues_is_enrolled_whole() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = ServiceOptions::new(dir.path().join("data"));
    (options.decoders, options.decode_queue, options.queue) = (1, 2, 2);
    let service = Service::open(&options).unwrap();
    service.create_gallery(gallery()).await.unwrap();
    let hands = &hands()[..16];
    let batch: Vec<Enrolment> = hands.iter().map(enrolment).collect();
    let answers = service.enrol_batch(&id(), batch).await.unwrap();
    for (answer, hand) in answers.iter().zip(hands) {
        assert_eq!(answer.as_ref().unwrap().subject, subject(hand));
    }
    assert_eq!(service.gallery(&id()).unwrap().samples, hands.len());
}

#[tokio::test]
async fn more_images_than_may_wait_are_refused_and_the_next_one_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = ServiceOptions::new(dir.path().join("data"));
    (options.decoders, options.decode_queue) = (1, 1);
    let service = Service::open(&options).unwrap();
    let hand = &hands()[0];
    let at_once = (0..16).map(|_| service.embed_image(hand.jpeg.clone()));
    let answers = futures_util::future::join_all(at_once).await;
    let busy =
        |a: &Result<EmbeddingView, ServiceError>| matches!(a, Err(ServiceError::Busy { .. }));
    assert!(answers.iter().any(Result::is_ok));
    assert!(answers.iter().any(busy));
    assert!(answers.iter().all(|a| a.is_ok() || busy(a)));
    service.embed_image(hand.jpeg.clone()).await.unwrap();
}

#[tokio::test]
async fn templates_of_another_model_are_never_compared() {
    let dir = tempfile::tempdir().unwrap();
    let options = ServiceOptions::new(dir.path().join("data"));
    let hand = &hands()[0];
    let service = Service::open(&options).unwrap();
    service.create_gallery(gallery()).await.unwrap();
    service.enrol(&id(), enrolment(hand)).await.unwrap();
    service.close().await.unwrap();
    drop(service);

    let model = dir.path().join("model");
    std::fs::create_dir(&model).unwrap();
    let service =
        Service::open(&ServiceOptions { model: another_model(&model), ..options }).unwrap();
    let refused = |error: ServiceError| {
        assert!(matches!(error, ServiceError::ModelMismatch { .. }), "{error}");
    };
    refused(service.identify(&id(), identify(hand)).await.unwrap_err());
    refused(service.search(&id(), search(Some("a palm"), None, 0.5)).await.unwrap_err());
    refused(service.enrol(&id(), enrolment(hand)).await.unwrap_err());
    refused(service.enrol_batch(&id(), vec![enrolment(hand)]).await.unwrap_err());
    let claim = Verify { subject: subject(hand), image: hand.jpeg.clone(), threshold: None };
    refused(service.verify(&id(), claim).await.unwrap_err());
    assert_eq!(service.gallery(&id()).unwrap().samples, 1);
    // Erasing needs no model.
    service.erase_subject(&id(), &subject(hand)).await.unwrap();
}

#[tokio::test]
async fn words_and_image_are_mixed_by_their_weights() {
    let dir = tempfile::tempdir().unwrap();
    let service = Service::open(&ServiceOptions::new(dir.path().join("data"))).unwrap();
    service.create_gallery(gallery()).await.unwrap();
    let hands = &hands()[..16];
    let mut batch: Vec<Enrolment> = hands.iter().map(enrolment).collect();
    let own = SampleId::new("own").unwrap();
    batch[0].sample = Some(own.clone());
    service.enrol_batch(&id(), batch).await.unwrap();
    let prompt = "the palm of a left hand";
    let words = service.embed_text(prompt.to_owned()).await.unwrap().embedding;
    let image = service.embed_image(hands[0].jpeg.clone()).await.unwrap().embedding;

    for weight in [0.0_f32, 0.25, 0.5, 1.0] {
        let mixed: Vec<f32> =
            words.iter().zip(&image).map(|(w, i)| (1.0 - weight) * w + weight * i).collect();
        let norm = mixed.iter().map(|v| v * v).sum::<f32>().sqrt();
        // The image's own enrolled sample has the image's embedding.
        let expected = mixed.iter().zip(&image).map(|(m, i)| m * i).sum::<f32>() / norm;
        let ask = search(Some(prompt), Some(&hands[0]), weight);
        let hits = service.search(&id(), ask).await.unwrap().hits;
        assert_eq!(hits.len(), hands.len());
        assert!(hits.windows(2).all(|pair| pair[0].similarity >= pair[1].similarity));
        let got = hits.iter().find(|hit| hit.sample == own).unwrap().similarity;
        assert!((got - expected).abs() < 1e-4, "weight {weight}: {got}, not {expected}");
    }
    let found = async |ask| {
        let hits = service.search(&id(), ask).await.unwrap().hits;
        hits.into_iter().map(|hit| hit.sample).collect::<Vec<_>>()
    };
    let by_words = found(search(Some(prompt), None, 0.5)).await;
    assert_eq!(by_words, found(search(Some(prompt), Some(&hands[0]), 0.0)).await);
    assert_ne!(by_words, found(search(None, Some(&hands[0]), 0.5)).await);
    let nothing = service.search(&id(), search(None, None, 0.5)).await.unwrap_err();
    assert!(matches!(nothing, ServiceError::Invalid { field: "prompt", .. }), "{nothing}");
}

#[tokio::test]
async fn a_decision_needs_a_threshold() {
    let dir = tempfile::tempdir().unwrap();
    let service = Service::open(&ServiceOptions::new(dir.path().join("data"))).unwrap();
    service.create_gallery(gallery()).await.unwrap();
    let hands = &hands()[..16];
    service.enrol(&id(), enrolment(&hands[0])).await.unwrap();
    let decided = async |threshold| {
        let ask = Identify { threshold, ..identify(&hands[0]) };
        let found = service.identify(&id(), ask).await.unwrap();
        let (subject, image) = (subject(&hands[0]), hands[0].jpeg.clone());
        let claim = service.verify(&id(), Verify { subject, image, threshold }).await.unwrap();
        assert_eq!(found.threshold, claim.threshold);
        (found.decision, claim.decision)
    };
    assert_eq!(decided(None).await, (None, None));
    assert_eq!(decided(Some(0.5)).await, (Some(Decision::Match), Some(Decision::Match)));
    // The image itself reaches 1 less rounding, and nothing reaches more.
    let ask = Identify { threshold: Some(1.5), ..identify(&hands[0]) };
    let refused = service.identify(&id(), ask).await.unwrap_err();
    assert!(matches!(refused, ServiceError::Invalid { field: "threshold", .. }));
    let (subject, image) = (subject(&hands[0]), hands[9].jpeg.clone());
    let claim = Verify { subject, image, threshold: Some(1.0) };
    let claim = service.verify(&id(), claim).await.unwrap();
    assert_eq!(claim.decision, Some(Decision::NoMatch), "similarity {}", claim.similarity);
}

#[test]
fn a_store_is_seen_where_there_is_one() {
    let dir = tempfile::tempdir().unwrap();
    assert!(!tools::has_store(dir.path()).unwrap());
    drop(Service::open(&ServiceOptions::new(dir.path())).unwrap());
    assert!(tools::has_store(dir.path()).unwrap());
    // What cannot be looked into is not empty.
    let file = dir.path().join("store.json");
    assert!(tools::has_store(&file).unwrap_err().to_string().contains("store.json"));
}
