//! A candidate on trial against the model it would replace, and when the trial is lost.
//!
//! **Model.** Each observation of a [`Test`] is a loss of 0 or 1: a request that the candidate failed, or
//! a request that both answered, on which it disagreed, was slower, or was less sure. The candidate is
//! fit while the mean loss of every test stays at or below its limit; each test is the e-process of
//! [`super::audit`], so that looking after every request costs nothing. With the false-alarm rate split
//! evenly over the tests, a candidate within all limits is ever given up with that probability at most.
//!
//! Pure and cheap; `execute` keeps one behind a lock, `control` acts on its verdict.

use serde::{Deserialize, Serialize};

use super::Risk;
use super::audit::Audit;
use super::certify::Promise;

/// What is tested.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Test {
    /// Requests of its own that the candidate failed.
    Failures,
    /// Answers that do not say what the current model's say.
    Disagreement,
    /// Answers that took more time per token than the allowed multiple of the current model's.
    Slower,
    /// Answers with a lower mean log-probability than the current model's.
    LessSure,
}

impl Test {
    /// Every test.
    pub const ALL: [Test; 4] = [Test::Failures, Test::Disagreement, Test::Slower, Test::LessSure];

    /// Its name in files, metrics and answers.
    pub fn name(self) -> &'static str {
        match self {
            Test::Failures => "failures",
            Test::Disagreement => "disagreement",
            Test::Slower => "slower",
            Test::LessSure => "less_sure",
        }
    }
}

/// The largest mean loss of each test that is still fit, each between 0 and 1, ends excluded.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Bounds {
    /// The probability of giving up a candidate that is within all limits.
    pub false_alarm: f64,
    /// Of [`Test::Failures`].
    pub max_failures: f64,
    /// Of [`Test::Disagreement`].
    pub max_disagreement: f64,
    /// Of [`Test::Slower`].
    pub max_slower: f64,
    /// Of [`Test::LessSure`].
    pub max_less_sure: f64,
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds { false_alarm: 0.05, max_failures: 0.02, max_disagreement: 0.3, max_slower: 0.5, max_less_sure: 0.75 }
    }
}

impl Bounds {
    fn of(&self, test: Test) -> f64 {
        match test {
            Test::Failures => self.max_failures,
            Test::Disagreement => self.max_disagreement,
            Test::Slower => self.max_slower,
            Test::LessSure => self.max_less_sure,
        }
    }
}

/// How a test stands.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Standing {
    /// Which.
    pub test: Test,
    /// Observations.
    pub seen: u64,
    /// The mean loss; `None` before the first.
    pub rate: Option<f64>,
    /// The largest mean loss that is still fit.
    pub limit: f64,
    /// The evidence against the candidate: what a bet of 1 on its being unfit has become.
    pub evidence: f64,
    /// At this evidence the candidate is given up.
    pub gives_up_at: f64,
}

/// How a canary stands.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CanaryStatus {
    /// The model that it would replace.
    pub model: String,
    /// The share of requests that it is to answer.
    pub share: f64,
    /// The tenants that it answers.
    pub tenants: Vec<String>,
    /// Requests that it answered.
    pub answered: u64,
    /// Requests that it failed.
    pub failed: u64,
    /// Requests that the current model answered meanwhile.
    pub current_answered: u64,
    /// Requests that the current model failed meanwhile.
    pub current_failed: u64,
    /// How the tests stand.
    pub tests: Vec<Standing>,
    /// The test that it has failed; it is given up then.
    pub lost: Option<Test>,
}

/// The trial of one candidate.
#[derive(Debug, Clone, PartialEq)]
pub struct Trial {
    tests: [(Test, Audit); Test::ALL.len()],
}

impl Trial {
    /// A trial that has seen nothing; an error text when a bound is not strictly between 0 and 1.
    pub fn check(bounds: &Bounds) -> Result<Trial, String> {
        let rate = bounds.false_alarm;
        if !(rate > 0.0 && rate < 1.0) {
            return Err(format!("false_alarm is {rate}; it must lie between 0 and 1, ends excluded"));
        }
        let each = rate / Test::ALL.len() as f64;
        let audit = |test: Test| {
            let promise =
                Promise::check(Risk::Joint, bounds.of(test), each).map_err(|why| format!("{}: {why}", test.name()))?;
            Ok::<_, String>((test, Audit::check(promise, 1.0, 1.0)?))
        };
        let [a, b, c, d] = Test::ALL.map(audit);
        Ok(Trial { tests: [a?, b?, c?, d?] })
    }

