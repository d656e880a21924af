use super::details::Scene;
use super::figure::{Figure, Nearby};
use super::paint::Layers;
use super::person::Person;
use super::rng::{Noise, floor, lattice};
use super::shape::{Point, bell, pt};
use super::shot::{Shot, Sleeve};

/// A square picture, RGB8, row-major.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RgbImage {
    /// Pixels a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// `[height, width, 3]`.
    pub rgb: Vec<u8>,
}

/// Draws one picture, `size` x `size` pixels. The same arguments give the same bytes.
#[must_use]
pub fn render(person: &Person, shot: &Shot, size: u32) -> RgbImage {
    let figure = Figure::pose(person, shot);
    let marks = person.marks(shot.aspect, shot.side);
    let mut layers = Layers::new(size as usize);
    Scene { person, shot, figure: &figure, marks: &marks }.draw(&mut layers);
    let surface = Surface::of(&figure, &layers);
    let mut linear = shade(person, shot, &figure, &layers, &surface);
    if shot.blur > 0.0 {
        blur(&mut linear, size as usize, shot.blur * size as f32);
    }
    RgbImage { width: size, height: size, rgb: develop(&linear, shot, size as usize) }
}

/// Outline of every pixel, and the height of what is seen there with all that is drawn on it.
struct Surface {
    distance: Vec<f32>,
    height: Vec<f32>,
}

impl Surface {
    fn of(figure: &Figure, layers: &Layers) -> Self {
        let n = layers.size;
        let mut surface = Self { distance: vec![0.0; n * n], height: vec![0.0; n * n] };
        let half = BLOCK as f32 / 2.0;
        // From a block's middle to its corner, in hand units.
        let corner = half * std::f32::consts::SQRT_2 / (n as f32 * figure.scale());
        let mut near = Nearby::default();
        for top in (0..n).step_by(BLOCK) {
            for left in (0..n).step_by(BLOCK) {
                let middle = pt((left as f32 + half) / n as f32, (top as f32 + half) / n as f32);
                figure.nearby(figure.to_hand(middle), corner, &mut near);
                for y in top..(top + BLOCK).min(n) {
                    for x in left..(left + BLOCK).min(n) {
                        let hit = figure.hit(figure.to_hand(picture_point(x, y, n)), &near);
                        let at = y * n + x;
                        surface.distance[at] = hit.distance;
                        surface.height[at] =
                            hit.height * 0.62 + layers.relief[at] + layers.groove[at];
                    }
                }
            }
        }
        surface
    }
}

/// Side, in pixels, of the blocks that share a list of nearby parts.
const BLOCK: usize = 8;

fn picture_point(x: usize, y: usize, n: usize) -> Point {
    pt((x as f32 + 0.5) / n as f32, (y as f32 + 0.5) / n as f32)
}

