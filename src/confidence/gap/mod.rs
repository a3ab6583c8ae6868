//! The gap: how much better the upstream's answer will be than the one made here.
//!
//! What is worth paying for is the gap, not the chance that the small model is wrong: where both are
//! wrong, or the upstream is worse, an escalation buys nothing. A [`Predictor`] is the file that
//! predicts it, from the prompt alone (before the small model is asked) and from the prompt and the
//! answer's features (after). A [`Value`] is what a gate goes by then. Pure; `policy` builds gates of
//! them, `execute` asks, the offline tools fit.

mod predictor;
mod ridge;
pub(crate) mod scorer;
pub(crate) mod terms;
#[cfg(test)]
mod tests;
mod value;

pub use predictor::{About, Example, Predictor};
pub use value::{Pacing, Per, Skip, Value};
