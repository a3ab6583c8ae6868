//! Bounds on a probability, or on a mean loss, that hold for every sample size.
//!
//! Hides the numerics of binomial tails. Promises: exact to about ten digits for any n that fits in
//! memory, never a NaN for probabilities between 0 and 1, and every rounding on the safe side (an
//! upper bound is never too low). `certify` tests with these; `lab` prints intervals with them.

use std::f64::consts::E;

use statrs::function::factorial::ln_binomial;

/// Halvings after which an interval of length 1 is below the resolution of its ends.
const HALVINGS: usize = 60;

/// No sample is this large: where [`smallest_n`] stops looking.
const LARGEST_N: usize = 1 << 40;

/// P(X ≤ k) for X ~ Bin(n, p).
pub fn binomial_cdf(k: usize, n: usize, p: f64) -> f64 {
    if k >= n || p <= 0.0 {
        return 1.0;
    }
    if p >= 1.0 {
        return 0.0;
    }
    if k as f64 <= n as f64 * p { sum_down(k, n, p) } else { 1.0 - sum_down(n - k - 1, n, 1.0 - p) }
}

/// P(X ≥ k) for X ~ Bin(n, p).
pub fn binomial_tail(k: usize, n: usize, p: f64) -> f64 {
    if k > n { 0.0 } else { binomial_cdf(n - k, n, 1.0 - p) }
}

/// P(X ≤ k) where k is at most the mean: the terms fall from k down to 0, the largest first, each
/// made from the one before: P(i) = P(i + 1) · (i + 1)/(n − i) · (1 − p)/p.
fn sum_down(k: usize, n: usize, p: f64) -> f64 {
    let odds = (1.0 - p) / p;
    let (mut term, mut sum) = (1.0, 1.0);
    for i in (0..k).rev() {
        term *= (i + 1) as f64 / (n - i) as f64 * odds;
        sum += term;
        if term < sum * f64::EPSILON / 2.0 {
            break;
        }
    }
    let ln_largest = ln_binomial(n as u64, k as u64) + k as f64 * p.ln() + (n - k) as f64 * (-p).ln_1p();
    (ln_largest.exp() * sum).min(1.0)
}

/// The smallest p at which `falling` is `delta` or less; `falling` does not rise with p.
fn first_below(falling: impl Fn(f64) -> f64, delta: f64) -> f64 {
    let (mut low, mut high) = (0.0, 1.0);
    for _ in 0..HALVINGS {
        let middle = (low + high) / 2.0;
        if falling(middle) <= delta {
            high = middle;
        } else {
            low = middle;
        }
    }
    high
}

/// The exact upper confidence bound on a probability after `k` of `n`, at confidence 1 − `delta`:
/// the smallest p with P(Bin(n, p) ≤ k) ≤ delta (Clopper & Pearson 1934). One-sided; 1 without a row.
pub fn upper_bound(k: usize, n: usize, delta: f64) -> f64 {
    if k >= n { 1.0 } else { first_below(|p| binomial_cdf(k, n, p), delta) }
}

/// The exact lower confidence bound on a probability after `k` of `n`, at confidence 1 − `delta`:
/// the largest p with P(Bin(n, p) ≥ k) ≤ delta (Clopper & Pearson 1934). One-sided; 0 without a row.
pub fn lower_bound(k: usize, n: usize, delta: f64) -> f64 {
    1.0 - upper_bound(n.saturating_sub(k), n, delta)
}

/// The p-value of "the mean loss is above `alpha`" after `n` losses in [0, 1] that sum to `losses`:
/// min(exp(−n·h(min(R, alpha), alpha)), e·P(Bin(n, alpha) ≤ ⌈losses⌉)) with R = losses/n and
/// h(a, b) = a·ln(a/b) + (1−a)·ln((1−a)/(1−b)), at most 1 (Bates et al., "Distribution-free,
/// risk-controlling prediction sets", 2021, after Hoeffding 1963 and Bentkus 2004). 1 without a row.
pub fn hoeffding_bentkus(losses: f64, n: usize, alpha: f64) -> f64 {
    if n == 0 {
        return 1.0;
    }
    let hoeffding = (-(n as f64) * divergence((losses / n as f64).min(alpha), alpha)).exp();
    let bentkus = E * binomial_cdf(losses.ceil() as usize, n, alpha);
    hoeffding.min(bentkus).min(1.0)
}

