use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Most free-form attributes a sample holds.
pub const MAX_ATTRIBUTES: usize = 32;
/// Longest free-form attribute name or value, in bytes.
pub const MAX_ATTRIBUTE_BYTES: usize = 256;

/// Why attributes were refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AttributeError {
    /// Not a side of the hand's surface.
    #[error("`{0}` is not an aspect: use dorsal or palmar")]
    Aspect(String),
    /// Not left or right.
    #[error("`{0}` is not a side: use left or right")]
    Side(String),
    /// Too many free-form attributes.
    #[error("{got} attributes were given, at most {MAX_ATTRIBUTES} are kept")]
    TooMany {
        /// How many were given.
        got: usize,
    },
    /// A free-form name or value that is empty or too long.
    #[error("attribute `{name}` must have a name and a value of 1 to {MAX_ATTRIBUTE_BYTES} bytes")]
    Length {
        /// The attribute's name, cut to a printable length.
        name: String,
    },
}

/// Which surface of the hand an image shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Aspect {
    /// The back of the hand.
    Dorsal,
    /// The palm.
    Palmar,
}

impl Aspect {
    /// Lower-case name as 11k Hands spells it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Dorsal => "dorsal",
            Self::Palmar => "palmar",
        }
    }
}

impl fmt::Display for Aspect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Aspect {
    type Err = AttributeError;
    fn from_str(text: &str) -> Result<Self, AttributeError> {
        match text.to_ascii_lowercase().as_str() {
            "dorsal" => Ok(Self::Dorsal),
            "palmar" => Ok(Self::Palmar),
            _ => Err(AttributeError::Aspect(text.chars().take(64).collect())),
        }
    }
}

/// Which hand of the person an image shows (anatomical, not the side of the picture).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// The left hand.
    Left,
    /// The right hand.
    Right,
}

impl Side {
    /// Lower-case name as 11k Hands spells it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Left => "left",
            Self::Right => "right",
        }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Side {
    type Err = AttributeError;
    fn from_str(text: &str) -> Result<Self, AttributeError> {
        match text.to_ascii_lowercase().as_str() {
            "left" => Ok(Self::Left),
            "right" => Ok(Self::Right),
            _ => Err(AttributeError::Side(text.chars().take(64).collect())),
        }
    }
}

/// What is known of a sample besides the image. Everything may be unknown.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HandAttributes {
    /// Surface shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aspect: Option<Aspect>,
    /// Hand shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub side: Option<Side>,
    /// Whether jewellery or another accessory is worn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accessories: Option<bool>,
    /// Free-form attributes, at most [`MAX_ATTRIBUTES`].
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub extra: BTreeMap<String, String>,
}

impl HandAttributes {
    /// Checks the bounds on the free-form attributes.
    ///
    /// # Errors
    /// [`AttributeError`] naming the attribute that is out of bounds.
    pub fn validate(&self) -> Result<(), AttributeError> {
        check_extra(&self.extra)
    }
}

/// A condition on attributes: every field that is set must be equal. An unknown attribute of a
/// sample matches no condition on it. The empty filter admits everything.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttributeFilter {
    /// Surface wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aspect: Option<Aspect>,
    /// Hand wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub side: Option<Side>,
    /// With or without accessories.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accessories: Option<bool>,
    /// Free-form attributes wanted, all of them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub extra: BTreeMap<String, String>,
}

impl AttributeFilter {
    /// Whether the filter admits everything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether a sample with these attributes passes.
    #[must_use]
    pub fn admits(&self, attributes: &HandAttributes) -> bool {
        fn wants<T: PartialEq>(wanted: Option<T>, have: Option<T>) -> bool {
            wanted.is_none() || wanted == have
        }
        wants(self.aspect, attributes.aspect)
            && wants(self.side, attributes.side)
            && wants(self.accessories, attributes.accessories)
            && self.extra.iter().all(|(name, value)| attributes.extra.get(name) == Some(value))
    }

    /// Checks the bounds on the free-form attributes.
    ///
    /// # Errors
    /// [`AttributeError`] naming the attribute that is out of bounds.
    pub fn validate(&self) -> Result<(), AttributeError> {
        check_extra(&self.extra)
    }
}

fn check_extra(extra: &BTreeMap<String, String>) -> Result<(), AttributeError> {
    if extra.len() > MAX_ATTRIBUTES {
        return Err(AttributeError::TooMany { got: extra.len() });
    }
    let length_ok = |text: &str| (1..=MAX_ATTRIBUTE_BYTES).contains(&text.len());
    match extra.iter().find(|(name, value)| !length_ok(name) || !length_ok(value)) {
        Some((name, _)) => Err(AttributeError::Length { name: name.chars().take(64).collect() }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ringed_dorsal() -> HandAttributes {
        HandAttributes {
            aspect: Some(Aspect::Dorsal),
            side: None,
            accessories: Some(true),
            extra: BTreeMap::from([("site".into(), "north".into())]),
        }
    }

    #[test]
    fn a_filter_needs_every_field_it_names() {
        let sample = ringed_dorsal();
        let filter = |json: &str| serde_json::from_str::<AttributeFilter>(json).unwrap();
        assert!(filter("{}").admits(&sample));
        assert!(filter(r#"{"aspect":"dorsal","extra":{"site":"north"}}"#).admits(&sample));
        assert!(!filter(r#"{"aspect":"palmar"}"#).admits(&sample));
        assert!(!filter(r#"{"extra":{"site":"south"}}"#).admits(&sample));
        assert!(!filter(r#"{"side":"left"}"#).admits(&sample), "an unknown side matches no side");
    }

    #[test]
    fn attributes_are_bounded() {
        let mut sample = ringed_dorsal();
        assert!(sample.validate().is_ok());
        sample.extra.insert("note".into(), "x".repeat(MAX_ATTRIBUTE_BYTES + 1));
        assert_eq!(sample.validate(), Err(AttributeError::Length { name: "note".into() }));
        sample.extra = (0..=MAX_ATTRIBUTES).map(|i| (i.to_string(), "v".into())).collect();
        assert_eq!(sample.validate(), Err(AttributeError::TooMany { got: MAX_ATTRIBUTES + 1 }));
    }
}
