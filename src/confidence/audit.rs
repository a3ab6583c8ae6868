//! The audit of one slice: a sample of its kept answers is graded, and an alarm tells when the promise is broken.
//!
//! **Model.** Each kept answer is drawn with probability π, whatever it is; one that is drawn is graded
//! later with a loss ℓ in \[0, 1\]. Under the promise the mean loss is at most α at every step, given
//! the past. Then with η ≤ π_min/α the product of 1 + η·(A/π)·(ℓ − α), A = 1 where drawn and 0 elsewhere,
//! is the wealth of a bettor who starts with 1 and cannot expect to gain; by Ville's inequality it ever
//! reaches 1/δ with probability δ at most, however often somebody looks (Waudby-Smith & Ramdas,
//! "Estimating means of bounded random variables by betting", 2024). Reaching it is the alarm.
//!
//! **Algorithm.** Capital is spread beforehand over stakes η (the best one depends on the unknown risk)
//! and over the time of the first bet: half bets from the start, the rest enters as 1/(2t(t + 1)) at step
//! t. Without that, a slice that was good for long has lost its capital when it turns bad; with it the
//! alarm comes soon after the change, and the whole is still one fair bet. O(1) time and memory a step.
//!
//! **Honesty.** Propensities travel in the [`Ticket`] of a drawn answer; a drawn answer that could not be
//! graded is counted by reason, and above 5 % of those drawn the slice is unmonitored. Losses given by an
//! upstream bound disagreement with it, not error. **Concurrency.** None; the caller keeps one per slice
//! and stores it with serde.

use serde::{Deserialize, Serialize};

use super::certify::{Promise, Risk};

/// The stakes, as shares of the largest that is allowed, π_min/α. At π = 1 and α = .1 they are η = .25
/// to 4. Below 1 no single loss takes everything.
const STAKES: [f64; 5] = [0.025, 0.05, 0.1, 0.2, 0.4];

/// The share of drawn answers that may stay ungraded, and how many are drawn before it is judged.
const MOST_SKIPPED: f64 = 0.05;
const FEWEST_JUDGED: u64 = 20;

/// Why an answer that was drawn has no grade.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Skipped {
    /// Asking the grader would have cost more than the budget allows.
    Budget,
    /// The grader could not be reached, or could not keep up.
    Outage,
    /// The answer was not complete, or could not be compared.
    Ungradable,
    /// Who was asked for feedback gave none in time.
    Silent,
}

impl Skipped {
    /// The reason's name in logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Skipped::Budget => "budget",
            Skipped::Outage => "outage",
            Skipped::Ungradable => "ungradable",
            Skipped::Silent => "silent",
        }
    }
}

/// A kept answer was drawn to be graded; give it back with the grade, or with why there is none.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[must_use = "an answer that was drawn is graded or skipped, else the audit is blind to it"]
pub struct Ticket {
    propensity: f64,
}

impl Ticket {
    /// The probability with which the answer was drawn, for the log.
    pub fn propensity(self) -> f64 {
        self.propensity
    }
}

/// What happened since the period began.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Counts {
    /// Answers kept local.
    pub kept: u64,
    /// Those of them drawn.
    pub drawn: u64,
    /// Tickets graded, whenever they were drawn.
    pub graded: u64,
    /// The sum of their losses.
    pub losses: f64,
    /// Tickets skipped for budget.
    pub budget: u64,
    /// Tickets skipped for an outage.
    pub outage: u64,
    /// Tickets skipped as ungradable.
    pub ungradable: u64,
    /// Tickets skipped because nobody answered.
    pub silent: u64,
}

impl Counts {
    /// Tickets that got no grade.
    pub fn skipped(&self) -> u64 {
        self.budget + self.outage + self.ungradable + self.silent
    }

    /// Both together.
    #[must_use]
    pub fn and(self, other: Counts) -> Counts {
        Counts {
            kept: self.kept + other.kept,
            drawn: self.drawn + other.drawn,
            graded: self.graded + other.graded,
            losses: self.losses + other.losses,
            budget: self.budget + other.budget,
            outage: self.outage + other.outage,
            ungradable: self.ungradable + other.ungradable,
            silent: self.silent + other.silent,
        }
    }
}

/// The state of one slice's audit; a file keeps it over restarts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Saved", into = "Saved")]
pub struct Audit(Saved);

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Saved {
    promise: Promise,
    least_propensity: f64,
    propensity: f64,
    steps: u64,
    /// What stands on each stake now, summed over the times of the first bet.
    stakes: [f64; STAKES.len()],
    peak: f64,
    period: Counts,
}