fn shade(
    person: &Person,
    shot: &Shot,
    figure: &Figure,
    layers: &Layers,
    surface: &Surface,
) -> Vec<[f32; 3]> {
    let n = layers.size;
    let pixel = 1.0 / (n as f32 * figure.scale());
    let skin = match shot.aspect {
        crate::domain::Aspect::Dorsal => person.skin,
        crate::domain::Aspect::Palmar => person.palm_skin,
    };
    let light = &shot.light;
    let texture = person.key.0 ^ person.key.1.rotate_left(17);
    let flip = if figure.mirrored() { -1.0 } else { 1.0 };
    let (mut mottle, mut pores) = (Noise::new(texture), Noise::new(texture ^ 7));
    let mut table = Noise::new(shot.noise_seed);
    let mut out = Vec::with_capacity(n * n);
    for y in 0..n {
        for x in 0..n {
            let at = y * n + x;
            let distance = surface.distance[at];
            let coverage = (0.5 - distance / pixel).clamp(0.0, 1.0);
            // The table is seen around the hand, and through the half covered pixels of its edge.
            let ground = if coverage < 1.0 {
                backdrop(shot, surface, (x, y), n, &mut table)
            } else {
                [0.0; 3]
            };
            if coverage <= 0.0 {
                out.push(ground);
                continue;
            }
            let p = figure.to_hand(picture_point(x, y, n));
            let relief = |x: usize, y: usize| surface.height[y * n + x];
            let (x0, x1) = (x.saturating_sub(1), (x + 1).min(n - 1));
            let (y0, y1) = (y.saturating_sub(1), (y + 1).min(n - 1));
            let dx = (relief(x1, y) - relief(x0, y)) / ((x1 - x0) as f32 * pixel);
            let dy = (relief(x, y1) - relief(x, y0)) / ((y1 - y0) as f32 * pixel);
            // Steep sides would go black: real skin scatters light there.
            let (dx, dy) = (dx.clamp(-1.6, 1.6), dy.clamp(-1.6, 1.6));
            let inverse = 1.0 / (dx * dx + dy * dy + 1.0).sqrt();
            let [lx, ly, lz] = light.direction;
            let facing = ((-dx * lx + dy * ly + lz) * inverse).max(0.0);
            let grain = mottle.at(p.x * 9.0, p.y * 9.0) * 0.045 * person.mottle
                + pores.at(p.x * 38.0 * flip, p.y * 38.0) * 0.030;
            let freckle = if person.freckles > 0.0 && shot.aspect == crate::domain::Aspect::Dorsal {
                freckle(texture ^ 99, p) * person.freckles
            } else {
                0.0
            };
            let tint = layers.tint[at] + layers.stain[at];
            let dark = (1.0 - layers.dark[at]) * (1.0 - freckle) * (1.0 + grain);
            let mut albedo = [
                skin[0] * dark * (1.25 - 0.25 * dark) * (1.0 + 0.10 * tint),
                skin[1] * dark * (1.0 - 0.14 * tint),
                skin[2] * dark * (1.0 - 0.12 * tint),
            ];
            let mut gloss = 0.10;
            let cover = layers.cover[at];
            if cover[3] > 0.0 {
                for c in 0..3 {
                    albedo[c] += (cover[c] - albedo[c]) * cover[3];
                }
                gloss += (cover[4] - gloss) * cover[3];
            }
            let mut lit = light.ambient + (1.08 - light.ambient) * facing;
            if let Some(cloth) = shot.sleeve.as_ref().and_then(|sleeve| cloth(sleeve, p, texture)) {
                albedo = cloth;
                gloss = 0.0;
                lit = lit.min(1.0);
            }
            let sharp = facing * facing * facing;
            let sharp = sharp * sharp * sharp * sharp;
            let shine = sharp * sharp * gloss * 0.35;
            let color: [f32; 3] = std::array::from_fn(|c| {
                let hand = (albedo[c] * lit + shine) * light.color[c];
                ground[c] + (hand - ground[c]) * coverage
            });
            out.push(color);
        }
    }
    out
}

/// The table under the hand with the hand's soft shadow on it.
fn backdrop(
    shot: &Shot,
    surface: &Surface,
    at: (usize, usize),
    n: usize,
    table: &mut Noise,
) -> [f32; 3] {
    let p = picture_point(at.0, at.1, n);
    // What lies towards the light casts the shadow; the light's y points up.
    let reach = 0.05;
    let sx = (p.x + shot.light.direction[0] * reach).clamp(0.0, 0.999);
    let sy = (p.y - shot.light.direction[1] * reach).clamp(0.0, 0.999);
    let near = surface.distance[(sy * n as f32) as usize * n + (sx * n as f32) as usize];
    let shadow = shot.light.shadow * {
        let share = 1.0 - (near / 0.14).clamp(0.0, 1.0);
        share * share
    };
    let bg = &shot.background;
    let slope = 1.0 + bg.slope[0] * (p.x - 0.5) + bg.slope[1] * (p.y - 0.5);
    let grain = 1.0 + bg.grain * table.at(p.x * 60.0, p.y * 60.0);
    std::array::from_fn(|c| {
        bg.color[c] * slope * grain * (1.0 - shadow) * shot.light.color[c].min(1.03)
    })
}

