//! How far a job is, how fast it is lately, and when it will be done.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// What the rate is taken over: long enough to be steady, short enough to follow a machine that got busy.
const WINDOW: Duration = Duration::from_secs(30);
/// Marks kept in the window, at most.
const MOST_MARKS: usize = 120;
/// Shortest time between two that are told and stored.
const EVERY: Duration = Duration::from_secs(1);

/// Seconds that a rate is taken over at least: less says nothing.
const SHORTEST: f64 = 1.0;

/// How far a job is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Steps done.
    pub done: u64,
    /// Steps in all.
    pub total: u64,
    /// Steps a second, over the last half minute; `None` until it can be told.
    pub rate: Option<f64>,
    /// Seconds until it is done at that rate.
    pub eta_s: Option<f64>,
}

/// Follows one attempt of one job.
#[derive(Debug, Default)]
pub(super) struct Meter {
    /// Since when how much was done, oldest first.
    marks: VecDeque<(Instant, u64)>,
    told: Option<Instant>,
}

impl Meter {
    /// Notes where the job is at `now`, and says so if it is time to tell: at most once a second, and at the end.
    pub(super) fn note(&mut self, done: u64, total: u64, now: Instant) -> Option<Progress> {
        // Work that went back (a step done again) makes what was before it worthless.
        if self.marks.back().is_some_and(|(_, before)| *before > done) {
            self.marks.clear();
        }
        let spacing = WINDOW / u32::try_from(MOST_MARKS).unwrap_or(u32::MAX);
        if self.marks.back().is_none_or(|(at, _)| now.duration_since(*at) >= spacing) {
            self.marks.push_back((now, done));
        }
        // One mark older than the window stays, so that slow work has a rate too.
        while self.marks.get(1).is_some_and(|(at, _)| now.duration_since(*at) >= WINDOW) {
            self.marks.pop_front();
        }
        let due = self.told.is_none_or(|told| now.duration_since(told) >= EVERY);
        if !due && done < total {
            return None;
        }
        self.told = Some(now);
        let rate = self.rate(done, now);
        let left = total.saturating_sub(done) as f64;
        let eta_s = rate.filter(|rate| *rate > 0.0).map(|rate| rounded(left / rate));
        Some(Progress { done, total, rate: rate.map(rounded), eta_s })
    }

    fn rate(&self, done: u64, now: Instant) -> Option<f64> {
        let (since, before) = self.marks.front()?;
        let seconds = now.duration_since(*since).as_secs_f64();
        (seconds >= SHORTEST).then(|| done.saturating_sub(*before) as f64 / seconds)
    }
}

/// To a thousandth: nobody reads more, and it reads back as it was written.
fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(start: Instant, seconds: f64) -> Instant {
        start + Duration::from_secs_f64(seconds)
    }

    #[test]
    fn the_rate_is_that_of_the_last_half_minute_and_gives_the_time_left() {
        let (mut meter, start) = (Meter::default(), Instant::now());
        let first = meter.note(0, 1000, start).unwrap();
        assert_eq!((first.rate, first.eta_s), (None, None), "nothing is known yet");
        // Two a second for a minute, then eight a second for a minute.
        let mut last = first;
        for second in 1..=60 {
            last = meter.note(second * 2, 1000, after(start, second as f64)).unwrap();
        }
        assert_eq!((last.rate, last.eta_s), (Some(2.0), Some(440.0)));
        for second in 1..=60 {
            last = meter.note(120 + second * 8, 1000, after(start, 60.0 + second as f64)).unwrap();
        }
        assert_eq!((last.done, last.rate, last.eta_s), (600, Some(8.0), Some(50.0)));
    }

    #[test]
    fn it_is_told_once_a_second_and_at_the_end() {
        let (mut meter, start) = (Meter::default(), Instant::now());
        let told = (0..=1000_u64)
            .filter(|step| meter.note(*step, 1000, after(start, *step as f64 / 400.0)).is_some());
        assert_eq!(told.collect::<Vec<_>>(), [0, 400, 800, 1000]);
        assert!(meter.marks.len() <= MOST_MARKS + 1);
    }

    #[test]
    fn work_that_went_back_has_no_rate_below_zero() {
        let (mut meter, start) = (Meter::default(), Instant::now());
        meter.note(50, 100, start);
        let again = meter.note(10, 100, after(start, 2.0)).unwrap();
        assert_eq!(again.rate, None);
        assert_eq!(meter.note(20, 100, after(start, 4.0)).unwrap().rate, Some(5.0));
    }

    #[test]
    fn slow_work_has_a_rate_too() {
        let (mut meter, start) = (Meter::default(), Instant::now());
        meter.note(0, 10, start);
        let slow = meter.note(1, 10, after(start, 100.0)).unwrap();
        assert_eq!((slow.rate, slow.eta_s), (Some(0.01), Some(900.0)));
    }
}
