use super::shape::{Point, bell, pt};

/// Layers of a picture in the making, `size` x `size`, filled by stamping strokes and dots whose
/// places were worked out in hand units.
pub(super) struct Layers {
    pub(super) size: usize,
    /// 0 to 1: how far the skin is darkened.
    pub(super) dark: Vec<f32>,
    /// Signed change of height in hand units.
    pub(super) relief: Vec<f32>,
    /// The same for lines, kept apart: they do not add up where they cross, but lie on the blobs.
    pub(super) groove: Vec<f32>,
    /// Signed tint: positive redder, negative bluer.
    pub(super) tint: Vec<f32>,
    /// The same for lines.
    pub(super) stain: Vec<f32>,
    /// What covers the skin: colour, coverage 0 to 1, and gloss 0 to 1.
    pub(super) cover: Vec<[f32; 5]>,
}

/// How a stroke changes the layers at its middle.
#[derive(Clone, Copy, Default)]
pub(super) struct Ink {
    pub(super) dark: f32,
    pub(super) relief: f32,
    pub(super) tint: f32,
}

impl Layers {
    pub(super) fn new(size: usize) -> Self {
        let n = size * size;
        Self {
            size,
            dark: vec![0.0; n],
            relief: vec![0.0; n],
            groove: vec![0.0; n],
            tint: vec![0.0; n],
            stain: vec![0.0; n],
            cover: vec![[0.0; 5]; n],
        }
    }

    /// A line through `points` (picture coordinates), `width` picture heights wide, soft at its sides
    /// and thinning out towards both ends when `tapered`.
    pub(super) fn stroke(&mut self, points: &[Point], width: f32, ink: Ink, tapered: bool) {
        let segments = points.len().saturating_sub(1);
        for i in 0..segments {
            let (a, b) = (self.px(points[i]), self.px(points[i + 1]));
            // Never thinner than what a pixel can show, but fainter instead.
            let wanted = width * self.size as f32 / 2.0;
            let half = wanted.max(1.0);
            let faint = wanted / half;
            // Slopes are taken over two pixels, so a groove must be wider still not to alias.
            let broad = wanted.max(1.5);
            let shallow = wanted / broad;
            let (t0, t1) = (i as f32 / segments as f32, (i + 1) as f32 / segments as f32);
            self.each(a, b, broad * 2.0, |layers, at, d, t| {
                let along = t0 + (t1 - t0) * t;
                let end = if tapered { (4.0 * along * (1.0 - along)).sqrt() } else { 1.0 };
                let strength = bell((d / half) * (d / half)) * end * faint;
                let depth = bell((d / broad) * (d / broad)) * end * shallow;
                layers.ink(at, ink, strength, depth);
            });
        }
    }

    /// A soft-edged dot of `radius` picture heights.
    pub(super) fn dot(&mut self, centre: Point, radius: f32, ink: Ink) {
        let c = self.px(centre);
        let wanted = radius * self.size as f32;
        let r = wanted.max(0.6);
        let faint = (wanted / r) * (wanted / r);
        self.each(c, c, r + 1.0, |layers, at, d, _| {
            let strength = (r + 0.5 - d).clamp(0.0, 1.0) * faint;
            layers.ink(at, ink, strength, strength);
        });
    }

    /// A soft blob without an edge.
    pub(super) fn blob(&mut self, centre: Point, radius: f32, ink: Ink) {
        let c = self.px(centre);
        let r = (radius * self.size as f32).max(0.6);
        self.each(c, c, r * 2.2, |layers, at, d, _| {
            layers.add(at, ink, bell((d / r) * (d / r)));
        });
    }

    /// Covers a band between two points with a colour: rings, bracelets, nails' edges. `shade` gets the
    /// position along the band and across it, -1 to 1, and gives colour and gloss.
    pub(super) fn band(
        &mut self,
        a: Point,
        b: Point,
        width: f32,
        shade: impl Fn(f32, f32) -> ([f32; 3], f32),
    ) {
        let (a, b) = (self.px(a), self.px(b));
        let half = (width * self.size as f32 / 2.0).max(0.6);
        let axis = b.sub(a);
        let long = axis.length().max(1e-3);
        let normal = axis.across().scale(1.0 / long);
        let size = self.size;
        self.each(a, b, half + 1.5, |layers, at, _, _| {
            let p = pt((at % size) as f32 + 0.5, (at / size) as f32 + 0.5).sub(a);
            let (u, v) = (p.dot(axis) / (long * long), p.dot(normal));
            let inside =
                (half + 0.5 - v.abs()).min(long * (0.5 - (u - 0.5).abs()) + 0.5).clamp(0.0, 1.0);
            if inside > 0.0 {
                let (color, gloss) = shade(u.clamp(0.0, 1.0), (v / half).clamp(-1.0, 1.0));
                layers.paint(at, color, inside, gloss);
            }
        });
    }