impl Audit {
    /// An audit of `promise` that draws with probability `propensity`, and is not expected to draw with
    /// less than `least_propensity` in later periods; an error text unless 0 < least ≤ propensity ≤ 1.
    pub fn check(promise: Promise, least_propensity: f64, propensity: f64) -> Result<Audit, String> {
        check_propensity(least_propensity, propensity)?;
        let stakes = [0.5 / STAKES.len() as f64; STAKES.len()];
        let period = Counts::default();
        Ok(Audit(Saved { promise, least_propensity, propensity, steps: 0, stakes, peak: 1.0, period }))
    }

    /// Begins a period: counts from zero, and draws with `propensity` from now on. The alarm and what
    /// has been bet stay; a propensity below the least declared lowers the stakes from now on, so that
    /// each bet stays fair. An error text when it is not above 0 and at most 1.
    pub fn begin_period(&mut self, propensity: f64) -> Result<(), String> {
        let least = self.0.least_propensity.min(propensity);
        check_propensity(least, propensity)?;
        self.0.least_propensity = least;
        self.0.propensity = propensity;
        self.0.period = Counts::default();
        Ok(())
    }

    /// Notes a kept answer and draws it when `uniform`, a fresh random number in \[0, 1), says so.
    pub fn keep(&mut self, uniform: f64) -> Option<Ticket> {
        self.0.period.kept += 1;
        if uniform >= self.0.propensity {
            return None;
        }
        self.0.period.drawn += 1;
        Some(Ticket { propensity: self.0.propensity })
    }

    /// Notes an answer that was not kept. Its loss is known to be 0 where the promise is about all
    /// answers (joint and regret risk); a selective promise says nothing about it.
    pub fn escalate(&mut self) {
        if self.0.promise.risk() != Risk::Selective {
            self.bet(1.0, 0.0);
        }
    }

    /// Notes the loss of a drawn answer: cut to \[0, 1\], and 1 when it is NaN.
    pub fn grade(&mut self, ticket: Ticket, loss: f64) {
        let loss = if loss.is_nan() { 1.0 } else { loss.clamp(0.0, 1.0) };
        self.0.period.graded += 1;
        self.0.period.losses += loss;
        self.bet(ticket.propensity, loss);
    }

    /// Notes that a drawn answer got no grade.
    pub fn skip(&mut self, _: Ticket, why: Skipped) {
        let count = match why {
            Skipped::Budget => &mut self.0.period.budget,
            Skipped::Outage => &mut self.0.period.outage,
            Skipped::Ungradable => &mut self.0.period.ungradable,
            Skipped::Silent => &mut self.0.period.silent,
        };
        *count += 1;
    }

    /// Notes tickets that were lost: what drew them has ended without a word.
    pub fn lose(&mut self, tickets: u64) {
        self.0.period.outage += tickets;
    }

    /// Whether the promise is broken, with probability 1 − delta. It stays so: a slice that
    /// was certified again, with other labels, gets a new audit.
    pub fn is_alarmed(&self) -> bool {
        self.0.peak >= 1.0 / self.0.promise.delta()
    }

    /// Whether more than 5 % of the period's drawn answers got no grade, once 20 are drawn: then the
    /// missing ones could be the wrong ones, and silence of the alarm means nothing.
    pub fn is_unmonitored(&self) -> bool {
        let Counts { drawn, .. } = self.0.period;
        drawn >= FEWEST_JUDGED && self.0.period.skipped() as f64 > MOST_SKIPPED * drawn as f64
    }

    /// The evidence against the promise: what 1 has become. At 1/delta the alarm goes off.
    pub fn wealth(&self) -> f64 {
        self.0.stakes.iter().sum::<f64>() + idle(self.0.steps)
    }

    /// The most that the wealth has ever been.
    pub fn peak(&self) -> f64 {
        self.0.peak
    }

    /// The probability with which answers are drawn.
    pub fn propensity(&self) -> f64 {
        self.0.propensity
    }

    /// The promise that is audited.
    pub fn promise(&self) -> Promise {
        self.0.promise
    }

    /// What happened since the period began.
    pub fn period(&self) -> Counts {
        self.0.period
    }

    fn bet(&mut self, propensity: f64, loss: f64) {
        if self.is_alarmed() {
            return;
        }
        let alpha = self.0.promise.alpha();
        let entering = (idle(self.0.steps) - idle(self.0.steps + 1)) / STAKES.len() as f64;
        for (stake, share) in self.0.stakes.iter_mut().zip(STAKES) {
            let eta = share * self.0.least_propensity / alpha;
            *stake = (*stake + entering) * (1.0 + eta * (loss - alpha) / propensity);
        }
        self.0.steps += 1;
        self.0.peak = self.0.peak.max(self.wealth());
    }
}

