//! A calibration: a score made for one model file and one slice, and what is certified about it.
//!
//! Hides the file's form (JSON, `version` 1). Promises: what parses is sound: every number finite
//! and in its range, every feature known, no unknown key; what is rendered parses to the same
//! value. The offline tools write it, `control` loads it, a [`super::Judge`] asks its score.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::running::decimal;
use super::{Early, Feature, Inquiry, Risk, Score, Source, Transform};

/// A score with its origin, its quality and its certificates.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    /// The form of the file: 1.
    pub version: u32,
    /// What a policy calls it.
    pub name: String,
    /// The model whose answers were graded.
    pub model: String,
    /// The SHA-256 of that model's file, 64 hexadecimal digits; for another file it means nothing.
    pub model_sha256: String,
    /// The kind of traffic it was made on; for other traffic nothing is promised.
    pub slice: String,
    /// What "right" means.
    pub basis: Basis,
    /// Who graded, where that was an upstream or a judge; `None` for gold.
    pub grader: Option<String>,
    /// The score.
    pub score: Score,
    /// How the evidence that the score reads is asked for; `None`: it reads none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inquiry: Option<Inquiry>,
    /// How the answers were made; a certificate holds for no other way.
    pub key: Key,
    /// The rows the score was fitted on; they take no part in certificates.
    pub fitted_rows: u64,
    /// How good it is on rows it was not fitted on.
    pub quality: Quality,
    /// When it was made, as the maker wrote it: `2026-11-23`.
    pub date: String,
    /// How often certification was attempted on this slice, each attempt with less delta to spend.
    pub attempts: u32,
    /// The SHA-256 of the labels that certify, 64 hexadecimal digits; `None`: the file does not say which.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<String>,
    /// When an answer is given up before its end; part of the keep rule that is certified.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub early: Option<Early>,
    /// What is certified.
    pub certificates: Vec<Certificate>,
}

/// Where the labels came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Basis {
    /// Known answers: a wrong one is an error.
    Gold,
    /// An upstream's answers: a wrong one is a disagreement.
    UpstreamAgreement,
    /// A model that was asked to grade: a wrong one is one that it disliked.
    Judge,
}

/// How the answers were made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Key {
    /// The hash of the chat template; `None`: the model file's own.
    pub template: Option<String>,
    /// How tokens were chosen.
    pub sampler: String,
    /// The hash of the grammar or schema that bound the answers; `None`: free.
    pub constraint: Option<String>,
    /// The bucket of the limit on tokens ([`Key::bucket`]); `None`: without a limit.
    pub max_tokens: Option<u64>,
    /// How many tokens were judged; `None`: the whole answer.
    pub hold_back: Option<u64>,
}

impl Key {
    /// The sampler that takes the most probable token.
    pub const GREEDY: &str = "greedy";

    /// The bucket of a limit on tokens: the least of 16, 64, 256, 1024, … that is not below it.
    pub fn bucket(max_tokens: u64) -> u64 {
        let mut bucket: u64 = 16;
        while bucket < max_tokens {
            bucket = bucket.saturating_mul(4);
        }
        bucket
    }
}

/// How well a score tells right from wrong answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quality {
    /// The rows measured on.
    pub rows: u64,
    /// The chance that a right answer scores above a wrong one (ties: half); `None` where the rows are
    /// all right or all wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auroc: Option<f64>,
    /// Expected calibration error; `None` where the score is no probability.
    pub ece: Option<f64>,
    /// Mean squared error of the probability; `None` where the score is none.
    pub brier: Option<f64>,
}

/// A promise about the answers kept: with probability at least 1 − `delta` over the labels drawn,
/// the risk named by `kind` is at most `alpha` when answers with a score of at least `threshold`
/// are kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    /// Which risk.
    pub kind: Risk,
    /// Its bound.
    pub alpha: f64,
    /// The chance that the bound does not hold, for all attempts on the slice together.
    pub delta: f64,
    /// From which value of the score on an answer is kept.
    pub threshold: f64,
    /// The labels used.
    pub rows: u64,
    /// How many of them were kept.
    pub kept: u64,
    /// How many of those were wrong.
    pub wrong: u64,
    /// Which attempt on the slice it was, from 1.
    pub attempt: u32,
    /// What is known of the error rate too, where disagreement is what is bounded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<AgreedError>,
}

