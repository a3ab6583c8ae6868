//! How far a small model's answer may be believed, from its own log-probabilities. Pure.



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
