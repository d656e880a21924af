use std::f32::consts::TAU;

use rand::Rng as _;
use rand::seq::SliceRandom as _;
use rand_chacha::ChaCha8Rng;

use crate::image::Picture;

use super::Severity;
use super::hand::Hand;

/// Rings worn, where there are as many fingers.
const RINGS: [usize; 5] = [1, 2, 3, 4, 4];
/// Height of a ring, share of the hand's length.
const RING: [f32; 5] = [0.03, 0.035, 0.042, 0.052, 0.08];
/// Height of the bracelet, share of the hand's length.
const BRACELET: [f32; 5] = [0.03, 0.055, 0.09, 0.13, 0.18];
/// Where the sleeve ends, share of the hand's length from the wrist's side.
const SLEEVE: [f32; 5] = [0.1, 0.18, 0.27, 0.36, 0.46];
/// Area of the patch, share of the hand's.
const PATCH: [f32; 5] = [0.04, 0.08, 0.14, 0.22, 0.32];
/// Middle of rings: between knuckles and finger tips, which the thumb seldom reaches.
const FINGERS: f32 = 0.66;
/// Where the breadth of the palm is measured.
const PALM: f32 = 0.45;
/// Middle of a bracelet that fits.
const WRIST: f32 = 0.1;
/// An arm where none is seen.
const ARM: [f32; 2] = [-0.2, 0.2];

const METALS: [[f32; 3]; 3] = [[212.0, 175.0, 75.0], [196.0, 199.0, 206.0], [201.0, 150.0, 128.0]];

/// A piece of the hand's plane: `t` along and `s` across, each from one value to another.
struct Band {
    t: [f32; 2],
    s: [f32; 2],
}

pub(super) fn rings(picture: &Picture, severity: Severity, rng: &mut ChaCha8Rng) -> Picture {
    let hand = Hand::find(picture);
    let breadth = widest(&hand.across(PALM)).map_or(0.4, |piece| piece[1] - piece[0]);
    let mut fingers = fingers(&hand.across(FINGERS), breadth / 4.2);
    fingers.shuffle(rng);
    let worn: Vec<([f32; 3], f32)> = fingers
        .iter()
        .map(|_| (METALS[rng.random_range(0..METALS.len())], rng.random_range(-0.03..0.03)))
        .collect();
    let height = severity.of(RING);
    let mut rgb = picture.rgb().to_vec();
    let some = fingers.iter().zip(worn).take(severity.of(RINGS));
    for ([left, right], (metal, along)) in some {
        let aside = 0.04 * (right - left);
        let middle = FINGERS + along;
        let band = Band {
            t: [middle - height / 2.0, middle + height / 2.0],
            s: [left - aside, right + aside],
        };
        paint(&mut rgb, picture, &hand, &band, |u, v| shaded(metal, u, v));
    }
    picture.with_rgb(rgb)
}

pub(super) fn bracelet(picture: &Picture, severity: Severity, rng: &mut ChaCha8Rng) -> Picture {
    let hand = Hand::find(picture);
    let leather = [0, 1, 2].map(|_| rng.random_range(25.0..150.0));
    let metal = METALS[rng.random_range(0..METALS.len())];
    let color = if rng.random_bool(0.5) { metal } else { leather };
    let height = severity.of(BRACELET);
    // A broad one would reach below the picture: it moves up the hand.
    let middle = WRIST.max(height / 2.0 + 0.02);
    let band = Band { t: [middle - height / 2.0, middle + height / 2.0], s: arm(&hand, middle) };
    let mut rgb = picture.rgb().to_vec();
    paint(&mut rgb, picture, &hand, &band, |u, v| shaded(color, u, v));
    picture.with_rgb(rgb)
}

pub(super) fn sleeve(picture: &Picture, severity: Severity, rng: &mut ChaCha8Rng) -> Picture {
    let hand = Hand::find(picture);
    let cloth: [f32; 3] = [0, 1, 2].map(|_| rng.random_range(20.0..190.0));
    let (folds, phase) = (rng.random_range(3.0..6.0), rng.random_range(0.0..6.0));
    let end = severity.of(SLEEVE);
    // As wide as the widest of what it covers: a hand at the picture's side shows little of the wrist. Further up
    // the thumb is left out.
    let places = (1..=8).map(|i| 0.04 * i as f32).take_while(|t| *t < end.max(0.07));
    let [left, right] = places
        .filter_map(|t| {
            let pieces = hand.across(t);
            if t < 0.2 { hull(&pieces) } else { widest(&pieces) }
        })
        .reduce(|a, b| [a[0].min(b[0]), a[1].max(b[1])])
        .unwrap_or(ARM);
    let aside = 0.08 * (right - left);
    // Reaches below the wrist's side, wherever that is cut by the picture.
    let band = Band { t: [-0.5, end], s: [left - aside, right + aside] };
    let mut rgb = picture.rgb().to_vec();
    paint(&mut rgb, picture, &hand, &band, |u, v| {
        let fold = 1.0 + 0.1 * (folds * TAU * v + phase + 2.0 * u).sin();
        // A seam near the end.
        let seam = if ((1.0 - u) * (end + 0.5) - 0.02).abs() < 0.004 { 0.75 } else { 1.0 };
        cloth.map(|value| value * fold * seam)
    });
    picture.with_rgb(rgb)
}

