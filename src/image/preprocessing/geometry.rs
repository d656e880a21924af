//! Which pixels of a picture end up where.

use std::ops::Range;

use crate::image::resample::{self, Target};
use crate::image::{Filter, Picture};

/// How a picture becomes `height` x `width` pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Geometry {
    /// Scale, then cut out the middle; black where there is too little.
    Crop { scale: Scale, height: u32, width: u32 },
    /// Scale both sides to the size.
    Squash { height: u32, width: u32 },
    /// Scale to fit inside, centre, fill with the border's median colour.
    Pad { height: u32, width: u32 },
}

/// What a picture is scaled to before the crop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scale {
    /// Left as it is.
    None,
    /// The shorter side to so many pixels, the longer in proportion, rounded down.
    ShortestEdge(u32),
    /// Both sides.
    Exact { height: u32, width: u32 },
}

impl Geometry {
    /// CLIP's: the shorter side to the longer of the model's, then the crop.
    pub(super) fn clip(height: u32, width: u32) -> Self {
        Self::Crop { scale: Scale::ShortestEdge(height.max(width)), height, width }
    }

    pub(super) fn size(&self) -> (u32, u32) {
        match *self {
            Self::Crop { height, width, .. }
            | Self::Squash { height, width }
            | Self::Pad { height, width } => (height, width),
        }
    }

    /// Where `picture` lies in its frame.
    pub(super) fn place(&self, picture: &Picture) -> Placement {
        let (height, width) = self.size();
        let (across, down) = match *self {
            Self::Crop { scale, height, width } => {
                let (full_height, full_width) = scale.of(picture);
                let side = |full: u32, wanted: u32| {
                    let Overlap { taken, at } = Overlap::of_crop(full, wanted);
                    (f64::from(full), f64::from(at) - f64::from(taken.start))
                };
                (side(full_width, width), side(full_height, height))
            }
            Self::Squash { height, width } => ((width.into(), 0.0), (height.into(), 0.0)),
            Self::Pad { height, width } => {
                let (inner_height, inner_width) = fit_inside(picture, height, width);
                let side = |inner: u32, all: u32| (f64::from(inner), f64::from((all - inner) / 2));
                (side(inner_width, width), side(inner_height, height))
            }
        };
        let share = |(size, at): (f64, f64), all: u32| Side {
            size: size / f64::from(all),
            at: at / f64::from(all),
        };
        Placement { across: share(across, width), down: share(down, height) }
    }

    /// The framed picture, `[height, width, 3]`.
    pub(super) fn frame(&self, picture: &Picture, filter: Filter) -> Vec<u8> {
        match *self {
            Self::Crop { scale, height, width } => {
                let (full_height, full_width) = scale.of(picture);
                let across = Overlap::of_crop(full_width, width);
                let down = Overlap::of_crop(full_height, height);
                let target = Target {
                    width: full_width,
                    height: full_height,
                    columns: across.taken.clone(),
                    rows: down.taken.clone(),
                };
                let part = resample::resize(picture, &target, filter);
                if part.len() == width as usize * height as usize * 3 {
                    return part;
                }
                place(&part, &across, &down, &Canvas { width, height, fill: [0; 3] })
            }
            Self::Squash { height, width } => {
                resample::resize(picture, &Target::whole(width, height), filter)
            }
            Self::Pad { height, width } => {
                let (inner_height, inner_width) = fit_inside(picture, height, width);
                let target = Target::whole(inner_width, inner_height);
                let part = resample::resize(picture, &target, filter);
                let across = Overlap { taken: 0..inner_width, at: (width - inner_width) / 2 };
                let down = Overlap { taken: 0..inner_height, at: (height - inner_height) / 2 };
                let fill = border_median(picture);
                place(&part, &across, &down, &Canvas { width, height, fill })
            }
        }
    }
}

/// Where a picture lies in the frame that a model sees of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Placement {
    across: Side,
    down: Side,
}

/// Length of the picture's side and where it begins, as shares of the frame's.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Side {
    size: f64,
    at: f64,
}

impl Side {
    fn in_frame(self, position: f64) -> Option<f64> {
        let framed = self.at + position * self.size;
        (0.0..1.0).contains(&framed).then_some(framed)
    }
}

