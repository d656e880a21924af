//! How often a key may ask: a bucket of tokens for each, told in the headers of draft-ietf-httpapi-ratelimit-headers.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::time::Instant;

use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use parking_lot::Mutex;

use crate::service::KeyId;

/// Requests a second for every key; as many may come at once after a second without one.
pub(super) struct Rates {
    quota: NonZeroU32,
    /// One for each key that has asked, and only keys that are known get here.
    buckets: Mutex<HashMap<KeyId, Bucket>>,
}

struct Bucket {
    tokens: f64,
    at: Instant,
}

/// What a key may still ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Allowance {
    quota: u32,
    remaining: u32,
    /// Until a refused one may come back, or else until the bucket is full again.
    seconds: u32,
    pub(super) refused: bool,
}

impl Rates {
    pub(super) fn new(quota: NonZeroU32) -> Self {
        Self { quota, buckets: Mutex::default() }
    }

    /// Counts a request of this key.
    pub(super) fn take(&self, key: KeyId, now: Instant) -> Allowance {
        let quota = f64::from(self.quota.get());
        let mut buckets = self.buckets.lock();
        let bucket = buckets.entry(key).or_insert(Bucket { tokens: quota, at: now });
        let passed = now.saturating_duration_since(bucket.at).as_secs_f64();
        bucket.tokens = (bucket.tokens + passed * quota).min(quota);
        bucket.at = bucket.at.max(now);
        let refused = bucket.tokens < 1.0;
        if !refused {
            bucket.tokens -= 1.0;
        }
        let missing = if refused { 1.0 - bucket.tokens } else { quota - bucket.tokens };
        Allowance {
            quota: self.quota.get(),
            remaining: bucket.tokens as u32,
            seconds: (missing / quota).ceil() as u32,
            refused,
        }
    }
}

impl Allowance {
    /// At least a second: clients that wait for none come back at once.
    pub(super) fn retry_after(self) -> u32 {
        self.seconds.max(1)
    }

    /// Says it to the client.
    pub(super) fn write(self, headers: &mut HeaderMap) {
        let Self { quota, remaining, seconds, .. } = self;
        let lines = [
            ("ratelimit-policy", format!("\"key\";q={quota};w=1")),
            ("ratelimit", format!("\"key\";r={remaining};t={seconds}")),
        ];
        for (name, value) in lines {
            if let Ok(value) = HeaderValue::from_str(&value) {
                headers.insert(HeaderName::from_static(name), value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn key(last: char) -> KeyId {
        format!("{}{last}", "0".repeat(15)).parse().unwrap()
    }

    #[test]
    fn a_bucket_empties_fills_with_time_and_is_of_one_key() {
        let rates = Rates::new(NonZeroU32::new(4).unwrap());
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let left: Vec<u32> = (0..4).map(|_| rates.take(key('1'), start).remaining).collect();
        assert_eq!(left, [3, 2, 1, 0]);
        let refused = rates.take(key('1'), at(100));
        assert!(refused.refused && refused.retry_after() == 1, "{refused:?}");
        assert!(!rates.take(key('2'), at(100)).refused, "another key has a bucket of its own");
        // A quarter of a second is one token, and a refusal takes none.
        assert!(!rates.take(key('1'), at(250)).refused);
        assert!(rates.take(key('1'), at(260)).refused);
        // An hour is no more than a full bucket, and a clock that stands still gives nothing.
        let hour = at(3_600_000);
        assert_eq!(rates.take(key('1'), hour).remaining, 3);
        assert_eq!(rates.take(key('1'), hour).remaining, 2);
        assert_eq!(rates.take(key('1'), at(300)).remaining, 1);
    }
}
