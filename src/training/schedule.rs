/// Learning rate: linear warm-up from 0, then a cosine down to a hundredth of the peak.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct WarmupCosine {
    /// Highest rate.
    pub peak: f64,
    /// Steps until the peak.
    pub warmup: usize,
    /// Steps in all.
    pub steps: usize,
}

impl WarmupCosine {
    /// The rate of step `step`, from 0.
    #[must_use]
    pub fn at(&self, step: usize) -> f64 {
        if step < self.warmup {
            return self.peak * (step + 1) as f64 / self.warmup as f64;
        }
        let length = self.steps.saturating_sub(self.warmup).max(1) as f64;
        let done = ((step - self.warmup) as f64 / length).min(1.0);
        let floor = 0.01;
        self.peak * (floor + (1.0 - floor) * 0.5 * (1.0 + (std::f64::consts::PI * done).cos()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_rises_to_the_peak_and_falls_to_a_hundredth() {
        let schedule = WarmupCosine { peak: 2.0, warmup: 4, steps: 104 };
        assert_eq!(schedule.at(0), 0.5);
        assert_eq!(schedule.at(3), 2.0);
        assert_eq!(schedule.at(4), 2.0);
        assert!((schedule.at(54) - 1.01).abs() < 1e-12);
        assert!((schedule.at(104) - 0.02).abs() < 1e-12);
        assert!((schedule.at(1000) - 0.02).abs() < 1e-12);
        assert!((5..104).all(|step| schedule.at(step) < schedule.at(step - 1)));
    }

    #[test]
    fn no_warm_up_starts_at_the_peak() {
        assert_eq!(WarmupCosine { peak: 1.0, warmup: 0, steps: 10 }.at(0), 1.0);
    }
}
