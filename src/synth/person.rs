use crate::domain::{Aspect, Side};

use super::rng::Stream;
use super::shape::{Point, pt, sin_cos};

/// What stays the same over all pictures of a person. Lengths are in hand units: the palm of an
/// average hand is about 1 high and 0.85 wide.
#[derive(Debug, Clone)]
pub struct Person {
    /// The seed and number that the person was drawn from.
    pub(super) key: (u64, u64),
    /// Years.
    pub age: u32,
    /// As in 11k Hands: `male` or `female`.
    pub gender: &'static str,
    /// As in 11k Hands: `very fair`, `fair`, `medium` or `dark`.
    pub skin_color: &'static str,
    /// Linear RGB of the back of the hand.
    pub(super) skin: [f32; 3],
    /// Linear RGB of the palm.
    pub(super) palm_skin: [f32; 3],
    pub(super) nail_tint: [f32; 3],
    pub(super) palm: PalmShape,
    /// Index, middle, ring, little.
    pub(super) fingers: [FingerShape; 4],
    pub(super) thumb: ThumbShape,
    pub(super) nail: NailShape,
    pub(super) knuckle_strength: f32,
    pub(super) knuckle_tint: f32,
    pub(super) vein_strength: f32,
    pub(super) crease_strength: f32,
    pub(super) freckles: f32,
    pub(super) mottle: f32,
}

