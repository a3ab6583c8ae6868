//! The scores of an answer while it grows: one fold per token, all four scores at any time.
//!
//! Promises: O(1) per token, the same values as a scan of the whole trace, NaN is contagious.
//! `execute` keeps one per choice; its text form stands in the `x-weir-confidence` header.

use std::fmt;

use super::ScoreName;
use crate::request::{Token, Trace};

/// The scores of the tokens seen so far.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Running {
    tokens: u64,
    min: f64,
    sum: f64,
    margin: f64,
}

impl Default for Running {
    fn default() -> Self {
        Running { tokens: 0, min: f64::INFINITY, sum: 0.0, margin: f64::INFINITY }
    }
}

impl Running {
    /// The scores of a whole trace.
    pub fn of(trace: &Trace) -> Running {
        let mut running = Running::default();
        for (&logprob, &margin) in trace.logprobs.iter().zip(&trace.margins) {
            running.add(logprob, margin);
        }
        running
    }

    /// Adds one token.
    pub fn push(&mut self, token: &Token) {
        self.add(token.logprob, token.margin);
    }

    /// How many tokens have been seen.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// The score of the tokens so far; `None` when there is none. NaN once a token's number was.
    pub fn value(&self, score: ScoreName) -> Option<f64> {
        if self.tokens == 0 {
            return None;
        }
        Some(match score {
            ScoreName::MinLogprob => self.min,
            ScoreName::MeanLogprob => self.sum / self.tokens as f64,
            ScoreName::SumLogprob => self.sum,
            ScoreName::Margin => self.margin,
        })
    }

    fn add(&mut self, logprob: f32, margin: f32) {
        self.tokens += 1;
        if logprob.is_nan() || margin.is_nan() {
            (self.min, self.sum, self.margin) = (f64::NAN, f64::NAN, f64::NAN);
            return;
        }
        self.sum += f64::from(logprob);
        // After a NaN all three are NaN; the comparison keeps them so.
        if f64::from(logprob) < self.min {
            self.min = f64::from(logprob);
        }
        if f64::from(margin) < self.margin {
            self.margin = f64::from(margin);
        }
    }
}

/// `min_logprob=-1.2, mean_logprob=-0.2, sum_logprob=-3.1, margin=0.4`; empty without a token.
impl fmt::Display for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for score in ScoreName::ALL {
            if let Some(value) = self.value(score) {
                write!(f, "{separator}{score}={}", decimal(value))?;
                separator = ", ";
            }
        }
        Ok(())
    }
}

/// A number as a plain decimal without exponent: to four decimals, or to four significant digits
/// where it is smaller, so that scores near zero keep their order.
pub(super) fn decimal(value: f64) -> String {
    const MOST_DECIMALS: i32 = 12;
    if !value.is_finite() {
        return value.to_string();
    }
    let magnitude = if value == 0.0 { 0 } else { value.abs().log10().floor() as i32 };
    let decimals = (3 - magnitude).clamp(4, MOST_DECIMALS) as usize;
    let text = format!("{value:.decimals$}");
    match text.trim_end_matches('0').trim_end_matches('.') {
        "-0" => "0".to_owned(),
        trimmed => trimmed.to_owned(),
    }
}