    /// Notes an observation.
    pub fn note(&mut self, test: Test, lost: bool) {
        for (known, audit) in &mut self.tests {
            if *known == test
                && let Some(ticket) = audit.keep(0.0)
            {
                audit.grade(ticket, f64::from(u8::from(lost)));
            }
        }
    }

    /// The first test that says the candidate is unfit. It stays so.
    pub fn lost(&self) -> Option<Test> {
        self.tests.iter().find(|(_, audit)| audit.is_alarmed()).map(|(test, _)| *test)
    }

    /// How the tests stand.
    pub fn standings(&self) -> Vec<Standing> {
        let standing = |(test, audit): &(Test, Audit)| {
            let seen = audit.period().graded;
            Standing {
                test: *test,
                seen,
                rate: (seen > 0).then(|| audit.period().losses / seen as f64),
                limit: audit.promise().alpha(),
                evidence: audit.wealth(),
                gives_up_at: 1.0 / audit.promise().delta(),
            }
        };
        self.tests.iter().map(standing).collect()
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::SmallRng;
    use rand::{RngExt, SeedableRng};

    use super::*;

    /// Whether a candidate with these true rates is given up within so many observations of each test.
    fn given_up(random: &mut SmallRng, rates: [f64; 4], horizon: usize) -> bool {
        let mut trial = Trial::check(&Bounds::default()).unwrap();
        for _ in 0..horizon {
            for (test, rate) in Test::ALL.into_iter().zip(rates) {
                trial.note(test, random.random::<f64>() < rate);
            }
            if trial.lost().is_some() {
                return true;
            }
        }
        false
    }

    #[test]
    fn a_candidate_at_every_limit_is_given_up_with_the_false_alarm_rate_at_most() {
        let mut random = SmallRng::seed_from_u64(7);
        let given_up = (0..200).filter(|_| given_up(&mut random, [0.02, 0.3, 0.5, 0.75], 400)).count();
        // 200 runs at 5 %: 10 expected at most, 20 is three standard deviations more.
        assert!(given_up <= 20, "{given_up}");
    }

    #[test]
    fn a_candidate_beyond_one_limit_is_given_up_for_it() {
        let mut random = SmallRng::seed_from_u64(8);
        for (place, rates) in [[0.3, 0.0, 0.0, 0.0], [0.0, 0.7, 0.0, 0.0], [0.0, 0.0, 0.95, 0.0], [0.0, 0.0, 0.0, 1.0]]
            .into_iter()
            .enumerate()
        {
            let mut trial = Trial::check(&Bounds::default()).unwrap();
            let mut seen = 0;
            while trial.lost().is_none() && seen < 1000 {
                seen += 1;
                for (test, rate) in Test::ALL.into_iter().zip(rates) {
                    trial.note(test, random.random::<f64>() < rate);
                }
            }
            assert_eq!(trial.lost(), Some(Test::ALL[place]), "{seen}");
        }
    }

    #[test]
    fn a_bound_that_is_no_rate_is_refused_by_its_name() {
        for bad in [0.0, 1.0, -0.5, f64::NAN] {
            let refused = Trial::check(&Bounds { max_slower: bad, ..Bounds::default() }).unwrap_err();
            assert!(refused.starts_with("slower: alpha is"), "{refused}");
            assert!(Trial::check(&Bounds { false_alarm: bad, ..Bounds::default() }).is_err());
        }
    }

    #[test]
    fn what_was_seen_is_told_test_by_test() {
        let mut trial = Trial::check(&Bounds::default()).unwrap();
        trial.note(Test::Slower, true);
        trial.note(Test::Slower, false);
        let slower = trial.standings().into_iter().find(|standing| standing.test == Test::Slower).unwrap();
        assert_eq!((slower.seen, slower.rate, slower.limit), (2, Some(0.5), 0.5));
        assert_eq!(slower.gives_up_at.round(), 80.0);
        assert!(trial.standings().iter().filter(|standing| standing.test != Test::Slower).all(|it| it.seen == 0));
    }
}
