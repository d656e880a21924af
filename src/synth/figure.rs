use crate::domain::{Aspect, Side};

use super::person::Person;
use super::shape::{Capsule, Point, blend, polygon, pt};
use super::shot::Shot;

/// A posed finger: three phalanges (the thumb two and its root), base first.
pub(super) struct Finger {
    pub(super) bones: Vec<Capsule>,
    low: Point,
    high: Point,
}

/// A posed hand in hand units, the thumb at negative x, and its place in the picture.
pub(super) struct Figure {
    pub(super) palm: Vec<Point>,
    pub(super) forearm: [Point; 4],
    /// Index, middle, ring, little, thumb.
    pub(super) fingers: Vec<Finger>,
    mirrored: bool,
    cos: f32,
    sin: f32,
    scale: f32,
    centre: Point,
    middle: Point,
}

pub(super) const THUMB: usize = 4;
const PALM_ROUND: f32 = 0.085;

/// What lies at a point of the hand.
pub(super) struct Hit {
    /// Signed distance to the outline in hand units, negative inside.
    pub(super) distance: f32,
    /// Height of the surface in hand units.
    pub(super) height: f32,
}

impl Figure {
    pub(super) fn pose(person: &Person, shot: &Shot) -> Self {
        let (w, h) = (person.palm.width, person.palm.height);
        let half = w / 2.0;
        let slope = person.palm.slope;
        let wrist = person.palm.wrist / 2.0;
        // Knuckles of index, middle, ring and little.
        let across = [-0.355, -0.118, 0.118, 0.350];
        let drop = [0.045, 0.0, 0.035, slope];
        let mut fingers = Vec::with_capacity(5);
        let mut knuckles = Vec::with_capacity(4);
        for i in 0..4 {
            let shape = person.fingers[i];
            let base = pt(across[i] * w, h - drop[i] - 0.07);
            knuckles.push(base);
            let fan = (i as f32 - 1.35) * shot.pose.spread + shot.pose.sway[i];
            let mut angle = fan;
            let mut at = base;
            let shares = [
                shape.phalanges[0],
                shape.phalanges[1],
                1.0 - shape.phalanges[0] - shape.phalanges[1],
            ];
            let mut along = 0.0;
            let radius = |t: f32| shape.radius * (1.0 + (shape.taper - 1.0) * t);
            let bones = shares
                .iter()
                .map(|share| {
                    // The last half millimetre is the rounding of the tip.
                    let long = (shape.length + 0.07) * share * shot.pose.bend[i];
                    let next = at.add(pt(angle.sin(), angle.cos()).scale(long));
                    let bone =
                        Capsule { a: at, b: next, ra: radius(along), rb: radius(along + share) };
                    along += share;
                    angle += shape.curve - 0.35 * shot.pose.sway[i];
                    at = next;
                    bone
                })
                .collect();
            fingers.push(Finger::new(bones));
        }
        let thumb = &person.thumb;
        let angle = -(thumb.angle + shot.pose.thumb_open);
        let root = pt(-0.20 * w, thumb.root * h * 0.55);
        let joint = pt(-0.46 * w, thumb.root * h + 0.16);
        let long = thumb.length * shot.pose.bend[THUMB];
        let middle = joint.add(pt(angle.sin(), angle.cos()).scale(long * 0.52));
        let bent = angle + 0.22;
        let tip = middle.add(pt(bent.sin(), bent.cos()).scale(long * 0.48));
        let (r, t) = (thumb.radius, thumb.taper);
        fingers.push(Finger::new(vec![
            Capsule { a: root, b: joint, ra: r * 1.75, rb: r * 1.12 },
            Capsule { a: joint, b: middle, ra: r * 1.08, rb: r * 0.97 },
            Capsule { a: middle, b: tip, ra: r * 0.97, rb: r * t },
        ]));
        let inset = PALM_ROUND;
        let palm = vec![
            pt(-wrist + inset, 0.0),
            pt(-half + inset * 1.05, 0.42 * h),
            pt(-half + inset, knuckles[0].y - 0.02),
            pt(knuckles[1].x, knuckles[1].y),
            pt(knuckles[2].x, knuckles[2].y),
            pt(half - inset, knuckles[3].y - 0.02),
            pt(half - inset * 0.9, 0.35 * h),
            pt(wrist - inset, 0.0),
        ];
        let forearm =
            [pt(-wrist, 0.1), pt(wrist, 0.1), pt(wrist * 1.12, -3.0), pt(-wrist * 1.12, -3.0)];
        let (sin, cos) = (shot.pose.rotation.sin(), shot.pose.rotation.cos());
        Self {
            palm,
            forearm,
            fingers,
            // The back of a right hand, fingers up, has its thumb at the left of the picture.
            mirrored: (shot.side == Side::Left) != (shot.aspect == Aspect::Palmar),
            cos,
            sin,
            scale: shot.pose.scale,
            centre: pt(0.5 + shot.pose.shift[0], 0.5 + shot.pose.shift[1]),
            middle: pt(-0.04, 0.78),
        }
    }