/// An error rate from certified disagreement and known answers: P(wrong | kept) ≤ alpha + beta, where beta
/// bounds P(wrong | kept and agrees with the grader).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgreedError {
    /// Kept answers that agree with the grader and whose known answer was looked at.
    pub agreed: u64,
    /// Those of them that are wrong all the same.
    pub wrong: u64,
    /// The bound on the share of wrong ones among those.
    pub beta: f64,
    /// What the error rate is at most.
    pub at_most: f64,
    /// The chance that it is not, that of the disagreement's bound included.
    pub delta: f64,
}

/// `error at most 0.13 with confidence 0.9 (0 of 88 that agree are wrong all the same, so 0.03 at most)`.
impl fmt::Display for AgreedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let AgreedError { agreed, wrong, beta, at_most, delta } = *self;
        write!(
            f,
            "error at most {} with confidence {} ({wrong} of {agreed} that agree are wrong all the same, so {} at most)",
            decimal(at_most),
            decimal(1.0 - delta),
            decimal(beta)
        )
    }
}

/// `selective risk at most 0.05 with confidence 0.9`.
impl fmt::Display for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let confidence = decimal(1.0 - self.delta);
        write!(f, "{} risk at most {} with confidence {confidence}", self.kind.name(), decimal(self.alpha))
    }
}

impl Basis {
    /// The name in calibration files.
    pub fn name(self) -> &'static str {
        match self {
            Basis::Gold => "gold",
            Basis::UpstreamAgreement => "upstream-agreement",
            Basis::Judge => "judge",
        }
    }
}

impl Calibration {
    /// The version of the file's form.
    pub const VERSION: u32 = 1;

    /// Reads a file and checks everything in it.
    ///
    /// # Errors
    /// One sentence: what is wrong, and where.
    pub fn parse(bytes: &[u8]) -> Result<Calibration, String> {
        let mut json = serde_json::Deserializer::from_slice(bytes);
        let calibration: Calibration =
            serde_path_to_error::deserialize(&mut json).map_err(|error| error.to_string())?;
        json.end().map_err(|error| error.to_string())?;
        calibration.check()?;
        Ok(calibration)
    }

    /// The file's text.
    ///
    /// # Errors
    /// What [`Calibration::parse`] would say about it.
    pub fn render(&self) -> Result<String, String> {
        self.check()?;
        let text = serde_json::to_string_pretty(self).map_err(|error| error.to_string())?;
        Ok(text + "\n")
    }

    /// Whether it was made for the model file with this SHA-256.
    pub fn is_for(&self, model_sha256: &str) -> bool {
        self.model_sha256.eq_ignore_ascii_case(model_sha256)
    }

    fn check(&self) -> Result<(), String> {
        let (version, known) = (self.version, Calibration::VERSION);
        require(version == known, || format!("version {version} is not known; known: {known}"))?;
        let texts = [
            ("name", &self.name),
            ("model", &self.model),
            ("slice", &self.slice),
            ("date", &self.date),
            ("key.sampler", &self.key.sampler),
        ];
        for (key, text) in texts {
            require(!text.trim().is_empty(), || format!("{key} is empty"))?;
        }
        for (key, hash) in [("model_sha256", Some(&self.model_sha256)), ("labels", self.labels.as_ref())] {
            let is_sha256 = |hash: &String| hash.len() == 64 && hash.bytes().all(|b| b.is_ascii_hexdigit());
            require(hash.is_none_or(is_sha256), || {
                format!("{key} \"{}\" is not 64 hexadecimal digits", hash.map_or("", String::as_str))
            })?;
        }
        require((self.basis == Basis::Gold) == self.grader.is_none(), || {
            "grader must name who graded, unless basis is \"gold\"".to_owned()
        })?;
        require(self.key.max_tokens.is_none_or(|limit| Key::bucket(limit) == limit), || {
            "key.max_tokens is no bucket; buckets are 16, 64, 256, 1024, …".to_owned()
        })?;
        require(self.key.hold_back != Some(0), || "key.hold_back must be at least 1".to_owned())?;
        check_score(&self.score)?;
        self.check_inquiry()?;
        self.quality.check()?;
        self.early.as_ref().map_or(Ok(()), |early| early.check().map_err(|why| format!("early.{why}")))?;
        self.certificates.iter().enumerate().try_for_each(|(place, certificate)| {
            certificate.check(self).map_err(|why| format!("certificates[{place}]: {why}"))
        })
    }
}

impl Calibration {
    /// A score that reads evidence must say how that is asked for.
    fn check_inquiry(&self) -> Result<(), String> {
        let features = self.score.features();
        let asked = features.iter().find(|feature| feature.source() == Source::Asked);
        match (&self.inquiry, asked) {
            (None, Some(feature)) => Err(format!("inquiry is missing, but the score reads \"{feature}\"")),
            (Some(_), None) => Err("inquiry is there, but the score reads nothing that is asked for".to_owned()),
            (Some(inquiry), Some(_)) => inquiry.check(&features).map_err(|why| format!("inquiry: {why}")),
            (None, None) => Ok(()),
        }
    }
}

