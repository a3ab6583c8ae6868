//! Holds a rate of spending: what an escalation must be worth, so that money is neither hoarded nor gone.
//!
//! The dual price λ of a budget per time (primal–dual pacing: Balseiro & Gur, "Learning in repeated
//! auctions with budgets", 2019): λ ← max(0, λ + η(spent − target)), the target growing with the
//! clock. Kept as the dollars spent ahead of the target, so that λ follows at once and the account
//! stays exact whatever η is. Promises: idle time is credited up to a bound; a reload changes rates
//! and forgets no spending; the number of budgets is bounded. [`Pace`] is pure arithmetic; [`Pacers`]
//! has the clock and the locks. Asked by the Meter, read by `observe`.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::confidence::gap::{Pacing, Per};
use crate::request::{ModelId, TenantId};

/// How many seconds of the rate, spent ahead of the target, make an escalation of usual worth break even.
const WINDOW: f64 = 900.0;
/// After so many values a mean forgets the oldest ones.
const REMEMBERED: f64 = 200.0;
/// The tokens of an answer of which nothing is known.
const USUAL_OUTPUT: f64 = 256.0;
/// How many budgets there may be; beyond, tenants share one.
const MOST_PACERS: usize = 1024;
/// Who pays where all pay together.
const ALL: &str = "all";
/// Who pays where there are too many to tell.
const OTHER: &str = "other";

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
    /// What escalations are usually worth per dollar.
    worth: Mean,
}

impl Pace {
    /// Nothing spent yet, at this moment. Idle time saves up to `credit` of the rate.
    pub fn new(usd_per_hour: f64, credit: Duration, now: f64) -> Pace {
        let (usd_per_second, credit) = (usd_per_hour / 3600.0, credit.as_secs_f64());
        Pace { usd_per_second, credit, at: now, ahead: 0.0, spent: 0.0, worth: Mean::default() }
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
    }

    /// Puts what was spent in the place of what was reserved.
    pub(super) fn settle(&mut self, reserved: f64, usd: f64, now: f64) {
        self.pass(now);
        self.ahead += usd - reserved;
        self.spent += usd;
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

    /// All dollars spent; what is only reserved does not count, so that it never falls.
    pub fn spent_usd(&self) -> f64 {
        self.spent
    }
}

/// A mean that forgets.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Mean {
    count: f64,
    value: Option<f64>,
}

impl Mean {
    fn add(&mut self, value: f64) {
        self.count = (self.count + 1.0).min(REMEMBERED);
        let mean = self.value.unwrap_or(value);
        self.value = Some(mean + (value - mean) / self.count);
    }
}

/// One budget that requests share.
#[derive(Debug)]
pub(super) struct Pacer(Mutex<Pace>);

impl Pacer {
    pub(super) fn pace(&self) -> MutexGuard<'_, Pace> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Every budget of the process, and how long upstreams' answers are.
#[derive(Debug)]
pub struct Pacers {
    opened: Instant,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    /// By policy and payer.
    pacers: BTreeMap<(Arc<str>, Arc<str>), Arc<Pacer>>,
    outputs: HashMap<ModelId, Mean>,
}

/// How a budget stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Paced {
    /// The policy whose budget it is.
    pub policy: Arc<str>,
    /// Who pays: a tenant, `all`, or `other` beyond 1024 of them.
    pub tenant: Arc<str>,
    /// What a dollar must be worth.
    pub lambda: f64,
    /// Dollars spent since the start by requests that are over.
    pub spent_usd: f64,
    /// Dollars that idle time has saved up; below 0: spent ahead of the rate.
    pub left_usd: f64,
}

impl Default for Pacers {
    fn default() -> Self {
        Pacers { opened: Instant::now(), table: Mutex::default() }
    }
}

