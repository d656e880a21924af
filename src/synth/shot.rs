use crate::domain::{Aspect, HandAttributes, Side};

use super::person::Person;
use super::rng::Stream;
use super::shape::sin_cos;

/// What differs from picture to picture of one hand.
#[derive(Debug, Clone)]
pub struct Shot {
    /// Surface shown.
    pub aspect: Aspect,
    /// Hand shown.
    pub side: Side,
    /// Number of the picture among those of this hand.
    pub index: u64,
    /// Rings, by finger (0 index to 3 little).
    pub(super) rings: Vec<Ring>,
    pub(super) wrist: Option<WristBand>,
    pub(super) polish: Option<[f32; 3]>,
    pub(super) sleeve: Option<Sleeve>,
    pub(super) pose: Pose,
    pub(super) light: Light,
    pub(super) background: Background,
    pub(super) blur: f32,
    pub(super) noise: f32,
    pub(super) noise_seed: u64,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Ring {
    pub(super) finger: usize,
    pub(super) at: f32,
    pub(super) height: f32,
    pub(super) metal: [f32; 3],
    pub(super) stone: Option<[f32; 3]>,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct WristBand {
    pub(super) color: [f32; 3],
    pub(super) height: f32,
    pub(super) watch: bool,
    pub(super) beads: bool,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Sleeve {
    pub(super) color: [f32; 3],
    pub(super) stripes: Option<[f32; 3]>,
    /// Height of the hem in hand units, below the wrist.
    pub(super) hem: f32,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Pose {
    pub(super) spread: f32,
    pub(super) bend: [f32; 5],
    pub(super) sway: [f32; 5],
    pub(super) thumb_open: f32,
    pub(super) rotation: f32,
    /// Hand units to picture heights.
    pub(super) scale: f32,
    pub(super) shift: [f32; 2],
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Light {
    pub(super) direction: [f32; 3],
    pub(super) ambient: f32,
    pub(super) color: [f32; 3],
    pub(super) shadow: f32,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Background {
    pub(super) color: [f32; 3],
    pub(super) slope: [f32; 2],
    pub(super) grain: f32,
}

const GOLD: [f32; 3] = [0.80, 0.55, 0.16];
const SILVER: [f32; 3] = [0.72, 0.74, 0.78];
const ROSE: [f32; 3] = [0.75, 0.42, 0.32];

impl Shot {
    /// Draws picture number `index` of one surface of one hand of `person`.
    #[must_use]
    pub fn draw(person: &Person, aspect: Aspect, side: Side, index: u64) -> Self {
        let (seed, who) = person.key;
        let r = &mut Stream::new(&[seed, who, 3, aspect as u64, side as u64, index]);
        let metal = |r: &mut Stream| [GOLD, SILVER, GOLD, SILVER, ROSE][r.below(5)];
        let color = |r: &mut Stream| {
            let dark = r.range(0.05, 0.8);
            [dark * r.range(0.15, 1.0), dark * r.range(0.15, 1.0), dark * r.range(0.15, 1.0)]
        };

        let mut rings = Vec::new();
        let mut wrist = None;
        if r.chance(0.38) {
            let worn = r.below(4);
            if worn != 3 {
                for _ in 0..1 + r.below(2) {
                    let finger = [2, 2, 1, 0, 3][r.below(5)];
                    let stone = (aspect == Aspect::Dorsal && r.chance(0.4))
                        .then(|| [r.range(0.1, 0.9), r.range(0.1, 0.9), r.range(0.3, 0.95)]);
                    rings.push(Ring {
                        finger,
                        at: r.range(0.42, 0.56),
                        height: r.range(0.050, 0.085),
                        metal: metal(r),
                        stone,
                    });
                }
            }
            if worn == 3 || r.chance(0.3) {
                let watch = r.chance(0.5);
                wrist = Some(WristBand {
                    color: if r.chance(0.5) { metal(r) } else { color(r) },
                    height: r.range(0.05, 0.10) + if watch { 0.03 } else { 0.0 },
                    watch,
                    beads: r.chance(0.4),
                });
            }
        }
        let polish = (aspect == Aspect::Dorsal && person.gender == "female" && r.chance(0.2))
            .then(|| [r.range(0.2, 0.9), r.range(0.02, 0.35), r.range(0.05, 0.6)]);
        let sleeve = r.chance(0.35).then(|| Sleeve {
            color: color(r),
            stripes: r.chance(0.3).then(|| color(r)),
            hem: if wrist.is_some() { -0.26 } else { -r.range(0.02, 0.22) },
        });
        let loose = r.chance(0.06);
        let pose = Pose {
            spread: 0.05 + r.range(0.0, 0.09),
            bend: std::array::from_fn(|_| 1.0 - 0.02 * r.normal().abs()),
            sway: std::array::from_fn(|_| 0.018 * r.normal()),
            thumb_open: 0.06 * r.normal(),
            rotation: if loose { r.range(-0.4, 0.4) } else { 0.05 * r.normal() },
            scale: 0.43 * (1.0 + 0.025 * r.normal()),
            shift: [0.014 * r.normal(), 0.012 * r.normal()],
        };
        let turn = r.range(0.0, std::f32::consts::TAU);
        let (sin, cos) = sin_cos(turn);
        let slant = r.range(0.25, 0.75);
        let bright = 1.0 + 0.04 * r.normal();
        let warm = 0.02 * r.normal();
        let light = Light {
            direction: unit([cos * slant, sin.abs() * slant + 0.15, 1.0]),
            ambient: r.range(0.42, 0.62),
            color: [bright * (1.0 + warm), bright, bright * (1.0 - warm)],
            shadow: r.range(0.05, 0.4),
        };
        let background = match r.below(10) {
            0 => {
                let c = color(r);
                Background { color: c.map(|v| 0.25 + 0.6 * v), slope: [0.0, 0.0], grain: 0.03 }
            }
            1 | 2 => {
                let g = r.range(0.35, 0.8);
                Background {
                    color: [g, g, g * r.range(0.92, 1.05)],
                    slope: [0.1, 0.1],
                    grain: 0.02,
                }
            }
            _ => {
                let g = r.range(0.86, 1.0);
                Background {
                    color: [g * r.range(0.97, 1.0), g, g * r.range(0.97, 1.0)],
                    slope: [0.05 * r.normal(), 0.05 * r.normal()],
                    grain: 0.006,
                }
            }
        };
        Self {
            aspect,
            side,
            index,
            rings,
            wrist,
            polish,
            sleeve,
            pose,
            light,
            background,
            blur: if r.chance(0.25) { r.range(0.001, 0.004) } else { 0.0 },
            noise: r.range(0.0, 0.02),
            noise_seed: index ^ who.rotate_left(20) ^ seed.rotate_left(40),
        }
    }

    /// Whether jewellery is worn: a ring, a bracelet or a watch. Polish and sleeves do not count.
    #[must_use]
    pub fn accessories(&self) -> bool {
        !self.rings.is_empty() || self.wrist.is_some()
    }

    /// Whether a ring is worn.
    #[must_use]
    pub fn ring(&self) -> bool {
        !self.rings.is_empty()
    }

    /// Whether a bracelet is worn.
    #[must_use]
    pub fn bracelet(&self) -> bool {
        self.wrist.is_some_and(|band| !band.watch)
    }

    /// Whether a watch is worn.
    #[must_use]
    pub fn watch(&self) -> bool {
        self.wrist.is_some_and(|band| band.watch)
    }

    /// Whether a sleeve is in the picture.
    #[must_use]
    pub fn sleeved(&self) -> bool {
        self.sleeve.is_some()
    }

    /// Whether the nails are painted.
    #[must_use]
    pub fn nail_polish(&self) -> bool {
        self.polish.is_some()
    }

    /// The same picture without jewellery.
    #[must_use]
    pub fn bare(mut self) -> Self {
        self.rings.clear();
        self.wrist = None;
        self
    }

    /// What a label file would say of the picture.
    #[must_use]
    pub fn attributes(&self) -> HandAttributes {
        HandAttributes {
            aspect: Some(self.aspect),
            side: Some(self.side),
            accessories: Some(self.accessories()),
            ..HandAttributes::default()
        }
    }
}

fn unit(v: [f32; 3]) -> [f32; 3] {
    let length = (v[0] * v[0] + v[1] * v[1] + v[2] * v[2]).sqrt();
    v.map(|c| c / length)
}