impl Placement {
    /// Where a point of the picture lies in the frame; `None` where the frame leaves it out. Points are shares of width
    /// and height, from the top left.
    #[must_use]
    pub fn in_frame(&self, x: f64, y: f64) -> Option<(f64, f64)> {
        Some((self.across.in_frame(x)?, self.down.in_frame(y)?))
    }
}

impl Scale {
    /// Height and width that the whole picture is scaled to.
    fn of(self, picture: &Picture) -> (u32, u32) {
        let (height, width) = (picture.height(), picture.width());
        match self {
            Self::None => (height, width),
            Self::Exact { height, width } => (height, width),
            Self::ShortestEdge(short) => {
                // transformers: int(size * long / short), a true division cut off.
                let long = |longer: u32, shorter: u32| {
                    let product = u64::from(short) * u64::from(longer);
                    (product as f64 / f64::from(shorter)) as u32
                };
                if width <= height {
                    (long(height, width), short)
                } else {
                    (short, long(width, height))
                }
            }
        }
    }
}

/// The part of a scaled side that is used, and where on the canvas it begins.
struct Overlap {
    taken: Range<u32>,
    at: u32,
}

impl Overlap {
    /// transformers' centre crop: too many pixels lose half of the surplus, rounded down, in front;
    /// too few get half of the gap, rounded up, in front.
    fn of_crop(full: u32, wanted: u32) -> Self {
        if full >= wanted {
            let first = (full - wanted) / 2;
            Self { taken: first..first + wanted, at: 0 }
        } else {
            Self { taken: 0..full, at: (wanted - full).div_ceil(2) }
        }
    }
}

struct Canvas {
    width: u32,
    height: u32,
    fill: [u8; 3],
}

/// `part`, `[down.taken, across.taken, 3]`, on a canvas.
fn place(part: &[u8], across: &Overlap, down: &Overlap, canvas: &Canvas) -> Vec<u8> {
    let row_bytes = canvas.width as usize * 3;
    let mut out = canvas.fill.repeat(canvas.width as usize * canvas.height as usize);
    let (left, part_bytes) = (across.at as usize * 3, across.taken.len() * 3);
    let rows = out.chunks_exact_mut(row_bytes).skip(down.at as usize);
    for (row, part_row) in rows.zip(part.chunks_exact(part_bytes)) {
        row[left..left + part_bytes].copy_from_slice(part_row);
    }
    out
}

/// Height and width of the largest picture of the same proportions inside `height` x `width`.
fn fit_inside(picture: &Picture, height: u32, width: u32) -> (u32, u32) {
    let (from_height, from_width) = (f64::from(picture.height()), f64::from(picture.width()));
    let scale = (f64::from(height) / from_height).min(f64::from(width) / from_width);
    let side = |from: f64, most: u32| ((from * scale).round() as u32).clamp(1, most);
    (side(from_height, height), side(from_width, width))
}

