//! A score: one number made of an answer's features, by which it is believed or not.
//!
//! Promises: a fitted score is a probability in [0, 1], or NaN where a feature is NaN; its value
//! depends on nothing but the features. Which scores can never rise again is known beforehand, so
//! that a gate may give up early. `fit` makes them, a [`super::Calibration`] carries one.

use serde::{Deserialize, Serialize};

use super::Feature;

/// What stands for the chance of being right.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Score {
    /// A feature as it is: it ranks answers and is no probability.
    Feature(Raw),
    /// A logistic function of features.
    Logistic(Logistic),
    /// A logistic function of one transformed feature.
    Platt(Platt),
    /// A step function of one feature.
    Isotonic(Isotonic),
}

/// A feature as it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Raw {
    /// Which.
    pub feature: Feature,
}

/// p = σ(bias + Σ weight·(feature − mean) / scale).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Logistic {
    /// The log-odds of an answer with mean features.
    pub bias: f64,
    /// One per feature.
    pub terms: Vec<Term>,
}

/// A feature's part in a [`Logistic`] score.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Term {
    /// Which.
    pub feature: Feature,
    /// Its mean over the rows of the fit.
    pub mean: f64,
    /// Its standard deviation over them, above 0.
    pub scale: f64,
    /// Log-odds per standard deviation.
    pub weight: f64,
}

/// p = σ(weight·φ(feature) + bias) (Platt, "Probabilistic outputs for support vector machines",
/// 1999), with the transforms φ of Zellinger and Thomson, "Rational tuning of LLM cascades", 2025.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Platt {
    /// Which feature.
    pub feature: Feature,
    /// How it is transformed first.
    pub transform: Transform,
    /// Log-odds per unit of the transformed feature.
    pub weight: f64,
    /// The log-odds where that is 0.
    pub bias: f64,
}

/// A function that spreads probabilities near 1 (and near 0), so that a line fits their log-odds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Transform {
    /// φ(x) = x: for features that are no log-probability.
    Identity,
    /// φ(ln p) = −ln(1 − p): for the probability of an answer.
    OneSided,
    /// φ(ln p) = −ln(2(1 − p)) for p ≥ ½, ln(2p) below: for the probability of a "yes".
    TwoSided,
}

/// The share of right answers as a step function that never falls: from `from` on (and below the
/// first `from` too) it is `probability`, until the next step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Isotonic {
    /// Which feature.
    pub feature: Feature,
    /// At least one; both numbers rise from each to the next.
    pub steps: Vec<Step>,
}

/// One level of an [`Isotonic`] score.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// Where it begins.
    pub from: f64,
    /// The share of right answers.
    pub probability: f64,
}

impl Score {
    /// The value, with the features looked up by `get`: a probability of being right if the score
    /// is fitted, the feature itself if not. NaN where a feature that counts is NaN.
    pub fn value(&self, get: impl Fn(Feature) -> f64) -> f64 {
        self.value_by(|feature, _| get(feature))
    }

    /// The least and the most it can be, where of each feature the least and the most is known.
    pub fn bounds(&self, get: impl Fn(Feature) -> (f64, f64)) -> (f64, f64) {
        let end = |most: bool| {
            self.value_by(|feature, rises| {
                let (low, high) = get(feature);
                if rises == most { high } else { low }
            })
        };
        (end(false), end(true))
    }

    /// The value; `get` is told whether it rises with the feature.
    fn value_by(&self, get: impl Fn(Feature, bool) -> f64) -> f64 {
        match self {
            Score::Feature(raw) => get(raw.feature, true),
            Score::Logistic(logistic) => logistic.value(get),
            Score::Platt(platt) => {
                let feature = get(platt.feature, platt.weight >= 0.0);
                sigmoid(platt.weight * platt.transform.apply(feature) + platt.bias)
            }
            Score::Isotonic(isotonic) => isotonic.value(get(isotonic.feature, true)),
        }
    }

    /// Whether the value is a probability of being right.
    pub fn is_probability(&self) -> bool {
        !matches!(self, Score::Feature(_))
    }

    /// Whether a further token can never raise it.
    pub fn can_only_fall(&self) -> bool {
        match self {
            Score::Feature(raw) => raw.feature.can_only_fall(),
            Score::Logistic(logistic) => {
                logistic.terms.iter().all(|term| part_can_only_fall(term.feature, term.weight))
            }
            Score::Platt(platt) => part_can_only_fall(platt.feature, platt.weight),
            Score::Isotonic(isotonic) => isotonic.feature.can_only_fall(),
        }
    }

    /// The features it reads.
    pub fn features(&self) -> Vec<Feature> {
        match self {
            Score::Feature(raw) => vec![raw.feature],
            Score::Logistic(logistic) => logistic.terms.iter().map(|term| term.feature).collect(),
            Score::Platt(platt) => vec![platt.feature],
            Score::Isotonic(isotonic) => vec![isotonic.feature],
        }
    }
}

fn part_can_only_fall(feature: Feature, weight: f64) -> bool {
    if weight >= 0.0 { feature.can_only_fall() } else { feature.can_only_rise() }
}

impl Logistic {
    fn value(&self, get: impl Fn(Feature, bool) -> f64) -> f64 {
        let part = |term: &Term| term.weight * (get(term.feature, term.weight >= 0.0) - term.mean) / term.scale;
        sigmoid(self.bias + self.terms.iter().map(part).sum::<f64>())
    }
}

impl Isotonic {
    fn value(&self, x: f64) -> f64 {
        if x.is_nan() {
            return f64::NAN;
        }
        let begun = self.steps.partition_point(|step| step.from <= x);
        self.steps.get(begun.saturating_sub(1)).map_or(f64::NAN, |step| step.probability)
    }
}

impl Transform {
    /// The nearest to 0 that a log-probability counts: single-precision ones end there.
    const NEAREST: f64 = -1e-7;

    /// φ(x); never falls as x rises, and finite for finite x.
    pub fn apply(self, x: f64) -> f64 {
        match self {
            Transform::Identity => x,
            Transform::OneSided => -ln_of_rest(x),
            Transform::TwoSided if x < -std::f64::consts::LN_2 => x + std::f64::consts::LN_2,
            Transform::TwoSided => -ln_of_rest(x) - std::f64::consts::LN_2,
        }
    }
}

/// ln(1 − e^l), exact to rounding at both ends (Mächler, "Accurately computing log(1 − exp(−|a|))",
/// 2012), with l nearest to 0 where single precision ends.
fn ln_of_rest(logprob: f64) -> f64 {
    let logprob = if logprob > Transform::NEAREST { Transform::NEAREST } else { logprob };
    if logprob > -std::f64::consts::LN_2 { (-logprob.exp_m1()).ln() } else { (-logprob.exp()).ln_1p() }
}

/// 1 / (1 + e^−x), without overflow.
pub(super) fn sigmoid(x: f64) -> f64 {
    if x >= 0.0 {
        1.0 / (1.0 + (-x).exp())
    } else {
        let e = x.exp();
        e / (1.0 + e)
    }
}
