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

/// Sine and cosine from sums and products alone: a platform's own differ in the last bit, and a
/// picture must be the same everywhere.
pub(super) fn sin_cos(angle: f32) -> (f32, f32) {
    use std::f64::consts::{FRAC_PI_2, PI, TAU};
    let x = f64::from(angle);
    let x = x - TAU * floor64(x / TAU + 0.5);
    let sine = |x: f64| {
        // The sine is symmetric about a quarter turn, and the series is short below one.
        let x = if x > FRAC_PI_2 {
            PI - x
        } else if x < -FRAC_PI_2 {
            -PI - x
        } else {
            x
        };
        let q = x * x;
        let (mut term, mut sum) = (x, x);
        for k in 1..8 {
            let k = f64::from(k) * 2.0;
            term *= -q / (k * (k + 1.0));
            sum += term;
        }
        sum as f32
    };
    let ahead = x + FRAC_PI_2;
    (sine(x), sine(if ahead > PI { ahead - TAU } else { ahead }))
}

fn floor64(x: f64) -> f64 {
    let whole = x as i64 as f64;
    if whole > x { whole - 1.0 } else { whole }
}

/// A bell of height 1 over a squared distance, close to `exp(-square)` and zero from 8 on.
pub(super) fn bell(square: f32) -> f32 {
    let b = (1.0 - square * 0.125).max(0.0);
    let (b2, b4) = (b * b, b * b * b * b);
    b2 * b2 * b4
}

/// A capsule whose radius runs from `ra` at `a` to `rb` at `b`, thinner by `waist` half way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Capsule {
    pub(super) a: Point,
    pub(super) b: Point,
    pub(super) ra: f32,
    pub(super) rb: f32,
    pub(super) waist: f32,
}

impl Capsule {
    /// Signed distance to the outline (negative inside) and the radius there. The taper is slight,
    /// so the distance to the axis less the radius is near enough.
    pub(super) fn distance(&self, p: Point) -> (f32, f32) {
        let axis = self.b.sub(self.a);
        let t = (p.sub(self.a).dot(axis) / axis.dot(axis).max(1e-9)).clamp(0.0, 1.0);
        let radius = self.radius(t);
        (p.sub(self.a.add(axis.scale(t))).length() - radius, radius)
    }

    /// The radius `t` of the way along.
    pub(super) fn radius(&self, t: f32) -> f32 {
        self.ra + (self.rb - self.ra) * t - self.waist * 4.0 * t * (1.0 - t)
    }
}

/// A closed outline, prepared for asking distances.
#[derive(Default)]
pub(super) struct Outline {
    edges: Vec<Edge>,
    /// Whether all that will be asked lies inside or outside, where that is known.
    outside: Option<bool>,
}

#[derive(Clone, Copy)]
struct Edge {
    from: Point,
    along: Point,
    inverse: f32,
    end_y: f32,
}

impl Edge {
    fn square_distance(&self, p: Point) -> f32 {
        let w = p.sub(self.from);
        let t = (w.dot(self.along) * self.inverse).clamp(0.0, 1.0);
        let off = w.sub(self.along.scale(t));
        off.dot(off)
    }
}

impl Outline {
    pub(super) fn new(corners: &[Point]) -> Self {
        let next = corners.iter().cycle().skip(1);
        let edge = |(&from, &to): (&Point, &Point)| {
            let along = to.sub(from);
            Edge { from, along, inverse: 1.0 / along.dot(along).max(1e-9), end_y: to.y }
        };
        Self { edges: corners.iter().zip(next).map(edge).collect(), outside: None }
    }

    /// With every corner cut at a quarter of its sides, `times` over (Chaikin).
    pub(super) fn rounded(corners: &[Point], times: usize) -> Self {
        let mut corners = corners.to_vec();
        for _ in 0..times {
            let next = corners.iter().cycle().skip(1);
            corners = corners
                .iter()
                .zip(next)
                .flat_map(|(a, b)| [a.lerp(*b, 0.25), a.lerp(*b, 0.75)])
                .collect();
        }
        Self::new(&corners)
    }

    /// Signed distance (negative inside), after Quilez.
    pub(super) fn distance(&self, p: Point) -> f32 {
        let best = self.edges.iter().fold(f32::MAX, |best, e| best.min(e.square_distance(p)));
        let outside = self.outside.unwrap_or_else(|| {
            self.edges.iter().fold(true, |outside, e| {
                let rises = e.end_y > e.from.y;
                let spans = (p.y >= e.from.y) != (p.y >= e.end_y);
                let w = p.sub(e.from);
                outside ^ (spans & (rises == (e.along.x * w.y > e.along.y * w.x)))
            })
        });
        if outside { best.sqrt() } else { -best.sqrt() }
    }

    /// Leaves in `part` what tells the same distances within `around` of `centre`, and returns the
    /// distance there.
    pub(super) fn cut(&self, centre: Point, around: f32, part: &mut Self) -> f32 {
        let distance = self.distance(centre);
        part.outside = (distance.abs() > around).then_some(distance > 0.0);
        // Nobody is nearer to an edge than the middle is by more than `around`, nor farther.
        let beyond = distance.abs() + 2.0 * around;
        let matters = |edge: &&Edge| {
            part.outside.is_none() || edge.square_distance(centre) <= beyond * beyond
        };
        part.edges.clear();
        part.edges.extend(self.edges.iter().filter(matters));
        distance
    }
}

/// Smooth minimum: blends two shapes over `k`.
pub(super) fn blend(a: f32, b: f32, k: f32) -> f32 {
    let h = (k - (a - b).abs()).max(0.0) / k;
    a.min(b) - h * h * k * 0.25
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sine_and_cosine_are_those_of_the_platform_to_a_millionth() {
        for step in -700..700 {
            let angle = step as f32 * 0.01;
            let (sin, cos) = sin_cos(angle);
            assert!((sin - angle.sin()).abs() < 1e-6, "sin {angle}: {sin}");
            assert!((cos - angle.cos()).abs() < 1e-6, "cos {angle}: {cos}");
        }
    }

    #[test]
    fn a_cut_outline_tells_the_same_distances() {
        let whole = Outline::rounded(&[pt(0.0, 0.0), pt(2.0, 0.3), pt(1.0, 1.0), pt(0.2, 2.0)], 2);
        let mut part = Outline::default();
        for step in 0..900 {
            let centre = pt((step % 30) as f32 * 0.1 - 0.5, (step / 30) as f32 * 0.1 - 0.5);
            whole.cut(centre, 0.15, &mut part);
            for off in [pt(0.0, 0.0), pt(0.1, 0.1), pt(-0.1, 0.1), pt(0.0, -0.15)] {
                let p = centre.add(off);
                assert_eq!(whole.distance(p), part.distance(p), "{p:?} by {centre:?}");
            }
        }
    }

    #[test]
    fn distances_to_an_outline_are_those_of_a_square() {
        for corners in [
            [pt(0.0, 0.0), pt(2.0, 0.0), pt(2.0, 2.0), pt(0.0, 2.0)],
            [pt(0.0, 2.0), pt(2.0, 2.0), pt(2.0, 0.0), pt(0.0, 0.0)],
        ] {
            let square = Outline::new(&corners);
            for (x, y, expected) in
                [(1.0, 1.0, -1.0), (1.0, 0.25, -0.25), (3.0, 1.0, 1.0), (5.0, 6.0, 5.0)]
            {
                assert!((square.distance(pt(x, y)) - expected).abs() < 1e-6, "{x} {y}");
            }
        }
    }
}
