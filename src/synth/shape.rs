/// A point or a vector, in hand units or in pixels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Point {
    pub(super) x: f32,
    pub(super) y: f32,
}

pub(super) const fn pt(x: f32, y: f32) -> Point {
    Point { x, y }
}

impl Point {
    pub(super) fn add(self, o: Self) -> Self {
        pt(self.x + o.x, self.y + o.y)
    }
    pub(super) fn sub(self, o: Self) -> Self {
        pt(self.x - o.x, self.y - o.y)
    }
    pub(super) fn scale(self, s: f32) -> Self {
        pt(self.x * s, self.y * s)
    }
    pub(super) fn dot(self, o: Self) -> f32 {
        self.x * o.x + self.y * o.y
    }
    pub(super) fn length(self) -> f32 {
        self.dot(self).sqrt()
    }
    pub(super) fn lerp(self, o: Self, t: f32) -> Self {
        self.add(o.sub(self).scale(t))
    }
    /// A quarter turn: from a finger's direction to across it.
    pub(super) fn across(self) -> Self {
        pt(self.y, -self.x)
    }
}

/// A capsule whose radius runs from `ra` at `a` to `rb` at `b`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Capsule {
    pub(super) a: Point,
    pub(super) b: Point,
    pub(super) ra: f32,
    pub(super) rb: f32,
}

impl Capsule {
    /// Signed distance to the outline (negative inside) and the radius there. The taper is slight,
    /// so the distance to the axis less the radius is near enough.
    pub(super) fn distance(&self, p: Point) -> (f32, f32) {
        let axis = self.b.sub(self.a);
        let t = (p.sub(self.a).dot(axis) / axis.dot(axis)).clamp(0.0, 1.0);
        let radius = self.ra + (self.rb - self.ra) * t;
        (p.sub(self.a.add(axis.scale(t))).length() - radius, radius)
    }
}

/// Signed distance to a polygon (negative inside), after Quilez.
pub(super) fn polygon(corners: &[Point], p: Point) -> f32 {
    let mut best = f32::MAX;
    let mut sign = 1.0;
    let mut j = corners.len() - 1;
    for i in 0..corners.len() {
        let (a, b) = (corners[i], corners[j]);
        let (e, w) = (b.sub(a), p.sub(a));
        let t = (w.dot(e) / e.dot(e)).clamp(0.0, 1.0);
        let off = w.sub(e.scale(t));
        best = best.min(off.dot(off));
        let (above, below, left) = (p.y >= a.y, p.y < b.y, e.x * w.y > e.y * w.x);
        if (above && below && left) || (!above && !below && !left) {
            sign = -sign;
        }
        j = i;
    }
    sign * best.sqrt()
}

/// Smooth minimum: blends two shapes over `k`.
pub(super) fn blend(a: f32, b: f32, k: f32) -> f32 {
    let h = (k - (a - b).abs()).max(0.0) / k;
    a.min(b) - h * h * k * 0.25
}
