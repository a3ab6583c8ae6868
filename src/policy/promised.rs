//! The promises that a policy asks for, kept by a certificate or not: for those who watch them.
//!
//! Noted while the policy is compiled, read through the snapshot by `observe`.

use std::sync::Arc;

use crate::confidence::{Grant, Uncertified};
use crate::request::ModelId;

/// A promise that a rule asks for.
#[derive(Debug, Clone)]
pub struct Promised {
    /// The rule.
    pub rule: Arc<str>,
    /// The slice of its calibration; `None` where it names none.
    pub slice: Option<String>,
    /// The most that the risk may be.
    pub alpha: f64,
    pub(super) grant: Option<Arc<Grant>>,
}

/// What a rule had of a file that another one was promoted over: its calibration speaks of answers that
/// are made no more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lapse {
    /// The rule.
    pub rule: Arc<str>,
    /// The slice of its calibration; or `predictor of gaps`.
    pub slice: String,
    /// The model that was promoted.
    pub model: ModelId,
}

impl Promised {
    /// Every state that there is.
    pub const STATES: [&str; 4] = ["certified", "uncertified", "unmonitored", "alarmed"];

    /// Whether a certificate keeps it, or why none does now.
    pub fn state(&self) -> &'static str {
        let Some(grant) = &self.grant else { return "uncertified" };
        match grant.ledger().and_then(|ledger| ledger.objection()) {
            None => "certified",
            Some(Uncertified::Alarmed) => "alarmed",
            Some(Uncertified::Unmonitored) => "unmonitored",
            Some(_) => "uncertified",
        }
    }
}
