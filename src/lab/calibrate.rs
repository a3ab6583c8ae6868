//! From graded answers to calibration files, one per slice.
//!
//! The answers of a slice are split by their questions: a score is fitted on one side, and so is the grid of
//! thresholds; the other side, unseen until then, measures and certifies. What an error bound from
//! agreement or a figure for all slices needs is kept back from both. Promises: the same
//! answers and settings give the same files; too few answers are refused with how many more are
//! needed, before a label of the other side is looked at and an attempt spent. Called by
//! `weir calibrate`.

mod labels;
#[cfg(test)]
mod tests;
mod union;

use std::collections::HashSet;
use std::str::FromStr;

use super::early::{GivingUp, Saving};
use super::records::Records;
use crate::confidence::certify::{
    Certified, ErrorBound, Grid, Plan, Promise, Refusal, Row, certify_together, error_from_disagreement,
};
use crate::confidence::{
    AgreedError, Basis, Calibration, Certificate, Feature, Form, Graded, Isotonic, Key, Logistic, Platt, Quality, Raw,
    Risk, Score, Split, Transform,
};

use labels::{Labelled, fingerprint, label};
pub use labels::{Sources, Tasks, Upstream};
use union::Member;
pub use union::Union;

/// What is to be made.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// The model whose answers they are.
    pub model: String,
    /// Which kind of score.
    pub score: Wanted,
    /// Where labels come from.
    pub labels: Labels,
    /// The most tokens an answer could have; `None`: no limit was set.
    pub max_tokens: Option<u64>,
    /// The date the files shall bear.
    pub date: String,
    /// What is to be certified; `None`: nothing.
    pub promise: Option<Promise>,
    /// Whether delta is the chance that any slice's certificate is broken, not that of each.
    pub together: bool,
    /// The share of each slice in the traffic, for a figure of the whole; empty: none is wanted.
    pub mix: Vec<(String, f64)>,
    /// The chance to end well that may be given away by giving answers up early; `None`: none are.
    pub early: Option<f64>,
}

/// A slice to be calibrated.
#[derive(Debug, Clone, PartialEq)]
pub struct Slice {
    /// The kind of traffic.
    pub name: String,
    /// What a policy calls its calibration.
    pub calibration: String,
    /// The tasks that belong to it; empty: all.
    pub tasks: Vec<String>,
    /// The attempts at a certificate made on it before, each on its own labels.
    pub attempts: u32,
}

/// Where labels come from.
#[derive(Debug, Clone, PartialEq)]
pub enum Labels {
    /// Known answers.
    Gold,
    /// The verdicts of this judge.
    Judge(String),
    /// Whether an upstream said the same.
    Agreement {
        /// Who.
        upstream: String,
        /// How answers are compared; `None`: as each task's grader does.
        form: Option<Form>,
        /// Of the labels not used for the fit, the share whose known answer bounds how often
        /// both are wrong together; 0: none.
        gold_share: f64,
    },
}

impl Labels {
    fn basis(&self) -> (Basis, Option<String>) {
        match self {
            Labels::Gold => (Basis::Gold, None),
            Labels::Judge(name) => (Basis::Judge, Some(name.clone())),
            Labels::Agreement { upstream, .. } => (Basis::UpstreamAgreement, Some(upstream.clone())),
        }
    }

    fn gold_share(&self) -> f64 {
        if let Labels::Agreement { gold_share, .. } = self { *gold_share } else { 0.0 }
    }
}

/// What came of a slice.
#[derive(Debug, Clone, PartialEq)]
pub struct Made {
    /// The calibration; it has a certificate if one was wanted and not refused.
    pub calibration: Calibration,
    /// Why the certificate was refused. The attempt is spent: the file must be kept.
    pub refusal: Option<Refusal>,
    /// Answers of the slice without a label.
    pub left_out: usize,
    /// What giving answers up early saves and loses, where that was wanted.
    pub saving: Option<Saving>,
}

/// A kind of score, as the command line names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// `logistic`: over every feature that the answers tell and that differs among them.
    Logistic,
    /// `platt:FEATURE`: one-sided for a log-probability, else untransformed.
    Platt(Feature),
    /// `isotonic:FEATURE`.
    Isotonic(Feature),
    /// `FEATURE`: as it is.
    Raw(Feature),
}

impl FromStr for Wanted {
    type Err = String;

