//! The condition of a gate: a score, and from where on an answer is believed.
//!
//! Promises: NaN is never accepted, an answer without a token neither; an answer that is said to be
//! lost could not have been accepted with any continuation. Made by `policy`, asked by `execute`
//! at every delta, so it allocates nothing.

use std::fmt;
use std::sync::Arc;

use super::gap::Predictor;
use super::running::decimal;
use super::{Calibration, Early, Evidence, Feature, Inquiry, Running, Source};
use crate::request::Trace;

/// What a gate looks at.
#[derive(Debug, Clone, PartialEq)]
pub enum Measure {
    /// A feature of the tokens as it is.
    Raw(Feature),
    /// A feature that is asked for in this way, as it is.
    Asked(Feature, Arc<Inquiry>),
    /// The score of a calibration.
    Calibrated(Arc<Calibration>),
    /// Minus the gap that is predicted between the upstream's answer and this one.
    Worth {
        /// Predicts it.
        predictor: Arc<Predictor>,
        /// The prompt's part in it.
        part_of_prompt: f64,
    },
}

impl Measure {
    /// Its value for the answer so far; `None` without a token.
    pub fn value(&self, answer: &Running) -> Option<f64> {
        match self {
            Measure::Raw(feature) | Measure::Asked(feature, _) => answer.value(*feature),
            Measure::Calibrated(calibration) => (answer.tokens() > 0)
                .then(|| calibration.score.value(|feature| answer.value(feature).unwrap_or(f64::NAN))),
            Measure::Worth { predictor, part_of_prompt } => predictor.after(*part_of_prompt, answer).map(|gap| -gap),
        }
    }

    /// Whether a further token can never raise it.
    pub fn can_only_fall(&self) -> bool {
        match self {
            Measure::Raw(feature) | Measure::Asked(feature, _) => feature.can_only_fall(),
            Measure::Calibrated(calibration) => calibration.score.can_only_fall(),
            Measure::Worth { .. } => false,
        }
    }

    /// The features it reads.
    pub fn features(&self) -> Vec<Feature> {
        match self {
            Measure::Raw(feature) | Measure::Asked(feature, _) => vec![*feature],
            Measure::Calibrated(calibration) => calibration.score.features(),
            // Of the tokens only.
            Measure::Worth { .. } => Vec::new(),
        }
    }

    /// Whether it reads more than tokens, so that it has no value before the answer is whole.
    pub fn is_of_the_whole(&self) -> bool {
        self.features().iter().any(|feature| feature.source() != Source::Tokens)
    }

    /// How its evidence is asked for; `None` where it needs none.
    pub fn inquiry(&self) -> Option<&Inquiry> {
        match self {
            Measure::Raw(_) | Measure::Worth { .. } => None,
            Measure::Asked(_, inquiry) => Some(inquiry),
            Measure::Calibrated(calibration) => calibration.inquiry.as_ref(),
        }
    }

    /// The least and the most it can be for a whole answer, whatever evidence is still to come.
    fn bounds(&self, answer: &Running, evidence: &Evidence) -> (f64, f64) {
        let get = |feature: Feature| match feature.source() {
            Source::Tokens => ends(answer.value(feature).unwrap_or(f64::NAN)),
            Source::Asked if evidence.get(feature).is_nan() => (0.0, 1.0),
            Source::Texts | Source::Asked => ends(evidence.get(feature)),
        };
        match self {
            Measure::Raw(feature) | Measure::Asked(feature, _) => get(*feature),
            Measure::Calibrated(calibration) => calibration.score.bounds(get),
            Measure::Worth { .. } => ends(self.value(answer).unwrap_or(f64::NAN)),
        }
    }
}

fn ends(value: f64) -> (f64, f64) {
    (value, value)
}

impl fmt::Display for Measure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Measure::Raw(feature) | Measure::Asked(feature, _) => f.write_str(feature.name()),
            Measure::Calibrated(calibration) => f.write_str(&calibration.name),
            Measure::Worth { .. } => f.write_str("-gap"),
        }
    }
}

