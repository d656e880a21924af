use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What an API key allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Ask who it is: identify, verify, search, compare, explain.
    Identify,
    /// Get embeddings. One can be turned into a picture that is taken for the same hand, so this is not part of
    /// [`Scope::Identify`].
    Embed,
    /// Read who is enrolled.
    Read,
    /// Enrol.
    Enrol,
    /// Erase subjects and remove samples.
    Erase,
    /// Train, evaluate, upload data sets, and bring models in and out.
    Train,
    /// Have another model serve, and go back.
    Deploy,
    /// Read metrics, jobs and what serves.
    Monitor,
    /// Everything, and what no other scope allows: galleries, thresholds, keys, passing over the gate.
    Admin,
}

/// A text that names no scope.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no scope `{given}`; there are {}", Scope::ALL.map(Scope::as_str).join(", "))]
pub struct ScopeError {
    /// The refused text, cut to a length that is safe to print.
    pub given: String,
}

impl Scope {
    /// Every scope.
    pub const ALL: [Self; 9] = [
        Self::Identify,
        Self::Embed,
        Self::Read,
        Self::Enrol,
        Self::Erase,
        Self::Train,
        Self::Deploy,
        Self::Monitor,
        Self::Admin,
    ];

    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Identify => "identify",
            Self::Embed => "embed",
            Self::Read => "read",
            Self::Enrol => "enrol",
            Self::Erase => "erase",
            Self::Train => "train",
            Self::Deploy => "deploy",
            Self::Monitor => "monitor",
            Self::Admin => "admin",
        }
    }

    /// Whether what it allows concerns more than single galleries, so that a key for some of them cannot have it.
    #[must_use]
    pub const fn is_server_wide(self) -> bool {
        matches!(self, Self::Train | Self::Deploy | Self::Monitor | Self::Admin)
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Scope {
    type Err = ScopeError;

    fn from_str(text: &str) -> Result<Self, ScopeError> {
        let found = Self::ALL.into_iter().find(|scope| scope.as_str() == text);
        let cut = |c: char| if c.is_control() { '?' } else { c };
        found.ok_or_else(|| ScopeError { given: text.chars().take(32).map(cut).collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_reads_back_by_its_name() {
        for scope in Scope::ALL {
            assert_eq!(scope.as_str().parse(), Ok(scope));
            assert_eq!(serde_json::to_value(scope).unwrap(), scope.as_str());
        }
        assert!("Admin".parse::<Scope>().unwrap_err().to_string().contains("identify, embed"));
    }
}