    fn from_str(text: &str) -> Result<Wanted, String> {
        let feature = |name: &str| Feature::try_from(name.to_owned());
        match text.split_once(':') {
            None if text == "logistic" => Ok(Wanted::Logistic),
            None => feature(text).map(Wanted::Raw),
            Some(("platt", name)) => feature(name).map(Wanted::Platt),
            Some(("isotonic", name)) => feature(name).map(Wanted::Isotonic),
            Some((kind, _)) => Err(format!("unknown kind of score \"{kind}\"; known: logistic, platt, isotonic")),
        }
    }
}

/// The share of questions whose answers are for the fit.
const FIT_SHARE: f64 = 0.5;

/// The share of the other side that is kept back for a figure of the whole.
const UNION_SHARE: f64 = 0.25;

/// The thresholds that may be certified.
const GRID_POINTS: usize = 30;

/// Makes a calibration per slice, with a certificate if one is wanted and can be had, and the figure
/// for the whole if a mix is given and any slice is certified. One result per slice, in their order.
///
/// # Errors
/// Of a slice: too few answers for the fit, the measures or the certificate, or answers that teach
/// nothing; what is missing. Nothing is spent on it.
pub fn calibrate(
    sources: &Sources,
    slices: &[Slice],
    settings: &Settings,
) -> (Vec<Result<Made, String>>, Option<Union>) {
    let prepared: Vec<Result<Prepared, String>> =
        slices.iter().map(|slice| Prepared::of(sources, slice, settings)).collect();
    let certified = certify(&prepared, slices, settings);
    let made: Vec<Result<Made, String>> = prepared
        .iter()
        .zip(slices.iter().zip(certified))
        .map(|(prepared, (slice, certified))| {
            let prepared = prepared.as_ref().map_err(Clone::clone)?;
            prepared.conclude(certified, &sources.records, slice, settings)
        })
        .collect();
    let union = union(&prepared, &made, slices, settings);
    (made, union)
}

/// A slice before a label of its other side is looked at.
struct Prepared {
    score: Score,
    /// The labelled answers of the slice.
    graded: usize,
    fitted: usize,
    /// For the certificate.
    rows: Vec<Labelled>,
    /// For the figure of the whole.
    kept_back: Vec<Labelled>,
    /// For the error rate of what agrees.
    gold: Vec<Labelled>,
    left_out: usize,
    /// The thresholds that may be certified.
    grid: Grid,
    plan: Option<Plan>,
    /// When answers are given up; part of what is certified.
    giving_up: Option<GivingUp>,
    /// A hash of the labels of the other side.
    labels: String,
}

impl Prepared {
    fn of(sources: &Sources, slice: &Slice, settings: &Settings) -> Result<Prepared, String> {
        let (labelled, left_out) = label(sources, slice, settings)?;
        let all = labelled.len();
        let (fit_side, other) = split(labelled, "", FIT_SHARE);
        let other = first_of_groups(other);
        let labels = fingerprint(&other);
        let (gold, other) = split(other, "gold ", settings.labels.gold_share());
        let (kept_back, rows) = split(other, "whole ", if settings.mix.is_empty() { 0.0 } else { UNION_SHARE });
        let graded: Vec<Graded> = fit_side.iter().map(|row| row.graded).collect();
        let score = fit(&graded, &sources.records, settings.score)?;
        let seen: Vec<f64> = fit_side.iter().map(|row| value(&score, row)).collect();
        let grid = Grid::of_scores(&seen, GRID_POINTS);
        let learn = |epsilon| GivingUp::learn(&sources.records, &score, &ids(&fit_side), epsilon, &grid);
        let giving_up = settings.early.map(learn);
        let plan = settings
            .certificate_promise()
            .map(|promise| Plan::new(promise.at_attempt(settings.attempt(slice)), grid.clone()));
        let fitted = fit_side.len();
        Ok(Prepared { score, graded: all, fitted, rows, kept_back, gold, left_out, grid, plan, giving_up, labels })
    }

    fn losses(&self, rows: &[Labelled]) -> Vec<Row> {
        rows.iter().map(|row| Row { score: self.stands_at(row), loss: row.loss }).collect()
    }

    /// The highest threshold at which an answer is kept, giving up early included.
    fn stands_at(&self, row: &Labelled) -> f64 {
        self.giving_up.as_ref().map_or_else(|| value(&self.score, row), |rule| rule.stands_at(&row.id))
    }

