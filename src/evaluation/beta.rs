//! The beta distribution, as far as exact binomial intervals need it.

/// Coefficients of Lanczos' approximation for g = 7 and nine terms.
const LANCZOS: [f64; 9] = [
    0.999_999_999_999_809_9,
    676.520_368_121_885_1,
    -1_259.139_216_722_402_8,
    771.323_428_777_653_1,
    -176.615_029_162_140_6,
    12.507_343_278_686_905,
    -0.138_571_095_265_720_12,
    9.984_369_578_019_572e-6,
    1.505_632_735_149_311_6e-7,
];
/// Most terms of the continued fraction: it needs about the root of the larger parameter.
const TERMS: u32 = 200_000;

/// From here on Stirling's series is good to the last digits.
const LARGE: f64 = 15.0;

/// What Stirling's formula leaves of ln Gamma(x), for large x.
fn stirling_rest(x: f64) -> f64 {
    let s = x * x;
    (1.0 / 12.0 - (1.0 / 360.0 - (1.0 / 1260.0 - 1.0 / (1680.0 * s)) / s) / s) / x
}

/// ln Gamma(x) for x > 0.
fn ln_gamma(x: f64) -> f64 {
    let half_ln_two_pi = 0.5 * std::f64::consts::TAU.ln();
    if x >= LARGE {
        return (x - 0.5) * x.ln() - x + half_ln_two_pi + stirling_rest(x);
    }
    let x = x - 1.0;
    let terms = LANCZOS.iter().skip(1).zip(1_u8..);
    let sum = LANCZOS[0] + terms.map(|(c, i)| c / (x + f64::from(i))).sum::<f64>();
    let t = x + 7.5;
    half_ln_two_pi + (x + 0.5) * t.ln() - t + sum.ln()
}

/// ln of 1 / B(a, b). Among millions the logarithms of gamma agree in most digits, so their difference is
/// taken inside Stirling's formula.
fn ln_inverse(a: f64, b: f64) -> f64 {
    let (small, large) = (a.min(b), a.max(b));
    if large < LARGE {
        return ln_gamma(a + b) - ln_gamma(a) - ln_gamma(b);
    }
    let both = small + large;
    let ratio = (large - 0.5) * (small / large).ln_1p() + small * (both.ln() - 1.0);
    ratio + stirling_rest(both) - stirling_rest(large) - ln_gamma(small)
}

/// The regularised incomplete beta function I_x(a, b): the share of Beta(a, b) below x.
pub(super) fn below(x: f64, a: f64, b: f64) -> f64 {
    if x <= 0.0 {
        return 0.0;
    }
    if x >= 1.0 {
        return 1.0;
    }
    let front = (ln_inverse(a, b) + a * x.ln() + b * (-x).ln_1p()).exp();
    // The fraction converges fast below the mean only; above it the mirror image does.
    if x < (a + 1.0) / (a + b + 2.0) {
        front * fraction(x, a, b) / a
    } else {
        1.0 - front * fraction(1.0 - x, b, a) / b
    }
}

/// The continued fraction of the incomplete beta function, by Lentz' method.
fn fraction(x: f64, a: f64, b: f64) -> f64 {
    const TINY: f64 = 1e-300;
    let guard = |value: f64| if value.abs() < TINY { TINY } else { value };
    let mut c = 1.0;
    let mut d = 1.0 / guard(1.0 - (a + b) * x / (a + 1.0));
    let mut value = d;
    for term in 1..TERMS {
        let m = f64::from(term);
        let even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
        d = 1.0 / guard(1.0 + even * d);
        c = guard(1.0 + even / c);
        value *= d * c;
        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        d = 1.0 / guard(1.0 + odd * d);
        c = guard(1.0 + odd / c);
        value *= d * c;
        if (d * c - 1.0).abs() < 1e-15 {
            break;
        }
    }
    value
}

/// The x below which the share `p` of Beta(a, b) lies, by bisection until neighbouring numbers.
pub(super) fn quantile(p: f64, a: f64, b: f64) -> f64 {
    let (mut low, mut high) = (0.0_f64, 1.0_f64);
    loop {
        let middle = low + (high - low) / 2.0;
        if middle <= low || middle >= high {
            return middle;
        }
        if below(middle, a, b) < p {
            low = middle;
        } else {
            high = middle;
        }
        if high - low <= high * 1e-15 {
            return low + (high - low) / 2.0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_cases_are_known_in_closed_form() {
        for x in [0.01, 0.3, 0.5, 0.9] {
            assert!((below(x, 1.0, 1.0) - x).abs() < 1e-14);
            assert!((below(x, 3.0, 1.0) - x.powi(3)).abs() < 1e-14);
            assert!((below(x, 1.0, 40.0) - (1.0 - (1.0_f64 - x).powi(40))).abs() < 1e-13);
            // I_x(2, 3) = 6x^2 - 8x^3 + 3x^4.
            let polynomial = 6.0 * x.powi(2) - 8.0 * x.powi(3) + 3.0 * x.powi(4);
            assert!((below(x, 2.0, 3.0) - polynomial).abs() < 1e-14);
        }
    }

    #[test]
    fn the_logarithm_of_gamma_is_that_of_factorials() {
        let mut factorial = 0.0_f64;
        for n in 1..60_u32 {
            assert!((ln_gamma(f64::from(n)) - factorial).abs() < 1e-12 * factorial.max(1.0), "{n}");
            factorial += f64::from(n).ln();
        }
        assert!((ln_gamma(0.5) - std::f64::consts::PI.sqrt().ln()).abs() < 1e-14);
    }

    #[test]
    fn the_quantile_turns_the_share_round() {
        for (a, b) in [(0.5, 2.0), (1.0, 1.0), (3.0, 998.0), (2.0, 5e6), (4e5, 6e5)] {
            for p in [0.025, 0.5, 0.975] {
                let x = quantile(p, a, b);
                assert!((below(x, a, b) - p).abs() < 1e-9, "{p} of Beta({a}, {b})");
            }
        }
    }
}