    /// Picture coordinates (unit square, y down) to hand units.
    pub(super) fn to_hand(&self, p: Point) -> Point {
        let q = p.sub(self.centre).scale(1.0 / self.scale);
        let q = pt(q.x, -q.y);
        let q = pt(self.cos * q.x - self.sin * q.y, self.sin * q.x + self.cos * q.y);
        let q = if self.mirrored { pt(-q.x, q.y) } else { q };
        q.add(self.middle)
    }

    /// Hand units to picture coordinates.
    pub(super) fn to_picture(&self, p: Point) -> Point {
        let q = p.sub(self.middle);
        let q = if self.mirrored { pt(-q.x, q.y) } else { q };
        let q = pt(self.cos * q.x + self.sin * q.y, -self.sin * q.x + self.cos * q.y);
        pt(q.x, -q.y).scale(self.scale).add(self.centre)
    }

    /// Hand units to picture heights.
    pub(super) fn scale(&self) -> f32 {
        self.scale
    }

    /// A direction of the picture (y up) in the hand's own frame, for lighting.
    pub(super) fn mirrored(&self) -> bool {
        self.mirrored
    }

    /// The surface at a point.
    pub(super) fn hit(&self, p: Point) -> Hit {
        let palm = polygon(&self.palm, p) - PALM_ROUND;
        let forearm = if p.y < 0.3 { polygon(&self.forearm, p) } else { f32::MAX };
        let mut distance = if forearm < f32::MAX { blend(palm, forearm, 0.25) } else { palm };
        let mut height = plateau(-distance, 0.16) * 0.15;
        for (i, finger) in self.fingers.iter().enumerate() {
            if !finger.near(p) {
                continue;
            }
            for (b, bone) in finger.bones.iter().enumerate() {
                let (d, radius) = bone.distance(p);
                let k = if i == THUMB && b < 2 { 0.12 } else { 0.035 };
                // Fingers meet the palm softly and each other sharply.
                distance = if b == 0 || (i == THUMB && b == 1) {
                    blend(distance, d, k)
                } else {
                    distance.min(d)
                };
                if d < 0.0 {
                    let inside = (-d / radius).min(1.0);
                    let round = (inside * (2.0 - inside)).sqrt() * radius;
                    let sunk = if i == THUMB && b == 0 { 0.45 } else { 0.92 };
                    let lift = if b == 0 && i != THUMB { 0.02 } else { 0.0 };
                    height = smooth_max(height, round * sunk + lift, 0.04);
                }
            }
        }
        Hit { distance, height }
    }
}

impl Finger {
    fn new(bones: Vec<Capsule>) -> Self {
        let margin = 0.16 + bones.iter().map(|b| b.ra.max(b.rb)).fold(0.0, f32::max);
        let ends = || bones.iter().flat_map(|b| [b.a, b.b]);
        let edge =
            |f: fn(f32, f32) -> f32, from: f32, of: fn(Point) -> f32| ends().map(of).fold(from, f);
        let low = pt(
            edge(f32::min, f32::MAX, |p| p.x) - margin,
            edge(f32::min, f32::MAX, |p| p.y) - margin,
        );
        let high = pt(
            edge(f32::max, f32::MIN, |p| p.x) + margin,
            edge(f32::max, f32::MIN, |p| p.y) + margin,
        );
        Self { bones, low, high }
    }

    fn near(&self, p: Point) -> bool {
        p.x > self.low.x && p.x < self.high.x && p.y > self.low.y && p.y < self.high.y
    }

    /// A point `t` of the way along bone `bone`, `side` radii across.
    pub(super) fn at(&self, bone: usize, t: f32, side: f32) -> Point {
        let b = self.bones[bone];
        let axis = b.b.sub(b.a);
        let across = axis.across().scale(1.0 / axis.length().max(1e-6));
        let radius = b.ra + (b.rb - b.ra) * t;
        b.a.add(axis.scale(t)).add(across.scale(side * radius))
    }
}

fn plateau(depth: f32, over: f32) -> f32 {
    let t = (depth / over).clamp(0.0, 1.0);
    (t * (2.0 - t)).sqrt()
}

fn smooth_max(a: f32, b: f32, k: f32) -> f32 {
    -blend(-a, -b, k)
}
