use std::fs;
use std::time::Instant;

use rayon::prelude::*;
use sha2::{Digest as _, Sha256};

use super::figure::Figure;
use super::shape::pt;
use super::shot::{Background, Ring, WristBand};
use super::*;
use crate::domain::{Aspect, Side};

const SPEC: SynthSpec = SynthSpec { first: 0, subjects: 3, images: 2, seed: 11, size: 64 };

/// The same picture on a white table, sharp and without sleeve: what is not white is hand.
fn plain(mut shot: Shot) -> Shot {
    shot.background = Background { color: [1.0; 3], slope: [0.0; 2], grain: 0.0 };
    shot.light.shadow = 0.0;
    shot.light.color = [1.0; 3];
    shot.sleeve = None;
    shot.noise = 0.0;
    shot.blur = 0.0;
    shot
}

fn is_hand(pixel: &[u8]) -> bool {
    pixel.iter().any(|&value| value < 245)
}

/// Where two pictures differ, in pixels.
fn differing(a: &RgbImage, b: &RgbImage) -> Vec<(u32, u32)> {
    let pixels = a.rgb.chunks_exact(3).zip(b.rgb.chunks_exact(3)).enumerate();
    pixels
        .filter(|(_, (a, b))| a != b)
        .map(|(i, _)| (i as u32 % a.width, i as u32 / a.width))
        .collect()
}

#[test]
fn the_layout_is_that_of_11k_hands() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("set");
    let spec = SynthSpec { first: 1204, ..SPEC };
    let summary = write_dataset(&spec, &out, &|_, _| {}).unwrap();
    assert_eq!(summary, SynthSummary { subjects: 3, images: 24, out: out.clone() });
    let csv = fs::read_to_string(out.join("HandInfo.csv")).unwrap();
    let rows: Vec<&str> = csv.split('\n').collect();
    assert_eq!(
        rows[0],
        "id,age,gender,skinColor,accessories,nailPolish,aspectOfHand,imageName,irregularities"
    );
    assert_eq!((rows.len(), rows[25]), (26, ""), "one line a picture, the last one ended");
    let hands = ["dorsal right", "dorsal left", "palmar right", "palmar left"];
    for (i, (row, sample)) in rows[1..25].iter().zip(spec.samples()).enumerate() {
        let expected = format!(
            "\"{:07}\",{},\"{}\",\"{}\",{},{},\"{}\",\"Hand_{i:07}.jpg\",0",
            1204 + i / 8,
            sample.person.age,
            sample.person.gender,
            sample.person.skin_color,
            i32::from(sample.shot.ring() || sample.shot.bracelet() || sample.shot.watch()),
            i32::from(sample.shot.nail_polish()),
            hands[i / 2 % 4],
        );
        assert_eq!(*row, expected);
        let file = fs::read(out.join(format!("Hands/Hand_{i:07}.jpg"))).unwrap();
        let picture = ::image::load_from_memory(&file).unwrap();
        assert_eq!((picture.width(), picture.height()), (64, 64));
    }
    assert_eq!(fs::read_dir(out.join("Hands")).unwrap().count(), 24);
    assert_eq!(fs::read_dir(&out).unwrap().count(), 2, "nothing is left besides");
}

#[test]
fn a_folder_that_holds_something_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let precious = dir.path().join("precious");
    fs::File::create(&precious).unwrap();
    let refused = write_dataset(&SPEC, dir.path(), &|_, _| {});
    assert!(matches!(refused, Err(SynthError::NotEmpty(path)) if path == dir.path()));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    let blocked = write_dataset(&SPEC, &precious, &|_, _| {}).unwrap_err();
    assert!(blocked.to_string().contains("precious"), "{blocked}");
}

#[test]
fn senseless_numbers_are_refused() {
    let out = tempfile::tempdir().unwrap().path().join("never-written");
    for spec in [
        SynthSpec { subjects: 0, ..SPEC },
        SynthSpec { images: 0, ..SPEC },
        SynthSpec { size: 100_000, ..SPEC },
        SynthSpec { size: 8, ..SPEC },
        SynthSpec { first: u64::MAX, ..SPEC },
        SynthSpec { subjects: u64::MAX, images: u64::MAX, ..SPEC },
        SynthSpec { subjects: 10_000_000, images: 1, ..SPEC },
    ] {
        let refused = write_dataset(&spec, &out, &|_, _| {});
        assert!(matches!(refused, Err(SynthError::Spec { .. })), "{spec:?}");
        assert!(!out.exists());
    }
}

