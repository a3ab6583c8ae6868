//! How far a small model's answer may be believed, from its own log-probabilities.
//!
//! **Model.** While a model generates, it says for every token y_t how probable that token was,
//! ℓ_t = ln q(y_t | x, y_<t), how far ahead of the next best it stood, and how spread its whole
//! distribution was. An answer is accepted when one number made of these is high enough; otherwise
//! a larger model is asked. This is Chow's rule (Chow, "On optimum recognition error and reject
//! tradeoff", 1970) with a score in place of the unknown probability of being right. A [`Feature`]
//! is one number read off the tokens, the end-of-turn token included, natural logarithms, from the
//! raw logits at temperature 1. Four of them are told with every local answer:
//!
//! | feature | formula | what it sees | what it misses |
//! |---|---|---|---|
//! | `min_logprob` | min_t ℓ_t | one doubtful token | many slightly doubtful ones |
//! | `mean_logprob` | (Σ_t ℓ_t) / T | the general tone | one fatal token in a long answer |
//! | `sum_logprob` | Σ_t ℓ_t | the probability of the whole answer | punishes length |
//! | `margin` | min_t (z₍₁₎ − z₍₂₎) | a close call between two tokens | a flat distribution's tail |
//!
//! (Sum and mean are "Chow-Sum" and "Chow-Average" in Gupta et al., "Language model cascades:
//! token-level uncertainty and beyond", 2024, who measure both biases of length.) A [`Score`] is a
//! feature as it is, or a function fitted on graded answers that gives the probability of being
//! right; a [`Calibration`] is the file that carries one, for one model file and one slice of
//! traffic, with what is certified about it. What a gate goes by is an [`Accept`]: a threshold, or a
//! promise that a certificate keeps, where it speaks of the request.
//!
//! **Algorithm.** [`Running`] folds tokens one at a time into all features: O(1) time per token, a
//! fixed histogram for quantiles, no rescans. Every ℓ_t ≤ 0, so minimum, sum and margin can only
//! fall as the answer grows; the mean can rise again. Hence a gate may give up early on the first
//! three, and on a score that rises with one of them alone, as soon as the threshold is crossed,
//! and must wait for the others ([`Judge::is_lost`]).
//!
//! An answer that is whole tells more ([`Evidence`]): what its text and the prompt's look like, and
//! what further calls of the model, or of a second one, say of it (`p_true`, `agreement`,
//! `second_opinion`). Those calls are made only where they can change the verdict: with the evidence
//! still unknown a score has a least and a most ([`Judge::weigh`]), and where both lie on one side
//! of the threshold nothing is asked.
//!
//! **Numerics.** Sums are kept in f64. A NaN anywhere makes every feature NaN, and NaN is never
//! accepted; an answer without a token has no score and is never accepted: doubt escalates.
//!
//! **Concurrency.** Pure values, no clock, no randomness, and one lock: that of a slice's [`Ledger`],
//! which all its requests share; an [`Alarm`] is one atomic. `execute` holds one [`Running`] per choice of an answer; `policy`
//! makes the [`Judge`]s; `api` renders features into headers.

mod accept;
mod alarm;
pub mod audit;
mod auditing;
pub mod bounds;
mod calibration;
pub mod certify;
mod early;
pub mod evidence;
mod features;
mod fit;
pub mod form;
pub mod gap;
mod judge;
mod keyed;
mod ledger;
pub mod measure;
mod running;
mod score;
mod split;
#[cfg(test)]
mod tests;
pub mod trial;

pub use accept::{Accept, Grant, Ruling, Standing};
pub use alarm::{Alarm, Bell};
pub use auditing::{Auditing, Compare, Grader};
pub use calibration::{AgreedError, Basis, Calibration, Certificate, Key, Quality};
pub use certify::Risk;
pub use early::{Early, Level, Limit};
pub use evidence::{Evidence, Inquiry, Second};
pub use features::{Feature, Features, Source};
pub use fit::Graded;
pub use form::{Form, Reading};
pub use judge::{Judge, Measure, Weighed};
pub use keyed::Uncertified;
pub use ledger::{AuditStatus, Draw, Ledger, News, Subject};
pub use running::Running;
pub use score::{Isotonic, Logistic, Platt, Raw, Score, Step, Term, Transform};
pub use split::Split;