#[derive(Debug, Clone)]
pub(super) struct PalmShape {
    pub(super) width: f32,
    pub(super) height: f32,
    pub(super) wrist: f32,
    /// How far the little finger's base lies below the middle finger's.
    pub(super) slope: f32,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct FingerShape {
    pub(super) length: f32,
    /// Half width at the base.
    pub(super) radius: f32,
    /// Width at the tip as a share of the base.
    pub(super) taper: f32,
    /// Shares of the length of the first and second phalanx.
    pub(super) phalanges: [f32; 2],
    /// Sideways curve of the finger, radians a joint.
    pub(super) curve: f32,
    /// How much thinner it is between joints, as a share of the radius.
    pub(super) waist: f32,
}

#[derive(Debug, Clone)]
pub(super) struct ThumbShape {
    pub(super) length: f32,
    pub(super) radius: f32,
    pub(super) taper: f32,
    /// Resting angle from the hand's axis, radians.
    pub(super) angle: f32,
    /// Height of its root on the palm.
    pub(super) root: f32,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct NailShape {
    pub(super) length: f32,
    pub(super) width: f32,
    /// 0 is an ellipse, 1 nearly a rectangle.
    pub(super) square: f32,
    /// White edge as a share of the nail.
    pub(super) edge: f32,
    pub(super) lunula: f32,
}

/// A line on the skin in hand units.
#[derive(Debug, Clone)]
pub(super) struct Line {
    pub(super) points: Vec<Point>,
    pub(super) width: f32,
    pub(super) depth: f32,
}

/// A dot on the skin in hand units.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mole {
    pub(super) at: Point,
    pub(super) radius: f32,
    pub(super) depth: f32,
}

/// What is drawn on one surface of one hand of a person.
#[derive(Debug, Clone)]
pub(super) struct Marks {
    /// Palm creases, or veins on the back.
    pub(super) lines: Vec<Line>,
    pub(super) moles: Vec<Mole>,
    /// Offsets and strengths of the wrinkles over each finger joint `[finger][joint]`.
    pub(super) wrinkles: [[[f32; 4]; 2]; 5],
}

impl Person {
    /// Draws person number `index` of the population named by `seed`.
    #[must_use]
    pub fn new(seed: u64, index: u64) -> Self {
        let r = &mut Stream::new(&[seed, index, 1]);
        let age = (18.0 + r.range(0.0, 1.0) * r.range(0.0, 1.0) * 57.0) as u32;
        let male = r.chance(0.5);

        let tone = r.range(0.0, 1.0);
        let warm = r.normal();
        let rich = r.normal();
        // Along the curve of human skin from dark to fair, then off it: redder or yellower, duller or richer.
        let along = |dark: f32, mid: f32, fair: f32| {
            if tone < 0.5 {
                dark + (mid - dark) * tone * 2.0
            } else {
                mid + (fair - mid) * (tone * 2.0 - 1.0)
            }
        };
        let mut skin =
            [along(0.16, 0.50, 0.84), along(0.085, 0.29, 0.62), along(0.055, 0.17, 0.50)];
        skin[0] *= 1.0 + 0.045 * warm;
        skin[1] *= 1.0 - 0.055 * warm - 0.035 * rich;
        skin[2] *= 1.0 - 0.025 * warm - 0.16 * rich;
        let palm_light = 0.30 + 0.08 * r.normal();
        let pink = [0.80, 0.46, 0.37];
        let palm_pink = (0.28 + 0.13 * r.normal()).clamp(0.0, 0.6);
        let palm_skin = std::array::from_fn(|c| {
            let lighter = skin[c] + (1.0 - tone) * palm_light * (pink[c] - skin[c]);
            lighter + palm_pink * (pink[c] * (0.55 + 0.6 * tone) - lighter)
        });
        let nail_warm = r.normal();
        let nail_tint = [1.10 + 0.05 * nail_warm, 0.98 - 0.06 * nail_warm, 1.02];

        let width = (if male { 0.90 } else { 0.82 }) * (1.0 + 0.10 * r.normal());
        let palm = PalmShape {
            width,
            height: 1.0 + 0.06 * r.normal(),
            wrist: width * (0.66 + 0.045 * r.normal()),
            slope: 0.15 + 0.035 * r.normal(),
        };
        let long = 1.0 + 0.08 * r.normal();
        let thick = (1.0 + 0.10 * r.normal()) * if male { 1.05 } else { 0.95 };
        let taper = 0.76 + 0.07 * r.normal();
        let waist = Stream::new(&[seed, index, 4]).range(0.03, 0.14);
        let base = [(0.76, 0.106), (0.86, 0.108), (0.80, 0.102), (0.62, 0.090)];
        let fingers = base.map(|(length, radius)| FingerShape {
            length: length * long * (1.0 + 0.08 * r.normal()),
            radius: radius * thick * (1.0 + 0.06 * r.normal()),
            taper: (taper + 0.02 * r.normal()).clamp(0.5, 0.98),
            phalanges: [0.44 + 0.02 * r.normal(), 0.30 + 0.015 * r.normal()],
            curve: 0.035 * r.normal(),
            waist,
        });
        let thumb = ThumbShape {
            length: 0.66 * long * (1.0 + 0.08 * r.normal()),
            radius: 0.122 * thick * (1.0 + 0.06 * r.normal()),
            taper: (0.80 + 0.06 * r.normal()).clamp(0.6, 0.98),
            angle: 0.72 + 0.13 * r.normal(),
            root: 0.30 + 0.05 * r.normal(),
        };
        let nail = NailShape {
            length: 0.50 + 0.10 * r.normal(),
            width: (0.72 + 0.07 * r.normal()).clamp(0.5, 0.92),
            square: r.range(0.0, 1.0),
            edge: (0.12 + 0.10 * r.normal()).clamp(0.0, 0.4),
            lunula: r.range(0.0, 0.22),
        };
        Self {
            key: (seed, index),
            age,
            gender: if male { "male" } else { "female" },
            skin_color: match tone {
                t if t < 0.22 => "dark",
                t if t < 0.5 => "medium",
                t if t < 0.8 => "fair",
                _ => "very fair",
            },
            skin: skin.map(|c| c.clamp(0.02, 0.95)),
            palm_skin,
            nail_tint,
            palm,
            fingers,
            thumb,
            nail,
            knuckle_strength: 0.30 + r.range(0.0, 0.5) + age as f32 * 0.003,
            knuckle_tint: r.range(0.0, 0.35),
            vein_strength: r.range(0.15, 1.15) * if male { 1.0 } else { 0.75 },
            crease_strength: r.range(0.6, 1.15),
            freckles: if r.chance(0.25) { r.range(0.3, 1.0) } else { 0.0 },
            mottle: r.range(0.2, 1.0),
        }
    }

