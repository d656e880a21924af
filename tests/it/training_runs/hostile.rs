//! Data sets whose author means harm: label files that name what is not theirs, and links that lead away.

use serde_json::json;

use super::{app, draw, of};
use crate::deployment::ended;
use crate::support::app::hands;

/// An archive of plain files.
fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, *content).unwrap();
    }
    builder.into_inner().unwrap()
}

/// A label file that names these images.
fn labels(names: &[&str]) -> Vec<u8> {
    let rows = names.iter().enumerate().map(|(id, name)| format!("{id},palmar left,0,{name}\n"));
    format!("id,aspectOfHand,accessories,imageName\n{}", rows.collect::<String>()).into_bytes()
}

#[test]
fn an_upload_names_no_file_but_its_own() {
    let data = tempfile::tempdir().unwrap();
    let app = app(data.path());
    let upload = |name: &str, bytes: &[u8]| {
        app.post_bytes(&format!("/v1/datasets?name={name}"), "application/x-tar", bytes)
    };
    let image = &hands()[0].jpeg[..];
    let elsewhere = data.path().join("elsewhere.jpg");
    std::fs::write(&elsewhere, image).unwrap();
    let elsewhere = elsewhere.to_string_lossy().into_owned();
    for name in [
        "/dev/zero",
        "../../../../../../../../dev/zero",
        "../HandInfo.csv",
        elsewhere.as_str(),
        "none.jpg",
        "folder",
    ] {
        let labels = labels(&["1.jpg", name]);
        let files =
            [("HandInfo.csv", &labels[..]), ("Hands/1.jpg", image), ("Hands/folder/x", b"")];
        let refused = upload("bad", &archive(&files));
        refused.refused(422, "dataset_refused");
        assert!(!refused.text.contains("/datasets/"), "where it lay is told: {}", refused.text);
    }
    let left = std::fs::read_dir(app.options.data_dir.join("datasets")).unwrap().count();
    assert_eq!(left, 0, "nothing is left of what was refused");
    let good = labels(&["1.jpg", "./2.jpg"]);
    let files = [("HandInfo.csv", &good[..]), ("Hands/1.jpg", image), ("Hands/2.jpg", image)];
    let made = upload("good", &archive(&files));
    assert_eq!(made.status, 201, "{}", made.text);

    // What is trained on is not all that an evaluation looks at.
    let hidden = labels(&["/dev/zero"]);
    let files = [
        ("s/0/1.jpg", image),
        ("t/query0/0/1.jpg", image),
        ("t/gallery0/0/2.jpg", image),
        ("t/HandInfo.csv", &hidden[..]),
    ];
    assert_eq!(upload("hidden", &archive(&files)).status, 201);
    let body = json!({"models": ["nano"], "data": {"dataset": "hidden"}, "replicates": 100});
    let found = ended(&app, &app.post("/v1/evaluations", &body).json());
    assert_eq!(found["error"]["code"], "dataset", "{found}");
}

#[test]
fn a_data_root_from_which_a_link_leads_out_is_not_read() {
    let outside = tempfile::tempdir().unwrap();
    draw(outside.path(), 0, 8);
    let data = tempfile::tempdir().unwrap();
    std::fs::copy(outside.path().join("HandInfo.csv"), data.path().join("HandInfo.csv")).unwrap();
    let link = data.path().join("Hands");
    std::os::unix::fs::symlink(outside.path().join("Hands"), &link).unwrap();
    let app = app(data.path());
    let evaluation = json!({"models": ["nano"], "data": {"directory": "lab"}, "replicates": 100});
    let run = of("x", json!({"directory": "lab"}));
    for (path, body) in [("/v1/training-runs", &run), ("/v1/evaluations", &evaluation)] {
        let answer = app.post(path, body);
        answer.refused(400, "invalid_request");
        assert!(answer.text.contains("Hands"), "{}", answer.text);
        assert!(!answer.text.contains(&*outside.path().to_string_lossy()), "{}", answer.text);
    }
    // A link to what lies in the root too is one more name of it.
    std::fs::remove_file(&link).unwrap();
    std::fs::create_dir(data.path().join("pictures")).unwrap();
    for entry in std::fs::read_dir(outside.path().join("Hands")).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), data.path().join("pictures").join(entry.file_name())).unwrap();
    }
    std::os::unix::fs::symlink("pictures", &link).unwrap();
    let job = ended(&app, &app.post("/v1/evaluations", &evaluation).json());
    assert_eq!(job["state"], "succeeded", "{job}");
}