impl Pacers {
    /// Seconds since the start.
    pub(super) fn now(&self) -> f64 {
        self.opened.elapsed().as_secs_f64()
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The budget that this tenant's request is paid from, at the rate that is wanted now.
    pub(super) fn of(&self, pacing: &Pacing, tenant: &TenantId) -> Arc<Pacer> {
        let now = self.now();
        let payer = match pacing.per {
            Per::Tenant => tenant.as_str(),
            Per::All => ALL,
        };
        let mut table = self.table();
        let mut key = (Arc::clone(&pacing.policy), Arc::from(payer));
        if table.pacers.len() >= MOST_PACERS && !table.pacers.contains_key(&key) {
            key.1 = Arc::from(OTHER);
        }
        let new = || Arc::new(Pacer(Mutex::new(Pace::new(pacing.usd_per_hour, pacing.credit, now))));
        let pacer = Arc::clone(table.pacers.entry(key).or_insert_with(new));
        drop(table);
        pacer.pace().set_rate(pacing.usd_per_hour, pacing.credit, now);
        pacer
    }

    /// How many tokens this model's answers have on average.
    pub(super) fn usual_output(&self, model: &ModelId) -> f64 {
        self.table().outputs.get(model).and_then(|mean| mean.value).unwrap_or(USUAL_OUTPUT)
    }

    /// Notes how long an answer was.
    pub(super) fn saw_output(&self, model: &ModelId, tokens: u64) {
        self.table().outputs.entry(model.clone()).or_default().add(tokens as f64);
    }

    /// How every budget stands now.
    pub fn stand(&self) -> Vec<Paced> {
        let now = self.now();
        let pacers: Vec<_> = self.table().pacers.iter().map(|(key, pacer)| (key.clone(), Arc::clone(pacer))).collect();
        let stand = |((policy, tenant), pacer): ((Arc<str>, Arc<str>), Arc<Pacer>)| {
            let mut pace = pacer.pace();
            let lambda = pace.lambda(now);
            Paced { policy, tenant, lambda, spent_usd: pace.spent_usd(), left_usd: -pace.ahead }
        };
        pacers.into_iter().map(stand).collect()
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
        assert_eq!(pace, Pace::new(1.0, HOUR, 5.0));
    }

    #[test]
    fn what_is_reserved_raises_the_price_and_is_not_spent_so_that_what_is_spent_never_falls() {
        let mut pace = Pace::new(4.0, HOUR, 0.0);
        pace.weigh(1.0, 1.0);
        pace.reserve(1.0, 0.0);
        assert_eq!((pace.lambda(0.0), pace.spent_usd()), (1.0, 0.0));
        pace.settle(1.0, 0.25, 0.0);
        assert_eq!((pace.lambda(0.0), pace.spent_usd()), (0.25, 0.25));
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

    fn pacing(usd_per_hour: f64, per: Per) -> Pacing {
        Pacing { policy: "p".into(), usd_per_hour, per, credit: HOUR }
    }

    #[tokio::test(start_paused = true)]
    async fn tenants_have_budgets_of_their_own_or_one_in_all() {
        let pacers = Pacers::default();
        let [a, b] = ["a", "b"].map(TenantId::new);
        pacers.of(&pacing(1.0, Per::Tenant), &a).pace().spend(0.5, 0.0);
        pacers.of(&pacing(1.0, Per::Tenant), &b).pace().spend(0.25, 0.0);
        for tenant in [&a, &b] {
            pacers.of(&pacing(1.0, Per::All), tenant).pace().spend(1.0, 0.0);
        }
        let spent: Vec<_> = pacers.stand().iter().map(|one| (one.tenant.to_string(), one.spent_usd)).collect();
        assert_eq!(spent, [("a".to_owned(), 0.5), ("all".to_owned(), 2.0), ("b".to_owned(), 0.25)]);
    }

    #[tokio::test(start_paused = true)]
    async fn another_rate_forgets_no_spending() {
        let pacers = Pacers::default();
        let tenant = TenantId::anonymous();
        let pacer = pacers.of(&pacing(4.0, Per::All), &tenant);
        pacer.pace().weigh(1.0, 1.0);
        pacer.pace().spend(1.0, 0.0);
        let again = pacers.of(&pacing(8.0, Per::All), &tenant);
        assert!(Arc::ptr_eq(&pacer, &again));
        assert!((pacers.stand()[0].lambda - 0.5).abs() < 1e-9, "the same dollar is half a window of it");
    }

    #[tokio::test(start_paused = true)]
    async fn too_many_tenants_share_a_budget() {
        let pacers = Pacers::default();
        for number in 0..MOST_PACERS + 10 {
            pacers.of(&pacing(1.0, Per::Tenant), &TenantId::new(format!("t{number}"))).pace().spend(1.0, 0.0);
        }
        let stand = pacers.stand();
        assert_eq!(stand.len(), MOST_PACERS + 1);
        assert_eq!(stand.iter().find(|one| &*one.tenant == OTHER).map(|one| one.spent_usd), Some(10.0));
    }

    #[tokio::test(start_paused = true)]
    async fn how_long_answers_are_is_learned() {
        let (pacers, model) = (Pacers::default(), ModelId::new("up/m"));
        assert_eq!(pacers.usual_output(&model), USUAL_OUTPUT);
        [10, 20, 30].into_iter().for_each(|tokens| pacers.saw_output(&model, tokens));
        assert_eq!(pacers.usual_output(&model), 20.0);
    }
}
