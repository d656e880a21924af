//! Published figures, for orientation beside measured ones. Not measured here, and comparable only under the same
//! protocol.

use serde::Serialize;

/// Gallery and formula that a row of figures was taken with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PublishedProtocol {
    /// 11k Hands with distractors of the other three hands (`gallery_all`), trapezoid precision, 10 runs.
    AllHands,
    /// 11k Hands, gallery of the same hand, standard precision.
    SameHand,
}

/// Rank-1 and mAP in percent, as published.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct PublishedFigure {
    /// The system.
    pub system: &'static str,
    /// The set, as this program names it.
    pub set: &'static str,
    /// How they were taken.
    pub protocol: PublishedProtocol,
    /// Percent.
    pub rank1: f64,
    /// Percent.
    pub map: f64,
}

const fn all(system: &'static str, set: &'static str, rank1: f64, map: f64) -> PublishedFigure {
    PublishedFigure { system, set, protocol: PublishedProtocol::AllHands, rank1, map }
}

const fn same(system: &'static str, rank1: f64, map: f64) -> PublishedFigure {
    let protocol = PublishedProtocol::SameHand;
    PublishedFigure { system, set: "dorsal right", protocol, rank1, map }
}

/// MBA-Net (arXiv 2108.02234) and the systems it compares with; CLIP from CLIP-HandID (arXiv 2506.12447) and CLIP-FH.
pub const PUBLISHED: [PublishedFigure; 21] = [
    all("GPA-Net", "dorsal right", 94.80, 95.72),
    all("GPA-Net", "dorsal left", 94.87, 95.93),
    all("GPA-Net", "palmar right", 95.83, 96.31),
    all("GPA-Net", "palmar left", 95.72, 96.20),
    all("RGA-Net", "dorsal right", 94.77, 95.67),
    all("RGA-Net", "dorsal left", 95.30, 95.98),
    all("RGA-Net", "palmar right", 92.66, 93.58),
    all("RGA-Net", "palmar left", 94.95, 95.67),
    all("ABD-Net", "dorsal right", 95.89, 96.76),
    all("ABD-Net", "dorsal left", 94.26, 95.34),
    all("ABD-Net", "palmar right", 96.21, 96.91),
    all("ABD-Net", "palmar left", 95.54, 96.01),
    all("MBA-Net", "dorsal right", 97.45, 97.98),
    all("MBA-Net", "dorsal left", 96.71, 97.41),
    all("MBA-Net", "palmar right", 98.05, 98.42),
    all("MBA-Net", "palmar left", 97.42, 97.84),
    all("CLIP ViT-B/16 zero-shot", "dorsal right", 70.44, 74.31),
    all("CLIP RN50 zero-shot", "dorsal right", 65.78, 69.10),
    same("CLIP ViT-B/32 zero-shot", 72.44, 79.40),
    same("HandCLIP ViT-B/32, 5 epochs", 92.78, 95.20),
    same("CE + triplet ViT-B/16", 93.69, 95.58),
];