    /// Numbers that describe one hand of the person, in a fixed order and in units of their own; not a
    /// number where the aspect does not show it. What telling people apart can be learnt from.
    #[must_use]
    pub fn traits(&self, aspect: Aspect, side: Side) -> Vec<f32> {
        let dorsal = aspect == Aspect::Dorsal;
        let shown = |on: bool, value: f32| if on { value } else { f32::NAN };
        let skin = if dorsal { self.skin } else { self.palm_skin };
        let (palm, thumb, nail) = (&self.palm, &self.thumb, &self.nail);
        let mut traits: Vec<f32> = skin.iter().map(|c| c.max(1e-3).ln()).collect();
        traits.extend([palm.width, palm.height, palm.wrist, palm.slope]);
        for finger in &self.fingers {
            traits.extend([finger.length, finger.radius, finger.taper, finger.curve]);
        }
        traits.extend([thumb.length, thumb.radius, thumb.taper, thumb.angle, thumb.root]);
        traits.extend([nail.length, nail.width, nail.edge].map(|v| shown(dorsal, v)));
        traits.extend([self.knuckle_strength, self.knuckle_tint].map(|v| shown(dorsal, v)));
        traits.extend([self.vein_strength, self.freckles].map(|v| shown(dorsal, v)));
        traits.push(shown(!dorsal, self.crease_strength));
        // Heart, head and life line: ends and two places between.
        let marks = self.marks(aspect, side);
        for line in 0..3 {
            let points = marks.lines.get(line).map_or(&[][..], |line| &line.points);
            for place in [0, 5, 9, 14] {
                let point = points.get(place).copied().unwrap_or(pt(0.0, 0.0));
                traits.extend([point.x, point.y].map(|v| shown(!dorsal, v)));
            }
        }
        traits
    }

    pub(super) fn marks(&self, aspect: Aspect, side: Side) -> Marks {
        let (seed, index) = self.key;
        let r = &mut Stream::new(&[seed, index, 2, aspect as u64, side as u64]);
        let lines = match aspect {
            Aspect::Palmar => self.creases(r),
            Aspect::Dorsal => self.veins(r),
        };
        let spots = match aspect {
            Aspect::Dorsal => 2 + r.below(5),
            Aspect::Palmar => 1 + r.below(4),
        };
        let moles = (0..spots)
            .map(|_| Mole {
                at: pt(
                    r.range(-0.45, 0.45) * self.palm.width,
                    r.range(0.08, 0.92) * self.palm.height,
                ),
                radius: r.range(0.016, 0.038),
                depth: r.range(0.4, 0.8),
            })
            .collect();
        let wrinkles =
            std::array::from_fn(|_| std::array::from_fn(|_| std::array::from_fn(|_| r.normal())));
        Marks { lines, moles, wrinkles }
    }

