//! Heat maps over pictures.

use super::preprocessing::Placement;
use super::resample::{self, Target};
use super::{Filter, Picture};

/// Values on a grid over what a model sees. Invariant: `rows * cols` of them, at least one, scaled to 0..=1.
#[derive(Debug, Clone, PartialEq)]
pub struct HeatMap {
    values: Vec<f32>,
    rows: usize,
    cols: usize,
}

impl HeatMap {
    /// From `values`, `[rows, cols]`, of any scale: the least becomes 0 and the greatest 1, and all 0 where they are
    /// equal. `None` if there are not `rows * cols` values, or none, or one that is not finite.
    #[must_use]
    pub fn new(values: &[f32], rows: usize, cols: usize) -> Option<Self> {
        let fits = rows.checked_mul(cols) == Some(values.len()) && !values.is_empty();
        if !fits || values.iter().any(|value| !value.is_finite()) {
            return None;
        }
        let least = values.iter().copied().fold(f32::INFINITY, f32::min);
        let range = values.iter().copied().fold(f32::NEG_INFINITY, f32::max) - least;
        let scale = |value: &f32| if range > 0.0 { (value - least) / range } else { 0.0 };
        Some(Self { values: values.iter().map(scale).collect(), rows, cols })
    }

    /// The value at a point of the frame, in shares of its sides; linear between the cells' middles.
    fn at(&self, x: f64, y: f64) -> f64 {
        let (left, right, across) = between(x, self.cols);
        let (top, bottom, down) = between(y, self.rows);
        let value = |row: usize, col: usize| f64::from(self.values[row * self.cols + col]);
        let mix = |a: f64, b: f64, share: f64| a + (b - a) * share;
        let upper = mix(value(top, left), value(top, right), across);
        mix(upper, mix(value(bottom, left), value(bottom, right), across), down)
    }
}

/// The two cells of `count` whose middles a position lies between, and how far it is on its way from one to the other.
fn between(position: f64, count: usize) -> (usize, usize, f64) {
    let last = count - 1;
    let at = (position * count as f64 - 0.5).clamp(0.0, last as f64);
    let first = (at as usize).min(last);
    (first, (first + 1).min(last), at - first as f64)
}

/// `picture`, made smaller where a side is longer than `max_side`, under the colours of a heat map. Parts that the model
/// never saw are grey and dark.
#[must_use]
pub fn overlay(picture: &Picture, heat: &HeatMap, place: &Placement, max_side: u32) -> Picture {
    let (width, height) = within(picture, max_side.max(1));
    let target = Target::whole(width, height);
    let mut rgb = resample::resize(picture, &target, Filter::Bilinear);
    let colours = colours();
    let (across, down) = (f64::from(width), f64::from(height));
    for (pixel, i) in rgb.chunks_exact_mut(3).zip(0u32..) {
        let x = (f64::from(i % width) + 0.5) / across;
        let y = (f64::from(i / width) + 0.5) / down;
        let grey = luma(pixel);
        match place.in_frame(x, y) {
            Some((x, y)) => {
                let heat = heat.at(x, y);
                let colour = colours[(heat * 255.0).round() as usize];
                // Cold parts show the picture, hot ones the colour.
                let opacity = 0.3 + 0.4 * heat;
                for (sample, colour) in pixel.iter_mut().zip(colour) {
                    let shown = 0.5 * (f64::from(*sample) + grey);
                    *sample = (shown + (colour - shown) * opacity).round() as u8;
                }
            }
            None => pixel.fill((grey * 0.35).round() as u8),
        }
    }
    Picture { width, height, rgb }
}

/// Width and height with the longer side at most `max_side`.
fn within(picture: &Picture, max_side: u32) -> (u32, u32) {
    let (width, height) = (picture.width(), picture.height());
    let longer = width.max(height);
    if longer <= max_side {
        return (width, height);
    }
    let scale = f64::from(max_side) / f64::from(longer);
    let side = |side: u32| ((f64::from(side) * scale).round() as u32).max(1);
    (side(width), side(height))
}

fn luma(pixel: &[u8]) -> f64 {
    let weights = [0.299, 0.587, 0.114];
    pixel.iter().zip(weights).map(|(sample, weight)| f64::from(*sample) * weight).sum()
}

/// Colours from cold to hot, 0..=255 a channel: dark violet over red to pale yellow. Computed here, not taken from
/// anywhere: a path through Oklch with evenly growing lightness, so that equal steps look equal, and the order can be
/// read in grey and with any colour vision.
fn colours() -> [[f64; 3]; 256] {
    std::array::from_fn(|i| {
        let t = i as f64 / 255.0;
        let lightness = 0.22 + 0.72 * t;
        // Most colour in the middle: there is none to have near black and white.
        let chroma = 0.09 + 0.34 * t * (1.0 - t);
        let hue = (290.0 + 170.0 * t).to_radians();
        oklab_to_srgb(lightness, chroma * hue.cos(), chroma * hue.sin())
    })
}

