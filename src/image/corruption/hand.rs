use std::collections::VecDeque;

use crate::image::Picture;
use crate::image::resample::{Filter, Target, resize};

/// The hand is looked for in a picture reduced to this longer side.
const SIDE: u32 = 160;
/// What a hand's share of the picture can be; anything else was not the hand.
const PLAUSIBLE: std::ops::RangeInclusive<f32> = 0.04..=0.8;

/// A side of the picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Edge {
    Top,
    Bottom,
    Left,
    Right,
}

/// Roughly where the hand is: what differs from the colour of the picture's border. Where that is nothing or
/// nearly everything, a hand is assumed that stands upright in the middle.
///
/// Places on the hand are given as `t`, from the wrist's side (0) to the finger tips (1), and `s`, across, in the
/// same unit, from the line between wrist and middle.
pub(super) struct Hand {
    mask: Mask,
    /// Pixels of the picture for one of the mask, by direction.
    pixel: [f32; 2],
    wrist: Edge,
    /// Middle of the wrist's side, pixels of the picture.
    origin: [f32; 2],
    middle: [f32; 2],
    /// From the wrist to the finger tips, unit length.
    axis: [f32; 2],
    length: f32,
}

struct Mask {
    width: usize,
    height: usize,
    on: Vec<bool>,
}

impl Hand {
    pub(super) fn find(picture: &Picture) -> Self {
        let longest = picture.width().max(picture.height());
        let side = |side: u32| if longest <= SIDE { side } else { (side * SIDE / longest).max(1) };
        let (width, height) = (side(picture.width()), side(picture.height()));
        let small = resize(picture, &Target::whole(width, height), Filter::Box);
        let (width, height) = (width as usize, height as usize);
        let pixel =
            [picture.width() as f32 / width as f32, picture.height() as f32 / height as f32];
        let on = largest_part(&unlike_border(&small, width, height), width, height);
        let share = on.iter().filter(|on| **on).count() as f32 / on.len() as f32;
        let on = if PLAUSIBLE.contains(&share) { on } else { upright(width, height) };
        Self::of(Mask { width, height, on }, pixel)
    }

    fn of(mask: Mask, pixel: [f32; 2]) -> Self {
        let wrist = mask.wrist();
        // How far a place is from the wrist's side, in pixels of the mask.
        let depth = |x: usize, y: usize| match wrist {
            Edge::Top => y,
            Edge::Bottom => mask.height - 1 - y,
            Edge::Left => x,
            Edge::Right => mask.width - 1 - x,
        };
        let nearest = mask.places().map(|(x, y)| depth(x, y)).min().unwrap_or(0);
        let rim = nearest + mask.width.max(mask.height) / 50;
        let at =
            |(x, y): (usize, usize)| [(x as f32 + 0.5) * pixel[0], (y as f32 + 0.5) * pixel[1]];
        let origin = mean(mask.places().filter(|(x, y)| depth(*x, *y) <= rim).map(at));
        let middle = mean(mask.places().map(at));
        let inwards = match wrist {
            Edge::Top => [0.0, 1.0],
            Edge::Bottom => [0.0, -1.0],
            Edge::Left => [1.0, 0.0],
            Edge::Right => [-1.0, 0.0],
        };
        let way = [middle[0] - origin[0], middle[1] - origin[1]];
        let norm = way[0].hypot(way[1]);
        let axis = if norm < 1.0 { inwards } else { [way[0] / norm, way[1] / norm] };
        let along = |[x, y]: [f32; 2]| (x - origin[0]) * axis[0] + (y - origin[1]) * axis[1];
        let length = mask.places().map(|place| along(at(place))).fold(1.0, f32::max);
        Self { mask, pixel, wrist, origin, middle, axis, length }
    }

    /// The side of the picture that the arm comes in from.
    pub(super) fn wrist(&self) -> Edge {
        self.wrist
    }

    /// In pixels.
    pub(super) fn middle(&self) -> [f32; 2] {
        self.middle
    }

    /// Where the longest finger ends, about; in pixels.
    pub(super) fn tips(&self) -> [f32; 2] {
        self.place(1.0, 0.0)
    }

    /// From the wrist's side to the finger tips, in pixels, at least 1.
    pub(super) fn length(&self) -> f32 {
        self.length
    }

    /// In units of the length, squared.
    pub(super) fn area(&self) -> f32 {
        let pixels = self.mask.places().count() as f32 * self.pixel[0] * self.pixel[1];
        pixels / (self.length * self.length)
    }

    /// Pixels of a place on the hand.
    pub(super) fn place(&self, t: f32, s: f32) -> [f32; 2] {
        let [ax, ay] = self.axis;
        [
            self.origin[0] + self.length * (t * ax - s * ay),
            self.origin[1] + self.length * (t * ay + s * ax),
        ]
    }

