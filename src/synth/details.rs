//! Everything drawn onto the skin or worn over it, placed in hand units.

use crate::domain::Aspect;

use super::figure::{Figure, THUMB};
use super::paint::{Ink, Layers};
use super::person::{Marks, Person};
use super::rng::floor;
use super::shape::{Point, bell, pt, sin_cos};
use super::shot::{Ring, Shot, WristBand};

/// The parts of a picture that its details are worked out from.
pub(super) struct Scene<'a> {
    pub(super) person: &'a Person,
    pub(super) shot: &'a Shot,
    pub(super) figure: &'a Figure,
    pub(super) marks: &'a Marks,
}

impl Scene<'_> {
    pub(super) fn draw(&self, layers: &mut Layers) {
        match self.shot.aspect {
            Aspect::Dorsal => {
                self.veins(layers);
                self.tendons_and_knuckles(layers);
                self.wrinkles(layers);
                self.nails(layers);
            }
            Aspect::Palmar => {
                self.mounds(layers);
                self.palm_lines(layers);
                self.joint_creases(layers);
            }
        }
        self.moles(layers);
        for ring in &self.shot.rings {
            self.ring(layers, ring);
        }
        if let Some(band) = &self.shot.wrist {
            self.wrist_band(layers, band);
        }
    }

    fn to_picture(&self, points: &[Point]) -> Vec<Point> {
        points.iter().map(|p| self.figure.to_picture(*p)).collect()
    }

    fn veins(&self, layers: &mut Layers) {
        for line in &self.marks.lines {
            let ink = Ink {
                dark: 0.18 * line.depth,
                relief: 0.012 * line.depth,
                tint: -0.55 * line.depth,
            };
            layers.stroke(
                &self.to_picture(&line.points),
                line.width * self.figure.scale() * 1.6,
                ink,
                false,
            );
        }
    }

    fn palm_lines(&self, layers: &mut Layers) {
        for line in &self.marks.lines {
            let ink = Ink {
                dark: 0.60 * line.depth,
                relief: -0.016 * line.depth,
                tint: 0.35 * line.depth,
            };
            layers.stroke(
                &self.to_picture(&line.points),
                line.width * self.figure.scale() * 1.35,
                ink,
                true,
            );
        }
    }

    fn tendons_and_knuckles(&self, layers: &mut Layers) {
        let s = self.figure.scale();
        for finger in &self.figure.fingers[..4] {
            let knuckle = finger.at(0, -0.04, 0.0);
            let wrist = pt(knuckle.x * 0.35, 0.1);
            let path: Vec<Point> = (0..=6).map(|i| wrist.lerp(knuckle, i as f32 / 6.0)).collect();
            let ridge = Ink { relief: 0.010, ..Ink::default() };
            layers.stroke(&self.to_picture(&path), 0.05 * s, ridge, true);
            let bump = Ink {
                dark: 0.22 * self.person.knuckle_tint,
                relief: 0.020,
                tint: 0.35 * self.person.knuckle_tint,
            };
            layers.blob(self.figure.to_picture(knuckle), 0.085 * s, bump);
        }
    }

    fn wrinkles(&self, layers: &mut Layers) {
        let s = self.figure.scale();
        for (f, finger) in self.figure.fingers.iter().enumerate() {
            let joints: &[usize] = if f == THUMB { &[2] } else { &[1, 2] };
            for (j, &bone) in joints.iter().enumerate() {
                let center = finger.at(bone, 0.0, 0.0);
                let patch = Ink {
                    dark: 0.45 * self.person.knuckle_tint,
                    tint: 0.3 * self.person.knuckle_tint,
                    relief: 0.008,
                };
                let radius = finger.bones[bone].ra;
                layers.blob(self.figure.to_picture(center), radius * 0.9 * s, patch);
                let strength = self.person.knuckle_strength * if j == 0 { 1.0 } else { 0.7 };
                for (k, offset) in self.marks.wrinkles[f][j].iter().enumerate() {
                    let t = (k as f32 - 1.5) * 0.115 + 0.045 * offset;
                    let bow = (k as f32 - 1.5) * 0.05;
                    let half = (0.62 - 0.10 * offset.abs()).max(0.3);
                    let path: Vec<Point> = (0..=6)
                        .map(|i| {
                            let v = (i as f32 / 3.0 - 1.0) * half;
                            finger.at(bone, t + bow * (1.0 - v * v), v)
                        })
                        .collect();
                    let ink =
                        Ink { dark: (0.42 + 0.12 * offset) * strength, relief: -0.010, tint: 0.1 };
                    layers.stroke(&self.to_picture(&path), 0.016 * s, ink, true);
                }
            }
        }
    }

    fn nails(&self, layers: &mut Layers) {
        let nail = self.person.nail;
        let polish = self.shot.polish;
        let skin = self.person.skin;
        let bed: [f32; 3] = std::array::from_fn(|c| {
            let pink = [0.86, 0.60, 0.52][c];
            ((0.45 * skin[c] + 0.55 * pink) * self.person.nail_tint[c]).min(1.0)
        });
        for (f, finger) in self.figure.fingers.iter().enumerate() {
            let bone = finger.bones[2];
            let radius = bone.rb;
            let long = radius * (1.0 + nail.length * 0.9);
            let axis = bone.b.sub(bone.a);
            let axis = axis.scale(1.0 / axis.length().max(1e-6));
            // The free edge ends near the fingertip's outline.
            let centre = bone.b.add(axis.scale(radius * (0.80 + 0.22 * nail.edge) - long));
            // A thumb lies on its side: its nail is seen from beside, towards the outer edge.
            let (side, share) = if f == THUMB { (-0.22, 0.88) } else { (0.0, 1.0) };
            let centre = centre.add(axis.across().scale(side * radius));
            let wide = radius * nail.width * share;
            let tip = self.figure.to_picture(centre.add(axis.scale(long)));
            let middle = self.figure.to_picture(centre);
            let rim = Ink { dark: 0.30, relief: -0.006, tint: 0.15 };
            layers.stroke(
                &self.to_picture(&[
                    centre.add(axis.scale(-long)).add(axis.across().scale(-wide * 0.7)),
                    centre.add(axis.scale(-long * 1.12)),
                    centre.add(axis.scale(-long)).add(axis.across().scale(wide * 0.7)),
                ]),
                0.018 * self.figure.scale(),
                rim,
                false,
            );
            layers.oval(
                middle,
                tip.sub(middle),
                wide * self.figure.scale(),
                nail.square,
                |u, v| {
                    let curve = 1.0 - 0.18 * v * v;
                    if let Some(paint) = polish {
                        return (paint.map(|c| c * curve), 0.97, 0.9);
                    }
                    // The white edge and the lunula, both bowed, with soft borders.
                    let white = ((u - 1.0 + 2.0 * nail.edge + 0.25 * v * v) * 5.0).clamp(0.0, 1.0);
                    let moon = ((2.0 * nail.lunula - 1.0 - u - 0.3 * v * v) * 5.0).clamp(0.0, 1.0);
                    let color: [f32; 3] = std::array::from_fn(|c| {
                        let nail = bed[c] + 0.35 * moon * (0.92 - bed[c]);
                        nail + 0.8 * white * ([0.90, 0.85, 0.79][c] - nail)
                    });
                    (color.map(|c| c * curve), 0.88, 0.55)
                },
            );
        }
    }

    fn mounds(&self, layers: &mut Layers) {
        let s = self.figure.scale();
        let (w, h) = (self.person.palm.width, self.person.palm.height);
        let soft = Ink { relief: 0.030, tint: 0.22, ..Ink::default() };
        layers.blob(self.figure.to_picture(pt(-0.27 * w, 0.30 * h)), 0.24 * s, soft);
        layers.blob(
            self.figure.to_picture(pt(0.30 * w, 0.32 * h)),
            0.20 * s,
            Ink { relief: 0.022, ..soft },
        );
        layers.blob(
            self.figure.to_picture(pt(0.02 * w, 0.46 * h)),
            0.20 * s,
            Ink { relief: -0.022, dark: 0.05, tint: 0.05 },
        );
        for finger in &self.figure.fingers {
            let tip = finger.at(2, 0.75, 0.0);
            let pad = Ink { relief: 0.010, tint: 0.45, ..Ink::default() };
            layers.blob(self.figure.to_picture(tip), finger.bones[2].rb * 0.95 * s, pad);
            let pad = Ink { relief: 0.012, tint: 0.15, ..Ink::default() };
            layers.blob(self.figure.to_picture(finger.at(0, -0.05, 0.0)), 0.085 * s, pad);
        }
    }

    fn joint_creases(&self, layers: &mut Layers) {
        let s = self.figure.scale();
        for (f, finger) in self.figure.fingers.iter().enumerate() {
            let joints: &[(usize, f32)] =
                if f == THUMB { &[(1, 0.12), (2, 0.0)] } else { &[(0, 0.22), (1, 0.0), (2, 0.0)] };
            for (j, &(bone, t)) in joints.iter().enumerate() {
                let marks = self.marks.wrinkles[f][j.min(1)];
                let lines = if marks[0] > 0.3 && bone == 1 { 2 } else { 1 };
                for k in 0..lines {
                    let at = t + k as f32 * 0.14 + 0.035 * marks[1 + k];
                    let bow = 0.03 * marks[3];
                    let path: Vec<Point> = (0..=6)
                        .map(|i| {
                            let v = i as f32 / 3.0 - 1.0;
                            finger.at(bone, at + bow * (1.0 - v * v), v * 0.93)
                        })
                        .collect();
                    let depth =
                        self.person.crease_strength * (0.62 + 0.12 * marks[2]).clamp(0.3, 0.9);
                    let ink = Ink { dark: 0.62 * depth, relief: -0.016, tint: 0.3 };
                    layers.stroke(&self.to_picture(&path), 0.021 * s, ink, false);
                }
            }
        }
        // Bracelet lines of the wrist.
        let wrist = self.person.palm.wrist / 2.0;
        for k in 0..2 {
            let y = -0.03 - 0.06 * k as f32 + 0.01 * self.marks.wrinkles[THUMB][1][k];
            let path: Vec<Point> = (0..=6)
                .map(|i| {
                    let v = i as f32 / 3.0 - 1.0;
                    pt(v * wrist * 0.85, y + 0.02 * (1.0 - v * v))
                })
                .collect();
            let ink = Ink { dark: 0.3 * self.person.crease_strength, relief: -0.01, tint: 0.1 };
            layers.stroke(&self.to_picture(&path), 0.018 * s, ink, true);
        }
    }

    fn moles(&self, layers: &mut Layers) {
        for mole in &self.marks.moles {
            let ink = Ink { dark: mole.depth, relief: 0.004, tint: 0.15 };
            layers.dot(self.figure.to_picture(mole.at), mole.radius * self.figure.scale(), ink);
        }
    }

    fn ring(&self, layers: &mut Layers, ring: &Ring) {
        let finger = &self.figure.fingers[ring.finger];
        let s = self.figure.scale();
        let ends = [finger.at(0, ring.at, -1.03), finger.at(0, ring.at, 1.03)];
        let shadow = [finger.at(0, ring.at - 0.06, -0.95), finger.at(0, ring.at - 0.06, 0.95)];
        layers.stroke(
            &self.to_picture(&shadow),
            ring.height * s,
            Ink { dark: 0.4, ..Ink::default() },
            false,
        );
        let metal = ring.metal;
        let [a, b] = [self.figure.to_picture(ends[0]), self.figure.to_picture(ends[1])];
        layers.band(a, b, ring.height * s, |u, v| {
            let round = 1.0 - 0.75 * square(2.0 * u - 1.0);
            let off = (u - 0.36) / 0.10;
            let glint = bell(off * off) * 0.7;
            let edge = 1.0 - 0.45 * square(v * v);
            (metal.map(|c| (c * (0.35 + 0.85 * round) * edge + glint).min(1.0)), 0.9)
        });
        if let Some(stone) = ring.stone {
            let centre = a.lerp(b, 0.5);
            let axis = b.sub(a).across().scale(0.36);
            layers.oval(centre, axis, ring.height * s * 0.8, 0.0, |u, v| {
                let facet = 0.7 + 0.4 * ((floor(u * 3.0) + floor(v * 3.0)) & 1) as f32;
                (stone.map(|c| (c * facet).min(1.0)), 1.0, 1.0)
            });
        }
    }

    fn wrist_band(&self, layers: &mut Layers, band: &WristBand) {
        let s = self.figure.scale();
        let half = self.person.palm.wrist / 2.0 * 1.05;
        let y = -0.10;
        let [a, b] = [self.figure.to_picture(pt(-half, y)), self.figure.to_picture(pt(half, y))];
        let below =
            self.to_picture(&[pt(-half, y - band.height * 0.6), pt(half, y - band.height * 0.6)]);
        layers.stroke(&below, 0.04 * s, Ink { dark: 0.35, ..Ink::default() }, false);
        let (color, beads) = (band.color, band.beads && !band.watch);
        layers.band(a, b, band.height * s, |u, v| {
            let round = 1.0 - 0.7 * square(2.0 * u - 1.0);
            let bead =
                if beads { 0.65 + 0.35 * sin_cos(u * 60.0).0 } else { 1.0 - 0.3 * square(v * v) };
            (color.map(|c| c * (0.4 + 0.75 * round) * bead), 0.6)
        });
        if band.watch && self.shot.aspect == Aspect::Dorsal {
            let centre = a.lerp(b, 0.5);
            let axis = b.sub(a).across().scale(1.0 / b.sub(a).length().max(1e-6));
            let r = 0.15 * s;
            layers.oval(centre, axis.scale(r), r, 0.0, |u, v| {
                let rim = (u * u + v * v).sqrt();
                let hand = (v.abs() < 0.09 && (0.0..0.7).contains(&u))
                    || (u.abs() < 0.09 && (0.0..0.5).contains(&v));
                let color = if rim > 0.82 {
                    [0.75, 0.74, 0.72]
                } else if hand {
                    [0.05; 3]
                } else {
                    [0.93; 3]
                };
                (color, 1.0, 0.8)
            });
        }
    }
}

fn square(x: f32) -> f32 {
    x * x
}
