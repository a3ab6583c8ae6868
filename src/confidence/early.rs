//! When an answer is given up before its end, because it will hardly become good enough.
//!
//! After some numbers of tokens the score so far is compared with a limit, below which fewer than
//! epsilon of the answers of a fit ended at or above the threshold. Limits are made for a grid of
//! thresholds; a threshold between goes by the next lower one, whose limits are stricter to fall
//! below. Promises: a limit never falls as the threshold rises, so that a score can stand for the
//! whole rule ([`Early::stands_at`]). Made offline, carried by a calibration, asked by a Judge.

use serde::{Deserialize, Serialize};

/// The limits of a score, for a grid of thresholds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Early {
    /// The chance to end at or above the threshold that is given away.
    pub epsilon: f64,
    /// One per threshold, rising.
    pub levels: Vec<Level>,
}

/// The limits where an answer is to end at or above one threshold.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Level {
    /// The threshold.
    pub threshold: f64,
    /// By number of tokens, rising.
    pub limits: Vec<Limit>,
}

/// A limit after so many tokens.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limit {
    /// How many tokens.
    pub tokens: u64,
    /// The answer is given up when its score so far is below this.
    pub below: f64,
}

impl Early {
    /// Whether an answer that goes on after so many tokens with this score is given up, where it must
    /// end at or above `threshold`. A score that is none is left to the gate.
    pub fn is_below(&self, threshold: f64, tokens: u64, score: Option<f64>) -> bool {
        let level = self.levels.iter().rev().find(|level| level.threshold <= threshold);
        let limit = level.and_then(|level| level.limits.iter().find(|limit| limit.tokens == tokens));
        limit.zip(score).is_some_and(|(limit, score)| score < limit.below)
    }

    /// The highest threshold of the grid at which an answer is kept that ends at `score` and had
    /// `at(tokens)` on the way, where it went on after so many; `None`: at none.
    pub fn stands_at(&self, score: f64, at: impl Fn(u64) -> Option<f64>) -> Option<f64> {
        let given_up =
            |level: &Level| level.limits.iter().any(|limit| at(limit.tokens).is_some_and(|s| s < limit.below));
        let kept = self.levels.iter().rev().find(|level| score >= level.threshold && !given_up(level));
        kept.map(|level| level.threshold)
    }

    pub(super) fn check(&self) -> Result<(), String> {
        let epsilon = self.epsilon;
        if !(epsilon > 0.0 && epsilon < 1.0) {
            return Err(format!("epsilon {epsilon} is not between 0 and 1"));
        }
        let limits = || self.levels.iter().flat_map(|level| &level.limits);
        if !(self.levels.iter().all(|level| level.threshold.is_finite()) && limits().all(|it| it.below.is_finite())) {
            return Err("levels: a number is not finite".to_owned());
        }
        let rises = |level: &Level| level.limits.windows(2).all(|pair| pair[0].tokens < pair[1].tokens);
        if !(self.levels.windows(2).all(|pair| pair[0].threshold < pair[1].threshold) && self.levels.iter().all(rises))
        {
            return Err("levels must rise by threshold, and their limits by tokens".to_owned());
        }
        let below = |level: &Level, tokens: u64| level.limits.iter().find(|it| it.tokens == tokens).map(|it| it.below);
        let falls = |pair: &[Level]| {
            pair[0].limits.iter().any(|limit| below(&pair[1], limit.tokens).is_none_or(|above| above < limit.below))
        };
        match self.levels.windows(2).find(|pair| falls(pair)) {
            Some(pair) => Err(format!("levels: a limit falls from threshold {} on", pair[0].threshold)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn early() -> Early {
        let level = |threshold, limits: &[(u64, f64)]| {
            let limits = limits.iter().map(|&(tokens, below)| Limit { tokens, below }).collect();
            Level { threshold, limits }
        };
        let levels = vec![level(0.5, &[(4, 0.1)]), level(0.8, &[(2, 0.2), (4, 0.4)])];
        Early { epsilon: 0.05, levels }
    }

    #[test]
    fn a_limit_is_asked_at_its_number_of_tokens_and_the_next_lower_threshold() {
        let early = early();
        for (threshold, tokens, score, given_up) in [
            (0.8, 4, 0.39, true),
            (0.9, 4, 0.39, true),
            (0.79, 4, 0.39, false),
            (0.79, 4, 0.09, true),
            (0.8, 4, 0.4, false),
            (0.8, 3, 0.0, false),
            (0.8, 2, 0.1, true),
            (0.5, 2, 0.1, false),
            (0.4, 4, 0.0, false),
            (0.8, 4, f64::NAN, false),
        ] {
            assert_eq!(early.is_below(threshold, tokens, Some(score)), given_up, "{threshold} {tokens} {score}");
        }
        assert!(!early.is_below(0.8, 4, None));
    }

    #[test]
    fn an_answer_stands_at_a_threshold_if_it_ends_there_and_was_not_given_up() {
        let early = early();
        let at = |second: f64, fourth: f64| {
            move |tokens| match tokens {
                2 => Some(second),
                4 => Some(fourth),
                _ => None,
            }
        };
        assert_eq!(early.stands_at(0.9, at(0.3, 0.5)), Some(0.8));
        assert_eq!(early.stands_at(0.9, at(0.1, 0.5)), Some(0.5));
        assert_eq!(early.stands_at(0.7, at(0.3, 0.5)), Some(0.5));
        assert_eq!(early.stands_at(0.9, at(0.1, 0.05)), None);
        assert_eq!(early.stands_at(0.9, |_| None), Some(0.8), "it ended before any limit");
    }

    #[test]
    fn what_cannot_stand_for_a_rule_is_refused() {
        assert_eq!(early().check(), Ok(()));
        let with = |change: &dyn Fn(&mut Early)| {
            let mut early = early();
            change(&mut early);
            early.check().unwrap_err()
        };
        assert!(with(&|early| early.epsilon = 1.0).contains("epsilon 1"));
        assert!(with(&|early| early.levels[1].limits[1].below = 0.05).contains("falls from threshold 0.5"));
        assert!(with(&|early| early.levels[1].limits.truncate(1)).contains("falls from threshold 0.5"));
        assert!(with(&|early| early.levels[1].limits.swap(0, 1)).contains("must rise"));
        assert!(with(&|early| early.levels[0].threshold = 0.9).contains("must rise"));
        assert!(with(&|early| early.levels[0].threshold = f64::NAN).contains("not finite"));
    }
}