    /// The place on the hand of pixel `x`, `y`.
    pub(super) fn of_pixel(&self, x: f32, y: f32) -> (f32, f32) {
        let ([ax, ay], dx, dy) = (self.axis, x - self.origin[0], y - self.origin[1]);
        ((dx * ax + dy * ay) / self.length, (dy * ax - dx * ay) / self.length)
    }

    /// Places that show the hand, with their pixel, in a fixed order.
    pub(super) fn places(&self) -> impl Iterator<Item = ([usize; 2], (f32, f32))> {
        self.mask.places().map(|(x, y)| {
            let [x, y] = [(x as f32 + 0.5) * self.pixel[0], (y as f32 + 0.5) * self.pixel[1]];
            ([x as usize, y as usize], self.of_pixel(x, y))
        })
    }

    /// What of the line across the hand at `t` shows it: pieces from one `s` to another.
    pub(super) fn across(&self, t: f32) -> Vec<[f32; 2]> {
        let step = self.pixel[0].max(self.pixel[1]) / self.length;
        let reach = (1.5 / step).ceil() as i32;
        let mut pieces: Vec<[f32; 2]> = Vec::new();
        let mut inside = false;
        for s in (-reach..=reach).map(|i| i as f32 * step) {
            let [x, y] = self.place(t, s);
            let shown = self.mask.at(x / self.pixel[0], y / self.pixel[1]);
            match pieces.last_mut() {
                Some(piece) if shown && inside => piece[1] = s,
                _ if shown => pieces.push([s, s]),
                _ => {}
            }
            inside = shown;
        }
        // A piece is as wide as its steps, and one step alone is a stray.
        pieces.retain(|piece| piece[1] > piece[0]);
        pieces.iter_mut().for_each(|piece| {
            piece[0] -= step / 2.0;
            piece[1] += step / 2.0;
        });
        pieces
    }
}

impl Mask {
    fn places(&self) -> impl Iterator<Item = (usize, usize)> {
        let on = self.on.iter().enumerate().filter(|(_, on)| **on);
        on.map(|(i, _)| (i % self.width, i / self.width))
    }

    fn at(&self, x: f32, y: f32) -> bool {
        let within = x >= 0.0 && y >= 0.0 && x < self.width as f32 && y < self.height as f32;
        within && self.on[y as usize * self.width + x as usize]
    }

    /// The side that the hand touches most; the lower one where it touches none.
    fn wrist(&self) -> Edge {
        let mut touched = [(0, Edge::Bottom), (0, Edge::Right), (0, Edge::Left), (0, Edge::Top)];
        for (x, y) in self.places() {
            touched[0].0 += usize::from(y + 1 == self.height);
            touched[1].0 += usize::from(x + 1 == self.width);
            touched[2].0 += usize::from(x == 0);
            touched[3].0 += usize::from(y == 0);
        }
        let most = touched.iter().map(|(count, _)| *count).max();
        let found = touched.iter().find(|(count, _)| Some(*count) == most);
        found.map_or(Edge::Bottom, |(_, edge)| *edge)
    }
}

fn mean(places: impl Iterator<Item = [f32; 2]>) -> [f32; 2] {
    let (mut sum, mut count) = ([0.0; 2], 0.0);
    for [x, y] in places {
        sum = [sum[0] + x, sum[1] + y];
        count += 1.0;
    }
    sum.map(|sum| sum / f32::max(count, 1.0))
}

/// Pixels whose colour is far from the border's median, by the threshold that parts their distances best (Otsu).
fn unlike_border(rgb: &[u8], width: usize, height: usize) -> Vec<bool> {
    let pixel = |x: usize, y: usize| &rgb[(y * width + x) * 3..][..3];
    let sides = (0..height).flat_map(|y| [pixel(0, y), pixel(width - 1, y)]);
    let border: Vec<&[u8]> =
        (0..width).flat_map(|x| [pixel(x, 0), pixel(x, height - 1)]).chain(sides).collect();
    let plain: [f32; 3] = std::array::from_fn(|channel| {
        let mut values: Vec<u8> = border.iter().map(|pixel| pixel[channel]).collect();
        values.sort_unstable();
        f32::from(values[values.len() / 2])
    });
    let distances: Vec<u8> = rgb
        .chunks_exact(3)
        .map(|pixel| {
            let [r, g, b] = [0, 1, 2].map(|c| f32::from(pixel[c]) - plain[c]);
            let luma = 0.299 * r + 0.587 * g + 0.114 * b;
            // Colour counts more: a shadow on the background is darker, yet of its colour.
            let colour = (r - luma).abs() + (b - luma).abs();
            (0.5 * luma.abs() + 1.5 * colour).min(255.0) as u8
        })
        .collect();
    let threshold = otsu(&distances);
    distances.iter().map(|distance| *distance > threshold).collect()
}

