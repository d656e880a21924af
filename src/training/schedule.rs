/// Learning rate over a run: linear warm-up from 0 to the peak, then what [`Decay`] says.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    /// Highest rate.
    pub peak: f64,
    /// Steps until the peak.
    pub warmup: usize,
    /// Steps in all.
    pub steps: usize,
    /// What becomes of the rate after the warm-up.
    pub decay: Decay,
}

/// What becomes of the rate after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Decay {
    /// Half a cosine down to a hundredth of the peak.
    Cosine,
    /// Multiplied by `factor` every `every` steps, counted from the first.
    Step {
        /// Steps between two cuts.
        every: usize,
        /// What the rate is multiplied by.
        factor: f64,
    },
    /// Multiplied by `factor` at every cut that the caller counts.
    Cuts {
        /// What the rate is multiplied by.
        factor: f64,
    },
    /// Stays at the peak.
    Constant,
}

impl Schedule {
    /// The rate of step `step`, from 0, after so many cuts.
    #[must_use]
    pub fn at(&self, step: usize, cuts: usize) -> f64 {
        let power = |factor: f64, n: usize| factor.powi(i32::try_from(n).unwrap_or(i32::MAX));
        if step < self.warmup {
            return self.peak * (step + 1) as f64 / self.warmup as f64;
        }
        match self.decay {
            Decay::Cosine => {
                let length = self.steps.saturating_sub(self.warmup).max(1) as f64;
                let done = ((step - self.warmup) as f64 / length).min(1.0);
                let floor = 0.01;
                let wave = 0.5 * (1.0 + (std::f64::consts::PI * done).cos());
                self.peak * (floor + (1.0 - floor) * wave)
            }
            Decay::Step { every, factor } => self.peak * power(factor, step / every.max(1)),
            Decay::Cuts { factor } => self.peak * power(factor, cuts),
            Decay::Constant => self.peak,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COSINE: Schedule = Schedule { peak: 2.0, warmup: 4, steps: 104, decay: Decay::Cosine };

    #[test]
    fn the_rate_rises_to_the_peak_and_falls_to_a_hundredth() {
        let at = |step| COSINE.at(step, 0);
        assert_eq!((at(0), at(3), at(4)), (0.5, 2.0, 2.0));
        assert!((at(54) - 1.01).abs() < 1e-12);
        assert!((at(104) - 0.02).abs() < 1e-12);
        assert!((at(1000) - 0.02).abs() < 1e-12);
        assert!((5..104).all(|step| at(step) < at(step - 1)));
    }

    #[test]
    fn no_warm_up_starts_at_the_peak() {
        assert_eq!(Schedule { warmup: 0, ..COSINE }.at(0, 0), 2.0);
    }

    #[test]
    fn rates_are_cut_by_steps_or_by_the_caller_or_not_at_all() {
        let step = Schedule { decay: Decay::Step { every: 10, factor: 0.5 }, ..COSINE };
        assert_eq!([4, 9, 10, 19, 20].map(|at| step.at(at, 7)), [2.0, 2.0, 1.0, 1.0, 0.5]);
        let cuts = Schedule { decay: Decay::Cuts { factor: 0.1 }, ..COSINE };
        assert_eq!((cuts.at(90, 0), cuts.at(90, 1), cuts.at(0, 3)), (2.0, 0.2, 0.5));
        let constant = Schedule { decay: Decay::Constant, ..COSINE };
        assert_eq!(constant.at(103, 3), 2.0);
    }
}