fn cloth(sleeve: &Sleeve, p: Point, seed: u64) -> Option<[f32; 3]> {
    const UNEVEN: f32 = 0.015;
    if p.y > sleeve.hem + UNEVEN {
        return None;
    }
    let hem = sleeve.hem + UNEVEN * Noise::new(seed ^ 31).at(p.x * 4.0, 0.0);
    if p.y > hem {
        return None;
    }
    let fold = 1.0 + 0.25 * Noise::new(seed ^ 32).at(p.x * 6.0, p.y * 3.0);
    let edge = if p.y > hem - 0.02 { 0.75 } else { 1.0 };
    let stripe = sleeve.stripes.filter(|_| (p.y * 14.0).rem_euclid(1.0) < 0.45);
    Some(stripe.unwrap_or(sleeve.color).map(|c| c * fold * edge))
}

/// How dark the freckles are at a point: at most one to each cell of a lattice.
fn freckle(seed: u64, p: Point) -> f32 {
    let q = p.scale(20.0);
    let (x, y) = (floor(q.x), floor(q.y));
    let bits = lattice(seed, x, y);
    if bits & 1 == 0 {
        return 0.0;
    }
    let share = |shift: u32| ((bits >> shift) & 255) as f32 / 255.0;
    let centre = pt(x as f32 + 0.2 + 0.6 * share(8), y as f32 + 0.2 + 0.6 * share(16));
    let radius = 0.10 + 0.14 * share(24);
    let off = q.sub(centre).scale(1.0 / radius);
    bell(off.dot(off)) * (0.15 + 0.35 * share(2))
}

/// Separable box blur applied twice, near enough to a Gaussian of SD `sigma` pixels.
fn blur(pixels: &mut [[f32; 3]], n: usize, sigma: f32) {
    // Two boxes of width w have a variance of (w^2 - 1) / 6; the outermost taps count in part.
    let reach = ((6.0 * sigma * sigma + 1.0).sqrt() - 1.0) / 2.0;
    let whole = reach as usize;
    let part = reach - whole as f32;
    let weight = 1.0 / (2.0 * reach + 1.0);
    let mut line = vec![[0.0_f32; 3]; n];
    for _ in 0..2 {
        for (stride, step) in [(n, 1), (1, n)] {
            for start in 0..n {
                for (i, value) in line.iter_mut().enumerate() {
                    *value = pixels[start * stride + i * step];
                }
                for i in 0..n {
                    let tap = |by: usize| (line[i.saturating_sub(by)], line[(i + by).min(n - 1)]);
                    let mut sum = line[i];
                    for by in 1..=whole {
                        let (a, b) = tap(by);
                        sum = std::array::from_fn(|c| sum[c] + a[c] + b[c]);
                    }
                    let (a, b) = tap(whole + 1);
                    pixels[start * stride + i * step] =
                        std::array::from_fn(|c| (sum[c] + part * (a[c] + b[c])) * weight);
                }
            }
        }
    }
}

/// Linear light to sRGB bytes with sensor noise.
fn develop(linear: &[[f32; 3]], shot: &Shot, n: usize) -> Vec<u8> {
    let mut rgb = Vec::with_capacity(linear.len() * 3);
    for (i, pixel) in linear.iter().enumerate() {
        let bits = lattice(shot.noise_seed, (i % n) as i32, (i / n) as i32);
        for (c, value) in pixel.iter().enumerate() {
            // The sum of two five-bit numbers: a triangle, -1 to 1.
            let (a, b) = ((bits >> (10 * c)) & 31, (bits >> (10 * c + 5)) & 31);
            let grain = ((a + b) as f32 / 31.0 - 1.0) * shot.noise;
            // Gamma 2 stands in for the sRGB curve: a square root is the same on every platform.
            rgb.push(((value.clamp(0.0, 1.0).sqrt() + grain).clamp(0.0, 1.0) * 255.0 + 0.5) as u8);
        }
    }
    rgb
}
