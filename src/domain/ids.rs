use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Why a text is not an identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{given}` is not a {kind} id: use 1 to {max} of A-Z a-z 0-9 . _ - , starting with a letter or digit"
)]
pub struct IdError {
    /// What sort of identifier was wanted.
    pub kind: &'static str,
    /// The refused text, cut to a length that is safe to print.
    pub given: String,
    /// Longest identifier taken, in bytes.
    pub max: usize,
}

fn check(kind: &'static str, text: &str, max: usize) -> Result<(), IdError> {
    let starts_well = text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    let chars_ok =
        text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
    if starts_well && chars_ok && text.len() <= max {
        return Ok(());
    }
    let given = text.chars().take(max).map(|c| if c.is_control() { '?' } else { c }).collect();
    Err(IdError { kind, given, max })
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Longest identifier taken, in bytes.
            pub const MAX_LEN: usize = 64;

            /// Takes an identifier of 1 to [`Self::MAX_LEN`] bytes.
            ///
            /// # Errors
            /// [`IdError`] when it is empty, too long or holds other characters.
            pub fn new(text: impl Into<String>) -> Result<Self, IdError> {
                let text = text.into();
                check($kind, &text, Self::MAX_LEN)?;
                Ok(Self(text))
            }

            /// The identifier as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                // Padded: lists stand in columns.
                f.pad(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::new(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                Self::new(text)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0
            }
        }
    };
}

id!(
    /// Names a gallery.
    GalleryId,
    "gallery"
);
id!(
    /// Names a person within a gallery.
    SubjectId,
    "subject"
);
id!(
    /// Names one image of a hand within a gallery.
    SampleId,
    "sample"
);

id!(
    /// Names a model of the registry.
    ModelName,
    "model"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_take_safe_names_only() {
        for good in ["0", "0000042", "jane.doe-2", "A_b", &"x".repeat(64)] {
            assert!(SubjectId::new(good).is_ok(), "{good}");
        }
        for bad in ["", ".hidden", "-x", "a/b", "a b", "ü", "a\0", &"x".repeat(65)] {
            assert!(SubjectId::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_id_is_checked_when_deserialised() {
        assert!(serde_json::from_str::<GalleryId>("\"staff\"").is_ok());
        assert!(serde_json::from_str::<GalleryId>("\"../etc\"").is_err());
    }

    #[test]
    fn an_error_says_what_is_taken() {
        let text = GalleryId::new("a b").unwrap_err().to_string();
        assert!(text.contains("`a b` is not a gallery id: use 1 to 64"), "{text}");
    }
}