    /// Covers a superellipse (nails, watch dials): `axis` is its half length as a vector, `half_width`
    /// in picture heights, `square` 0 for an ellipse and 1 for nearly a rectangle. `shade` gets the position along and across.
    pub(super) fn oval(
        &mut self,
        centre: Point,
        axis: Point,
        half_width: f32,
        square: f32,
        shade: impl Fn(f32, f32) -> ([f32; 3], f32, f32),
    ) {
        let c = self.px(centre);
        let axis = axis.scale(self.size as f32);
        let long = axis.length().max(0.5);
        let wide = (half_width * self.size as f32).max(0.5);
        let along = axis.scale(1.0 / long);
        let across = along.across();
        let size = self.size;
        self.each(c, c, long.max(wide) * 1.3 + 1.0, |layers, at, _, _| {
            let p = pt((at % size) as f32 + 0.5, (at / size) as f32 + 0.5).sub(c);
            let (u, v) = (p.dot(along) / long, p.dot(across) / wide);
            let (u2, v2) = (u * u, v * v);
            let (u4, v4) = (u2 * u2, v2 * v2);
            let boxy = (u4 * u4 + v4 * v4).sqrt().sqrt().sqrt();
            let r = (u2 + v2).sqrt() * (1.0 - square) + boxy * square;
            let inside = ((1.0 - r) * wide.min(long) + 0.5).clamp(0.0, 1.0);
            if inside > 0.0 {
                let (color, opacity, gloss) = shade(u.clamp(-1.0, 1.0), v.clamp(-1.0, 1.0));
                layers.paint(at, color, inside * opacity, gloss);
            }
        });
    }

    fn px(&self, p: Point) -> Point {
        p.scale(self.size as f32)
    }

    fn ink(&mut self, at: usize, ink: Ink, strength: f32, depth: f32) {
        // Lines that cross or join do not add up to holes.
        self.dark[at] = self.dark[at].max(ink.dark * strength);
        let relief = ink.relief * depth;
        if relief.abs() > self.groove[at].abs() {
            self.groove[at] = relief;
        }
        let tint = ink.tint * strength;
        if tint.abs() > self.stain[at].abs() {
            self.stain[at] = tint;
        }
    }

    fn add(&mut self, at: usize, ink: Ink, strength: f32) {
        self.dark[at] = (self.dark[at] + ink.dark * strength).min(1.0);
        self.relief[at] += ink.relief * strength;
        self.tint[at] += ink.tint * strength;
    }

    fn paint(&mut self, at: usize, color: [f32; 3], coverage: f32, gloss: f32) {
        let cover = &mut self.cover[at];
        let keep = 1.0 - coverage;
        let total = coverage + cover[3] * keep;
        if total > 0.0 {
            for (have, new) in cover.iter_mut().zip(color) {
                *have = (new * coverage + *have * cover_share(keep, total, coverage)) / total;
            }
            cover[4] = gloss.max(cover[4] * keep);
            cover[3] = total;
        }
    }

    /// Calls `f(index, distance, t)` for the pixels within `reach` of the segment.
    fn each(
        &mut self,
        a: Point,
        b: Point,
        reach: f32,
        mut f: impl FnMut(&mut Self, usize, f32, f32),
    ) {
        let last = self.size as f32 - 1.0;
        let bound = |v: f32| v.clamp(0.0, last) as usize;
        if a.x.max(b.x) + reach < 0.0
            || a.y.max(b.y) + reach < 0.0
            || a.x.min(b.x) - reach > last
            || a.y.min(b.y) - reach > last
        {
            return;
        }
        let axis = b.sub(a);
        let square = axis.dot(axis);
        for y in bound(a.y.min(b.y) - reach)..=bound(a.y.max(b.y) + reach) {
            for x in bound(a.x.min(b.x) - reach)..=bound(a.x.max(b.x) + reach) {
                let p = pt(x as f32 + 0.5, y as f32 + 0.5);
                let t =
                    if square > 0.0 { (p.sub(a).dot(axis) / square).clamp(0.0, 1.0) } else { 0.0 };
                let d = p.sub(a.add(axis.scale(t))).length();
                if d <= reach {
                    f(self, y * self.size + x, d, t);
                }
            }
        }
    }
}

/// Weight of the colour beneath when `coverage` is laid over it.
fn cover_share(keep: f32, total: f32, coverage: f32) -> f32 {
    if keep <= 0.0 { 0.0 } else { total - coverage }
}
