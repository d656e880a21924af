//! What goes wrong with pictures of hands in the field, drawn on clean ones: how much recognition loses
//! to it is measured with these.
//!
//! In the spirit of ImageNet-C (Hendrycks and Dietterich, 2019): kinds in families, five severities each, here
//! for hands on a plain background. Lengths are shares of the picture's longer side, so that a severity means
//! the same in small and large pictures. What is random (a direction, a place, a colour) follows from the
//! seed and is the same in all severities.

mod blur;
mod compression;
mod hand;
mod light;
mod noise;
mod occlusion;
mod pose;

use std::fmt;
use std::str::FromStr;

use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use super::{ImageError, Picture};

/// A kind of damage to a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Corruption {
    /// Exposed too long or too short.
    Brightness,
    /// Drawn towards the mean luma.
    Contrast,
    /// Middle tones raised or lowered.
    Gamma,
    /// Light warmer or colder than the camera took it for.
    ColourTemperature,
    /// The edge of a shadow across the hand.
    CastShadow,
    /// Turned about the middle.
    Rotation,
    /// Nearer or farther.
    Scale,
    /// Moved so that the fingers' ends are out of the picture.
    FingerCrop,
    /// Blur of a bell's shape.
    GaussianBlur,
    /// Blur along a line.
    MotionBlur,
    /// Blur of a disk's shape.
    DefocusBlur,
    /// Noise of equal strength everywhere.
    GaussianNoise,
    /// Noise of few photons: its variance grows with the light.
    ShotNoise,
    /// Sent through a JPEG of low quality.
    Jpeg,
    /// Large square pixels.
    Pixelate,
    /// Rings on fingers.
    Rings,
    /// A band around the wrist.
    Bracelet,
    /// Cloth from the wrist's side.
    Sleeve,
    /// A plain patch on the hand.
    Patch,
}

/// What kinds of damage have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Family {
    /// How the hand is lit.
    Light,
    /// Where the hand is.
    Pose,
    /// Sharpness.
    Blur,
    /// Grain.
    Noise,
    /// What storing and sending does.
    Compression,
    /// What is worn or lies on the hand.
    Occlusion,
}

/// A name that is no kind of damage.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a corruption: use {all}", all = Corruption::ALL.map(Corruption::as_str).join(", "))]
pub struct UnknownCorruption(pub String);

/// A number that is no severity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not a severity: use 1 to {max}", max = Severity::MAX)]
pub struct UnknownSeverity(pub u8);

/// How bad the damage is: 1 is mild, 5 severe, yet a person still sees a hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Severity(u8);

impl Severity {
    /// The worst.
    pub const MAX: u8 = 5;
    /// From mild to severe.
    pub const ALL: [Self; Self::MAX as usize] = [Self(1), Self(2), Self(3), Self(4), Self(5)];

    /// Takes 1 to [`Self::MAX`].
    ///
    /// # Errors
    /// [`UnknownSeverity`].
    pub fn new(severity: u8) -> Result<Self, UnknownSeverity> {
        let known = (1..=Self::MAX).contains(&severity);
        if known { Ok(Self(severity)) } else { Err(UnknownSeverity(severity)) }
    }

    /// 1 to [`Self::MAX`].
    #[must_use]
    pub fn get(self) -> u8 {
        self.0
    }

    /// The entry of a table of severities.
    fn of<T: Copy>(self, table: [T; Self::MAX as usize]) -> T {
        table[usize::from(self.0 - 1)]
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Corruption {
    /// All kinds, by family.
    pub const ALL: [Self; 19] = [
        Self::Brightness,
        Self::Contrast,
        Self::Gamma,
        Self::ColourTemperature,
        Self::CastShadow,
        Self::Rotation,
        Self::Scale,
        Self::FingerCrop,
        Self::GaussianBlur,
        Self::MotionBlur,
        Self::DefocusBlur,
        Self::GaussianNoise,
        Self::ShotNoise,
        Self::Jpeg,
        Self::Pixelate,
        Self::Rings,
        Self::Bracelet,
        Self::Sleeve,
        Self::Patch,
    ];

    /// Its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Brightness => "brightness",
            Self::Contrast => "contrast",
            Self::Gamma => "gamma",
            Self::ColourTemperature => "colour-temperature",
            Self::CastShadow => "cast-shadow",
            Self::Rotation => "rotation",
            Self::Scale => "scale",
            Self::FingerCrop => "finger-crop",
            Self::GaussianBlur => "gaussian-blur",
            Self::MotionBlur => "motion-blur",
            Self::DefocusBlur => "defocus-blur",
            Self::GaussianNoise => "gaussian-noise",
            Self::ShotNoise => "shot-noise",
            Self::Jpeg => "jpeg",
            Self::Pixelate => "pixelate",
            Self::Rings => "rings",
            Self::Bracelet => "bracelet",
            Self::Sleeve => "sleeve",
            Self::Patch => "patch",
        }
    }