#[test]
fn the_same_seed_gives_the_same_bytes_in_any_order() {
    let started = Instant::now();
    let forwards: Vec<RgbImage> = SPEC.samples().map(|s| s.render(224)).collect();
    let serial = started.elapsed().as_secs_f64();
    let started = Instant::now();
    let parallel: Vec<RgbImage> =
        (0..SPEC.len()).into_par_iter().rev().map(|i| SPEC.sample(i).render(224)).collect();
    let rate = |seconds: f64| SPEC.len() as f64 / seconds;
    let threads = rate(started.elapsed().as_secs_f64());
    println!("{:.0} images/s at 224 px on one thread, {threads:.0} on all", rate(serial));
    assert!(forwards.iter().eq(parallel.iter().rev()));
    let other = SynthSpec { seed: 12, ..SPEC };
    assert_ne!(forwards[0], other.sample(0).render(224));
}

/// The embedded model was trained on these pictures: they must not change by accident, and not
/// from one platform to another.
#[test]
fn pictures_are_the_same_on_every_platform() {
    let mut hash = Sha256::new();
    SPEC.samples().for_each(|sample| hash.update(sample.render(64).rgb));
    let hex: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, "2c99a2ca2feb2d526fbf89aa1ccd3097d17798f36cabe7e4cbd0fb6878d1d6c9");
}

#[test]
fn the_thumb_lies_where_anatomy_puts_it() {
    let spec = SynthSpec { subjects: 25, images: 1, ..SPEC };
    let right_way = |sample: &SynthSample| {
        let n = 96_usize;
        let mut shot = plain(sample.shot.clone().bare());
        (shot.pose.rotation, shot.pose.shift) = (0.0, [0.0; 2]);
        let picture = render(&sample.person, &shot, n as u32);
        let hand = |x: usize, y: usize| is_hand(&picture.rgb[(y * n + x) * 3..][..3]);
        // The palm's own middle, at the wrist and above, then which side reaches farther from it.
        let reach = |y: usize| {
            let left = (0..n).find(|&x| hand(x, y));
            let right = (0..n).rev().find(|&x| hand(x, y));
            (left.unwrap_or(n / 2) as i64, right.unwrap_or(n / 2) as i64)
        };
        let (low, high) = reach(n * 9 / 10);
        let middle = (low + high) / 2;
        let lean: i64 = (n * 40 / 100..n * 65 / 100)
            .map(|y| {
                let (left, right) = reach(y);
                (middle - left) - (right - middle)
            })
            .sum();
        let expected = (shot.side == Side::Right) == (shot.aspect == Aspect::Dorsal);
        (lean > 0) == expected
    };
    let right = spec.samples().filter(right_way).count();
    assert_eq!(right, 100);
}

#[test]
fn the_other_hand_is_drawn_in_the_mirror() {
    let person = Person::new(3, 5);
    let n = 96_usize;
    let shot = plain(Shot::draw(&person, Aspect::Palmar, Side::Right, 0).bare());
    let mirror = |mut shot: Shot, side: Side| {
        shot.side = side;
        shot.pose.rotation = -shot.pose.rotation;
        shot.pose.shift[0] = -shot.pose.shift[0];
        shot
    };
    let right = render(&person, &shot, n as u32);
    let left = render(&person, &mirror(shot, Side::Left), n as u32);
    let unlike = (0..n * n)
        .filter(|i| {
            let (x, y) = (i % n, i / n);
            let a = is_hand(&right.rgb[i * 3..][..3]);
            let b = is_hand(&left.rgb[(y * n + n - 1 - x) * 3..][..3]);
            a != b
        })
        .count();
    assert!(unlike < n * n / 200, "{unlike} pixels of the outline differ");
    let marks = |side| person.marks(Aspect::Palmar, side).lines[0].points.clone();
    assert_ne!(marks(Side::Left), marks(Side::Right), "each palm has creases of its own");
}

#[test]
fn a_ring_changes_only_the_finger_that_wears_it() {
    for (who, aspect) in [(0, Aspect::Dorsal), (1, Aspect::Palmar), (2, Aspect::Dorsal)] {
        let person = Person::new(8, who);
        let bare = plain(Shot::draw(&person, aspect, Side::Left, 0).bare());
        for finger in 0..4 {
            let mut worn = bare.clone();
            let metal = [0.7, 0.7, 0.8];
            worn.rings.push(Ring { finger, at: 0.5, height: 0.05, metal, stone: None });
            let n = 112;
            let changed = differing(&render(&person, &bare, n), &render(&person, &worn, n));
            assert!(changed.len() > 12, "finger {finger}: {} pixels", changed.len());
            let figure = Figure::pose(&person, &bare);
            let at = figure.fingers[finger].at(0, 0.48, 0.0);
            for (x, y) in changed {
                let p = pt((x as f32 + 0.5) / n as f32, (y as f32 + 0.5) / n as f32);
                let off = figure.to_hand(p).sub(at).length();
                assert!(off < 0.25, "finger {finger}: {x},{y} is {off} from the ring");
            }
        }
    }
}