/// Ottosson's Oklab (2020) to sRGB, 0..=255.
fn oklab_to_srgb(lightness: f64, a: f64, b: f64) -> [f64; 3] {
    let l = (lightness + 0.396_337_777_4 * a + 0.215_803_757_3 * b).powi(3);
    let m = (lightness - 0.105_561_345_8 * a - 0.063_854_172_8 * b).powi(3);
    let s = (lightness - 0.089_484_177_5 * a - 1.291_485_548 * b).powi(3);
    let linear = [
        4.076_741_662_1 * l - 3.307_711_591_3 * m + 0.230_969_929_2 * s,
        -1.268_438_004_6 * l + 2.609_757_401_1 * m - 0.341_319_396_5 * s,
        -0.004_196_086_3 * l - 0.703_418_614_7 * m + 1.707_614_701 * s,
    ];
    linear.map(|value| {
        let value = value.clamp(0.0, 1.0);
        let curved = if value <= 0.003_130_8 {
            12.92 * value
        } else {
            1.055 * value.powf(1.0 / 2.4) - 0.055
        };
        curved * 255.0
    })
}

#[cfg(test)]
mod tests {
    use super::super::{Framing, Preprocessing};
    use super::*;

    #[test]
    fn colours_grow_lighter_evenly_and_keep_within_the_screen() {
        let colours = colours();
        let light = |colour: &[f64; 3]| luma(&colour.map(|sample| sample.round() as u8));
        for pair in colours.windows(2) {
            let step = light(&pair[1]) - light(&pair[0]);
            assert!((-0.8..2.5).contains(&step), "{pair:?}");
        }
        assert!(light(&colours[0]) < 50.0 && light(&colours[255]) > 200.0);
        assert!(colours.iter().flatten().all(|sample| (0.0..=255.0).contains(sample)));
    }

    #[test]
    fn a_map_is_scaled_and_read_between_its_cells() {
        let heat = HeatMap::new(&[2.0, 4.0, 2.0, 6.0], 2, 2).unwrap();
        assert_eq!(heat.at(0.25, 0.25), 0.0);
        assert_eq!(heat.at(0.75, 0.75), 1.0);
        assert_eq!(heat.at(0.99, 0.99), 1.0);
        assert_eq!(heat.at(0.5, 0.5), 0.375);
        assert_eq!(HeatMap::new(&[3.0; 4], 2, 2).unwrap().at(0.5, 0.5), 0.0);
        for (values, rows, cols) in [(&[1.0; 3][..], 2, 2), (&[][..], 0, 0), (&[f32::NAN], 1, 1)] {
            assert!(HeatMap::new(values, rows, cols).is_none());
        }
    }

    #[test]
    fn the_hottest_cell_is_coloured_where_it_lies_in_the_picture_and_what_was_cut_off_is_grey() {
        let wide = Picture::from_rgb(400, 200, [90, 140, 200].repeat(400 * 200)).unwrap();
        // Bottom left of the frame.
        let heat = HeatMap::new(&[0.0, 0.0, 1.0, 0.0], 2, 2).unwrap();
        let hottest = |framing: Framing| {
            let place = Preprocessing::clip(64).with_framing(framing).placement(&wide);
            let out = overlay(&wide, &heat, &place, 400);
            assert_eq!((out.width(), out.height()), (400, 200));
            let at = |x: usize, y: usize| {
                <[u8; 3]>::try_from(&out.rgb()[(y * 400 + x) * 3..][..3]).unwrap()
            };
            (at(10, 190), at(120, 190), at(280, 190))
        };
        let (edge, left, right) = hottest(Framing::Squash);
        assert!(edge[0] > 200 && left[0] > right[0] + 50, "{edge:?} {left:?} {right:?}");
        let (edge, left, right) = hottest(Framing::CentreCrop);
        assert!(edge[0] == edge[1] && edge[1] == edge[2] && edge[0] < 60, "{edge:?}");
        assert!(left[0] > right[0] + 80, "{left:?} {right:?}");
    }

    #[test]
    fn a_large_picture_is_made_smaller() {
        let large = Picture::from_rgb(900, 300, vec![7; 900 * 300 * 3]).unwrap();
        let heat = HeatMap::new(&[1.0], 1, 1).unwrap();
        let place = Preprocessing::clip(32).placement(&large);
        let out = overlay(&large, &heat, &place, 300);
        assert_eq!((out.width(), out.height()), (300, 100));
    }
}
