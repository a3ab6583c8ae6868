//! What a policy would have made of a request whose answers are on record; nobody is called.
//!
//! The policy decides anew, and its gates judge the recorded answers by their features. Promises: a
//! stage that was never asked, or whose answer broke off before the gate could have known, is said to
//! be unknown, never guessed. Pure; `replay` of captured requests and the live check of `eval` go by
//! it.

use std::collections::BTreeMap;

use crate::confidence::{Feature, Features, Judge, Measure};
use crate::plan::{Decision, Gate, OnFailure, Pin, Plan, choices};
use crate::request::{ModelId, Request, Trace};

/// What is on record of a model's answer to a request.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Recorded {
    /// The features of its tokens, where it told them.
    pub features: Option<Features>,
    /// Its tokens one by one, where they are on record.
    pub trace: Option<Trace>,
    /// Whether the answer broke off before its end, because a gate had seen enough.
    pub broken_off: bool,
    /// How right it is, 0 … 1, where somebody said so.
    pub quality: Option<f64>,
    /// What it cost in dollars.
    pub usd: Option<f64>,
}

/// What a request comes to.
#[derive(Debug, Clone, PartialEq)]
pub enum Fate {
    /// This model's answer is served, after these were asked in vain.
    Served {
        /// Who serves.
        model: ModelId,
        /// Who was asked before, and pays too.
        refused: Vec<ModelId>,
    },
    /// The policy refuses.
    Rejected,
    /// The record does not say.
    Unknown(Unknown),
}

/// Why a record does not say what a gate would have done.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unknown {
    /// This model was not asked, or told no log-probabilities.
    NeverAsked(ModelId),
    /// Its answer broke off before this gate could have judged it.
    BrokenOff(ModelId),
    /// This gate weighs the answer's worth against what was spent before.
    Priced(ModelId),
    /// This gate asks for evidence that is not on record.
    Evidence(ModelId),
    /// This gate judges a part of the answer, of which the record says nothing.
    HeldBack(ModelId),
    /// This gate judges each of several answers, of which one is on record.
    Choices(ModelId),
    /// This gate gives up answers on their way, of which the record says nothing.
    Early(ModelId),
}

impl std::fmt::Display for Unknown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Unknown::NeverAsked(model) => write!(f, "no scored answer of {model} is on record"),
            Unknown::BrokenOff(model) => write!(f, "the answer of {model} broke off before the gate could know"),
            Unknown::Priced(model) => write!(f, "whether {model} is kept depends on what was spent before"),
            Unknown::Evidence(model) => write!(f, "no evidence beside the tokens of {model} is on record"),
            Unknown::Choices(model) => write!(f, "only one of the answers of {model} is on record"),
            Unknown::Early(model) => write!(f, "the gate may have given the answer of {model} up on its way"),
            Unknown::HeldBack(model) => write!(f, "the gate judges {model} after a part of its answer"),
        }
    }
}

/// What comes of a request under this decision.
pub fn fate(decision: &Decision, request: &Request, records: &BTreeMap<ModelId, Recorded>) -> Fate {
    let (stages, on_failure, pin) = match &decision.plan {
        Plan::Reject { .. } => return Fate::Rejected,
        Plan::Direct { targets } => {
            let first = targets.first().cloned();
            return first.map_or(Fate::Rejected, |model| Fate::Served { model, refused: Vec::new() });
        }
        Plan::Cascade { stages, on_failure, pin } => (stages, on_failure, pin),
    };
    let pins = pin.is_some() && Pin::binds(request);
    let mut refused = Vec::new();
    for (place, stage) in stages.iter().enumerate() {
        let model = stage.model.clone();
        if stage.skip.as_ref().is_some_and(|skip| skip.applies(request)) {
            continue;
        }
        let (Some(gate), Some(ruling)) = (&stage.gate, stage.ruling(request, place, pins)) else {
            return Fate::Served { model, refused };
        };
        match ruling.judge {
            Ok(judge) => match gated((gate, &judge), request, &model, records.get(&model)) {
                Ok(true) => return Fate::Served { model, refused },
                Ok(false) => refused.push(model),
                Err(unknown) => return Fate::Unknown(unknown),
            },
            // Whose answer nothing accepts is asked only where it may be served for want of a better one.
            Err(_) if *on_failure == OnFailure::Local => refused.push(model),
            Err(_) => {}
        }
    }
    Fate::Rejected
}

/// Whether a gate accepts the recorded answer, going by this judge.
fn gated(
    (gate, judge): (&Gate, &Judge),
    request: &Request,
    model: &ModelId,
    known: Option<&Recorded>,
) -> Result<bool, Unknown> {
    let found = known.and_then(|known| Some((known, known.features?)));
    let (known, features) = found.ok_or_else(|| Unknown::NeverAsked(model.clone()))?;
    if judge.is_by_value() {
        return Err(Unknown::Priced(model.clone()));
    }
    if judge.measure.is_of_the_whole() {
        return Err(Unknown::Evidence(model.clone()));
    }
    let value = value(judge, &features);
    // What has fallen below the threshold stays there, whatever would have come.
    if judge.measure.can_only_fall() && !judge.accepts(value) && gate.tokens_held(request).is_none() {
        return Ok(false);
    }
    // Of several answers only the least sure one is on record.
    if choices(request) > 1 && (judge.accepts(value) || gate.tokens_held(request).is_some()) {
        return Err(Unknown::Choices(model.clone()));
    }
    if known.broken_off {
        return Err(Unknown::BrokenOff(model.clone()));
    }
    if judge.gives_up() && judge.accepts(value) && choices(request) == 1 {
        match &known.trace {
            Some(trace) if judge.gives_up_on(trace) => return Ok(false),
            Some(_) => {}
            None => return Err(Unknown::Early(model.clone())),
        }
    }
    match gate.tokens_held(request) {
        Some(held) if features.get(Feature::LogTokens).exp() > held as f64 + 0.5 => {
            Err(Unknown::HeldBack(model.clone()))
        }
        _ => Ok(judge.accepts(value)),
    }
}

/// What the judge looks at, of an answer whose features are known.
fn value(judge: &Judge, features: &Features) -> f64 {
    match &judge.measure {
        Measure::Raw(feature) | Measure::Asked(feature, _) => features.get(*feature),
        Measure::Calibrated(calibration) => calibration.score.value(|feature| features.get(feature)),
        Measure::Worth { .. } => f64::NAN,
    }
}

/// The dollars of a fate: all who were asked; `None` where one is not on record.
pub fn spend(fate: &Fate, records: &BTreeMap<ModelId, Recorded>) -> Option<f64> {
    match fate {
        Fate::Served { model, refused } => {
            refused.iter().chain([model]).try_fold(0.0, |sum, asked| Some(sum + records.get(asked)?.usd?))
        }
        Fate::Rejected => Some(0.0),
        Fate::Unknown(_) => None,
    }
}

#[cfg(test)]
mod tests;
