use std::f64::consts::FRAC_PI_2;

use serde::{Deserialize, Serialize};

use crate::training::error::TrainingError;

use super::{UNIT, is_positive, is_share, must};

/// What is minimised: the weighted sum of those that are there.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Losses {
    /// Classification of hands behind a batch norm (BNNeck).
    pub cross_entropy: Option<CrossEntropy>,
    /// Batch-hard triplets.
    pub triplet: Option<Triplet>,
    /// Supervised contrast.
    pub sup_con: Option<SupCon>,
    /// ArcFace.
    pub arc_face: Option<MarginLoss>,
    /// CosFace.
    pub cos_face: Option<MarginLoss>,
    /// Center loss.
    pub center: Option<Weighted>,
    /// Image-text InfoNCE with prompts made of the attributes.
    pub info_nce: Option<Weighted>,
    /// Classification of images by the learned prompts of all hands; needs `[prompt_learning]`.
    pub image_to_prompt: Option<CrossEntropy>,
}

/// A loss with nothing but a weight.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Weighted {
    /// Its share of the sum.
    pub weight: f64,
}

/// Cross-entropy with label smoothing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CrossEntropy {
    /// Its share of the sum.
    pub weight: f64,
    /// Label smoothing.
    pub smoothing: f64,
}

impl Default for CrossEntropy {
    fn default() -> Self {
        Self { weight: 1.0, smoothing: 0.1 }
    }
}

/// Batch-hard triplet loss.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Triplet {
    /// Its share of the sum.
    pub weight: f64,
    /// How far a stranger must lie beyond a mate; `None` is the soft margin, written "soft".
    #[serde(with = "margin")]
    pub margin: Option<f64>,
}

impl Default for Triplet {
    fn default() -> Self {
        Self { weight: 1.0, margin: Some(0.3) }
    }
}

/// Supervised contrastive loss.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SupCon {
    /// Its share of the sum.
    pub weight: f64,
    /// Cosines are divided by it.
    pub temperature: f64,
}

impl Default for SupCon {
    fn default() -> Self {
        Self { weight: 1.0, temperature: 0.1 }
    }
}

/// A margin loss over classes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MarginLoss {
    /// Its share of the sum.
    pub weight: f64,
    /// Radians for ArcFace, cosine for CosFace.
    pub margin: f64,
    /// Factor on the cosines.
    pub scale: f64,
}

impl Losses {
    /// Name and weight of each that is there.
    #[must_use]
    pub fn weights(&self) -> Vec<(&'static str, f64)> {
        let all = [
            ("cross_entropy", self.cross_entropy.as_ref().map(|l| l.weight)),
            ("triplet", self.triplet.as_ref().map(|l| l.weight)),
            ("sup_con", self.sup_con.as_ref().map(|l| l.weight)),
            ("arc_face", self.arc_face.as_ref().map(|l| l.weight)),
            ("cos_face", self.cos_face.as_ref().map(|l| l.weight)),
            ("center", self.center.as_ref().map(|l| l.weight)),
            ("info_nce", self.info_nce.as_ref().map(|l| l.weight)),
            ("image_to_prompt", self.image_to_prompt.as_ref().map(|l| l.weight)),
        ];
        all.into_iter().filter_map(|(name, weight)| Some((name, weight?))).collect()
    }

    /// Margins and scales of the wrong sign push mates apart.
    pub(super) fn check(&self) -> Result<(), TrainingError> {
        for (name, loss) in [
            ("cross_entropy.smoothing", &self.cross_entropy),
            ("image_to_prompt.smoothing", &self.image_to_prompt),
        ] {
            let smoothing = loss.as_ref().map_or(0.0, |loss| loss.smoothing);
            must(name, UNIT, is_share(smoothing), smoothing)?;
        }
        let margin = self.triplet.as_ref().and_then(|loss| loss.margin).unwrap_or(0.0);
        let ok = margin >= 0.0 && margin.is_finite();
        must("triplet.margin", "0 or more, or \"soft\"", ok, margin)?;
        let temperature = self.sup_con.as_ref().map_or(1.0, |loss| loss.temperature);
        must("sup_con.temperature", "more than 0", is_positive(temperature), temperature)?;
        if let Some(MarginLoss { margin, scale, .. }) = self.arc_face {
            let ok = (0.0..=FRAC_PI_2).contains(&margin);
            must("arc_face.margin", "an angle from 0 to a right one, in radians", ok, margin)?;
            must("arc_face.scale", "more than 0", is_positive(scale), scale)?;
        }
        if let Some(MarginLoss { margin, scale, .. }) = self.cos_face {
            let ok = (0.0..=1.0).contains(&margin);
            must("cos_face.margin", "a cosine from 0 to 1", ok, margin)?;
            must("cos_face.scale", "more than 0", is_positive(scale), scale)?;
        }
        Ok(())
    }
}

/// A margin in TOML: a number, or "soft".
mod margin {
    use serde::{Deserialize, Deserializer, Serialize as _, Serializer, de::Error as _};

    const SOFT: &str = "soft";

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Number(f64),
        Word(String),
    }

    pub(super) fn serialize<S: Serializer>(of: &Option<f64>, to: S) -> Result<S::Ok, S::Error> {
        match of {
            Some(margin) => margin.serialize(to),
            None => SOFT.serialize(to),
        }
    }

    pub(super) fn deserialize<'a, D: Deserializer<'a>>(from: D) -> Result<Option<f64>, D::Error> {
        match Written::deserialize(from)? {
            Written::Number(margin) => Ok(Some(margin)),
            Written::Word(word) if word == SOFT => Ok(None),
            Written::Word(word) => {
                Err(D::Error::custom(format!("a margin is a number or \"{SOFT}\", not \"{word}\"")))
            }
        }
    }
}