    /// Heart, head and life line, the line of fate where there is one, and minor lines.
    /// The thumb is at negative x.
    fn creases(&self, r: &mut Stream) -> Vec<Line> {
        let (w, h) = (self.palm.width, self.palm.height);
        let mut jitter =
            |x: f32, y: f32, s: f32| pt(x * w + s * w * r.normal(), y * h + s * h * r.normal());
        let mut curves = vec![
            // heart: from the little finger's edge up towards index or middle
            (
                [
                    jitter(0.47, 0.70, 0.05),
                    jitter(0.2, 0.64, 0.07),
                    jitter(-0.05, 0.68, 0.08),
                    jitter(-0.20, 0.86, 0.10),
                ],
                0.024,
                1.0,
            ),
            // head: from the thumb's edge across
            (
                [
                    jitter(-0.46, 0.66, 0.03),
                    jitter(-0.2, 0.62, 0.07),
                    jitter(0.1, 0.52, 0.08),
                    jitter(0.34, 0.42, 0.10),
                ],
                0.022,
                0.9,
            ),
            // life: round the ball of the thumb
            (
                [
                    jitter(-0.46, 0.67, 0.03),
                    jitter(-0.12, 0.60, 0.06),
                    jitter(-0.05, 0.28, 0.08),
                    jitter(-0.14, 0.02, 0.07),
                ],
                0.024,
                1.0,
            ),
        ];
        let fate = [
            jitter(0.02, 0.08, 0.05),
            jitter(0.05, 0.3, 0.05),
            jitter(0.0, 0.5, 0.05),
            jitter(0.0, 0.74, 0.06),
        ];
        if r.chance(0.55) {
            curves.push((fate, 0.016, 0.6));
        }
        for _ in 0..4 + r.below(6) {
            let at = pt(r.range(-0.42, 0.42) * w, r.range(0.1, 0.85) * h);
            let (angle, long) = (r.range(0.0, std::f32::consts::PI), r.range(0.10, 0.32));
            let (sin, cos) = sin_cos(angle);
            let along = pt(cos * long, sin * long);
            let bow = pt(-along.y, along.x).scale(0.3 * r.normal());
            let depth = r.range(0.3, 0.65);
            curves.push((
                [
                    at,
                    at.add(along.scale(0.33)).add(bow),
                    at.add(along.scale(0.66)).add(bow),
                    at.add(along),
                ],
                0.012,
                depth,
            ));
        }
        curves
            .into_iter()
            .map(|(c, width, depth)| Line {
                points: bezier(&c, 14),
                width: width * (1.0 + 0.15 * r.normal()),
                depth: depth * self.crease_strength,
            })
            .collect()
    }

    /// Veins of the back of the hand: branches that run from the wrist to between the knuckles.
    fn veins(&self, r: &mut Stream) -> Vec<Line> {
        let (w, h) = (self.palm.width, self.palm.height);
        let mut lines = Vec::new();
        for i in 0..3 + r.below(3) {
            let x = -0.34 + 0.2 * i as f32 + 0.07 * r.normal();
            let mid = pt((x * 0.6 + 0.1 * r.normal()) * w, r.range(0.35, 0.65) * h);
            let root = pt((x * 0.45 + 0.05 * r.normal()) * w, r.range(-0.05, 0.15) * h);
            let width = 0.026 * (1.0 + 0.2 * r.normal());
            let depth = self.vein_strength * r.range(0.5, 1.0);
            let bend = pt(0.06 * r.normal(), 0.0);
            let stem = [root, root.lerp(mid, 0.4).add(bend), root.lerp(mid, 0.7).add(bend), mid];
            lines.push(Line { points: bezier(&stem, 10), width, depth });
            for _ in 0..1 + r.below(2) {
                let tip = pt((x + 0.12 * r.normal()) * w, r.range(0.78, 0.98) * h);
                let bend = pt(0.05 * r.normal(), 0.03 * r.normal());
                let branch = [mid, mid.lerp(tip, 0.3).add(bend), mid.lerp(tip, 0.7).add(bend), tip];
                lines.push(Line { points: bezier(&branch, 10), width: width * 0.8, depth });
            }
        }
        lines
    }
}

fn bezier(c: &[Point; 4], steps: usize) -> Vec<Point> {
    (0..=steps)
        .map(|i| {
            let t = i as f32 / steps as f32;
            let u = 1.0 - t;
            c[0].scale(u * u * u)
                .add(c[1].scale(3.0 * u * u * t))
                .add(c[2].scale(3.0 * u * t * t))
                .add(c[3].scale(t * t * t))
        })
        .collect()
}
