//! The features of an answer while it grows: one fold per token, every feature at any time.
//!
//! Promises: O(1) per token and no allocation, the same values as a scan of the whole trace, NaN
//! is contagious. Quantiles come from a histogram and lie in the same bin as the exact ones.
//! `execute` keeps one per choice; its text form stands in the `x-weir-confidence` header.

use std::fmt;

use super::{Feature, Features};
use crate::request::{Token, Trace};

/// The features of the tokens seen so far.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Running {
    tokens: u64,
    logprob: Series,
    margin: Series,
    entropy: Series,
    uncertain: u64,
    ended: bool,
    unsureness: Histogram,
}

impl Default for Running {
    fn default() -> Self {
        Running {
            tokens: 0,
            logprob: Series::EMPTY,
            margin: Series::EMPTY,
            entropy: Series::EMPTY,
            uncertain: 0,
            ended: false,
            unsureness: Histogram::default(),
        }
    }
}

impl Running {
    /// The features of a whole trace.
    pub fn of(trace: &Trace) -> Running {
        let mut running = Running::default();
        for ((&logprob, &margin), &entropy) in trace.logprobs.iter().zip(&trace.margins).zip(&trace.entropies) {
            running.add(logprob, margin, entropy);
        }
        running.ended = trace.ended;
        running
    }

    /// The features after each token of a trace.
    pub fn along(trace: &Trace) -> impl Iterator<Item = Running> {
        let numbers = trace.logprobs.iter().zip(&trace.margins).zip(&trace.entropies);
        numbers.scan(Running::default(), |running, ((&logprob, &margin), &entropy)| {
            running.add(logprob, margin, entropy);
            running.ended = trace.ended && running.tokens == trace.len() as u64;
            Some(*running)
        })
    }

    /// Whether the last token ended the turn.
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// Adds one token.
    pub fn push(&mut self, token: &Token) {
        self.add(token.logprob, token.margin, token.entropy);
        self.ended = token.end;
    }

    /// How many tokens have been seen.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// The feature of the tokens so far; `None` when there is none. NaN once a token's number was, and
    /// where the feature is not of the tokens ([`Feature::source`]).
    pub fn value(&self, feature: Feature) -> Option<f64> {
        if self.tokens == 0 {
            return None;
        }
        Some(if self.is_spoilt() { f64::NAN } else { self.compute(feature) })
    }

    /// Whether a token's number was NaN, so that no feature will ever be a number again.
    pub fn is_spoilt(&self) -> bool {
        [self.logprob, self.margin, self.entropy].iter().any(|series| series.sum.is_nan())
    }

    /// All features of the tokens so far; `None` when there is no token.
    pub fn features(&self) -> Option<Features> {
        (self.tokens > 0).then(|| Features::of(|feature| self.value(feature).unwrap_or(f64::NAN)))
    }

    fn compute(&self, feature: Feature) -> f64 {
        let count = self.tokens as f64;
        let quantile = |share: f64| -self.unsureness.quantile(1.0 - share, -self.logprob.max, -self.logprob.min);
        match feature {
            Feature::MinLogprob => self.logprob.min,
            Feature::MeanLogprob => self.logprob.sum / count,
            Feature::SumLogprob => self.logprob.sum,
            Feature::Margin => self.margin.min,
            Feature::FirstLogprob => self.logprob.first,
            Feature::LogprobQ10 => quantile(0.1),
            Feature::LogprobQ25 => quantile(0.25),
            Feature::LogprobQ50 => quantile(0.5),
            Feature::MeanMargin => self.margin.sum / count,
            Feature::FirstMargin => self.margin.first,
            Feature::MeanEntropy => self.entropy.sum / count,
            Feature::MaxEntropy => self.entropy.max,
            Feature::FirstEntropy => self.entropy.first,
            Feature::UncertainShare => self.uncertain as f64 / count,
            Feature::LogTokens => count.ln(),
            Feature::Ended => f64::from(u8::from(self.ended)),
            // Not of the tokens.
            _ => f64::NAN,
        }
    }

    fn add(&mut self, logprob: f32, margin: f32, entropy: f32) {
        let first = self.tokens == 0;
        self.tokens += 1;
        self.logprob.add(logprob, first);
        self.margin.add(margin, first);
        self.entropy.add(entropy, first);
        self.uncertain += u64::from(logprob < -std::f32::consts::LN_2);
        self.unsureness.add(-logprob);
    }
}

/// What is kept of one number per token. After a NaN the sum is NaN, and the rest means nothing.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Series {
    first: f64,
    min: f64,
    max: f64,
    sum: f64,
}

impl Series {
    const EMPTY: Series = Series { first: 0.0, min: f64::INFINITY, max: f64::NEG_INFINITY, sum: 0.0 };

    fn add(&mut self, value: f32, first: bool) {
        let value = f64::from(value);
        if first {
            self.first = value;
        }
        self.min = self.min.min(value);
        self.max = self.max.max(value);
        self.sum += value;
    }
}

/// How many tokens had which −ℓ: bin 0 holds [0, 2⁻⁷), bin k = 1…22 holds
/// [2^(−7 + (k−1)/2), 2^(−7 + k/2)), bin 23 holds 16 and more.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Histogram {
    bins: [u32; Histogram::BINS],
}

impl Histogram {
    const BINS: usize = 24;
    const LOWEST_EXPONENT: f64 = -7.0;

    /// The bin of a value; what is below 0 counts as 0, NaN too.
    pub(super) fn bin(value: f64) -> usize {
        let place = 2.0 * (value.log2() - Histogram::LOWEST_EXPONENT);
        if place >= 0.0 { (place as usize).min(Histogram::BINS - 2) + 1 } else { 0 }
    }

    /// The lower edge of a bin; that of the last but one is infinite.
    fn edge(bin: usize) -> f64 {
        match bin {
            0 => 0.0,
            Histogram::BINS => f64::INFINITY,
            _ => (Histogram::LOWEST_EXPONENT + (bin - 1) as f64 / 2.0).exp2(),
        }
    }

    fn add(&mut self, value: f32) {
        let bin = &mut self.bins[Histogram::bin(f64::from(value))];
        *bin = bin.saturating_add(1);
    }

    /// The value that a share of all values does not exceed (the ⌈share·n⌉-th smallest), as if
    /// the values of a bin were spread evenly over it: it lies in the exact one's bin, and between
    /// the least and the most value seen.
    fn quantile(&self, share: f64, least: f64, most: f64) -> f64 {
        let total: u64 = self.bins.iter().map(|&count| u64::from(count)).sum();
        let rank = ((share * total as f64).ceil()).max(1.0);
        let mut below = 0.0;
        for (bin, &count) in self.bins.iter().enumerate() {
            let count = f64::from(count);
            if below + count >= rank {
                let (low, high) = (Histogram::edge(bin).max(least), Histogram::edge(bin + 1).min(most));
                return low + (high - low) * (rank - below - 0.5) / count;
            }
            below += count;
        }
        most
    }
}

/// `min_logprob=-1.2, mean_logprob=-0.2, sum_logprob=-3.1, margin=0.4`; empty without a token.
impl fmt::Display for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for feature in Feature::TOLD {
            if let Some(value) = self.value(feature) {
                write!(f, "{separator}{feature}={}", decimal(value))?;
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