    /// The family it belongs to.
    #[must_use]
    pub fn family(self) -> Family {
        match self {
            Self::Brightness
            | Self::Contrast
            | Self::Gamma
            | Self::ColourTemperature
            | Self::CastShadow => Family::Light,
            Self::Rotation | Self::Scale | Self::FingerCrop => Family::Pose,
            Self::GaussianBlur | Self::MotionBlur | Self::DefocusBlur => Family::Blur,
            Self::GaussianNoise | Self::ShotNoise => Family::Noise,
            Self::Jpeg | Self::Pixelate => Family::Compression,
            Self::Rings | Self::Bracelet | Self::Sleeve | Self::Patch => Family::Occlusion,
        }
    }
}

impl fmt::Display for Corruption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Corruption {
    type Err = UnknownCorruption;

    fn from_str(text: &str) -> Result<Self, UnknownCorruption> {
        let found = Self::ALL.into_iter().find(|kind| kind.as_str() == text);
        found.ok_or_else(|| UnknownCorruption(text.to_owned()))
    }
}

impl Family {
    /// Its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Light => "light",
            Self::Pose => "pose",
            Self::Blur => "blur",
            Self::Noise => "noise",
            Self::Compression => "compression",
            Self::Occlusion => "occlusion",
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The picture with the damage, of the same size. The same seed gives the same picture.
///
/// # Errors
/// Only for [`Corruption::Jpeg`]: what [`through_jpeg`](super::through_jpeg) refuses.
pub fn corrupt(
    picture: &Picture,
    corruption: Corruption,
    severity: Severity,
    seed: u64,
) -> Result<Picture, ImageError> {
    // Kinds draw apart from each other: else all of a picture's would lean to one side.
    let kind = (corruption as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let rng = &mut ChaCha8Rng::seed_from_u64(seed ^ kind);
    Ok(match corruption {
        Corruption::Brightness => light::brightness(picture, severity, rng),
        Corruption::Contrast => light::contrast(picture, severity),
        Corruption::Gamma => light::gamma(picture, severity, rng),
        Corruption::ColourTemperature => light::colour_temperature(picture, severity, rng),
        Corruption::CastShadow => light::cast_shadow(picture, severity, rng),
        Corruption::Rotation => pose::rotation(picture, severity, rng),
        Corruption::Scale => pose::scale(picture, severity, rng),
        Corruption::FingerCrop => pose::finger_crop(picture, severity),
        Corruption::GaussianBlur => blur::gaussian(picture, severity),
        Corruption::MotionBlur => blur::motion(picture, severity, rng),
        Corruption::DefocusBlur => blur::defocus(picture, severity),
        Corruption::GaussianNoise => noise::gaussian(picture, severity, rng),
        Corruption::ShotNoise => noise::shot(picture, severity, rng),
        Corruption::Jpeg => return compression::jpeg(picture, severity),
        Corruption::Pixelate => compression::pixelate(picture, severity),
        Corruption::Rings => occlusion::rings(picture, severity, rng),
        Corruption::Bracelet => occlusion::bracelet(picture, severity, rng),
        Corruption::Sleeve => occlusion::sleeve(picture, severity, rng),
        Corruption::Patch => occlusion::patch(picture, severity, rng),
    })
}

/// The longer side, in pixels.
fn longest(picture: &Picture) -> f32 {
    picture.width().max(picture.height()) as f32
}

/// Either direction, evenly.
fn either(rng: &mut ChaCha8Rng) -> f32 {
    use rand::Rng as _;
    if rng.random_bool(0.5) { 1.0 } else { -1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_severities_are_read_as_they_are_printed() {
        for kind in Corruption::ALL {
            assert_eq!(kind.to_string().parse(), Ok(kind));
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
        }
        let message = "fog".parse::<Corruption>().unwrap_err().to_string();
        assert!(message.contains("`fog`") && message.contains("finger-crop, gaussian-blur"));
        assert_eq!(Severity::ALL.map(Severity::get), [1, 2, 3, 4, 5]);
        assert_eq!([Severity::new(0), Severity::new(6)], [0, 6].map(|n| Err(UnknownSeverity(n))));
    }

    #[test]
    fn pictures_of_any_shape_are_taken() {
        for (width, height) in [(1, 1), (2, 1), (1, 40), (37, 3), (64, 48)] {
            let rgb = (0..width * height * 3).map(|i| (i * 37 % 256) as u8).collect();
            let picture = Picture::from_rgb(width, height, rgb).unwrap();
            for kind in Corruption::ALL {
                for severity in Severity::ALL {
                    let out = corrupt(&picture, kind, severity, 7).unwrap();
                    assert_eq!((out.width(), out.height()), (width, height), "{kind}");
                    assert_eq!(out.rgb().len(), picture.rgb().len(), "{kind}");
                }
            }
        }
    }
}