/// Median of each channel over the outermost pixels.
fn border_median(picture: &Picture) -> [u8; 3] {
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    let mut counts = [[0u32; 256]; 3];
    let mut total = 0u32;
    for (y, row) in picture.rgb().chunks_exact(width * 3).enumerate() {
        let inner = y != 0 && y + 1 != height;
        let step = if inner { (width - 1).max(1) } else { 1 };
        for pixel in row.chunks_exact(3).step_by(step) {
            for (count, &sample) in counts.iter_mut().zip(pixel) {
                count[usize::from(sample)] += 1;
            }
            total += 1;
        }
    }
    counts.map(|count| {
        let mut below = 0;
        let median = count.iter().position(|&n| {
            below += n;
            below * 2 >= total
        });
        median.unwrap_or(0) as u8
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(width: u32, height: u32, colour: impl Fn(u32, u32) -> [u8; 3]) -> Picture {
        let rgb = (0..height).flat_map(|y| (0..width).map(move |x| (x, y)));
        let rgb = rgb.flat_map(|(x, y)| colour(x, y)).collect();
        Picture::from_rgb(width, height, rgb).unwrap()
    }

    #[test]
    fn the_longer_side_is_cut_off_not_rounded() {
        let of = |w, h| Scale::ShortestEdge(224).of(&picture(w, h, |_, _| [0; 3]));
        assert_eq!(of(1600, 1200), (224, 298));
        assert_eq!(of(3, 2), (224, 336));
        assert_eq!(of(1, 9), (2016, 224));
        assert_eq!(of(5, 7), (313, 224));
    }

    #[test]
    fn a_crop_of_too_few_pixels_puts_the_odd_one_in_front() {
        let overlap = Overlap::of_crop(3, 6);
        assert_eq!((overlap.taken, overlap.at), (0..3, 2));
        let overlap = Overlap::of_crop(7, 4);
        assert_eq!((overlap.taken, overlap.at), (1..5, 0));
    }

    #[test]
    fn padding_goes_on_with_the_border_and_keeps_proportions() {
        let hand = picture(40, 20, |x, y| {
            if (10..30).contains(&x) && (5..15).contains(&y) {
                [90, 60, 50]
            } else {
                [250, 251, 252]
            }
        });
        let out = Geometry::Pad { height: 32, width: 32 }.frame(&hand, Filter::Bilinear);
        assert_eq!(out.len(), 32 * 32 * 3);
        let at = |x: usize, y: usize| &out[(y * 32 + x) * 3..][..3];
        assert_eq!(at(16, 2), [250, 251, 252]);
        assert_eq!(at(2, 16), [250, 251, 252]);
        assert_eq!(at(16, 16), [90, 60, 50]);
        // 40x20 becomes 32x16: the hand's half height is 4 rows around the middle.
        assert_eq!(at(16, 13), [90, 60, 50]);
        assert_eq!(at(16, 10), [250, 251, 252]);
    }

    #[test]
    fn a_one_pixel_wide_tower_is_framed_without_being_blown_up_whole() {
        let tower = picture(1, 8192, |_, y| [(y / 32) as u8; 3]);
        for geometry in [
            Geometry::clip(224, 224),
            Geometry::Squash { height: 224, width: 224 },
            Geometry::Pad { height: 224, width: 224 },
        ] {
            assert_eq!(geometry.frame(&tower, Filter::Bicubic).len(), 224 * 224 * 3);
        }
    }

    /// A white point on black is found in the frame where the placement says, or nowhere where it says so.
    #[test]
    fn a_point_of_the_picture_is_where_its_placement_says() {
        let geometries = [
            Geometry::clip(64, 64),
            Geometry::Squash { height: 64, width: 64 },
            Geometry::Pad { height: 64, width: 64 },
            Geometry::Crop { scale: Scale::None, height: 64, width: 301 },
        ];
        for (width, height) in [(320, 200), (200, 320), (400, 97), (64, 64)] {
            for (x, y) in [(4, 90), (100, 40), (180, 8), (60, 60), (199, 96), (390, 50)] {
                if x + 4 > width || y + 4 > height {
                    continue;
                }
                let point = picture(width, height, |px, py| {
                    [if px.abs_diff(x + 1) < 3 && py.abs_diff(y + 1) < 3 { 255 } else { 0 }; 3]
                });
                let (x, y) = (f64::from(x) + 1.5, f64::from(y) + 1.5);
                for geometry in geometries {
                    let (rows, columns) = geometry.size();
                    let framed = geometry.frame(&point, Filter::Bilinear);
                    let lights = (0..rows * columns).zip(framed.chunks_exact(3));
                    let (mut light, mut cx, mut cy) = (0.0, 0.0, 0.0);
                    for (i, pixel) in lights {
                        light += f64::from(pixel[0]);
                        cx += f64::from(pixel[0]) * (f64::from(i % columns) + 0.5);
                        cy += f64::from(pixel[0]) * (f64::from(i / columns) + 0.5);
                    }
                    let place = geometry.place(&point);
                    let found = place.in_frame(x / f64::from(width), y / f64::from(height));
                    let case = format!("{geometry:?} {width}x{height} at {x},{y}: {found:?}");
                    match found {
                        Some((fx, fy)) => {
                            assert!(light > 0.0, "{case}: no light");
                            let (dx, dy) = (
                                cx / light - fx * f64::from(columns),
                                cy / light - fy * f64::from(rows),
                            );
                            assert!(dx.abs() < 1.0 && dy.abs() < 1.0, "{case}: off by {dx}, {dy}");
                        }
                        None => assert!(light < 12.0 * 255.0, "{case}: light {light}"),
                    }
                }
            }
        }
    }
}
