use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};

/// Longest purpose of a consent, in bytes.
pub const MAX_PURPOSE: usize = 512;

/// Why a consent was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConsentError {
    /// No purpose, or too long a one.
    #[error("the purpose takes {got} bytes, it needs 1 to {MAX_PURPOSE}")]
    Purpose {
        /// Bytes given.
        got: usize,
    },
    /// It ends before it begins.
    #[error("the consent expires before it was given")]
    Backwards,
    /// It has ended already.
    #[error("the consent has expired")]
    Expired,
}

/// What somebody agreed to: that their templates are kept for a purpose, until a day.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Consent {
    /// What for, in words.
    pub purpose: String,
    /// When it was given, in milliseconds since 1970.
    pub given_at_ms: u64,
    /// When it ends, in milliseconds since 1970: who gave it is erased then.
    pub expires_at_ms: u64,
}

impl Consent {
    /// One that is given at this moment and holds for some days.
    #[must_use]
    pub fn from_now(purpose: &str, days: NonZeroU32, now_ms: u64) -> Self {
        let expires_at_ms = now_ms + u64::from(days.get()) * 24 * 3600 * 1000;
        Self { purpose: purpose.to_owned(), given_at_ms: now_ms, expires_at_ms }
    }

    /// Refuses what is none, and what has ended.
    ///
    /// # Errors
    /// [`ConsentError`].
    pub fn validate(&self, now_ms: u64) -> Result<(), ConsentError> {
        let got = self.purpose.trim().len();
        if got == 0 || self.purpose.len() > MAX_PURPOSE {
            return Err(ConsentError::Purpose { got: self.purpose.len() });
        }
        if self.expires_at_ms <= self.given_at_ms {
            return Err(ConsentError::Backwards);
        }
        if self.holds_at(now_ms) { Ok(()) } else { Err(ConsentError::Expired) }
    }

    /// Whether it has not ended.
    #[must_use]
    pub fn holds_at(&self, now_ms: u64) -> bool {
        now_ms < self.expires_at_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_consent_needs_a_purpose_and_an_end_that_lies_ahead() {
        let consent = |purpose: &str, given_at_ms, expires_at_ms| {
            Consent { purpose: purpose.to_owned(), given_at_ms, expires_at_ms }.validate(100)
        };
        assert_eq!(consent("entry to the lab", 50, 101), Ok(()));
        assert_eq!(consent(" ", 50, 101), Err(ConsentError::Purpose { got: 1 }));
        let long = "x".repeat(MAX_PURPOSE + 1);
        assert!(matches!(consent(&long, 50, 101), Err(ConsentError::Purpose { .. })));
        assert_eq!(consent("a", 50, 50), Err(ConsentError::Backwards));
        assert_eq!(consent("a", 50, 100), Err(ConsentError::Expired));
    }
}
