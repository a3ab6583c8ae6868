//! How far a small model's answer may be believed, from its own log-probabilities.
//!
//! **Model.** While a model generates, it says for every token y_t how probable that token was,
//! ℓ_t = ln q(y_t | x, y_<t), and how far ahead of the next best it stood. An answer is accepted
//! when one number made of these is high enough; otherwise a larger model is asked. This is Chow's
//! rule (Chow, "On optimum recognition error and reject tradeoff", 1970) with a score in place of
//! the unknown probability of being right. Four scores are offered, all over the tokens generated,
//! the end-of-turn token included, natural logarithms, from the raw logits at temperature 1:
//!
//! | score | formula | what it sees | what it misses |
//! |---|---|---|---|
//! | `min_logprob` | min_t ℓ_t | one doubtful token | many slightly doubtful ones |
//! | `mean_logprob` | (Σ_t ℓ_t) / T | the general tone | one fatal token in a long answer |
//! | `sum_logprob` | Σ_t ℓ_t | the probability of the whole answer | punishes length |
//! | `margin` | min_t (z₍₁₎ − z₍₂₎) | a close call between two tokens | a flat distribution's tail |
//!
//! (Sum and mean are "Chow-Sum" and "Chow-Average" in Gupta et al., "Language model cascades:
//! token-level uncertainty and beyond", 2024, who measure both biases of length.)
//!
//! **Algorithm.** [`Running`] folds tokens one at a time into all four scores: O(1) time per token,
//! five numbers of memory, no rescans. Every ℓ_t ≤ 0, so minimum, sum and margin can only fall as
//! the answer grows; the mean can rise again. Hence a gate may give up early on the first three as
//! soon as the threshold is crossed, and must wait for the mean ([`Judge::is_lost`]).
//!
//! **Numerics.** Sums are kept in f64. A NaN anywhere makes every score NaN, and NaN is never
//! accepted; an answer without a token has no score and is never accepted: doubt escalates.
//!
//! **Concurrency.** None: pure values, no locks, no clock. `execute` holds one [`Running`] per
//! choice of an answer; `policy` makes the [`Judge`]s; `api` renders scores into headers.

pub mod audit;
pub mod bounds;
pub mod certify;
mod running;
#[cfg(test)]
mod tests;

use std::fmt;

pub use running::Running;

/// A number read off a [`crate::request::Trace`] by which an answer is accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ScoreName {
    /// Smallest log-probability of a token.
    MinLogprob,
    /// Mean log-probability.
    MeanLogprob,
    /// Sum of log-probabilities: the log-probability of the whole answer.
    SumLogprob,
    /// Smallest gap between the two most probable tokens' logits.
    Margin,
}

impl ScoreName {
    /// Every score, in the order of headers and tables.
    pub const ALL: [ScoreName; 4] =
        [ScoreName::MinLogprob, ScoreName::MeanLogprob, ScoreName::SumLogprob, ScoreName::Margin];

    /// The name in policy files, headers and metrics.
    pub fn name(self) -> &'static str {
        match self {
            ScoreName::MinLogprob => "min_logprob",
            ScoreName::MeanLogprob => "mean_logprob",
            ScoreName::SumLogprob => "sum_logprob",
            ScoreName::Margin => "margin",
        }
    }

    /// The score of this name; `None` when there is none.
    pub fn parse(name: &str) -> Option<ScoreName> {
        ScoreName::ALL.into_iter().find(|score| score.name() == name)
    }

    /// Whether a further token can never raise it, so that a gate may give up early.
    pub fn can_only_fall(self) -> bool {
        !matches!(self, ScoreName::MeanLogprob)
    }
}

impl fmt::Display for ScoreName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The condition of a gate: a named score and its threshold.
#[derive(Debug, Clone, PartialEq)]
pub struct Judge {
    /// Which number.
    pub score: ScoreName,
    /// Accept at this or more; `None`: never accept (nothing certified, no fallback threshold).
    pub at_least: Option<f64>,
    /// Whether the threshold is only an uncertified fallback (`else_threshold`).
    pub uncertified: bool,
}

impl Judge {
    /// Accepts when `score` is `threshold` or more.
    pub fn at_least(score: ScoreName, threshold: f64) -> Judge {
        Judge { score, at_least: Some(threshold), uncertified: false }
    }

    /// The judge of an error bound that nothing certifies: accepts when exp(`min_logprob`) is
    /// `probability` or more, that is when `min_logprob` ≥ ln `probability`; `None` never accepts.
    pub fn uncertified(probability: Option<f64>) -> Judge {
        Judge { score: ScoreName::MinLogprob, at_least: probability.map(f64::ln), uncertified: true }
    }

    /// Whether a score of this value is accepted. NaN never is.
    pub fn accepts(&self, value: f64) -> bool {
        self.at_least.is_some_and(|threshold| value >= threshold)
    }

    /// Whether the answer so far, taken as the whole, is accepted. Without a token it never is.
    pub fn accepts_answer(&self, answer: &Running) -> bool {
        answer.value(self.score).is_some_and(|value| self.accepts(value))
    }

    /// Whether no continuation of the answer so far can be accepted, so that waiting is waste.
    pub fn is_lost(&self, answer: &Running) -> bool {
        if self.at_least.is_none() {
            return true;
        }
        match answer.value(self.score) {
            Some(value) if value.is_nan() => true,
            Some(value) => self.score.can_only_fall() && !self.accepts(value),
            None => false,
        }
    }
}

impl fmt::Display for Judge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.at_least {
            Some(threshold) => write!(f, "{} >= {}", self.score, running::decimal(threshold))?,
            None => write!(f, "{}: never accepted", self.score)?,
        }
        f.write_str(if self.uncertified { " (uncertified)" } else { "" })
    }
}
