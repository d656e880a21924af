//! The embedded model keeps what its card claims (`src/model/nano/README.md`), on the first hundred of the
//! three hundred people that the card's figures are taken on.

use handclip::service::ModelChoice;
use handclip::service::tools::OfflineModel;

const MAX_BYTES: u64 = 8 << 20;

#[test]
fn unseen_people_are_told_apart_and_prompts_name_what_is_shown() {
    let nano = OfflineModel::open(&ModelChoice::named("nano"), "cpu").unwrap();
    let figures = nano.score_generated(100).unwrap();
    println!("{figures:?}");
    assert_eq!((figures.subjects, figures.images), (100, 1_600));
    assert!(figures.rank1 >= 0.97, "rank-1 {}", figures.rank1);
    let prompts = [figures.aspect_side, figures.accessories, figures.without_accessories];
    let [aspect_side, accessories, without] = prompts.map(Option::unwrap);
    assert!(aspect_side >= 0.99, "aspect and side {aspect_side}");
    assert!(accessories >= 0.96, "accessories {accessories}");
    for hand in &figures.hands {
        assert!(hand.rank1 >= 0.95, "{hand:?}");
    }
    // Always saying "without" must not be enough to pass.
    assert!(without < 0.70, "{without}");
}

#[test]
fn the_embedded_model_is_small_enough_to_live_in_the_repository() {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/model/nano");
    let bytes: u64 =
        std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
    assert!((100_000..=MAX_BYTES).contains(&bytes), "{bytes} bytes");
}