#[test]
fn a_bracelet_changes_only_the_wrist() {
    let person = Person::new(8, 4);
    let bare = plain(Shot::draw(&person, Aspect::Palmar, Side::Right, 0).bare());
    let mut worn = bare.clone();
    let color = [0.1, 0.1, 0.5];
    worn.wrist = Some(WristBand { color, height: 0.08, watch: false, beads: false });
    let changed = differing(&render(&person, &bare, 112), &render(&person, &worn, 112));
    assert!(changed.len() > 60, "{} pixels", changed.len());
    let figure = Figure::pose(&person, &bare);
    for (x, y) in changed {
        let p = figure.to_hand(pt((x as f32 + 0.5) / 112.0, (y as f32 + 0.5) / 112.0));
        assert!((-0.30..0.05).contains(&p.y), "{x},{y} is at height {}", p.y);
    }
}

#[test]
fn jewellery_shows_wherever_the_label_says_so() {
    let spec = SynthSpec { subjects: 25, images: 2, ..SPEC };
    let (mut worn, mut shown) = (0, 0);
    for sample in spec.samples() {
        let bare = sample.shot.clone().bare();
        assert!(!bare.accessories());
        let changed = differing(&sample.render(112), &render(&sample.person, &bare, 112)).len();
        if sample.shot.accessories() {
            worn += 1;
            shown += usize::from(changed > 20);
        } else {
            assert_eq!(changed, 0);
        }
    }
    let share = worn * 100 / spec.len();
    assert!((28..=48).contains(&share), "{share} % wear something");
    assert!(shown * 100 >= worn * 97, "{shown} of {worn} visible");
}

#[test]
fn a_person_s_pictures_are_nearer_to_each_other_than_to_other_people_s() {
    let spec = SynthSpec { subjects: 30, images: 2, ..SPEC };
    for hand in 0..HANDS.len() {
        // Mean colour of the palm or the back, and the share of the picture that is hand.
        let describe = |sample: &SynthSample| {
            let picture = sample.render(64);
            let middle = |c: usize| {
                let rows = 32..44_usize;
                let sum: usize = rows
                    .flat_map(|y| (26..38_usize).map(move |x| (y * 64 + x) * 3 + c))
                    .map(|at| usize::from(picture.rgb[at]))
                    .sum();
                sum as f64 / 144.0
            };
            let outline = render(&sample.person, &plain(sample.shot.clone()), 64);
            let area = outline.rgb.chunks_exact(3).filter(|p| is_hand(p)).count() as f64 / 41.0;
            [middle(0), middle(1), middle(2), area]
        };
        let pictures: Vec<[[f64; 4]; 2]> = (0..30)
            .map(|who| [0, 1].map(|i| describe(&spec.sample((who * 4 + hand) * 2 + i))))
            .collect();
        let apart = |a: [f64; 4], b: [f64; 4]| {
            a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum::<f64>().sqrt()
        };
        let own: f64 = pictures.iter().map(|p| apart(p[0], p[1])).sum::<f64>() / 30.0;
        let others: f64 = pictures
            .iter()
            .enumerate()
            .flat_map(|(i, p)| pictures[..i].iter().map(|q| apart(p[0], q[1])))
            .sum::<f64>()
            / 435.0;
        assert!(own < 0.5 * others, "hand {hand}: own {own:.1}, others {others:.1}");
    }
}

#[test]
fn skin_colour_labels_are_in_the_order_of_the_drawn_tones() {
    let names = ["dark", "medium", "fair", "very fair"];
    let mut sums = [(0.0_f64, 0_u32); 4];
    for index in 0..200 {
        let person = Person::new(1, index);
        assert!((18..=75).contains(&person.age));
        let class = names.iter().position(|name| *name == person.skin_color).unwrap();
        let light = |skin: [f32; 3]| f64::from(skin[0] + skin[1] + skin[2]);
        sums[class].0 += light(person.skin);
        sums[class].1 += 1;
        if person.skin_color == "dark" {
            assert!(light(person.palm_skin) > light(person.skin), "person {index}");
        }
    }
    let means = sums.map(|(sum, count)| sum / f64::from(count));
    assert!(means.is_sorted() && sums.iter().all(|s| s.1 > 20), "{means:?} {sums:?}");
}

#[test]
fn a_contact_sheet_holds_each_picture_in_its_place() {
    let picture = |value: u8| RgbImage { width: 2, height: 2, rgb: vec![value; 12] };
    let sheet = contact_sheet(&[picture(1), picture(2), picture(3)], 2);
    assert_eq!((sheet.width, sheet.height), (4, 4));
    let at = |x: usize, y: usize| sheet.rgb[(y * 4 + x) * 3];
    assert_eq!([at(0, 0), at(3, 1), at(1, 3), at(2, 2)], [1, 2, 3, 255]);
    assert!(contact_sheet(&[], 3).rgb.is_empty());
}
