//! Holds a rate of spending: what an escalation must be worth, so that money is neither hoarded nor gone.
//!
//! The dual price λ of a budget per time (primal–dual pacing: Balseiro & Gur, "Learning in repeated
//! auctions with budgets", 2019): λ ← max(0, λ + η(spent − target)), the target growing with the
//! clock. Kept as the dollars spent ahead of the target, so that λ follows at once and the account
//! stays exact whatever η is. Promises: idle time is credited up to a bound; another rate forgets no
//! spending. Pure arithmetic; [`super::Pacers`] has the clock and the locks.

use std::time::Duration;

/// How many seconds of the rate, spent ahead of the target, make an escalation of usual worth break even.
const WINDOW: f64 = 900.0;
/// After so many values a mean forgets the oldest ones.
const REMEMBERED: f64 = 200.0;
/// How many seconds of the rate are written down as spent before they are.
const LEASE: f64 = 60.0;
/// How many of the dearest spendings fit into a lease.
const LEASE_SPENDINGS: f64 = 8.0;

/// One budget over time. Seconds count from any fixed moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Pace {
    usd_per_second: f64,
    /// How many seconds of the rate idle time may save.
    credit: f64,
    /// The moment to which the target has grown.
    at: f64,
    /// Dollars spent ahead of the target; below 0: saved.
    ahead: f64,
    spent: f64,
    own: f64,
    /// Dollars that requests in flight are expected to cost.
    reserved: f64,
    /// What escalations are usually worth per dollar.
    worth: Mean,
    dearest: f64,
    /// What would count as spent after a crash.
    bound: f64,
}

impl Pace {
    /// Nothing spent yet, at this moment. Idle time saves up to `credit` of the rate.
    pub fn new(usd_per_hour: f64, credit: Duration, now: f64) -> Pace {
        let (usd_per_second, credit) = (usd_per_hour / 3600.0, credit.as_secs_f64());
        let (worth, ahead, spent, reserved) = (Mean::default(), 0.0, 0.0, 0.0);
        let (own, dearest, bound) = (0.0, 0.0, 0.0);
        Pace { usd_per_second, credit, at: now, ahead, spent, own, reserved, worth, dearest, bound }
    }

    /// The same with what was spent before, and how far ahead of the target that was at this moment.
    pub(super) fn after(self, spent: f64, ahead: f64, worth: Mean) -> Pace {
        Pace { spent, ahead, worth, bound: spent, ..self }
    }

    /// From now on another rate; what was spent stays spent.
    pub fn set_rate(&mut self, usd_per_hour: f64, credit: Duration, now: f64) {
        self.pass(now);
        (self.usd_per_second, self.credit) = (usd_per_hour / 3600.0, credit.as_secs_f64());
    }

    /// Time passes, and the target grows.
    fn pass(&mut self, now: f64) {
        let target = (now - self.at).max(0.0) * self.usd_per_second;
        self.at = self.at.max(now);
        self.ahead = (self.ahead - target).max(-self.credit * self.usd_per_second);
    }

    /// Notes dollars spent.
    pub fn spend(&mut self, usd: f64, now: f64) {
        self.settle(0.0, usd, now);
    }

    /// Counts dollars as ahead of the target before they are spent.
    pub(super) fn reserve(&mut self, usd: f64, now: f64) {
        self.pass(now);
        self.ahead += usd;
        self.reserved += usd;
        self.dearest = self.dearest.max(usd);
    }

    /// Puts what was spent in the place of what was reserved.
    pub(super) fn settle(&mut self, reserved: f64, usd: f64, now: f64) {
        self.pass(now);
        self.ahead += usd - reserved;
        self.reserved = (self.reserved - reserved).max(0.0);
        self.spent += usd;
        self.own += usd;
        self.dearest = self.dearest.max(usd);
    }

    /// Notes that an escalation was on offer that would have been worth `gap` at this cost.
    pub fn weigh(&mut self, gap: f64, usd: f64) {
        let worth = gap.max(0.0) / usd;
        if worth.is_finite() {
            self.worth.add(worth);
        }
    }

    /// λ: what a dollar must be worth now.
    pub fn lambda(&mut self, now: f64) -> f64 {
        self.pass(now);
        let windows = self.ahead.max(0.0) / (self.usd_per_second * WINDOW);
        self.worth.value.unwrap_or(0.0) * windows
    }

    /// All dollars spent.
    pub fn spent_usd(&self) -> f64 {
        self.spent
    }

    /// Dollars spent in this process: what another one spent, and what was counted too much for it, aside.
    pub(super) fn own_usd(&self) -> f64 {
        self.own
    }

    /// Takes in what another process spent, or what was counted too much for it.
    pub(super) fn correct(&mut self, usd: f64, now: f64) {
        self.pass(now);
        self.ahead += usd;
        self.spent += usd;
    }

    /// Dollars spent, those of requests in flight as expected.
    pub(super) fn committed(&self) -> f64 {
        self.spent + self.reserved
    }

    /// Dollars spent ahead of the target, as of the moment they are counted from.
    pub(super) fn ahead(&self) -> (f64, f64) {
        (self.ahead, self.at)
    }

    pub(super) fn worth(&self) -> Mean {
        self.worth
    }

    /// What should count as spent after a crash, so that spending goes on for a while meanwhile.
    pub(super) fn leased(&self) -> f64 {
        self.committed() + self.lease()
    }

