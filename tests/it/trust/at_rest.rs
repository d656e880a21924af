//! What lies on the disk says nothing of anybody: a marked image, its embedding in every form that somebody might keep, names and keys.

use std::path::Path;

use serde_json::{Value, json};

use super::served::Served;
use crate::support::app::hands;

const SUBJECT: &str = "marked-subject-of-the-scan";

/// Every form, and enough of it that chance does not make it.
fn forms(image: &[u8], embedding: &[f32]) -> Vec<(&'static str, Vec<u8>)> {
    let some = &embedding[8..40];
    let most = embedding.iter().fold(0_f32, |most, value| most.max(value.abs()));
    let half = |value: &f32| half::f16::from_f32(*value).to_le_bytes();
    let bf16 = |value: &f32| half::bf16::from_f32(*value).to_le_bytes();
    let code =
        |scale: f32| some.iter().map(|v| (v * scale).round() as i8 as u8).collect::<Vec<u8>>();
    vec![
        ("the image's header", image[..64].to_vec()),
        ("the image's middle", image[image.len() / 2..][..64].to_vec()),
        ("the image in base64", crate::support::app::base64(image).as_bytes()[300..364].to_vec()),
        ("f32", some.iter().flat_map(|v| v.to_le_bytes()).collect()),
        ("f32, big-endian", some.iter().flat_map(|v| v.to_be_bytes()).collect()),
        ("f64", some.iter().flat_map(|v| f64::from(*v).to_le_bytes()).collect()),
        ("f16", some.iter().flat_map(half).collect()),
        ("bf16", some.iter().flat_map(bf16).collect()),
        ("i8 of the largest", code(127.0 / most)),
        ("i8 of one", code(127.0)),
        (
            "decimals",
            some[..6].iter().map(|v| format!("{v}")).collect::<Vec<_>>().join(",").into_bytes(),
        ),
        ("the subject", SUBJECT.as_bytes().to_vec()),
    ]
}

fn found(dir: &Path, forms: &[(&'static str, Vec<u8>)]) -> Vec<String> {
    let mut found = Vec::new();
    for entry in walkdir::WalkDir::new(dir) {
        let entry = entry.unwrap();
        if !entry.file_type().is_file() {
            continue;
        }
        let bytes = std::fs::read(entry.path()).unwrap();
        for (form, needle) in forms {
            // By the first byte first: files have many megabytes.
            let first = needle[0];
            let there = bytes.windows(needle.len()).any(|w| w[0] == first && w == &needle[..]);
            if there {
                found.push(format!("{form} in {}", entry.path().display()));
            }
        }
    }
    found
}

#[test]
fn nothing_on_the_disk_or_in_the_log_says_who_is_enrolled_or_what_they_look_like() {
    let root = tempfile::tempdir().unwrap();
    let data = root.path().join("data");
    let token = {
        let at = data.display().to_string();
        let args = ["keys", "create", "--data-dir", &at, "--name", "ops", "--scope", "admin"];
        crate::cli::done(&crate::cli::handclip(&args)).trim().to_owned()
    };
    let mut served = Served::logging(&data, &[], &root.path().join("log"));
    let agent = Served::agent();
    let bearer = format!("Bearer {token}");
    let ask = |path: &str, body: &Value| -> Value {
        let request = agent.post(format!("{}{path}", served.url)).header("authorization", &bearer);
        let mut answer = request.send_json(body).unwrap();
        let text = answer.body_mut().read_to_string().unwrap();
        assert!(answer.status().is_success(), "{path}: {text}");
        serde_json::from_str(&text).unwrap_or(Value::Null)
    };
    ask("/v1/galleries", &json!({"id": "g", "retain_images": true, "allow_training": true}));
    let image = json!({"image": hands()[0].base64(), "attributes": hands()[0].attributes()});
    ask(&format!("/v1/galleries/g/subjects/{SUBJECT}/samples"), &image);
    for (n, hand) in hands().iter().enumerate().skip(1) {
        let body = json!({"image": hand.base64()});
        ask(&format!("/v1/galleries/g/subjects/p{n}/samples"), &body);
    }
    ask("/v1/galleries/g:identify", &json!({"image": hands()[0].base64()}));
    ask("/v1/galleries/g:search", &json!({"prompt": "a left hand"}));
    ask("/v1/galleries/g:compact", &json!({}));
    ask("/v1/galleries/g:audit", &json!({}));
    // Refused requests are where careless logs come from.
    let broken = agent
        .post(format!("{}/v1/galleries/g/subjects/{SUBJECT}/samples", served.url))
        .header("authorization", &bearer)
        .content_type("image/jpeg")
        .send(&hands()[0].jpeg[..hands()[0].jpeg.len() - 9])
        .unwrap();
    assert_eq!(broken.status().as_u16(), 422);
    let embedding = ask("/v1/embeddings", &json!({"image": hands()[0].base64()}));
    let values = embedding["embedding"].as_array().unwrap().iter();
    let embedding: Vec<f32> = values.map(|value| value.as_f64().unwrap() as f32).collect();
    let backup = agent
        .get(format!("{}/v1/backup", served.url))
        .header("authorization", &bearer)
        .call()
        .unwrap()
        .body_mut()
        .with_config()
        .limit(1 << 30)
        .read_to_vec()
        .unwrap();
    std::fs::write(root.path().join("backup"), backup).unwrap();

    let mut forms = forms(&hands()[0].jpeg, &embedding);
    forms.push(("the API key", token.into_bytes()));
    // While it runs, and when it has written what it writes at the end.
    assert_eq!(found(root.path(), &forms), Vec::<String>::new());
    served.signal("-TERM");
    assert!(served.ended(std::time::Duration::from_secs(30)).success());
    let log = std::fs::read_to_string(root.path().join("log")).unwrap();
    assert!(log.contains("answered") && log.lines().count() > 40, "nothing was logged");
    assert_eq!(found(root.path(), &forms), Vec::<String>::new());

    // The control: each form is found where it lies in the clear, as it would without sealing.
    let clear = data.join("clear");
    for (form, needle) in &forms {
        std::fs::write(&clear, [&[7; 1_000][..], needle, &[9; 10]].concat()).unwrap();
        assert_eq!(found(&clear, &forms).len(), 1, "{form} is not found where it lies");
    }
}