/// The upper confidence bound on a mean loss in [0, 1] at confidence 1 − `delta` that inverts
/// [`hoeffding_bentkus`].
pub fn mean_upper_bound(losses: f64, n: usize, delta: f64) -> f64 {
    first_below(|alpha| hoeffding_bentkus(losses, n, alpha), delta)
}

/// Kullback–Leibler divergence of two coins, a and b; 0·ln 0 is 0.
fn divergence(a: f64, b: f64) -> f64 {
    let part = |a: f64, b: f64| if a == 0.0 { 0.0 } else { a * (a / b).ln() };
    part(a, b) + part(1.0 - a, 1.0 - b)
}

/// The fewest rows from which a risk of `alpha` can be certified at confidence 1 − `delta` although
/// `errors` of them are wrong: the smallest n with P(Bin(n, alpha) ≤ errors) ≤ delta.
///
/// At most 2⁴⁰, which stands for "more than anybody labels".
pub fn smallest_n(alpha: f64, delta: f64, errors: usize) -> usize {
    let enough = |n: usize| binomial_cdf(errors, n, alpha) <= delta;
    let mut high = errors + 1;
    while !enough(high) {
        if high >= LARGEST_N {
            return LARGEST_N;
        }
        high *= 2;
    }
    let mut low = errors;
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if enough(middle) {
            high = middle;
        } else {
            low = middle;
        }
    }
    high
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Σ C(n, i) p^i (1 − p)^(n − i), by multiplication.
    fn by_hand(k: usize, n: usize, p: f64) -> f64 {
        let mut choose = 1.0;
        let mut sum = 0.0;
        for i in 0..=k.min(n) {
            sum += choose * p.powi(i as i32) * (1.0 - p).powi((n - i) as i32);
            choose *= (n - i) as f64 / (i + 1) as f64;
        }
        sum
    }

    #[test]
    fn the_binomial_equals_its_sum_by_hand() {
        for n in 1..40 {
            for k in 0..=n {
                for p in [1e-6, 0.05, 0.3, 0.5, 0.77, 0.999] {
                    let cdf = binomial_cdf(k, n, p);
                    assert!((cdf - by_hand(k, n, p)).abs() < 1e-12, "{k} {n} {p}");
                    let above = if k == 0 { 0.0 } else { by_hand(k - 1, n, p) };
                    assert!((binomial_tail(k, n, p) - (1.0 - above)).abs() < 1e-12, "{k} {n} {p}");
                }
            }
        }
    }

    #[test]
    fn the_binomial_keeps_its_digits_far_out_and_for_many_rows() {
        // 0.9^1000, and a tail that a subtraction from 1 would lose.
        assert!((binomial_cdf(0, 1000, 0.1) / 1.747_871_251_722_4e-46 - 1.0).abs() < 1e-9);
        assert!((binomial_tail(50, 50, 0.1) / 1e-50 - 1.0).abs() < 1e-9);
        // A median lies within one row of the mean.
        assert!(binomial_cdf(99_999, 1_000_000, 0.1) < 0.5 && binomial_cdf(100_001, 1_000_000, 0.1) > 0.5);
        // 1.96 standard deviations of 300 above the mean.
        assert!((binomial_cdf(100_000 + 588, 1_000_000, 0.1) - 0.975).abs() < 1e-3);
    }

    #[test]
    fn clopper_pearson_gives_the_known_quantiles_of_the_beta_distribution() {
        // No error: 1 − delta^(1/n). All wrong from below: delta^(1/n). 5 of 10, two-sided 95 %.
        assert!((upper_bound(0, 10, 0.05) - 0.258_865_551_4).abs() < 1e-9);
        assert!((lower_bound(10, 10, 0.05) - 0.741_134_448_6).abs() < 1e-9);
        assert!((upper_bound(5, 10, 0.025) - 0.812913971553).abs() < 1e-10);
        assert!((lower_bound(5, 10, 0.025) - 0.187086028447).abs() < 1e-10);
        assert!((upper_bound(3, 100, 0.1) - 0.065585751503).abs() < 1e-10);
        assert_eq!((upper_bound(0, 0, 0.1), lower_bound(0, 0, 0.1)), (1.0, 0.0));
        assert_eq!((upper_bound(7, 7, 0.1), lower_bound(0, 7, 0.1)), (1.0, 0.0));
    }

    #[test]
    fn clopper_pearson_misses_with_at_most_probability_delta_for_every_small_n() {
        for n in 1..=12 {
            for delta in [0.05, 0.2] {
                let bounds: Vec<f64> = (0..=n).map(|k| upper_bound(k, n, delta)).collect();
                for p in (1..50).map(|step| f64::from(step) / 50.0) {
                    let missed: f64 = (0..=n)
                        .filter(|&k| bounds[k] < p)
                        .map(|k| by_hand(k, n, p) - if k == 0 { 0.0 } else { by_hand(k - 1, n, p) })
                        .sum();
                    assert!(missed <= delta + 1e-12, "{n} {delta} {p}: {missed}");
                }
            }
        }
    }

    #[test]
    fn bounds_move_the_right_way_with_k_n_and_delta() {
        for n in 1..60 {
            for k in 0..n {
                let bound = upper_bound(k, n, 0.1);
                assert!(bound > k as f64 / n as f64);
                assert!(bound <= upper_bound(k + 1, n, 0.1));
                assert!(bound > upper_bound(k, n + 1, 0.1));
                assert!(bound < upper_bound(k, n, 0.05));
                assert!(mean_upper_bound(k as f64, n, 0.1) > bound - 1e-12, "bounded losses are never easier");
            }
        }
    }

    #[test]
    fn hoeffding_bentkus_is_exact_without_loss_and_monotone() {
        assert!((hoeffding_bentkus(0.0, 30, 0.1) - 0.9f64.powi(30)).abs() < 1e-12);
        assert_eq!(hoeffding_bentkus(0.0, 0, 0.1), 1.0);
        assert_eq!(hoeffding_bentkus(20.0, 50, 0.1), 1.0);
        for n in [20, 100, 500] {
            let mut last = 0.0;
            for tenth in 0..=10 * n {
                let p = hoeffding_bentkus(f64::from(tenth) / 10.0, n as usize, 0.2);
                assert!(p >= last && p <= 1.0);
                last = p;
            }
            assert!(hoeffding_bentkus(2.5, n as usize, 0.2) > hoeffding_bentkus(2.5, n as usize, 0.3));
        }
    }

    #[test]
    fn hoeffding_bentkus_follows_its_formula_and_rejects_a_true_null_with_probability_delta_at_most() {
        // 2 of 50 at .2, by hand: KL(.04, .2) = .04 ln .2 + .96 ln 1.2, and e times the binomial.
        let hoeffding = (-50.0 * (0.04 * 0.2f64.ln() + 0.96 * 1.2f64.ln())).exp();
        let bentkus = E * by_hand(2, 50, 0.2);
        assert!((hoeffding_bentkus(2.0, 50, 0.2) - hoeffding.min(bentkus)).abs() < 1e-12);
        // All counts of losses of 0 and ½, and of 0 and 1, each with a mean of exactly alpha.
        for n in [5, 17, 40] {
            for alpha in [0.05, 0.2, 0.4] {
                for (loss, p) in [(1.0, alpha), (0.5, 2.0 * alpha)] {
                    let exactly = |k: usize| by_hand(k, n, p) - if k == 0 { 0.0 } else { by_hand(k - 1, n, p) };
                    for delta in [0.02, 0.1, 0.3] {
                        let rejects = |k: &usize| hoeffding_bentkus(loss * *k as f64, n, alpha) <= delta;
                        let rejected: f64 = (0..=n).filter(rejects).map(exactly).sum();
                        assert!(rejected <= delta + 1e-12, "{n} {alpha} {loss} {delta}: {rejected}");
                    }
                }
            }
        }
    }

    #[test]
    fn smallest_n_is_the_first_that_suffices() {
        assert_eq!(smallest_n(0.1, 0.1, 1), 38);
        assert_eq!(smallest_n(0.2, 0.1, 1), 18);
        assert_eq!(smallest_n(0.1, 0.1, 0), 22);
        assert_eq!(smallest_n(0.05, 0.05, 0), 59);
        assert_eq!(smallest_n(1e-300, 0.1, 0), LARGEST_N);
        for alpha in [0.03, 0.1, 0.4] {
            for errors in 0..6 {
                let n = smallest_n(alpha, 0.1, errors);
                assert!(upper_bound(errors, n, 0.1) <= alpha && upper_bound(errors, n - 1, 0.1) > alpha);
            }
        }
    }
}