    fn lease(&self) -> f64 {
        (LEASE * self.usd_per_second).max(LEASE_SPENDINGS * self.dearest)
    }

    /// What counts as spent after a crash now.
    pub(super) fn bound(&self) -> f64 {
        self.bound
    }

    /// So much counts as spent after a crash from now on.
    pub(super) fn set_bound(&mut self, usd: f64) {
        self.bound = usd;
    }

    /// Whether a crash would forget nothing.
    pub(super) fn is_covered(&self) -> bool {
        self.committed() <= self.bound
    }

    /// Whether the lease is half used up.
    pub(super) fn is_low(&self) -> bool {
        self.committed() + self.lease() / 2.0 > self.bound
    }
}

/// A mean that forgets.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Mean {
    pub(super) count: f64,
    pub(super) value: Option<f64>,
}

impl Mean {
    pub(super) fn add(&mut self, value: f64) {
        self.count = (self.count + 1.0).min(REMEMBERED);
        let mean = self.value.unwrap_or(value);
        self.value = Some(mean + (value - mean) / self.count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn lambda_follows_what_is_spent_ahead_of_the_target_and_is_never_below_zero() {
        let mut pace = Pace::new(4.0, HOUR, 0.0);
        pace.weigh(0.2, 0.01);
        assert_eq!(pace.lambda(0.0), 0.0);
        // A window of the rate ahead: worth 20 per dollar is what a dollar must bring.
        pace.spend(1.0, 0.0);
        assert!((pace.lambda(0.0) - 20.0).abs() < 1e-9);
        assert!((pace.lambda(450.0) - 10.0).abs() < 1e-9, "half a window later");
        assert_eq!((pace.lambda(9000.0), pace.spent_usd()), (0.0, 1.0));
    }

    #[test]
    fn idle_time_is_credited_up_to_a_bound() {
        let mut pace = Pace::new(1.0, HOUR, 0.0);
        pace.weigh(1.0, 1.0);
        let day = 86_400.0;
        pace.spend(1.0, day);
        assert_eq!(pace.lambda(day), 0.0, "an hour's rate was saved");
        pace.spend(0.25, day);
        assert!((pace.lambda(day) - 1.0).abs() < 1e-9, "and no more");
    }

    #[test]
    fn money_given_back_and_a_clock_that_stands_still_change_nothing_else() {
        let mut pace = Pace::new(1.0, HOUR, 5.0);
        pace.reserve(0.5, 5.0);
        pace.settle(0.5, 0.0, 1.0);
        assert_eq!(pace, Pace { dearest: 0.5, ..Pace::new(1.0, HOUR, 5.0) });
    }

    #[test]
    fn what_is_reserved_raises_the_price_and_is_not_spent_so_that_what_is_spent_never_falls() {
        let mut pace = Pace::new(4.0, HOUR, 0.0);
        pace.weigh(1.0, 1.0);
        pace.reserve(1.0, 0.0);
        assert_eq!((pace.lambda(0.0), pace.spent_usd(), pace.committed()), (1.0, 0.0, 1.0));
        pace.settle(1.0, 0.25, 0.0);
        assert_eq!((pace.lambda(0.0), pace.spent_usd(), pace.committed()), (0.25, 0.25, 0.25));
    }

    /// Each second ten requests whose escalation costs a cent and is worth 0 … 1, evenly: at a budget
    /// of two cents a second, a fifth can be afforded, those worth most.
    #[test]
    fn what_is_bought_is_what_is_worth_most() {
        let mut pace = Pace::new(72.0, HOUR, 0.0);
        let (mut bought, mut least) = (0, f64::INFINITY);
        for second in 0..20_000 {
            for request in 0..10 {
                let (now, gap) = (f64::from(second), f64::from((second * 7 + request * 13) % 100) / 100.0);
                pace.weigh(gap, 0.01);
                if gap > pace.lambda(now) * 0.01 {
                    pace.spend(0.01, now);
                    bought += 1;
                    least = if second > 10_000 { gap.min(least) } else { f64::INFINITY };
                }
            }
        }
        let target = 20_000.0 * 0.02;
        assert!((pace.spent_usd() - target).abs() < 0.08 * target, "{}", pace.spent_usd());
        assert!((0.76..0.82).contains(&least), "{bought} bought, worth {least} and more");
    }

    #[test]
    fn a_lease_is_a_minute_of_the_rate_or_several_of_the_dearest_spendings() {
        let mut pace = Pace::new(6.0, HOUR, 0.0);
        assert!((pace.leased() - 0.1).abs() < 1e-12 && pace.is_covered() && pace.is_low());
        pace.set_bound(pace.leased());
        pace.spend(0.04, 0.0);
        assert!(!pace.is_low() || pace.leased() > 0.3, "the lease grows with what is spent at once");
        assert!((pace.leased() - 0.36).abs() < 1e-12 && pace.is_covered());
        pace.spend(0.07, 0.0);
        assert!(!pace.is_covered() && pace.is_low());
    }

    #[test]
    fn a_restored_budget_pays_back_by_the_clock_what_was_spent_ahead() {
        let worth = Mean { count: 1.0, value: Some(1.0) };
        let mut pace = Pace::new(1.0, HOUR, -1800.0).after(5.0, 1.0, worth);
        assert!((pace.lambda(0.0) - 2.0).abs() < 1e-9, "half of it");
        assert_eq!(pace.spent_usd(), 5.0);
    }
}
