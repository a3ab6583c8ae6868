//! What a gate goes by that weighs an answer's worth against the upstream's price.
//!
//! An escalation is worth its price where the predicted gap is above λ times the expected cost; λ,
//! quality per dollar, is what a pacer (`account`) charges so that a spend rate holds. Promises
//! nothing about errors: who is kept depends on what was spent before. Made by `policy`, asked by
//! `execute`.

use std::sync::Arc;
use std::time::Duration;

use super::Predictor;
use crate::confidence::{Judge, Measure};
use crate::request::Request;

/// Whose spending is held at a rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Per {
    /// Each tenant's by itself.
    Tenant,
    /// That of all together.
    All,
}

/// A rate of spending, and whose.
#[derive(Debug, Clone, PartialEq)]
pub struct Pacing {
    /// The policy whose budget it is: all its rules share it.
    pub policy: Arc<str>,
    /// Dollars per hour; above 0.
    pub usd_per_hour: f64,
    /// Whose.
    pub per: Per,
    /// How long idle time may save the rate up.
    pub credit: Duration,
}

/// What a gate goes by that decides by value.
#[derive(Debug, Clone, PartialEq)]
pub struct Value {
    /// Predicts the gap.
    pub predictor: Arc<Predictor>,
    /// What holds the price.
    pub pacing: Pacing,
}

impl Value {
    /// The judge of this request's answers where an escalation must be worth `price`, in quality:
    /// λ · its expected cost. It accepts what is not.
    pub fn judge(&self, request: &Request, price: f64) -> Judge {
        let part_of_prompt = self.predictor.part_of_prompt(request);
        let measure = Measure::Worth { predictor: Arc::clone(&self.predictor), part_of_prompt };
        Judge { measure, at_least: -price }
    }
}

/// When a stage is passed over without asking it.
#[derive(Debug, Clone, PartialEq)]
pub struct Skip {
    /// Predicts the gap from the prompt.
    pub predictor: Arc<Predictor>,
    /// It is passed over when the predicted gap is above this.
    pub above: f64,
}

impl Skip {
    /// Whether the stage is to be passed over.
    pub fn applies(&self, request: &Request) -> bool {
        self.predictor.before_asking(request) > self.above
    }
}
