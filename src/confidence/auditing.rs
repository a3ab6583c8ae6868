//! How the answers that a certificate keeps are audited, as a policy says: how many, by whom, at what price.
//!
//! A grader measures one of two rates: who knows the truth (feedback) measures errors, a model
//! measures the disagreement with itself. Where the certificate promises the other rate, the
//! allowance is what lies between the two; it stands in what is told of the answers. Made by
//! `policy`, bound to its slice's ledger by `control`, asked by `execute`.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use percent_encoding::utf8_percent_encode;

use super::accept::NAME;
use super::certify::Promise;
use super::ledger::Ledger;
use super::running::decimal;
use super::{Form, Grant};
use crate::request::ModelId;

const ERRORS: &str = "errors";
const DISAGREEMENT: &str = "disagreement";

/// How a slice's kept answers are audited.
#[derive(Debug, Clone)]
pub struct Auditing {
    /// The share of kept answers that are drawn: above 0, at most 1.
    pub share: f64,
    /// Who grades.
    pub grader: Grader,
    /// How far the rate measured may lie above the one promised while the promise holds.
    pub allowance: f64,
    ledger: OnceLock<Arc<Ledger>>,
}

/// Who grades a drawn answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Grader {
    /// A model is asked what the client asked; both answers are compared.
    Model {
        /// Its full name.
        model: ModelId,
        /// How they are compared.
        compare: Compare,
        /// What all audits of the slice may cost in a day (UTC), in dollars.
        usd_per_day: f64,
    },
    /// Whoever got the answer is asked for feedback.
    Feedback {
        /// How long to wait for it.
        within: Duration,
    },
}

/// How two answers are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compare {
    /// By what counts in them.
    Form(Form),
    /// The grader is asked whether they say the same.
    Judge,
}

impl Compare {
    /// The name of asking the grader.
    pub const JUDGE: &str = "judge";

    /// Its name in policies.
    pub fn name(self) -> &'static str {
        match self {
            Compare::Form(form) => form.name(),
            Compare::Judge => Compare::JUDGE,
        }
    }
}

impl Grader {
    /// What it measures, as a calibration's `grader` would say: `None` is errors.
    pub fn measures(&self) -> Option<&str> {
        match self {
            Grader::Model { model, .. } => Some(model.as_str()),
            Grader::Feedback { .. } => None,
        }
    }
}

impl Auditing {
    /// An audit that no ledger is kept of yet.
    pub fn new(share: f64, grader: Grader, allowance: f64) -> Auditing {
        Auditing { share, grader, allowance, ledger: OnceLock::new() }
    }

    /// Gives it its ledger; the first one stays. Without one nothing is audited.
    pub fn bind(&self, ledger: Arc<Ledger>) {
        // A second one would be the ledger of the same slice.
        let _ = self.ledger.set(ledger);
    }

    /// The slice's ledger, where it is kept.
    pub fn ledger(&self) -> Option<&Arc<Ledger>> {
        self.ledger.get()
    }

    /// What is watched while `promise` is to hold: the allowance is added to its bound.
    ///
    /// # Errors
    /// One sentence where the sum is no bound below 1.
    pub fn watched(&self, promise: Promise) -> Result<Promise, String> {
        Promise::check(promise.risk(), promise.alpha() + self.allowance, promise.delta())
    }

    /// What is measured, in words: a ledger of other words begins anew.
    pub(super) fn words(&self) -> String {
        match &self.grader {
            Grader::Model { model, compare, .. } => format!("{DISAGREEMENT} with {model} by {}", compare.name()),
            Grader::Feedback { .. } => format!("{ERRORS} by feedback"),
        }
    }
}

/// The rate that these words are about.
pub(super) fn rate(words: &str) -> &'static str {
    if words.starts_with(ERRORS) { ERRORS } else { DISAGREEMENT }
}

/// By what it is defined; not by the state of its ledger.
impl PartialEq for Auditing {
    fn eq(&self, other: &Auditing) -> bool {
        (self.share, &self.grader, self.allowance) == (other.share, &other.grader, other.allowance)
    }
}

/// What an answer says of its audit: `audit=disagreement by=up%2Flarge alarm_above=0.15`.
pub(super) fn tell(grant: &Grant, audit: &Auditing, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let alarm_above = decimal(grant.certificate.alpha + audit.allowance);
    match audit.grader.measures() {
        Some(by) => write!(f, " audit={DISAGREEMENT} by={}", utf8_percent_encode(by, NAME))?,
        None => write!(f, " audit={ERRORS} by=feedback")?,
    }
    write!(f, " alarm_above={alarm_above}")
}