/// What a judge says of a whole answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weighed {
    /// It is believed, whatever else is found.
    Accepted,
    /// It is not, whatever else is found.
    Refused,
    /// It depends on evidence that is not there yet.
    Open,
}

/// The condition of a gate: what it looks at, and its threshold.
#[derive(Debug, Clone, PartialEq)]
pub struct Judge {
    /// Which number.
    pub measure: Measure,
    /// Accept at this or more.
    pub at_least: f64,
}

impl Judge {
    /// Accepts when `feature` is `threshold` or more.
    pub fn at_least(feature: Feature, threshold: f64) -> Judge {
        Judge { measure: Measure::Raw(feature), at_least: threshold }
    }

    /// Accepts when the calibration's score is `threshold` or more.
    pub fn calibrated(calibration: Arc<Calibration>, threshold: f64) -> Judge {
        Judge { measure: Measure::Calibrated(calibration), at_least: threshold }
    }

    /// Accepts when the least probable token has this probability or more: exp(`min_logprob`) ≥ it.
    pub fn least_probability(probability: f64) -> Judge {
        Judge::at_least(Feature::MinLogprob, probability.ln())
    }

    /// Whether a score of this value is accepted. NaN never is.
    pub fn accepts(&self, value: f64) -> bool {
        value >= self.at_least
    }

    /// Whether the answer so far, taken as the whole, is accepted. Without a token it never is.
    pub fn accepts_answer(&self, answer: &Running) -> bool {
        self.measure.value(answer).is_some_and(|value| self.accepts(value))
    }

    /// What can be said of the whole answer with this evidence. Evidence is worth asking for only
    /// where the answer is [`Weighed::Open`].
    pub fn weigh(&self, answer: &Running, evidence: &Evidence) -> Weighed {
        if answer.tokens() == 0 || answer.is_spoilt() {
            return Weighed::Refused;
        }
        match self.measure.bounds(answer, evidence) {
            (least, _) if self.accepts(least) => Weighed::Accepted,
            (_, most) if self.accepts(most) => Weighed::Open,
            _ => Weighed::Refused,
        }
    }

    /// The score by which it decides on the answer: where evidence is unknown, the least that it can be of an
    /// answer accepted all the same, the most that it can be of one refused. `None` without a token.
    pub fn decisive(&self, answer: &Running, evidence: &Evidence) -> Option<f64> {
        if answer.tokens() == 0 {
            return None;
        }
        let (least, most) = self.measure.bounds(answer, evidence);
        Some(if self.accepts(least) { least } else { most }).filter(|score| score.is_finite())
    }

    /// Whether it may give up an answer that will hardly become good enough.
    pub fn gives_up(&self) -> bool {
        self.early().is_some()
    }

    /// Whether the answer so far, which goes on, will hardly be accepted at its end ([`super::Early`]);
    /// to be asked after each token.
    pub fn is_unlikely(&self, answer: &Running) -> bool {
        let below = |early: &Early| early.is_below(self.at_least, answer.tokens(), self.measure.value(answer));
        self.early().is_some_and(below)
    }

    /// Whether it gives an answer of these tokens up before its end.
    pub fn gives_up_on(&self, trace: &Trace) -> bool {
        self.gives_up() && Running::along(trace).any(|answer| !answer.has_ended() && self.is_unlikely(&answer))
    }

    fn early(&self) -> Option<&Early> {
        match &self.measure {
            Measure::Calibrated(calibration) => calibration.early.as_ref(),
            Measure::Raw(_) | Measure::Asked(..) | Measure::Worth { .. } => None,
        }
    }

    /// Whether it weighs the answer's worth against a price.
    pub fn is_by_value(&self) -> bool {
        matches!(self.measure, Measure::Worth { .. })
    }

    /// Whether no continuation of the answer so far can be accepted, so that waiting is waste.
    pub fn is_lost(&self, answer: &Running) -> bool {
        let below = || self.measure.value(answer).is_some_and(|value| !self.accepts(value));
        answer.is_spoilt() || self.measure.can_only_fall() && below()
    }
}

impl fmt::Display for Judge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} >= {}", self.measure, decimal(self.at_least))
    }
}