/// The value up to which the lower part reaches when the variance between both parts is largest.
fn otsu(values: &[u8]) -> u8 {
    let mut counts = [0_u64; 256];
    values.iter().for_each(|value| counts[usize::from(*value)] += 1);
    let weighted = |(value, count): (usize, &u64)| value as f64 * *count as f64;
    let sum: f64 = counts.iter().enumerate().map(weighted).sum();
    let (mut below, mut sum_below, mut best) = (0.0, 0.0, (0, 0.0));
    for (value, count) in counts.iter().enumerate() {
        below += *count as f64;
        sum_below += weighted((value, count));
        let above = values.len() as f64 - below;
        if below > 0.0 && above > 0.0 {
            let apart = sum_below / below - (sum - sum_below) / above;
            let variance = below * above * apart * apart;
            if variance > best.1 {
                best = (value, variance);
            }
        }
    }
    best.0 as u8
}

/// The largest connected part.
fn largest_part(on: &[bool], width: usize, height: usize) -> Vec<bool> {
    let mut seen = vec![false; on.len()];
    let mut largest = Vec::new();
    for start in 0..on.len() {
        if !on[start] || seen[start] {
            continue;
        }
        seen[start] = true;
        let (mut part, mut queue) = (Vec::new(), VecDeque::from([start]));
        while let Some(at) = queue.pop_front() {
            part.push(at);
            let (x, y) = (at % width, at / width);
            let around = [
                (x > 0).then(|| at - 1),
                (x + 1 < width).then(|| at + 1),
                (y > 0).then(|| at - width),
                (y + 1 < height).then(|| at + width),
            ];
            for next in around.into_iter().flatten() {
                if on[next] && !seen[next] {
                    seen[next] = true;
                    queue.push_back(next);
                }
            }
        }
        if part.len() > largest.len() {
            largest = part;
        }
    }
    let mut mask = vec![false; on.len()];
    largest.iter().for_each(|at| mask[*at] = true);
    mask
}

/// What is assumed where no hand is found: the middle two fifths, from the lower side up to an eighth.
fn upright(width: usize, height: usize) -> Vec<bool> {
    let inside = |i: usize| {
        let x = ((i % width) as f32 + 0.5) / width as f32;
        let y = ((i / width) as f32 + 0.5) / height as f32;
        (0.3..=0.7).contains(&x) && y > 0.125
    };
    (0..width * height).map(inside).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Skin from one side of a white picture, 80 wide and 120 long, with a bit of dust.
    fn arm(from: Edge) -> Picture {
        let (width, height) = (240, 200);
        let skin = |x: usize, y: usize| match from {
            Edge::Bottom => (60..140).contains(&x) && y >= 80,
            Edge::Top => (60..140).contains(&x) && y < 120,
            Edge::Left => (60..140).contains(&y) && x < 120,
            Edge::Right => (60..140).contains(&y) && x >= 120,
        };
        let dust = |x: usize, y: usize| x == 230 && y < 3;
        let pixel = |i: usize| {
            let (x, y) = (i % width, i / width);
            if skin(x, y) || dust(x, y) { [200, 150, 120] } else { [250, 250, 248] }
        };
        let rgb = (0..width * height).flat_map(pixel).collect();
        Picture::from_rgb(width as u32, height as u32, rgb).unwrap()
    }

    #[test]
    fn a_hand_is_found_whichever_side_it_comes_from() {
        for edge in [Edge::Bottom, Edge::Top, Edge::Left, Edge::Right] {
            let hand = Hand::find(&arm(edge));
            assert_eq!(hand.wrist(), edge);
            assert!((hand.length() - 120.0).abs() < 5.0, "{}", hand.length());
            let tips = match edge {
                Edge::Bottom => [100.0, 80.0],
                Edge::Top => [100.0, 120.0],
                Edge::Left | Edge::Right => [120.0, 100.0],
            };
            let [x, y] = hand.tips();
            assert!((x - tips[0]).hypot(y - tips[1]) < 5.0, "{edge:?}: {x} {y}");
            let across = hand.across(0.5);
            assert_eq!(across.len(), 1);
            let width = (across[0][1] - across[0][0]) * hand.length();
            assert!((width - 80.0).abs() < 5.0, "{width}");
            assert!((hand.area() - 80.0 * 120.0 / hand.length().powi(2)).abs() < 0.05);
            assert!(hand.across(1.2).is_empty());
            let [x, y] = hand.place(0.7, -0.2);
            let (t, s) = hand.of_pixel(x, y);
            assert!((t - 0.7).abs() < 1e-4 && (s + 0.2).abs() < 1e-4);
        }
    }

    #[test]
    fn an_upright_hand_is_assumed_where_none_is_found() {
        let blank = Picture::from_rgb(200, 160, vec![90; 200 * 160 * 3]).unwrap();
        let hand = Hand::find(&blank);
        assert_eq!(hand.wrist(), Edge::Bottom);
        assert!((hand.middle()[0] - 100.0).abs() < 2.0);
        assert!((hand.length() - 140.0).abs() < 4.0);
    }
}
