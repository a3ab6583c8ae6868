//! When to try again: the budget, the back-off, and what an upstream says about it.
//!
//! The budget keeps retries to a fifth of the requests (and a few more), so that a failing
//! upstream is not buried under them. Waits grow exponentially and are jittered; `Retry-After`
//! and `retry-after-ms` come first. `call` asks.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use http::HeaderMap;
use http::header::RETRY_AFTER;

/// What one retry costs; a request brings 1.
const COST: u32 = 5;
/// How many retries an upstream can afford at first.
const FLOOR: u32 = 10;
/// How many retries can be saved up.
const CEILING: u32 = 100;

/// How many retries an upstream can still afford.
#[derive(Debug)]
pub(super) struct Budget(AtomicU32);

impl Default for Budget {
    fn default() -> Self {
        Budget(AtomicU32::new(FLOOR * COST))
    }
}

impl Budget {
    /// A request comes in.
    pub(super) fn earn(&self) {
        let richer = |balance| (balance < CEILING * COST).then_some(balance + 1);
        // Full is fine.
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, richer);
    }

    /// Pays for one retry; false if it cannot be afforded.
    pub(super) fn spend(&self) -> bool {
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |balance| balance.checked_sub(COST)).is_ok()
    }
}

/// The wait before retry number `number` (from 0), between a half of `first` · 2^number and all
/// of it.
pub(super) fn backoff(first: Duration, number: u32) -> Duration {
    let whole = first.saturating_mul(1 << number.min(16));
    whole.mul_f64(rand::random_range(0.5..=1.0))
}

/// How long an upstream asks to wait: `retry-after-ms`, else `retry-after` in seconds or as a
/// date. `None` where it does not say, or says nonsense.
pub(super) fn asked_wait(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let number = |text: &str, unit: f64| Duration::try_from_secs_f64(text.parse::<f64>().ok()? * unit).ok();
    if let Some(wait) = text("retry-after-ms").and_then(|text| number(text, 0.001)) {
        return Some(wait);
    }
    let after = text(RETRY_AFTER.as_str())?;
    let date = || httpdate::parse_http_date(after).ok();
    number(after, 1.0).or_else(|| Some(date()?.duration_since(now).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_stay_within_a_fifth_of_the_requests() {
        let budget = Budget::default();
        let mut retries = 0;
        for _ in 0..1_000 {
            budget.earn();
            while budget.spend() {
                retries += 1;
            }
        }
        assert_eq!(retries, 1_000 / COST + FLOOR);
    }

    #[test]
    fn retries_are_not_saved_up_without_end() {
        let budget = Budget::default();
        for _ in 0..100_000 {
            budget.earn();
        }
        assert_eq!((0..1_000).filter(|_| budget.spend()).count(), CEILING as usize);
    }

    #[test]
    fn waits_double_and_are_jittered_downwards() {
        let first = Duration::from_millis(100);
        for number in 0..5 {
            let whole = first * (1 << number);
            let wait = backoff(first, number);
            assert!(wait >= whole / 2 && wait <= whole, "{number}: {wait:?}");
        }
        assert!(backoff(Duration::MAX, 99) <= Duration::MAX);
    }

    #[test]
    fn the_upstreams_wish_is_read_in_every_form() {
        let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        let table = [
            (vec![], None),
            (vec![("retry-after", "2")], Some(2_000)),
            (vec![("retry-after", "0.5")], Some(500)),
            (vec![("retry-after", "9"), ("retry-after-ms", "250")], Some(250)),
            (vec![("retry-after", "Sun, 06 Nov 1994 08:49:40 GMT")], Some(3_000)),
            (vec![("retry-after", "Sun, 06 Nov 1994 08:00:00 GMT")], Some(0)),
            (vec![("retry-after", "soon")], None),
            (vec![("retry-after", "-1")], None),
        ];
        for (given, expected) in table {
            let mut headers = HeaderMap::new();
            for (name, value) in &given {
                headers.insert(http::HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
            }
            assert_eq!(asked_wait(&headers, now), expected.map(Duration::from_millis), "{given:?}");
        }
    }
}