    fn conclude(
        &self,
        certified: Option<Result<Certified, Refusal>>,
        records: &Records,
        slice: &Slice,
        settings: &Settings,
    ) -> Result<Made, String> {
        let (certified, refusal) = match certified {
            None => (None, None),
            Some(Ok(certified)) => (Some(certified), None),
            Some(Err(refusal @ Refusal::TooRisky { .. })) => (None, Some(refusal)),
            Some(Err(refusal)) => return Err(self.missing(refusal)),
        };
        let measured: Vec<(f64, bool)> =
            self.rows.iter().map(|row| (value(&self.score, row), row.graded.right)).collect();
        let quality = Quality::of(&measured, self.score.is_probability())
            .ok_or("no answers are left to measure on; grade more")?;
        let certificate = certified.as_ref().zip(settings.certificate_promise());
        let attempt = settings.attempt(slice);
        let certificates = certificate.map(|(certified, promise)| Certificate {
            error: self.error(certified.threshold, promise, attempt),
            ..certificate_of(certified, promise, attempt)
        });
        let (basis, grader) = settings.labels.basis();
        let calibration = Calibration {
            version: Calibration::VERSION,
            name: slice.calibration.clone(),
            model: settings.model.clone(),
            model_sha256: records.model_sha256.clone(),
            slice: slice.name.clone(),
            basis,
            grader,
            score: self.score.clone(),
            inquiry: None,
            key: settings.key(),
            fitted_rows: self.fitted as u64,
            quality,
            date: settings.date.clone(),
            attempts: slice.attempts + u32::from(settings.promise.is_some()),
            labels: settings.promise.map(|_| self.labels.clone()),
            early: self.giving_up.as_ref().map(|rule| rule.early.clone()),
            certificates: certificates.into_iter().collect(),
        };
        let threshold = certified.map(|it| it.threshold).or_else(|| self.grid.middle());
        let saving =
            self.giving_up.as_ref().zip(threshold).map(|(rule, threshold)| rule.saving(&ids(&self.rows), threshold));
        calibration.render().map(|_| Made { calibration, refusal, left_out: self.left_out, saving })
    }

    /// The refusal with how many answers of the slice are missing, all sides together.
    fn missing(&self, refusal: Refusal) -> String {
        let Refusal::TooFew { have, need } = refusal else { return refusal.to_string() };
        let all = self.graded;
        let more = ((need - have) * all).div_ceil(have.max(1));
        format!(
            "{have} labels, of {all} graded answers, are left for the certificate: they are too few to certify \
             anything, whatever they say; about {more} more graded answers are needed"
        )
    }

    /// P(wrong | kept) from the known answers of kept ones that agree; `None` where none were kept back.
    /// The promise is about disagreement and has half of delta; this spends the other half.
    fn error(&self, threshold: f64, promise: Promise, attempt: u32) -> Option<AgreedError> {
        if promise.risk() != Risk::Selective || self.gold.is_empty() {
            return None;
        }
        let agreed = self.gold.iter().filter(|row| row.graded.right && self.stands_at(row) >= threshold);
        let known: Vec<bool> = agreed.filter_map(|row| row.gold).collect();
        let wrong = known.iter().filter(|right| !**right).count();
        let bound = error_from_disagreement(&promise, wrong, known.len(), promise.at_attempt(attempt).delta());
        let ErrorBound { beta, at_most, delta } = bound;
        Some(AgreedError { agreed: known.len() as u64, wrong: wrong as u64, beta, at_most, delta })
    }
}

impl Settings {
    /// The promise that the certificate keeps: with half of delta where the other half goes into the
    /// error rate of what agrees.
    fn certificate_promise(&self) -> Option<Promise> {
        let promise = self.promise?;
        let delta = if self.labels.gold_share() > 0.0 { promise.delta() / 2.0 } else { promise.delta() };
        Promise::check(promise.risk(), promise.alpha(), delta).ok()
    }

    fn attempt(&self, slice: &Slice) -> u32 {
        slice.attempts + 1
    }

    fn key(&self) -> Key {
        Key {
            template: None,
            sampler: Key::GREEDY.to_owned(),
            constraint: None,
            max_tokens: self.max_tokens.map(Key::bucket),
            hold_back: None,
        }
    }
}