impl Quality {
    fn check(&self) -> Result<(), String> {
        let shares = [("auroc", self.auroc), ("ece", self.ece), ("brier", self.brier)];
        shares.into_iter().try_for_each(|(key, share)| {
            let is_share = share.is_none_or(|share| (0.0..=1.0).contains(&share));
            require(is_share, || format!("quality.{key} {share:?} is not between 0 and 1"))
        })
    }
}

impl Certificate {
    fn check(&self, calibration: &Calibration) -> Result<(), String> {
        for (key, share) in [("alpha", self.alpha), ("delta", self.delta)] {
            require(share > 0.0 && share < 1.0, || format!("{key} {share} is not between 0 and 1"))?;
        }
        let threshold = self.threshold;
        require(threshold.is_finite(), || format!("threshold {threshold} is not finite"))?;
        let reachable = !calibration.score.is_probability() || (0.0..=1.0).contains(&threshold);
        require(reachable, || format!("threshold {threshold} is no probability, but the score is one"))?;
        require(self.wrong <= self.kept && self.kept <= self.rows && self.kept > 0, || {
            format!("{} wrong of {} kept of {} rows cannot be", self.wrong, self.kept, self.rows)
        })?;
        self.error.map_or(Ok(()), |error| error.check(calibration).map_err(|why| format!("error: {why}")))?;
        require((1..=calibration.attempts).contains(&self.attempt), || {
            format!("attempt {} is not among the {} attempts of the file", self.attempt, calibration.attempts)
        })
    }
}

impl AgreedError {
    fn check(&self, calibration: &Calibration) -> Result<(), String> {
        require(calibration.basis == Basis::UpstreamAgreement, || {
            "only agreement with an upstream leaves an error to be bounded".to_owned()
        })?;
        for (key, share) in [("beta", self.beta), ("at_most", self.at_most), ("delta", self.delta)] {
            require(share > 0.0 && share <= 1.0, || format!("{key} {share} is not above 0 and at most 1"))?;
        }
        require(self.wrong <= self.agreed, || format!("{} wrong of {} cannot be", self.wrong, self.agreed))
    }
}

fn check_score(score: &Score) -> Result<(), String> {
    match score {
        Score::Feature(raw) => check_is_score(raw.feature),
        Score::Logistic(logistic) => {
            check_finite("score.bias", logistic.bias)?;
            require(!logistic.terms.is_empty(), || "score.terms is empty".to_owned())?;
            for (place, term) in logistic.terms.iter().enumerate() {
                for (key, value) in [("mean", term.mean), ("scale", term.scale), ("weight", term.weight)] {
                    check_finite(&format!("score.terms[{place}].{key}"), value)?;
                }
                require(term.scale > 0.0, || format!("score.terms[{place}].scale {} is not above 0", term.scale))?;
                let twice = logistic.terms[..place].iter().any(|earlier| earlier.feature == term.feature);
                require(!twice, || format!("score.terms names \"{}\" twice", term.feature))?;
            }
            Ok(())
        }
        Score::Platt(platt) => {
            check_finite("score.weight", platt.weight)?;
            check_finite("score.bias", platt.bias)?;
            require(platt.transform == Transform::Identity || platt.feature.is_logprob(), || {
                format!("score.transform: \"{}\" is no log-probability; use \"identity\"", platt.feature)
            })
        }
        Score::Isotonic(isotonic) => {
            check_is_score(isotonic.feature)?;
            require(!isotonic.steps.is_empty(), || "score.steps is empty".to_owned())?;
            for step in &isotonic.steps {
                check_finite("score.steps.from", step.from)?;
                let share = step.probability;
                require((0.0..=1.0).contains(&share), || format!("score.steps.probability {share} is no probability"))?;
            }
            let rises = |pair: &[super::Step]| pair[0].from < pair[1].from && pair[0].probability < pair[1].probability;
            require(isotonic.steps.windows(2).all(rises), || "score.steps must rise in both numbers".to_owned())
        }
    }
}

fn check_is_score(feature: Feature) -> Result<(), String> {
    require(feature.is_score(), || {
        format!("\"{feature}\" is no score by itself: more of it does not mean a surer model; fit a logistic score")
    })
}

fn check_finite(key: &str, value: f64) -> Result<(), String> {
    require(value.is_finite(), || format!("{key} {value} is not finite"))
}

fn require(holds: bool, why: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(why()) }
}