/// The capital that has not entered a bet after `steps`: what enters at step t is 1/(2t(t + 1)), and
/// those sum to ½ − ½/(steps + 1).
fn idle(steps: u64) -> f64 {
    0.5 / (steps + 1) as f64
}

fn check_propensity(least: f64, propensity: f64) -> Result<(), String> {
    if least > 0.0 && least <= propensity && propensity <= 1.0 {
        return Ok(());
    }
    Err(format!("an audit propensity of {propensity} must be above 0, at least the declared {least}, and at most 1"))
}

impl TryFrom<Saved> for Audit {
    type Error = String;

    fn try_from(saved: Saved) -> Result<Audit, String> {
        check_propensity(saved.least_propensity, saved.propensity)?;
        let is_sound = |amount: &f64| amount.is_finite() && *amount >= 0.0;
        if !(saved.stakes.iter().all(is_sound) && is_sound(&saved.peak) && is_sound(&saved.period.losses)) {
            return Err("a saved audit holds an amount that is negative or not finite; start a new one".to_owned());
        }
        Ok(Audit(saved))
    }
}

impl From<Audit> for Saved {
    fn from(audit: Audit) -> Saved {
        audit.0
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::SmallRng;
    use rand::{RngExt, SeedableRng};

    use super::*;

    fn audit(risk: Risk, alpha: f64, propensity: f64) -> Audit {
        Audit::check(Promise::check(risk, alpha, 0.1).unwrap(), propensity, propensity).unwrap()
    }

    /// Feeds kept answers of this risk until the alarm, `horizon` of them at most; how many were graded.
    fn graded_until_alarm(audit: &mut Audit, random: &mut SmallRng, risk: f64, horizon: usize) -> u64 {
        let before = audit.period().graded;
        for _ in 0..horizon {
            if let Some(ticket) = audit.keep(random.random()) {
                audit.grade(ticket, f64::from(random.random::<f64>() < risk));
            }
            if audit.is_alarmed() {
                break;
            }
        }
        audit.period().graded - before
    }

    #[test]
    fn without_a_loss_the_wealth_follows_its_formula() {
        let mut audit = audit(Risk::Selective, 0.1, 0.5);
        assert!((audit.wealth() - 1.0).abs() < 1e-12);
        let ticket = audit.keep(0.499).unwrap();
        assert_eq!(ticket.propensity(), 0.5);
        assert_eq!(audit.keep(0.5), None);
        audit.grade(ticket, 0.0);
        // Every stake s holds 1/10 + 1/20 and shrinks by 1 − s; a quarter has not entered.
        let expected: f64 = STAKES.iter().map(|stake| 0.15 * (1.0 - stake)).sum();
        assert!((audit.wealth() - expected - 0.25).abs() < 1e-12);
    }

    #[test]
    fn the_bet_is_fair_at_alpha_after_every_history() {
        // Brute force: the mean over all 2^9 courses of nine losses, each weighted by its probability.
        let alpha = 0.3;
        let mut mean = 0.0;
        for course in 0u32..1 << 9 {
            let mut audit = audit(Risk::Selective, alpha, 1.0);
            let mut probability = 1.0;
            for step in 0..9 {
                let loss = f64::from(course >> step & 1);
                probability *= if loss == 1.0 { alpha } else { 1.0 - alpha };
                let ticket = audit.keep(0.0).unwrap();
                if !audit.is_alarmed() {
                    audit.grade(ticket, loss);
                }
            }
            mean += probability * audit.wealth();
        }
        assert!((mean - 1.0).abs() < 1e-9, "{mean}");
    }

    #[test]
    fn at_a_risk_of_exactly_alpha_false_alarms_stay_below_delta() {
        let mut random = SmallRng::seed_from_u64(11);
        for (propensity, horizon) in [(1.0, 600), (0.25, 1200)] {
            let false_alarms = (0..300)
                .filter(|_| {
                    let mut audit = audit(Risk::Selective, 0.1, propensity);
                    graded_until_alarm(&mut audit, &mut random, 0.1, horizon);
                    audit.is_alarmed()
                })
                .count();
            // delta·300 and three standard deviations.
            assert!(false_alarms <= 30 + 16, "{false_alarms} of 300 at {propensity}");
        }
    }

    #[test]
    fn a_slice_that_turns_bad_raises_the_alarm_even_after_a_long_good_time() {
        let mut random = SmallRng::seed_from_u64(5);
        for good in [0, 1000] {
            let mut delays: Vec<u64> = (0..60)
                .map(|_| {
                    let mut audit = audit(Risk::Selective, 0.1, 1.0);
                    graded_until_alarm(&mut audit, &mut random, 0.02, good);
                    assert!(!audit.is_alarmed());
                    let delay = graded_until_alarm(&mut audit, &mut random, 0.5, 500);
                    assert!(audit.is_alarmed());
                    delay
                })
                .collect();
            delays.sort_unstable();
            println!("after {good} good audits: alarm after {} more (median), {} (most)", delays[30], delays[59]);
            assert!(delays[30] < 100);
        }
    }

    #[test]
    fn unkept_answers_speak_for_a_joint_promise_and_not_for_a_selective_one() {
        let [mut joint, mut selective] = [Risk::Joint, Risk::Selective].map(|risk| audit(risk, 0.1, 1.0));
        for audit in [&mut joint, &mut selective] {
            for step in 0..400 {
                // One answer in ten is kept, and half of those are wrong: .05 of all, .5 of the kept.
                if step % 10 == 0 {
                    let ticket = audit.keep(0.0).unwrap();
                    audit.grade(ticket, f64::from(step % 20 == 0));
                } else {
                    audit.escalate();
                }
            }
        }
        assert!(!joint.is_alarmed() && selective.is_alarmed());
    }

    #[test]
    fn an_alarm_stays_whatever_comes_after() {
        let mut audit = audit(Risk::Selective, 0.1, 1.0);
        while !audit.is_alarmed() {
            let ticket = audit.keep(0.0).unwrap();
            audit.grade(ticket, f64::NAN);
        }
        for _ in 0..1000 {
            let ticket = audit.keep(0.0).unwrap();
            audit.grade(ticket, 0.0);
        }
        audit.begin_period(1.0).unwrap();
        assert!(audit.is_alarmed());
    }

    #[test]
    fn a_more_frequent_draw_in_a_later_period_weighs_less() {
        let mut audit = audit(Risk::Selective, 0.1, 0.1);
        assert!(audit.begin_period(0.0).is_err() && audit.begin_period(1.1).is_err());
        assert!(audit.begin_period(f64::NAN).is_err());
        let rare = audit.keep(0.0).unwrap();
        audit.begin_period(0.5).unwrap();
        let frequent = audit.keep(0.0).unwrap();
        let [mut one, mut other] = [audit.clone(), audit];
        one.grade(rare, 1.0);
        other.grade(frequent, 1.0);
        assert!(one.wealth() > other.wealth());
    }

    #[test]
    fn a_rarer_draw_in_a_later_period_lowers_the_stakes_and_no_bet_can_lose_more_than_its_stake() {
        let mut audit = audit(Risk::Selective, 0.1, 0.5);
        let frequent = audit.keep(0.0).unwrap();
        audit.begin_period(0.05).unwrap();
        let rare = audit.keep(0.0).unwrap();
        let [mut one, mut other] = [audit.clone(), audit];
        one.grade(frequent, 1.0);
        other.grade(rare, 1.0);
        assert!(one.wealth() < other.wealth());
        for _ in 0..1000 {
            other.grade(rare, 0.0);
            assert!(other.wealth() > 0.0);
        }
    }

    #[test]
    fn above_five_in_a_hundred_without_a_grade_the_slice_is_unmonitored() {
        let mut audit = audit(Risk::Selective, 0.1, 1.0);
        let tickets: Vec<Ticket> = (0..60).map(|_| audit.keep(0.0).unwrap()).collect();
        for (at, why) in [Skipped::Budget, Skipped::Outage, Skipped::Ungradable].into_iter().enumerate() {
            audit.skip(tickets[at], why);
        }
        assert_eq!((audit.period().skipped(), audit.is_unmonitored()), (3, false));
        audit.skip(tickets[3], Skipped::Outage);
        assert!(audit.is_unmonitored());
        audit.begin_period(1.0).unwrap();
        assert!(!audit.is_unmonitored());
        let ticket = audit.keep(0.0).unwrap();
        audit.skip(ticket, Skipped::Budget);
        assert!(!audit.is_unmonitored(), "one of one says nothing yet");
    }

    #[test]
    fn a_saved_audit_goes_on_where_it_stood_and_a_spoilt_one_is_refused() {
        let mut random = SmallRng::seed_from_u64(2);
        let mut live = audit(Risk::Selective, 0.2, 0.5);
        graded_until_alarm(&mut live, &mut random, 0.2, 200);
        let text = serde_json::to_string(&live).unwrap();
        let mut restored: Audit = serde_json::from_str(&text).unwrap();
        assert_eq!(restored, live);
        for audit in [&mut live, &mut restored] {
            let ticket = audit.keep(0.1).unwrap();
            audit.grade(ticket, 0.7);
        }
        assert_eq!(restored.wealth().to_bits(), live.wealth().to_bits());
        let mut spoilt: serde_json::Value = serde_json::from_str(&text).unwrap();
        spoilt["peak"] = (-1.0).into();
        assert!(serde_json::from_value::<Audit>(spoilt).is_err());
    }
}