/// What the labels prove of each slice, each by itself or all of them together; `None` where nothing is
/// to be certified or the slice could not be prepared.
fn certify(
    prepared: &[Result<Prepared, String>],
    slices: &[Slice],
    settings: &Settings,
) -> Vec<Option<Result<Certified, Refusal>>> {
    let rows: Vec<Vec<Row>> =
        prepared.iter().map(|one| one.as_ref().map_or_else(|_| Vec::new(), |one| one.losses(&one.rows))).collect();
    let plans: Vec<Option<&Plan>> = prepared.iter().map(|one| one.as_ref().ok()?.plan.as_ref()).collect();
    if !settings.together {
        return plans.iter().zip(&rows).map(|(plan, rows)| plan.map(|plan| plan.certify(rows))).collect();
    }
    // A slice that could not be prepared keeps its share of delta: it was declared.
    let nothing = settings.certificate_promise().map(|promise| Plan::new(promise, Grid::from(Vec::new())));
    let Some(nothing) = nothing else { return slices.iter().map(|_| None).collect() };
    let declared: Vec<(&Plan, &[Row])> =
        plans.iter().zip(&rows).map(|(plan, rows)| (plan.unwrap_or(&nothing), rows.as_slice())).collect();
    let results = certify_together(&declared);
    plans.iter().zip(results).map(|(plan, result)| plan.map(|_| result)).collect()
}

fn certificate_of(certified: &Certified, promise: Promise, attempt: u32) -> Certificate {
    Certificate {
        kind: promise.risk(),
        alpha: promise.alpha(),
        delta: promise.delta(),
        threshold: certified.threshold,
        rows: certified.rows as u64,
        kept: certified.kept as u64,
        wrong: certified.losses as u64,
        attempt,
        error: None,
    }
}

/// The figure for the whole; `None` where no mix is given or nothing is certified.
fn union(
    prepared: &[Result<Prepared, String>],
    made: &[Result<Made, String>],
    slices: &[Slice],
    settings: &Settings,
) -> Option<Union> {
    let promise = settings.promise?;
    let of = |name: &String| slices.iter().position(|slice| slice.name == *name);
    let places: Vec<usize> = settings.mix.iter().map(|(name, _)| of(name)).collect::<Option<_>>()?;
    let losses =
        |place: &usize| prepared[*place].as_ref().map_or_else(|_| Vec::new(), |one| one.losses(&one.kept_back));
    let rows: Vec<Vec<Row>> = places.iter().map(losses).collect();
    let members: Vec<Member<'_>> = settings
        .mix
        .iter()
        .zip(places.iter().zip(&rows))
        .map(|((name, share), (place, rows))| {
            let certificate = made[*place].as_ref().ok().and_then(|made| made.calibration.certificates.first());
            Member { name, share: *share, certificate, rows }
        })
        .collect();
    let attempt = places.iter().map(|place| settings.attempt(&slices[*place])).max()?;
    members.iter().any(|member| member.certificate.is_some()).then(|| Union::test(&members, promise, attempt))
}

/// The rows whose group falls on this share, by a hash of its own for each purpose, and the others.
fn split(rows: Vec<Labelled>, purpose: &str, share: f64) -> (Vec<Labelled>, Vec<Labelled>) {
    rows.into_iter().partition(|row| Split::of(&format!("{purpose}{}", row.group), share) == Split::Fit)
}

/// The first row of each group: a question and its paraphrases are one label, not several.
fn first_of_groups(rows: Vec<Labelled>) -> Vec<Labelled> {
    let mut seen = HashSet::new();
    rows.into_iter().filter(|row| seen.insert(row.group.clone())).collect()
}

fn ids(rows: &[Labelled]) -> Vec<&str> {
    rows.iter().map(|row| row.id.as_str()).collect()
}

fn value(score: &Score, row: &Labelled) -> f64 {
    score.value(|feature| row.graded.features.get(feature))
}

fn fit(rows: &[Graded], records: &Records, wanted: Wanted) -> Result<Score, String> {
    let known = |feature: Feature| match records.known.contains(&feature) {
        true => Ok(feature),
        false => Err(format!("not every answer tells \"{feature}\"; name another feature")),
    };
    match wanted {
        Wanted::Raw(feature) => known(feature).map(|feature| Score::Feature(Raw { feature })),
        Wanted::Isotonic(feature) => Isotonic::fit(rows, known(feature)?).map(Score::Isotonic),
        Wanted::Platt(feature) => {
            let transform = if feature.is_logprob() { Transform::OneSided } else { Transform::Identity };
            Platt::fit(rows, known(feature)?, transform).map(Score::Platt)
        }
        Wanted::Logistic => {
            let differs = |feature: &Feature| {
                rows.windows(2).any(|pair| pair[0].features.get(*feature) != pair[1].features.get(*feature))
            };
            let features: Vec<Feature> = records.known.iter().copied().filter(differs).collect();
            Logistic::fit(rows, &features).map(Score::Logistic)
        }
    }
}
