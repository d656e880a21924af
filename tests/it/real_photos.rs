//! Real photographs through the whole server: `cargo test --release --test it real_photos -- --nocapture`
//! prints Rank-1 by aspect and side. The bounds are on correctness; how well the embedded model, which
//! saw only drawn hands, does on photographs is printed and not judged.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use handclip::service::{LabelledImage, read_dataset};
use serde_json::{Value, json};

use crate::support::app::{TestApp, base64};
use crate::support::shared_data;

fn kind(photo: &LabelledImage) -> (String, String) {
    let a = &photo.attributes;
    (a.aspect.unwrap().to_string(), a.side.unwrap().to_string())
}

fn identify(app: &TestApp, probe: &LabelledImage, filtered: bool) -> Value {
    let (aspect, side) = kind(probe);
    let filter = if filtered { json!({"aspect": aspect, "side": side}) } else { json!({}) };
    let image = base64(&std::fs::read(&probe.path).unwrap());
    let body = json!({"image": image, "filter": filter, "limit": 5});
    app.post("/v1/galleries/photos:identify", &body).ok()
}

#[test]
fn one_photo_of_each_hand_is_enrolled_and_the_rest_identified() {
    let Some(shared) = shared_data("real_photos") else { return };
    let images = read_dataset(&shared.join("hands11k")).unwrap();
    // One photo for each subject, aspect and side, the first by name; the rest are probes.
    let (mut enrolled, mut probes) = (BTreeMap::new(), Vec::new());
    for photo in &images {
        let key = (photo.subject.clone(), kind(photo));
        match enrolled.entry(key) {
            Entry::Occupied(_) => probes.push(photo),
            Entry::Vacant(free) => {
                free.insert(photo);
            }
        }
    }
    let app = TestApp::spawn();
    app.create_gallery("photos");
    let photos: Vec<&&LabelledImage> = enrolled.values().collect();
    for chunk in photos.chunks(64) {
        let items: Vec<Value> = chunk
            .iter()
            .map(|p| json!({"subject": p.subject, "image": base64(&std::fs::read(&p.path).unwrap()), "attributes": p.attributes}))
            .collect();
        let answer =
            app.post("/v1/galleries/photos/samples:batch", &json!({"samples": items})).ok();
        assert_eq!(answer["failed"], 0, "every photo is taken: {answer}");
    }
    assert_eq!(app.samples("photos"), enrolled.len() as u64);

    // Every enrolled photo finds itself: what is stored is what was embedded.
    for photo in photos.iter().step_by(10) {
        let first = identify(&app, photo, true)["candidates"][0].clone();
        assert_eq!(first["subject"], photo.subject.as_str());
        assert!(first["similarity"].as_f64().unwrap() > 0.999, "{first}");
    }

    let mut score: BTreeMap<(String, String), [usize; 3]> = BTreeMap::new();
    let mut answers = Vec::new();
    for probe in &probes {
        let filtered = identify(&app, probe, true);
        let open = identify(&app, probe, false);
        let hit = |answer: &Value| {
            usize::from(answer["candidates"][0]["subject"] == probe.subject.as_str())
        };
        let row = score.entry(kind(probe)).or_default();
        row[0] += 1;
        row[1] += hit(&filtered);
        row[2] += hit(&open);
        let (aspect, side) = kind(probe);
        for candidate in filtered["candidates"].as_array().unwrap() {
            let attributes = &candidate["best_sample"]["attributes"];
            assert_eq!(
                (&attributes["aspect"], &attributes["side"]),
                (&json!(aspect), &json!(side))
            );
        }
        let order: Vec<f64> = open["candidates"]
            .as_array()
            .unwrap()
            .iter()
            .map(|c| c["similarity"].as_f64().unwrap())
            .collect();
        assert!(order.is_sorted_by(|a, b| a >= b), "{order:?}");
        answers.push(open["candidates"].clone());
    }
    println!("enrolled {} photos, asked about {}", enrolled.len(), probes.len());
    println!("aspect  side   probes  Rank-1 with filter  without");
    for ((aspect, side), [n, filtered, open]) in &score {
        let share = |hits: &usize| 100.0 * *hits as f64 / *n as f64;
        println!("{aspect:<7} {side:<6} {n:>6}  {:>17.1}%  {:>6.1}%", share(filtered), share(open));
    }

    let app = app.restart();
    for (probe, before) in probes.iter().zip(&answers).step_by(7) {
        assert_eq!(&identify(&app, probe, false)["candidates"], before, "the same after a restart");
    }
}
