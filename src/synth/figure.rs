use crate::domain::{Aspect, Side};

use super::person::Person;
use super::shape::{Capsule, Outline, Point, blend, pt, sin_cos};
use super::shot::Shot;

/// A posed finger: three phalanges (the thumb two and its root), base first.
pub(super) struct Finger {
    pub(super) bones: Vec<Capsule>,
}

/// A posed hand in hand units, the thumb at negative x, and its place in the picture.
pub(super) struct Figure {
    palm: Outline,
    forearm: Outline,
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
/// The distance, in hand units, given for whatever lies beyond [`REACH`].
const FAR: f32 = 4.0;
/// How far from the outline distances are still told: the table's shadow needs them.
const REACH: f32 = 0.2;

/// The parts of a figure that can matter in a block of pixels.
#[derive(Default)]
pub(super) struct Nearby {
    palm: Option<Outline>,
    forearm: Option<Outline>,
    /// Finger and bone.
    bones: Vec<(usize, usize)>,
}

impl Nearby {
    fn is_empty(&self) -> bool {
        self.palm.is_none() && self.forearm.is_none() && self.bones.is_empty()
    }
}

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
        // Knuckles of index, middle, ring and little: the outer two flush with the palm's sides.
        let radii = person.fingers.map(|finger| finger.radius);
        let (first, last) = (-half + radii[0] * 0.96, half - radii[3] * 0.96);
        let pairs = [radii[0] + radii[1], radii[1] + radii[2], radii[2] + radii[3]];
        let step = (last - first) / (pairs[0] + pairs[1] + pairs[2]);
        let second = first + pairs[0] * step;
        let across = [first, second, second + pairs[1] * step, last];
        let drop = [0.045, 0.0, 0.035, slope];
        let mut fingers = Vec::with_capacity(5);
        let mut knuckles = Vec::with_capacity(4);
        for i in 0..4 {
            let shape = person.fingers[i];
            let base = pt(across[i], h - drop[i] - 0.07);
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
                    let next = at.add(ahead(angle).scale(long));
                    let bone = Capsule {
                        a: at,
                        b: next,
                        ra: radius(along),
                        rb: radius(along + share),
                        waist: shape.waist * shape.radius,
                    };
                    along += share;
                    angle += shape.curve - 0.35 * shot.pose.sway[i];
                    at = next;
                    bone
                })
                .collect();
            fingers.push(Finger { bones });
        }
        let thumb = &person.thumb;
        let angle = -(thumb.angle + shot.pose.thumb_open);
        let root = pt(-0.20 * w, thumb.root * h * 0.55);
        let joint = pt(-0.46 * w, thumb.root * h + 0.16);
        let long = thumb.length * shot.pose.bend[THUMB];
        let middle = joint.add(ahead(angle).scale(long * 0.52));
        let tip = middle.add(ahead(angle + 0.22).scale(long * 0.48));
        let (r, t) = (thumb.radius, thumb.taper);
        let waist = 0.06 * r;
        fingers.push(Finger {
            bones: vec![
                Capsule { a: root, b: joint, ra: r * 1.75, rb: r * 1.12, waist: 0.0 },
                Capsule { a: joint, b: middle, ra: r * 1.08, rb: r * 0.97, waist },
                Capsule { a: middle, b: tip, ra: r * 0.97, rb: r * t, waist: 0.0 },
            ],
        });
        let inset = PALM_ROUND;
        let palm = [
            pt(-wrist + inset, -0.06),
            pt(-half + inset * 1.3, 0.36 * h),
            pt(-half + inset, knuckles[0].y - 0.2),
            pt(-half + inset, knuckles[0].y + 0.02),
            pt(knuckles[1].x, knuckles[1].y + 0.005),
            pt(knuckles[2].x, knuckles[2].y + 0.005),
            pt(half - inset, knuckles[3].y + 0.02),
            pt(half - inset * 0.75, knuckles[3].y - 0.2),
            pt(half - inset * 0.75, 0.30 * h),
            pt(wrist - inset, -0.06),
        ];
        let forearm =
            [pt(-wrist, 0.1), pt(wrist, 0.1), pt(wrist * 1.12, -3.0), pt(-wrist * 1.12, -3.0)];
        let (sin, cos) = sin_cos(shot.pose.rotation);
        Self {
            palm: Outline::rounded(&palm, 1),
            forearm: Outline::new(&forearm),
            fingers,
            // The back of a right hand, fingers up, has its thumb at the left of the picture.
            mirrored: (shot.side == Side::Left) != (shot.aspect == Aspect::Palmar),
            cos,
            sin,
            scale: shot.pose.scale,
            centre: pt(0.5 + shot.pose.shift[0], 0.5 + shot.pose.shift[1]),
            middle: pt(-0.04, 0.84),
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

    /// Lists the parts that lie within [`REACH`] of what is within `around` of a point.
    pub(super) fn nearby(&self, p: Point, around: f32, near: &mut Nearby) {
        let reach = around + REACH;
        let mut part = near.palm.take().unwrap_or_default();
        near.palm = (self.palm.cut(p, around, &mut part) - PALM_ROUND < reach).then_some(part);
        let mut part = near.forearm.take().unwrap_or_default();
        near.forearm =
            (p.y < 0.3 + around && self.forearm.cut(p, around, &mut part) < reach).then_some(part);
        near.bones.clear();
        for (f, finger) in self.fingers.iter().enumerate() {
            for (b, bone) in finger.bones.iter().enumerate() {
                if bone.distance(p).0 < reach {
                    near.bones.push((f, b));
                }
            }
        }
    }

    /// The surface at a point, of the parts that are near.
    pub(super) fn hit(&self, p: Point, near: &Nearby) -> Hit {
        if near.is_empty() {
            return Hit { distance: FAR, height: 0.0 };
        }
        let mut distance = FAR;
        if let Some(palm) = &near.palm {
            distance = palm.distance(p) - PALM_ROUND;
        }
        if let Some(forearm) = near.forearm.as_ref().filter(|_| p.y < 0.3) {
            distance = blend(distance, forearm.distance(p), 0.25);
        }
        // Palm and ball of the thumb as one, for the height of the web between them.
        let mut body = distance;
        let mut height = plateau(-distance, 0.16) * 0.15;
        for &(f, b) in &near.bones {
            let (d, radius) = self.fingers[f].bones[b].distance(p);
            // Fingers meet the palm softly and each other sharply.
            distance = match (f == THUMB, b) {
                (true, 0 | 1) => blend(distance, d, 0.12),
                (false, 0) => blend(distance, d, 0.035),
                _ => distance.min(d),
            };
            if d < 0.0 {
                let inside = (-d / radius).min(1.0);
                let round = (inside * (2.0 - inside)).sqrt() * radius;
                let sunk = if f == THUMB && b == 0 { 0.45 } else { 0.92 };
                let lift = if b == 0 && f != THUMB { 0.02 } else { 0.0 };
                height = smooth_max(height, round * sunk + lift, 0.04);
            }
            if f == THUMB && b < 2 {
                body = blend(body, d, 0.12);
            }
        }
        height = height.max(plateau(-body, 0.16) * 0.13);
        Hit { distance, height }
    }
}

impl Finger {
    /// A point `t` of the way along bone `bone`, `side` radii across.
    pub(super) fn at(&self, bone: usize, t: f32, side: f32) -> Point {
        let b = self.bones[bone];
        let axis = b.b.sub(b.a);
        let across = axis.across().scale(1.0 / axis.length().max(1e-6));
        let radius = b.radius(t.clamp(0.0, 1.0));
        b.a.add(axis.scale(t)).add(across.scale(side * radius))
    }
}

/// The direction at an angle from the hand's axis.
fn ahead(angle: f32) -> Point {
    let (sin, cos) = sin_cos(angle);
    pt(sin, cos)
}

fn plateau(depth: f32, over: f32) -> f32 {
    let t = (depth / over).clamp(0.0, 1.0);
    (t * (2.0 - t)).sqrt()
}

fn smooth_max(a: f32, b: f32, k: f32) -> f32 {
    -blend(-a, -b, k)
}