pub(super) fn patch(picture: &Picture, severity: Severity, rng: &mut ChaCha8Rng) -> Picture {
    let hand = Hand::find(picture);
    let inner: Vec<([usize; 2], (f32, f32))> =
        hand.places().filter(|(_, (t, _))| (0.3..0.75).contains(t)).collect();
    let chosen = rng.random_range(0..inner.len().max(1));
    let ([x, y], (t, s)) = inner.get(chosen).copied().unwrap_or_default();
    let at = (y * picture.width() as usize + x) * 3;
    let skin: [u8; 3] = std::array::from_fn(|c| picture.rgb().get(at + c).copied().unwrap_or(0));
    // Not of the skin's own colour; the last draw is taken as it is.
    let mut color: [u8; 3] = rng.random();
    for _ in 0..8 {
        let apart: u32 = (0..3).map(|c| u32::from(color[c].abs_diff(skin[c]))).sum();
        if apart > 150 {
            break;
        }
        color = rng.random();
    }
    let half = (severity.of(PATCH) * hand.area()).sqrt() / 2.0;
    let band = Band { t: [t - half, t + half], s: [s - half, s + half] };
    let mut rgb = picture.rgb().to_vec();
    paint(&mut rgb, picture, &hand, &band, |_, _| color.map(f32::from));
    picture.with_rgb(rgb)
}

/// The arm across the hand at `t`, and a little aside.
fn arm(hand: &Hand, t: f32) -> [f32; 2] {
    let [left, right] = hull(&hand.across(t)).unwrap_or(ARM);
    let aside = 0.05 * (right - left);
    [left - aside, right + aside]
}

/// From the first piece to the last: what is worn on an arm may look like the background.
fn hull(pieces: &[[f32; 2]]) -> Option<[f32; 2]> {
    Some([pieces.first()?[0], pieces.last()?[1]])
}

fn widest(pieces: &[[f32; 2]]) -> Option<[f32; 2]> {
    pieces.iter().copied().max_by(|a, b| (a[1] - a[0]).total_cmp(&(b[1] - b[0])))
}

/// Single fingers: pieces as wide as several are fingers held together.
fn fingers(pieces: &[[f32; 2]], width: f32) -> Vec<[f32; 2]> {
    let split = |piece: &[f32; 2]| {
        let [left, right] = *piece;
        let count = ((right - left) / width).round().clamp(1.0, 4.0);
        let each = (right - left) / count;
        (0..count as usize).map(move |i| {
            let left = left + i as f32 * each;
            [left, left + each]
        })
    };
    pieces.iter().filter(|piece| piece[1] - piece[0] > width / 3.0).flat_map(split).collect()
}

/// A round thing lit from the front: brightest in the middle, darker towards its edges.
fn shaded(color: [f32; 3], u: f32, v: f32) -> [f32; 3] {
    let round = |share: f32| (1.0 - (2.0 * share - 1.0).powi(2)).max(0.0).sqrt();
    let light = 0.45 + 0.35 * round(u) + 0.3 * round(v);
    color.map(|value| value * light)
}

/// Paints a band over the picture. `color` gets where in the band, along and across, 0..=1.
fn paint(
    rgb: &mut [u8],
    picture: &Picture,
    hand: &Hand,
    band: &Band,
    color: impl Fn(f32, f32) -> [f32; 3],
) {
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    let corners = band.t.map(|t| band.s.map(|s| hand.place(t, s)));
    let range = |axis: usize, most: usize| {
        let values = corners.iter().flatten().map(|corner| corner[axis]);
        let (low, high) = values
            .fold((f32::MAX, f32::MIN), |(low, high), value| (low.min(value), high.max(value)));
        (low - 1.0).max(0.0) as usize..((high + 2.0).max(0.0) as usize).min(most)
    };
    let (columns, rows) = (range(0, width), range(1, height));
    for y in rows {
        for x in columns.clone() {
            let (t, s) = hand.of_pixel(x as f32 + 0.5, y as f32 + 0.5);
            // How much of the pixel lies within, by the distance to each edge in pixels.
            let within = |value: f32, [low, high]: [f32; 2]| {
                let inside = (value - low).min(high - value) * hand.length();
                (inside + 0.5).clamp(0.0, 1.0)
            };
            let covered = within(t, band.t) * within(s, band.s);
            if covered > 0.0 {
                let share = |value: f32, [low, high]: [f32; 2]| {
                    ((value - low) / (high - low)).clamp(0.0, 1.0)
                };
                let painted = color(share(t, band.t), share(s, band.s));
                let at = (y * width + x) * 3;
                for (value, painted) in rgb[at..at + 3].iter_mut().zip(painted) {
                    let mixed = f32::from(*value) * (1.0 - covered) + painted * covered;
                    *value = mixed.round().clamp(0.0, 255.0) as u8;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingers_held_together_are_told_apart_by_their_width() {
        let apart = [[-0.2, -0.1], [-0.05, 0.05], [0.1, 0.12]];
        assert_eq!(fingers(&apart, 0.1), apart[..2], "a third of a finger is none");
        let together = fingers(&[[-0.2, 0.2]], 0.1);
        assert_eq!(together.len(), 4);
        assert!((together[1][0] + 0.1).abs() < 1e-6);
    }
}
