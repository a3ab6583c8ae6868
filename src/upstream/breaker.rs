//! A circuit breaker: after some failures in a row no call is tried for a while, then one.
//!
//! Closed → (failures in a row) → open → (cool-down) → half-open → one trial → closed or open.
//! Atomics only; the time is handed in. `endpoint` owns one per address.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::backend::Breaker as State;

/// The breaker of one endpoint.
#[derive(Debug)]
pub(super) struct Breaker {
    limit: u32,
    cool_down: Duration,
    /// Times below are counted from here.
    made: Instant,
    failures: AtomicU32,
    /// Milliseconds; 0: closed.
    open_until: AtomicU64,
    trial: AtomicBool,
}

impl Breaker {
    /// A closed breaker that opens after `limit` failures in a row.
    pub(super) fn new(limit: u32, cool_down: Duration, now: Instant) -> Self {
        Breaker {
            limit: limit.max(1),
            cool_down,
            made: now,
            failures: AtomicU32::new(0),
            open_until: AtomicU64::new(0),
            trial: AtomicBool::new(false),
        }
    }

    fn millis(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.made).as_millis()).unwrap_or(u64::MAX)
    }

    /// The state at `now`.
    pub(super) fn state(&self, now: Instant) -> State {
        match self.open_until.load(Ordering::Acquire) {
            0 => State::Closed,
            until if self.millis(now) < until => State::Open,
            _ => State::HalfOpen,
        }
    }

    /// Asks to make a call: `None` if it must not be made, else whether it is the trial. A trial
    /// ends with `succeed`, `fail` or `abandon`.
    pub(super) fn admit(&self, now: Instant) -> Option<bool> {
        match self.state(now) {
            State::Closed => Some(false),
            State::Open => None,
            State::HalfOpen => (!self.trial.swap(true, Ordering::AcqRel)).then_some(true),
        }
    }

    /// Whether `admit` would say yes.
    pub(super) fn would_admit(&self, now: Instant) -> bool {
        match self.state(now) {
            State::Closed => true,
            State::Open => false,
            State::HalfOpen => !self.trial.load(Ordering::Acquire),
        }
    }

    /// A call worked.
    pub(super) fn succeed(&self, trial: bool) {
        // A call begun before the breaker opened says nothing about now.
        if trial || self.open_until.load(Ordering::Acquire) == 0 {
            self.failures.store(0, Ordering::Release);
            self.open_until.store(0, Ordering::Release);
        }
        self.abandon(trial);
    }

    /// A call failed.
    pub(super) fn fail(&self, trial: bool, now: Instant) {
        let failures = self.failures.fetch_add(1, Ordering::AcqRel).saturating_add(1);
        let closed = self.open_until.load(Ordering::Acquire) == 0;
        if trial || (closed && failures >= self.limit) {
            let cool_down = u64::try_from(self.cool_down.as_millis()).unwrap_or(u64::MAX);
            self.open_until.store(self.millis(now).saturating_add(cool_down).max(1), Ordering::Release);
        }
        self.abandon(trial);
    }

    /// A call ended without saying anything about the endpoint.
    pub(super) fn abandon(&self, trial: bool) {
        if trial {
            self.trial.store(false, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COOL_DOWN: Duration = Duration::from_secs(10);

    fn opened(now: Instant) -> Breaker {
        let breaker = Breaker::new(3, COOL_DOWN, now);
        for _ in 0..3 {
            breaker.fail(false, now);
        }
        breaker
    }

    #[test]
    fn only_failures_in_a_row_open_it() {
        let now = Instant::now();
        let breaker = Breaker::new(3, COOL_DOWN, now);
        for _ in 0..5 {
            breaker.fail(false, now);
            breaker.fail(false, now);
            breaker.succeed(false);
        }
        assert_eq!(breaker.state(now), State::Closed);
        assert_eq!(opened(now).state(now), State::Open);
        assert_eq!(opened(now).admit(now), None);
    }

    #[test]
    fn after_the_cool_down_one_trial_is_admitted() {
        let now = Instant::now();
        let breaker = opened(now);
        let later = now + COOL_DOWN;
        assert_eq!(breaker.state(later), State::HalfOpen);
        assert_eq!(breaker.admit(later), Some(true));
        assert!(!breaker.would_admit(later));
        assert_eq!(breaker.admit(later), None);
        breaker.succeed(true);
        assert_eq!(breaker.state(later), State::Closed);
        assert_eq!(breaker.admit(later), Some(false));
    }

    #[test]
    fn a_failed_trial_opens_it_for_another_cool_down() {
        let now = Instant::now();
        let breaker = opened(now);
        let later = now + COOL_DOWN;
        breaker.admit(later);
        breaker.fail(true, later);
        assert_eq!(breaker.state(later), State::Open);
        assert_eq!(breaker.state(later + COOL_DOWN), State::HalfOpen);
    }

    #[test]
    fn an_abandoned_trial_lets_another_one_in() {
        let now = Instant::now();
        let breaker = opened(now);
        let later = now + COOL_DOWN;
        breaker.admit(later);
        breaker.abandon(true);
        assert_eq!(breaker.admit(later), Some(true));
    }

    #[test]
    fn calls_begun_before_it_opened_do_not_move_it() {
        let now = Instant::now();
        let breaker = opened(now);
        breaker.succeed(false);
        assert_eq!(breaker.state(now), State::Open);
        breaker.fail(false, now + COOL_DOWN / 2);
        assert_eq!(breaker.state(now + COOL_DOWN), State::HalfOpen);
    }
}
